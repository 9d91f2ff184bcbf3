"""Where a process is killed, and how it kills itself there.

Belongs here: the named points, and what lies in wait at one. Does not belong here: who starts the process
(`zygote.py`), what has to be true afterwards (`machine.py`).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster._core.storage.event_log.sqlite.sqlite_event_log as event_log
from deltalake import DeltaTable
from pyrate_limiter import SQLiteBucket

from teei_ingest.extract.auth import BearerToken
from teei_ingest.landing.landing import Landing
from teei_ingest.landing.quarantine import Quarantine
from teei_ingest.pipeline import collect, crew
from teei_ingest.pipeline.ingest import Ingest
from teei_ingest.store import tables
from teei_ingest.store.locks import Locks

Die = Callable[[], None]

# What is asked of Dagster: streams and events together by `teei sync`, or one of the two by Dagster's own command.
BOTH, STREAMS, EVENTS = "both", "streams", "events"


@dataclass(frozen=True)
class Point:
    """A function of `owner` that kills the process when it was called so many times, before or after it is done.

    `work` is what passes there; `counts` says which calls count; `prepare` is called before anything happens.
    `bare`: only a home in which nothing is yet gets there. `spares`: who dies is a helper, and its parent goes on.
    """

    what: str
    owner: Any
    name: str
    before: bool = False
    work: str = BOTH
    counts: Callable[..., bool] = lambda *args, **others: True
    prepare: Callable[[], None] = lambda: None
    calls: int = 3
    bare: bool = False
    spares: bool = False


def _another_table() -> Callable[..., bool]:
    """Whether another table than before comes next."""
    last: list[Any] = []

    def counts(ingest: Ingest, *args: Any) -> bool:
        contract = ingest.plan.stream.contract
        is_other = bool(last) and last[-1] is not contract
        last.append(contract)
        return is_other

    return counts


def _slow() -> None:
    """Whoever has a token uses it only when it has to be renewed."""
    real = BearerToken.value

    def value(self: BearerToken, caller: Any, refused: str | None = None) -> str:
        real(self, caller, refused)
        time.sleep(max(0.0, self._renew_at - self._clock()))
        return real(self, caller, refused)

    BearerToken.value = value  # type: ignore[method-assign]


def _crowded() -> None:
    """Other processes help from the first records on."""
    collect.BATCH_ROWS = collect.SHARED_ROWS = 3
    real = Ingest.start_later

    def start_later(self: Ingest, window: Any, retries: int | None = None) -> Any:
        self._page_size = 2
        return real(self, window, retries)

    Ingest.start_later = start_later  # type: ignore[method-assign]


def _is_temporary(descriptor: int) -> bool:
    return Path(f"/proc/self/fd/{descriptor}").resolve().name.endswith((".tmp", ".part"))


POINTS = {
    "landed": Point("after the landing", Landing, "write", work=STREAMS, calls=12),
    "consumed": Point("events committed, their landing still there", Landing, "discard", True, EVENTS, calls=12),
    "before-commit": Point("before the Delta commit", tables, "write_deltalake", True, calls=10),
    "in-commit": Point("data files written, not yet committed", None, "", calls=8),
    "after-commit": Point("after the Delta commit", tables, "write_deltalake", calls=10),
    "between-tables": Point("between two tables", Ingest, "both", True, counts=_another_table(), calls=6),
    "renewing": Point(
        "while the token is renewed",
        BearerToken,
        "_parse",
        counts=lambda token, *args: bool(token._value),
        prepare=_slow,
        calls=1,
    ),
    "quota": Point("while the quota's file is held", SQLiteBucket, "put", calls=2),
    "quarantine": Point("while the quarantine is replaced", Quarantine, "_write", calls=20),
    "half-written": Point("a file written, not yet in its place", os, "fsync", True, counts=_is_temporary, calls=3),
    "locked": Point("while a lock is held", Locks, "_take", calls=40),
    "recording": Point("while Dagster records", event_log.SqliteEventLogStorage, "store_event", True, calls=100),
    "helped": Point("while another process helps", crew, "_done", True, prepare=_crowded, calls=1),
    "helper": Point("the helper alone", crew, "_done", True, prepare=_crowded, calls=1, spares=True),
    "databases": Point("while Dagster's databases are made", event_log, "stamp_alembic_rev", True, calls=2, bare=True),
    "tables": Point("while the tables are made", DeltaTable, "create", calls=8, bare=True),
    "keys": Point("keys written, not yet in their place", os, "fsync", True, counts=_is_temporary, calls=1, bare=True),
}


def lie_in_wait(name: str, call: int, witness: Path, home: Path) -> None:
    """This process is killed when it passes a point the so-manieth time; `witness` says then that it was there."""
    point, main = POINTS[name], os.getpid()

    def die() -> None:
        witness.write_text(f"{name} {call}")
        os.kill(os.getpid() if point.spares else main, signal.SIGKILL)

    point.prepare()
    if point.owner is None:
        threading.Thread(target=_watch, args=(home / "events", call, die), daemon=True).start()
        return
    real, passed = getattr(point.owner, point.name), 0

    def passing(*args: Any, **others: Any) -> Any:
        nonlocal passed
        counted = point.counts(*args, **others)
        passed += counted
        if counted and passed == call and point.before:
            die()
        made = real(*args, **others)
        if counted and passed == call:
            die()
        return made

    setattr(point.owner, point.name, passing)


def _watch(events: Path, call: int, die: Die) -> None:
    """Die as soon as the so-manieth new data file is there, which its commit follows."""
    known = set(_files(events))
    while True:
        for path in _files(events):
            if path not in known:
                known.add(path)
                call -= 1
                if not call:
                    die()


def _files(events: Path) -> list[str]:
    found = []
    for table in os.scandir(events) if events.is_dir() else ():
        for folder in os.scandir(table.path) if table.is_dir() else ():
            if folder.name.startswith("company="):
                found += [file.path for file in os.scandir(folder.path)]
    return found


def described() -> Mapping[str, str]:
    """What each point is."""
    return {name: point.what for name, point in POINTS.items()}
