"""A deployment on SQLite and on Postgres: what its daemon does by itself, that nobody waits for another one's year, and
that nothing is done twice or not at all when the daemon is killed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from pathlib import Path
from time import time as clock
from typing import Any

import pytest
import yaml
from dagster._core.scheduler.instigation import InstigatorStatus, ScheduleInstigatorData

from teei_ingest.defs.retention import forget_runs
from teei_ingest.defs.schedules import NIGHT
from teei_ingest.sandbox.server import Running, SandboxConfig, company_id, environment, running
from teei_ingest.settings import Settings
from teei_ingest.streams import all_streams
from teei_ingest.webhooks.deliveries import Deliveries, Delivery
from teei_ingest_tests.dagster_parts import all_assets, check_statuses, days, instance_in, keys, statuses
from teei_ingest_tests.deployed import Deployment, Run, deployed, postgres, sent, stored
from teei_ingest_tests.extracting import Answer, Ask
from teei_ingest_tests.extracting import serving as answering
from teei_ingest_tests.together import eventually

FIRST = date(2024, 3, 4)
STORAGES = ("sqlite", "postgres")
SCHEDULE, SENSOR = "dagster/schedule_name", "dagster/sensor_name"


def register(folder: Path, slugs: Sequence[str], **more: Any) -> Path:
    """The companies file with these companies, and what is said of each."""
    file = folder / "companies.yaml"
    entries = [{"id": company_id(slug), "slug": slug, "name": slug, **more} for slug in slugs]
    file.write_text(yaml.safe_dump({"companies": entries}))
    return file


@contextmanager
def serving(folder: Path, slugs: Sequence[str], storage: str, **more: str) -> Iterator[tuple[Deployment, Running]]:
    """A deployment of these companies that reads a sandbox of its own, which has few records."""
    config = SandboxConfig({slug: company_id(slug) for slug in slugs}, records=2, people=20)
    registry = register(folder, slugs)
    with running(config) as sandbox, postgres() if storage == "postgres" else nullcontext("") as url:
        variables = environment(config, sandbox.url) | {"TEEI_COMPANIES": str(registry)} | more
        with deployed(folder, variables, slugs, postgres=url) as made:
            yield made, sandbox


def has_runs(deployment: Deployment, backfill: str, least: int) -> bool:
    """Whether a backfill has so many runs."""
    return len(deployment.runs_of(backfill)) >= least


# --- by itself --------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("storage", STORAGES)
def test_what_the_daemon_does_by_itself(tmp_path: Path, storage: str) -> None:
    one, other = "acme-corp", "globex-inc"
    alone, announced, broken = "goodera_volunteers", "benevity_donations", "kintell_sessions"
    systems = ["goodera", "benevity", "kintell"]  # with the others the night is twice as long
    wanted, alerts = keys(one, days(FIRST, 3)), list[Ask]()

    def hear(ask: Ask) -> Answer:
        alerts.append(ask)
        return Answer()

    with answering(hear) as hook, serving(tmp_path, [one, other], storage, TEEI_ALERT_URL=hook.url) as found:
        deployment, sandbox = found
        register(tmp_path, [one, other, "initech"], systems=systems)
        deployment.start_daemon()
        eventually(lambda: "initech" in deployment.ask.companies(), "a company in the file is a partition")
        register(tmp_path, [one, other], systems=systems)

        # A stream alone is given its events, a day that a webhook announced is fetched, who fails is told of once.
        assert deployment.launch("goodera", wanted[0], wanted[-1], [alone]) == "SUCCESS"
        delivery = Delivery(os.urandom(16), one, announced, FIRST, clock())
        Deliveries(Settings.load(deployment.env)).add([delivery], refused=lambda company: False)
        sandbox.faults({"faults": [{"fault": "status-403", "stream": broken}]})
        assert deployment.launch("kintell", wanted[0], wanted[0], [broken, f"{broken}_events"]) == "FAILURE"
        sandbox.no_faults()

        def state(asset: str) -> set[str]:
            with instance_in(deployment.home) as instance:
                return set(statuses(instance, deployment.definitions, asset, wanted).values())

        eventually(lambda: state(f"{alone}_events") == {"MATERIALIZED"}, "the events of what landed")
        eventually(lambda: "MATERIALIZED" in state(f"{announced}_events"), "the day of the webhook")
        assert [len(deployment.tagged(SENSOR, name)) for name in ("landings", "webhook_deliveries")] == [1, 1]
        eventually(lambda: alerts, "an alert")

        deployment.start_schedule("nightly")
        pause(deployment)
        the_night_comes(deployment)

        def nights() -> list[tuple[str, str]]:
            return sorted((run.company, run.status) for run in deployment.tagged(SCHEDULE, "nightly"))

        eventually(lambda: nights() == [(one, "SUCCESS"), (other, "SUCCESS")], "the night is over", 300)
        assert len(alerts) == 1

        # What the log forgets is no state of a partition.
        with instance_in(deployment.home) as instance:
            before = {asset: statuses(instance, deployment.definitions, asset, wanted) for asset in all_assets()}
            gone = forget_runs(instance, datetime.combine(datetime.now(UTC).date() + timedelta(1), time(), UTC))
            after = {asset: statuses(instance, deployment.definitions, asset, wanted) for asset in all_assets()}
        assert before == after and gone["run_log"] > 0


# --- nobody waits -----------------------------------------------------------------------------------------------------


def the_night_comes(deployment: Deployment) -> None:
    """The nightly schedule goes on as if the daemon had slept through two o'clock, which it makes up for."""
    now = datetime.now(UTC)
    night = datetime.combine(now.date(), NIGHT, UTC)
    night -= timedelta(days=night > now)
    with instance_in(deployment.home) as instance:
        (state,) = (one for one in instance.all_instigator_state() if one.instigator_name == "nightly")
        data = state.instigator_data
        assert isinstance(data, ScheduleInstigatorData)
        begun = ScheduleInstigatorData(data.cron_schedule, (night - timedelta(minutes=1)).timestamp())
        instance.update_instigator_state(state.with_data(begun).with_status(InstigatorStatus.RUNNING))


def pause(deployment: Deployment) -> None:
    with instance_in(deployment.home) as instance:
        (state,) = (one for one in instance.all_instigator_state() if one.instigator_name == "nightly")
        instance.update_instigator_state(state.with_status(InstigatorStatus.STOPPED))


@pytest.mark.machine
@pytest.mark.timeout(900)
@pytest.mark.parametrize("storage", STORAGES)
def test_a_night_gets_through_while_another_company_backfills_a_year(tmp_path: Path, storage: str) -> None:
    busy, other = "acme-corp", "globex-inc"
    # As one does it: month by month, the first of each left out, so that it is twelve runs.
    year = [day for day in days(date(2025, 1, 1), 365) if day.day > 1]
    with serving(tmp_path, [busy, other], storage) as (deployment, _):
        deployment.start_schedule("nightly")
        pause(deployment)
        deployment.start_daemon()
        backfill = deployment.backfill(keys(busy, year))
        eventually(partial(has_runs, deployment, backfill, 6), "half a year is in the queue", 300)
        the_night_comes(deployment)

        def nights() -> dict[str, Run]:
            return {run.company: run for run in deployment.tagged(SCHEDULE, "nightly")}

        eventually(lambda: nights().keys() == {busy, other}, "the night has come", 180)
        eventually(lambda: nights()[other].ended, "one company's night is over", 300)
        year_runs = deployment.runs_of(backfill)
        night = nights()
        yesterday = f"{other}|{datetime.now(UTC).date() - timedelta(1)}"

        assert (night[other].status, night[busy].status) == ("SUCCESS", "QUEUED")
        states = Counter(run.status for run in year_runs)
        assert states["STARTED"] + states["STARTING"] <= 1 and states["QUEUED"] >= 1, states
        assert not states.keys() & {"FAILURE", "CANCELED"}, states
        with instance_in(deployment.home) as instance:
            for asset in all_assets():
                found = statuses(instance, deployment.definitions, asset, [night[other].ends[1]])
                assert found == {night[other].ends[1]: "MATERIALIZED"}, asset
        assert night[other].ends[1] <= yesterday


# --- nothing twice, nothing not at all --------------------------------------------------------------------------------

SIZES = [
    pytest.param("sqlite", 3, 3, marks=pytest.mark.machine),
    pytest.param("postgres", 3, 3, marks=pytest.mark.machine),
    pytest.param("sqlite", 10, 31, marks=pytest.mark.machine),
    pytest.param("postgres", 10, 31, marks=pytest.mark.machine),
]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("storage", "companies", "number"), SIZES)
def test_a_backfill_that_is_made_twice_and_whose_daemon_is_killed(
    tmp_path: Path, storage: str, companies: int, number: int
) -> None:
    slugs = [f"company-{letter}" for letter in "abcdefghij"[:companies]]
    over = days(FIRST, number)
    wanted = [each for slug in slugs for each in keys(slug, over)]
    ranges = sorted((keys(slug, over)[0], keys(slug, over)[-1], "SUCCESS") for slug in slugs)
    with serving(tmp_path, slugs, storage) as (deployment, sandbox):
        first_daemon = deployment.start_daemon()
        asked: list[Mapping[str, Any]] = []
        rows: list[Mapping[str, Any]] = []
        for is_killed in (False, True):
            sandbox.reset()
            backfill = deployment.backfill(wanted)
            if is_killed:
                eventually(partial(has_runs, deployment, backfill, len(slugs) // 2), "half of it is in the queue", 600)
                first_daemon.kill()
                first_daemon.wait()
                deployment.start_daemon()
            assert deployment.ended(backfill, 1500) == "COMPLETED_SUCCESS"
            assert sorted((*run.ends, run.status) for run in deployment.runs_of(backfill)) == ranges
            asked.append(sandbox.stats())
            rows.append(stored(deployment))

        assert asked[0] == asked[1], "nothing is fetched twice"
        assert rows[0] == rows[1]
        counts = Counter((row["stream"], row["company"], row["day"]) for row in rows[1].values())
        assert counts == sent(sandbox, slugs, over)

        with instance_in(deployment.home) as instance:

            def look() -> None:
                for asset in all_assets():
                    found = statuses(instance, deployment.definitions, asset, wanted)
                    assert found == dict.fromkeys(wanted, "MATERIALIZED"), asset
                for stream in all_streams().values():
                    for asset, check in ((stream.name, "contract"), (stream.events, "no_personal_data")):
                        found = check_statuses(instance, deployment.definitions, asset, check, wanted)
                        assert found == dict.fromkeys(wanted, "SUCCEEDED"), (asset, check)

            look()
            gone = forget_runs(instance, datetime.combine(datetime.now(UTC).date() + timedelta(1), time(), UTC))
            # Those of the first time, but for one where the daemon was killed before it had planned all of the second.
            assert len(slugs) - 1 <= gone["runs"] <= len(slugs)
            look()
