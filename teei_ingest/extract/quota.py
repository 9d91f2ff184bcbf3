"""How often a system may be asked, over all processes that use one key.

Belongs here: the declared quota, the pause that an operator sets, and the wait that a source asks for. All
three are files in `$TEEI_HOME/quota`, named after system and key id, so that every process obeys them. Does
not belong here: reading a reply's headers (`http.py`).
"""

import logging
import re
import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from pyrate_limiter import Rate, RateItem, SQLiteBucket

from teei_ingest.errors import SettingsError
from teei_ingest.settings import Settings
from teei_ingest.systems.base import System
from teei_ingest.vault.credentials import SystemCredentials, key_id
from teei_ingest.vault.files import private_folder, replacing

# The source counts a request when it arrives, we when it leaves: a little more than its window makes up for that.
_SLACK = 1.02
_LONGEST_BLOCK_S = 3600.0

logging.getLogger("filelock").setLevel(logging.WARNING)


class Quota:
    """The right to make one request, shared by the threads and processes that use the same files.

    `clock` gives seconds since 1970, since only wall time means the same to all processes.
    """

    def __init__(self, path: Path, rates: list[Rate], clock: Callable[[], float]) -> None:
        self._path = path
        self._block_path = path.with_suffix(".blocked")
        self._clock = clock
        self._lock = threading.Lock()
        self._bucket = self._open(rates) if rates else None

    def acquire(self, pause: Callable[[float], None]) -> float:
        """Wait for the right to make one request, by calling `pause` with seconds.

        Returns 0 when it is granted; else the seconds for which the source wants no request at all.
        """
        while True:
            if blocked := self._blocked():
                return blocked
            wait = self._take()
            if not wait:
                return 0.0
            pause(wait)

    def block(self, seconds: float) -> None:
        """The source wants no request with this key for so long; an hour at most is believed."""
        until = self._clock() + min(seconds, _LONGEST_BLOCK_S)
        with self._lock:
            if until > self._blocked_until():
                with replacing(self._block_path, lambda _: self._unusable()) as write:
                    write(f"{until:.3f}".encode())

    def close(self) -> None:
        """Let go of the files."""
        if self._bucket:
            self._bucket.close()

    def _open(self, rates: list[Rate]) -> SQLiteBucket:
        try:
            private_folder(self._path.parent)
            for path in (self._path, Path(f"{self._path}.lock")):
                path.touch(mode=0o600)
            return SQLiteBucket.init_from_file(rates, db_path=str(self._path), use_file_lock=True)
        except (OSError, sqlite3.Error):
            pass
        raise self._unusable()

    def _take(self) -> float:
        """0 if there was room, else the seconds until there is."""
        if not self._bucket:
            return 0.0
        try:
            # The moment is taken inside the lock: a request must not leave later than it is counted.
            with self._lock, self._bucket.lock:
                item = RateItem("", int(self._clock() * 1000))
                newest = self._bucket.peek(0)
                if newest and newest.timestamp > item.timestamp:
                    self._set_back(item.timestamp)
                if self._bucket.put(item):
                    self._bucket.leak(item.timestamp)
                    return 0.0
                wait = self._bucket.waiting(item)
                assert isinstance(wait, int)  # only asynchronous buckets give something else
                return max(1, wait) / 1000
        except (OSError, sqlite3.Error):
            pass
        raise self._unusable()

    def _set_back(self, now_ms: int) -> None:
        """The clock was set back: what was counted later than now was at the latest now."""
        assert self._bucket
        table, moment = self._bucket.table, {"now": now_ms}
        with self._bucket.conn as connection:
            connection.execute(f"UPDATE '{table}' SET item_timestamp = :now WHERE item_timestamp > :now", moment)

    def _blocked(self) -> float:
        seconds = max(0.0, self._blocked_until() - self._clock())
        return seconds if seconds <= _LONGEST_BLOCK_S else 0.0  # so long it never was: the clock was set back

    def _blocked_until(self) -> float:
        with suppress(OSError, ValueError):
            return float(self._block_path.read_bytes())
        return 0.0

    def _unusable(self) -> SettingsError:
        return SettingsError(
            f"{self._path} cannot be used; make TEEI_HOME writable and give it room, or remove this file"
        )


def quota_for(system: System, credentials: SystemCredentials, settings: Settings, clock: Callable[[], float]) -> Quota:
    """The quota of a key: what the system declares, and `{SYSTEM}_RATE_LIMIT_DELAY_MS`."""
    path = settings.home / "quota" / f"{system.name}-{key_id(settings, credentials)}.sqlite"
    return Quota(path, _rates(system, settings.environ), clock)


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
