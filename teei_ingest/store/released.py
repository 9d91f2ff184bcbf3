"""Released views as contracts: the JSON Schema of their rows, and what may not change in one.

Belongs here: the schema, and comparing it with the one that was released. Does not belong here: what a view says
(`views.py`).

A row is one of `teei sql … --format json`. Columns may be added behind the others and lists of values may grow;
whatever else differs breaks readers and belongs into a view of another name.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from teei_ingest.contracts import compat
from teei_ingest.store.views import RELEASED, Column

_JSON: dict[str, dict[str, Any]] = {
    "VARCHAR": {"type": "string"},
    "DATE": {"type": "string", "format": "date"},
    "BIGINT": {"type": "integer", "minimum": 0},
    "DECIMAL(28,4)": {"type": "string", "pattern": r"^[0-9]+\.[0-9]{4}$"},
}


@cache
def json_schema(name: str) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a released view's rows; `x-kind` is DuckDB's type."""
    view = RELEASED[name]
    subject, _, version = name.rpartition("_")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:teei:view:{subject}:{version}",
        "title": name,
        "description": view.description,
        "type": "object",
        "properties": {column.name: _column(column) for column in view.columns},
        "required": [column.name for column in view.columns],
        "additionalProperties": False,
    }


def breaking(name: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """One line for each change from `old` to `new` that breaks readers of a view."""
    found = compat.breaking(old, new, name)
    before, after = old["properties"], new["properties"]
    if list(after)[: len(before)] != list(before):
        found.append(f"{name}: the columns were {', '.join(before)} in this order and are {', '.join(after)}")
    for column in before.keys() & after.keys():
        units = before[column].get("x-unit"), after[column].get("x-unit")
        if units[0] != units[1]:
            found.append(f"{name}.{column}: the unit was {units[0]} and is {units[1]}")
    return found


def _column(column: Column) -> dict[str, Any]:
    value = dict(_JSON[column.type])
    if column.nullable:
        value["type"] = [value["type"], "null"]
    if column.values:
        value["enum"] = list(column.values)
    return {**value, "description": column.description, "x-kind": column.type, "x-unit": column.unit}
