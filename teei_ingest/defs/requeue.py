"""Quarantined records brought in or discarded, and Dagster's record of it: a run that has succeeded already.

Nothing of it is planned, so that a partition never counts as failed because its quarantine could not be tried. It needs
a run, since Dagster takes only one evaluation of a partition's check that belongs to none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import date, timedelta

import dagster as dg
from dagster._core.events import StepMaterializationData

from teei_ingest.companies import Company
from teei_ingest.defs import assets, checks
from teei_ingest.defs.build import build
from teei_ingest.defs.partitions import COMPANY_TAG, key, split
from teei_ingest.defs.resources import IngestResource
from teei_ingest.defs.run import instance
from teei_ingest.errors import TeeiError
from teei_ingest.landing.quarantine import About, Quarantine
from teei_ingest.pipeline.ingest import Ingest
from teei_ingest.pipeline.partition import REMEMBERED, Outcome, Partition
from teei_ingest.pipeline.requeue import Recorded, Requeue, Retried
from teei_ingest.settings import Settings
from teei_ingest.streams import all_streams
from teei_ingest.streams.base import Stream

_RUN = "quarantine"


def retry(company: Company, days: Mapping[str, Collection[date]]) -> Iterator[tuple[str, Retried | TeeiError]]:
    """Try the quarantined records of these days again, by stream; of each stream what became of them, or what failed.

    Partitions that change are recorded as materialized and checked.
    """
    resources = build().resources or {}
    ingest: IngestResource = resources["ingest"]
    with instance() as opened:
        for name, wanted in days.items():
            try:
                yield name, _retry(opened, ingest, all_streams()[name], company.slug, wanted)
            except TeeiError as error:
                yield name, error


def _retry(
    opened: dg.DagsterInstance, ingest: IngestResource, stream: Stream, company: str, days: Collection[date]
) -> Retried:
    work = ingest.made(Requeue, stream.name, company, _RUN)

    return work.retry(days, recorded(opened, stream, company), recorder(opened, ingest, stream, work, _RUN))


def recorder(
    opened: dg.DagsterInstance,
    ingest: IngestResource,
    stream: Stream,
    work: Ingest,
    act: str,
) -> Callable[[Sequence[Partition]], None]:
    """What records partitions of which rows came or went without a reading, and their checks.

    They are shown as materialized by a run named after the act.
    """
    company = work.company.slug

    def record(partitions: Sequence[Partition]) -> None:
        if not partitions:
            return
        run_id = _run_of(opened, company, act)
        keys = [key(company, partition.day) for partition in partitions]
        there = {asset: _latest(opened, asset, keys) for asset in (stream.name, stream.events)}
        for partition in partitions:
            for asset, ids in there.items():
                if key(company, partition.day) in ids:
                    made = assets.materialization(asset, company, stream, partition, Outcome(), work.policy.version)
                    _report(opened, run_id, made, act)
        wanted = [(name, asset) for name, asset in checks.checks_of(stream) if there[asset]]
        for evaluation in checks.evaluations(
            opened, run_id, wanted, stream, work, ingest.store.store, partitions, stored=True
        ):
            if str(evaluation.partition) in there[evaluation.asset_key.to_user_string()]:
                _report(opened, run_id, evaluation, act)

    return record


def discard(settings: Settings, company: str, days: Mapping[str, Collection[date]]) -> None:
    """Remove the quarantined records of these days, by stream; their check has nothing to warn of any more."""
    quarantine = Quarantine(settings)
    with instance() as opened:
        run_id = _run_of(opened, company, _RUN)
        for name, some in days.items():
            for day in some:
                quarantine.discard(company, name, day)
            if name in all_streams():
                for evaluation in checks.discarded(opened, run_id, company, all_streams()[name], some):
                    _report(opened, run_id, evaluation, _RUN)


def _run_of(opened: dg.DagsterInstance, company: str, act: str) -> str:
    """A run to which events can belong; its id."""
    job = dg.GraphDefinition(name=act).to_job()
    done = dg.DagsterRunStatus.SUCCESS
    return opened.create_run_for_job(job, status=done, tags={COMPANY_TAG: company}).run_id


def _report(
    opened: dg.DagsterInstance, run_id: str, what: dg.AssetMaterialization | dg.AssetCheckEvaluation, act: str
) -> None:
    if isinstance(what, dg.AssetMaterialization):
        kind, data = dg.DagsterEventType.ASSET_MATERIALIZATION, StepMaterializationData(what)
    else:
        kind, data = dg.DagsterEventType.ASSET_CHECK_EVALUATION, what  # type: ignore[assignment]
    opened.report_dagster_event(dg.DagsterEvent(kind.value, job_name=act, event_specific_data=data), run_id)


def _latest(opened: dg.DagsterInstance, asset: str, keys: Collection[str]) -> Mapping[str, int]:
    """Where the last materialization of each partition is stored; those that have none are absent."""
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION
    return opened.event_log_storage.get_latest_storage_id_by_partition(dg.AssetKey(asset), kind, set(keys))


def recorded(
    opened: dg.DagsterInstance, stream: Stream, company: str
) -> Callable[[Collection[date]], Mapping[date, Recorded]]:
    """What the last materializations of a stream's events say."""

    def told(days: Collection[date]) -> Mapping[date, Recorded]:
        ids = _latest(opened, stream.events, [key(company, day) for day in days]) if days else {}
        if not ids:
            return {}
        wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(stream.events), storage_ids=list(ids.values()))
        found = {}
        for one in opened.fetch_materializations(wanted, limit=len(ids)).records:
            materialization = one.asset_materialization
            assert materialization is not None
            metadata = {name: value.value for name, value in materialization.metadata.items()}
            found[split(str(materialization.partition))[1]] = _of(metadata)
        return found

    return told


def _of(metadata: Mapping[str, object]) -> Recorded:
    """What a materialization's metadata says; without figures where an older version wrote it."""
    names = {name: "unlisted_values" if name == "unlisted" else name for name in REMEMBERED}
    if "read_by" not in metadata or not metadata.keys() >= set(names.values()):
        return Recorded("", About(), 0)
    first, end = (date.fromisoformat(part[:10]) for part in str(metadata["window"]).split("/"))
    window = first.isoformat(), (end - timedelta(days=1)).isoformat()
    figures = {name: int(str(metadata[shown])) for name, shown in names.items()}
    return Recorded(str(metadata["read_by"]), About(False, window, figures), int(str(metadata["quarantined"])))
