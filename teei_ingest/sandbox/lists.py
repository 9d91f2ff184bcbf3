"""From the query of a request to the page that it asks for.

Belongs here: parameters and their limits, windows, the styles of paging, as the declarations in `streams/` name
them. Does not belong here: credentials (`access.py`), HTTP (`app.py`).
"""

import base64
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import lru_cache
from itertools import accumulate, islice
from random import Random
from typing import Any, NamedTuple

import msgspec

from teei_ingest.sandbox.access import Refused, unprocessable
from teei_ingest.sandbox.chance import key, parse
from teei_ingest.sandbox.changes import Changes, Standing
from teei_ingest.sandbox.config import credential
from teei_ingest.sandbox.makers import replaced
from teei_ingest.sandbox.records import Record
from teei_ingest.sandbox.world import DAY_NS, Span, World
from teei_ingest.streams import all_streams
from teei_ingest.streams.base import Between, Cursor, PageNumber, ScimFilter, SinceOnly, StartIndex, Stream
from teei_ingest.systems.base import System

_DEFAULT_LIMIT = 100
_LIST_RESPONSE = "urn:ietf:params:scim:api:messages:2.0:ListResponse"

Window = tuple[int | None, int | None]


def scim(stream: Stream) -> bool:
    """Whether a stream speaks SCIM."""
    return isinstance(stream.window, ScimFilter)


class Ask(NamedTuple):
    """One page, as a request means it, however it is written. `place`: the page's number or the index of its
    first record, both from 1; or the day and slot with which it begins.
    """

    stream: str
    company: str
    since: int | None
    until: int | None
    limit: int
    place: tuple[int, ...]


class Page(NamedTuple):
    """A body as JSON, whether later records leave it as it is, and the page that follows."""

    body: bytes
    final: bool
    following: Ask | None


class Lists:
    """All lists of one world."""

    def __init__(self, world: World) -> None:
        self.changes: dict[tuple[str, str], Changes] = {}
        self._world = world
        self._final_spans = lru_cache(maxsize=256)(self._spans)

    def forget(self) -> None:
        """Forget what was found to be final."""
        self._final_spans.cache_clear()

    def ask(self, system: System, stream: Stream, company: str, query: Mapping[str, str]) -> Ask:
        """What the query of a request asks for. Raises Refused."""
        paging, window = stream.paging, stream.window
        known = {*stream.params, *_names(paging), *_names(window), system.tenant_param}
        unknown = sorted(query.keys() - known)
        if unknown:
            raise unprocessable(f"unknown parameter {unknown[0][:40]}")
        self._check_tenant(system, company, query)
        since, until = _window(window, query)
        limit = _limit(system, stream, query)
        place: tuple[int, ...]
        if isinstance(paging, PageNumber):
            place = (_whole(query, paging.page, 1),)
            if place[0] < 1:
                raise unprocessable(f"{paging.page} begins with 1")
        elif isinstance(paging, StartIndex):
            place = (max(1, _whole(query, paging.start, 1)),)
        else:
            place = self._place(stream, company, query.get(paging.cursor))
        return Ask(stream.name, company, since, until, limit, place)

    def render(self, ask: Ask) -> Page:
        """The page that is asked for."""
        stream = all_streams()[ask.stream]
        changes = self.changes.get((ask.stream, ask.company))
        if isinstance(stream.paging, Cursor):
            return (
                self._by_moment(stream.paging, ask, changes) if changes else self._by_cursor(stream, stream.paging, ask)
            )
        final = changes is None and self._world.final_before(ask.until)
        standing = [one.record for one in changes.standing(ask.since, ask.until)] if changes else []
        parts = (self._final_spans if final else self._spans)(ask.stream, ask.company, ask.since, ask.until)
        total = len(standing) if changes else parts[1]

        def read(start: int) -> list[Record]:
            if changes:
                return standing[start : start + ask.limit]
            return self._slice(stream, ask.company, parts, start, ask.limit)

        following = None
        body: dict[str, Any]
        if isinstance(stream.paging, PageNumber):
            number = ask.place[0]
            rows = read((number - 1) * ask.limit)
            if number * ask.limit < total:
                following = ask._replace(place=(number + 1,))
            body = replaced({stream.records: rows}, stream.paging.more, following is not None)
            parent = stream.paging.more.rpartition("/")[0]
            if parent:
                body = replaced(body, f"{parent}/page", number)
        else:
            first = ask.place[0]
            rows = read(first - 1)
            if rows and first - 1 + len(rows) < total:
                following = ask._replace(place=(first + len(rows),))
            body = {
                "schemas": [_LIST_RESPONSE],
                stream.paging.total: total,
                stream.paging.start: first,
                stream.paging.per_page: len(rows),
                stream.records: rows,
            }
        return Page(msgspec.json.encode(body), final, following)

    def _check_tenant(self, system: System, company: str, query: Mapping[str, str]) -> None:
        if system.tenant_param is None:
            return
        given = query.get(system.tenant_param)
        if not given:
            raise unprocessable(f"{system.tenant_param} is missing")
        own = self._world.config.id_of(company)
        if system.tenant != "company_id":
            own = credential(system, system.tenant, company)
        if given != own:
            raise Refused(403, "forbidden", f"{system.tenant_param}: not yours")

    def _spans(
        self, stream: str, company: str, since: int | None, until: int | None
    ) -> tuple[list[Span], int, list[int]]:
        """What a window holds: spans, their sum, the index at which each begins."""
        world = self._world
        spans = [world.span(stream, company, day, since, until) for day in world.days(since, until)]
        ends = list(accumulate((span.high - span.low for span in spans), initial=0))
        return spans, ends[-1], ends[:-1]

    def _slice(
        self,
        stream: Stream,
        company: str,
        spans: tuple[list[Span], int, list[int]],
        start: int,
        limit: int,
    ) -> list[Record]:
        parts, total, begins = spans
        rows: list[Record] = []
        position = bisect_right(begins, start) - 1
        while len(rows) < limit and start + len(rows) < total:
            span, skip = parts[position], max(0, start - begins[position])
            wanted = Span(span.day, span.low + skip, min(span.high, span.low + skip + limit - len(rows)))
            rows += self._read(stream, company, wanted, span)
            position += 1
        return rows

    def _read(self, stream: Stream, company: str, wanted: Span, whole: Span) -> list[Record]:
        shuffled = self._world.is_shuffled(stream.name, company, whole)
        return self._world.records(stream.name, company, wanted, shuffled)

    def _by_cursor(self, stream: Stream, paging: Cursor, ask: Ask) -> Page:
        rows: list[Record] = []
        next_place = None
        for span in self._from(ask):
            room = ask.limit - len(rows)
            if room == 0:
                next_place = span.day, span.low
                break
            cut = Span(span.day, span.low, min(span.high, span.low + room))
            rows += self._read(stream, ask.company, cut, span)
            if cut.high < span.high:
                next_place = span.day, cut.high
                break
        following = self.cursor(ask.stream, ask.company, *next_place) if next_place else None
        body = msgspec.json.encode(replaced({stream.records: rows}, paging.next, following))
        if next_place is None:
            return Page(body, self._world.final_before(ask.until), None)
        final = self._world.final_before(next_place[0] * DAY_NS + 1)
        return Page(body, final, ask._replace(place=next_place))

    def _by_moment(self, paging: Cursor, ask: Ask, changes: Changes) -> Page:
        """A page of a list with changes: the cursor is the moment of the next record, so that none moves under it."""
        since = max(ask.since or 0, self._moment(ask))
        found = list(islice(changes.standing(since, ask.until), ask.limit + 1))
        place = (found[-1].moment // DAY_NS, found[-1].moment) if len(found) > ask.limit else None
        following = self.cursor(ask.stream, ask.company, *place) if place else None
        rows = [one.record for one in found[: ask.limit]]
        body = replaced({changes.stream.records: rows}, paging.next, following)
        return Page(msgspec.json.encode(body), False, ask._replace(place=place) if place else None)

    def _moment(self, ask: Ask) -> int:
        """The moment at which a cursor's page begins."""
        day, slot = ask.place
        if slot >= DAY_NS or (day, slot) == (0, 0):
            return slot
        return self._world.moment(ask.stream, ask.company, day, slot)

    def records(self, stream: str, company: str, since: int | None, until: int | None) -> list[Record]:
        """The wire records of a window (ns, either end open) as they are now, by source timestamp."""
        changes = self.changes.get((stream, company)) or Changes(self._world, all_streams()[stream], company)
        return [deepcopy(one.record) for one in sorted(changes.standing(since, until), key=lambda one: one.moment)]

    def change(self, ask: Ask, rng: Random, *, served: bool, inside: bool) -> bool:
        """A record of the list changes: its timestamp moves to the end of its day, or to now. Whether there is one."""
        changes, chosen = self._choose(ask, rng, served)
        if chosen is None:
            return False
        moment = (chosen.moment // DAY_NS + 1) * DAY_NS - 1_000_000_000 if inside else self._world.now() // 1000 * 1000
        changes.move(chosen, min(moment, self._world.now()), first=not served)
        return True

    def vanish(self, ask: Ask, rng: Random, *, served: bool) -> bool:
        """A record of the list is gone. Whether there is one."""
        changes, chosen = self._choose(ask, rng, served)
        if chosen is not None:
            changes.remove(chosen)
        return chosen is not None

    def appear(self, ask: Ask, rng: Random, *, first: bool, days_before: int = 0) -> bool:
        """A record appears in the first day of the list's window, or so many days before it."""
        changes = self._changes(ask)
        begin = (ask.since or self._world.now() - DAY_NS) // DAY_NS * DAY_NS
        end = min(begin + DAY_NS, self._world.now())
        listed = list(changes.standing(begin, end))
        if not listed or begin >= end:
            return False
        like = rng.choice(listed)
        if days_before:
            moment = begin - days_before * DAY_NS + rng.randrange(DAY_NS)
        elif first:
            moment = begin + rng.randrange(max(1, listed[0].moment - begin))
        else:
            moment = rng.randrange(max(one.moment for one in listed), end)
        changes.add(like.record, moment, rng, first=first)
        return True

    def _changes(self, ask: Ask) -> Changes:
        at = ask.stream, ask.company
        return self.changes.setdefault(at, Changes(self._world, all_streams()[ask.stream], ask.company))

    def _choose(self, ask: Ask, rng: Random, served: bool) -> tuple[Changes, Standing | None]:
        """A record that was served up to the end of a page, or one that is still to come."""
        changes = self._changes(ask)
        stream, since, until = changes.stream, ask.since, ask.until
        if until is None and since is not None:
            until = (since // DAY_NS + 1) * DAY_NS
        listed = list(changes.standing(since, until))
        if isinstance(stream.paging, Cursor):
            begin = self._moment(ask)
            border = sum(one.moment < begin for one in listed) + ask.limit
        else:
            border = ask.place[0] * ask.limit if isinstance(stream.paging, PageNumber) else ask.place[0] - 1 + ask.limit
        candidates = listed[:border] if served else listed[border:]
        return changes, rng.choice(candidates) if candidates else None

    def _from(self, ask: Ask) -> Iterator[Span]:
        """What is left of a window from a cursor's place on."""
        first, slot = ask.place
        for day in self._world.days(ask.since, ask.until):
            if day < first:
                continue
            span = self._world.span(ask.stream, ask.company, day, ask.since, ask.until)
            low = max(span.low, slot) if day == first else span.low
            if low < span.high:
                yield Span(day, low, span.high)

    def cursor(self, stream: str, company: str, day: int, slot: int) -> str:
        """The cursor of the page that begins with a slot, or, where records changed, with a moment in ns."""
        place = f"{day}.{slot}"
        text = f"{place}.{key(self._world.config.seed, stream, company, place) & 0xFFFFFFFF:08x}"
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    def _place(self, stream: Stream, company: str, cursor: str | None) -> tuple[int, int]:
        """Day and slot of a cursor, which is good for its stream and company alone."""
        if cursor is None:
            return 0, 0
        try:
            day, slot, _ = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split(".")
            place = int(day), int(slot)
        except ValueError:
            place = None
        if place is None or self.cursor(stream.name, company, *place) != cursor:
            raise unprocessable("unknown cursor")
        return place


def _names(declaration: PageNumber | Cursor | StartIndex | Between | SinceOnly | ScimFilter) -> tuple[str, ...]:
    """The query parameters of a style of paging or of a window."""
    match declaration:
        case PageNumber():
            return declaration.page, declaration.limit
        case Cursor():
            return declaration.cursor, declaration.limit
        case StartIndex():
            return declaration.start, declaration.limit
        case Between():
            return declaration.since, declaration.until
        case SinceOnly():
            return (declaration.since,)
        case ScimFilter():
            return (declaration.param,)


def _window(window: Between | SinceOnly | ScimFilter, query: Mapping[str, str]) -> Window:
    if isinstance(window, ScimFilter):
        return _filter(window, query.get(window.param))
    ends = [_instant(query, name) for name in _names(window)]
    since, until = ends[0], ends[1] if len(ends) > 1 else None
    if since is not None and until is not None and since > until:
        raise unprocessable("the window ends before it begins")
    return since, until


def _instant(query: Mapping[str, str], name: str) -> int | None:
    if name not in query:
        return None
    moment = parse(query[name])
    if moment is None:
        raise unprocessable(f"{name} is no RFC 3339 time with an offset")
    return moment


def _filter(window: ScimFilter, text: str | None) -> Window:
    """Ends of the window in a SCIM filter: `attribute ge "…" and attribute lt "…"`, or either part."""
    if text is None:
        return None, None
    attribute = re.escape(window.attribute)
    since_part, until_part = (rf'{attribute} {operator} "([^"]*)"' for operator in ("ge", "lt"))
    found = re.fullmatch(rf"{since_part}(?: and {until_part})?|{until_part}", text.strip(), re.IGNORECASE)
    if found:
        since_text, until_text = found[1], found[2] or found[3]
        since, until = (parse(end) if end is not None else None for end in (since_text, until_text))
        if (since_text is None) == (since is None) and (until_text is None) == (until is None):
            return since, until
    raise Refused(400, "bad_request", "the filter is not supported", scim_type="invalidFilter")


def _whole(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"-?\d{1,12}", text, re.ASCII):
        raise unprocessable(f"{name} is no whole number")
    return int(text)


def _limit(system: System, stream: Stream, query: Mapping[str, str]) -> int:
    name = stream.paging.limit
    limit = _whole(query, name, min(_DEFAULT_LIMIT, system.max_page))
    if isinstance(stream.paging, StartIndex):
        return min(max(0, limit), system.max_page)
    if not 1 <= limit <= system.max_page:
        raise unprocessable(f"{name} has to be 1 to {system.max_page}")
    return limit
