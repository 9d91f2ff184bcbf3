"""The assets `tidied_tables` and `size_report`: the tables' upkeep, and how large everything is, once a day.

Does not belong here: what outlives its rule (`retention.py`), how a table is tidied (`store/tables.py`).
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.storage.event_log import SqlEventLogStorage

from teei_ingest.defs.catalog import unpartitioned
from teei_ingest.defs.resources import SettingsResource, StoreResource
from teei_ingest.metrics.sizes import BESIDE, COMPANY, TABLE, WHAT, Measured, Thing, by_kind, files_in, report
from teei_ingest.store.tables import contracts

NAME, TIDIED, SIZES = "maintenance", "tidied_tables", "size_report"
_SHOWN = 50  # companies in the metadata, the largest


def database_bytes(instance: dg.DagsterInstance, home: Path) -> int:
    """How large the database of Dagster's instance is: what is below `home`, or all of Postgres' database."""
    storage = instance.event_log_storage
    if isinstance(storage, SqlEventLogStorage):
        with storage.index_connection() as connection:
            if connection.dialect.name == "postgresql":
                asked = connection.exec_driver_sql("SELECT pg_database_size(current_database())")
                return int(asked.scalar_one())
    return files_in(home).bytes


@unpartitioned(
    TIDIED,
    NAME,
    "Puts small files of the event tables together and removes files that no version needs any more; the metadata has "
    "how many. No event changes.",
    {"python", "deltalake"},
)
def tidied_tables(
    context: dg.AssetExecutionContext, settings: SettingsResource, store: StoreResource
) -> Iterator[dg.MaterializeResult[Any]]:
    hours = settings.settings.vacuum_retention_h
    done = {contract.table: store.store.tidy(contract, hours) for contract in contracts()}
    shown = ([name, one.compacted, one.removed] for name, one in done.items())
    yield dg.MaterializeResult(
        TIDIED,
        metadata={
            "files_put_together": sum(one.compacted for one in done.values()),
            "files_removed": sum(one.removed for one in done.values()),
            "tables": _table(["table", "put together", "removed"], shown),
        },
    )


@unpartitioned(
    SIZES,
    NAME,
    "How large tables, companies, sealed files and Dagster's database are, and how much they grow a day.",
    {"python"},
    [TIDIED],
)
def size_report(
    context: dg.AssetExecutionContext, settings: SettingsResource, store: StoreResource
) -> Iterator[dg.MaterializeResult[Any]]:
    known = settings.settings
    found = report(known, store.store, database_bytes(context.instance, known.dagster_home))
    yield dg.MaterializeResult(SIZES, metadata=_metadata(found))


def _metadata(found: dict[Thing, Measured]) -> dict[str, Any]:
    of = by_kind(found)
    largest = sorted(of[COMPANY].items(), key=lambda each: -each[1].bytes)[:_SHOWN]
    header = ["", "rows", "files", "bytes", "rows a day", "bytes a day"]
    everything = [*of[TABLE].values(), *of[BESIDE].values()]
    growth = [size.bytes_a_day for size in everything if size.bytes_a_day is not None]
    return {
        "rows": sum(size.rows for size in of[TABLE].values()),
        "files": sum(size.files for size in of[TABLE].values()),
        "bytes": sum(size.bytes for size in everything),
        **({"bytes_a_day": sum(growth)} if growth else {}),
        "tables": _table(header, ([name, *size] for name, size in of[TABLE].items())),
        "companies": _table(header, ([name, *size] for name, size in largest)),
        "beside": _table(header, ([WHAT[name], "", *size[1:3], "", size[4]] for name, size in of[BESIDE].items())),
    }


def _table(header: list[str], rows: Iterable[list[Any]]) -> dg.MetadataValue:
    lines = [header, ["---"] * len(header), *([_cell(cell) for cell in row] for row in rows)]
    return dg.MetadataValue.md("\n".join(f"| {' | '.join(line)} |" for line in lines))


def _cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:,.0f}"


job = dg.define_asset_job(
    NAME, selection=dg.AssetSelection.assets(TIDIED, SIZES), description="Tidies the event tables and measures all."
)

# After the night's runs and retention: what these leave is put together and counted.
daily = dg.ScheduleDefinition(
    name="maintenance_daily",
    job=job,
    cron_schedule="0 5 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
