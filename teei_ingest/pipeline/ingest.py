"""A window of a stream, fetched, checked, redacted and committed: what both assets of a stream do.

Days succeed or fail each on their own. Only whole days are committed, all good ones of a window in one commit.
"""

from __future__ import annotations

import gc
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from threading import Event

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from teei_ingest.companies import Company
from teei_ingest.contracts.stored import arrow_schema
from teei_ingest.errors import (
    BadCredentials,
    ContractBroken,
    NotAllowed,
    RateLimited,
    SettingsError,
    SourceError,
    SourceMisbehaves,
    StoreError,
    TeeiError,
)
from teei_ingest.extract.caller import Cancelled, CircuitOpen, PagesMoved, Unreachable
from teei_ingest.extract.http import Source
from teei_ingest.extract.read import Reading, read
from teei_ingest.landing.landing import Landing
from teei_ingest.landing.quarantine import About, Quarantine, QuarantineEntry
from teei_ingest.landing.suppression import Suppressions
from teei_ingest.mapping.columns import NS_PER_DAY
from teei_ingest.mapping.decode import Page, Pages
from teei_ingest.mapping.drift import Shape
from teei_ingest.mapping.plan import Plan
from teei_ingest.mapping.record import RecordMapper
from teei_ingest.pipeline.batch import EPOCH, Batches, day_of
from teei_ingest.pipeline.collect import Collected, Collector, OutOfOrder, settle
from teei_ingest.pipeline.days import Window, windows
from teei_ingest.pipeline.partition import LANDED, Figures, Outcome, Partition
from teei_ingest.redact.apply import Redactor
from teei_ingest.redact.policy import Policy
from teei_ingest.redact.tighten import tighten
from teei_ingest.redact.tokens import Pseudonyms
from teei_ingest.settings import Settings
from teei_ingest.store.changes import differing, gone
from teei_ingest.store.drift import Drift
from teei_ingest.store.tables import Store
from teei_ingest.store.vanished import Vanished
from teei_ingest.streams.base import SinceOnly
from teei_ingest.vault.keys import KeyRing

log = logging.getLogger(__name__)

# A list that moves while it is paged over is read again so often, then given up.
READINGS = 3
# These concern the whole window: asking for a part of it would be refused alike, or hide what is wrong.
FINAL = (BadCredentials, NotAllowed, RateLimited, CircuitOpen, SettingsError, Cancelled, OutOfOrder)


@dataclass(frozen=True)
class Places:
    """Where things are kept."""

    settings: Settings
    store: Store
    landing: Landing
    quarantine: Quarantine


class Stale(Exception):
    """Somebody was erased, or a key changed, after the reading began: what was read may not be committed."""


class Started:
    """A reading of a window that begins when its first page is wanted; its figures are final after the last."""

    def __init__(self, make: Callable[[Event | None], Reading[Page]]) -> None:
        self._make = make
        self.reading: Reading[Page] | None = None
        self.pages: Iterable[Page] = self.begin(None)

    def begin(self, cancel: Event | None) -> Iterator[Page]:
        """The pages; setting `cancel` ends the reading."""
        self.reading = self._make(cancel)
        yield from self.reading


class Ingest:
    """One stream of one company. `source` is called when something has to be fetched, and not before."""

    def __init__(
        self,
        plan: Plan,
        company: Company,
        tenant: str | None,
        places: Places,
        ring: KeyRing,
        policy: Policy,
        source: Callable[[], Source],
        *,
        run_id: str,
        page_size: int | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.plan = plan
        self.company = company
        self.policy = policy
        self.first_day = places.settings.start_date
        self._tenant = tenant
        self._places = places
        self._ring = ring
        self._source = source
        self._run_id = run_id
        self._page_size = page_size
        self._now = now
        self._suppressions = Suppressions(places.settings)
        self._vanished = Vanished(places.settings.home)
        self._drift = Drift(places.settings.home)
        self._shape = Shape(plan)
        self._collector = self._new_collector()
        self._pages = Pages(plan, company.slug)

    # --- what the assets call ---------------------------------------------------------------------------------

    def both(self, days: Sequence[date], started: Started | None = None) -> Outcome:
        """Fetch the days and commit their events; nothing is staged."""
        return self._timed(lambda outcome: self._fetch(outcome, days, started, self._commit, raw=False))

    def stream(self, days: Sequence[date], started: Started | None = None) -> Outcome:
        """Fetch the days and leave their records sealed for the events."""
        return self._timed(lambda outcome: self._fetch(outcome, days, started, self._land, raw=True))

    def events(self, days: Sequence[date], started: Started | None = None) -> Outcome:
        """Commit the events of the days: from the landing where it holds them, else fetched."""

        def work(outcome: Outcome) -> None:
            # The newest first: an older version of a record goes only where the newer one is stored.
            missing = [day for day in sorted(days, reverse=True) if not self._landed(outcome, day)]
            if missing:
                self._fetch(outcome, missing, started if len(missing) == len(days) else None, self._commit, raw=False)

        return self._timed(work)

    def start_later(self, window: Window, retries: int | None = None) -> Started:
        """A reading of a window, not yet begun; `retries` of a request other than the settings say."""
        return Started(
            lambda cancel: read(
                self._source(),
                self.plan.stream,
                window.start,
                window.end,
                self._pages,
                page_size=self._page_size,
                cancel=cancel,
                retries=retries,
            )
        )

    def _new_collector(self) -> Collector:
        """One that redacts with the ring, and suppresses whom the list has now."""
        plan, company, places, tenant = self.plan, self.company, self._places, self._tenant
        self._suppressed = self._suppressions.version(company.slug)  # before it is read: who comes later, is noticed
        suppression = self._suppressions.load(self._ring, company.slug)
        identity, slug = str(company.id), company.slug
        redactor = Redactor(plan, slug, identity, tenant, self._ring, self.policy, suppression)
        batches = Batches(plan, RecordMapper(plan, identity, tenant), redactor, slug)
        return Collector(plan, batches, places.settings.home / "tmp", slug, places.settings.processes)

    @contextmanager
    def _committing(self, found: Collected) -> Iterator[None]:
        """Nobody is erased and no key changes meanwhile. Raises Stale if that happened since the reading began."""
        places, company = self._places, self.company
        if found.links:
            with places.store.alone_with(company.slug):
                self._suppressions.learn(self._ring, company.slug, found.links)
        with places.store.committing(company.slug) as needed:
            if not self._is_current(needed):
                raise Stale
            yield

    def _is_current(self, needed: int = 1) -> bool:
        """Whether keys and suppressions are those of the collector; else there is a new one, with the new ones."""
        ring = self._ring.newest(self._places.settings, self.company, needed)
        if ring is self._ring and self._suppressions.version(self.company.slug) == self._suppressed:
            return True
        self._ring = ring
        self._collector.close()
        self._collector = self._new_collector()
        return False

    def _timed(self, work: Callable[[Outcome], None]) -> Outcome:
        begun = time.monotonic()
        outcome = Outcome()
        with _rare_collections():
            try:
                work(outcome)
            finally:
                self._collector.close()
        outcome.seconds = time.monotonic() - begun
        return outcome

    # --- fetching ---------------------------------------------------------------------------------------------

    def _fetch(
        self,
        outcome: Outcome,
        days: Sequence[date],
        started: Started | None,
        keep: Callable[[Outcome, Window, Collected, Figures], None],
        *,
        raw: bool,
    ) -> None:
        spans = windows(days)
        for span in spans:
            patience = _Patience(len(span.days))
            self._window(outcome, span, started if len(spans) == 1 else None, keep, raw, patience)

    def _window(
        self,
        outcome: Outcome,
        window: Window,
        started: Started | None,
        keep: Callable[[Outcome, Window, Collected, Figures], None],
        raw: bool,
        patience: _Patience,
    ) -> None:
        """Read and keep a window; again, if somebody was erased or a key changed before it was committed."""
        while True:
            try:
                self._is_current()
                self._window_once(outcome, window, started, keep, raw, patience)
                return
            except Stale:
                started = None
            except TeeiError as problem:  # the company's keys or its list of erasures cannot be used
                error = problem
                break
        self._fail(outcome, window.days, window, error, Figures())

    def _window_once(
        self,
        outcome: Outcome,
        window: Window,
        started: Started | None,
        keep: Callable[[Outcome, Window, Collected, Figures], None],
        raw: bool,
        patience: _Patience,
    ) -> None:
        """Read a window; when that breaks off, keep its complete days and read the others by halves."""
        figures = Figures()
        found = self._collector.begin(raw=raw)
        error: TeeiError | None = None
        try:
            try:
                found = self._read(found, window, started, figures, raw, patience.retries(window))
            except TeeiError as problem:
                error = problem
            if error is None:
                patience.succeeded()
                self._keep(outcome, window, found, figures, keep)
                return
            done = self._complete_days(found, window, error)
            if done is not None:
                patience.succeeded()
                self._keep(outcome, done, found, figures, keep)
                if done == window:
                    return
                window = Window(done.last + timedelta(days=1), window.last)
        finally:
            found.close()
        log.warning("%s", error)
        if patience.failed(error) or isinstance(error, FINAL) or (done is None and window.first == window.last):
            self._fail(outcome, window.days, window, error, figures)
        elif window.first == window.last:
            self._window(outcome, window, None, keep, raw, patience)
        else:
            middle = window.first + timedelta(days=(window.last - window.first).days // 2)
            self._window(outcome, Window(window.first, middle), None, keep, raw, patience)
            self._window(outcome, Window(middle + timedelta(days=1), window.last), None, keep, raw, patience)

    def _read(
        self,
        found: Collected,
        window: Window,
        started: Started | None,
        figures: Figures,
        raw: bool,
        retries: int | None,
    ) -> Collected:
        """Read until the window is settled: again if pages moved, once more if versions conflict."""
        watch: frozenset[bytes] = frozenset()
        moved: PagesMoved | None = None
        for _ in range(READINGS):
            begun = started or self.start_later(window, retries)
            started = None
            try:
                self._collector.extend(found, begun.pages, window, watch)
            except PagesMoved as problem:
                moved = problem
            else:
                moved = None
            finally:
                figures.add(begun.reading)
            if moved is None:
                unsure = settle(found, again=bool(watch))
                if not unsure:
                    return found
                watch = unsure
            found.close()
            fresh = self._collector.begin(raw=raw)
            found.__dict__.update(fresh.__dict__)
        if moved is not None:
            raise moved
        raise self._error(SourceMisbehaves, f"records changed during each of {READINGS} readings")

    def _keep(
        self,
        outcome: Outcome,
        window: Window,
        found: Collected,
        figures: Figures,
        keep: Callable[[Outcome, Window, Collected, Figures], None],
    ) -> None:
        """Keep what was read; if that fails, these days fail and no other."""
        try:
            keep(outcome, window, found, figures)
        except TeeiError as problem:
            error = problem
        else:
            return
        self._fail(outcome, window.days, window, error, figures)

    def _complete_days(self, found: Collected, window: Window, error: TeeiError) -> Window | None:
        """The days that an ascending source had sent whole and unambiguously when it broke off."""
        ascending = isinstance(self.plan.stream.window, SinceOnly) and not isinstance(error, SourceMisbehaves)
        if not ascending or not found.reached_ns or settle(found, again=False):
            return None
        last = day_of(found.reached_ns // NS_PER_DAY) - timedelta(days=1)
        return Window(window.first, min(last, window.last)) if last >= window.first else None

    def _fail(self, outcome: Outcome, days: Sequence[date], window: Window, error: TeeiError, figures: Figures) -> None:
        for day in days:
            outcome.partitions[day] = figures.apply(Partition(day, window, error=error))

    def _error(self, kind: type[SourceError], message: str) -> SourceError:
        stream = self.plan.stream
        return kind(message, system=stream.system, stream=stream.name, company=self.company.slug)

    # --- keeping ----------------------------------------------------------------------------------------------

    def _partitions(self, window: Window, found: Collected, figures: Figures) -> dict[date, Partition]:
        """Counts by day; a day with too many bad records fails and keeps what it had."""
        kept = rows_by_day(found)
        made = {day: self._partition(day, window, found, kept, figures) for day in window.days}
        newest = found.newest_ns
        if newest:
            lag = self._now().timestamp() - newest / 1e9
            for partition in made.values():
                partition.lag_s = round(lag, 3)
        return made

    def _partition(
        self, day: date, window: Window, found: Collected, kept: Counter[date], figures: Figures
    ) -> Partition:
        """What became of a day; `kept` are the rows that stay, by day."""
        entries = found.quarantine.get(day, [])
        partition = figures.apply(
            Partition(
                day,
                window,
                fetched=found.fetched[day],
                kept=kept[day],
                quarantined=len(entries) - found.known[day],
                duplicates=found.duplicates[day] + found.known[day],
                suppressed=found.suppressed[day],
                out_of_window=found.out_of_window[day],
                unlisted=found.unlisted[day],
                read_by=self._run_id,
            )
        )
        self._judge(partition, entries)
        return partition

    def _judge(self, partition: Partition, entries: Sequence[QuarantineEntry]) -> None:
        """Count what the day's bad records broke; it fails if they are too many, or if the counts do not add up."""
        partition.broken = Counter((entry.field, entry.rule) for entry in entries)
        settings, day, bad = self._places.settings, partition.day, partition.quarantined
        own = partition.fetched - partition.out_of_window
        if bad >= settings.quarantine_min and bad >= settings.quarantine_ratio * own:
            field, rule = partition.broken.most_common(1)[0][0]
            command = f"teei quarantine list --company {self.company.slug} --stream {self.plan.stream.name}"
            partition.error = self._error(
                ContractBroken,
                f"{day}: {bad} of {own} records break their contract, most often `{field}` ({rule}); "
                f"the partition keeps what it had; `{command} --from {day} --to {day}` shows all that is broken",
            )
        elif not partition.balanced:
            partition.error = self._error(SourceMisbehaves, f"{day}: the counts do not add up")

    def _set_aside(self, window: Window, found: Collected, figures: Figures) -> None:
        """Replace the quarantine of all days of the window; before the commit, so that no record is nowhere."""
        entries = {day: found.quarantine.get(day, []) for day in window.days}
        kept = rows_by_day(found)

        def about(day: date, known: int) -> About:
            found.known[day] = known
            return self._partition(day, window, found, kept, figures).about()

        slug, stream = self.company.slug, self.plan.stream.name
        self._places.quarantine.replace(self._ring, slug, stream, entries, about, attempt=self._run_id)

    def _commit(self, outcome: Outcome, window: Window, found: Collected, figures: Figures) -> None:
        with self._committing(found):
            self._set_aside(window, found, figures)
            made = self._write(window, found, figures)
            self._note_drift(window, found, made)
            landed = self._places.landing.days(self.company.slug, self.plan.stream.name)
            for day, partition in made.items():
                if day in landed and partition.error is None:  # what the stream alone left of it is older now
                    self._places.landing.discard(self.company.slug, self.plan.stream.name, day)
        outcome.partitions.update(made)

    def _write(self, window: Window, found: Collected, figures: Figures) -> dict[date, Partition]:
        """Replace the good days of a window in the table."""
        made = self._partitions(window, found, figures)
        good = {day: partition for day, partition in made.items() if partition.error is None}
        if good:
            with self._places.store.turn(self.company.slug, self.plan.stream.name):
                self._replace(good, found)
        return made

    def _replace(self, good: Mapping[date, Partition], found: Collected) -> None:
        """Put what was found and what is carried over in the place of these days, where that changes anything."""
        store, stream, slug = self._places.store, self.plan.stream, self.company.slug
        table = (stream.contract, stream.name, slug)
        keep = found.keep & _on(found.rows.days, good)
        now = self._now()
        closed, still_open = ([day for day in good if (day < now.date()) is past] for past in (True, False))
        stored = store.counts(*table, good)
        carried = arrow_schema(stream.contract).empty_table()
        if not stored.keys().isdisjoint(closed):
            new = found.rows.columns(["event_id", "source_id", "source_timestamp", "day"], keep)
            carried, late = gone(store, *table, closed, new, still_open)
            carried = tighten(carried, stream.contract, self.policy, Pseudonyms.of(self._ring))
            for day, count in late.items():
                good[day].late = count
        missing = ids_by_day(carried)
        for day, ids in missing.items():
            good[day].carried = len(ids)
        for day in stored.keys() & set(closed):
            good[day].superseded = stored[day] - good[day].carried - (good[day].kept - good[day].late)

        def rows(days: Collection[date]) -> Callable[[], pa.RecordBatchReader]:
            chosen = carried.filter(pc.is_in(carried["day"], pa.array(days, pa.date32())))
            return found.rows.reader(keep & _on(found.rows.days, days), chosen)

        counts = {day: partition.kept + partition.carried for day, partition in good.items()}
        changed = differing(store, *table, stored, counts, rows)
        for day, partition in good.items():
            partition.unchanged = day not in changed
        self._vanished.replace(slug, stream.name, good, missing, now)
        store.replace(*table, changed, rows(changed))

    def _land(self, outcome: Outcome, window: Window, found: Collected, figures: Figures) -> None:
        with self._committing(found):
            self._set_aside(window, found, figures)
            made = self._partitions(window, found, figures)
            for day, partition in made.items():
                if partition.error is None:
                    self._land_day(day, partition, found)
            self._note_drift(window, found, made)
        outcome.partitions.update(made)

    def _note_drift(self, window: Window, found: Collected, made: Mapping[date, Partition]) -> None:
        """Compare what the records look like with what is known; that this cannot be done fails nothing."""
        name, days = self.plan.stream.name, (window.first, window.last)
        try:
            changes = self._drift.note(
                self.company.slug, name, self._shape, found.profile, days, self._now().astimezone(UTC).date()
            )
        except StoreError as problem:
            log.warning("%s", problem)
            return
        if changes:
            good = [partition for partition in made.values() if partition.error is None]
            (good or list(made.values()))[-1].drift = changes

    def _land_day(self, day: date, partition: Partition, found: Collected) -> None:
        window, raw = partition.window, found.raw or []
        meta = {
            "window": [window.first.isoformat(), window.last.isoformat()],
            **{name: getattr(partition, name) for name in LANDED},
        }
        rows = np.flatnonzero(found.keep & (found.rows.days == (day - EPOCH).days)).tolist()
        records = (self._collector.unnamed(raw[row]) for row in rows)
        slug, stream = self.company.slug, self.plan.stream.name
        self._places.landing.write(self._ring, slug, stream, day, meta, records, attempt=self._run_id)

    def _landed(self, outcome: Outcome, day: date) -> bool:
        """Whether something has landed for a day; it is committed then, or the day fails."""
        while True:
            try:
                return self._from_landing(outcome, day)
            except Stale:
                continue
            except TeeiError as problem:
                error = problem
            self._fail(outcome, [day], Window(day, day), error, Figures())
            return True

    def _from_landing(self, outcome: Outcome, day: date) -> bool:
        """Commit a day from what the stream left, if it left something; it is consumed then."""
        places, stream, slug = self._places, self.plan.stream, self.company.slug
        landed = places.landing.read(self._ring, slug, stream.name, day)
        if landed is None:
            return False
        meta, records = landed
        window = Window(day, day)
        self._is_current()
        found = self._collector.begin()
        try:
            self._collector.extend(found, self._replay(records), window)
            settle(found, again=False)
            with self._committing(found):
                partition = self._write(window, found, Figures())[day]
                if partition.error is None:
                    places.landing.discard(slug, stream.name, day)
        finally:
            found.close()
        first, last = map(date.fromisoformat, meta["window"])
        partition.window, partition.from_landing = Window(first, last), True
        since = partition.suppressed
        for name in LANDED:
            setattr(partition, name, meta.get(name, getattr(partition, name)))
        partition.kept, partition.suppressed = partition.kept - since, partition.suppressed + since
        outcome.partitions[day] = partition
        return True

    def _replay(self, records: Iterable[bytes]) -> Iterable[Page]:
        """Landed records as pages."""
        waiting: list[bytes] = []
        name = msgspec.json.encode(self.plan.stream.records)

        def page() -> Page:
            return self._pages(b"{" + name + b":[" + b",".join(waiting) + b"]}")

        for record in records:
            waiting.append(record)
            if len(waiting) == 500:
                yield page()
                waiting = []
        if waiting:
            yield page()


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Fewer garbage collections: a fifth of the time went into looking through records, which form no cycles."""
    usual = gc.get_threshold()
    gc.set_threshold(200_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


class _Patience:
    """Ends the search for the bad days of a window when nothing of it can be read at all.

    Where nothing is answered, every failure may take as long as a read may: only as many in a row as halving needs to
    come down to one day.
    """

    def __init__(self, days: int) -> None:
        self._halvings = days.bit_length()
        self._row = 0
        self._searching = False

    def retries(self, window: Window) -> int | None:
        """Retries of a request: the settings' at first; once something failed for good, hardly any."""
        return (1 if window.first == window.last else 0) if self._searching else None

    def succeeded(self) -> None:
        self._row = 0

    def failed(self, error: TeeiError) -> bool:
        self._searching = True
        self._row += 1
        return self._row > (self._halvings if isinstance(error, Unreachable) else 2 * self._halvings + 2)


def _on(numbers: np.ndarray, days: Iterable[date]) -> np.ndarray:
    """Which of `numbers`, days since 1970, are of these days."""
    return np.isin(numbers, np.array([(day - EPOCH).days for day in days], np.int32))


def rows_by_day(found: Collected) -> Counter[date]:
    """How many of the rows that stay are of each day."""
    days, counts = np.unique(found.rows.days[found.keep], return_counts=True)
    return Counter(dict(zip(map(day_of, days), counts.tolist(), strict=True)))


def ids_by_day(table: pa.Table) -> dict[date, list[str]]:
    """Ids of the rows' events, by day."""
    found: dict[date, list[str]] = {}
    for day, name in zip(table["day"].to_pylist(), table["event_id"].to_pylist(), strict=True):
        found.setdefault(day, []).append(name)
    return found
