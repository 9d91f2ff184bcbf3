"""Tokens: fetched once for all threads, renewed in time and after a 401, and never half believed."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from teei_ingest.errors import BadCredentials, NotAllowed, SourceDown, SourceMisbehaves
from teei_ingest.extract.caller import Caller, Cancelled
from teei_ingest.extract.http import Source
from teei_ingest.systems.base import ApiKey
from teei_ingest.vault.credentials import SystemCredentials
from teei_ingest_tests.extracting import SYSTEMS, Answer, Ask, Clock, Server, credentials, serving, settings

PATH = "/api/v2/donations"


class Vendor:
    """Gives `token-1`, `token-2`, … and accepts those that are not `revoked`."""

    def __init__(self, **grant: Any) -> None:
        self.grant = grant
        self.issued = 0
        self.revoked: set[str] = set()
        self.answer: Answer | None = None

    def __call__(self, ask: Ask) -> Answer:
        if ask.method == "POST":
            self.issued += 1
            return self.answer or Answer.of({"access_token": f"token-{self.issued}", **self.grant})
        if ask.headers["authorization"].removeprefix("Bearer ") in self.revoked:
            return Answer(401)
        return Answer.of({"records": []})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source(tmp_path: Path, clock: Clock) -> Callable[[Server], Source]:
    def make(server: Server) -> Source:
        given = credentials("benevity", f"{server.url}/b")
        return Source(SYSTEMS["benevity"], given, settings(tmp_path / "h"), clock=clock, sleep=clock.sleep)

    return make


def tokens_used(server: Server) -> list[str]:
    return [ask.headers["authorization"] for ask in server.asked if ask.method == "GET"]


def test_the_token_request_is_a_form(source: Callable[[Server], Source]) -> None:
    with serving(Vendor(expires_in=3600, token_type="Bearer")) as server:
        reading = source(server)
        caller = Caller()
        reading.get(PATH, {}, caller)
        reading.get(PATH, {}, caller)
    token, first, second = server.asked
    assert (token.method, token.path) == ("POST", "/b/oauth2/token")
    assert token.headers["content-type"] == "application/x-www-form-urlencoded"
    assert "authorization" not in token.headers
    assert token.form == {
        "grant_type": ["client_credentials"],
        "client_id": ["the-client"],
        "client_secret": ["the-secret"],
        "scope": ["volunteer_read donation_read"],
    }
    assert [first.method, second.method] == ["GET", "GET"]
    assert tokens_used(server) == ["Bearer token-1"] * 2
    assert reading.requests == caller.requests == 3


def test_many_threads_cause_one_token_request(source: Callable[[Server], Source]) -> None:
    vendor = Vendor(expires_in=3600)
    with serving(vendor) as server, ThreadPoolExecutor(12) as pool:
        reading = source(server)
        begin = threading.Barrier(12)

        def read(number: int) -> bytes:
            begin.wait()
            return reading.get(PATH, {"page": str(number)})

        list(pool.map(read, range(12)))
        assert vendor.issued == 1
        vendor.revoked.add("token-1")
        list(pool.map(read, range(12)))
    assert vendor.issued == 2
    assert reading.requests == len(server.asked)


@pytest.mark.parametrize(("lifetime", "skew"), [(3600, 30), ("3600", 30), (100.0, 10), (5, 0.5), (0.5, 0.05)])
def test_a_token_is_renewed_before_it_expires(
    source: Callable[[Server], Source], clock: Clock, lifetime: Any, skew: float
) -> None:
    with serving(Vendor(expires_in=lifetime)) as server:
        reading = source(server)
        reading.get(PATH, {})
        renewed_at = clock.now + float(lifetime) - skew
        clock.now = renewed_at - 0.01
        reading.get(PATH, {})
        clock.now = renewed_at
        reading.get(PATH, {})
    assert tokens_used(server) == ["Bearer token-1", "Bearer token-1", "Bearer token-2"]


@pytest.mark.parametrize("said", [None, "soon", [1], 0, "0", -1, 10**400], ids=lambda said: repr(said)[:9])
def test_a_token_without_a_lifetime_is_used_until_it_is_refused(
    source: Callable[[Server], Source], clock: Clock, said: Any
) -> None:
    vendor = Vendor(expires_in=said)
    with serving(vendor) as server:
        reading = source(server)
        reading.get(PATH, {})
        clock.now += 10**6
        reading.get(PATH, {})
        vendor.revoked.add("token-1")
        reading.get(PATH, {})
    assert tokens_used(server) == ["Bearer token-1"] * 3 + ["Bearer token-2"]


def test_a_second_refusal_is_final(source: Callable[[Server], Source], clock: Clock) -> None:
    vendor = Vendor(expires_in=3600)
    vendor.revoked |= {f"token-{number}" for number in range(9)}
    with serving(vendor) as server, pytest.raises(BadCredentials, match="client_id, client_secret"):
        source(server).get(PATH, {})
    assert [ask.method for ask in server.asked] == ["POST", "GET", "POST", "GET"]
    assert clock.slept == []


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer.of({"error": "invalid_client"}, 401), BadCredentials),
        (Answer.of({"error": "invalid_client"}, 400), BadCredentials),
        (Answer(403), NotAllowed),
        (Answer(404), SourceMisbehaves),
        (Answer.of({}), SourceMisbehaves),
        (Answer.of({"access_token": None}), SourceMisbehaves),
        (Answer.of({"access_token": ""}), SourceMisbehaves),
        (Answer.of({"access_token": 7}), SourceMisbehaves),
        (Answer.of({"access_token": "a\r\nX-Odd: b"}), SourceMisbehaves),
        (Answer.of({"access_token": "a", "token_type": "mac"}), SourceMisbehaves),
        (Answer.of({"access_token": "a", "token_type": "Basic"}), SourceMisbehaves),
        (Answer.of({"access_token": "a", "token_type": 7}), SourceMisbehaves),
        (Answer(body=b"[]"), SourceMisbehaves),
        (Answer(body=b"[" * 200_000), SourceMisbehaves),
        (Answer(body=b"<html>"), SourceMisbehaves),
        (Answer(body=b"{'a': 1}"), SourceMisbehaves),
    ],
)
def test_a_token_reply_is_not_believed_blindly(
    source: Callable[[Server], Source], answer: Answer, error: type[Exception]
) -> None:
    vendor = Vendor()
    vendor.answer = answer
    with serving(vendor) as server, pytest.raises(error) as raised:
        source(server).get(PATH, {}, Caller("benevity_donations"))
    assert type(raised.value) is error
    assert [ask.method for ask in server.asked] == ["POST"]
    assert str(raised.value).startswith("benevity/benevity_donations acme-corp: ")
    assert "the-secret" not in str(raised.value)


@pytest.mark.parametrize("changed", [{}, {"client_id": "newer"}, {"client_secret": "newer"}])
def test_a_client_that_is_refused_is_read_anew_and_asks_once_more(tmp_path: Path, changed: dict[str, str]) -> None:
    def script(ask: Ask) -> Answer:
        if ask.method == "POST":
            known = "newer" in (ask.form["client_id"][0], ask.form["client_secret"][0])
            return Answer.of({"access_token": "a", "expires_in": 3600}) if known else Answer(401)
        return Answer.of({"records": []})

    with serving(script) as server:
        given, read = credentials("benevity", server.url), []

        def again() -> SystemCredentials:
            read.append(1)
            return credentials("benevity", server.url, **changed)

        source = Source(SYSTEMS["benevity"], given, settings(tmp_path), again=again)
        if changed:
            for _ in range(2):
                source.get(PATH, {})
        else:
            with pytest.raises(BadCredentials):
                source.get(PATH, {})
    assert [ask.method for ask in server.asked] == ["POST", *(["POST", "GET", "GET"] if changed else [])]
    assert len(read) == 1


@pytest.mark.parametrize("newer", ["the-key", "newer"])
def test_a_key_that_is_refused_is_read_anew_and_asks_once_more(tmp_path: Path, newer: str) -> None:
    system = next(one for one in SYSTEMS.values() if isinstance(one.auth, ApiKey))
    assert isinstance(system.auth, ApiKey)
    header, prefix = system.auth.header.lower(), system.auth.prefix

    def script(ask: Ask) -> Answer:
        return Answer.of({"records": []}) if ask.headers[header] == f"{prefix}newer" else Answer(401)

    with serving(script) as server:
        given = credentials(system.name, server.url)
        source = Source(
            system, given, settings(tmp_path), again=lambda: credentials(system.name, server.url, api_key=newer)
        )
        if newer == "newer":
            for _ in range(2):
                source.get(PATH, {})
        else:
            with pytest.raises(BadCredentials):
                source.get(PATH, {})
    sent = [ask.headers[header] for ask in server.asked]
    assert sent == [f"{prefix}the-key", *([f"{prefix}newer"] * 2 if newer == "newer" else [])]


def test_a_token_request_is_tried_again_but_not_by_two_at_once(
    source: Callable[[Server], Source], clock: Clock
) -> None:
    vendor = Vendor()
    vendor.answer = Answer(503)
    with serving(vendor) as server, pytest.raises(SourceDown):
        source(server).get(PATH, {})
    assert len(server.asked) == 4 + 1  # the last one asks whether the system is down
    assert len(clock.slept) == 3


def test_who_waits_for_anothers_token_can_be_cancelled(tmp_path: Path) -> None:
    answered = threading.Event()
    vendor = Vendor()
    vendor.answer = Answer.of({"access_token": "a"})
    vendor.answer.wait = answered
    with serving(vendor) as server, ThreadPoolExecutor(2) as pool:
        source = Source(SYSTEMS["benevity"], credentials("benevity", server.url), settings(tmp_path / "h"))
        patient, hasty = Caller(), Caller()
        first = pool.submit(source.get, PATH, {}, patient)
        while not server.asked:
            answered.wait(0.01)
        second = pool.submit(source.get, PATH, {}, hasty)
        hasty.cancel.set()
        with pytest.raises(Cancelled):
            second.result(5)
        answered.set()
        assert first.result(5) == b'{"records": []}'
