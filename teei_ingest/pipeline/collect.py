"""One reading of a window: pages to redacted rows, bad records to the quarantine, everything counted.

Nothing is written here. What is at fault in a record, and what is not in the window, is sorted out here; duplicates
and conflicting versions, which only the whole window shows, are found by `settle`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import msgspec
import numpy as np

from teei_ingest.contracts.stored import arrow_schema
from teei_ingest.errors import SourceMisbehaves
from teei_ingest.landing.quarantine import QuarantineEntry
from teei_ingest.mapping.columns import NS_PER_DAY, Batch, Columns, select
from teei_ingest.mapping.decode import Page
from teei_ingest.mapping.plan import Plan
from teei_ingest.mapping.record import Accepted, Broken, RecordMapper
from teei_ingest.pipeline.buffer import RowBuffer
from teei_ingest.pipeline.days import Window
from teei_ingest.redact.apply import Redactor
from teei_ingest.streams.base import SinceOnly

BATCH_ROWS = 10_000
EPOCH = date(1970, 1, 1)


def day_of(number: int) -> date:
    """The day `number` days after 1970-01-01."""
    return EPOCH + timedelta(days=int(number))


@dataclass
class Collected:
    """What one reading brought. Counts are by day; what has no day of the window is under its first day."""

    rows: RowBuffer
    fetched: Counter[date] = field(default_factory=Counter)
    out_of_window: Counter[date] = field(default_factory=Counter)
    unlisted: Counter[date] = field(default_factory=Counter)
    known: Counter[date] = field(default_factory=Counter)  # undated records that lie in another day's quarantine
    quarantine: dict[date, list[QuarantineEntry]] = field(default_factory=lambda: defaultdict(list))
    duplicates: Counter[date] = field(default_factory=Counter)
    keep: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    newest_ns: int = 0  # source timestamp of the newest row
    reached_ns: int = 0  # source timestamp up to which an ascending source was read
    raw: list[bytes] | None = None  # the record behind each row as it was sent, for the landing
    watched: dict[bytes, list[tuple[Accepted, QuarantineEntry]]] = field(default_factory=dict)

    def close(self) -> None:
        """Give memory and disk back."""
        self.rows.close()


class OutOfOrder(SourceMisbehaves):
    """A source without an end did not ascend: what it sent before any time may be anything."""


class Collector:
    """Collects readings of one stream of one company."""

    def __init__(self, plan: Plan, mapper: RecordMapper, redactor: Redactor, folder: Path, company: str) -> None:
        self._plan = plan
        self._mapper = mapper
        self._redactor = redactor
        self._columns = Columns(plan, redactor.wanted)
        self._folder = folder
        self._company = company
        self._ascending = isinstance(plan.stream.window, SinceOnly)

    def begin(self, *, raw: bool = False) -> Collected:
        """An empty collection, which stays usable when a reading breaks off; `raw` keeps records as they were sent."""
        rows = RowBuffer(arrow_schema(self._plan.stream.contract), self._folder)
        return Collected(rows, raw=[] if raw else None)

    def extend(
        self, found: Collected, pages: Iterable[Page], window: Window, watch: frozenset[bytes] = frozenset()
    ) -> None:
        """Read pages into `found`; what came before an error is in it. `watch` keeps the events with these ids."""
        waiting: list[Page] = []
        count = 0
        try:
            for page in pages:
                waiting.append(page)
                count += page.count
                if count >= BATCH_ROWS:
                    ready, waiting, count = waiting, [], 0
                    self._batch(found, ready, window, watch)
        finally:
            if waiting:
                self._batch(found, waiting, window, watch)

    def _batch(self, found: Collected, pages: list[Page], window: Window, watch: frozenset[bytes]) -> None:
        rows = [row for page in pages for row in page.rows]
        batch = self._columns.from_rows(rows)
        origin = np.delete(np.arange(len(rows)), batch.refused) if batch.refused else np.arange(len(rows))
        records = _Raw(pages)
        reached = found.reached_ns
        self._add(found, batch, origin, records, window, watch)
        accepted: list[Accepted] = []
        at: list[int] = []
        for position in batch.refused:
            raw = records[position]
            result = self._mapper(raw)
            if isinstance(result, Accepted):
                accepted.append(result)
                at.append(position)
            else:
                self._broken(found, result, raw, window)
        moments = batch.timestamp_ns
        if accepted:
            others = self._columns.from_accepted(accepted)
            self._add(found, others, np.array(at), records, window, watch)
            order = np.argsort(np.concatenate([origin, at]))
            moments = np.concatenate([moments, others.timestamp_ns])[order]
        if self._ascending and len(moments) and (np.any(np.diff(moments) < 0) or (reached and moments[0] < reached)):
            raise self._out_of_order()

    def _add(
        self,
        found: Collected,
        batch: Batch,
        origin: np.ndarray,
        records: _Raw,
        window: Window,
        watch: frozenset[bytes],
    ) -> None:
        if not len(batch):
            return
        moments = batch.timestamp_ns
        days = moments // NS_PER_DAY
        first, last = (window.first - EPOCH).days, (window.last - EPOCH).days
        inside = (days >= first) & (days <= last)
        found.reached_ns = max(found.reached_ns, int(moments.max()))
        if not inside.all():
            outside = int((~inside).sum())
            found.out_of_window[window.first] += outside
            found.fetched[window.first] += outside
            batch, origin, days = select(batch, inside), origin[inside], days[inside]
            if not len(batch):
                return
        for number, count in zip(*np.unique(days, return_counts=True), strict=True):
            found.fetched[day_of(number)] += int(count)
        found.unlisted[day_of(days[0])] += batch.unlisted
        result = self._redactor(batch)
        good = np.ones(len(batch), bool)
        for position, where in result.leaks.items():
            good[position] = False
            entry = QuarantineEntry(
                reason="leak",
                field=where,
                rule="personal_data",
                record=records[int(origin[position])],
                people=self._people(records[int(origin[position])]),
            )
            found.quarantine[day_of(days[position])].append(entry)
        kept = result.rows
        ids, content = result.ids, batch.content
        if not good.all():
            kept, ids, content, days, origin = kept.filter(good), ids[good], content[good], days[good], origin[good]
        found.newest_ns = max(found.newest_ns, int(batch.timestamp_ns.max()))
        if found.raw is not None:
            found.raw += [records[position] for position in origin.tolist()]
        if watch:
            for position, name in enumerate(map(bytes, ids)):
                if name in watch:
                    self._watch(found, name, records[int(origin[position])])
        found.rows.append(kept, ids, content, days)

    def _watch(self, found: Collected, name: bytes, raw: bytes) -> None:
        accepted = self._mapper(raw)
        if isinstance(accepted, Accepted):
            entry = QuarantineEntry(
                reason="conflict",
                field="sourceTimestamp",
                rule="conflicting_versions",
                record=raw,
                people=self._people(raw),
            )
            found.watched.setdefault(name, []).append((accepted, entry))

    def _broken(self, found: Collected, broken: Broken, raw: bytes, window: Window) -> None:
        moment = self._mapper.timestamp_ns(raw)
        day = window.first if moment is None else day_of(moment // NS_PER_DAY)
        inside = window.first <= day <= window.last
        if not inside:
            day = window.first
            found.out_of_window[day] += 1
        else:
            entry = QuarantineEntry(
                reason="contract",
                field=broken.field,
                rule=broken.rule,
                record=raw,
                people=self._people(raw),
                undated=moment is None,
            )
            found.quarantine[day].append(entry)
        found.fetched[day] += 1

    def _people(self, raw: bytes) -> tuple[str, ...]:
        """Tokens by which an erasure finds a record that is no row."""
        return self._redactor.tokens(self._mapper.people(raw))

    def _out_of_order(self) -> OutOfOrder:
        stream = self._plan.stream
        return OutOfOrder(
            "sends records out of the order of their timestamps, so the end of the window cannot be told",
            system=stream.system,
            stream=stream.name,
            company=self._company,
        )


class _Raw:
    """The records of several pages as they were sent; a page is taken apart only when one of its own is wanted."""

    def __init__(self, pages: list[Page]) -> None:
        self._pages = pages
        self._ends = np.cumsum([page.count for page in pages])
        self._known: dict[int, list[msgspec.Raw]] = {}

    def __getitem__(self, position: int) -> bytes:
        number = int(np.searchsorted(self._ends, position, side="right"))
        if number not in self._known:
            self._known[number] = self._pages[number].raw()
        start = int(self._ends[number - 1]) if number else 0
        return bytes(self._known[number][position - start])


def settle(found: Collected, *, again: bool) -> frozenset[bytes]:
    """Decide which rows stay: exact duplicates go, conflicting versions are quarantined.

    Returns the ids of events that came several times with what may be other content, to be read once more with
    `watch`; none if `again` says that this was that reading.
    """
    ids, content = found.rows.ids, found.rows.content
    found.keep = np.ones(len(ids), bool)
    if len(ids) == 0:
        return frozenset()
    heads = ids[:, :8].copy().view(np.uint64).ravel()
    if len(np.unique(heads)) == len(heads):
        return frozenset()
    groups: dict[bytes, list[int]] = defaultdict(list)
    _, inverse, counts = np.unique(heads, return_inverse=True, return_counts=True)
    for row in np.flatnonzero(counts[inverse] > 1).tolist():
        groups[bytes(ids[row])].append(row)
    days = found.rows.days
    unsure = set()
    for name, rows in groups.items():
        if len(rows) == 1:
            continue
        day = day_of(days[rows[0]])
        if len(set(content[rows].tolist())) > 1:
            versions = found.watched.get(name)
            if versions is None:
                unsure.add(name)
                continue
            if any(version.event != versions[0][0].event for version, _ in versions):
                found.keep[rows] = False
                found.quarantine[day] += [entry for _, entry in versions]
                continue
        found.keep[rows[1:]] = False
        found.duplicates[day] += len(rows) - 1
    if unsure and again:
        raise SourceMisbehaves("records change while they are read")
    return frozenset(unsure)
