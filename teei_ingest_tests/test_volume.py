"""Days with far fewer records than such days had before: they warn, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest

from teei_ingest.cli.app import run
from teei_ingest.pipeline.volume import low, needed
from teei_ingest.streams import all_streams
from teei_ingest_tests.feeding import ACME, Answering, Ask, Reply, page, record, stored, worker
from teei_ingest_tests.running import Home, failures

STREAM = "benevity_volunteers"
MONDAY = date(2024, 3, 4)
LAST = MONDAY + timedelta(70)


def week(*counts: int) -> dict[date, int]:
    """Ten weeks from a Monday on, each with these counts of Monday to Sunday, and the Monday after them."""
    return {MONDAY + timedelta(number): counts[number % 7] for number in range(71)}


OFFICE = (12, 14, 13, 12, 10, 0, 0)


def warned(counts: Mapping[date, int]) -> dict[date, str]:
    return {day: str(one) for day, one in low(counts, counts).items()}


@pytest.mark.parametrize(
    ("counts", "on"),
    [
        (week(*OFFICE), {}),  # neither a week-end without any
        (week(*OFFICE), {3: 4, 24: 4, 66: 60}),  # nor a quiet day among such, nor a campaign
        (week(*[100] * 7), dict.fromkeys(range(28), 24)),  # nor before there is a month of history
        (week(2, 0, 0, 1, 0, 0, 0), {}),  # nor a company that has hardly any
        (week(0, 0, 0, 0, 0, 0, 0), {}),
        ({}, {}),
        ({MONDAY + timedelta(n): 30 for n in range(7)} | {MONDAY + timedelta(7): 0}, {}),
    ],
)
def test_what_is_as_usual(counts: dict[date, int], on: dict[int, int]) -> None:
    counts |= {MONDAY + timedelta(number): count for number, count in on.items()}
    assert warned(counts) == {}


@pytest.mark.parametrize(
    ("counts", "on", "says"),
    [
        (week(*OFFICE), 0, "0 records where that weekday had 12 before"),
        (week(*OFFICE), 2, "2 records where that weekday had 12 before"),
        (week(*[1000] * 7), 249, "249 records where that weekday had 1000 before"),
    ],
)
def test_far_fewer(counts: dict[date, int], on: int, says: str) -> None:
    found = warned(counts | {LAST: on})
    assert list(found) == [LAST]
    assert found[LAST].startswith(says)


def test_days_that_are_too_small_are_judged_by_their_week() -> None:
    """From the day on that makes the week too small, on days that have some otherwise."""
    found = warned(week(2, 2, 2, 2, 2, 0, 0) | {LAST - timedelta(number): 0 for number in range(7)})
    assert found == {
        LAST - timedelta(3): "no records, and its last 7 days 2 where they had 10 before",
        LAST: "no records, and its last 7 days 0 where they had 10 before",
    }


def test_an_outage_and_a_campaign_are_no_measure() -> None:
    counts = week(*OFFICE)
    for number in (7, 14, 21):  # three weeks back to back, of eight
        counts |= {LAST - timedelta(number): 0}
    counts |= {LAST - timedelta(28): 5_000}
    assert warned(counts | {LAST: 0})[LAST] == "0 records where that weekday had 12 before"
    assert LAST not in warned(counts | {LAST: 12})


def test_a_pause_becomes_what_is_usual() -> None:
    counts = week(*OFFICE) | {LAST - timedelta(n): 0 for n in range(42)}
    found = warned(counts)
    assert min(found) == LAST - timedelta(41)
    assert LAST not in found and len(found) < 30


def test_no_more_is_asked_for_than_is_looked_at() -> None:
    counts = week(*OFFICE) | {LAST: 0}
    days = needed([LAST], MONDAY)
    assert low({day: count for day, count in counts.items() if day in days}, [LAST]) == low(counts, [LAST])
    assert (len(days), max(days)) == (63, LAST)
    for none, start in (([], MONDAY), ([LAST], LAST - timedelta(27))):
        assert needed(none, start) == set()


# --- the check --------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(home: Callable[..., Home], server: Answering) -> Home:
    return home({ACME.slug: ACME.id}, server.environment())


def sends(counts: Mapping[date, int], at: str = "10:00:00") -> Callable[[Ask], Reply]:
    """So many records of each day, the same whenever they are asked for."""

    def answer(ask: Ask) -> Reply:
        first, last = (date.fromisoformat(ask.query[name][:10]) for name in ("since", "until"))
        records = [
            record(STREAM, f"{day}-{number}", f"{day}T{at}Z")
            for day, count in counts.items()
            if first <= day < last
            for number in range(count)
        ]
        return Reply(page(STREAM, records))

    return answer


def evaluated(place: Home, first: date, last: date) -> dict[date, dg.AssetCheckEvaluation]:
    """Evaluations of `contract` by day, of a run that succeeds."""
    result = place.materialize(ACME.slug, first, last, [STREAM])
    assert result.success
    kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    found = [event.asset_check_evaluation_data for event in result.all_events if event.event_type is kind]
    return {date.fromisoformat(str(one.partition)[-10:]): one for one in found if one.check_name == "contract"}


def warnings(evaluations: Mapping[date, dg.AssetCheckEvaluation]) -> dict[date, str | None]:
    bad = {day: one for day, one in evaluations.items() if not one.passed}
    assert {one.severity for one in bad.values()} <= {dg.AssetCheckSeverity.WARN}
    return {day: one.description for day, one in bad.items()}


def test_a_day_without_records_warns_and_is_mended(place: Home, server: Answering) -> None:
    counts = {day: count for day, count in week(*OFFICE).items() if day <= MONDAY + timedelta(28)}
    day = max(counts)
    server.answer = sends(counts | {day: 0})
    found = evaluated(place, MONDAY, day)
    assert len(found) == 29
    assert warnings(found) == {day: f"acme-corp|{day} has 0 records where that weekday had 12 before"}
    assert found[day].metadata["breaches"].value == {"records: as many as such days had before": 12}
    server.answer = sends(counts)
    assert warnings(evaluated(place, day, day)) == {}
    server.answer = sends(counts | {day: 0})
    before = stored(place, STREAM)
    assert list(warnings(evaluated(place, day, day))) == [day], "what is carried over was not sent"
    assert stored(place, STREAM) == before


def test_a_refusal_is_no_quiet_day(place: Home, server: Answering) -> None:
    """Of no stream: that the source said 403 to the first request and there was nothing before makes no success."""
    server.answer = lambda ask: Reply(b"{}", 403)
    result = place.materialize(ACME.slug, MONDAY, MONDAY)
    assert not result.success
    assert len(failures(result)) == len(all_streams())
    assert not [event for event in result.all_events if event.is_step_materialization]
    assert not [event for event in result.all_events if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION]


def test_records_that_have_changed_since_were_not_too_few(place: Home, server: Answering) -> None:
    """A source shows a record on the day of its last change, so that an old day that is read again has fewer."""
    counts = {MONDAY + timedelta(number): 12 for number in range(36)}
    day, later = max(counts), max(counts) + timedelta(1)
    server.answer = sends(counts)
    worker(place, STREAM).both(list(counts))
    moved = [record(STREAM, f"{day}-{number}", f"{later}T10:00:00Z") for number in range(12)]
    server.answer = lambda ask: Reply(page(STREAM, moved if ask.query["until"][:10] > f"{later}" else []))
    worker(place, STREAM).both([later])
    assert warnings(evaluated(place, day, day)) == {}
    assert not stored(place, STREAM, day=day)


def test_who_syncs_is_told_and_not_of_the_open_day(
    place: Home, server: Answering, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    today = datetime.now(UTC).date()
    yesterday = today - timedelta(1)
    counts = {yesterday - timedelta(number): 12 for number in range(1, 36)}
    server.answer = sends(counts)
    worker(place, STREAM, now=datetime.now(UTC)).both(sorted(counts))
    for name, value in {**place.environ, "DAGSTER_HOME": str(place.settings.home / "dagster")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(place.path)
    asked = ["--company", ACME.slug, "--stream", STREAM, "--from", f"{yesterday}", "--to", f"{today}"]
    assert run(["sync", *asked]) == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("! ")]
    assert warnings == [f"! {STREAM} acme-corp|{yesterday} has 0 records where that weekday had 12 before"]
