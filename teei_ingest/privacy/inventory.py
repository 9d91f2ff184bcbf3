"""What is kept of every field that a source sends, and why: from the vendor's name to the stored column.

Belongs here: reading that off the declarations and a policy. Does not belong here: deciding it (`redact/policy.py`),
showing it (`cli/`, `docs.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from teei_ingest.contracts.base import Leaf, leaves
from teei_ingest.contracts.fields import DataClass
from teei_ingest.mapping.plan import Plan, item_keys, parse, plan
from teei_ingest.redact.policy import Mode, Policy, Rule
from teei_ingest.streams import all_streams
from teei_ingest.streams.base import Derived, Stream

# Columns that no field of a contract is the source of, and what they are made of.
_MADE = {
    "event_id": "a keyed hash of company, stream, sourceId and sourceTimestamp",
    "event_type": "the same in every row of a stream",
    "version": "the contract's version",
    "timestamp": "the source's timestamp",
    "stream": "the stream's name",
    "company": "the company's slug",
    "day": "the UTC day of the source's timestamp",
}


@dataclass(frozen=True)
class Item:
    """A field on its way: `wire` are the vendor's names that it is read from, empty where we say it ourselves.

    `field` is the contract's name and `column` the stored one, both empty where nothing is kept; `rule` says what
    decides the mode and `why` in words.
    """

    stream: str
    wire: tuple[str, ...]
    field: str
    column: str
    cls: DataClass | None
    mode: Mode
    rule: str
    why: str


def fields(policy: Policy, streams: Mapping[str, Stream] | None = None) -> list[Item]:
    """Every field of the streams (all of them by default) under a policy, in the order of the columns.

    What a source sends beyond them, as far as the stream's example shows it, comes last.
    """
    found: list[Item] = []
    for stream in (all_streams() if streams is None else streams).values():
        found += _columns(stream)
        for leaf in leaves(stream.contract):
            for one in leaf.nested or (leaf,):
                found.append(_field(stream, leaf, one, policy))
        found += _left(plan(stream.name))
    return found


def _columns(stream: Stream) -> Iterator[Item]:
    for column, why in _MADE.items():
        yield Item(stream.name, (), "", column, DataClass.PUBLIC, Mode.KEEP, "made here", why)


def _field(stream: Stream, leaf: Leaf, one: Leaf, policy: Policy) -> Item:
    inside = "" if one is leaf else f"[].{one.names[-1]}"
    rule = policy.rule(one)
    wire = tuple(f"{path}{inside.replace('.', '/')}" for path in wire_paths(stream, leaf))
    return Item(
        stream=stream.name,
        wire=wire,
        field=f"{leaf.name}{inside}",
        column=f"{leaf.key}[].{one.path[-1]}" if inside else leaf.key,
        cls=one.cls,
        mode=rule.mode,
        rule=f"{rule.source}: {rule.name}",
        why=_why(one, rule),
    )


def _why(leaf: Leaf, rule: Rule) -> str:
    if rule.source == "allowed_fields":
        return "the company allows it"
    kind = "class" if rule.name == leaf.cls else "kind" if rule.name == leaf.extra.get("kind") else "field"
    if rule.source == "company":
        return f"the company sets the {kind} {rule.name}"
    if leaf.cls is DataClass.PUBLIC:
        return str(leaf.extra["reason"])
    return f"the default of the {kind} {rule.name}"


def wire_paths(stream: Stream, leaf: Leaf) -> tuple[str, ...]:
    """The vendor's names that a field of a contract is read from."""
    person = stream.person
    automatic: dict[str, tuple[Any, ...]] = {
        "source_id": (stream.source_id,),
        "source_timestamp": (stream.source_timestamp,),
        "external_user_id": (person.id,) if person else (),
        "user_id": (person.email, person.id, person.key) if person else (),
    }
    sources = automatic.get(leaf.key, (stream.mapping.get(leaf.key),))
    paths: list[str] = []
    for source in sources:
        if isinstance(source, str):
            paths.append(source)
        elif isinstance(source, Derived):
            paths += source.paths.values()
        elif hasattr(source, "path"):
            paths.append(source.path)
    return tuple(dict.fromkeys("/".join(parse(path)[0]) for path in paths))


def _left(compiled: Plan) -> Iterator[Item]:
    """What is sent and not kept."""
    mapped = {slot.keys for field in compiled.fields for slot in field.slots}
    read = [slot.path for slot in compiled.names if slot.keys not in mapped]
    for path in read:
        why = "read only to take these people's names out of labels"
        yield Item(compiled.stream.name, (path,), "", "", DataClass.DIRECT, Mode.REMOVE, "not in the contract", why)
    for path in sorted(dropped(compiled)):
        yield Item(
            compiled.stream.name, (path,), "", "", None, Mode.REMOVE, "not in the contract", "no contract names it"
        )


def dropped(compiled: Plan) -> Iterator[str]:
    """Paths in a stream's example that nothing reads."""
    lists = {slot.keys: slot.type for field in compiled.fields for slot in field.slots}

    def walk(value: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
        for key, inner in value.items():
            here = (*path, key)
            if here in compiled.attributes:
                if isinstance(inner, dict) and any(len(keys) > len(here) for keys in _below(compiled, here)):
                    yield from walk(inner, here)
                elif isinstance(inner, list) and inner and isinstance(inner[0], dict):
                    names = item_keys(lists.get(here))
                    yield from (f"{'/'.join(here)}[]/{name}" for name in inner[0] if name not in names)
            else:
                yield "/".join(here)

    yield from walk(compiled.stream.example, ())


def _below(compiled: Plan, path: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [keys for keys in compiled.attributes if keys[: len(path)] == path]
