"""Dagster's bookkeeping on SQLite, made quick: half of a short run was this.

Dagster opens a connection for each event and closes it again. Three things follow, and each is undone here: closing the
last connection writes the write-ahead log back (two fsyncs), every commit waits for the disk, and every statement is
compiled anew. What is given up: after a power failure the last events may be missing from the log of a run (never
torn, and never for a crash of the process alone); the run is then repeated like any other that ended without a word.
"""

import sqlite3
from functools import cache
from typing import Any

import dagster._core.storage.event_log.sqlite.sqlite_event_log as event_log
from sqlalchemy import event
from sqlalchemy.engine import Engine

_MOST = 8  # databases kept open: the index, the runs and those of a few runs
_kept: dict[str, sqlite3.Connection] = {}


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
