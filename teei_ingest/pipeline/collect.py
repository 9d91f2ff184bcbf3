"""One reading of a window, batch after batch, in order.

Nothing is written here. Duplicates and conflicting versions, which only the whole window shows, are found by `settle`.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import numpy as np

from teei_ingest.contracts.stored import arrow_schema
from teei_ingest.errors import SourceMisbehaves
from teei_ingest.mapping.decode import Page
from teei_ingest.mapping.plan import Plan
from teei_ingest.pipeline.batch import Ask, Batches, Part, Tally, day_of
from teei_ingest.pipeline.buffer import RowBuffer
from teei_ingest.pipeline.crew import Crew, Unable
from teei_ingest.pipeline.days import Window
from teei_ingest.streams.base import SinceOnly

BATCH_ROWS = 10_000
# Where others help: small enough for all to end at the same time.
SHARED_ROWS = 5_000
# Records of the first batch, and of each further one, that are looked at for drift: dear ones, so a few.
LOOKED_AT, LOOKED_AT_LATER = 500, 20


@dataclass(kw_only=True)
class Collected(Tally):
    """What one reading brought."""

    rows: RowBuffer
    known: Counter[date] = field(default_factory=Counter)  # undated records that lie in another day's quarantine
    duplicates: Counter[date] = field(default_factory=Counter)
    keep: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    raw: list[bytes] | None = None  # the record behind each row as it was sent, for the landing

    def add(self, part: Part) -> None:
        """Take in what the next batch brought."""
        self.include(part)
        for rows in part.rows:
            self.rows.append(*rows)
        if self.raw is not None:
            self.raw += part.raw

    def close(self) -> None:
        """Give memory and disk back."""
        self.rows.close()


@dataclass
class _Work:
    """A batch that another process was given, or the part that was made of it here."""

    bodies: list[bytes]
    ask: Ask
    given: Future[Part] | None
    part: Part | None

    @property
    def is_ready(self) -> bool:
        return self.given is None or self.given.done()


class OutOfOrder(SourceMisbehaves):
    """A source without an end did not ascend: what it sent before any time may be anything."""


class Collector:
    """Collects readings of one stream of one company."""

    def __init__(self, plan: Plan, batches: Batches, folder: Path, company: str, processes: int = 1) -> None:
        self._plan = plan
        self._batches = batches
        self._crew = Crew(batches, processes - 1) if processes > 1 else None
        self._folder = folder
        self._company = company
        self.ascending = isinstance(plan.stream.window, SinceOnly)  # what does not, is an error

    def begin(self, *, raw: bool = False) -> Collected:
        """An empty collection, which stays usable when a reading breaks off; `raw` keeps records as they were sent."""
        rows = RowBuffer(arrow_schema(self._plan.stream.contract), self._folder)
        return Collected(rows=rows, raw=[] if raw else None)

    def extend(
        self, found: Collected, pages: Iterable[Page], window: Window, watch: frozenset[bytes] = frozenset()
    ) -> None:
        """Read pages into `found`; what came before an error is in it. `watch` keeps the events with these ids."""
        ask = Ask(window, watch, raw=found.raw is not None, sample=LOOKED_AT)
        parts: deque[_Work] = deque()
        waiting: list[bytes] = []
        count = 0
        try:
            for page in pages:
                waiting.append(page.body)
                count += page.count
                if count >= (SHARED_ROWS if self._crew else BATCH_ROWS):
                    ready, waiting, count = waiting, [], 0
                    parts.append(self._work(ready, ask, self._crew))
                    ask = replace(ask, sample=LOOKED_AT_LATER)
                    while parts and parts[0].is_ready:
                        self._add(found, parts.popleft())
        finally:
            if waiting:
                parts.append(self._work(waiting, ask, None))
            for work in reversed(parts):
                self._take_back(work)
            while parts:
                self._add(found, parts.popleft())

    def close(self) -> None:
        """End the processes that helped."""
        if self._crew is not None:
            self._crew.close()

    def _part(self, work: _Work) -> Part:
        if work.part is not None:
            return work.part
        assert work.given is not None
        with suppress(Unable):
            return work.given.result()
        return self._batches(work.bodies, work.ask)

    def _work(self, bodies: list[bytes], ask: Ask, crew: Crew | None) -> _Work:
        given = crew.take(bodies, ask) if crew is not None else None
        return _Work(bodies, ask, given, None if given is not None else self._batches(bodies, ask))

    def _take_back(self, work: _Work) -> None:
        """Do here what another process has most likely not begun, when nothing else is left to do.

        Its own answer still comes, and is waited for and thrown away: the next one would be taken for it otherwise.
        """
        if work.given is not None and not (work.given.running() or work.given.done()):
            work.given, work.part = None, self._batches(work.bodies, work.ask)

    def unnamed(self, raw: bytes) -> bytes:
        """A record without references to those who are suppressed."""
        return self._batches.unnamed(raw)

    def _add(self, found: Collected, work: _Work) -> None:
        reached, part = found.reached_ns, self._part(work)
        found.add(part)
        if self.ascending and part.first_ns is not None and not (part.ascends and part.first_ns >= reached):
            stream = self._plan.stream
            raise OutOfOrder(
                "sends records out of the order of their timestamps, so the end of the window cannot be told",
                system=stream.system,
                stream=stream.name,
                company=self._company,
            )


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
                for _, entry in versions:
                    found.set_aside(day, entry)
                continue
        found.keep[rows[1:]] = False
        found.duplicates[day] += len(rows) - 1
    if unsure and again:
        raise SourceMisbehaves("records change while they are read")
    return frozenset(unsure)
