"""Which policy stored events were made under: as Dagster's materializations have it, and noting it there.

Importing this module loads Dagster: import it where it is used.
"""

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

import dagster as dg
from dagster._core.event_api import EventRecordsFilter

from teei_ingest.defs.partitions import key, split
from teei_ingest.defs.run import instance
from teei_ingest.streams import all_streams

_AT_ONCE = 10_000
_VERSION = "policy_version"


def policy_versions(slug: str) -> dict[str, dict[date, str]]:
    """The policy's version of each day's last materialization of events, by stream."""
    with instance() as opened:
        found: dict[str, dict[date, str]] = {}
        for stream in all_streams().values():
            last = _last(opened, stream.events, slug)
            found[stream.name] = {
                split(str(one.partition))[1]: str(one.metadata[_VERSION].value)
                for one in last
                if _VERSION in one.metadata
            }
        return found


def record_version(slug: str, stream: str, days: Sequence[date], version: str) -> None:
    """Note that the events of these days are as this version of the policy wants them, without a reading."""
    events = all_streams()[stream].events
    keys = {key(slug, day) for day in days}
    with instance() as opened:
        before = {str(one.partition): one.metadata for one in _last(opened, events, slug)}
        for partition in sorted(keys):
            metadata: dict[str, Any] = {
                **before.get(partition, {}),
                _VERSION: version,
                "read_from": "store, tightened in place",
            }
            opened.report_runless_asset_event(dg.AssetMaterialization(events, partition=partition, metadata=metadata))


def _last(opened: dg.DagsterInstance, asset: str, slug: str) -> Iterator[dg.AssetMaterialization]:
    """The last materialization of each of a company's partitions."""
    storage, kind = opened.event_log_storage, dg.DagsterEventType.ASSET_MATERIALIZATION
    latest = storage.get_latest_storage_id_by_partition(dg.AssetKey(asset), kind)
    ids = [number for partition, number in latest.items() if split(partition)[0] == slug]
    for at in range(0, len(ids), _AT_ONCE):
        wanted = EventRecordsFilter(kind, dg.AssetKey(asset), storage_ids=ids[at : at + _AT_ONCE])
        for record in storage.get_event_records(wanted):
            if record.asset_materialization is not None:
                yield record.asset_materialization
