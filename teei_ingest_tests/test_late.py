"""A change that arrives late lands on the day of its change: what a sync without a first day reads again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from datetime import UTC, date, datetime, time, timedelta
from functools import reduce
from operator import getitem
from random import Random

import pytest

from teei_ingest.companies import load_companies
from teei_ingest.errors import SettingsError, UsageError
from teei_ingest.sandbox.app import Sandbox
from teei_ingest.sandbox.faults import Plan
from teei_ingest.sandbox.server import SandboxConfig, environment, serving
from teei_ingest.settings import Settings
from teei_ingest.streams import all_streams
from teei_ingest.streams.base import Cursor, PageNumber, StartIndex
from teei_ingest.sync import plan_refetch
from teei_ingest.systems import all_systems
from teei_ingest_tests.extracting import Clock
from teei_ingest_tests.feeding import ACME, Record, lists, put, record, stored, worker
from teei_ingest_tests.running import Home
from teei_ingest_tests.second_opinion.data import some
from teei_ingest_tests.second_opinion.oracle import (
    VIEWS,
    Bindings,
    Expected,
    compare,
    current_rows,
    expect,
    refetched,
    rows_of,
)
from teei_ingest_tests.second_opinion.oracle import Partition as Part
from teei_ingest_tests.second_opinion.server import Server
from teei_ingest_tests.test_quarantine import Place, place

__all__ = ["place"]  # the fixture

DAYS = [date(2024, 1, 15) + timedelta(number) for number in range(6)]
LAST = DAYS[-1]
# One for each way of paging.
STREAMS = [
    next(name for name, one in all_streams().items() if isinstance(one.paging, kind))
    for kind in (PageNumber, StartIndex, Cursor)
]


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("", (3, 3)),
        ("5", (5, 5)),
        ("0", (0, 0)),
        ("workday_directory=14", (3, 14)),
        ("2, workday_directory=14 buddy_events=0", (2, 14)),
        (" 2,workday_directory=0", (2, 0)),
    ],
)
def test_how_far_back_is_a_setting_for_each_stream(text: str, days: tuple[int, int]) -> None:
    found = Settings.load({"TEEI_LOOK_BACK_DAYS": text}).look_back_days
    assert (found.of("benevity_volunteers"), found.of("workday_directory")) == days
    assert Settings.load({"TEEI_LOOK_BACK_DAYS": f"{found}"}).look_back_days == found


@pytest.mark.parametrize("text", ["-1", "three", "1.5", "a=", "=b", "99999", "3 4", "a=1, a=2"])
def test_a_look_back_that_says_nothing_is_one_line(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^TEEI_LOOK_BACK_DAYS: has to be days, .*workday_directory=14`$"):
        Settings.load({"TEEI_LOOK_BACK_DAYS": text})


def windows(home: Home, last: str | None = None, *names: str, **settings: str) -> dict[tuple[str, str], list[str]]:
    """First and last day of each run, and its streams."""
    home.environ.update({f"TEEI_{name.upper()}": value for name, value in settings.items()})
    found = plan_refetch(home.settings, load_companies(home.settings), ACME.slug, last, names, today=date(2024, 3, 11))
    return {(f"{one.window.first}", f"{one.window.last}"): list(one.streams) for one in found}


def test_streams_with_the_same_days_share_a_run(home: Callable[..., Home]) -> None:
    made = home({ACME.slug: ACME.id}, credentials())
    usual = ("2024-03-07", "2024-03-10")
    assert windows(made) == {usual: list(all_streams())}
    assert windows(made, "2024-03-11") == {("2024-03-08", "2024-03-11"): list(all_streams())}, "the open day"
    some = ("buddy_events", "benevity_donations")
    assert windows(made, None, *some) == {usual: ["benevity_donations", "buddy_events"]}
    assert windows(made, None, *some, look_back_days="0") == {
        ("2024-03-10",) * 2: ["benevity_donations", "buddy_events"]
    }
    found = windows(made, look_back_days="3 workday_directory=14 buddy_events=14 kintell_sessions=0")
    assert found.pop(("2024-02-25", "2024-03-10")) == ["workday_directory", "buddy_events"]
    assert found.pop(("2024-03-10", "2024-03-10")) == ["kintell_sessions"]
    assert len(found.pop(usual)) == 9 and not found


def test_nothing_before_the_first_day_is_read(home: Callable[..., Home]) -> None:
    made = home({ACME.slug: ACME.id}, credentials())
    assert windows(made, "2024-01-02", look_back_days="9999") == {("2024-01-01", "2024-01-02"): list(all_streams())}
    assert windows(made, start_date="2024-03-11", look_back_days="3") == {("2024-03-11",) * 2: list(all_streams())}
    with pytest.raises(UsageError, match="is before the first day, 2024-03-11"):
        windows(made, "2024-03-10")
    with pytest.raises(UsageError, match="has not begun"):
        windows(made, "2024-03-12")
    with pytest.raises(SettingsError, match=r"^TEEI_LOOK_BACK_DAYS: there is no stream 'buddy_event'; "):
        windows(made, look_back_days="buddy_event=3")


def changed(stream: str) -> Callable[[Record], str]:
    """When a record of the stream was changed, as internal systems sort them."""
    path = all_streams()[stream].source_timestamp.split("/")
    return lambda one: str(reduce(getitem, path, one))


def credentials() -> dict[str, str]:
    """Of a server that nobody asks."""
    return ACME.environment() | {one.url_variable: "http://127.0.0.1:1" for one in all_systems().values()}


def test_a_late_change_lands_on_its_day_and_each_window_is_read_once(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page, index, cursor = STREAMS
    monkeypatch.setenv("TEEI_LOOK_BACK_DAYS", f"1 {index}=2 {cursor}=0")
    begins = {page: DAYS[-2], index: DAYS[-3], cursor: LAST}
    days = DAYS[2:]
    usual = {name: [record(name, f"{name}-{day}", f"{day}T10:00:00Z") for day in days] for name in STREAMS}
    chosen = [word for name in STREAMS for word in ("--stream", name)]
    place.served.answer = lists(usual)
    place.good("sync", "--company", ACME.slug, "--from", f"{days[0]}", "--to", f"{LAST}", *chosen)
    before = {name: place.rows(name) for name in STREAMS}

    def late(name: str) -> list[date]:
        """One day that is looked at again, and one that is not."""
        return [begins[name], begins[name] - timedelta(1)]

    new = {name: [record(name, f"late-{day}", f"{day}T23:59:59.999999Z") for day in late(name)] for name in STREAMS}
    place.served.answer = lists({name: sorted(usual[name] + new[name], key=changed(name)) for name in STREAMS})
    place.served.asked.clear()
    out = place.good("sync", "--company", ACME.slug, "--to", f"{LAST}", *chosen)

    assert [line.split(" · ")[1] for line in out.splitlines() if " · run " in line] == [
        f"{first} … {LAST}" for first in sorted(begins.values())
    ]
    assert Counter(ask.stream for ask in place.served.asked if ask.is_first) == dict.fromkeys(STREAMS, 1)
    for name in STREAMS:
        now = place.rows(name)
        (added,) = (row for key, row in now.items() if key not in before[name])
        assert added["day"] == begins[name] and {key: now[key] for key in before[name]} == before[name]
        for day in days[days.index(begins[name]) :]:
            figures = place.metadata(f"{name}_events", day)
            assert (figures["late"], figures["unchanged"]) == ((1, False) if day == begins[name] else (0, True))
            assert figures["window"].startswith(f"{begins[name]}T00:00Z/"), "materialized by the second run"


def test_several_windows_are_one_reply(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("buddy_matches", "buddy_checkins")
    monkeypatch.setenv("TEEI_LOOK_BACK_DAYS", f"1 {names[1]}=0")
    place.served.answer = lists({name: [record(name, f"{day}", f"{day}T10:00:00Z") for day in DAYS] for name in names})
    chosen = [word for name in names for word in ("--stream", name)]
    reply = json.loads(place.good("sync", "--company", ACME.slug, "--to", f"{LAST}", *chosen, "--json"))
    assert (reply["success"], reply["summary"]) == (True, {"total": 1, "successful": 1, "failed": 0})
    assert reply["results"][0]["data"]["summary"] == {"matches": 2, "checkins": 1, "events": 0}


def test_without_days_it_is_the_last_closed_one_and_those_before_it(place: Place) -> None:
    out = place.good("sync", "--company", ACME.slug, "--stream", "buddy_matches")
    _, days, many, _ = out.splitlines()[0].split(" · ")
    first, last = map(date.fromisoformat, days.split(" … "))
    assert (last - first, many) == (timedelta(3), "4 days")
    assert timedelta(1) <= datetime.now(UTC).date() - last <= timedelta(2)  # midnight may have passed since
    assert {ask.query["since"] for ask in place.served.asked} == {f"{first}T00:00:00Z"}


@pytest.mark.parametrize("stream", STREAMS)
def test_a_record_of_the_sandbox_that_comes_late_is_there_after_the_next_sync(
    stream: str, home: Callable[..., Home]
) -> None:
    clock = Clock()
    clock.now = datetime(2024, 1, 21, 1, tzinfo=UTC).timestamp()
    config = SandboxConfig(companies={ACME.slug: ACME.id}, quota=False, spread=0)
    sandbox = Sandbox(config, clock)
    with serving(sandbox) as running:
        made = home({ACME.slug: ACME.id}, environment(config, running.url))

        def read(days: list[date]) -> int:
            ingest = worker(made, stream, page_size=4, clock=clock, sleep=clock.sleep)
            outcome = ingest.both(days)
            assert not outcome.bad
            return sum(one.late for one in outcome.good)

        assert read(DAYS[:4]) == 0
        fault = {"fault": "record-late", "stream": stream, "days": 2, "page": 1}
        sandbox.faults = Plan.parse({"seed": 1, "faults": [fault]})
        assert read(DAYS[4:5]) == 0
        assert sandbox.faults.fired == [1]
        before = {row["event_id"] for row in stored(made, stream)}
        companies = load_companies(made.settings)
        (request,) = plan_refetch(made.settings, companies, ACME.slug, None, [stream], today=date(2024, 1, 21))
        assert read(request.window.days) == 1
        new = [row for row in stored(made, stream) if row["event_id"] not in before]
        assert Counter(row["day"] for row in new if row["day"] < LAST) == {DAYS[2]: 1}


# --- the second opinion -------------------------------------------------------------------------------------------

TODAY = date(2024, 1, 18)  # still open; its day and those before it are read
READ = [[date(2024, 1, 15) + timedelta(n) for n in days] for days in (range(4), range(3), range(1, 4), range(4))]


def fresh(stream: str, rng: Random, day: date, count: int) -> list[Record]:
    """Records of a day, in a directory each of somebody else."""
    made = some(rng.randrange(2**32), ACME, stream, day, count)
    for one in made if stream == "workday_directory" else ():
        one["id"] = f"{rng.randrange(2**64):x}"
    return made


def lived(records: Sequence[Record], stream: str, rng: Random, gone: dict[str, Record]) -> list[Record]:
    """The records some time later: some changed, some vanished, some came late, some came back."""
    made: list[Record] = []
    for one in records:
        chance = rng.random()
        if chance < 0.2:
            gone[one["id"]] = one
        elif chance < 0.4:
            made.append(deepcopy(one))
            minute = rng.randrange(60)
            put(made[-1], all_streams()[stream].source_timestamp, f"{rng.choice(READ[0])}T23:{minute:02}:30Z")
        else:
            made.append(one)
    made += fresh(stream, rng, rng.choice(READ[0][:3]), 2)
    made += [gone.pop(name) for name in list(gone) if rng.random() < 0.4]
    return made


@pytest.mark.parametrize(
    "stream", [pytest.param(name, marks=() if name in STREAMS else pytest.mark.machine) for name in all_streams()]
)
def test_windows_that_are_read_again_hold_what_the_oracle_says(stream: str, home: Callable[..., Home]) -> None:
    rng, gone = Random(stream), dict[str, Record]()
    records = [one for day in READ[0] for one in fresh(stream, rng, day, 6)]
    made, bindings = home({ACME.slug: ACME.id}, {}), Bindings()
    stored_now: Expected = {}
    fates: Counter[str] = Counter()
    for days in READ:
        data = {(ACME.slug, stream): records}
        with Server(data, [ACME], seed=len(gone)) as server:
            made.environ.update(server.environment())
            now = datetime.combine(TODAY, time(12), UTC)
            outcome = worker(made, stream, now=now, page_size=7).both(days)
        assert not outcome.bad
        read = expect(data, [ACME], days[0], days[-1])
        before, stored_now = stored_now, refetched(stored_now, read, TODAY)
        rows = made.sql(f"SELECT * FROM {VIEWS[stream]}")
        differences = compare(rows_of(stored_now), rows, bindings)
        differences += compare(current_rows(stored_now), made.sql(f"SELECT * FROM current_{VIEWS[stream]}"), bindings)
        assert not differences, "\n".join(differences[:20])
        for partition in outcome.good:
            part, earlier = (them.get((ACME.slug, stream, partition.day), Part()) for them in (stored_now, before))
            old = {(row.record, row.at) for row in (*earlier.rows, *earlier.carried)}
            late = sum((row.record, row.at) not in old for row in part.rows) if old and partition.day < TODAY else 0
            assert (partition.kept, partition.carried) == (len(part.rows), len(part.carried)), partition.day
            assert partition.late == late, partition.day
            fates += Counter(
                carried=len(part.carried), late=late, gone=len(old) + late - len(part.rows) - len(part.carried)
            )
        records = lived(records, stream, rng, gone)
    assert min(fates[name] for name in ("carried", "late", "gone")) > 0, fates
