"""The seven systems on one loopback port, from the wire document and the standard library alone.

It is strict about what a client must send and free where the document leaves freedom: order, page
sizes, opaque cursors, unknown fields, chunked or gzipped bodies, spelling of JSON. It knows nothing of
contracts, privacy or tables.
"""

import base64
import gzip
import json
import math
import random
import re
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal, Self, cast
from urllib.parse import parse_qs, urlsplit

from .instants import Record, parse, source_timestamp

SCIM_ERROR = "urn:ietf:params:scim:api:messages:2.0:Error"
SCIM_LIST = "urn:ietf:params:scim:api:messages:2.0:ListResponse"

_BASES = {
    "benevity": "/some/path/benevity",
    "goodera": "/some/path/goodera",
    "workday": "/hr/tenants/emea",
    "kintell": "/teei/kintell",
    "upskilling": "/teei/upskilling",
    "buddy": "/teei/b",
    "mentorship": "/m",
}
_URL_VARIABLES = {
    "benevity": "BENEVITY_API_URL",
    "goodera": "GOODERA_API_URL",
    "workday": "WORKDAY_API_URL",
    "kintell": "KINTELL_CONNECTOR_URL",
    "upskilling": "UPSKILLING_CONNECTOR_URL",
    "buddy": "BUDDY_CONNECTOR_URL",
    "mentorship": "MENTORSHIP_SERVICE_URL",
}
_BENEVITY = {
    "/api/v2/volunteer-activities": "benevity_volunteers",
    "/api/v2/donations": "benevity_donations",
}
_GOODERA = {"volunteering": "goodera_volunteers", "donation": "goodera_donations"}
_INTERNAL = {
    ("kintell", "/v1/enrollments"): "kintell_enrollments",
    ("kintell", "/v1/sessions"): "kintell_sessions",
    ("upskilling", "/v1/enrollments"): "upskilling_enrollments",
    ("buddy", "/v1/matches"): "buddy_matches",
    ("buddy", "/v1/checkins"): "buddy_checkins",
    ("buddy", "/v1/events"): "buddy_events",
    ("mentorship", "/v1/placements"): "mentorship_placements",
}
_SCOPES = {"benevity": {"volunteer_read", "donation_read"}, "workday": {"directory_read"}}
_FILTER = re.compile(r'\s*meta\.lastModified\s+(ge|gt|le|lt)\s+"([^"]*)"\s*', re.IGNORECASE)


@dataclass(frozen=True)
class Company:
    """A company and the credentials that this server gives it (made from the slug)."""

    slug: str
    id: str

    @property
    def benevity_tenant(self) -> str:
        return f"bt/{self.slug}&1"

    @property
    def goodera_project(self) -> str:
        return f"gp {self.slug}+1"

    @property
    def workday_tenant(self) -> str:
        return f"wd_{self.slug}"

    def client_id(self, system: str) -> str:
        return f"{system} client/{self.slug}"

    def client_secret(self, system: str) -> str:
        return f"s&c=r+t %41-{system}-{self.slug}"

    def api_key(self, system: str) -> str:
        """Kintell has a key of its own, the other three internal systems share one."""
        return f"key={'internal' if system in ('upskilling', 'buddy', 'mentorship') else system}.{self.slug}"

    def environment(self) -> dict[str, str]:
        """The company's own variables, addresses not included."""
        slug = self.slug.upper().replace("-", "_")
        return {
            f"BENEVITY_{slug}_CLIENT_ID": self.client_id("benevity"),
            f"BENEVITY_{slug}_CLIENT_SECRET": self.client_secret("benevity"),
            f"BENEVITY_{slug}_TENANT_ID": self.benevity_tenant,
            f"GOODERA_{slug}_API_KEY": self.api_key("goodera"),
            f"GOODERA_{slug}_PROJECT_ID": self.goodera_project,
            f"WORKDAY_{slug}_CLIENT_ID": self.client_id("workday"),
            f"WORKDAY_{slug}_CLIENT_SECRET": self.client_secret("workday"),
            f"WORKDAY_{slug}_TENANT_ID": self.workday_tenant,
            f"KINTELL_{slug}_API_KEY": self.api_key("kintell"),
            f"INTERNAL_{slug}_API_KEY": self.api_key("buddy"),
        }


@dataclass(frozen=True)
class Request:
    """What arrived; `path` is the whole path with the base, `header_names` are lower case."""

    at: float
    method: str
    system: str | None
    path: str
    query: dict[str, list[str]]
    header_names: frozenset[str]
    status: int


@dataclass
class _Reply:
    status: int
    body: object
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json; charset=utf-8"


class _Refused(Exception):
    def __init__(self, status: int, error: str, message: str, **headers: str) -> None:
        super().__init__(error)
        self.reply = _Reply(
            status,
            {"error": error, "message": message},
            {name.replace("_", "-"): value for name, value in headers.items()},
        )


@dataclass(frozen=True)
class _Ask:
    method: str
    path: str  # below the system's base
    query: dict[str, list[str]]
    headers: Mapping[str, str]
    form: dict[str, list[str]]

    def only(self, *allowed: str) -> None:
        unknown = set(self.query) - set(allowed)
        if unknown:
            raise _Refused(422, "unknown_parameter", f"unknown: {', '.join(sorted(unknown))}")

    def one(self, name: str) -> str | None:
        values = self.query.get(name)
        if values is None:
            return None
        if len(values) != 1:
            raise _Refused(422, "repeated_parameter", f"{name} given more than once")
        return values[0]

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        text = self.one(name)
        if text is None:
            return default
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise _Refused(422, "invalid_parameter", f"{name} must be {low} to {high}")
        return int(text)

    def instant(self, name: str) -> int | None:
        text = self.one(name)
        if not text:
            return None
        try:
            return parse(text)
        except ValueError:
            raise _Refused(422, "invalid_parameter", f"{name} must be RFC 3339") from None


def encode(value: object, ascii_only: bool = False) -> str:
    """JSON in which a Decimal is a number with exactly its digits."""
    if isinstance(value, Mapping):
        pairs = (f"{json.dumps(k, ensure_ascii=ascii_only)}:{encode(v, ascii_only)}" for k, v in value.items())
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(encode(item, ascii_only) for item in value) + "]"
    return str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=ascii_only)


def _dressed(stream: str, record: Record) -> Record:
    """The record with fields that no document names; equal records stay equal."""
    variant = zlib.crc32(encode(record, True).encode()) % 3
    inner = ("location", "nonprofit", "companyMatch", "company_match", "campaign", "meta", "name")
    dressed = {
        key: {**value, "xInner": [variant]} if key in inner and isinstance(value, dict) else value
        for key, value in record.items()
    }
    if variant == 0:
        return {"_links": {"self": {"href": "/somewhere"}}, **dressed, "contactPhone": "+47 900 00 000"}
    if variant == 1:
        return {
            **dressed,
            "schemaVersion": 3,
            "x_contact": "unknown.person@elsewhere.example",
            "x_null": None,
        }
    if stream == "workday_directory":
        return {**dressed, "groups": [], "urn:example:scim:odd:1.0:User": {"ssn": "010190 12345"}}
    return dict(reversed(dressed.items()))


class Server:
    """`with Server(data, companies) as server:` serves on 127.0.0.1 and a port of its own.

    `data` holds the wire records by (slug, stream). A record without a valid source timestamp is sent in
    every window; internal systems send it first. `scim_filter` other than "supported" refuses every
    filter with 400 invalidFilter or with 501. `token_ttl` and `quota_seconds` are in seconds. With
    `short_pages` Benevity and Goodera, too, send fewer records than `limit` while `hasMore` is true.
    """

    def __init__(
        self,
        data: Mapping[tuple[str, str], Iterable[Record]],
        companies: Iterable[Company],
        *,
        seed: int = 0,
        token_ttl: float = 3600.0,
        scim_filter: Literal["supported", "invalid", "not_implemented"] = "supported",
        scim_page: int = 37,
        internal_page: int = 50,
        short_pages: bool = False,
        quota: int = 100,
        quota_seconds: float = 60.0,
    ) -> None:
        self.companies = tuple(companies)
        self.requests: list[Request] = []
        self.quota_peak: dict[str, int] = {}
        """By company: the most Goodera requests that any `quota_seconds` saw, refused ones included."""
        self._token_ttl = token_ttl
        self._scim_filter = scim_filter
        self._scim_page = scim_page
        self._internal_page = internal_page
        self._short_pages = short_pages
        self._quota = quota
        self._quota_seconds = quota_seconds
        self._lock = threading.Lock()
        self._random = random.Random(seed)
        self._tokens: dict[str, tuple[str, str, float]] = {}
        self._cursors: dict[str, tuple[str, str, int | None, int]] = {}
        self._hits: dict[str, deque[tuple[float, bool]]] = {}
        self._records = {
            key: self._ordered(seed, *key, [_dressed(key[1], record) for record in records])
            for key, records in data.items()
        }
        self._http: _Listener | None = None
        self._thread: threading.Thread | None = None

    @staticmethod
    def _ordered(seed: int, slug: str, stream: str, records: list[Record]) -> list[tuple[int | None, Record]]:
        timed = [(source_timestamp(stream, record), record) for record in records]
        if any(stream == name for name in _INTERNAL.values()):
            return sorted(timed, key=lambda pair: (pair[0] or 0, str(pair[1].get("id"))))
        random.Random(f"{seed}/{slug}/{stream}").shuffle(timed)
        return timed

    def __enter__(self) -> Self:
        self._http = _Listener(self)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._http is not None
        assert self._thread is not None
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        assert self._http is not None, "not started"
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def base_url(self, system: str) -> str:
        return self.url + _BASES[system]

    def environment(self) -> dict[str, str]:
        """The documented variables: the seven addresses, and each company's credentials."""
        variables = {_URL_VARIABLES[system]: self.base_url(system) for system in _BASES}
        for company in self.companies:
            variables |= company.environment()
        return variables

    # The wire.

    def _handle(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> tuple[_Reply, int]:
        split = urlsplit(target)
        query = parse_qs(split.query, keep_blank_values=True)
        system, base = next(
            ((name, base) for name, base in _BASES.items() if split.path.startswith(base + "/")),
            (None, ""),
        )
        try:
            if system is None:
                raise _Refused(404, "not_found", "no such path")
            form = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True)
            ask = _Ask(method, split.path[len(base) :], query, headers, form)
            reply = self._answers(system)(system, ask)
        except _Refused as refused:
            reply = refused.reply
        if system == "workday" and reply.status >= 400:
            assert isinstance(reply.body, dict)
            problem = {"schemas": [SCIM_ERROR], "status": str(reply.status), "detail": reply.body["message"]}
            reply = _Reply(reply.status, {**problem, **reply.body}, reply.headers, "application/scim+json")
        names = frozenset(name.lower() for name in headers)
        with self._lock:
            number = len(self.requests)
            self.requests.append(Request(time.monotonic(), method, system, split.path, query, names, reply.status))
        return reply, number

    def _answers(self, system: str) -> Callable[[str, _Ask], _Reply]:
        return {"benevity": self._benevity, "goodera": self._goodera, "workday": self._workday}.get(
            system, self._internal
        )

    def _token(self, system: str, ask: _Ask) -> _Reply:
        if ask.method != "POST":
            raise _Refused(405, "method_not_allowed", "POST", Allow="POST")
        if not ask.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            raise _Refused(422, "invalid_request", "a form is expected")
        if ask.form.get("grant_type") != ["client_credentials"]:
            raise _Refused(422, "unsupported_grant_type", "client_credentials")
        if set(" ".join(ask.form.get("scope", [])).split()) != _SCOPES[system]:
            raise _Refused(403, "invalid_scope", "these scopes are not allowed")
        for company in self.companies:
            given = (ask.form.get("client_id"), ask.form.get("client_secret"))
            if given == ([company.client_id(system)], [company.client_secret(system)]):
                break
        else:
            raise _Refused(401, "invalid_client", "bad credential")
        with self._lock:
            token = base64.b64encode(self._random.randbytes(35)).decode() + "~._-="
            self._tokens[token] = (system, company.slug, time.monotonic() + self._token_ttl)
        grant = {"access_token": token, "token_type": "Bearer", "expires_in": math.ceil(self._token_ttl)}
        return _Reply(200, {"issued_by": system, **grant, "scope": ask.form["scope"][0]})

    def _bearer(self, ask: _Ask) -> str:
        scheme, _, token = ask.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _Refused(401, "unauthorized", "a bearer token is needed", WWW_Authenticate="Bearer")
        return token.strip()

    def _by_token(self, system: str, ask: _Ask) -> Company:
        with self._lock:
            owner, slug, expires = self._tokens.get(self._bearer(ask), ("", "", 0.0))
        if owner != system or time.monotonic() >= expires:
            raise _Refused(401, "invalid_token", "unknown or expired", WWW_Authenticate='Bearer error="invalid_token"')
        return next(company for company in self.companies if company.slug == slug)

    def _read(self, ask: _Ask) -> None:
        if ask.method != "GET":
            raise _Refused(405, "method_not_allowed", "GET", Allow="GET")

    def _window(self, slug: str, stream: str, since: int | None, until: int | None) -> list[Record]:
        return [
            record
            for at, record in self._records.get((slug, stream), [])
            if at is None or ((since is None or at >= since) and (until is None or at < until))
        ]

    def _numbered(self, slug: str, stream: str, ask: _Ask, cap: int) -> tuple[list[Record], int, bool]:
        page = ask.whole("page", 1, 1, 10**8)
        size = ask.whole("limit", 100, 1, cap)
        if self._short_pages:
            size = max(1, size * 2 // 3)
        found = self._window(slug, stream, ask.instant("since"), ask.instant("until"))
        return found[(page - 1) * size : page * size], page, page * size < len(found)

    def _benevity(self, system: str, ask: _Ask) -> _Reply:
        if ask.path == "/oauth2/token":
            return self._token(system, ask)
        stream = _BENEVITY.get(ask.path)
        if stream is None:
            raise _Refused(404, "not_found", "no such path")
        self._read(ask)
        company = self._by_token(system, ask)
        ask.only("tenant_id", "page", "limit", "since", "until")
        if ask.one("tenant_id") is None:
            raise _Refused(422, "missing_parameter", "tenant_id")
        if ask.one("tenant_id") != company.benevity_tenant:
            raise _Refused(403, "forbidden", "not your tenant")
        records, _, more = self._numbered(company.slug, stream, ask, 100)
        return _Reply(200, {"hasMore": more, "records": records, "meta": {"serial": None}})

    def _goodera(self, system: str, ask: _Ask) -> _Reply:
        self._read(ask)
        if ask.path == "/api/v1/health":
            return _Reply(200, {"status": "ok"})
        if ask.path != "/api/v1/activities":
            raise _Refused(404, "not_found", "no such path")
        key = ask.headers.get("x-api-key")
        company = next((one for one in self.companies if one.api_key(system) == key), None)
        if company is None:
            raise _Refused(401, "unauthorized", "bad API key")
        limits = self._spend(company.slug)
        try:
            ask.only("project_id", "activity_type", "page", "limit", "since", "until")
            if ask.one("project_id") is None:
                raise _Refused(422, "missing_parameter", "project_id")
            if ask.one("project_id") != company.goodera_project:
                raise _Refused(403, "forbidden", "not your project")
            stream = _GOODERA.get(ask.one("activity_type") or "")
            if stream is None:
                raise _Refused(422, "invalid_parameter", "activity_type")
            records, page, more = self._numbered(company.slug, stream, ask, 500)
        except _Refused as refused:
            refused.reply.headers |= limits
            raise
        return _Reply(200, {"data": records, "pagination": {"page": page, "hasMore": more}}, limits)

    def _spend(self, slug: str) -> dict[str, str]:
        """Counts one request of the key; refuses it where the window is full."""
        now = time.monotonic()
        with self._lock:
            hits = self._hits.setdefault(slug, deque())
            while hits and hits[0][0] <= now - self._quota_seconds:
                hits.popleft()
            granted = [at for at, ok in hits if ok]
            allowed = len(granted) < self._quota
            hits.append((now, allowed))
            self.quota_peak[slug] = max(self.quota_peak.get(slug, 0), len(hits))
        oldest = granted[0] if granted else now
        reset = math.ceil(oldest + self._quota_seconds - now)
        limits = {
            "x-ratelimit-limit": str(self._quota),
            "x-ratelimit-remaining": str(max(0, self._quota - len(granted) - 1)),
            "x-ratelimit-reset": str(reset),
        }
        if not allowed:
            refused = _Refused(429, "rate_limited", "too many requests", Retry_After=str(reset))
            refused.reply.headers |= limits
            raise refused
        return limits

    def _workday(self, system: str, ask: _Ask) -> _Reply:
        if ask.path == "/oauth2/token":
            return self._token(system, ask)
        if ask.path != "/scim/v2/Users":
            raise _Refused(404, "not_found", "no such path")
        self._read(ask)
        company = self._by_token(system, ask)
        if ask.headers.get("x-workday-tenant") != company.workday_tenant:
            raise _Refused(403, "forbidden", "not your tenant")
        ask.only("startIndex", "count", "filter")
        start = ask.whole("startIndex", 1, 0, 10**8) or 1
        count = min(ask.whole("count", 100, 0, 10**8), self._scim_page)
        found = self._filtered(company.slug, ask.one("filter"))
        page = found[start - 1 : start - 1 + count]
        listing = {
            "totalResults": len(found),
            "itemsPerPage": len(page),
            "startIndex": start,
            "schemas": [SCIM_LIST],
            "Resources": page,
        }
        return _Reply(200, listing, content_type="application/scim+json")

    def _filtered(self, slug: str, text: str | None) -> list[Record]:
        if text is None:
            return self._window(slug, "workday_directory", None, None)
        if self._scim_filter == "not_implemented":
            raise _Refused(501, "not_implemented", "no filters here")
        conditions = [_FILTER.fullmatch(part) for part in re.split(r"\sand\s", text, flags=re.IGNORECASE)]
        if self._scim_filter == "invalid" or not all(conditions):
            refused = _Refused(400, "invalid_filter", "this filter is not understood")
            refused.reply.body = {**cast(Record, refused.reply.body), "scimType": "invalidFilter"}
            raise refused
        tests: list[tuple[str, int]] = []
        for condition in conditions:
            assert condition is not None
            try:
                tests.append((condition[1].lower(), parse(condition[2])))
            except ValueError:
                return []  # as seen on an open server: a time without offset finds nobody, with 200

        def passes(at: int) -> bool:
            return all({"ge": at >= edge, "gt": at > edge, "le": at <= edge, "lt": at < edge}[op] for op, edge in tests)

        users = self._records.get((slug, "workday_directory"), [])
        return [user for at, user in users if at is None or passes(at)]

    def _internal(self, system: str, ask: _Ask) -> _Reply:
        self._read(ask)
        if ask.path == "/health":
            return _Reply(200, {"status": "ok", "uptime": 5})
        stream = _INTERNAL.get((system, ask.path))
        if stream is None:
            raise _Refused(404, "not_found", "no such path")
        key = self._bearer(ask)
        company = next((one for one in self.companies if one.api_key(system) == key), None)
        if company is None:
            raise _Refused(401, "unauthorized", "bad key")
        ask.only("company_id", "limit", "since", "cursor")
        if ask.one("company_id") is None:
            raise _Refused(422, "missing_parameter", "company_id")
        if ask.one("company_id") != company.id:
            raise _Refused(403, "forbidden", "not your company")
        size = min(ask.whole("limit", 100, 1, 200), self._internal_page)
        since, position = ask.instant("since"), 0
        if cursor := ask.one("cursor"):
            with self._lock:
                slug, of, since, position = self._cursors.get(cursor, ("", "", None, 0))
            if (slug, of) != (company.slug, stream):
                raise _Refused(422, "invalid_cursor", "this cursor is not of this list")
        found = self._window(company.slug, stream, since, None)
        page = found[position : position + size]
        name = ask.path.rpartition("/")[2]
        following: dict[str, object] = {}
        if position + size < len(found):
            with self._lock:
                opaque = base64.b64encode(self._random.randbytes(12)).decode() + "+/&=?%"
                self._cursors[opaque] = (company.slug, stream, since, position + size)
            following = {"next_cursor": opaque}
        elif system in ("kintell", "mentorship"):
            following = {"next_cursor": None}
        return _Reply(200, {**following, name: page})


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, owner: Server) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client may hang up whenever it likes; anything else is a fault of this server and is printed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged: `Server.requests` is the record."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply, number = cast(_Listener, self.server).owner._handle(self.command, self.path, headers, body)
        payload = encode(reply.body, ascii_only=number % 2 == 0).encode()
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("content-type", reply.content_type)
        if "gzip" in headers.get("accept-encoding", ""):
            payload = gzip.compress(payload, 1)
            self.send_header("content-encoding", "gzip")
        if number % 3 == 0 and len(payload) > 64:
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for piece in (payload[:61], payload[61:]):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.send_header("content-length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)
        self.wfile.flush()
