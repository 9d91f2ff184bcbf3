"""The second opinion tested on itself: its server over real HTTP, its data, and that its oracle finds faults."""

import gzip
import hashlib
import http.client
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any, Literal
from urllib.parse import urlencode, urlsplit

import pytest

from .data import COMPANIES, FIRST_DAY, LAST_DAY, World, generate
from .instants import DAY, STREAMS, Record, midnight, parse, source_timestamp, spell
from .oracle import (
    AnyOf,
    Bindings,
    Coarse,
    EventId,
    Expected,
    Hash,
    Measures,
    Removed,
    Row,
    Scrubbed,
    Token,
    compare,
    current_rows,
    expect,
    rows_of,
    totals,
)
from .server import Company, Server

PATHS = {
    "benevity_volunteers": "/api/v2/volunteer-activities",
    "benevity_donations": "/api/v2/donations",
    "goodera_volunteers": "/api/v1/activities",
    "goodera_donations": "/api/v1/activities",
    "workday_directory": "/scim/v2/Users",
    "kintell_enrollments": "/v1/enrollments",
    "kintell_sessions": "/v1/sessions",
    "upskilling_enrollments": "/v1/enrollments",
    "buddy_matches": "/v1/matches",
    "buddy_checkins": "/v1/checkins",
    "buddy_events": "/v1/events",
    "mentorship_placements": "/v1/placements",
}
ADDRESSES = {
    "kintell": "KINTELL_CONNECTOR_URL",
    "upskilling": "UPSKILLING_CONNECTOR_URL",
    "buddy": "BUDDY_CONNECTOR_URL",
    "mentorship": "MENTORSHIP_SERVICE_URL",
}


@pytest.fixture(scope="module")
def world() -> World:
    return generate(seed=7)


@pytest.fixture(scope="module")
def expected(world: World) -> Expected:
    return expect(world.records, world.companies, world.first, world.last)


# A client.


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: Any


class Client:
    """Speaks to a server as one company, from its environment variables alone."""

    def __init__(self, server: Server, company: Company) -> None:
        self.env = server.environment()
        self.slug = company.slug.upper().replace("-", "_")
        self.company = company
        self.connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)

    def close(self) -> None:
        self.connection.close()

    def variable(self, system: str, credential: str) -> str:
        return self.env[f"{system.upper()}_{self.slug}_{credential}"]

    def base(self, system: str) -> str:
        return urlsplit(self.env[ADDRESSES.get(system, f"{system.upper()}_API_URL")]).path

    def send(
        self,
        method: str,
        path: str,
        query: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        form: dict[str, str] | None = None,
    ) -> Answer:
        sent = {"Accept-Encoding": "gzip", **(headers or {})}
        if form is not None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        body = None if form is None else urlencode(form)
        self.connection.request(method, f"{path}?{urlencode(query or {})}", body, sent)
        response = self.connection.getresponse()
        raw = response.read()
        if response.getheader("content-encoding") == "gzip":
            raw = gzip.decompress(raw)
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, json.loads(raw, parse_float=Decimal))

    def token(self, system: str) -> Answer:
        form = {
            "grant_type": "client_credentials",
            "client_id": self.variable(system, "CLIENT_ID"),
            "client_secret": self.variable(system, "CLIENT_SECRET"),
            "scope": "directory_read" if system == "workday" else "volunteer_read donation_read",
        }
        return self.send("POST", f"{self.base(system)}/oauth2/token", form=form)

    def headers(self, system: str) -> dict[str, str]:
        if system == "goodera":
            return {"X-API-Key": self.variable(system, "API_KEY")}
        if system in ADDRESSES:
            own = f"{system.upper()}_{self.slug}_API_KEY"
            return {"Authorization": f"Bearer {self.env.get(own) or self.variable('internal', 'API_KEY')}"}
        headers = {"Authorization": f"Bearer {self.token(system).body['access_token']}"}
        if system == "workday":
            headers["X-Workday-Tenant"] = self.variable(system, "TENANT_ID")
        return headers

    def query(self, stream: str) -> dict[str, Any]:
        system = stream.partition("_")[0]
        if system == "benevity":
            return {"tenant_id": self.variable(system, "TENANT_ID")}
        if system == "goodera":
            kind = "donation" if stream.endswith("donations") else "volunteering"
            return {"project_id": self.variable(system, "PROJECT_ID"), "activity_type": kind}
        return {"company_id": self.company.id} if system in ADDRESSES else {}

    def pages(self, stream: str, since: str, until: str, limit: int) -> Iterator[list[Record]]:
        system = stream.partition("_")[0]
        path, headers = self.base(system) + PATHS[stream], self.headers(system)
        query = {**self.query(stream), "since": since, "limit": limit}
        position: dict[str, Any] = {}
        if system in ("benevity", "goodera"):
            query["until"], position = until, {"page": 1}
        elif system == "workday":
            wanted = f'meta.lastModified ge "{since}" and meta.lastModified lt "{until}"'
            query, position = {"count": limit, "filter": wanted}, {"startIndex": 1}
        while True:
            answer = self.send("GET", path, {**query, **position}, headers)
            if "filter" in query and answer.status in (400, 501):
                del query["filter"]
                continue
            assert answer.status == 200, answer.body
            if system == "benevity":
                records, more = answer.body["records"], answer.body["hasMore"]
                position = {"page": position["page"] + 1}
            elif system == "goodera":
                records, more = answer.body["data"], answer.body["pagination"]["hasMore"]
                position = {"page": position["page"] + 1}
            elif system == "workday":
                assert answer.headers["content-type"].startswith("application/scim+json")
                records = answer.body["Resources"]
                assert answer.body["itemsPerPage"] == len(records)
                position = {"startIndex": position["startIndex"] + len(records)}
                more = position["startIndex"] <= answer.body["totalResults"]
            else:
                records = answer.body[path.rpartition("/")[2]]
                position = {"cursor": answer.body.get("next_cursor")}
                more = position["cursor"] is not None
            assert len(records) <= limit
            yield records
            if not more:
                return


def instant(day: date) -> str:
    return spell(midnight(day), digits=0)


def read_everything(server: Server, world: World) -> dict[tuple[str, str], list[Record]]:
    found = {}
    until = instant(world.last + timedelta(days=1))
    for company in world.companies:
        with closing(Client(server, company)) as client:
            for stream in STREAMS:
                pages = client.pages(stream, instant(world.first), until, 100)
                found[company.slug, stream] = [record for page in pages for record in page]
    return found


def substance(expected: Expected) -> dict[object, object]:
    """All of an expectation but the order of its rows and the wire records of what was quarantined."""
    return {
        key: (
            part.counts,
            sorted((row.record, row.at, repr(dict(row))) for row in part.rows),
            Counter(reason for reason, _ in part.quarantined),
        )
        for key, part in expected.items()
    }


# The server.


@pytest.mark.parametrize(
    ("scim_filter", "short_pages"), [("supported", False), ("invalid", True), ("not_implemented", False)]
)
def test_reading_page_by_page_gives_the_data(
    world: World,
    expected: Expected,
    scim_filter: Literal["supported", "invalid", "not_implemented"],
    short_pages: bool,
) -> None:
    with Server(
        world.records,
        world.companies,
        scim_filter=scim_filter,
        short_pages=short_pages,
        internal_page=7,
        scim_page=11,
    ) as server:
        found = read_everything(server, world)
    assert substance(expect(found, world.companies, world.first, world.last)) == substance(expected)
    assert {one.system for one in server.requests} == {stream.partition("_")[0] for stream in STREAMS}


def test_internal_lists_ascend_and_equal_timestamps_cross_page_borders(world: World) -> None:
    company = world.companies[0]
    with (
        Server(world.records, world.companies, internal_page=5) as server,
        closing(Client(server, company)) as client,
    ):
        pages = list(client.pages("kintell_sessions", instant(FIRST_DAY), "", 200))
    times = [[source_timestamp("kintell_sessions", record) or 0 for record in page] for page in pages]
    flat = [at for page in times for at in page]
    assert flat == sorted(flat)
    assert any(before[-1] == after[0] > 0 for before, after in pairwise(times))


def test_the_others_promise_no_order(world: World) -> None:
    with Server(world.records, world.companies) as server:
        found = read_everything(server, world)
    for stream in ("benevity_donations", "goodera_volunteers", "workday_directory"):
        times = [source_timestamp(stream, record) or 0 for record in found["acme-corp", stream]]
        assert times != sorted(times)


def test_since_is_inclusive_and_until_exclusive() -> None:
    start, end = midnight(FIRST_DAY), midnight(FIRST_DAY) + DAY
    edges = {"before": start - 1, "first": start, "last": end - 1, "after": end}
    records: dict[str, list[Record]] = {
        "benevity_donations": [{"id": name, "updatedAt": spell(at)} for name, at in edges.items()],
        "workday_directory": [{"id": name, "meta": {"lastModified": spell(at, 330)}} for name, at in edges.items()],
        "buddy_events": [{"id": name, "updated_at": spell(at, -480)} for name, at in edges.items()],
    }
    company = COMPANIES[0]
    with (
        Server({(company.slug, stream): found for stream, found in records.items()}, [company]) as server,
        closing(Client(server, company)) as client,
    ):
        until = instant(FIRST_DAY + timedelta(days=1))
        sent = {
            stream: sorted(
                record["id"] for page in client.pages(stream, instant(FIRST_DAY), until, 100) for record in page
            )
            for stream in records
        }
    assert sent == {
        "benevity_donations": ["first", "last"],
        "workday_directory": ["first", "last"],
        "buddy_events": ["after", "first", "last"],
    }


def test_a_last_page_that_is_exactly_full_says_that_nothing_follows(world: World) -> None:
    until = instant(LAST_DAY + timedelta(days=1))
    with (
        Server(world.records, world.companies) as server,
        closing(Client(server, world.companies[0])) as client,
    ):
        pages = list(client.pages("benevity_volunteers", instant(FIRST_DAY), until, 100))
    assert {len(page) for page in pages} == {100}


def test_what_the_server_refuses(world: World) -> None:
    one, other = world.companies[:2]
    with (
        Server(world.records, world.companies) as server,
        closing(Client(server, one)) as client,
        closing(Client(server, other)) as stranger,
    ):

        def status(stream: str, headers: dict[str, str] | None = None, **query: Any) -> int:
            system = stream.partition("_")[0]
            asked = {**client.query(stream), **query}
            answer = client.send(
                "GET",
                client.base(system) + PATHS[stream],
                {name: value for name, value in asked.items() if value is not None},
                client.headers(system) if headers is None else headers,
            )
            assert (answer.status == 200) != ("error" in answer.body and "message" in answer.body)
            return answer.status

        for stream in STREAMS:
            system = stream.partition("_")[0]
            assert status(stream) == 200
            assert status(stream, headers={}) == 401
            size = "count" if system == "workday" else "limit"
            too_many: dict[str, Any] = {size: "many"}
            assert status(stream, **too_many) == 422
            assert status(stream, surprise=1) == 422
        assert status("benevity_donations", headers=stranger.headers("benevity")) == 403
        assert status("goodera_donations", headers=stranger.headers("goodera")) == 403
        assert status("buddy_events", headers=stranger.headers("buddy")) == 403
        assert status("kintell_sessions", headers=client.headers("buddy")) == 401
        tenant: dict[str, str] = {"X-Workday-Tenant": stranger.variable("workday", "TENANT_ID")}
        assert status("workday_directory", headers=client.headers("workday") | tenant) == 403
        assert status("benevity_donations", limit=101) == 422
        assert status("goodera_donations", limit=501) == 422
        assert status("goodera_donations", activity_type="golf") == 422
        assert status("kintell_sessions", limit=201) == 422
        assert status("kintell_sessions", cursor="made up") == 422
        assert status("buddy_events", company_id=None) == 422
        assert status("benevity_donations", since="2024-01-15T00:00:00") == 422
        assert status("workday_directory", filter='userName eq "x"') == 400
        nowhere = client.send("GET", client.base("workday") + "/scim/v2/Groups")
        assert (nowhere.status, nowhere.body["schemas"]) == (
            404,
            ["urn:ietf:params:scim:api:messages:2.0:Error"],
        )
        healthy = [client.send("GET", client.base(system) + "/health").status for system in ADDRESSES]
        healthy.append(client.send("GET", client.base("goodera") + "/api/v1/health").status)
        assert healthy == [200] * 5


def test_tokens_expire() -> None:
    company = COMPANIES[0]
    with Server({}, [company], token_ttl=0.2) as server, closing(Client(server, company)) as client:
        headers = client.headers("benevity")
        path, query = client.base("benevity") + PATHS["benevity_donations"], client.query("benevity_donations")
        assert client.send("GET", path, query, headers).status == 200
        deadline = time.monotonic() + 5
        while (status := client.send("GET", path, query, headers).status) == 200:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert status == 401
        assert client.send("GET", path, query, client.headers("benevity")).status == 200


def test_goodera_counts_by_key() -> None:
    one, other = COMPANIES[:2]
    with (
        Server({}, COMPANIES, quota=3) as server,
        closing(Client(server, one)) as client,
        closing(Client(server, other)) as stranger,
    ):
        path = client.base("goodera") + PATHS["goodera_donations"]

        def ask(asker: Client) -> Answer:
            return asker.send("GET", path, asker.query("goodera_donations"), asker.headers("goodera"))

        answers = [ask(client) for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 200, 200, 429]
        assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["2", "1", "0", "0"]
        assert 0 < int(answers[-1].headers["retry-after"]) <= 60
        assert ask(stranger).status == 200
        assert server.quota_peak == {one.slug: 4, other.slug: 1}


# The data.


def test_one_seed_gives_one_world(world: World) -> None:
    assert generate(seed=7).records == world.records
    assert generate(seed=8).records != world.records


def test_instants_are_exact() -> None:
    assert spell(parse("2024-01-16T05:29:59.999999999+05:30")) == "2024-01-15T23:59:59.999999999Z"
    for text in ("2024-01-15T10:00:00", "2024-01-15T10:00:00+24:00", "2024-02-30T00:00:00Z", "2024-01-15"):
        with pytest.raises(ValueError, match=r".+"):
            parse(text)


def test_the_oracle_quarantines_exactly_what_was_broken(world: World, expected: Expected) -> None:
    for (slug, stream), bad in world.bad.items():
        quarantined = [record for day in world.days for _, record in expected[slug, stream, day].quarantined]
        key = [json.dumps(record, default=str, sort_keys=True) for record in quarantined]
        labelled = {json.dumps(one.record, default=str, sort_keys=True): one.reason for one in bad}
        assert Counter(key) == Counter(labelled.keys()), [labelled.get(one, "not labelled") for one in key]


def test_every_stream_has_every_count_and_stays_below_the_threshold(world: World, expected: Expected) -> None:
    for (_, stream), counts in totals(expected).items():
        assert counts.kept > 40
        assert counts.quarantined > 8 or stream == "buddy_checkins"
        assert (counts.duplicates > 0) == (stream != "workday_directory")
        assert counts.fetched == counts.kept + counts.quarantined + counts.duplicates
    assert max(part.counts.quarantined for part in expected.values()) < 10


# The oracle.


def realised(row: Row) -> Record:
    """A row as a flawless product would store it."""

    def real(value: Any) -> Any:
        if isinstance(value, AnyOf):
            return real(value.choices[-1])
        if isinstance(value, Removed):
            return None
        if isinstance(value, Token | Hash):
            return f"{'t1' if isinstance(value, Token) else 'h1'}_" + digest(value)
        if isinstance(value, EventId):
            raw = digest(value)
            return f"{raw[:8]}-{raw[8:12]}-8{raw[13:16]}-a{raw[17:20]}-{raw[20:32]}"
        if isinstance(value, Scrubbed):
            return "Food bank [REDACTED]"
        if isinstance(value, Coarse):
            return value.month
        if isinstance(value, Measures):
            return dict(value.numbers)
        if isinstance(value, dict):
            return {name: real(inner) for name, inner in value.items()}
        return [real(inner) for inner in value] if isinstance(value, list) else value

    def digest(value: object) -> str:
        return hashlib.sha256(f"{row['company']}{value!r}".encode()).hexdigest()

    return {column: real(value) for column, value in row.items()}


def test_exact_rows_have_no_difference_in_any_order(expected: Expected) -> None:
    wanted = rows_of(expected)
    rows = [realised(row) for row in wanted]
    assert compare(wanted, rows[::-1]) == []
    as_json = json.loads(json.dumps(rows, default=str), parse_float=Decimal)
    assert compare(wanted, as_json) == []


def test_current_rows_are_the_newest_versions(expected: Expected) -> None:
    current = current_rows(expected)
    assert len(current) < len(rows_of(expected))
    assert len({row.record for row in current}) == len(current)
    bindings = Bindings()
    assert compare(rows_of(expected), [realised(row) for row in rows_of(expected)], bindings) == []
    assert compare(current, [realised(row) for row in current], bindings) == []


def first_of(rows: list[Record], stream: str, column: str) -> int:
    """The stream's first row with something in the column, else its first."""
    own = [n for n, row in enumerate(rows) if row["stream"] == stream]
    return next((n for n in own if rows[n][column]), own[0])


def drop(rows: list[Record]) -> None:
    del rows[11]


def double(rows: list[Record]) -> None:
    rows.append(dict(rows[11]))


def change(stream: str, column: str, value: Any) -> Callable[[list[Record]], None]:
    def spoil(rows: list[Record]) -> None:
        rows[first_of(rows, stream, column)][column] = value

    spoil.__name__ = f"{column}={value}"
    return spoil


def swap_tokens(rows: list[Record]) -> None:
    one = first_of(rows, "kintell_sessions", "user_id")
    other = next(
        n
        for n, row in enumerate(rows)
        if row["stream"] == "kintell_sessions" and row["user_id"] != rows[one]["user_id"]
    )
    rows[one]["user_id"], rows[other]["user_id"] = rows[other]["user_id"], rows[one]["user_id"]


def same_token_in_two_companies(rows: list[Record]) -> None:
    tokens = {row["company"]: row["user_id"] for row in rows if row["user_id"]}
    mine, theirs = tokens["acme-corp"], tokens["globex-inc"]
    for row in rows:
        for column in ("user_id", "external_user_id", "verified_by", "mentor_id", "participant_id"):
            if row.get(column) == theirs:
                row[column] = mine


def one_event_id_twice(rows: list[Record]) -> None:
    rows[1]["event_id"] = rows[2]["event_id"]


def random_event_id(rows: list[Record]) -> None:
    rows[1]["event_id"] = "0b7c3d3e-96a1-4d6e-9c3b-111111111111"


def readable_mail_in_a_label(rows: list[Record]) -> None:
    row = rows[first_of(rows, "benevity_volunteers", "activity_name")]
    row["activity_name"] += " kari.nordmann@acme.example"


def wrong_day(rows: list[Record]) -> None:
    rows[0]["day"] += timedelta(days=1)


def one_more_column(rows: list[Record]) -> None:
    rows[0]["contact_phone"] = "+47 900 00 000"


def one_column_less(rows: list[Record]) -> None:
    for row in rows:
        row.pop("cause_area", None)


@pytest.mark.parametrize(
    "spoil",
    [
        drop,
        double,
        change("benevity_volunteers", "hours_logged", 4.25),
        change("benevity_donations", "amount", 250.0),
        change("benevity_donations", "amount", Decimal("0.01")),
        change("goodera_volunteers", "activity_description", "free words"),
        change("goodera_volunteers", "activity_date", "2024-01-15T00:00:00"),
        change("goodera_volunteers", "sdg_goals", [3]),
        change("workday_directory", "email", "kari.nordmann@acme.example"),
        change("workday_directory", "email", "h1_somebodyelse"),
        change("workday_directory", "hire_date", "2019-08-02"),
        change("workday_directory", "first_name", "Kari"),
        change("kintell_sessions", "session", None),
        change("mentorship_placements", "total_hours", Decimal("0.8334")),
        change("buddy_checkins", "event_id", None),
        swap_tokens,
        same_token_in_two_companies,
        one_event_id_twice,
        random_event_id,
        readable_mail_in_a_label,
        wrong_day,
        one_more_column,
        one_column_less,
    ],
    ids=lambda spoil: spoil.__name__,
)
def test_a_planted_fault_is_found(expected: Expected, spoil: Callable[[list[Record]], None]) -> None:
    wanted = rows_of(expected)
    rows = [realised(row) for row in wanted]
    spoil(rows)
    assert compare(wanted, rows) != []


def test_a_scrubbed_label_must_not_keep_what_it_had(expected: Expected) -> None:
    wanted = [row for row in rows_of(expected) if isinstance(row.get("activity_name"), Scrubbed)]
    assert wanted
    rows = [realised(row) for row in wanted]
    assert compare(wanted, rows) == []
    rows[0]["activity_name"] = f"with {wanted[0]['activity_name'].forbidden[0].upper()}"
    assert len(compare(wanted, rows)) == 1
