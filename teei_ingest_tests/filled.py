"""A home with the events of two companies, made once and copied for each test that changes it."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from teei_ingest.companies import Company, load_companies
from teei_ingest.settings import Settings
from teei_ingest.store import open_store
from teei_ingest.store.tables import contracts
from teei_ingest_tests.conftest import MASTER_KEY
from teei_ingest_tests.feeding import worker
from teei_ingest_tests.running import Home
from teei_ingest_tests.second_opinion.data import COMPANIES, World, generate
from teei_ingest_tests.second_opinion.server import Server

DAY = date(2024, 1, 15)
STREAMS = (
    "benevity_volunteers",
    "benevity_donations",
    "workday_directory",
    "kintell_enrollments",
    "mentorship_placements",
    "buddy_matches",
    "buddy_events",
)
# Every pair of pseudonyms that SQL joins, counted; and which versions of them one query sees together.
JOINS = """
SELECT
    (SELECT count(*) FROM volunteer_events v JOIN directory_entries d USING (company, user_id)) AS volunteers,
    (SELECT count(*) FROM donation_events v JOIN directory_entries d USING (company, user_id)) AS donations,
    (SELECT count(*) FROM directory_entries d JOIN directory_entries m
        ON m.company = d.company AND m.source_id = d.manager_id) AS managers,
    (SELECT count(*) FROM buddy_matches b JOIN people p
        ON p.company = b.company AND p.external_user_id = b.participant_id) AS participants,
    (SELECT count(*) FROM placement_events b JOIN people p
        ON p.company = b.company AND p.external_user_id = b.mentor_id) AS mentors,
    (SELECT list_sort(list(DISTINCT substr(user_id, 1, 3))) FROM (
        SELECT company, user_id FROM volunteer_events UNION ALL SELECT company, user_id FROM donation_events
        UNION ALL SELECT company, user_id FROM directory_entries
        UNION ALL SELECT company, user_id FROM enrollment_events
        UNION ALL SELECT company, user_id FROM placement_events UNION ALL SELECT company, user_id FROM buddy_matches
    ) WHERE company = 'acme-corp') AS versions
"""


@dataclass(frozen=True)
class Filled:
    """A home, and what the server that filled it has."""

    home: Home
    world: World

    @property
    def settings(self) -> Settings:
        return self.home.settings

    def company(self, at: int = 0) -> Company:
        return load_companies(self.settings).get(self.world.companies[at].slug)

    def sync(self, at: int = 0, streams: Sequence[str] = STREAMS) -> list[str]:
        """Ingest a company's day; the errors."""
        slug, days = self.world.companies[at].slug, self.world.days
        outcomes = [worker(self.home, stream, company=slug).both(days) for stream in streams]
        return [str(one.error) for outcome in outcomes for one in outcome.bad]

    def rows(self, at: int = 0) -> dict[str, dict[str, Any]]:
        """All stored rows of a company by event id."""
        store, slug = open_store(self.settings), self.world.companies[at].slug
        found = [row for one in contracts() for row in store.rows(one, company=slug).to_pylist()]
        assert len({row["event_id"] for row in found}) == len(found)
        return {row["event_id"]: row for row in found}

    def joins(self) -> dict[str, Any]:
        return self.home.sql(JOINS)[0]

    def copy(self, path: Path, environ: Mapping[str, str] | None = None) -> Filled:
        """Another home with the same, which may be changed."""
        shutil.copytree(self.settings.home, path / "home")
        variables = {**self.home.environ, "TEEI_HOME": str(path / "home"), **(environ or {})}
        return dataclasses.replace(self, home=dataclasses.replace(self.home, path=path, environ=variables))

    def process(self, code: str, *arguments: str) -> subprocess.Popen[str]:
        """Python in a process of its own, with this home's variables."""
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.Popen(
            command,
            env=self.home.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@contextmanager
def filled(path: Path) -> Iterator[Filled]:
    """Two companies' day, the server of which still answers as long as the block lasts."""
    world = generate(seed=4, companies=COMPANIES[:2], first=DAY, last=DAY, per_day=8)
    with Server(world.records, world.companies) as server:
        environ = {"TEEI_MASTER_KEY": MASTER_KEY, **server.environment()}
        made = Filled(Home.create(path, {one.slug: one.id for one in world.companies}, environ), world)
        assert [made.sync(at) for at in range(2)] == [[], []]
        yield made


def texts_of(table: pa.Table) -> set[str]:
    """Every text in a table, however deep."""
    found: set[str] = set()

    def look(value: Any) -> None:
        if isinstance(value, str):
            found.add(value)
        elif isinstance(value, dict):
            look(list(value.values()))
        elif isinstance(value, list | tuple):
            for one in value:
                look(one)

    look(table.to_pylist())
    return found


def texts_on_disk(folder: Path) -> set[str]:
    """Every text in the parquet files below, and the bytes of all others as texts."""
    import pyarrow.parquet as pq

    found: set[str] = set()
    for path in folder.rglob("*"):
        if path.suffix == ".parquet":
            found |= texts_of(pq.read_table(path, partitioning=None))
        elif path.is_file():
            found.add(path.read_bytes().decode(errors="replace"))
    return found


class Killed(BaseException):
    """What no step can catch, as if the process had been killed there."""


@contextmanager
def killed_after(owner: Any, name: str, times: int) -> Iterator[None]:
    """The block is killed when a step, a function of `owner`, has been done so many times."""
    real, left = getattr(owner, name), times

    def ending(*args: Any, **others: Any) -> Any:
        nonlocal left
        made = real(*args, **others)
        left -= 1
        if not left:
            raise Killed
        return made

    with pytest.MonkeyPatch.context() as patched, pytest.raises(Killed):
        patched.setattr(owner, name, ending)
        yield
