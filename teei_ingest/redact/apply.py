"""The redaction of a stream for a company: batches in the contract's types in, columns as they are kept out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from teei_ingest.contracts.base import ENVELOPE, VERSION, Kind, Leaf, is_opaque_id, is_person, leaves
from teei_ingest.contracts.fields import DataClass
from teei_ingest.contracts.stored import INSTANT, PSEUDONYMOUS, TEXT_AT_REST, arrow_schema, stored_type
from teei_ingest.mapping.columns import NS_PER_DAY, Batch, Items
from teei_ingest.mapping.plan import Plan
from teei_ingest.redact import text
from teei_ingest.redact.policy import Mode, Policy
from teei_ingest.redact.suppress import NOBODY, Suppression, Suppressor
from teei_ingest.redact.tokens import EventIds, Pseudonyms, normalize_email, uuid_text
from teei_ingest.vault.keys import KeyRing

SALARY_BAND = 10_000
_NAMES = 20_000  # that are remembered from one batch to the next
_TEXTS = 20_000  # likewise
_FEW = 1_000  # different texts of a column, below which it is worth while to remember them


@dataclass
class Redacted:
    """Rows as they are kept (`arrow_schema`), their ids (n × 16 bytes), and the rows that the guard stopped."""

    rows: pa.RecordBatch
    ids: np.ndarray
    leaks: dict[int, str]  # position -> field in which something was left


class Redactor:
    """Redacts the batches of one stream of one company; tokens are cached over its life."""

    def __init__(
        self,
        plan: Plan,
        company: str,
        company_id: str,
        tenant: str | None,
        ring: KeyRing,
        policy: Policy,
        suppression: Suppression = NOBODY,
    ):
        self._plan = plan
        self._company = company
        self._policy = policy
        self._namespace = _namespace(plan)
        self._pseudonyms = Pseudonyms.of(ring)
        self._ids = EventIds(ring.key("event_id"), company_id, plan.stream.name)
        self._schema = arrow_schema(plan.stream.contract)
        self._leaves = leaves(plan.stream.contract)
        self._addresses: dict[str | None, bool] = {}  # whether it is one
        self._tables: dict[str, dict[str | None, str | None]] = {}
        self._names = _Names()
        self._texts: dict[str, bool] = {}
        self.suppressor = (
            Suppressor(plan.stream.contract, self._namespace, self._pseudonyms, suppression) if suppression else None
        )
        self._fixed = {
            "event_type": plan.stream.contract.event_type,
            "version": VERSION,
            "stream": plan.stream.name,
            "company": company,
            "company_id": company_id,
            "source_system": plan.stream.system,
            "source_tenant_id": tenant,
        }
        self.wanted = frozenset(
            leaf.key
            for leaf in self._leaves
            if any(policy.mode(one) is not Mode.REMOVE for one in leaf.nested or (leaf,))
        )

    def __call__(self, batch: Batch) -> Redacted:
        suspects = _Suspects(self._texts)
        own = _OwnNames(batch, suspects, self._names)
        ids = self._ids(batch.source_id, batch.timestamp_ns)
        moments = pa.array(batch.timestamp_ns // 1000, pa.int64()).cast(INSTANT)
        days = pa.array((batch.timestamp_ns // NS_PER_DAY).astype(np.int32), pa.int32()).cast(pa.date32())
        made: dict[str, Any] = {
            "event_id": uuid_text(ids),
            "timestamp": moments,
            "day": days,
            "source_timestamp": moments,
            "source_id": self._source_id(batch, suspects),
            "user_id": self._user_id(batch),
            "external_user_id": self._persons(batch.person_id, self._leaf("external_user_id")),
        }
        inside: dict[str, dict[str, pa.Array]] = {}
        for leaf in self._leaves:
            if leaf.key in ENVELOPE or leaf.key in made or leaf.key in self._fixed:
                continue
            column = batch.columns.get(leaf.key)
            if column is None:
                column = pa.nulls(len(batch), stored_type(leaf))
            elif isinstance(column, Items):
                column = self._items(leaf, column, own)
            else:
                column = self._column(leaf, column, own, None)
            if self.suppressor and leaf.key in self._plan.stream.contract.beside:
                column = self.suppressor.without_names(batch, leaf.key, column)
            if len(leaf.path) == 1:
                made[leaf.key] = column
            else:
                inside.setdefault(leaf.path[0], {})[leaf.path[1]] = column
        for name, parts in inside.items():
            absent = pa.array(~batch.present[name])
            kind = self._schema.field(name).type
            made[name] = pa.StructArray.from_arrays(list(parts.values()), fields=list(kind), mask=absent)
        columns = [
            made[f.name] if f.name in made else pa.repeat(pa.scalar(self._fixed[f.name], f.type), len(batch))
            for f in self._schema
        ]
        rows = pa.RecordBatch.from_arrays(columns, schema=self._schema)
        return Redacted(rows, ids, self._guard(batch, made, inside, own))

    def _leaf(self, key: str) -> Leaf:
        return next(leaf for leaf in self._leaves if leaf.key == key)

    def tokens(self, people: Iterable[str]) -> tuple[str, ...]:
        """Tokens of people by their ids or addresses, whatever the policy keeps of them."""
        return tuple(sorted({self._pseudonyms.person(self._namespace, value) for value in people}))

    # --- people -----------------------------------------------------------------------------------------------

    def _persons(self, values: Sequence[str | None], leaf: Leaf) -> pa.Array:
        return self._mapped(values, leaf, self._unless_suppressed(leaf, self._personal(leaf)))

    def _unless_suppressed(self, leaf: Leaf, make: Callable[[str], str | None]) -> Callable[[str], str | None]:
        """Nothing for a person who is suppressed; a mask, which says of nobody who it is, stays."""
        erased = self.suppressor
        if erased is None or not is_person(leaf) or self._policy.mode(leaf) is Mode.MASK:
            return make
        return lambda value: None if erased.person(value) else make(value)

    def _mapped(self, values: Sequence[str | None], leaf: Leaf, make: Callable[[str], str | None]) -> pa.Array:
        """Values by a function that is called once for each over all batches."""
        table = self._tables.setdefault(leaf.name, {None: None, text.MARK: None})
        for value in set(values).difference(table):
            table[value] = make(value)  # type: ignore[arg-type]
        return pa.array([table[value] for value in values], pa.string())

    def _personal(self, leaf: Leaf) -> Callable[[str], str | None]:
        mode, names = self._policy.mode(leaf), self._pseudonyms
        if mode is Mode.TOKENIZE:
            return lambda value: names.person(self._namespace, value)
        if mode is Mode.HASH:
            return lambda value: names.hashed(self._namespace, value)
        return (lambda value: text.MARK) if mode is Mode.MASK else (lambda value: None)

    def _user_id(self, batch: Batch) -> pa.Array:
        """Token of the email where there is one, else of the id."""
        leaf = self._leaf("user_id")
        keys: Sequence[str | None] = batch.person_id
        if self._plan.person_key:
            keys = [known or key for known, key in zip(keys, batch.person_key, strict=True)]
        emails = self._addresses
        for value in set(batch.person_email).difference(emails):
            emails[value] = normalize_email(value or "") is not None
        who = [email if emails[email] else key for email, key in zip(batch.person_email, keys, strict=True)]
        return self._persons(who, leaf)

    def _source_id(self, batch: Batch, suspects: _Suspects) -> pa.Array:
        leaf = self._leaf("source_id")
        if leaf.cls is DataClass.PERSON_REF:
            return self._persons(batch.source_id, leaf)
        return self._opaque_ids(pa.array(batch.source_id, pa.string()), suspects)

    def _opaque_ids(self, values: pa.Array, suspects: _Suspects) -> pa.Array:
        """Ids as they are, but one that is itself an address, a number to call or a national id is tokenized."""
        rows = suspects(values)
        if not rows:
            return values
        kept = values.to_pylist()
        for row in rows:
            if text.is_identifier(kept[row]):
                kept[row] = self._pseudonyms.person(self._namespace, kept[row])
        return pa.array(kept, pa.string())

    # --- columns ----------------------------------------------------------------------------------------------

    def _items(self, leaf: Leaf, items: Items, own: _OwnNames) -> pa.Array:
        rows = parents(items.offsets)
        parts = [self._column(nested, items.columns[nested.key], own, rows) for nested in leaf.nested]
        struct = pa.StructArray.from_arrays(parts, fields=list(stored_type(leaf).value_type))
        return pa.ListArray.from_arrays(items.offsets, struct)

    def _column(self, leaf: Leaf, column: pa.Array, own: _OwnNames, rows: np.ndarray | None) -> pa.Array:
        """A leaf as it is kept; `rows` says for each value which record it belongs to, None if one each."""
        if leaf.many:
            if self._policy.mode(leaf) is Mode.REMOVE:
                return pa.nulls(len(column), stored_type(leaf))
            offsets = list_offsets(column)
            flat = self._value(leaf, column.flatten(), own, parents(offsets))
            lists = pa.ListArray.from_arrays(offsets, flat)
            return without_nulls(lists) if is_person(leaf) else lists
        return self._value(leaf, column, own, rows)

    def _value(self, leaf: Leaf, values: pa.Array, own: _OwnNames, rows: np.ndarray | None) -> pa.Array:
        mode = self._policy.mode(leaf)
        if mode is Mode.REMOVE:
            return pa.nulls(len(values), stored_type(leaf) if not leaf.many else stored_type(leaf).value_type)
        if leaf.cls not in TEXT_AT_REST:
            if leaf.kind is Kind.MAP:
                return _harmless_keys(values)
            return self._opaque_ids(values, own.suspects) if is_opaque_id(leaf) else values
        if mode is Mode.MASK:
            return pc.if_else(values.is_valid(), pa.scalar(text.MARK), pa.scalar(None, pa.string()))
        if mode is Mode.COARSEN:
            return _coarse(leaf, values)
        if mode is Mode.KEEP:
            return values.cast(pa.string())
        if mode is Mode.SCRUB:
            return own.scrub(values.cast(pa.string()), rows)
        if leaf.cls is DataClass.PERSON_REF:
            return self._persons(values.to_pylist(), leaf)
        space = leaf.extra.get("kind") or f"{leaf.cls.value}:{self._namespace}"
        make = self._pseudonyms.person if mode is Mode.TOKENIZE else self._pseudonyms.hashed
        made = self._unless_suppressed(leaf, lambda value: make(space, value))
        return self._mapped(values.cast(pa.string()).to_pylist(), leaf, made)

    # --- guard ------------------------------------------------------------------------------------------------

    def _guard(
        self, batch: Batch, made: dict[str, Any], inside: dict[str, dict[str, pa.Array]], own: _OwnNames
    ) -> dict[int, str]:
        """Rows in which a readable column still holds an identifier or the record's own full name."""
        leaks: dict[int, str] = {}
        for leaf in self._leaves:
            if leaf.key in ENVELOPE and leaf.key != "source_id":
                continue
            column = inside[leaf.path[0]][leaf.path[1]] if len(leaf.path) > 1 else made.get(leaf.key)
            if column is None or column.null_count == len(column):
                continue
            for one, values, rows in readable(leaf, column):
                # Labels that were scrubbed have been freed of their record's names just now.
                free = is_opaque_id(one) or self._policy.mode(one) is Mode.SCRUB
                for at in find_leaks(values, own.suspects) | (set() if free else own.full_names(values, rows)):
                    leaks.setdefault(int(rows[at]) if rows is not None else at, leaf.name)
        return leaks


def readable(leaf: Leaf, column: pa.Array) -> Iterator[tuple[Leaf, pa.Array, np.ndarray | None]]:
    """(leaf, texts, row of each) of a stored column where it holds readable text; rows None if one each."""
    rows: np.ndarray | None = None
    if leaf.kind is Kind.MAP:
        yield leaf, column.keys, parents(column.offsets)
        return
    if leaf.many or leaf.nested:
        rows, column = parents(list_offsets(column)), column.flatten()
    for one in leaf.nested or (leaf,):
        values = column.field(one.path[-1]) if leaf.nested else column
        if values.type == pa.string() and one.kind is not Kind.ENUM and one.cls not in PSEUDONYMOUS:
            yield one, values, rows


class _Suspects:
    """Positions of the texts that can hold an identifier, looked for once in each array.

    A column that redaction left as it was is the same array to the guard. `remembered` has what is known of texts from
    batches before: a call of RE2 compiles its pattern anew, which takes as long as ten thousand short texts.
    """

    def __init__(self, remembered: dict[str, bool]) -> None:
        self._remembered = remembered
        # The arrays are kept: their ids would be used again.
        self._encoded: dict[int, tuple[pa.Array, pa.DictionaryArray]] = {}
        self._found: dict[int, list[int]] = {}

    def __call__(self, values: pa.Array) -> list[int]:
        found = self._found.get(id(values))
        if found is None:
            encoded = self.encoded(values)
            found = self._found[id(values)] = _rows(encoded, self._possible(encoded.dictionary))
        return found

    def encoded(self, values: pa.Array) -> pa.DictionaryArray:
        """The array by its different texts, made once."""
        known = self._encoded.get(id(values))
        if known is None:
            known = self._encoded[id(values)] = values, values.dictionary_encode()
        return known[1]

    def _possible(self, texts: pa.Array) -> pa.Array:
        if len(texts) > _FEW:
            return text.possible(texts)
        known, few = self._remembered, texts.to_pylist()
        if len(known) > _TEXTS:
            known.clear()
        if new := [one for one in few if one not in known]:
            known.update(zip(new, text.possible(pa.array(new, pa.string())).to_pylist(), strict=True))
        return pa.array([known[one] for one in few], pa.bool_())


_seen: dict[str, bool] = {}  # what is remembered of texts outside of a redaction


def find_leaks(values: pa.Array, suspects: _Suspects | None = None) -> set[int]:
    """Positions of the texts that hold a direct identifier."""
    found: dict[str, bool] = {}
    leaks = set()
    for at in (suspects or _Suspects(_seen))(values):
        value = values[at].as_py()
        if value not in found:
            found[value] = bool(text.kinds(value))
        if found[value]:
            leaks.add(at)
    return leaks


def _harmless_keys(maps: pa.MapArray) -> pa.Array:
    """Open maps without the keys that are an identifier."""
    strange = {maps.keys[at].as_py() for at in find_leaks(maps.keys)}
    if not strange:
        return maps
    kept = [None if one is None else [item for item in one if item[0] not in strange] for one in maps.to_pylist()]
    return pa.array(kept, maps.type)


class _Names:
    """Names of people, by the words that they are made of."""

    def __init__(self) -> None:
        self.words: dict[str, frozenset[str]] = {}
        self.bearers: dict[str, set[str]] = {}  # word -> names that it is part of
        self._known: set[tuple[str, ...]] = set()

    def learn(self, said: Iterable[tuple[str, ...]]) -> None:
        """Know at least the names that records say."""
        if len(self.words) > _NAMES:
            for memory in (self.words, self.bearers, self._known):
                memory.clear()
        new = set(said).difference(self._known)
        self._known |= new
        for name in {name for names in new for name in names if name}.difference(self.words):
            self.words[name] = text.words(name)
            for word in self.words[name]:
                self.bearers.setdefault(word, set()).add(name)


class _OwnNames:
    """The names that a batch's records say of people, to be found in the same record's labels."""

    def __init__(self, batch: Batch, suspects: _Suspects, names: _Names) -> None:
        names.learn(batch.names)
        self.suspects = suspects
        self._names = batch.names
        self._words = names.words
        self._bearers = names.bearers

    def scrub(self, values: pa.Array, rows: np.ndarray | None) -> pa.Array:
        """Labels without identifiers and without the record's own names."""
        suspects = set(self.suspects(values))
        named = self._named(values, rows)
        if not suspects and not named:
            return values
        made = values.to_pylist()
        for at in suspects.union(named):
            found = self._found(made[at], self._of(at, rows))
            if found or at in suspects:
                made[at] = text.scrub(made[at], found)
        return pa.array(made, pa.string())

    def full_names(self, values: pa.Array, rows: np.ndarray | None) -> set[int]:
        """Positions of texts that hold a name of several words of the same record."""
        leaks = set()
        for at in self._named(values, rows):
            found = self._found(values[at].as_py(), self._of(at, rows))
            if any(len(self._words.get(name, ())) > 1 for name in found):
                leaks.add(at)
        return leaks

    def _of(self, at: int, rows: np.ndarray | None) -> tuple[str, ...]:
        return self._names[int(rows[at]) if rows is not None else at]

    def _found(self, value: str, names: tuple[str, ...]) -> set[str]:
        """Those of the names that a text holds, and their parts of at least three letters."""
        said = text.words(value)
        found: set[str] = set()
        for name in names:
            if name and not said.isdisjoint(self._words[name]):
                found.update(word for word in self._words[name] & said if len(word) > 2)
                if text.fold(name) in text.fold(value):
                    found.add(name)
        return found

    def _named(self, values: pa.Array, rows: np.ndarray | None) -> list[int]:
        """Positions of texts that share a word with a name of the same record; texts are looked at once each."""
        if not self._words:
            return []
        encoded = self.suspects.encoded(values)
        alike = [
            set().union(*(self._bearers[word] for word in text.words(value) if word in self._bearers))
            for value in encoded.dictionary.to_pylist()
        ]
        possible = _rows(encoded, pa.array([bool(names) for names in alike], pa.bool_()))
        if not possible:
            return []
        codes = encoded.indices.to_numpy(zero_copy_only=False)
        return [at for at in possible if not alike[int(codes[at])].isdisjoint(self._of(at, rows))]


def _rows(encoded: pa.DictionaryArray, mask: pa.Array) -> list[int]:
    """Where an array has one of the texts of its dictionary for which the mask is true."""
    if not pc.any(mask).as_py():
        return []
    mask = pc.fill_null(mask.take(encoded.indices), False)
    found: list[int] = np.flatnonzero(mask.to_numpy(zero_copy_only=False)).tolist()
    return found


def _coarse(leaf: Leaf, values: pa.Array) -> pa.Array:
    """A day to its month (`2019-08`), an amount to its band (`50000-59999`)."""
    if leaf.kind is Kind.DAY:
        return pc.strftime(values, format="%Y-%m")
    if leaf.kind is Kind.DECIMAL:
        bands = [None if v is None else int(v) // SALARY_BAND * SALARY_BAND for v in values.to_pylist()]
        return pa.array([None if b is None else f"{b}-{b + SALARY_BAND - 1}" for b in bands], pa.string())
    return pa.nulls(len(values), pa.string())


def list_offsets(column: pa.ListArray) -> pa.Array:
    """Where each list begins in `column.flatten()`, and where the last ends; null where a list is."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    if column.null_count == 0:
        return pa.array(ends)
    return pa.array(ends, mask=np.append(column.is_null().to_numpy(zero_copy_only=False), False))


def without_nulls(lists: pa.ListArray) -> pa.ListArray:
    """Lists without the elements that are null."""
    flat = lists.flatten()
    if not flat.null_count:
        return lists
    there = flat.is_valid()
    owners = parents(list_offsets(lists))[there.to_numpy(zero_copy_only=False)]
    ends = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=len(lists)))]).astype(np.int32)
    mask = np.append(lists.is_null().to_numpy(zero_copy_only=False), False)
    return pa.ListArray.from_arrays(pa.array(ends, mask=mask), flat.filter(there))


def parents(offsets: pa.Array) -> np.ndarray:
    """For each value of a list column the row that it belongs to."""
    ends = pc.fill_null(offsets, 0).to_numpy(zero_copy_only=False).copy()
    if offsets.null_count:
        for row in np.flatnonzero(offsets.is_null().to_numpy(zero_copy_only=False)).tolist()[::-1]:
            ends[row] = ends[row + 1]
    return np.repeat(np.arange(len(ends) - 1), np.diff(ends))


def _namespace(plan: Plan) -> str:
    from teei_ingest.systems import all_systems

    return all_systems()[plan.stream.system].namespace
