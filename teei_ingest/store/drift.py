"""What the records of a stream of a company looked like so far, and which fields came, went or changed their type.

Belongs here: the small files that say so, the rules by which a difference counts, and which names may be shown. Does
not belong here: looking at records (`mapping/drift.py`). No value is ever in them, and no name of an unknown field that
may be data itself: those are counted.

A window is compared with what is known if no day after it was compared before: old days that are read later, in
whichever order, tell nothing new and change nothing. The first look at a stream shows how it is, and no change.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from filelock import FileLock

from teei_ingest.errors import StoreError
from teei_ingest.mapping.drift import NULL, UNKNOWN, Profile, Shape
from teei_ingest.redact import text
from teei_ingest.vault.files import os_errors, private_folder, remove_folder, replacing

ADDED, DROPPED, CHANGED = "added", "dropped", "type changed"
UNNAMED = ""  # stands for fields whose names are not shown

# A field is dropped when its share was at least that much, and so many records in a row have no value in it.
DROPPED_SHARE, ENOUGH = 0.2, 50
# A type counts in a field when so many of the records with a value there have it, and at least three, or all.
TYPE_SHARE, FEW = 0.05, 3
_REMEMBERED = 500  # records that a share is made of
_MOST = 100  # unknown fields that are known by name

_HARMLESS = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}|urn:ietf:params:scim:schemas:[A-Za-z0-9:.]{1,80}", re.ASCII)


@dataclass(frozen=True)
class Field:
    """A field as it is known: `share` of the last records have a value in it; days are UTC days of ingests."""

    types: tuple[str, ...]  # of its values, in JSON's words; none as long as it was always null
    share: float
    first_seen: str
    last_seen: str
    records: int = 0  # behind the share
    missing: int = 0  # records in a row without it
    dropped: bool = False


@dataclass(frozen=True)
class Change:
    """A difference that was noticed: what was `before`, what is now. `fields` is 1, or those that have no name here."""

    field: str
    status: str  # read, not kept, unknown
    change: str
    types: tuple[str, ...]
    before: tuple[str, ...]
    share: float
    first_seen: str
    noticed: str
    fields: int = 1

    @property
    def title(self) -> str:
        """The field's name, or how many have none that is shown."""
        return self.field or f"{self.fields} whose names are not shown"

    @property
    def type(self) -> str:
        """Its types; where they changed, those before them, too."""
        now, before = (" or ".join(types) or NULL for types in (self.types, self.before))
        return f"{before} → {now}" if self.change == CHANGED else now


@dataclass(frozen=True)
class Known:
    """What is known of a stream of a company; `until` is the last day of the windows that were compared."""

    until: date | None = None
    fields: dict[str, Field] = field(default_factory=dict)
    unnamed: int = 0  # the most fields at once whose names are not shown
    changes: tuple[Change, ...] = ()  # that nobody has accepted yet

    def all(self, shape: Shape) -> list[Change]:
        """Every field, with what has changed in it; nothing has in most."""
        changed = {one.field for one in self.changes}
        others = [
            Change(path, shape.status(path), "", one.types, (), one.share, one.first_seen, "")
            for path, one in self.fields.items()
            if path not in changed
        ]
        return sorted([*self.changes, *others], key=lambda one: one.field)


class Drift:
    """The files below `$TEEI_HOME/drift`, by company and stream. Raises StoreError."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "drift"

    def folder(self, company: str) -> Path:
        """Where the company's files are."""
        return self._folder / company

    def get(self, company: str, stream: str) -> Known | None:
        """What is known, None before the first look."""
        path = self._path(company, stream)
        with os_errors(_failure(path, company, stream)):
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                return None
        try:
            return _known(json.loads(data))
        except (ValueError, KeyError, TypeError):
            pass
        raise StoreError(f"{path} is damaged: remove it, and the next run begins anew", stream=stream, company=company)

    def note(
        self, company: str, stream: str, shape: Shape, profile: Profile, days: tuple[date, date], today: date
    ) -> list[Change]:
        """Compare a window, from its first day to its last, with what is known, and remember it; what is new."""
        if not profile.looked:
            return []
        with self._locked(company):
            known = self.get(company, stream) or Known()
            if known.until is not None and days[1] < known.until:
                return []
            made, changes = _compare(known, shape, profile, days, today.isoformat())
            self._write(company, stream, made)
            return changes

    def accept(self, company: str, stream: str) -> None:
        """Forget the changes; what there is now is how it should be."""
        with self._locked(company):
            known = self.get(company, stream)
            if known is not None and known.changes:
                self._write(company, stream, replace(known, changes=()))

    def forget(self, company: str) -> None:
        """Of a company that is no more."""
        with os_errors(_failure(self.folder(company), company)):
            remove_folder(self.folder(company))

    @contextmanager
    def _locked(self, company: str) -> Iterator[None]:
        folder = self.folder(company)
        with os_errors(_failure(folder, company)), FileLock(private_folder(folder) / ".lock", mode=0o600):
            yield

    def _write(self, company: str, stream: str, known: Known) -> None:
        path = self._path(company, stream)
        with replacing(path, _failure(path, company, stream)) as write:
            write(json.dumps(asdict(known), default=date.isoformat).encode() + b"\n")

    def _path(self, company: str, stream: str) -> Path:
        return self.folder(company) / f"{stream}.json"


def is_harmless(name: str) -> bool:
    """Whether a key looks like a field's name and holds no address, number or the like."""
    return _HARMLESS.fullmatch(name) is not None and not text.kinds(name) and not text.is_identifier(name)


def _shown(shape: Shape, profile: Profile, known: Known) -> tuple[dict[str, dict[str, int]], int]:
    """Of the fields whose names may be shown how often they have which type, and the number of the others.

    A name that nobody declared has to be harmless, not to have the person's own in it, and to be there three times, or
    always.
    """
    seen: dict[str, dict[str, int]] = {}
    unnamed: set[str] = set()
    strange = {path for path in known.fields if shape.status(path) == UNKNOWN}
    for path, types in sorted(profile.types().items()):
        above, _, name = path.removesuffix("[]").rpartition("/")
        count = sum(types.values())
        if shape.status(path) == UNKNOWN and path not in strange:
            declared = not above or shape.looks_into(above)
            own = 2 * profile.personal[path] >= count
            if (
                own
                or not declared
                or not is_harmless(name)
                or count < min(FEW, profile.looked)
                or len(strange) >= _MOST
            ):
                unnamed.add(path.removesuffix("[]"))
                continue
            strange.add(path)
        seen[path] = types
    return seen, len(unnamed)


def _compare(
    known: Known, shape: Shape, profile: Profile, days: tuple[date, date], today: str
) -> tuple[Known, list[Change]]:
    """What is known after a window, and what is new in it; nothing at the first look."""
    first, last = days
    fresh = 1.0 if known.until is None else min(1, (last - known.until).days / ((last - first).days + 1))
    seen, unnamed = _shown(shape, profile, known)
    fields, changes = dict(known.fields), []
    for path in sorted(seen.keys() | known.fields.keys()):
        possible = _possible(path, seen, profile.looked)
        if not possible:
            continue
        types, before = seen.get(path, {}), known.fields.get(path)
        made, change = _field(before, types, possible, fresh, today)
        fields[path] = made
        if before is None and shape.status(path) != UNKNOWN:
            change = ""  # it was always declared
        if change and known.until is not None and (change == CHANGED or not path.endswith("[]")):
            earlier = before.types if before else ()
            changes.append(
                Change(path, shape.status(path), change, made.types, earlier, made.share, made.first_seen, today)
            )
    if unnamed > 2 * known.unnamed and known.until is not None:
        changes.append(Change(UNNAMED, UNKNOWN, ADDED, (), (), 0.0, today, today, unnamed))
    kept = {one.field: one for one in (*known.changes, *changes)}
    return Known(last, fields, max(unnamed, known.unnamed), tuple(kept.values())), changes


def _possible(path: str, seen: dict[str, dict[str, int]], looked: int) -> int:
    """The number of records that could have a field: those with the object or the list around it."""
    if path.endswith("[]"):
        return seen.get(path.removesuffix("[]"), {}).get("array", 0)
    above = path.rpartition("/")[0]
    return seen.get(above, {}).get("object", 0) if above else looked


def _field(before: Field | None, types: dict[str, int], possible: int, fresh: float, today: str) -> tuple[Field, str]:
    """A field after a window in which so many records could have it, and what has become of it."""
    valued = min(possible, sum(count for kind, count in types.items() if kind != NULL))
    if before is None or (before.dropped and valued):
        since = before.first_seen if before else today
        missing = 0 if valued else possible
        return Field(_significant(types), valued / possible, since, today, possible, missing), ADDED
    if not valued:
        missing = max(before.missing + round(fresh * possible), possible)
        dropped = before.share >= DROPPED_SHARE and before.records >= ENOUGH and missing >= ENOUGH
        made = replace(before, missing=missing, dropped=dropped, last_seen=today if types else before.last_seen)
        return made, DROPPED if dropped and not before.dropped else ""
    records = before.records + before.missing + fresh * possible
    share = (before.share * before.records + fresh * valued) / records
    now, then = _significant(types), before.types
    changed = bool(then) and not set(now) <= {
        *then,
        *(("integer", "number") if {"integer", "number"} & {*then} else ()),
    }
    kept = now if now and valued >= ENOUGH else _united({*now, *then})
    made = Field(kept, share, before.first_seen, today, min(round(records), _REMEMBERED))
    return made, CHANGED if changed else ""


def _significant(types: dict[str, int]) -> tuple[str, ...]:
    """The types that count, without null."""
    counts = {kind: count for kind, count in types.items() if kind != NULL}
    if "number" in counts:
        counts["number"] += counts.pop("integer", 0)
    total = sum(counts.values())
    return tuple(sorted(kind for kind, n in counts.items() if n >= TYPE_SHARE * total and n >= min(FEW, total)))


def _united(types: set[str]) -> tuple[str, ...]:
    return tuple(sorted(types - {"integer"} if "number" in types else types))


def _known(document: dict[str, Any]) -> Known:
    fields = {path: Field(**{**one, "types": tuple(one["types"])}) for path, one in document["fields"].items()}
    changes = tuple(
        Change(**{**one, "types": tuple(one["types"]), "before": tuple(one["before"])}) for one in document["changes"]
    )
    return Known(date.fromisoformat(document["until"]), fields, int(document["unnamed"]), changes)


def _failure(path: Path, company: str, stream: str | None = None) -> Callable[[str], StoreError]:
    return lambda reason: StoreError(f"{path}: {reason}", stream=stream, company=company)
