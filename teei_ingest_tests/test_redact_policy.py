"""What a company may set, how a refusal reads, and the audit that believes nothing of what the writer did."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

import pyarrow as pa
import pytest

from teei_ingest.contracts import VolunteerEvent
from teei_ingest.contracts.base import leaves
from teei_ingest.contracts.stored import arrow_schema
from teei_ingest.errors import SettingsError
from teei_ingest.redact.audit import Findings, audit
from teei_ingest.redact.policy import ALLOWED, DEFAULTS, Mode, policy_for
from teei_ingest.streams import all_streams
from teei_ingest_tests.feeding import contract_of, record
from teei_ingest_tests.test_redact import AT, STREAMS, redact

DAY = date(2024, 1, 15)


@pytest.mark.parametrize(
    ("privacy", "message"),
    [
        ({"email": "keep"}, "`email` is direct and cannot be set to keep"),
        ({"direct": "scrub"}, "`direct` is direct and cannot be set to scrub"),
        ({"person_ref": "keep"}, "`person_ref` is person_ref and cannot be set to keep"),
        ({"mentorId": "coarsen"}, "`mentorId` is person_ref and cannot be set to coarsen"),
        ({"receiptNumber": "keep"}, "`receiptNumber` is document_ref and cannot be set to keep"),
        ({"free_text": "keep"}, "`free_text` is free_text and cannot be set to keep"),
        ({"label": "keep"}, "`label` is label and cannot be set to keep"),
        ({"mood": "hash"}, "`mood` is sensitive and cannot be set to hash"),
        ({"hoursLogged": "mask"}, "`hoursLogged` is public and cannot be set to mask"),
        ({"hoursLogged": "remove"}, "`hoursLogged` cannot be removed: every event of its contract has it"),
        ({"shoeSize": "remove"}, "`shoeSize` is neither a class, a kind nor a field"),
        ({"email": "encrypt"}, "`email` has the mode `encrypt`; one of hash, mask, remove"),
        ({"email": None}, "`email` has the mode `None`"),
        ({"email": ["hash"]}, "`email` has the mode"),
        ({"allowed_fields": "jobTitle"}, "`allowed_fields` is a list of field names"),
        ({"allowed_fields": [1]}, "`allowed_fields` is a list of field names"),
        ({"allowed_fields": ["shoeSize"]}, "`allowed_fields` names `shoeSize`, which is no field"),
        ({"allowed_fields": ["free_text"]}, "`allowed_fields` names `free_text`, which is no field"),
        ({"allowed_fields": ["email"]}, "`email` identifies a person"),
        ({"allowed_fields": ["firstName"]}, "`firstName` identifies a person"),
        ({"allowed_fields": ["mentorName"]}, "`mentorName` identifies a person"),
        ({"allowed_fields": ["managerId"]}, "`managerId` identifies a person"),
        ({"allowed_fields": ["outcome.certificateId"]}, "`outcome.certificateId` identifies a person"),
    ],
)
def test_a_setting_that_is_refused_names_field_and_reason(privacy: Mapping[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        policy_for("acme-corp", privacy)
    assert message in str(caught.value)
    assert "privacy of acme-corp" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_public_remove_leaves_what_a_contract_requires() -> None:
    policy = policy_for("acme-corp", {"public": "remove"})
    modes = policy.fields(VolunteerEvent)
    assert (modes["hoursLogged"], modes["sourceId"]) == (Mode.KEEP, Mode.KEEP)
    assert (modes["nonprofitId"], modes["sdgGoals"]) == (Mode.REMOVE, Mode.REMOVE)


def test_every_default_is_a_mode_that_may_be_set() -> None:
    policy = policy_for("acme-corp", {})
    for stream in all_streams().values():
        for leaf in leaves(stream.contract):
            for one in leaf.nested or (leaf,):
                assert policy.mode(one) in ALLOWED[one.cls], one.name


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_every_class_and_kind_can_be_removed(name: str) -> None:
    assert policy_for("acme-corp", {name: "remove"}).overrides == {name: Mode.REMOVE}


def test_the_version_names_the_content() -> None:
    one = policy_for("acme-corp", {"email": "mask", "mood": "remove", "allowed_fields": ["jobTitle"]})
    same = policy_for("globex-inc", {"allowed_fields": ["jobTitle"], "mood": "remove", "email": "mask"})
    assert one.version == same.version
    others = [{}, {"email": "mask"}, {"email": "mask", "mood": "remove"}, {"email": "hash"}]
    versions = {policy_for("acme-corp", other).version for other in others} | {one.version}
    assert len(versions) == 5


def test_versions_have_not_changed() -> None:
    """Committed: another one says that all stored events are of an older policy, so it goes with a new REVISION."""
    assert policy_for("acme-corp", {}).version == "9dedeef91faa"
    assert policy_for("acme-corp", {"email": "mask", "allowed_fields": ["jobTitle"]}).version == "09cf79ba399a"


def test_a_fields_own_name_counts_before_that_of_its_kind() -> None:
    (leaf,) = (one for one in leaves(contract_of("workday_directory")) if one.name == "email")
    rules = [
        policy_for("acme-corp", privacy).rule(leaf)
        for privacy in ({}, {"direct": "mask"}, {"direct": "mask", "email": "remove"})
    ]
    assert [(one.mode, one.source, one.name) for one in rules] == [
        (Mode.HASH, "default", "email"),
        (Mode.MASK, "company", "direct"),
        (Mode.REMOVE, "company", "email"),
    ]


# --- the audit ---------------------------------------------------------------------------------------------------


def audited(stream: str, rows: list[dict[str, Any]], privacy: Mapping[str, Any] | None = None) -> Findings:
    contract = contract_of(stream)
    batch = pa.RecordBatch.from_pylist(rows, schema=arrow_schema(contract))
    findings, counted = audit([batch], contract, policy_for("acme-corp", privacy or {}))
    assert sum(counted.values()) == len(rows)
    return findings


def stored_rows(stream: str) -> list[dict[str, Any]]:
    """Two rows of one day and one of the next."""
    moments = (AT, "2024-01-15T11:00:00Z", "2024-01-16T10:00:00Z")
    records = [record(stream, f"r{n}", moment) for n, moment in enumerate(moments)]
    found: list[dict[str, Any]] = redact(stream, records).rows.to_pylist()
    return found


@pytest.mark.parametrize("stream", STREAMS)
def test_what_was_redacted_passes_the_audit(stream: str) -> None:
    assert audited(stream, stored_rows(stream)) == {}


@pytest.mark.parametrize(
    ("stream", "column", "value", "field", "rule"),
    [
        ("benevity_volunteers", "user_id", "kari@acme.example", "userId", "pseudonym"),
        ("benevity_volunteers", "user_id", "t1_ABC", "userId", "pseudonym"),
        ("benevity_volunteers", "verified_by", "Per Hansen", "verifiedBy", "pseudonym"),
        ("benevity_volunteers", "activity_name", "Call +47 912 34 567", "activityName", "identifier"),
        ("benevity_volunteers", "tags", ["x", "kari@acme.example"], "tags", "identifier"),
        ("benevity_volunteers", "cause_area", "kari@acme.example", "causeArea", "identifier"),
        ("benevity_volunteers", "source_id", "kari@acme.example", "sourceId", "identifier"),
        ("benevity_volunteers", "activity_description", "Sorted food", "activityDescription", "removed"),
        ("benevity_volunteers", "activity_name", None, "activityName", ""),
        ("benevity_volunteers", "hours_logged", None, "hoursLogged", "required"),
        ("benevity_volunteers", "hours_logged", -1.0, "hoursLogged", "minimum"),
        ("benevity_volunteers", "activity_type", "gardening", "activityType", "enum"),
        ("benevity_volunteers", "day", date(2024, 1, 14), "sourceTimestamp", "utc_day"),
        ("goodera_volunteers", "sdg_goals", [4, 18], "sdgGoals", "maximum"),
        ("goodera_volunteers", "impact_metrics", [("a", 1.0), ("004791234567", 1.0)], "impactMetrics", "identifier"),
        ("workday_directory", "email", "kari@acme.example", "email", "pseudonym"),
        ("workday_directory", "job_title", "Engineer", "jobTitle", "removed"),
        ("workday_directory", "department", "kari@acme.example", "department", "identifier"),
        ("buddy_checkins", "goal_progress", [{"goal": "x", "percentage": 1.0}], "goalProgress.goal", "removed"),
        (
            "buddy_checkins",
            "goal_progress",
            [{"goal": None, "percentage": 101.0}],
            "goalProgress.percentage",
            "maximum",
        ),
        ("buddy_events", "attendees", ["t1_" + "0" * 32, "Ola"], "attendees", "pseudonym"),
    ],
)
def test_the_audit_finds_what_was_written_behind_the_writers_back(
    stream: str, column: str, value: Any, field: str, rule: str
) -> None:
    rows = stored_rows(stream)
    rows[1][column] = value
    found = audited(stream, rows)
    day = value if column == "day" else DAY
    assert found == ({day: {(field, rule): 1}} if rule else {})
    assert all(str(value) not in repr(key) for key in found)


def test_the_audit_holds_rows_against_the_policy() -> None:
    rows = stored_rows("workday_directory")
    assert audited("workday_directory", rows, {"email": "mask"}) == {}  # another pseudonym is no breach
    found = audited("workday_directory", rows, {"email": "remove", "hireDate": "remove"})
    assert found[DAY] == {("email", "removed"): 2, ("hireDate", "removed"): 2}
    assert found[date(2024, 1, 16)] == {("email", "removed"): 1, ("hireDate", "removed"): 1}


TOKEN = "t1_" + "0" * 32


@pytest.mark.parametrize(
    ("stream", "column", "values", "rule"),
    [
        ("buddy_events", "attendees", [None, [TOKEN] * 3, [TOKEN, "Ola"]], "pseudonym"),
        ("buddy_events", "attendees", [[TOKEN], [], ["Ola", TOKEN]], "pseudonym"),
        ("benevity_volunteers", "tags", [None, ["a", "b", "c"], ["d", "kari@acme.example"]], "identifier"),
        ("benevity_volunteers", "tags", [[], ["a"], ["kari@acme.example", "d"]], "identifier"),
        ("goodera_volunteers", "sdg_goals", [None, [1, 2, 3], [4, 18]], "maximum"),
        ("goodera_volunteers", "sdg_goals", [[1], [2], [0]], "minimum"),
        ("goodera_volunteers", "impact_metrics", [None, [("a", 1.0)], [("004791234567", 1.0)]], "identifier"),
        (
            "goodera_volunteers",
            "impact_metrics",
            [[("a", 1.0), ("b", 1.0)], [], [("004791234567", 1.0), ("004791234568", 1.0)]],
            "identifier",
        ),
    ],
)
def test_the_audit_names_the_day_of_what_is_in_a_list(stream: str, column: str, values: list[Any], rule: str) -> None:
    rows = stored_rows(stream)
    for row, value in zip(rows, values, strict=True):
        row[column] = value
    (field,) = (leaf.name for leaf in leaves(contract_of(stream)) if leaf.key == column)
    assert audited(stream, rows) == {date(2024, 1, 16): {(field, rule): 1}}
