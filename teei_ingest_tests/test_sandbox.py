"""The sandbox keeps to `wire.md`: what it serves, what it refuses, that its data follow from the seed alone."""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest

from teei_ingest.errors import UsageError
from teei_ingest.sandbox.app import Sandbox, controls
from teei_ingest.sandbox.chance import parse, write
from teei_ingest.sandbox.makers import MAKERS
from teei_ingest.sandbox.people import staff
from teei_ingest.sandbox.server import COMPANIES, SandboxConfig, environment, running, sign, truth
from teei_ingest.streams import all_streams
from teei_ingest.streams.base import Between, Cursor, PageNumber, ScimFilter, Stream
from teei_ingest.systems import all_systems
from teei_ingest.systems.base import OAuth2

STREAMS = sorted(MAKERS)
ACME = "acme-corp"
DAY = date(2024, 1, 15)
MIDNIGHT = "2024-01-15T00:00:00Z"
NEXT_MIDNIGHT = "2024-01-16T00:00:00Z"
LATER = datetime(2024, 3, 1, tzinfo=UTC).timestamp()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def send(
    app: Any, method: str, path: str, query: Any = (), headers: dict[str, str] | None = None, body: bytes = b""
) -> Answer:
    """One request to an ASGI application, without a socket."""
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": urlencode(query).encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def collect(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, collect))
    return Answer(
        sent[0]["status"],
        {name.decode(): value.decode() for name, value in sent[0]["headers"]},
        b"".join(message.get("body", b"") for message in sent[1:]),
    )


@dataclass
class Client:
    """Asks as wire.md says, with credentials from the environment that the sandbox gives out."""

    config: SandboxConfig = field(default_factory=SandboxConfig)
    now: float = LATER
    company: str = ACME

    def __post_init__(self) -> None:
        self.app = Sandbox(self.config, lambda: self.now)
        self.environment = environment(self.config, "")

    def credential(self, system: str, name: str) -> str:
        owner = all_systems()[system].shared_credential or system
        return self.environment[f"{owner}_{self.company}_{name}".replace("-", "_").upper()]

    def form(self, system: str) -> dict[str, str]:
        auth = all_systems()[system].auth
        assert isinstance(auth, OAuth2)
        return {
            "grant_type": "client_credentials",
            "client_id": self.credential(system, "client_id"),
            "client_secret": self.credential(system, "client_secret"),
            "scope": auth.scope,
        }

    def token(self, system: str, **changes: str) -> Answer:
        return send(
            self.app,
            "POST",
            f"/{system}/oauth2/token",
            headers={"Content-Type": "application/x-www-form-urlencoded"},
            body=urlencode(self.form(system) | changes).encode(),
        )

    def headers(self, stream: Stream) -> dict[str, str]:
        system = all_systems()[stream.system]
        if isinstance(system.auth, OAuth2):
            headers = {"Authorization": f"Bearer {self.token(system.name).json['access_token']}"}
        else:
            headers = {system.auth.header: system.auth.prefix + self.credential(system.name, "api_key")}
        if system.tenant_header:
            headers[system.tenant_header] = self.credential(system.name, system.tenant)
        return headers

    def query(self, stream: Stream, since: str | None = MIDNIGHT, until: str | None = None) -> dict[str, str]:
        system = all_systems()[stream.system]
        query = dict(stream.params)
        if system.tenant_param == "company_id":
            query["company_id"] = self.config.id_of(self.company)
        elif system.tenant_param:
            query[system.tenant_param] = self.credential(system.name, system.tenant)
        if isinstance(stream.window, ScimFilter):
            ends = (("ge", since), ("lt", until))
            query["filter"] = " and ".join(f'meta.lastModified {op} "{end}"' for op, end in ends if end)
        elif since:
            query["since"] = since
        if isinstance(stream.window, Between) and until:
            query["until"] = until
        return query

    def get(
        self,
        name: str,
        query: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        without: str = "",
    ) -> Answer:
        """A legal request for a stream's day, changed by `query` and `headers`."""
        stream = all_streams()[name]
        asked = self.query(stream, until=NEXT_MIDNIGHT) | (query or {})
        given = self.headers(stream) | (headers or {})
        asked.pop(without, None)
        given.pop(without, None)
        return send(self.app, "GET", f"/{stream.system}{stream.path}", asked, given)

    def pages(self, name: str, since: str | None, until: str | None, limit: int) -> list[list[dict[str, Any]]]:
        """All pages of a window, as the stream's style of paging has it."""
        stream = all_streams()[name]
        paging = stream.paging
        query: dict[str, Any] = self.query(stream, since, until) | {paging.limit: limit}
        pages: list[list[dict[str, Any]]] = []
        headers = self.headers(stream)
        while True:
            if isinstance(paging, PageNumber):
                query["page"] = len(pages) + 1
            answer = send(self.app, "GET", f"/{stream.system}{stream.path}", query, headers)
            assert answer.status == 200, answer.body
            body = answer.json
            pages.append(body[stream.records])
            if isinstance(paging, PageNumber):
                inner = body.get("pagination", body)
                assert inner.get("page", len(pages)) == len(pages)
                more = inner["hasMore"]
            elif isinstance(paging, Cursor):
                more = query["cursor"] = body["next_cursor"]
            else:
                read = sum(map(len, pages))
                assert body["itemsPerPage"] == len(pages[-1])
                more = read < body["totalResults"]
                query["startIndex"] = read + 1
            if not more:
                return pages


def instant(name: str, record: dict[str, Any]) -> int:
    value: Any = record
    for step in all_streams()[name].source_timestamp.split("/"):
        value = value[step]
    moment = parse(value)
    assert moment is not None
    return moment


def day_of(name: str, record: dict[str, Any]) -> date:
    return datetime.fromtimestamp(instant(name, record) // 10**9, UTC).date()


def canonical(records: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(record, sort_keys=True) for record in records)


# --- the data ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STREAMS)
def test_data_follow_from_seed_company_stream_and_day(name: str) -> None:
    day = truth(SandboxConfig(), name, ACME, DAY)
    others = SandboxConfig(
        companies={"zeta": "00000000-0000-4000-8000-000000000000"}, first_day=DAY, last_day=DAY, quota=False
    )
    assert truth(others, name, ACME, DAY) == day
    assert truth(SandboxConfig(seed=2), name, ACME, DAY) != day
    assert truth(SandboxConfig(), name, "globex-inc", DAY) != day
    assert truth(SandboxConfig(), name, ACME, DAY + timedelta(1)) != day


@pytest.mark.parametrize("seed", [20240115, 1, 2, 3])
def test_demo_has_records_everywhere(seed: int) -> None:
    config = SandboxConfig(seed=seed)
    for name in STREAMS:
        for slug, _, _ in COMPANIES:
            for number in range(7):
                day = DAY + timedelta(number)
                records = truth(config, name, slug, day)
                assert records, (name, slug, day)
                assert {day_of(name, record) for record in records} == {day}


def test_other_days_can_be_empty() -> None:
    counts = [len(truth(SandboxConfig(), "buddy_events", "some-co", DAY + timedelta(n))) for n in range(120)]
    assert 0 in counts
    assert 11 < sum(counts) / len(counts) < 13


@pytest.mark.parametrize("name", [name for name in STREAMS if not MAKERS[name].people])
def test_a_record_shows_again_when_it_changes(name: str) -> None:
    versions: dict[str, list[int]] = {}
    for number in range(60):
        records = truth(SandboxConfig(), name, ACME, DAY + timedelta(number))
        assert len({record["id"] for record in records}) == len(records)
        for record in records:
            versions.setdefault(record["id"], []).append(instant(name, record))
    again = [moments for moments in versions.values() if len(moments) > 1]
    assert 0 < len(again) < 0.1 * len(versions)
    assert all(moments == sorted(set(moments)) for moments in again)


def test_ids_of_companies_differ() -> None:
    for name in STREAMS:
        ids = [{r["id"] for r in truth(SandboxConfig(), name, slug, DAY)} for slug, _, _ in COMPANIES]
        assert not ids[0] & ids[1] and not ids[1] & ids[2], name


def test_one_person_in_all_systems() -> None:
    config = SandboxConfig(records=200)
    users = truth(config, "workday_directory", ACME, DAY)
    extension = "urn:ietf:params:scim:schemas:extension:workday:2.0:User"
    by_employee = {user[extension]["employeeID"]: user["userName"] for user in users if extension in user}
    hours = truth(config, "benevity_volunteers", ACME, DAY)
    known = [record for record in hours if record["userId"] in by_employee]
    assert known
    for record in known:
        assert record["userEmail"].casefold() == by_employee[record["userId"]]
    for record in truth(config, "goodera_donations", ACME, DAY):
        assert record["user_email"].casefold() in {person.email for person in staff(config.seed, ACME, config.people)}
    ids = {person.user_id for person in staff(config.seed, ACME, config.people)}
    for name, person in (
        ("kintell_enrollments", "user_id"),
        ("kintell_sessions", "user_id"),
        ("upskilling_enrollments", "user_id"),
        ("buddy_matches", "buddy_id"),
        ("mentorship_placements", "mentee_id"),
    ):
        assert {record[person] for record in truth(config, name, ACME, DAY)} <= ids


def test_managers_form_a_tree() -> None:
    people = staff(SandboxConfig().seed, ACME, 120)
    assert [person.number for person in people if person.manager is None] == [0]
    assert all(person.manager < person.number for person in people if person.manager is not None)
    extension = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
    known = {person.scim_id for person in people}
    named = [
        user[extension]["manager"]["value"]
        for user in truth(SandboxConfig(), "workday_directory", ACME, DAY)
        if "manager" in user.get(extension, {})
    ]
    assert named and set(named) <= known


def test_nobody_shows_twice_in_the_directory_within_a_week() -> None:
    ids = [
        user["id"] for n in range(7) for user in truth(SandboxConfig(), "workday_directory", ACME, DAY + timedelta(n))
    ]
    assert len(ids) == len(set(ids))


def test_checkins_belong_to_matches() -> None:
    config = SandboxConfig()
    matches = {
        record["id"] for n in range(-25, 1) for record in truth(config, "buddy_matches", ACME, DAY + timedelta(n))
    }
    checkins = truth(config, "buddy_checkins", ACME, DAY)
    assert {record["match_id"] for record in checkins} <= matches


def test_personal_data_are_where_real_systems_have_them() -> None:
    config = SandboxConfig(records=400)
    texts = [record.get("activityDescription") for record in truth(config, "benevity_volunteers", ACME, DAY)]
    people = staff(config.seed, ACME, config.people)
    for probe in ("email", "phone", "first", "name"):
        assert any(getattr(person, probe) in text for person in people for text in texts if text), probe


def test_optional_fields_are_missing_or_null_and_unknown_ones_turn_up() -> None:
    records = truth(SandboxConfig(records=400), "goodera_volunteers", ACME, DAY)
    for name in MAKERS["goodera_volunteers"].optional:
        assert any(name not in record for record in records), name
        assert any(name in record and record[name] is None for record in records), name
    assert any("x_contact" in record for record in records)
    assert {"hackathon", "hands-on", "HANDS-ON"} <= {record["type"] for record in records}


def test_times_come_with_offsets_and_fractions() -> None:
    stamps = [record["updated_at"] for record in truth(SandboxConfig(records=400), "buddy_events", ACME, DAY)]
    assert any(stamp.endswith("+05:30") for stamp in stamps)
    assert {len(stamp.partition(".")[2].rstrip("Z")) for stamp in stamps if stamp.endswith("Z")} >= {0, 3, 6, 9}


def test_bad_ratio() -> None:
    good, bad = (truth(SandboxConfig(records=2000, bad_ratio=r), "benevity_volunteers", ACME, DAY) for r in (0, 0.01))
    spoiled = [record for record in bad if record["id"] in {g["id"] for g in good} and record not in good]
    assert 0.004 * len(bad) < len(spoiled) < 0.02 * len(bad)
    assert all(record.get("hoursLogged") == -1 or not record.get("activityDate") for record in spoiled)


@pytest.mark.parametrize("name", ["workday_directory", "buddy_matches", "benevity_donations"])
def test_many_records_a_day(name: str) -> None:
    config = SandboxConfig(records=12_000, spread=0, people=30)
    records = truth(config, name, ACME, DAY)
    assert len(records) == 12_000
    assert len({record["id"] for record in records}) == 12_000
    moments = [instant(name, record) for record in records]
    assert moments == sorted(set(moments))
    if MAKERS[name].people:
        assert len({record["userName"] for record in records}) == 12_000


# --- reading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [7, 100])
@pytest.mark.parametrize("name", STREAMS)
def test_paging_is_complete(name: str, limit: int) -> None:
    config = SandboxConfig(first_day=date(2024, 1, 1), last_day=date(2024, 1, 18))
    pages = Client(config).pages(name, MIDNIGHT, "2024-01-19T00:00:00Z", limit)
    expected = [record for n in range(4) for record in truth(config, name, ACME, DAY + timedelta(n))]
    served = [record for page in pages for record in page]
    assert canonical(served) == canonical(expected)
    assert len(pages) == -(-len(expected) // limit)
    if isinstance(all_streams()[name].paging, Cursor):
        assert served == expected
        moments = [instant(name, record) for record in served]
        assert moments == sorted(moments)


@pytest.mark.parametrize("name", STREAMS)
def test_ends_of_a_window(name: str) -> None:
    day = truth(SandboxConfig(), name, ACME, DAY)
    first, last = instant(name, day[2]), instant(name, day[-2])
    pages = Client().pages(name, write(first, 9), write(last, 9), 100)
    served = [record for page in pages for record in page]
    if isinstance(all_streams()[name].paging, Cursor):
        assert served[: len(day) - 2] == day[2:]
    else:
        assert canonical(served) == canonical(day[2:-2])


@pytest.mark.parametrize("name", STREAMS)
def test_an_empty_window(name: str) -> None:
    config = SandboxConfig(first_day=DAY, last_day=DAY)
    assert Client(config).pages(name, NEXT_MIDNIGHT, "2024-01-17T00:00:00Z", 100) == [[]]


@pytest.mark.parametrize("name", STREAMS)
def test_the_open_day_holds_what_has_passed(name: str) -> None:
    day = truth(SandboxConfig(), name, ACME, DAY)
    client = Client(now=instant(name, day[3]) / 1e9 - 1e-3)
    assert client.pages(name, MIDNIGHT, NEXT_MIDNIGHT, 100)[0] == day[:3]
    client.now += 86_400
    assert len(client.pages(name, MIDNIGHT, NEXT_MIDNIGHT, 100)[0]) >= len(day)


def test_any_company_is_served() -> None:
    client = Client(SandboxConfig(companies={"nobody-knows": "6f9619ff-8b86-4011-b42d-00cf4fc964ff"}))
    client.company = "nobody-knows"
    assert client.pages("buddy_matches", MIDNIGHT, None, 200)[0]
    assert client.pages("benevity_donations", MIDNIGHT, NEXT_MIDNIGHT, 100)[0]


def test_a_stream_without_a_maker_repeats_its_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(MAKERS, "mentorship_placements")
    stream = all_streams()["mentorship_placements"]
    served = Client().pages("mentorship_placements", MIDNIGHT, None, 50)[0]
    assert len({record["id"] for record in served}) == len(served) > 5
    varied = {"id", "updated_at"}
    for record in served:
        assert {k: v for k, v in record.items() if k not in varied} == {
            k: v for k, v in stream.example.items() if k not in varied
        }
        assert instant(stream.name, record) >= instant(stream.name, truth(SandboxConfig(), stream.name, ACME, DAY)[0])


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STREAMS)
def test_strict(name: str) -> None:
    client, stream = Client(SandboxConfig(quota=False)), all_streams()[name]
    system = all_systems()[stream.system]
    assert client.get(name).status == 200
    assert client.get(name, {"colour": "red"}).status == 422
    assert client.get(name, {stream.paging.limit: "many"}).status == 422
    credential_header = "Authorization" if isinstance(system.auth, OAuth2) else system.auth.header
    assert client.get(name, without=credential_header).status == 401
    assert client.get(name, headers={credential_header: "Bearer wrong"}).status == 401
    assert client.get(name, headers={credential_header: "Basic c2FuZGJveA=="}).status == 401
    if system.tenant_param:
        assert client.get(name, {system.tenant_param: "someone-else"}).status == 403
        assert client.get(name, without=system.tenant_param).status == 422
    for param in stream.params:
        assert client.get(name, {param: "sailing"}).status == 422
        assert client.get(name, without=param).status == 422


@pytest.mark.parametrize("name", [name for name in STREAMS if name != "workday_directory"])
def test_limits_and_windows(name: str) -> None:
    client, cap = Client(SandboxConfig(quota=False)), all_systems()[all_streams()[name].system].max_page
    assert client.get(name, {"limit": cap}).status == 200
    for limit in (cap + 1, 0, -1, "1.5", ""):
        assert client.get(name, {"limit": limit}).status == 422, limit
    for since in ("yesterday", "2024-01-15", "2024-01-15T00:00:00", "2024-02-30T00:00:00Z", "1705276800", ""):
        assert client.get(name, {"since": since}).status == 422, since
    assert client.get(name, {"since": "2024-01-15T01:00:00+01:00"}).status == 200


def test_until_belongs_to_the_external_systems() -> None:
    client = Client()
    assert client.get("benevity_donations", {"until": "never"}).status == 422
    assert client.get("benevity_donations", {"until": "2024-01-14T00:00:00Z"}).status == 422
    assert client.get("kintell_sessions", {"until": NEXT_MIDNIGHT}).status == 422


def test_a_cursor_is_good_for_its_list_alone() -> None:
    client = Client()
    cursor = client.get("kintell_sessions", {"limit": 2}).json["next_cursor"]
    assert client.get("kintell_sessions", {"cursor": cursor}).status == 200
    assert client.get("kintell_enrollments", {"cursor": cursor}).status == 422
    for other in ("", "abc", cursor[:-2], cursor + "x", "ä"):
        assert client.get("kintell_sessions", {"cursor": other}).status == 422


def test_page_numbers_begin_with_one() -> None:
    client = Client()
    assert client.get("benevity_donations", {"page": 0}).status == 422
    beyond = client.get("benevity_donations", {"page": 99}).json
    assert beyond == {"records": [], "hasMore": False}


def test_paths_methods_and_doubled_parameters() -> None:
    client = Client()
    for path in ("/", "/benevity", "/benevity/api/v2/payments", "/api/v2/donations", "/__sandbox/stats"):
        assert send(client.app, "GET", path).status == 404
    assert send(client.app, "POST", "/benevity/api/v2/donations").status == 405
    assert send(client.app, "GET", "/benevity/oauth2/token").status == 405
    stream = all_streams()["buddy_matches"]
    query = [*client.query(stream).items(), ("since", MIDNIGHT)]
    assert send(client.app, "GET", "/buddy/v1/matches", query, client.headers(stream)).status == 422


def test_every_answer_is_marked_and_errors_are_json() -> None:
    client = Client()
    answers = [
        client.get("benevity_donations"),
        client.get("benevity_donations", {"colour": "red"}),
        client.get("workday_directory", without="Authorization"),
        client.token("workday"),
        send(client.app, "GET", "/buddy/health"),
        send(client.app, "GET", "/goodera/api/v1/health"),
        send(client.app, "GET", "/nowhere"),
    ]
    assert [answer.status for answer in answers] == [200, 422, 401, 200, 200, 200, 404]
    for answer in answers:
        assert answer.headers["x-teei-sandbox"] == "1"
        assert answer.headers["content-length"] == str(len(answer.body))
        if answer.status >= 400:
            assert answer.json["error"] and answer.json["message"]


def test_tenants_are_kept_apart() -> None:
    ours, theirs = Client(), Client()
    theirs.app, theirs.company = ours.app, "globex-inc"
    donations, directory, matches = (
        all_streams()[name] for name in ("benevity_donations", "workday_directory", "buddy_matches")
    )
    their_query = theirs.query(donations)
    assert send(ours.app, "GET", "/benevity/api/v2/donations", their_query, ours.headers(donations)).status == 403
    assert send(ours.app, "GET", "/buddy/v1/matches", theirs.query(matches), ours.headers(matches)).status == 403
    mixed = ours.headers(directory) | {"X-Workday-Tenant": theirs.credential("workday", "tenant_id")}
    assert send(ours.app, "GET", "/workday/scim/v2/Users", ours.query(directory), mixed).status == 403
    del mixed["X-Workday-Tenant"]
    assert send(ours.app, "GET", "/workday/scim/v2/Users", ours.query(directory), mixed).status == 401


# --- tokens and quotas ------------------------------------------------------------------------------------------


def test_token_request() -> None:
    client = Client()
    reply = client.token("benevity").json
    assert (reply["token_type"], reply["expires_in"]) == ("Bearer", 3600)
    for changes, status, error in (
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"client_secret": "wrong"}, 401, "invalid_client"),
        ({"client_id": "wrong"}, 401, "invalid_client"),
        ({"client_id": client.credential("workday", "client_id")}, 401, "invalid_client"),
        ({"scope": "directory_read"}, 400, "invalid_scope"),
        ({"scope": ""}, 400, "invalid_scope"),
    ):
        answer = client.token("benevity", **changes)
        assert (answer.status, answer.json["error"]) == (status, error)
    as_json = send(
        client.app,
        "POST",
        "/benevity/oauth2/token",
        headers={"Content-Type": "application/json"},
        body=json.dumps(client.form("benevity")).encode(),
    )
    assert as_json.status == 400


def test_tokens_expire_and_can_be_revoked() -> None:
    client = Client(SandboxConfig(token_ttl_s=60))
    headers = client.headers(all_streams()["benevity_donations"])
    client.now += 59
    assert client.get("benevity_donations", headers=headers).status == 200
    assert client.get("workday_directory", headers=headers).status == 401
    client.now += 1
    assert client.get("benevity_donations", headers=headers).status == 401
    fresh = client.headers(all_streams()["benevity_donations"])
    assert client.get("benevity_donations", headers=fresh).status == 200
    client.app.reset()
    assert client.get("benevity_donations", headers=fresh).status == 401


def test_quota_is_a_sliding_window_for_each_key() -> None:
    client = Client()
    first = client.get("goodera_volunteers")
    assert (first.headers["x-ratelimit-limit"], first.headers["x-ratelimit-remaining"]) == ("100", "99")
    client.now += 30
    for _ in range(98):
        client.get("goodera_volunteers")
    assert client.get("goodera_donations", {"limit": 501}).headers["x-ratelimit-remaining"] == "0"
    refused = client.get("goodera_donations")
    assert refused.status == 429
    assert refused.headers["retry-after"] == refused.headers["x-ratelimit-reset"] == "30"
    assert send(client.app, "GET", "/goodera/api/v1/health").status == 200
    client.company = "globex-inc"
    assert client.get("goodera_donations").status == 200
    client.company = ACME
    client.now += 30
    assert client.get("goodera_donations").status == 200
    assert client.get("goodera_donations").status == 429


def test_quota_off() -> None:
    client = Client(SandboxConfig(quota=False))
    answers = [client.get("goodera_donations") for _ in range(101)]
    assert {answer.status for answer in answers} == {200}
    assert "x-ratelimit-limit" not in answers[0].headers


# --- SCIM -------------------------------------------------------------------------------------------------------

GE = f'meta.lastModified ge "{MIDNIGHT}"'
LT = f'meta.lastModified lt "{NEXT_MIDNIGHT}"'


@pytest.mark.parametrize(
    ("accepted", "days"),
    [
        (f"{GE} and {LT}", (0,)),
        (GE, (0, 1)),
        (LT, (-1, 0)),
        (f'META.LASTMODIFIED GE "{MIDNIGHT}" AND {LT}', (0,)),
    ],
)
def test_scim_filter(accepted: str, days: tuple[int, ...]) -> None:
    config = SandboxConfig(first_day=DAY - timedelta(1), last_day=DAY + timedelta(1))
    expected = sum(len(truth(config, "workday_directory", ACME, DAY + timedelta(n))) for n in days)
    answer = Client(config).get("workday_directory", {"filter": accepted})
    assert answer.headers["content-type"] == "application/scim+json"
    assert answer.json["totalResults"] == expected
    assert answer.json["schemas"] == ["urn:ietf:params:scim:api:messages:2.0:ListResponse"]


@pytest.mark.parametrize(
    "refused",
    [
        "",
        f"{LT} and {GE}",
        f"{GE} or {LT}",
        f"({GE})",
        f'userName eq "x" and {GE}',
        'meta.lastModified gt "2024-01-15T00:00:00Z"',
        "meta.lastModified ge 2024-01-15T00:00:00Z",
        'meta.lastModified ge "2024-01-15T00:00:00"',
        'meta.lastModified ge "today"',
        'meta.created ge "2024-01-15T00:00:00Z"',
        f"{GE} and",
    ],
)
def test_other_scim_filters_are_refused(refused: str) -> None:
    answer = Client().get("workday_directory", {"filter": refused})
    assert (answer.status, answer.json["scimType"], answer.json["status"]) == (400, "invalidFilter", "400")
    assert answer.headers["content-type"] == "application/scim+json"


def test_scim_count_is_a_wish() -> None:
    client = Client(SandboxConfig(records=300, spread=0, people=3000))
    cut = client.get("workday_directory", {"count": 5000}).json
    assert (cut["totalResults"], cut["startIndex"], cut["itemsPerPage"], len(cut["Resources"])) == (300, 1, 100, 100)
    none = client.get("workday_directory", {"count": 0}).json
    assert (none["totalResults"], none["Resources"]) == (300, [])
    last = client.get("workday_directory", {"startIndex": 291}).json
    assert (last["startIndex"], last["itemsPerPage"]) == (291, 10)
    assert client.get("workday_directory", {"startIndex": -3}).json["startIndex"] == 1
    assert client.get("workday_directory", without="filter").json["totalResults"] > 300


def test_external_lists_promise_no_order() -> None:
    for name in ("benevity_volunteers", "goodera_donations", "workday_directory"):
        (served,) = Client().pages(name, MIDNIGHT, NEXT_MIDNIGHT, 100)
        moments = [instant(name, record) for record in served]
        assert moments != sorted(moments), name


# --- the process ------------------------------------------------------------------------------------------------


def fetch(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            assert response.headers["X-TEEI-Sandbox"] == "1"
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_running_serves_counts_resets_and_ends() -> None:
    config = SandboxConfig(last_day=DAY)
    with running(config) as sandbox:
        assert fetch(f"{sandbox.url}/kintell/health") == (200, {"status": "ok"})
        assert fetch(f"{sandbox.url}/kintell/v1/sessions")[0] == 401
        assert sandbox.stats() == {"kintell": {"/health": {"200": 1}, "/v1/sessions": {"401": 1}}}
        sandbox.reset()
        assert sandbox.stats() == {}
        query = urlencode({"company_id": config.id_of(ACME), "since": MIDNIGHT, "limit": 4})
        records = len(truth(config, "kintell_sessions", ACME, DAY))
        assert sandbox.render_ahead("/kintell/v1/sessions", query, ACME) == -(-records // 4)
        with pytest.raises(urllib.error.HTTPError):
            sandbox.render_ahead("/kintell/v1/nothing", query, ACME)
        port = int(sandbox.url.rpartition(":")[2])
        with pytest.raises(UsageError, match=f"port {port}"), running(config, port=port):
            pass
    with pytest.raises(ProcessLookupError):
        os.kill(sandbox.pid, 0)


def test_the_sandbox_ends_with_its_parent() -> None:
    code = (
        "from teei_ingest.sandbox.server import SandboxConfig, running\n"
        "with running(SandboxConfig()) as sandbox:\n"
        "    print(sandbox.url, flush=True)\n"
        "    input()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdin and parent.stdout
    with parent.stdin, parent.stdout:
        port = int(parent.stdout.readline().rpartition(b":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            os.kill(parent.pid, signal.SIGKILL)
            parent.wait()
            assert connection.recv(1) == b""


def test_controls_are_not_on_the_systems_port() -> None:
    sandbox = Sandbox(SandboxConfig())
    assert send(sandbox, "GET", "/__sandbox/health").status == 404
    assert send(controls(sandbox), "GET", "/__sandbox/health").json["status"] == "ok"


def test_rendered_pages_are_the_same_bytes() -> None:
    client = Client()
    stream = all_streams()["benevity_volunteers"]
    cold = client.get(stream.name, {"limit": 5})
    query = urlencode(client.query(stream, until=NEXT_MIDNIGHT) | {"limit": 5})
    ahead = Client()
    asyncio.run(ahead.app.render_ahead("/benevity/api/v2/volunteer-activities", query, ACME))
    assert ahead.get(stream.name, {"limit": 5}).body == cold.body
    assert client.get(stream.name, {"limit": 5}).body == cold.body


def test_environment_names_every_variable() -> None:
    found = environment(SandboxConfig(), "http://127.0.0.1:4000")
    assert found["BENEVITY_API_URL"] == "http://127.0.0.1:4000/benevity"
    assert found["MENTORSHIP_SERVICE_URL"] == "http://127.0.0.1:4000/mentorship"
    urls = [name for name in found if name.endswith("_URL")]
    assert len(urls) == 7
    credentials = [value for name, value in found.items() if name not in urls]
    assert all(value.startswith("sandbox-") for value in credentials)
    assert Counter(credentials).most_common(1)[0][1] == 1
    assert {"BENEVITY_ACME_CORP_CLIENT_SECRET", "GOODERA_GLOBEX_INC_PROJECT_ID", "INTERNAL_INITECH_AB_API_KEY"} <= set(
        found
    )


# --- webhooks ---------------------------------------------------------------------------------------------------


def test_signatures() -> None:
    now, body = datetime(2024, 1, 15, 8, 30, tzinfo=UTC), b'{"event":"data.changed"}'

    def mac(text: bytes) -> hmac.HMAC:
        return hmac.new(b"s3cret", text, hashlib.sha256)

    assert sign("benevity", "s3cret", body, now) == {
        "X-Benevity-Signature": f"t=1705307400,v1={mac(b'1705307400.' + body).hexdigest()}"
    }
    assert sign("goodera", "s3cret", body, now) == {
        "X-Goodera-Signature": f"sha256={mac(b'1705307400.' + body).hexdigest()}",
        "X-Goodera-Request-Timestamp": "1705307400",
    }
    assert sign("workday", "s3cret", body, now) == {
        "X-Workday-Signature": base64.b64encode(mac(b"2024-01-15T08:30:00Z:" + body).digest()).decode(),
        "X-Workday-Request-Timestamp": "2024-01-15T08:30:00Z",
    }
    with pytest.raises(ValueError, match="buddy"):
        sign("buddy", "s3cret", body, now)
