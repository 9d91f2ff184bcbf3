"""What many tests start from: a home of their own, and a run of the real assets in it."""

from __future__ import annotations

import base64
import gc
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from teei_ingest.cli.app import run
from teei_ingest.extract import ledger
from teei_ingest_tests.feeding import Answering, answering, lists
from teei_ingest_tests.keeping import BOTH, Kept, rows
from teei_ingest_tests.running import Home, Teei

gc.set_threshold(20_000)  # Dagster makes many objects that stay: a tenth of the time went into looking through them

MASTER_KEY = base64.b64encode(b"a test's own master key, 32 byte").decode()


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test sees no variable of ours that it has not set."""
    prefixes = ("TEEI_", "DAGSTER_", "BENEVITY_", "GOODERA_", "WORKDAY_", "KINTELL_", "UPSKILLING_", "BUDDY_")
    for name in list(os.environ):
        if name.startswith((*prefixes, "MENTORSHIP_", "INTERNAL_", "VAULT_", "AWS_")):
            monkeypatch.delenv(name)


@pytest.fixture
def permissive() -> Iterator[None]:
    """A process that lets everybody read what it makes, unless it says otherwise."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def home(tmp_path: Path) -> Callable[..., Home]:
    """Makes a home with companies (slug to id) and the variables of a server."""

    def make(companies: Mapping[str, str], environ: Mapping[str, str], **privacy: Any) -> Home:
        return Home.create(tmp_path, companies, {"TEEI_MASTER_KEY": MASTER_KEY, **environ}, privacy)

    return make


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A Postgres for all tests that share one."""
    from teei_ingest_tests.deployed import postgres

    with postgres() as url:
        yield url


@pytest.fixture
def shared_url(postgres_url: str, tmp_path: Path) -> str:
    """The same one, with nothing in it."""
    schema = f"s{abs(hash(tmp_path)):x}"
    rows(postgres_url, f"CREATE SCHEMA {schema}")
    return f"{postgres_url}&options=-csearch_path%3D{schema}"


@pytest.fixture(params=BOTH)
def kept(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    """Quotas and circuits, in files and in Postgres, which may take its time."""
    monkeypatch.setattr(ledger, "_FRESH_S", 60)
    return Kept(tmp_path, request.getfixturevalue("shared_url") if request.param == "postgres" else "")


@pytest.fixture(scope="module")
def server() -> Iterator[Answering]:
    """The systems, with nothing to send until a test sets `answer`."""
    with answering(lists({})) as served:
        yield served


@pytest.fixture
def teei(place: Path, capsys: pytest.CaptureFixture[str]) -> Teei:
    """Carries out a command line in this process, in `place`: exit code, standard output, standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
