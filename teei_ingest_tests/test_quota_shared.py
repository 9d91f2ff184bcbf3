"""One quota for several processes and companies with one key, as the server sees it."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from teei_ingest_tests.extracting import Answer, Ask, serving
from teei_ingest_tests.keeping import Kept
from teei_ingest_tests.together import ready, tell

# Its clock steps, an hour with every look. Where there is a Postgres, each is a machine of its own.
WORKER = """
import itertools, sys, time
from dataclasses import replace
from pathlib import Path

hours = itertools.count()
real, time.time = time.time, lambda: real() + 3600 * next(hours)

from teei_ingest.extract.http import Source
from teei_ingest.systems.base import Quota
from teei_ingest_tests.extracting import SYSTEMS, credentials
from teei_ingest_tests.keeping import Kept

url, home, shared, requests, seconds, key, company, name = sys.argv[1:]
system = replace(SYSTEMS["goodera"], quota=Quota(int(requests), int(seconds)))
given = credentials("goodera", url, api_key=key, project_id=name)
kept = Kept(Path(home, name if shared else ""), shared)
source = Source(system, replace(given, company=company), kept.settings(TEEI_MAX_RETRIES=0))
print("ready", flush=True)
end = float(sys.stdin.readline())
while time.monotonic() < end:
    source.get("/api/v1/activities", {})
"""

# Key, company, and the name of the worker; one of two for a company is killed.
KILLED = "acme 2"
WORKERS = (("one", "acme", "acme 1"), ("one", "globex", "globex"), ("one", "acme", KILLED), ("two", "acme", "acme 3"))
WINDOWS = 3
PAUSE_S = 1


@pytest.mark.parametrize(
    ("kept", "requests", "seconds"),
    [
        pytest.param("files", 20, 2, marks=pytest.mark.long),
        pytest.param("postgres", 30, 13, marks=pytest.mark.fleet),
        pytest.param("files", 100, 60, marks=pytest.mark.machine),
        pytest.param("postgres", 100, 60, marks=pytest.mark.machine),
    ],
    indirect=["kept"],
)
def test_processes_and_companies_share_a_key_in_turn_and_another_key_is_its_own(
    kept: Kept, requests: int, seconds: int
) -> None:
    arrived: dict[str, list[tuple[float, str]]] = {"one": [], "two": []}
    used_up = [float("inf")]  # from when on the source says so, once
    paused = []

    def script(ask: Ask) -> Answer:
        key, now = ask.headers["x-api-key"], time.monotonic()
        arrived[key].append((now, ask.query["project_id"]))
        if key == "one" and now > used_up[0] and not paused:
            paused.append(now)
            return Answer(429, headers={"Retry-After": str(PAUSE_S)})
        return Answer(429 if sum(now - moment <= seconds for moment, _ in arrived[key]) > requests else 200)

    with serving(script) as server:
        common = (server.url, kept.home, kept.url, requests, seconds)
        with ready(WORKER, [(*common, *worker) for worker in WORKERS]) as processes:
            begun = time.monotonic()
            used_up[0] = begun + WINDOWS * seconds
            tell(processes, used_up[0] + 0.1 * seconds + 2 * PAUSE_S)
            died = begun + (WINDOWS - 1) * seconds
            time.sleep(died - time.monotonic())  # what one that is killed had taken comes back with time
            processes[2].kill()
            told = [process.communicate(timeout=300)[1] for process in processes]
    assert set(told) == {""}  # an error of a source: a 429

    for key, seen in arrived.items():
        moments = sorted(moment for moment, _ in seen)
        for first, beyond in zip(moments, moments[requests:], strict=False):
            assert beyond - first > seconds, key
        assert sum(moment < used_up[0] for moment in moments) >= 0.95 * WINDOWS * requests, key

    for since, until, working in ((begun, died, WORKERS[:3]), (died, used_up[0], WORKERS[:2])):
        shares = Counter(name for moment, name in arrived["one"] if since <= moment < until)
        companies = [company for _, company, _ in working]
        for _, company, name in working:  # each company has the same part
            assert shares[name] >= 0.6 * shares.total() / len(set(companies)) / companies.count(company), shares

    (heard,) = paused
    waiting = [name for moment, name in arrived["one"] if heard + 0.2 < moment < heard + PAUSE_S]
    assert waiting == []
    assert {name for moment, name in arrived["one"] if moment > heard + PAUSE_S} == {"acme 1", "globex"}
    assert any(moment > heard for moment, _ in arrived["two"])
