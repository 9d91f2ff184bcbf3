"""How many runs there were and how they went: each counted once, and still counted when Dagster has forgotten it.

Belongs here: `$TEEI_HOME/metrics/totals.sqlite`, which several processes may bring up to date at once. It can be
removed: counting then begins anew with what Dagster still knows. Nothing personal is in it.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

from teei_ingest.metrics import catalog
from teei_ingest.metrics.catalog import FAILURE, SUCCESS, Metric
from teei_ingest.settings import Settings
from teei_ingest.streams import all_streams
from teei_ingest.vault.database import Database

RATE_S = 7 * 86_400.0  # of which the success rate is made

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (run_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS totals (metric TEXT, labels TEXT, value REAL, PRIMARY KEY (metric, labels)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lately (ended REAL, connector TEXT, outcome TEXT);
CREATE TABLE IF NOT EXISTS successes (company TEXT, stream TEXT, ended REAL, PRIMARY KEY (company, stream));
CREATE TABLE IF NOT EXISTS read (one INTEGER PRIMARY KEY CHECK (one = 1), until REAL);
"""
_ADD = """
INSERT INTO totals VALUES (?, ?, ?) ON CONFLICT (metric, labels) DO UPDATE SET value = value + excluded.value
"""
_SUCCEEDED = """
INSERT INTO successes VALUES (?, ?, ?) ON CONFLICT (company, stream) DO UPDATE SET ended = max(ended, excluded.ended)
"""
_RATE = "SELECT connector, avg(outcome = ?) FROM lately WHERE ended > ? GROUP BY connector"

Labels = tuple[str, ...]


@dataclass(frozen=True)
class Ingest:
    """A stream in a run that has ended, for these companies. `last` is the newest day that was asked for.

    `records` by what became of them, `checks` by (check, verdict), `errors` are kinds of error.
    """

    stream: str
    companies: frozenset[str]
    outcome: str
    last: date | None = None
    errors: frozenset[str] = frozenset()
    records: Mapping[str, int] = field(default_factory=dict)
    checks: Mapping[tuple[str, str], int] = field(default_factory=dict)
    requests: int = 0


class Ended(NamedTuple):
    """A run that has ended, and when, in seconds since 1970; without ingests where it had none."""

    run_id: str
    ended: float
    ingests: list[Ingest]


@dataclass(frozen=True)
class Counted:
    """All counters by labels, success rate by connector, last success by (company, stream), and until when."""

    totals: Mapping[str, Mapping[Labels, float]]
    rates: Mapping[str, float]
    successes: Mapping[tuple[str, str], float]
    until: float


class Totals:
    """The file, made when a run is counted first. Methods raise SettingsError where it cannot be used."""

    def __init__(self, settings: Settings) -> None:
        # What a power failure takes is counted again, so nobody has to wait for the disk.
        self._database = Database(settings.home / "metrics" / "totals.sqlite", _SCHEMA, "synchronous = NORMAL")

    def until(self) -> float:
        """Runs that ended by then, in seconds since 1970, are counted but for those that came late."""
        with self._database.transaction() as connection:
            return _until(connection)

    def unknown(self, run_ids: Iterable[str]) -> set[str]:
        """Which of these runs are not counted."""
        with self._database.transaction() as connection:
            wanted = list(run_ids)
            found = connection.execute(
                "SELECT run_id FROM runs WHERE run_id IN (SELECT value FROM json_each(?))", (json.dumps(wanted),)
            )
            return set(wanted) - {run_id for (run_id,) in found}

    def add(self, runs: Iterable[Ended], until: float = 0.0) -> None:
        """Count those that are not counted, all in one step; what ended `until` then is known from now on."""
        with self._database.transaction() as connection:
            for run in runs:
                if connection.execute("INSERT OR IGNORE INTO runs VALUES (?)", (run.run_id,)).rowcount:
                    _count(connection, run)
            connection.execute("DELETE FROM lately WHERE ended < ?", (until - 2 * RATE_S,))
            connection.execute(
                "INSERT INTO read VALUES (1, ?) ON CONFLICT (one) DO UPDATE SET until = max(until, excluded.until)",
                (until,),
            )

    def counted(self, now: float) -> Counted:
        """Everything, at one moment."""
        with self._database.transaction() as connection:
            totals: dict[str, dict[Labels, float]] = {}
            for metric, labels, value in connection.execute("SELECT metric, labels, value FROM totals"):
                totals.setdefault(metric, {})[tuple(json.loads(labels))] = value
            rates = dict(connection.execute(_RATE, (SUCCESS, now - RATE_S)).fetchall())
            rows = connection.execute("SELECT company, stream, ended FROM successes")
            successes = {(company, stream): ended for company, stream, ended in rows}
            return Counted(totals, rates, successes, _until(connection))


def _until(connection: sqlite3.Connection) -> float:
    found = connection.execute("SELECT until FROM read").fetchone()
    return float(found[0]) if found else 0.0


def _count(connection: sqlite3.Connection, run: Ended) -> None:
    found: dict[tuple[str, Labels], float] = defaultdict(float)

    def add(metric: Metric, *labels: str, count: float = 1) -> None:
        found[metric.name, labels] += count

    for one in run.ingests:
        system = all_streams()[one.stream].system
        add(catalog.RUNS, system, one.stream, one.outcome)
        for error in one.errors:
            add(catalog.ERRORS, system, error)
        for outcome, records in one.records.items():
            add(catalog.RECORDS_BY_OUTCOME, system, one.stream, outcome, count=records)
        add(catalog.PROCESSED, system, count=one.records.get("kept", 0) + one.records.get("duplicates", 0))
        add(catalog.REQUESTS, system, one.stream, count=one.requests)
        for (check, verdict), evaluations in one.checks.items():
            add(catalog.CHECKED, system, one.stream, check, verdict, count=evaluations)
        for company in one.companies:
            add(catalog.COMPANY_RUNS, company, system, one.outcome)
            if one.outcome in (SUCCESS, FAILURE):
                connection.execute("INSERT INTO lately VALUES (?, ?, ?)", (run.ended, system, one.outcome))
            if one.outcome == SUCCESS and one.last is not None and _is_current(one.last, run.ended):
                connection.execute(_SUCCEEDED, (company, one.stream, run.ended))
    rows = [(metric, json.dumps(labels), count) for (metric, labels), count in found.items() if count]
    connection.executemany(_ADD, rows)


def _is_current(last: date, ended: float) -> bool:
    """Whether a run read through the day that was the last closed one when it began, which may be a day ago."""
    return datetime.fromtimestamp(ended, UTC).date() - last <= timedelta(2)
