"""The list of those who were erased, sealed: without it the next sync would bring them back.

Belongs here: one sealed file for each company, with an entry for each erasure. Does not belong here: telling whose a
record is (`redact/suppress.py`), erasing (`privacy/erase.py`). Whoever changes a company's list is alone with it
(`Store.alone_with`).
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

from teei_ingest.errors import LandingError
from teei_ingest.landing.landing import SUFFIX
from teei_ingest.landing.sealed import attempt_of, read_sealed, write_sealed
from teei_ingest.redact.suppress import NOBODY, Link, Suppression
from teei_ingest.redact.tokens import Pseudonyms
from teei_ingest.settings import Settings
from teei_ingest.vault.files import os_errors, remove
from teei_ingest.vault.keys import KeyRing

_PURPOSE = "suppression"
_DAY = date(1970, 1, 1)  # a sealed file has a day; this one is of none


@dataclass(frozen=True)
class Erasure:
    """One erased person: `tokens` and `groups` as in Suppression; `done` once nothing of them is left at rest."""

    id: str
    created: str  # RFC 3339
    tokens: frozenset[str] = field(repr=False)
    groups: frozenset[str] = field(repr=False)
    done: bool


class Suppressions:
    """The lists below `$TEEI_HOME/suppression`. All methods raise LandingError."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.home / "suppression"

    def version(self, company: str) -> str:
        """Names the list as it is now, at the cost of opening a file; empty if there is none."""
        return attempt_of(self._path(company)) or ""

    def entries(self, ring: KeyRing, company: str) -> list[Erasure]:
        """All erasures, the oldest first."""
        path = self._path(company)
        try:
            records = list(read_sealed(path, ring, company=company, stream=_PURPOSE, day=_DAY, purpose=_PURPOSE))
            return [_entry(record) for record in records]
        except LandingError:
            pass
        raise LandingError(f"{path} is damaged or cannot be read: restore it from its backup", company=company)

    def load(self, ring: KeyRing, company: str) -> Suppression:
        """All that is suppressed."""
        if not self.version(company):
            return NOBODY
        entries = self.entries(ring, company)
        tokens = frozenset(token for entry in entries for token in entry.tokens)
        return Suppression(tokens, frozenset(group for entry in entries for group in entry.groups))

    def pending(self, ring: KeyRing, company: str) -> list[Erasure]:
        """Erasures that were not carried out to their end."""
        return [entry for entry in self.entries(ring, company) if not entry.done]

    def add(self, ring: KeyRing, company: str, tokens: Iterable[str], groups: Iterable[str] = ()) -> Erasure:
        """Suppress a person, pending; whoever is suppressed already under one of the tokens is the same person."""
        forward = Pseudonyms.of(ring).forward
        wanted, theirs = frozenset(tokens), frozenset(groups)
        same: list[Erasure] = []
        others: list[Erasure] = []
        for entry in self.entries(ring, company):
            (others if wanted.isdisjoint(map(forward, entry.tokens)) else same).append(entry)
        made = Erasure(
            id=same[0].id if same else secrets.token_hex(8),
            created=same[0].created if same else f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            tokens=wanted.union(*(entry.tokens for entry in same)),
            groups=theirs.union(*(entry.groups for entry in same)),
            done=False,
        )
        self._write(ring, company, [*others, made])
        return made

    def learn(self, ring: KeyRing, company: str, links: Iterable[Link]) -> None:
        """Add what suppressed records showed; the erasures are pending again, since there may be more at rest."""
        forward = Pseudonyms.of(ring).forward
        entries = self.entries(ring, company)
        for link in links:
            for at, entry in enumerate(entries):
                if not link.tokens.isdisjoint(map(forward, entry.tokens)):
                    groups = entry.groups | ({link.group} if link.group else set())
                    entries[at] = dataclasses.replace(
                        entry, tokens=entry.tokens | link.tokens, groups=frozenset(groups), done=False
                    )
        self._write(ring, company, entries)

    def finish(self, ring: KeyRing, company: str, erasure: Erasure) -> None:
        """Mark an erasure as done."""
        done = dataclasses.replace(erasure, done=True)
        entries = self.entries(ring, company)
        self._write(ring, company, [done if entry.id == erasure.id else entry for entry in entries])

    def reopen(self, ring: KeyRing, company: str) -> None:
        """Make all erasures pending, since a backup of before may have brought something back."""
        entries = self.entries(ring, company)
        if entries:
            self._write(ring, company, [dataclasses.replace(entry, done=False) for entry in entries])

    def undo(self, ring: KeyRing, company: str, erasure: Erasure) -> None:
        """Take an erasure off the list."""
        self._write(ring, company, [entry for entry in self.entries(ring, company) if entry.id != erasure.id])

    def forget(self, company: str) -> bool:
        """Remove the whole list of a company that is no more."""
        with os_errors(lambda reason: LandingError(f"{self._path(company)}: {reason}", company=company)):
            return remove(self._path(company))

    def _write(self, ring: KeyRing, company: str, entries: Sequence[Erasure]) -> None:
        write_sealed(
            self._path(company),
            ring,
            [_record(entry) for entry in entries],
            company=company,
            stream=_PURPOSE,
            day=_DAY,
            attempt=secrets.token_hex(8),
            purpose=_PURPOSE,
        )

    def _path(self, company: str) -> Path:
        return self._folder / f"{company}{SUFFIX}"


def _record(entry: Erasure) -> bytes:
    return json.dumps(
        {**dataclasses.asdict(entry), "tokens": sorted(entry.tokens), "groups": sorted(entry.groups)}
    ).encode()


def _entry(record: bytes) -> Erasure:
    fields = json.loads(record)
    return Erasure(**fields | {"tokens": frozenset(fields["tokens"]), "groups": frozenset(fields["groups"])})
