"""A record that changes while its list is read page by page is neither lost nor doubled, and nor are the others."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest

from teei_ingest.streams.base import Between, Cursor, PageNumber, StartIndex
from teei_ingest_tests.feeding import ACME, Ask, Record, Reply, answering, declared, page, record, stored, worker
from teei_ingest_tests.running import Home

# One stream for each way of paging and of asking for a window.
STREAMS = ["benevity_volunteers", "goodera_donations", "workday_directory", "kintell_enrollments"]
SIZE = 2
COUNT = 6
THEN = date(2024, 1, 15)


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


class Moving:
    """A list in the order of its timestamps; after `moment` requests the record `number` changes, once."""

    def __init__(self, stream: str, day: date, number: int, moment: int, kind: str) -> None:
        self.stream = declared(stream)
        self.times = {n: f"{day}T00:00:0{n}Z" for n in range(COUNT)}
        self.number, self.moment, self.kind = number, moment, kind
        self.asked = 0

    def __call__(self, ask: Ask) -> Reply:
        body = self.page(ask)
        self.asked += 1
        if self.asked == self.moment:
            self.change()
        return Reply(body)

    def change(self) -> None:
        if self.kind == "vanishes":
            del self.times[self.number]
        else:
            # On the open day it stays in the window, and goes to its end.
            self.times[self.number] = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"

    def records(self, since: str, until: str | None) -> list[Record]:
        inside = [
            (at, number)
            for number, at in self.times.items()
            if instant(since) <= instant(at) and (until is None or instant(at) < instant(until))
        ]
        name = self.stream.name
        return [record(name, f"r-{number}", at) for at, number in sorted(inside, key=lambda one: instant(one[0]))]

    def page(self, ask: Ask) -> bytes:
        window, paging, query = self.stream.window, self.stream.paging, ask.query
        if isinstance(window, Between):
            found = self.records(query[window.since], query[window.until])
        elif "filter" in query:
            since, until = re.findall(r'"([^"]+)"', query["filter"])
            found = self.records(since, until)
        else:
            found = self.records(query[window.since], None)  # type: ignore[union-attr]
        size = int(query[paging.limit])
        if isinstance(paging, PageNumber):
            first = (int(query[paging.page]) - 1) * size
            return page(self.stream.name, found[first : first + size], following=first + size < len(found))
        if isinstance(paging, StartIndex):
            first = int(query[paging.start]) - 1
            return page(self.stream.name, found[first : first + size], total=len(found))
        assert isinstance(paging, Cursor)
        after = query.get(paging.cursor, "")
        rest = [one for one in found if not after or instant(one["updated_at"]) > instant(after)]
        return page(self.stream.name, rest[:size], following=rest[size - 1]["updated_at"] if len(rest) > size else None)


def sync(home: Callable[..., Home], moving: Moving, day: date) -> tuple[Any, list[str]]:
    """The day's partition, and the ids of what is stored of it."""
    name = moving.stream.name
    with answering(moving) as server:
        place = home({ACME.slug: ACME.id}, server.environment())
        outcome = worker(place, name, page_size=SIZE, now=datetime.now(UTC)).both([day])
        return outcome.partitions[day], sorted(row["timestamp"].isoformat() for row in stored(place, name))


@pytest.mark.parametrize("moment", range(1, COUNT // SIZE + 1))
@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("open_day", [False, True], ids=["leaves", "moves behind"])
def test_a_change_between_two_pages(home: Callable[..., Home], stream: str, open_day: bool, moment: int) -> None:
    day = datetime.now(UTC).date() if open_day else THEN
    for number in (0, moment * SIZE - 1, COUNT - 1):
        moving = Moving(stream, day, number, moment, "changes")
        partition, times = sync(home, moving, day)
        assert partition.error is None, str(partition.error)
        untouched = {instant(moving.times[other]).isoformat() for other in range(COUNT) if other != number}
        assert untouched <= set(times) and len(times) <= COUNT + 1
        is_read_before = number < moment * SIZE
        if is_read_before and isinstance(moving.stream.paging, PageNumber):
            assert partition.pages > COUNT // SIZE


@pytest.mark.parametrize("stream", [stream for stream in STREAMS if not isinstance(declared(stream).paging, Cursor)])
def test_a_record_that_moves_to_where_was_read_is_kept(home: Callable[..., Home], stream: str) -> None:
    """On the open day, in a list that has the newest first: it is on no page that is still to come."""

    class NewestFirst(Moving):
        def records(self, since: str, until: str | None) -> list[Record]:
            return super().records(since, until)[::-1]

    day = datetime.now(UTC).date()
    for number, moment in ((0, 1), (0, 2), (3, 1), (COUNT - 1, 1)):
        moving = NewestFirst(stream, day, number, moment, "changes")
        partition, times = sync(home, moving, day)
        assert partition.error is None, str(partition.error)
        assert times == sorted(instant(time).isoformat() for time in moving.times.values())


@pytest.mark.parametrize("stream", STREAMS)
def test_a_list_that_never_rests_is_a_clear_failure(home: Callable[..., Home], stream: str) -> None:
    class Restless(Moving):
        def __call__(self, ask: Ask) -> Reply:
            body = self.page(ask)
            number = self.asked = (self.asked + 1) % COUNT
            self.times[number] = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
            return Reply(body)

    day = datetime.now(UTC).date()
    partition, times = sync(home, Restless(stream, day, 0, 0, "changes"), day)
    if isinstance(declared(stream).paging, Cursor):  # where it was, there it is read, and where it is now, too
        assert partition.error is None
    else:
        assert partition.error is not None and times == []
        assert "changed" in str(partition.error) or "came twice" in str(partition.error)


def test_a_source_that_refuses_to_say_what_changed_is_believed(home: Callable[..., Home]) -> None:
    class Refusing(Moving):
        def page(self, ask: Ask) -> bytes:
            if instant(ask.query["since"]).date() != THEN:
                return b"no"
            return super().page(ask)

    partition, times = sync(home, Refusing("benevity_volunteers", THEN, 0, 99, "changes"), THEN)
    assert partition.error is None and len(times) == COUNT


def test_one_page_needs_no_second_look(home: Callable[..., Home]) -> None:
    moving = Moving("benevity_volunteers", THEN, 0, 99, "changes")
    moving.times = {0: moving.times[0], 1: moving.times[1]}
    sync(home, moving, THEN)
    assert moving.asked == 1
