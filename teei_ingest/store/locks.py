"""Who may change a company or a table at the same time, over all processes of one machine.

Commits share; an erasure, a rotation of keys or a purge is alone. Held by the kernel (flock), so that a process that
is killed holds nothing afterwards. Whoever needs both takes the company first and its tables then, in order of name.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from teei_ingest.errors import StoreError
from teei_ingest.vault.files import os_errors, private_folder

PATIENCE_S = 600.0


class InUse(StoreError):
    """Somebody else has it."""


class Locks:
    """Locks by name below one folder. Raises InUse when one cannot be had in `patience_s` seconds, or StoreError."""

    def __init__(self, folder: Path, patience_s: float = PATIENCE_S) -> None:
        self._folder = folder
        self._patience_s = patience_s

    @contextmanager
    def shared(self, name: str) -> Iterator[None]:
        """Beside others that share it."""
        with self._held(name, fcntl.LOCK_SH):
            yield

    @contextmanager
    def exclusive(self, name: str, patience_s: float | None = None) -> Iterator[None]:
        """Alone."""
        with self._held(name, fcntl.LOCK_EX, patience_s):
            yield

    @contextmanager
    def _held(self, name: str, kind: int, patience_s: float | None = None) -> Iterator[None]:
        # Everybody passes the gate, and who wants to be alone keeps it: those who share would otherwise never end.
        gate, room = self._open(f"{name}.gate"), self._open(name)
        try:
            begun, patience = time.monotonic(), self._patience_s if patience_s is None else patience_s
            for one in (gate, room):
                if not _taken(one, kind, begun + patience):
                    raise InUse(f"{name} has been in use for {patience:.0f} s: run it again later")
            if kind == fcntl.LOCK_SH:
                fcntl.flock(gate, fcntl.LOCK_UN)
            yield
        finally:
            os.close(room)
            os.close(gate)

    def _open(self, name: str) -> int:
        with os_errors(lambda reason: StoreError(f"the lock {self._folder / name}: {reason}")):
            private_folder(self._folder)
            return os.open(self._folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _taken(descriptor: int, kind: int, limit: float) -> bool:
    """Whether it could be had until then."""
    wait = 0.001
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            pass
        if time.monotonic() > limit:
            return False
        time.sleep(wait)
        wait = min(wait * 2, 0.1)
