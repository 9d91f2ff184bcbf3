"""Whether a system is down, over all processes that ask it with one credential.

Belongs here: since when it is down, and who may ask again and when. The state is a file in `$TEEI_HOME/quota`, named
after system, key id and address, which is there only while the system is down. Does not belong here: asking, and what
counts as down (`http.py`).
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from teei_ingest.errors import SettingsError
from teei_ingest.settings import Settings
from teei_ingest.systems.base import System
from teei_ingest.vault.credentials import SystemCredentials, key_id
from teei_ingest.vault.files import private_folder, remove, replacing


@dataclass(frozen=True)
class Down:
    """A system that is down; times in seconds since 1970.

    It is asked again at `next`, `pause` seconds after it was last asked at `asked`; until `answer` the reply to that
    is still awaited. `problem` says how it failed.
    """

    since: float
    asked: float
    pause: float
    problem: str
    answer: float = 0.0

    @property
    def next(self) -> float:
        return self.asked + self.pause

    def __str__(self) -> str:
        since, again = (datetime.fromtimestamp(moment, UTC) for moment in (self.since, self.next))
        return f"down since {since:%Y-%m-%d %H:%MZ} ({self.problem}); asked again at {again:%H:%MZ}"


class Circuit:
    """Closed: everybody may ask. Open: nobody may, but for one process at a time, after a pause that doubles.

    `clock` gives seconds since 1970.
    """

    def __init__(self, path: Path, first_pause_s: float, longest_pause_s: float, clock: Callable[[], float]) -> None:
        self._path = path
        self._first_pause = first_pause_s
        self._longest_pause = longest_pause_s
        self._clock = clock

    def down(self) -> Down | None:
        """None while the circuit is closed."""
        try:
            return Down(**json.loads(self._path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def may_ask(self, patience_s: float, typed_at: float | None = None) -> bool:
        """Whether the caller, and nobody else, is to ask now and to tell the outcome, within `patience_s` seconds.

        Whoever typed a command at `typed_at` may, unless the system was asked since.
        """
        with self._alone():
            down, now = self.down(), self._clock()
            if down is None or self.is_asked(down):
                return False
            # A clock that was set back would make the pause as long as its step.
            if down.asked <= now < down.next and (typed_at is None or typed_at <= down.asked):
                return False
            self._write(replace(down, asked=now, answer=now + patience_s))
            return True

    def is_asked(self, down: Down) -> bool:
        """Whether somebody is waiting for a reply right now."""
        return down.asked <= self._clock() < down.answer

    def open(self, problem: str) -> Down:
        """The system does not answer, or still does not."""
        with self._alone():
            known, now = self.down(), self._clock()
            if known is None:
                known = Down(now, now, self._first_pause, problem)
            elif known.answer:
                known = replace(known, asked=now, answer=0.0, pause=min(2 * known.pause, self._longest_pause))
            else:
                return known  # two found out at the same time
            self._write(known)
            return known

    def close(self) -> None:
        """The system answers."""
        with suppress(OSError):
            remove(self._path)

    def _write(self, down: Down) -> None:
        with replacing(self._path, self._unusable) as write:
            write(json.dumps(asdict(down)).encode())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        private_folder(self._path.parent)
        with FileLock(f"{self._path}.lock", mode=0o600):
            yield

    def _unusable(self, reason: str) -> SettingsError:
        return SettingsError(f"{self._path} cannot be written ({reason}); make TEEI_HOME writable and give it room")


def circuit_for(
    system: System, credentials: SystemCredentials, settings: Settings, clock: Callable[[], float]
) -> Circuit:
    """The circuit of a key at an address: companies that share both share it."""
    address = hashlib.sha256(credentials.base_url.encode()).hexdigest()[:8]
    path = settings.home / "quota" / f"{system.name}-{key_id(settings, credentials)}-{address}.circuit"
    return Circuit(path, settings.circuit_pause_s, settings.circuit_pause_max_s, clock)


def open_circuits(settings: Settings) -> list[tuple[str, Down]]:
    """Every account that is down, by the name of its system."""
    found = []
    for path in sorted((settings.home / "quota").glob("*.circuit")):
        down = Circuit(path, 0, 0, time.time).down()
        if down is not None:
            found.append((path.name.partition("-")[0], down))
    return found
