"""The queue: which company and systems a run concerns, so that `dagster.yaml` can say how many of each go on at once.

A backfill's runs have no such tags of their own, nor has what somebody materializes in the UI. The module is named in
`dagster.yaml`, so that every process of Dagster has to be able to import it.
"""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg
from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext

from teei_ingest.defs.partitions import COMPANY_TAG, PARTITION, RANGE_START, split

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
