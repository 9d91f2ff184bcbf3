"""What all contracts share: the base of every `data`, the leaves of a model, the registry by name.

The contracts themselves are one file each beside this one; what is stored of them is in `stored.py`.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from functools import cache
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from teei_ingest.contracts.fields import KEY, PERSONAL_NAMES, DataClass, Instant, person_ref, public

VERSION = "v1"


class Part(BaseModel):
    """An object inside a contract."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        strict=True,
        frozen=True,
        hide_input_in_errors=True,
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        for name, info in cls.model_fields.items():
            extra = info.json_schema_extra
            declared = extra.get(KEY) if isinstance(extra, dict) else None
            if declared is None and part_of(info.annotation) is None:
                raise TypeError(f"{cls.__name__}.{name} has no personal-data class: declare one from contracts.fields")
            if declared is not None and info.alias in PERSONAL_NAMES and declared != DataClass.DIRECT:
                raise TypeError(f"{cls.__name__}.{name} is personal by its name, so its class is direct")


class Data(Part):
    """The `data` of an event: where a record came from and whom it is about."""

    event_type: ClassVar[str]
    table: ClassVar[str]
    either: ClassVar[tuple[tuple[str, ...], ...]] = ()  # of each group of fields at least one is there
    subject: ClassVar[tuple[str, ...]] = (
        "user_id",
        "external_user_id",
    )  # whom it is about, by each of them
    group: ClassVar[str | None] = None  # records of one value are erased together, though not all name the person
    beside: ClassVar[Mapping[str, str]] = {}  # a name, and the field that refers to its bearer

    source_system: Annotated[str, public("The system that sent the record", reason="one of seven names")]
    source_id: Annotated[str, public("The record's id there", reason="opaque; tokenized if it is a person's")]
    source_timestamp: Annotated[Instant, public("When the source last changed it", unit="UTC", reason="no person")]
    company_id: Annotated[str, public("The company's id in the TEEI platform, a UUID", reason="a company")]
    user_id: Annotated[str | None, person_ref("Token of the person the record is about")]
    external_user_id: Annotated[str | None, person_ref("The person's id in the source")]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        named = (*cls.subject, *((cls.group,) if cls.group else ()), *cls.beside, *cls.beside.values())
        for name in named:
            if name not in cls.model_fields:
                raise TypeError(f"{cls.__name__} has no field {name}")

    @model_validator(mode="after")
    def _either(self) -> Self:
        for group in self.either:
            if all(getattr(self, name) is None for name in group):
                raise ValueError(f"{' or '.join(group)} is needed")
        return self


ENVELOPE = ("source_system", "source_id", "source_timestamp", "company_id")


class Kind(Enum):
    """The value of a leaf, apart from its class."""

    TEXT = "text"
    ENUM = "enum"
    BOOL = "bool"
    INT = "int"
    FLOAT = "float"
    DECIMAL = "decimal"
    INSTANT = "instant"
    DAY = "day"
    MAP = "map"


@dataclass(frozen=True)
class Leaf:
    """One field that holds a value: `path` in Python's names, `names` on the wire."""

    path: tuple[str, ...]
    names: tuple[str, ...]
    kind: Kind
    cls: DataClass
    required: bool
    many: bool  # a list of values
    annotation: Any  # with its constraints, without None and without the list
    enum: type[Enum] | None
    info: FieldInfo
    nested: tuple[Leaf, ...] = ()  # a list of objects has its leaves here

    @property
    def key(self) -> str:
        """Dotted path, as in a stream's mapping."""
        return ".".join(self.path)

    @property
    def name(self) -> str:
        """Dotted path in the contract's wire names."""
        return ".".join(self.names)

    @property
    def extra(self) -> dict[str, Any]:
        """The declaration's own keys: kind, unit, reason."""
        extra = self.info.json_schema_extra
        return {k.removeprefix("x-"): v for k, v in extra.items() if k != KEY} if isinstance(extra, dict) else {}


def part_of(annotation: Any) -> type[Part] | None:
    """The model in `Model`, `Model | None` or `list[Model]`, if there is one."""
    for option in (annotation, *typing.get_args(annotation)):
        if isinstance(option, type) and issubclass(option, Part):
            return option
        for inner in typing.get_args(option):
            if isinstance(inner, type) and issubclass(inner, Part):
                return inner
    return None


def _peel(annotation: Any) -> tuple[Any, bool, bool]:
    """(inner annotation, optional, list) of `list[X] | None` and the like."""
    optional = many = False
    while True:
        origin = typing.get_origin(annotation)
        if origin in (typing.Union, types.UnionType):
            rest = [a for a in typing.get_args(annotation) if a is not type(None)]
            optional, annotation = True, rest[0]
        elif origin is list:
            many, annotation = True, typing.get_args(annotation)[0]
        else:
            return annotation, optional, many


_KINDS: dict[Any, Kind] = {
    str: Kind.TEXT, bool: Kind.BOOL, int: Kind.INT, float: Kind.FLOAT,
    Decimal: Kind.DECIMAL, datetime: Kind.INSTANT, date: Kind.DAY,
}  # fmt: skip


def _leaves(model: type[Part], path: tuple[str, ...], names: tuple[str, ...], optional: bool) -> Iterator[Leaf]:
    hints = typing.get_type_hints(model, include_extras=True)
    for name, info in model.model_fields.items():
        hint = hints[name]
        if typing.get_origin(hint) is Annotated and any(isinstance(m, FieldInfo) for m in hint.__metadata__):
            declared = [
                m for m in hint.__metadata__ if not (isinstance(m, FieldInfo) and (m.json_schema_extra or m.alias))
            ]
            hint = Annotated[(hint.__origin__, *declared)] if declared else hint.__origin__
        inner, nullable, many = _peel(hint)
        here, shown = (*path, name), (*names, info.alias or name)
        part = part_of(inner)
        if part is not None and not many:
            yield from _leaves(part, here, shown, True)
            continue
        base = inner.__origin__ if typing.get_origin(inner) is Annotated else inner
        extra = info.json_schema_extra
        enum = base if isinstance(base, type) and issubclass(base, Enum) else None
        kind = Kind.ENUM if enum else Kind.MAP if typing.get_origin(base) is dict else _KINDS.get(base, Kind.TEXT)
        yield Leaf(
            path=here,
            names=shown,
            kind=kind,
            cls=DataClass(str(extra[KEY])) if isinstance(extra, dict) and KEY in extra else DataClass.PUBLIC,
            required=not (nullable or optional),
            many=many,
            annotation=inner,
            enum=enum,
            info=info,
            nested=tuple(_leaves(part, (), (), True)) if part is not None else (),
        )


@cache
def leaves(contract: type[Data]) -> tuple[Leaf, ...]:
    """All leaves of a contract in the order of its columns."""
    return tuple(_leaves(contract, (), (), False))


@cache
def references(contract: type[Data]) -> tuple[Leaf, ...]:
    """Leaves that refer to others than the person whom the record is about, by id or by address."""
    found = [leaf for leaf in leaves(contract) if is_person(leaf) and leaf.key not in contract.subject]
    if any(is_person(nested) for leaf in leaves(contract) for nested in leaf.nested):
        raise TypeError(f"{contract.__name__} refers to people in a list of objects, where nothing could erase them")
    return tuple(found)


def is_person(leaf: Leaf) -> bool:
    """Whether a leaf is an id or an address of a person."""
    return leaf.cls is DataClass.PERSON_REF or (leaf.cls is DataClass.DIRECT and leaf.extra.get("kind") == "email")


def is_directory(contract: type[Data]) -> bool:
    """Whether each record is a person, so that one who is gone has left."""
    return "source_id" in contract.subject


def is_opaque_id(leaf: Leaf) -> bool:
    """Whether a public leaf is an id that the source made."""
    return leaf.cls is DataClass.PUBLIC and leaf.kind is Kind.TEXT and leaf.path[-1].endswith("_id")
