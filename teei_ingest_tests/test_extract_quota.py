"""Quotas over processes, pauses, and waits that a source asks for."""

import stat
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pyrate_limiter import Rate

from teei_ingest.errors import RateLimited, SettingsError
from teei_ingest.extract.caller import Caller, Cancelled
from teei_ingest.extract.http import Source
from teei_ingest.extract.quota import Quota
from teei_ingest.systems.base import Quota as Allowance
from teei_ingest.systems.base import System
from teei_ingest_tests.extracting import (
    SYSTEMS,
    Answer,
    Ask,
    Clock,
    Server,
    credentials,
    in_turn,
    serving,
)
from teei_ingest_tests.keeping import Kept
from teei_ingest_tests.together import ready, tell

GOODERA = SYSTEMS["goodera"]
OK = Answer.of({"data": []})


def goodera(server: Server, kept: Kept, clock: Clock, system: System = GOODERA, **variables: object) -> Source:
    given = kept.settings(**variables)
    return Source(system, credentials(system.name, server.url), given, clock=clock, sleep=clock.sleep)


WORKER = """
import sys, time
from pathlib import Path
from pyrate_limiter import Rate
from teei_ingest.extract.quota import Quota
from teei_ingest_tests.keeping import Kept
from teei_ingest_tests.together import ready, tell

last = 0.0

def clock():  # asked last when a request is granted
    global last
    last = time.monotonic()
    return last

quota = Quota(Kept(Path(sys.argv[1]), sys.argv[3]).place(clock), [Rate(20, 2040)], clock, sys.argv[2], patience_s=60)
print("ready", flush=True)
end = float(sys.stdin.readline())
while time.monotonic() < end and quota.acquire(time.sleep) == 0:
    print(last)
"""


def test_three_processes_share_a_quota_in_turn_and_use_it_up(kept: Kept) -> None:
    companies = ("acme", "acme", "globex")
    with ready(WORKER, [(kept.home, company, kept.url) for company in companies]) as workers:
        end = time.monotonic() + 5.8
        tell(workers, end)
        each = [[float(text) for text in worker.communicate(timeout=60)[0].split()] for worker in workers]
        assert [worker.returncode for worker in workers] == [0] * len(workers)
    for company in set(companies):  # each has the same part, however many processes it has, and all of these get some
        of_it = [len(moments) for name, moments in zip(companies, each, strict=True) if name == company]
        assert sum(of_it) >= 0.6 * 60 / 2, list(map(len, each))
        assert min(of_it) >= 0.1 * 60 / 2, list(map(len, each))
    taken = sorted(moment for moments in each for moment in moments)
    for first, beyond in zip(taken, taken[20:], strict=False):
        assert beyond - first > 2.0
    assert sum(moment < end for moment in taken) >= 0.95 * 10 * 5.8


@pytest.mark.parametrize("step", [0, -1e9], ids=["killed", "before the machine started"])
def test_nobody_waits_for_the_dead(kept: Kept, step: float) -> None:
    clock = Clock()
    mine, other = (Quota(kept.place(clock), [Rate(2, 10_000)], clock, who) for who in ("acme", "globex"))
    for _ in range(2):
        assert mine.acquire(clock.pause) == 0
    waits, comes_back = threading.Semaphore(0), threading.Event()

    def hang(seconds: float) -> None:
        waits.release()
        comes_back.wait(60)

    threads = [threading.Thread(target=other.acquire, args=(hang,), daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in threads:  # a later one would not be dead yet
        assert waits.acquire(timeout=20)
    clock.now += step
    begun = clock.now
    for _ in range(2):
        assert mine.acquire(clock.pause) == 0
    assert 10 < clock.now - begun < 10.1
    clock.now += 11
    comes_back.set()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def test_who_came_first_is_served_first(kept: Kept) -> None:
    clock = Clock()
    mine, other = (Quota(kept.place(clock), [Rate(1, 3_000)], clock) for _ in range(2))
    assert mine.acquire(clock.pause) == 0
    waits, comes_back = threading.Event(), threading.Event()

    def hang(seconds: float) -> None:
        waits.set()
        comes_back.wait(60)

    thread = threading.Thread(target=other.acquire, args=(hang,), daemon=True)
    thread.start()
    assert waits.wait(20)

    def pause(seconds: float) -> None:
        comes_back.set()
        thread.join(20)
        assert not thread.is_alive()
        clock.pause(seconds)

    clock.now += 3.1
    begun = clock.now
    assert mine.acquire(pause) == 0
    assert 3 < clock.now - begun < 3.1


def test_who_gives_up_leaves_its_turn_to_others(kept: Kept) -> None:
    clock = Clock()
    mine, other = (Quota(kept.place(clock), [Rate(1, 3_000)], clock, who) for who in ("acme", "globex"))
    assert mine.acquire(clock.pause) == 0

    def give_up(seconds: float) -> None:
        raise InterruptedError

    for _ in range(3):
        with pytest.raises(InterruptedError):
            other.acquire(give_up)
    begun = clock.now
    assert mine.acquire(clock.pause) == 0
    assert 3 < clock.now - begun < 3.1


@pytest.mark.parametrize(("ago", "at_once"), [(1.9, 5), (2.1, 9)])
def test_the_part_of_a_company_is_kept_for_as_long_as_it_asks_often_enough_to_use_it(
    kept: Kept, ago: float, at_once: int
) -> None:
    clock = Clock()
    mine, other = (Quota(kept.place(clock), [Rate(10, 10_000)], clock, who) for who in ("acme", "globex"))
    assert other.acquire(clock.pause) == 0
    clock.now += ago

    def give_up(seconds: float) -> None:
        raise InterruptedError

    taken = 0
    with pytest.raises(InterruptedError):
        while mine.acquire(give_up) == 0:
            taken += 1
    assert taken == at_once


def test_one_with_many_threads_and_one_with_one_have_equal_parts(kept: Kept) -> None:
    end = time.monotonic() + 2.4
    taken: list[tuple[float, str]] = []

    def work(who: str) -> None:
        moment = 0.0

        def clock() -> float:
            nonlocal moment
            moment = time.monotonic()
            return moment

        quota = Quota(kept.place(clock), [Rate(10, 500)], clock, who)
        while time.monotonic() < end and quota.acquire(time.sleep) == 0:
            taken.append((moment, who))
        quota.close()

    threads = [threading.Thread(target=work, args=(who,)) for who in ("acme", "acme", "acme", "acme", "globex")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    shares = Counter(who for _, who in taken)
    assert min(shares.values()) >= 0.6 * shares.total() / 2, shares
    moments = sorted(moment for moment, _ in taken)
    assert all(beyond - first > 0.5 for first, beyond in zip(moments, moments[10:], strict=False))


@pytest.mark.usefixtures("permissive")
def test_files_are_for_this_user_alone(tmp_path: Path) -> None:
    quota = Quota(tmp_path / "quota" / "q.sqlite", [Rate(1, 1000)], time.time)
    assert quota.acquire(time.sleep) == 0
    quota.block(5)
    folder = tmp_path / "quota"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = list(folder.iterdir())
    assert len(files) >= 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    quota.close()


def test_goodera_is_asked_a_hundred_times_a_minute(kept: Kept) -> None:
    clock = Clock()
    asked_at = []

    def script(ask: Ask) -> Answer:
        asked_at.append(clock.now)
        return OK

    with serving(script) as server:
        first, second = goodera(server, kept, clock), goodera(server, kept, clock)
        caller = Caller()
        for number in range(301):
            (first, second)[number % 2].get("/api/v1/activities", {}, caller)
    for earlier, later in zip(asked_at, asked_at[100:], strict=False):
        assert later - earlier > 60
    assert asked_at[300] - asked_at[0] < 3 * 60 / 0.95


def test_a_quota_is_counted_for_the_key(kept: Kept) -> None:
    clock = Clock()
    system = replace(GOODERA, quota=Allowance(2, 60))
    with serving(lambda ask: OK) as server:
        for key in ("one", "two"):
            given = credentials("goodera", server.url, api_key=key)
            source = Source(system, given, kept.settings(), clock=clock, sleep=clock.sleep)
            source.get("/x", {})
            source.get("/x", {})
    assert clock.slept == []


def test_retries_count_and_health_does_not(kept: Kept) -> None:
    clock = Clock()
    system = replace(GOODERA, quota=Allowance(2, 600))
    with serving(in_turn(Answer(500), OK)) as server:
        source = goodera(server, kept, clock, system)
        source.get("/x", {})
        waited = sum(clock.slept)
        assert source.check("/api/v1/health") == 200
        assert sum(clock.slept) == waited < 3
        source.get("/x", {})
    assert sum(clock.slept) > 600


def test_a_pause_between_requests(kept: Kept) -> None:
    clock = Clock()
    with serving(lambda ask: OK) as server:
        for system, variable in (
            (SYSTEMS["kintell"], "KINTELL_RATE_LIMIT_DELAY_MS"),
            (GOODERA, "GOODERA_RATE_LIMIT_DELAY_MS"),
        ):
            clock.slept.clear()
            source = goodera(server, kept, clock, system, **{variable: 700})
            for _ in range(3):
                source.get("/x", {})
            assert clock.slept == pytest.approx([0.701, 0.701], abs=0.002)


def test_a_short_pause_leaves_the_quota_as_it_is(kept: Kept) -> None:
    clock = Clock()
    began = clock.now
    system = replace(GOODERA, quota=Allowance(3, 60))
    with serving(lambda ask: OK) as server:
        source = goodera(server, kept, clock, system, GOODERA_RATE_LIMIT_DELAY_MS=100)
        for _ in range(4):
            source.get("/x", {})
    assert 60 < clock.now - began < 62


@pytest.mark.parametrize("text", ["soon", "-1", "1.5", "999999999"])
def test_a_malformed_pause_names_its_variable(tmp_path: Path, text: str) -> None:
    with serving(lambda ask: OK) as server, pytest.raises(SettingsError, match="GOODERA_RATE_LIMIT_DELAY_MS"):
        goodera(server, Kept(tmp_path), Clock(), GOODERA_RATE_LIMIT_DELAY_MS=text)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(429, headers={"Retry-After": "30"}),
        Answer(429, headers={"X-RateLimit-Reset": "30"}),
        Answer(429, headers={"X-RateLimit-Reset": str(int(Clock().now) + 30)}),
        Answer(body=OK.body, headers={"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "30"}),
    ],
)
@pytest.mark.parametrize("system", [GOODERA, SYSTEMS["kintell"]])
def test_a_wait_that_a_source_asks_for_is_everybodys(kept: Kept, system: System, answer: Answer) -> None:
    clock, elsewhere = Clock(), Clock()
    with serving(in_turn(answer, OK)) as server:
        goodera(server, kept, clock, system).get("/x", {})
        goodera(server, kept, elsewhere, system).get("/x", {})
        other = Clock()
        given = credentials(system.name, server.url, api_key="another")
        Source(system, given, kept.settings(), clock=other, sleep=other.sleep).get("/x", {})
    assert elsewhere.slept == pytest.approx([30], abs=0.01)
    assert other.slept == []


def test_a_block_beyond_all_patience_ends_in_an_error_without_a_request(kept: Kept) -> None:
    clock = Clock()
    with serving(in_turn(Answer(429, headers={"Retry-After": "999999"}), OK)) as server:
        source = goodera(server, kept, clock)
        for _ in range(2):
            with pytest.raises(RateLimited):
                source.get("/x", {})
        assert len(server.asked) == 1
        assert clock.slept == []
        clock.now += 3601
        assert source.get("/x", {}) == OK.body


def test_a_wait_for_the_quota_can_be_cancelled(kept: Kept) -> None:
    system = replace(GOODERA, quota=Allowance(1, 600))
    with serving(lambda ask: OK) as server:
        source = Source(system, credentials("goodera", server.url), kept.settings())
        caller = Caller()
        source.get("/x", {}, caller)
        threading.Timer(0.2, caller.cancel.set).start()
        began = time.monotonic()
        with pytest.raises(Cancelled):
            source.get("/x", {}, caller)
        assert time.monotonic() - began < 5


def _folder_is_a_file(folder: Path) -> None:
    folder.write_text("")


def _file_is_no_database(folder: Path) -> None:
    folder.mkdir()
    (folder / "q.sqlite").write_bytes(b"no database" * 100)


@pytest.mark.parametrize("damage", [_folder_is_a_file, _file_is_no_database])
def test_files_that_cannot_be_used_are_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    damage(tmp_path / "quota")
    with pytest.raises(SettingsError, match="TEEI_HOME") as raised:
        Quota(tmp_path / "quota" / "q.sqlite", [Rate(1, 1000)], time.time)
    assert raised.value.__context__ is None
