"""How often a system may be asked, over all processes that use one key.

Belongs here: the declared quota, the pause that an operator sets, the wait that a source asks for, and whose turn it
is. All are files in `$TEEI_HOME/quota`, named after system and key id, so that every process obeys them. Does
not belong here: reading a reply's headers (`http.py`).
"""

import logging
import re
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, cast
from urllib.parse import quote

from filelock import FileLock
from pyrate_limiter import Rate, RateItem, SQLiteBucket

from teei_ingest.errors import SettingsError
from teei_ingest.settings import Settings
from teei_ingest.systems.base import System
from teei_ingest.vault.credentials import SystemCredentials, key_id
from teei_ingest.vault.files import private_folder, replacing

# The source counts a request when it arrives, we when it leaves: a little more than its window makes up for that.
_SLACK = 1.02
_LONGEST_BLOCK_S = 3600.0
# Whoever waits looks again at least so often, and counts as dead when it is so late; one that is not keeps its place.
_LOOK_AGAIN_S = 5.0
_LATE_S = 0.5
# Who has just used the file wants it again before those who wait for it look: they have to look often.
_POLL_S = 0.001
_BUCKET = "rate_bucket"

_QUEUE = "CREATE TABLE IF NOT EXISTS waiting (ticket INTEGER PRIMARY KEY AUTOINCREMENT, who VARCHAR, back INTEGER)"
_STAND = "INSERT OR REPLACE INTO waiting VALUES (?, ?, ?)"
_LEAVE = "DELETE FROM waiting WHERE ticket = ?"
_DROP_DEAD = "DELETE FROM waiting WHERE back NOT BETWEEN ? AND ?"


logging.getLogger("filelock").setLevel(logging.WARNING)


class Quota:
    """The right to make one request, shared in turn by the threads, processes and companies that use the same files.

    `clock` gives seconds that never step and mean the same to all processes of a machine; when the machine starts
    they may begin anew. `who` is the company that asks.
    """

    def __init__(
        self, path: Path, rates: list[Rate], clock: Callable[[], float] = time.monotonic, who: str = ""
    ) -> None:
        self._path = path
        self._block_path = path.with_suffix(".blocked")
        self._clock = clock
        self._who = who
        self._lock = threading.Lock()
        self._bucket = self._open(rates) if rates else None

    def acquire(self, pause: Callable[[float], None]) -> float:
        """Wait for the right to make one request, by calling `pause` with seconds.

        Returns 0 when it is granted; else the seconds for which the source wants no request at all.
        """
        if not self._bucket:
            return self._blocked()
        ticket: int | None = None
        try:
            while True:
                if blocked := self._blocked():
                    return blocked
                ticket, wait = self._take(self._bucket, ticket)
                if ticket is None:
                    return 0.0
                pause(wait)
        finally:
            if ticket is not None:
                self._leave(self._bucket, ticket)

    def block(self, seconds: float) -> None:
        """The source wants no request with this key for so long; an hour at most is believed."""
        seconds = min(seconds, _LONGEST_BLOCK_S)
        with self._lock:
            if seconds > self._blocked():
                now = self._clock()
                with replacing(self._block_path, lambda _: self._unusable()) as write:
                    write(f"{now:.3f} {now + seconds:.3f}".encode())

    def close(self) -> None:
        """Let go of the files."""
        if self._bucket:
            with self._lock:
                self._bucket.close()

    def _open(self, rates: list[Rate]) -> SQLiteBucket:
        try:
            private_folder(self._path.parent)
            for path in (self._path, Path(f"{self._path}.lock")):
                path.touch(mode=0o600)
            bucket = SQLiteBucket.init_from_file(rates, _BUCKET, db_path=str(self._path), use_file_lock=True)
            with self._alone(bucket) as connection:
                connection.execute(_QUEUE)
            return bucket
        except (OSError, sqlite3.Error):
            pass
        raise self._unusable()

    @contextmanager
    def _alone(self, bucket: SQLiteBucket) -> Iterator[sqlite3.Connection]:
        """The database, in a transaction, while no other thread or process uses it."""
        with self._lock, cast(FileLock, bucket.lock).acquire(poll_interval=_POLL_S), bucket.conn as connection:
            yield connection

    def _take(self, bucket: SQLiteBucket, ticket: int | None) -> tuple[int | None, float]:
        """No ticket if it was granted, else the place in the queue and the seconds until it is worth another look."""
        try:
            with self._alone(bucket) as connection:
                # The moment is taken inside the lock: a request must not leave later than it is counted.
                now = int(self._clock() * 1000)
                connection.execute(_DROP_DEAD, (now - int(_LATE_S * 1000), now + int(_LOOK_AGAIN_S * 1000)))
                ticket = connection.execute(_STAND, (ticket, self._who, now)).lastrowid
                wait = _wait(bucket, ticket, now)
                # The bucket has the last word.
                if not wait and bucket.put(RateItem(self._who, now)):
                    connection.execute(_LEAVE, (ticket,))
                    return None, 0.0
                wait = min(max(1, wait), int(_LOOK_AGAIN_S * 1000))
                connection.execute(_STAND, (ticket, self._who, now + wait))
                return ticket, wait / 1000
        except (OSError, sqlite3.Error):
            pass
        raise self._unusable()

    def _leave(self, bucket: SQLiteBucket, ticket: int) -> None:
        """Give up; if that cannot be written, it is noticed later that nobody comes."""
        with suppress(OSError, sqlite3.Error):
            if bucket.conn is not None:
                with self._alone(bucket) as connection:
                    connection.execute(_LEAVE, (ticket,))

    def _blocked(self) -> float:
        """Seconds for which the source still wants no request."""
        try:
            since, until = map(float, self._block_path.read_bytes().split())
        except (OSError, ValueError):
            return 0.0
        now = self._clock()
        return max(0.0, until - (since if since > now else 0.0) - now)  # since > now: the clock began anew

    def _unusable(self) -> SettingsError:
        return SettingsError(
            f"{self._path} cannot be used; make TEEI_HOME writable and give it room, or remove this file"
        )


def _wait(bucket: SQLiteBucket, ticket: int | None, now: int) -> int:
    """Milliseconds until there is room for a ticket and for those whose turn comes before; 0 if there is.

    Those before are who waits and whose company had less. What a company had less is also kept for it while it asks so
    often that it will use its equal part: whoever asks faster, or at once with many, does not take that.
    """
    connection, table = bucket.conn, bucket.table
    # The clock began anew: what was counted later than now was at the latest now.
    connection.execute(f"UPDATE '{table}' SET item_timestamp = ?1 WHERE item_timestamp > ?1", (now,))
    bucket.leak(now)
    taken = connection.execute(f"SELECT item_timestamp, name FROM '{table}' ORDER BY 1").fetchall()
    had = Counter(who for _, who in taken)
    turns, waiting = {}, set()
    for number, who in connection.execute("SELECT ticket, who FROM waiting ORDER BY ticket"):
        had[who] += 1
        turns[number] = had[who], number
        waiting.add(who)
    widest = max(bucket.rates, key=lambda rate: rate.limit)
    often = 2 * widest.interval // widest.limit
    present = waiting | {who for moment, who in taken if moment >= now - often}
    mine = turns[ticket]
    part = min(mine[0] - 1, widest.limit // len(present))
    kept = sum(max(0, part - had[who]) for who in present)

    moments = [moment for moment, _ in taken]
    for _ in range(sum(turn <= mine for turn in turns.values()) + kept):
        ends = (moments[-rate.limit] + rate.interval + 1 for rate in bucket.rates if len(moments) >= rate.limit)
        moments.append(max([now, *ends]))
    wait = moments[-1] - now
    return min(wait, often) if kept else wait


def quota_for(
    system: System,
    credentials: SystemCredentials,
    settings: Settings,
    clock: Callable[[], float] = time.monotonic,
) -> Quota:
    """The quota of a key: what the system declares, and `{SYSTEM}_RATE_LIMIT_DELAY_MS`."""
    path = settings.home / "quota" / f"{system.name}-{key_id(settings, credentials)}.sqlite"
    return Quota(path, _rates(system, settings.environ), clock, credentials.company)


class Pressure(NamedTuple):
    """How a key of a system stands: requests made of those that it may make now, those that wait, whether blocked."""

    system: str
    used: int
    limit: int
    waiting: int
    blocked: bool


def pressures(
    settings: Settings, systems: Iterable[System], clock: Callable[[], float] = time.monotonic
) -> list[Pressure]:
    """Every key that a quota is counted for, without taking part in it; one whose file cannot be read is left out."""
    found = []
    for system in systems:
        rates = _rates(system, settings.environ)
        for path in sorted((settings.home / "quota").glob(f"{system.name}-*.sqlite")) if rates else ():
            with suppress(OSError, sqlite3.Error):
                found.append(_pressure(system.name, path, max(rates, key=lambda rate: rate.limit), clock))
    return found


def _pressure(system: str, path: Path, rate: Rate, clock: Callable[[], float]) -> Pressure:
    now = int(clock() * 1000)
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=1)) as connection:
        (used,) = connection.execute(
            f"SELECT count(*) FROM '{_BUCKET}' WHERE item_timestamp > ?", (now - rate.interval,)
        ).fetchone()
        (waiting,) = connection.execute(
            "SELECT count(*) FROM waiting WHERE back BETWEEN ? AND ?",
            (now - int(_LATE_S * 1000), now + int(_LOOK_AGAIN_S * 1000)),
        ).fetchone()
    return Pressure(system, used, rate.limit, waiting, Quota(path, [], clock)._blocked() > 0)


def _rates(system: System, environ: Mapping[str, str]) -> list[Rate]:
    rates = []
    if system.quota:
        rates.append(Rate(system.quota.requests, int(system.quota.seconds * 1000 * _SLACK)))
    delay = _delay_ms(system, environ)
    if delay and rates and delay * rates[0].limit >= rates[0].interval:
        rates.clear()  # the pause alone is the narrower limit
    if delay:
        rates.append(Rate(1, delay))
    return rates


def _delay_ms(system: System, environ: Mapping[str, str]) -> int:
    name = f"{system.name.upper()}_RATE_LIMIT_DELAY_MS"
    text = environ.get(name, "").strip() or "0"
    if not re.fullmatch(r"[0-9]{1,8}", text):
        raise SettingsError(f"{name}: has to be a whole number of milliseconds", system=system.name)
    return int(text)
