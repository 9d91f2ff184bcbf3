"""Stored rows under another policy without their source: never more than before, never more than allowed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teei_ingest.contracts.base import ENVELOPE, Leaf, leaves
from teei_ingest.contracts.fields import DataClass
from teei_ingest.contracts.stored import PSEUDONYM
from teei_ingest.redact.audit import audit
from teei_ingest.redact.policy import ALLOWED, FOUR, Mode, Policy, policy_for
from teei_ingest.redact.text import MARK
from teei_ingest.redact.tighten import tighten
from teei_ingest.redact.tokens import Pseudonyms
from teei_ingest_tests.feeding import contract_of, record
from teei_ingest_tests.test_redact import AT, STREAMS, redact, ring

SETTABLE = [(cls.value, mode) for cls in DataClass if cls is not DataClass.PUBLIC for mode in ALLOWED[cls]]
SETTABLE += [("email", Mode.MASK), ("jobTitle", Mode.KEEP), ("hireDate", Mode.KEEP), ("salary", Mode.HASH)]
POLICIES = st.lists(st.sampled_from(SETTABLE), max_size=5).map(dict)


def _stored(stream: str, privacy: dict[str, Any]) -> pa.Table:
    records = [record(stream, "r-1", AT), record(stream, "r-2", AT)]
    return pa.Table.from_batches([redact(stream, records, privacy).rows])


def _tightened(stream: str, rows: pa.Table, privacy: dict[str, Any]) -> pa.Table:
    return tighten(rows, contract_of(stream), policy_for("acme-corp", privacy), Pseudonyms.of(ring()))


def _values(leaf: Leaf, row: dict[str, Any]) -> Iterator[tuple[Leaf, Any]]:
    value: Any = row
    for name in leaf.path:
        value = None if value is None else value[name]
    for one in leaf.nested or (leaf,):
        for item in (value or []) if leaf.many else [value]:
            yield one, item[one.path[-1]] if leaf.nested else item


def _less(value: Any) -> bool:
    return value is None or value == MARK or (isinstance(value, str) and re.match(PSEUDONYM, value) is not None)


@given(stream=st.sampled_from(STREAMS), before=POLICIES, after=POLICIES)
@settings(max_examples=60, deadline=None)
def test_no_value_says_more_than_before_or_than_the_policy_allows(
    stream: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    old, fresh = _stored(stream, before), _stored(stream, after)
    made = _tightened(stream, old, after)
    assert made.schema == old.schema
    assert _tightened(stream, made, after) == made
    findings, _ = audit(made.to_batches(), contract_of(stream), policy_for("acme-corp", after))
    assert findings == {}
    policy: Policy = policy_for("acme-corp", after)
    for was, now, wanted in zip(old.to_pylist(), made.to_pylist(), fresh.to_pylist(), strict=True):
        for leaf in leaves(contract_of(stream)):
            if leaf.key in ENVELOPE:
                continue
            mine, theirs = list(_values(leaf, now)), list(_values(leaf, wanted))
            if len(mine) != len(theirs):
                assert not mine or all(value is None for _, value in theirs) or not theirs
                continue
            for (one, value), (_, ideal), (_, first) in zip(mine, theirs, _values(leaf, was), strict=False):
                mode = policy.mode(one)
                assert _less(value) or (mode not in FOUR and value in (ideal, first)), (one.name, mode)
                if mode is Mode.REMOVE or first is None:
                    assert value is None, one.name


@pytest.mark.parametrize("stream", STREAMS)
def test_rows_of_the_same_policy_stay_as_they_are(stream: str) -> None:
    for privacy in ({}, {"label": "hash"}, {"quasi": "keep"}, {"free_text": "scrub"}, {"label": "remove"}):
        rows = _stored(stream, privacy)
        assert _tightened(stream, rows, privacy) == rows


@pytest.mark.parametrize(
    ("stream", "before", "after"),
    [
        ("benevity_volunteers", {}, {"label": "hash", "email": "mask", "sensitive": "remove"}),
        ("buddy_checkins", {"free_text": "scrub"}, {"mood": "remove"}),
        ("workday_directory", {"quasi": "keep", "hireDate": "keep"}, {}),
        ("workday_directory", {"quasi": "keep"}, {"jobTitle": "tokenize", "hireDate": "mask"}),
        ("mentorship_placements", {"free_text": "scrub", "jobTitle": "keep"}, {"label": "mask"}),
    ],
)
def test_a_stricter_policy_gives_what_a_fresh_reading_gives(
    stream: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    assert _tightened(stream, _stored(stream, before), after).to_pylist() == _stored(stream, after).to_pylist()


def test_an_amount_becomes_its_band() -> None:
    rows = _stored("mentorship_placements", {})
    at = rows.schema.get_field_index("salary")
    rows = rows.set_column(at, "salary", pa.array(["52000.0000", "50000-59999"]))
    made = _tightened("mentorship_placements", rows, {})
    assert made["salary"].to_pylist() == ["50000-59999", "50000-59999"]


def test_no_rows() -> None:
    rows = _stored("buddy_checkins", {}).slice(0, 0)
    assert len(_tightened("buddy_checkins", rows, {"mood": "remove"})) == 0
