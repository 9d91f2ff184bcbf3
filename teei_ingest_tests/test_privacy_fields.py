"""`teei privacy fields`: every field that is sent and every column that is stored, with what decides about it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from teei_ingest.cli.app import run
from teei_ingest.contracts.base import leaves
from teei_ingest.contracts.fields import DataClass
from teei_ingest.contracts.stored import arrow_schema
from teei_ingest.mapping.plan import plan
from teei_ingest.privacy.inventory import Item, fields
from teei_ingest.redact.policy import Mode, Policy, policy_for
from teei_ingest.streams import all_streams
from teei_ingest_tests.conftest import MASTER_KEY
from teei_ingest_tests.feeding import contract_of

STREAMS = sorted(all_streams())


def _fields(stream: str, privacy: dict[str, Any] | None = None) -> list[Item]:
    return fields(policy_for("acme-corp", privacy or {}), {stream: all_streams()[stream]})


def _one(stream: str, field: str, privacy: dict[str, Any] | None = None) -> Item:
    (found,) = [item for item in _fields(stream, privacy) if item.field == field]
    return found


@pytest.mark.parametrize("stream", STREAMS)
def test_every_column_and_every_wire_value_is_there(stream: str) -> None:
    found = _fields(stream)
    columns = {item.column.split(".")[0].removesuffix("[]") for item in found if item.column}
    assert columns == set(arrow_schema(contract_of(stream)).names)
    said = {path.split("[]")[0] for item in found for path in item.wire}
    compiled = plan(stream)
    slots = {slot.path for field in compiled.fields for slot in field.slots} | {slot.path for slot in compiled.names}
    assert slots | {compiled.source_id.path, compiled.source_timestamp.path} <= said
    sent = set(compiled.stream.example)
    assert sent <= {path.split("/")[0] for path in said}, "a field of the example is missing"


@pytest.mark.parametrize("stream", STREAMS)
def test_mode_and_class_are_those_of_the_policy(stream: str) -> None:
    by_column = {item.column: item for item in _fields(stream)}
    for leaf in leaves(contract_of(stream)):
        for one in leaf.nested or (leaf,):
            item = by_column[leaf.key if one is leaf else f"{leaf.key}[].{one.path[-1]}"]
            assert (item.cls, item.mode) == (one.cls, Policy({}).mode(one))
            assert item.why
            if one.cls is DataClass.PUBLIC:
                assert item.why == one.extra["reason"]


@pytest.mark.parametrize(
    ("field", "privacy", "mode", "rule", "why"),
    [
        ("email", {}, "hash", "default: email", "the default of the kind email"),
        ("firstName", {}, "remove", "default: direct", "the default of the class direct"),
        ("hireDate", {}, "coarsen", "default: hireDate", "the default of the field hireDate"),
        ("department", {}, "keep", "default: public", "what hours are attributed to"),
        ("email", {"direct": "mask"}, "mask", "company: direct", "the company sets the class direct"),
        ("email", {"email": "mask"}, "mask", "company: email", "the company sets the kind email"),
        ("jobTitle", {"jobTitle": "hash"}, "hash", "company: jobTitle", "the company sets the field jobTitle"),
        ("jobTitle", {"allowed_fields": ["jobTitle"]}, "keep", "allowed_fields: jobTitle", "the company allows it"),
    ],
)
def test_what_decides_is_said(field: str, privacy: dict[str, Any], mode: str, rule: str, why: str) -> None:
    item = _one("workday_directory", field, privacy)
    assert (item.mode, item.rule, item.why) == (mode, rule, why)


def test_the_way_from_the_vendors_name() -> None:
    assert _one("benevity_volunteers", "location.city").wire == ("location/city",)
    nested = _one("buddy_checkins", "goalProgress[].goal")
    assert (nested.wire, nested.column, nested.mode) == (("goal_progress[]/goal",), "goal_progress[].goal", "remove")
    assert _one("benevity_volunteers", "userId").wire == ("userEmail", "userId")
    assert _one("buddy_matches", "sourceSystem").wire == ()
    left = {item.wire[0]: item for item in _fields("mentorship_placements") if not item.column}
    assert left["sessions[]/notes"].why == "no contract names it"
    assert left["sessions[]/notes"].mode is Mode.REMOVE


def test_what_no_policy_takes_away_is_said_to_be_kept() -> None:
    privacy = {"public": "remove"}
    kept = {item.field for item in _fields("buddy_matches", privacy) if item.mode is Mode.KEEP and item.field}
    assert {"sourceSystem", "sourceTimestamp", "companyId", "sourceId", "matchedAt"} <= kept
    assert _one("buddy_matches", "matchingCriteria.location", privacy).mode is Mode.REMOVE


def test_the_command(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "companies.yaml"
    file.write_text(
        "companies:\n  - id: 550e8400-e29b-41d4-a716-446655440000\n    slug: acme-corp\n    name: Acme\n"
        "    privacy:\n      mood: remove\n"
    )
    monkeypatch.setenv("TEEI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TEEI_COMPANIES", str(file))
    monkeypatch.setenv("TEEI_MASTER_KEY", MASTER_KEY)
    assert run(["privacy", "fields", "--company", "acme-corp", "--stream", "buddy_checkins", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    moods = [one for one in answer["fields"] if one["field"] == "mood"]
    assert [(one["mode"], one["rule"], one["wire"]) for one in moods] == [("remove", "company: mood", ["mood"])]
    assert {one["stream"] for one in answer["fields"]} == {"buddy_checkins"}
    assert run(["privacy", "fields"]) == 0
    shown = capsys.readouterr().out
    assert all(stream in shown for stream in STREAMS)
    file.write_text(file.read_text().replace("mood: remove", "mood: hush"))
    assert run(["privacy", "fields", "--company", "acme-corp"]) == 3
    told = capsys.readouterr().err
    assert "companies.yaml, line 6, mood" in told
    assert "hush" in told
