"""The two ASGI applications: the seven systems, and the sandbox's own controls.

Belongs here: HTTP, routes, statistics, pages rendered ahead. Does not belong here: what a page holds
(`lists.py`), who may have it (`access.py`), sockets and processes (`server.py`).
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as ControlRoute

from teei_ingest.errors import UsageError
from teei_ingest.sandbox.access import SLUG, Access, Refused, unprocessable
from teei_ingest.sandbox.chance import parse
from teei_ingest.sandbox.config import HEADER, SandboxConfig
from teei_ingest.sandbox.faults import At, Call, Plan
from teei_ingest.sandbox.lists import Ask, Lists, Page, scim
from teei_ingest.sandbox.records import Record
from teei_ingest.sandbox.reply import Headers, Reply, send_reply
from teei_ingest.sandbox.webhooks import Order, send
from teei_ingest.sandbox.world import World
from teei_ingest.streams import all_streams
from teei_ingest.streams.base import Cursor, PageNumber, Stream
from teei_ingest.systems import all_systems
from teei_ingest.systems.base import OAuth2, System

_MARK: Headers = ((HEADER.lower().encode(), b"1"),)
_JSON: Headers = ((b"content-type", b"application/json"), *_MARK)
_SCIM: Headers = ((b"content-type", b"application/scim+json"), *_MARK)
_SCIM_ERROR = "urn:ietf:params:scim:api:messages:2.0:Error"
_MAX_FORM = 65_536
_ASKS = 100_000  # queries that need no second look
_PAGES_BYTES = 768 * 1024 * 1024  # of rendered pages that stay in memory


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
    """The seven systems as one ASGI application. `clock` gives seconds since 1970."""

    def __init__(
        self, config: SandboxConfig, clock: Callable[[], float] = time.time, faults: Plan | None = None
    ) -> None:
        self.config = config
        self.stats: Counter[tuple[str, str, int]] = Counter()
        self.access = Access(config, clock)
        self.lists = Lists(World(config, lambda: int(self.now() * 1e9)))
        self._clock = clock
        self._skew = 0.0
        self._faults = faults or Plan()
        self._routes = routes()
        self._asks: dict[tuple[str, str, str, bytes], Ask] = {}
        self._pages: dict[Ask, Page] = {}
        self._pages_bytes = 0
        self._befores: dict[Ask, tuple[int, Ask]] = {}  # number of a page and the page before it, with a plan

    @property
    def faults(self) -> Plan:
        """What goes wrong. Another plan ends all that the one before did, but for records that changed."""
        return self._faults

    @faults.setter
    def faults(self, plan: Plan) -> None:
        self._faults = plan
        self._befores.clear()
        self.access.restore()
        self.skew = 0

    @property
    def skew(self) -> float:
        """Seconds by which the sandbox's clock is ahead."""
        return self._skew

    @skew.setter
    def skew(self, seconds: float) -> None:
        if seconds != self._skew:
            self._skew = seconds
            self._pages.clear()
            self._pages_bytes = 0
            self.lists.forget()

    def now(self) -> float:
        """The time by the sandbox's clock, in seconds since 1970."""
        return self._clock() + self._skew

    def reset(self) -> None:
        """Forget statistics, tokens, quotas, and what became of records."""
        self.stats.clear()
        self.access.reset()
        self.lists.changes.clear()

    def records(
        self, stream: str, company: str, since: datetime | None = None, until: datetime | None = None
    ) -> list[Record]:
        """The truth: the wire records of a window as they are now, in ascending order of the source timestamp."""
        ends = (None if end is None else parse(end.isoformat()) for end in (since, until))
        return self.lists.records(stream, company, *ends)

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        path: str = scope["path"]
        route = self._routes.get(path)
        body = await _body(receive) if scope["method"] == "POST" else b""
        reply = self._answer(route, scope, body)
        self.stats[(route.system.name, route.path, reply.status) if route else ("", path, reply.status)] += 1
        if self.config.latency_ms:
            await asyncio.sleep(self.config.latency_ms / 1000)
        if reply.delivery:
            await send_reply(reply, scope["state"]["transport"], receive)
            return
        headers = reply.but((b"content-length", str(len(reply.body)).encode()))
        if reply.header(b"date") is None:
            headers = (*headers, (b"date", formatdate(self.now(), usegmt=True).encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    def _answer(self, route: Route | None, scope: dict[str, Any], body: bytes) -> Reply:
        """The reply to a request, disturbed as the plan says."""
        plan, company, ask = self._faults, None, None
        try:
            company, ask, reply = self._reply(route, scope, body)
        except Refused as refused:
            company, reply = refused.company, _refusal(refused, route is not None and route.scim)
        if route is None or not plan.entries:
            return reply
        at = At.LIST if route.streams else At.TOKEN if route.method == "POST" else At.HEALTH
        stream = _stream_of(route, scope["query_string"]) if route.streams else None
        page, before = self._place(ask)
        return plan.disturb(
            Call(
                sandbox=self,
                at=at,
                system=route.system,
                stream=stream,
                company=company,
                ask=ask,
                before=before,
                page=page,
                target=_target(scope),
                host=dict(scope["headers"]).get(b"host", b"").decode("latin-1"),
                number=plan.number(at, route.system.name, stream.name if stream else None, company),
            ),
            reply,
        )

    def _reply(self, route: Route | None, scope: dict[str, Any], body: bytes) -> tuple[str | None, Ask | None, Reply]:
        """The company that asked, the page that it asked for, if it was one, and the reply. Raises Refused."""
        if route is None:
            raise Refused(404, "not_found", "there is nothing at this path")
        if scope["method"] != route.method:
            raise Refused(405, "method_not_allowed", f"use {route.method}", ((b"allow", route.method.encode()),))
        headers = dict(scope["headers"])
        if isinstance(route.system.auth, OAuth2) and route.method == "POST":
            content_type = headers.get(b"content-type", b"").decode("latin-1")
            token = self.access.token(route.system, route.system.auth, content_type, body)
            reply = Reply(200, (*_JSON, (b"cache-control", b"no-store")), msgspec.json.encode(token))
            return self.access.client(route.system, body), None, reply
        if not route.streams:
            return None, None, Reply(200, _JSON, b'{"status":"ok"}')
        company = self.access.company(route.system, headers)
        quota: Headers = ()
        try:
            quota = self.access.spend(route.system, company)
            ask, page = self._page(route, company, scope["query_string"])
        except Refused as refused:
            refused.headers += quota
            refused.company = company
            raise
        return company, ask, Reply(200, (_SCIM if route.scim else _JSON) + quota, page)

    def _page(self, route: Route, company: str, query_string: bytes) -> tuple[Ask, bytes]:
        written = (route.system.name, route.path, company, query_string)
        ask = self._asks.get(written)
        if ask is None:
            query = _query(query_string)
            ask = self.lists.ask(route.system, _stream(route, query), company, query)
            if len(self._asks) >= _ASKS:
                self._asks.clear()
            self._asks[written] = ask
        return ask, self.render(ask).body

    def render(self, ask: Ask, instead_of: Ask | None = None) -> Page:
        """The page that is asked for, which may take the place of another that was."""
        if self.lists.changes and (ask.stream, ask.company) in self.lists.changes:
            page = self.lists.render(ask)
        else:
            page = self._pages.get(ask) or self._render(ask)
        if self._faults.entries and page.following:
            asked = instead_of or ask
            if len(self._befores) >= _ASKS:
                self._befores.clear()
            self._befores[page.following._replace(limit=asked.limit)] = self._place(asked)[0] + 1, asked
        return page

    def _place(self, ask: Ask | None) -> tuple[int, Ask | None]:
        """The number of a page, from 1, and the page before it; of a cursor's, if it was given since the plan began."""
        if ask is None:
            return 1, None
        paging, place = all_streams()[ask.stream].paging, ask.place[0]
        if ask in self._befores or isinstance(paging, Cursor) or place == 1 or not ask.limit:
            return self._befores.get(ask, (1, None))
        if isinstance(paging, PageNumber):
            return place, ask._replace(place=(place - 1,))
        return 1 + (place - 1) // ask.limit, ask._replace(place=(max(1, place - ask.limit),))

    def _render(self, ask: Ask) -> Page:
        page = self.lists.render(ask)
        if page.final and ask not in self._pages:
            while self._pages and self._pages_bytes + len(page.body) > _PAGES_BYTES:
                self._pages_bytes -= len(self._pages.pop(next(iter(self._pages))).body)
            self._pages[ask] = page
            self._pages_bytes += len(page.body)
        return page

    async def render_ahead(self, path: str, query: str, company: str) -> int:
        """Render the page that a request asks for and all that follow it; their number. Raises Refused."""
        route = self._routes.get(path)
        if route is None or not route.streams:
            raise Refused(404, "not_found", "there is no list at this path")
        parameters = _query(query.encode())
        ask: Ask | None = self.lists.ask(route.system, _stream(route, parameters), company, parameters)
        pages = 0
        while ask is not None:
            ask = self._render(ask).following
            pages += 1
            await asyncio.sleep(0)
        return pages


def controls(sandbox: Sandbox) -> Starlette:
    """The sandbox's own interface, which no system has: health, stats, reset, render, faults, records, webhooks."""

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

    async def faults(request: Request) -> Response:
        if request.method == "GET":
            return JSONResponse(sandbox.faults.described())
        try:
            sandbox.faults = Plan() if request.method == "DELETE" else Plan.parse(_json(await request.body()))
        except UsageError as error:
            return JSONResponse({"error": "unprocessable", "message": error.message}, 422)
        return JSONResponse(sandbox.faults.described())

    async def records(request: Request) -> Response:
        try:
            stream, company, since, until = _wanted(request.query_params)
        except Refused as refused:
            return JSONResponse({"error": refused.error, "message": refused.message}, refused.status)
        found = sandbox.lists.records(stream, company, since, until)
        return Response(msgspec.json.encode({"records": found}), media_type="application/json")

    async def webhooks(request: Request) -> Response:
        try:
            order = Order.parse(_json(await request.body()))
            found = sandbox.lists.records(*_wanted(order.window(sandbox.now())))
            statuses = await asyncio.to_thread(send, order, found, sandbox.now)
        except Refused as refused:
            return JSONResponse({"error": refused.error, "message": refused.message}, refused.status)
        except UsageError as error:
            return JSONResponse({"error": "unprocessable", "message": error.message}, 422)
        return JSONResponse({"sent": dict(statuses)})

    return Starlette(
        routes=[
            ControlRoute("/__sandbox/health", health),
            ControlRoute("/__sandbox/stats", stats),
            ControlRoute("/__sandbox/reset", reset, methods=["POST"]),
            ControlRoute("/__sandbox/render", render, methods=["POST"]),
            ControlRoute("/__sandbox/faults", faults, methods=["GET", "POST", "DELETE"]),
            ControlRoute("/__sandbox/records", records),
            ControlRoute("/__sandbox/webhooks", webhooks, methods=["POST"]),
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


def _stream_of(route: Route, query_string: bytes) -> Stream | None:
    """The stream that a request means, however wrong it is otherwise."""
    try:
        return _stream(route, _query(query_string))
    except Refused:
        return None


def _target(scope: dict[str, Any]) -> str:
    query: str = scope["query_string"].decode("latin-1")
    return f"{scope['path']}?{query}" if query else str(scope["path"])


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    raise UsageError("the body is not JSON")


def _wanted(query: Mapping[str, str]) -> tuple[str, str, int | None, int | None]:
    """Stream, company and window of a request for the truth. Raises Refused."""
    unknown = sorted(query.keys() - {"stream", "company", "since", "until"})
    if unknown:
        raise unprocessable(f"unknown parameter {unknown[0][:40]}; there is stream, company, since, until")
    if query.get("stream") not in all_streams():
        raise unprocessable(f"stream has to be one of {', '.join(all_streams())}")
    if not SLUG.fullmatch(query.get("company", "")):
        raise unprocessable("company has to be a slug")
    since, until = (parse(query[name]) if name in query else None for name in ("since", "until"))
    if (since is None) == ("since" in query) or (until is None) == ("until" in query):
        raise unprocessable("since and until have to be RFC 3339 times with an offset")
    return query["stream"], query["company"], since, until


def _refusal(refused: Refused, is_scim: bool) -> Reply:
    body: dict[str, Any] = {"error": refused.error, "message": refused.message}
    if is_scim:
        body |= {"schemas": [_SCIM_ERROR], "status": str(refused.status), "detail": refused.message}
        if refused.scim_type:
            body["scimType"] = refused.scim_type
    return Reply(refused.status, (_SCIM if is_scim else _JSON) + refused.headers, msgspec.json.encode(body))
