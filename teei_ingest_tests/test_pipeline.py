"""What one stream's days become: complete, replaced exactly, carried, quarantined, each day on its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake.exceptions import CommitFailedError

from teei_ingest.pipeline import collect
from teei_ingest.pipeline.buffer import RowBuffer
from teei_ingest.pipeline.partition import Outcome, Partition
from teei_ingest.store.tables import Store
from teei_ingest.streams import all_streams
from teei_ingest.streams.base import SinceOnly
from teei_ingest_tests.feeding import (
    ACME,
    Answering,
    Ask,
    Record,
    Reply,
    declared,
    lists,
    page,
    quarantined,
    record,
    stored,
    worker,
)
from teei_ingest_tests.running import Home, failures
from teei_ingest_tests.second_opinion.data import generate
from teei_ingest_tests.second_opinion.server import Company, Server

DAY = date(2024, 1, 15)
WEEK = [DAY + timedelta(number) for number in range(7)]
STREAMS = sorted(all_streams())
GLOBEX = Company("globex-inc", "6fa459ea-ee8a-4ca4-894e-db77e160355e")

# One for each way of asking for a window.
VOLUNTEERS, DIRECTORY, PLACEMENTS = "benevity_volunteers", "workday_directory", "mentorship_placements"
WINDOWS = [VOLUNTEERS, DIRECTORY, PLACEMENTS]
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"


@pytest.fixture
def place(home: Callable[..., Home], server: Answering) -> Home:
    server.asked.clear()
    server.answer = lists({})
    return home({ACME.slug: ACME.id, GLOBEX.slug: GLOBEX.id}, server.environment([ACME, GLOBEX]))


def at(day: date, second: int = 0) -> str:
    return f"{day}T10:00:{second:02d}Z"


def served(data: dict[str, list[Record]], companies: tuple[Company, ...] = (ACME,), **options: Any) -> Server:
    """A strict server with these records of the first company."""
    return Server({(companies[0].slug, stream): records for stream, records in data.items()}, companies, **options)


def by_hand(place: Home, server: Server) -> Home:
    """The home, talking to another server."""
    return replace(place, environ={**place.environ, **server.environment()})


def figures(one: Partition) -> dict[str, int]:
    names = ("fetched", "kept", "quarantined", "duplicates", "out_of_window", "carried", "late")
    return {name: value for name in names if (value := getattr(one, name))}


def only(outcome: Outcome) -> dict[str, int]:
    assert not outcome.bad, [str(one.error) for one in outcome.bad]
    (partition,) = outcome.good
    assert partition.balanced
    return figures(partition)


# --- idempotent, and exactly its partition -----------------------------------------------------------------------


def test_materializing_again_changes_no_row(place: Home) -> None:
    world = generate(seed=11, companies=[ACME], first=DAY, last=WEEK[2], per_day=8)
    with Server(world.records, world.companies, seed=1) as one, Server(world.records, world.companies, seed=2) as two:
        for stream in STREAMS:
            worker(by_hand(place, one), stream).both(WEEK[:3])
            first = stored(place, stream)
            assert first
            assert len({row["event_id"] for row in first}) == len(first)
            worker(by_hand(place, two), stream, page_size=7).both(WEEK[:3])
            assert stored(place, stream) == first
            for day in WEEK[:3]:
                worker(by_hand(place, two), stream).both([day])
            assert stored(place, stream) == first


@pytest.mark.parametrize("stream", WINDOWS)
def test_a_partition_is_replaced_and_no_other(place: Home, stream: str) -> None:
    def records(word: str) -> list[Record]:
        return [record(stream, f"{word} {day}", at(day)) for day in WEEK[:3]]

    def others() -> list[Any]:
        return [
            stored(place, stream, day=WEEK[0]),
            stored(place, stream, day=WEEK[2]),
            stored(place, stream, company=GLOBEX.slug),
            stored(place, "buddy_events"),
        ]

    companies = (ACME, GLOBEX)
    with served({stream: records("old"), "buddy_events": [record("buddy_events", "b", at(WEEK[1]))]}, companies) as old:
        old._records[GLOBEX.slug, stream] = old._records[ACME.slug, stream]
        for one in (stream, "buddy_events"):
            worker(by_hand(place, old), one).both(WEEK[:3])
        worker(by_hand(place, old), stream, company=GLOBEX.slug).both(WEEK[:3])
    before, replaced = others(), stored(place, stream, day=WEEK[1])
    assert all(before)
    with served({stream: records("new")}, companies) as new:
        open_day = datetime(WEEK[1].year, WEEK[1].month, WEEK[1].day, 12, tzinfo=UTC)
        (partition,) = worker(by_hand(place, new), stream, now=open_day).both([WEEK[1]]).good
        assert (partition.kept, partition.carried) == (1, 0)
    assert others() == before
    (row,) = stored(place, stream, day=WEEK[1])
    assert [row["event_id"]] != [old_row["event_id"] for old_row in replaced]


@pytest.mark.parametrize("stream", WINDOWS)
def test_an_empty_source_empties_the_open_day(place: Home, server: Answering, stream: str) -> None:
    during = datetime(2024, 1, 15, 12, tzinfo=UTC)
    server.answer = lists({stream: [record(stream, "r", at(DAY))]})
    worker(place, stream, now=during).both([DAY])
    server.answer = lists({})
    assert only(worker(place, stream, now=during).both([DAY])) == {}
    assert stored(place, stream) == []


# --- versions, and records that are gone -------------------------------------------------------------------------


@pytest.mark.parametrize("stream", WINDOWS)
def test_a_changed_record_is_on_both_days_and_the_newest_is_current(place: Home, stream: str) -> None:
    field, column = {
        VOLUNTEERS: ("causeArea", "cause_area"),
        DIRECTORY: ("title", "job_title"),
        PLACEMENTS: ("job_title", "job_title"),
    }[stream]
    old = record(stream, "r", at(WEEK[0]), {field: "before"})
    new = record(stream, "r", at(WEEK[1]), {field: "after"})
    with served({stream: [old]}) as first:
        worker(by_hand(place, first), stream).both([WEEK[0]])
    with served({stream: [new]}) as second:
        worker(by_hand(place, second), stream).both([WEEK[1]])

    rows = stored(place, stream)
    assert sorted(row["day"] for row in rows) == WEEK[:2]
    assert len({row["source_id"] for row in rows}) == 1
    view = declared(stream).contract.table
    (current,) = place.sql(f"SELECT day, {column} AS value FROM current_{view} WHERE stream = '{stream}'")
    assert current["day"] == WEEK[1]
    if column == "cause_area":
        assert current["value"] == "after"


@pytest.mark.parametrize("stream", WINDOWS)
def test_a_record_gone_from_a_closed_day_is_carried(place: Home, server: Answering, stream: str) -> None:
    stays, goes = record(stream, "stays", at(DAY)), record(stream, "goes", at(DAY, 1))
    server.answer = lists({stream: [stays, goes]})
    worker(place, stream).both([DAY])
    before = stored(place, stream)
    server.answer = lists({stream: [stays]})

    for _ in range(2):
        assert only(worker(place, stream).both([DAY])) == {"fetched": 1, "kept": 1, "carried": 1}
        assert stored(place, stream) == before


@pytest.mark.parametrize("stream", WINDOWS)
def test_a_record_gone_to_a_newer_version_goes(place: Home, stream: str) -> None:
    old, new = record(stream, "r", at(WEEK[0])), record(stream, "r", at(WEEK[1]))
    with served({stream: [old]}) as first:
        worker(by_hand(place, first), stream).both([WEEK[0]])
    with served({stream: [new]}) as second:
        worker(by_hand(place, second), stream).both([WEEK[1]])
        assert len(stored(place, stream)) == 2
        assert only(worker(by_hand(place, second), stream).both([WEEK[0]])).get("carried") is None
    assert [row["day"] for row in stored(place, stream)] == [WEEK[1]]


def test_carried_rows_are_in_the_metadata(place: Home, server: Answering) -> None:
    server.answer = lists({VOLUNTEERS: [record(VOLUNTEERS, f"r{n}", at(DAY, n)) for n in range(3)]})
    assert place.materialize(ACME.slug, DAY, DAY, [VOLUNTEERS]).success
    server.answer = lists({VOLUNTEERS: [record(VOLUNTEERS, f"r{n}", at(DAY, n)) for n in (0, 7)]})

    result = place.materialize(ACME.slug, DAY, DAY, [VOLUNTEERS])

    found = place.metadata(result, f"{VOLUNTEERS}_events")["acme-corp|2024-01-15"]
    assert (found["kept"], found["carried"], found["late"], found["dagster/row_count"]) == (2, 2, 1, 4)
    assert len(stored(place, VOLUNTEERS)) == 4


# --- windows -----------------------------------------------------------------------------------------------------


def moment_of(stream: str, one: Record) -> str:
    value: Any = one
    for key in declared(stream).source_timestamp.split("/"):
        value = value[key]
    return str(value)


@pytest.mark.parametrize("stream", WINDOWS)
def test_a_strict_source_is_asked_for_the_window_and_no_more(place: Home, stream: str) -> None:
    moments = [f"{day}T{time}Z" for day in WEEK[:4] for time in ("00:00:00", "12:00:00.5", "23:59:59.999999999")]
    with served({stream: [record(stream, moment, moment) for moment in moments]}) as server:
        outcome = worker(by_hand(place, server), stream).both(WEEK[1:3])
    assert [(one.kept, one.quarantined) for one in outcome.good] == [(3, 0), (3, 0)]
    outside = sum(one.out_of_window for one in outcome.good)
    assert outside == (3 if isinstance(declared(stream).window, SinceOnly) else 0)


def test_days_apart_are_windows_of_their_own(place: Home, server: Answering) -> None:
    server.answer = lists({})
    outcome = worker(place, VOLUNTEERS).both([WEEK[0], WEEK[1], WEEK[4]])
    asked = [(ask.query["since"], ask.query["until"]) for ask in server.asked]
    assert asked == [
        ("2024-01-15T00:00:00Z", "2024-01-17T00:00:00Z"),
        ("2024-01-19T00:00:00Z", "2024-01-20T00:00:00Z"),
    ]
    assert sorted(outcome.partitions) == [WEEK[0], WEEK[1], WEEK[4]]


# --- one id, several records -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", WINDOWS)
def test_equal_records_are_duplicates(place: Home, server: Answering, stream: str) -> None:
    one = record(stream, "r", at(DAY))
    other_spelling = record(stream, "r", "2024-01-15T11:00:00.000+01:00")
    server.answer = lists({stream: [one, one, {**other_spelling, "unknown": 1}]})

    assert only(worker(place, stream).both([DAY])) == {"fetched": 3, "kept": 1, "duplicates": 2}
    assert len(server.asked) == (
        2 if stream == DIRECTORY else 1
    )  # its timestamp is a value, too, and spelled in two ways
    assert len(stored(place, stream)) == 1


TEXTS = {VOLUNTEERS: "causeArea", DIRECTORY: "title", PLACEMENTS: "employer_name"}


@pytest.mark.parametrize("stream", WINDOWS)
def test_conflicting_versions_are_read_once_more_and_then_quarantined(
    place: Home, server: Answering, stream: str
) -> None:
    versions = [record(stream, "r", at(DAY), {TEXTS[stream]: word}) for word in ("one", "two", "one")]
    server.answer = lists({stream: [*versions, record(stream, "s", at(DAY, 1))]})

    assert only(worker(place, stream).both([DAY])) == {"fetched": 4, "kept": 1, "quarantined": 3}

    assert len(server.asked) == 2
    assert len(stored(place, stream)) == 1
    entries = quarantined(place, stream, DAY)
    assert [json.loads(entry.record) for entry in entries] == versions
    assert {(entry.field, entry.rule) for entry in entries} == {("sourceTimestamp", "conflicting_versions")}


@pytest.mark.parametrize("stream", WINDOWS)
def test_versions_that_agree_when_read_once_more_are_kept(place: Home, server: Answering, stream: str) -> None:
    one, two = (record(stream, "r", at(DAY), {TEXTS[stream]: word}) for word in ("one", "two"))
    server.answer = lambda ask: Reply(page(stream, [one, two] if ask.number == 1 else [two]))

    assert only(worker(place, stream).both([DAY])) == {"fetched": 1, "kept": 1}
    assert len(server.asked) == 2


# --- quarantine --------------------------------------------------------------------------------------------------


def bad(stream: str, number: int, day: date = DAY) -> Record:
    return record(stream, f"bad-{number}", at(day), {"hoursLogged": -1})


@pytest.mark.parametrize(
    ("broken", "fine", "fails"), [(9, 0, False), (10, 190, True), (10, 191, False), (20, 10, True)]
)
def test_too_many_bad_records_fail_the_partition(
    place: Home, server: Answering, broken: int, fine: int, fails: bool
) -> None:
    server.answer = lists({VOLUNTEERS: [record(VOLUNTEERS, "old", at(DAY))]})
    worker(place, VOLUNTEERS).both([DAY])
    before = stored(place, VOLUNTEERS)
    good = [record(VOLUNTEERS, f"g-{n}", at(DAY)) for n in range(fine)]
    server.answer = lists({VOLUNTEERS: [*good, *(bad(VOLUNTEERS, n) for n in range(broken))]})

    outcome = worker(place, VOLUNTEERS).both([DAY])

    assert len(quarantined(place, VOLUNTEERS, DAY)) == broken
    if fails:
        (partition,) = outcome.bad
        assert partition.error is not None
        assert partition.error.code == "contract_broken"
        assert f"{broken} of {broken + fine} records" in str(partition.error)
        assert "`hoursLogged` (greater_than_equal)" in str(partition.error)
        assert stored(place, VOLUNTEERS) == before
    else:
        assert only(outcome) == {"fetched": broken + fine, "quarantined": broken, "carried": 1} | (
            {"kept": fine, "late": fine} if fine else {}
        )


def test_a_bad_day_fails_alone(place: Home, server: Answering) -> None:
    many = [bad(VOLUNTEERS, n, WEEK[1]) for n in range(10)]
    good = [record(VOLUNTEERS, f"g-{day}", at(day)) for day in WEEK[:3]]
    server.answer = lists({VOLUNTEERS: many + good})

    outcome = worker(place, VOLUNTEERS).both(WEEK[:3])

    assert [one.day for one in outcome.good] == [WEEK[0], WEEK[2]]
    assert [one.day for one in outcome.bad] == [WEEK[1]]
    assert sorted(row["day"] for row in stored(place, VOLUNTEERS)) == [WEEK[0], WEEK[2]]


def test_what_is_mended_leaves_the_quarantine(place: Home, server: Answering) -> None:
    server.answer = lists({VOLUNTEERS: [bad(VOLUNTEERS, 1)]})
    worker(place, VOLUNTEERS).both([DAY])
    assert len(quarantined(place, VOLUNTEERS, DAY)) == 1
    server.answer = lists({VOLUNTEERS: [record(VOLUNTEERS, "bad-1", at(DAY))]})
    assert only(worker(place, VOLUNTEERS).both([DAY])) == {"fetched": 1, "kept": 1}
    assert quarantined(place, VOLUNTEERS, DAY) == []


@pytest.mark.parametrize(
    ("stream", "changes", "field"),
    [
        ("goodera_volunteers", {"location": {"country": "NO", "city": "c/o kari@acme.example"}}, "location.city"),
        (
            DIRECTORY,
            {"addresses": [], "displayName": "Kari Nordmann", f"{ENTERPRISE}/department": "Kari Nordmann"},
            "department",
        ),
        ("kintell_sessions", {"course_id": "lesson, call +47 912 34 567"}, "programId"),
    ],
)
def test_the_guard_quarantines_that_record_and_no_other(
    place: Home, server: Answering, stream: str, changes: dict[str, Any], field: str
) -> None:
    leaky = record(stream, "leaky", at(DAY, 1), changes)
    server.answer = lists({stream: [record(stream, "one", at(DAY)), leaky, record(stream, "two", at(DAY, 2))]})

    assert only(worker(place, stream).both([DAY])) == {"fetched": 3, "kept": 2, "quarantined": 1}

    (entry,) = quarantined(place, stream, DAY)
    assert (entry.reason, entry.field, entry.rule) == ("leak", field, "personal_data")
    assert json.loads(entry.record) == leaky
    tokens = {row["user_id"] for row in stored(place, stream)}
    assert tokens <= set(entry.people)  # by which an erasure finds it


@pytest.mark.parametrize("stream", WINDOWS)
@pytest.mark.parametrize(
    "cut",
    [[WEEK[:4]], [[day] for day in WEEK[:4]], [[day] for day in WEEK[3::-1]], [WEEK[:2], WEEK[2:4], WEEK[:4]]],
    ids=["one", "by day", "backwards", "again"],
)
def test_a_record_without_a_time_is_quarantined_once_however_the_range_is_cut(
    place: Home, stream: str, cut: list[list[date]]
) -> None:
    undated = record(stream, "undated", "soon")
    with served({stream: [undated, *(record(stream, f"r-{day}", at(day)) for day in WEEK[:4])]}) as server:
        partitions: dict[date, Partition] = {}
        for days in cut:
            outcome = worker(by_hand(place, server), stream).both(days)
            assert not outcome.bad
            partitions |= outcome.partitions
    entries = [entry for day in WEEK[:4] for entry in quarantined(place, stream, day)]
    assert [entry.undated for entry in entries] == [True]
    assert all(one.balanced for one in partitions.values())
    assert sum(one.quarantined for one in partitions.values()) == 1
    assert sum(one.kept for one in partitions.values()) == 4


# --- readings that break -----------------------------------------------------------------------------------------


def down(ask: Ask) -> Reply:
    return Reply(b"{}", 500)


def test_a_source_that_knows_no_end_keeps_its_complete_days(place: Home, server: Answering) -> None:
    """The day in which it broke off is read again, with those after it."""
    stream = PLACEMENTS
    records = {day: [record(stream, f"{day}-{n}", at(day, n)) for n in range(2)] for day in WEEK}

    def answer(ask: Ask) -> Reply:
        if "cursor" in ask.query:
            return down(ask)
        since = date.fromisoformat(ask.query["since"][:10])
        if since == DAY:
            sent = [one for day in WEEK[:3] for one in records[day]] + records[WEEK[3]][:1]
            return Reply(page(stream, sent, following="c"))
        return down(ask)

    server.answer = answer
    outcome = worker(place, stream).both(WEEK)

    assert [one.day for one in outcome.good] == WEEK[:3]
    assert [one.day for one in outcome.bad] == WEEK[3:]
    assert all(one.error is not None and one.error.code == "source_down" for one in outcome.bad)
    assert [one.kept for one in outcome.good] == [2, 2, 2]
    assert sorted({row["day"] for row in stored(place, stream)}) == WEEK[:3]
    assert min(ask.query["since"][:10] for ask in server.asked[1:] if "cursor" not in ask.query) == str(WEEK[3])


@pytest.mark.parametrize("status", [500, 0], ids=["answers 500", "hangs up"])
@pytest.mark.parametrize("stream", [VOLUNTEERS, DIRECTORY])
@pytest.mark.parametrize("broken", [[WEEK[3]], [WEEK[0], WEEK[6]], [WEEK[1], WEEK[2]]])
def test_only_days_whose_own_read_fails_are_failed(
    place: Home, server: Answering, stream: str, broken: list[date], status: int
) -> None:
    def answer(ask: Ask) -> Reply:
        window = ask.query.get("filter", "") or f'"{ask.query["since"]}" "{ask.query["until"]}"'
        first, end = (date.fromisoformat(part[:10]) for part in window.split('"')[1::2])
        if any(first <= day < end for day in broken):
            return Reply(b"{}", status)
        return Reply(page(stream, [record(stream, f"{day}", at(day)) for day in WEEK if first <= day < end]))

    server.answer = answer
    outcome = worker(place, stream).both(WEEK)

    assert [one.day for one in outcome.bad] == broken
    assert [one.kept for one in outcome.good] == [1] * (7 - len(broken))
    assert sorted(row["day"] for row in stored(place, stream)) == [day for day in WEEK if day not in broken]


@pytest.mark.parametrize(("status", "most"), [(500, 30), (0, 18)])
def test_a_stream_that_is_down_altogether_is_not_asked_for_every_day(
    place: Home, server: Answering, status: int, most: int
) -> None:
    place.environ["TEEI_MAX_RETRIES"] = "0"
    days = [DAY + timedelta(number) for number in range(64)]
    server.answer = lambda ask: Reply(b"{}", status)
    outcome = worker(place, VOLUNTEERS).both(days)
    assert [one.day for one in outcome.bad] == days
    assert len(server.asked) < most


def test_credentials_that_are_refused_are_not_tried_on_parts(place: Home, server: Answering) -> None:
    server.answer = lambda ask: Reply(b"{}", 403)
    outcome = worker(place, VOLUNTEERS).both(WEEK)
    assert len(outcome.bad) == 7
    assert len(server.asked) == 1


def test_conflicting_versions_before_a_break_are_found(place: Home, server: Answering) -> None:
    stream = PLACEMENTS
    versions = [record(stream, "r", at(WEEK[0]), {TEXTS[stream]: word}) for word in ("one", "two")]
    following = record(stream, "s", at(WEEK[1]))

    def answer(ask: Ask) -> Reply:
        if "cursor" in ask.query or ask.query["since"][:10] > str(WEEK[0]):
            return down(ask)
        return Reply(page(stream, [*versions, following], following="c"))

    server.answer = answer
    outcome = worker(place, stream).both(WEEK[:3])

    assert [(one.day, one.kept, one.quarantined) for one in outcome.good] == [(WEEK[0], 0, 2)]
    assert [one.day for one in outcome.bad] == WEEK[1:3]
    assert stored(place, stream) == []


# --- sources that move or lie ------------------------------------------------------------------------------------


@pytest.mark.parametrize("moves", [1, 2, 3])
def test_a_directory_that_changes_while_it_is_read_is_read_again(place: Home, server: Answering, moves: int) -> None:
    users = [record(DIRECTORY, f"u-{n}", at(DAY, n)) for n in range(4)]
    readings = 0

    def answer(ask: Ask) -> Reply:
        nonlocal readings
        readings += ask.is_first
        if ask.is_first:
            return Reply(page(DIRECTORY, users[:2], total=4))
        if readings <= moves:
            return Reply(page(DIRECTORY, users[2:], total=5))
        return Reply(page(DIRECTORY, users[2:], total=4))

    server.answer = answer
    outcome = worker(place, DIRECTORY).both([DAY])

    if moves < 3:
        assert only(outcome) == {"fetched": 4, "kept": 4}
        assert outcome.good[0].requests == len(server.asked) + 1  # and the token
        assert len(stored(place, DIRECTORY)) == 4
    else:
        assert outcome.bad[0].error is not None
        assert outcome.bad[0].error.code == "source_misbehaves"
        assert stored(place, DIRECTORY) == []


@pytest.mark.parametrize("changes", [{}, {"type": "something else"}], ids=["listed", "unlisted"])
@pytest.mark.parametrize("apart", [False, True], ids=["in a page", "over pages"])
def test_a_source_without_an_end_that_is_out_of_order_is_an_error(
    place: Home, server: Answering, changes: dict[str, Any], apart: bool
) -> None:
    late, early = (record(PLACEMENTS, day.isoformat(), at(day), changes) for day in (WEEK[1], WEEK[0]))

    def answer(ask: Ask) -> Reply:
        if not apart:
            return Reply(page(PLACEMENTS, [late, early]))
        return Reply(page(PLACEMENTS, [late], following="c") if ask.is_first else page(PLACEMENTS, [early]))

    server.answer = answer
    outcome = worker(place, PLACEMENTS).both(WEEK[:3])

    assert not outcome.good
    assert {one.error.code for one in outcome.bad if one.error} == {"source_misbehaves"}
    assert stored(place, PLACEMENTS) == []


@pytest.mark.parametrize("stream", ["benevity_volunteers", "goodera_donations"])
def test_a_source_that_promises_no_order_may_send_any(place: Home, server: Answering, stream: str) -> None:
    server.answer = lists({stream: [record(stream, f"{day}", at(day)) for day in reversed(WEEK)]})
    assert [one.kept for one in worker(place, stream).both(WEEK).good] == [1] * 7


# --- the stream alone, the events alone --------------------------------------------------------------------------


@pytest.mark.parametrize("stream", WINDOWS)
def test_stream_and_then_events_give_what_both_give(place: Home, server: Answering, stream: str) -> None:
    versions = [record(stream, "c", at(DAY, 30), {TEXTS[stream]: word}) for word in ("one", "two")]
    one = record(stream, "r-1", at(DAY, 1))
    undated = record(stream, "undated", "soon")
    records = [record(stream, "r-0", at(DAY)), one, one, *versions, record(stream, "r-2", at(DAY, 40))]
    server.answer = lists({stream: [undated, *sorted(records, key=partial(moment_of, stream))]})
    expected = figures(worker(place, stream).both([DAY]).good[0])
    rows, entries = stored(place, stream), quarantined(place, stream, DAY)
    assert rows
    assert entries

    assert figures(worker(place, stream).stream([DAY]).good[0]) == expected
    assert [entry.content_key for entry in quarantined(place, stream, DAY)] == [e.content_key for e in entries]
    asked = len(server.asked)
    (partition,) = worker(place, stream).events([DAY]).good

    assert len(server.asked) == asked
    assert partition.from_landing
    assert figures(partition) == expected
    assert stored(place, stream) == rows
    assert [entry.content_key for entry in quarantined(place, stream, DAY)] == [e.content_key for e in entries]

    (partition,) = worker(place, stream).events([DAY]).good  # nothing has landed now
    assert not partition.from_landing
    assert len(server.asked) > asked
    assert stored(place, stream) == rows


def test_events_take_what_has_landed_and_fetch_the_rest(place: Home, server: Answering) -> None:
    server.answer = lists({VOLUNTEERS: [record(VOLUNTEERS, f"{day}", at(day)) for day in WEEK[:3]]})
    worker(place, VOLUNTEERS).stream([WEEK[1]])

    outcome = worker(place, VOLUNTEERS).events(WEEK[:3])

    assert [one.from_landing for one in outcome.good] == [False, True, False]
    assert [one.kept for one in outcome.good] == [1, 1, 1]
    assert len(stored(place, VOLUNTEERS)) == 3


def test_a_damaged_landing_fails_its_day_alone(place: Home, server: Answering) -> None:
    server.answer = lists({VOLUNTEERS: [record(VOLUNTEERS, f"{day}", at(day)) for day in WEEK[:3]]})
    worker(place, VOLUNTEERS).stream(WEEK[:3])
    file = place.settings.home / "landing" / ACME.slug / VOLUNTEERS / f"{WEEK[1]}.sealed"
    file.write_bytes(file.read_bytes()[:-20])

    outcome = worker(place, VOLUNTEERS).events(WEEK[:3])

    assert [one.day for one in outcome.good] == [WEEK[0], WEEK[2]]
    assert [(one.day, one.error.code) for one in outcome.bad if one.error] == [(WEEK[1], "landing")]
    assert sorted(row["day"] for row in stored(place, VOLUNTEERS)) == [WEEK[0], WEEK[2]]
    worker(place, VOLUNTEERS).stream([WEEK[1]])  # what helps
    assert worker(place, VOLUNTEERS).events([WEEK[1]]).good[0].from_landing


def test_a_day_with_too_many_bad_records_does_not_land(place: Home, server: Answering) -> None:
    server.answer = lists({VOLUNTEERS: [bad(VOLUNTEERS, n) for n in range(10)]})
    assert len(worker(place, VOLUNTEERS).stream([DAY]).bad) == 1
    server.answer = lists({VOLUNTEERS: []})
    assert not worker(place, VOLUNTEERS).events([DAY]).good[0].from_landing


# --- memory, and reading ahead -----------------------------------------------------------------------------------


class Small(RowBuffer):
    """Spills soon."""

    spilled = 0

    def __init__(self, schema: pa.Schema, folder: Path) -> None:
        super().__init__(schema, folder, 25)

    def close(self) -> None:
        Small.spilled += self._file is not None
        super().close()


# Between them: decimals, maps, objects, lists of objects, and each way of asking for a window.
@pytest.mark.parametrize("stream", ["benevity_donations", "goodera_volunteers", DIRECTORY, "buddy_checkins"])
def test_more_rows_than_fit_in_memory_give_the_same_table(
    place: Home, monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    world = generate(seed=5, companies=[ACME], first=DAY, last=WEEK[2], per_day=15)
    monkeypatch.setattr(collect, "BATCH_ROWS", 20)
    with Server(world.records, world.companies, internal_page=8, scim_page=9) as server:
        there = by_hand(place, server)
        expected = [figures(one) for one in worker(there, stream, page_size=9).both(WEEK[:3]).good]
        rows = stored(place, stream)
        assert len(rows) > 40
        monkeypatch.setattr(collect, "RowBuffer", Small)
        monkeypatch.setattr(Small, "spilled", 0)
        assert [figures(one) for one in worker(there, stream, page_size=9).both(WEEK[:3]).good] == expected
        assert Small.spilled
        assert stored(place, stream) == rows


def test_spilled_rows_are_there_for_a_second_try_and_beside_carried_ones(
    place: Home, server: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "BATCH_ROWS", 20)
    monkeypatch.setattr(collect, "RowBuffer", Small)
    records = [record(VOLUNTEERS, f"r{n}", at(WEEK[n % 2], n // 2)) for n in range(100)]
    server.answer = lists({VOLUNTEERS: records})
    worker(place, VOLUNTEERS).both(WEEK[:2])
    rows = stored(place, VOLUNTEERS)
    assert len(rows) == 100
    new = [record(VOLUNTEERS, f"new-{n}", at(WEEK[n], 55)) for n in range(2)]
    server.answer = lists({VOLUNTEERS: records[:90] + new})
    overwrite, tries = Store._overwrite, []

    def refused_once(store: Store, *args: Any) -> int:
        tries.append(args)
        if len(tries) == 1:
            args[-1]().read_next_batch()
            raise CommitFailedError("somebody was faster")
        return overwrite(store, *args)

    monkeypatch.setattr(Store, "_overwrite", refused_once)
    outcome = worker(place, VOLUNTEERS).both(WEEK[:2])

    assert len(tries) == 2
    assert [(one.kept, one.carried) for one in outcome.good] == [(46, 5), (46, 5)]
    assert [row for row in stored(place, VOLUNTEERS) if not row["source_id"].startswith("new-")] == rows


def test_reading_ahead_gives_what_one_stream_after_the_other_gives(place: Home) -> None:
    world = generate(seed=7, companies=[ACME], first=DAY, last=WEEK[1], per_day=6)
    with Server(world.records, world.companies) as server:
        there = by_hand(place, server)
        result = there.materialize(ACME.slug, WEEK[0], WEEK[1])
        assert result.success, failures(result)
        together = {stream: stored(place, stream) for stream in STREAMS}
        counted = {stream: there.metadata(result, f"{stream}_events") for stream in STREAMS}
        for stream in STREAMS:
            outcome = worker(there, stream).both(WEEK[:2])
            assert stored(place, stream) == together[stream], stream
            for one in outcome.good:
                told = counted[stream][f"acme-corp|{one.day}"]
                assert (told["fetched"], told["kept"], told["quarantined"], told["duplicates"]) == (
                    one.fetched,
                    one.kept,
                    one.quarantined,
                    one.duplicates,
                )
