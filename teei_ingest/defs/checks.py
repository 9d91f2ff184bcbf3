"""Asset checks: `contract` and `quarantine` on each stream, `no_personal_data` on its events; for each partition.

`quarantine` warns: what it finds is set aside, and the rest is complete. So does `contract` where all that it finds is
that a day has far fewer records than usual (`pipeline/volume.py`): a check of its own would cost as much as all that it
has to say.

They are evaluated in the step that materialized, bound to the materialization, since a check of its own is skipped
for every key of a range. What is audited is what is at rest (`redact/audit.py`).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)

from teei_ingest.defs.partitions import key, open_day
from teei_ingest.pipeline import volume
from teei_ingest.pipeline.ingest import Ingest
from teei_ingest.pipeline.partition import Partition
from teei_ingest.redact.audit import CONTRACT_RULES, PRIVACY_RULES, audit
from teei_ingest.store.tables import Store
from teei_ingest.streams.base import Stream

CONTRACT = "contract"
QUARANTINE = "quarantine"
NO_PERSONAL_DATA = "no_personal_data"

_AS_USUAL = "records: as many as such days had before"


def specs(stream: Stream, partitions_def: dg.PartitionsDefinition[Any]) -> list[dg.AssetCheckSpec]:
    """The checks of a stream."""
    name = stream.contract.__name__
    return [
        dg.AssetCheckSpec(
            CONTRACT,
            asset=stream.name,
            description=f"Every record is accounted for, and what is stored keeps the released schema of {name}. Warns "
            "where a day has far fewer records than such days had before.",
            partitions_def=partitions_def,
        ),
        dg.AssetCheckSpec(
            QUARANTINE,
            asset=stream.name,
            description="No record had to be set aside, sealed, because it broke its contract. Warns.",
            partitions_def=partitions_def,
        ),
        dg.AssetCheckSpec(
            NO_PERSONAL_DATA,
            asset=stream.events,
            description="The stored rows, read back, hold no direct identifier and only what the policy leaves.",
            partitions_def=partitions_def,
        ),
    ]


def evaluate(
    context: dg.AssetExecutionContext,
    stream: Stream,
    ingest: Ingest,
    store: Store,
    good: Sequence[Partition],
    *,
    stored: bool,
) -> Iterator[dg.AssetCheckEvaluation]:
    """Evaluations of the selected checks for partitions that were materialized; `stored` says whether in tables."""
    selected = context.selected_asset_check_keys
    wanted = [
        (name, asset) for name, asset in checks_of(stream) if dg.AssetCheckKey(dg.AssetKey(asset), name) in selected
    ]
    yield from evaluations(context.instance, context.run.run_id, wanted, stream, ingest, store, good, stored=stored)


def checks_of(stream: Stream) -> list[tuple[str, str]]:
    """Names of the checks of a stream, each with its asset."""
    return [(CONTRACT, stream.name), (QUARANTINE, stream.name), (NO_PERSONAL_DATA, stream.events)]


def evaluations(
    instance: dg.DagsterInstance,
    run_id: str,
    wanted: Sequence[tuple[str, str]],
    stream: Stream,
    ingest: Ingest,
    store: Store,
    good: Sequence[Partition],
    *,
    stored: bool,
) -> Iterator[dg.AssetCheckEvaluation]:
    """Evaluations of these checks, each with its asset, for partitions whose materialization is recorded."""
    if not good or not wanted:
        return
    company = ingest.company.slug
    findings: Any = {}
    rows: Any = {}
    quiet = _quiet(store, stream, ingest, good) if (CONTRACT, stream.name) in wanted else {}
    if stored and {name for name, _ in wanted} - {QUARANTINE}:
        days = [partition.day for partition in good]
        batches = store.batches(stream.contract, stream=stream.name, company=company, days=days)
        findings, rows = audit(batches, stream.contract, ingest.policy)
    bound: dict[str, dict[str, AssetCheckEvaluationTargetMaterializationData]] = {}
    for name, asset in wanted:
        if asset not in bound:
            bound[asset] = _targets(instance, run_id, asset, [key(company, partition.day) for partition in good])
        targets = bound[asset]
        if name == QUARANTINE:
            for partition in good:
                broken = {f"{field}: {rule}": count for (field, rule), count in partition.broken.items()}
                count = partition.quarantined if broken else 0  # else they were discarded, or have become too old
                yield set_aside(company, stream, partition.day, count, broken, targets)
            continue
        rules = CONTRACT_RULES if name == CONTRACT else PRIVACY_RULES
        for partition in good:
            found = {
                f"{field}: {rule}": count
                for (field, rule), count in findings.get(partition.day, {}).items()
                if rule in rules
            }
            if name == CONTRACT:
                found |= _sums(partition, rows.get(partition.day, 0) if stored else None)
            low = quiet.get(partition.day) if name == CONTRACT else None
            yield _evaluation(name, asset, key(company, partition.day), rules, found, partition, targets, low)


def set_aside(
    company: str,
    stream: Stream,
    day: date,
    count: int,
    broken: Mapping[str, int],
    targets: Mapping[str, AssetCheckEvaluationTargetMaterializationData],
) -> dg.AssetCheckEvaluation:
    """Whether records of a partition are quarantined; `broken` counts what they break."""
    partition_key = key(company, day)
    options = f"--company {company} --stream {stream.name} --from {day} --to {day}"
    metadata: dict[str, Any] = {"quarantined": count}
    if count:
        metadata |= {
            "breaches": dg.MetadataValue.json(dict(broken)),
            "what to do": f"`teei quarantine list {options}`; then mend the mapping or the contract and "
            f"`teei quarantine retry {options}`, or `teei quarantine discard {options}`",
        }
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(stream.name),
        check_name=QUARANTINE,
        passed=not count,
        severity=dg.AssetCheckSeverity.WARN,
        partition=partition_key,
        description=f"{partition_key} has {count} quarantined records" if count else None,
        metadata=metadata,
        target_materialization_data=targets.get(partition_key),
    )


def discarded(
    instance: dg.DagsterInstance, run_id: str, company: str, stream: Stream, days: Collection[date]
) -> Iterator[dg.AssetCheckEvaluation]:
    """Evaluations of `quarantine` for materialized partitions of which nothing is quarantined any more."""
    targets = _targets(instance, run_id, stream.name, [key(company, day) for day in days])
    for day in days:
        if key(company, day) in targets:
            yield set_aside(company, stream, day, 0, {}, targets)


def _quiet(store: Store, stream: Stream, ingest: Ingest, good: Sequence[Partition]) -> dict[date, volume.Volume]:
    """Closed days that have far fewer records than usual; what there was before is asked of the tables at once."""
    sent = {partition.day: partition.sent for partition in good}
    closed = [day for day in sent if day < open_day()]
    wanted = volume.needed(closed, ingest.first_day)
    if not wanted:
        return {}
    others = wanted - sent.keys()
    before = store.counts(stream.contract, stream.name, ingest.company.slug, others) if others else {}
    return volume.low(before | sent, closed)


def _sums(partition: Partition, stored: int | None) -> dict[str, int]:
    """Breaches of fetched = kept + … and of stored = kept + carried, with the difference."""
    found = {}
    if not partition.balanced:
        found["records: fetched = kept + quarantined + duplicates + suppressed + out_of_window"] = 1
    if stored is not None and stored != partition.kept + partition.carried:
        found["rows: stored = kept + carried"] = abs(stored - partition.kept - partition.carried)
    return found


def _evaluation(
    name: str,
    asset: str,
    partition_key: str,
    rules: Sequence[str],
    found: dict[str, int],
    partition: Partition,
    targets: dict[str, AssetCheckEvaluationTargetMaterializationData],
    low: volume.Volume | None,
) -> dg.AssetCheckEvaluation:
    description, severity = None, dg.AssetCheckSeverity.ERROR
    if found:
        worst = max(found, key=lambda rule: found[rule])
        description = f"{partition_key} breaks {worst} ({found[worst]} rows)"
    elif low:
        description, severity = f"{partition_key} has {low}", dg.AssetCheckSeverity.WARN
        found = {_AS_USUAL: round(low.expected) - low.records}
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(asset),
        check_name=name,
        passed=not found,
        severity=severity,
        partition=partition_key,
        description=description,
        metadata={
            "rules": ", ".join(rules),
            "breaches": dg.MetadataValue.json(found),
            "checked": partition.kept + partition.carried,
            "quarantined": partition.quarantined,
        },
        target_materialization_data=targets.get(partition_key),
    )


def _targets(
    instance: dg.DagsterInstance, run_id: str, asset: str, keys: Collection[str]
) -> dict[str, AssetCheckEvaluationTargetMaterializationData]:
    """The materializations that were just recorded, in one query."""
    ids = instance.event_log_storage.get_latest_storage_id_by_partition(
        dg.AssetKey(asset), dg.DagsterEventType.ASSET_MATERIALIZATION, set(keys)
    )
    now = time.time()
    return {
        partition_key: AssetCheckEvaluationTargetMaterializationData(
            storage_id=storage_id, run_id=run_id, timestamp=now
        )
        for partition_key, storage_id in ids.items()
    }
