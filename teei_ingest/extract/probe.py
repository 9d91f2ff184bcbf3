"""Is a system well, and does it know the company's credentials? One request, no retries.

Belongs here: the probe of `teei health` and `teei doctor`. Does not belong here: what the answer means to people.
"""

import time
from dataclasses import dataclass

from teei_ingest.errors import SourceError
from teei_ingest.extract.circuit import Down
from teei_ingest.extract.http import Source
from teei_ingest.settings import Settings
from teei_ingest.systems.base import System
from teei_ingest.vault.credentials import SystemCredentials

_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Pulse:
    """HTTP status, and milliseconds from the request to the reply's headers or token.

    Where the system did not answer as it should there is an `error` instead; `down` says since when nobody else asks.
    """

    status: int = 0
    response_ms: float = 0.0
    error: SourceError | None = None
    down: Down | None = None


def probe(system: System, credentials: SystemCredentials, settings: Settings) -> Pulse:
    """Ask for the health path, or for a token where there is none. Raises SettingsError."""
    hurried = settings.model_copy(
        update={
            "max_retries": 0,
            "retry_wait_limit_s": 0.0,
            "connect_timeout_s": min(_TIMEOUT_S, settings.connect_timeout_s),
            "read_timeout_s": min(_TIMEOUT_S, settings.read_timeout_s),
        }
    )
    with Source(system, credentials, hurried) as source:
        began = time.perf_counter()
        status = 200
        try:
            if system.health_path:
                status = source.check(system.health_path)
            else:
                source.authenticate()
        except SourceError as error:
            return Pulse(error=error, down=source.down)
        return Pulse(status, (time.perf_counter() - began) * 1000)
