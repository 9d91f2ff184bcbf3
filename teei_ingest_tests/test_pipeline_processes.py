"""Several processes on one partition, and a disk that is full: the tables stay right."""

from __future__ import annotations

import json
import multiprocessing
import resource
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import cast

import dagster as dg
import pytest

from teei_ingest_tests.feeding import ACME, Answering, lists, quarantined, record, stored, worker
from teei_ingest_tests.running import Home
from teei_ingest_tests.second_opinion.data import generate
from teei_ingest_tests.second_opinion.server import Server

DAYS = [date(2024, 1, 15) + timedelta(number) for number in range(3)]
VOLUNTEERS, PLACEMENTS = "benevity_volunteers", "mentorship_placements"


def elsewhere(environ: dict[str, str]) -> Home:
    return Home(Path(environ["TEEI_HOME"]), environ, cast("dg.DagsterInstance", None))


def sync(environ: dict[str, str], stream: str, times: int) -> list[str]:
    """In another process: fetch and commit; the errors."""
    errors = []
    for _ in range(times):
        outcome = worker(elsewhere(environ), stream).both(DAYS)
        errors += [str(one.error) for one in outcome.bad]
    return errors


def on_a_full_disk(environ: dict[str, str], work: str) -> list[tuple[str, str]]:
    """In another process that can write no file longer than 16 KiB: code and message of what failed."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    at_work = worker(elsewhere(environ), VOLUNTEERS)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 10, 16 << 10))
    outcome = getattr(at_work, work)(DAYS[:1])
    return [(one.error.code, str(one.error)) for one in outcome.bad if one.error]


def sealed(place: Home, stream: str) -> list[object]:
    """What is in quarantine, however the server spelled it."""
    return [json.loads(entry.record) for day in DAYS for entry in quarantined(place, stream, day)]


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.mark.parametrize("stream", [VOLUNTEERS, PLACEMENTS])
def test_two_syncs_of_one_company_at_once(
    home: Callable[..., Home], processes: ProcessPoolExecutor, stream: str
) -> None:
    world = generate(seed=3, companies=[ACME], first=DAYS[0], last=DAYS[-1], per_day=30)
    with Server(world.records, world.companies) as server:
        place = home({ACME.slug: ACME.id}, server.environment())
        running = [processes.submit(sync, place.environ, stream, 3) for _ in range(2)]
        assert [one.result(120) for one in running] == [[], []]
        rows = stored(place, stream)
        bad = sealed(place, stream)

        alone = home({ACME.slug: ACME.id}, {**server.environment(), "TEEI_STORE_URI": str(place.path / "alone")})
        assert sync(alone.environ, stream, 1) == []
    assert len({row["event_id"] for row in rows}) == len(rows)
    assert rows == stored(alone, stream)
    assert bad
    assert bad == sealed(alone, stream)


@pytest.mark.parametrize(("work", "code"), [("both", "store"), ("stream", "landing")])
def test_a_full_disk_is_one_line_and_loses_nothing(
    home: Callable[..., Home], server: Answering, processes: ProcessPoolExecutor, work: str, code: str
) -> None:
    place = home({ACME.slug: ACME.id}, server.environment())
    server.answer = lists({VOLUNTEERS: [record(VOLUNTEERS, "old", "2024-01-15T10:00:00Z")]})
    worker(place, VOLUNTEERS).both(DAYS[:1])
    before = stored(place, VOLUNTEERS)
    many = [record(VOLUNTEERS, f"r{n}", f"2024-01-15T10:00:00.{n:09d}Z", {"userId": f"{n}"}) for n in range(3000)]
    server.answer = lists({VOLUNTEERS: many})

    ((found, message),) = processes.submit(on_a_full_disk, place.environ, work).result(60)

    assert found == code
    assert "\n" not in message
    assert stored(place, VOLUNTEERS) == before
    left = [path for path in (place.settings.home / "landing").rglob("*") if path.is_file()]
    assert left == []
    assert getattr(worker(place, VOLUNTEERS), work)(DAYS[:1]).good
