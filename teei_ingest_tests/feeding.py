"""Feeding the pipeline by hand: records, a server that answers as it is told, one stream at work, what it left.

What a stream's records mean is the second opinion's business; here a record is its stream's example, changed.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

from teei_ingest.companies import load_companies
from teei_ingest.extract.http import Source
from teei_ingest.landing.landing import Landing
from teei_ingest.landing.quarantine import Quarantine, QuarantineEntry
from teei_ingest.mapping.plan import parse, plan
from teei_ingest.pipeline.ingest import Ingest, Places
from teei_ingest.redact.policy import policy_for
from teei_ingest.settings import Settings
from teei_ingest.store import open_store
from teei_ingest.streams import all_streams
from teei_ingest.streams.base import Cursor, PageNumber, StartIndex, Stream
from teei_ingest.systems import all_systems
from teei_ingest.vault.credentials import resolve
from teei_ingest.vault.keys import KeyRing
from teei_ingest_tests.loopback import Handler, listening
from teei_ingest_tests.running import Home
from teei_ingest_tests.second_opinion.server import Company

ACME = Company("acme-corp", "550e8400-e29b-41d4-a716-446655440000")
ABSENT = object()
NOW = datetime(2024, 6, 1, tzinfo=UTC)

Record = dict[str, Any]


def put(record: Record, path: str, value: Any) -> None:
    """Set the value at a wire path, or take it away if it is ABSENT."""
    keys, _ = parse(path)
    for key in keys[:-1]:
        record = record.setdefault(key, {})
    if value is ABSENT:
        record.pop(keys[-1], None)
    else:
        record[keys[-1]] = value


def record(stream: str, id: Any, at: Any, changes: Mapping[str, Any] | None = None) -> Record:
    """A stream's example with another id and source timestamp, and with `changes` by wire path."""
    declared = all_streams()[stream]
    made = copy.deepcopy(dict(declared.example))
    put(made, declared.source_id, id)
    put(made, declared.source_timestamp, at)
    for path, value in (changes or {}).items():
        put(made, path, value)
    return made


def page(stream: str, records: Any, following: Any = None, *, total: int | None = None) -> bytes:
    """A reply of the stream; `following` is the next cursor, or says that there are more pages."""
    declared = all_streams()[stream]
    reply: Record = {declared.records: records}
    paging = declared.paging
    if isinstance(paging, PageNumber):
        put(reply, paging.more, bool(following))
    elif isinstance(paging, Cursor):
        reply[paging.next] = following
    else:
        assert isinstance(paging, StartIndex)
        count = len(records) if isinstance(records, list) else 1
        reply |= {paging.total: count + (1 if following else 0) if total is None else total, paging.per_page: count}
    return json.dumps(reply).encode()


@dataclass(frozen=True)
class Ask:
    """A request for a list. `number` counts those of its stream from 1."""

    stream: str
    number: int
    query: dict[str, str]

    @property
    def is_first(self) -> bool:
        """Whether a reading begins with it."""
        return "cursor" not in self.query and {self.query.get("page", "1"), self.query.get("startIndex", "1")} == {"1"}


@dataclass
class Reply:
    """What is answered; `missing` bytes are announced and never sent, and status 0 hangs up."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    missing: int = 0


Answer = Callable[[Ask], Reply]


@dataclass
class Answering:
    """A server that is well, gives tokens to everybody and answers lists as `answer` says; `asked` holds what came."""

    url: str
    answer: Answer
    token: Reply
    asked: list[Ask] = field(default_factory=list)
    tokens: int = 0

    def environment(self, companies: Iterable[Company] = (ACME,)) -> dict[str, str]:
        """Addresses and credentials."""
        variables = {system.url_variable: f"{self.url}/{name}" for name, system in all_systems().items()}
        for company in companies:
            variables |= company.environment()
        return variables


@contextmanager
def answering(answer: Answer) -> Iterator[Answering]:
    """Serve on a loopback port of its own; `answer` and `token` may be changed meanwhile."""
    lock = threading.Lock()

    class Answers(Handler):
        def _send(self, reply: Reply) -> None:
            if not reply.status:
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body) + reply.missing))
            self.end_headers()
            self.wfile.write(reply.body)
            self.wfile.flush()
            if reply.missing:
                self.close_connection = True

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with lock:
                served.tokens += 1
            self._send(served.token)

        def do_GET(self) -> None:
            split = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(split.query).items()}
            if split.path.endswith("/health"):
                self._send(Reply(b'{"status": "ok"}'))
                return
            with lock:
                stream = _stream_of(split.path, query)
                ask = Ask(stream, 1 + sum(one.stream == stream for one in served.asked), query)
                served.asked.append(ask)
            self._send(served.answer(ask))

    token = Reply(b'{"access_token": "a.token", "token_type": "Bearer", "expires_in": 3600}')
    with listening(Answers) as url:
        served = Answering(url, answer, token)
        yield served


def _stream_of(path: str, query: Mapping[str, str]) -> str:
    system, _, below = path.strip("/").partition("/")
    for stream in all_streams().values():
        asked = {name: query.get(name) for name in stream.params}
        if (stream.system, stream.path.strip("/"), dict(stream.params)) == (system, below, asked):
            return stream.name
    raise AssertionError(f"no stream is read at {path}")


def always(body: bytes, status: int = 200, **others: Any) -> Answer:
    """The same reply to every request."""
    return lambda ask: Reply(body, status, **others)


def lists(data: Mapping[str, Sequence[Record]]) -> Answer:
    """All records of a stream on one page, whatever the window."""
    return lambda ask: Reply(page(ask.stream, list(data.get(ask.stream, ()))))


def worker(
    place: Home,
    stream: str,
    *,
    company: str = ACME.slug,
    now: datetime = NOW,
    page_size: int | None = None,
    **source_options: Any,
) -> Ingest:
    """One stream of one company at work in a home, without Dagster; its source may have another clock and sleep."""
    settings = Settings.load(place.environ)
    companies = load_companies(settings)
    owner, declared = companies.get(company), all_streams()[stream]
    system = all_systems()[declared.system]
    credentials = resolve(settings, companies, owner, declared.system)
    source = Source(system, credentials, settings, **source_options)
    return Ingest(
        plan(stream),
        owner,
        getattr(credentials, system.tenant),
        Places(settings, open_store(settings), Landing(settings), Quarantine(settings)),
        KeyRing.open(settings, owner),
        policy_for(company, owner.privacy),
        lambda: source,
        run_id="a-run",
        page_size=page_size,
        now=lambda: now,
    )


def contract_of(stream: str) -> Any:
    """The contract's class."""
    return all_streams()[stream].contract


def declared(stream: str) -> Stream:
    """The stream's declaration."""
    return all_streams()[stream]


def stored(place: Home, stream: str, *, company: str = ACME.slug, day: date | None = None) -> list[dict[str, Any]]:
    """The stored rows of a stream, by event id."""
    store = open_store(place.settings)
    days = None if day is None else [day]
    rows = store.rows(contract_of(stream), stream=stream, company=company, days=days).to_pylist()
    return sorted(rows, key=lambda row: str(row["event_id"]))


def quarantined(place: Home, stream: str, day: date, *, company: str = ACME.slug) -> list[QuarantineEntry]:
    """The sealed entries of a day."""
    settings = place.settings
    ring = KeyRing.open(settings, load_companies(settings).get(company))
    return Quarantine(settings).entries(ring, company, stream, day)
