"""Several workers: `docker/celery/` as processes, with a real Redis, two real workers, and one of them killed."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from datetime import date, timedelta
from time import sleep

import dagster as dg
import pytest

from teei_ingest.sandbox.server import Running
from teei_ingest_tests.composed import WITH_CELERY, Composed, composed, sandbox_addresses
from teei_ingest_tests.dagster_parts import all_assets, days, keys, statuses
from teei_ingest_tests.deployed import Run
from teei_ingest_tests.test_dagster_deployed import sent, stored
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


def began(parts: Composed, backfill: str, least: int = 1) -> list[Run]:
    """Its runs that go on, once there are so many."""

    def going() -> list[Run]:
        runs = [run for run in parts.deployment.runs_of(backfill) if run.status == "STARTED"]
        return runs if len(runs) >= least else []

    return eventually(going, f"{least} runs go on", 200, pause=1)


def worker_of(parts: Composed, run: Run) -> str:
    """Which worker is at a run."""
    place = parts.home / "dagster/processes" / run.identity
    told = eventually(lambda: place.read_text() if place.exists() else "", "the run has a process")
    return parts.whose(int(told.split()[0]))


def assert_exact(playing: Playing, over: list[date], companies: tuple[str, ...] = COMPANIES) -> None:
    """Each company's days have what the sandbox has, once."""
    parts, sandbox = playing
    wanted = [each for slug in companies for each in keys(slug, over)]
    with dg.DagsterInstance.from_config(str(parts.dagster_home)) as instance:
        for asset in all_assets():
            found = statuses(instance, parts.deployment.definitions, asset, wanted)
            assert found == dict.fromkeys(wanted, "MATERIALIZED"), asset
    rows = stored(parts.deployment).values()
    counts = Counter((row["stream"], row["company"], row["day"]) for row in rows if row["day"] in over)
    assert counts == sent(sandbox, companies, over)


@pytest.mark.machine
def test_redis_is_gone_for_ten_seconds_in_the_middle_of_a_run(playing: Playing) -> None:
    parts, _ = playing
    over = days(FIRST + timedelta(7), 2)
    first, second, *_ = COMPANIES
    going_on = parts.deployment.backfill(keys(first, over))
    began(parts, going_on)
    parts.kill("redis")
    asked = parts.deployment.backfill(keys(second, over))
    sleep(10)
    log = parts.logs["daemon"]
    eventually(lambda: "Redis, does not answer" in log.read_text(), "a run could not be handed out")
    parts.start("redis")
    for backfill in (going_on, asked):
        assert parts.deployment.ended(backfill, 300) == "COMPLETED_SUCCESS"
        assert [run.status for run in parts.deployment.runs_of(backfill)] == ["SUCCESS"], "none was begun again"
    assert_exact(playing, over, (first, second))


def test_a_worker_is_killed_in_the_middle_and_its_runs_are_begun_again(playing: Playing) -> None:
    parts, _ = playing
    over = days(FIRST, 2)
    backfill = parts.deployment.backfill([each for slug in COMPANIES for each in keys(slug, over)])
    at = {run.identity: worker_of(parts, run) for run in began(parts, backfill, 2)}
    assert set(at.values()) == set(WORKERS), "both have something to do"
    killed, *_ = at.values()
    parts.kill(killed)
    assert parts.deployment.ended(backfill, 300) == "COMPLETED_SUCCESS"

    done = parts.deployment.runs_of(backfill)
    assert {run.identity for run in done if run.status == "FAILURE"} == {one for one in at if at[one] == killed}
    assert sorted(run.company for run in done if run.status == "SUCCESS") == sorted(COMPANIES), "each once"
    assert_exact(playing, over)


def test_a_run_that_somebody_ends_is_not_begun_again(playing: Playing) -> None:
    parts, _ = playing
    backfill = parts.deployment.backfill(keys(COMPANIES[0], days(FIRST + timedelta(14), 2)))
    (run,) = began(parts, backfill)
    worker_of(parts, run)
    parts.deployment.terminate(run.identity)
    eventually(lambda: parts.deployment.runs(runIds=[run.identity])[0].status == "CANCELED", "the run is ended", 60)
    sleep(15)
    assert [one.status for one in parts.deployment.runs_of(backfill)] == ["CANCELED"]
