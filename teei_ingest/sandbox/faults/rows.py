"""Faults of records: bad ones, unknown and changed fields, and records that change while they are paged over.

Does not belong here: paging (`pages.py`).
"""

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from random import Random
from typing import Any

from teei_ingest.sandbox.faults.base import Call, Fault, Heals, Parameter
from teei_ingest.sandbox.faults.pages import edited, is_paged_by
from teei_ingest.sandbox.makers import maker_of, replaced
from teei_ingest.sandbox.records import Record
from teei_ingest.sandbox.reply import Reply
from teei_ingest.streams.base import Choice, Cursor, PageNumber, SinceOnly, Stream
from teei_ingest.systems.base import System

Break = Callable[[Stream, Record, Random], Any]

_NUMBERS = ("hoursLogged", "hours", "duration_minutes", "hours_completed", "amount", "rating")
_TIMES = (
    "activityDate",
    "donationDate",
    "date",
    "enrolled_at",
    "session_date",
    "matched_at",
    "checkin_date",
    "event_date",
)
_DEPARTMENT = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User/department"
_UNKNOWN = "not-in-any-list"


def _without(path: Callable[[Stream], str]) -> Break:
    def broken(stream: Stream, record: Record, rng: Random) -> Any:
        return _removed(record, path(stream))

    return broken


def _with(path: Callable[[Stream], str], value: Any) -> Break:
    return lambda stream, record, rng: replaced(record, path(stream), value)


def _first(names: tuple[str, ...], value: Any) -> Break:
    """The first of the fields that the record has gets the value; None if it has none of them."""

    def broken(stream: Stream, record: Record, rng: Random) -> Any:
        name = next((name for name in names if record.get(name) is not None), None)
        return None if name is None else {**record, name: value}

    return broken


def _removed(record: Record, path: str) -> Record:
    name, _, rest = path.partition("/")
    name = name.removesuffix("?")
    if rest:
        return {**record, name: _removed(record[name], rest)}
    return {key: value for key, value in record.items() if key != name}


def _required(stream: Stream) -> str:
    return maker_of(stream).required


def _other_type(value: Any) -> Any:
    if isinstance(value, bool | int | float):
        return {"value": value}
    return [value] if isinstance(value, str) else str(value)


def _retyped(stream: Stream, record: Record, rng: Random) -> Any:
    name = _required(stream)
    return {**record, name: _other_type(record.get(name))}


def _choice(stream: Stream) -> Choice | None:
    return next((source for source in stream.mapping.values() if isinstance(source, Choice)), None)


def _has_other(choice: Choice) -> bool:
    return any(member.value == "other" for value in choice.values.values() for member in type(value))


def _unlisted(stream: Stream, record: Record, rng: Random) -> Any:
    choice = _choice(stream)
    return None if choice is None or _at(record, choice.path) is None else replaced(record, choice.path, _UNKNOWN)


def _unlisted_and_refused(stream: Stream, record: Record, rng: Random) -> Any:
    choice = _choice(stream)
    return None if choice is None or _has_other(choice) else _unlisted(stream, record, rng)


def _at(record: Any, path: str) -> Any:
    for name in path.split("/"):
        record = record.get(name.removesuffix("?")) if isinstance(record, dict) else None
    return record


KINDS: Mapping[str, Break] = {
    "missing": _without(_required),
    "null": _with(_required, None),
    "type": _retyped,
    "negative": _first(_NUMBERS, -1),
    "not-a-number": _first(_NUMBERS, "many"),
    "too-precise": _first(("amount",), "1.000001"),
    "no-such-day": _first(_TIMES, "2024-02-30T10:00:00Z"),
    "no-such-currency": _first(("currency",), "kroner"),
    "unlisted": _unlisted_and_refused,
    "no-id": _without(lambda stream: stream.source_id),
    "id-type": _with(lambda stream: stream.source_id, 12345),
    "no-timestamp": _without(lambda stream: stream.source_timestamp),
    "timestamp-type": _with(lambda stream: stream.source_timestamp, 1705312800),
    "no-time-zone": _with(lambda stream: stream.source_timestamp, "2024-01-15T10:00:00"),
    "not-an-object": lambda stream, record, rng: "a text",
    "null-record": lambda stream, record, rng: [],
}
_ANY = "any"


def _bad_rows(call: Call, reply: Reply, rng: Random, kind: str, rows: int, share: float) -> Reply | None:
    def broken(stream: Stream, record: Record, rng: Random) -> Any:
        for name in rng.sample(list(KINDS), len(KINDS)) if kind == _ANY else (kind,):
            made = KINDS[name](stream, record, rng)
            if made is not None:
                return made
        return None

    return _some(call, reply, rng, broken, rows, share)


def _some(call: Call, reply: Reply, rng: Random, change: Break, rows: int, share: float) -> Reply | None:
    """Change so many records of a page, or that share of them, whichever are more and can be changed."""
    stream, _ = call.listed

    def changed(body: Record, records: list[Any]) -> Record | None:
        left = max(rows, math.ceil(share * len(records)))
        done = False
        for at in rng.sample(range(len(records)), len(records)):
            made = change(stream, records[at], rng) if left else None
            if made is not None:
                records[at], left, done = made, left - 1, True
        return body if done else None

    return edited(call, reply, changed)


def _type_changed(call: Call, reply: Reply, rng: Random, field: str, rows: int, share: float) -> Reply | None:
    def change(stream: Stream, record: Record, rng: Random) -> Any:
        name = field or _required(stream)
        return {**record, name: _other_type(record[name])} if record.get(name) is not None else None

    return _some(call, reply, rng, change, rows, share)


def _enum(call: Call, reply: Reply, rng: Random, rows: int, share: float) -> Reply | None:
    return _some(call, reply, rng, _unlisted, rows, share)


def _unknown_fields(call: Call, reply: Reply, rng: Random, field: str) -> Reply | None:
    def change(stream: Stream, record: Record, rng: Random) -> Any:
        nested = {name: {**value, field: 1} if isinstance(value, dict) else value for name, value in record.items()}
        return {**nested, field: {"deep": [1, {"er": None}]}, f"{field} 🎉": "Grüße", "": []}

    return _some(call, reply, rng, change, 0, 1.0)


def revised(stream: Stream, record: Record) -> Record | None:
    """The record with another content under the same id and timestamp; None if nothing is known to change."""
    for name in ("hoursLogged", "hours", "duration_minutes"):
        if isinstance(record.get(name), int | float):
            return {**record, name: record[name] + 1}
    for name, values in (
        ("amount", ("12.34", "43.21")),
        ("hours_completed", (7, 8)),
        ("mood", ("good", "okay")),
        ("status", ("completed", "active")),
        ("event_type", ("hangout", "walk")),
    ):
        if name in record:
            return {**record, name: values[record[name] == values[0]]}
    if _at(record, _DEPARTMENT):
        return replaced(record, _DEPARTMENT, "Moved")
    return None


def _twice(change: Callable[[Stream, Record], Record | None]) -> Callable[..., Reply | None]:
    def act(call: Call, reply: Reply, rng: Random) -> Reply | None:
        stream, _ = call.listed

        def changed(body: Record, records: list[Any]) -> Record | None:
            for at in rng.sample(range(len(records)), len(records)):
                again = change(stream, deepcopy(records[at]))
                if again is not None:
                    records.insert(at + 1, again)
                    return body
            return None

        return edited(call, reply, changed)

    return act


def _changes(call: Call, reply: Reply, rng: Random, which: str, to: str) -> Reply | None:
    _, ask = call.listed
    return reply if call.sandbox.lists.change(ask, rng, served=which == "served", inside=to == "window") else None


def _appears(call: Call, reply: Reply, rng: Random, where: str) -> Reply | None:
    _, ask = call.listed
    return reply if call.sandbox.lists.appear(ask, rng, first=where == "served") else None


def _late(call: Call, reply: Reply, rng: Random, days: int) -> Reply | None:
    _, ask = call.listed
    return reply if call.sandbox.lists.appear(ask, rng, first=True, days_before=days) else None


def _vanishes(call: Call, reply: Reply, rng: Random, which: str) -> Reply | None:
    _, ask = call.listed
    return reply if call.sandbox.lists.vanish(ask, rng, served=which == "served") else None


def _has_choice(system: System, stream: Stream | None) -> bool:
    return stream is not None and _choice(stream) is not None


def _refused(stream: Stream) -> Heals | None:
    choice = _choice(stream)
    return Heals.QUARANTINED if choice and not _has_other(choice) else None


def _by_place(stream: Stream) -> Heals | None:
    """A cursor says which record comes next, so nothing moves under it."""
    return Heals.KEPT if isinstance(stream.window, SinceOnly) else None


def _behind_the_back(stream: Stream) -> Heals | None:
    """A list without a total does not tell that it became shorter."""
    return Heals.LATER if isinstance(stream.paging, PageNumber) else _by_place(stream)


def _unread(stream: Stream) -> Heals | None:
    """Whether a record came twice by itself, or since another came in before it, shows in no list without a total."""
    return Heals.KEPT if isinstance(stream.paging, PageNumber) else _by_place(stream)


_ROWS = {
    "rows": Parameter(1, "how many records of the page", low=0),
    "share": Parameter(0.0, "or what share of them", high=1),
}
_WHICH = {"which": Parameter("served", "one that was served, or one that is still to come", ("served", "coming"))}

ROWS = (
    Fault(
        "bad-rows",
        "Records that break their contract.",
        Heals.QUARANTINED,
        _bad_rows,
        {"kind": Parameter(_ANY, "how they break it", (_ANY, *KINDS)), **_ROWS},
        page=True,
    ),
    Fault(
        "unknown-fields",
        "Fields that no document names, in the records and in the objects within.",
        Heals.KEPT,
        _unknown_fields,
        {"field": Parameter("x_new", "their name")},
        page=True,
    ),
    Fault(
        "type-changed",
        "A field is of another JSON type.",
        Heals.QUARANTINED,
        _type_changed,
        {"field": Parameter("", "which; empty: one that is required"), **_ROWS},
        page=True,
    ),
    Fault(
        "enum-unknown",
        "A value that is in no list.",
        Heals.KEPT,
        _enum,
        _ROWS,
        page=True,
        applies_to=_has_choice,
        elsewhere=_refused,
    ),
    Fault(
        "record-twice",
        "A record comes twice, the same to the letter.",
        Heals.KEPT,
        _twice(lambda stream, record: record),
        page=True,
        applies_to=is_paged_by(PageNumber, Cursor),
    ),
    Fault(
        "record-conflicts",
        "A record comes twice, with the same id and timestamp and another content.",
        Heals.REREAD,
        _twice(revised),
        page=True,
        applies_to=is_paged_by(PageNumber, Cursor),
    ),
    Fault(
        "record-changes",
        "Behind a page a record changes, and with it the page borders: its timestamp moves to now, or in the window.",
        Heals.REREAD,
        _changes,
        {**_WHICH, "to": Parameter("now", "where it moves to", ("now", "window"))},
        page=True,
        elsewhere=_by_place,
    ),
    Fault(
        "record-appears",
        "Behind a page a record appears in the window: among what was served, or in what is to come.",
        Heals.REREAD,
        _appears,
        {"where": Parameter("served", "where in the list", ("served", "coming"))},
        page=True,
        elsewhere=_unread,
    ),
    Fault(
        "record-late",
        "Behind a page a record appears whose timestamp is days older than the window.",
        Heals.KEPT,
        _late,
        {"days": Parameter(2, "how many days older", low=1, high=3650)},
        page=True,
    ),
    Fault(
        "record-vanishes",
        "Behind a page a record is gone for good.",
        Heals.REREAD,
        _vanishes,
        _WHICH,
        page=True,
        elsewhere=_behind_the_back,
    ),
)
