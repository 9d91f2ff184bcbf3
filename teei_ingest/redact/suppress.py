"""Who must not come back: the persons that were erased, told in records by their pseudonyms.

Belongs here: telling whether a record is one of theirs, or names them. Does not belong here: where the list of them
lies (`landing/suppression.py`), how it comes about (`privacy/erase.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from teei_ingest.contracts.base import Data, is_opaque_id, leaves
from teei_ingest.mapping.columns import Batch
from teei_ingest.redact import text
from teei_ingest.redact.tokens import Pseudonyms


@dataclass(frozen=True)
class Suppression:
    """Pseudonyms of persons, of any version, and of their records' groups the ids (of matches) as they are stored."""

    tokens: frozenset[str] = field(default=frozenset(), repr=False)
    groups: frozenset[str] = field(default=frozenset(), repr=False)

    def __bool__(self) -> bool:
        return bool(self.tokens or self.groups)


@dataclass(frozen=True)
class Link:
    """What a suppressed record shows that the list does not have: pseudonyms, known and new ones, and a group."""

    tokens: frozenset[str] = field(repr=False)
    group: str | None = field(repr=False)


NOBODY = Suppression()


def is_nobody(value: str) -> bool:
    """Whether an id stands for no one: many people's records may have it without their being the same."""
    return not value.strip() or value == text.MARK


class Suppressor:
    """Tells the records of suppressed persons in one stream of one company."""

    def __init__(self, contract: type[Data], namespace: str, pseudonyms: Pseudonyms, suppression: Suppression) -> None:
        self._contract = contract
        self._namespace = namespace
        self._pseudonyms = pseudonyms
        self._tokens = frozenset(map(pseudonyms.forward, suppression.tokens))
        self._groups = frozenset(map(pseudonyms.forward, suppression.groups))
        self._opaque = [leaf.key for leaf in leaves(contract) if is_opaque_id(leaf)]
        self._known: dict[str | None, bool] = {None: False}

    def person(self, value: str | None) -> bool:
        """Whether an id or an address is of somebody who is suppressed."""
        known = self._known.get(value)
        if known is None:
            assert value is not None
            known = self._known[value] = not self._tokens.isdisjoint(self.pseudonyms(value))
        return known

    def pseudonyms(self, value: str) -> tuple[str, str]:
        """The token and the hash of an id or an address."""
        return self._pseudonyms.person(self._namespace, value), self._pseudonyms.hashed(self._namespace, value)

    def group(self, value: str | None) -> bool:
        """Whether the records of a group are suppressed."""
        return value is not None and self.stored_id(value) in self._groups

    def stored_id(self, value: str) -> str:
        """An id as it is stored: one that is itself an address or the like is a token."""
        return self._pseudonyms.person(self._namespace, value) if text.is_identifier(value) else value

    def names(self, people: Iterable[str], group: str | None) -> bool:
        """Whether a record names somebody who is suppressed, in whatever role, or is of their group."""
        return any(map(self.person, people)) or self.group(group)

    def rows(self, batch: Batch) -> tuple[np.ndarray, list[Link]]:
        """(n booleans: whose record goes; what those show that the list does not have)."""
        count = len(batch)
        subjects = [*self._subjects(batch)]
        theirs = np.zeros(count, bool)
        for values in subjects:
            theirs |= np.fromiter(map(self.person, values), bool, count)
        groups = self._column(batch, self._contract.group)
        gone = theirs.copy()
        if groups is not None:
            gone |= np.fromiter(map(self.group, groups), bool, count)
        for key in self._opaque:
            column = batch.columns.get(key) if key != "source_id" else pa.array(batch.source_id, pa.string())
            if isinstance(column, pa.Array) and column.type == pa.string():
                # An id that is itself somebody's address makes the record theirs.
                for at in np.flatnonzero(text.possible(column).fill_null(False)).tolist():
                    value = column[at].as_py()
                    gone[at] |= text.is_identifier(value) and self.person(value)
        return gone, self._links(np.flatnonzero(theirs).tolist(), subjects, groups)

    def without_names(self, batch: Batch, key: str, values: pa.Array) -> pa.Array:
        """The values of a column of names, null where the field beside it refers to somebody who is suppressed."""
        others = self._column(batch, self._contract.beside[key])
        if others is None:
            return values
        return pc.if_else(pa.array([self.person(other) for other in others]), pa.scalar(None, values.type), values)

    def _subjects(self, batch: Batch) -> Iterable[Sequence[str | None]]:
        yield batch.person_id
        yield batch.person_email
        yield batch.person_key
        for name in self._contract.subject:
            if name == "source_id":
                yield batch.source_id
            elif (values := self._column(batch, name)) is not None:
                yield values

    def _column(self, batch: Batch, name: str | None) -> Sequence[str | None] | None:
        column: Any = batch.columns.get(name) if name else None
        return None if column is None else column.to_pylist()

    def _links(
        self, rows: list[int], subjects: list[Sequence[str | None]], groups: Sequence[str | None] | None
    ) -> list[Link]:
        found = {}
        for row in rows:
            values = {value for values in subjects if (value := values[row]) is not None and not is_nobody(value)}
            group = groups[row] if groups is not None else None
            if all(map(self.person, values)) and (group is None or self.group(group)):
                continue
            tokens = frozenset(token for value in values for token in self.pseudonyms(value))
            found[tokens, group] = Link(tokens, None if group is None else self.stored_id(group))
        return [*found.values()]
