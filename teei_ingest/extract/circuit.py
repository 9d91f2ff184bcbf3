"""Whether a system is down, over all processes that ask it with one credential.

Belongs here: since when it is down, and who may ask again and when. The state is a document, named after system, key id
and address, which is there only while the system is down. Does not belong here: asking, and what counts as down
(`http.py`), where the document is (`vault/documents.py`).
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from teei_ingest.errors import SharedStateDown
from teei_ingest.settings import Settings
from teei_ingest.systems.base import System
from teei_ingest.vault.credentials import SystemCredentials, key_id
from teei_ingest.vault.documents import Clock, Document, document, names

_ENDING = ".circuit"


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

    `now` gives seconds since 1970, the same to all who share `kept`. What looks or changes raises SharedStateDown.
    """

    def __init__(self, kept: Document, first_pause_s: float, longest_pause_s: float) -> None:
        self._kept = kept
        self._first_pause = first_pause_s
        self._longest_pause = longest_pause_s
        self.now = kept.now

    def down(self) -> Down | None:
        """None while the circuit is closed."""
        text = self._kept.read()
        try:
            return None if text is None else Down(**json.loads(text))
        except (ValueError, TypeError):
            return None

    def may_ask(self, patience_s: float, typed_at: float | None = None) -> bool:
        """Whether the caller, and nobody else, is to ask now and to tell the outcome, within `patience_s` seconds.

        Whoever typed a command at `typed_at` may, unless the system was asked since.
        """
        with self._kept.alone():
            down, now = self.down(), self.now()
            if down is None or self.is_asked(down):
                return False
            # A clock that was set back would make the pause as long as its step.
            if down.asked <= now < down.next and (typed_at is None or typed_at <= down.asked):
                return False
            self._write(replace(down, asked=now, answer=now + patience_s))
            return True

    def is_asked(self, down: Down) -> bool:
        """Whether somebody is waiting for a reply right now."""
        return down.asked <= self.now() < down.answer

    def open(self, problem: str) -> Down:
        """The system does not answer, or still does not."""
        with self._kept.alone():
            known, now = self.down(), self.now()
            if known is None:
                known = Down(now, now, self._first_pause, problem)
            elif known.answer:
                known = replace(known, asked=now, answer=0.0, pause=min(2 * known.pause, self._longest_pause))
            else:
                return known  # two found out at the same time
            self._write(known)
            return known

    def close(self) -> None:
        """The system answers; where that cannot be told, others find it out themselves."""
        with suppress(SharedStateDown):
            self._kept.remove()

    def _write(self, down: Down) -> None:
        self._kept.write(json.dumps(asdict(down)).encode())


def circuit_for(
    system: System, credentials: SystemCredentials, settings: Settings, clock: Clock | None = None
) -> Circuit:
    """The circuit of a key at an address: companies that share both share it."""
    address = hashlib.sha256(credentials.base_url.encode()).hexdigest()[:8]
    kept = document(settings, f"{system.name}-{key_id(settings, credentials)}-{address}{_ENDING}", clock)
    return Circuit(kept, settings.circuit_pause_s, settings.circuit_pause_max_s)


def open_circuits(settings: Settings) -> list[tuple[str, Down]]:
    """Every account that is down, by the name of its system. Raises SharedStateDown."""
    found = []
    for name in names(settings, _ENDING):
        down = Circuit(document(settings, name, None), 0, 0).down()
        if down is not None:
            found.append((name.partition("-")[0], down))
    return found
