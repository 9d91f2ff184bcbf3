"""What all routes share: settings, companies as their file has them now, tokens, the rate of calls.

`app.state.gateway` is the one of an app. Does not belong here: what a route does.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, Request

from teei_ingest.companies import Companies, load_companies, registry_path
from teei_ingest.gateway.calls import Calls
from teei_ingest.gateway.tokens import Tokens
from teei_ingest.settings import Settings
from teei_ingest.vault.credentials import refuse_common_accounts


class Registry:
    """The companies file, read again when it is another."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._read: tuple[object, Companies] | None = None

    def companies(self) -> Companies:
        """Raises SettingsError where the file cannot be used."""
        state = self._state()
        if self._read is None or self._read[0] != state:
            found = load_companies(self._settings)
            refuse_common_accounts(self._settings, found)
            self._read = state, found
        return self._read[1]

    def _state(self) -> object:
        try:
            found = registry_path(self._settings).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


class Rate:
    """So many calls a minute for each token, which may come all at once."""

    def __init__(self, a_minute: int) -> None:
        self._a_minute = a_minute
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def wait_s(self, token: str) -> float:
        """0 if a call may be made now, and counts; else after how many seconds."""
        with self._lock:
            now = time.monotonic()
            left, at = self._left.get(token, (float(self._a_minute), now))
            left = min(left + (now - at) * self._a_minute / 60, float(self._a_minute))
            is_allowed = left >= 1
            self._left[token] = (left - is_allowed, now)
            return 0.0 if is_allowed else (1 - left) * 60 / self._a_minute


class Gateway:
    """Of one home."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.registry = Registry(settings)
        self.tokens = Tokens(settings)
        self.rate = Rate(settings.gateway_rate)
        self.calls = Calls(settings)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """As long as the app runs."""
        await asyncio.to_thread(_load_dagster)
        async with self.calls.running():
            yield

    def check_dagster(self) -> None:
        """Raises SettingsError or StoreError if its database cannot be reached."""
        from teei_ingest.defs import history

        history.check()


def of_request(request: Request) -> Gateway:
    """The app's."""
    found: Gateway = request.app.state.gateway
    return found


Shared = Annotated[Gateway, Depends(of_request)]


def _load_dagster() -> None:
    """Which takes seconds, and would make the first caller wait."""
    import teei_ingest.defs.history  # noqa: F401
