"""Dagster's bookkeeping on Postgres, made quick: the storage that `docker/dagster.yaml` names.

Dagster opens a connection for every statement or two and closes it again, and writes every event by itself: together
that took longer than most runs. Here a process keeps a connection, and what is reported as a batch is one transaction.
What is kept is the same; of a batch there is all or nothing.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS, DagsterEvent, DagsterEventType
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log import SqlEventLogStorageTable
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage, PostgresEventLogStorage
from dagster_postgres.utils import create_pg_engine, get_token_provider_from_config, pg_url_from_config
from sqlalchemy.dialects import postgresql

_BATCH = "1000"  # events at most
_INSERT = SqlEventLogStorageTable.insert().returning(SqlEventLogStorageTable.c.id, sort_by_parameter_order=True)
_OF_CHECK = ("asset_key", "check_name", "run_id", "partition")  # of which there is one row
_CHECKS = postgresql.insert(AssetCheckExecutionsTable)
_UPSERT = _CHECKS.on_conflict_do_update(
    index_elements=_OF_CHECK,
    set_={
        name: _CHECKS.excluded[name]
        for name in (
            "execution_status",
            "evaluation_event",
            "evaluation_event_timestamp",
            "evaluation_event_storage_id",
            "materialization_event_storage_id",
        )
    },
).returning(AssetCheckExecutionsTable.c.id)  # without it each row would be a statement


class PooledPostgres(DagsterPostgresStorage):
    """Dagster's storage on Postgres, for `storage: custom`; its settings are those of `storage: postgres`."""

    def __init__(
        self,
        postgres_url: str,
        should_autocreate_tables: bool = True,
        inst_data: ConfigurableClassData | None = None,
        token_provider: Any = None,
    ) -> None:
        super().__init__(postgres_url, should_autocreate_tables, inst_data, token_provider)
        events = EventLog(postgres_url, should_autocreate_tables, token_provider=token_provider)
        # That a server was started anew is noticed before a connection is used; threads never wait for one another's.
        engine = create_pg_engine(
            postgres_url,
            token_provider,
            isolation_level="AUTOCOMMIT",
            pool_size=1,
            max_overflow=-1,
            pool_pre_ping=True,
            hide_parameters=True,
        )
        for one in (self._run_storage, events, self._schedule_storage):
            one._engine = engine
        self._event_log_storage = events
        os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", _BATCH)  # which Dagster has no setting for

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """As Dagster makes it of `dagster.yaml`."""
        return cls(
            pg_url_from_config(config_value),
            config_value.get("should_autocreate_tables", True),
            inst_data,
            get_token_provider_from_config(config_value),
        )


class EventLog(PostgresEventLogStorage):
    """Dagster's events on Postgres; a batch of them, of whatever types and assets, is one transaction."""

    takes_checks = True  # in batches

    def __init__(self, *given: Any, **options: Any) -> None:
        self._tables: set[str] = set()
        super().__init__(*given, **options)

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """All or none. An asset is told of its last event alone, which is what would be left of all of them."""
        # Of these Dagster, too, keeps nothing.
        events = [one for one in events if not one.get_dagster_event().is_asset_failed_to_materialize]
        rows = [self._event_to_row(event) for event in events]
        if not rows:
            return
        with self.index_transaction() as connection:
            ids = connection.execute(_INSERT, rows).scalars().all()
            checks: dict[tuple[str, str, str, str | None], dict[str, Any]] = {}
            assets: dict[tuple[str, str], tuple[EventLogEntry, int]] = {}
            for event, row, number in zip(events, rows, ids, strict=True):
                told = event.get_dagster_event()
                if told.event_type in ASSET_CHECK_EVENTS:
                    checks |= {tuple(one[name] for name in _OF_CHECK): one for one in _executions(told, row, number)}
                elif told.event_type in ASSET_EVENTS and told.asset_key:
                    assets[told.asset_key.to_string(), told.event_type_value] = event, number
                    self._store_asset_event_tags(connection, [event], [number])
            if checks:
                connection.execute(_UPSERT, list(checks.values()))
            # Other runs wait for these rows, so they come last, and in the same order everywhere.
            for _, (event, number) in sorted(assets.items(), key=lambda one: one[0]):
                self._store_asset_event(connection, event, number)

    def has_table(self, table_name: str) -> bool:
        """What was there once is not looked for again, as Dagster does for every check and company."""
        if table_name not in self._tables and super().has_table(table_name):
            self._tables.add(table_name)
        return table_name in self._tables

    def dispose(self) -> None:
        """Close the connection; whoever uses the storage afterwards opens another."""
        super().dispose()
        self._engine.dispose()


def _executions(told: DagsterEvent, row: dict[str, Any], number: int) -> Iterator[dict[str, Any]]:
    """Rows of the table of checks: one for each partition, and evaluations that come in a batch have one."""
    data: Any = told.event_specific_data
    target, status = None, AssetCheckExecutionRecordStatus.PLANNED
    if told.event_type is DagsterEventType.ASSET_CHECK_EVALUATION:
        target, keys = data.target_materialization_data, [data.partition]
        status = AssetCheckExecutionRecordStatus.SUCCEEDED if data.passed else AssetCheckExecutionRecordStatus.FAILED
    else:
        keys = data.partitions_subset.get_partition_keys() if data.partitions_subset else [None]
    for key in keys:
        yield {
            "asset_key": data.asset_key.to_string(),
            "check_name": data.check_name,
            "run_id": row["run_id"],
            "partition": key,
            "execution_status": status.value,
            "evaluation_event": row["event"],
            "evaluation_event_timestamp": row["timestamp"],
            "evaluation_event_storage_id": number,
            "materialization_event_storage_id": target.storage_id if target else None,
        }
