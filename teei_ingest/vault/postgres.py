"""Postgres as the place of small texts that the processes of several machines change.

Belongs here: the connection, its time limits, one row as a document, what Postgres's refusals mean. Does not belong
here: what the texts say.

The moment is the database's, so that nobody's clock has to be right. It is asked on a connection whose waits are ours:
the driver's own would last as long as a machine that is gone, and could not be cancelled.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg2  # type: ignore[import-untyped]
from psycopg2.extensions import POLL_OK, POLL_READ  # type: ignore[import-untyped]

from teei_ingest.errors import SettingsError, SharedStateDown

VARIABLE = "TEEI_SHARED_STATE_URL"
TABLE = "teei_shared_state"

_ANSWER_S = 10.0
# Nobody waits for a machine that was cut off while it had its turn.
_IDLE_S = 5

_MOMENT = "extract(epoch FROM clock_timestamp())::float8"
_LIMITS = f"SET statement_timeout = '{_ANSWER_S:g}s'; SET idle_in_transaction_session_timeout = '{_IDLE_S}s'"
_FIND = "SELECT to_regclass(%s)"
_MAKE = f"""BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('{TABLE}', 0));
    CREATE TABLE IF NOT EXISTS {TABLE} (name text PRIMARY KEY, state text NOT NULL); COMMIT"""
_BEGIN = f"BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('{TABLE}/' || %s, 0))"
_READ = f"SELECT {_MOMENT}, (SELECT state FROM {TABLE} WHERE name = %s)"
_WRITE = f"INSERT INTO {TABLE} VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET state = EXCLUDED.state"
_REMOVE = f"DELETE FROM {TABLE} WHERE name = %s"
_LIST = f"SELECT coalesce(array_agg(name ORDER BY name), '{{}}') FROM {TABLE} WHERE name LIKE %s"

# libpq gives no code for what it is refused at the door.
_REFUSED = (
    "authentication",
    "no password supplied",
    "pg_hba.conf",
    "does not exist",
    "not permitted",
    "does not support",
)


class Postgres:
    """One connection to a database for all threads of this process, made when it is first needed, and again.

    Raises SharedStateDown for what may pass, SettingsError for what has to be mended.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._ahead: float | None = None  # how much the database's clock says more than our steady one
        self.forget()

    def forget(self) -> None:
        """Have no connection, without closing it: in a forked process it is another's."""
        self._connection: Any = None
        self._inside = False  # a transaction
        self._lock = threading.RLock()

    def now(self) -> float:
        """Seconds since 1970 by the database's clock, as of the last time that it was asked."""
        return time.time() if self._ahead is None else time.monotonic() + self._ahead

    def check(self) -> str:
        """What is reached, for people."""
        with self._lock:
            (version,) = self._ask("SHOW server_version")
        return f"Postgres {version} answers; who uses it shares quotas and circuits"

    def read(self, name: str) -> str | None:
        with self._lock:
            moment, state = self._ask(_READ, name)
            self._ahead = moment - time.monotonic()
        text: str | None = state
        return text

    def write(self, name: str, state: str) -> None:
        with self._lock:
            self._ask(_WRITE, name, state)

    def remove(self, name: str) -> None:
        with self._lock:
            self._ask(_REMOVE, name)

    def names(self, ending: str) -> list[str]:
        """The names that end so."""
        with self._lock:
            (found,) = self._ask(_LIST, f"%{ending}")
        return list(found)

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """A transaction that others with this name wait for."""
        with self._lock:
            self._ask(_BEGIN, name)
            self._inside = True
            try:
                yield
                self._ask("COMMIT")
            except BaseException:
                self._drop()
                raise
            finally:
                self._inside = False

    def _ask(self, text: str, *values: str) -> Any:
        """The first row that the last of these statements gives, if it gives any."""
        is_new = self._connection is None
        try:
            if is_new:
                self._connect()
            return self._answer(self._connection, text, values)
        except psycopg2.Error as error:
            self._drop()
            failure = _failure(error)
        except BaseException:
            self._drop()  # in the middle of an answer
            raise
        if is_new or self._inside or not isinstance(failure, SharedStateDown):
            raise failure
        return self._ask(text, *values)  # one that was kept may have ended long ago

    def _connect(self) -> None:
        self._connection = psycopg2.connect(self._url, async_=True, application_name=TABLE)
        _wait(self._connection)
        self._answer(self._connection, _LIMITS)
        (there,) = self._answer(self._connection, _FIND, (TABLE,))
        if there is None:  # who may not make tables may still use this one
            self._answer(self._connection, _MAKE)

    def _answer(self, connection: Any, text: str, values: tuple[str, ...] = ()) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(text, values)
            _wait(connection)
            return cursor.fetchone() if cursor.description else None

    def _drop(self) -> None:
        """Close the connection, which takes back what was not committed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class Row:
    """A row as a document. Its clock is the database's, unless `clock` is given."""

    def __init__(self, postgres: Postgres, name: str, clock: Callable[[], float] | None = None) -> None:
        self.name = name
        self._postgres = postgres
        self._clock = clock
        self.now = clock or postgres.now

    def beside(self, ending: str) -> Row:
        """The one whose name ends with this, too."""
        return Row(self._postgres, self.name + ending, self._clock)

    def read(self) -> bytes | None:
        text = self._postgres.read(self.name)
        return None if text is None else text.encode()

    def write(self, text: bytes) -> None:
        self._postgres.write(self.name, text.decode())

    def remove(self) -> None:
        self._postgres.remove(self.name)

    def alone(self) -> AbstractContextManager[None]:
        return self._postgres.alone(self.name)


_known: dict[str, Postgres] = {}


def postgres_at(url: str) -> Postgres:
    """The one of this process."""
    return _known.setdefault(url, Postgres(url))


def _forget_all() -> None:
    for one in _known.values():
        one.forget()


os.register_at_fork(after_in_child=_forget_all)


def _wait(connection: Any) -> None:
    """Until it has done what it was told, or the time is over."""
    end = time.monotonic() + _ANSWER_S
    while (state := connection.poll()) != POLL_OK:
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN if state == POLL_READ else select.POLLOUT)
        if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
            raise psycopg2.OperationalError


def _failure(error: psycopg2.Error) -> SettingsError:
    if isinstance(error, psycopg2.OperationalError) and any(sign in str(error) for sign in _REFUSED):
        return SettingsError(f"{VARIABLE}: Postgres refuses the login; mend its user, password or database")
    if isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError | psycopg2.InternalError):
        return SharedStateDown(f"Postgres of {VARIABLE} does not answer; try again later")
    if isinstance(error, psycopg2.errors.InsufficientPrivilege):
        return SettingsError(f"{VARIABLE}: its user may not use the table {TABLE}; grant it that, and to make it")
    return SettingsError(f"{VARIABLE}: Postgres refuses what is asked ({error.pgcode or 'of that URL'}); mend it")
