"""Where a test has quotas and circuits kept: files of one machine, or a Postgres that several share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg2
import pytest

from teei_ingest.settings import Settings
from teei_ingest.vault.documents import Document, File
from teei_ingest.vault.postgres import TABLE, Row, postgres_at
from teei_ingest_tests import extracting
from teei_ingest_tests.deployed import without_postgres

BOTH = ["files", pytest.param("postgres", marks=pytest.mark.fleet)]


@dataclass(frozen=True)
class Kept:
    """A home; its files are what counts where there is no `url`."""

    home: Path
    url: str = ""

    @property
    def variables(self) -> dict[str, str]:
        return {"TEEI_SHARED_STATE_URL": self.url} if self.url else {}

    def settings(self, **variables: object) -> Settings:
        return extracting.settings(self.home, **self.variables, **variables)

    def place(self, clock: Callable[[], float] | None = None) -> Path | Row:
        """Of a quota that is nobody's."""
        return Row(postgres_at(self.url), "q.quota", clock) if self.url else self.home / "quota" / "q.sqlite"

    def circuit(self) -> Document:
        """The only one that is open."""
        if self.url:
            postgres = postgres_at(self.url)
            (name,) = postgres.names(".circuit")
            return Row(postgres, name)
        (path,) = (self.home / "quota").glob("*.circuit")
        return File(path, lambda: 0.0)

    def texts(self) -> list[bytes]:
        """All that is kept, and what it is called."""
        if self.url:
            return [b"\n".join(map(str.encode, row)) for row in rows(self.url, f"SELECT name, state FROM {TABLE}")]
        return [path.name.encode() + b"\n" + path.read_bytes() for path in (self.home / "quota").iterdir()]


def rows(url: str, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """What a query gives, on a connection of its own."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(query, values)
            return cursor.fetchall() if cursor.description else []


@contextmanager
def gone(url: str) -> Iterator[None]:
    """That Postgres is away."""
    with without_postgres(parse_qs(urlsplit(url).query)["host"][0]):
        yield


@contextmanager
def hanging(url: str) -> Iterator[None]:
    """That Postgres neither answers nor hangs up."""
    everybody = [pid for (pid,) in rows(url, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'")]
    (postmaster,) = rows(url, "SELECT pg_read_file('postmaster.pid')")[0]
    pids = [int(postmaster.split()[0]), *everybody]
    tell = partial(_tell, pids)
    tell(signal.SIGSTOP)
    try:
        yield
    finally:
        tell(signal.SIGCONT)


def _tell(pids: list[int], what: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, what)
        except ProcessLookupError:  # who asked for the others
            continue
