"""SQLite files that nobody else may read, and that several processes use at once.

Belongs here: making one, a transaction on it, what is said where it cannot be used. Does not belong here: tables, and
the databases of libraries.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from teei_ingest.errors import SettingsError
from teei_ingest.vault.files import private_folder, sync_folder

_BUSY_S = 30.0


class Database:
    """The file at `path`, made when it is first written; until then readers have an empty one in memory.

    `schema` makes its tables where they are missing, `pragmas` hold for each connection. A commit is on disk, unless
    they say otherwise. Raises SettingsError where the file cannot be used.
    """

    def __init__(self, path: Path, schema: str, *pragmas: str) -> None:
        self.path = path
        self._schema = f"{schema} PRAGMA user_version = 1;"
        self._pragmas = ("journal_mode = WAL", "synchronous = FULL", *pragmas)

    @contextmanager
    def transaction(self, *, create: bool = True) -> Iterator[sqlite3.Connection]:
        """What is done within is done as a whole, after what others began before."""
        with self.connection(create=create) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")  # without it, closing takes everything back

    @contextmanager
    def connection(self, *, create: bool = True) -> Iterator[sqlite3.Connection]:
        """For what cannot be done in a transaction."""
        try:
            if create and not self.path.exists():
                private_folder(self.path.parent)
                self.path.touch(mode=0o600)
                sync_folder(self.path.parent)
            place = self.path if self.path.exists() else ":memory:"
            with closing(sqlite3.connect(place, timeout=_BUSY_S, isolation_level=None)) as connection:
                self._prepare(connection)
                yield connection
            return
        except (OSError, sqlite3.Error):
            pass
        raise SettingsError(
            f"{self.path} cannot be used; make TEEI_HOME writable and give it room, or remove this file"
        )

    def _prepare(self, connection: sqlite3.Connection) -> None:
        end = time.monotonic() + _BUSY_S
        while True:
            try:
                for pragma in self._pragmas:
                    connection.execute(f"PRAGMA {pragma}")
                if not connection.execute("PRAGMA user_version").fetchone()[0]:
                    connection.executescript(self._schema)
                return
            except sqlite3.OperationalError as error:
                # While others make it, too, SQLite waits neither for the log's mode nor for a lock that it would raise.
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise
            time.sleep(0.01)
