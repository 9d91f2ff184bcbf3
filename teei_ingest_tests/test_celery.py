"""Several workers: `docker/celery/` as processes, with a real Redis, two real workers, and one of them killed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import date, timedelta
from pathlib import Path
from time import sleep

import dagster as dg
import pytest
import yaml
from dagster._core.errors import DagsterUserCodeUnreachableError

from teei_ingest.sandbox.server import Running
from teei_ingest_tests.composed import DOCKER, WITH_CELERY, Composed, composed, sandbox_addresses
from teei_ingest_tests.dagster_parts import dagster_home, days, free_port, keys
from teei_ingest_tests.deployed import Run
from teei_ingest_tests.together import eventually

pytestmark = [
    pytest.mark.fleet,
    pytest.mark.timeout(900),
]

FIRST = date(2024, 1, 15)
COMPANIES = ("acme-corp", "globex-inc", "initech-ab")
WORKERS = ("worker-1", "worker-2")
Playing = tuple[Composed, Running]


@pytest.fixture(scope="module")
def playing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playing]:
    """All that takes part in runs, and the sandbox, which has no bad records."""
    assert shutil.which("redis-server"), "there is no `redis-server`: Debian has a package of that name"
    with composed(tmp_path_factory.mktemp("container"), WITH_CELERY) as parts:
        made = parts.begin("sandbox-home")
        assert parts.begin("migrate").wait(120) == 0
        assert made.wait(120) == 0
        # Its answers take a while, so that a run is there to be disturbed.
        parts.start("sandbox", "--bad-ratio", "0", "--latency", "1500")
        parts.start("redis")
        parts.await_health("redis")
        parts.start("code")
        eventually(lambda: all(sandbox_addresses(parts.logs["sandbox"])), "the sandbox serves")
        for name in WORKERS:  # with names of their own, as in containers
            parts.start("worker", "--hostname", f"{name}@%h", name=name)
        eventually(lambda: "Started Dagster code proxy" in parts.logs["code"].read_text(), "the code is loaded")
        for service in ("webserver", "daemon"):
            parts.start(service)
        companies = set(COMPANIES)
        eventually(lambda: companies <= set(parts.deployment.ask.companies()), "the sensor has added the companies")
        for name in WORKERS:
            eventually(lambda name=name: " ready." in parts.logs[name].read_text(), f"{name} is ready")
        yield parts, Running(*sandbox_addresses(parts.logs["sandbox"]), pid=0)


def worker_of(parts: Composed, run: Run) -> str:
    """Which worker is at a run."""
    place = parts.home / "dagster/processes" / run.identity
    told = eventually(lambda: place.read_text() if place.exists() else "", "the run has a process")
    return parts.whose(int(told.split()[0]))


@pytest.mark.machine
def test_redis_is_gone_for_ten_seconds_in_the_middle_of_a_run(playing: Playing) -> None:
    parts, sandbox = playing
    over = days(FIRST + timedelta(7), 2)
    first, second, *_ = COMPANIES
    going_on = parts.deployment.backfill(keys(first, over))
    parts.going_on(going_on)
    parts.kill("redis")
    asked = parts.deployment.backfill(keys(second, over))
    sleep(10)
    log = parts.logs["daemon"]
    eventually(lambda: "Redis, does not answer" in log.read_text(), "a run could not be handed out")
    parts.start("redis")
    for backfill in (going_on, asked):
        assert parts.deployment.ended(backfill, 300) == "COMPLETED_SUCCESS"
        assert [run.status for run in parts.deployment.runs_of(backfill)] == ["SUCCESS"], "none was begun again"
    parts.complete(sandbox, (first, second), over)


def test_a_worker_is_killed_in_the_middle_and_its_runs_are_begun_again(playing: Playing) -> None:
    parts, sandbox = playing
    over = days(FIRST, 2)
    backfill = parts.deployment.backfill([each for slug in COMPANIES for each in keys(slug, over)])
    at = {run.identity: worker_of(parts, run) for run in parts.going_on(backfill, len(COMPANIES))}
    assert set(at.values()) == set(WORKERS), "both have something to do"
    killed, *_ = at.values()
    parts.kill(killed)
    assert parts.deployment.ended(backfill, 300) == "COMPLETED_SUCCESS"

    done = parts.deployment.runs_of(backfill)
    assert {run.identity for run in done if run.status == "FAILURE"} == {one for one in at if at[one] == killed}
    assert sorted(run.company for run in done if run.status == "SUCCESS") == sorted(COMPANIES), "each once"
    parts.complete(sandbox, COMPANIES, over)


def test_a_run_that_somebody_ends_is_not_begun_again(playing: Playing) -> None:
    parts, _ = playing
    backfill = parts.deployment.backfill(keys(COMPANIES[0], days(FIRST + timedelta(14), 2)))
    (run,) = parts.going_on(backfill)
    worker_of(parts, run)
    parts.deployment.terminate(run.identity)
    eventually(lambda: parts.deployment.runs(runIds=[run.identity])[0].status == "CANCELED", "the run is ended", 60)
    sleep(15)  # the daemon looks every five for what is to be begun again
    assert [one.status for one in parts.deployment.runs_of(backfill)] == ["CANCELED"]


@pytest.mark.parametrize("tags", [{}, {"dagster-celery/task_id": "1"}], ids=["by a command", "by a worker"])
def test_a_run_that_nobody_can_be_told_to_end_goes_on(tmp_path: Path, tags: dict[str, str]) -> None:
    launcher = yaml.safe_load((DOCKER / "celery/dagster.yaml").read_text())["run_launcher"]
    launcher["config"]["broker"] = f"redis://127.0.0.1:{free_port()}"
    with dg.DagsterInstance.from_config(str(dagster_home(tmp_path / "home", {"run_launcher": launcher}))) as instance:
        job = dg.job(name="it")(lambda: None)
        run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=tags)
        with pytest.raises(DagsterUserCodeUnreachableError, match="Redis") if tags else nullcontext():
            assert not instance.run_launcher.terminate(run.run_id)
        (same,) = instance.get_runs()
        assert same.status is dg.DagsterRunStatus.STARTED
