"""The queue: which company and systems a run concerns, so that `dagster.yaml` can say how many of each go on at once.

A backfill's runs have no such tags of their own, nor has what somebody materializes in the UI. The module is named in
`dagster.yaml`, so that every process of Dagster has to be able to import it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import dagster as dg
from dagster._core.definitions.partitions.subset import DefaultPartitionsSubset
from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext

from teei_ingest.defs.partitions import COMPANIES, COMPANY_TAG, PARTITION, RANGE_START, by_company, split

SYSTEM_TAG = "teei/system."  # and the system's name, as the key: a run concerns several
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def tags_of(company: str, assets: Iterable[str]) -> dict[str, str]:
    """The tags of a run over these assets of a company."""
    from teei_ingest.streams import all_streams

    systems = {name: one.system for one in all_streams().values() for name in (one.name, one.events)}
    return {COMPANY_TAG: company} | {f"{SYSTEM_TAG}{systems[name]}": "yes" for name in assets if name in systems}


class CompanyQueue(QueuedRunCoordinator):
    """Dagster's queue, which tells the runs of one company from those of another."""

    def submit_run(self, context: SubmitRunContext) -> dg.DagsterRun:
        """Tag the run, then queue it."""
        run = context.dagster_run
        partition = run.tags.get(RANGE_START) or run.tags.get(PARTITION, "")
        if partition.count("|") == 1:
            assets = [key.to_user_string() for key in run.asset_selection or self._assets(run)]
            self._instance.add_run_tags(run.run_id, tags_of(split(partition)[0], assets))
        return super().submit_run(context)

    @staticmethod
    def _assets(run: dg.DagsterRun) -> list[dg.AssetKey]:
        """What a run without a selection does: all of its job."""
        from teei_ingest.defs.jobs import EVERYTHING, streams_of_job
        from teei_ingest.systems import all_systems

        names = streams_of_job(run.job_name) if run.job_name in (EVERYTHING, *all_systems()) else []
        return [dg.AssetKey(name) for name in names]


_ranges_of = DefaultPartitionsSubset.get_partition_key_ranges


def _ranges_of_companies(
    self: DefaultPartitionsSubset, partitions_def: dg.PartitionsDefinition[str]
) -> Sequence[dg.PartitionKeyRange]:
    """The ranges of which a backfill makes a run each: of one company always.

    Dagster holds constant whichever dimension has fewer keys. Ten companies' week would be seven runs, of all companies
    each, which no queue can tell apart.
    """
    names = [one.name for one in getattr(partitions_def, "partitions_defs", ())]
    if not isinstance(partitions_def, dg.MultiPartitionsDefinition) or COMPANIES.name not in names:
        return _ranges_of(self, partitions_def)
    found: list[dg.PartitionKeyRange] = []
    for company in by_company(sorted(self.subset)):
        keys = partitions_def.get_multipartition_keys_with_dimension_value(COMPANIES.name or "", company)
        found += self.get_ranges_for_keys(keys)
    return found


# The daemon has the partitions as its code location told them, so that no class of ours is there; this module is.
DefaultPartitionsSubset.get_partition_key_ranges = _ranges_of_companies  # type: ignore[method-assign]
