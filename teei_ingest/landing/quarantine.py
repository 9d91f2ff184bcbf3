"""Records that broke their contract, sealed, with what they broke and the tokens of the people in them.

Belongs here: one sealed file for each (company, stream, day), replaced together with the partition. Does not
belong here: deciding what is bad (`contracts/`, `redact/`) or too much (the pipeline).

A record without a valid timestamp belongs to no day: it is kept under the first day of the window that
brought it, and only once by its content, since every later window may bring it again.
"""

import dataclasses
import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date

from filelock import FileLock

from teei_ingest.errors import LandingError
from teei_ingest.landing.landing import SUFFIX, day_file, folder_of, remove_old, same_age
from teei_ingest.landing.sealed import attempt_of, read_sealed, write_sealed
from teei_ingest.settings import Settings
from teei_ingest.vault.files import os_errors, private_folder, remove, remove_dead
from teei_ingest.vault.keys import KeyRing

_PURPOSE = "quarantine"


@dataclasses.dataclass(frozen=True)
class QuarantineEntry:
    """One bad record.

    `reason` and `rule`: what it broke, without its values; `field`: the path in the schema; `people`: tokens of
    the persons in it, by which an erasure finds it; `undated`: it has no valid timestamp; `content_key`: 32 hex
    digits of a keyed hash of the record, filled in by the quarantine; `tried`: it was to be brought in, and its row
    may be stored.
    """

    reason: str
    field: str
    rule: str
    record: bytes = dataclasses.field(repr=False)
    people: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    undated: bool = False
    content_key: str = ""
    tried: bool = False


@dataclasses.dataclass(frozen=True)
class About:
    """What the reading that brought a day's entries says of the day.

    `failed`: they were too many, and nothing of the day was kept; `window`: its first and last day; `figures`: the
    partition's counts. Files of older versions have none of it.
    """

    failed: bool = False
    window: tuple[str, str] = ("", "")
    figures: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class SealedDay:
    """All that is quarantined of a day; `attempt` is the run that read it."""

    attempt: str
    about: About
    entries: list[QuarantineEntry]


class Quarantine:
    """The sealed files of the quarantine. All methods raise LandingError."""

    def __init__(self, settings: Settings) -> None:
        self.folder = folder_of(settings, "quarantine")
        self._home = settings.home / "quarantine"  # locks are of this machine, wherever the files are
        self._ttl_s = settings.quarantine_ttl_d * 86400

    def replace(
        self,
        ring: KeyRing,
        company: str,
        stream: str,
        window: Mapping[date, Sequence[QuarantineEntry]],
        about: Callable[[date, int], About] = lambda day, known: About(),
        *,
        attempt: str,
    ) -> dict[date, int]:
        """Replace the entries of all days of a window; a day without entries keeps none.

        Undated entries that lie under a day outside the window, or came twice, are not kept again; their number by day
        is returned, and `about` is told it before the day is written. Safe to repeat after a crash.
        """
        # Under the first key, whatever its successors: a record is known again after a rotation.
        mac_key = hmac.digest(ring.key(_PURPOSE, 1), b"content key", hashlib.sha256)
        with os_errors(_failure), self._locked(company, stream):
            before = set(self.days(company, stream))
            seen: set[str] = set()
            if any(entry.undated for entries in window.values() for entry in entries):
                seen = {
                    entry.content_key
                    for day in before
                    if day not in window
                    for entry in self.entries(ring, company, stream, day)
                    if entry.undated
                }
            again: dict[date, int] = {}
            for day, entries in sorted(window.items()):
                kept: list[QuarantineEntry] = []
                for entry in entries:
                    key = hmac.digest(mac_key, entry.record, hashlib.sha256).hex()[:32]
                    if not (entry.undated and key in seen):
                        kept.append(dataclasses.replace(entry, content_key=key))
                    if entry.undated:
                        seen.add(key)
                again[day] = len(entries) - len(kept)
                found = SealedDay(attempt, about(day, again[day]), kept)
                if kept or day in before:
                    self._write(ring, company, stream, day, found)
        return again

    def change(
        self,
        ring: KeyRing,
        company: str,
        stream: str,
        day: date,
        change: Callable[[SealedDay], SealedDay | None],
    ) -> bool:
        """Put `change` of what there is of a day in its place, under its attempt and age; whether there was something.

        None, or no entries, leave nothing.
        """
        with os_errors(_failure), self._locked(company, stream):
            before = self.sealed(ring, company, stream, day)
            if before is None:
                return False
            after = change(before)
            if after is None or not after.entries:
                remove(day_file(self.folder, company, stream, day))
            elif after != before:
                with same_age(day_file(self.folder, company, stream, day)):
                    self._write(ring, company, stream, day, after)
            return True

    def erase(
        self,
        ring: KeyRing,
        company: str,
        stream: str,
        goes: Callable[[QuarantineEntry], bool],
        *,
        dry_run: bool,
    ) -> int:
        """Remove the entries of all days for which `goes`; their number. They count as suppressed from then on."""
        removed = 0

        def change(day: SealedDay) -> SealedDay:
            nonlocal removed
            kept = [entry for entry in day.entries if not goes(entry)]
            gone = len(day.entries) - len(kept)
            removed += gone
            if dry_run or not gone:
                return day
            figures = dict(day.about.figures)
            if figures:
                figures["suppressed"] += gone
            return dataclasses.replace(day, about=dataclasses.replace(day.about, figures=figures), entries=kept)

        for day in self.days(company, stream):
            self.change(ring, company, stream, day, change)
        return removed

    def discard(self, company: str, stream: str, day: date) -> bool:
        """Remove a day's entries; whether there were any."""
        with os_errors(_failure), self._locked(company, stream):
            return remove(day_file(self.folder, company, stream, day))

    def _locked(self, company: str, stream: str) -> FileLock:
        return FileLock(private_folder(self._home / company / stream) / ".lock", mode=0o600)

    def _write(self, ring: KeyRing, company: str, stream: str, day: date, found: SealedDay) -> None:
        path = day_file(self.folder, company, stream, day)
        if found.entries:
            write_sealed(
                path,
                ring,
                _frames(found),
                company=company,
                stream=stream,
                day=day,
                attempt=found.attempt,
                purpose=_PURPOSE,
            )
        else:
            remove(path)

    def days(self, company: str, stream: str) -> list[date]:
        """The days that have entries, in order."""
        files = (self.folder / company / stream).glob(f"*{SUFFIX}")
        return sorted(date.fromisoformat(path.stem) for path in files)

    def counts(self) -> Counter[tuple[str, str]]:
        """Number of days that have entries, by company and stream, at the cost of one listing."""
        return Counter((path.parent.parent.name, path.parent.name) for path in self.folder.glob(f"*/*/*{SUFFIX}"))

    def streams(self, company: str) -> list[str]:
        """The streams that have entries, in order."""
        return sorted({path.parent.name for path in (self.folder / company).glob(f"*/*{SUFFIX}")})

    def entries(self, ring: KeyRing, company: str, stream: str, day: date) -> list[QuarantineEntry]:
        """The day's entries in the order in which they were given."""
        found = self.sealed(ring, company, stream, day)
        return found.entries if found else []

    def sealed(self, ring: KeyRing, company: str, stream: str, day: date) -> SealedDay | None:
        """All that is quarantined of a day."""
        path = day_file(self.folder, company, stream, day)
        attempt = attempt_of(path)
        frames = list(self._frames(ring, company, stream, day))
        if not frames:
            return None
        entries = [_entry(head, record) for head, record in zip(frames[1::2], frames[2::2], strict=True)]
        return SealedDay(attempt or "", _about(frames[0]), entries)

    def count(self, ring: KeyRing, company: str, stream: str, day: date) -> int:
        """The number of the day's entries, without reading them."""
        for frame in self._frames(ring, company, stream, day):
            return int(json.loads(frame)["count"])
        return 0

    def sweep(self, now: float | None = None) -> int:
        """Remove what dead attempts left and what is older than TEEI_QUARANTINE_TTL_D; the number of files."""
        with os_errors(_failure):
            return remove_dead(self._home) + sum(remove_old(one, self._ttl_s, now) for one in {self.folder, self._home})

    def _frames(self, ring: KeyRing, company: str, stream: str, day: date) -> Iterator[bytes]:
        path = day_file(self.folder, company, stream, day)
        return read_sealed(path, ring, company=company, stream=stream, day=day, purpose=_PURPOSE)


def _frames(found: SealedDay) -> Iterator[bytes]:
    """What is known of the day, then for each entry what is known of it, and the record."""
    yield json.dumps({"count": len(found.entries), **dataclasses.asdict(found.about)}).encode()
    for entry in found.entries:
        yield json.dumps({name: value for name, value in vars(entry).items() if name != "record"}).encode()
        yield entry.record


def _about(head: bytes) -> About:
    fields = json.loads(head)
    return About(fields["failed"], tuple(fields["window"]), fields["figures"]) if "figures" in fields else About()


def _entry(head: bytes, record: bytes) -> QuarantineEntry:
    fields = json.loads(head)
    return QuarantineEntry(**fields | {"people": tuple(fields["people"]), "record": record})


def _failure(reason: str) -> LandingError:
    return LandingError(f"the quarantine cannot be changed: {reason}")
