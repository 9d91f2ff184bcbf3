"""Which mode each field gets: the defaults by class, and what a company sets instead.

How a mode is carried out is `apply`'s business.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from teei_ingest.contracts import RELEASED
from teei_ingest.contracts.base import Data, Leaf, leaves
from teei_ingest.contracts.fields import DataClass
from teei_ingest.errors import CompaniesFileError, SettingsError


class Mode(StrEnum):
    """What is done to a value; the first four are those of the service this replaces."""

    HASH = "hash"  # HMAC-SHA-256 under the company's key
    MASK = "mask"  # `[REDACTED]`
    REMOVE = "remove"
    TOKENIZE = "tokenize"  # the same person the same token in every stream of the company
    SCRUB = "scrub"  # what patterns and the record's own names find is replaced
    COARSEN = "coarsen"  # a date to its month, a salary to its band
    KEEP = "keep"


FOUR = (Mode.HASH, Mode.MASK, Mode.REMOVE, Mode.TOKENIZE)
ALLOWED: dict[DataClass, tuple[Mode, ...]] = {
    DataClass.DIRECT: FOUR,
    DataClass.PERSON_REF: FOUR,
    DataClass.DOCUMENT_REF: FOUR,
    DataClass.FREE_TEXT: (*FOUR, Mode.SCRUB),
    DataClass.LABEL: (*FOUR, Mode.SCRUB),
    DataClass.QUASI: (*FOUR, Mode.COARSEN, Mode.KEEP),
    DataClass.SENSITIVE: (Mode.KEEP, Mode.REMOVE),
    DataClass.PUBLIC: (Mode.KEEP, Mode.REMOVE),
}
# By class, by kind of direct identifier, or by field; the narrower one counts.
DEFAULTS: dict[str, Mode] = {
    "direct": Mode.REMOVE,
    "email": Mode.HASH,
    "person_ref": Mode.TOKENIZE,
    "document_ref": Mode.HASH,
    "free_text": Mode.REMOVE,
    "label": Mode.SCRUB,
    "quasi": Mode.REMOVE,
    "hireDate": Mode.COARSEN,
    "terminationDate": Mode.COARSEN,
    "salary": Mode.COARSEN,
    "sensitive": Mode.KEEP,
    "public": Mode.KEEP,
}
# Goes up when a mode's result changes, so that older events can be told apart.
REVISION = 2
PSEUDONYMS = (DataClass.DIRECT, DataClass.PERSON_REF, DataClass.DOCUMENT_REF)


def _names(leaf: Leaf) -> tuple[str, ...]:
    """What a policy may call a leaf, the narrowest first."""
    kind = leaf.extra.get("kind")
    return (leaf.name, leaf.names[-1], *((kind,) if kind else ()), leaf.cls.value)


def is_indispensable(leaf: Leaf) -> bool:
    """Whether an event without it would not keep its contract; `public: remove` leaves it where it is."""
    return leaf.cls is DataClass.PUBLIC and leaf.required


def _every_leaf() -> list[Leaf]:
    found: list[Leaf] = []
    for contract in RELEASED:
        for leaf in leaves(contract):
            found += leaf.nested or (leaf,)
    return found


@dataclass(frozen=True)
class Rule:
    """What decides a leaf's mode: a name that the `company` or the `default` says it of, or `allowed_fields`."""

    mode: Mode
    source: str
    name: str


@dataclass(frozen=True)
class Policy:
    """A company's policy: `overrides` by class, kind or field, and fields that are kept as they are."""

    overrides: Mapping[str, Mode]
    allowed_fields: frozenset[str] = frozenset()

    def mode(self, leaf: Leaf) -> Mode:
        """The mode of a leaf."""
        return self.rule(leaf).mode

    def rule(self, leaf: Leaf) -> Rule:
        """What the company says of a leaf, narrowest first, counts before any default."""
        names = _names(leaf)
        for name in names[:2]:
            if name in self.allowed_fields:
                return Rule(Mode.KEEP, "allowed_fields", name)
        tables = {"company": self.overrides, "default": DEFAULTS}
        return next(
            Rule(table[name], source, name)
            for source, table in tables.items()
            for name in names
            if name in table and not (table[name] is Mode.REMOVE and is_indispensable(leaf))
        )

    @cached_property
    def version(self) -> str:
        """Names the policy: equal for equal content."""
        content = [REVISION, sorted(self.overrides.items()), sorted(self.allowed_fields)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    def fields(self, contract: type[Data]) -> dict[str, Mode]:
        """Mode by field name, objects in lists included."""
        found = {}
        for leaf in leaves(contract):
            for one in leaf.nested or (leaf,):
                found[leaf.name if one is leaf else f"{leaf.name}.{one.name}"] = self.mode(one)
        return found


def policy_for(slug: str, privacy: Mapping[str, Any], places: Mapping[str, str] | None = None) -> Policy:
    """The policy of a company from its `privacy` in the registry.

    SettingsError names field and reason, and the place in the file that `places` has for an entry.
    """

    def refuse(reason: str, entry: str) -> SettingsError:
        place = (places or {}).get(entry)
        if place:
            return CompaniesFileError(f"{place}, {entry}: {reason}", company=slug)
        return SettingsError(f"privacy of {slug}: {reason}", company=slug)

    known: dict[str, list[Leaf]] = {}
    for leaf in _every_leaf():
        for name in _names(leaf):
            known.setdefault(name, []).append(leaf)
    overrides: dict[str, Mode] = {}
    for name, value in privacy.items():
        if name == "allowed_fields":
            continue
        if name not in known:
            raise refuse(f"`{name}` is neither a class, a kind nor a field; `teei privacy fields` lists them", name)
        if value not in list(Mode):
            raise refuse(f"`{name}` has the mode `{value}`; one of {', '.join(Mode)} is needed", name)
        mode = Mode(value)
        for leaf in known[name]:
            if mode not in ALLOWED[leaf.cls]:
                raise refuse(f"`{name}` is {leaf.cls.value} and cannot be set to {mode}", name)
            if mode is Mode.REMOVE and name != leaf.cls.value and is_indispensable(leaf):
                raise refuse(f"`{name}` cannot be removed: every event of its contract has it", name)
        overrides[name] = mode
    allowed = privacy.get("allowed_fields") or []
    if not isinstance(allowed, list) or not all(isinstance(name, str) for name in allowed):
        raise refuse("`allowed_fields` is a list of field names", "allowed_fields")
    for name in allowed:
        if name not in known or name in list(DataClass):
            raise refuse(f"`allowed_fields` names `{name}`, which is no field", "allowed_fields")
        if any(leaf.cls in PSEUDONYMS for leaf in known[name]):
            raise refuse(f"`{name}` identifies a person and cannot be among `allowed_fields`", "allowed_fields")
    return Policy(overrides, frozenset(allowed))
