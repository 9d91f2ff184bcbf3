"""Who is gone from a directory, by company and stream: what the last reading of the whole of it did not have.

Belongs here: the files that say so, which hold ids of stored events and times, nothing of a person, and that no key
makes old. Does not belong here: reading a directory (`pipeline/presence.py`).

Who is not among the gone is there: what was stored since the last reading of the whole, its source sent since then.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa

from teei_ingest.errors import StoreError
from teei_ingest.store.vanished import Vanished
from teei_ingest.vault.files import os_errors, replacing

# What views join with, by schema and name.
BESIDE = "beside"
READ, GONE = f"{BESIDE}.directories_read", f"{BESIDE}.directories_gone"
SCHEMAS = {
    READ: pa.schema([("company", pa.string()), ("stream", pa.string())]),
    GONE: pa.schema([("company", pa.string()), ("stream", pa.string()), ("event_id", pa.string())]),
}


class Presence(Vanished):
    """A day's files as of vanished events, and one for each stream that says when the whole was read."""

    name = "presence"
    remedy = "the next reading of the whole directory writes it anew"

    def note(self, company: str, stream: str, gone: Mapping[date, Iterable[str]], now: datetime) -> None:
        """Ids of all stored events of persons who are gone, by day, as the whole directory was read at `now`."""
        self.replace(company, stream, {*self.days(company, stream), *gone}, gone, now)
        with replacing(self._read_file(company, stream), self._failure) as write:
            write(json.dumps({"read_at": f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"}).encode() + b"\n")

    def read_at(self, company: str, stream: str) -> datetime | None:
        """When the whole directory was read last; None if never."""
        path = self._read_file(company, stream)
        with os_errors(self._failure):
            try:
                return datetime.fromisoformat(json.loads(path.read_bytes())["read_at"])
            except FileNotFoundError:
                return None
            except (ValueError, TypeError, KeyError):
                pass
        raise StoreError(f"{path} is damaged: remove it, {self.remedy}", company=company)

    def tables(self) -> dict[str, pa.Table]:
        """All companies' directories that were read as a whole, and the events of those who are gone."""
        read = [(path.parent.name, path.stem) for path in sorted(self._folder.glob("*/*.json"))]
        gone = [
            (company, stream, name)
            for company, stream in read
            for day in self.days(company, stream)
            for name in self.ids(company, stream, day)
        ]
        return {name: _table(name, rows) for name, rows in ((READ, read), (GONE, gone))}

    def _read_file(self, company: str, stream: str) -> Path:
        return self.folder(company) / f"{stream}.json"

    @staticmethod
    def _failure(reason: str) -> StoreError:
        return StoreError(f"who is gone from a directory cannot be told: {reason}")


def no_tables() -> dict[str, pa.Table]:
    """As `Presence.tables`, of nobody."""
    return {name: _table(name, []) for name in SCHEMAS}


def _table(name: str, rows: Iterable[tuple[str, ...]]) -> pa.Table:
    schema = SCHEMAS[name]
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)
