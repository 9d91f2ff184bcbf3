"""Schedules and sensors: which runs they ask for, of whom, when, and how often."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
import yaml
from dagster._core.instance.ref import InstanceRef
from dagster._utils.schedules import schedule_execution_time_iterator

from teei_ingest.companies import load_companies
from teei_ingest.defs.build import build
from teei_ingest.defs.partitions import COMPANIES, RANGE_END, RANGE_START, key
from teei_ingest.defs.resources import SettingsResource
from teei_ingest.defs.stale import PAUSES, day_due, stale
from teei_ingest.landing.landing import Landing
from teei_ingest.sandbox.server import SandboxConfig, environment, running
from teei_ingest.streams import all_streams
from teei_ingest.systems import all_systems
from teei_ingest.vault.keys import KeyRing, tombstone
from teei_ingest.webhooks.deliveries import Deliveries, Delivery
from teei_ingest_tests.dagster_parts import ROOT, dagster_home
from teei_ingest_tests.extracting import Answer, Ask, serving
from teei_ingest_tests.running import Home

CONFIG = SandboxConfig()
SLUGS = list(CONFIG.companies)
STARTED = dg.DagsterRunStatus.STARTED
NIGHT = datetime(2024, 1, 21, 2, tzinfo=UTC)
EVERY_ASSET = {name for stream in all_streams().values() for name in (stream.name, stream.events)}


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """Its evaluations want one that has a reference; nothing is run in it."""
    folder = dagster_home(tmp_path / "dagster")
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(folder))) as made:
        yield made


@pytest.fixture
def place(home: Callable[..., Home]) -> Home:
    return home(CONFIG.companies, environment(CONFIG, "http://127.0.0.1:9"))


def tick(place: Home, instance: dg.DagsterInstance, name: str, at: datetime = NIGHT) -> Any:
    """What a schedule says at a moment."""
    repository = build(place.environ).get_repository_def()
    with dg.build_schedule_context(
        instance=instance,
        scheduled_execution_time=at,
        repository_def=repository,
        resources={"settings": SettingsResource(overrides=place.environ)},
    ) as context:
        return repository.get_schedule_def(name).evaluate_tick(context)


def look(place: Home, instance: dg.DagsterInstance, sensor: dg.SensorDefinition, cursor: str | None = None) -> Any:
    """What a sensor says."""
    with dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        repository_def=build(place.environ).get_repository_def(),
        resources={"settings": SettingsResource(overrides=place.environ)},
    ) as context:
        return sensor.evaluate_tick(context)


def asked(requests: Any) -> dict[str, tuple[str, str, int]]:
    """First and last partition, and number of assets, by run key."""
    return {one.run_key: (one.tags[RANGE_START], one.tags[RANGE_END], len(one.asset_selection)) for one in requests}


# --- schedules --------------------------------------------------------------------------------------------------------


def test_each_night_one_run_for_each_company(place: Home, instance: dg.DagsterInstance) -> None:
    said = tick(place, instance, "nightly")
    assert sorted(asked(said.run_requests).values()) == [
        (key(slug, date(2024, 1, 17)), key(slug, date(2024, 1, 20)), 24) for slug in sorted(SLUGS)
    ]
    assert {asset.to_user_string() for asset in said.run_requests[0].asset_selection} == EVERY_ASSET
    assert instance.get_dynamic_partitions(COMPANIES.name or "") == SLUGS


def test_another_company_is_first_each_night(place: Home, instance: dg.DagsterInstance) -> None:
    firsts = [
        tick(place, instance, "nightly", NIGHT + timedelta(number)).run_requests[0].tags["teei/company"]
        for number in range(3)
    ]
    assert sorted(firsts) == sorted(SLUGS)


def test_a_stream_that_looks_back_further_has_a_run_of_its_own(place: Home, instance: dg.DagsterInstance) -> None:
    place.environ["TEEI_LOOK_BACK_DAYS"] = "1, workday_directory=7"
    found = asked(tick(place, instance, "nightly").run_requests)
    assert len(found) == 2 * len(SLUGS)
    assert (key("acme-corp", date(2024, 1, 13)), key("acme-corp", date(2024, 1, 20)), 2) in found.values()
    assert (key("acme-corp", date(2024, 1, 19)), key("acme-corp", date(2024, 1, 20)), 22) in found.values()


def test_the_open_day_every_hour(place: Home, instance: dg.DagsterInstance) -> None:
    for hour in (9, 10):
        said = tick(place, instance, "hourly_open_day", NIGHT.replace(hour=hour, minute=10))
        assert {(first, last) for first, last, _ in asked(said.run_requests).values()} == {
            (key(slug, date(2024, 1, 21)),) * 2 for slug in SLUGS
        }
        assert all(f"T{hour:02}:10" in name for name in asked(said.run_requests))


def test_a_system_without_credentials_keeps_nothing_back(place: Home, instance: dg.DagsterInstance) -> None:
    for name in [name for name in place.environ if name.startswith("GOODERA_ACME_CORP")]:
        del place.environ[name]
    del place.environ["BENEVITY_GLOBEX_INC_CLIENT_SECRET"]
    found = {
        first.partition("|")[0]: count
        for first, _, count in asked(tick(place, instance, "nightly").run_requests).values()
    }
    assert found == {"acme-corp": 20, "globex-inc": 20, "initech-ab": 24}


def test_nobody_has_credentials(home: Callable[..., Home], instance: dg.DagsterInstance) -> None:
    said = tick(home(CONFIG.companies, {}), instance, "nightly")
    assert not said.run_requests
    assert "teei doctor" in said.skip_message


@pytest.mark.parametrize(
    ("zone", "first", "offsets"),
    [
        ("Europe/Oslo", date(2024, 3, 29), [1, 1, 2, 2]),  # on the 31st there is no two o'clock: it is three
        ("Europe/Oslo", date(2024, 10, 25), [2, 2, 1, 1]),  # on the 27th there are two: one counts
        ("America/New_York", date(2024, 3, 8), [-5, -5, -4, -4]),
        ("UTC", date(2024, 3, 29), [0, 0, 0, 0]),
    ],
)
def test_nights_on_which_clocks_change(
    place: Home, instance: dg.DagsterInstance, zone: str, first: date, offsets: list[int]
) -> None:
    place.environ["TEEI_SCHEDULE_TIMEZONE"] = zone
    schedule = build(place.environ).get_repository_def().get_schedule_def("nightly")
    assert schedule.execution_timezone == zone
    start = datetime(first.year, first.month, first.day, tzinfo=ZoneInfo(zone))
    ticks = schedule_execution_time_iterator(start.timestamp(), str(schedule.cron_schedule), zone, True)
    last_days = []
    for number, _ in enumerate(offsets):
        at = next(ticks)
        assert at.date() == first + timedelta(number)
        said = tick(place, instance, "nightly", at)
        last_days.append({last.partition("|")[2] for _, last, _ in asked(said.run_requests).values()})
    closed = first - timedelta(1)
    assert last_days == [{f"{closed + timedelta(number)}"} for number in range(4)]


def test_a_zone_that_does_not_exist(place: Home) -> None:
    place.environ["TEEI_SCHEDULE_TIMEZONE"] = "Europe/Atlantis"
    with pytest.raises(Exception, match="IANA name of a time zone"):
        build(place.environ)


# --- who is there -----------------------------------------------------------------------------------------------------


def register(place: Home, *slugs: str) -> None:
    """The registry has these companies, in this order."""
    entries = [{"id": CONFIG.id_of(slug), "slug": slug, "name": slug} for slug in slugs]
    Path(place.environ["TEEI_COMPANIES"]).write_text(yaml.safe_dump({"companies": entries}))


def test_a_company_becomes_a_partition_and_stays_one(place: Home, instance: dg.DagsterInstance) -> None:
    """The process that evaluates sensors lives long, and sees each change of the file all the same."""
    repository = build(place.environ).get_repository_def()
    resources = {"settings": repository.get_top_level_resources()["settings"]}

    def added() -> list[str]:
        with dg.build_sensor_context(instance, repository_def=repository, resources=resources) as context:
            said = repository.get_sensor_def("companies_registry").evaluate_tick(context)
        new = [key for request in said.dynamic_partitions_requests or [] for key in request.partition_keys]
        instance.add_dynamic_partitions(COMPANIES.name or "", new)
        return new

    assert (added(), added()) == (SLUGS, [])
    register(place, "globex-inc", "umbrella-co")
    assert (added(), added()) == (["umbrella-co"], [])
    assert instance.get_dynamic_partitions(COMPANIES.name or "") == [*SLUGS, "umbrella-co"]
    Path(place.environ["TEEI_COMPANIES"]).write_text("companies: none\n")
    assert added() == []


@pytest.mark.parametrize("how", ["out of the file", "being shredded"])
def test_who_has_left_is_asked_for_no_more(place: Home, instance: dg.DagsterInstance, how: str) -> None:
    gone, *others = SLUGS
    for company in load_companies(place.settings):
        ring = KeyRing.open(place.settings, company)
        Landing(place.settings).write(ring, company.slug, "buddy_matches", NIGHT.date(), {}, [], attempt="a")
        delivery = Delivery(company.slug.encode(), company.slug, "goodera_donations", NIGHT.date(), 0)
        Deliveries(place.settings).add([delivery])
    company = load_companies(place.settings).get(gone)
    if how == "out of the file":
        instance.add_dynamic_partitions(COMPANIES.name or "", SLUGS)
        register(place, *others)
    else:
        instance.add_dynamic_partitions(COMPANIES.name or "", others)
        tombstone(place.settings, company).write_text(json.dumps({"ended": ""}))
    sensor = build(place.environ).get_repository_def().get_sensor_def
    looks = {
        "nightly": lambda: tick(place, instance, "nightly"),
        "hourly_open_day": lambda: tick(place, instance, "hourly_open_day"),
        "landings": lambda: look(place, instance, sensor("landings")),
        "webhook_deliveries": lambda: look(place, instance, sensor("webhook_deliveries")),
        "stale": lambda: look(place, instance, stale(place.settings, lambda: NIGHT + timedelta(hours=2))),
    }
    for name, said in looks.items():
        asked_of = {first.partition("|")[0] for first, _, _ in asked(said().run_requests).values()}
        assert asked_of == set(others), name
    assert look(place, instance, sensor("companies_registry")).skip_message == "all 2 companies are there"
    assert (gone in instance.get_dynamic_partitions(COMPANIES.name or "")) == (how == "out of the file")


# --- what is missing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "zone", "due"),
    [
        ("2024-01-21T02:59:00+00:00", "UTC", "2024-01-19"),
        ("2024-01-21T03:00:00+00:00", "UTC", "2024-01-20"),
        ("2024-01-21T01:59:00+00:00", "Europe/Oslo", "2024-01-19"),
        ("2024-01-21T02:00:00+00:00", "Europe/Oslo", "2024-01-20"),
        ("2024-01-21T07:59:00+00:00", "America/New_York", "2024-01-19"),
        ("2024-01-21T08:00:00+00:00", "America/New_York", "2024-01-20"),
        ("2024-01-21T17:59:00+00:00", "Asia/Tokyo", "2024-01-19"),
        ("2024-01-21T18:00:00+00:00", "Asia/Tokyo", "2024-01-20"),
    ],
)
def test_which_day_has_to_be_there(now: str, zone: str, due: str) -> None:
    assert day_due(datetime.fromisoformat(now), zone) == date.fromisoformat(due)


def test_what_is_missing_is_tried_three_times_and_then_left_to_people(
    place: Home, instance: dg.DagsterInstance
) -> None:
    instance.add_dynamic_partitions(COMPANIES.name or "", SLUGS)
    moment, cursor = NIGHT + timedelta(hours=2), None
    run_keys: set[str] = set()

    def looks() -> Any:
        return look(place, instance, stale(place.settings, lambda: moment), cursor)

    for pause in PAUSES:
        if pause:
            moment += pause - timedelta(minutes=1)
            said = looks()
            assert not said.run_requests
            cursor = said.cursor
            moment += timedelta(minutes=1)
        said = looks()
        cursor = said.cursor
        assert {first.partition("|")[0] for first, _, _ in asked(said.run_requests).values()} == set(SLUGS)
        assert run_keys.isdisjoint(asked(said.run_requests))
        run_keys |= set(asked(said.run_requests))
        going = [_goes_on(instance, slug) for slug in SLUGS]  # the run that was asked for, which then fails
        said = looks()
        assert not said.run_requests
        cursor = said.cursor
        for run in going:
            instance.report_run_failed(run)
    for _ in range(3):
        moment += timedelta(hours=5)
        said = looks()
        cursor = said.cursor
        assert not said.run_requests
        assert "left to people" in said.skip_message and "teei sync --failed" in said.skip_message
    moment += timedelta(days=1)  # another day is another matter
    assert looks().run_requests


def _goes_on(instance: dg.DagsterInstance, slug: str) -> dg.DagsterRun:
    tags = {"teei/company": slug}
    return instance.create_run_for_job(dg.GraphDefinition(name="it").to_job(), status=STARTED, tags=tags)


def test_what_is_there_is_not_asked_for(place: Home, instance: dg.DagsterInstance) -> None:
    instance.add_dynamic_partitions(COMPANIES.name or "", SLUGS)
    for stream in all_streams().values():
        for slug in SLUGS:
            if (stream.name, slug) != ("buddy_matches", "acme-corp"):
                made = dg.AssetMaterialization(stream.events, partition=key(slug, date(2024, 1, 20)))
                instance.report_runless_asset_event(made)
    said = look(place, instance, stale(place.settings, lambda: NIGHT + timedelta(hours=2)))
    (only,) = said.run_requests
    assert {asset.to_user_string() for asset in only.asset_selection} == {"buddy_matches", "buddy_matches_events"}
    assert only.tags[RANGE_END] == key("acme-corp", date(2024, 1, 20))


# --- what landed ------------------------------------------------------------------------------------------------------


def test_a_stream_that_was_materialized_alone_gets_its_events(
    home: Callable[..., Home], instance: dg.DagsterInstance
) -> None:
    first, streams = date(2024, 1, 15), ("goodera_volunteers", "buddy_matches")
    days = [first + timedelta(number) for number in range(3)]
    with running(CONFIG) as sandbox:
        place = home(CONFIG.companies, environment(CONFIG, sandbox.url))
        assert place.materialize("acme-corp", days[0], days[-1], streams, assets="stream").success
        sensor = build(place.environ).get_repository_def().get_sensor_def("landings")
        (one,) = look(place, instance, sensor).run_requests
        assert (one.tags[RANGE_START], one.tags[RANGE_END]) == (key("acme-corp", days[0]), key("acme-corp", days[-1]))
        assert {asset.to_user_string() for asset in one.asset_selection} == {f"{name}_events" for name in streams}
        assert look(place, instance, sensor).run_requests[0].run_key == one.run_key
        assert place.materialize("acme-corp", days[0], days[1], streams, assets="stream").success
        again = {request.run_key for request in look(place, instance, sensor).run_requests}
        assert one.run_key not in again
        assert place.materialize("acme-corp", days[0], days[-1], streams, assets="events").success
        assert not look(place, instance, sensor).run_requests


# --- alerts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "retried"), [(200, False), (500, False), (200, True)])
def test_a_run_that_failed_is_reported_once(
    place: Home, instance: dg.DagsterInstance, capsys: pytest.CaptureFixture[str], status: int, retried: bool
) -> None:
    bodies: list[Ask] = []

    def script(ask: Ask) -> Answer:
        bodies.append(ask)
        return Answer(status=status)

    @dg.op
    def breaks() -> None:
        raise ValueError("kari.nordmann@acme-corp.example")

    @dg.job
    def failing() -> None:
        breaks()

    result = failing.execute_in_process(instance=instance, raise_on_error=False, tags={"teei/company": "acme-corp"})
    instance.add_run_tags(result.run_id, {"dagster/will_retry": str(retried).lower()})
    with serving(script) as server:
        place.environ["TEEI_ALERT_URL"] = f"{server.url}/hook"
        sensor = build(place.environ).get_repository_def().get_sensor_def("alerts")
        with dg.build_run_status_sensor_context(
            "alerts",
            result.get_run_failure_event(),
            instance,
            instance.get_run_by_id(result.run_id),
            resources={"settings": SettingsResource(overrides=place.environ)},
        ).for_run_failure() as context:
            sensor(context)  # type: ignore[operator]
    assert len(bodies) == (0 if retried else 1)
    said = capsys.readouterr()
    assert ("could not be reached" in said.err + said.out) == (status != 200)


def test_the_queue_limits_each_company_and_each_system() -> None:
    queue = yaml.safe_load((ROOT / "dagster.yaml").read_text())["run_coordinator"]
    limits = {one["key"]: one for one in queue["config"]["tag_concurrency_limits"]}
    company = limits.pop("teei/company")
    assert (company["value"], company["limit"]) == ({"applyLimitPerUniqueValue": True}, 1)
    assert limits.keys() == {f"teei/system.{system}" for system in all_systems()}
