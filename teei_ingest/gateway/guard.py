"""What holds for every request: how large, how long, which headers come back, what is written down and counted of it.

Belongs here: the outermost layer of the app. What it logs is the route's template, never the path, a parameter or an
address. A caller may send the id that all lines of its request share, `X-Correlation-Id`; every answer has it. Does not
belong here: who may do what (`access.py`), metrics (`metrics.py`).
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from teei_ingest import logs
from teei_ingest.errors import InternalError
from teei_ingest.gateway.metrics import Requests
from teei_ingest.gateway.orders import UUID_PATTERN
from teei_ingest.gateway.problems import Problem

CORRELATION = "X-Correlation-Id"
MAX_BODY = 64 * 1024
_BODY_S = 10.0  # to send a body in
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_log = logging.getLogger("teei_ingest.gateway")


class Guard:
    """Around `app`; a request ends after `patience_s` seconds, and `requests` is told of each."""

    def __init__(self, app: ASGIApp, patience_s: float, requests: Requests) -> None:
        self._app = app
        self._patience_s = patience_s
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0
        state = scope.setdefault("state", {})
        ours = _HEADERS | {CORRELATION: _correlation(scope)}

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in ours.items():
                    headers.setdefault(name, value)
            await send(message)

        with logs.bound(correlationId=ours[CORRELATION]):
            try:
                problem = await self._problem(scope, receive, sending)
                if problem and not status:
                    await problem.response()(scope, receive, sending)
            finally:
                seconds = time.perf_counter() - begun
                self._requests.note(scope, status, seconds)
                about = {
                    "method": scope["method"],
                    "route": getattr(scope.get("route"), "path", "-"),
                    "status": status,
                    "duration": round(seconds * 1000, 1),
                    "token": state.get("token"),
                    "company": state.get("company"),
                    "run_id": state.get("run_id"),
                }
                _log.info("request", extra={name: value for name, value in about.items() if value is not None})

    async def _problem(self, scope: Scope, receive: Receive, send: Send) -> Problem | None:
        """Let the app answer; why it could not, if so."""
        try:
            body = await _body(scope, receive)
            async with asyncio.timeout(self._patience_s):
                await self._app(scope, _replayed(body, receive), send)
        except Problem as error:
            return error
        except TimeoutError:
            return Problem(503, "this took too long", headers={"Retry-After": "10"})
        except Exception as error:  # noqa: BLE001 - its text may hold what a caller sent
            problem = Problem(500, str(InternalError.of(error)))
            _log.error("request failed", extra={"problem": problem.detail})
            return problem
        return None


def _correlation(scope: Scope) -> str:
    """The caller's id, if it is one: other text might say something of a person."""
    given = Headers(scope=scope).get(CORRELATION, "")
    return given if re.fullmatch(UUID_PATTERN, given) else str(uuid.uuid4())


async def _body(scope: Scope, receive: Receive) -> bytes:
    """All of it, before anybody looks at the request. Raises Problem if it is too large or too slow."""
    told = Headers(scope=scope).get("content-length", "0")
    if told.isdecimal() and int(told) > MAX_BODY:
        raise _too_large()
    body = b""
    try:
        async with asyncio.timeout(_BODY_S):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    break  # the caller has gone
                body += message.get("body", b"")
                if len(body) > MAX_BODY:
                    raise _too_large()
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        pass
    else:
        return body
    raise Problem(408, f"the body did not come in {_BODY_S:.0f} seconds", headers={"Connection": "close"})


def _too_large() -> Problem:
    return Problem(413, f"a body may have {MAX_BODY} bytes", headers={"Connection": "close"})


def _replayed(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
