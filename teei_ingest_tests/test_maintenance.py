"""The tables' upkeep: files are few and no row changes, who reads may go on, who was erased stays away; sizes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest

from teei_ingest.cli.app import run
from teei_ingest.companies import load_companies
from teei_ingest.contracts import VolunteerEvent
from teei_ingest.defs.maintenance import database_bytes
from teei_ingest.defs.partitions import PARTITION, key
from teei_ingest.errors import SettingsError
from teei_ingest.landing.landing import Landing
from teei_ingest.metrics import catalog
from teei_ingest.metrics.figures import Figures
from teei_ingest.metrics.sizes import BESIDE, COMPANY, TABLE, WHAT, Measured, Sizes, Thing, report
from teei_ingest.settings import Settings
from teei_ingest.store import open_store, tables
from teei_ingest.store.locks import Locks
from teei_ingest.store.rotations import Rotation, Rotations, Stage
from teei_ingest.store.tables import Size, Store, Tidied, contracts
from teei_ingest.vault.keys import KeyRing
from teei_ingest_tests.dagster_parts import BIN, activated
from teei_ingest_tests.deployed import instance_on, postgres
from teei_ingest_tests.feeding import ACME, Answering, Ask, Reply, answering, page, record, stored, worker
from teei_ingest_tests.object_storage import s3_server
from teei_ingest_tests.running import Home, failures
from teei_ingest_tests.test_store_tables import event, put, sort

FIRST = date(2024, 1, 1)
EVENTS = VolunteerEvent
STREAM = "benevity_volunteers"
DAYS = [date(2024, 1, 15) + timedelta(number) for number in range(4)]
DAY_S = 86_400.0


@pytest.fixture
def rotations(tmp_path: Path) -> Rotations:
    return Rotations(tmp_path / "rotation")


@pytest.fixture
def store(tmp_path: Path, rotations: Rotations) -> Store:
    locks = Locks(tmp_path / "locks", patience_s=30)
    made = Store(str(tmp_path / "events"), sandbox=False, locks=locks, rotations=rotations, home="a")
    made.prepare()
    return made


def scattered(store: Store, count: int, company: str = "acme-corp") -> None:
    """A file for each of so many days, as whoever commits leaves them where the tidying fails."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tables, "SMALL_FILES", 1_000)
        for number in range(count):
            put(store, EVENTS, [event(EVENTS, number, day=FIRST + timedelta(number), company=company)])


def log(store: Store) -> list[Path]:
    return sorted(Path(store.uri, EVENTS.table, "_delta_log").glob("*.json"))


def grow_older(store: Store, hours: float) -> None:
    """Have all files that a version gave up given up so much earlier; and those that none knows."""
    for path in log(store):
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        for entry in entries:
            if "remove" in entry:
                entry["remove"]["deletionTimestamp"] -= int(hours * 3_600_000)
        path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    for path in files(store):
        moment = path.stat().st_mtime - hours * 3600
        os.utime(path, (moment, moment))


def files(store: Store) -> list[Path]:
    return sorted(Path(store.uri, EVENTS.table).glob("company=*/*.parquet"))


def rows(store: Store) -> list[dict[str, Any]]:
    return sorted(store.rows(EVENTS).to_pylist(), key=lambda row: (row["company"], row["event_id"]))


# --- few files, and no row changes ------------------------------------------------------------------------------------


def test_what_commits_left_is_put_together_and_no_row_changes(store: Store) -> None:
    scattered(store, 12)
    scattered(store, tables.SMALL_FILES, "globex-inc")
    before = rows(store)
    assert {name: size.files for name, size in store.sizes(EVENTS).items()} == {"acme-corp": 12, "globex-inc": 8}

    assert store.tidy(EVENTS, 24) == Tidied(compacted=12, removed=0)
    assert {name: size.files for name, size in store.sizes(EVENTS).items()} == {"acme-corp": 1, "globex-inc": 8}
    assert rows(store) == before

    version = store.versions()[EVENTS.table]
    assert store.tidy(EVENTS, 24) == Tidied(0, 0)
    assert store.versions()[EVENTS.table] == version, "there is nothing to commit"


@pytest.mark.parametrize("hours", [1, 48])
def test_a_file_stays_as_long_as_somebody_may_read_it(store: Store, hours: int) -> None:
    scattered(store, 3)
    reading = store.dataset(EVENTS)
    seen = sort(reading.to_table().to_pylist())
    put(store, EVENTS, [event(EVENTS, 0, day=FIRST, activity_name="changed")])
    changed = rows(store)
    dead, at_work = (files(store)[0].with_name(f"{name}.parquet") for name in ("dead", "at-work"))
    dead.write_bytes(b"x")
    at_work.write_bytes(b"x")

    store.tidy(EVENTS, hours)
    grow_older(store, hours - 0.2)
    assert store.tidy(EVENTS, hours).removed == 0
    assert sort(reading.to_table().to_pylist()) == seen, "it is read to its end"

    grow_older(store, 0.4)
    at_work.touch()
    assert store.tidy(EVENTS, hours).removed == 2, "the file of before, and the one of a writer that died"
    assert at_work.exists() and not dead.exists()
    assert rows(store) == changed != seen
    with pytest.raises(FileNotFoundError):
        reading.to_table()


def test_no_file_goes_that_a_run_may_still_be_writing() -> None:
    with pytest.raises(SettingsError, match=r"TEEI_VACUUM_RETENTION_H: .*greater than or equal to 24"):
        Settings.load({"TEEI_VACUUM_RETENTION_H": "23"})


def test_what_is_erased_meanwhile_does_not_come_back(store: Store) -> None:
    scattered(store, 12)
    done: list[Tidied] = []
    tidying = threading.Thread(target=lambda: done.append(store.tidy(EVENTS, 24)))
    with store.alone_with("acme-corp"):
        tidying.start()
        tidying.join(0.5)
        assert not done, "it waits for whoever erases"
        store.rewrite(EVENTS, "acme-corp", ["e3", "e4"], store.with_ids(EVENTS, "acme-corp", ["e3"]).slice(0, 0))
    tidying.join()
    store.purge(EVENTS)
    assert [row["event_id"] for row in rows(store)] == sorted(f"e{n}" for n in range(12) if n not in (3, 4))
    assert store.sizes(EVENTS)["acme-corp"].files == 1
    assert not {"e3", "e4"} & set(store.texts(EVENTS, "acme-corp"))


def test_what_readers_see_while_keys_are_rotated_is_left_alone(store: Store, rotations: Rotations) -> None:
    scattered(store, 12)
    scattered(store, 12, "globex-inc")
    rotations.put("acme-corp", Rotation(2, Stage.MIGRATING, store.versions()))
    assert store.tidy(EVENTS, 1) == Tidied(compacted=12, removed=0)
    assert {name: size.files for name, size in store.sizes(EVENTS).items()} == {"acme-corp": 12, "globex-inc": 1}
    grow_older(store, 2)
    assert store.tidy(EVENTS, 1) == Tidied(0, 0)
    rotations.put("acme-corp", Rotation(2, Stage.DONE, {}))
    assert store.tidy(EVENTS, 1) == Tidied(compacted=12, removed=12)


# --- how large, and how fast ------------------------------------------------------------------------------------------


def test_sizes_are_those_of_the_newest_version(store: Store) -> None:
    assert store.sizes(EVENTS) == {}
    scattered(store, 3)
    put(store, EVENTS, [event(EVENTS, 0, day=FIRST)])
    found = store.sizes(EVENTS)["acme-corp"]
    assert (found.rows, found.files) == (3, 3)
    assert found.bytes < sum(path.stat().st_size for path in files(store)) < store.bytes_of(EVENTS)


@pytest.fixture
def server() -> Iterator[Answering]:
    def of_the_day(ask: Ask) -> Reply:
        first, last = (date.fromisoformat(ask.query[name][:10]) for name in ("since", "until"))
        days = [first + timedelta(number) for number in range((last - first).days)]
        return Reply(page(ask.stream, [record(ask.stream, f"r-{day}", f"{day}T12:00:00Z") for day in days]))

    with answering(of_the_day) as served:
        yield served


@pytest.fixture
def place(home: Callable[..., Home], server: Answering) -> Home:
    """A home with four days of a stream."""
    made = home({ACME.slug: ACME.id}, {**server.environment(), "TEEI_MAX_RETRIES": "0"})
    assert len(worker(made, STREAM, now=datetime(2024, 6, 1, tzinfo=UTC)).both(DAYS).good) == 4
    return made


def test_everything_is_measured(place: Home) -> None:
    settings = place.settings
    sealed = settings.home / "landing" / ACME.slug / STREAM / "2024-01-15.sealed"
    sealed.parent.mkdir(parents=True)
    sealed.write_bytes(b"x" * 100)
    found = report(settings, open_store(settings), 4711)
    assert {thing.name for thing in found if thing.kind == TABLE} == {contract.table for contract in contracts()}
    assert {thing.name for thing in found if thing.kind == BESIDE} == set(WHAT)
    events, company = found[Thing(TABLE, EVENTS.table)], found[Thing(COMPANY, ACME.slug)]
    assert events[:3] == company[:3] and (events.rows, events.rows_a_day) == (4, None)
    beside = {thing.name: size.bytes for thing, size in found.items() if thing.kind == BESIDE}
    assert (beside["dagster"], beside["landing"]) == (4711, 100)
    # Nothing is left out or counted twice.
    everything = sum(path.stat().st_size for path in settings.home.rglob("*") if path.is_file())
    measured = sum(size.bytes for thing, size in found.items() if thing.kind != COMPANY) - 4711
    history = sum(path.stat().st_size for path in (settings.home / "metrics").glob("*"))
    assert measured == everything - history


def test_growth_is_that_of_a_week(place: Home) -> None:
    sizes, thing = Sizes(place.settings), Thing(TABLE, "events")

    def note(day: float, rows: int) -> Measured:
        return sizes.note({thing: Size(rows, 1, rows * 10)}, day * DAY_S)[thing]

    assert note(1_000.2, 100).rows_a_day is None
    assert note(1_000.6, 100).rows_a_day is None, "too soon to tell"
    assert note(1_002.6, 300)[3:] == (100.0, 1000.0)
    assert note(1_003.6, 300).rows_a_day == 66.7
    assert note(1_009.6, 1_700).rows_a_day == 200.0, "of the seven days before, not of all"
    assert sizes.last() == (1_009.6 * DAY_S, {thing: Size(1_700, 1, 17_000)})


def test_of_a_company_that_has_gone_no_size_is_kept(place: Home) -> None:
    sizes, gone = Sizes(place.settings), Thing(COMPANY, "globex-inc")
    sizes.note({gone: Size(1, 1, 1)}, 1_000 * DAY_S)
    sizes.note({}, 1_001 * DAY_S)
    assert sizes.note({gone: Size(9, 9, 9)}, 1_002 * DAY_S)[gone].rows_a_day is None


@pytest.mark.fleet
def test_metrics_show_what_was_measured_last(place: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def look() -> dict[str, dict[tuple[str, ...], float]]:
        watching = Figures(place.settings, lambda: load_companies(place.settings))
        return {metric.name: dict(values) for metric, values in watching.now()}

    monkeypatch.setenv("DAGSTER_HOME", str(place.path / "none"))
    assert look()[catalog.STORED_BYTES.name] == look()[catalog.MEASURED.name] == {}
    report(place.settings, open_store(place.settings), 4711, now=1_000.0)
    seen = look()
    assert seen[catalog.STORED_ROWS.name][EVENTS.table,] == 4
    assert seen[catalog.STORED_BYTES.name]["dagster",] == 4711
    assert seen[catalog.MEASURED.name] == {(): 1_000.0}


@pytest.mark.fleet
def test_the_assets_do_it_and_say_what_they_did(place: Home) -> None:
    store = open_store(place.settings)
    scattered(store, 12, "globex-inc")
    result = place.run({}, "tidied_tables", "size_report")
    assert result.success, failures(result)
    told: dict[str, dict[str, Any]] = {
        event.materialization.asset_key.to_user_string(): {
            name: value.value for name, value in event.materialization.metadata.items()
        }
        for event in result.get_asset_materialization_events()
    }
    assert told["tidied_tables"]["files_put_together"] == 12
    assert "| volunteer_events | 12 | 0 |" in told["tidied_tables"]["tables"]
    sizes = told["size_report"]
    assert (sizes["rows"], sizes["files"]) == (16, 2)
    assert "| globex-inc | 12 | 1 |" in sizes["companies"]
    assert Sizes(place.settings).last() is not None
    assert len(stored(place, STREAM)) == 4

    for asset in ("tidied_tables", "size_report"):
        result = place.run({PARTITION: key(ACME.slug, DAYS[0])}, asset)
        assert result.success and not result.get_asset_materialization_events()


@pytest.mark.fleet
def test_the_command_says_how_large_all_is(
    place: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in place.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_HOME", str(place.settings.dagster_home))
    monkeypatch.chdir(place.path)
    week_ago = time.time() - 7 * DAY_S
    Sizes(place.settings).note({Thing(TABLE, EVENTS.table): Size(0, 0, 0)}, week_ago)
    assert run(["store", "size", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    events = told["tables"][EVENTS.table]
    assert events["rows"] == told["companies"][ACME.slug]["rows"] == 4
    assert events["rows_a_day"] == pytest.approx(4 / 7, abs=0.05)
    assert told["beside"]["dagster"]["bytes"] > 50_000 and "rows" not in told["beside"]["dagster"]
    assert run(["store", "size"]) == 0
    shown = capsys.readouterr().out
    assert "Dagster's runs and events" in shown and ACME.slug in shown
    growing = "growth shows from tomorrow's measure on"
    assert growing not in shown
    (place.settings.home / "metrics" / "sizes.sqlite").unlink()
    assert run(["store", "size"]) == 0
    assert growing in capsys.readouterr().out


@pytest.mark.fleet
def test_a_database_of_postgres_has_its_size(tmp_path: Path) -> None:
    with postgres() as url, instance_on(url, tmp_path) as instance:
        assert 5 * 2**20 < database_bytes(instance, tmp_path) < 2**30


@pytest.mark.fleet
def test_upkeep_of_tables_in_an_object_store(home: Callable[..., Home], server: Answering, tmp_path: Path) -> None:
    with s3_server(tmp_path / "s3") as s3:
        uri = f"{s3.make('bucket')}/events"
        made = home({ACME.slug: ACME.id}, {**server.environment(), **s3.variables(), "TEEI_STORE_URI": uri})
        assert len(worker(made, STREAM, now=datetime(2024, 6, 1, tzinfo=UTC)).both(DAYS).good) == 4
        store = open_store(made.settings)
        scattered(store, 12, "globex-inc")
        assert store.tidy(EVENTS, 24) == Tidied(compacted=12, removed=0)
        found = report(made.settings, store, 4711)
        assert found[Thing(TABLE, EVENTS.table)][:2] == (16, 2)
        assert found[Thing(COMPANY, "globex-inc")][:2] == (12, 1)
        objects = s3.files().get_file_info(pafs.FileSelector("bucket/events", recursive=True))
        tables_bytes = sum(size.bytes for thing, size in found.items() if thing.kind == TABLE)
        assert sum(one.size or 0 for one in objects) == tables_bytes + found[Thing(BESIDE, "older_versions")].bytes


# --- a worker whose clock is off --------------------------------------------------------------------------------------


@pytest.fixture(params=["+5m", "-5m"])
def off(request: pytest.FixtureRequest) -> dict[str, str]:
    """Variables with which a process has another clock than files have."""
    wheel = importlib.util.find_spec("libfaketime")
    if wheel is None or wheel.origin is None:
        pytest.skip("libfaketime is not installed")
    (library,) = Path(wheel.origin).parent.rglob("libfaketime.so.1")
    return {"LD_PRELOAD": str(library), "FAKETIME": request.param, "NO_FAKE_STAT": "1"}


def call(place: Home, environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments,
        env={**activated(), **place.environ, "DAGSTER_HOME": str(place.settings.dagster_home), **environ},
        cwd=place.path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


UPKEEP = """
import time
from teei_ingest.landing.landing import Landing
from teei_ingest.settings import Settings
from teei_ingest.store import open_store
from teei_ingest.store.tables import contracts
settings = Settings.load()
store = open_store(settings)
print(time.time(), Landing(settings).sweep(), [store.tidy(contract, 1).removed for contract in contracts()])
"""


@pytest.mark.fleet
def test_a_clock_that_is_off_changes_nothing_that_is_stored(place: Home, off: dict[str, str]) -> None:
    before = stored(place, STREAM)
    named = ("--stream", STREAM, "--from", f"{DAYS[0]}", "--to", f"{DAYS[-1]}")
    done = call(place, off, str(BIN / "teei"), "sync", "--company", ACME.slug, *named)
    assert done.returncode == 0, done.stdout + done.stderr
    assert stored(place, STREAM) == before

    store, settings = open_store(place.settings), place.settings
    ring = KeyRing.open(settings, load_companies(settings).get(ACME.slug))
    Landing(settings).write(ring, ACME.slug, STREAM, DAYS[0], {}, [b"a record"], attempt="a")
    scattered(store, 3)
    reading = store.dataset(EVENTS)
    scattered(store, 3)  # in the place of these
    swept = call(place, off, sys.executable, "-c", UPKEEP)
    assert swept.returncode == 0, swept.stderr
    moment, landed, *removed = swept.stdout.split(maxsplit=2)
    assert abs(float(moment) - time.time()) > 200, "its clock is off"
    assert (landed, removed) == ("0", [f"{[0] * len(contracts())}\n"])
    assert reading.to_table().num_rows == 7, "who was reading goes on"
    assert len(list(Landing(settings).waiting())) == 1
