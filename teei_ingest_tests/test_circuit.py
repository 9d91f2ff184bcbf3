"""A source that is down: how often it is asked, who finds out that it is back, and what people are told."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date

import pytest

from teei_ingest.errors import SourceDown
from teei_ingest.extract.http import Source
from teei_ingest.streams import all_streams
from teei_ingest.systems import all_systems
from teei_ingest_tests.extracting import (
    SYSTEMS,
    Answer,
    Ask,
    Clock,
    Server,
    credentials,
    serving,
)
from teei_ingest_tests.keeping import Kept
from teei_ingest_tests.running import Home, failures
from teei_ingest_tests.together import eventually

PATH = "/v1/things"
OK = Answer(body=b'{"ok": true}')
TOKEN = Answer.of({"access_token": "t", "token_type": "bearer", "expires_in": 3600})


class Vendor:
    """A server's script: whether it is up, which of its paths break, and what it was asked."""

    def __init__(self) -> None:
        self.up = True
        self.bad: set[str] = set()
        self.hangs_up = False

    def __call__(self, ask: Ask) -> Answer | None:
        if self.up and ask.path not in self.bad:
            return TOKEN if ask.method == "POST" else OK
        return None if self.hangs_up else Answer(503)


Make = Callable[..., Source]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def vendor() -> Iterator[tuple[Vendor, Server]]:
    script = Vendor()
    with serving(script) as server:
        yield script, server


@pytest.fixture
def make(kept: Kept, clock: Clock) -> Make:
    def source(url: str, system: str = "kintell", typed_at: float | None = None, **key: str) -> Source:
        given = credentials(system, url, **key)
        where = kept.settings(TEEI_CIRCUIT_PAUSE_MAX_S=100)
        return Source(SYSTEMS[system], given, where, clock=clock, sleep=clock.sleep, typed_at=typed_at)

    return source


def fails(source: Source, match: str = "down since") -> str:
    with pytest.raises(SourceDown, match=match) as raised:
        source.get(PATH, {})
    return str(raised.value)


@pytest.mark.parametrize("hangs_up", [False, True])
@pytest.mark.parametrize("system", list(SYSTEMS))
def test_what_is_down_is_asked_a_few_times_and_then_by_nobody(
    system: str, hangs_up: bool, make: Make, vendor: tuple[Vendor, Server], clock: Clock
) -> None:
    script, server = vendor
    script.up, script.hangs_up = False, hangs_up
    told = fails(make(server.url, system))
    asked = len(server.asked)
    assert asked == 4 + 1
    assert "2024-01-15 10:" in told and "teei sync" in told
    another_process = make(server.url, system)
    for _ in range(20):
        fails(another_process)
    assert len(server.asked) == asked
    assert fails(make(server.url, system)) == told


def test_it_is_asked_again_by_one_after_a_pause_that_grows(
    make: Make, vendor: tuple[Vendor, Server], clock: Clock
) -> None:
    script, server = vendor
    script.up = False
    fails(make(server.url))
    waits = []
    for _ in range(4):
        asked, begun = len(server.asked), clock.now
        while len(server.asked) == asked:
            clock.now += 1
            fails(make(server.url))
            fails(make(server.url))
        assert len(server.asked) == asked + 1
        waits.append(clock.now - begun)
    assert waits == pytest.approx([30, 60, 100, 100], abs=1.5)
    script.up = True
    clock.now += 101
    assert make(server.url).get(PATH, {}) == OK.body
    assert make(server.url).get(PATH, {}) == OK.body
    assert [ask.path for ask in server.asked[-3:]] == ["/health", PATH, PATH]


def test_a_person_asks_at_once_and_once(make: Make, vendor: tuple[Vendor, Server], clock: Clock) -> None:
    script, server = vendor
    script.up = False
    fails(make(server.url))
    clock.now += 3
    asked = len(server.asked)
    for _ in range(3):  # all streams, runs and companies of one command
        fails(make(server.url, typed_at=clock.now - 1))
    assert len(server.asked) == asked + 1
    script.up = True
    fails(make(server.url, typed_at=clock.now - 1))
    clock.now += 2
    assert make(server.url, typed_at=clock.now - 1).get(PATH, {}) == OK.body
    assert make(server.url).get(PATH, {}) == OK.body


def test_one_asks_and_the_others_wait_for_the_reply(kept: Kept) -> None:
    up, reply = threading.Event(), threading.Event()

    def script(ask: Ask) -> Answer:
        if not up.is_set():
            return Answer(503)
        return Answer(body=OK.body, wait=reply) if ask.path == "/health" else OK

    with serving(script) as server:
        given = kept.settings(TEEI_MAX_RETRIES=0, TEEI_CIRCUIT_PAUSE_S=0)

        def source() -> Source:
            return Source(SYSTEMS["kintell"], credentials("kintell", server.url), given)

        fails(source())
        up.set()
        got: list[bytes] = []
        threads = [threading.Thread(target=lambda: got.append(source().get(PATH, {}))) for _ in range(5)]
        for thread in threads:
            thread.start()
        eventually(lambda: server.asked[-1].path == "/health", "somebody asks", 20)
        reply.wait(0.3)
        assert got == []
        reply.set()
        for thread in threads:
            thread.join(20)
    assert got == [OK.body] * 5
    assert Counter(ask.path for ask in server.asked[2:]) == {"/health": 1, PATH: 5}


@pytest.mark.parametrize("system", list(SYSTEMS))
def test_one_bad_path_is_no_source_that_is_down(system: str, make: Make, vendor: tuple[Vendor, Server]) -> None:
    script, server = vendor
    for script.hangs_up in (False, True):
        script.bad = {PATH}
        for _ in range(5):
            message = fails(make(server.url, system), match="status 503|hangs up")
            assert "down since" not in message
        assert make(server.url, system).get("/v1/others", {}) == OK.body


@pytest.mark.parametrize("answer", [Answer(404), Answer(500, headers={"Content-Length": "1, 2"}, length=-1)])
def test_whatever_answers_the_probe_is_there(make: Make, answer: Answer) -> None:
    with serving(lambda ask: answer if ask.path == "/health" else Answer(503)) as server:
        assert "down since" not in fails(make(server.url), match="status 503")


def test_a_probe_that_was_answered_counts_for_half_a_minute(make: Make, clock: Clock) -> None:
    with serving(lambda ask: OK if ask.path == "/health" else Answer(403 if ask.path == "/no" else 503)) as server:
        shared = make(server.url)
        shared._sleep = lambda seconds, cancel: None  # so that no time passes by itself
        asked = []
        for wait in (0, 29.5, 0.5):
            clock.now += wait
            fails(shared, match="status 503")
            asked.append(sum(ask.path == "/health" for ask in server.asked))
    assert asked == [1, 1, 2]


@pytest.mark.parametrize(("before", "closes"), [(1, True), (0, False)])
def test_an_answer_since_it_was_asked_last_closes_it(
    before: int, closes: bool, make: Make, vendor: tuple[Vendor, Server], clock: Clock, kept: Kept
) -> None:
    script, server = vendor
    script.up = False
    fails(make(server.url))
    document = kept.circuit()
    state = json.loads(document.read() or b"") | {"pause": 9999}
    document.remove()
    script.up = True
    mine = make(server.url)
    mine.get(PATH, {})
    document.write(json.dumps(state | {"asked": clock.now - before}).encode())  # by another process, meanwhile
    asked = len(server.asked)
    if closes:
        assert mine.get(PATH, {}) == OK.body
        assert document.read() is None
    else:
        fails(mine)
    assert len(server.asked) == asked + closes


def test_a_success_in_between_says_that_it_is_not_down(make: Make, vendor: tuple[Vendor, Server]) -> None:
    script, server = vendor
    script.bad = {PATH, "/health"}
    shared = make(server.url)
    sleep, shared._sleep = shared._sleep, lambda seconds, cancel: (sleep(seconds, cancel), shared.get("/v1/others", {}))
    assert "down since" not in fails(shared, match="status 503")


def test_each_key_and_each_address_has_its_own(make: Make, vendor: tuple[Vendor, Server]) -> None:
    script, server = vendor
    with serving(Vendor()) as well:
        script.up = False
        fails(make(server.url))
        asked = len(server.asked)
        assert make(well.url).get(PATH, {}) == OK.body
        script.up = True
        assert make(server.url, api_key="another").get(PATH, {}) == OK.body
        fails(make(server.url))
    assert len(server.asked) == asked + 1


def test_a_dead_prober_and_a_clock_set_back_keep_nobody_out(
    make: Make, vendor: tuple[Vendor, Server], clock: Clock, kept: Kept
) -> None:
    script, server = vendor
    script.up = False
    fails(make(server.url))
    document = kept.circuit()
    state = json.loads(document.read() or b"")
    script.up = True
    document.write(json.dumps(state | {"asked": clock.now, "answer": clock.now + 10}).encode())
    fails(make(server.url))
    clock.now += 31
    assert make(server.url).get(PATH, {}) == OK.body
    document.write(json.dumps(state | {"asked": clock.now + 9999}).encode())
    assert make(server.url).get(PATH, {}) == OK.body
    document.write(b"torn")
    assert make(server.url).get(PATH, {}) == OK.body


def test_somebody_who_asks_at_this_very_instant_is_waited_for(
    make: Make, vendor: tuple[Vendor, Server], clock: Clock, kept: Kept
) -> None:
    script, server = vendor
    script.up = False
    fails(make(server.url))
    document = kept.circuit()
    state, now = json.loads(document.read() or b""), clock.now
    document.write(json.dumps(state | {"pause": 0, "asked": now, "answer": now + 10}).encode())
    script.up = True
    assert make(server.url).get(PATH, {}) == OK.body
    assert clock.now >= now + 10


def test_the_state_says_no_secret_and_is_for_this_user_alone(
    make: Make, vendor: tuple[Vendor, Server], kept: Kept
) -> None:
    script, server = vendor
    script.up = False
    fails(make(server.url))
    assert any(b"503" in text for text in kept.texts())
    assert not any(b"the-key" in text for text in kept.texts())
    if not kept.url:
        assert not any(path.stat().st_mode & 0o077 for path in (kept.home / "quota").iterdir())


# --- runs ---------------------------------------------------------------------------------------------------------


@contextmanager
def dead(answer: Answer | None) -> Iterator[Server]:
    """Every system, down."""
    with serving(lambda ask: answer) as server:
        yield server


def shared_keys(url: str) -> dict[str, str]:
    """Two companies on the same keys at one address."""
    variables = {}
    for system in all_systems().values():
        variables[system.url_variable] = url
        family = system.shared_credential or system.name.upper()
        for name in system.auth.credentials:
            variables[f"{family}_{name.upper()}"] = f"shared-{name}"
        if system.tenant != "company_id":
            for slug in ("ACME_CORP", "GLOBEX_INC"):
                variables[f"{system.name.upper()}_{slug}_{system.tenant.upper()}"] = f"tenant-of-{slug}"
    return variables


COMPANIES = {
    "acme-corp": "550e8400-e29b-41d4-a716-446655440000",
    "globex-inc": "660e8400-e29b-41d4-a716-446655440001",
}


@pytest.mark.long
@pytest.mark.parametrize("answer", [Answer(503), pytest.param(None, marks=pytest.mark.long)])
def test_twelve_streams_and_two_companies_ask_a_dead_source_a_few_times(
    answer: Answer | None, home: Callable[..., Home]
) -> None:
    with serving(lambda ask: answer) as server:
        pauses = dict.fromkeys(("TEEI_CIRCUIT_PAUSE_S", "TEEI_CIRCUIT_PAUSE_MAX_S"), "3600")  # however slow we are
        place = home(COMPANIES, {**shared_keys(server.url), "TEEI_MAX_RETRIES": "3", **pauses})
        first = place.materialize("acme-corp", date(2024, 1, 1), date(2024, 1, 31))
        asked = len(server.asked)
        # At most what each stream asks before one has given up, and the probe of each system; not 31 days by halves.
        assert asked <= 4 * len(all_streams()) + len(all_systems())
        second = place.materialize("globex-inc", date(2024, 1, 1), date(2024, 1, 31))
        assert len(server.asked) == asked
    for result, slug in ((first, "acme-corp"), (second, "globex-inc")):
        told = failures(result)
        assert len(told) == len(all_streams())
        for line in told:
            assert "31 partitions failed" in line and "down since" in line
            assert f"`teei sync --failed --company {slug}` tries them again" in line
