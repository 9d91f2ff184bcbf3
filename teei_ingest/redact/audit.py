"""The audit of what is at rest: stored rows against the released schema and against the policy, column by column.

Reads what any reader would read and believes nothing of what the writer said. Findings name a field, a rule and a
count, never a value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import date
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from teei_ingest.contracts.base import ENVELOPE, Data, Kind, Leaf, leaves
from teei_ingest.contracts.fields import DataClass
from teei_ingest.contracts.stored import PSEUDONYM, PSEUDONYMOUS, TEXT_AT_REST, limits
from teei_ingest.redact.apply import find_leaks
from teei_ingest.redact.policy import Mode, Policy

CONTRACT_RULES = ("required", "enum", "minimum", "maximum", "utc_day")
PRIVACY_RULES = ("pseudonym", "removed", "identifier")

Findings = dict[date, Counter[tuple[str, str]]]  # (field, rule) -> rows


def audit(batches: Iterable[pa.RecordBatch], contract: type[Data], policy: Policy) -> tuple[Findings, Counter[date]]:
    """What is wrong with stored rows, by day, and how many rows there are of each day."""
    findings: Findings = {}
    rows: Counter[date] = Counter()
    for batch in batches:
        days = batch.column("day").to_numpy(zero_copy_only=False).astype("datetime64[D]")
        for number, count in zip(*np.unique(days, return_counts=True), strict=True):
            rows[number.item()] += int(count)
        for field, rule, where in _breaches(batch, contract, policy):
            for number, count in zip(*np.unique(days[where], return_counts=True), strict=True):
                findings.setdefault(number.item(), Counter())[field, rule] += int(count)
    return findings, rows


def _breaches(batch: pa.RecordBatch, contract: type[Data], policy: Policy) -> Iterator[tuple[str, str, np.ndarray]]:
    """(field, rule, positions of the rows)."""
    moments = batch.column("source_timestamp").cast(pa.timestamp("us")).cast(pa.date32())
    yield from _where("sourceTimestamp", "utc_day", pc.not_equal(moments, batch.column("day")), None)
    for leaf in leaves(contract):
        if leaf.key in ENVELOPE and leaf.key != "source_id":
            continue
        column, rows = _column(batch, leaf)
        if leaf.nested:
            for nested in leaf.nested:
                yield from _leaf(nested, column.field(nested.path[-1]), rows, policy, f"{leaf.name}.{nested.name}")
        else:
            yield from _leaf(leaf, column, rows, policy, leaf.name)


def _column(batch: pa.RecordBatch, leaf: Leaf) -> tuple[pa.Array, np.ndarray | None]:
    """Values of a leaf, and for each the row it belongs to where a row may have several."""
    column = batch.column(leaf.path[0])
    if len(leaf.path) > 1:
        column = pc.struct_field(column, leaf.path[1])
    if not leaf.many:
        return column, None
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    return column.flatten(), np.repeat(np.arange(len(column)), lengths)


def _leaf(
    leaf: Leaf, values: pa.Array, rows: np.ndarray | None, policy: Policy, name: str
) -> Iterator[tuple[str, str, np.ndarray]]:
    mode = policy.mode(leaf)
    if mode is Mode.REMOVE:
        yield from _where(name, "removed", values.is_valid(), rows)
        return
    if leaf.required and leaf.cls is DataClass.PUBLIC:
        yield from _where(name, "required", values.is_null(), rows)
    if leaf.cls in PSEUDONYMOUS:
        yield from _where(name, "pseudonym", pc.invert(pc.match_substring_regex(values, PSEUDONYM)), rows)
    elif leaf.cls not in TEXT_AT_REST and leaf.enum is not None:
        listed = pa.array([member.value for member in leaf.enum])
        yield from _where(name, "enum", pc.and_(values.is_valid(), pc.invert(pc.is_in(values, listed))), rows)
    elif leaf.kind is Kind.MAP:
        found = sorted(find_leaks(values.keys))
        if found:
            owners = np.searchsorted(values.offsets.to_numpy(), found, side="right") - 1
            yield name, "identifier", np.unique(owners)
    elif values.type == pa.string():
        found = sorted(find_leaks(values))
        if found:
            at = np.array(found)
            yield name, "identifier", rows[at] if rows is not None else at
    elif leaf.cls not in TEXT_AT_REST:
        bounds = limits(leaf)
        if "ge" in bounds:
            yield from _where(name, "minimum", pc.less(values, _scalar(bounds["ge"], values)), rows)
        if "le" in bounds:
            yield from _where(name, "maximum", pc.greater(values, _scalar(bounds["le"], values)), rows)


def _scalar(bound: float, values: pa.Array) -> pa.Scalar:
    return pa.scalar(Decimal(int(bound)) if pa.types.is_decimal(values.type) else bound, values.type)


def _where(field: str, rule: str, breach: pa.Array, rows: np.ndarray | None) -> Iterator[tuple[str, str, np.ndarray]]:
    if pc.any(breach).as_py():
        at = np.flatnonzero(pc.fill_null(breach, False).to_numpy(zero_copy_only=False))
        yield field, rule, rows[at] if rows is not None else at
