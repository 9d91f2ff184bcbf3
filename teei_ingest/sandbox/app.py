"""The two ASGI applications: the seven systems, and the sandbox's own controls.

Belongs here: HTTP, routes, statistics, pages rendered ahead. Does not belong here: what a page holds
(`lists.py`), who may have it (`access.py`), sockets and processes (`server.py`).
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as ControlRoute

from teei_ingest.sandbox.access import Access, Refused, unprocessable
from teei_ingest.sandbox.config import HEADER, SandboxConfig
from teei_ingest.sandbox.lists import Ask, Lists, Page, scim
from teei_ingest.sandbox.world import World
from teei_ingest.streams import all_streams
from teei_ingest.streams.base import Stream
from teei_ingest.systems import all_systems
from teei_ingest.systems.base import OAuth2, System

Headers = tuple[tuple[bytes, bytes], ...]

_MARK: Headers = ((HEADER.lower().encode(), b"1"),)
_JSON: Headers = ((b"content-type", b"application/json"), *_MARK)
_SCIM: Headers = ((b"content-type", b"application/scim+json"), *_MARK)
_SCIM_ERROR = "urn:ietf:params:scim:api:messages:2.0:Error"
_MAX_FORM = 65_536
_ASKS = 100_000  # queries that need no second look
_PAGES_BYTES = 768 * 1024 * 1024  # of rendered pages that stay in memory


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back: one value, so that whatever disturbs an answer has one place to do it."""

    status: int
    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class Route:
    """A path of a system; `streams` share it and differ in their fixed parameters."""

    system: System
    path: str
    method: str = "GET"
    streams: tuple[Stream, ...] = ()
    scim: bool = False


def routes() -> dict[str, Route]:
    """All paths, from the declarations of systems and streams."""
    found = {}
    for system in all_systems().values():
        own = [stream for stream in all_streams().values() if stream.system == system.name]
        if isinstance(system.auth, OAuth2):
            found[f"/{system.name}{system.auth.token_path}"] = Route(system, system.auth.token_path, "POST")
        if system.health_path:
            found[f"/{system.name}{system.health_path}"] = Route(system, system.health_path)
        for path in {stream.path for stream in own}:
            streams = tuple(stream for stream in own if stream.path == path)
            found[f"/{system.name}{path}"] = Route(system, path, "GET", streams, any(map(scim, streams)))
    return found


class Sandbox:
    """The seven systems as one ASGI application. `now` gives seconds since 1970."""

    def __init__(self, config: SandboxConfig, now: Callable[[], float] = time.time) -> None:
        self.config = config
        self.stats: Counter[tuple[str, str, int]] = Counter()
        self._routes = routes()
        self._access = Access(config, now)
        self._lists = Lists(World(config, lambda: int(now() * 1e9)))
        self._asks: dict[tuple[str, str, str, bytes], Ask] = {}
        self._pages: dict[Ask, bytes] = {}
        self._pages_bytes = 0

    def reset(self) -> None:
        """Forget statistics, tokens and quotas."""
        self.stats.clear()
        self._access.reset()

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        path: str = scope["path"]
        route = self._routes.get(path)
        body = await _body(receive) if scope["method"] == "POST" else b""
        try:
            reply = self._reply(route, scope, body)
        except Refused as refused:
            reply = _refusal(refused, route is not None and route.scim)
        self.stats[(route.system.name, route.path, reply.status) if route else ("", path, reply.status)] += 1
        if self.config.latency_ms:
            await asyncio.sleep(self.config.latency_ms / 1000)
        headers = (*reply.headers, (b"content-length", str(len(reply.body)).encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    def _reply(self, route: Route | None, scope: dict[str, Any], body: bytes) -> Reply:
        if route is None:
            raise Refused(404, "not_found", "there is nothing at this path")
        if scope["method"] != route.method:
            raise Refused(405, "method_not_allowed", f"use {route.method}", ((b"allow", route.method.encode()),))
        headers = dict(scope["headers"])
        if isinstance(route.system.auth, OAuth2) and route.method == "POST":
            content_type = headers.get(b"content-type", b"").decode("latin-1")
            token = self._access.token(route.system, route.system.auth, content_type, body)
            return Reply(200, (*_JSON, (b"cache-control", b"no-store")), msgspec.json.encode(token))
        if not route.streams:
            return Reply(200, _JSON, b'{"status":"ok"}')
        company = self._access.company(route.system, headers)
        quota = self._access.spend(route.system, company)
        try:
            page = self._page(route, company, scope["query_string"])
        except Refused as refused:
            refused.headers += quota
            raise
        return Reply(200, (_SCIM if route.scim else _JSON) + quota, page)

    def _page(self, route: Route, company: str, query_string: bytes) -> bytes:
        written = (route.system.name, route.path, company, query_string)
        ask = self._asks.get(written)
        if ask is None:
            query = _query(query_string)
            ask = self._lists.ask(route.system, _stream(route, query), company, query)
            if len(self._asks) >= _ASKS:
                self._asks.clear()
            self._asks[written] = ask
        return self._pages.get(ask) or self._render(ask).body

    def _render(self, ask: Ask) -> Page:
        page = self._lists.render(ask)
        if page.final and ask not in self._pages:
            while self._pages and self._pages_bytes + len(page.body) > _PAGES_BYTES:
                self._pages_bytes -= len(self._pages.pop(next(iter(self._pages))))
            self._pages[ask] = page.body
            self._pages_bytes += len(page.body)
        return page

    async def render_ahead(self, path: str, query: str, company: str) -> int:
        """Render the page that a request asks for and all that follow it; their number. Raises Refused."""
        route = self._routes.get(path)
        if route is None or not route.streams:
            raise Refused(404, "not_found", "there is no list at this path")
        parameters = _query(query.encode())
        ask: Ask | None = self._lists.ask(route.system, _stream(route, parameters), company, parameters)
        pages = 0
        while ask is not None:
            ask = self._render(ask).following
            pages += 1
            await asyncio.sleep(0)
        return pages


def controls(sandbox: Sandbox) -> Starlette:
    """The sandbox's own interface, which no system has: health, stats, reset, render."""

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "companies": dict(sandbox.config.companies)})

    async def stats(request: Request) -> Response:
        found: dict[str, dict[str, dict[str, int]]] = {}
        for (system, path, status), number in sorted(sandbox.stats.items()):
            found.setdefault(system, {}).setdefault(path, {})[str(status)] = number
        return JSONResponse(found)

    async def reset(request: Request) -> Response:
        sandbox.reset()
        return Response(status_code=204)

    async def render(request: Request) -> Response:
        wanted = await request.json()
        try:
            pages = await sandbox.render_ahead(wanted["path"], wanted["query"], wanted["company"])
        except Refused as refused:
            return JSONResponse({"error": refused.error, "message": refused.message}, refused.status)
        return JSONResponse({"pages": pages})

    return Starlette(
        routes=[
            ControlRoute("/__sandbox/health", health),
            ControlRoute("/__sandbox/stats", stats),
            ControlRoute("/__sandbox/reset", reset, methods=["POST"]),
            ControlRoute("/__sandbox/render", render, methods=["POST"]),
        ]
    )


async def _body(receive: Callable[[], Awaitable[dict[str, Any]]]) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body") or len(body) > _MAX_FORM:
            return body


def _query(query_string: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(query_string.decode(), keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        raise unprocessable("the query is not UTF-8") from None
    query = dict(pairs)
    if len(query) < len(pairs):
        raise unprocessable("a parameter is given twice")
    return query


def _stream(route: Route, query: dict[str, str]) -> Stream:
    """The stream of a path that the fixed parameters name."""
    for stream in route.streams:
        if all(query.get(name) == value for name, value in stream.params.items()):
            return stream
    names = ", ".join(sorted({name for stream in route.streams for name in stream.params}))
    raise unprocessable(f"{names}: missing or unknown")


def _refusal(refused: Refused, is_scim: bool) -> Reply:
    body: dict[str, Any] = {"error": refused.error, "message": refused.message}
    if is_scim:
        body |= {"schemas": [_SCIM_ERROR], "status": str(refused.status), "detail": refused.message}
        if refused.scim_type:
            body["scimType"] = refused.scim_type
    return Reply(refused.status, (_SCIM if is_scim else _JSON) + refused.headers, msgspec.json.encode(body))
