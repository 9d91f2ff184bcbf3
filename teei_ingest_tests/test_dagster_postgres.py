"""Dagster's bookkeeping on Postgres: what a partition costs, and that of a batch there is all or nothing.

That it records the same as any other storage is seen in `test_dagster_runs.py`, whose tests run on it, too.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from teei_ingest.defs.build import build
from teei_ingest.defs.partitions import COMPANIES
from teei_ingest.sandbox.server import Running, SandboxConfig, environment, running
from teei_ingest_tests.dagster_parts import activated, check_statuses, days, keys, statuses
from teei_ingest_tests.deployed import instance_on
from teei_ingest_tests.keeping import rows
from teei_ingest_tests.running import Home, failures

pytestmark = pytest.mark.fleet

ACME = "acme-corp"
FIRST = date(2024, 1, 15)
STREAMS = ("benevity_volunteers", "goodera_volunteers")
ASSETS = [asset for name in STREAMS for asset in (name, f"{name}_events")]
# Ends all connections but the one that asks.
OTHERS = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"""
# The last statement of a batch of materializations, before it is committed.
LAST = "INSERT INTO asset_keys (asset_key, last_materialization,"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Running]:
    with running(SandboxConfig()) as started:
        yield started


@pytest.fixture
def place(home: Callable[..., Home], sandbox: Running, shared_url: str, tmp_path: Path) -> Iterator[Home]:
    config = SandboxConfig()
    made = home(config.companies, environment(config, sandbox.url))
    with instance_on(shared_url, tmp_path) as made.instance:
        made.instance.add_dynamic_partitions(COMPANIES.name or "", list(config.companies))
        yield made


@contextmanager
def sending(hear: Callable[[str], None]) -> Iterator[None]:
    """`hear` is told of each statement before it is sent."""

    def sent(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        hear(statement)

    event.listen(Engine, "before_cursor_execute", sent)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", sent)


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """How often this process connects to a database, and sends it a statement."""
    counts: Counter[str] = Counter()

    def connected(*_: Any) -> None:
        counts["connections"] += 1

    event.listen(Engine, "connect", connected)
    try:
        with sending(lambda _: counts.update(["statements"])):
            yield counts
    finally:
        event.remove(Engine, "connect", connected)


def recorded(place: Home) -> Counter[tuple[str, str]]:
    """How many materializations of each partition of the assets the database has."""
    found: Counter[tuple[str, str]] = Counter()
    for asset in ASSETS:
        for one in place.instance.fetch_materializations(dg.AssetKey(asset), limit=1000).records:
            found[asset, str(one.partition_key)] += 1
    return found


def test_more_days_cost_neither_connections_nor_statements(place: Home) -> None:
    place.materialize(ACME, FIRST, FIRST, STREAMS)
    found = []
    for number in (2, 9):
        with counting() as counts:
            result = place.materialize(ACME, FIRST, FIRST + timedelta(number - 1), STREAMS)
        assert result.success, failures(result)
        kinds = Counter(one.event_type for one in result.all_events)
        assert kinds[dg.DagsterEventType.ASSET_MATERIALIZATION] == number * len(ASSETS)
        assert kinds[dg.DagsterEventType.ASSET_CHECK_EVALUATION] == number * 3 * len(STREAMS)
        found.append(counts)
    assert found[0] == found[1]
    assert found[0]["connections"] <= 1


def test_a_batch_that_breaks_off_is_recorded_once(
    place: Home, shared_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    over = days(FIRST, 4)
    wanted = keys(ACME, over)
    ended: list[Any] = []

    def end(statement: str) -> None:
        if statement.startswith(LAST) and not ended:
            ended.extend(rows(shared_url, OTHERS))

    with sending(end):
        result = place.materialize(ACME, over[0], over[-1], STREAMS)
    assert ended and result.success, failures(result)
    assert recorded(place) == Counter((asset, each) for asset in ASSETS for each in wanted)
    definitions = build(place.environ)
    for name in STREAMS:
        assert statuses(place.instance, definitions, name, wanted) == dict.fromkeys(wanted, "MATERIALIZED")
        for asset, check in ((name, "contract"), (name, "quarantine"), (f"{name}_events", "no_personal_data")):
            found = check_statuses(place.instance, definitions, asset, check, wanted)
            assert found == dict.fromkeys(wanted, "SUCCEEDED")
    assert "policy_version" not in capfd.readouterr().err, "what is written is not shown where it cannot be"


KILLED = f"""
import os, signal
from sqlalchemy import event
from sqlalchemy.engine import Engine

@event.listens_for(Engine, "before_cursor_execute")
def sent(connection, cursor, statement, *_):
    if statement.startswith({LAST!r}):
        os.kill(os.getpid(), signal.SIGKILL)

from teei_ingest.cli import main
main()
"""


def test_killed_before_a_batch_is_committed(place: Home, tmp_path: Path) -> None:
    over = days(FIRST, 3)
    wanted = keys(ACME, over)
    window = ["--from", f"{over[0]}", "--to", f"{over[-1]}", "--stream", STREAMS[0]]
    command = [sys.executable, "-c", KILLED, "sync", "--company", ACME, *window]
    env = activated() | place.environ | {"DAGSTER_HOME": str(tmp_path)}
    killed = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not recorded(place), "of a batch there is all or nothing"
    before = place.sql("SELECT event_id FROM volunteer_events ORDER BY event_id")
    assert before, "what was fetched had been committed"

    result = place.materialize(ACME, over[0], over[-1], STREAMS[:1])
    assert result.success, failures(result)
    assert recorded(place) == Counter((asset, each) for asset in ASSETS[:2] for each in wanted)
    definitions = build(place.environ)
    for asset in ASSETS[:2]:
        assert statuses(place.instance, definitions, asset, wanted) == dict.fromkeys(wanted, "MATERIALIZED")
    assert place.sql("SELECT event_id FROM volunteer_events ORDER BY event_id") == before
