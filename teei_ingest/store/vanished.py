"""Which stored events their source no longer sends, by company, stream and day.

Belongs here: the small files that say so, which hold ids of events and times, nothing of a record. Does not belong
here: telling what is gone (`changes.py`).

A day's file is replaced in the turn of whoever commits the day, before the commit: an id in it is of a row that was
stored and that the source did not send, whether the commit comes about or not, and the next reading writes it anew. A
row that goes otherwise, by an erasure or by its age, takes its id along.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path

from teei_ingest.errors import StoreError
from teei_ingest.vault.files import os_errors, remove, remove_folder, replacing

_Ids = dict[str, str]  # id of an event: when it was first missed, RFC 3339


class Vanished:
    """The files below one folder. Raises StoreError. Whoever changes them holds the company or the stream's turn."""

    name = "vanished"
    remedy = "the next sync of the day writes it anew"

    def __init__(self, home: Path) -> None:
        self._folder = home / self.name

    def folder(self, company: str) -> Path:
        """Where a company's files are."""
        return self._folder / company

    def days(self, company: str, stream: str) -> list[date]:
        """The days that have some, in order."""
        return sorted(date.fromisoformat(path.stem) for path in (self.folder(company) / stream).glob("*.json"))

    def streams(self, company: str) -> list[str]:
        """The streams that have some."""
        return sorted({path.parent.name for path in self.folder(company).glob("*/*.json")})

    def ids(self, company: str, stream: str, day: date) -> dict[str, datetime]:
        """Ids of the day's events that the source no longer sends, and when each was first missed, in UTC."""
        return {name: datetime.fromisoformat(at) for name, at in self._read(company, stream, day).items()}

    def replace(
        self, company: str, stream: str, days: Collection[date], missing: Mapping[date, Iterable[str]], now: datetime
    ) -> None:
        """Say of each of these days which events are missing; one that was before, keeps its time."""
        at = f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        for day in sorted(set(days) & {*self.days(company, stream), *missing}):
            before = self._read(company, stream, day)
            self._write(company, stream, day, {name: before.get(name, at) for name in missing.get(day, ())})

    def forget(self, company: str, events: Collection[str]) -> None:
        """Of a company's events that go."""
        gone = set(events)
        self._keep(company, lambda day, name: name not in gone)

    def forget_before(self, day: date) -> None:
        """Of all companies' events of the days before."""
        for folder in self._folder.glob("*"):
            self._keep(folder.name, lambda own, name: own >= day)

    def forget_company(self, company: str) -> None:
        """Of a company that is no more."""
        with os_errors(_failure):
            remove_folder(self.folder(company))

    def _keep(self, company: str, stays: Callable[[date, str], bool]) -> None:
        for stream in self.streams(company):
            for day in self.days(company, stream):
                self._write(
                    company,
                    stream,
                    day,
                    {name: at for name, at in self._read(company, stream, day).items() if stays(day, name)},
                )

    def _read(self, company: str, stream: str, day: date) -> _Ids:
        path = self._path(company, stream, day)
        with os_errors(_failure):
            try:
                found: _Ids = dict(json.loads(path.read_bytes()))
                for at in found.values():
                    datetime.fromisoformat(at)
                return found
            except FileNotFoundError:
                return {}
            except (ValueError, TypeError):
                pass
        raise StoreError(f"{path} is damaged: remove it, {self.remedy}", company=company)

    def _write(self, company: str, stream: str, day: date, ids: _Ids) -> None:
        if ids == self._read(company, stream, day):
            return
        path = self._path(company, stream, day)
        if ids:
            with replacing(path, _failure) as write:
                write(json.dumps(ids).encode() + b"\n")
        else:
            with os_errors(_failure):
                remove(path)

    def _path(self, company: str, stream: str, day: date) -> Path:
        return self.folder(company) / stream / f"{day}.json"


def _failure(reason: str) -> StoreError:
    return StoreError(f"the list of vanished events cannot be used: {reason}")
