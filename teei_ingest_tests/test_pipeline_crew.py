"""Large windows are worked on by several processes, and nobody can tell from the result."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from teei_ingest.pipeline import collect, crew
from teei_ingest.pipeline.batch import Ask, Batches, Part
from teei_ingest.streams import all_streams
from teei_ingest_tests.feeding import ACME, quarantined, stored, worker
from teei_ingest_tests.running import Home
from teei_ingest_tests.second_opinion.data import generate
from teei_ingest_tests.second_opinion.server import Server

FIRST = date(2024, 1, 15)
DAYS = [FIRST + timedelta(number) for number in range(3)]
# One for each way of paging is soon done; the others are tried as well, but not by every change.
SOON = {type(stream.paging): name for name, stream in sorted(all_streams().items())}.values()
STREAMS = [pytest.param(name, marks=() if name in SOON else pytest.mark.long) for name in sorted(all_streams())]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "BATCH_ROWS", 5)
    monkeypatch.setattr(collect, "SHARED_ROWS", 5)


def work(home: Callable[..., Home], server: Server, stream: str, processes: int, days: Sequence[date] = DAYS) -> Any:
    """Everything that some days leave: counts by day, rows, quarantine."""
    place = home({ACME.slug: ACME.id}, {**server.environment(), "TEEI_PROCESSES": str(processes)})
    outcome = worker(place, stream, page_size=4).both(days)
    assert not outcome.bad, [str(one.error) for one in outcome.bad]
    # The server spells a record differently each time, which may look like drift; the second of them changes nothing.
    counts = [replace(one, lag_s=None, drift=(), unchanged=False) for one in outcome.good]
    aside = [(day, entry.field, entry.rule, entry.people) for day in DAYS for entry in quarantined(place, stream, day)]
    return counts, stored(place, stream), sorted(aside)


@pytest.mark.parametrize("stream", STREAMS)
def test_two_processes_leave_what_one_leaves(home: Callable[..., Home], stream: str) -> None:
    world = generate(seed=5, companies=[ACME], first=FIRST, last=DAYS[-1], per_day=15)
    with Server(world.records, world.companies) as server:
        alone = work(home, server, stream, 1)
        assert alone[1] and sum(one.fetched for one in alone[0]) > 30
        assert work(home, server, stream, 3) == alone


@pytest.mark.parametrize("stream", SOON)
def test_what_was_done_here_instead_is_nobody_else_s_answer(
    home: Callable[..., Home], monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    """Another process is so slow that this one does the last batches of each window, which it goes on with, too."""
    here, own = os.getpid(), Batches.__call__

    def slow(self: Batches, bodies: Sequence[bytes], ask: Ask) -> Part:
        if os.getpid() != here:
            time.sleep(0.2)
        return own(self, bodies, ask)

    world = generate(seed=5, companies=[ACME], first=FIRST, last=DAYS[-1], per_day=15)
    with Server(world.records, world.companies) as server:
        apart = [DAYS[0], DAYS[2]]
        alone = work(home, server, stream, 1, apart)
        monkeypatch.setattr(Batches, "__call__", slow)
        assert work(home, server, stream, 2, apart) == alone


@pytest.mark.parametrize("when", ["before it starts", "after the first batch"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_dies_or_gets_stuck_is_done_without(
    home: Callable[..., Home], monkeypatch: pytest.MonkeyPatch, how: signal.Signals, when: str
) -> None:
    dead: list[int] = []

    class Dying(crew._Hand):
        def take(self, bodies: Sequence[bytes], ask: Ask) -> Future[Part]:
            if self._pid and (when == "before it starts" or dead):
                os.kill(self._pid, how)
            dead.append(self._pid or 0)
            return super().take(bodies, ask)

    world = generate(seed=6, companies=[ACME], first=FIRST, last=DAYS[-1], per_day=15)
    with Server(world.records, world.companies) as server:
        alone = work(home, server, "benevity_volunteers", 1)
        monkeypatch.setattr(crew, "_Hand", Dying)
        monkeypatch.setattr(crew, "PATIENCE_S", 0.2)
        assert work(home, server, "benevity_volunteers", 2) == alone
    assert dead


def test_no_process_is_left_behind(home: Callable[..., Home], monkeypatch: pytest.MonkeyPatch) -> None:
    pids: list[int] = []

    class Known(crew._Hand):
        def take(self, bodies: Sequence[bytes], ask: Ask) -> Future[Part]:
            pids.append(self._pid or 0)
            return super().take(bodies, ask)

    monkeypatch.setattr(crew, "_Hand", Known)
    world = generate(seed=7, companies=[ACME], first=FIRST, last=DAYS[-1], per_day=15)
    with Server(world.records, world.companies) as server:
        work(home, server, "goodera_donations", 2)
    assert pids
    assert not [pid for pid in set(pids) if Path(f"/proc/{pid}").exists()]
