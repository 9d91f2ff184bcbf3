"""Each fault of the sandbox does on the wire what it says: seen with sockets, not with the product's client."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from typer.testing import CliRunner

from teei_ingest.cli.app import app
from teei_ingest.errors import UsageError
from teei_ingest.sandbox.app import Sandbox
from teei_ingest.sandbox.config import credential
from teei_ingest.sandbox.faults import FAULTS, Plan
from teei_ingest.sandbox.faults.rows import KINDS
from teei_ingest.sandbox.server import Running, SandboxConfig, serving
from teei_ingest.streams import all_streams
from teei_ingest.streams.base import Cursor, PageNumber, SinceOnly, Stream
from teei_ingest.systems import all_systems
from teei_ingest_tests.test_sandbox import ACME, MIDNIGHT, NEXT_MIDNIGHT, Client

NUMBERED, INDEXED, CURSOR, KEYED = "benevity_volunteers", "workday_directory", "kintell_sessions", "goodera_volunteers"
ONE_EACH = (NUMBERED, INDEXED, CURSOR)
GLOBEX = "globex-inc"
LIMIT = 5
PATIENCE_S, SILENCE_S = 20, 0.2

Record = dict[str, Any]
shown: set[str] = set()


def shows(*names: str) -> Callable[[Any], Any]:
    """The faults that a test is about."""
    shown.update(names)
    return lambda test: test


@dataclass
class Raw:
    """What came: status, headers, the body as it was sent, and whether it then ended, fell silent or broke."""

    status: int
    headers: dict[str, str]
    body: bytes
    end: str  # whole, closed, silent, reset

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    url: str, target: str, headers: dict[str, str], body: bytes | None = None, patience_s: float = PATIENCE_S
) -> Raw:
    """One request on a connection of its own, read up to its length, its end, or a silence."""
    host, port = url.removeprefix("http://").split(":")
    got, end = b"", ""
    with socket.create_connection((host, int(port))) as connection:
        connection.settimeout(patience_s)
        lines = [f"{'GET' if body is None else 'POST'} {target} HTTP/1.1", f"Host: {host}:{port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()] + [f"Content-Length: {len(body or b'')}"]
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + (body or b""))
        while not end:
            try:
                more = connection.recv(65536)
            except TimeoutError:
                end = "silent"
            except ConnectionResetError:
                end = "reset"
            else:
                got, end = got + more, "" if more else "closed"
                if _is_whole(got):
                    end = "whole"
    status, found, rest = _parsed(got)
    return Raw(status, found, rest, end)


def _parsed(got: bytes) -> tuple[int, dict[str, str], bytes]:
    if b"\r\n\r\n" not in got:
        return 0, {}, got
    head, _, body = got.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = [line.split(": ", 1) for line in lines]
    assert len({name.lower() for name, _ in pairs}) == len(pairs), "a header came twice"
    return int(first.split()[1]), {name.lower(): value for name, value in pairs}, body


def _is_whole(got: bytes) -> bool:
    _, headers, body = _parsed(got)
    return "content-length" in headers and len(body) >= int(headers["content-length"])


@dataclass
class Wire:
    """A sandbox behind a socket, and a client that knows `wire.md` and nothing of the product."""

    sandbox: Sandbox
    running: Running
    now: list[float]
    tokens: dict[tuple[str, str], str] = field(default_factory=dict)
    patience_s: float = PATIENCE_S

    def ask(self, target: str, headers: dict[str, str], body: bytes | None = None) -> Raw:
        return ask(self.running.url, target, headers, body, self.patience_s)

    def client(self, company: str = ACME) -> Client:
        made = Client(self.sandbox.config, self.now[0], company)
        made.app = self.sandbox
        return made

    def plan(self, *entries: dict[str, Any], seed: int = 1) -> None:
        self.running.faults({"seed": seed, "faults": list(entries)})

    @property
    def fired(self) -> list[int]:
        return [entry["fired"] for entry in self.running.faults()["faults"]]

    def token(self, system: str, company: str = ACME, **changes: str) -> Raw:
        form = urlencode(self.client(company).form(system) | changes).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.ask(f"/{system}/oauth2/token", headers, form)

    def list(self, stream: str, company: str = ACME, limit: int = LIMIT, **query: Any) -> Raw:
        """A page of the day."""
        declared, client = all_streams()[stream], self.client(company)
        system = all_systems()[declared.system]
        headers = {}
        if hasattr(system.auth, "token_path"):
            known = system.name, company
            if known not in self.tokens:
                self.tokens[known] = self.token(system.name, company).json["access_token"]
            headers["Authorization"] = f"Bearer {self.tokens[known]}"
            if system.tenant_header:
                headers[system.tenant_header] = client.credential(system.name, system.tenant)
        else:
            headers = client.headers(declared)
        asked = client.query(declared, MIDNIGHT, NEXT_MIDNIGHT) | {declared.paging.limit: limit} | query
        return self.ask(f"/{system.name}{declared.path}?{urlencode(asked)}", headers)

    def pages(self, stream: str, limit: int = LIMIT, company: str = ACME) -> Iterator[list[Any]]:
        """The records of all pages of the day, following what they say."""
        declared = all_streams()[stream]
        query: dict[str, Any] = {}
        received = 0
        while True:
            reply = self.list(stream, company, limit, **query)
            assert reply.status == 200, reply
            rows = reply.json[declared.records]
            yield rows
            received += len(rows)
            if isinstance(declared.paging, PageNumber):
                if not _more(reply.json, declared):
                    return
                query["page"] = query.get("page", 1) + 1
            elif isinstance(declared.paging, Cursor):
                query["cursor"] = reply.json["next_cursor"]
                if query["cursor"] is None or _at(rows[-1], declared.source_timestamp) >= NEXT_MIDNIGHT[:10]:
                    return
            else:
                query["startIndex"] = received + 1
                if received >= reply.json["totalResults"]:
                    return

    def ids(self, stream: str, limit: int = LIMIT) -> list[str]:
        """The ids of all records of the day, in order."""
        declared = all_streams()[stream]
        return [_at(row, declared.source_id) for rows in self.pages(stream, limit) for row in rows]

    def truth(
        self, stream: str, since: str = MIDNIGHT, until: str = NEXT_MIDNIGHT, company: str = ACME
    ) -> list[Record]:
        return self.running.records(stream, company, since=since, until=until)


def _more(reply: Any, stream: Stream) -> bool:
    return bool(_at(reply, stream.paging.more))  # type: ignore[union-attr]


def _at(record: Any, path: str) -> Any:
    for name in path.split("/"):
        record = record[name]
    return record


@pytest.fixture(scope="module")
def served() -> Iterator[Wire]:
    now = [datetime(2024, 1, 20, tzinfo=UTC).timestamp()]
    sandbox = Sandbox(SandboxConfig(spread=0), lambda: now[0])
    day = datetime(2024, 1, 15, tzinfo=UTC)
    sandbox.records(KEYED, ACME, day, day + timedelta(1))  # people are invented once, which takes a while
    with serving(sandbox) as running:
        yield Wire(sandbox, running, now)


@pytest.fixture
def wire(served: Wire) -> Wire:
    served.running.no_faults()
    served.running.reset()
    served.tokens.clear()
    served.patience_s = PATIENCE_S
    return served


# --- status and head ------------------------------------------------------------------------------------------------

STATUSES = [name for name in FAULTS if name.startswith("status-")]


@shows(*STATUSES)
@pytest.mark.parametrize("name", STATUSES)
def test_status(name: str, wire: Wire) -> None:
    code, _, how = name.removeprefix("status-").partition("-")
    wire.plan({"fault": name, "stream": KEYED, "page": 2})
    assert wire.list(KEYED).status == 200
    reply = wire.list(KEYED, page=2)
    assert reply.status == int(code) and reply.end == "whole"
    assert set(reply.json) == {"error", "message"}
    after = reply.headers.get("retry-after")
    if how == "":
        assert after is None
    elif how == "date":
        assert after and parsedate_to_datetime(after).timestamp() == wire.now[0] + 2
    elif how == "absurd":
        assert after and not after.isdigit()
        with pytest.raises(ValueError):
            parsedate_to_datetime(after)
    else:
        assert after == {"seconds": "1", "far": "31536000"}[how]
    assert wire.list(KEYED, page=2).status == 200
    assert wire.fired == [1]


@shows("quota-used-up")
def test_a_good_reply_says_that_nothing_is_left(wire: Wire) -> None:
    wire.plan({"fault": "quota-used-up", "seconds": 7})
    reply = wire.list(NUMBERED)
    assert reply.status == 200 and len(reply.json["records"]) == LIMIT
    assert (reply.headers["x-ratelimit-remaining"], reply.headers["x-ratelimit-reset"]) == ("0", "7")


@shows("token-expired", "token-revoked")
@pytest.mark.parametrize(("name", "first"), [("token-expired", 401), ("token-revoked", 200)])
def test_a_token_is_good_no_more(name: str, first: int, wire: Wire) -> None:
    assert wire.list(NUMBERED, GLOBEX).status == 200
    wire.plan({"fault": name, "company": ACME})
    assert [wire.list(NUMBERED).status for _ in range(2)] == [first, 401]
    assert wire.list(NUMBERED, GLOBEX).status == 200
    wire.tokens.clear()
    assert wire.list(NUMBERED).status == 200


@shows("token-useless")
def test_no_token_helps(wire: Wire) -> None:
    wire.plan({"fault": "token-useless", "system": "workday"})
    for _ in range(2):
        assert wire.list(INDEXED).status == 401
        wire.tokens.clear()
    assert wire.list(NUMBERED).status == 200


@shows("token-endpoint-down", "token-refused")
@pytest.mark.parametrize(("name", "status"), [("token-endpoint-down", 503), ("token-refused", 401)])
def test_no_token_is_given(name: str, status: int, wire: Wire) -> None:
    wire.plan({"fault": name, "company": ACME, "times": 2})
    assert [wire.token("benevity").status for _ in range(3)] == [status, status, 200]
    assert wire.token("benevity", GLOBEX).status == 200


@shows("token-short-lived")
def test_a_token_says_that_it_is_short_lived(wire: Wire) -> None:
    wire.plan({"fault": "token-short-lived", "seconds": 3})
    assert wire.token("workday").json["expires_in"] == 3


@shows("credentials-rotated")
@pytest.mark.parametrize("stream", [KEYED, INDEXED])
def test_credentials_are_rotated(stream: str, wire: Wire) -> None:
    system = all_systems()[all_streams()[stream].system]
    name = "client_secret" if stream == INDEXED else "api_key"
    new = credential(system, name, ACME, rotated=True)
    wire.list(stream)
    wire.plan({"fault": "credentials-rotated", "stream": stream, "company": ACME})
    assert [wire.list(stream).status for _ in range(2)] == [401, 401]
    assert wire.list(stream, GLOBEX).status == 200
    if stream == INDEXED:
        assert wire.token(system.name).status == 401
        token = wire.token(system.name, client_secret=new)
        assert token.status == 200
        wire.tokens[system.name, ACME] = token.json["access_token"]
        assert wire.list(stream).status == 200
    else:
        query = wire.client().query(all_streams()[stream], MIDNIGHT)
        target = f"/{system.name}{all_streams()[stream].path}?{urlencode(query)}"
        assert wire.ask(target, {"X-API-Key": new}).status == 200
    wire.running.no_faults()
    wire.tokens.clear()
    assert wire.list(stream).status == 200


@shows("redirect-host", "redirect-loop", "redirect-here")
def test_redirects(wire: Wire) -> None:
    wire.plan({"fault": "redirect-host"}, {"fault": "redirect-here", "request": 2})
    away, here, good = (wire.list(KEYED) for _ in range(3))
    assert (away.status, here.status, good.status) == (302, 307, 200)
    target = here.headers["location"].removeprefix(wire.running.url)
    assert target.startswith("/goodera/api/v1/activities?") and "activity_type=volunteering" in target
    assert away.headers["location"] == f"http://elsewhere.example{target}"
    wire.plan({"fault": "redirect-loop", "stream": KEYED})
    loop = [wire.list(KEYED) for _ in range(5)]
    assert {(one.status, one.headers["location"]) for one in loop} == {(302, target)}


@shows("clock-off")
@pytest.mark.parametrize("off", [300, -300])
def test_the_clock_is_off(off: int, wire: Wire) -> None:
    wire.plan({"fault": "clock-off", "at": "any", "seconds": off}, {"fault": "status-503-date", "request": 2})
    token = wire.token("benevity")
    assert token.json["expires_in"] == 3600 + off
    assert parsedate_to_datetime(token.headers["date"]).timestamp() == wire.now[0] + off
    wire.list(KEYED)
    wait = wire.list(KEYED)
    assert parsedate_to_datetime(wait.headers["retry-after"]).timestamp() == wire.now[0] + off + 2
    moments = [
        datetime.fromisoformat(row["updated_at"]).timestamp() for row in wire.truth(KEYED, until="2025-01-01T00:00:00Z")
    ]
    wire.running.no_faults()
    usual = [
        datetime.fromisoformat(row["updated_at"]).timestamp() for row in wire.truth(KEYED, until="2025-01-01T00:00:00Z")
    ]
    assert all(moment < wire.now[0] + off for moment in moments)
    assert set(moments) <= set(usual) if off < 0 else set(usual) <= set(moments)


# --- the connection and the bytes -----------------------------------------------------------------------------------


@shows("timeout-head", "hang-up", "reset")
@pytest.mark.parametrize(("name", "end"), [("timeout-head", "silent"), ("hang-up", "closed"), ("reset", "reset")])
@pytest.mark.parametrize("at", ["list", "token", "health"])
def test_nothing_is_answered(name: str, end: str, at: str, wire: Wire) -> None:
    wire.plan({"fault": name, "at": at, "system": {"token": "benevity"}.get(at, "goodera")})
    asks = {
        "list": lambda: wire.list(KEYED),
        "token": lambda: wire.token("benevity"),
        "health": lambda: wire.ask("/goodera/api/v1/health", {}),
    }
    wire.patience_s = SILENCE_S if end == "silent" else PATIENCE_S
    reply = asks[at]()
    assert (reply.status, reply.body, reply.end) == (0, b"", end)
    wire.patience_s = PATIENCE_S
    assert asks[at]().status == 200


@shows("timeout-body", "reset-body", "cut-body", "cut-body-chunked", "cut-body-unframed")
@pytest.mark.parametrize(
    ("name", "framing", "end"),
    [
        ("timeout-body", "length", "silent"),
        ("reset-body", "length", "reset"),
        ("cut-body", "length", "closed"),
        ("cut-body-chunked", "chunked", "closed"),
        ("cut-body-unframed", "none", "closed"),
    ],
)
def test_a_body_breaks_off(name: str, framing: str, end: str, wire: Wire) -> None:
    whole = wire.list(KEYED)
    wire.plan({"fault": name, "share": 0.25})
    wire.patience_s = SILENCE_S if end == "silent" else PATIENCE_S
    reply = wire.list(KEYED)
    wire.patience_s = PATIENCE_S
    part = whole.body[: len(whole.body) // 4]
    assert (reply.status, reply.end) == (200, end)
    assert ("content-length" in reply.headers, "transfer-encoding" in reply.headers) == (
        framing == "length",
        framing == "chunked",
    )
    if framing == "length":
        assert int(reply.headers["content-length"]) == len(whole.body)
    # A reset may overtake what was sent before it.
    assert reply.body == (b"%x\r\n%s\r\n" % (len(part), part) if framing == "chunked" else part) or end == "reset"
    assert wire.list(KEYED).body == whole.body


@shows("unframed")
def test_a_body_without_a_length(wire: Wire) -> None:
    whole = wire.list(KEYED)
    wire.plan({"fault": "unframed"})
    reply = wire.list(KEYED)
    assert (reply.body, reply.end) == (whole.body, "closed")
    assert not {"content-length", "transfer-encoding"} & set(reply.headers)


@shows("slow")
def test_a_body_comes_slowly(wire: Wire) -> None:
    whole = wire.list(KEYED)
    wire.plan({"fault": "slow", "bytes_per_s": 4 * len(whole.body)})
    begun = time.monotonic()
    assert wire.list(KEYED).body == whole.body
    assert time.monotonic() - begun >= 0.2


@shows("html", "empty-body")
def test_something_else_than_json(wire: Wire) -> None:
    wire.plan({"fault": "html"}, {"fault": "empty-body", "request": 2})
    page, empty = wire.list(KEYED), wire.list(KEYED)
    assert page.status == 200 and page.headers["content-type"].startswith("text/html") and b"<html>" in page.body
    assert (empty.status, empty.body, empty.headers["content-length"]) == (200, b"", "0")


@shows("wrong-charset", "mislabelled-charset", "byte-order-mark")
def test_character_sets(wire: Wire) -> None:
    whole = wire.list(KEYED)
    charsets = ["utf-16", "utf-16-le", "utf-32", "latin-1"]
    plans = [{"fault": "wrong-charset", "charset": name, "request": at} for at, name in enumerate(charsets, 1)]
    wire.plan(*plans, {"fault": "mislabelled-charset", "request": 5}, {"fault": "byte-order-mark", "request": 6})
    *others, mislabelled, marked = (wire.list(KEYED) for _ in range(6))
    for name, reply in zip(charsets, others, strict=True):
        assert reply.headers["content-type"] == f"application/json; charset={name}"
        decoded = json.loads(reply.body.decode(name))
        assert len(decoded["data"]) == LIMIT
        with pytest.raises(ValueError):
            json.loads(reply.body.decode())
    assert mislabelled.body == whole.body and mislabelled.headers["content-type"].endswith("charset=iso-8859-1")
    assert marked.body == b"\xef\xbb\xbf" + whole.body


@shows("gzip", "gzip-broken", "gzip-cut", "gzip-plain")
def test_gzip(wire: Wire) -> None:
    whole = wire.list(KEYED)
    names = ["gzip", "gzip-broken", "gzip-cut", "gzip-plain"]
    wire.plan(*({"fault": name, "request": at} for at, name in enumerate(names, 1)))
    packed, broken, cut, plain = (wire.list(KEYED) for _ in names)
    assert {one.headers["content-encoding"] for one in (packed, broken, cut, plain)} == {"gzip"}
    assert {one.end for one in (packed, broken, cut, plain)} == {"whole"}
    assert gzip.decompress(packed.body) == whole.body and plain.body == whole.body
    for one in (broken, cut):
        with pytest.raises((zlib.error, EOFError, OSError)):
            gzip.decompress(one.body)


@shows("gzip-bomb")
def test_a_gigabyte_in_a_megabyte(wire: Wire) -> None:
    whole = wire.list(KEYED)
    wire.plan({"fault": "gzip-bomb", "mib": 3}, {"fault": "gzip-bomb", "request": 2})
    small, bomb = wire.list(KEYED), wire.list(KEYED)
    unpacked = gzip.decompress(small.body)
    assert len(unpacked) == len(whole.body) + 3 * (1 << 20) and json.loads(unpacked) == whole.json
    assert len(bomb.body) < 2 << 20
    assert int.from_bytes(bomb.body[-4:], "little") == len(whole.body) + (1 << 30)  # RFC 1952: its size
    assert len(zlib.decompressobj(31).decompress(bomb.body, 1 << 26)) == 1 << 26


@shows("tls-failure")
@pytest.mark.parametrize("certificate", ["self-signed", "expired", "other-host"])
def test_a_certificate_that_nobody_should_trust(certificate: str, wire: Wire) -> None:
    host, port = wire.running.url.removeprefix("http://").split(":")

    def handshake(context: ssl.SSLContext, name: str = "localhost") -> bytes | None:
        with (
            socket.create_connection((host, int(port)), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname=name) as connection,
        ):
            return connection.getpeercert(binary_form=True)

    careless = ssl._create_unverified_context()
    wire.plan({"fault": "tls-failure", "certificate": certificate, "times": 3})
    sent = handshake(careless)
    assert sent is not None
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(ssl.create_default_context())
    trusting = ssl.create_default_context(cadata=ssl.DER_cert_to_PEM_cert(sent))
    expected = pytest.raises(ssl.SSLCertVerificationError) if certificate != "self-signed" else nullcontext()
    with expected:
        handshake(trusting)
    assert wire.fired == [3] and wire.list(KEYED).status == 200
    with pytest.raises(ssl.SSLError):
        handshake(careless)


# --- paging ---------------------------------------------------------------------------------------------------------


@shows("page-repeated")
@pytest.mark.parametrize("stream", ONE_EACH)
def test_a_page_repeated(stream: str, wire: Wire) -> None:
    wire.plan({"fault": "page-repeated", "stream": stream})
    pages = wire.pages(stream)
    first, second = next(pages), next(pages)
    assert first == second and len(first) == LIMIT


@shows("cursor-loop")
def test_a_cursor_loops(wire: Wire) -> None:
    wire.plan({"fault": "cursor-loop", "page": 2})
    cursor = wire.list(CURSOR).json["next_cursor"]
    for _ in range(3):
        page = wire.list(CURSOR, cursor=cursor).json
        assert page["next_cursor"] == cursor and len(page["sessions"]) == LIMIT


@shows("more-for-ever")
def test_empty_pages_without_end(wire: Wire) -> None:
    wire.plan({"fault": "more-for-ever", "page": 2})
    pages = wire.pages(NUMBERED)
    assert [len(next(pages)) for _ in range(9)] == [LIMIT] + [0] * 8
    cursors, cursor = set(), wire.list(CURSOR).json["next_cursor"]
    for _ in range(8):
        cursors.add(cursor)
        page = wire.list(CURSOR, cursor=cursor).json
        assert page["sessions"] == []
        cursor = page["next_cursor"]
    assert len(cursors) == 8 and None not in cursors


@shows("total-too-high", "total-too-low", "total-changes")
def test_totals_that_lie(wire: Wire) -> None:
    def totals() -> list[int]:
        return [wire.list(INDEXED, startIndex=first).json["totalResults"] for first in (1, 6, 11)]

    usual = totals()
    assert usual == [12] * 3
    for entry, said in (
        ({"fault": "total-too-high", "by": 3}, [15] * 3),
        ({"fault": "total-too-low"}, [LIMIT - 1] * 3),
        ({"fault": "total-changes"}, [12, 13, 12]),
    ):
        wire.plan(entry)
        assert totals() == said


@shows("short-pages")
@pytest.mark.parametrize("stream", ONE_EACH)
def test_fewer_records_than_asked_for(stream: str, wire: Wire) -> None:
    usual = wire.ids(stream)
    wire.plan({"fault": "short-pages", "limit": 3, "stream": stream})
    assert {len(rows) for rows in list(wire.pages(stream))[:4]} == {3}
    assert wire.ids(stream)[:12] == usual[:12]


@shows("out-of-order")
@pytest.mark.parametrize("stream", ONE_EACH)
def test_out_of_order(stream: str, wire: Wire) -> None:
    usual = next(wire.pages(stream))
    wire.plan({"fault": "out-of-order", "stream": stream})
    other = next(wire.pages(stream))
    assert other != usual and sorted(map(str, other)) == sorted(map(str, usual))


# --- records --------------------------------------------------------------------------------------------------------


@shows("bad-rows")
@pytest.mark.parametrize("kind", KINDS)
def test_bad_rows(kind: str, wire: Wire) -> None:
    """Of each kind at least one stream has one, and it alone is another record."""
    struck = 0
    for stream in all_streams().values():
        usual = next(wire.pages(stream.name))
        wire.plan({"fault": "bad-rows", "kind": kind, "stream": stream.name})
        bad = next(wire.pages(stream.name))
        changed = [(old, new) for old, new in zip(usual, bad, strict=True) if old != new]
        assert len(changed) == wire.fired[0] <= 1
        struck += wire.fired[0]
    assert struck >= 1


def test_several_faults_strike_one_reply(wire: Wire) -> None:
    """What can no more be changed, since it is encoded or an error by now, is left alone."""
    bad, packed = {"fault": "bad-rows", "kind": "null", "times": 0}, {"fault": "gzip", "times": 0}
    off = {"fault": "clock-off"}
    wire.plan(off, bad, packed)
    reply = wire.list(KEYED)
    assert wire.fired == [1, 1, 1] and "date" in reply.headers
    assert sum(row["date"] is None for row in json.loads(gzip.decompress(reply.body))["data"]) == 1
    wire.plan(packed, bad)
    assert wire.list(KEYED).status == 200 and wire.fired == [1, 0]
    wire.plan({"fault": "status-503"}, bad, off)
    assert wire.list(KEYED).status == 503 and wire.fired == [1, 0, 1]


def test_a_share_of_the_rows_is_bad(wire: Wire) -> None:
    usual = next(wire.pages(NUMBERED, limit=12))
    wire.plan({"fault": "bad-rows", "share": 0.5})
    assert sum(old != new for old, new in zip(usual, next(wire.pages(NUMBERED, limit=12)), strict=True)) == 6


@shows("unknown-fields")
@pytest.mark.parametrize("stream", ONE_EACH)
def test_unknown_fields(stream: str, wire: Wire) -> None:
    usual = next(wire.pages(stream))
    wire.plan({"fault": "unknown-fields", "field": "x_other", "stream": stream})
    for old, new in zip(usual, next(wire.pages(stream)), strict=True):
        assert new.pop("x_other") and new.pop("x_other 🎉") and new.pop("") == []
        for name, value in new.items():
            if isinstance(value, dict):
                del value["x_other"]
            assert old[name] == value


@shows("type-changed")
def test_a_field_of_another_type(wire: Wire) -> None:
    wire.plan({"fault": "type-changed", "field": "hours", "share": 1.0}, {"fault": "type-changed", "request": 2})
    rows = next(wire.pages(KEYED))
    assert all(isinstance(row["hours"], dict) for row in rows) and len(rows) == LIMIT
    assert sum(not isinstance(row["date"], str) for row in next(wire.pages(KEYED))) == 1


@shows("enum-unknown")
@pytest.mark.parametrize("stream", ["buddy_checkins", "goodera_donations", INDEXED])
def test_a_value_that_is_in_no_list(stream: str, wire: Wire) -> None:
    wire.plan({"fault": "enum-unknown", "stream": stream})
    assert sum("not-in-any-list" in json.dumps(row) for row in next(wire.pages(stream))) == 1


@shows("record-twice", "record-conflicts")
@pytest.mark.parametrize(
    "stream", [name for name in all_streams() if FAULTS["record-twice"].applies(all_streams()[name])]
)
def test_a_record_comes_twice(stream: str, wire: Wire) -> None:
    declared = all_streams()[stream]
    wire.plan(
        {"fault": "record-twice", "stream": stream}, {"fault": "record-conflicts", "stream": stream, "request": 2}
    )
    same, other = next(wire.pages(stream)), next(wire.pages(stream))
    for rows, equal in ((same, True), (other, False)):
        pairs = [(a, b) for a, b in pairwise(rows) if _version(a, declared) == _version(b, declared)]
        assert len(rows) == LIMIT + 1 and len(pairs) == 1
        assert (pairs[0][0] == pairs[0][1]) == equal
    assert wire.fired == [1, 1]


def _version(row: Any, stream: Stream) -> tuple[Any, Any]:
    return _at(row, stream.source_id), _at(row, stream.source_timestamp)


@shows("record-changes", "record-vanishes")
@pytest.mark.parametrize("stream", ONE_EACH)
@pytest.mark.parametrize("entry", [{"fault": "record-changes"}, {"fault": "record-vanishes"}])
def test_a_record_leaves_the_window_while_it_is_paged_over(stream: str, entry: Record, wire: Wire) -> None:
    """Pages that are counted shift by one, so that a record is skipped; a cursor skips none."""
    declared = all_streams()[stream]
    usual = [_at(row, declared.source_id) for row in wire.truth(stream)]
    wire.plan({**entry, "stream": stream, "page": 1})
    seen: list[str] = []
    for rows in wire.pages(stream):
        seen += [_at(row, declared.source_id) for row in rows]
    assert wire.fired == [1]
    now = [_at(row, declared.source_id) for row in wire.truth(stream)]
    (gone,) = set(usual) - set(now)
    assert gone in seen[:LIMIT]
    missed = set(now) - set(seen)
    assert len(missed) == (0 if isinstance(declared.window, SinceOnly) else 1)
    wire.running.no_faults()
    assert sorted(wire.ids(stream)[: len(now)]) == sorted(now)
    later = wire.truth(stream, since="2024-01-20T00:00:00Z", until="2024-02-01T00:00:00Z")
    assert [_at(row, declared.source_id) for row in later] == ([gone] if entry["fault"] == "record-changes" else [])


@pytest.mark.parametrize("stream", ONE_EACH)
def test_a_record_moves_within_the_window(stream: str, wire: Wire) -> None:
    declared = all_streams()[stream]
    before = wire.truth(stream)
    wire.plan({"fault": "record-changes", "to": "window", "which": "coming", "stream": stream})
    list(wire.pages(stream))
    after = wire.truth(stream)
    assert {_at(row, declared.source_id) for row in before} == {_at(row, declared.source_id) for row in after}
    old, new = ({_version(row, declared) for row in rows} for rows in (before, after))
    assert len(new - old) == 1 and after[-1] not in before


@shows("record-appears", "record-late")
@pytest.mark.parametrize("stream", ONE_EACH)
@pytest.mark.parametrize("where", ["served", "coming", "late"])
def test_a_record_appears_while_it_is_paged_over(where: str, stream: str, wire: Wire) -> None:
    declared = all_streams()[stream]
    since = "2024-01-01T00:00:00Z"
    before = {_version(row, declared) for row in wire.truth(stream, since)}
    fault = {"fault": "record-late", "days": 4} if where == "late" else {"fault": "record-appears", "where": where}
    wire.plan({**fault, "stream": stream, "page": 1})
    seen = [_version(row, declared) for rows in wire.pages(stream) for row in rows]
    (new,) = {_version(row, declared) for row in wire.truth(stream, since)} - before
    assert new[0] not in {identity for identity, _ in before}
    assert new[1].startswith("2024-01-11" if where == "late" else "2024-01-15")
    assert (new in seen) == (where == "coming")
    counted = not isinstance(declared.window, SinceOnly)
    assert len(seen) - len(set(seen)) == (1 if counted and where == "served" else 0)
    wire.running.reset()
    assert {_version(row, declared) for row in wire.truth(stream, since)} == before


def test_every_fault_is_shown() -> None:
    assert shown == set(FAULTS)


# --- the plan -------------------------------------------------------------------------------------------------------


def test_selectors(wire: Wire) -> None:
    def struck(entry: Record) -> list[bool]:
        wire.plan({"fault": "status-500", **entry})
        replies = [
            wire.list(NUMBERED),
            wire.list(NUMBERED, page=2),
            wire.list(NUMBERED, GLOBEX),
            wire.list(KEYED),
            wire.list(KEYED),
        ]
        return [reply.status == 500 for reply in replies]

    assert struck({}) == [True, False, False, False, False]
    assert struck({"times": 0}) == [True] * 5
    assert struck({"times": 3}) == [True, True, True, False, False]
    assert struck({"times": 0, "system": "goodera"}) == [False, False, False, True, True]
    assert struck({"times": 0, "stream": NUMBERED}) == [True, True, True, False, False]
    assert struck({"times": 0, "company": GLOBEX}) == [False, False, True, False, False]
    assert struck({"times": 0, "page": 2}) == [False, True, False, False, False]
    assert struck({"times": 0, "request": 2}) == [False, True, False, False, True]
    assert struck({"times": 0, "at": "token"}) == [False] * 5


@pytest.mark.parametrize("stream", ONE_EACH)
def test_pages_are_counted_in_every_style_of_paging(stream: str, wire: Wire) -> None:
    wire.plan({"fault": "unknown-fields", "stream": stream, "page": 3, "times": 0})
    assert ["x_new" in rows[0] for rows in list(wire.pages(stream, limit=3))[:4]] == [False, False, True, False]


def test_chance_follows_from_the_seed_alone(wire: Wire) -> None:
    def struck(seed: int, companies: list[str]) -> dict[str, list[int]]:
        wire.plan({"fault": "status-500", "times": 0, "chance": 0.5}, seed=seed)
        found: dict[str, list[int]] = {}
        for company in companies:
            found.setdefault(company, []).append(wire.list(KEYED, company).status)
        return found

    wire.sandbox.access.reset()
    one = struck(1, [ACME, GLOBEX] * 12)
    other_order = struck(1, [ACME] * 12 + [GLOBEX] * 12)
    assert one == other_order != struck(2, [ACME, GLOBEX] * 12)
    assert 4 <= sum(status == 500 for statuses in one.values() for status in statuses) <= 20


def test_the_plan_is_there_over_http_and_nowhere_else(wire: Wire) -> None:
    plan = {"seed": 3, "faults": [{"fault": "status-503", "stream": KEYED, "request": 2, "times": 4}]}
    said = wire.running.faults(plan)
    assert said == {"seed": 3, "faults": [{**plan["faults"][0], "chance": 1.0, "fired": 0}]}  # type: ignore[index]
    assert [wire.list(KEYED).status for _ in range(3)] == [200, 503, 200]
    assert wire.running.faults()["faults"][0]["fired"] == 1
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{wire.running.url}/__sandbox/faults", timeout=5)
    wire.running.no_faults()
    assert wire.running.faults() == {"seed": 0, "faults": []}


WRONG = [
    ([], "the plan has to be a JSON object"),
    ({"fault": []}, "the plan: unknown key fault; there is seed, faults"),
    ({"seed": "7"}, "the plan's seed has to be a whole number"),
    ({"faults": {}}, "the plan's faults have to be a list"),
    ({"faults": [{"fault": "status-999"}]}, "fault 1: unknown fault status-999; there is status-400, "),
    ({"faults": [{"stream": KEYED}]}, "fault 1: no fault is named; there is status-400, "),
    ({"faults": [{"fault": "html", "share": 1}]}, "fault 1 (html): unknown key share; there is fault, at, system, "),
    ({"faults": [{"fault": "html", "stream": "tweets"}]}, "fault 1 (html): unknown stream tweets; there is "),
    ({"faults": [{"fault": "html", "system": "x"}]}, "fault 1 (html): unknown system x; there is "),
    ({"faults": [{"fault": "html", "company": "A B"}]}, "fault 1 (html): company has to be a slug"),
    ({"faults": [{"fault": "html", "request": 0}]}, "fault 1 (html): request has to be a whole number from 1"),
    ({"faults": [{"fault": "html", "times": True}]}, "fault 1 (html): times has to be a whole number from 0"),
    ({"faults": [{"fault": "html", "chance": 2}]}, "fault 1 (html): chance has to be from 0 to 1"),
    ({"faults": [{"fault": "html", "at": "health"}]}, "fault 1 (html): at has to be list, token, any"),
    ({"faults": [{"fault": "cut-body", "share": "all"}]}, "fault 1 (cut-body): share has to be a number"),
    ({"faults": [{"fault": "cut-body", "share": 1}]}, "fault 1 (cut-body): share has to be from 0 to 0.99"),
    ({"faults": [{"fault": "bad-rows", "kind": "ugly"}]}, "fault 1 (bad-rows): kind has to be any, missing, "),
    (
        {"faults": [{"fault": "cursor-loop", "stream": KEYED}]},
        "fault 1 (cursor-loop): cannot strike goodera_volunteers",
    ),
    ({"faults": [{"fault": "cursor-loop", "times": 1}]}, "fault 1 (cursor-loop): lasts until the plan is replaced"),
    (
        {"faults": [{"fault": "html", "system": "workday", "stream": KEYED}]},
        "fault 1 (html): goodera_volunteers is not",
    ),
    (
        {"faults": [{"fault": "tls-failure", "system": "workday"}]},
        "fault 1 (tls-failure): unknown key system; there is ",
    ),
    (
        {"faults": [{"fault": "token-refused", "stream": INDEXED}]},
        "fault 1 (token-refused): a token request belongs to",
    ),
]


@pytest.mark.parametrize(("plan", "message"), WRONG)
def test_a_wrong_plan_is_refused_with_one_line_that_says_what_there_is(plan: Any, message: str, wire: Wire) -> None:
    with pytest.raises(UsageError) as raised:
        Plan.parse(plan)
    assert raised.value.message.startswith(message) and "\n" not in raised.value.message
    with pytest.raises(urllib.error.HTTPError) as refused:
        wire.running.faults(plan)
    assert refused.value.code == 422
    assert json.loads(refused.value.read())["message"] == raised.value.message


def test_the_command_reads_the_plan_before_it_serves(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    environ = {"TEEI_HOME": str(tmp_path / "home")}
    for text, message in (("{", "is not JSON"), ('{"faults": [{"fault": "x"}]}', "unknown fault x; there is ")):
        file.write_text(text)
        result = CliRunner().invoke(app, ["sandbox", "--faults", str(file)], env=environ)
        assert isinstance(result.exception, UsageError) and message in str(result.exception)
    result = CliRunner().invoke(app, ["sandbox", "--faults", str(tmp_path / "none")], env=environ)
    assert isinstance(result.exception, UsageError) and "cannot be read" in str(result.exception)


@pytest.mark.parametrize("stream", all_streams())
def test_the_truth_is_what_a_list_holds(stream: str, wire: Wire) -> None:
    declared = all_streams()[stream]
    listed = [row for rows in wire.pages(stream, 100) for row in rows]
    truth = wire.truth(stream)
    moments = [datetime.fromisoformat(_at(row, declared.source_timestamp)) for row in truth]
    assert len(truth) == 12 and moments == sorted(moments)
    assert all(row in listed for row in truth)
    with pytest.raises(urllib.error.HTTPError, match="422"):
        wire.running.records("tweets", ACME)
