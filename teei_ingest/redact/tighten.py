"""Stored rows under a stricter policy, where their source cannot be asked again.

What is gone stays gone: a field that the policy would keep, and that is stored as less, stays as it is. A pseudonym
stays one, since nobody can go back to what it stands for. Scrubbing finds patterns alone: the names that the record
itself stated are not stored.
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from teei_ingest.contracts.base import ENVELOPE, Data, Kind, Leaf, leaves
from teei_ingest.contracts.fields import DataClass
from teei_ingest.contracts.stored import PSEUDONYM, PSEUDONYMOUS, TEXT_AT_REST
from teei_ingest.redact import text
from teei_ingest.redact.apply import SALARY_BAND, find_leaks, list_offsets
from teei_ingest.redact.policy import Mode, Policy
from teei_ingest.redact.tokens import Pseudonyms
from teei_ingest.systems import all_systems

_DAY = r"^\d{4}-\d{2}-\d{2}$"
_AMOUNT = r"^\d+(\.\d+)?$"


def tighten(rows: pa.Table, contract: type[Data], policy: Policy, pseudonyms: Pseudonyms) -> pa.Table:
    """Rows of one stream (`arrow_schema`), none of which says more than before or than the policy allows."""
    if not len(rows):
        return rows
    namespace = all_systems()[rows["source_system"][0].as_py()].namespace
    for leaf in leaves(contract):
        if leaf.key in (*ENVELOPE, "source_tenant_id") and leaf.cls is DataClass.PUBLIC:
            continue
        nothing = all(policy.mode(one) is Mode.REMOVE for one in leaf.nested or (leaf,))

        def make(one: Leaf, values: pa.Array) -> pa.Array:
            return _value(one, values, policy.mode(one), pseudonyms, namespace)

        at = rows.schema.get_field_index(leaf.path[0])
        column = rows.column(at).combine_chunks()
        rows = rows.set_column(at, rows.schema.field(at), _replaced(leaf, column, None if nothing else make))
    return rows


_Make = Callable[[Leaf, pa.Array], pa.Array]


def _replaced(leaf: Leaf, column: pa.Array, make: _Make | None) -> pa.Array:
    """A stored column with a leaf's values made anew, wherever in it they are; null without `make`."""
    if len(leaf.path) == 2:
        parts = {field.name: pc.struct_field(column, field.name) for field in column.type}
        parts[leaf.path[1]] = _listed(leaf, parts[leaf.path[1]], make)
        return pa.StructArray.from_arrays(list(parts.values()), fields=list(column.type), mask=column.is_null())
    return _listed(leaf, column, make)


def _listed(leaf: Leaf, column: pa.Array, make: _Make | None) -> pa.Array:
    if make is None:
        return pa.nulls(len(column), column.type)
    if not leaf.many:
        return make(leaf, column)
    if leaf.nested:
        items = column.flatten()
        parts = [make(one, pc.struct_field(items, one.path[-1])) for one in leaf.nested]
        made = pa.StructArray.from_arrays(parts, fields=list(items.type), mask=items.is_null())
    else:
        made = make(leaf, column.flatten())
    return pa.ListArray.from_arrays(list_offsets(column), made, type=column.type)


def _value(leaf: Leaf, values: pa.Array, mode: Mode, pseudonyms: Pseudonyms, namespace: str) -> pa.Array:
    if mode is Mode.REMOVE or (mode is Mode.COARSEN and leaf.kind not in (Kind.DAY, Kind.DECIMAL)):
        return pa.nulls(len(values), values.type)
    if mode is Mode.KEEP or leaf.cls not in TEXT_AT_REST:
        return values
    if mode is Mode.MASK:
        return pc.if_else(values.is_valid(), pa.scalar(text.MARK), pa.scalar(None, pa.string()))
    if leaf.cls in PSEUDONYMOUS:
        return values
    readable = pc.fill_null(pc.invert(pc.match_substring_regex(values, PSEUDONYM)), False)
    if mode is Mode.SCRUB:
        leaks = find_leaks(values)
        readable = pa.array([at in leaks for at in range(len(values))], pa.bool_())
        return _mapped(values, readable, text.scrub)
    if mode is Mode.COARSEN:
        return _coarser(leaf, values)
    space = leaf.extra.get("kind") or f"{leaf.cls.value}:{namespace}"
    named = pseudonyms.person if mode is Mode.TOKENIZE else pseudonyms.hashed
    return _mapped(values, readable, lambda value: named(space, value))


def _mapped(values: pa.Array, where: pa.Array, make: Callable[[str], str]) -> pa.Array:
    if not pc.any(where).as_py():
        return values
    made = [make(value) if here else value for value, here in zip(values.to_pylist(), where.to_pylist(), strict=True)]
    return pa.array(made, pa.string())


def _coarser(leaf: Leaf, values: pa.Array) -> pa.Array:
    """A readable day as its month, a readable amount as its band."""
    if leaf.kind is Kind.DAY:
        return _mapped(values, pc.fill_null(pc.match_substring_regex(values, _DAY), False), lambda day: day[:7])

    def band(amount: str) -> str:
        low = int(float(amount)) // SALARY_BAND * SALARY_BAND
        return f"{low}-{low + SALARY_BAND - 1}"

    return _mapped(values, pc.fill_null(pc.match_substring_regex(values, _AMOUNT), False), band)
