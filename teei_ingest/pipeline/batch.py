"""A few pages of a window at a time: records to redacted rows, bad ones to the quarantine, everything counted.

Nothing is written here, and nothing is remembered from one batch to the next, so that batches may be worked on side
by side. What only a whole reading shows belongs in `collect`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

import msgspec
import numpy as np
import pyarrow as pa

from teei_ingest.landing.quarantine import QuarantineEntry
from teei_ingest.mapping.columns import NS_PER_DAY, Batch, Columns, select
from teei_ingest.mapping.decode import Records
from teei_ingest.mapping.drift import Profile, Shape
from teei_ingest.mapping.plan import Plan
from teei_ingest.mapping.record import Accepted, Broken, RecordMapper
from teei_ingest.pipeline.days import Window
from teei_ingest.redact.apply import Redactor
from teei_ingest.redact.suppress import Link
from teei_ingest.redact.text import MARK

EPOCH = date(1970, 1, 1)


def day_of(number: int) -> date:
    """The day `number` days after 1970-01-01."""
    return EPOCH + timedelta(days=int(number))


@dataclass(frozen=True)
class Ask:
    """What is wanted of the batches of a reading: events with these `watch`ed ids are kept as they were sent, too.

    `raw` keeps that of all rows; `sample` of all records are looked at for what fields they have.
    """

    window: Window
    watch: frozenset[bytes] = frozenset()
    raw: bool = False
    sample: int = 0


@dataclass
class Tally:
    """What became of records. Counts are by day; what has no day of the window is under its first day."""

    fetched: Counter[date] = field(default_factory=Counter)
    out_of_window: Counter[date] = field(default_factory=Counter)
    unlisted: Counter[date] = field(default_factory=Counter)
    suppressed: Counter[date] = field(default_factory=Counter)
    links: list[Link] = field(default_factory=list)  # what suppressed records show that the list does not have
    quarantine: dict[date, list[QuarantineEntry]] = field(default_factory=lambda: defaultdict(list))
    watched: dict[bytes, list[tuple[Accepted, QuarantineEntry | None]]] = field(default_factory=dict)
    profile: Profile = field(default_factory=Profile)
    newest_ns: int = 0  # source timestamp of the newest row
    reached_ns: int = 0  # of the latest record that has a valid one

    def set_aside(self, day: date, entry: QuarantineEntry | None) -> None:
        """Quarantine a record; None stands for one that names somebody who is suppressed."""
        if entry is None:
            self.suppressed[day] += 1
        else:
            self.quarantine[day].append(entry)

    def include(self, other: Tally) -> None:
        """Add what became of others, which came later."""
        for name in ("fetched", "out_of_window", "unlisted", "suppressed"):
            getattr(self, name).update(getattr(other, name))
        for day, entries in other.quarantine.items():
            self.quarantine[day] += entries
        for event, versions in other.watched.items():
            self.watched.setdefault(event, []).extend(versions)
        self.links += other.links
        self.profile.include(other.profile)
        self.newest_ns = max(self.newest_ns, other.newest_ns)
        self.reached_ns = max(self.reached_ns, other.reached_ns)


@dataclass
class Part(Tally):
    """What the pages of a batch brought."""

    # Rows as they are kept, their ids (n × 16 bytes), hashes of their content, days since 1970.
    rows: list[tuple[pa.RecordBatch, np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    first_ns: int | None = None  # source timestamp of the first record that has a valid one
    ascends: bool = True


class Batches:
    """Works on batches of one stream of one company."""

    def __init__(self, plan: Plan, mapper: RecordMapper, redactor: Redactor, company: str) -> None:
        self._mapper = mapper
        self._redactor = redactor
        self._columns = Columns(plan, redactor.wanted)
        self._records = Records(plan, company)
        self._shape = Shape(plan)

    def __call__(self, bodies: Sequence[bytes], ask: Ask) -> Part:
        """`bodies` are replies, in order. Raises SourceMisbehaves for one that cannot be decoded."""
        part = Part()
        records = _Records(self._records, bodies)
        for position in records.spread(ask.sample) if ask.sample else ():
            self._shape.look(records[position], part.profile)
        batch = self._columns.from_rows(records.rows)
        origin = np.delete(np.arange(len(records.rows)), batch.refused)
        self._add(part, batch, origin, records, ask)
        accepted: list[Accepted] = []
        at: list[int] = []
        for position in batch.refused:
            result = self._mapper(records[position])
            if isinstance(result, Accepted):
                accepted.append(result)
                at.append(position)
            else:
                self._broken(part, result, records[position], ask.window)
        moments = batch.timestamp_ns
        if accepted:
            others = self._columns.from_accepted(accepted)
            self._add(part, others, np.array(at), records, ask)
            order = np.argsort(np.concatenate([origin, at]))
            moments = np.concatenate([moments, others.timestamp_ns])[order]
        if len(moments):
            part.first_ns, part.reached_ns = int(moments[0]), int(moments.max())
            part.ascends = not np.any(np.diff(moments) < 0)
        return part

    def _add(self, part: Part, batch: Batch, origin: np.ndarray, records: _Records, ask: Ask) -> None:
        if not len(batch):
            return
        days = batch.timestamp_ns // NS_PER_DAY
        first, last = (ask.window.first - EPOCH).days, (ask.window.last - EPOCH).days
        inside = (days >= first) & (days <= last)
        if not inside.all():
            outside = int((~inside).sum())
            part.out_of_window[ask.window.first] += outside
            part.fetched[ask.window.first] += outside
            batch, origin, days = select(batch, inside), origin[inside], days[inside]
            if not len(batch):
                return
        for number, count in zip(*np.unique(days, return_counts=True), strict=True):
            part.fetched[day_of(number)] += int(count)
        part.unlisted[day_of(days[0])] += batch.unlisted
        if self._redactor.suppressor is not None:
            gone, links = self._redactor.suppressor.rows(batch)
            part.links += links
            for number, count in zip(*np.unique(days[gone], return_counts=True), strict=True):
                part.suppressed[day_of(number)] += int(count)
            batch, origin, days = select(batch, ~gone), origin[~gone], days[~gone]
            if not len(batch):
                return
        result = self._redactor(batch)
        good = np.ones(len(batch), bool)
        for position, where in result.leaks.items():
            good[position] = False
            entry = self._entry(records[int(origin[position])], "leak", where, "personal_data")
            part.set_aside(day_of(days[position]), entry)
        kept = result.rows
        ids, content = result.ids, batch.content
        if not good.all():
            kept, ids, content, days, origin = kept.filter(good), ids[good], content[good], days[good], origin[good]
        part.newest_ns = max(part.newest_ns, int(batch.timestamp_ns.max()))
        if ask.raw:
            part.raw += [records[position] for position in origin.tolist()]
        if ask.watch:
            for position, name in enumerate(map(bytes, ids)):
                if name in ask.watch:
                    self._watch(part, name, records[int(origin[position])])
        part.rows.append((kept, ids, content, days.astype(np.int32)))

    def _watch(self, part: Part, name: bytes, record: bytes) -> None:
        accepted = self._mapper(record)
        if isinstance(accepted, Accepted):
            entry = self._entry(record, "conflict", "sourceTimestamp", "conflicting_versions")
            part.watched.setdefault(name, []).append((accepted, entry))

    def _broken(self, part: Part, broken: Broken, record: bytes, window: Window) -> None:
        moment = self._mapper.timestamp_ns(record)
        day = window.first if moment is None else day_of(moment // NS_PER_DAY)
        if window.first <= day <= window.last:
            entry = self._entry(record, "contract", broken.field, broken.rule, undated=moment is None)
            part.set_aside(day, entry)
        else:
            day = window.first
            part.out_of_window[day] += 1
        part.fetched[day] += 1

    def _entry(
        self, record: bytes, reason: str, field: str, rule: str, *, undated: bool = False
    ) -> QuarantineEntry | None:
        """What is kept of a record that is no row, with tokens by which an erasure finds it; None: see `set_aside`."""
        people, suppressor = self._mapper.people(record), self._redactor.suppressor
        if suppressor is not None and suppressor.names(people, self._mapper.group(record)):
            return None
        return QuarantineEntry(reason, field, rule, record, self._redactor.tokens(people), undated)

    def unnamed(self, record: bytes) -> bytes:
        """A record without references to those who are suppressed."""
        suppressor = self._redactor.suppressor
        return record if suppressor is None else self._mapper.without(record, suppressor.person, MARK)


class _Records:
    """The records of several replies, decoded (`rows`) and, where one is wanted, as it was sent."""

    def __init__(self, decode: Records, bodies: Sequence[bytes]) -> None:
        self._decode = decode
        self._bodies = bodies
        self._known: list[Sequence[msgspec.Raw] | None] = []
        self._ends: list[int] = []
        self.rows: list[object] = []
        for body in bodies:
            rows, raw = decode(body)
            self.rows += rows
            self._known.append(raw)
            self._ends.append(len(self.rows))

    def spread(self, count: int) -> Iterator[int]:
        """Positions of about so many records, or of all if there are no more, evenly over a few of the replies."""
        if len(self.rows) <= count:
            yield from range(len(self.rows))
            return
        replies = min(len(self._ends), 1 + count // 50)  # a reply has to be taken apart for one record as for all
        for number in {at * len(self._ends) // replies for at in range(replies)}:
            first, end = self._ends[number - 1] if number else 0, self._ends[number]
            yield from range(first, end, max(1, (end - first) * replies // count))

    def __getitem__(self, position: int) -> bytes:
        number = bisect_right(self._ends, position)
        raw = self._known[number]
        if raw is None:
            raw = self._known[number] = self._decode.raw(self._bodies[number])
        return bytes(raw[position - (self._ends[number - 1] if number else 0)])
