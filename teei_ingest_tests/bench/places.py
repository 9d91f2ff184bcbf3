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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
def home(config: SandboxConfig, url: str) -> Iterator[Path]:
    """A fresh TEEI_HOME that points at the sandbox at `url`."""
    with folder() as path:
        (path / SANDBOX_FILE).write_text(json.dumps({"environment": environment(config, url)}))
        dagster = path / "dagster"
        dagster.mkdir(mode=0o700)
        if (ROOT / "dagster.yaml").is_file():
            (dagster / "dagster.yaml").symlink_to(ROOT / "dagster.yaml")
        yield path


def ours(mode: str, order: Mapping[str, Any], at: Path) -> dict[str, Any]:
    """Run `ours.py` in the home `at`; what it found."""
    return _child([sys.executable, "-m", "teei_ingest_tests.bench.ours", mode], order, at, _variables(at))


def contestant(name: str, order: Mapping[str, Any]) -> dict[str, Any]:
    """Run one of `contestants/` in an empty folder."""
    with folder() as at:
        script = Path(__file__).parent / "contestants" / f"{name}.py"
        variables = {"DLT_DATA_DIR": str(at / "dlt"), "RUNTIME__DLTHUB_TELEMETRY": "false", "NO_PROXY": "*"}
        return _child([str(_python()), str(script)], {**order, "folder": str(at)}, at, _base() | variables)


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
    """Make the contestants' environment, unless it is there with these packages."""
    stamp = FOLDER / "packages.txt"
    wanted = "\n".join((*PACKAGES, sys.version))
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    shutil.rmtree(_python().parent.parent, ignore_errors=True)
    FOLDER.mkdir(parents=True, exist_ok=True, mode=0o700)
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(_python().parent.parent)], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", str(_python()), *PACKAGES], check=True)
    stamp.write_text(wanted)


def _python() -> Path:
    return FOLDER / "venv" / "bin" / "python"


def _base() -> dict[str, str]:
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ}


def _variables(at: Path) -> dict[str, str]:
    return _base() | {
        "TEEI_HOME": str(at),
        "DAGSTER_HOME": str(at / "dagster"),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "PYTHONPATH": str(ROOT),
    }


def _child(command: list[str], order: Mapping[str, Any], at: Path, variables: dict[str, str]) -> dict[str, Any]:
    found = subprocess.run(
        command, input=json.dumps(order), cwd=at, env=variables, capture_output=True, text=True, timeout=_LIMIT_S
    )
    if found.returncode:
        raise BenchError(f"{Path(command[-1]).name} ended with {found.returncode}:\n{found.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return result
