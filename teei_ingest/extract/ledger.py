"""Which requests were made with a key, and which wait: in a SQLite file of this machine, or in a row in Postgres.

Belongs here: keeping them, and changing them while nobody else does. Does not belong here: whose turn it is
(`quota.py`). Moments are whole milliseconds, of whatever clock.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar, cast
from urllib.parse import quote

from filelock import FileLock
from pyrate_limiter import InMemoryBucket, Rate, RateItem, SQLiteBucket

from teei_ingest.errors import SettingsError, SharedStateDown
from teei_ingest.settings import Settings
from teei_ingest.vault.documents import Clock, Document, File, named, names
from teei_ingest.vault.files import private_folder

if TYPE_CHECKING:
    from teei_ingest.vault.postgres import Row

P = ParamSpec("P")
T = TypeVar("T")

# Whoever waits looks again at least so often, and counts as dead when it is so late; one that is not keeps its place.
LOOK_AGAIN_MS = 5000
_LATE_MS = 500
# Who has just used the file wants it again before those who wait for it look: they have to look often.
_POLL_S = 0.001
# What is decided over a network counts from its beginning, so it must not be acted upon much later.
_FRESH_S = 0.25
_BUCKET = "rate_bucket"

_QUEUE = "CREATE TABLE IF NOT EXISTS waiting (ticket INTEGER PRIMARY KEY AUTOINCREMENT, who VARCHAR, back INTEGER)"
_STAND = "INSERT OR REPLACE INTO waiting VALUES (?, ?, ?)"
_LEAVE = "DELETE FROM waiting WHERE ticket = ?"
_DROP_DEAD = "DELETE FROM waiting WHERE back NOT BETWEEN ? AND ?"
_COUNT_LIVING = "SELECT count(*) FROM waiting WHERE back BETWEEN ? AND ?"


class Entries(Protocol):
    """What is kept of a key, while nobody else has it."""

    @property
    def rates(self) -> list[Rate]:
        """What may be made in which time."""

    def tidy(self, now: int) -> None:
        """Forget what is long ago, and who is dead. Where the clock began anew, what was later than now is now."""

    def stand(self, ticket: int | None, who: str, back: int) -> int:
        """Wait, with a new ticket or the one of before; whoever does not come back at that moment is dead."""

    def leave(self, ticket: int) -> None:
        """Wait no longer."""

    def taken(self) -> list[tuple[int, str]]:
        """When who made a request, the oldest first."""

    def queue(self) -> list[tuple[int, str]]:
        """The tickets, and whose they are, the oldest first."""

    def put(self, who: str, now: int) -> bool:
        """Note a request; whether the rates allow it."""


class Ledger(Protocol):
    """Where a key's entries are. Raises SettingsError where they cannot be used, SharedStateDown."""

    now: Clock

    def open(self) -> None:
        """Make ready what `alone` needs."""

    def alone(self, work: Callable[[Entries], T]) -> T:
        """What `work` gives, and does with the entries as a whole."""

    def standing(self, interval: int) -> tuple[int, int]:
        """Requests made within the last milliseconds, and requests that wait, without taking part."""

    def close(self) -> None:
        """Let go of it."""


def place_of(settings: Settings, key: str, clock: Clock | None) -> Path | Row:
    """Where the ledger of a key is."""
    return named(settings, key + _ending(settings), clock)


def places_of(settings: Settings, clock: Clock | None) -> list[Path | Row]:
    """Where there is one. Raises SharedStateDown."""
    return [named(settings, name, clock) for name in names(settings, _ending(settings))]


def _ending(settings: Settings) -> str:
    return ".sqlite" if settings.shared_state_url is None else ".quota"


def ledger_of(place: Path | Row, rates: list[Rate], clock: Clock | None) -> tuple[Ledger, Document]:
    """The ledger there, and the document beside it for the wait that a source asks for."""
    if isinstance(place, Path):
        clock = clock or time.monotonic
        return InFile(place, rates, clock), File(place.with_suffix(".blocked"), clock)
    return InRow(place, rates), place.beside(".blocked")


def _living(now: int) -> tuple[int, int]:
    """Between which moments somebody has to come back who waits."""
    return now - _LATE_MS, now + LOOK_AGAIN_MS


def _usable(method: Callable[Concatenate[InFile, P], T]) -> Callable[Concatenate[InFile, P], T]:
    """Turn what SQLite and the system refuse into a SettingsError that has no cause."""

    @wraps(method)
    def used(self: InFile, *args: P.args, **kwargs: P.kwargs) -> T:
        with suppress(OSError, sqlite3.Error):
            return method(self, *args, **kwargs)
        raise SettingsError(
            f"{self.path} cannot be used; make TEEI_HOME writable and give it room, or remove this file"
        )

    return used


class InFile:
    """A SQLite file of pyrate-limiter's, locked by a file beside it."""

    def __init__(self, path: Path, rates: list[Rate], clock: Clock) -> None:
        self.now = clock
        self.path = path
        self._rates = rates
        self._lock = threading.Lock()
        self._bucket: SQLiteBucket | None = None

    @_usable
    def open(self) -> None:
        private_folder(self.path.parent)
        for path in (self.path, Path(f"{self.path}.lock")):
            path.touch(mode=0o600)
        self._bucket = SQLiteBucket.init_from_file(self._rates, _BUCKET, db_path=str(self.path), use_file_lock=True)
        with cast(FileLock, self._bucket.lock).acquire(poll_interval=_POLL_S), self._bucket.conn as connection:
            connection.execute(_QUEUE)

    @_usable
    def alone(self, work: Callable[[Entries], T]) -> T:
        bucket = self._bucket
        if bucket is None or bucket.conn is None:
            raise sqlite3.ProgrammingError  # as SQLite says of what is closed
        with self._lock, cast(FileLock, bucket.lock).acquire(poll_interval=_POLL_S), bucket.conn as connection:
            return work(_Rows(bucket, connection))

    @_usable
    def standing(self, interval: int) -> tuple[int, int]:
        now = int(self.now() * 1000)
        with closing(sqlite3.connect(f"file:{quote(str(self.path))}?mode=ro", uri=True, timeout=1)) as connection:
            taken = f"SELECT count(*) FROM '{_BUCKET}' WHERE item_timestamp > ?"
            (used,) = connection.execute(taken, (now - interval,)).fetchone()
            (waiting,) = connection.execute(_COUNT_LIVING, _living(now)).fetchone()
        return used, waiting

    def close(self) -> None:
        if self._bucket:
            with self._lock:
                self._bucket.close()


class _Rows:
    """Entries in a transaction of SQLite."""

    def __init__(self, bucket: SQLiteBucket, connection: sqlite3.Connection) -> None:
        self._bucket = bucket
        self._connection = connection
        self.rates = bucket.rates

    def tidy(self, now: int) -> None:
        self._connection.execute(_DROP_DEAD, _living(now))
        self._connection.execute(f"UPDATE '{_BUCKET}' SET item_timestamp = ?1 WHERE item_timestamp > ?1", (now,))
        self._bucket.leak(now)

    def stand(self, ticket: int | None, who: str, back: int) -> int:
        return cast(int, self._connection.execute(_STAND, (ticket, who, back)).lastrowid)

    def leave(self, ticket: int) -> None:
        self._connection.execute(_LEAVE, (ticket,))

    def taken(self) -> list[tuple[int, str]]:
        return self._connection.execute(f"SELECT item_timestamp, name FROM '{_BUCKET}' ORDER BY 1").fetchall()

    def queue(self) -> list[tuple[int, str]]:
        return self._connection.execute("SELECT ticket, who FROM waiting ORDER BY ticket").fetchall()

    def put(self, who: str, now: int) -> bool:
        return self._bucket.put(RateItem(who, now))


class InRow:
    """A row in Postgres, as JSON."""

    def __init__(self, row: Row, rates: list[Rate]) -> None:
        self.now = row.now
        self._row = row
        self._rates = rates

    def open(self) -> None:
        """Nothing: a row is made with its first entry."""

    def alone(self, work: Callable[[Entries], T]) -> T:
        with self._row.alone():
            begun = time.monotonic()
            entries = self._read()
            done = work(entries)
            self._row.write(entries.text())
        if time.monotonic() - begun > _FRESH_S:
            raise SharedStateDown("Postgres of TEEI_SHARED_STATE_URL answers too slowly; try again later")
        return done

    def standing(self, interval: int) -> tuple[int, int]:
        entries = self._read()
        now = int(self.now() * 1000)
        soonest, latest = _living(now)
        used = sum(moment > now - interval for moment, _ in entries.taken())
        return used, sum(soonest <= back <= latest for _, back in entries.waiting.values())

    def close(self) -> None:
        """The connection is the process's."""

    def _read(self) -> _Lists:
        return _Lists(self._rates, self._row.read() or b"{}")


class _Lists:
    """Entries in memory."""

    def __init__(self, rates: list[Rate], text: bytes) -> None:
        state = json.loads(text)
        self._bucket = InMemoryBucket(rates)
        self._bucket.items = [RateItem(who, moment) for moment, who in state.get("taken", ())]
        self.waiting: dict[int, tuple[str, int]] = {
            ticket: (who, back) for ticket, who, back in state.get("waiting", ())
        }
        self._last = state.get("last", 0)
        self.rates = self._bucket.rates

    def text(self) -> bytes:
        waiting = [(ticket, who, back) for ticket, (who, back) in self.waiting.items()]
        return json.dumps({"taken": self.taken(), "waiting": waiting, "last": self._last}).encode()

    def tidy(self, now: int) -> None:
        soonest, latest = _living(now)
        self.waiting = {ticket: one for ticket, one in self.waiting.items() if soonest <= one[1] <= latest}
        for item in self._bucket.items:
            item.timestamp = min(item.timestamp, now)
        self._bucket.leak(now)

    def stand(self, ticket: int | None, who: str, back: int) -> int:
        if ticket is None:
            self._last = ticket = self._last + 1
        self.waiting[ticket] = who, back
        return ticket

    def leave(self, ticket: int) -> None:
        self.waiting.pop(ticket, None)

    def taken(self) -> list[tuple[int, str]]:
        return [(item.timestamp, item.name) for item in self._bucket.items]

    def queue(self) -> list[tuple[int, str]]:
        return sorted((ticket, who) for ticket, (who, _) in self.waiting.items())

    def put(self, who: str, now: int) -> bool:
        return self._bucket.put(RateItem(who, now))
