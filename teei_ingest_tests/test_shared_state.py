"""Quotas and circuits in a Postgres that several machines share: what goes wrong with it, and with their clocks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from pyrate_limiter import Rate

from teei_ingest.errors import SettingsError, SharedStateDown
from teei_ingest.extract.circuit import circuit_for, open_circuits
from teei_ingest.extract.http import Source
from teei_ingest.extract.quota import Quota, pressures, quota_for
from teei_ingest.vault.postgres import TABLE, Postgres, Row
from teei_ingest_tests.extracting import SYSTEMS, Answer, Ask, Server, credentials, serving, settings
from teei_ingest_tests.keeping import Kept, gone, hanging, rows
from teei_ingest_tests.together import eventually, ready, tell

pytestmark = pytest.mark.fleet

PATH = "/api/v1/activities"

# A machine of its own: its home, and how far its clock is off.
MACHINE = """
import sys, time
from dataclasses import replace
from pathlib import Path

url, home, shared, off, requests, pause = sys.argv[1:]
real, time.time = time.time, lambda: real() + float(off)

from teei_ingest.errors import SourceDown
from teei_ingest.extract.http import Source
from teei_ingest.systems.base import Quota
from teei_ingest_tests.extracting import SYSTEMS, credentials
from teei_ingest_tests.keeping import Kept

given = Kept(Path(home), shared).settings(TEEI_MAX_RETRIES=0, TEEI_CIRCUIT_PAUSE_S=pause, TEEI_READ_TIMEOUT_S=5)
system = replace(SYSTEMS["goodera"], quota=Quota(30, 13))
source = Source(system, credentials("goodera", url, project_id=off), given)
print("ready", flush=True)
sys.stdin.readline()
done = 0
while done < int(requests):
    try:
        source.get("/api/v1/activities", {})
        done += 1
    except SourceDown:
        time.sleep(0.05)
"""


def sessions(url: str) -> set[int]:
    """Which processes of Postgres serve somebody."""
    return {pid for (pid,) in rows(url, f"SELECT pid FROM pg_stat_activity WHERE application_name = '{TABLE}'")}


@contextmanager
def machines(
    server: Server, folder: Path, url: str, clocks_off: list[int], requests: int, pause: float = 1
) -> Iterator[list[subprocess.Popen[str]]]:
    """As many as there are clocks, once they are ready; none may say an error."""
    with ready(MACHINE, [(server.url, folder / str(off), url, off, requests, pause) for off in clocks_off]) as made:
        tell(made, "")
        yield made
        assert [one.communicate(timeout=120)[1] for one in made] == [""] * len(made)


@pytest.mark.parametrize("away", [gone, hanging])
def test_postgres_that_is_away_for_ten_seconds_delays_and_lets_nothing_through(
    away: Callable[[str], AbstractContextManager[None]], tmp_path: Path, shared_url: str
) -> None:
    asked: list[float] = []

    def script(ask: Ask) -> Answer:
        asked.append(time.monotonic())
        return Answer()

    each = 30
    with serving(script) as server, machines(server, tmp_path, shared_url, [300, 0, -300], each):
        eventually(lambda: len(asked) > 35, "they are at work", 60)
        with away(shared_url):
            before = len(asked)
            time.sleep(10)
            assert len(asked) <= before + 3  # whoever had it already
    assert len(asked) == 3 * each
    asked.sort()
    assert all(beyond - first > 13 for first, beyond in zip(asked, asked[30:], strict=False))


def test_clocks_that_are_wrong_by_minutes_open_and_close_one_circuit(tmp_path: Path, shared_url: str) -> None:
    well: set[str] = set()  # the machines that had an answer, before it is down
    is_back = threading.Event()
    probed: list[float] = []
    refused: list[str] = []

    def script(ask: Ask) -> Answer:
        if is_back.is_set():
            return Answer()
        if ask.path != PATH:
            probed.append(time.monotonic())
        elif len(well) < 3:
            well.add(ask.query["project_id"])
            return Answer()
        else:
            refused.append(ask.path)
        return Answer(503)

    with serving(script) as server, machines(server, tmp_path, shared_url, [300, 0, -300], 8, pause=0.5):
        eventually(lambda: len(probed) >= 4, "it is asked whether it is back", 60)
        is_back.set()
    # Each may have found out by itself, at the same time; then one of them asks, after a half, 1, 2, 4 seconds.
    apart = [later - earlier for earlier, later in pairwise(probed)]
    found_out = next(number for number, seconds in enumerate(apart) if seconds > 0.4)
    assert found_out < 3
    assert all(seconds > wait for seconds, wait in zip(apart[found_out:], (0.4, 0.9, 1.9), strict=False))
    assert len(refused) <= 3
    assert open_circuits(settings(tmp_path, TEEI_SHARED_STATE_URL=shared_url)) == []


def test_patience_ends_in_one_line_without_a_request(tmp_path: Path, shared_url: str) -> None:
    given = settings(tmp_path, TEEI_SHARED_STATE_URL=shared_url, TEEI_RETRY_WAIT_LIMIT_S=2)
    with serving(lambda ask: Answer()) as server:
        source = Source(SYSTEMS["goodera"], credentials("goodera", server.url), given)
        source.get(PATH, {})
        with gone(shared_url):
            with pytest.raises(SharedStateDown) as raised:
                source.get(PATH, {})
            assert len(server.asked) == 1
        source.get(PATH, {})
    assert str(raised.value) == "Postgres of TEEI_SHARED_STATE_URL does not answer; try again later"
    assert raised.value.exit_code == 4
    assert raised.value.__context__ is None


def test_a_wait_that_a_source_asks_for_is_told_once_postgres_is_back(tmp_path: Path, shared_url: str) -> None:
    given = settings(tmp_path, TEEI_SHARED_STATE_URL=shared_url)
    told: list[float] = []
    is_gone = threading.Event()
    with ExitStack() as away:

        def script(ask: Ask) -> Answer:
            told.append(time.monotonic())
            if len(told) > 1:
                return Answer()
            away.enter_context(gone(shared_url))
            is_gone.set()
            return Answer(429, headers={"Retry-After": "3"})

        with serving(script) as server:
            account = credentials("goodera", server.url)
            one, other = (Source(SYSTEMS["goodera"], account, given) for _ in range(2))
            thread = threading.Thread(target=one.get, args=(PATH, {}), daemon=True)
            thread.start()
            assert is_gone.wait(60)
            thread.join(1)
            since = time.monotonic()
            away.close()
            blocked = f"SELECT count(*) FROM {TABLE} WHERE name LIKE '%%.blocked'"
            eventually(lambda: rows(shared_url, blocked) == [(1,)], "it is told", 30)
            other.get(PATH, {})
            thread.join(30)
    assert len(told) == 3
    assert min(told[1:]) > since + 2.5


def test_who_is_cut_off_in_its_turn_keeps_nobody_out_and_gets_nothing(shared_url: str) -> None:
    quota = f"""
import os, signal, sys, time
from pyrate_limiter import Rate
from teei_ingest.extract.quota import Quota
from teei_ingest.vault.postgres import Postgres, Row

def clock():  # while nobody else has it
    os.kill(os.getpid(), signal.SIGSTOP)
    return time.time()

Quota(Row(Postgres({shared_url!r}), "q", clock), [Rate(1, 60_000)]).acquire(time.sleep)
"""
    child = subprocess.Popen([sys.executable, "-c", quota], stderr=subprocess.PIPE, text=True)
    try:
        assert os.WIFSTOPPED(os.waitpid(child.pid, os.WUNTRACED)[1])
        mine = Quota(Row(Postgres(shared_url), "q", time.time), [Rate(1, 60_000)], patience_s=60)
        began = time.monotonic()
        assert mine.acquire(time.sleep) == 0
        assert time.monotonic() - began > 1
        child.send_signal(signal.SIGCONT)
        assert "SharedStateDown" in child.communicate(timeout=30)[1]
    finally:
        child.kill()
        child.wait()


def test_what_comes_too_late_is_not_used(shared_url: str) -> None:
    postgres = Postgres(shared_url)

    def slow() -> float:
        time.sleep(0.6)
        return time.time()

    with pytest.raises(SharedStateDown, match="too slowly"):
        Quota(Row(postgres, "q", slow), [Rate(1, 60_000)]).acquire(time.sleep)
    assert len(_state(shared_url)["taken"]) == 1, "but it counts"


def test_threads_share_a_connection_and_a_forked_process_has_its_own(shared_url: str) -> None:
    postgres = Postgres(shared_url)
    quota = Quota(Row(postgres, "q"), [Rate(100, 60_000)], patience_s=60)
    threads = [threading.Thread(target=quota.acquire, args=(time.sleep,)) for _ in range(8)]
    already = sessions(shared_url)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(sessions(shared_url) - already) == 1
    child = subprocess.run(
        [sys.executable, "-c", FORKED.format(url=shared_url)], capture_output=True, text=True, timeout=60, check=True
    )
    assert child.stdout == "True True True\n"
    assert len(_state(shared_url)["taken"]) >= 10  # what comes too late counts, too


FORKED = """
import os, time
from pyrate_limiter import Rate
from teei_ingest.extract.quota import Quota
from teei_ingest.vault.postgres import TABLE, Row, postgres_at
from teei_ingest_tests.keeping import rows

mine = "SELECT array_agg(pid ORDER BY pid) FROM pg_stat_activity WHERE application_name = 'teei_shared_state'"
quota = Quota(Row(postgres_at({url!r}), "q"), [Rate(100, 60_000)], patience_s=60)
one = quota.acquire(time.sleep) == 0
before = rows({url!r}, mine)
child = os.fork()
if not child:
    os._exit(quota.acquire(time.sleep) == 0 and rows({url!r}, mine) != before)
two = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
# Its own goes on: it was not ended by the other process's.
postgres_at({url!r}).check()
print(one, two, set(before[0][0]) <= set(rows({url!r}, mine)[0][0]))
"""


def _state(url: str) -> dict[str, list[object]]:
    found: dict[str, list[object]] = json.loads(rows(url, f"SELECT state FROM {TABLE} WHERE name = 'q'")[0][0])
    return found


def test_how_a_quota_and_a_circuit_stand(kept: Kept) -> None:
    given = kept.settings()
    for key, count in (("one", 25), ("two", 3)):
        quota = quota_for(SYSTEMS["goodera"], credentials("goodera", "http://x", api_key=key), given)
        for _ in range(count):
            assert quota.acquire(time.sleep) == 0
        if key == "two":
            quota.block(60)
        quota.close()
    circuit_for(SYSTEMS["buddy"], credentials("buddy", "http://x"), given).open("answers with status 503")
    one, two = sorted(pressures(given, SYSTEMS.values()), key=lambda key: key.blocked)
    assert (one.system, one.limit, one.waiting, one.blocked, two.blocked) == ("goodera", 100, 0, False, True)
    assert one.used >= 25 > two.used >= 3  # what comes too late counts, too
    assert [key.used for key in pressures(given, SYSTEMS.values(), lambda: time.time() + 62)] == [0, 0]
    ((system, down),) = open_circuits(given)
    assert system == "buddy"
    assert abs(time.time() - down.since) < 60


def test_a_role_needs_no_more_than_the_table(shared_url: str) -> None:
    schema = shared_url.rpartition("%3D")[2]
    as_reader = shared_url.replace("postgresql://postgres", "postgresql://restricted")
    rows(shared_url, f"CREATE ROLE restricted LOGIN; GRANT USAGE ON SCHEMA {schema} TO restricted")
    try:
        with pytest.raises(SettingsError, match="may not use the table teei_shared_state") as raised:
            Postgres(as_reader).read("x")
        assert not isinstance(raised.value, SharedStateDown)
        Postgres(shared_url).check()
        rows(shared_url, f"GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLE} TO restricted")
        Row(Postgres(as_reader), "x").write(b"{}")
    finally:
        rows(shared_url, "DROP OWNED BY restricted; DROP ROLE restricted")


@pytest.mark.parametrize("wrong", ["database", "role", "url"])
def test_a_login_that_is_refused_is_told_at_once(wrong: str, tmp_path: Path, shared_url: str) -> None:
    secret = "s3cr3t-password"
    url = shared_url
    if wrong == "database":
        url = url.replace("/postgres?", "/nowhere?")
    elif wrong == "url":
        url += "&nonsense=1"
    else:
        url = url.replace("//postgres:@", f"//nobody:{secret}@")
    given = settings(tmp_path, TEEI_SHARED_STATE_URL=url)
    with serving(lambda ask: Answer()) as server:
        began = time.monotonic()
        with pytest.raises(SettingsError, match="TEEI_SHARED_STATE_URL: Postgres refuses") as raised:
            Source(SYSTEMS["goodera"], credentials("goodera", server.url), given).get(PATH, {})
        assert not isinstance(raised.value, SharedStateDown)
        assert time.monotonic() - began < 20
        assert server.asked == []
    assert secret not in str(raised.value) and raised.value.__context__ is None


@pytest.mark.parametrize("text", ["mysql://host/s3cr3t", "s3cr3t"])
def test_only_postgres_will_do(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match="TEEI_SHARED_STATE_URL: has to begin with `postgresql://`") as raised:
        settings(tmp_path, TEEI_SHARED_STATE_URL=text)
    assert "s3cr3t" not in str(raised.value)


def test_the_address_may_be_in_a_file(tmp_path: Path, shared_url: str) -> None:
    (tmp_path / "url").write_text(f"{shared_url}\n")
    given = settings(tmp_path / "home", TEEI_SHARED_STATE_URL_FILE=tmp_path / "url")
    quota_for(SYSTEMS["goodera"], credentials("goodera", "http://x"), given).block(5)
    assert rows(shared_url, f"SELECT count(*) FROM {TABLE}") == [(1,)]
    assert not (tmp_path / "home" / "quota").exists()
    assert shared_url not in repr(given)
