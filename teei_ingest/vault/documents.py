"""Small texts that several processes read, and change one at a time.

Belongs here: the files of this machine, the choice between these and Postgres, waiting for that. Does not belong here:
Postgres itself (`postgres.py`), and what the texts say.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from filelock import FileLock

from teei_ingest.errors import SettingsError, SharedStateDown
from teei_ingest.settings import Settings
from teei_ingest.vault.files import os_errors, private_folder, remove, replacing

if TYPE_CHECKING:
    from teei_ingest.vault.postgres import Postgres, Row

T = TypeVar("T")
Clock = Callable[[], float]

_AGAIN_S = 1.0


class Document(Protocol):
    """One such text. Raises SettingsError where it cannot be changed, SharedStateDown where nothing answers."""

    def read(self) -> bytes | None:
        """None if there is none."""

    def write(self, text: bytes) -> None:
        """As a whole, or not at all."""

    def remove(self) -> None:
        """Nothing happens if there is none."""

    def alone(self) -> AbstractContextManager[None]:
        """While nobody else changes it."""

    def now(self) -> float:
        """The moment, in seconds: the same for all who share it, once it was read."""


class File:
    """One at `path`; `clock` is its clock."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self.now = clock

    def read(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except OSError:
            return None

    def write(self, text: bytes) -> None:
        with replacing(self._path, self._unusable) as write:
            write(text)

    def remove(self) -> None:
        with suppress(OSError):
            remove(self._path)

    @contextmanager
    def alone(self) -> Iterator[None]:
        lock = FileLock(f"{self._path}.lock", mode=0o600)
        with os_errors(self._unusable):
            private_folder(self._path.parent)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _unusable(self, reason: str) -> SettingsError:
        return SettingsError(f"{self._path} cannot be written ({reason}); make TEEI_HOME writable and give it room")


def shared(settings: Settings) -> Postgres | None:
    """The Postgres that several machines share, if one is set."""
    if settings.shared_state_url is None:
        return None
    from teei_ingest.vault.postgres import postgres_at

    return postgres_at(settings.shared_state_url.get_secret_value())


def named(settings: Settings, name: str, clock: Clock | None) -> Path | Row:
    """The file or the row of that name; `clock` takes the place of the database's."""
    postgres = shared(settings)
    if postgres is None:
        return settings.home / "quota" / name
    from teei_ingest.vault.postgres import Row

    return Row(postgres, name, clock)


def names(settings: Settings, ending: str) -> list[str]:
    """The names there are that end so. Raises SharedStateDown."""
    postgres = shared(settings)
    if postgres is None:
        return sorted(path.name for path in (settings.home / "quota").glob(f"*{ending}"))
    return postgres.names(ending)


def document(settings: Settings, name: str, clock: Clock | None) -> Document:
    """The document of that name; its clock gives seconds since 1970."""
    place = named(settings, name, clock)
    return File(place, clock or time.time) if isinstance(place, Path) else place


def patiently(limit_s: float, pause: Callable[[float], None], work: Callable[[], T]) -> T:
    """What `work` gives; again, after calling `pause` with seconds, where it raises SharedStateDown, for so long."""
    waited = 0.0
    while True:
        begun = time.monotonic()
        try:
            return work()
        except SharedStateDown:
            waited += time.monotonic() - begun + _AGAIN_S
            if waited > limit_s:
                raise
        pause(_AGAIN_S)
