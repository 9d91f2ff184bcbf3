"""Which records there are: everything follows from (seed, company, stream, day).

Belongs here: how many records a day has, when each was last changed, which of them show again. Does not belong
here: their fields (`records.py`), who may read them and how (`app.py`).
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from random import Random

from teei_ingest.sandbox.chance import EPOCH, MASK, key, letters, mix, slot_text, slot_time, uuid_from
from teei_ingest.sandbox.config import COMPANIES, DEMO_DAYS, SandboxConfig
from teei_ingest.sandbox.makers import Maker, loosen, maker_of, namesake, replaced, spoil
from teei_ingest.sandbox.people import staff
from teei_ingest.sandbox.records import Draw, Record
from teei_ingest.streams import all_streams
from teei_ingest.streams.base import SinceOnly, Stream

DAY_NS = 86_400_000_000_000

_BLOCK = 5_000  # records of a day that are made one by one; the rest repeats them under other ids and times
_CHANGED = 25  # one record of so many is an older one that changed
_LOOK_BACK = 10  # days from which changed records and references come
_KEPT = 60_000  # made records that stay in memory
_REST_DAYS = 7  # days in which nobody shows up twice in the directory
_DEMO = range((DEMO_DAYS[0] - EPOCH).days, (DEMO_DAYS[1] - EPOCH).days + 1)
_DEMO_SLUGS = frozenset(slug for slug, _, _ in COMPANIES)


@dataclass(slots=True)
class Day:
    """One company, stream and day: its number since 1970, how many slots it has, what was made of them."""

    stream: Stream
    maker: Maker
    company: str
    number: int
    slots: int
    key: int
    prefix: str  # of the ids; empty: UUIDs
    made: dict[int, Record] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """The slots [low, high) of a day."""

    day: int
    low: int
    high: int


class World:
    """All records of one configuration. `now` gives ns since 1970."""

    def __init__(self, config: SandboxConfig, now: Callable[[], int] = time.time_ns) -> None:
        self.config = config
        self.now = now
        self._first = (config.first_day - EPOCH).days
        self._last = (config.last_day - EPOCH).days if config.last_day else None
        self._days: OrderedDict[tuple[str, str, int], Day] = OrderedDict()
        self._made = 0
        self.count = lru_cache(maxsize=200_000)(self._count)

    def final_before(self, moment: int | None) -> bool:
        """Whether nothing before a moment (ns; None: ever) can be added any more."""
        today = self.now() // DAY_NS
        if self._last is not None and self._last < today:
            return True
        return moment is not None and moment <= today * DAY_NS

    def _count(self, stream: str, company: str, day: int) -> int:
        config = self.config
        dice = mix(key(config.seed, company, stream, day, "count"))
        if not config.spread:
            return config.records
        if dice % 40 == 0 and not (day in _DEMO and company in _DEMO_SLUGS):
            return 0
        share = (dice >> 8) / (MASK >> 8) * 2 - 1
        return max(min(1, config.records), round(config.records * (1 + config.spread * share)))

    def _slot(self, day: Day, slot: int) -> tuple[int, str]:
        dice = mix(day.key ^ slot)
        moment, digits = slot_time(day.number, day.slots, slot, dice)
        return moment, slot_text(moment, digits, dice)

    def _first_slot(self, day: Day, moment: int) -> int:
        """The first slot at or after a moment (ns)."""
        offset = moment - day.number * DAY_NS
        if offset <= 0 or day.slots == 0:
            return 0
        slot = offset * day.slots // DAY_NS
        while slot < day.slots and self._slot(day, slot)[0] < moment:
            slot += 1
        while slot > 0 and self._slot(day, min(slot, day.slots) - 1)[0] >= moment:
            slot -= 1
        return min(slot, day.slots)

    def span(self, stream: str, company: str, day: int, since: int | None, until: int | None) -> Span:
        """What a window (ns since 1970, either end open) holds of a day, as far as the day has passed."""
        if day < self._first or (self._last is not None and day > self._last):
            return Span(day, 0, 0)
        start, now = day * DAY_NS, self.now()
        low, high = 0, self.count(stream, company, day)
        if since is not None and since > start:
            low = self._first_slot(self._day(stream, company, day), since)
        end = now if until is None else min(now, until)
        if end < start + DAY_NS:
            high = self._first_slot(self._day(stream, company, day), end) if end > start else 0
        return Span(day, low, max(low, high))

    def days(self, since: int | None, until: int | None) -> range:
        """The days that a window touches."""
        now = self.now()
        end = now if until is None else min(now, until)
        first = self._first if since is None else max(self._first, since // DAY_NS)
        last = (end - 1) // DAY_NS
        if self._last is not None:
            last = min(last, self._last)
        return range(first, last + 1)

    def records(self, stream: str, company: str, span: Span, shuffled: bool = False) -> list[Record]:
        """The records of a span in ascending order of the source timestamp; not to be changed.

        Shuffled: slots mean places in a fixed order that has nothing to do with time.
        """
        return [record for _, record in self.slots(stream, company, span, shuffled)]

    def slots(self, stream: str, company: str, span: Span, shuffled: bool) -> list[tuple[int, Record]]:
        """The same records, each behind its slot."""
        while self._made > _KEPT and len(self._days) > 1:
            _, evicted = self._days.popitem(last=False)
            self._made -= len(evicted.made)
        day = self._day(stream, company, span.day)
        slots: Iterable[int] = range(span.low, span.high)
        if shuffled:
            slots = (_shuffle(slot, day.slots) for slot in slots)
        return [(slot, self._record(day, slot)) for slot in slots]

    def is_shuffled(self, stream: str, company: str, whole: Span) -> bool:
        """Whether what a window holds of a day comes without order: where the source promises none, whole days do."""
        if isinstance(all_streams()[stream].window, SinceOnly):
            return False
        full = (whole.low, whole.high) == (0, self.count(stream, company, whole.day))
        return full and self.final_before((whole.day + 1) * DAY_NS)

    def moment(self, stream: str, company: str, day: int, slot: int) -> int:
        """The source timestamp of a slot, in ns since 1970."""
        return self._slot(self._day(stream, company, day), slot)[0]

    def _day(self, stream: str, company: str, number: int) -> Day:
        at = (stream, company, number)
        found = self._days.get(at)
        if found is None:
            declared = all_streams()[stream]
            maker = maker_of(declared)
            found = Day(
                stream=declared,
                maker=maker,
                company=company,
                number=number,
                slots=self.count(stream, company, number),
                key=key(self.config.seed, company, stream, number),
                prefix=maker.prefix and maker.prefix + letters(key(company) & 0xFFFF, 4),
            )
            self._days[at] = found
        self._days.move_to_end(at)
        return found

    def _record(self, day: Day, slot: int) -> Record:
        if slot < _BLOCK:
            made = day.made.get(slot)
            if made is None:
                made = day.made[slot] = self._make(day, slot)
                self._made += 1
            return made
        template = self._record(day, slot % _BLOCK)
        _, stamp = self._slot(day, slot)
        if day.maker.people:
            record = namesake(template, letters(slot // _BLOCK, 5))
        else:
            record = replaced(template, day.stream.source_id, self._id(day, slot))
        return replaced(record, day.stream.source_timestamp, stamp)

    def _make(self, day: Day, slot: int) -> Record:
        maker = day.maker
        dice = mix(day.key ^ slot ^ MASK)
        record = self._born(day, slot)
        older = self._older(day, slot)
        if older:
            newer = record
            record = replaced(self._born(older, slot), day.stream.source_timestamp, self._slot(day, slot)[1]) | {
                name: newer[name] for name in maker.changes if name in newer
            }
        if self.config.bad_ratio and (dice >> 16) / (MASK >> 16) < self.config.bad_ratio:
            spoil(record, maker.required, dice)
        return record

    def _born(self, day: Day, slot: int) -> Record:
        """The record that a slot would hold if it were a new one."""
        maker, config = day.maker, self.config
        moment, stamp = self._slot(day, slot)
        rng = Random(mix(day.key + slot))
        people = staff(config.seed, day.company, config.people)
        person, cycle = rng.choice(people), 0
        if maker.people:
            peak = math.ceil(config.records * (1 + config.spread))
            known = max(len(people), _REST_DAYS * peak)
            cycle, number = divmod(_shuffle((day.number * peak + slot) % known, known), len(people))
            person = people[number]
        draw = Draw(
            rng=rng,
            company=day.company,
            staff=people,
            person=person,
            id=person.scim_id if maker.people else self._id(day, slot),
            at=moment,
            stamp=stamp,
            earlier=lambda stream: self._earlier(stream, day, rng),
        )
        record = maker.make(draw)
        if maker.optional:
            loosen(record, maker, rng, person)
        return namesake(record, letters(cycle, 4)) if cycle else record

    def _id(self, day: Day, slot: int) -> str:
        if not day.prefix:
            return uuid_from(day.key + slot)
        return day.prefix + letters((day.number << 24) + slot)

    def _earlier(self, stream: str, day: Day, rng: Random) -> Record:
        """A record of another stream that was there before a day."""
        back = rng.randrange(1, _LOOK_BACK + 1)
        while not (older := self._day(stream, day.company, day.number - back)).slots:
            back += 1
        slot = rng.randrange(min(older.slots, _BLOCK))
        return self._born(self._older(older, slot) or older, slot)

    def _is_change(self, day: Day, slot: int) -> int:
        dice = mix(day.key ^ slot ^ MASK)
        return 1 + (dice >> 8) % _LOOK_BACK if dice % _CHANGED == 0 and day.maker.changes else 0

    def _older(self, day: Day, slot: int) -> Day | None:
        """The day on which the record in a slot first appeared, if it is a changed one."""
        back = self._is_change(day, slot)
        older = self._day(day.stream.name, day.company, day.number - back) if back else day
        if older is day or slot >= older.slots or self._is_change(older, slot):
            return None
        return older


def _shuffle(slot: int, slots: int) -> int:
    prime = 7919 if slots % 7919 else 104_729
    return (slot * prime + slots // 3) % slots


def truth(config: SandboxConfig, stream: str, company: str, day: date) -> list[Record]:
    """The wire records of a day, as far as it has passed, in ascending order of the source timestamp."""
    world = World(config)
    return deepcopy(world.records(stream, company, world.span(stream, company, (day - EPOCH).days, None, None)))
