"""The deliveries that were accepted: each once, on disk before it is acknowledged, there until its run was asked for.

Belongs here: the file `$TEEI_HOME/webhooks/deliveries.sqlite`, which several processes use at once. Nothing personal
is in it: a sender's id, which it chose itself, stands there as a keyed hash. Does not belong here: who may deliver
(`receive.py`), and which runs are asked for (`defs/webhooks.py`).
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import date
from typing import NamedTuple

from teei_ingest.settings import Settings
from teei_ingest.vault.database import Database

_TOGETHER = 1000  # deliveries that are written in one step at most

_SCHEMA = """
CREATE TABLE IF NOT EXISTS deliveries (
    number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, company TEXT NOT NULL, stream TEXT NOT NULL,
    day TEXT NOT NULL, received REAL NOT NULL, run_key TEXT, handled REAL
);
CREATE INDEX IF NOT EXISTS waiting ON deliveries (company, day, stream) WHERE handled IS NULL;
"""
_ADD = "INSERT OR IGNORE INTO deliveries (id, company, stream, day, received) VALUES (?, ?, ?, ?, ?)"
_WAITING = """
SELECT company, stream, day, run_key, count(*), min(received) FROM deliveries WHERE handled IS NULL
GROUP BY company, stream, day, run_key ORDER BY company, day, stream
"""
_COVERED = """
handled IS NULL AND company = :company AND day BETWEEN :first AND :last
AND stream IN (SELECT value FROM json_each(:streams))
"""
_LAST = f"SELECT lower(hex(id)) FROM deliveries WHERE {_COVERED} ORDER BY number DESC LIMIT 1"
_ASK = f"UPDATE deliveries SET run_key = :run_key WHERE {_COVERED}"
_HANDLED = "UPDATE deliveries SET handled = ? WHERE handled IS NULL AND run_key = ?"
_BEFORE = "SELECT count(*) FROM deliveries WHERE received < ?"
_FORGET_BEFORE = "DELETE FROM deliveries WHERE received < ?"
_FORGET_COMPANY = "DELETE FROM deliveries WHERE company = ?"
_FIGURES = """
SELECT company, stream, count(*), sum(handled IS NULL), min(received) FILTER (WHERE handled IS NULL), max(received)
FROM deliveries GROUP BY company, stream ORDER BY company, stream
"""


class Delivery(NamedTuple):
    """One that was accepted: a day of a company's stream has changed. `id` is a keyed hash of what the sender says."""

    id: bytes
    company: str
    stream: str
    day: date
    received: float  # seconds since 1970


class Waiting(NamedTuple):
    """Deliveries of a day of a company's stream that are not handled yet, and the run that was to be asked for."""

    company: str
    stream: str
    day: date
    run_key: str | None
    number: int
    since: float  # when the first one was received


class Figures(NamedTuple):
    """What there is of a company's stream: ids that are remembered, deliveries that wait and since when, the last."""

    company: str
    stream: str
    known: int
    waiting: int
    waiting_since: float | None
    last: float


class Deliveries:
    """The file, made when the first delivery comes. Methods raise SettingsError where it cannot be used."""

    def __init__(self, settings: Settings) -> None:
        self.path = settings.home / "webhooks" / "deliveries.sqlite"
        self._database = Database(self.path, _SCHEMA, "secure_delete = ON")

    def add(self, deliveries: Sequence[Delivery], refused: Callable[[str], bool] = lambda company: False) -> None:
        """Keep those that are new, all in one step and on disk afterwards, but none of a company that is `refused`.

        That is asked inside, so that whoever removes a company's deliveries leaves none behind.
        """
        with self._database.transaction() as connection:
            gone = {company for company in {one.company for one in deliveries} if refused(company)}
            kept = [one for one in deliveries if one.company not in gone]
            rows = [(one.id, one.company, one.stream, f"{one.day}", one.received) for one in kept]
            connection.executemany(_ADD, rows)

    def waiting(self) -> list[Waiting]:
        """By company, then day."""
        with self._database.transaction(create=False) as connection:
            found = connection.execute(_WAITING).fetchall()
        return [Waiting(*row)._replace(day=date.fromisoformat(row[2])) for row in found]

    def ask(self, company: str, streams: Collection[str], first: date, last: date) -> str | None:
        """Note that a run is about to be asked for that covers what waits there; the key of that run.

        It has the id of the last delivery that is covered: it is the same again as long as no other one comes. None if
        nothing waits there any more, since the company was shredded meanwhile.
        """
        covered = {"company": company, "first": f"{first}", "last": f"{last}", "streams": json.dumps(list(streams))}
        with self._database.transaction(create=False) as connection:
            found = connection.execute(_LAST, covered).fetchone()
            run_key = f"{company} {first} {found[0]}" if found else None
            connection.execute(_ASK, {**covered, "run_key": run_key})
        return run_key

    def handled(self, run_keys: Collection[str], now: float) -> None:
        """The runs with these keys were asked for."""
        with self._database.transaction(create=False) as connection:
            connection.executemany(_HANDLED, [(now, run_key) for run_key in run_keys])

    def figures(self) -> list[Figures]:
        """By company, then stream."""
        with self._database.transaction(create=False) as connection:
            return [Figures(*row) for row in connection.execute(_FIGURES)]

    def forget_before(self, moment: float, *, dry_run: bool = False) -> int:
        """Remove those that were received before, in seconds since 1970; how many there were."""
        with self._database.transaction(create=False) as connection:
            (number,) = connection.execute(_BEFORE, (moment,)).fetchone()
            if not dry_run:
                connection.execute(_FORGET_BEFORE, (moment,))
            return int(number)

    def forget_company(self, slug: str) -> int:
        """Remove those of a company, so that nothing of them is left in the file; how many there were."""
        with self._database.transaction(create=False) as connection:
            removed = connection.execute(_FORGET_COMPANY, (slug,)).rowcount
        with self._database.connection(create=False) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return removed


class Writer:
    """Keeps deliveries from a thread of its own: what comes while one batch is written is the next one."""

    def __init__(self, deliveries: Deliveries, refused: Callable[[str], bool]) -> None:
        self._deliveries = deliveries
        self._refused = refused
        self._queue: queue.SimpleQueue[tuple[Delivery, Future[None]]] = queue.SimpleQueue()
        # It may be killed at any time: what it has not written was not acknowledged.
        threading.Thread(target=self._work, name="webhooks", daemon=True).start()

    def put(self, delivery: Delivery) -> Future[None]:
        """Done when it is on disk; raises as `Deliveries.add`."""
        done: Future[None] = Future()
        self._queue.put((delivery, done))
        return done

    def _work(self) -> None:
        while True:
            batch = [self._queue.get()]
            with suppress(queue.Empty):
                while len(batch) < _TOGETHER:
                    batch.append(self._queue.get_nowait())
            self._write(batch)

    def _write(self, batch: Sequence[tuple[Delivery, Future[None]]]) -> None:
        waiting = [done for _, done in batch if done.set_running_or_notify_cancel()]
        failed: Exception | None = None
        try:
            self._deliveries.add([delivery for delivery, _ in batch], self._refused)
        except Exception as error:  # noqa: BLE001 - whoever waits has to hear of it, and the next batch has its turn
            failed = error
        for done in waiting:
            if failed:
                done.set_exception(failed)
            else:
                done.set_result(None)
