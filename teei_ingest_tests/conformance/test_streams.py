"""Each stream, really ingested from a server that plays it: complete, exact, private, and clear when it fails."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from teei_ingest.contracts.base import DataClass, Kind
from teei_ingest.mapping.plan import Field, plan
from teei_ingest.pipeline.partition import Partition
from teei_ingest.sandbox.config import SandboxConfig, environment
from teei_ingest.streams import all_streams
from teei_ingest.streams.base import Choice, Derived, SinceOnly
from teei_ingest_tests.conformance.listing import Listing
from teei_ingest_tests.conftest import MASTER_KEY
from teei_ingest_tests.feeding import (
    ABSENT,
    ACME,
    Answering,
    Ask,
    Record,
    Reply,
    answering,
    declared,
    lists,
    page,
    quarantined,
    record,
    stored,
    worker,
)
from teei_ingest_tests.running import Home
from teei_ingest_tests.second_opinion.instants import microseconds
from teei_ingest_tests.second_opinion.instants import parse as nanoseconds
from teei_ingest_tests.test_bad_input import BODY, FAULTS, SECRETS

STREAMS = sorted(all_streams())
DAY = date(2024, 1, 15)
SIZE = 3
UNKNOWN = "kari.unknown@acme.example"
TEXTS = {
    "right to left": "مرحبا שלום",
    "combining": "e\u0301a\u0308 \u1112\u1161\u11ab",
    "joined": "👩‍👩‍👧‍👦 🏳️‍🌈",
    "outside the plane": "𝒜𐍈",
    "white space": " a\u00a0b\u2028c\td\ne ",
    "NUL": "a\u0000b",
    "marks": "\"'\\`<>&;%00{}$ \u202e\ufeff",
    "long": "word " * 4000,
}

every_stream = pytest.mark.parametrize("stream", STREAMS)


@pytest.fixture(scope="module")
def server() -> Iterator[Answering]:
    with answering(lambda ask: Reply(b"")) as served:
        yield served


@pytest.fixture(scope="module")
def company(server: Answering, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with keys and empty tables, of which each test gets a copy."""
    systems = environment(SandboxConfig(companies={ACME.slug: ACME.id}), server.url)
    variables = {"TEEI_MASTER_KEY": MASTER_KEY, "TEEI_MAX_RETRIES": "1", **systems}
    made = Home.create(tmp_path_factory.mktemp("company"), {ACME.slug: ACME.id}, variables)
    read(made, server, STREAMS[0], [])
    return made


@pytest.fixture
def place(company: Home, server: Answering, tmp_path: Path) -> Home:
    server.asked.clear()
    return copy(company, tmp_path / "home")


def copy(place: Home, path: Path) -> Home:
    """Another home with the same in it."""
    shutil.copytree(place.settings.home, path)
    return replace(place, environ={**place.environ, "TEEI_HOME": str(path)})


def at(number: int, text: str = "10:00:00.{:06d}Z") -> str:
    return f"{DAY}T{text.format(number)}"


def many(stream: str, count: int) -> list[Record]:
    return [record(stream, f"r-{number}", at(number)) for number in range(count)]


def read(place: Home, server: Answering, stream: str, records: list[Record], size: int | None = None) -> Partition:
    """The day's partition with these records at the source."""
    server.answer = Listing(stream, records)
    partition = worker(place, stream, page_size=size).both([DAY]).partitions[DAY]
    assert partition.error is None, str(partition.error)
    assert partition.balanced
    return partition


def counts(partition: Partition) -> dict[str, int]:
    names = ("fetched", "kept", "quarantined", "duplicates", "suppressed", "out_of_window", "carried")
    return {name: value for name in names if (value := getattr(partition, name))}


def kept(count: int) -> dict[str, int]:
    return {"fetched": count, "kept": count} if count else {}


def value_of(row: Mapping[str, Any], field: Field) -> Any:
    value: Any = row
    for name in field.leaf.path:
        value = None if value is None else value[name]
    return value


# --- pages and windows --------------------------------------------------------------------------------------------


@every_stream
def test_every_record_of_every_page(place: Home, server: Answering, stream: str) -> None:
    """None, one, exactly one page, one more than a page, exactly two pages."""
    for count in (0, 1, SIZE, SIZE + 1, 2 * SIZE):
        server.asked.clear()
        assert counts(read(place, server, stream, many(stream, count), SIZE)) == kept(count)
        assert [row["source_timestamp"].microsecond for row in by_time(stored(place, stream))] == list(range(count))
        pages = max(1, -(-count // SIZE))
        is_asked_for_changes = pages > 1 and not isinstance(declared(stream).window, SinceOnly)
        assert len(server.asked) == pages + is_asked_for_changes


def by_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: row["source_timestamp"])


@every_stream
def test_equal_timestamps_over_a_page_border(place: Home, server: Answering, stream: str) -> None:
    same = [record(stream, f"r-{number}", at(0)) for number in range(3 * SIZE + 1)]
    assert counts(read(place, server, stream, same, SIZE)) == kept(len(same))
    assert len({row["source_id"] for row in stored(place, stream)}) == len(same)


@every_stream
def test_the_borders_of_a_day_are_exact(place: Home, server: Answering, stream: str) -> None:
    """To the microsecond and to the nanosecond, whether or not the source sends only what was asked for."""
    before, inside = [], ["2024-01-15T00:00:00Z"]
    for digits in (6, 9):
        last, first = "9" * digits, "0" * (digits - 1) + "1"
        before += [f"2024-01-14T23:59:59.{last}Z", f"2024-01-15T00:59:59.{last}+01:00"]
        inside += [
            f"2024-01-15T01:00:00.{first}+01:00",
            f"2024-01-15T23:59:59.{last}Z",
            f"2024-01-15T18:59:59.{last}-05:00",
        ]
    after = ["2024-01-16T00:00:00Z", "2024-01-16T01:00:00+01:00"]
    records = [record(stream, f"r-{n}", moment) for n, moment in enumerate(before + inside + after)]

    assert read(place, server, stream, records).kept == len(inside)
    rows = stored(place, stream)
    assert {row["day"] for row in rows} == {DAY}

    ascending = sorted(records, key=lambda one: Listing(stream, []).moment(one) or 0)
    server.answer = lists({stream: ascending})
    partition = worker(place, stream).both([DAY]).partitions[DAY]
    assert counts(partition) == {"fetched": 13, "kept": 7, "out_of_window": 6}
    assert stored(place, stream) == rows


@every_stream
def test_offsets_and_fractions(place: Home, server: Answering, stream: str) -> None:
    fractions = ["", *(f".{'123456789'[:digits]}" for digits in range(1, 10))]
    offsets = ["Z", "+00:00", "-00:00", "+05:45", "-09:30", "+14:00"]
    moments = [f"{DAY}T{hour:02d}:00:00{f}{o}" for hour, o in enumerate(offsets, 6) for f in fractions]
    inside = [moment for moment in moments if microseconds(nanoseconds(moment)).date() == DAY]
    records = [record(stream, f"r-{n}", moment) for n, moment in enumerate(inside)]

    assert len(inside) > 40
    assert counts(read(place, server, stream, records)) == kept(len(inside))
    expected = sorted(microseconds(nanoseconds(moment)) for moment in inside)
    assert [row["source_timestamp"] for row in by_time(stored(place, stream))] == expected


# --- again --------------------------------------------------------------------------------------------------------


@every_stream
def test_reading_again_changes_no_row(place: Home, server: Answering, stream: str) -> None:
    records = many(stream, 2 * SIZE)
    read(place, server, stream, records)
    before = stored(place, stream)
    for size in (SIZE, None):
        assert read(place, server, stream, records[::-1], size).unchanged
        assert stored(place, stream) == before


@every_stream
def test_reading_again_after_a_change(place: Home, server: Answering, stream: str) -> None:
    records = many(stream, 2 * SIZE)
    read(place, server, stream, records)
    before = stored(place, stream)
    records[1] = record(stream, "r-1", at(77))
    for _ in range(2):
        assert counts(read(place, server, stream, records)) == kept(len(records))
        after = stored(place, stream)
        assert [row["source_timestamp"].microsecond for row in by_time(after)] == [0, 2, 3, 4, 5, 77]
    assert len([row for row in after if row in before]) == len(records) - 1


# --- records ------------------------------------------------------------------------------------------------------


def wire_paths(stream: str) -> set[str]:
    """All that the stream's file reads of a record."""
    one = declared(stream)
    sources = [*one.mapping.values(), one.source_id, one.source_timestamp, *one.names]
    if one.person:
        sources += [source for source in (one.person.id, one.person.email, one.person.key) if source]
    paths: set[str] = set()
    for source in sources:
        if isinstance(source, Derived):
            paths |= set(source.paths.values())
        elif isinstance(source, Choice):
            paths.add(source.path)
        elif isinstance(source, str):
            paths.add(source)
    return paths


def optionals(stream: str) -> list[str]:
    """Wire paths of all that may be missing, objects with all that is in them included."""
    found = set()
    for path in wire_paths(stream):
        keys = path.split("/")
        found |= {"/".join(keys[: n + 1]).replace("?", "") for n, key in enumerate(keys) if key.endswith("?")}
    return sorted(found)


@every_stream
def test_whatever_may_be_missing_may_be_null(place: Home, server: Answering, stream: str) -> None:
    paths = optionals(stream)
    changes = [{path: gone} for path in paths for gone in (None, ABSENT)]
    changes += [dict.fromkeys([p for p in paths if "/" not in p], gone) for gone in (None, ABSENT)]
    records = [record(stream, f"r-{n}", at(n), change) for n, change in enumerate(changes)]

    assert counts(read(place, server, stream, records)) == kept(len(records))
    rows = by_time(stored(place, stream))
    for field in plan(stream).fields:
        if not isinstance(field.source, str):
            continue
        for n, (row, change) in enumerate(zip(rows, changes, strict=True)):
            path = field.source.replace("?", "")
            if any(path == gone or path.startswith(f"{gone}/") for gone in change):
                assert value_of(row, field) is None, (n, field.leaf.key)


@every_stream
def test_fields_that_nobody_declared_are_dropped(place: Home, server: Answering, stream: str) -> None:
    def dressed(value: Any) -> Any:
        if isinstance(value, dict):
            extra = {"x_contact": UNKNOWN, "x_list": [UNKNOWN], "x_inner": {UNKNOWN: None}, "": 1}
            return {**extra, **{name: dressed(inner) for name, inner in value.items()}}
        return value

    plain = [record(stream, f"r-{number}", at(number)) for number in range(3)]
    read(place, server, stream, plain)
    before = stored(place, stream)
    odd = [{"x_contact": UNKNOWN, **one} for one in plain]
    deep = [dressed(one) if stream not in open_maps() else one for one in plain]
    for records in (odd, deep):
        assert read(place, server, stream, records).unchanged
        assert stored(place, stream) == before
    assert UNKNOWN not in json.dumps(before, default=str)


def open_maps() -> set[str]:
    """Streams with a map whose keys are free, so that one more is no unknown field."""
    return {name for name in STREAMS if any(field.leaf.kind is Kind.MAP for field in plan(name).fields)}


def texts(stream: str, *classes: DataClass) -> list[Field]:
    """Fields of a class that take any text, straight from the wire."""
    return [
        field
        for field in plan(stream).fields
        if field.leaf.kind is Kind.TEXT
        and field.leaf.cls in classes
        and isinstance(field.source, str)
        and field.source not in (declared(stream).source_id, declared(stream).source_timestamp)
        and field.leaf.enum is None
        and not field.leaf.nested
        and field.leaf.key != "currency"
    ]


@every_stream
def test_any_text(place: Home, server: Answering, stream: str) -> None:
    fields = texts(stream, *DataClass)
    changes = [
        {str(field.source).replace("?", ""): [text] if field.leaf.many else text}
        for text in TEXTS.values()
        for field in fields
    ]
    records = [record(stream, f"r-{text}-{n}", at(n), change) for n, change in enumerate(changes) for text in ["ñ 字"]]

    assert counts(read(place, server, stream, records)) == kept(len(records))
    rows = by_time(stored(place, stream))
    sent = [(field, text) for text in TEXTS.values() for field in fields]
    for row, (field, text) in zip(rows, sent, strict=True):
        if field.leaf.cls is DataClass.PUBLIC:
            assert value_of(row, field) == ([text] if field.leaf.many else text), field.leaf.key


@every_stream
def test_nothing_personal_is_stored(place: Home, server: Answering, stream: str) -> None:
    """Every field of a class that is taken out or replaced, each with a value of its own."""
    hidden = texts(stream, DataClass.DIRECT, DataClass.PERSON_REF, DataClass.DOCUMENT_REF, DataClass.FREE_TEXT)
    changes: dict[str, Any] = {}
    for number, field in enumerate(hidden):
        value = f"hidden-{number}-x"
        put_path = str(field.source).replace("?", "")
        changes[put_path] = [value] if field.leaf.many else value
    records = [record(stream, "r", at(0), changes)]

    assert counts(read(place, server, stream, records)) == kept(1)
    assert "hidden-" not in json.dumps(stored(place, stream), default=str)
    told = [path for path in place.settings.home.rglob("*") if path.is_file() and b"hidden-" in path.read_bytes()]
    assert told == []


@every_stream
def test_a_record_without_id_or_timestamp_is_quarantined(place: Home, server: Answering, stream: str) -> None:
    moment = at(0)
    bad: list[tuple[Record, str, str]] = [
        (record(stream, ABSENT, moment), "sourceId", "missing"),
        (record(stream, None, moment), "sourceId", "missing"),
        (record(stream, "", moment), "sourceId", "missing"),
        (record(stream, 7, moment), "sourceId", "type"),
        (record(stream, "b-1", ABSENT), "sourceTimestamp", "missing"),
        (record(stream, "b-2", "yesterday"), "sourceTimestamp", "timestamp"),
        (record(stream, "b-3", "0001-01-01T00:00:00Z"), "sourceTimestamp", "timestamp"),
        (record(stream, "b-4", "9999-12-31T23:59:59Z"), "sourceTimestamp", "timestamp"),
    ]
    good = [record(stream, f"g-{number}", moment) for number in range(2)]
    server.answer = lists({stream: [good[0], *(one for one, _, _ in bad), good[1]]})

    (partition,) = worker(place, stream).both([DAY]).good

    assert (partition.fetched, partition.kept, partition.quarantined) == (10, 2, 8)
    assert len(stored(place, stream)) == 2
    entries = quarantined(place, stream, DAY)
    assert [(json.loads(one.record), one.field, one.rule) for one in entries] == bad
    assert {one.reason for one in entries} == {"contract"}
    assert [one.undated for one in entries] == [False] * 4 + [True] * 4


# --- errors -------------------------------------------------------------------------------------------------------

ERRORS = {name: FAULTS[name] for name in ("401", "403", "404", "422", "500", "HTML")}
ERRORS["429"] = Reply(BODY, 429), "rate_limited"


def in_turn(replies: list[Reply], ask: Ask) -> Reply:
    """A reply for each request; the last one again and again."""
    return replies[min(ask.number, len(replies)) - 1]


@every_stream
def test_an_error_is_clear_and_keeps_what_was_there(
    place: Home, server: Answering, stream: str, tmp_path: Path
) -> None:
    read(place, server, stream, many(stream, 1))
    before = stored(place, stream)
    for name, (fault, code) in ERRORS.items():
        fresh = copy(place, tmp_path / name)  # what one leaves, such as an open circuit, is not the next one's
        replies = [Reply(page(stream, many(stream, 2), following="further")), fault]
        server.asked.clear()
        server.answer = partial(in_turn, replies)
        partition = worker(fresh, stream).both([DAY]).partitions[DAY]
        assert partition.error is not None, name
        assert partition.error.code == code, name
        assert "\n" not in str(partition.error)
        assert not [secret for secret in SECRETS if secret in str(partition.error)]
        assert stored(fresh, stream) == before, name
