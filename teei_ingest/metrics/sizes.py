"""How much there is of everything, and how fast it grows.

Belongs here: measuring by table, company and what is beside the tables; a short history in
`$TEEI_HOME/metrics/sizes.sqlite`, which can be removed. Does not belong here: how large Dagster's database is, which
the caller brings along.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from teei_ingest.landing.landing import SUFFIX, Landing
from teei_ingest.landing.quarantine import Quarantine
from teei_ingest.settings import Settings
from teei_ingest.store.tables import Size, Store, contracts
from teei_ingest.vault.database import Database

TABLE, COMPANY, BESIDE = "table", "company", "beside"
# What is beside the events: names in figures, and what they mean.
OLDER, LANDING, QUARANTINE, DAGSTER, HOME = "older_versions", "landing", "quarantine", "dagster", "home"
WHAT = {
    OLDER: "older versions of the tables, and their logs",
    LANDING: "sealed records that wait for their events",
    QUARANTINE: "sealed records that broke their contract",
    DAGSTER: "Dagster's runs and events",
    HOME: "all else in TEEI_HOME",
}
KEPT_D, GROWTH_D = 90, 7  # days of history, and those over which growth is told
_DAY = 86_400.0
_SCHEMA = """
CREATE TABLE sizes (
    day INTEGER, at REAL, kind TEXT, name TEXT, rows INTEGER, files INTEGER, bytes INTEGER,
    PRIMARY KEY (day, kind, name)
) WITHOUT ROWID;
"""


class Thing(NamedTuple):
    """What is measured: a table, a company's part of all tables, or something beside them, by name."""

    kind: str
    name: str


class Measured(NamedTuple):
    """A size, and how much it grew a day lately; None where nothing was measured at least half a day before."""

    rows: int
    files: int
    bytes: int
    rows_a_day: float | None = None
    bytes_a_day: float | None = None


class Sizes:
    """The history of one home. Methods raise SettingsError where its file cannot be used."""

    def __init__(self, settings: Settings) -> None:
        self._database = Database(settings.home / "metrics" / "sizes.sqlite", _SCHEMA)

    def note(self, sizes: Mapping[Thing, Size], now: float) -> dict[Thing, Measured]:
        """Keep what was measured `now`, in seconds since 1970, one measurement a day; each with its growth."""
        today = int(now // _DAY)
        with self._database.transaction() as connection:
            before = connection.execute(
                "SELECT kind, name, at, rows, bytes FROM sizes WHERE at BETWEEN ? AND ? ORDER BY at DESC",
                (now - (GROWTH_D + 0.5) * _DAY, now - 0.5 * _DAY),
            )
            oldest = {Thing(kind, name): rest for kind, name, *rest in before}
            connection.execute("DELETE FROM sizes WHERE day = ? OR day < ?", (today, today - KEPT_D))
            connection.executemany(
                "INSERT INTO sizes VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(today, now, *thing, *size) for thing, size in sizes.items()],
            )
            # Of a company that has gone nothing stays.
            connection.execute(
                "DELETE FROM sizes WHERE kind = ? AND name NOT IN (SELECT name FROM sizes WHERE kind = ? AND day = ?)",
                (COMPANY, COMPANY, today),
            )
        return {thing: _grown(size, oldest.get(thing), now) for thing, size in sizes.items()}

    def last(self) -> tuple[float, dict[Thing, Size]] | None:
        """When was measured last, in seconds since 1970, and what; None if never."""
        with self._database.connection(create=False) as connection:
            found = connection.execute(
                "SELECT at, kind, name, rows, files, bytes FROM sizes WHERE day = (SELECT max(day) FROM sizes)"
            ).fetchall()
        sizes = {Thing(kind, name): Size(*size) for _, kind, name, *size in found}
        return (max(at for at, *_ in found), sizes) if found else None


def measure(settings: Settings, store: Store, dagster_bytes: int) -> dict[Thing, Size]:
    """All sizes now, from logs and listings alone: no row is read. Raises StoreError, SettingsError."""
    found: dict[Thing, Size] = {}
    companies: dict[str, Counter[str]] = {}
    older = 0
    with store.reading():
        for contract in contracts():
            parts = store.sizes(contract)
            whole: Counter[str] = Counter()
            for company, part in parts.items():
                companies.setdefault(company, Counter()).update(part._asdict())
                whole.update(part._asdict())
            found[Thing(TABLE, contract.table)] = _size(whole)
            older += max(0, store.bytes_of(contract) - whole["bytes"])
    found |= {Thing(COMPANY, company): _size(sums) for company, sums in sorted(companies.items())}
    sealed = {LANDING: Landing(settings).folder, QUARANTINE: Quarantine(settings).folder}
    beside = {name: files_in(folder, SUFFIX) for name, folder in sealed.items()}
    besides = {settings.dagster_home, *sealed.values(), *([store.folder] if store.folder else ())}
    beside |= {OLDER: Size(0, 0, older), DAGSTER: Size(0, 0, dagster_bytes)}
    beside[HOME] = files_in(settings.home, besides=besides)
    return found | {Thing(BESIDE, name): beside[name] for name in WHAT}


def by_kind(found: Mapping[Thing, Measured]) -> dict[str, dict[str, Measured]]:
    """What was measured by kind, then by name."""
    made: dict[str, dict[str, Measured]] = {TABLE: {}, COMPANY: {}, BESIDE: {}}
    for thing, measured in found.items():
        made[thing.kind][thing.name] = measured
    return made


def _size(sums: Mapping[str, int]) -> Size:
    return Size(sums["rows"], sums["files"], sums["bytes"])


def files_in(folder: Path, suffix: str = "", besides: set[Path] | None = None) -> Size:
    """All files below a folder whose names end so, but for what is in the folders `besides`."""
    sizes = list(_sizes_in(folder, suffix, besides or set()) if isinstance(folder, Path) else folder.sizes())
    return Size(0, len(sizes), sum(sizes))


def _sizes_in(folder: Path, suffix: str, besides: set[Path]) -> Iterator[int]:
    for name, folders, files in os.walk(folder):
        folders[:] = [one for one in folders if Path(name, one) not in besides]
        for file in files:
            with suppress(FileNotFoundError):
                if file.endswith(suffix):
                    yield Path(name, file).lstat().st_size


def _grown(size: Size, before: list[Any] | None, now: float) -> Measured:
    if before is None:
        return Measured(*size)
    at, rows, total = before
    days = (now - at) / _DAY
    return Measured(*size, round((size.rows - rows) / days, 1), round((size.bytes - total) / days, 1))


def report(settings: Settings, store: Store, dagster_bytes: int, now: float | None = None) -> dict[Thing, Measured]:
    """Measure all, keep it, and say how it grew. Raises as `measure`."""
    sizes = measure(settings, store, dagster_bytes)
    return Sizes(settings).note(sizes, time.time() if now is None else now)
