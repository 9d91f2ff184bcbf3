"""How often a system may be asked, over all processes that use one key.

Belongs here: the declared quota, the pause that an operator sets, the wait that a source asks for, and whose turn it
is. Does not belong here: where that is kept so that every process obeys it (`ledger.py`), reading a reply's headers
(`http.py`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyrate_limiter import Rate

from teei_ingest.errors import SettingsError, SharedStateDown
from teei_ingest.extract.ledger import LOOK_AGAIN_MS, Entries, ledger_of, place_of, places_of
from teei_ingest.settings import Settings
from teei_ingest.systems.base import System
from teei_ingest.vault.credentials import SystemCredentials, key_id
from teei_ingest.vault.documents import Clock, Document, patiently

if TYPE_CHECKING:
    from teei_ingest.vault.postgres import Row

# The source counts a request when it arrives, we when it leaves: a little more than its window makes up for that.
_SLACK = 1.02
_LONGEST_BLOCK_S = 3600.0


class Quota:
    """The right to make one request, shared in turn by the threads, processes and companies that use the same place.

    The place is a file of this machine, or a row in Postgres, for which is waited up to `patience_s`. `clock` gives
    seconds that never step and mean the same to all who share it; when the machine starts they may begin anew. By
    default it is this machine's, or the database's. `who` is the company that asks.
    """

    def __init__(
        self,
        place: Path | Row,
        rates: list[Rate],
        clock: Clock | None = None,
        who: str = "",
        patience_s: float = 0.0,
    ) -> None:
        self._ledger, self._block = ledger_of(place, rates, clock)
        self._who = who
        self._patience = patience_s
        self._is_counted = bool(rates)
        if rates:
            self._ledger.open()

    def acquire(self, pause: Callable[[float], None]) -> float:
        """Wait for the right to make one request, by calling `pause` with seconds.

        Returns 0 when it is granted; else the seconds for which the source wants no request at all.
        """
        ticket: int | None = None
        try:
            while True:
                if blocked := patiently(self._patience, pause, partial(blocked_for, self._block)):
                    return blocked
                if not self._is_counted:
                    return 0.0
                ticket, wait = patiently(self._patience, pause, partial(self._take, ticket))
                if ticket is None:
                    return 0.0
                pause(wait)
        finally:
            if ticket is not None:
                self._leave(ticket)

    def block(self, seconds: float) -> None:
        """The source wants no request with this key for so long; an hour at most is believed."""
        seconds = min(seconds, _LONGEST_BLOCK_S)
        with self._block.alone():
            if seconds > blocked_for(self._block):
                now = self._block.now()
                self._block.write(f"{now:.3f} {now + seconds:.3f}".encode())

    def close(self) -> None:
        """Let go of the files."""
        self._ledger.close()

    def _take(self, ticket: int | None) -> tuple[int | None, float]:
        """No ticket if it was granted, else the place in the queue and the seconds until it is worth another look."""
        return self._ledger.alone(partial(self._stand, ticket))

    def _stand(self, ticket: int | None, entries: Entries) -> tuple[int | None, float]:
        # The moment is taken while nobody else has them: a request must not leave later than it is counted.
        now = int(self._ledger.now() * 1000)
        entries.tidy(now)
        ticket = entries.stand(ticket, self._who, now)
        wait = _wait(entries, ticket, now)
        # The bucket has the last word.
        if not wait and entries.put(self._who, now):
            entries.leave(ticket)
            return None, 0.0
        wait = min(max(1, wait), LOOK_AGAIN_MS)
        entries.stand(ticket, self._who, now + wait)
        return ticket, wait / 1000

    def _leave(self, ticket: int) -> None:
        """Give up; if that cannot be written, it is noticed later that nobody comes."""
        with suppress(SettingsError):
            self._ledger.alone(lambda entries: entries.leave(ticket))


def blocked_for(block: Document) -> float:
    """Seconds for which the source still wants no request."""
    try:
        since, until = map(float, (block.read() or b"").split())
    except ValueError:
        return 0.0
    now = block.now()
    return max(0.0, until - (since if since > now else 0.0) - now)  # since > now: the clock began anew


def _wait(entries: Entries, ticket: int, now: int) -> int:
    """Milliseconds until there is room for a ticket and for those whose turn comes before; 0 if there is.

    Those before are who waits and whose company had less. What a company had less is also kept for it while it asks so
    often that it will use its equal part: whoever asks faster, or at once with many, does not take that.
    """
    taken = entries.taken()
    had = Counter(who for _, who in taken)
    turns, waiting = {}, set()
    for number, who in entries.queue():
        had[who] += 1
        turns[number] = had[who], number
        waiting.add(who)
    widest = max(entries.rates, key=lambda rate: rate.limit)
    often = 2 * widest.interval // widest.limit
    present = waiting | {who for moment, who in taken if moment >= now - often}
    mine = turns[ticket]
    part = min(mine[0] - 1, widest.limit // len(present))
    kept = sum(max(0, part - had[who]) for who in present)

    moments = [moment for moment, _ in taken]
    for _ in range(sum(turn <= mine for turn in turns.values()) + kept):
        ends = (moments[-rate.limit] + rate.interval + 1 for rate in entries.rates if len(moments) >= rate.limit)
        moments.append(max([now, *ends]))
    wait = moments[-1] - now
    return min(wait, often) if kept else wait


def quota_for(system: System, credentials: SystemCredentials, settings: Settings, clock: Clock | None = None) -> Quota:
    """The quota of a key: what the system declares, and `{SYSTEM}_RATE_LIMIT_DELAY_MS`."""
    place = place_of(settings, f"{system.name}-{key_id(settings, credentials)}", clock)
    return Quota(place, _rates(system, settings.environ), clock, credentials.company, settings.retry_wait_limit_s)


class Pressure(NamedTuple):
    """How a key of a system stands: requests made of those that it may make now, those that wait, whether blocked."""

    system: str
    used: int
    limit: int
    waiting: int
    blocked: bool


def pressures(settings: Settings, systems: Iterable[System], clock: Clock | None = None) -> list[Pressure]:
    """Every key that a quota is counted for, without taking part in it; one whose file cannot be read is left out.

    Raises SharedStateDown where Postgres does not answer.
    """
    found = []
    known = places_of(settings, clock)
    for system in systems:
        rates = _rates(system, settings.environ)
        for place in (place for place in known if rates and place.name.startswith(f"{system.name}-")):
            try:
                found.append(_pressure(system.name, place, rates, clock))
            except SharedStateDown:
                raise
            except SettingsError:
                continue
    return found


def _pressure(system: str, place: Path | Row, rates: list[Rate], clock: Clock | None) -> Pressure:
    ledger, block = ledger_of(place, rates, clock)
    rate = max(rates, key=lambda rate: rate.limit)
    used, waiting = ledger.standing(rate.interval)
    return Pressure(system, used, rate.limit, waiting, blocked_for(block) > 0)


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
