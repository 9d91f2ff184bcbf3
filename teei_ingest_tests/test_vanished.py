"""Records that a source no longer sends stay, and are known by id as long as their rows are there."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from teei_ingest.companies import load_companies
from teei_ingest.defs import requeue
from teei_ingest.defs import vanished as dropping
from teei_ingest.errors import StoreError
from teei_ingest.privacy.erase import erase
from teei_ingest.privacy.identity import parse_identity
from teei_ingest.privacy.retention import keep
from teei_ingest.privacy.shred import shred
from teei_ingest.settings import Settings
from teei_ingest.store import open_store
from teei_ingest.store.presence import Presence
from teei_ingest.store.tables import Store
from teei_ingest.store.vanished import Vanished
from teei_ingest.streams import all_streams
from teei_ingest_tests.erasing import company_of
from teei_ingest_tests.feeding import ACME, NOW, Answering, Record, Reply, lists, stored, worker
from teei_ingest_tests.feeding import record as of
from teei_ingest_tests.filled import killed_after
from teei_ingest_tests.running import Home
from teei_ingest_tests.test_quarantine import Place as Typed
from teei_ingest_tests.test_quarantine import place as typed

__all__ = ["typed"]  # the fixture

DAYS = [date(2024, 1, 15) + timedelta(number) for number in range(3)]
STREAM = "benevity_volunteers"


@pytest.fixture
def place(home: Callable[..., Home], server: Answering) -> Home:
    server.answer = lists({})
    return home({ACME.slug: ACME.id}, server.environment())


def missing(place: Home) -> dict[date, set[str]]:
    """Ids of the events that are missing, by day."""
    files = Vanished(place.settings.home)
    return {day: set(files.ids(ACME.slug, STREAM, day)) for day in files.days(ACME.slug, STREAM)}


def records(*names: str, day: date = DAYS[0], stream: str = STREAM) -> list[Record]:
    return [of(stream, name, f"{day}T10:00:00Z") for name in names]


def read(place: Home, server: Answering, some: list[Record], *, days: list[date] = DAYS, now: datetime = NOW) -> None:
    server.answer = lists({STREAM: some})
    assert not worker(place, STREAM, now=now).both(days).bad


def lost(place: Home, server: Answering) -> str:
    """Of three records one is gone; the id of its event."""
    read(place, server, records("a", "b", "c"))
    before = {row["event_id"] for row in stored(place, STREAM)}
    read(place, server, records("a", "c"))
    assert {row["event_id"] for row in stored(place, STREAM)} == before
    ((_, (name,)),) = missing(place).items()
    return name


def test_a_version_of_the_open_day_supersedes_nothing_once_it_is_gone(place: Home, server: Answering) -> None:
    """Or a record that is deleted on the day of its change would be lost without a trace."""
    during = datetime(2024, 1, 16, 12, tzinfo=UTC)
    read(place, server, records("a"), days=DAYS[:1], now=during)
    read(place, server, records("a", day=DAYS[1]), days=DAYS[1:2], now=during)
    assert [row["day"] for row in stored(place, STREAM)].count(DAYS[0]) == 1

    read(place, server, [], days=DAYS[:2], now=during)

    assert [row["day"] for row in stored(place, STREAM)] == [DAYS[0]]
    assert set(missing(place)) == {DAYS[0]}


def test_the_list_says_since_when_and_nobody_else_reads_it(place: Home, server: Answering) -> None:
    first = NOW - timedelta(days=3)
    read(place, server, records("a", "b", "c"), now=first)
    read(place, server, records("a", "b"), now=first)
    read(place, server, records("a"), now=NOW)
    since = Vanished(place.settings.home).ids(ACME.slug, STREAM, DAYS[0])
    assert sorted(since.values()) == [first, NOW]
    (path,) = (place.settings.home / "vanished").rglob("*.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.relative_to(place.settings.home).as_posix() == f"vanished/{ACME.slug}/{STREAM}/{DAYS[0]}.json"
    assert set(json.loads(path.read_text())) == missing(place)[DAYS[0]]


@pytest.mark.parametrize("ends", ["comes back", "newer", "newer elsewhere"])
def test_it_leaves_the_list(place: Home, server: Answering, ends: str) -> None:
    lost(place, server)
    back = {
        "comes back": records("a", "b", "c"),
        "newer": [*records("a", "c"), of(STREAM, "b", f"{DAYS[0]}T11:00:00Z")],
        "newer elsewhere": [*records("a", "c"), *records("b", day=DAYS[2])],
    }[ends]
    read(place, server, back)
    assert missing(place) == {}
    assert len(stored(place, STREAM)) == 3
    assert not list((place.settings.home / "vanished").rglob("*.json"))


def test_a_sync_that_is_killed_leaves_a_true_list(place: Home, server: Answering) -> None:
    read(place, server, records("a", "b", "c"))
    before = stored(place, STREAM)
    for owner, name in ((Vanished, "replace"), (Store, "replace")):
        server.answer = lists({STREAM: records("a", "d")})
        with killed_after(owner, name, 1):
            worker(place, STREAM).both(DAYS)
        assert len(missing(place)[DAYS[0]]) == 2
        assert len(stored(place, STREAM)) == (3 if owner is Vanished else 4)
    read(place, server, records("a", "b", "c"))
    assert len(missing(place)[DAYS[0]]) == 1
    assert [row for row in stored(place, STREAM) if row["event_id"] not in missing(place)[DAYS[0]]] == before


def test_a_damaged_list_says_what_to_do(place: Home, server: Answering) -> None:
    name = lost(place, server)
    (path,) = (place.settings.home / "vanished").rglob("*.json")
    path.write_text("[")
    (bad,) = worker(place, STREAM).both(DAYS[:1]).bad
    assert f"{path} is damaged: remove it" in str(bad.error)
    path.unlink()
    read(place, server, records("a", "c"))
    assert missing(place) == {DAYS[0]: {name}}


def test_an_erasure_takes_the_id_along(place: Home, server: Answering) -> None:
    name = lost(place, server)
    email = all_streams()[STREAM].example["userEmail"]
    with killed_after(Vanished, "forget", 1):
        erase(place.settings, company_of(place), parse_identity(email))
    assert name in {row["event_id"] for row in stored(place, STREAM)}
    assert not list((place.settings.home / "vanished").rglob("*.json"))


def test_retention_and_the_end_of_a_company_take_ids_along(place: Home, server: Answering) -> None:
    lost(place, server)
    read(place, server, records("d", day=DAYS[2]), days=DAYS[2:])
    read(place, server, [], days=DAYS[2:])
    assert set(missing(place)) == {DAYS[0], DAYS[2]}
    place.environ["TEEI_EVENTS_TTL_D"] = "10"
    keep(place.settings, open_store(place.settings), datetime(2024, 1, 27, tzinfo=UTC))
    files = Vanished(place.settings.home)
    assert files.days(ACME.slug, STREAM) == [DAYS[2]]
    shred(place.settings, company_of(place), stop=lambda: 0, forget=lambda: True)
    assert not files.folder(ACME.slug).exists()


# --- the files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Vanished, Presence])
def test_days_that_are_said_are_replaced_and_no_other(kind: type[Vanished], tmp_path: Path) -> None:
    files, other = kind(tmp_path), kind(tmp_path / "other")
    east = timezone(timedelta(hours=9))
    first, later = datetime(2024, 2, 1, 3, tzinfo=east), datetime(2024, 2, 2, tzinfo=UTC)
    files.replace("acme", "one", DAYS, {DAYS[0]: ["a", "b"], DAYS[1]: ["c"]}, first)
    files.replace("acme", "two", DAYS[:1], {DAYS[0]: ["a"], DAYS[2]: ["x"]}, first)
    files.replace("globex", "one", DAYS, {DAYS[1]: ["a"]}, first)
    assert files.days("acme", "one") == DAYS[:2] and files.days("acme", "two") == DAYS[:1], "as was said"
    assert files.streams("acme") == ["one", "two"]
    files.replace("acme", "one", DAYS[:1], {DAYS[0]: ["b", "d"]}, later)
    found = files.ids("acme", "one", DAYS[0])
    assert found == {"b": first, "d": later} and {moment.utcoffset() for moment in found.values()} == {timedelta(0)}
    path = files.folder("acme") / "one" / f"{DAYS[0]}.json"
    written = path.stat().st_ino, path.read_bytes()
    files.replace("acme", "one", DAYS[:1], {DAYS[0]: ["b", "d"]}, later + timedelta(1))
    assert (path.stat().st_ino, path.read_bytes()) == written, "nothing has changed"
    files.replace("acme", "one", DAYS[:1], {}, later)
    assert files.days("acme", "one") == DAYS[1:2] and files.ids("acme", "one", DAYS[0]) == {}
    assert other.days("acme", "one") == other.streams("acme") == []

    files.forget("acme", ["a", "nobody"])
    assert files.streams("acme") == ["one"] and files.days("globex", "one") == DAYS[1:2]
    files.forget_before(DAYS[1])
    assert files.days("acme", "one") == files.days("globex", "one") == DAYS[1:2]
    files.forget_before(DAYS[2])
    assert files.streams("acme") == files.streams("globex") == []
    files.replace("acme", "one", DAYS, {DAYS[0]: ["a"]}, first)
    files.forget_company("acme")
    assert not files.folder("acme").exists() and files.folder("globex").exists()
    files.forget_company("acme")


@pytest.mark.parametrize("kind", [Vanished, Presence])
@pytest.mark.parametrize("damage", ["", "[", "7", "[1]", "\udcff", '{"a": 7}', '{"a": "soon"}'])
def test_what_is_damaged_or_no_file_is_one_line(kind: type[Vanished], tmp_path: Path, damage: str) -> None:
    files = kind(tmp_path)
    files.replace("acme", "one", DAYS, {DAYS[0]: ["a"]}, NOW)
    path = files.folder("acme") / "one" / f"{DAYS[0]}.json"
    path.write_text(damage, errors="surrogateescape")
    with pytest.raises(StoreError, match=f"damaged: remove it, {files.remedy}") as caught:
        files.ids("acme", "one", DAYS[0])
    assert str(path) in str(caught.value) and caught.value.__cause__ is caught.value.__context__ is None
    path.unlink()
    path.mkdir()
    for use in (
        lambda: files.ids("acme", "one", DAYS[0]),
        lambda: files.replace("acme", "one", DAYS, {DAYS[0]: ["b"]}, NOW),
    ):
        with pytest.raises(StoreError, match="Is a directory"):
            use()


# --- `teei vanished` ----------------------------------------------------------------------------------------------

# One for each way of paging.
SOME = ["workday_directory", "buddy_matches"]


def three(stream: str) -> list[Record]:
    return [of(stream, f"{stream}-{n}", f"{DAYS[0]}T10:0{n}:00Z") for n in range(3)]


def vanish(typed: Typed, *streams: str, left: int = 1) -> dict[str, set[str]]:
    """Of three records `left` are there when the day is read again; the ids of the others, by stream."""
    typed.served.answer = lists({stream: three(stream) for stream in streams})
    typed.sync(*streams)
    before = {stream: typed.rows(stream) for stream in streams}
    typed.served.answer = lists({stream: three(stream)[:left] for stream in streams})
    typed.sync(*streams)
    kept = {stream: min(before[stream].values(), key=lambda row: row["source_timestamp"]) for stream in streams}
    return {stream: set(before[stream]) - ({kept[stream]["event_id"]} if left else set()) for stream in streams}


@pytest.mark.parametrize(
    "names", [SOME, pytest.param(list(all_streams()), marks=pytest.mark.machine)], ids=["some", "all"]
)
def test_what_is_carried_is_listed_and_dropped_and_the_figures_stay_true(typed: Typed, names: list[str]) -> None:
    gone = vanish(typed, *names)
    found = typed.vanished("list")
    assert {(one["stream"], one["day"], one["records"]) for one in found} == {(name, f"{DAYS[0]}", 2) for name in names}
    assert {one["stream"]: {event["id"] for event in one["events"]} for one in found} == gone
    before = {name: typed.rows(name) for name in names}
    counts = dict.fromkeys(names, 2)
    assert typed.vanished("drop", "--dry-run") == {
        "company": ACME.slug,
        "dropped": False,
        "events": counts,
        "errors": {},
    }
    assert typed.vanished("list") == found and {name: typed.rows(name) for name in names} == before
    assert typed.acts() == []
    asked = len(typed.served.asked)

    done = typed.vanished("drop", "--why", "deleted there")

    assert done == {"company": ACME.slug, "dropped": True, "events": counts, "errors": {}}
    assert len(typed.served.asked) == asked and typed.vanished("list") == []
    for name in names:
        assert typed.rows(name) == {key: row for key, row in before[name].items() if key not in gone[name]}
        figures = typed.metadata(f"{name}_events")
        assert (figures["kept"], figures["carried"], figures["dagster/row_count"]) == (1, 0, 1)
        assert typed.figures(name) == (1, 1, 0, 0, 0, 0)
        assert set(typed.checks(name).values()) == {"SUCCEEDED"}
        left = open_store(Settings.load()).texts(all_streams()[name].contract, ACME.slug)
        assert gone[name].isdisjoint(left), "for good"
    (started, _, _), (dropped, why, _) = typed.acts()
    assert (started, dropped, why) == ("vanished.drop_started", "vanished.dropped", "deleted there")

    typed.served.answer = lists({name: three(name) for name in names})
    typed.sync(*names)
    assert {name: typed.rows(name) for name in names} == before, "what is sent again is kept again"


def test_a_drop_takes_only_what_was_asked_for(typed: Typed) -> None:
    one, two = "benevity_donations", "buddy_matches"
    gone = vanish(typed, one, two)
    assert typed.vanished("drop", "--stream", one, "--from", f"{DAYS[1]}")["events"] == {}
    assert typed.vanished("drop", "--stream", one, "--to", f"{DAYS[0]}")["events"] == {one: 2}
    assert gone[two] <= typed.rows(two).keys() and len(typed.rows(one)) == 1
    assert "2 events of 1 partitions" in typed.good("vanished", "list", "--company", ACME.slug)
    assert "nothing is carried" in typed.good("vanished", "list", "--company", ACME.slug, "--stream", one)


def test_a_drop_of_everything_that_is_stored(typed: Typed) -> None:
    name = "mentorship_placements"
    vanish(typed, name, left=0)
    assert typed.vanished("drop")["events"] == {name: 3}
    assert typed.rows(name) == {} and typed.figures(name) == (0, 0, 0, 0, 0, 0)
    assert typed.metadata(f"{name}_events")["dagster/row_count"] == 0


def test_a_failed_partition_stays_as_it_is(typed: Typed) -> None:
    """Or a drop would make it look complete."""
    good, bad = "buddy_matches", "benevity_donations"
    gone = vanish(typed, good, bad)
    typed.served.answer = lambda ask: Reply(b"{}", 403) if ask.stream == bad else lists({})(ask)
    code, _, _ = typed.teei(
        "sync", "--company", ACME.slug, "--from", f"{DAYS[0]}", "--to", f"{DAYS[0]}", "--stream", bad
    )
    assert code == 4
    code, out, _ = typed.teei("vanished", "drop", "--company", ACME.slug)
    assert code == 5 and f"{DAYS[0]} is failed" in out and f"✔ {good}" in out
    assert gone[bad] <= typed.rows(bad).keys() and len(typed.rows(good)) == 1
    assert typed.teei("sync", "--failed")[0] == 4, "it is still failed"


@pytest.mark.long
def test_a_drop_that_is_killed_is_finished_by_the_next(typed: Typed) -> None:
    """Killed after each of its steps in turn; what was done is done again."""
    stream, company = "kintell_enrollments", load_companies(Settings.load()).get(ACME.slug)
    gone = vanish(typed, stream)[stream]
    steps: list[tuple[Any, str]] = [(Store, "replace"), (requeue, "_report"), (Store, "purge"), (Vanished, "forget")]
    for owner, name in steps:
        assert typed.vanished("list")[0]["records"] == 2
        with killed_after(owner, name, 1):
            list(dropping.drop(company, {stream: [DAYS[0]]}))
        assert gone.isdisjoint(typed.rows(stream))
    assert typed.vanished("list") == []
    assert typed.metadata(f"{stream}_events")["carried"] == 0 and typed.figures(stream) == (1, 1, 0, 0, 0, 0)
    assert gone.isdisjoint(open_store(Settings.load()).texts(all_streams()[stream].contract, ACME.slug))


def test_an_unknown_company_or_stream_is_one_line(typed: Typed) -> None:
    for command in ("list", "drop"):
        assert typed.teei("vanished", command, "--company", "nobody")[0] == 2
        code, _, err = typed.teei("vanished", command, "--company", ACME.slug, "--stream", "buddy")
        assert code == 2 and len(err.splitlines()) == 1
