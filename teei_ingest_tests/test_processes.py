"""Runs whose process is gone, and those whose process cannot be seen from here, since it is in another container."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator

import dagster as dg
import pytest

from teei_ingest.defs.run import end_stuck_runs, stop_company, stuck_runs
from teei_ingest.errors import StoreError
from teei_ingest_tests.dagster_parts import BIN, activated, dagster_home, instance_in
from teei_ingest_tests.feeding import ACME, Ask, Reply, answering
from teei_ingest_tests.running import Home
from teei_ingest_tests.together import eventually

# In a process that has numbers of its own, as a container has.
ELSEWHERE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
STREAM = "buddy_matches"
DAY = "2024-01-15"
COMMANDS = {
    "teei": [str(BIN / "teei"), "sync", "--company", ACME.slug, "--from", DAY, "--to", DAY, "--stream", STREAM],
    "dagster": [
        *(str(BIN / "dagster"), "asset", "materialize", "-m", "teei_ingest.definitions"),
        *("--select", f"{STREAM},{STREAM}_events", "--partition-range", f"{ACME.slug}|{DAY}...{ACME.slug}|{DAY}"),
    ],
}


@pytest.fixture
def place(home: Callable[..., Home], monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home whose source never answers."""
    ended = threading.Event()

    def never(ask: Ask) -> Reply:
        ended.wait(120)
        return Reply(b"", 503)

    with answering(never) as server:
        made = home({ACME.slug: ACME.id}, server.environment())
        made.environ["DAGSTER_HOME"] = str(dagster_home(made.settings.dagster_home))
        for name, value in made.environ.items():
            monkeypatch.setenv(name, value)
        with instance_in(made.settings.home) as opened:
            opened.add_dynamic_partitions("company", [ACME.slug])
        yield made
        ended.set()


def begun(place: Home, command: list[str]) -> subprocess.Popen[bytes]:
    """A run that waits for its source."""
    process = subprocess.Popen(
        command, cwd=place.path, env=activated(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    eventually(lambda: [one for one in runs(place) if one.status is dg.DagsterRunStatus.STARTED], "a run")
    return process


def runs(place: Home) -> list[dg.DagsterRun]:
    with instance_in(place.settings.home) as opened:
        return list(opened.get_runs())


def left(place: Home) -> list[str]:
    return [path.name for path in (place.settings.dagster_home / "processes").iterdir()]


@pytest.mark.long
def test_a_run_of_dagster_s_own_command_is_stuck_when_its_process_is_gone(place: Home) -> None:
    """One of `teei`: `test_doctor_ends_runs_whose_process_is_gone`."""
    process = begun(place, COMMANDS["dagster"])
    try:
        assert stuck_runs() == []
    finally:
        process.kill()
        process.wait()
    (run,) = runs(place)
    assert end_stuck_runs() == [run.run_id]
    assert [one.status for one in runs(place)] == [dg.DagsterRunStatus.FAILURE]
    assert left(place) == []


@pytest.mark.skipif(
    subprocess.run([*ELSEWHERE, "true"], capture_output=True).returncode != 0, reason="no process may be elsewhere here"
)
@pytest.mark.parametrize("asker", ["teei", pytest.param("dagster", marks=pytest.mark.long)])
def test_a_run_of_another_container_is_left_alone_as_long_as_it_goes_on(place: Home, asker: str) -> None:
    process = begun(place, [*ELSEWHERE, *COMMANDS[asker]])
    try:
        assert end_stuck_runs() == []
        with pytest.raises(StoreError, match="goes on elsewhere: terminate it there"):
            stop_company(ACME.slug, 0.1)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    (run,) = runs(place)
    eventually(lambda: end_stuck_runs() == [run.run_id], "the run's process is gone")
    assert left(place) == []
