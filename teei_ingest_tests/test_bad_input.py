"""What sources and people get wrong: a clear one-line error or a quarantined record, and what was stored stays.

Settings, the registry of companies, full disks and permissions are tested where they are read or written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from teei_ingest.errors import MissingCredentials, SettingsError, UsageError
from teei_ingest.settings import Settings
from teei_ingest.streams import all_streams
from teei_ingest_tests.feeding import (
    ACME,
    Answering,
    Ask,
    Reply,
    lists,
    page,
    quarantined,
    record,
    stored,
    worker,
)
from teei_ingest_tests.running import Home, failures

DAY = date(2024, 1, 15)
STREAMS = sorted(all_streams())
SECRETS = ("kari.hidden@acme.example", "secret-in-a-body")
BODY = json.dumps({"error": SECRETS[0], "message": SECRETS[1]}).encode()
HTML = f"<!doctype html><title>{SECRETS[0]}</title> {SECRETS[1]}".encode()

FAULTS: dict[str, tuple[Reply, str]] = {
    "401": (Reply(BODY, 401), "bad_credentials"),
    "403": (Reply(BODY, 403), "not_allowed"),
    "404": (Reply(BODY, 404), "source_misbehaves"),
    "422": (Reply(BODY, 422), "source_misbehaves"),
    "500": (Reply(BODY, 500), "source_down"),
    "HTML": (Reply(HTML, headers={"Content-Type": "text/html"}), "source_misbehaves"),
    "a cut body": (Reply(BODY, missing=100), "source_down"),
    "JSON that ends early": (Reply(BODY[:-5]), "source_down"),
    "an empty body": (Reply(b""), "source_misbehaves"),
    "an array": (Reply(b"[" + BODY + b"]"), "source_misbehaves"),
    "another object": (Reply(BODY), "source_misbehaves"),
}


@pytest.fixture
def place(home: Callable[..., Home], server: Answering) -> Home:
    server.asked.clear()
    server.tokens = 0
    server.answer = lists({})
    return home({ACME.slug: ACME.id}, server.environment())


def everything(place: Home) -> dict[str, list[dict[str, Any]]]:
    return {stream: stored(place, stream) for stream in STREAMS}


def told(result: dg.ExecuteInProcessResult) -> str:
    """All that Dagster has heard of a run."""
    return "\n".join(str(event) for event in result.all_events)


def second_page(fault: Callable[[str], Reply]) -> Callable[[Ask], Reply]:
    """A good page, and then what is wrong."""

    def answer(ask: Ask) -> Reply:
        if not ask.is_first:
            return fault(ask.stream)
        records = [record(ask.stream, f"new-{ask.stream}", "2024-01-15T10:00:00Z")]
        return Reply(page(ask.stream, records, following="further"))

    return answer


# The other statuses are tried for each stream by itself in `conformance/`.
@pytest.mark.parametrize("name", [*sorted(FAULTS.keys() - {"401", "404", "422", "500"}), "null where a list belongs"])
def test_a_faulty_reply_fails_the_partition_and_keeps_what_it_had(place: Home, server: Answering, name: str) -> None:
    old = {stream: [record(stream, f"old-{stream}", "2024-01-15T09:00:00Z")] for stream in STREAMS}
    server.answer = lists(old)
    for stream in STREAMS:
        worker(place, stream).both([DAY])
    before = everything(place)
    assert all(len(rows) == 1 for rows in before.values())

    def fault(stream: str) -> Reply:
        return FAULTS[name][0] if name in FAULTS else Reply(page(stream, None))

    server.asked.clear()
    server.answer = second_page(fault)
    result = place.materialize(ACME.slug, DAY, DAY)
    code = FAULTS[name][1] if name in FAULTS else "source_misbehaves"

    assert not result.success
    messages = failures(result)
    assert len(messages) == len(STREAMS)
    for stream in STREAMS:
        message = next(text for text in messages if f"/{stream} " in text)
        assert message.startswith("1 partitions failed and keep what they had: acme-corp|2024-01-15: ")
        assert "\n" not in message
    reasons = [
        str(value.value)
        for event in result.all_events
        if event.is_step_failure and event.step_failure_data.user_failure_data
        for value in event.step_failure_data.user_failure_data.metadata.values()
    ]
    assert {reason.partition(":")[0] for reason in reasons} == {code}
    assert not [secret for secret in SECRETS if secret in told(result)]
    assert not [event for event in result.all_events if event.is_step_materialization]
    assert everything(place) == before


@pytest.mark.parametrize("stream", ["benevity_volunteers", "workday_directory"])
@pytest.mark.parametrize(
    ("token", "code"),
    [
        (Reply(BODY, 401), "bad_credentials"),
        (Reply(BODY, 400), "bad_credentials"),
        (Reply(BODY, 500), "source_down"),
        (Reply(HTML), "source_misbehaves"),
        (Reply(BODY), "source_misbehaves"),
    ],
)
def test_a_token_that_is_not_given(place: Home, server: Answering, stream: str, token: Reply, code: str) -> None:
    good = server.token
    server.token = token
    try:
        outcome = worker(place, stream).both([DAY])
    finally:
        server.token = good

    error = outcome.bad[0].error
    assert error is not None
    assert error.code == code
    assert not [secret for secret in SECRETS if secret in str(error)]
    assert server.asked == []


@pytest.mark.parametrize("stream", ["goodera_donations", "kintell_enrollments", "workday_directory"])
def test_a_page_that_repeats_is_an_error(place: Home, server: Answering, stream: str) -> None:
    same = [record(stream, f"r-{number}", f"2024-01-15T10:00:0{number}Z") for number in range(3)]
    server.answer = lambda ask: Reply(page(stream, same, following=f"cursor {ask.number}", total=9))

    outcome = worker(place, stream).both([DAY])

    error = outcome.bad[0].error
    assert error is not None
    assert error.code == "source_misbehaves"
    assert "sent before" in str(error)
    assert stored(place, stream) == []
    assert len(server.asked) <= 10


MISSING = "BENEVITY_ACME_CORP_CLIENT_ID", "BENEVITY_ACME_CORP_CLIENT_SECRET"


@pytest.mark.parametrize(
    ("taken", "named"),
    [
        (MISSING, MISSING),
        (MISSING[1:], MISSING[1:]),
        (("BENEVITY_ACME_CORP_TENANT_ID",), ("BENEVITY_ACME_CORP_TENANT_ID",)),
        (("BENEVITY_API_URL",), ("BENEVITY_API_URL",)),
    ],
)
def test_missing_credentials_are_named_before_any_request(
    place: Home, server: Answering, taken: tuple[str, ...], named: tuple[str, ...]
) -> None:
    for name in taken:
        del place.environ[name]
    with pytest.raises(MissingCredentials) as caught:
        worker(place, "benevity_volunteers")
    assert caught.value.names == named

    result = place.materialize(ACME.slug, DAY, DAY, ["benevity_volunteers", "buddy_matches"])

    assert not result.success
    (message,) = failures(result)
    assert message.startswith("1 partitions failed and keep what they had: acme-corp|2024-01-15: ")
    assert all(name in message for name in named)
    assert "\n" not in message
    assert [ask for ask in server.asked if ask.stream != "buddy_matches"] == []
    assert server.tokens == 0
    assert [event.asset_key for event in result.all_events if event.is_step_materialization] == [
        dg.AssetKey("buddy_matches"),
        dg.AssetKey("buddy_matches_events"),
    ]


def test_an_unknown_company_is_an_error(place: Home, server: Answering) -> None:
    with pytest.raises(UsageError, match=r"no company 'acme-crop'.*acme-corp"):
        worker(place, "buddy_matches", company="acme-crop")
    assert server.asked == []


@pytest.mark.parametrize("key", ["dG9vIHNob3J0", "bm90IGJhc2U2NA=", "A" * 44 + "AAAA"])
def test_a_master_key_of_the_wrong_length(place: Home, server: Answering, key: str) -> None:
    with pytest.raises(SettingsError, match="TEEI_MASTER_KEY") as caught:
        Settings.load(place.environ | {"TEEI_MASTER_KEY": key})
    assert key not in str(caught.value)
    assert server.asked == []


def test_a_company_without_a_system_is_an_error_when_asked_for_by_name(place: Home, server: Answering) -> None:
    file = Path(place.environ["TEEI_COMPANIES"])
    file.write_text(file.read_text() + "  systems: [buddy]\n")

    result = place.materialize(ACME.slug, DAY, DAY, ["goodera_volunteers", "buddy_matches"])

    (message,) = failures(result)
    assert "does not use this system" in message
    assert {ask.stream for ask in server.asked} == {"buddy_matches"}
    materialized = {str(event.asset_key) for event in result.all_events if event.is_step_materialization}
    assert materialized == {str(dg.AssetKey("buddy_matches")), str(dg.AssetKey("buddy_matches_events"))}


# --- records ----------------------------------------------------------------------------------------------------


BROKEN: list[tuple[str, dict[str, Any], str, str]] = [
    ("benevity_donations", {"amount": "abc"}, "amount", "amount"),
    ("benevity_donations", {"amount": "NaN"}, "amount", "amount"),
    ("benevity_donations", {"amount": "1e3"}, "amount", "amount"),
    ("benevity_donations", {"amount": "-1.00"}, "amount", "amount"),
    ("benevity_donations", {"amount": -1}, "amount", "greater_than_equal"),
    ("benevity_donations", {"amount": "0.00001"}, "amount", "amount_precision"),
    ("benevity_donations", {"amount": None}, "amount", "missing"),
    ("benevity_donations", {"currency": "XYZ"}, "currency", "currency"),
    ("benevity_donations", {"currency": "nok"}, "currency", "currency"),
    ("goodera_donations", {"company_match/amount": "abc"}, "companyMatch.matchAmount", "amount"),
    ("benevity_volunteers", {"hoursLogged": -1}, "hoursLogged", "greater_than_equal"),
    ("benevity_volunteers", {"hoursLogged": "4"}, "hoursLogged", "number"),
    ("benevity_volunteers", {"hoursLogged": True}, "hoursLogged", "number"),
    ("benevity_volunteers", {"activityDate": "0001-01-01T00:00:00Z"}, "activityDate", "instant"),
    ("benevity_volunteers", {"activityDate": "9999-12-31"}, "activityDate", "instant"),
    ("benevity_volunteers", {"activityDate": "2024-02-30T00:00:00Z"}, "activityDate", "instant"),
    ("goodera_volunteers", {"sdg_goals": [18]}, "sdgGoals", "less_than_equal"),
    ("goodera_volunteers", {"sdg_goals": [0]}, "sdgGoals", "greater_than_equal"),
    ("workday_directory", {"urn:ietf:params:scim:schemas:extension:workday:2.0:User/hireDate": "0"}, "hireDate", "day"),
    ("kintell_enrollments", {"status": "paused"}, "status", "enum"),
    ("kintell_enrollments", {"progress_percentage": 101}, "completionPercentage", "less_than_equal"),
    ("mentorship_placements", {"rating": 6}, "outcome.rating", "less_than_equal"),
    ("buddy_checkins", {"mood": "ecstatic"}, "mood", "enum"),
    (
        "buddy_checkins",
        {"goal_progress": [{"goal": "x", "percentage": 140}]},
        "goalProgress.percentage",
        "less_than_equal",
    ),
]


@pytest.mark.parametrize(("stream", "changes", "field", "rule"), BROKEN, ids=lambda value: str(value)[:40])
def test_a_record_that_breaks_its_contract_is_quarantined(
    place: Home, server: Answering, stream: str, changes: Mapping[str, Any], field: str, rule: str
) -> None:
    bad = record(stream, "bad", "2024-01-15T10:00:01Z", changes)
    good = [record(stream, f"g-{number}", f"2024-01-15T10:00:0{number}Z") for number in (0, 2)]
    server.answer = lists({stream: [good[0], bad, good[1]]})

    (partition,) = worker(place, stream).both([DAY]).good

    assert (partition.fetched, partition.kept, partition.quarantined) == (3, 2, 1)
    (entry,) = quarantined(place, stream, DAY)
    assert (entry.field, entry.rule) == (field, rule)
    assert json.loads(entry.record) == bad
    assert len(stored(place, stream)) == 2


def test_a_number_that_json_does_not_know_is_an_error(place: Home, server: Answering) -> None:
    """NaN is no JSON (RFC 8259): nobody can say what else in such a reply is meant."""
    bad = record("benevity_donations", "bad", "2024-01-15T10:00:01Z", {"amount": float("nan")})
    server.answer = lists({"benevity_donations": [bad]})

    (partition,) = worker(place, "benevity_donations").both([DAY]).bad

    assert "JSON" in str(partition.error)
    assert stored(place, "benevity_donations") == []
