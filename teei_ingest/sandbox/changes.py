"""What became of a stream's records after the world was made: some changed, some appeared, some are gone.

Belongs here: the list of a window with all that, and making such changes. Does not belong here: when they are made
(`faults/`), pages (`lists.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import merge
from itertools import chain
from operator import attrgetter
from random import Random
from typing import NamedTuple

from teei_ingest.sandbox.chance import letters, uuid_from, write
from teei_ingest.sandbox.makers import maker_of, namesake, replaced
from teei_ingest.sandbox.records import Record
from teei_ingest.sandbox.world import World
from teei_ingest.streams.base import SinceOnly, Stream

_TICK = 1000  # ns; all that is made here has whole microseconds


class Standing(NamedTuple):
    """A record in a list: its source timestamp in ns, and its day and slot, or the number of its change."""

    moment: int
    record: Record
    key: tuple[int, int] | int


@dataclass
class Changes:
    """One stream of one company."""

    world: World
    stream: Stream
    company: str
    gone: set[tuple[int, int]] = field(default_factory=set)
    first: dict[int, Standing] = field(default_factory=dict)  # before all others, where there is no order
    last: dict[int, Standing] = field(default_factory=dict)
    _made: int = 0

    def standing(self, since: int | None, until: int | None) -> Iterator[Standing]:
        """What a window (ns, either end open) holds, in the source's order."""
        base = self._base(since, until)
        now = self.world.now()
        first, last = (
            [
                one
                for one in place.values()
                if (since or 0) <= one.moment <= now and (until is None or one.moment < until)
            ]
            for place in (self.first, self.last)
        )
        if isinstance(self.stream.window, SinceOnly):
            return merge(base, sorted([*first, *last], key=attrgetter("moment")), key=attrgetter("moment"))
        return chain(reversed(first), base, last)

    def _base(self, since: int | None, until: int | None) -> Iterator[Standing]:
        world, name = self.world, self.stream.name
        for day in world.days(since, until):
            span = world.span(name, self.company, day, since, until)
            for slot, record in world.slots(name, self.company, span, world.is_shuffled(name, self.company, span)):
                if (day, slot) not in self.gone:
                    yield Standing(world.moment(name, self.company, day, slot), record, (day, slot))

    def remove(self, one: Standing) -> None:
        """A record is gone."""
        if isinstance(one.key, tuple):
            self.gone.add(one.key)
        else:
            self.first.pop(one.key, None)
            self.last.pop(one.key, None)

    def move(self, one: Standing, moment: int, *, first: bool) -> None:
        """A record's timestamp is another, at or after `moment`, and its place in the list, too."""
        self.remove(one)
        self._add(one.record, moment, first)

    def add(self, like: Record, moment: int, rng: Random, *, first: bool) -> None:
        """A new record that looks like another one, at or after `moment`."""
        code = letters(rng.getrandbits(32), 8)
        if maker_of(self.stream).people:
            record = namesake(like, code)
        else:
            known = str(_value(like, self.stream.source_id))
            fresh = uuid_from(rng.getrandbits(64)) if re.fullmatch(r"[0-9a-f-]{36}", known) else f"{known}-{code}"
            record = replaced(like, self.stream.source_id, fresh)
        self._add(record, moment, first)

    def _add(self, record: Record, moment: int, first: bool) -> None:
        """No two records have the same timestamp, so that a timestamp is a place in an ascending list."""
        moment = -(-moment // _TICK) * _TICK
        taken = {one.moment for one in self.standing(moment, moment + 1000 * _TICK)}
        while moment in taken:
            moment += _TICK
        self._made += 1
        record = replaced(record, self.stream.source_timestamp, write(moment, 6))
        (self.first if first else self.last)[self._made] = Standing(moment, record, self._made)


def _value(record: Record, path: str) -> object:
    name, _, rest = path.partition("/")
    return _value(record[name], rest) if rest else record[name]
