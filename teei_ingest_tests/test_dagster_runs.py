"""Runs of the real assets in this process: what is recorded of each partition, good and bad."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.errors import DagsterError
from dagster_shared.check import CheckError
from dagster_shared.serdes import serialize_value

from teei_ingest.defs.build import build
from teei_ingest.defs.partitions import COMPANIES, RANGE_END, RANGE_START, key
from teei_ingest.defs.resources import CredentialsResource, HttpResource, SettingsResource
from teei_ingest.sandbox.server import Running, SandboxConfig, environment, running
from teei_ingest.streams import all_streams
from teei_ingest_tests.dagster_parts import (
    Proxy,
    all_assets,
    check_statuses,
    days,
    keys,
    page_within,
    proxy,
    statuses,
    window_with,
)
from teei_ingest_tests.deployed import instance_on
from teei_ingest_tests.running import Home, failures

FIRST = date(2024, 1, 15)  # a day on which the sandbox has records in every stream
CONFIG = SandboxConfig()
VOLUNTEERS = ("benevity_volunteers", "benevity_volunteers_events")
TODAY = datetime.now(UTC).date()
NAME_IN_ERRORS = "kari.nordmann"  # in the bodies of the proxy's refusals


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Running]:
    with running(CONFIG) as started:
        yield started


@pytest.fixture(scope="module")
def source(sandbox: Running) -> Iterator[Proxy]:
    with proxy(sandbox.url) as started:
        yield started


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.fleet)])
def place(home: Callable[..., Home], source: Proxy, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    source.refuses = None
    made = home(CONFIG.companies, {**environment(CONFIG, source.url), "TEEI_MAX_RETRIES": "0"})
    if request.param == "memory":
        yield made
        return
    with instance_on(request.getfixturevalue("shared_url"), tmp_path) as made.instance:
        made.instance.add_dynamic_partitions(COMPANIES.name or "", list(CONFIG.companies))
        yield made


def all_materialized(partition_keys: list[str]) -> dict[str, str]:
    return dict.fromkeys(partition_keys, "MATERIALIZED")


def landings(place: Home) -> list[str]:
    folder = place.path / "home" / "landing"
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def stored(place: Home, stream: str) -> list[dict[str, Any]]:
    table = all_streams()[stream].contract.table
    return place.sql(f"SELECT * FROM {table} WHERE stream = '{stream}' ORDER BY company, event_id")


def execute(place: Home, definitions: dg.Definitions, first: str, last: str, *assets: str) -> dg.ExecuteInProcessResult:
    """One run over the range between two partition keys."""
    return definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=place.instance,
        asset_selection=[dg.AssetKey(asset) for asset in assets],
        tags={RANGE_START: first, RANGE_END: last},
        raise_on_error=False,
    )


def test_all_assets_over_a_range(place: Home, sandbox: Running) -> None:
    over = days(FIRST, 2)
    wanted = keys("acme-corp", over)
    sandbox.reset()
    result = place.materialize("acme-corp", over[0], over[-1])
    assert result.success, failures(result)

    recorded = Counter(
        (event.asset_key.to_user_string(), event.partition)
        for event in result.all_events
        if event.is_step_materialization and event.asset_key
    )
    assert recorded == Counter((asset, each) for asset in all_assets() for each in wanted)

    definitions = build(place.environ)
    requests = 0
    for stream in all_streams().values():
        raw, events = place.metadata(result, stream.name), place.metadata(result, stream.events)
        for each in wanted:
            for figures in (raw[each], events[each]):
                assert figures["window"] == "2024-01-15T00:00Z/2024-01-17T00:00Z"
                assert figures["requests"] >= figures["pages"] >= 1
                assert figures["fetched"] == sum(
                    figures[name] for name in ("kept", "quarantined", "duplicates", "suppressed", "out_of_window")
                )
                assert figures["kept"] > 0
                assert figures["late"] == 0
                assert figures["lag"] > 0
                assert figures["contract"] == f"{stream.contract.__name__} v1"
            assert raw[each]["dagster/row_count"] == raw[each]["fetched"]
            assert events[each]["dagster/row_count"] == events[each]["kept"]
            assert events[each]["read_from"] == "source"
            assert events[each]["policy_version"]
        rows = place.sql(
            f"SELECT day, count(*) AS n FROM {stream.contract.table} WHERE stream = '{stream.name}' GROUP BY day"
        )
        assert {key("acme-corp", row["day"]): row["n"] for row in rows} == {
            each: events[each]["dagster/row_count"] for each in wanted
        }
        requests += events[wanted[0]]["requests"]
        for asset, check in ((stream.name, "contract"), (stream.events, "no_personal_data")):
            assert statuses(place.instance, definitions, asset, wanted) == all_materialized(wanted)
            assert check_statuses(place.instance, definitions, asset, check, wanted) == dict.fromkeys(
                wanted, "SUCCEEDED"
            )
    served = sandbox.stats()
    assert requests == sum(
        count for paths in served.values() for by_status in paths.values() for count in by_status.values()
    )
    assert landings(place) == []


def test_again_gives_the_same_rows(place: Home) -> None:
    assert place.materialize("acme-corp", FIRST, FIRST, ["benevity_volunteers"]).success
    rows = stored(place, "benevity_volunteers")
    assert place.materialize("acme-corp", FIRST, FIRST, ["benevity_volunteers"]).success
    assert stored(place, "benevity_volunteers") == rows != []


def test_a_failed_day_is_exact(place: Home, source: Proxy) -> None:
    over = days(FIRST, 5)
    bad = over[2]
    wanted = keys("acme-corp", over)
    others = ["benevity_donations", "goodera_volunteers"]
    definitions = build(place.environ)
    assert place.materialize("acme-corp", bad, bad, ["benevity_volunteers"]).success
    before = stored(place, "benevity_volunteers")

    source.refuses = window_with(bad, "/volunteer-activities")
    result = place.materialize("acme-corp", over[0], over[-1], ["benevity_volunteers", *others])
    assert not result.success
    for asset in VOLUNTEERS:
        assert statuses(place.instance, definitions, asset, wanted) == {
            **all_materialized(wanted),
            key("acme-corp", bad): "FAILED",
        }
        assert list(place.metadata(result, asset)) == [each for each in wanted if each != key("acme-corp", bad)]
    for name in others:
        for asset in (name, f"{name}_events"):
            assert statuses(place.instance, definitions, asset, wanted) == all_materialized(wanted)
    for asset, check in zip(VOLUNTEERS, ("contract", "no_personal_data"), strict=True):
        found = check_statuses(place.instance, definitions, asset, check, wanted)
        assert found == {**dict.fromkeys(wanted, "SUCCEEDED"), key("acme-corp", bad): "EXECUTION_FAILED"}
    assert [row for row in stored(place, "benevity_volunteers") if row["day"] == bad] == before != []
    assert {row["day"] for row in stored(place, "benevity_volunteers")} == set(over)

    (failure,) = [event for event in result.all_events if event.is_step_failure]
    told = failure.step_failure_data.user_failure_data
    assert told is not None
    assert told.description == (
        "1 partitions failed and keep what they had: acme-corp|2024-01-17: "
        "benevity/benevity_volunteers acme-corp: answers with status 500; try again later. "
        "`teei sync --failed --company acme-corp` tries them again"
    )
    assert [(name, str(value.value).partition(":")[0]) for name, value in told.metadata.items()] == [
        ("acme-corp|2024-01-17", "source_down")
    ]

    source.refuses = None
    assert place.materialize("acme-corp", bad, bad, ["benevity_volunteers"]).success
    for asset in VOLUNTEERS:
        assert statuses(place.instance, definitions, asset, wanted) == all_materialized(wanted)


def test_a_failed_day_of_a_source_without_until(place: Home, source: Proxy) -> None:
    over = days(FIRST, 5)
    bad = over[2]
    wanted = keys("acme-corp", over)
    source.refuses = page_within(bad, "kintell_enrollments")
    settings = SettingsResource(overrides=place.environ)
    http = HttpResource(settings=settings, credentials=CredentialsResource(settings=settings), page_size=3)
    definitions = build(place.environ, http=http)
    result = execute(place, definitions, wanted[0], wanted[-1], "kintell_enrollments", "kintell_enrollments_events")
    assert not result.success
    for asset in ("kintell_enrollments", "kintell_enrollments_events"):
        assert statuses(place.instance, definitions, asset, wanted) == {
            **all_materialized(wanted),
            key("acme-corp", bad): "FAILED",
        }
    assert {row["day"] for row in stored(place, "kintell_enrollments")} == set(over) - {bad}


def test_nothing_of_an_answer_is_in_the_event_log(place: Home, source: Proxy) -> None:
    source.refuses = window_with(FIRST, "/volunteer-activities")
    result = place.materialize("acme-corp", FIRST, FIRST, ["benevity_volunteers"])
    assert not result.success
    log = " ".join(serialize_value(entry) for entry in place.instance.all_logs(result.run_id))
    assert "acme-corp|2024-01-15: benevity/benevity_volunteers" in log
    assert NAME_IN_ERRORS not in log
    assert "since=" not in log


def test_a_company_that_fails_leaves_the_others_alone(place: Home) -> None:
    for name in ("CLIENT_ID", "CLIENT_SECRET"):
        del place.environ[f"BENEVITY_ACME_CORP_{name}"]
    over = days(FIRST, 2)
    definitions = build(place.environ)
    ends = key("acme-corp", over[0]), key("globex-inc", over[-1])
    result = execute(place, definitions, *ends, *VOLUNTEERS)
    assert not result.success
    (description,) = failures(result)
    assert "BENEVITY_ACME_CORP_CLIENT_SECRET" in description
    for asset in VOLUNTEERS:
        acme, globex = keys("acme-corp", over), keys("globex-inc", over)
        assert statuses(place.instance, definitions, asset, acme) == dict.fromkeys(acme, "FAILED")
        assert statuses(place.instance, definitions, asset, globex) == all_materialized(globex)


def test_a_systems_job(place: Home) -> None:
    definitions = build(place.environ)
    wanted = keys("acme-corp", days(FIRST, 2))
    result = definitions.resolve_job_def("goodera").execute_in_process(
        instance=place.instance, tags={RANGE_START: wanted[0], RANGE_END: wanted[-1]}
    )
    assert result.success
    for asset in all_assets():
        expected = "MATERIALIZED" if asset.startswith("goodera_") else "MISSING"
        assert statuses(place.instance, definitions, asset, wanted) == dict.fromkeys(wanted, expected)


def test_each_asset_alone(place: Home, sandbox: Running) -> None:
    name = "benevity_volunteers"
    over = days(FIRST, 2)
    wanted = keys("acme-corp", over)
    definitions = build(place.environ)

    result = place.materialize("acme-corp", over[0], over[-1], [name], assets="stream")
    assert result.success
    assert statuses(place.instance, definitions, name, wanted) == all_materialized(wanted)
    assert statuses(place.instance, definitions, f"{name}_events", wanted) == dict.fromkeys(wanted, "MISSING")
    assert stored(place, name) == []
    assert landings(place) == [f"acme-corp/{name}/{day}.sealed" for day in over]
    for file in (place.path / "home" / "landing").rglob("*.sealed"):
        assert b"activityName" not in file.read_bytes()
    fetched = {each: figures["fetched"] for each, figures in place.metadata(result, name).items()}

    sandbox.reset()
    result = place.materialize("acme-corp", over[0], over[-1], [name], assets="events")
    assert result.success
    assert sandbox.stats() == {}
    found = place.metadata(result, f"{name}_events")
    assert {figures["read_from"] for figures in found.values()} == {"landing"}
    assert {each: figures["fetched"] for each, figures in found.items()} == fetched
    assert statuses(place.instance, definitions, f"{name}_events", wanted) == all_materialized(wanted)
    assert place.metadata(result, name) == {}
    assert landings(place) == []
    landed = stored(place, name)
    assert len(landed) == sum(figures["kept"] for figures in found.values()) > 0

    result = place.materialize("acme-corp", over[0], over[-1], [name], assets="events")
    assert result.success
    found = place.metadata(result, f"{name}_events")
    assert {figures["read_from"] for figures in found.values()} == {"source"}
    assert stored(place, name) == landed


def test_a_failed_day_of_a_stream_alone(place: Home, source: Proxy) -> None:
    name = "benevity_volunteers"
    over = days(FIRST, 3)
    wanted = keys("acme-corp", over)
    definitions = build(place.environ)
    source.refuses = window_with(over[1], "/volunteer-activities")
    assert not place.materialize("acme-corp", over[0], over[-1], [name], assets="stream").success
    expected = {**all_materialized(wanted), wanted[1]: "FAILED"}
    assert statuses(place.instance, definitions, name, wanted) == expected
    assert landings(place) == [f"acme-corp/{name}/{over[0]}.sealed", f"acme-corp/{name}/{over[2]}.sealed"]

    result = place.materialize("acme-corp", over[0], over[-1], [name], assets="events")
    assert not result.success
    assert statuses(place.instance, definitions, f"{name}_events", wanted) == expected
    assert landings(place) == []


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("acme-corp|2024-01-21", "acme-corp|2024-01-15"),
        ("globex-inc|2024-01-15", "acme-corp|2024-01-15"),
        ("nobody|2024-01-15", "nobody|2024-01-15"),
        ("acme-corp|2023-12-31", "acme-corp|2024-01-01"),
        (f"acme-corp|{TODAY}", f"acme-corp|{TODAY + timedelta(days=2)}"),
        ("acme-corp|2024-01-32", "acme-corp|2024-01-32"),
    ],
    ids=["reversed", "companies reversed", "unregistered", "before the first day", "after the open day", "no day"],
)
def test_a_wrong_range_is_never_a_success(place: Home, first: str, last: str) -> None:
    try:
        result = execute(place, build(place.environ), first, last, *VOLUNTEERS)
    except (DagsterError, CheckError, ValueError):
        pass  # Dagster itself refuses
    else:
        assert not result.success
    for asset in VOLUNTEERS:
        assert not place.instance.get_materialized_partitions(dg.AssetKey(asset))


def test_a_partition_without_a_company_is_an_error(place: Home) -> None:
    place.instance.add_dynamic_partitions(COMPANIES.name or "", ["gone-co"])
    result = place.materialize("gone-co", FIRST, FIRST, ["benevity_volunteers"])
    assert not result.success
    assert failures(result) == [
        "1 partitions failed and keep what they had: gone-co|2024-01-15: there is no company 'gone-co'; "
        "known are: acme-corp, globex-inc, initech-ab. `teei sync --failed --company gone-co` tries them again"
    ]
