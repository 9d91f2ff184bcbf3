"""Asset checks: `contract` on each stream, `no_personal_data` on its events; evaluated for each partition.

They are evaluated in the step that materialized, bound to the materialization, since a check of its own is skipped
for every key of a range. What is audited is what is at rest (`redact/audit.py`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)

from teei_ingest.defs.partitions import key
from teei_ingest.pipeline.ingest import Ingest, Partition
from teei_ingest.redact.audit import CONTRACT_RULES, PRIVACY_RULES, audit
from teei_ingest.store.tables import Store
from teei_ingest.streams.base import Stream

CONTRACT = "contract"
NO_PERSONAL_DATA = "no_personal_data"


def specs(stream: Stream, partitions_def: dg.PartitionsDefinition[Any]) -> list[dg.AssetCheckSpec]:
    """The two checks of a stream."""
    name = stream.contract.__name__
    return [
        dg.AssetCheckSpec(
            CONTRACT,
            asset=stream.name,
            description=f"Every record is accounted for, and what is stored keeps the released schema of {name}.",
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
    wanted = {
        name: asset
        for name, asset in ((CONTRACT, stream.name), (NO_PERSONAL_DATA, stream.events))
        if dg.AssetCheckKey(dg.AssetKey(asset), name) in selected
    }
    if not good or not wanted:
        return
    company = ingest.company.slug
    findings: Any = {}
    rows: Any = {}
    if stored:
        days = [partition.day for partition in good]
        batches = store.batches(stream.contract, stream=stream.name, company=company, days=days)
        findings, rows = audit(batches, stream.contract, ingest.policy)
    for name, asset in wanted.items():
        rules = CONTRACT_RULES if name == CONTRACT else PRIVACY_RULES
        targets = _targets(context, asset, [key(company, partition.day) for partition in good])
        for partition in good:
            found = {
                f"{field}: {rule}": count
                for (field, rule), count in findings.get(partition.day, {}).items()
                if rule in rules
            }
            if name == CONTRACT:
                found |= _sums(partition, rows.get(partition.day, 0) if stored else None)
            yield _evaluation(name, asset, key(company, partition.day), rules, found, partition, targets)


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
) -> dg.AssetCheckEvaluation:
    worst = max(found, key=lambda rule: found[rule]) if found else ""
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(asset),
        check_name=name,
        passed=not found,
        partition=partition_key,
        description=f"{partition_key} breaks {worst} ({found[worst]} rows)" if found else None,
        metadata={
            "rules": ", ".join(rules),
            "breaches": dg.MetadataValue.json(found),
            "checked": partition.kept + partition.carried,
            "quarantined": partition.quarantined,
        },
        target_materialization_data=targets.get(partition_key),
    )


def _targets(
    context: dg.AssetExecutionContext, asset: str, keys: Sequence[str]
) -> dict[str, AssetCheckEvaluationTargetMaterializationData]:
    """The materializations that were just recorded, in one query."""
    storage = context.instance.event_log_storage
    ids = storage.get_latest_storage_id_by_partition(
        dg.AssetKey(asset), dg.DagsterEventType.ASSET_MATERIALIZATION, set(keys)
    )
    now = time.time()
    return {
        partition_key: AssetCheckEvaluationTargetMaterializationData(
            storage_id=storage_id, run_id=context.run.run_id, timestamp=now
        )
        for partition_key, storage_id in ids.items()
    }
