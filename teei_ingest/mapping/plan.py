"""A stream's declaration compiled once: which wire values it reads, of which type, and where each field gets its own.

The types are generated from the contract and accept a subset of what it accepts. A constraint without a
counterpart here raises TypeError at import, so that nothing is accepted by omission.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from pydantic import BeforeValidator

from teei_ingest.contracts import fields
from teei_ingest.contracts.base import ENVELOPE, Kind, Leaf, leaves
from teei_ingest.contracts.stored import limits
from teei_ingest.streams.base import Choice, Cursor, Derived, PageNumber, Source, StartIndex, Stream

# What each of the contracts' own validators means here; `columns` has the vectorized rules.
KNOWN_VALIDATORS: frozenset[Callable[..., Any]] = frozenset(
    {
        fields._instant,
        fields._day,
        fields._amount,
        fields._number,
        fields._whole,
        fields._currency,
        fields._open_map,
    }
)


@dataclass(frozen=True)
class Slot:
    """One wire value: its keys, whether it may be missing, its generated type."""

    keys: tuple[str, ...]
    optional: bool
    type: Any

    @property
    def path(self) -> str:
        return "/".join(self.keys)


@dataclass(frozen=True)
class Field:
    """A leaf of the contract and where its value comes from; `slots` are its wire values."""

    leaf: Leaf
    source: Source | None
    slots: tuple[Slot, ...]


@dataclass(frozen=True)
class Plan:
    """Everything that decoding, columns and the record-wise way need to know of a stream."""

    stream: Stream
    fields: tuple[Field, ...]
    source_id: Slot
    source_timestamp: Slot
    person_id: Field | None
    person_email: Field | None
    person_key: Slot | None
    names: tuple[Slot, ...]
    record: type[msgspec.Struct]
    page: type[msgspec.Struct]
    raw_page: type[msgspec.Struct]
    head: type[msgspec.Struct]  # of a record, nothing but source id and timestamp
    head_page: type[msgspec.Struct]
    attributes: Mapping[tuple[str, ...], tuple[str, ...]]  # wire keys -> attribute names in `record`
    objects: Mapping[tuple[str, ...], type[msgspec.Struct]]  # wire keys -> type of the object there
    version_of: Callable[[Any], tuple[Any, Any]]  # source id and timestamp of a `head`, as sent


def parse(path: str) -> tuple[tuple[str, ...], bool]:
    """(keys, optional) of a wire path."""
    parts = path.split("/")
    return tuple(part.removesuffix("?") for part in parts), any(part.endswith("?") for part in parts)


def validators(leaf: Leaf) -> set[Callable[..., Any]]:
    """The validator functions on a leaf's type; an unknown one raises TypeError."""
    found = {m.func for m in getattr(leaf.annotation, "__metadata__", ()) if isinstance(m, BeforeValidator)}
    if unknown := found - KNOWN_VALIDATORS:
        raise TypeError(f"{leaf.name}: no rule in mapping/ for {sorted(f.__name__ for f in unknown)}")
    return typing.cast("set[Callable[..., Any]]", found)


def _wire_type(leaf: Leaf) -> Any:
    """The type that a leaf's value has on the wire, its bounds included."""
    validators(leaf)
    bounds = {k: v for k, v in limits(leaf).items() if k in ("ge", "le")}
    if leaf.nested:
        inner = [(n.path[-1], _wire_type(n) | None, None) for n in leaf.nested]
        renamed = {n.path[-1]: n.names[-1] for n in leaf.nested}
        value: Any = msgspec.defstruct(f"{leaf.path[-1]}_item", inner, rename=renamed, frozen=True, gc=False)
    elif leaf.kind in (Kind.TEXT, Kind.ENUM, Kind.INSTANT, Kind.DAY):
        value = str
    elif leaf.kind is Kind.BOOL:
        value = bool
    elif leaf.kind is Kind.INT:
        value = Annotated[int, Meta(ge=bounds.get("ge", -fields.MAX_WHOLE), le=bounds.get("le", fields.MAX_WHOLE))]
    elif leaf.kind is Kind.FLOAT:
        value = Annotated[float, Meta(ge=bounds.get("ge"), le=bounds.get("le"))]
    elif leaf.kind is Kind.DECIMAL:
        return msgspec.Raw
    else:
        value = dict[str, float]
    return tuple[value, ...] if leaf.many else value


def item_keys(kind: Any) -> set[str]:
    """Keys that are read of each object in a list of this type."""
    item = next(iter(typing.get_args(kind)), None)
    if not isinstance(item, type):
        return set()
    return set(getattr(item, "__struct_encode_fields__", None) or typing.get_type_hints(item))


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    return typing.get_type_hints(function, include_extras=True)


class _Compiler:
    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.slots: dict[tuple[str, ...], Slot] = {}

    def slot(self, path: str, kind: Any) -> Slot:
        keys, optional = parse(path)
        known = self.slots.get(keys)
        if known is None or known.type is object:
            known = self.slots[keys] = Slot(keys, optional, kind)
        elif (known.optional, str(known.type)) != (optional, str(kind)) and kind is not object:
            # A timestamp is read by several fields, each as text; anything else is a slip in the declaration.
            raise TypeError(f"stream {self.stream.name}: {path} is declared twice and differently")
        return known

    def field(self, leaf: Leaf, source: Source | None) -> Field:
        if isinstance(source, str):
            return Field(leaf, source, (self.slot(source, _wire_type(leaf)),))
        if isinstance(source, Choice):
            return Field(leaf, source, (self.slot(source.path, str),))
        if isinstance(source, Derived):
            hints = _hints(source.function)
            found = []
            for name, path in source.paths.items():
                kind, optional = _without_none(hints[name])
                slot = self.slot(path, kind)
                if slot.optional and not optional:
                    raise TypeError(f"stream {self.stream.name}: {path} may be missing, but {name} takes no None")
                found.append(slot)
            return Field(leaf, source, tuple(found))
        return Field(leaf, source, ())


def _without_none(hint: Any) -> tuple[Any, bool]:
    """(type, optional) of an annotation; lists become tuples, which can be hashed."""
    args = typing.get_args(hint)
    if type(None) in args:
        rest = [a for a in args if a is not type(None)]
        return rest[0], True
    return hint, hint is object


def _record(
    stream: Stream, slots: Mapping[tuple[str, ...], Slot]
) -> tuple[dict[tuple[str, ...], type[msgspec.Struct]], dict[Any, Any]]:
    """(types of the record, under no keys, and of the objects in it; attribute names by wire keys)."""
    required = {slot.keys[:n] for slot in slots.values() if not slot.optional for n in range(1, len(slot.keys) + 1)}
    known: dict[tuple[str, ...], tuple[str, ...]] = {}
    types: dict[tuple[str, ...], type[msgspec.Struct]] = {}

    def build(path: tuple[str, ...]) -> type[msgspec.Struct]:
        children = dict.fromkeys(s.keys[len(path)] for s in slots.values() if s.keys[: len(path)] == path != s.keys)
        items: list[Any] = []
        rename = {}
        for number, key in enumerate(children):
            here, attribute = (*path, key), f"a{number}"
            rename[attribute] = key
            known[here] = (*known.get(path, ()), attribute)
            deeper = any(len(s.keys) > len(here) and s.keys[: len(here)] == here for s in slots.values())
            kind = build(here) if deeper else slots[here].type
            if here in required:
                items.append((attribute, kind))
            elif kind is msgspec.Raw:
                items.append((attribute, kind, msgspec.Raw(b"null")))
            else:
                items.append((attribute, kind | None, None))
        name = "_".join((stream.name, *(str(len(path)),)))
        types[path] = msgspec.defstruct(name, items, rename=rename, frozen=True, kw_only=True, gc=False)
        return types[path]

    build(())
    return types, known


def _paging_keys(stream: Stream) -> dict[str, tuple[str, ...]]:
    paging = stream.paging
    if isinstance(paging, PageNumber):
        return {"more": parse(paging.more)[0]}
    if isinstance(paging, Cursor):
        return {"next": parse(paging.next)[0]}
    assert isinstance(paging, StartIndex)
    return {"total": (paging.total,)}


def _page(stream: Stream, record: Any) -> type[msgspec.Struct]:
    """The reply around the records: `records` and the paging values, each unchecked and flat or one level down."""
    items: list[Any] = [("records", list[record])]
    rename = {"records": stream.records}
    for name, keys in _paging_keys(stream).items():
        kind: Any = Any
        for depth, key in enumerate(reversed(keys[1:])):
            kind = msgspec.defstruct(f"{name}{depth}", [("value", kind, None)], rename={"value": key}) | None
        items.append((name, kind, None))
        rename[name] = keys[0]
    return msgspec.defstruct(f"{stream.name}_page", items, rename=rename, gc=False)


def _person_leaf(plan_leaves: tuple[Leaf, ...]) -> Leaf:
    return next(leaf for leaf in plan_leaves if leaf.key == "external_user_id")


@cache
def plan(name: str) -> Plan:
    """The compiled declaration of a stream."""
    from teei_ingest.streams import all_streams

    return compile_stream(all_streams()[name])


def compile_stream(stream: Stream) -> Plan:
    """Compile a declaration; TypeError says what in it does not fit the contract."""
    contract_leaves = leaves(stream.contract)
    by_key = {leaf.key: leaf for leaf in contract_leaves}
    if unknown := set(stream.mapping) - set(by_key):
        raise TypeError(f"stream {stream.name}: {stream.contract.__name__} has no {sorted(unknown)}")
    compiler = _Compiler(stream)
    source_id = compiler.slot(stream.source_id, str)
    source_timestamp = compiler.slot(stream.source_timestamp, str)
    filled = []
    automatic = {*ENVELOPE, "user_id", "external_user_id", "source_tenant_id"}
    for leaf in contract_leaves:
        source = stream.mapping.get(leaf.key)
        if source is None and leaf.required and leaf.key not in automatic:
            raise TypeError(f"stream {stream.name}: nothing fills the required {leaf.name}")
        if leaf.key not in automatic:
            filled.append(compiler.field(leaf, source))
    text = _person_leaf(contract_leaves)
    person = stream.person
    person_id = compiler.field(text, person.id) if person else None
    person_email = compiler.field(text, person.email) if person and person.email else None
    person_key = compiler.slot(person.key, str) if person and person.key else None
    names = tuple(compiler.slot(path, str) for path in stream.names)
    objects, attributes = _record(stream, compiler.slots)
    record = objects[()]
    ends = [slot.keys for slot in (source_id, source_timestamp)]
    heads, places = _record(stream, {keys: Slot(keys, True, Any) for keys in ends})
    return Plan(
        stream=stream,
        fields=tuple(filled),
        source_id=source_id,
        source_timestamp=source_timestamp,
        person_id=person_id,
        person_email=person_email,
        person_key=person_key,
        names=names,
        record=record,
        page=_page(stream, record),
        raw_page=_page(stream, msgspec.Raw),
        head=heads[()],
        head_page=_page(stream, heads[()]),
        attributes=attributes,
        objects=objects,
        version_of=attrgetter(*(".".join(places[keys]) for keys in ends)),
    )
