"""What a stream that was materialized alone leaves for its events.

Belongs here: one sealed file for each (company, stream, day) with a header and the wire's records, its
replacement, its removal. Does not belong here: the file's format (`sealed.py`), what is done with the records.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any, cast

from teei_ingest.errors import LandingError
from teei_ingest.landing.sealed import attempt_of, read_sealed, write_sealed
from teei_ingest.settings import Settings
from teei_ingest.vault.files import date_back, older, os_errors, remove, remove_dead, written
from teei_ingest.vault.keys import KeyRing

SUFFIX = ".sealed"


@dataclass(frozen=True)
class Landed:
    """A landing that waits for its events."""

    company: str
    stream: str
    day: date
    attempt: str


class Landing:
    """The sealed files of landings. All methods raise LandingError."""

    def __init__(self, settings: Settings) -> None:
        self.folder = folder_of(settings, "landing")
        self._home = settings.home / "landing"  # where they were before the tables were in an object store
        self._ttl_s = settings.landing_ttl_h * 3600

    def write(
        self,
        ring: KeyRing,
        company: str,
        stream: str,
        day: date,
        meta: Mapping[str, Any],
        records: Iterable[bytes],
        *,
        attempt: str,
    ) -> None:
        """Replace the day's landing. `meta` is JSON of counts, windows and versions, sealed like the rest."""
        path = day_file(self.folder, company, stream, day)
        head = json.dumps(dict(meta)).encode()
        write_sealed(path, ring, chain([head], records), company=company, stream=stream, day=day, attempt=attempt)

    def read(
        self, ring: KeyRing, company: str, stream: str, day: date
    ) -> tuple[dict[str, Any], Iterator[bytes]] | None:
        """The meta and the records of a day; None if nothing landed. Commit nothing before the last record."""
        path = day_file(self.folder, company, stream, day)
        records = read_sealed(path, ring, company=company, stream=stream, day=day)
        head = next(records, None)
        return None if head is None else (json.loads(head), records)

    def erase(
        self,
        ring: KeyRing,
        company: str,
        stream: str,
        day: date,
        change: Callable[[bytes], bytes | None],
        *,
        dry_run: bool,
    ) -> int:
        """Put `change` of each record in its place, or nothing where it gives None; the number that it changes.

        Those that go count as suppressed instead of kept.
        """
        landed = self.read(ring, company, stream, day)
        if landed is None:
            return 0
        meta, records = landed
        changed = gone = 0
        for record in records:
            made = change(record)
            changed += made != record
            gone += made is None
        if changed and not dry_run:
            path = day_file(self.folder, company, stream, day)
            meta |= {"kept": meta["kept"] - gone, "suppressed": meta["suppressed"] + gone}
            again = self.read(ring, company, stream, day)
            if again is not None:  # or it was too old meanwhile
                made_of = (made for record in again[1] if (made := change(record)) is not None)
                with same_age(path):
                    self.write(ring, company, stream, day, meta, made_of, attempt=attempt_of(path) or "")
        return changed

    def discard(self, company: str, stream: str, day: date, *, attempt: str | None = None) -> bool:
        """Remove what was consumed; with `attempt`, only if no other attempt has landed since."""
        path = day_file(self.folder, company, stream, day)
        with os_errors(_failure):
            return (attempt is None or attempt_of(path) == attempt) and remove(path)

    def days(self, company: str, stream: str) -> set[date]:
        """The days of a stream that have one, at the cost of one listing."""
        return {date.fromisoformat(path.stem) for path in (self.folder / company / stream).glob(f"*{SUFFIX}")}

    def waiting(self) -> Iterator[Landed]:
        """All landings, by company, stream and day; a damaged one is among them and fails when it is read."""
        for path in sorted(self.folder.glob(f"*/*/*{SUFFIX}")):
            attempt = attempt_of(path)
            if attempt is not None:
                yield Landed(path.parent.parent.name, path.parent.name, date.fromisoformat(path.stem), attempt)

    def sweep(self, now: float | None = None) -> int:
        """Remove what dead attempts left and what nobody consumed in time; the number of files."""
        with os_errors(_failure):
            return remove_dead(self._home) + sum(remove_old(one, self._ttl_s, now) for one in {self.folder, self._home})


def folder_of(settings: Settings, kind: str) -> Path:
    """Where sealed files are: in TEEI_HOME; or beside tables in an object store, by what stands in for a Path."""
    if not settings.in_object_store:
        return settings.home / kind
    from teei_ingest.vault.objects import object_folder  # which loads Arrow

    return cast(Path, object_folder(settings, f"_{kind}"))


@contextmanager
def same_age(path: Path) -> Iterator[None]:
    """A file that is replaced within does not become younger, so that it goes in its time."""
    with os_errors(_failure):
        before = written(path)
    yield
    with os_errors(_failure), suppress(FileNotFoundError):
        date_back(path, before)


def day_file(folder: Path, company: str, stream: str, day: date) -> Path:
    return folder / company / stream / f"{day.isoformat()}{SUFFIX}"


def old_files(folder: Path, ttl_s: float, now: float | None = None) -> list[Path]:
    """The sealed files below that are older; `now` in seconds since the epoch."""
    return list(older(folder.glob(f"*/*/*{SUFFIX}"), (time.time() if now is None else now) - ttl_s))


def remove_old(folder: Path, ttl_s: float, now: float | None = None) -> int:
    """Remove those; their number."""
    return sum(map(remove, old_files(folder, ttl_s, now)))


def _failure(reason: str) -> LandingError:
    return LandingError(f"the sealed files cannot be removed: {reason}")
