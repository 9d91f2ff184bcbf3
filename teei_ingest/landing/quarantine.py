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
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date

from filelock import FileLock

from teei_ingest.errors import LandingError
from teei_ingest.landing.landing import SUFFIX, day_file, remove_old, same_age
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
    digits of a keyed hash of the record, filled in by the quarantine.
    """

    reason: str
    field: str
    rule: str
    record: bytes = dataclasses.field(repr=False)
    people: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    undated: bool = False
    content_key: str = ""


class Quarantine:
    """The sealed files below `$TEEI_HOME/quarantine`. All methods raise LandingError."""

    def __init__(self, settings: Settings) -> None:
        self.folder = settings.home / "quarantine"
        self._ttl_s = settings.quarantine_ttl_d * 86400

    def replace(
        self,
        ring: KeyRing,
        company: str,
        stream: str,
        window: Mapping[date, Sequence[QuarantineEntry]],
        *,
        attempt: str,
    ) -> dict[date, int]:
        """Replace the entries of all days of a window; a day without entries keeps none.

        Undated entries that lie under a day outside the window, or came twice, are not kept again; their
        number by day is returned. Safe to repeat after a crash.
        """
        folder = self.folder / company / stream
        # Under the first key, whatever its successors: a record is known again after a rotation.
        mac_key = hmac.digest(ring.key(_PURPOSE, 1), b"content key", hashlib.sha256)
        with os_errors(_failure), FileLock(private_folder(folder) / ".lock", mode=0o600):
            seen: set[str] = set()
            if any(entry.undated for entries in window.values() for entry in entries):
                seen = {
                    entry.content_key
                    for day in self.days(company, stream)
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
                self._write(ring, company, stream, day, kept, attempt)
        return again

    def erase(
        self,
        ring: KeyRing,
        company: str,
        stream: str,
        goes: Callable[[QuarantineEntry], bool],
        *,
        dry_run: bool = False,
    ) -> int:
        """Remove the entries of all days for which `goes`; their number."""
        removed = 0
        if not self.days(company, stream):
            return removed
        with os_errors(_failure), FileLock(private_folder(self.folder / company / stream) / ".lock", mode=0o600):
            for day in self.days(company, stream):
                entries = self.entries(ring, company, stream, day)
                kept = [entry for entry in entries if not goes(entry)]
                removed += len(entries) - len(kept)
                if len(kept) < len(entries) and not dry_run:
                    path = day_file(self.folder, company, stream, day)
                    with same_age(path):
                        self._write(ring, company, stream, day, kept, attempt_of(path) or "")
        return removed

    def _write(
        self, ring: KeyRing, company: str, stream: str, day: date, entries: Sequence[QuarantineEntry], attempt: str
    ) -> None:
        path = day_file(self.folder, company, stream, day)
        if entries:
            write_sealed(
                path,
                ring,
                _frames(entries),
                company=company,
                stream=stream,
                day=day,
                attempt=attempt,
                purpose=_PURPOSE,
            )
        else:
            remove(path)

    def days(self, company: str, stream: str) -> list[date]:
        """The days that have entries, in order."""
        files = (self.folder / company / stream).glob(f"*{SUFFIX}")
        return sorted(date.fromisoformat(path.stem) for path in files)

    def entries(self, ring: KeyRing, company: str, stream: str, day: date) -> list[QuarantineEntry]:
        """The day's entries in the order in which they were given."""
        rest = list(self._frames(ring, company, stream, day))[1:]
        return [_entry(head, record) for head, record in zip(rest[::2], rest[1::2], strict=True)]

    def count(self, ring: KeyRing, company: str, stream: str, day: date) -> int:
        """The number of the day's entries, without reading them."""
        for frame in self._frames(ring, company, stream, day):
            return int(json.loads(frame)["count"])
        return 0

    def sweep(self, now: float | None = None) -> int:
        """Remove what dead attempts left and what is older than TEEI_QUARANTINE_TTL_D; the number of files."""
        with os_errors(_failure):
            return remove_dead(self.folder) + remove_old(self.folder, self._ttl_s, now)

    def _frames(self, ring: KeyRing, company: str, stream: str, day: date) -> Iterator[bytes]:
        path = day_file(self.folder, company, stream, day)
        return read_sealed(path, ring, company=company, stream=stream, day=day, purpose=_PURPOSE)


def _frames(entries: Sequence[QuarantineEntry]) -> Iterator[bytes]:
    """The number of entries, then for each what is known of it, and the record."""
    yield json.dumps({"count": len(entries)}).encode()
    for entry in entries:
        head = dataclasses.asdict(entry)
        record = head.pop("record")
        yield json.dumps(head).encode()
        yield record


def _entry(head: bytes, record: bytes) -> QuarantineEntry:
    fields = json.loads(head)
    return QuarantineEntry(**fields | {"people": tuple(fields["people"]), "record": record})


def _failure(reason: str) -> LandingError:
    return LandingError(f"the quarantine cannot be changed: {reason}")
