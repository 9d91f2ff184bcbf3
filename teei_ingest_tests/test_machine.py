"""What the machine does to us: a full disk, no permission, few files, little memory, signals, clocks, somebody else.

Each ends in one line that says what to do, loses nothing, and is made up for by the next sync. Kills: `test_kill.py`.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any, cast

import dagster as dg
import pytest
from pyrate_limiter import Rate

from teei_ingest.extract.quota import Quota
from teei_ingest_tests.dagster_parts import instance_in
from teei_ingest_tests.feeding import ACME, answering, lists, page, record, stored, worker
from teei_ingest_tests.kill.machine import OLD, Machine, Zygote, machine
from teei_ingest_tests.running import Home

NOBODY = 65534
STREAMS = ["benevity_volunteers", "goodera_donations"]
VOLUNTEERS = STREAMS[0]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="module")
def here() -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="teei-machine-") as folder:  # pytest's own are closed to another user
        Path(folder).chmod(0o755)
        with machine(Path(folder), [OLD], streams=STREAMS) as made:
            yield made


@pytest.fixture
def place(here: Machine, request: pytest.FixtureRequest) -> Path:
    """A home with the events of before."""
    return here.copy_of(OLD, "".join(c if c.isalnum() else "-" for c in request.node.name))


def refused(here: Machine, home: Path, code: int, text: str, **order: Any) -> None:
    """A sync ends with the code and one line with the text; what was stored, is stored."""
    before = here.rows(home)
    found, said = here.sync(home, **order)
    told = [line for line in said.splitlines() if text in line]
    assert (found, bool(told)) == (code, True), said
    assert "Traceback" not in said
    assert here.rows(home) == before


def mended(here: Machine, home: Path) -> None:
    """The next sync brings all, and nothing is left of the one before."""
    code, said = here.sync(home)
    assert code == 0, said
    assert here.compared(home) == ([], [])


@as_root
@pytest.mark.machine
def test_a_full_disk(here: Machine, place: Path) -> None:
    disk = place.parent / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1100k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        shutil.copytree(place, disk / "home", symlinks=True)
        refused(here, disk / "home", 5, "is on a full disk: make room")
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        mended(here, disk / "home")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def hand_over(path: Path, user: int) -> None:
    for one in (path, *path.rglob("*")):
        os.chown(one, user, user, follow_symlinks=False)


@as_root
@pytest.mark.long
@pytest.mark.parametrize(
    ("folder", "code", "text"),
    [
        ("", 3, "sandbox.json cannot be read: Permission denied"),
        ("keys", 3, "keys cannot be read: Permission denied; mend that"),
        ("dagster", 3, "DAGSTER_HOME"),
        ("events", 5, "may not be used: mend its permissions"),
        ("quarantine", 5, "the quarantine cannot be changed: Permission denied"),
    ],
)
def test_no_permission(here: Machine, place: Path, folder: str, code: int, text: str) -> None:
    hand_over(place.parent, NOBODY)
    hand_over(place / folder, 0)
    refused(here, place, code, text, uid=NOBODY)
    hand_over(place.parent, NOBODY)
    assert here.sync(place, uid=NOBODY)[0] == 0
    assert here.compared(place) == ([], [])


@pytest.mark.long
def test_few_files(here: Machine, place: Path) -> None:
    refused(here, place, 3, "`ulimit -n 1024`, then run it again", limits={"RLIMIT_NOFILE": 40})
    mended(here, place)


def in_little_memory(environ: dict[str, str], room_mb: int) -> list[str]:
    """In another process that may take so much more memory: what failed."""
    at_work = worker(Home(Path(environ["TEEI_HOME"]), environ, cast("dg.DagsterInstance", None)), VOLUNTEERS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (room_mb << 20),) * 2)
    return [str(one.error) for one in at_work.both([date(2024, 1, 15)]).bad]


@pytest.mark.long
@pytest.mark.parametrize(
    ("most_mb", "text"),
    [(64, "sends more than 64 MiB in one reply (TEEI_MAX_RESPONSE_MB)"), (500, "does not fit into memory")],
)
def test_a_page_of_200_mb(home: Callable[..., Home], most_mb: int, text: str) -> None:
    old = record(VOLUNTEERS, "old", "2024-01-15T10:00:00Z")
    with answering(lists({VOLUNTEERS: [old]})) as server:
        place = home({ACME.slug: ACME.id}, {**server.environment(), "TEEI_MAX_RESPONSE_MB": str(most_mb)})
        assert worker(place, VOLUNTEERS).both([date(2024, 1, 15)]).good
        before = stored(place, VOLUNTEERS)
        large = page(VOLUNTEERS, [old, {**old, "padding": "x" * (200 << 20)}])
        server.answer = lambda ask: type(server.token)(large)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            (problem,) = pool.submit(in_little_memory, place.environ, 300).result(120)
        assert text in problem and "\n" not in problem
        assert stored(place, VOLUNTEERS) == before


def test_a_clock_that_is_set_back(tmp_path: Path) -> None:
    rate, apart = 3, 0.05
    for number, (at, step) in enumerate(itertools.product(range(1, 8), (0.3, 1.5, 60, 86_400))):
        clock, gone = [1.7e9], [0.0]  # what the clock says, and the seconds that really went by
        waits, asked = [], []

        def pause(seconds: float, clock: list[float] = clock, gone: list[float] = gone) -> None:
            clock[0] += seconds
            gone[0] += seconds

        quota = Quota(tmp_path / f"{number}.sqlite", [Rate(rate, 1000)], lambda clock=clock: clock[0])  # type: ignore[misc]
        for count in range(14):
            if count == at:
                clock[0] -= step
            before = gone[0]
            assert quota.acquire(pause) == 0
            waits.append(gone[0] - before)
            asked.append(gone[0])
            pause(apart)
        quota.close()
        assert all(sum(since <= one < since + 1 for one in asked) <= rate for since in asked)
        assert max(waits) <= 1.01


def test_a_pause_that_the_source_asked_for_ends_though_the_clock_is_set_back(tmp_path: Path) -> None:
    clock = [1.7e9]
    quota = Quota(tmp_path / "quota.sqlite", [], lambda: clock[0])
    quota.block(30)
    assert quota.acquire(lambda seconds: None) == pytest.approx(30, abs=0.01)
    clock[0] -= 86_400
    assert quota.acquire(lambda seconds: None) == 0


@pytest.mark.machine
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_at_any_time(here: Machine, place: Path, number: signal.Signals) -> None:
    """From the first moments, while Dagster is opened, to the last words."""
    interrupted, whole = 0, here.seconds
    for moment, share in enumerate((0.1, 0.3, 0.9, 0.5, 0.7, 0.2)):
        home = here.copy_of(OLD, f"{place.parent.name}-{moment}")
        ended = here.signalled(home, after=share * whole, number=number)
        if ended is None:
            whole *= share  # it was over: nothing else slows it down any more
            continue
        code, seconds, said = ended
        with instance_in(home) as instance:
            before, *runs = reversed([run.status for run in instance.get_runs()])
        assert before is dg.DagsterRunStatus.SUCCESS
        assert seconds < 5
        if code == 130:
            interrupted += 1
            assert said.splitlines()[-1] == "teei: interrupted; what was started has ended"
            assert set(runs) <= {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.CANCELED}
        else:  # nothing had begun, or all was done
            assert code in (0, -number)
            assert runs in ([], [dg.DagsterRunStatus.SUCCESS])
        mended(here, home)
    assert interrupted >= 3


@pytest.mark.long
def test_two_syncs_of_one_partition_at_once(here: Machine, place: Path) -> None:
    other = Zygote()
    try:
        codes: list[int] = []
        second = threading.Thread(target=lambda: codes.append(here.sync(place, zygote=other, said=os.devnull)[0]))
        second.start()
        codes.append(here.sync(place)[0])
        second.join()
    finally:
        other.close()
    assert codes == [0, 0]
    assert here.compared(place) == ([], [])


@pytest.mark.long
@pytest.mark.parametrize("database", ["history/runs.db", "history/runs/index.db"])
def test_dagster_s_database_is_gone_for_ten_seconds(here: Machine, place: Path, database: str) -> None:
    """SQLite waits five seconds for whoever has it, then it is an error."""
    held = sqlite3.connect(place / "dagster" / database, isolation_level=None, check_same_thread=False)
    held.execute("BEGIN EXCLUSIVE")
    free = threading.Timer(10, held.close)
    free.start()
    code, said = here.sync(place)
    free.join()
    if code:
        assert code == 5 and "has been in use for too long: wait for whoever uses it" in said
    mended(here, place)
