"""Paging and windows: everything is read, in as few requests as can be, and lies are found out."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from teei_ingest.errors import NotAllowed, SourceDown, SourceMisbehaves
from teei_ingest.extract.caller import Cancelled, PagesMoved, UnsupportedFilter
from teei_ingest.extract.http import Source
from teei_ingest.extract.probe import probe
from teei_ingest.extract.read import Reading, read
from teei_ingest.streams import all_streams
from teei_ingest.streams.base import PageNumber, Stream
from teei_ingest_tests.extracting import (
    SYSTEMS,
    Answer,
    Ask,
    Clock,
    FakePage,
    Server,
    credentials,
    decode,
    in_turn,
    serving,
    settings,
)

START = datetime(2024, 1, 15, tzinfo=UTC)
END = datetime(2024, 1, 18, tzinfo=UTC)
SECOND = 10**9
END_NS = 1_705_536_000 * SECOND

BENEVITY = all_streams()["benevity_donations"]
KINTELL = all_streams()["kintell_sessions"]
WORKDAY = replace(all_streams()["workday_directory"], path="/Users")

Begin = Callable[..., Reading[FakePage]]


@pytest.fixture
def begin(tmp_path: Path) -> Begin:
    def make(server: Server, stream: Stream, **more: Any) -> Reading[FakePage]:
        clock = Clock()
        given = credentials(stream.system, server.url)
        source = Source(SYSTEMS[stream.system], given, settings(tmp_path), clock=clock, sleep=clock.sleep)
        return read(source, stream, more.pop("start", START), more.pop("end", END), decode, **more)

    return make


def with_token(script: Callable[[Ask], Answer | None]) -> Callable[[Ask], Answer | None]:
    return lambda ask: Answer.of({"access_token": "t"}) if ask.method == "POST" else script(ask)


def records(first: int, beyond: int) -> list[list[Any]]:
    return [[f"id-{number}", number * SECOND] for number in range(first, beyond)]


def ids(reading: Reading[FakePage]) -> list[str]:
    return [identity for page in reading for identity, _ in page.records]


def asked(server: Server) -> list[dict[str, str]]:
    return [ask.query for ask in server.asked if ask.method == "GET"]


def asks_for_changes(ask: dict[str, str]) -> bool:
    """Whether it asks for what changed since the reading began, by the clock of these tests."""
    return ask["since"] == "2024-01-15T09:55:00Z"


def numbered(total: int, *, at_most: int = 100) -> Callable[[Ask], Answer | None]:
    def script(ask: Ask) -> Answer:
        if asks_for_changes(ask.query):
            return Answer.of({"records": [], "hasMore": False})
        size = min(int(ask.query["limit"]), at_most)
        beyond = int(ask.query["page"]) * size
        return Answer.of({"records": records(beyond - size, min(beyond, total)), "hasMore": beyond < total})

    return with_token(script)


def test_pages_by_number(begin: Begin) -> None:
    with serving(numbered(1250)) as server:
        reading = begin(server, BENEVITY)
        assert ids(reading) == [f"id-{number}" for number in range(1250)]
    assert reading.requests == 15  # a token, 13 pages, and what changed meanwhile
    assert reading.pages == 13
    assert reading.filtered_by_source
    assert asked(server)[1] == {
        "tenant_id": "tenant 1&2",
        "since": "2024-01-15T00:00:00Z",
        "until": "2024-01-18T00:00:00Z",
        "page": "2",
        "limit": "100",
    }


@pytest.mark.parametrize(("total", "requests"), [(0, 1), (1, 1), (100, 1), (101, 2), (200, 2)])
def test_no_request_too_many(begin: Begin, total: int, requests: int) -> None:
    with serving(numbered(total)) as server:
        reading = begin(server, BENEVITY)
        assert len(ids(reading)) == total
    assert len([ask for ask in asked(server) if not asks_for_changes(ask)]) == reading.pages == requests
    assert sum(map(asks_for_changes, asked(server))) == (requests > 1)


def test_a_page_size_is_a_wish_on_both_sides(begin: Begin) -> None:
    with serving(numbered(50, at_most=7)) as server:
        assert len(ids(begin(server, BENEVITY, page_size=20))) == 50
        assert len(ids(begin(server, BENEVITY, page_size=2000))) == 50
    assert {ask["limit"] for ask in asked(server)} == {"20", "100"}


def test_a_moment_is_asked_for_in_utc_and_exactly(begin: Begin) -> None:
    start = datetime(2024, 1, 15, 0, 30, 0, 250_000, tzinfo=timezone(timedelta(hours=1)))
    with serving(numbered(0)) as server:
        ids(begin(server, BENEVITY, start=start))
    assert asked(server)[0]["since"] == "2024-01-14T23:30:00.250000Z"


def test_the_streams_own_parameters_go_along(begin: Begin) -> None:
    stream = replace(all_streams()["goodera_donations"], paging=PageNumber(more="hasMore", limit="size"))
    with serving(lambda ask: Answer.of({"records": [], "hasMore": False})) as server:
        ids(begin(server, stream))
    assert asked(server)[0]["activity_type"] == "donation"
    assert asked(server)[0]["size"] == "500"


@pytest.mark.parametrize("more", [None, "false", 0, []])
def test_a_page_has_to_say_whether_there_are_more(begin: Begin, more: Any) -> None:
    with (
        serving(with_token(lambda ask: Answer.of({"records": records(0, 5), "hasMore": more}))) as server,
        pytest.raises(SourceMisbehaves, match="page 1 does not say in `hasMore`"),
    ):
        ids(begin(server, BENEVITY))


def test_a_repeated_page_is_found_out(begin: Begin) -> None:
    def script(ask: Ask) -> Answer:
        page = min(int(ask.query["page"]), 3)
        return Answer.of({"records": records(page, page + 5), "hasMore": True, "page": ask.query["page"]})

    with serving(with_token(script)) as server:
        reading = begin(server, BENEVITY)
        with pytest.raises(SourceMisbehaves, match="page 4") as raised:
            ids(reading)
    assert reading.pages == 4
    assert str(raised.value).startswith("benevity/benevity_donations acme-corp: ")


def test_empty_pages_without_end_are_found_out(begin: Begin) -> None:
    with (
        serving(with_token(lambda ask: Answer.of({"records": [], "hasMore": True}))) as server,
        pytest.raises(SourceMisbehaves, match="6 empty pages"),
    ):
        ids(begin(server, BENEVITY))
    assert len(asked(server)) == 6


def test_a_few_empty_pages_are_passed_over(begin: Begin) -> None:
    pages = [[], [], [], [], [], records(0, 2), [], [], [], [], [], records(2, 4)]

    def script(ask: Ask) -> Answer:
        page = int(ask.query["page"])
        return Answer.of({"records": pages[page - 1], "hasMore": page < len(pages)})

    with serving(with_token(script)) as server:
        assert ids(begin(server, BENEVITY)) == ["id-0", "id-1", "id-2", "id-3"]


def by_cursor(*pages: Sequence[Any], last: dict[str, Any] | None = None) -> Callable[[Ask], Answer | None]:
    """Cursors with characters that have to be quoted."""

    def script(ask: Ask) -> Answer:
        cursor = ask.query.get("cursor", "+/&=?% 0")
        number = int(cursor.removeprefix("+/&=?% "))
        more = {"next_cursor": f"+/&=?% {number + 1}"} if number + 1 < len(pages) else (last or {})
        return Answer.of({"records": pages[number], **more})

    return script


@pytest.mark.parametrize("last", [{}, {"next_cursor": None}, {"next_cursor": ""}])
def test_pages_by_cursor(begin: Begin, last: dict[str, Any]) -> None:
    with serving(by_cursor(records(0, 50), [], records(50, 99), last=last)) as server:
        reading = begin(server, KINTELL)
        assert len(ids(reading)) == 99
    assert reading.requests == 3
    first, second, _ = asked(server)
    assert first == {
        "company_id": "550e8400-e29b-41d4-a716-446655440000",
        "since": "2024-01-15T00:00:00Z",
        "limit": "200",
    }
    assert second == {**first, "cursor": "+/&=?% 1"}


def test_reading_stops_at_the_first_page_beyond_the_window(begin: Begin) -> None:
    inside = [["a", END_NS - 2], ["b", END_NS - 1]]
    beyond = [["c", END_NS - 1], ["d", END_NS]]
    with serving(by_cursor(inside, beyond, [["e", END_NS + 1]])) as server:
        assert ids(begin(server, KINTELL)) == ["a", "b", "c", "d"]
    assert len(asked(server)) == 2


def test_a_time_before_1970_is_one_like_others(begin: Begin) -> None:
    with serving(by_cursor(records(-9, -7), records(-7, 2), records(2, 4))) as server:
        assert len(ids(begin(server, KINTELL))) == 13


@pytest.mark.parametrize("newer", [(END_NS - 2, END_NS - 1), (END_NS - 1, END_NS - 1)])
def test_a_page_that_is_no_older_than_the_one_before_is_in_order(begin: Begin, newer: tuple[int, int]) -> None:
    with serving(by_cursor([["a", newer[0]]], [["b", newer[1]]], [["c", END_NS]], [["d", END_NS]])) as server:
        assert ids(begin(server, KINTELL)) == ["a", "b", "c"]


def test_a_list_that_is_not_in_order_is_found_out(begin: Begin) -> None:
    with (
        serving(by_cursor(records(50, 60), records(0, 10))) as server,
        pytest.raises(SourceMisbehaves, match="older"),
    ):
        ids(begin(server, KINTELL))


@pytest.mark.parametrize("cursors", [["a", "b", "a"], ["a", "a"], [7], [{"x": 1}]])
def test_a_cursor_that_leads_nowhere_new_is_found_out(begin: Begin, cursors: list[Any]) -> None:
    answers = [
        Answer.of({"records": records(number, number + 1), "next_cursor": cursor})
        for number, cursor in enumerate(cursors)
    ]
    said = f"page {len(cursors)} has no usable `next_cursor`"
    with serving(in_turn(*answers)) as server, pytest.raises(SourceMisbehaves, match=said):
        ids(begin(server, KINTELL))
    assert len(asked(server)) == len(cursors)


def scim(
    users: list[list[Any]], *, at_most: int = 37, total: Callable[[int], Any] | None = None
) -> Callable[[Ask], Answer | None]:
    def script(ask: Ask) -> Answer:
        start = int(ask.query["startIndex"]) - 1
        page = users[start : start + min(int(ask.query["count"]), at_most)]
        number = total(start) if total else len(users)
        return Answer.of({"records": page, "totalResults": number})

    return with_token(script)


def test_scim_pages_and_filter(begin: Begin) -> None:
    with serving(scim(records(0, 230))) as server:
        reading = begin(server, WORKDAY)
        assert len(ids(reading)) == 230
    assert reading.pages == 7
    assert reading.filtered_by_source
    assert asked(server)[1] == {
        "filter": 'meta.lastModified ge "2024-01-15T00:00:00Z" and meta.lastModified lt "2024-01-18T00:00:00Z"',
        "startIndex": "38",
        "count": "100",
    }


def test_no_users_is_one_request(begin: Begin) -> None:
    with serving(scim([])) as server:
        assert ids(begin(server, WORKDAY)) == []
    assert len(asked(server)) == 1


@pytest.mark.parametrize("refusal", [Answer.of({"scimType": "invalidFilter"}, 400), Answer.of({"status": "501"}, 501)])
def test_a_server_without_filters_is_read_as_a_whole(begin: Begin, refusal: Answer) -> None:
    whole = scim(records(0, 50))
    with serving(lambda ask: refusal if "filter" in ask.query else whole(ask)) as server:
        reading = begin(server, WORKDAY)
        assert len(ids(reading)) == 50
    assert not reading.filtered_by_source
    assert len(asked(server)) == 3


def test_a_filter_refused_in_the_middle_is_an_error(begin: Begin) -> None:
    whole = scim(records(0, 50))

    def script(ask: Ask) -> Answer | None:
        return Answer(501) if ask.query.get("startIndex") == "38" else whole(ask)

    with serving(script) as server, pytest.raises(UnsupportedFilter):
        ids(begin(server, WORKDAY))


@pytest.mark.parametrize(
    ("users", "total", "error"),
    [
        (records(0, 50), lambda start: 51, SourceMisbehaves),
        (records(0, 50), lambda start: 49, SourceMisbehaves),
        (records(0, 50), lambda start: 50 if start == 0 else 51, PagesMoved),
        (records(0, 50), lambda start: None, SourceMisbehaves),
        (records(0, 50), lambda start: "50", SourceMisbehaves),
        (records(0, 40) + records(36, 50), None, PagesMoved),
        (records(0, 37) * 2, None, SourceMisbehaves),
        ([], lambda start: 1, SourceMisbehaves),
    ],
)
def test_a_list_that_moves_or_lies_is_found_out(
    begin: Begin, users: list[Any], total: Callable[[int], Any] | None, error: type[Exception]
) -> None:
    with serving(scim(users, total=total)) as server, pytest.raises(error) as raised:
        ids(begin(server, WORKDAY))
    assert type(raised.value) is error


BEGAN = datetime(2024, 1, 15, 10, tzinfo=UTC)  # by the clock of these tests
BEFORE, THEN, AFTER = ((BEGAN + timedelta(seconds=n)).isoformat().replace("+00:00", "Z") for n in (-1, 0, 1))
OLD, NEWER = ["a", BEFORE], ["a", AFTER]


def meanwhile(lists: Sequence[list[Any]], changes: Callable[[int], Answer]) -> Callable[[Ask], Answer | None]:
    """The pages of the list, and what a page of what changed since the reading began answers."""

    def script(ask: Ask) -> Answer:
        number = int(ask.query["page"])
        if asks_for_changes(ask.query):
            return changes(number)
        return Answer.of({"records": lists[number - 1], "hasMore": number < len(lists)})

    return with_token(script)


@pytest.mark.parametrize(
    ("pages", "changed", "outcome"),
    [
        ([[OLD], [["b", BEFORE]]], [], []),
        ([[OLD], [["b", BEFORE]]], [OLD], []),  # as it was read
        ([[OLD], [["b", BEFORE]]], [["c", AFTER]], ["c"]),  # new
        ([[OLD], [["b", BEFORE]]], [["c", AFTER], OLD], ["c", "a"]),  # with the rest of its page
        ([[OLD], [["b", BEFORE]]], [NEWER], None),  # it left its place
        ([[OLD], [["b", BEFORE]]], [["a", "soon"]], None),
        ([[OLD], [["b", BEFORE], NEWER]], [NEWER], None),  # and was read where it went
        ([[OLD], [["b", BEFORE], ["a", THEN]]], [["a", THEN]], None),
        ([[["a", START.isoformat()]], [OLD]], [OLD], []),  # two versions since ever
        ([[OLD], [["a", "soon"]]], [["a", "soon"]], []),
        ([[OLD]], [["c", AFTER]], []),  # one page is of one moment
    ],
)
def test_what_changed_while_a_list_was_read(
    begin: Begin, pages: list[list[Any]], changed: list[Any], outcome: list[str] | None
) -> None:
    script = meanwhile(pages, lambda _: Answer.of({"records": changed, "hasMore": False}))
    with serving(script) as server:
        reading = begin(server, BENEVITY)
        if outcome is None:
            with pytest.raises(PagesMoved, match="a record changed while its list was read"):
                ids(reading)
        else:
            assert ids(reading)[sum(map(len, pages)) :] == outcome
    if len(pages) > 1:
        assert asked(server)[-1] == {
            **asked(server)[0],
            "since": "2024-01-15T09:55:00Z",
            "until": "2024-01-16T10:00:00Z",
        }


@pytest.mark.parametrize(("more", "found"), [(timedelta(0), []), (timedelta(microseconds=1), ["c"])])
def test_what_is_new_is_of_no_day_that_ended_before(begin: Begin, more: timedelta, found: list[str]) -> None:
    script = meanwhile([[OLD], [["b", BEFORE]]], lambda _: Answer.of({"records": [["c", AFTER]], "hasMore": False}))
    with serving(script) as server:
        assert ids(begin(server, BENEVITY, end=BEGAN + more)) == ["a", "b", *found]


def test_of_what_changed_a_few_pages_are_read(begin: Begin) -> None:
    def changes(number: int) -> Answer:
        return Answer.of({"records": [[f"c{number}", AFTER]], "hasMore": True})

    with serving(meanwhile([[OLD], [["b", BEFORE]]], changes)) as server:
        assert ids(begin(server, BENEVITY)) == ["a", "b", "c1", "c2", "c3"]


@pytest.mark.parametrize("answer", [Answer(404), Answer.of({"records": []})])
def test_who_cannot_say_what_changed_is_believed(begin: Begin, answer: Answer) -> None:
    with serving(meanwhile([[OLD], [["b", BEFORE]]], lambda _: answer)) as server:
        assert ids(begin(server, BENEVITY)) == ["a", "b"]


def test_errors_of_source_and_decoder_come_through(begin: Begin) -> None:
    with serving(lambda ask: Answer(403)) as server, pytest.raises(NotAllowed):
        ids(begin(server, KINTELL))
    with serving(lambda ask: Answer.of({"records": None})) as server, pytest.raises(SourceMisbehaves):
        ids(begin(server, KINTELL))


def test_a_cancelled_reading_makes_no_more_requests(begin: Begin) -> None:
    import threading

    cancel = threading.Event()
    with serving(numbered(1000)) as server:
        pages = iter(begin(server, BENEVITY, cancel=cancel))
        next(pages)
        cancel.set()
        with pytest.raises(Cancelled):
            next(pages)
    assert len(asked(server)) == 1


def test_a_window_of_many_days_is_one_reading(begin: Begin) -> None:
    with serving(numbered(450)) as server:
        reading = begin(server, BENEVITY, end=START + timedelta(days=31))
        assert len(ids(reading)) == 450
    assert reading.requests == 5 + 1 + 1  # a token, and what changed meanwhile
    assert all(int(a["page"]) + 1 == int(b["page"]) for a, b in pairwise(asked(server)[:5]))


def test_health_is_one_request_without_credentials(tmp_path: Path) -> None:
    with serving(in_turn(Answer.of({"status": "ok"}))) as server:
        pulse = probe(SYSTEMS["kintell"], credentials("kintell", f"{server.url}/k"), settings(tmp_path))
    assert pulse.status == 200
    assert 0 < pulse.response_ms < 5000
    (ask,) = server.asked
    assert ask.target == "/k/health"
    assert "authorization" not in ask.headers


def test_where_there_is_no_health_a_token_is_the_probe(tmp_path: Path) -> None:
    with serving(in_turn(Answer.of({"access_token": "t"}))) as server:
        assert probe(SYSTEMS["workday"], credentials("workday", server.url), settings(tmp_path)).status == 200
    assert [ask.method for ask in server.asked] == ["POST"]


@pytest.mark.parametrize("after", ["", "1", "60"])
@pytest.mark.parametrize("initial", [0, 1])
@pytest.mark.parametrize("system", ["kintell", "benevity"])
def test_a_probe_does_not_wait(tmp_path: Path, system: str, initial: int, after: str) -> None:
    with serving(in_turn(Answer(503, headers={"Retry-After": after} if after else {}))) as server:
        given = settings(tmp_path, TEEI_RETRY_INITIAL_S=initial)
        pulse = probe(SYSTEMS[system], credentials(system, server.url), given)
    assert isinstance(pulse.error, SourceDown) and "503" in str(pulse.error)
    assert len(server.asked) == 1
