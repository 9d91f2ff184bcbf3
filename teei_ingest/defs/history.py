"""What Dagster recorded, for those who know nothing of it: how a run went, which days are there, what ran lately.

Belongs here: reading, and ending a run whose process is gone. Does not belong here: starting runs (`run.py`).
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Literal

import dagster as dg

from teei_ingest.defs import partitions
from teei_ingest.defs.resources import streams_of
from teei_ingest.defs.run import Told, instance
from teei_ingest.streams import all_streams
from teei_ingest.sync import Request, Result

_TELLING = {
    dg.DagsterEventType.ASSET_MATERIALIZATION,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
    dg.DagsterEventType.STEP_START,
    dg.DagsterEventType.STEP_SUCCESS,
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.RUN_FAILURE,
    dg.DagsterEventType.RUN_CANCELED,
}

Standing = Literal["absent", "unfinished", "ended"]


def check() -> None:
    """Raises SettingsError or StoreError if Dagster's database cannot be reached."""
    with instance() as opened:
        opened.get_runs(limit=1)


def standing(run_id: str) -> Standing:
    """How a run stands."""
    with instance() as opened:
        found = opened.get_run_by_id(run_id)
    if found is None:
        return "absent"
    return "ended" if found.is_finished else "unfinished"


def end(run_id: str) -> None:
    """Record as failed a run whose process is gone, unless it has ended."""
    with instance() as opened:
        found = opened.get_run_by_id(run_id)
        if found is not None and not found.is_finished:
            opened.report_run_failed(found, "its process is gone")


def result(request: Request, run_id: str) -> Result:
    """What became of a request in a run that has ended."""
    told = Told(request, run_id)
    with instance() as opened:
        for entry in opened.all_logs(run_id, of_type=_TELLING):
            if entry.dagster_event is not None:
                told.hear(entry.dagster_event)
        record = opened.get_run_record_by_id(run_id)
    found = told.result()
    if record is not None and record.end_time is not None:
        found.ended = datetime.fromtimestamp(record.end_time, UTC)
    return found


def newest_days(company: str, streams: Collection[str], days: Collection[date]) -> dict[str, date]:
    """The last of these days that was materialized, by stream; nothing for a stream without any."""
    keys = {partitions.key(company, day): day for day in days}
    found: dict[str, date] = {}
    with instance() as opened:
        for name in streams:
            asset = dg.AssetKey(all_streams()[name].events)
            kind = dg.DagsterEventType.ASSET_MATERIALIZATION
            there = opened.get_latest_storage_id_by_partition(asset, kind, set(keys))
            if there:
                found[name] = max(keys[one] for one in there)
    return found


@dataclass(frozen=True)
class Ingest:
    """A stream of a company in a run that has ended, by itself; `ended` is UTC."""

    run_id: str
    company: str
    stream: str
    ended: datetime
    succeeded: bool


def ingests(after: datetime) -> list[Ingest]:
    """Of all runs that ended since; who cancelled a run says nothing of the systems."""
    statuses = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
    with instance() as opened:
        records = opened.get_run_records(dg.RunsFilter(statuses=statuses, updated_after=after))
        return [ingest for record in records for ingest in _ingests(opened, record)]


def _ingests(opened: dg.DagsterInstance, record: dg.RunRecord) -> Iterator[Ingest]:
    run = record.dagster_run
    asked = partitions.requested(run.tags)
    if asked is None or record.end_time is None:
        return
    streams = set(streams_of(run))
    succeeded = streams
    if run.status is dg.DagsterRunStatus.FAILURE:
        done = opened.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_SUCCESS)
        succeeded = {str(entry.step_key) for entry in done}
    ended = datetime.fromtimestamp(record.end_time, UTC)
    for name in streams:
        yield Ingest(run.run_id, asked[0], name, ended, name in succeeded)
