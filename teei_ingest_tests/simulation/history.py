"""Dagster's record of the same nights, in the form in which Dagster writes it, made of one real run's.

All of it would be three rows of two kilobytes for each partition of each asset, which is more than a test makes: one
asset has the record of all its partitions, as retention leaves it (the newest materialization, the newest plan, the
newest evaluation of its checks), the others that of the last days. The list of what is materialized, which Dagster
keeps for each asset, is whole for all of them; so is the number of companies and days.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import dagster as dg
import sqlalchemy as sa
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetKeyTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.partition_status_cache import AssetStatusCacheValue
from dagster._core.storage.runs import SqlRunStorage
from dagster._core.storage.runs.schema import RunsTable, RunTagsTable

from teei_ingest.defs.partitions import key

WHOLE = "benevity_volunteers_events"
RECENT = 7  # days of which every asset has its record
RUN_DAYS = 90  # of which there are runs: `TEEI_RUN_LOG_TTL_D`
_AT_ONCE = 5000
_RUNS = uuid5(NAMESPACE_URL, "urn:teei:simulation:runs")
_KINDS = (dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED.value, dg.DagsterEventType.ASSET_MATERIALIZATION.value)
_EVENTS, _CHECKS = SqlEventLogStorageTable, AssetCheckExecutionsTable

Row = dict[str, Any]


def grow(
    instance: dg.DagsterInstance,
    partitions_def: dg.PartitionsDefinition[Any],
    pattern: str,
    companies: Sequence[str],
    days: Sequence[date],
) -> dict[str, int]:
    """Record that every company's days were materialized, each in a run of its own; the number of rows by table.

    `pattern` is a company with one run, and has what it has from that run's first day.
    """
    storage, runs = instance.event_log_storage, instance.run_storage
    assert isinstance(storage, SqlEventLogStorage) and isinstance(runs, SqlRunStorage)
    counts = dict.fromkeys(("runs", "run_tags", "event_logs", "asset_check_executions"), 0)
    with storage.index_connection() as connection:
        events, checks, taken = _patterns(connection)
        wanted = [(day, slug) for day in days for slug in companies if slug != pattern or key(slug, day) < taken]
        first = connection.execute(sa.select(sa.func.max(_EVENTS.c.id))).scalar_one() + 1
        made = _records(events, checks, wanted, days[-RECENT:], first)
        for table, rows in _portions(made):
            connection.execute(table.insert(), rows)
            counts[table.name] += len(rows)
        newest = connection.execute(sa.select(sa.func.max(_EVENTS.c.id))).scalar_one()
        _mend_sequences(connection)
    with runs.connect() as connection:
        recent = [(day, slug) for day, slug in wanted if day in set(days[-RUN_DAYS:])]
        for table, rows in _portions(_runs(connection, pattern, recent)):
            connection.execute(table.insert(), rows)
            counts[table.name] += len(rows)
    there = [key(slug, day) for day, slug in wanted] + [key(pattern, day) for day in days[:-1]]
    _remember(instance, partitions_def, there, newest)
    return counts


def _patterns(connection: sa.Connection) -> tuple[dict[str, list[Row]], dict[str, list[Row]], str]:
    """A plan and a materialization of each asset, one evaluation of each check; and the first partition there is."""
    asked = sa.select(_EVENTS).where(_EVENTS.c.dagster_event_type.in_(_KINDS)).order_by(_EVENTS.c.id)
    rows = connection.execute(asked).mappings().all()
    events: dict[str, dict[str, Row]] = {}
    for row in rows:
        events.setdefault(row["asset_key"], {}).setdefault(row["dagster_event_type"], dict(row))
    checks: dict[str, dict[str, Row]] = {}
    for row in connection.execute(sa.select(_CHECKS)).mappings():
        checks.setdefault(row["asset_key"], {}).setdefault(row["check_name"], dict(row))
    return (
        {asset: [found[kind] for kind in _KINDS] for asset, found in events.items()},
        {asset: list(found.values()) for asset, found in checks.items()},
        min(row["partition"] for row in rows),
    )


def _run_id(slug: str, day: date) -> str:
    return str(uuid5(_RUNS, key(slug, day)))


def _records(
    events: Mapping[str, list[Row]],
    checks: Mapping[str, list[Row]],
    wanted: Sequence[tuple[date, str]],
    recent: Sequence[date],
    first: int,
) -> Iterator[tuple[sa.Table, Row]]:
    own = [dg.AssetKey(WHOLE).to_string()]
    of_all, number = set(recent), first
    for day, slug in wanted:
        partition, run_id = key(slug, day), _run_id(slug, day)
        when = _night_of(day)
        for asset in events if day in of_all else own:
            for one in events[asset]:
                told = one["event"].replace(one["partition"], partition).replace(one["run_id"], run_id)
                fresh = {"id": number, "run_id": run_id, "event": told, "timestamp": when, "partition": partition}
                yield _EVENTS, one | fresh
                number += 1
            for one in checks.get(asset, []):
                told = one["evaluation_event"].replace(one["partition"], partition).replace(one["run_id"], run_id)
                row = {name: value for name, value in one.items() if name != "id"}
                yield (
                    _CHECKS,
                    row
                    | {
                        "run_id": run_id,
                        "partition": partition,
                        "evaluation_event": told,
                        "evaluation_event_timestamp": when,
                        "create_timestamp": when,
                        "materialization_event_storage_id": number - 1,
                    },
                )


def _runs(
    connection: sa.Connection, pattern: str, wanted: Sequence[tuple[date, str]]
) -> Iterator[tuple[sa.Table, Row]]:
    run = connection.execute(sa.select(RunsTable)).mappings().first()
    assert run is not None
    tags = connection.execute(sa.select(RunTagsTable).where(RunTagsTable.c.run_id == run["run_id"])).mappings().all()
    for day, slug in wanted:
        run_id, when = _run_id(slug, day), _night_of(day)
        row = {name: value for name, value in run.items() if name != "id"}
        yield (
            RunsTable,
            row
            | {
                "run_id": run_id,
                "run_body": run["run_body"].replace(run["run_id"], run_id).replace(pattern, slug),
                "create_timestamp": when,
                "update_timestamp": when,
                "start_time": when.replace(tzinfo=UTC).timestamp(),
                "end_time": when.replace(tzinfo=UTC).timestamp() + 10,
            },
        )
        for tag in tags:
            yield RunTagsTable, {"run_id": run_id, "key": tag["key"], "value": tag["value"].replace(pattern, slug)}


def _night_of(day: date) -> datetime:
    """When a day is fetched, as Dagster stores it."""
    return datetime.combine(day + timedelta(1), time(2))


def _portions(rows: Iterator[tuple[sa.Table, Row]]) -> Iterator[tuple[sa.Table, list[Row]]]:
    waiting: dict[sa.Table, list[Row]] = {}
    for table, row in rows:
        some = waiting.setdefault(table, [])
        some.append(row)
        if len(some) >= _AT_ONCE:
            yield table, waiting.pop(table)
    yield from waiting.items()


def _mend_sequences(connection: sa.Connection) -> None:
    """Postgres counts ids beside the table, and did not see those that were given."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(
            "SELECT setval(pg_get_serial_sequence('event_logs', 'id'), (SELECT max(id) FROM event_logs))"
        )


def _remember(
    instance: dg.DagsterInstance, partitions_def: dg.PartitionsDefinition[Any], keys: Sequence[str], newest: int
) -> None:
    """What Dagster knows at once to be materialized of each asset, up to the newest record."""
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    with partition_loading_context(dynamic_partitions_store=instance):
        known = partitions_def.empty_subset().with_partition_keys(keys).serialize()
        identity = partitions_def.get_serializable_unique_identifier()
    value = AssetStatusCacheValue(newest, identity, known, None, None, None)
    with storage.index_connection() as connection:
        assets = list(connection.execute(sa.select(AssetKeyTable.c.asset_key)).scalars())
    for asset in assets:
        found = dg.AssetKey.from_db_string(asset)
        assert found is not None
        storage.update_asset_cached_status_data(found, value)
