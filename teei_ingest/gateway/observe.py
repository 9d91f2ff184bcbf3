"""What is noted of every request: how many and how long (`metrics.py`), and an id that its log lines share.

The outermost layer of the app. A caller may send the id, `X-Correlation-Id`; every answer has it.
"""

from __future__ import annotations

import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from teei_ingest import logs
from teei_ingest.gateway.metrics import Requests

HEADER = "X-Correlation-Id"
_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")  # other text might say something of a person


class Observe:
    """Around `app`; tells `requests` of each."""

    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0
        given = Headers(scope=scope).get(HEADER, "")
        identity = given if _ID.fullmatch(given) else str(uuid.uuid4())

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = identity
            await send(message)

        try:
            with logs.bound(correlationId=identity):
                await self._app(scope, receive, sending)
        finally:
            self._requests.note(scope, status, time.perf_counter() - begun)
