"""What the product does for each fault of the sandbox: one stream of one company, really ingested, without Dagster.

A partition that was read before has changed at the source since. Under the fault it is either read as it is now, or it
fails and keeps what it had; when the fault is over, it is read as it is now.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest

from teei_ingest.pipeline.partition import Partition
from teei_ingest.sandbox.app import Sandbox
from teei_ingest.sandbox.config import credential
from teei_ingest.sandbox.faults import FAULTS, At, Fault, Heals, Plan
from teei_ingest.sandbox.lists import Ask
from teei_ingest.sandbox.server import SandboxConfig, environment, serving
from teei_ingest.settings import project_root
from teei_ingest.systems import all_systems
from teei_ingest_tests.conftest import MASTER_KEY
from teei_ingest_tests.extracting import Clock
from teei_ingest_tests.feeding import ACME, declared, quarantined, stored, worker
from teei_ingest_tests.running import Home

DAY = date(2024, 1, 10)
MIDNIGHT_NS = int(datetime(2024, 1, 10, tzinfo=UTC).timestamp()) * 1_000_000_000
DAY_NS = 86_400_000_000_000
# Each style of paging, each kind of credential.
STREAMS = ("benevity_volunteers", "workday_directory", "kintell_sessions", "goodera_donations")
PAGE_SIZE = 4
# Other values than the source has otherwise, or another list: only the ids are compared while the fault is on.
OTHER_VALUES = ("enum-unknown", "record-changes", "record-appears", "record-late", "record-vanishes")


@dataclass
class Played:
    """A sandbox in this process and its clock; a home that read the day; the rows that the day's new state gives."""

    sandbox: Sandbox
    clock: Clock
    began: float
    home: Home
    rows: dict[str, list[dict[str, Any]]]

    def begin(self, stream: str) -> None:
        """The world as it was at first, and then a record that appears on the day."""
        self.sandbox.faults = Plan()
        self.sandbox.reset()
        self.clock.now = self.began
        ask = Ask(stream, ACME.slug, MIDNIGHT_NS, MIDNIGHT_NS + DAY_NS, PAGE_SIZE, (1,))
        assert self.sandbox.lists.appear(ask, Random(1), first=True)

    def copy(self, path: Path) -> Home:
        """A home that has read the day as it was at first."""
        shutil.copytree(self.home.settings.home, path / "home")
        return replace(self.home, path=path, environ={**self.home.environ, "TEEI_HOME": str(path / "home")})

    def read(self, home: Home, stream: str) -> Partition:
        """Ingest the day."""
        now = datetime.fromtimestamp(self.clock(), UTC)
        ingest = worker(home, stream, page_size=PAGE_SIZE, now=now, clock=self.clock, sleep=self.clock.sleep)
        return ingest.both([DAY]).partitions[DAY]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    clock = Clock()
    config = SandboxConfig(companies={ACME.slug: ACME.id}, quota=False, spread=0)
    sandbox = Sandbox(config, clock)
    path = tmp_path_factory.mktemp("read-once")
    with serving(sandbox) as running:
        variables = {
            "TEEI_MASTER_KEY": MASTER_KEY,
            "TEEI_READ_TIMEOUT_S": "1",
            "TEEI_MAX_RETRIES": "2",
            **environment(config, running.url),
        }
        home = Home.create(path, {ACME.slug: ACME.id}, variables)
        made = Played(sandbox, clock, clock.now, home, {})
        for stream in STREAMS:
            assert made.read(home, stream).error is None
        for stream in STREAMS:
            made.begin(stream)
            later = made.copy(tmp_path_factory.mktemp("read-again"))
            assert made.read(later, stream).error is None
            made.rows[stream] = stored(later, stream)
            assert len(made.rows[stream]) == len(stored(home, stream)) + 1 > 2 * PAGE_SIZE
        yield made


def cases() -> Iterator[Any]:
    """Every fault: where paging matters, for each style of it, else for one stream, each taking its turn."""
    for number, fault in enumerate(FAULTS.values()):
        able = [name for name in STREAMS if fault.applies(declared(name))]
        if fault.name.startswith(("page-", "short-", "out-of-", "record-")):
            able = [name for name in able if name != "goodera_donations"]
        elif len({fault.outcome(declared(name)) for name in able}) == 1:
            able = [able[number % len(able)]]
        for stream in able:
            yield pytest.param(fault, stream, id=f"{fault.name}-{stream}")


def entry(fault: Fault, stream: str) -> dict[str, Any]:
    """The fault where it is worst: in the middle of a reading, if it can be."""
    if fault.places == (At.CONNECTION,):
        return {"fault": fault.name, "times": 0}
    if At.LIST not in fault.places:
        return {"fault": fault.name, "system": declared(stream).system}
    where: dict[str, Any] = {"fault": fault.name, "stream": stream, "company": ACME.slug}
    return where if fault.lasting else {**where, "request": 2}


@pytest.mark.parametrize(("fault", "stream"), list(cases()))
def test_fault(fault: Fault, stream: str, played: Played, tmp_path: Path) -> None:
    played.begin(stream)
    home, expected = played.copy(tmp_path), fault.outcome(declared(stream))
    before, usual = stored(home, stream), played.rows[stream]
    assert ids(before) < ids(usual)

    played.sandbox.faults = Plan.parse({"seed": 1, "faults": [entry(fault, stream)]})
    secure = {name: value.replace("http://", "https://") for name, value in home.environ.items()}
    partition = played.read(replace(home, environ=secure) if fault.name == "tls-failure" else home, stream)
    assert played.sandbox.faults.fired[0] > 0
    check(partition, fault, expected, before, stored(home, stream), usual)
    if expected is Heals.QUARANTINED:
        assert len(quarantined(home, stream, DAY)) == partition.quarantined > 0

    truth = played.sandbox.records(stream, ACME.slug, *window())
    played.sandbox.faults = Plan()
    played.clock.now += 7200
    partition = played.read(home, stream)
    assert partition.error is None and partition.quarantined == 0
    again = stored(home, stream)
    if fault.name not in OTHER_VALUES or fault.name == "enum-unknown":
        assert again == usual
    assert partition.kept == len(truth) and len(again) == partition.kept + partition.carried


def check(
    partition: Partition,
    fault: Fault,
    expected: Heals,
    before: list[dict[str, Any]],
    after: list[dict[str, Any]],
    usual: list[dict[str, Any]],
) -> None:
    """Whether the partition is complete, or failed and unchanged."""
    if expected is Heals.FAILS:
        assert partition.error is not None, "should have failed"
        assert partition.error.code == fault.error
        assert after == before
        return
    assert partition.error is None, str(partition.error)
    assert partition.balanced
    if expected is Heals.QUARANTINED:
        assert partition.kept == len(usual) - partition.quarantined
        assert after == [row for row in usual if row["event_id"] in ids(after)]
        return
    assert partition.quarantined == 0
    if fault.name in OTHER_VALUES:
        assert ids(before) <= ids(after)
    else:
        assert after == usual
    pages = -(-len(usual) // PAGE_SIZE)
    if expected is Heals.RETRIED:
        assert partition.requests > pages
    if expected is Heals.REREAD:
        assert partition.pages > pages


def test_every_row_of_the_table_has_its_tests() -> None:
    played = {(case.values[0].name, case.values[1]) for case in cases()}
    assert {name for name, _ in played} == set(FAULTS)
    table = (project_root() / "docs/faults.md").read_text()
    rows = re.findall(r"^\| `(\S+)` \|.*\| `test_fault\[(\S+)-…\]` \|$", table, re.MULTILINE)
    assert [name for name, _ in rows] == [test for _, test in rows] == list(FAULTS)
    for fault in FAULTS.values():
        expected = {fault.outcome(declared(name)) for name in STREAMS if fault.applies(declared(name))}
        assert {fault.outcome(declared(stream)) for name, stream in played if name == fault.name} == expected


def test_new_credentials_end_the_failure_after_a_rotation(played: Played, tmp_path: Path) -> None:
    """The old ones are refused for good; nothing but the environment has to change."""
    stream = "workday_directory"
    played.begin(stream)
    home = played.copy(tmp_path)
    played.sandbox.faults = Plan.parse({"faults": [{"fault": "credentials-rotated", "stream": stream, "request": 2}]})
    for _ in range(2):
        error = played.read(home, stream).error
        assert error is not None and error.code == "bad_credentials"
        played.clock.now += 7200
    secret = credential(all_systems()["workday"], "client_secret", ACME.slug, rotated=True)
    environ = {**home.environ, "WORKDAY_ACME_CORP_CLIENT_SECRET": secret}
    assert played.read(replace(home, environ=environ), stream).error is None
    assert stored(home, stream) == played.rows[stream]


def ids(rows: list[dict[str, Any]]) -> set[str]:
    return {row["event_id"] for row in rows}


def window() -> tuple[datetime, datetime]:
    return datetime(2024, 1, 10, tzinfo=UTC), datetime(2024, 1, 11, tzinfo=UTC)
