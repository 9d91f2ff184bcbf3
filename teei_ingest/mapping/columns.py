"""Batches of records as Arrow columns in the contract's own types, before redaction; in memory only.

`from_rows` takes decoded Structs and applies the contract's rules column by column; what breaks one, or is merely
unusual, is refused and left to `record`. `from_accepted` brings what that accepted into the same columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from teei_ingest.contracts import fields
from teei_ingest.contracts.base import Kind, Leaf
from teei_ingest.contracts.stored import INSTANT, limits, own_type
from teei_ingest.mapping.plan import Field, Plan, Slot, validators
from teei_ingest.mapping.record import Accepted
from teei_ingest.streams.base import Choice, Constant, Derived

# What Arrow's own cast reads as `instant_ns` does; everything else goes through that function.
PLAIN_INSTANT = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})$"
# A decimal string, or a JSON number too short to hold more than 15 digits.
PLAIN_AMOUNT = r'^("\d{1,14}(\.\d{1,4})?"|(0|[1-9]\d{0,9})(\.\d{1,4})?)$'
# Kinds whose values may break a rule that only the making of their column finds.
RULED = (Kind.INSTANT, Kind.DAY, Kind.DECIMAL)
NULL = b"null"
NS_PER_DAY = 86_400_000_000_000
FIRST_NS = int((fields.FIRST_INSTANT - fields.EPOCH).total_seconds()) * 1_000_000_000
LAST_NS = int((fields.LAST_INSTANT - fields.EPOCH).total_seconds()) * 1_000_000_000


@dataclass
class Items:
    """A list of objects as columns: `offsets` (n + 1) into the flat `columns`; null where `valid` is false."""

    offsets: pa.Array
    columns: dict[str, pa.Array]


@dataclass
class Batch:
    """n records as columns.

    `columns` holds the wanted leaves by key, `present` for each object in the contract whether a record has it.
    `timestamp_ns` is the full source timestamp, `content` a hash of all mapped values, the same
    in this process and its forks.
    """

    source_id: list[str]
    timestamp_ns: np.ndarray
    columns: dict[str, pa.Array | Items]
    present: dict[str, np.ndarray]
    person_id: list[str | None]
    person_email: list[str | None]
    person_key: list[str | None]
    names: list[tuple[str, ...]]
    content: np.ndarray
    unlisted: int = 0
    refused: list[int] = field(default_factory=list)  # positions in what was given

    def __len__(self) -> int:
        return len(self.source_id)


class Columns:
    """Turns records of a stream into batches; `wanted` names the leaves that become columns."""

    def __init__(self, plan: Plan, wanted: frozenset[str]) -> None:
        self._plan = plan
        self._fields = [f for f in plan.fields if f.source is not None]
        self._wanted = wanted
        self._objects = {f.leaf.path[0] for f in plan.fields if len(f.leaf.path) > 1}

    def from_rows(self, rows: Sequence[Any]) -> Batch:
        """`rows` are Structs of the plan, or None where one was refused before."""
        if None in rows:
            gone = [i for i, row in enumerate(rows) if row is None]
            kept = [i for i, row in enumerate(rows) if row is not None]
            batch = self.from_rows([rows[i] for i in kept])
            batch.refused = sorted([*gone, *(kept[i] for i in batch.refused)])
            return batch
        taken = _Taken(self._plan, rows)
        refused: set[int] = set()
        ids = list(taken.text(self._plan.source_id))
        refused.update(i for i, value in enumerate(ids) if not value)
        moments, _ = _nanoseconds(taken.text(self._plan.source_timestamp), refused)
        columns: dict[str, pa.Array | Items] = {}
        hashed: list[Sequence[Any]] = [ids]
        values: dict[str, Sequence[Any]] = {}
        unlisted: np.ndarray | None = None
        for one in self._fields:
            leaf = one.leaf
            got = taken.field(one, refused)
            if leaf.kind is Kind.MAP:
                got = [None if value is None else tuple(sorted(value.items())) for value in got]
            if isinstance(one.source, Choice):
                got, other = _chosen(one.source, leaf, got, refused)
                unlisted = other if unlisted is None else unlisted + other
            values[leaf.key] = got
            if not isinstance(one.source, Constant):
                hashed.append(got)
            _check(leaf, one, got, refused)
            if leaf.key in self._wanted:
                columns[leaf.key] = _array(leaf, got, refused)
            elif leaf.kind in RULED:
                _array(leaf, got, refused)
        present = self._present(values, len(rows))
        for group in self._plan.stream.contract.either:
            there = [present[n] if n in present else _there(values.get(n), len(rows)) for n in group]
            refused.update(np.flatnonzero(~np.logical_or.reduce(there)).tolist())
        persons = [taken.person(f, refused) for f in (self._plan.person_id, self._plan.person_email)]
        key = list(taken.text(self._plan.person_key)) if self._plan.person_key else [None] * len(rows)
        names: list[tuple[str, ...]] = [()] * len(rows)
        if self._plan.names:
            names = list(zip(*map(taken.text, self._plan.names), strict=True))
        batch = Batch(
            source_id=ids,
            timestamp_ns=moments,
            columns=columns,
            present=present,
            person_id=persons[0],
            person_email=persons[1],
            person_key=key,
            names=names,
            content=np.fromiter(map(hash, zip(*hashed, *persons, strict=True)), np.int64, len(rows)),
        )
        if refused:
            keep = np.ones(len(rows), bool)
            keep[list(refused)] = False
            batch = select(batch, keep)
            batch.refused = sorted(refused)
            unlisted = unlisted[keep] if unlisted is not None else None
        batch.unlisted = int(unlisted.sum()) if unlisted is not None else 0
        return batch

    def from_accepted(self, accepted: Sequence[Accepted]) -> Batch:
        """The same columns from records that Pydantic accepted."""
        columns: dict[str, pa.Array | Items] = {}
        values: dict[str, Sequence[Any]] = {}
        for one in self._fields:
            leaf = one.leaf
            got = [_canonical(leaf, _dig(item.event, leaf.path)) for item in accepted]
            values[leaf.key] = got
            if leaf.key in self._wanted:
                columns[leaf.key] = _typed(leaf, got)
        return Batch(
            source_id=[item.event.source_id for item in accepted],
            timestamp_ns=np.array([item.timestamp_ns for item in accepted], np.int64),
            columns=columns,
            present=self._present(values, len(accepted)),
            person_id=[item.person_id for item in accepted],
            person_email=[item.person_email for item in accepted],
            person_key=[item.person_key for item in accepted],
            names=[item.names for item in accepted],
            content=np.array([hash(item.event.model_dump_json()) for item in accepted], np.int64),
            unlisted=sum(item.unlisted for item in accepted),
        )

    def _present(self, values: dict[str, Sequence[Any]], count: int) -> dict[str, np.ndarray]:
        found = {}
        for name in self._objects:
            inside = [_there(v, count) for key, v in values.items() if key.startswith(f"{name}.")]
            found[name] = np.logical_or.reduce(inside) if inside else np.zeros(count, bool)
        return found


def select(batch: Batch, keep: np.ndarray) -> Batch:
    """The records of a batch where `keep` (n booleans) is true."""
    where = np.flatnonzero(keep)
    taken = pa.array(where)
    order = where.tolist()

    def pick(values: list[Any]) -> list[Any]:
        return [values[i] for i in order]

    def rows(column: pa.Array | Items) -> pa.Array | Items:
        return _take_items(column, where) if isinstance(column, Items) else column.take(taken)

    return Batch(
        source_id=pick(batch.source_id),
        timestamp_ns=batch.timestamp_ns[keep],
        columns={key: rows(column) for key, column in batch.columns.items()},
        present={key: mask[keep] for key, mask in batch.present.items()},
        person_id=pick(batch.person_id),
        person_email=pick(batch.person_email),
        person_key=pick(batch.person_key),
        names=pick(batch.names),
        content=batch.content[keep],
        unlisted=batch.unlisted,
    )


def _take_items(items: Items, where: np.ndarray) -> Items:
    number = pa.array(np.arange(len(next(iter(items.columns.values())))))
    lists = pa.ListArray.from_arrays(items.offsets, number).take(pa.array(where))
    flat = lists.flatten()
    return Items(_offsets(lists), {key: column.take(flat) for key, column in items.columns.items()})


def _offsets(lists: pa.ListArray) -> pa.Array:
    """Offsets of a list array from 0 on, null where a list is null, as `ListArray.from_arrays` takes them."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    mask = np.append(lists.is_null().to_numpy(zero_copy_only=False), False)
    return pa.array(ends, pa.int32(), mask=mask)


class _Taken:
    """Wire values of many Structs, each list taken once."""

    def __init__(self, plan: Plan, rows: Sequence[Any]) -> None:
        self._plan = plan
        self.count = len(rows)
        # All fields of a row at once: taking them one by one over many rows misses the cache each time.
        names = plan.record.__struct_fields__
        columns = list(zip(*map(msgspec.structs.astuple, rows), strict=True)) or [()] * len(names)
        by_name = dict(zip(names, columns, strict=True))
        top = {keys: names[0] for keys, names in plan.attributes.items() if len(keys) == 1}
        self._levels: dict[tuple[str, ...], Sequence[Any]] = {keys: by_name[name] for keys, name in top.items()}
        self._around: dict[tuple[str, ...], Sequence[Any]] = {}

    def level(self, keys: tuple[str, ...]) -> Sequence[Any]:
        known = self._levels.get(keys)
        if known is None:
            known = list(map(attrgetter(self._plan.attributes[keys][-1]), self._objects(keys[:-1])))
            self._levels[keys] = known
        return known

    def _objects(self, keys: tuple[str, ...]) -> Sequence[Any]:
        """The objects around wire values, an empty one where a record has none."""
        known = self._around.get(keys)
        if known is None:
            found = self.level(keys)
            if None in found:
                kind = self._plan.objects[keys]
                empty = kind(**dict.fromkeys(kind.__struct_fields__))
                found = [empty if one is None else one for one in found]
            known = self._around[keys] = found
        return known

    def text(self, slot: Slot) -> Sequence[Any]:
        return self.level(slot.keys)

    def field(self, one: Field, refused: set[int]) -> Sequence[Any]:
        if isinstance(one.source, Derived):
            return self._derive(one, refused)
        if isinstance(one.source, Constant):
            return [one.source.value.value] * self.count
        values = self.level(one.slots[0].keys)
        if one.leaf.kind is Kind.DECIMAL:
            texts = [NULL if raw is None else bytes(raw) for raw in values]
            if not one.slots[0].optional:
                refused.update(i for i, text in enumerate(texts) if text == NULL)
            return [None if text == NULL else text.decode() for text in texts]
        return values

    def person(self, one: Field | None, refused: set[int]) -> list[Any]:
        return list(self.field(one, refused)) if one else [None] * self.count

    def _derive(self, one: Field, refused: set[int]) -> Sequence[Any]:
        assert isinstance(one.source, Derived)
        function = one.source.function
        made: list[Any] = []
        for row, arguments in enumerate(zip(*(self.level(slot.keys) for slot in one.slots), strict=True)):
            try:
                made.append(function(*arguments))
            except (ValueError, ArithmeticError, TypeError, KeyError):
                refused.add(row)
                made.append(None)
        return [getattr(value, "value", value) for value in made] if one.leaf.enum else made


def _there(values: Sequence[Any] | None, count: int) -> np.ndarray:
    if values is None:
        return np.zeros(count, bool)
    return np.array([value is not None for value in values], bool)


@lru_cache(1_000)
def _is_open_key(key: str) -> bool:
    return fields.OPEN_KEY.fullmatch(key) is not None


def _chosen(source: Choice, leaf: Leaf, values: Sequence[Any], refused: set[int]) -> tuple[Sequence[Any], np.ndarray]:
    """(contract values, for each record 1 where the wire's was not listed)."""
    folded = {key.casefold(): member.value for key, member in source.values.items()}
    other = leaf.enum.__members__.get("OTHER") if leaf.enum else None
    table: dict[Any, Any] = {None: source.absent.value if source.absent else None}
    strange: set[Any] = set()
    for value in set(values) - {None}:
        table[value] = folded.get(value.casefold())
        if table[value] is None:
            strange.add(value)
            table[value] = other.value if other else None
    if strange and other is None:
        refused.update(i for i, value in enumerate(values) if value in strange)
    unlisted = np.zeros(len(values), np.int64)
    if strange:
        unlisted[:] = [value in strange for value in values]
    return [table[value] for value in values], unlisted


def _check(leaf: Leaf, one: Field, values: Sequence[Any], refused: set[int]) -> None:
    """What the generated wire type has not checked."""
    if isinstance(one.source, Derived):
        bounds = limits(leaf)
        low, high = bounds.get("ge"), bounds.get("le")
        if low is not None or high is not None:
            refused.update(
                i
                for i, v in enumerate(values)
                if v is not None and not ((low is None or v >= low) and (high is None or v <= high))
            )
        if "max_digits" in bounds:
            most = 10 ** (bounds["max_digits"] - bounds["decimal_places"])
            refused.update(i for i, v in enumerate(values) if v is not None and abs(v) >= most)
        if leaf.required:
            refused.update(i for i, v in enumerate(values) if v is None)
    if fields._currency in validators(leaf):
        strange = set(values) - fields.CURRENCIES - {None}
        if strange:
            refused.update(i for i, value in enumerate(values) if value in strange)
    if leaf.kind is Kind.MAP:
        strange = {key for value in values if value for key, _ in value if not _is_open_key(key)}
        if strange:
            refused.update(i for i, value in enumerate(values) if value and not strange.isdisjoint(k for k, _ in value))


def _array(leaf: Leaf, values: Sequence[Any], refused: set[int]) -> pa.Array | Items:
    """The Arrow column of a leaf; rows that break a rule join `refused` and are null in it."""
    if leaf.kind is Kind.INSTANT:
        return _micros(*_nanoseconds(values, refused))
    if leaf.kind is Kind.DAY:
        return _days(values, refused)
    if leaf.kind is Kind.DECIMAL:
        return _decimals(leaf, values, refused)
    return _typed(leaf, values)


def _typed(leaf: Leaf, values: Sequence[Any]) -> pa.Array | Items:
    if leaf.nested:
        counts = [0 if value is None else len(value) for value in values]
        ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        mask = np.array([*(value is None for value in values), False])
        flat = [item for value in values if value is not None for item in value]
        columns = {n.key: _typed(n, [getattr(item, n.path[-1]) for item in flat]) for n in leaf.nested}
        return Items(pa.array(ends, pa.int32(), mask=mask), columns)
    kind = own_type(leaf)
    if leaf.kind is Kind.MAP:
        return pa.array(values, kind)
    return pa.array(values, pa.list_(kind) if leaf.many else kind)


def _nanoseconds(values: Sequence[str | None], refused: set[int]) -> tuple[np.ndarray, np.ndarray]:
    """Nanoseconds since 1970, 0 where there is none, and where there is none or it is refused."""
    column = pa.array(values, pa.string())
    missing = _bools(column.is_null())
    odd = _bools(pc.invert(pc.fill_null(pc.match_substring_regex(column, PLAIN_INSTANT), True)))
    if odd.any():
        column = pc.if_else(pa.array(odd), pa.scalar(None, pa.string()), column)
    found = _cast_instants(column)
    if found is None:  # a day that does not exist, among thousands
        found, odd = np.zeros(len(values), np.int64), ~missing
    else:
        outside = ((found < FIRST_NS) | (found >= LAST_NS)) & ~missing & ~odd
        if outside.any():
            refused.update(np.flatnonzero(outside).tolist())
    for row in np.flatnonzero(odd).tolist():
        try:
            found[row] = fields.instant_ns(values[row] or "")
        except ValueError:
            refused.add(row)
    return found, missing


def _bools(column: pa.Array) -> np.ndarray:
    found: np.ndarray = column.to_numpy(zero_copy_only=False)
    return found


def _cast_instants(column: pa.Array) -> np.ndarray | None:
    try:
        moments = column.cast(pa.timestamp("ns", tz="UTC"))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    found: np.ndarray = pc.fill_null(moments.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
    return found.copy()


def _micros(moments: np.ndarray, missing: np.ndarray) -> pa.Array:
    return pa.array(moments // 1000, pa.int64(), mask=missing if missing.any() else None).cast(INSTANT)


def _days(values: Sequence[str | None], refused: set[int]) -> pa.Array:
    table: dict[str | None, Any] = {None: None}
    bad = set()
    for value in set(values) - {None}:
        try:
            table[value] = fields.parse_day(value)  # type: ignore[arg-type]
        except ValueError:
            bad.add(value)
            table[value] = None
    if bad:
        refused.update(i for i, value in enumerate(values) if value in bad)
    return pa.array([table[value] for value in values], pa.date32())


def _decimals(leaf: Leaf, values: Sequence[Any], refused: set[int]) -> pa.Array:
    if not any(isinstance(value, str) for value in values):  # computed ones
        kept = [None if row in refused else value for row, value in enumerate(values)]
        return pa.array(kept, own_type(leaf))
    column = pa.array(values, pa.string())
    plain = pc.match_substring_regex(column, PLAIN_AMOUNT)
    odd = pc.fill_null(pc.invert(plain), False)
    if pc.any(odd).as_py():
        refused.update(np.flatnonzero(odd.to_numpy(zero_copy_only=False)).tolist())
        column = pc.if_else(odd, pa.scalar(None, pa.string()), column)
    return pc.utf8_trim(column, '"').cast(own_type(leaf))


def _dig(event: Any, path: Iterable[str]) -> Any:
    for name in path:
        if event is None:
            return None
        event = getattr(event, name)
    return event


def _canonical(leaf: Leaf, value: Any) -> Any:
    if value is None:
        return None
    return value.value if leaf.enum is not None else sorted(value.items()) if leaf.kind is Kind.MAP else value
