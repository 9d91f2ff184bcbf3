"""`teei conformance`: a good server passes, and each misbehaviour is found by the probe that looks for it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from teei_ingest.cli.app import run
from teei_ingest.companies import load_companies
from teei_ingest.conformance.probes import CANNOT_TELL, FAIL, PASS, Finding, judge
from teei_ingest.conformance.wire import Wire
from teei_ingest.sandbox.server import SandboxConfig, environment, running
from teei_ingest.settings import Settings
from teei_ingest.streams import all_streams
from teei_ingest.streams.base import Cursor, PageNumber, ScimFilter, StartIndex, Stream
from teei_ingest.systems import all_systems
from teei_ingest.vault.credentials import resolve
from teei_ingest_tests.conformance.listing import Listing
from teei_ingest_tests.conftest import MASTER_KEY
from teei_ingest_tests.feeding import ABSENT, ACME, Answering, Ask, Record, Reply, answering, declared, put, record
from teei_ingest_tests.second_opinion.server import Server

STREAMS = sorted(all_streams())
SINCE, UNTIL = datetime(2024, 1, 15, tzinfo=UTC), datetime(2024, 1, 17, tzinfo=UTC)
# One stream for each way of paging, of asking for a window, and of authenticating.
AT = [f"2024-01-{15 + number // 6}T0{number % 6}:30:00.{number:06d}Z" for number in range(12)]
KINDS = ("benevity_donations", "goodera_volunteers", "workday_directory", "kintell_sessions")


Variables = Callable[[Mapping[str, str]], dict[str, str]]


@pytest.fixture
def variables(tmp_path: Path) -> Variables:
    """All variables of a home of its own, which talks to a server with these."""
    registry = tmp_path / "companies.yaml"
    registry.write_text(f"companies:\n- {{id: {ACME.id}, slug: {ACME.slug}, name: Acme}}\n")
    own = {"TEEI_HOME": str(tmp_path / "home"), "TEEI_COMPANIES": str(registry), "TEEI_MASTER_KEY": MASTER_KEY}
    return lambda server: {**own, **server}


def judged(environ: dict[str, str], stream: str) -> dict[str, Finding]:
    settings = Settings.load(environ)
    companies = load_companies(settings)
    company, system = companies.get(ACME.slug), all_systems()[declared(stream).system]
    credentials = resolve(settings, companies, company, system)
    with Wire(declared(stream), system, credentials, settings) as wire:
        tenant = getattr(credentials, system.tenant)
        return {one.probe: one for one in judge(wire, SINCE, UNTIL, str(company.id), tenant)}


def records(stream: str) -> list[Record]:
    before = record(stream, "before", "2024-01-14T12:00:00Z")
    return [before, *(record(stream, f"r-{number}", at) for number, at in enumerate(AT))]


def failed(found: Mapping[str, Finding]) -> list[Finding]:
    return [one for one in found.values() if one.verdict == FAIL]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[dict[str, str]]:
    config = SandboxConfig(companies={ACME.slug: ACME.id}, records=12)
    with running(config) as served:
        yield environment(config, served.url)


@pytest.fixture(scope="module")
def second() -> Iterator[Server]:
    data = {(ACME.slug, stream): records(stream) for stream in STREAMS}
    with Server(data, [ACME], quota=1000, short_pages=True) as served:
        yield served


@pytest.mark.parametrize("stream", STREAMS)
def test_the_sandbox_passes(variables: Variables, sandbox: dict[str, str], stream: str) -> None:
    found = judged(variables(sandbox), stream)
    assert not failed(found)
    assert {one.verdict for one in found.values() if one.probe not in ("enumerations", "ids")} == {PASS}


@pytest.mark.parametrize("stream", STREAMS)
def test_a_server_that_somebody_else_wrote_passes(variables: Variables, second: Server, stream: str) -> None:
    found = judged(variables(second.environment()), stream)
    assert {one.verdict for one in found.values()} == {PASS}


# --- servers that do not ------------------------------------------------------------------------------------------

Query = dict[str, str]
Body = dict[str, Any]
# One stream for each way of paging and of asking for a window.
EACH = ("benevity_donations", "workday_directory", "kintell_sessions")
# This server lets everybody in and knows no quota.
OPEN = {"no credentials", "wrong credentials", "wrong secret", "rate limit"}


@dataclass
class Slip:
    """A server's slip: in what it understands, in what it sends, in its records, or in the whole reply."""

    probe: str
    streams: Sequence[str] = EACH
    query: Callable[[Stream, Query], Query] = lambda stream, query: query
    body: Callable[[Stream, Query, Body], Body] = lambda stream, query, body: body
    records: Callable[[Stream, list[Record]], list[Record]] = lambda stream, records: records
    reply: Callable[[Reply], Reply] = lambda reply: reply
    verdict: str = FAIL


def moved(by: timedelta, end: int) -> Callable[[Stream, Query], Query]:
    """The window's beginning (0) or end (1), understood as another."""

    def query(stream: Stream, query: Query) -> Query:
        window = stream.window
        name = window.param if isinstance(window, ScimFilter) else [*vars(window).values()][end]
        times = re.findall(TIME, query.get(name, ""))
        if not times:
            return query
        old = times[end] if isinstance(window, ScimFilter) else times[0]
        new = (datetime.fromisoformat(old) + by).isoformat().replace("+00:00", "Z")
        return {**query, name: query[name].replace(old, new)}

    return query


def overlapping(stream: Stream, query: Query, body: Body) -> Body:
    """Each page but the first begins with a record of the one before it."""
    later = query.get("page", query.get("cursor", query.get("startIndex", "1"))) not in ("1",)
    rows = body[stream.records]
    return body if not later or not rows else {**body, stream.records: [record(stream.name, "r-0", AT[0]), *rows[1:]]}


def without_last(stream: Stream, query: Query, body: Body) -> Body:
    """Pages lose a record where they are cut."""
    size = int(query.get(stream.paging.limit, 100))
    rows = body[stream.records]
    return {**body, stream.records: rows[:-1]} if 1 < len(rows) == size else body


def unlimited(stream: Stream, query: Query) -> Query:
    return {name: value for name, value in query.items() if name != stream.paging.limit}


def anything_goes(stream: Stream, query: Query) -> Query:
    return {name: value for name, value in query.items() if value != "nonsense"}


def put_more(value: Any) -> Callable[[Stream, Query, Body], Body]:
    """What the reply says about paging, as another value."""

    def body(stream: Stream, query: Query, body: Body) -> Body:
        paging = stream.paging
        path = {PageNumber: "more", Cursor: "next", StartIndex: "total"}[type(paging)]
        put(body, getattr(paging, path), value)
        return body

    return body


def changed(path: str, value: Any) -> Callable[[Stream, list[Record]], list[Record]]:
    """The last record with another value; `id` and `at` are those of the stream."""

    def records(stream: Stream, records: list[Record]) -> list[Record]:
        name = {"id": stream.source_id, "at": stream.source_timestamp}.get(path, path)
        put(records[-1], name, value)
        return records

    return records


def backwards(stream: Stream, query: Query, body: Body) -> Body:
    return {**body, stream.records: body[stream.records][::-1]}


TIME = r"[0-9-]{10}T[0-9:.]{8,15}Z"
INTERNAL, SCIM = ["kintell_sessions"], ["workday_directory"]
NUMBERED = ["benevity_donations"]
TICK = timedelta(microseconds=1)

SLIPS = {
    "pages overlap": Slip("page sizes", EACH, body=overlapping),
    "pages lose a record": Slip("page sizes", [*NUMBERED, *INTERNAL], body=without_last),
    "the limit is ignored": Slip("page sizes", [*NUMBERED, *INTERNAL], query=unlimited),
    "since is exclusive": Slip("window borders", query=moved(TICK, 0)),
    "since is too early": Slip("window borders", query=moved(-TICK, 0)),
    "until is inclusive": Slip("window borders", [*NUMBERED, *SCIM], query=moved(TICK, 1)),
    "the window is a day too long": Slip("window", query=moved(timedelta(-1), 0)),
    "more is no boolean": Slip("reply", NUMBERED, body=put_more("yes")),
    "a cursor is a number": Slip("reply", INTERNAL, body=put_more(7)),
    "a cursor loops": Slip("paging", INTERNAL, body=put_more("at 0")),
    "the total is too high": Slip("paging", SCIM, body=put_more(99)),
    "the total is a text": Slip("reply", SCIM, body=put_more("12")),
    "the order is another": Slip("order", INTERNAL, body=backwards),
    "the list has another name": Slip("reply", body=lambda stream, query, body: {"items": body[stream.records]}),
    "it is HTML": Slip("reply", reply=lambda reply: Reply(b"<html>", headers={"Content-Type": "text/html"})),
    "it is said to be HTML": Slip(
        "reply", reply=lambda reply: Reply(reply.body, headers={"Content-Type": "text/html"})
    ),
    "it breaks off": Slip("reply", reply=lambda reply: Reply(reply.body, missing=10)),
    "it is down": Slip("reply", reply=lambda reply: Reply(b"{}", 503)),
    "an id is missing": Slip("ids", records=changed("id", ABSENT)),
    "an id comes again": Slip("ids", records=changed("id", "r-0"), verdict=CANNOT_TELL),
    "a timestamp is none": Slip("timestamps", records=changed("at", "yesterday")),
    "a required field is missing": Slip("contract", ["benevity_donations"], records=changed("amount", ABSENT)),
    "a value is in no list": Slip(
        "enumerations", ["benevity_donations"], records=changed("donationType", "x"), verdict=CANNOT_TELL
    ),
    "nonsense is overlooked": Slip("nonsense", EACH, query=anything_goes),
    "there is nothing": Slip("paging", records=lambda stream, records: [], verdict=CANNOT_TELL),
}


class Slipping(Listing):
    def __init__(self, stream: str, slip: Slip) -> None:
        super().__init__(stream, slip.records(declared(stream), records(stream)))
        self.slip = slip

    def __call__(self, ask: Ask) -> Reply:
        query = self.slip.query(self.stream, ask.query)
        reply = super().__call__(replace(ask, query=query))
        if reply.status == 200:
            reply = Reply(json.dumps(self.slip.body(self.stream, query, json.loads(reply.body))).encode())
        return self.slip.reply(reply)


@pytest.fixture(scope="module")
def server() -> Iterator[Answering]:
    with answering(lambda ask: Reply(b"")) as served:
        yield served


@pytest.mark.parametrize("stream", KINDS)
def test_a_server_that_lets_everybody_in_is_found_out(variables: Variables, server: Answering, stream: str) -> None:
    server.answer = Listing(stream, records(stream))
    found = judged(variables(server.environment()), stream)
    assert {one.probe for one in failed(found)} == OPEN & found.keys()


@pytest.mark.parametrize(
    ("name", "stream"), [(name, stream) for name, slip in SLIPS.items() for stream in slip.streams]
)
def test_a_slip_is_found_by_its_probe(variables: Variables, server: Answering, name: str, stream: str) -> None:
    slip = SLIPS[name]
    server.answer = Slipping(stream, slip)
    found = judged(variables(server.environment()), stream)[slip.probe]
    assert (found.verdict, bool(found.remedy)) == (slip.verdict, True), found


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command_asks_the_server_it_is_told(
    variables: Variables,
    second: Server,
    server: Answering,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, **variables(second.environment())})
    command = ["conformance", "--stream", "buddy_matches", "--from", "2024-01-15", "--to", "2024-01-16"]
    server.asked.clear()
    assert run([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {one["verdict"] for one in told["probes"]} == {PASS}
    assert told["requests"] > len(told["probes"])
    assert server.asked == []

    row = record("buddy_matches", "secret-id", AT[0], {"user_id": "secret-person", "status": None})
    server.answer = Listing("buddy_matches", [row])
    assert run([*command, "--url", f"{server.url}/buddy"]) == 4
    output = capsys.readouterr()
    assert server.asked
    assert "`status` (missing) 1" in output.out
    assert "no credentials" in output.out
    assert "secret" not in output.out + output.err
    assert not Path(os.environ["TEEI_HOME"], "events").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--stream", "buddy_match"], 2, "buddy_matches"),
        (["--stream", "buddy_matches", "--from", "2024-02-01", "--to", "2024-01-01"], 2, "--from is after --to"),
        (["--stream", "buddy_matches", "--url", "http://elsewhere.example"], 3, "https://"),
    ],
)
def test_what_the_command_refuses(
    variables: Variables,
    second: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    told: str,
) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, **variables(second.environment())})
    assert run(["conformance", *arguments]) == code
    output = capsys.readouterr()
    assert told in output.err
    assert output.out == ""
