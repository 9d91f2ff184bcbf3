"""Dagster's own commands, typed at the repository's root as somebody would type them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from teei_ingest.defs.build import build
from teei_ingest.defs.partitions import key
from teei_ingest.sandbox.server import SandboxConfig, environment, running
from teei_ingest_tests.dagster_parts import (
    BIN,
    OF_NO_PARTITION,
    ROOT,
    GraphQL,
    activated,
    all_assets,
    days,
    free_port,
    instance_in,
    keys,
    prepare_home,
    process,
    statuses,
)
from teei_ingest_tests.together import eventually

pytestmark = pytest.mark.long

CONFIG = SandboxConfig(records=4)
MATERIALIZE = ["dagster", "asset", "materialize", "-m", "teei_ingest.definitions", "--select"]
LAUNCH = ["dg", "launch", "--assets"]
# Dagster announces its newer spelling at each use of the older one.
SUPERSEDED = ("SupersessionWarning", "return callback(*args, **kwargs)")


@dataclass
class Place:
    """A home, and commands in it."""

    home: Path
    env: dict[str, str]
    definitions: dg.Definitions

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            cwd=ROOT,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )

    def statuses(self, asset: str, partition_keys: list[str]) -> dict[str, str]:
        with instance_in(self.home) as instance:
            return statuses(instance, self.definitions, asset, partition_keys)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("commands") / "home"
    with running(CONFIG) as sandbox:
        env = prepare_home(home, environment(CONFIG, sandbox.url), CONFIG.companies)
        yield Place(home, env, build(env))


@pytest.mark.parametrize(
    ("command", "stream"), [(MATERIALIZE, "benevity_volunteers"), (LAUNCH, "benevity_donations")], ids=["dagster", "dg"]
)
def test_a_partition_then_a_range(place: Place, command: list[str], stream: str) -> None:
    assets = [stream, f"{stream}_events"]
    wanted = keys("acme-corp", days(date(2024, 1, 15), 3))
    result = place.run(*command, ",".join(assets), "--partition", wanted[0])
    assert result.returncode == 0, result.stdout
    for asset in assets:
        found = place.statuses(asset, wanted)
        assert found == {**dict.fromkeys(wanted, "MISSING"), wanted[0]: "MATERIALIZED"}

    result = place.run(*command, ",".join(assets), "--partition-range", f"{wanted[0]}...{wanted[-1]}")
    assert result.returncode == 0, result.stdout
    for asset in assets:
        assert place.statuses(asset, wanted) == dict.fromkeys(wanted, "MATERIALIZED")


@pytest.mark.parametrize(
    ("command", "asked", "wanted"),
    [
        (MATERIALIZE, "--partition", keys("globex-inc", [date(2024, 1, 15)])),
        (LAUNCH, "--partition-range", keys("globex-inc", days(date(2024, 1, 16), 2))),
    ],
    ids=["dagster", "dg"],
)
def test_everything_of_a_partition_or_range_leaves_out_what_has_none(
    place: Place, command: list[str], asked: str, wanted: list[str]
) -> None:
    result = place.run(*command, "*", asked, "...".join(wanted))
    assert result.returncode == 0, result.stdout
    for asset in all_assets():
        assert place.statuses(asset, wanted) == dict.fromkeys(wanted, "MATERIALIZED")
    with instance_in(place.home) as instance:
        for name in OF_NO_PARTITION:
            assert instance.get_latest_materialization_event(dg.AssetKey(name)) is None


@pytest.mark.parametrize(
    ("command", "case"),
    [
        (MATERIALIZE, "reversed"),
        (MATERIALIZE, "future"),
        (MATERIALIZE, "future range"),
        (MATERIALIZE, "unregistered"),
        (LAUNCH, "reversed"),
        (LAUNCH, "future range"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_wrong_partition_is_no_success(place: Place, command: list[str], case: str) -> None:
    today = datetime.now(UTC).date()
    asked = {
        "reversed": ("--partition-range", "acme-corp|2024-01-21...acme-corp|2024-01-15"),
        "future": ("--partition", key("acme-corp", today + timedelta(days=2))),
        "future range": (
            "--partition-range",
            f"{key('acme-corp', today)}...{key('acme-corp', today + timedelta(days=2))}",
        ),
        "unregistered": ("--partition", "nobody|2024-01-15"),
    }[case]

    def materialized() -> list[set[str]]:
        with instance_in(place.home) as instance:
            assets = map(dg.AssetKey, ("kintell_sessions", "kintell_sessions_events"))
            return [instance.get_materialized_partitions(asset) for asset in assets]

    before = materialized()
    result = place.run(*command, "kintell_sessions,kintell_sessions_events", *asked)
    assert result.returncode != 0, result.stdout
    assert materialized() == before


@pytest.mark.parametrize(
    "command",
    [
        ("dagster", "definitions", "validate"),
        ("dagster", "definitions", "validate", "-w", "workspace.yaml"),
        ("dg", "check", "defs"),
    ],
    ids=" ".join,
)
def test_definitions_pass_without_a_warning(place: Place, command: tuple[str, ...]) -> None:
    result = place.run(*command)
    assert result.returncode == 0, result.stdout
    lines = [line for line in result.stdout.splitlines() if not any(sign in line for sign in SUPERSEDED)]
    assert any("success" in line for line in lines)
    assert not [line for line in lines if "warning" in line.lower() or "error" in line.lower()], result.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The tree as a clone has it, in a folder of its own."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    target = tmp_path / "clone"
    for name in filter(None, listed.stdout.split("\0")):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copyfile(ROOT / name, target / name)
    return target


def test_dagster_dev_with_nothing_set(clone: Path, tmp_path: Path) -> None:
    env = activated() | {"PYTHONPATH": str(clone)}  # in place of a .venv of its own
    ask = GraphQL(free_port())
    log = tmp_path / "dev.log"
    before = {path.name for path in clone.iterdir()}
    with process([str(BIN / "dagster"), "dev", "-p", str(ask.port)], log, env=env, cwd=clone):
        # the registry's sensor is on, so the sandbox's companies show up by themselves
        eventually(lambda: ask.companies() == ["acme-corp", "globex-inc", "initech-ab"], "companies in the UI")
        nodes = ask("{ assetNodes { assetKey { path } } }")["assetNodes"]
    assert sorted(node["assetKey"]["path"][0] for node in nodes) == sorted([*all_assets(), *OF_NO_PARTITION])
    assert "Traceback" not in log.read_text()
    assert {path.name for path in clone.iterdir()} - before <= {".teei"}
