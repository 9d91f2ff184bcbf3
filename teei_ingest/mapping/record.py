"""One record at a time, through Pydantic, which alone decides whether a record keeps its contract.

Takes what the generated types refused. Says of a bad record which field broke which rule, and never a value.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any, NoReturn

import msgspec
from pydantic import TypeAdapter, ValidationError

from teei_ingest.contracts.base import Kind, Leaf, is_person, leaves, references
from teei_ingest.contracts.fields import instant_ns
from teei_ingest.mapping.plan import Field, Plan, Slot, parse
from teei_ingest.streams.base import Choice, Constant, Derived


@dataclass(frozen=True)
class Broken:
    """Why a record is no event: the field in the contract's names (or a wire path of the declaration) and the rule."""

    field: str
    rule: str


@dataclass(frozen=True)
class Accepted:
    """A record that keeps its contract, with what the wire alone has of the person."""

    event: Any  # the contract's model
    timestamp_ns: int
    person_id: str | None
    person_email: str | None
    person_key: str | None
    names: tuple[str, ...]
    unlisted: int  # wire values that became `other`


class _Breach(Exception):
    def __init__(self, field: str, rule: str) -> None:
        self.broken = Broken(field, rule)


_MISSING = object()


def _find(record: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        if record is None:
            return _MISSING
        if not isinstance(record, Mapping):
            raise _Breach("/".join(keys), "type")
        record = record.get(key, _MISSING)
        if record is _MISSING:
            return _MISSING
    return record


def _value(record: Any, slot: Slot, field: str) -> Any:
    value = _find(record, slot.keys)
    if value is _MISSING or value is None:
        if not slot.optional:
            raise _Breach(field, "missing")
        return None
    return value


def _text(record: Any, slot: Slot, field: str) -> str | None:
    value = _value(record, slot, field)
    if value is not None and not isinstance(value, str):
        raise _Breach(field, "type")
    return value


def _derive(source: Derived, record: Any, field: str) -> Any:
    hints = typing.get_type_hints(source.function, include_extras=True)
    arguments = {}
    for name, path in source.paths.items():
        keys, optional = parse(path)
        value = _value(record, Slot(keys, optional, Any), field)
        try:
            arguments[name] = _adapter(hints[name]).validate_python(value, strict=True)
        except ValidationError:
            raise _Breach(field, "type") from None
    try:
        return source.function(**arguments)
    except (ValueError, ArithmeticError):
        raise _Breach(field, "value") from None


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


class RecordMapper:
    """Maps and validates single records of a stream for one company."""

    def __init__(self, plan: Plan, company_id: str, tenant: str | None) -> None:
        self._plan = plan
        self._fixed = {"source_system": plan.stream.system, "company_id": company_id}
        if "source_tenant_id" in plan.stream.contract.model_fields:
            self._fixed["source_tenant_id"] = tenant or ""
        self._names: dict[str, str] = {}
        for leaf in leaves(plan.stream.contract):
            self._names[leaf.key] = leaf.name
            self._names |= {f"{leaf.key}.{nested.key}": f"{leaf.name}.{nested.name}" for nested in leaf.nested}
        self._group = [slot for f in plan.fields if f.leaf.key == plan.stream.contract.group for slot in f.slots]
        self._subject = self._subject_slots()
        self._people = [slot for f in plan.fields if is_person(f.leaf) for slot in f.slots] + self._subject

    def __call__(self, raw: bytes) -> Accepted | Broken:
        """The event in `raw`, one JSON object, or why there is none."""
        try:
            return self._map(raw)
        except _Breach as breach:
            return breach.broken
        except ValidationError as error:
            broken = _first(error, self._names)
        return broken

    def timestamp_ns(self, raw: bytes) -> int | None:
        """The source timestamp of a record that may be broken elsewhere; None if it has no valid one."""
        try:
            return instant_ns(_find(json.loads(raw), self._plan.source_timestamp.keys))
        except (ValueError, TypeError, _Breach, RecursionError):
            return None

    def people(self, raw: bytes) -> list[str]:
        """Ids and addresses of people that can be made out in a record, broken as it may be."""
        return _texts(raw, self._people)

    def subject(self, raw: bytes) -> list[str]:
        """Those of them that are of the person whom the record is about."""
        return _texts(raw, self._subject)

    def group(self, raw: bytes) -> str | None:
        """The value of the contract's group."""
        return next(iter(_texts(raw, self._group)), None) if self._group else None

    def without(self, raw: bytes, gone: Callable[[str], bool], mark: str) -> bytes:
        """The record with the mark in place of references to those who are gone; all else as it was sent."""
        if not any(map(gone, self.people(raw))):
            return raw
        plan = self._plan
        keys = {f.leaf.key: f.slots[0].keys for f in plan.fields if f.slots}
        record = json.loads(raw, parse_float=_verbatim, parse_int=_verbatim, parse_constant=_verbatim)
        for leaf in references(plan.stream.contract):
            if leaf.key not in keys:
                continue
            *path, last = keys[leaf.key]
            part = _find(record, tuple(path))
            if not isinstance(part, dict):
                continue
            value = part.get(last)
            if isinstance(value, list):
                part[last] = [mark if isinstance(one, str) and gone(one) else one for one in value]
            elif isinstance(value, str) and gone(value):
                part[last] = mark
                for name in (name for name, other in plan.stream.contract.beside.items() if other == leaf.key):
                    if name in keys and isinstance(around := _find(record, keys[name][:-1]), dict):
                        around[keys[name][-1]] = mark
        return msgspec.json.encode(record)

    def _subject_slots(self) -> list[Slot]:
        plan = self._plan
        slots = [slot for f in (plan.person_id, plan.person_email) if f for slot in f.slots]
        if plan.person_key:
            slots.append(plan.person_key)
        if "source_id" in plan.stream.contract.subject:
            slots.append(plan.source_id)
        return slots

    def _map(self, raw: bytes) -> Accepted:
        plan = self._plan
        try:
            record = json.loads(raw, parse_constant=_no_constant)
            exact = json.loads(raw, parse_float=Decimal, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise _Breach("record", "json") from None
        if not isinstance(record, dict):
            raise _Breach("record", "type")
        timestamp = _text(record, plan.source_timestamp, "sourceTimestamp")
        try:
            moment = instant_ns(timestamp or "")
        except ValueError:
            raise _Breach("sourceTimestamp", "timestamp") from None
        source_id = _text(record, plan.source_id, "sourceId")
        if not source_id:
            raise _Breach("sourceId", "missing")
        unlisted = 0
        data: dict[str, Any] = {}
        for field in plan.fields:
            value, other = self._field(field, record, exact)
            unlisted += other
            _put(data, field.leaf.path, value)
        person = [self._person(f, record) for f in (plan.person_id, plan.person_email)]
        key = _text(record, plan.person_key, "userId") if plan.person_key else None
        event = plan.stream.contract.model_validate(
            {
                **_without_empty(data),
                **self._fixed,
                "source_id": source_id,
                "source_timestamp": timestamp,
                "user_id": person[1] or person[0] or key,
                "external_user_id": person[0],
            }
        )
        names = tuple(n for slot in plan.names if (n := _text(record, slot, slot.path)))
        return Accepted(event, moment, person[0], person[1], key, names, unlisted)

    def _field(self, field: Field, record: Any, exact: Any) -> tuple[Any, int]:
        leaf, source = field.leaf, field.source
        if source is None:
            return None, 0
        if isinstance(source, Constant):
            return source.value, 0
        if isinstance(source, Derived):
            return _derive(source, record, leaf.name), 0
        if isinstance(source, Choice):
            return _choose(source, leaf, _text(record, field.slots[0], leaf.name))
        value = _value(exact if leaf.kind is Kind.DECIMAL else record, field.slots[0], leaf.name)
        if leaf.many and leaf.nested and isinstance(value, list):
            value = [_item(item, leaf) for item in value]
        return value, 0

    def _person(self, field: Field | None, record: Any) -> str | None:
        if field is None:
            return None
        if isinstance(field.source, Derived):
            value = _derive(field.source, record, "userId")
            return typing.cast("str | None", value)
        return _text(record, field.slots[0], "userId")


def _verbatim(number: str) -> msgspec.Raw:
    return msgspec.Raw(number.encode())


def _texts(raw: bytes, slots: Iterable[Slot]) -> list[str]:
    """All texts and whole numbers at wire paths of a record, in lists and objects there too."""
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError):
        return []
    found: list[str] = []
    for slot in slots:
        try:
            waiting = [_find(record, slot.keys)]
        except _Breach:
            continue
        while waiting:
            value = waiting.pop()
            if isinstance(value, Mapping):
                waiting += value.values()
            elif isinstance(value, list):
                waiting += value
            elif isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
                found.append(str(value))
    return found


def _no_constant(_: str) -> NoReturn:
    raise ValueError


def _item(item: Any, leaf: Leaf) -> Any:
    if not isinstance(item, Mapping):
        raise _Breach(leaf.name, "type")
    return {nested.path[-1]: item.get(nested.names[-1]) for nested in leaf.nested}


def _choose(source: Choice, leaf: Leaf, value: str | None) -> tuple[Any, int]:
    if value is None:
        return source.absent, 0
    folded = {key.casefold(): member for key, member in source.values.items()}
    found = folded.get(value.casefold())
    if found is not None:
        return found, 0
    other = None if leaf.enum is None else leaf.enum.__members__.get("OTHER")
    if other is None:
        raise _Breach(leaf.name, "enum")
    return other, 1


def _put(data: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        data = data.setdefault(key, {})
    data[path[-1]] = value


def _without_empty(data: dict[str, Any]) -> dict[str, Any]:
    """An object all of whose values are null is null itself."""
    return {
        key: None if isinstance(value, dict) and value and all(v is None for v in value.values()) else value
        for key, value in data.items()
    }


def _first(error: ValidationError, names: Mapping[str, str]) -> Broken:
    """The first breach; positions in lists and keys of maps are left out, being data."""
    found = error.errors(include_input=False, include_url=False, include_context=False)[0]
    path = [part for part in found["loc"] if isinstance(part, str)]
    while path and ".".join(path) not in names:
        path.pop()
    return Broken(names.get(".".join(path), "record"), found["type"])
