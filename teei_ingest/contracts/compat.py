"""What may not change in a released contract: found by comparing its JSON Schema with the one that was released.

An event that was stored yesterday has to be valid tomorrow, and a reader of yesterday has to understand what is
stored tomorrow. So fields may be added (nullable, since older events lack them), enumerations may grow and bounds may
widen; whatever else differs is breaking and belongs into a new version. Descriptions and units are no part of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

# Keywords that have to stay as they are; of a pattern nobody can say whether another one accepts the same.
FIXED = ("const", "pattern", "format", "x-personal-data", "x-kind")


def breaking(old: Schema, new: Schema, what: str = "event") -> list[str]:
    """One line for each breaking change from `old` to `new`, both JSON Schemas of events or rows: `where: what`."""
    return list(_compare(old, new, what))


def _compare(old: Schema, new: Schema, where: str) -> Iterator[str]:
    if _types(old) != _types(new):
        yield f"{where}: the type was {_shown(old)} and is {_shown(new)}"
    for keyword in FIXED:
        if old.get(keyword) != new.get(keyword):
            yield f"{where}: `{keyword}` was {old.get(keyword)!r} and is {new.get(keyword)!r}"
    yield from _compare_values(old, new, where)
    if "items" in old or "items" in new:
        yield from _compare(old.get("items", {}), new.get("items", {}), f"{where}[]")
    if "properties" in old or "properties" in new:
        yield from _compare_objects(old, new, where)
    yield from _compare_rest(old.get("additionalProperties", True), new.get("additionalProperties", True), where)


def _types(schema: Schema) -> set[str]:
    types = schema.get("type", [])
    return {types} if isinstance(types, str) else set(types)


def _shown(schema: Schema) -> str:
    return " or ".join(sorted(_types(schema))) or "anything"


def _compare_values(old: Schema, new: Schema, where: str) -> Iterator[str]:
    if "enum" in new:
        if "enum" not in old:
            yield f"{where}: is restricted to a list"
        elif gone := [value for value in old["enum"] if value not in new["enum"]]:
            yield f"{where}: no longer lists {', '.join(map(repr, gone))}"
    if new.get("minimum", float("-inf")) > old.get("minimum", float("-inf")):
        yield f"{where}: the least value rose to {new['minimum']}"
    if new.get("maximum", float("inf")) < old.get("maximum", float("inf")):
        yield f"{where}: the greatest value fell to {new['maximum']}"


def _compare_objects(old: Schema, new: Schema, where: str) -> Iterator[str]:
    before, after = old.get("properties", {}), new.get("properties", {})
    required_before, required_after = set(old.get("required", ())), set(new.get("required", ()))
    for name in before:
        inside = f"{where}.{name}"
        if name not in after:
            yield f"{inside}: was removed"
            continue
        if name in required_after - required_before:
            yield f"{inside}: became required"
        if name in required_before - required_after:
            yield f"{inside}: need no longer be there"
        yield from _compare(before[name], after[name], inside)
    for name in after:
        if name not in before and name in required_after and "null" not in _types(after[name]):
            yield f"{where}.{name}: is new, and older events have no value for it"


def _compare_rest(old: bool | Schema, new: bool | Schema, where: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        yield from _compare(old, new, f"{where}.*")
    elif old != new:
        yield f"{where}: what else an object may hold was {old!r} and is {new!r}"
