"""Quarantined records tried again, after their mapping or contract was mended, without asking their source.

Belongs here: which records may come in, what becomes of each, and the order in which that is kept. Does not belong
here: Dagster's record of it (`defs/requeue.py`).

Records come to the day that a reading has completed, and to no other: a day that failed has none of its good rows. The
order makes it safe to kill and repeat: the records are marked, then committed, then recorded, and only then they leave
the quarantine. A marked record whose row is stored was brought in by an attempt that did not end.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date
from enum import StrEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from teei_ingest.contracts.stored import arrow_schema
from teei_ingest.errors import ContractBroken, StoreError, TeeiError
from teei_ingest.landing.quarantine import About, QuarantineEntry, SealedDay
from teei_ingest.pipeline.batch import day_of
from teei_ingest.pipeline.collect import Collected, Collector, settle
from teei_ingest.pipeline.days import Window
from teei_ingest.pipeline.ingest import Ingest, Stale, rows_by_day
from teei_ingest.pipeline.partition import REMEMBERED, Partition
from teei_ingest.redact.tighten import tighten
from teei_ingest.redact.tokens import Pseudonyms

ALWAYS = Window(date.min, date.max)


class Fate(StrEnum):
    """What becomes of a record that is tried again."""

    LEFT = "left"  # it stays in the quarantine
    KEPT = "kept"
    MOVED = "moved"  # kept, and it is of another day than the one under which it lay
    DUPLICATE = "duplicate"
    SUPPRESSED = "suppressed"


@dataclass(frozen=True)
class Recorded:
    """What the last materialization of a day's events says: the run that read them, and the counts."""

    read_by: str
    about: About
    quarantined: int


@dataclass
class Retried:
    """What became of the quarantined records of some days.

    `fates`: how many, by the day under which they lay; `errors`: days whose records may not come in, and why;
    `waiting`: how many belong to another day, which is not complete; `partitions`: new figures of days that changed.
    """

    fates: dict[date, Counter[Fate]] = field(default_factory=dict)
    errors: dict[date, TeeiError] = field(default_factory=dict)
    waiting: Counter[date] = field(default_factory=Counter)
    partitions: dict[date, Partition] = field(default_factory=dict)


@dataclass
class _Tried:
    """One record: its entry, its row where it is one, and what it is in the quarantine if it is left there."""

    entry: QuarantineEntry
    fate: Fate = Fate.LEFT
    row: int | None = None

    def leave(self, reason: str, field: str, rule: str, people: tuple[str, ...]) -> None:
        self.entry = replace(self.entry, reason=reason, field=field, rule=rule, people=people, tried=False)
        self.fate, self.row = Fate.LEFT, None


class Requeue(Ingest):
    """One stream of one company, whose quarantine is tried again."""

    def retry(
        self,
        days: Collection[date],
        recorded: Callable[[Collection[date]], Mapping[date, Recorded]],
        record: Callable[[Sequence[Partition]], None],
    ) -> Retried:
        """Bring in what is good of the days' quarantined records, in one commit. Raises TeeiError.

        `recorded` tells the last materializations, and `record` is told the partitions that changed, after the commit.
        Safe to repeat after a crash.
        """
        self._refused: dict[date, TeeiError] = {}
        try:
            while True:
                with suppress(Stale):
                    self._is_current()
                    return self._retry(days, recorded, record)
        finally:
            self._collector.close()

    def _new_collector(self) -> Collector:
        made = super()._new_collector()
        made.ascending = False  # several days' records, each as a source sent them
        return made

    # --- which days -------------------------------------------------------------------------------------------

    def _sealed(self, day: date) -> SealedDay | None:
        return self._places.quarantine.sealed(self._ring, self.company.slug, self.plan.stream.name, day)

    def _refusal(self, day: date, sealed: SealedDay | None, recorded: Recorded | None) -> TeeiError | None:
        """Why nothing may be added to a day, if so."""
        if day in self._refused:
            return self._refused[day]
        if sealed is not None and sealed.about.failed:
            return self._error(ContractBroken, f"{day} failed for its bad records, so the good ones are missing, too")
        about = sealed.about if sealed is not None else recorded.about if recorded is not None else About()
        if recorded is not None and about.figures and (sealed is None or sealed.attempt == recorded.read_by):
            return None
        stream = self.plan.stream
        return StoreError(
            f"{day} was not completed by the reading that set its records aside",
            system=stream.system,
            stream=stream.name,
            company=self.company.slug,
        )

    # --- what becomes of them ---------------------------------------------------------------------------------

    def _retry(
        self,
        days: Collection[date],
        recorded: Callable[[Collection[date]], Mapping[date, Recorded]],
        record: Callable[[Sequence[Partition]], None],
    ) -> Retried:
        sealed = {day: one for day in sorted(days) if (one := self._sealed(day)) is not None}
        known = dict(recorded(sealed))
        done = Retried()
        for day, one in list(sealed.items()):
            if error := self._refusal(day, one, known.get(day)):
                done.errors[day] = error
                del sealed[day]
        found = self._mapped([entry.record for one in sealed.values() for entry in one.entries])
        try:
            tried = self._matched(sealed, found)
            others = {self._day(one, found) for some in tried.values() for one in some if one.row is not None}
            others -= sealed.keys()
            known = dict(recorded(others))
            bases = {day: Recorded(one.attempt, one.about, len(one.entries)) for day, one in sealed.items()}
            bases |= {day: one for day, one in known.items() if self._refusal(day, self._sealed(day), one) is None}
            stream, slug = self.plan.stream, self.company.slug
            with self._committing(found), self._places.store.turn(slug, stream.name):
                self._place(tried, found, bases, done)
                self._commit_tried(sealed, tried, found, bases, done)
                record(list(done.partitions.values()))
                for day, one in sealed.items():
                    self._change(day, _ending(one, tried[day]))
        finally:
            found.close()
        for day, some in tried.items():
            done.fates[day] = Counter(one.fate for one in some)
        return done

    def _mapped(self, records: Sequence[bytes]) -> Collected:
        """The records as if a page had brought them; versions that conflict are bad, as they are there."""
        watch: frozenset[bytes] = frozenset()
        while True:
            found = self._collector.begin(raw=True)
            self._collector.extend(found, self._replay(records), ALWAYS, watch)
            unsure = settle(found, again=bool(watch))
            if not unsure:
                return found
            found.close()
            watch = unsure

    def _matched(self, sealed: Mapping[date, SealedDay], found: Collected) -> dict[date, list[_Tried]]:
        """Each entry with what was found of its record."""
        broken: dict[bytes, list[QuarantineEntry]] = defaultdict(list)
        for entries in found.quarantine.values():
            for entry in entries:
                broken[entry.record].append(entry)
        rows: dict[bytes, list[int]] = defaultdict(list)
        for row, record in enumerate(found.raw or ()):
            rows[record].append(row)

        def match(entry: QuarantineEntry) -> _Tried:
            if broken[entry.record]:
                now = broken[entry.record].pop(0)
                one = _Tried(entry)
                one.leave(now.reason, now.field, now.rule, now.people)
                return one
            if not rows[entry.record]:
                return _Tried(entry, Fate.SUPPRESSED)
            row = rows[entry.record].pop(0)
            return _Tried(entry, Fate.KEPT, row) if found.keep[row] else _Tried(entry, Fate.DUPLICATE)

        return {day: [match(entry) for entry in one.entries] for day, one in sealed.items()}

    def _day(self, one: _Tried, found: Collected) -> date:
        assert one.row is not None
        return day_of(int(found.rows.days[one.row]))

    def _place(
        self, tried: Mapping[date, list[_Tried]], found: Collected, bases: Collection[date], done: Retried
    ) -> None:
        """Decide about each row: its day has to be complete, and what is stored under its id to be the same."""
        stream, slug = self.plan.stream, self.company.slug
        rows = found.rows.columns(arrow_schema(stream.contract).names, np.ones(len(found.rows), bool))
        ids = rows["event_id"].to_pylist()
        stored = self._tightened(self._places.store.with_ids(stream.contract, slug, ids) if ids else rows)
        at = {name: number for number, name in enumerate(stored["event_id"].to_pylist())}
        for day, some in tried.items():
            for one in some:
                if one.row is None:
                    continue
                own = self._day(one, found)
                name = ids[one.row]
                if own not in bases:
                    done.waiting[own] += 1
                    found.keep[one.row] = False
                    one.fate, one.row = Fate.LEFT, None
                    continue
                replaced = one.entry.tried or name in self._vanished.ids(slug, stream.name, own)
                if name in at and not replaced:
                    found.keep[one.row] = False
                    if stored.slice(at[name], 1).equals(rows.slice(one.row, 1)):
                        one.fate = Fate.DUPLICATE
                    else:
                        one.leave("conflict", "sourceTimestamp", "conflicting_versions", one.entry.people)
                        continue
                if own != day:
                    one.fate = Fate.MOVED

    def _tightened(self, rows: pa.Table) -> pa.Table:
        return tighten(rows, self.plan.stream.contract, self.policy, Pseudonyms.of(self._ring))

    # --- keeping ----------------------------------------------------------------------------------------------

    def _commit_tried(
        self,
        sealed: Mapping[date, SealedDay],
        tried: Mapping[date, list[_Tried]],
        found: Collected,
        bases: Mapping[date, Recorded],
        done: Retried,
    ) -> None:
        """Put the days that change together, mark what comes in, and commit them."""
        changed = {day for day, some in tried.items() if any(one.fate is not Fate.LEFT for one in some)}
        changed |= rows_by_day(found).keys()
        self._add_stored(changed, found)
        kept = rows_by_day(found)
        for day in sorted(changed):
            some = tried.get(day, [])
            partition = partition_of(day, bases[day], Counter(one.fate for one in some), kept[day])
            self._judge(partition, [one.entry for one in some if one.fate is Fate.LEFT])
            if partition.error is not None:
                self._refused[day] = partition.error
                raise Stale
            done.partitions[day] = partition
        for day in changed & sealed.keys():
            self._mark(day, sealed[day], tried[day])
        if changed:
            self._replace(done.partitions, found)
        for partition in done.partitions.values():
            partition.late = 0  # they are not: the source had sent them

    def _mark(self, day: date, sealed: SealedDay, tried: Sequence[_Tried]) -> None:
        """Note in the quarantine which records are about to be stored. Raises Stale if it has changed meanwhile."""

        def change(now: SealedDay) -> SealedDay:
            if now != sealed:
                raise Stale
            entries = [
                replace(entry, tried=one.fate in (Fate.KEPT, Fate.MOVED))
                for entry, one in zip(now.entries, tried, strict=True)
            ]
            return replace(now, entries=entries)

        if not self._change(day, change):
            raise Stale

    def _change(self, day: date, change: Callable[[SealedDay], SealedDay]) -> bool:
        slug, stream = self.company.slug, self.plan.stream.name
        return self._places.quarantine.change(self._ring, slug, stream, day, change)

    def _add_stored(self, days: Collection[date], found: Collected) -> None:
        """Put the days' stored rows beside the new ones, but those in whose place the new ones are."""
        if not days:
            return
        stream, slug = self.plan.stream, self.company.slug
        apart = set(found.rows.columns(["event_id"], found.keep)["event_id"].to_pylist())
        for day in days:
            apart |= self._vanished.ids(slug, stream.name, day).keys()
        for batch in self._places.store.batches(stream.contract, stream=stream.name, company=slug, days=days):
            own = pc.invert(pc.is_in(batch["event_id"], value_set=pa.array(apart, pa.string())))
            table = self._tightened(pa.Table.from_batches([batch]).filter(own))
            for rows in table.to_batches():
                nothing = np.zeros(len(rows), np.int64)
                number = rows["day"].cast(pa.int32()).to_numpy()
                found.rows.append(rows, nothing.reshape(-1, 1), nothing, number)
        found.keep = np.concatenate([found.keep, np.ones(len(found.rows) - len(found.keep), bool)])


def partition_of(day: date, base: Recorded, fates: Counter[Fate], kept: int) -> Partition:
    """The day's counts from those of its reading. Rows more than that came from other days, fewer were erased."""
    known = _counted(base.about.figures, fates)
    more = kept - known["kept"]
    made = Partition(day, Window(*map(date.fromisoformat, base.about.window)))
    for name, count in {**known, "kept": kept}.items():
        setattr(made, name, count)
    made.fetched += max(0, more)
    made.suppressed += max(0, -more)
    made.quarantined = base.quarantined - sum(count for fate, count in fates.items() if fate is not Fate.LEFT)
    made.requeued = fates[Fate.KEPT] + max(0, more)
    made.read_by = base.read_by
    return made


def _counted(figures: Mapping[str, int], fates: Mapping[Fate, int]) -> dict[str, int]:
    """A reading's counts with what became of its quarantined records since."""
    known = {name: figures[name] for name in REMEMBERED}
    for name, fate in (
        ("kept", Fate.KEPT),
        ("duplicates", Fate.DUPLICATE),
        ("suppressed", Fate.SUPPRESSED),
        ("out_of_window", Fate.MOVED),
    ):
        known[name] += fates.get(fate, 0)
    return known


def _ending(sealed: SealedDay, tried: Sequence[_Tried]) -> Callable[[SealedDay], SealedDay]:
    """What the quarantine holds of a day in the end, if no other reading has replaced it meanwhile."""
    by_key: dict[str, list[_Tried]] = defaultdict(list)
    for one in tried:
        by_key[one.entry.content_key].append(one)

    def end(now: SealedDay) -> SealedDay:
        if now.attempt != sealed.attempt:
            return now
        rest = {key: iter(some) for key, some in by_key.items()}
        there = [next(rest[entry.content_key]) for entry in now.entries]
        figures = _counted(now.about.figures, Counter(one.fate for one in there))
        left = [one.entry for one in there if one.fate is Fate.LEFT]
        return replace(now, about=replace(now.about, figures=figures), entries=left)

    return end
