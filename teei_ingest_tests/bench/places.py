"""Where a measurement runs: a folder of its own, processes of their own, an environment without our settings.

Belongs here: homes, child processes, the contestants' packages. Does not belong here: what is measured.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from teei_ingest.sandbox.server import SandboxConfig, environment
from teei_ingest.settings import SANDBOX_FILE, project_root

ROOT = project_root()
FOLDER = ROOT / ".teei" / "bench"
# What both sides use has one version.
PACKAGES = (
    "dlt[parquet,filesystem]==1.31.0",
    "orjson==3.13.0",
    *(f"{name}=={version(name)}" for name in ("requests", "pyarrow")),
)
_LIMIT_S = 300
_PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")


class BenchError(Exception):
    """A contestant failed, or did not store what it should."""


@contextmanager
def folder() -> Iterator[Path]:
    """An empty folder that goes afterwards."""
    FOLDER.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix="run-") as name:
        yield Path(name)


@contextmanager
def home(config: SandboxConfig, url: str, more: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """A fresh TEEI_HOME that points at the sandbox at `url`; `more` is what `dagster.yaml` has beside the project's."""
    with folder() as path:
        (path / SANDBOX_FILE).write_text(json.dumps({"environment": environment(config, url)}))
        dagster = path / "dagster"
        dagster.mkdir(mode=0o700)
        settings = yaml.safe_load((ROOT / "dagster.yaml").read_text()) | dict(more or {})
        (dagster / "dagster.yaml").write_text(yaml.safe_dump(settings))
        yield path


def ours(mode: str, order: Mapping[str, Any], at: Path) -> dict[str, Any]:
    """Run `ours.py` in the home `at`; what it found."""
    return child([sys.executable, "-m", "teei_ingest_tests.bench.ours", mode], order, at, _variables(at))


def contestant(name: str, order: Mapping[str, Any]) -> dict[str, Any]:
    """Run one of `contestants/` in an empty folder."""
    with folder() as at:
        script = Path(__file__).parent / "contestants" / f"{name}.py"
        variables = {"DLT_DATA_DIR": str(at / "dlt"), "RUNTIME__DLTHUB_TELEMETRY": "false", "NO_PROXY": "*"}
        order = {**order, "folder": str(at)}
        return child([str(environment_of("venv", PACKAGES)), str(script)], order, at, base() | variables)


def command(arguments: list[str], at: Path) -> None:
    """Run a command of the project's environment in the home `at`; its output is shown when it fails."""
    program, *rest = arguments
    found = subprocess.run(
        [str(Path(sys.executable).with_name(program)), *rest],
        cwd=at,
        env=_variables(at),
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
    )
    if found.returncode:
        raise BenchError(f"{program} ended with {found.returncode}:\n{(found.stdout + found.stderr)[-3000:]}")


def prepare() -> None:
    """Make the contestants' environment."""
    environment_of("venv", PACKAGES)


def environment_of(name: str, packages: Sequence[str]) -> Path:
    """The interpreter of an environment with these packages, which is made unless it is there."""
    stamp = FOLDER / f"{name}.txt"
    python = FOLDER / name / "bin" / "python"
    wanted = "\n".join((*packages, sys.version))
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    shutil.rmtree(FOLDER / name, ignore_errors=True)
    FOLDER.mkdir(parents=True, exist_ok=True, mode=0o700)
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(FOLDER / name)], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", str(python), *packages], check=True)
    stamp.write_text(wanted)
    return python


def base() -> dict[str, str]:
    """What a child may know of our environment."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ}


def _variables(at: Path) -> dict[str, str]:
    return base() | {
        "TEEI_HOME": str(at),
        "DAGSTER_HOME": str(at / "dagster"),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "PYTHONPATH": str(ROOT),
    }


def child(command: list[str], order: Mapping[str, Any], at: Path, variables: dict[str, str]) -> dict[str, Any]:
    """Run a command with an order on its input; the JSON of its last line."""
    found = subprocess.run(
        command, input=json.dumps(order), cwd=at, env=variables, capture_output=True, text=True, timeout=_LIMIT_S
    )
    if found.returncode:
        raise BenchError(f"{Path(command[-1]).name} ended with {found.returncode}:\n{found.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return result
