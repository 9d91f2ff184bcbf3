"""One quota for several processes and companies with one key, as the server sees it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from teei_ingest_tests.extracting import Answer, Ask, serving

WORKER = """
import sys, time
from dataclasses import replace
from pathlib import Path
from teei_ingest.extract.http import Source
from teei_ingest.systems.base import Quota
from teei_ingest_tests.extracting import SYSTEMS, credentials, settings

url, home, key, company = sys.argv[1:]
system = replace(SYSTEMS["goodera"], quota=Quota(20, 2))
given = credentials("goodera", url, api_key=key, project_id=company)
source = Source(system, given, settings(Path(home), TEEI_MAX_RETRIES=0))
print("ready", flush=True)
end = float(sys.stdin.readline())
while time.time() < end:
    source.get("/api/v1/activities", {})
"""

WORKERS = (("one", "acme"), ("one", "globex"), ("one", "acme"), ("two", "acme"))


@pytest.mark.long
def test_three_processes_and_two_companies_share_a_key_and_another_key_is_its_own(tmp_path: Path) -> None:
    arrived: dict[str, list[tuple[float, str]]] = {"one": [], "two": []}

    def script(ask: Ask) -> Answer:
        seen = arrived[ask.headers["x-api-key"]]
        now = time.time()
        seen.append((now, f"{ask.query['project_id']} {ask.connection}"))
        return Answer(429 if sum(now - moment <= 2 for moment, _ in seen) > 20 else 200)

    with serving(script) as server:
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER, server.url, str(tmp_path / "home"), key, company],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for key, company in WORKERS
        ]
        try:
            for worker in workers:
                assert worker.stdout and worker.stdout.readline() == "ready\n"
            begun = time.time()
            for worker in workers:
                assert worker.stdin
                worker.stdin.write(f"{begun + 8}\n")
                worker.stdin.flush()
            time.sleep(4)  # what one that is killed had taken comes back with time
            workers[2].kill()
            told = [worker.communicate(timeout=60)[1] for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
    assert [told[0], told[1], told[3]] == ["", "", ""]  # an error of a source: a 429
    for key, seen in arrived.items():
        moments = sorted(moment for moment, _ in seen)
        for first, beyond in zip(moments, moments[20:], strict=False):
            assert beyond - first > 2.0, key
        assert sum(moment - begun < 8 for moment in moments) >= 0.95 * 10 * 8, key
    for half in (0, 1):  # all three at first, then the two that are left
        span = begun + 4 * half, begun + 4 * half + 4
        shares = Counter(who for moment, who in arrived["one"] if span[0] <= moment < span[1])
        assert len(shares) >= 2
        assert {who.split()[0] for who in shares} == {"acme", "globex"}
