"""Faults of paging: pages that repeat, cursors that loop, totals that lie.

Does not belong here: what the records hold and which there are (`rows.py`).
"""

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import msgspec

from teei_ingest.sandbox.faults.base import Call, Fault, Heals, Parameter
from teei_ingest.sandbox.makers import replaced
from teei_ingest.sandbox.reply import Reply
from teei_ingest.streams.base import Cursor, PageNumber, SinceOnly, StartIndex, Stream
from teei_ingest.systems.base import System

Body = dict[str, Any]


def edited(call: Call, reply: Reply, change: Callable[[Body, list[Any]], Body | None]) -> Reply | None:
    """The reply with another body; `change` gets it and its records and gives another, or None to leave it alone."""
    stream, _ = call.listed
    body = msgspec.json.decode(reply.body)
    changed = change(body, body[stream.records])
    return None if changed is None else replace(reply, body=msgspec.json.encode(changed))


def is_paged_by(*paging: type) -> Callable[[System, Stream | None], bool]:
    """Streams with one of these kinds of paging."""
    return lambda system, stream: stream is not None and isinstance(stream.paging, paging)


def _repeated(call: Call, reply: Reply, rng: Random) -> Reply | None:
    """The page before, as a source would send it whose pages got mixed up."""
    if call.before is None:
        return None
    return replace(reply, body=call.sandbox.render(call.before).body)


def _looping(call: Call, reply: Reply, rng: Random) -> Reply | None:
    """The next cursor is the one that was asked with; of the first page, one that leads there."""
    _, ask = call.listed
    return edited(call, reply, lambda body, rows: body | {_cursor(call).next: _made(call, *ask.place)})


def _for_ever(call: Call, reply: Reply, rng: Random) -> Reply | None:
    """An empty page that says there are more; a new cursor each time."""
    stream, _ = call.listed

    def change(body: Body, rows: list[Any]) -> Body:
        body[stream.records] = []
        if isinstance(stream.paging, PageNumber):
            return replaced(body, stream.paging.more, True)
        return body | {_cursor(call).next: _made(call, 0, call.number)}

    return edited(call, reply, change)


def _cursor(call: Call) -> Cursor:
    stream, _ = call.listed
    assert isinstance(stream.paging, Cursor)
    return stream.paging


def _made(call: Call, *place: int) -> str:
    _, ask = call.listed
    return call.sandbox.lists.cursor(ask.stream, ask.company, *place)


def _total(call: Call, reply: Reply, number: Callable[[int], int]) -> Reply | None:
    """The reply with another total, where there is one at all."""
    stream, _ = call.listed
    assert isinstance(stream.paging, StartIndex)
    name = stream.paging.total
    return edited(call, reply, lambda body, rows: body | {name: number(body[name])} if body[name] else None)


def _total_high(call: Call, reply: Reply, rng: Random, by: int) -> Reply | None:
    return _total(call, reply, lambda total: total + by)


def _total_low(call: Call, reply: Reply, rng: Random) -> Reply | None:
    """One less than the first page holds: a lower number at a page's border could not be noticed."""
    _, ask = call.listed
    return _total(call, reply, lambda total: min(ask.limit, total) - 1)


def _total_changes(call: Call, reply: Reply, rng: Random) -> Reply | None:
    return _total(call, reply, lambda total: total + 1) if call.page > 1 else None


def _short(call: Call, reply: Reply, rng: Random, limit: int) -> Reply | None:
    """What the source gives at most, whatever is asked for."""
    _, ask = call.listed
    if ask.limit <= limit:
        return None
    return replace(reply, body=call.sandbox.render(ask._replace(limit=limit), instead_of=ask).body)


def _shuffled(call: Call, reply: Reply, rng: Random) -> Reply | None:
    def change(body: Body, rows: list[Any]) -> Body | None:
        if len(rows) < 2:
            return None
        before = list(rows)
        while rows == before:
            rng.shuffle(rows)
        return body

    return edited(call, reply, change)


def _promised(stream: Stream) -> Heals | None:
    return Heals.FAILS if isinstance(stream.window, SinceOnly) else None


PAGES = (
    Fault(
        "page-repeated",
        "Instead of a page the one before it, with all that it says about paging.",
        Heals.FAILS,
        _repeated,
        page=True,
    ),
    Fault(
        "cursor-loop",
        "The next cursor is the one that was asked with.",
        Heals.FAILS,
        _looping,
        page=True,
        lasting=True,
        applies_to=is_paged_by(Cursor),
    ),
    Fault(
        "more-for-ever",
        "Empty pages of which each says that there are more.",
        Heals.FAILS,
        _for_ever,
        page=True,
        lasting=True,
        applies_to=is_paged_by(PageNumber, Cursor),
    ),
    Fault(
        "total-too-high",
        "`totalResults` says more than there are.",
        Heals.FAILS,
        _total_high,
        {"by": Parameter(1, "how many more", low=1)},
        page=True,
        lasting=True,
        applies_to=is_paged_by(StartIndex),
    ),
    Fault(
        "total-too-low",
        "`totalResults` says one less than the first page holds.",
        Heals.FAILS,
        _total_low,
        page=True,
        lasting=True,
        applies_to=is_paged_by(StartIndex),
    ),
    Fault(
        "total-changes",
        "`totalResults` is another on a later page.",
        Heals.REREAD,
        _total_changes,
        page=True,
        applies_to=is_paged_by(StartIndex),
    ),
    Fault(
        "short-pages",
        "Fewer records to a page than were asked for, and no record left out.",
        Heals.KEPT,
        _short,
        {"limit": Parameter(2, "records to a page", low=1)},
        page=True,
        lasting=True,
        from_first=True,
    ),
    Fault(
        "out-of-order",
        "The records of a page in another order.",
        Heals.KEPT,
        _shuffled,
        page=True,
        elsewhere=_promised,
    ),
)
