"""The assets: one subsettable multi-asset for each stream, for the stream and its redacted events.

Both selected: records go from the page to the table in memory. The stream alone leaves its records sealed, the
events alone take what was left, or fetch. Good days are recorded each by itself and the failure comes last, so that a
bad day neither takes back nor skips another's.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any

import dagster as dg

from teei_ingest import logs
from teei_ingest.contracts.base import VERSION
from teei_ingest.defs import catalog, checks, events
from teei_ingest.defs.partitions import CORRELATION_TAG, by_company, key, open_day, split
from teei_ingest.defs.resources import IngestResource, StoreResource
from teei_ingest.errors import InternalError, TeeiError
from teei_ingest.pipeline.days import windows
from teei_ingest.pipeline.partition import Outcome, Partition
from teei_ingest.settings import Settings
from teei_ingest.store.drift import ADDED, CHANGED, DROPPED, Change
from teei_ingest.streams.base import Stream

_log = logging.getLogger("teei_ingest.runs")


def assets_for(stream: Stream, partitions_def: dg.PartitionsDefinition[Any], settings: Settings) -> dg.AssetsDefinition:
    """The multi-asset of a stream."""

    @dg.multi_asset(
        name=stream.name,
        specs=catalog.specs(stream, settings),
        check_specs=checks.specs(stream, partitions_def),
        partitions_def=partitions_def,
        backfill_policy=dg.BackfillPolicy.single_run(),
        can_subset=True,
        op_tags={"system": stream.system},
    )
    def materialize(context: dg.AssetExecutionContext, ingest: IngestResource, store: StoreResource) -> Iterator[Any]:
        yield from _materialize(context, stream, ingest, store)

    return materialize


def _materialize(
    context: dg.AssetExecutionContext, stream: Stream, ingest: IngestResource, store: StoreResource
) -> Iterator[Any]:
    requested = by_company(context.partition_keys)
    if not requested:
        raise dg.Failure("the partition range is empty: it begins after its end, or no company lies in it")
    last = max(day for days in requested.values() for day in days)
    if last > open_day():  # Dagster resolves a range beyond the partitions that there are
        raise dg.Failure(f"the partition range ends after the open day, {open_day()}")
    selected = {asset.to_user_string() for asset in context.selected_asset_keys}
    failed: dict[str, TeeiError] = {}
    for company, days in requested.items():
        outcome = Outcome()
        problem: TeeiError | None = None
        about = {**_ids(context.run), "company": company, "system": stream.system, "stream": stream.name}
        try:
            work = ingest.ingest(stream.name, company, context.run.run_id)
            about["companyId"] = str(work.company.id)
            with logs.bound(**about):
                outcome = _run(work, ingest, stream, days, selected)
        except BaseException as error:  # noqa: BLE001
            problem = harmless(error, stream, company)
        _note(stream, days, outcome, problem, about)
        if problem is not None:
            failed.update(dict.fromkeys((key(company, day) for day in days), problem))
            continue
        for asset in sorted(selected):
            yield from events.materialized(
                context,
                (
                    materialization(asset, company, stream, partition, outcome, work.policy.version)
                    for partition in outcome.good
                ),
            )
        try:
            evaluations = checks.evaluate(
                context, stream, work, store.store, outcome.good, stored=stream.events in selected
            )
            yield from events.checked(context, evaluations)
        except BaseException as error:  # noqa: BLE001
            problem = harmless(error, stream, company)
            failed.update({key(company, partition.day): problem for partition in outcome.good})
        for partition in outcome.bad:
            assert partition.error is not None
            failed[key(company, partition.day)] = partition.error
            for one in partition.drift:
                context.log.warning(f"{stream.name} {company}: {one.title} {one.change} ({one.type}); see `teei drift`")
        context.log.info(_summary(stream, company, outcome))
    if failed:
        raise dg.Failure(
            description=_failure(failed),
            metadata={partition_key: f"{error.code}: {error}" for partition_key, error in sorted(failed.items())},
            allow_retries=False,
        )


def harmless(error: BaseException, stream: Stream, company: str) -> TeeiError:
    """The error as it may be shown: what others than ours say may quote a record, even where a library panics."""
    if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit | dg.DagsterExecutionInterruptedError):
        raise error
    if isinstance(error, TeeiError):
        return error
    return InternalError.of(error, system=stream.system, stream=stream.name, company=company)


def _run(work: Any, ingest: IngestResource, stream: Stream, days: list[date], selected: set[str]) -> Outcome:
    spans = windows(days)
    started = ingest.started(stream.name, spans[0]) if len(spans) == 1 else None
    chosen: Callable[..., Outcome]
    if stream.name not in selected:
        chosen = work.events
    elif stream.events not in selected:
        chosen = work.stream
    else:
        chosen = work.both
    return chosen(days, started)


def materialization(
    asset: str, company: str, stream: Stream, partition: Partition, outcome: Outcome, policy: str
) -> dg.AssetMaterialization:
    """What is recorded of a partition of one of a stream's two assets."""
    metadata: dict[str, Any] = {
        "window": str(partition.window),
        "requests": partition.requests,
        "pages": partition.pages,
        "fetched": partition.fetched,
        "kept": partition.kept,
        "quarantined": partition.quarantined,
        "duplicates": partition.duplicates,
        "suppressed": partition.suppressed,
        "out_of_window": partition.out_of_window,
        "late": partition.late,
        "unlisted_values": partition.unlisted,
        "seconds": round(outcome.seconds, 3),
        "contract": f"{stream.contract.__name__} {VERSION}",
        "read_by": partition.read_by,
    }
    if partition.requeued:
        metadata["requeued"] = partition.requeued
    if partition.drift:
        metadata |= _drift(partition.drift)
    if partition.lag_s is not None:
        metadata["lag"] = dg.MetadataValue.float(partition.lag_s)
    if not partition.filtered_by_source:
        metadata["filter"] = "refused by the source; everything was read and filtered here"
    if asset == stream.events:
        metadata |= {
            "carried": partition.carried,
            "unchanged": partition.unchanged,
            "dagster/row_count": partition.kept + partition.carried,
            "read_from": "landing" if partition.from_landing else "source",
            "policy_version": policy,
        }
    else:
        metadata["dagster/row_count"] = partition.fetched
    return dg.AssetMaterialization(asset, partition=key(company, partition.day), metadata=metadata)


def _drift(changes: Sequence[Change]) -> dict[str, Any]:
    """Which fields came, went or changed their type, and how many of each; never a value."""
    many: Counter[str] = Counter()
    lines = ["| field | change | type | share of records | first seen |", "| --- | --- | --- | --- | --- |"]
    for one in changes:
        many[one.change] += one.fields
        lines.append(f"| {one.title} | {one.change} | {one.type} | {one.share:.0%} | {one.first_seen} |")
    return {
        "drift": dg.MetadataValue.md("\n".join(lines)),
        "fields_added": many[ADDED],
        "fields_dropped": many[DROPPED],
        "fields_changed": many[CHANGED],
    }


def _summary(stream: Stream, company: str, outcome: Outcome) -> str:
    good = outcome.good
    kept, fetched = sum(p.kept for p in good), sum(p.fetched for p in good)
    bad = f", {len(outcome.bad)} failed" if outcome.bad else ""
    return (
        f"{stream.name} {company}: {len(good)} days, {fetched} fetched, {kept} kept, "
        f"{sum(p.quarantined for p in good)} quarantined{bad}, {outcome.seconds:.2f} s"
    )


def _ids(run: dg.DagsterRun) -> dict[str, str]:
    """By which the log's lines are found: those of the run, and those of whatever asked for it or its first try."""
    asked = run.tags.get(CORRELATION_TAG) or logs.current("correlationId")
    return {"runId": run.run_id, "correlationId": asked or run.root_run_id or run.run_id}


def _note(
    stream: Stream, days: Sequence[date], outcome: Outcome, problem: TeeiError | None, about: Mapping[str, str]
) -> None:
    """A line of the log, with the seed service's fields."""
    title = stream.name.replace("_", " ").capitalize()
    kinds = sorted({problem.code} if problem else {one.error.code for one in outcome.bad if one.error})
    told: dict[str, Any] = {
        **about,
        "totalRecords": sum(one.fetched for one in outcome.good),
        "recordsProcessed": sum(one.kept + one.duplicates for one in outcome.good),
        "recordsFailed": sum(one.quarantined for one in outcome.good),
        "duration": round(outcome.seconds * 1000),
        "from": f"{min(days)}",
        "to": f"{max(days)}",
    }
    if not kinds:
        _log.info(f"{title} ingest completed", extra=told)
        return
    told |= {"daysFailed": len(outcome.bad) or len(days), "errorType": ",".join(kinds)}
    if problem:
        told["problem"] = str(problem)
    _log.error(f"{title} ingest failed", extra=told)


def _failure(failed: dict[str, TeeiError]) -> str:
    """One line: which partitions, why, and what tries them again."""
    reasons = {f"{error}" for error in failed.values()}
    keys = sorted(failed)
    shown = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
    companies = {split(each)[0] for each in keys}
    again = "teei sync --failed" + (f" --company {companies.pop()}" if len(companies) == 1 else "")
    why = "; ".join(sorted(reasons)[:3])
    return f"{len(keys)} partitions failed and keep what they had: {shown}: {why}. `{again}` tries them again"
