"""What outlives its rule goes, for good; how each partition stands, and why it failed, stays."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from teei_ingest.defs import retention
from teei_ingest.defs.build import build
from teei_ingest.defs.partitions import COMPANIES, PARTITION, key
from teei_ingest.errors import StoreError
from teei_ingest.privacy.audit_log import AuditLog
from teei_ingest.privacy.retention import keep, rules
from teei_ingest.settings import Settings
from teei_ingest.store import open_store
from teei_ingest.store.tables import Store
from teei_ingest_tests.dagster_parts import check_statuses, keys, statuses
from teei_ingest_tests.feeding import ACME, Answering, Ask, Reply, answering, contract_of, page, record, stored, worker
from teei_ingest_tests.running import Home, failures

STREAM = "benevity_volunteers"
ASSETS = (STREAM, f"{STREAM}_events")
CHECKS = ((STREAM, "contract"), (f"{STREAM}_events", "no_personal_data"))
DAYS = [date(2024, 1, 15), date(2024, 1, 16), date(2024, 1, 17), date(2024, 1, 18)]


def of_the_day(ask: Ask) -> Reply:
    """One record a day, in the middle of it."""
    first, last = (date.fromisoformat(ask.query[name][:10]) for name in ("since", "until"))
    days = [first + timedelta(number) for number in range((last - first).days)]
    records = [record(ask.stream, f"r-{day}", f"{day}T12:00:00Z", {"activity_name": f"Act {day}"}) for day in days]
    return Reply(page(ask.stream, records))


@pytest.fixture
def server() -> Iterator[Answering]:
    with answering(of_the_day) as served:
        yield served


@pytest.fixture
def place(home: Callable[..., Home], server: Answering) -> Home:
    return home({ACME.slug: ACME.id}, {**server.environment(), "TEEI_MAX_RETRIES": "0"})


def sqlite_instance(place: Home) -> dg.DagsterInstance:
    """The instance of the place's home, as another process would open it."""
    folder = place.settings.dagster_home
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dagster.yaml").touch()
    return dg.DagsterInstance.from_config(str(folder))


@pytest.fixture
def on_sqlite(place: Home) -> Iterator[Home]:
    """The place with its instance in SQLite files."""
    with sqlite_instance(place) as place.instance:
        place.instance.add_dynamic_partitions(COMPANIES.name or "", [ACME.slug])
        yield place


def late(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def forget(place: Home, now: datetime, *, dry_run: bool = False) -> dict[str, int]:
    return retention.keep(place.instance, place.settings, open_store(place.settings), now, dry_run=dry_run)


def run(place: Home, first: date, last: date) -> str:
    return place.materialize(ACME.slug, first, last, [STREAM]).run_id


def standing(place: Home, definitions: dg.Definitions) -> dict[str, Any]:
    """All that Dagster says of the partitions, and what their newest materializations say."""
    wanted = keys(ACME.slug, DAYS)
    found: dict[str, Any] = {}
    for asset in ASSETS:
        found[asset] = list(statuses(place.instance, definitions, asset, wanted).values())
        for each in wanted:
            asked = dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[each])
            (newest,) = place.instance.fetch_materializations(asked, limit=1).records or [None]
            made = newest.asset_materialization if newest else None
            found[f"{asset} {each}"] = (newest.run_id, made.metadata) if newest and made else None
    for asset, check in CHECKS:
        found[check] = list(check_statuses(place.instance, definitions, asset, check, wanted).values())
    return found


def runs(place: Home) -> list[str]:
    return sorted(run.run_id for run in place.instance.get_runs())


def index_rows(place: Home) -> int:
    with place.instance.event_log_storage.index_connection() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM event_logs").scalar())


@pytest.mark.long
def test_runs_go_and_partitions_stand_as_before(on_sqlite: Home, server: Answering) -> None:
    place, definitions = on_sqlite, build(on_sqlite.environ)
    superseded = run(place, DAYS[0], DAYS[1])
    by_half = run(place, DAYS[0], DAYS[1])
    newest = run(place, DAYS[0], DAYS[0])
    good = run(place, DAYS[2], DAYS[2])
    server.answer = lambda ask: Reply(b"{}", 500)
    superseded_failure = run(place, DAYS[2], DAYS[3])
    failure = run(place, DAYS[2], DAYS[3])
    server.answer = of_the_day

    before, rows = standing(place, definitions), index_rows(place)
    for asset in ASSETS:
        assert before[asset] == ["MATERIALIZED", "MATERIALIZED", "FAILED", "FAILED"]
    assert before["contract"][:2] == ["SUCCEEDED", "SUCCEEDED"]

    assert forget(place, late(89))["runs"] == 0
    told = forget(place, late(91), dry_run=True)
    assert (standing(place, definitions), index_rows(place)) == (before, rows)
    counts = forget(place, late(91))
    assert counts == told
    assert counts["runs"] == 2 and counts["run_log"] > 0
    assert runs(place) == sorted([by_half, newest, good, failure])
    assert index_rows(place) < rows
    assert standing(place, definitions) == before
    again = forget(place, late(91))
    assert (again["runs"], again["run_log"]) == (0, 0)

    shards = {path.stem for path in (place.settings.dagster_home / "history" / "runs").glob("*.db")}
    assert not shards & {superseded, superseded_failure, by_half}
    with sqlite_instance(place) as place.instance:
        assert standing(place, definitions) == before
        assert not place.instance.all_logs(by_half)
        (why,) = place.instance.all_logs(failure, of_type=dg.DagsterEventType.STEP_FAILURE)
        assert "source_down" in str(why)

        # Dagster goes on where it was: what failed is made, and what is made anew supersedes.
        mended = run(place, DAYS[2], DAYS[3])
        forget(place, late(91))
        assert runs(place) == sorted([by_half, newest, mended])
        assert standing(place, definitions)[ASSETS[1]] == ["MATERIALIZED"] * 4


def ingest(place: Home, days: Sequence[date]) -> None:
    outcome = worker(place, STREAM, now=datetime(2024, 6, 1, tzinfo=UTC)).both(list(days))
    assert len(outcome.good) == len(days)


def bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def events_rule(place: Home, days: int) -> Settings:
    return Settings.load({**place.environ, "TEEI_EVENTS_TTL_D": str(days)})


def test_events_go_by_their_own_day_in_one_commit_and_for_good(place: Home) -> None:
    ingest(place, DAYS)
    settings = events_rule(place, 30)
    store = open_store(settings)
    table = Path(store.uri, contract_of(STREAM).table)
    ids = {row["day"]: row["event_id"] for row in stored(place, STREAM)}
    others = [row for row in stored(place, STREAM) if row["day"] >= DAYS[2]]
    on_the_last_moment = datetime(2024, 2, 16, 23, 59, tzinfo=UTC)  # the 17th of January is 30 days ago

    assert keep(settings, store, on_the_last_moment, dry_run=True)["events"] == 2
    assert len(stored(place, STREAM)) == 4
    assert keep(settings, store, on_the_last_moment)["events"] == 2
    assert stored(place, STREAM) == others
    files = [path for path in table.rglob("*.parquet") if "checkpoint" not in path.name]
    assert len(files) == 1
    assert b"day < " not in bytes_of(table / "_delta_log")
    assert ids[DAYS[2]] in {row["event_id"] for row in stored(place, STREAM)}
    assert keep(settings, store, on_the_last_moment)["events"] == 0


def test_without_a_rule_events_stay(place: Home) -> None:
    ingest(place, DAYS[:1])
    assert keep(place.settings, open_store(place.settings), late(36_500))["events"] == 0
    assert len(stored(place, STREAM)) == 1


def test_a_purge_that_a_crash_prevented_is_made_up_for(place: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest(place, DAYS)
    settings = events_rule(place, 1)
    store = open_store(settings)
    now = datetime(2024, 1, 19, 12, tzinfo=UTC)

    def killed(self: Store, contract: Any) -> None:
        raise StoreError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "_purge", killed)
        with pytest.raises(StoreError, match="killed"):
            keep(settings, store, now)
    table = Path(store.uri, contract_of(STREAM).table)
    assert b"day < " in bytes_of(table / "_delta_log")
    assert keep(settings, store, now)["events"] == 0
    assert b"day < " not in bytes_of(table / "_delta_log")
    assert [row["day"] for row in stored(place, STREAM)] == [DAYS[3]]


def old_file(path: Path, days: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    moment = time.time() - days * 86400
    os.utime(path, (moment, moment))
    return path


def test_files_go_by_their_age(place: Home) -> None:
    settings = Settings.load(
        {**place.environ, "TEEI_LANDING_TTL_H": "48", "TEEI_QUARANTINE_TTL_D": "5", "TEEI_COMPUTE_LOG_TTL_D": "3"}
    )
    folders = {
        "landing": (settings.home / "landing" / ACME.slug / STREAM, "sealed", 2),
        "quarantine": (settings.home / "quarantine" / ACME.slug / STREAM, "sealed", 5),
        "compute_log": (settings.dagster_home / "storage" / "a-run" / "compute_logs", "err", 3),
    }
    gone = [old_file(folder / f"2024-01-01.{end}", days + 0.1) for folder, end, days in folders.values()]
    left = [old_file(folder / f"2024-01-02.{end}", days - 0.1) for folder, end, days in folders.values()]
    store = open_store(settings)
    wanted = {"events": 0, "landing": 1, "quarantine": 1, "compute_log": 1, "webhooks": 0}
    assert keep(settings, store, late(0), dry_run=True) == wanted
    assert all(path.exists() for path in gone)
    assert keep(settings, store, late(0)) == wanted
    assert [path.exists() for path in gone] == [False] * 3
    assert [path.exists() for path in left] == [True] * 3


def test_captured_output_of_a_run_goes_with_it(on_sqlite: Home) -> None:
    place = on_sqlite
    first = run(place, DAYS[0], DAYS[0])
    run(place, DAYS[0], DAYS[0])
    captured = old_file(place.settings.dagster_home / "storage" / first / "compute_logs" / "x.err", 0)
    place.environ["TEEI_COMPUTE_LOG_TTL_D"] = "1000"
    forget(place, late(91))
    assert not captured.exists()


def test_the_asset_says_what_went_and_the_audit_log_that_it_did(place: Home) -> None:
    ingest(place, DAYS)
    place.environ["TEEI_EVENTS_TTL_D"] = "30"
    result = place.run({}, "retention")
    assert result.success, failures(result)
    (made,) = result.asset_materializations_for_node("make_retention")
    figures = {name: value.value for name, value in made.metadata.items()}
    assert figures == {
        "events": 4, "landing": 0, "quarantine": 0, "compute_log": 0, "webhooks": 0, "runs": 0, "run_log": 0,
    }  # fmt: skip
    started, done = AuditLog(place.settings).entries()
    assert (started["what"], done["what"]) == ("retention.started", "retention.done")
    assert started["details"] == {rule.variable: rule.days for rule in rules(Settings.load(place.environ))}
    assert done["counts"]["events"] == "1-9"


def test_a_run_over_partitions_leaves_it_out(place: Home) -> None:
    ingest(place, DAYS)
    place.environ["TEEI_EVENTS_TTL_D"] = "30"
    result = place.run({PARTITION: key(ACME.slug, DAYS[0])}, "retention", *ASSETS)
    assert result.success, failures(result)
    assert {event.asset_key.to_user_string() for event in result.get_asset_materialization_events()} == set(ASSETS)
    assert len(stored(place, STREAM)) == 4
    assert not list(AuditLog(place.settings).entries())


def test_a_rule_for_each_kind_of_thing_names_its_variable(place: Home) -> None:
    known = {info.alias or f"TEEI_{name.upper()}" for name, info in Settings.model_fields.items()}
    found = rules(Settings.load({**place.environ, "TEEI_LANDING_TTL_H": "36"}))
    assert {rule.variable for rule in found} <= known
    assert {rule.name: rule.days for rule in found} == {
        "events": None, "landing": 1.5, "quarantine": 30, "webhooks": 7, "run_log": 90, "compute_log": 7,
    }  # fmt: skip
