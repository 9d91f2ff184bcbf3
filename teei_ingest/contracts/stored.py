"""The second schema of each contract: an event as it is kept, as Arrow columns and as JSON Schema.

A personal field is a string at rest, whatever it was: a readable value is invalid by type.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pyarrow as pa
from annotated_types import Ge, Le

from teei_ingest.contracts.base import ENVELOPE, VERSION, Data, Kind, Leaf, leaves
from teei_ingest.contracts.fields import DataClass

INSTANT = pa.timestamp("us", tz="UTC")
LEADING: tuple[pa.Field, ...] = (
    pa.field("event_id", pa.string(), nullable=False),
    pa.field("event_type", pa.string(), nullable=False),
    pa.field("version", pa.string(), nullable=False),
    pa.field("timestamp", INSTANT, nullable=False),
    pa.field("stream", pa.string(), nullable=False),
    pa.field("company", pa.string(), nullable=False),
    pa.field("day", pa.date32(), nullable=False),
    pa.field("company_id", pa.string(), nullable=False),
    pa.field("source_system", pa.string(), nullable=False),
    pa.field("source_id", pa.string(), nullable=True),
    pa.field("source_timestamp", INSTANT, nullable=False),
)

# The classes whose fields become strings at rest; `sensitive` and `public` keep their type.
TEXT_AT_REST = frozenset(DataClass) - {DataClass.SENSITIVE, DataClass.PUBLIC}
# A hash or a token with its key's version, or the mask.
PSEUDONYM = r"^([ht][1-9][0-9]*_[0-9a-f]{32}|\[REDACTED\])$"
PSEUDONYMOUS = frozenset({DataClass.DIRECT, DataClass.PERSON_REF, DataClass.DOCUMENT_REF})

_ARROW: dict[Kind, pa.DataType] = {
    Kind.TEXT: pa.string(),
    Kind.ENUM: pa.string(),
    Kind.BOOL: pa.bool_(),
    Kind.INT: pa.int64(),
    Kind.FLOAT: pa.float64(),
    Kind.INSTANT: INSTANT,
    Kind.DAY: pa.date32(),
    Kind.MAP: pa.map_(pa.string(), pa.float64()),
}


def limits(leaf: Leaf) -> dict[str, float]:
    """The `ge`, `le`, `max_digits`, `decimal_places` of a leaf; a constraint of another sort raises TypeError."""
    found: dict[str, float] = {}
    for item in getattr(leaf.annotation, "__metadata__", ()):
        for rule in getattr(item, "metadata", ()):
            if isinstance(rule, Ge):
                found["ge"] = rule.ge  # type: ignore[assignment]
            elif isinstance(rule, Le):
                found["le"] = rule.le  # type: ignore[assignment]
            elif hasattr(rule, "max_digits"):
                found |= {"max_digits": rule.max_digits, "decimal_places": rule.decimal_places}
            else:
                raise TypeError(f"{leaf.name}: the constraint {rule!r} has no rule at rest")
    return found


def own_type(leaf: Leaf) -> pa.DataType:
    """The Arrow type of a leaf's value before redaction, without the list around it."""
    if leaf.kind is Kind.DECIMAL:
        digits = limits(leaf)
        return pa.decimal128(int(digits["max_digits"]), int(digits["decimal_places"]))
    return _ARROW[leaf.kind]


def stored_type(leaf: Leaf) -> pa.DataType:
    """The Arrow type of a leaf at rest."""
    if leaf.nested:
        return pa.list_(pa.struct([pa.field(n.path[-1], stored_type(n)) for n in leaf.nested]))
    inner = pa.string() if leaf.cls in TEXT_AT_REST else own_type(leaf)
    return pa.list_(inner) if leaf.many else inner


@cache
def arrow_schema(contract: type[Data]) -> pa.Schema:
    """Columns of a contract's table: the leading ones, then the contract's; objects are structs."""
    columns: dict[str, pa.DataType | dict[str, pa.DataType]] = {}
    for leaf in leaves(contract):
        if leaf.key in ENVELOPE:
            continue
        if len(leaf.path) == 1:
            columns[leaf.key] = stored_type(leaf)
        else:
            inside = columns.setdefault(leaf.path[0], {})
            assert isinstance(inside, dict)
            inside[leaf.path[1]] = stored_type(leaf)
    fields = [
        pa.field(name, pa.struct([pa.field(k, t) for k, t in kind.items()]) if isinstance(kind, dict) else kind)
        for name, kind in columns.items()
    ]
    return pa.schema([*LEADING, *fields])


_JSON: dict[Kind, dict[str, Any]] = {
    Kind.TEXT: {"type": "string"},
    Kind.BOOL: {"type": "boolean"},
    Kind.INT: {"type": "integer"},
    Kind.FLOAT: {"type": "number"},
    Kind.DECIMAL: {"type": "string", "pattern": r"^[0-9]+\.[0-9]{4}$"},
    Kind.INSTANT: {"type": "string", "format": "date-time"},
    Kind.DAY: {"type": "string", "format": "date"},
    Kind.MAP: {"type": "object", "additionalProperties": {"type": "number"}},
}


def _json(leaf: Leaf) -> dict[str, Any]:
    extra = {f"x-{k}": v for k, v in leaf.extra.items()}
    about = {"description": leaf.info.description, "x-personal-data": leaf.cls.value, **extra}
    if leaf.nested:
        value = _object({n.names[-1]: _json(n) for n in leaf.nested}, [])
        return {"type": ["array", "null"], "items": value, "description": leaf.info.description or leaf.name}
    if leaf.cls in PSEUDONYMOUS:
        value = {"type": "string", "pattern": PSEUDONYM}
    elif leaf.cls in TEXT_AT_REST:
        value = {"type": "string"}
    elif leaf.enum is not None:
        value = {"type": "string", "enum": [member.value for member in leaf.enum]}
    else:
        bounds = limits(leaf)
        span = {
            k: v
            for k, v in {"minimum": bounds.get("ge"), "maximum": bounds.get("le")}.items()
            if v is not None and leaf.kind is not Kind.DECIMAL
        }
        value = {**_JSON[leaf.kind], **span}
    if leaf.many:
        value = {"type": "array", "items": value}
    emptied = leaf.cls is not DataClass.PUBLIC or not leaf.required
    if emptied:
        value = {**value, "type": [value["type"], "null"]}
        if "enum" in value:
            value["enum"] = [*value["enum"], None]
    return {**value, **about}


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


@cache
def json_schema(contract: type[Data]) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a stored event: envelope and `data`; every key is always there."""
    data: dict[str, Any] = {}
    for leaf in leaves(contract):
        if len(leaf.names) == 1:
            data[leaf.names[0]] = _json(leaf)
        else:
            inside = data.setdefault(leaf.names[0], _object({}, []) | {"type": ["object", "null"]})
            inside["properties"][leaf.names[1]] = _json(leaf)
            inside["required"].append(leaf.names[1])
    uuid = {"type": "string", "format": "uuid"}
    absent = {"type": ["string", "null"], "format": "uuid"}
    envelope = {
        "id": uuid
        | {"description": "UUIDv8 (RFC 9562) from a keyed hash of company, stream, sourceId, sourceTimestamp"},
        "type": {"const": contract.event_type},
        "version": {"const": VERSION},
        "timestamp": _JSON[Kind.INSTANT] | {"description": "The source's timestamp"},
        "correlationId": absent,
        "causationId": absent,
        "metadata": {"type": ["object", "null"]},
        "data": _object(data, list(data)),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:teei:event:{contract.event_type}:{VERSION}",
        "title": contract.__name__,
        "description": (contract.__doc__ or "").strip(),
        **_object(envelope, ["id", "type", "version", "timestamp", "data"]),
    }
