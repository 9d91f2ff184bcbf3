"""Streams side by side: bounded, in any order, and gone when nobody wants them."""

import random
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from teei_ingest.errors import SourceDown
from teei_ingest.extract import ahead as ahead_module
from teei_ingest.extract.ahead import Ahead
from teei_ingest.extract.caller import Cancelled
from teei_ingest.extract.http import Source
from teei_ingest.extract.read import read
from teei_ingest.streams import all_streams
from teei_ingest_tests.extracting import (
    SYSTEMS,
    Answer,
    Ask,
    FakePage,
    credentials,
    decode,
    serving,
    settings,
)
from teei_ingest_tests.together import eventually

SIZE = 1000


def page(number: int, size: int = SIZE) -> FakePage:
    return FakePage({"records": [[f"id-{number}", number]]}, size)


class Pages:
    """A reading of `count` pages, which says how far it got."""

    def __init__(self, count: int, error: Exception | None = None, size: int = SIZE) -> None:
        self.count = count
        self.error = error
        self.size = size
        self.made = 0
        self.ended = threading.Event()

    def __call__(self, cancel: threading.Event) -> Iterator[FakePage]:
        try:
            for number in range(self.count):
                self.made += 1
                yield page(number, self.size)
            if self.error:
                raise self.error
        finally:
            self.ended.set()


def numbers(pages: Iterator[FakePage]) -> list[int]:
    return [found.records[0][1] for found in pages]


def test_every_stream_comes_whole_in_whatever_order_it_is_wanted() -> None:
    names = [f"s{number}" for number in range(12)]
    random.Random(7).shuffle(names)
    with Ahead({name: Pages(int(name[1:]) * 5) for name in sorted(names)}, room=3 * SIZE) as ahead:
        for name in names:
            assert numbers(ahead.pages(name)) == list(range(int(name[1:]) * 5))


def test_streams_may_be_consumed_in_turns() -> None:
    with Ahead({"a": Pages(20), "b": Pages(20)}, room=SIZE) as ahead:
        together = zip(ahead.pages("a"), ahead.pages("b"), strict=True)
        assert [(a.records[0][1], b.records[0][1]) for a, b in together] == [(n, n) for n in range(20)]


@pytest.mark.parametrize(("room", "kept"), [(5 * SIZE, 5), (5 * SIZE - 1, 4)])
def test_room_is_bounded_by_bytes_and_free_again_once_a_page_is_taken(room: int, kept: int) -> None:
    pages = Pages(1000)
    with Ahead({"a": pages}, room=room) as ahead:
        eventually(lambda: pages.made > kept, "it reads on", 10, pause=0.005)
        time.sleep(0.05)  # for pages too many to be made, if they were
        assert pages.made == kept + 1
        found = ahead.pages("a")
        assert next(found).records[0][1] == 0
        eventually(lambda: pages.made > kept + 1, "it reads on", 10, pause=0.005)
        assert numbers(found) == list(range(1, 1000))


def test_a_page_larger_than_the_room_passes() -> None:
    with Ahead({"a": Pages(5, size=100 * SIZE)}, room=SIZE) as ahead:
        assert numbers(ahead.pages("a")) == list(range(5))


def test_an_error_reaches_its_own_stream_alone_and_after_its_pages() -> None:
    seen = []
    with Ahead({"bad": Pages(3, SourceDown("is down")), "good": Pages(3), "late": Pages(3)}) as ahead:
        assert numbers(ahead.pages("good")) == [0, 1, 2]
        with pytest.raises(SourceDown, match="is down"):
            for found in ahead.pages("bad"):
                seen.append(found.records[0][1])
        assert numbers(ahead.pages("late")) == [0, 1, 2]
    assert seen == [0, 1, 2]


def test_a_stream_is_consumed_once() -> None:
    with Ahead({"a": Pages(3)}) as ahead:
        assert numbers(ahead.pages("a")) == [0, 1, 2]
        with pytest.raises(Cancelled):
            next(ahead.pages("a"))


def test_a_reading_that_cannot_begin_is_an_error_of_its_stream() -> None:
    def begin(cancel: threading.Event) -> Iterator[FakePage]:
        raise SourceDown("not even begun")

    with Ahead({"a": begin}) as ahead, pytest.raises(SourceDown):
        next(ahead.pages("a"))


def test_a_stream_that_nobody_consumes_ends_with_the_others() -> None:
    wanted, unwanted = Pages(5), Pages(1000)
    before = threading.active_count()
    began = time.monotonic()
    with Ahead({"a": wanted, "b": unwanted}, room=SIZE) as ahead:
        assert numbers(ahead.pages("a")) == list(range(5))
    assert time.monotonic() - began < 2
    assert unwanted.ended.is_set()
    assert threading.active_count() == before


def test_a_stream_given_up_in_the_middle_ends() -> None:
    pages = Pages(1000)
    with Ahead({"a": pages}, room=SIZE) as ahead:
        iterator = ahead.pages("a")
        next(iterator)
        del iterator
        assert pages.ended.wait(5)


def test_a_cancelled_stream_tells_who_still_waits_for_it() -> None:
    stuck = threading.Event()

    def begin(cancel: threading.Event) -> Iterator[FakePage]:
        stuck.wait(20)
        yield page(1)

    with Ahead({"a": begin}) as ahead:
        threading.Timer(0.1, ahead.cancel, ("a",)).start()
        with pytest.raises(Cancelled):
            next(ahead.pages("a"))
        stuck.set()


def test_nobody_waits_to_the_end_for_who_does_not_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead_module, "_FAREWELL_S", 0.05)
    stuck = threading.Event()

    def begin(cancel: threading.Event) -> Iterator[FakePage]:
        assert stuck.wait(20), "the end came only with the reading's"
        yield page(1)

    with Ahead({"a": begin, "b": begin}):
        threads = [one for one in threading.enumerate() if one.name in ("read a", "read b")]
    try:
        assert len(threads) == 2
        assert all(one.is_alive() and one.daemon for one in threads), "a process could not end before them"
    finally:
        stuck.set()
        for one in threads:
            one.join(20)


def test_close_wakes_who_sleeps_for_a_source(tmp_path: Path) -> None:
    with serving(lambda ask: Answer(429, headers={"Retry-After": "600"})) as server:
        stream = all_streams()["kintell_sessions"]
        source = Source(SYSTEMS["kintell"], credentials("kintell", server.url), settings(tmp_path))
        day = datetime(2024, 1, 15, tzinfo=UTC)
        ahead = Ahead({"a": lambda cancel: read(source, stream, day, day, decode, cancel=cancel)})
        eventually(lambda: server.asked, "it has begun", 10, pause=0.005)
        began = time.monotonic()
        ahead.close()
        assert time.monotonic() - began < 1.5
        with pytest.raises(Cancelled):
            next(ahead.pages("a"))


def test_twelve_streams_wait_together(tmp_path: Path) -> None:
    def script(ask: Ask) -> Answer:
        time.sleep(0.15)
        if ask.method == "POST":
            return Answer.of({"access_token": "t"})
        number = int(ask.query.get("page") or ask.query.get("cursor") or ask.query.get("startIndex") or 1)
        return Answer.of(
            {
                "records": [[f"{number}", number]],
                "hasMore": number < 10,
                "next_cursor": str(number + 1) if number < 10 else None,
                "totalResults": 10,
            }
        )

    day = datetime(2024, 1, 15, tzinfo=UTC)
    with serving(script) as server:
        sources = {
            name: Source(system, credentials(name, f"{server.url}/{name}"), settings(tmp_path))
            for name, system in SYSTEMS.items()
        }
        began = time.monotonic()
        readings = {
            name: (lambda cancel, stream=stream: read(sources[stream.system], stream, day, day, decode, cancel=cancel))
            for name, stream in all_streams().items()
        }
        with Ahead(readings) as ahead:
            counts = [len(numbers(ahead.pages(name))) for name in readings]
        took = time.monotonic() - began
    assert counts == [10] * 12
    assert took < 4
