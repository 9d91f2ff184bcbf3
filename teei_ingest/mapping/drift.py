"""What records look like: their fields by wire path, with the JSON types of the values, and never a value.

Belongs here: looking at records as they were sent, those that break their contract among them, and adding up. Does not
belong here: which records are looked at (`pipeline/batch.py`), what is remembered and what has changed
(`store/drift.py`).

A path has the keys with slashes between them; `[]` behind a key stands for the items of that list. Only objects that a
stream declares or shows in its example are looked into: in any other, and in open maps, keys may be data.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from teei_ingest.contracts.base import Kind
from teei_ingest.contracts.fields import DataClass
from teei_ingest.mapping.plan import Plan, item_keys

NULL = "null"
_TYPES = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    dict: "object",
    list: "array",
    type(None): NULL,
}
READ, NOT_KEPT, UNKNOWN = "read", "not kept", "unknown"

_ITEMS = 10  # of each list are looked at
_MOST = 500  # paths and types are told apart
_decode = msgspec.json.Decoder().decode
_NAME = re.compile(r"[^\W\d_]{3,}")


@dataclass
class Profile:
    """What a sample of records looks like: in how many of them there is which path with which type."""

    looked: int = 0  # records in the sample
    fields: Counter[tuple[str, type]] = field(default_factory=Counter, repr=False)
    # Of unknown fields: in how many records the name of the field has a name in it of a person whom the record names.
    personal: Counter[str] = field(default_factory=Counter, repr=False)

    def include(self, other: Profile) -> None:
        """Add another sample."""
        self.looked += other.looked
        self.fields.update(other.fields)
        self.personal.update(other.personal)

    def types(self) -> dict[str, dict[str, int]]:
        """Of each path in how many records it has which types."""
        found: dict[str, dict[str, int]] = {}
        for (path, kind), count in self.fields.items():
            found.setdefault(path, {})[_TYPES[kind]] = count
        return found


class Shape:
    """The fields that a stream declares, and looking at its records."""

    def __init__(self, plan: Plan) -> None:
        self._open = {slot.path for f in plan.fields if f.leaf.kind is Kind.MAP for slot in f.slots}
        self._read = set(_declared(plan))
        self._shown: set[str] = set()
        self._looked_into: set[str] = {path.rpartition("/")[0] for path in self._read if "/" in path}
        self._example(plan.stream.example, "")
        self._known = self._read | self._shown
        self._usual: set[tuple[str, type]] = set()  # of known fields
        people = [slot for f in plan.fields if f.leaf.cls is DataClass.DIRECT for slot in f.slots]
        email = plan.person_email.slots if plan.person_email else ()
        self._people = {slot.keys for slot in (*plan.names, *people, *email)}

    def status(self, path: str) -> str:
        """Whether the stream reads a field, knows it and leaves it behind, or does not know it."""
        return READ if path in self._read else NOT_KEPT if path in self._shown else UNKNOWN

    def looks_into(self, path: str) -> bool:
        """Whether an object is looked into."""
        return path in self._looked_into

    def look(self, raw: bytes, profile: Profile) -> None:
        """Add a record as it was sent; one that is no JSON has no shape."""
        try:
            record = _decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        found: set[tuple[str, type]] = set()
        if isinstance(record, dict):
            self._walk(record, "", found)
        profile.looked += 1
        known = profile.fields
        known.update(found if len(known) < _MOST else found.intersection(known))
        strange = found - self._usual
        if strange:
            self._usual.update(pair for pair in strange if pair[0] in self._known)
            unknown = {path for path, _ in strange} - self._known
            names = set(self._names(record)) if unknown else ()
            profile.personal.update(path for path in unknown if any(name in path.casefold() for name in names))

    def _walk(self, value: Mapping[str, Any], prefix: str, found: set[tuple[str, type]]) -> None:
        into = self._looked_into
        for key, inner in value.items():
            path, kind = prefix + key, type(inner)
            found.add((path, kind))
            if kind is dict:
                if path in into:
                    self._walk(inner, f"{path}/", found)
            elif kind is list and inner:
                path += "[]"
                for item in inner[:_ITEMS]:
                    found.add((path, type(item)))
                    if path in into and type(item) is dict:
                        self._walk(item, f"{path}/", found)

    def _example(self, value: Mapping[str, Any], prefix: str) -> None:
        """Take in what the stream's example shows."""
        for key, inner in value.items():
            path = prefix + key
            self._shown.add(path)
            if isinstance(inner, list) and inner:
                path, inner = f"{path}[]", inner[0]
                self._shown.add(path)
            if isinstance(inner, dict) and path not in self._open:
                self._looked_into.add(path)
                self._example(inner, f"{path}/")

    def _names(self, record: Any) -> Iterator[str]:
        """Names of people where a record has them, casefolded, those in addresses among them."""
        for keys in self._people:
            value = record
            for key in keys:
                value = value.get(key) if isinstance(value, dict) else None
            entries = [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
            addresses = [text for one in entries for text in one.values() if isinstance(text, str) and "@" in text]
            for text in [value, *addresses]:
                if isinstance(text, str):
                    yield from _NAME.findall(text.partition("@")[0].casefold())


def _declared(plan: Plan) -> Iterator[str]:
    """Paths that a stream's mapping reads, with those around them."""
    yield from map("/".join, plan.attributes)
    for one in plan.fields:
        for slot in one.slots:
            keys = item_keys(slot.type)
            if keys or one.leaf.many:
                yield f"{slot.path}[]"
            yield from (f"{slot.path}[]/{key}" for key in keys)
