"""The asset `retention`: what has outlived the rules of the settings goes, Dagster's own runs and their log among it.

Dagster cannot forget a run and keep what its materializations say of their partitions, so the newest of each are looked
up in the tables of its event log; runs as a whole go by `delete_run`.
"""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster._core.events import EVENT_TYPE_TO_PIPELINE_RUN_STATUS
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.event_log import SqlEventLogStorage, SqliteEventLogStorage
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.runs import SqlRunStorage
from dagster._core.storage.runs.schema import RunsTable

from teei_ingest.defs.catalog import unpartitioned
from teei_ingest.defs.resources import SettingsResource, StoreResource
from teei_ingest.privacy import retention as rules
from teei_ingest.privacy.audit_log import AuditLog
from teei_ingest.settings import Settings
from teei_ingest.store.tables import Store

GROUP = "privacy"
NAME = "retention"

_EVENTS, _TAGS, _CHECKS = SqlEventLogStorageTable.c, AssetEventTagsTable.c, AssetCheckExecutionsTable.c
_RUNS = RunsTable.c
_STANDING = [
    kind.value
    for kind in (
        dg.DagsterEventType.ASSET_MATERIALIZATION,
        dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
        dg.DagsterEventType.ASSET_OBSERVATION,
    )
]
# How a run went, and why it failed, stays as long as the run.
_OF_THE_RUN = [*(kind.value for kind in EVENT_TYPE_TO_PIPELINE_RUN_STATUS), dg.DagsterEventType.STEP_FAILURE.value]


def keep(
    instance: dg.DagsterInstance, settings: Settings, store: Store, now: datetime, *, dry_run: bool = False
) -> dict[str, int]:
    """Remove all that is older than its rule, and write down that it was; how much, by rule. `now` is in UTC."""
    before = now - timedelta(days=settings.run_log_ttl_d)
    if dry_run:
        return forget_runs(instance, before, dry_run=True) | rules.keep(settings, store, now, dry_run=True)
    audit = AuditLog(settings)
    audit.append("retention.started", details={rule.variable: rule.days for rule in rules.rules(settings)})
    counts = forget_runs(instance, before) | rules.keep(settings, store, now)
    audit.append("retention.done", counts=counts)
    return counts


def forget_runs(instance: dg.DagsterInstance, before: datetime, *, dry_run: bool = False) -> dict[str, int]:
    """Remove runs that ended before, and what their log says; how a partition stands is the same afterwards.

    A run stays that made the newest materialization of a partition, that planned it last (it may have failed), or whose
    check of it is the newest; of its log stays just that, and why it failed. Returns `runs`, and `run_log`, the
    number of events.
    """
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    events = _stale_events(before)
    ended = _ended(instance, before)
    with storage.index_connection() as connection:
        standing = set(connection.execute(_standing_runs()).scalars())
        count = connection.execute(sa.select(sa.func.count()).where(events)).scalar_one()
    gone = [run_id for run_id in ended if run_id not in standing]
    if dry_run:
        return {"runs": len(gone), "run_log": count}
    for run_id in gone:
        instance.delete_run(run_id)
        instance.compute_log_manager.delete_logs(prefix=[run_id])
        _remove_shard(storage, run_id)
    with storage.index_connection() as connection:
        tagged = _TAGS.event_id.in_(sa.select(_EVENTS.id).where(events))
        connection.execute(sa.delete(AssetEventTagsTable).where(tagged))
        connection.execute(sa.delete(SqlEventLogStorageTable).where(events))
        connection.execute(sa.delete(AssetCheckExecutionsTable).where(_stale_checks(before)))
    for run_id, status in ended.items():
        if status != dg.DagsterRunStatus.FAILURE.value:
            _remove_shard(storage, run_id)
    return {"runs": len(gone), "run_log": count}


def _ended(instance: dg.DagsterInstance, before: datetime) -> dict[str, str]:
    """Ids of runs that ended before, with how; years of runs as Dagster's records would fill the memory."""
    storage = instance.run_storage
    assert isinstance(storage, SqlRunStorage)
    ended = _RUNS.status.in_([status.value for status in FINISHED_STATUSES])
    asked = sa.select(_RUNS.run_id, _RUNS.status).where(ended, _RUNS.update_timestamp < _stored(before))
    with storage.connect() as connection:
        return {run.run_id: run.status for run in connection.execute(asked)}


def _newest_events() -> sa.Select[Any]:
    groups = (_EVENTS.asset_key, _EVENTS.partition, _EVENTS.dagster_event_type)
    return sa.select(sa.func.max(_EVENTS.id)).where(_EVENTS.dagster_event_type.in_(_STANDING)).group_by(*groups)


def _newest_checks() -> sa.Select[Any]:
    groups = (_CHECKS.asset_key, _CHECKS.check_name, _CHECKS.partition)
    return sa.select(sa.func.max(_CHECKS.id)).group_by(*groups)


def _standing_runs() -> sa.CompoundSelect[Any]:
    return sa.union(
        sa.select(_EVENTS.run_id).where(_EVENTS.id.in_(_newest_events())),
        sa.select(_CHECKS.run_id).where(_CHECKS.id.in_(_newest_checks())),
    )


def _stale_events(before: datetime) -> sa.ColumnElement[bool]:
    """Events, also of runs that stay, which say nothing of how a partition stands now or how the run went."""
    of_the_run = _EVENTS.dagster_event_type.in_(_OF_THE_RUN)
    return sa.and_(
        _EVENTS.timestamp < _stored(before),
        _EVENTS.id.not_in(_newest_events()),
        sa.or_(_EVENTS.dagster_event_type.is_(None), sa.not_(of_the_run)),
    )


def _stale_checks(before: datetime) -> sa.ColumnElement[bool]:
    return sa.and_(_CHECKS.create_timestamp < _stored(before), _CHECKS.id.not_in(_newest_checks()))


def _stored(moment: datetime) -> datetime:
    """As Dagster stores it."""
    return moment.astimezone(UTC).replace(tzinfo=None)


def _remove_shard(storage: SqlEventLogStorage, run_id: str) -> None:
    """On SQLite a run's log is a file of its own, which `delete_run` empties and leaves."""
    if isinstance(storage, SqliteEventLogStorage):
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                Path(storage.path_for_shard(run_id) + suffix).unlink()


@unpartitioned(
    NAME,
    GROUP,
    "Removes what is older than its rule in the settings: events, landings, quarantine, Dagster's runs and what steps "
    "printed; the metadata has the numbers. How each partition stands does not change.",
    {"python"},
)
def retention(
    context: dg.AssetExecutionContext, settings: SettingsResource, store: StoreResource
) -> Iterator[dg.MaterializeResult[Any]]:
    counts = keep(context.instance, settings.settings, store.store, datetime.now(UTC))
    yield dg.MaterializeResult(NAME, metadata=counts)


job = dg.define_asset_job(NAME, selection=dg.AssetSelection.assets(NAME), description="Keeps the rules of retention.")

# At an hour of its own: it waits for everybody who reads or writes the tables, and makes others wait.
daily = dg.ScheduleDefinition(
    name="retention_daily",
    job=job,
    cron_schedule="30 4 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
