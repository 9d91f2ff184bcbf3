"""Processes that carry out a run each, and one that is ready for the next: it has loaded Dagster, which takes seconds.

A worker holds the lock on a file of its name in `$TEEI_HOME/gateway/workers` as long as it lives, which the next
gateway sees, too. Belongs here: beginning them, knowing whether they are gone. What they do is `worker.py`.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from teei_ingest.errors import SettingsError
from teei_ingest.settings import Settings
from teei_ingest.vault.files import os_errors, private_folder

_LOOK_S = 0.05  # between two looks at whether a worker is gone


class Worker:
    """A process that waits for its order on standard input."""

    def __init__(self, folder: Path) -> None:
        self.name = uuid.uuid4().hex
        path = folder / self.name
        with os_errors(lambda reason: SettingsError(f"{folder}: {reason}")):
            private_folder(folder)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "teei_ingest.gateway.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=[descriptor],  # it holds the lock from here on
                start_new_session=True,  # it goes on when a terminal ends the gateway
            )
            os.close(descriptor)

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def send(self, order: Mapping[str, Any]) -> None:
        """All that it waits for. One that has died is found to be gone."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(json.dumps(order).encode() + b"\n")

    def reap(self) -> None:
        """Once it is gone."""
        self._process.wait()

    def dismiss(self) -> None:
        """End one that has no order."""
        assert self._process.stdin is not None
        self._process.stdin.close()


class Workers:
    """Those of one home."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.home / "gateway" / "workers"
        self._next: Worker | None = None
        self._begun: dict[str, Worker] = {}
        self._lock = threading.Lock()

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Have one that is ready as long as the block lasts."""
        with suppress(FileNotFoundError):
            for path in self._folder.iterdir():
                if not self._is_alive(path.name):
                    path.unlink()
        self._next = Worker(self._folder)
        try:
            yield
        finally:
            self._next.dismiss()

    def take(self) -> Worker:
        """One to send an order to; another one begins to make itself ready."""
        with self._lock:
            worker = self._next if self._next is not None and self._next.lives else Worker(self._folder)
            self._next = Worker(self._folder)
            self._begun[worker.name] = worker
            return worker

    async def gone(self, name: str) -> None:
        """Wait until a worker, also one of an earlier gateway, is gone."""
        while self._is_alive(name):
            await asyncio.sleep(_LOOK_S)
        (self._folder / name).unlink(missing_ok=True)
        worker = self._begun.pop(name, None)
        if worker is not None:
            await asyncio.to_thread(worker.reap)

    def _is_alive(self, name: str) -> bool:
        with suppress(FileNotFoundError), (self._folder / name).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False
