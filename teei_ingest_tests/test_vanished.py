"""Records that a source no longer sends stay, and are known by id as long as their rows are there."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta

import pytest

from teei_ingest.privacy.erase import erase
from teei_ingest.privacy.identity import parse_identity
from teei_ingest.privacy.retention import keep
from teei_ingest.privacy.shred import shred
from teei_ingest.store import open_store
from teei_ingest.store.tables import Store
from teei_ingest.store.vanished import Vanished
from teei_ingest.streams import all_streams
from teei_ingest_tests.erasing import company_of
from teei_ingest_tests.feeding import ACME, NOW, Answering, Record, answering, lists, stored, worker
from teei_ingest_tests.feeding import record as of
from teei_ingest_tests.filled import killed_after
from teei_ingest_tests.running import Home

DAYS = [date(2024, 1, 15) + timedelta(number) for number in range(3)]
STREAM = "benevity_volunteers"


@pytest.fixture(scope="module")
def server() -> Iterator[Answering]:
    with answering(lists({})) as served:
        yield served


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
