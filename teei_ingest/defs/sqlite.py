"""Dagster's bookkeeping on SQLite, made quick: half of a short run was this.

Dagster opens a connection for each event and closes it again. Three things follow, and each is undone here: closing the
last connection writes the write-ahead log back (two fsyncs), every commit waits for the disk, and every statement is
compiled anew. What is given up: after a power failure the last events may be missing from the log of a run (never
torn, and never for a crash of the process alone); the run is then repeated like any other that ended without a word.

And made safe: Dagster takes a database that is there for a whole one. A process that died while it made one left a home
that only a person could mend ("dynamic partitions table, which currently does not exist").
"""

import sqlite3
import time
from collections.abc import Set
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import Any

import dagster._core.storage.event_log.sqlite.sqlite_event_log as event_log
from dagster._core.storage.event_log.migration import ASSET_DATA_MIGRATIONS, EVENT_LOG_DATA_MIGRATIONS
from dagster._core.storage.runs import migration as runs
from dagster._core.storage.schedules import migration as schedules
from sqlalchemy import event
from sqlalchemy.engine import Engine

_MOST = 8  # databases kept open: the index, the runs and those of a few runs
_kept: dict[str, sqlite3.Connection] = {}

# Below DAGSTER_HOME. What Dagster writes last into a new one is which migrations of data it does not need.
_DATABASES: dict[str, Set[str]] = {
    "history/runs.db": runs.REQUIRED_DATA_MIGRATIONS.keys() | runs.OPTIONAL_DATA_MIGRATIONS.keys(),
    "history/runs/index.db": EVENT_LOG_DATA_MIGRATIONS.keys() | ASSET_DATA_MIGRATIONS.keys(),
    "schedules/schedules.db": schedules.REQUIRED_SCHEDULE_DATA_MIGRATIONS.keys()
    | schedules.OPTIONAL_SCHEDULE_DATA_MIGRATIONS.keys(),
}
_OF_THE_SCHEMA = {"alembic_version", "secondary_indexes"}
_MAKING_S = 5.0  # a living process takes a tenth of that, and is not disturbed


@cache
def quicken() -> None:
    """To be called once in a process that records runs, before it opens the instance; again does nothing."""
    event.listen(Engine, "connect", _connected)
    create_engine = event_log.create_engine
    engines: dict[str, Any] = {}

    def once(url: str, **options: Any) -> Any:
        if url not in engines:
            if len(engines) >= _MOST:
                engines.clear()
            engines[url] = create_engine(url, **options)
        return engines[url]

    event_log.create_engine = once  # type: ignore[assignment]


def _connected(connection: Any, record: Any) -> None:
    if not isinstance(connection, sqlite3.Connection):
        return
    connection.execute("PRAGMA synchronous = NORMAL")
    path = connection.execute("PRAGMA database_list").fetchone()[2]
    if path and path not in _kept and len(_kept) < _MOST:
        _kept[path] = sqlite3.connect(path, check_same_thread=False)
        _kept[path].execute("PRAGMA schema_version").fetchone()  # only now is it open


def remove_half_made(home: Path) -> None:
    """Remove what a process that died was making, so that Dagster makes it anew; nothing was recorded in it yet."""
    end = time.monotonic() + _MAKING_S
    for name, migrations in _DATABASES.items():
        path = home / name
        while _is_half_made(path, migrations):
            if time.monotonic() < end:
                time.sleep(0.05)
                continue
            for one in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
                one.unlink(missing_ok=True)


def _is_half_made(path: Path, migrations: Set[str]) -> bool:
    where = f"{path.absolute().as_uri()}?mode=rw"
    with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(where, uri=True)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables >= _OF_THE_SCHEMA and database.execute("SELECT 1 FROM alembic_version").fetchone():
            done = {name for (name,) in database.execute("SELECT name FROM secondary_indexes")}
            if done >= migrations:
                return False
        return not any(database.execute(f'SELECT 1 FROM "{one}"').fetchone() for one in tables - _OF_THE_SCHEMA)
    return False
