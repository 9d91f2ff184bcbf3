"""Dagster's instance, which `dagster.yaml` names, so that every process of Dagster has it.

Belongs here: what Dagster does wrong in processes that load none of our definitions, the webserver and the daemon, and
how it is done right. What a deployment may choose is in `dagster.yaml`.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster._core.instance import InstanceRef
from dagster._core.storage import asset_check_state

from teei_ingest.defs.check_states import at_once
from teei_ingest.defs.partitions import PARTITION, RANGE_START


class Instance(dg.DagsterInstance):
    """It tells quickly how checks stand, and lets a run over a range be over that range."""

    def __init__(self, *args: Any, **others: Any) -> None:
        asset_check_state._process_partition_records = at_once
        super().__init__(*args, **others)

    @classmethod
    def config_schema(cls) -> dict[str, Any]:
        """It has no settings of its own."""
        return {}

    @staticmethod
    def config_defaults(base_dir: str) -> Mapping[str, Any]:
        """What Dagster has without any."""
        return InstanceRef.config_defaults(base_dir)

    def create_run(self, *, tags: Mapping[str, Any] | None, **others: Any) -> dg.DagsterRun:
        """Make a run. One over a range has no tags of a single partition.

        The page of a job gives all runs of a backfill the tags of its first partition (Dagster 1.13). They win over
        the range: each run read that one partition, of the first company, succeeded, and left the others as they were.
        """
        return super().create_run(tags=_of_range(tags) if tags and RANGE_START in tags else tags, **others)


def _of_range(tags: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in tags.items() if name != PARTITION and not name.startswith(f"{PARTITION}/")}
