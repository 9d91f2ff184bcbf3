"""How the checks of many partitions stand, told in a time that grows with their number and not with its square.

Dagster 1.13 adds partitions to what it tells one at a time, and copies all that it has for each: with 8,760 of them
each page that shows a check took 2 s, and 200,000 would take minutes. Belongs here: the same, all partitions of a
status at once. `instance.py` puts it in its place.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from dagster._core.asset_graph_view.serializable_entity_subset import SerializableEntitySubset
from dagster._core.definitions.asset_key import AssetCheckKey
from dagster._core.definitions.partitions.definition import MultiPartitionsDefinition, PartitionsDefinition
from dagster._core.storage import asset_check_state
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecordStatus,
    AssetCheckExecutionResolvedStatus,
    AssetCheckPartitionInfo,
)
from dagster._core.storage.asset_check_state import InProgressRuns, StatusSubsets

_one_by_one = asset_check_state._process_partition_records
_RESOLVED = {
    AssetCheckExecutionRecordStatus.SUCCEEDED: AssetCheckExecutionResolvedStatus.SUCCEEDED,
    AssetCheckExecutionRecordStatus.FAILED: AssetCheckExecutionResolvedStatus.FAILED,
}


def at_once(
    key: AssetCheckKey,
    partitions_def: PartitionsDefinition[Any] | None,
    subsets: StatusSubsets,
    in_progress_runs: InProgressRuns,
    partition_infos: Sequence[AssetCheckPartitionInfo],
) -> tuple[StatusSubsets, InProgressRuns]:
    """What Dagster's own function says of records that are each of another partition, as those of a query are."""
    if partitions_def is None:
        return _one_by_one(key, partitions_def, subsets, in_progress_runs, partition_infos)
    told = {one.partition_key: one for one in partition_infos if one.partition_key is not None}
    valid = _valid(partitions_def, told)
    now: dict[AssetCheckExecutionResolvedStatus, set[str]] = defaultdict(set)
    runs: dict[str, set[str]] = defaultdict(set)
    outdated: set[str] = set()
    for partition, one in told.items():
        if partition not in valid:
            continue
        if one.latest_execution_status is AssetCheckExecutionRecordStatus.PLANNED:
            now[AssetCheckExecutionResolvedStatus.IN_PROGRESS].add(partition)
            runs[one.latest_planned_run_id].add(partition)
        elif status := _RESOLVED.get(one.latest_execution_status):
            if one.is_current:
                now[status].add(partition)
            else:
                outdated.add(partition)

    def subset(keys: set[str]) -> Any:
        made = partitions_def.empty_subset().with_partition_keys(keys)
        return SerializableEntitySubset.from_coercible_value(key, made, partitions_def)

    gone = subset(outdated)
    empty = subset(set())
    return (
        {
            status: known.compute_difference(gone).compute_union(subset(now[status]))
            for status, known in subsets.items()
        },
        {
            **in_progress_runs,
            **{run: in_progress_runs.get(run, empty).compute_union(subset(keys)) for run, keys in runs.items()},
        },
    )


def _valid(partitions_def: PartitionsDefinition[Any], keys: Iterable[str]) -> set[str]:
    """Those of the keys that are partitions; Dagster makes an object of each, which takes ten times as long."""
    if not isinstance(partitions_def, MultiPartitionsDefinition):
        return set(partitions_def.filter_valid_partition_keys(set(keys)))
    dimensions = [one.partitions_def for one in partitions_def.partitions_defs]
    parts = {key: found for key in keys if len(found := key.split("|")) == len(dimensions)}
    known = [
        dimension.filter_valid_partition_keys({found[number] for found in parts.values()})
        for number, dimension in enumerate(dimensions)
    ]
    return {key for key, found in parts.items() if all(part in own for part, own in zip(found, known, strict=True))}
