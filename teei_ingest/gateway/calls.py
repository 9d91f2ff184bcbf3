"""Calls and the runs that they wait for: each accepted call is kept until its run has ended, over restarts.

Belongs here: `$TEEI_HOME/gateway/calls.sqlite`, which calls are the same, how many runs go on at a time. A call is
written down before its run begins; whatever is killed in between, it is carried out once. How a run went is what
Dagster recorded, so that it is told in one way, however it ended. Does not belong here: HTTP (`ingest.py`), processes
(`workers.py`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from teei_ingest import logs
from teei_ingest.errors import InternalError, TeeiError
from teei_ingest.gateway.orders import Order
from teei_ingest.gateway.problems import Problem, unavailable
from teei_ingest.gateway.workers import Workers
from teei_ingest.settings import Settings
from teei_ingest.sync import Result, reply_of, reply_of_all
from teei_ingest.vault.database import Database

ALL = "/v1/ingest/all"
MOST_WAITING = 200  # calls that are accepted and whose runs have not ended
KEY_S = 86_400.0  # that an Idempotency-Key is remembered
_KEPT_S = 30 * 86_400.0  # that it can be asked how a call went
_TRIES = 3  # to begin a run
_PAUSE_S = 5.0  # until Dagster, which cannot be reached, is asked again

_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    run_id TEXT PRIMARY KEY, same TEXT NOT NULL, company TEXT NOT NULL, wanted TEXT NOT NULL, token TEXT NOT NULL,
    accepted REAL NOT NULL, worker TEXT, tries INTEGER NOT NULL DEFAULT 0, ended REAL, status INTEGER, reply TEXT
);
CREATE INDEX IF NOT EXISTS unfinished ON calls (same) WHERE ended IS NULL;
CREATE TABLE IF NOT EXISTS keys (key TEXT PRIMARY KEY, same TEXT NOT NULL, run_id TEXT NOT NULL, at REAL NOT NULL);
"""
_COLUMNS = "run_id, company, wanted, token, accepted, worker, tries, ended, status, reply"
_log = logging.getLogger("teei_ingest.gateway")


@dataclass(frozen=True)
class Call:
    """One that was accepted; once its run has `ended` there are the `status` and the `reply` of the call."""

    run_id: str
    company: str
    wanted: str
    token: str
    accepted: float
    worker: str | None = None
    tries: int = 0
    ended: float | None = None
    status: int | None = None
    reply: str | None = None

    @property
    def order(self) -> Order:
        """What is wanted."""
        return Order.model_validate_json(self.wanted)


class Calls:
    """Those of one home. The database's methods may be called in any thread."""

    def __init__(self, settings: Settings) -> None:
        self._database = Database(settings.home / "gateway" / "calls.sqlite", _SCHEMA)
        self._workers = Workers(settings)
        self._places = asyncio.Semaphore(settings.gateway_runs)
        self._turns: dict[str, asyncio.Lock] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closing = asyncio.Event()

    # --- what is written down ---------------------------------------------------------------------------------------

    def accept(self, order: Order, token: str, key: str | None) -> Call:
        """The call that carries out an order: a new one, unless the same goes on, or `key` is known.

        Raises Problem: 422 where the key came with another order, 503 where too many wait.
        """
        now = time.time()
        known = hashlib.sha256(f"{token} {key}".encode()).hexdigest() if key else None
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM keys WHERE at < ?", (now - KEY_S,))
            connection.execute("DELETE FROM calls WHERE ended < ?", (now - _KEPT_S,))
            for same, run_id in connection.execute("SELECT same, run_id FROM keys WHERE key = ?", (known,)):
                if same != order.same:
                    raise Problem(422, "this Idempotency-Key came with another request before: use a new one")
                return _one(connection, run_id)
            found = connection.execute("SELECT run_id FROM calls WHERE same = ? AND ended IS NULL", (order.same,))
            running = found.fetchone()
            run_id = running[0] if running else str(uuid.uuid4())
            if known:
                connection.execute("INSERT INTO keys VALUES (?, ?, ?, ?)", (known, order.same, run_id, now))
            if running:
                return _one(connection, run_id)
            (waiting,) = connection.execute("SELECT count(*) FROM calls WHERE ended IS NULL").fetchone()
            if waiting >= MOST_WAITING:
                raise unavailable(f"{waiting} calls wait for their runs: ask again later")
            connection.execute(
                "INSERT INTO calls (run_id, same, company, wanted, token, accepted) VALUES (?, ?, ?, ?, ?, ?)",
                (run_id, order.same, order.company, order.model_dump_json(), token, now),
            )
            return _one(connection, run_id)

    def find(self, run_id: str) -> Call | None:
        """The call of a run."""
        with self._database.transaction() as connection:
            row = connection.execute(f"SELECT {_COLUMNS} FROM calls WHERE run_id = ?", (run_id,)).fetchone()
        return Call(*row) if row else None

    def _unfinished(self) -> list[Call]:
        with self._database.transaction() as connection:
            found = connection.execute(f"SELECT {_COLUMNS} FROM calls WHERE ended IS NULL ORDER BY accepted")
            return [Call(*row) for row in found]

    def _note_worker(self, run_id: str, worker: str) -> None:
        with self._database.transaction() as connection:
            change = "UPDATE calls SET worker = ?, tries = tries + 1 WHERE run_id = ?"
            connection.execute(change, (worker, run_id))

    def _note_end(self, run_id: str, status: int, reply: dict[str, Any]) -> None:
        with self._database.transaction() as connection:
            change = "UPDATE calls SET ended = ?, status = ?, reply = ? WHERE run_id = ?"
            connection.execute(
                change, (time.time(), status, json.dumps(reply, ensure_ascii=False, separators=(",", ":")), run_id)
            )
            if status != 200:  # what is asked for again is to be begun
                connection.execute("DELETE FROM keys WHERE run_id = ?", (run_id,))

    # --- what is carried out ----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Carry on with what an earlier gateway began; at the end, runs go on by themselves."""
        with self._workers.ready():
            for call in await asyncio.to_thread(self._unfinished):
                self.carry_out(call)
            try:
                yield
            finally:
                for task in self._tasks.values():
                    task.cancel()
                await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def carry_out(self, call: Call) -> None:
        """See to it that the call's run goes on."""
        if call.ended is None and call.run_id not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._carry_out(call))
            self._tasks[call.run_id] = task
            task.add_done_callback(partial(self._done, call.run_id))

    async def ended(self, run_id: str, seconds: float) -> Call | None:
        """The call once its run has ended, or as it is after so many seconds."""
        task = self._tasks.get(run_id)
        if task is not None:
            closing = asyncio.ensure_future(self._closing.wait())
            await asyncio.wait([task, closing], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            closing.cancel()
        return await asyncio.to_thread(self.find, run_id)

    def _done(self, run_id: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(run_id, None)
        error = None if task.cancelled() else task.exception()
        if error is not None:  # the next gateway, or the same call again, carries on
            _log.error("a call broke off", extra={"run_id": run_id, "problem": str(InternalError.of(error))})

    def close(self) -> None:
        """Let nobody wait any longer; runs go on."""
        self._closing.set()

    async def _carry_out(self, call: Call) -> None:
        async with self._turns.setdefault(call.company, asyncio.Lock()), self._places:
            if call.worker is not None:  # an earlier gateway's
                await self._workers.gone(call.worker)
            tries = call.tries
            while not await self._is_settled(call, tries):
                if tries:
                    await asyncio.sleep(_PAUSE_S)
                tries += 1
                worker = await asyncio.to_thread(self._workers.take)
                await asyncio.to_thread(self._note_worker, call.run_id, worker.name)
                order = {"run_id": call.run_id, "token": call.token, "order": json.loads(call.wanted)}
                worker.send({**order, "correlation": logs.current("correlationId")})
                await self._workers.gone(worker.name)

    async def _is_settled(self, call: Call, tries: int) -> bool:
        """Whether it is known how the call went, which is written down then; else its run is to be begun."""
        while True:
            try:
                return await asyncio.to_thread(self._settle, call, tries)
            except TeeiError as error:
                _log.warning("a call waits for Dagster", extra={"run_id": call.run_id, "problem": str(error)})
                await asyncio.sleep(_PAUSE_S)

    def _settle(self, call: Call, tries: int) -> bool:
        from teei_ingest.defs import history

        standing = history.standing(call.run_id)
        if standing == "absent":
            if tries >= _TRIES:
                self._note_end(call.run_id, 503, {})
            return tries >= _TRIES
        if standing == "unfinished":
            history.end(call.run_id)
        order = call.order
        self._note_end(call.run_id, 200, _reply(order, history.result(order.request(), call.run_id)))
        return True


def _one(connection: sqlite3.Connection, run_id: str) -> Call:
    return Call(*connection.execute(f"SELECT {_COLUMNS} FROM calls WHERE run_id = ?", (run_id,)).fetchone())


def _reply(order: Order, found: Result) -> dict[str, Any]:
    if order.route == ALL:
        return reply_of_all(found, order.left_out)
    return reply_of(found, order.streams)
