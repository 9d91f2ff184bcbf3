"""Events that their source no longer sends: which they are, and removing them.

Belongs here: reading the lists of `store/vanished.py`, and the order of the steps. Does not belong here: telling what
is gone (`pipeline/ingest.py`), Dagster's record of it (`defs/vanished.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime

from teei_ingest.errors import StoreError
from teei_ingest.landing.quarantine import SealedDay
from teei_ingest.pipeline.ingest import Stale, rows_by_day
from teei_ingest.pipeline.partition import Partition
from teei_ingest.pipeline.requeue import Fate, Recorded, Requeue, partition_of
from teei_ingest.settings import Settings
from teei_ingest.store.vanished import Vanished


@dataclass(frozen=True)
class Carried:
    """A day's events that its source no longer sends: their ids, and when each was first missed, in UTC."""

    stream: str
    day: date
    since: Mapping[str, datetime]


def carried(
    settings: Settings, company: str, streams: Collection[str] = (), first: date = date.min, last: date = date.max
) -> list[Carried]:
    """What is carried over of a company, of these streams or of all, by stream and day. Raises StoreError."""
    files = Vanished(settings.home)
    return [
        Carried(stream, day, files.ids(company, stream, day))
        for stream in files.streams(company)
        if not streams or stream in streams
        for day in files.days(company, stream)
        if first <= day <= last
    ]


class Dropping(Requeue):
    """One stream of one company, whose carried events are removed."""

    def drop(
        self,
        days: Collection[date],
        recorded: Callable[[Collection[date]], Mapping[date, Recorded]],
        record: Callable[[Sequence[Partition]], None],
    ) -> dict[date, int]:
        """Remove what is carried over to these days, in one commit and for good; how many rows, by day.

        `recorded` tells the last materializations, and `record` is told the partitions as they are then, after the
        commit. The ids are forgotten last: safe to repeat after a crash. Raises StoreError.
        """
        slug, store = self.company.slug, self._places.store
        ids: list[str] = []
        try:
            while True:
                with suppress(Stale):
                    self._is_current()
                    done = self._drop(days, recorded, record, ids)
                    break
        finally:
            self._collector.close()
        store.purge(self.plan.stream.contract)
        with store.alone_with(slug):
            self._vanished.forget(slug, ids)
        return done

    def _drop(
        self,
        days: Collection[date],
        recorded: Callable[[Collection[date]], Mapping[date, Recorded]],
        record: Callable[[Sequence[Partition]], None],
        ids: list[str],
    ) -> dict[date, int]:
        """As `drop`, up to the commit and its record; `ids` is filled with those of the rows."""
        stream, slug = self.plan.stream, self.company.slug
        table = (stream.contract, stream.name, slug)
        store, known, found = self._places.store, recorded(days), self._collector.begin()
        try:
            with self._committing(found), store.turn(slug, stream.name):
                gone = {day: self._vanished.ids(slug, stream.name, day) for day in sorted(days)}
                listed = [day for day, names in gone.items() if names]
                sealed = {day: self._sealed(day) for day in listed}
                bases = {day: self._base(day, known.get(day), sealed[day]) for day in listed}
                before = store.counts(*table, listed)
                self._add_stored(listed, found)
                kept = rows_by_day(found)
                store.replace(*table, listed, found.rows.reader(found.keep))
                made = [partition_of(day, base, Counter[Fate](), kept[day]) for day, base in bases.items()]
                for partition in made:
                    entries = one.entries if (one := sealed[partition.day]) else []
                    partition.broken = Counter((entry.field, entry.rule) for entry in entries)
                record(made)
                ids[:] = [name for names in gone.values() for name in names]
        finally:
            found.close()
        return {day: before.get(day, 0) - kept[day] for day in listed}

    def _base(self, day: date, recorded: Recorded | None, sealed: SealedDay | None) -> Recorded:
        """What the last reading of a day said of it, and what of its quarantine has been brought in since."""
        stream = self.plan.stream
        if recorded is None or not recorded.about.figures:
            raise StoreError(
                f"{day} has no materialization with all figures: sync it, and do this again",
                system=stream.system,
                stream=stream.name,
                company=self.company.slug,
            )
        if sealed is None or sealed.attempt != recorded.read_by:
            return recorded
        return Recorded(sealed.attempt, sealed.about, len(sealed.entries))
