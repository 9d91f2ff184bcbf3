"""All figures at one moment: what was counted, and what files and Dagster say of now.

Belongs here: where each figure comes from, and that one part which cannot be read takes no other along. Gauges of such
a part are left out, since a figure of before would look like one of now.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

from teei_ingest.companies import Companies, Company
from teei_ingest.errors import TeeiError
from teei_ingest.extract.circuit import open_circuits
from teei_ingest.extract.quota import pressures
from teei_ingest.landing.quarantine import Quarantine
from teei_ingest.metrics import catalog
from teei_ingest.metrics.catalog import Metric
from teei_ingest.metrics.sizes import COMPANY, TABLE, Sizes
from teei_ingest.metrics.totals import Counted, Labels, Totals
from teei_ingest.settings import Settings
from teei_ingest.streams import all_streams
from teei_ingest.systems import all_systems
from teei_ingest.vault.credentials import status
from teei_ingest.vault.keys import shredded
from teei_ingest.webhooks.deliveries import Deliveries
from teei_ingest.webhooks.signatures import SYSTEMS as SENDERS

if TYPE_CHECKING:
    from teei_ingest.defs.observed import Observed

COUNTING_S = 2.0  # that one look may spend on counting runs: the rest is counted the next time
_TOGETHER = 20  # runs that are counted in one step
_PARTS = ("dagster", "sources", "webhooks", "sizes", "companies", "totals")


class Figure(NamedTuple):
    """A metric and its values by labels."""

    metric: Metric
    values: Mapping[Labels, float]


class Figures:
    """Those of one home. `companies` gives the registry as it is now; raises nothing that a part of them raises."""

    def __init__(self, settings: Settings, companies: Callable[[], Companies]) -> None:
        self._settings = settings
        self._companies = companies
        self._totals = Totals(settings)
        self._up: dict[str, float] = {}

    def now(self) -> list[Figure]:
        """All of them. `impact_in_part_up` says which could be read."""
        self._up = dict.fromkeys(_PARTS, 0.0)
        now = time.time()
        found = [Figure(catalog.BUILD, {(version("teei-ingest"),): 1.0})]
        with self._part("dagster"):
            found += self._of_dagster()
        with self._part("sources"):
            found += self._of_sources()
        with self._part("webhooks"):
            found += self._of_webhooks()
        with self._part("sizes"):
            found += self._of_sizes()
        known: list[Company] = []
        with self._part("companies"):
            known = [one for one in self._companies() if shredded(self._settings, one) is None]
            found += self._of_quarantine(known)
        with self._part("totals"):
            found += self._of_runs(self._totals.counted(now), known, now)
        return [*found, Figure(catalog.PART_UP, {(part,): up for part, up in self._up.items()})]

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        try:
            yield
        except TeeiError:
            return
        self._up[name] = 1.0

    def _of_dagster(self) -> list[Figure]:
        from teei_ingest.defs import observed

        with observed.observing() as dagster:
            count(self._totals, dagster)
            standing = dagster.standing()
        return [
            Figure(catalog.HEARTBEAT, {(name,): at for name, at in standing.heartbeats.items()}),
            Figure(catalog.QUEUE, {(status,): number for status, number in standing.runs.items()}),
            Figure(catalog.QUEUE_OLDEST, {} if standing.oldest is None else {(): standing.oldest}),
        ]

    def _of_runs(self, counted: Counted, companies: Collection[Company], now: float) -> list[Figure]:
        uses = self._in_use(companies)
        fresh: dict[Labels, float] = {
            (company, all_streams()[stream].system, stream): ended
            for (company, stream), ended in counted.successes.items()
            if stream in all_streams() and all_streams()[stream].system in uses.get(company, ())
        }
        oldest: dict[Labels, float] = {}
        for (_, system, _), ended in fresh.items():
            oldest[system,] = min(ended, oldest.get((system,), ended))
        counters = []
        for metric, zeros in _zeros(uses).items():
            values = counted.totals.get(metric.name, {})
            if metric is catalog.COMPANY_RUNS:
                values = {labels: value for labels, value in values.items() if labels[0] in uses}
            counters.append(Figure(metric, {**zeros, **values}))
        return [
            *counters,
            Figure(catalog.SUCCESS_RATE, {(system,): rate for system, rate in counted.rates.items()}),
            Figure(catalog.LAST_SUCCESS, fresh),
            Figure(catalog.LAG, {labels: max(0.0, now - ended) for labels, ended in oldest.items()}),
            Figure(catalog.RECORDED_UNTIL, {(): counted.until}),
        ]

    def _in_use(self, companies: Iterable[Company]) -> dict[str, list[str]]:
        """The systems of each company that have credentials: of the others nothing is expected."""
        found = {}
        for company in companies:
            states = {name: status(self._settings, self._companies(), company, name).state for name in company.systems}
            found[company.slug] = [name for name, state in states.items() if state != "unconfigured"]
        return found

    def _of_quarantine(self, companies: Iterable[Company]) -> list[Figure]:
        quarantine = Quarantine(self._settings)
        days: Counter[Labels] = Counter({(one.system, one.name): 0 for one in all_streams().values()})
        known = {company.slug for company in companies}
        for (company, stream), count in quarantine.counts().items():
            if company in known and stream in all_streams():
                days[all_streams()[stream].system, stream] += count
        return [Figure(catalog.QUARANTINED, dict(days))]

    def _of_sources(self) -> list[Figure]:
        used: dict[Labels, float] = {}
        waiting: Counter[Labels] = Counter()
        blocked: Counter[Labels] = Counter()
        for key in pressures(self._settings, all_systems().values()):
            label = (key.system,)
            used[label] = max(used.get(label, 0.0), key.used / key.limit)
            waiting[label] += key.waiting
            blocked[label] += key.blocked
        down: Counter[Labels] = Counter({(name,): 0 for name in all_systems()})
        since: dict[Labels, float] = {}
        for system, circuit in open_circuits(self._settings):
            down[system,] += 1
            since[system,] = min(circuit.since, since.get((system,), circuit.since))
        return [
            Figure(catalog.QUOTA_USED, used),
            Figure(catalog.QUOTA_WAITING, dict(waiting)),
            Figure(catalog.QUOTA_BLOCKED, dict(blocked)),
            Figure(catalog.CIRCUIT_OPEN, dict(down)),
            Figure(catalog.CIRCUIT_SINCE, since),
        ]

    def _of_sizes(self) -> list[Figure]:
        at, sizes = Sizes(self._settings).last() or (None, {})
        parts = {thing: size for thing, size in sizes.items() if thing.kind != COMPANY}
        return [
            Figure(catalog.STORED_BYTES, {(thing.name,): size.bytes for thing, size in parts.items()}),
            Figure(
                catalog.STORED_ROWS, {(thing.name,): size.rows for thing, size in parts.items() if thing.kind == TABLE}
            ),
            Figure(catalog.MEASURED, {} if at is None else {(): at}),
        ]

    def _of_webhooks(self) -> list[Figure]:
        waiting: Counter[Labels] = Counter({(name,): 0 for name in SENDERS})
        since: dict[Labels, float] = {}
        last: dict[Labels, float] = {}
        for one in Deliveries(self._settings).figures():
            label = (all_streams()[one.stream].system,)
            waiting[label] += one.waiting
            last[label] = max(one.last, last.get(label, 0.0))
            if one.waiting_since is not None:
                since[label] = min(one.waiting_since, since.get(label, one.waiting_since))
        return [
            Figure(catalog.WEBHOOKS_WAITING, dict(waiting)),
            Figure(catalog.WEBHOOKS_SINCE, since),
            Figure(catalog.WEBHOOKS_LAST, last),
        ]


def count(totals: Totals, dagster: Observed, seconds: float = COUNTING_S) -> None:
    """Count runs that have ended since, for so long; the oldest first, so that it goes on there. Raises TeeiError."""
    end = time.monotonic() + seconds
    for until, run_ids in dagster.ended(totals.until()):
        unknown = totals.unknown(run_ids)
        waiting = [run_id for run_id in run_ids if run_id in unknown]
        for begin in range(0, len(waiting), _TOGETHER):
            batch = [dagster.run(run_id) for run_id in waiting[begin : begin + _TOGETHER]]
            totals.add([one for one in batch if one is not None])
            if time.monotonic() > end:
                return
        totals.add((), until)


def _zeros(uses: Mapping[str, Collection[str]]) -> dict[Metric, dict[Labels, float]]:
    """Every counter at 0, so that its first step up is seen as one."""
    systems, streams = all_systems(), all_streams().values()
    return {
        catalog.PROCESSED: {(name,): 0.0 for name in systems},
        catalog.ERRORS: {(name, kind): 0.0 for name in systems for kind in catalog.error_types()},
        catalog.RUNS: {(one.system, one.name, outcome): 0.0 for one in streams for outcome in catalog.OUTCOMES},
        catalog.RECORDS_BY_OUTCOME: {
            (one.system, one.name, outcome): 0.0 for one in streams for outcome in catalog.RECORDS
        },
        catalog.REQUESTS: {(one.system, one.name): 0.0 for one in streams},
        catalog.CHECKED: {
            (one.system, one.name, check, verdict): 0.0
            for one in streams
            for check in catalog.CHECKS
            for verdict in catalog.VERDICTS
        },
        catalog.COMPANY_RUNS: {
            (company, system, outcome): 0.0
            for company, used in uses.items()
            for system in used
            for outcome in catalog.OUTCOMES
        },
    }
