"""What Dagster recorded, as operations count it: runs that have ended, the daemon, the queue.

Belongs here: reading, a part at a time, so that nobody who asks often waits long. Does not belong here: what is made
of it (`metrics/`), how one run went (`history.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import dagster as dg
from dagster._core.storage.dagster_run import FINISHED_STATUSES

from teei_ingest.defs import partitions
from teei_ingest.defs.queue import UNFINISHED
from teei_ingest.defs.resources import streams_of
from teei_ingest.defs.run import instance
from teei_ingest.metrics import catalog
from teei_ingest.metrics.totals import Ended, Ingest

_PAGE = 200
# Whoever ends a run notes the time before it is committed, and another clock may be behind.
_LATE = timedelta(minutes=10)
_KINDS = {
    dg.DagsterEventType.ASSET_MATERIALIZATION,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
    dg.DagsterEventType.STEP_SUCCESS,
    dg.DagsterEventType.STEP_FAILURE,
}


@dataclass(frozen=True)
class Standing:
    """How Dagster stands: last heartbeats by daemon, unfinished runs by status; times in seconds since 1970."""

    heartbeats: dict[str, float]
    runs: dict[str, int]
    oldest: float | None


@contextmanager
def observing() -> Iterator[Observed]:
    """Raises SettingsError or StoreError if Dagster's database cannot be reached."""
    with instance() as opened:
        yield Observed(opened)


class Observed:
    """What can be seen of one instance, as long as it is open."""

    def __init__(self, opened: dg.DagsterInstance) -> None:
        self._opened = opened

    def standing(self) -> Standing:
        """Of now."""
        beats = self._opened.get_daemon_heartbeats()
        required = self._opened.get_required_daemon_types()
        queued = dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED])
        oldest = self._opened.get_run_records(queued, limit=1, ascending=True)
        return Standing(
            {name: beats[name].timestamp for name in required if name in beats},
            {one.value.lower(): self._opened.get_runs_count(dg.RunsFilter(statuses=[one])) for one in UNFINISHED},
            _utc(oldest[0].create_timestamp).timestamp() if oldest else None,
        )

    def ended(self, after: float) -> Iterator[tuple[float, list[str]]]:
        """Ids of runs that ended later than a while before `after`, a page at a time, each with when its last one did.

        In the order in which they ended, or nearly so. Times are seconds since 1970.
        """
        begin = datetime.fromtimestamp(after, UTC) - (_LATE if after else timedelta(0))
        while True:
            wanted = dg.RunsFilter(statuses=FINISHED_STATUSES, updated_after=begin)
            found = self._opened.get_run_records(wanted, limit=_PAGE, order_by="update_timestamp", ascending=True)
            if not found:
                return
            last = _utc(found[-1].update_timestamp)
            yield last.timestamp(), [one.dagster_run.run_id for one in found]
            if len(found) < _PAGE:
                return
            begin = last - timedelta(milliseconds=1)

    def run(self, run_id: str) -> Ended | None:
        """What there is to count of a run that has ended; None if it is gone meanwhile."""
        record = self._opened.get_run_record_by_id(run_id)
        return _ended(self._opened, record) if record is not None else None


def _ended(opened: dg.DagsterInstance, record: dg.RunRecord) -> Ended:
    run = record.dagster_run
    told = {name: _Told() for name in streams_of(run, events=True)}
    for entry in opened.all_logs(run.run_id, of_type=_KINDS) if told else ():
        event = entry.dagster_event
        if event is not None and event.step_key in told:
            told[event.step_key].hear(event)
    end = record.end_time or _utc(record.update_timestamp).timestamp()
    return Ended(run.run_id, end, [_ingest(name, one, run) for name, one in told.items()])


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@dataclass
class _Told:
    """What the events of a step say."""

    outcome: str = ""
    errors: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    records: Counter[str] = field(default_factory=Counter)
    checks: Counter[tuple[str, str]] = field(default_factory=Counter)
    requests: dict[str, int] = field(default_factory=dict)

    def hear(self, event: dg.DagsterEvent) -> None:
        if event.event_type is dg.DagsterEventType.ASSET_MATERIALIZATION:
            self._materialized(event.step_materialization_data.materialization)
        elif event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            bad = "warned" if check.severity is dg.AssetCheckSeverity.WARN else "failed"
            self.checks[check.check_name, "passed" if check.passed else bad] += 1
        elif event.event_type is dg.DagsterEventType.STEP_SUCCESS:
            self.outcome = catalog.SUCCESS
        else:
            self.outcome = catalog.FAILURE
            failure = event.step_failure_data.user_failure_data
            self.keys |= set(failure.metadata) if failure else set()
            codes = [str(value.value).partition(": ")[0] for value in failure.metadata.values()] if failure else []
            self.errors |= {catalog.error_type(code) for code in codes or [""]}

    def _materialized(self, materialization: dg.AssetMaterialization) -> None:
        self.keys.add(str(materialization.partition))
        metadata = {name: value.value for name, value in materialization.metadata.items()}
        if "kept" not in metadata or "policy_version" not in metadata:
            return  # the stream, of which its events say the same
        self.records.update({name: int(str(metadata[name])) for name in catalog.RECORDS})
        self.requests[str(metadata["window"])] = int(str(metadata["requests"]))  # its days share them


def _ingest(name: str, told: _Told, run: dg.DagsterRun) -> Ingest:
    requested = partitions.requested(run.tags)
    companies = {requested[0]} if requested else {partitions.split(key)[0] for key in told.keys if "|" in key}
    days: list[date] = [partitions.split(key)[1] for key in told.keys if "|" in key]
    outcome = told.outcome
    if run.status is dg.DagsterRunStatus.CANCELED and outcome != catalog.SUCCESS:
        outcome = catalog.CANCELED
    outcome = outcome or catalog.FAILURE  # it was never begun, or never ended
    if outcome == catalog.FAILURE and not told.errors:
        told.errors.add(catalog.CRASHED)
    return Ingest(
        stream=name,
        companies=frozenset(companies),
        outcome=outcome,
        last=requested[2] if requested else max(days, default=None),
        errors=frozenset(told.errors) if outcome == catalog.FAILURE else frozenset(),
        records=dict(told.records),
        checks=dict(told.checks),
        requests=sum(told.requests.values()),
    )
