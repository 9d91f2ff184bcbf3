"""The event tables: exactly what was asked for is replaced, whoever else writes, and nothing leaks into the log."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st
from tenacity import wait_none

from teei_ingest.contracts import RELEASED, DirectoryEntry, DonationEvent, EnrollmentEvent, VolunteerEvent
from teei_ingest.contracts.base import Data
from teei_ingest.contracts.stored import arrow_schema
from teei_ingest.errors import SourceDown, StoreError
from teei_ingest.store import changes, tables
from teei_ingest.store.tables import MARKER, STATISTICS, Store

FIRST = date(2024, 1, 1)
SPAWN = multiprocessing.get_context("spawn")  # delta-rs refuses to work in a forked child


def filled(kind: pa.DataType, seed: int, name: str) -> Any:
    """A value of a type that no column of another name has, nothing in it null."""
    own = seed + sum(map(ord, name))
    if pa.types.is_struct(kind):
        return {field.name: filled(field.type, seed, f"{name}.{field.name}") for field in kind}
    if pa.types.is_list(kind):
        return [filled(kind.value_type, seed + n, name) for n in range(2)]
    if pa.types.is_map(kind):
        return [(name, own / 4)]
    if pa.types.is_decimal(kind):
        return Decimal(own * 10_000 + 1).scaleb(-4)
    if pa.types.is_timestamp(kind):
        return datetime(2024, 1, 1, 12, tzinfo=UTC) + timedelta(microseconds=own)
    if pa.types.is_boolean(kind):
        return own % 2 == 1
    if pa.types.is_date(kind):
        return FIRST
    return f"{name} {seed}" if pa.types.is_string(kind) else own


def event(contract: type[Data], seed: int = 0, **values: Any) -> dict[str, Any]:
    """A row of a contract with every column filled; source_timestamp and day follow from each other."""
    row = {field.name: filled(field.type, seed, field.name) for field in arrow_schema(contract)}
    row |= {"stream": "one", "company": "acme-corp", "event_id": f"e{seed}", "source_id": f"s{seed}"} | values
    if "source_timestamp" not in values:
        row["source_timestamp"] = datetime(row["day"].year, row["day"].month, row["day"].day, 9, tzinfo=UTC)
    row["day"] = row["source_timestamp"].date()
    return row


def reader(contract: type[Data], rows: list[dict[str, Any]]) -> Callable[[], pa.RecordBatchReader]:
    return pa.Table.from_pylist(rows, schema=arrow_schema(contract)).to_reader


def put(store: Store, contract: type[Data], rows: list[dict[str, Any]], days: list[date] | None = None) -> None:
    """Replace each stream and company of `rows`."""
    for stream, company in sorted({(row["stream"], row["company"]) for row in rows}):
        own = [row for row in rows if (row["stream"], row["company"]) == (stream, company)]
        own.sort(key=lambda row: row["day"])
        where = days or sorted({row["day"] for row in own})
        assert store.replace(contract, stream, company, where, reader(contract, own)) == len(own)


def sort(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: row["event_id"])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "events"), sandbox=True)
    store.prepare()
    return store


@pytest.mark.parametrize("contract", RELEASED, ids=lambda contract: contract.table)
def test_every_text_is_looked_through_also_in_lists_maps_and_structs(store: Store, contract: type[Data]) -> None:
    row = event(contract, 7)
    put(store, contract, [row])

    def within(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list | tuple):
            for one in value.values() if isinstance(value, dict) else value:
                yield from within(one)

    wanted = {text for name, value in row.items() if name != "company" for text in within(value)}
    assert wanted <= set(store.texts(contract, "acme-corp"))


@pytest.mark.parametrize("contract", RELEASED, ids=lambda contract: contract.table)
def test_every_column_of_every_contract_comes_back(store: Store, contract: type[Data]) -> None:
    rows = [event(contract, 1), event(contract, 2)]
    nulls = {f.name: None for f in arrow_schema(contract) if f.nullable}
    rows.append(rows[0] | nulls | {"event_id": "e3"})
    put(store, contract, rows)
    found = store.rows(contract)
    assert found.schema.equals(arrow_schema(contract))
    assert sort(found.to_pylist()) == rows
    # And to a reader that knows nothing of us.
    plain = DeltaTable(f"{store.uri}/{contract.table}").to_pyarrow_table()
    assert sort(plain.to_pylist()) == rows


def test_the_log_says_nothing_of_a_person(store: Store) -> None:
    for contract in RELEASED:
        put(store, contract, [event(contract, 1)])
        entries = [
            json.loads(line)
            for path in Path(store.uri, contract.table, "_delta_log").glob("*.json")
            for line in path.read_text().splitlines()
        ]
        (added,) = [json.loads(entry["add"]["stats"]) for entry in entries if "add" in entry]
        for kind in ("minValues", "maxValues"):
            assert set(added[kind]) <= set(STATISTICS)
        assert not any(f"{name} 1" in json.dumps(entry) for name in event(contract) for entry in entries)


def test_tables_are_partitioned_by_company_alone(store: Store) -> None:
    for contract in RELEASED:
        assert DeltaTable(f"{store.uri}/{contract.table}").metadata().partition_columns == ["company"]


partitions = st.tuples(st.sampled_from(["one", "two"]), st.sampled_from(["acme-corp", "globex-inc"]))
replacements = st.lists(
    st.tuples(partitions, st.sets(st.integers(0, 6), min_size=1), st.integers(0, 3)), min_size=1, max_size=6
)


@settings(max_examples=15, deadline=None)
@given(replacements)
def test_a_replace_changes_its_partitions_and_no_other(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any]
) -> None:
    store = Store(str(tmp_path_factory.mktemp("events")), sandbox=False)
    store.prepare()
    expected: dict[tuple[str, str, date], list[dict[str, Any]]] = {}
    for number, ((stream, company), offsets, each) in enumerate(steps):
        days = [FIRST + timedelta(offset) for offset in sorted(offsets)]
        rows = []
        for index, day in enumerate(days):
            own = [
                event(VolunteerEvent, 100 * index + n, event_id=f"{number}-{index}-{n}", day=day, stream=stream,
                      company=company)
                for n in range(each)
            ]  # fmt: skip
            expected[stream, company, day] = own
            rows += own
        before = DeltaTable(f"{store.uri}/volunteer_events").version()
        assert store.replace(VolunteerEvent, stream, company, days, reader(VolunteerEvent, rows)) == len(rows)
        assert DeltaTable(f"{store.uri}/volunteer_events").version() <= before + 1
    everything = [row for rows in expected.values() for row in rows]
    assert sort(store.rows(VolunteerEvent).to_pylist()) == sort(everything)
    for (stream, company, day), rows in expected.items():
        found = store.rows(VolunteerEvent, stream=stream, company=company, days=[day]).to_pylist()
        assert sort(found) == sort(rows)


def test_replacing_again_with_the_same_changes_no_row(store: Store) -> None:
    rows = [event(DonationEvent, n, day=FIRST + timedelta(n % 3)) for n in range(30)]
    put(store, DonationEvent, rows)
    first = sort(store.rows(DonationEvent).to_pylist())
    put(store, DonationEvent, rows)
    assert sort(store.rows(DonationEvent).to_pylist()) == first == sort(rows)


def test_an_empty_replace_empties(store: Store) -> None:
    put(store, VolunteerEvent, [event(VolunteerEvent, n, day=FIRST + timedelta(n)) for n in range(3)])
    days = [FIRST, FIRST + timedelta(2), FIRST + timedelta(9)]
    assert store.replace(VolunteerEvent, "one", "acme-corp", days, reader(VolunteerEvent, [])) == 0
    assert store.counts(VolunteerEvent, "one", "acme-corp") == {FIRST + timedelta(1): 1}
    assert store.replace(VolunteerEvent, "one", "acme-corp", [], reader(VolunteerEvent, [])) == 0
    assert store.rows(VolunteerEvent).num_rows == 1


def test_many_separate_days_are_one_commit(store: Store) -> None:
    days = [FIRST + timedelta(2 * n) for n in range(400)]
    put(store, VolunteerEvent, [event(VolunteerEvent, n, day=day) for n, day in enumerate(days)])
    assert DeltaTable(f"{store.uri}/volunteer_events").version() == 1
    odd = store.rows(VolunteerEvent, stream="one", company="acme-corp", days=days[::2], columns=["day"])
    assert sorted(odd["day"].to_pylist()) == days[::2]


def test_rows_outside_of_what_is_replaced_are_refused_without_showing_them(store: Store) -> None:
    put(store, VolunteerEvent, [event(VolunteerEvent, 1)])
    stray = event(VolunteerEvent, 2, day=FIRST + timedelta(1), source_id="secret-id")
    with pytest.raises(StoreError, match="outside of the stream, company and days") as caught:
        store.replace(VolunteerEvent, "one", "acme-corp", [FIRST], reader(VolunteerEvent, [stray]))
    assert "secret-id" not in repr(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert [row["event_id"] for row in store.rows(VolunteerEvent).to_pylist()] == ["e1"]


def test_quotes_in_ids_and_names_are_letters_like_others(store: Store) -> None:
    names = ["it's", "its", "it((s", "it''s", "' OR '1' = '1"]
    put(store, VolunteerEvent, [event(VolunteerEvent, n, event_id=name, stream=name) for n, name in enumerate(names)])
    for name in names:
        for found in (store.with_ids(VolunteerEvent, "acme-corp", [name]), store.rows(VolunteerEvent, stream=name)):
            assert found["event_id"].to_pylist() == [name]
    assert store.with_ids(VolunteerEvent, "acme-corp", names[:2]).num_rows == 2
    assert store.with_ids(VolunteerEvent, "globex-inc", names).num_rows == 0
    assert store.streams_of(VolunteerEvent, "acme-corp") == sorted(names)
    store.rewrite(VolunteerEvent, "acme-corp", names[1:], reader(VolunteerEvent, [])().read_all())
    assert store.rows(VolunteerEvent)["event_id"].to_pylist() == names[:1]


def test_batches_are_the_rows_of_a_filter(store: Store) -> None:
    rows = [event(VolunteerEvent, n, day=FIRST + timedelta(n), stream=("one", "two")[n % 2]) for n in range(6)]
    put(store, VolunteerEvent, [*rows, event(VolunteerEvent, 9, company="globex-inc")])
    days = [FIRST + timedelta(n) for n in range(3)]
    found = pa.Table.from_batches(store.batches(VolunteerEvent, company="acme-corp", stream="one", days=days))
    assert found.schema.equals(arrow_schema(VolunteerEvent)) and sort(found.to_pylist()) == [rows[0], rows[2]]
    some = pa.Table.from_batches(store.batches(VolunteerEvent, company="acme-corp", columns=["day", "event_id"]))
    assert some.column_names == ["day", "event_id"] and some.num_rows == 6


def test_each_company_has_its_size_and_whoever_is_removed_has_none(store: Store) -> None:
    assert store.sizes(VolunteerEvent) == {} and not store.holds("acme-corp")
    put(store, VolunteerEvent, [event(VolunteerEvent, n) for n in range(3)])
    put(store, VolunteerEvent, [event(VolunteerEvent, 3, day=FIRST + timedelta(1))])
    put(store, VolunteerEvent, [event(VolunteerEvent, 4, company="globex-inc")])
    sizes = store.sizes(VolunteerEvent)
    assert {company: (size.rows, size.files) for company, size in sizes.items()} == {
        "acme-corp": (4, 2),
        "globex-inc": (1, 1),
    }
    files = {path: path.stat().st_size for path in Path(store.uri, "volunteer_events").rglob("*") if path.is_file()}
    own = sum(size for path, size in files.items() if path.parent.name == "company=acme-corp")
    assert sizes["acme-corp"].bytes == own
    assert store.bytes_of(VolunteerEvent) == sum(files.values())
    assert store.holds("acme-corp") and not store.holds("acme")
    assert (store.remove_company(VolunteerEvent, "acme-corp"), store.remove_company(VolunteerEvent, "acme-corp")) == (
        4,
        0,
    )
    assert set(store.sizes(VolunteerEvent)) == {"globex-inc"} and not store.holds("acme-corp")


def test_days_that_expire_go_for_good_and_no_other(store: Store) -> None:
    put(
        store,
        VolunteerEvent,
        [event(VolunteerEvent, n, day=FIRST + timedelta(n), verified_by=f"by {n}") for n in range(4)],
    )
    before = FIRST + timedelta(2)
    assert store.expired(VolunteerEvent, before) == store.expire(VolunteerEvent, before) == 2
    assert store.expire(VolunteerEvent, before) == store.expired(VolunteerEvent, before) == 0
    assert sorted(store.counts(VolunteerEvent, "one", "acme-corp")) == [before, FIRST + timedelta(3)]
    texts = set(store.texts(VolunteerEvent, "acme-corp"))
    assert {"by 2", "by 3"} <= texts and texts.isdisjoint({"by 0", "by 1"})


def test_whoever_is_slower_tries_again_and_replaces_what_came_between(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many times as others may be faster, and no more."""
    other, faster, left = Store(store.uri, sandbox=True), Store._own, 3

    def raced(self: Store, contract: type[Data]) -> DeltaTable:
        nonlocal left
        table = faster(self, contract)
        if self is store and left:
            left -= 1
            put(other, VolunteerEvent, [event(VolunteerEvent, 100 + left)])
        return table

    monkeypatch.setattr(Store, "_own", raced)
    monkeypatch.setattr(tables, "ATTEMPTS", 4)
    monkeypatch.setattr(tables.objects, "BETWEEN", wait_none())
    put(store, VolunteerEvent, [event(VolunteerEvent, 1), event(VolunteerEvent, 2)])
    assert (left, sort(store.rows(VolunteerEvent).to_pylist())) == (0, [event(VolunteerEvent, n) for n in (1, 2)])
    left = 4
    with pytest.raises(StoreError, match="others kept writing to volunteer_events for 4 attempts: run it again"):
        put(store, VolunteerEvent, [event(VolunteerEvent, 3)])
    assert (left, store.rows(VolunteerEvent)["event_id"].to_pylist()) == (0, ["e100"])


class Interrupted(BaseException):
    """As Dagster has one."""


@pytest.mark.parametrize(
    "error", [SourceDown("gone"), ValueError("a bug"), KeyboardInterrupt(), Interrupted()], ids=repr
)
def test_what_the_reader_raises_comes_out_and_nothing_changes(store: Store, error: BaseException) -> None:
    put(store, VolunteerEvent, [event(VolunteerEvent, 1)])

    def breaking() -> pa.RecordBatchReader:
        def batches() -> Iterator[pa.RecordBatch]:
            yield from reader(VolunteerEvent, [event(VolunteerEvent, 2)])()
            raise error

        return pa.RecordBatchReader.from_batches(arrow_schema(VolunteerEvent), batches())

    with pytest.raises(type(error)) as caught:
        store.replace(VolunteerEvent, "one", "acme-corp", [FIRST], breaking)
    assert caught.value is error
    assert [row["event_id"] for row in store.rows(VolunteerEvent).to_pylist()] == ["e1"]


def test_days_and_counts(store: Store) -> None:
    assert store.newest_day(VolunteerEvent, "one", "acme-corp") is None
    days = [FIRST, FIRST, FIRST + timedelta(3)]
    put(store, VolunteerEvent, [event(VolunteerEvent, n, day=day) for n, day in enumerate(days)])
    put(store, VolunteerEvent, [event(VolunteerEvent, 9, day=FIRST + timedelta(8), company="globex-inc")])
    assert store.newest_day(VolunteerEvent, "one", "acme-corp") == FIRST + timedelta(3)
    assert store.counts(VolunteerEvent, "one", "acme-corp") == {FIRST: 2, FIRST + timedelta(3): 1}
    assert store.counts(VolunteerEvent, "one", "acme-corp", [FIRST]) == {FIRST: 2}
    assert store.counts(VolunteerEvent, "two", "acme-corp") == {}
    assert store.rows(VolunteerEvent, days=[]).num_rows == 0


# Two processes at once


def _write_days(uri: str, stream: str, barrier: Any) -> None:
    tables.SMALL_FILES = 1
    store = Store(uri, sandbox=True)
    for offset in range(12):
        day = FIRST + timedelta(offset)
        rows = [event(EnrollmentEvent, n, event_id=f"{stream}-{offset}-{n}", stream=stream, day=day) for n in range(5)]
        barrier.wait(60)
        store.replace(EnrollmentEvent, stream, "acme-corp", [day], reader(EnrollmentEvent, rows))


def _together(target: Callable[..., None], arguments: list[tuple[Any, ...]]) -> None:
    processes = [SPAWN.Process(target=target, args=given) for given in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * len(processes)


@pytest.mark.parametrize(
    "streams",
    [
        pytest.param(("one", "two"), id="two streams", marks=pytest.mark.long),
        pytest.param(("one", "one"), id="the same days"),
    ],
)
def test_two_processes_write_to_one_company(store: Store, streams: tuple[str, str]) -> None:
    barrier = SPAWN.Barrier(2)
    _together(_write_days, [(store.uri, stream, barrier) for stream in streams])
    found = Counter(store.rows(EnrollmentEvent, columns=["event_id"])["event_id"].to_pylist())
    assert found == {f"{s}-{day}-{n}": 1 for s in set(streams) for day in range(12) for n in range(5)}


def _prepare(uri: str, barrier: Any) -> None:
    barrier.wait(60)
    Store(uri, sandbox=True).prepare()


@pytest.mark.long
def test_processes_make_the_tables_at_once(tmp_path: Path) -> None:
    barrier = SPAWN.Barrier(3)
    _together(_prepare, [(str(tmp_path / "events"), barrier)] * 3)
    store = Store(str(tmp_path / "events"), sandbox=True)
    put(store, DirectoryEntry, [event(DirectoryEntry, 1)])
    assert store.rows(DirectoryEntry).num_rows == 1


def test_a_store_is_opened_while_its_folder_comes_into_being(tmp_path: Path) -> None:
    folder, done = tmp_path / "events", threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            folder.mkdir()
            folder.rmdir()

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for _ in range(3000):
            Store(str(folder), sandbox=True)
    finally:
        done.set()
        other.join()


def _rewrite(uri: str, ready: Any, done: Any) -> None:
    store = Store(uri, sandbox=True)
    for size in range(2, 14):
        rows = [event(VolunteerEvent, n, day=FIRST + timedelta(n % 2), verified_by=str(size)) for n in range(2 * size)]
        rows.sort(key=lambda row: row["day"])
        store.replace(VolunteerEvent, "one", "acme-corp", [FIRST, FIRST + timedelta(1)], reader(VolunteerEvent, rows))
        ready.set()
    done.set()


def test_readers_see_the_old_rows_or_the_new_ones(store: Store) -> None:
    ready, done = SPAWN.Event(), SPAWN.Event()
    writer = SPAWN.Process(target=_rewrite, args=(store.uri, ready, done))
    writer.start()
    assert ready.wait(60)
    seen = set()
    while not done.is_set():
        assert writer.is_alive() or done.is_set()
        found = Counter(store.rows(VolunteerEvent, columns=["verified_by"])["verified_by"].to_pylist())
        ((size, number),) = found.items()
        assert number == 2 * int(size)
        seen.add(size)
    writer.join(60)
    assert len(seen) > 1


# Files


def test_more_than_eight_small_files_are_put_together(store: Store) -> None:
    left = []
    for n in range(10):
        put(store, VolunteerEvent, [event(VolunteerEvent, n, day=FIRST + timedelta(n))])
        left.append(store.sizes(VolunteerEvent)["acme-corp"].files)
    assert left == [*range(1, 9), 1, 2]
    assert sorted(store.counts(VolunteerEvent, "one", "acme-corp").values()) == [1] * 10


def test_small_files_of_a_stream_are_put_together(store: Store) -> None:
    rows = [event(VolunteerEvent, n, day=FIRST + timedelta(n // 2), stream=("one", "two")[n % 2]) for n in range(60)]
    for row in rows:
        put(store, VolunteerEvent, [row])
    files = pa.table(DeltaTable(f"{store.uri}/volunteer_events").get_add_actions(flatten=True)).to_pylist()
    assert len(files) <= 2 * (tables.SMALL_FILES + 1)
    assert all(file["min.stream"] == file["max.stream"] for file in files)
    assert sort(store.rows(VolunteerEvent).to_pylist()) == sort(rows)


def test_what_no_version_needs_is_removed_after_a_day(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "VACUUM_EVERY", 1)
    put(store, VolunteerEvent, [event(VolunteerEvent, 1)])
    folder = Path(store.uri, "volunteer_events", "company=acme-corp")
    (used,) = folder.iterdir()
    # A writer that died leaves a file that no version knows; a writer that is at work has one, too.
    dead, at_work = folder / "part-1-dead.parquet", folder / "part-2-at-work.parquet"
    for path in (dead, at_work):
        path.write_bytes(used.read_bytes())
    for path in (dead, used):
        os.utime(path, (0, 0))
    put(store, VolunteerEvent, [event(VolunteerEvent, 2, day=FIRST + timedelta(1))])
    assert used.exists() and at_work.exists() and not dead.exists()
    assert store.rows(VolunteerEvent).num_rows == 2


def test_files_are_bounded_and_hold_few_days(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "FILE_BYTES", 400_000)
    noise = random.Random(1)
    table = pa.Table.from_pylist([event(VolunteerEvent, 1)], schema=arrow_schema(VolunteerEvent)).take([0] * 20_000)
    for name in ("event_id", "user_id", "verified_by"):
        values = pa.array([f"{noise.getrandbits(128):032x}" for _ in range(20_000)])
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), values)
    day = pa.array([FIRST + timedelta(n // 1000) for n in range(20_000)])
    table = table.set_column(table.schema.get_field_index("day"), table.schema.field("day"), day)
    days = [FIRST + timedelta(offset) for offset in range(20)]
    source = partial(table.to_reader, max_chunksize=1000)
    assert store.replace(VolunteerEvent, "one", "acme-corp", days, source) == 20_000
    files = pa.table(DeltaTable(f"{store.uri}/volunteer_events").get_add_actions(flatten=True)).to_pylist()
    assert len(files) > 2
    for file in files:
        assert file["size_bytes"] < 800_000
        assert (file["max.day"] - file["min.day"]).days < 19


_FULL_DISK = """
import resource, sys
import test_store_tables as t
store = t.Store(sys.argv[1], sandbox=True)
rows = [t.event(t.VolunteerEvent, n, day=t.FIRST, verified_by=f"{n * 7919 ** 9:x}") for n in range(1000)]
make = t.reader(t.VolunteerEvent, rows)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    store.replace(t.VolunteerEvent, "one", "acme-corp", [t.FIRST], make)
except t.StoreError as error:
    print(error)
    assert error.__cause__ is error.__context__ is None
"""


def test_a_full_disk_is_one_line_and_changes_nothing(store: Store) -> None:
    put(store, VolunteerEvent, [event(VolunteerEvent, 1)])
    ended = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, store.uri],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.stdout == f"{store.uri} is on a full disk: make room, run again\n", ended.stderr
    assert [row["event_id"] for row in store.rows(VolunteerEvent).to_pylist()] == ["e1"]


_NOT_ALLOWED = """
import os, sys
import test_store_tables as t
store = t.Store(sys.argv[1], sandbox=True)
make = t.reader(t.VolunteerEvent, [t.event(t.VolunteerEvent, 1)])
os.chmod(store.uri, 0)
if os.geteuid() == 0:
    os.setuid(65534)  # root passes everything
for use in (
    lambda: store.replace(t.VolunteerEvent, "one", "acme-corp", [t.FIRST], make),
    lambda: store.rows(t.VolunteerEvent),
    lambda: t.Store(sys.argv[1], sandbox=True),
):
    try:
        use()
    except t.StoreError as error:
        print(error)
"""


def test_missing_permissions_are_one_line(store: Store) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _NOT_ALLOWED, store.uri],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    Path(store.uri).chmod(0o700)
    assert ended.stdout == f"{store.uri} may not be used: mend its permissions\n" * 3, ended.stderr


# Records that are gone


def version(seed: int, record: str | None, moment: datetime) -> dict[str, Any]:
    return event(VolunteerEvent, seed, source_id=record, source_timestamp=moment)


def at(day: int, hour: int = 9) -> datetime:
    return datetime(2024, 1, day, hour, tzinfo=UTC)


def gone(store: Store, days: list[int], new: list[dict[str, Any]]) -> list[str]:
    """Ids of what is carried over."""
    return sorted(_gone(store, days, new)[0]["event_id"].to_pylist())


def late(store: Store, days: list[int], new: list[dict[str, Any]]) -> dict[int, int]:
    return {day.day: count for day, count in _gone(store, days, new)[1].items()}


def _gone(store: Store, days: list[int], new: list[dict[str, Any]]) -> tuple[pa.Table, dict[date, int]]:
    columns = ["event_id", "source_id", "source_timestamp", "day"]
    table = pa.Table.from_pylist(new, schema=arrow_schema(VolunteerEvent)).select(columns)
    when = [FIRST + timedelta(day - 1) for day in days]
    carried, late = changes.gone(store, VolunteerEvent, "one", "acme-corp", when, table)
    assert carried.schema.equals(arrow_schema(VolunteerEvent))
    return carried, late


def test_nothing_is_gone_from_an_empty_table(store: Store) -> None:
    assert gone(store, [1, 2], [version(1, "a", at(1))]) == []


def test_what_is_still_there_is_not_gone(store: Store) -> None:
    put(store, VolunteerEvent, [version(1, "a", at(1))])
    assert gone(store, [1], [version(1, "a", at(1)), version(2, "b", at(1))]) == []


def test_a_record_that_vanished_is_carried_with_all_its_columns(store: Store) -> None:
    rows = [version(1, "a", at(1)), version(2, "b", at(1))]
    put(store, VolunteerEvent, rows)
    assert gone(store, [1], rows[:1]) == ["e2"]
    assert sort(_gone(store, [1], [])[0].to_pylist()) == rows


def test_a_newer_version_supersedes(store: Store) -> None:
    put(store, VolunteerEvent, [version(1, "a", at(1)), version(2, "b", at(1)), version(3, "b", at(5))])
    # "a" became newer on the same day and is in what was fetched, "b" on a day that is not being replaced.
    assert gone(store, [1], [version(4, "a", at(1, 12))]) == []


def test_an_older_version_supersedes_nothing(store: Store) -> None:
    put(store, VolunteerEvent, [version(1, "a", at(1)), version(2, "a", at(5))])
    assert gone(store, [5], [version(3, "b", at(5))]) == ["e2"]


def test_the_newest_of_several_vanished_versions_is_carried(store: Store) -> None:
    put(store, VolunteerEvent, [version(1, "a", at(1)), version(2, "a", at(3))])
    assert gone(store, [1, 2, 3], []) == ["e2"]
    # However the range is cut.
    assert gone(store, [1], []) == []
    assert gone(store, [3], []) == ["e2"]


def test_others_records_and_emptied_ids_supersede_nothing(store: Store) -> None:
    rows = [
        version(1, "a", at(1)),
        version(2, None, at(1)),
        version(3, None, at(4)),
        version(4, "a", at(5)) | {"stream": "two"},
        version(5, "a", at(5)) | {"company": "globex-inc"},
    ]
    put(store, VolunteerEvent, rows)
    assert gone(store, [1], []) == ["e1", "e2"]


def test_late_is_what_comes_to_a_day_that_had_something(store: Store) -> None:
    put(store, VolunteerEvent, [version(1, "a", at(1)), version(2, "b", at(3))])
    new = [version(1, "a", at(1)), version(3, "c", at(1)), version(4, "d", at(1)), version(5, "e", at(2))]
    assert late(store, [1, 2, 3], new) == {1: 2}
    assert late(store, [2], [version(5, "e", at(2))]) == {}


# The sandbox's marker


def test_a_marked_store_opens_in_the_sandbox_alone(store: Store) -> None:
    assert Path(store.uri, MARKER).is_file()
    Store(store.uri, sandbox=True).prepare()
    with pytest.raises(StoreError, match="the sandbox's events: set TEEI_STORE_URI"):
        Store(store.uri, sandbox=False)


def test_the_sandbox_opens_no_store_of_another(tmp_path: Path) -> None:
    uri = str(tmp_path / "events")
    Store(uri, sandbox=False).prepare()
    assert not Path(uri, MARKER).exists()
    with pytest.raises(StoreError, match="real events, not the sandbox's: set TEEI_STORE_URI"):
        Store(uri, sandbox=True)
    Store(uri, sandbox=False).prepare()


_USES: dict[str, Callable[[Store], object]] = {
    "rows": lambda store: store.rows(VolunteerEvent),
    "batches": lambda store: list(store.batches(VolunteerEvent, company="acme-corp")),
    "with_ids": lambda store: store.with_ids(VolunteerEvent, "acme-corp", ["e1"]),
    "counts": lambda store: store.counts(VolunteerEvent, "one", "acme-corp"),
    "replace": lambda store: put(store, VolunteerEvent, [event(VolunteerEvent, 1)]),
    "rewrite": lambda store: store.rewrite(
        VolunteerEvent, "acme-corp", ["e1"], reader(VolunteerEvent, [])().read_all()
    ),
    "remove_company": lambda store: store.remove_company(VolunteerEvent, "acme-corp"),
    "tidy": lambda store: store.tidy(VolunteerEvent, 24),
    "purge": lambda store: store.purge(VolunteerEvent),
    "expire": lambda store: store.expire(VolunteerEvent, FIRST),
    "sizes": lambda store: store.sizes(VolunteerEvent),
    "holds": lambda store: store.holds("acme-corp"),
    "versions": lambda store: store.versions(),
    "dataset": lambda store: store.dataset(VolunteerEvent),
    "form": lambda store: store.form(VolunteerEvent),
    "migrate": lambda store: store.migrate(VolunteerEvent),
    "claim": lambda store: store.claim("another"),
}


@pytest.mark.parametrize("use", _USES)
def test_a_store_without_tables_says_what_makes_them(tmp_path: Path, use: str) -> None:
    with pytest.raises(StoreError, match="has no event tables yet: `teei demo` or `teei sync` makes them") as caught:
        _USES[use](Store(str(tmp_path / "events"), sandbox=True))
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_a_file_in_the_place_of_the_tables_is_one_line(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "events"), sandbox=True)
    Path(store.uri).touch()
    with pytest.raises(StoreError, match=store.uri) as caught:
        store.prepare()
    assert "\n" not in str(caught.value) and caught.value.__cause__ is caught.value.__context__ is None


def test_a_file_that_is_torn_is_one_line(store: Store) -> None:
    put(store, VolunteerEvent, [event(VolunteerEvent, 1)])
    (path,) = Path(store.uri, "volunteer_events", "company=acme-corp").iterdir()
    path.write_bytes(path.read_bytes()[:-9])
    for use in (
        store.rows,
        lambda of: list(store.batches(of, company="acme-corp")),
        lambda of: list(store.texts(of, "acme-corp")),
    ):
        with pytest.raises(StoreError, match=r"cannot be used \(\w+\): `teei doctor`") as caught:
            use(VolunteerEvent)
        assert caught.value.__cause__ is caught.value.__context__ is None


def test_a_text_that_is_no_utf_8_is_looked_through_all_the_same(store: Store) -> None:
    log = Path(store.uri, "volunteer_events", "_delta_log", "x.json")
    log.write_bytes(b"one\xff\ntwo\n")
    assert {"one\ufffd", "two"} <= set(store.texts(VolunteerEvent, "acme-corp"))


def test_files_are_as_large_as_is_said(store: Store) -> None:
    for contract in RELEASED:
        said = DeltaTable(f"{store.uri}/{contract.table}").metadata().configuration
        assert said["delta.targetFileSize"] == str(16 << 20)
        assert said["delta.deletedFileRetentionDuration"] == "interval 24 hours"
        assert said["delta.dataSkippingStatsColumns"].split(",") == list(STATISTICS)


def test_the_folder_is_its_owners(store: Store) -> None:
    assert Path(store.uri).stat().st_mode & 0o777 == 0o700
