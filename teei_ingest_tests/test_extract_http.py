"""What a reply makes of a request: retries, waits, errors, and what never leaves this machine."""

import gzip
import logging
import pickle
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from teei_ingest.errors import (
    BadCredentials,
    NotAllowed,
    RateLimited,
    SourceDown,
    SourceError,
    SourceMisbehaves,
)
from teei_ingest.extract.caller import Caller, Cancelled, UnsupportedFilter
from teei_ingest.extract.http import Source
from teei_ingest_tests.extracting import (
    SYSTEMS,
    Answer,
    Ask,
    Clock,
    Server,
    certificate,
    credentials,
    in_turn,
    serving,
    settings,
)
from teei_ingest_tests.loopback import Handler, listening

OK = Answer(body=b'{"ok": true}')
PATH = "/v1/things"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source(tmp_path: Path, clock: Clock) -> Callable[..., Source]:
    def make(server: Server | str, system: str = "kintell", **variables: object) -> Source:
        url = server if isinstance(server, str) else f"{server.url}/base"
        given = settings(tmp_path / "home", **variables)
        return Source(SYSTEMS[system], credentials(system, url), given, clock=clock, sleep=clock.sleep)

    return make


def test_a_request_carries_what_the_source_wants_and_nothing_else(
    source: Callable[..., Source], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login someone password else")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    with serving(lambda ask: Answer(body=b'{"a": 1}', headers={"Set-Cookie": "c=1; Path=/"})) as server:
        reading = source(server)
        caller = Caller("kintell_sessions")
        for limit in ("1", "2"):
            assert reading.get(PATH, {"limit": limit, "q": 'a ge "b"'}, caller) == b'{"a": 1}'
    first, second = server.asked
    assert first.path == f"/base{PATH}"
    assert first.query == {
        "company_id": "550e8400-e29b-41d4-a716-446655440000",
        "limit": "1",
        "q": 'a ge "b"',
    }
    assert "+" not in first.target
    assert second.query["limit"] == "2"
    assert first.headers["authorization"] == "Bearer the-key"
    assert set(second.headers) == {
        "host",
        "user-agent",
        "accept",
        "accept-encoding",
        "authorization",
    }
    assert first.connection == second.connection
    assert (reading.requests, caller.requests) == (2, 2)


def test_every_system_names_its_tenant_where_it_wants_it(source: Callable[..., Source]) -> None:
    def script(ask: Ask) -> Answer:
        return Answer.of({"access_token": "t", "token_type": "bearer"} if ask.method == "POST" else {})

    with serving(script) as server:
        source(server, "goodera").get(PATH, {})
        source(server, "benevity").get(PATH, {})
        source(server, "workday").get(PATH, {})
    goodera, benevity, workday = (ask for ask in server.asked if ask.method == "GET")
    assert goodera.query == {"project_id": "project+1"}
    assert goodera.headers["x-api-key"] == "the-key"
    assert benevity.query == {"tenant_id": "tenant 1&2"}
    assert workday.query == {}
    assert workday.headers["x-workday-tenant"] == "tenant 1&2"
    assert workday.headers["accept"] == "application/scim+json, application/json"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(source: Callable[..., Source], clock: Clock, status: int) -> None:
    with serving(in_turn(Answer(status), Answer(status), Answer(status), OK)) as server:
        reading = source(server)
        assert reading.get(PATH, {}) == OK.body
    assert reading.requests == len(server.asked) == 4
    for slept, doubled in zip(clock.slept, (1, 2, 4), strict=True):
        assert doubled <= slept <= doubled + 1


def asked_for(server: Server) -> int:
    """Requests for the path; a source that fails for good is asked for its health, too."""
    return sum(ask.path == f"/base{PATH}" for ask in server.asked)


def test_the_wait_doubles_up_to_its_limit(source: Callable[..., Source], clock: Clock) -> None:
    with serving(lambda ask: Answer(500)) as server, pytest.raises(SourceDown, match="status 500"):
        source(server, TEEI_MAX_RETRIES=6).get(PATH, {})
    assert asked_for(server) == 7
    assert clock.slept[-2:] == [10, 10]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, SourceMisbehaves),
        (401, BadCredentials),
        (403, NotAllowed),
        (404, SourceMisbehaves),
        (422, SourceMisbehaves),
        (418, SourceMisbehaves),
        (204, SourceMisbehaves),
        (206, SourceMisbehaves),
        (304, SourceMisbehaves),
    ],
)
def test_what_will_not_pass_is_asked_once(
    source: Callable[..., Source], clock: Clock, status: int, error: type[SourceError]
) -> None:
    with (
        serving(lambda ask: Answer(status, b"" if status in (204, 304) else b'{"error": "kari@x"}')) as server,
        pytest.raises(error, match=str(status)) as raised,
    ):
        source(server).get(PATH, {"cursor": "the-cursor"}, Caller("kintell_sessions"))
    assert type(raised.value) is error
    assert len(server.asked) == 1
    assert clock.slept == []
    assert str(raised.value).startswith("kintell/kintell_sessions acme-corp: ")


@pytest.mark.parametrize(
    ("status", "error"),
    [(408, SourceDown), (429, RateLimited), (503, SourceDown)],
)
def test_after_all_tries_the_error_says_what_to_do(
    source: Callable[..., Source], status: int, error: type[SourceError]
) -> None:
    with serving(lambda ask: Answer(status)) as server, pytest.raises(error):
        source(server).get(PATH, {})
    assert asked_for(server) == 4


def _after_seconds(clock: Clock) -> str:
    return "7"


def _after_date(clock: Clock) -> str:
    return format_datetime(datetime.fromtimestamp(clock.now, UTC) + timedelta(seconds=7), usegmt=True)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("header", [_after_seconds, _after_date])
def test_a_wait_that_is_asked_for_wins_and_costs_no_try(
    source: Callable[..., Source], clock: Clock, status: int, header: Callable[[Clock], str]
) -> None:
    left = 10

    def script(ask: Ask) -> Answer:
        nonlocal left
        left -= 1
        return Answer(status, headers={"Retry-After": header(clock)}) if left else OK

    with serving(script) as server:
        assert source(server, TEEI_MAX_RETRIES=0).get(PATH, {}) == OK.body
    assert len(server.asked) == 10
    assert clock.slept == pytest.approx([7.0] * 9)


def test_the_end_of_a_quotas_window_is_no_wait_after_a_server_error(
    source: Callable[..., Source], clock: Clock
) -> None:
    headers = {"X-RateLimit-Limit": "100", "X-RateLimit-Remaining": "99", "X-RateLimit-Reset": "60"}
    with serving(lambda ask: Answer(500, headers=headers)) as server, pytest.raises(SourceDown):
        source(server, "goodera").get(PATH, {})
    assert asked_for(server) == 4
    assert sum(clock.slept) < 20


@pytest.mark.parametrize("header", ["0", "-5", "soon", "Mon, 01 Jan 2001 00:00:00 GMT", "", "1e3"])
def test_a_wait_of_nothing_is_no_wait(source: Callable[..., Source], clock: Clock, header: str) -> None:
    with serving(lambda ask: Answer(429, headers={"Retry-After": header})) as server, pytest.raises(RateLimited):
        source(server).get(PATH, {})
    assert len(server.asked) == 4
    assert 1 <= clock.slept[0] <= 2


@pytest.mark.parametrize("wait", [400, 450])
@pytest.mark.parametrize(("status", "error"), [(429, RateLimited), (503, SourceDown)])
def test_all_waits_together_have_a_limit(
    source: Callable[..., Source], clock: Clock, status: int, error: type[SourceError], wait: int
) -> None:
    with (
        serving(lambda ask: Answer(status, headers={"Retry-After": f"{wait}"})) as server,
        pytest.raises(error),
    ):
        source(server).get(PATH, {})
    assert clock.slept == pytest.approx([wait, wait])
    assert asked_for(server) == 3


def test_a_wait_beyond_the_limit_is_not_begun(source: Callable[..., Source], clock: Clock) -> None:
    with (
        serving(lambda ask: Answer(429, headers={"Retry-After": "901"})) as server,
        pytest.raises(RateLimited, match="TEEI_RETRY_WAIT_LIMIT_S"),
    ):
        source(server).get(PATH, {})
    assert clock.slept == []


def test_no_answer_at_all(source: Callable[..., Source], clock: Clock) -> None:
    with serving(lambda ask: OK) as server:
        url = server.url
    with pytest.raises(SourceDown, match="cannot be reached"):
        source(url).get(PATH, {"cursor": "the-cursor"})
    assert len(clock.slept) == 3


def test_a_server_that_hangs_up_is_asked_again(source: Callable[..., Source], clock: Clock) -> None:
    with serving(in_turn(None, OK)) as server:
        assert source(server).get(PATH, {}) == OK.body
    assert len(clock.slept) == 1


def test_a_server_that_takes_too_long_is_asked_again(source: Callable[..., Source], clock: Clock) -> None:
    done = threading.Event()
    with serving(in_turn(Answer(wait=done), OK)) as server:
        assert source(server, TEEI_READ_TIMEOUT_S=0.1).get(PATH, {}) == OK.body
        done.set()
    assert len(clock.slept) == 1


BODY = b'{"records": [%s]}' % b", ".join(b'{"id": "%d"}' % number for number in range(500))
CUT = [
    Answer(body=BODY[:700], length=len(BODY), close=True),
    Answer(body=b"2bc\r\n" + BODY[:700] + b"\r\n", headers={"Transfer-Encoding": "chunked"}, close=True),
    Answer(body=b"fff\r\n" + BODY[:700], headers={"Transfer-Encoding": "chunked"}, close=True),
    Answer(body=BODY[:700], length=-1, close=True),
    Answer(body=BODY[: BODY.index(b"}, ", 700) + 1], length=-1, close=True),
    Answer(body=gzip.compress(BODY[: BODY.index(b"}, ", 700) + 1]), headers={"Content-Encoding": "gzip"}),
    Answer(body=gzip.compress(BODY)[:500], headers={"Content-Encoding": "gzip"}),
    Answer(body=b"no gzip at all", headers={"Content-Encoding": "gzip"}),
    Answer(body=BODY[:700]),
]


@pytest.mark.parametrize("cut", CUT)
def test_a_cut_body_is_asked_for_again(source: Callable[..., Source], clock: Clock, cut: Answer) -> None:
    with serving(in_turn(cut, Answer(body=BODY))) as server:
        assert source(server).get(PATH, {}) == BODY
    assert len(server.asked) == 2
    with serving(in_turn(cut)) as server, pytest.raises(SourceDown, match="breaks off"):
        source(server).get(PATH, {})


WHOLE = [
    Answer(body=gzip.compress(BODY), headers={"Content-Encoding": "gzip"}),
    Answer(
        body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY),
        headers={"Transfer-Encoding": "chunked"},
    ),
    Answer(body=BODY, length=-1, close=True),
    Answer(body=BODY, headers={"Content-Type": "application/scim+json"}),
]


@pytest.mark.parametrize("whole", WHOLE)
def test_a_whole_body_comes_as_it_was(source: Callable[..., Source], whole: Answer) -> None:
    with serving(in_turn(whole)) as server:
        reading = source(server)
        assert reading.get(PATH, {}) == BODY
        assert reading.get(PATH, {}) == BODY
    assert whole.close or server.asked[0].connection == server.asked[1].connection


@pytest.mark.parametrize("body", [b"", b"  \n", b"<!doctype html><html>{}</html>", b"null", b"[1]", b'"a"', b"OK"])
def test_what_is_no_json_object_is_refused_at_once(source: Callable[..., Source], body: bytes) -> None:
    said = "not a JSON object" if body.strip() else "an empty body"
    with serving(lambda ask: Answer(body=body)) as server, pytest.raises(SourceMisbehaves, match=said):
        source(server).get(PATH, {})
    assert len(server.asked) == 1


@pytest.mark.parametrize("encoding", [None, "gzip", "chunked"])
def test_a_reply_has_a_largest_size(source: Callable[..., Source], encoding: str | None) -> None:
    size = 1 << 20
    bodies = {size: b"{" + b" " * (size - 2) + b"}", size + 1: b"{" + b" " * (size - 1) + b"}"}

    def script(ask: Ask) -> Answer:
        body = bodies[int(ask.query["size"])]
        if encoding == "gzip":
            return Answer(body=gzip.compress(body), headers={"Content-Encoding": "gzip"})
        if encoding == "chunked":
            chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
            return Answer(body=chunked, headers={"Transfer-Encoding": "chunked"})
        return Answer(body=body)

    with serving(script) as server:
        reading = source(server, TEEI_MAX_RESPONSE_MB=1)
        assert len(reading.get(PATH, {"size": str(size)})) == size
        with pytest.raises(SourceMisbehaves, match="TEEI_MAX_RESPONSE_MB"):
            reading.get(PATH, {"size": str(size + 1)})
    assert len(server.asked) == 2


def test_a_bomb_is_not_unpacked(source: Callable[..., Source]) -> None:
    import tracemalloc

    bomb = gzip.compress(b"{" + bytes(100 << 20), 1)
    with serving(lambda ask: Answer(body=bomb, headers={"Content-Encoding": "gzip"})) as server:
        reading = source(server, TEEI_MAX_RESPONSE_MB=2)
        tracemalloc.start()
        try:
            with pytest.raises(SourceMisbehaves, match="TEEI_MAX_RESPONSE_MB"):
                reading.get(PATH, {})
            assert tracemalloc.get_traced_memory()[1] < 20 << 20
        finally:
            tracemalloc.stop()


def test_another_host_gets_nothing(source: Callable[..., Source]) -> None:
    with serving(lambda ask: OK) as other:
        locations = [f"{other.url}/x", other.url.replace("http:", ""), "//[", ""]

        def script(ask: Ask) -> Answer:
            location = locations[int(ask.query["n"])]
            return Answer(302, headers={"Location": location} if location else {})

        with serving(script) as server:
            reading = source(server)
            for number in range(len(locations)):
                with pytest.raises(SourceMisbehaves, match="another host"):
                    reading.get(PATH, {"n": str(number)})
    assert other.asked == []
    assert len(server.asked) == len(locations)


def test_the_same_host_may_redirect_three_times(source: Callable[..., Source]) -> None:
    def script(ask: Ask) -> Answer:
        left = int(ask.query["left"])
        return Answer(307, headers={"Location": f"/moved?left={left - 1}"}) if left else OK

    with serving(script) as server:
        reading = source(server)
        assert reading.get(PATH, {"left": "3"}) == OK.body
        assert [ask.path for ask in server.asked] == [f"/base{PATH}", "/moved", "/moved", "/moved"]
        assert server.asked[3].headers["authorization"] == "Bearer the-key"
        assert reading.requests == 4
        with pytest.raises(SourceMisbehaves, match="again and again"):
            reading.get(PATH, {"left": "9"})
        assert len(server.asked) == 8
        assert reading.get(PATH, {"left": "0"}) == OK.body
        assert server.asked[-1].path == f"/base{PATH}"


def test_a_token_request_is_never_redirected(source: Callable[..., Source]) -> None:
    with (
        serving(lambda ask: Answer(307, headers={"Location": "/elsewhere"})) as server,
        pytest.raises(SourceMisbehaves, match="307"),
    ):
        source(server, "benevity").get(PATH, {})
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "refusal",
    [
        Answer.of({"status": "400", "scimType": "invalidFilter", "detail": "no"}, 400),
        Answer.of({"status": "501"}, 501),
    ],
)
def test_a_refused_filter_is_told_apart(source: Callable[..., Source], clock: Clock, refusal: Answer) -> None:
    with serving(lambda ask: refusal) as server:
        reading = source(server)
        with pytest.raises(UnsupportedFilter):
            reading.get(PATH, {"filter": "x"}, filtered=True)
        assert len(server.asked) == 1
        with pytest.raises(SourceError) as raised:
            reading.get(PATH, {"x": "y"})
        assert not isinstance(raised.value, UnsupportedFilter)


@pytest.mark.parametrize(
    "refusal",
    [
        Answer.of({"scimType": "invalidPath"}, 400),
        Answer(400, b'"invalidFilter", but not packed', {"Content-Encoding": "gzip"}),
        Answer(400, b'"invalid', length=100, close=True),
        Answer.of({"scimType": "invalidFilter"}, 404),
        Answer.of({"scimType": "invalidFilter"}, 302, Location="http://elsewhere.example/"),
    ],
)
def test_another_reply_is_no_refused_filter(source: Callable[..., Source], refusal: Answer) -> None:
    with (
        serving(lambda ask: refusal) as server,
        pytest.raises(SourceMisbehaves) as raised,
    ):
        source(server).get(PATH, {}, filtered=True)
    assert not isinstance(raised.value, UnsupportedFilter)


def test_a_server_error_is_no_refused_filter(source: Callable[..., Source]) -> None:
    with serving(lambda ask: Answer.of({"scimType": "invalidFilter"}, 502)) as server:
        with pytest.raises(SourceDown, match="status 502"):
            source(server).get(PATH, {}, filtered=True)
        assert asked_for(server) == 4


def test_the_sandboxs_credentials_are_for_the_sandbox_alone(tmp_path: Path, clock: Clock) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "sandbox.json").write_text('{"environment": {}}')

    def read(server: Server) -> Any:
        given = credentials("kintell", server.url)
        unset = settings(home, TEEI_MASTER_KEY="")
        with Source(SYSTEMS["kintell"], given, unset, clock=clock, sleep=clock.sleep) as source:
            return source.get(PATH, {})

    with serving(in_turn(Answer(body=OK.body, headers={"X-TEEI-Sandbox": "1"}))) as server:
        assert read(server) == OK.body
    for answer in (OK, Answer(503), Answer(401), Answer(body=OK.body, headers={"X-TEEI-Sandbox": "0"})):
        with serving(in_turn(answer)) as server, pytest.raises(SourceMisbehaves, match="as the sandbox"):
            read(server)
        assert len(server.asked) == 1


def test_errors_and_logs_hold_no_secret_and_no_query(
    source: Callable[..., Source], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = ("the-key", "the-cursor", "550e8400", "kari@x", "the-secret")
    answers: list[Answer | None] = [
        None,
        Answer(404, b'{"error": "kari@x"}'),
        Answer(500, b'{"error": "kari@x"}'),
        Answer(302, headers={"Location": "http://elsewhere.example/the-cursor"}),
        Answer(body=b"<html>kari@x"),
        Answer(body=b'{"kari@x', length=900, close=True),
        Answer(429, headers={"Retry-After": "kari@x"}),
        Answer(200, headers={"Content-Length": "1, 2"}, close=True),
        Answer(200, headers={"X-Odd\r\n": "kari@x"}, close=True),
    ]
    texts = []
    for answer in answers:
        with serving(in_turn(answer)) as server:
            try:
                source(server).get(PATH, {"cursor": "the-cursor"})
            except SourceError as error:
                assert error.__cause__ is None
                assert error.__context__ is None
                texts.append(f"{error} {error!r} {error.__dict__} {pickle.loads(pickle.dumps(error))}")
    assert len(texts) >= 8
    everything = "\n".join([*texts, caplog.text])
    assert not [secret for secret in secrets if secret in everything]


def test_a_cancelled_wait_ends_at_once(tmp_path: Path) -> None:
    with serving(lambda ask: Answer(429, headers={"Retry-After": "600"})) as server:
        source = Source(SYSTEMS["kintell"], credentials("kintell", server.url), settings(tmp_path / "home"))
        caller = Caller("kintell_sessions")
        threading.Timer(0.2, caller.cancel.set).start()
        began = time.monotonic()
        with pytest.raises(Cancelled):
            source.get(PATH, {}, caller)
        assert time.monotonic() - began < 5
        with pytest.raises(Cancelled):
            source.get(PATH, {}, caller)
        assert len(server.asked) == 1


def test_a_proxy_is_a_setting(source: Callable[..., Source], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with serving(lambda ask: OK) as proxy:
        reading = source("http://internal.example/base", TEEI_PROXY=proxy.url)
        assert reading.get(PATH, {}) == OK.body
    assert proxy.asked[0].target.startswith(f"http://internal.example/base{PATH}?")
    with pytest.raises(SourceDown, match="through TEEI_PROXY"):
        source("http://internal.example/base", TEEI_PROXY=proxy.url, TEEI_MAX_RETRIES=0).get(PATH, {})


def test_a_certificate_has_to_be_trusted(
    source: Callable[..., Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate(tmp_path)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    asked = []

    class Answers(Handler):
        def do_GET(self) -> None:
            asked.append(self.path)

    with listening(Answers, context) as url, pytest.raises(SourceDown, match="TLS certificate"):
        source(url).get(PATH, {})
    assert asked == []
