"""From a request to a delivery: is it genuine, and what does it say has changed.

Belongs here: the order of the questions, and what is told to whom. Whoever did not sign learns nothing at all; whoever
did learns which field cannot be understood.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Any

import msgspec

from teei_ingest.companies import Companies
from teei_ingest.contracts.fields import instant_ns
from teei_ingest.redact.tokens import prefixed
from teei_ingest.settings import Settings
from teei_ingest.streams import all_streams
from teei_ingest.vault.wrapping import home_key
from teei_ingest.webhooks.deliveries import Delivery
from teei_ingest.webhooks.senders import Senders
from teei_ingest.webhooks.signatures import TOLERANCE_S, refusal

CHANGED = "data.changed"
_LONGEST = 200  # of an id, a name, a time


class NotGenuine(Exception):
    """Nobody whom we know sent this now; the text is for our own log and names no one."""


class NotUnderstood(Exception):
    """It is genuine, and a field of it cannot be used: `field`, and what it has to be."""

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        super().__init__(problem)


class Receiver:
    """Judges what comes in; `companies` gives the registry as it is now."""

    def __init__(self, settings: Settings, companies: Callable[[], Companies]) -> None:
        self._first_day = settings.start_date
        self._senders = Senders(settings, companies)
        self._key = home_key(settings)

    def delivery(self, system: str, headers: Mapping[str, str], body: bytes, now: float) -> Delivery | None:
        """What a request says; None where it is of no day that we have. `headers` finds names in lower case.

        Raises NotGenuine, NotUnderstood; SettingsError for a companies file that cannot be used.
        """
        said = _object(body)
        tenant = said.get("tenant")
        sender = self._senders.find(system, tenant) if isinstance(tenant, str) else None
        why = refusal(system, headers, body, sender.secrets if sender else (), now)
        if why or sender is None:
            raise NotGenuine(why)
        if said.get("event") != CHANGED:
            return None
        stream, changed, identity = _stream(system, said), _day(said, now), _text(said, "id")
        if changed < self._first_day:
            return None
        message = prefixed("webhook", system, sender.company, identity)
        code = hmac.digest(self._key, message, hashlib.sha256)[:16]
        return Delivery(code, sender.company, stream, changed, now)


def _object(body: bytes) -> dict[str, Any]:
    """The body's JSON object; an empty one if it is none, since then it cannot be said whose it is."""
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.json.decode(body, type=dict[str, Any])
    return {}


def _text(said: Mapping[str, Any], field: str) -> str:
    value = said.get(field)
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST:
        raise NotUnderstood(field, f"has to be a text of 1 to {_LONGEST} characters")
    return value


def _stream(system: str, said: Mapping[str, Any]) -> str:
    """The name of our stream: the system's before that of its own."""
    streams = {name.removeprefix(f"{system}_"): name for name, one in all_streams().items() if one.system == system}
    name = _text(said, "stream")
    if name not in streams:
        raise NotUnderstood("stream", f"has to be {' or '.join(streams)}")
    return streams[name]


def _day(said: Mapping[str, Any], now: float) -> date:
    """The UTC day of the change. By the tolerance of the clocks it may be tomorrow."""
    try:
        changed = instant_ns(_text(said, "updatedAt")) / 1e9
    except ValueError:
        changed = None
    if changed is None or changed > now + TOLERANCE_S:
        raise NotUnderstood("updatedAt", "has to be an RFC 3339 time that has passed")
    return datetime.fromtimestamp(changed, UTC).date()
