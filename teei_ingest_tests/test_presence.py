"""Who is gone from a directory: `directory_presence` reads the whole of it, and `present` says so."""

from __future__ import annotations

import json
import random
import stat
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Literal

import dagster as dg
import pytest

from teei_ingest.defs import presence
from teei_ingest.defs.build import build
from teei_ingest.defs.partitions import PARTITION, key
from teei_ingest.errors import StoreError
from teei_ingest.privacy.erase import erase
from teei_ingest.privacy.identity import parse_identity
from teei_ingest.privacy.retention import keep
from teei_ingest.privacy.rotate import rotate_company
from teei_ingest.privacy.shred import shred
from teei_ingest.store import open_store
from teei_ingest.store.presence import GONE, READ, SCHEMAS, Presence, no_tables
from teei_ingest_tests.erasing import KARI, WORKDAY, company_of
from teei_ingest_tests.feeding import ACME, Answer, Answering, Ask, Record, Reply, lists, page, worker
from teei_ingest_tests.feeding import record as of
from teei_ingest_tests.running import Home, failures
from teei_ingest_tests.second_opinion.data import generate
from teei_ingest_tests.second_opinion.oracle import expect
from teei_ingest_tests.second_opinion.server import Company, Server

STREAM = "workday_directory"
DAYS = [date(2024, 1, 15) + timedelta(number) for number in range(3)]
GLOBEX = Company("globex-inc", "550e8400-e29b-41d4-a716-446655440001")

Said = dict[str, bool | None]


@pytest.fixture
def place(home: Callable[..., Home], server: Answering) -> Home:
    server.answer = lists({})
    server.asked.clear()
    return home({ACME.slug: ACME.id}, {**server.environment(), "TEEI_MAX_RETRIES": "0"})


def person(name: str, day: date = DAYS[0]) -> Record:
    """Their job level is their name, which is stored as it is."""
    return of(STREAM, f"wd-{name}", f"{day}T10:00:00Z", {f"{WORKDAY}/jobLevel": name})


def people(names: str) -> list[Record]:
    return [person(name) for name in names]


def sync(place: Home, server: Answering, some: list[Record], company: str = ACME.slug) -> None:
    server.answer = lists({STREAM: some})
    assert not worker(place, STREAM, company=company).both(DAYS).bad


def look(place: Home, server: Answering, answer: Answer | list[Record] | None = None) -> dg.ExecuteInProcessResult:
    """A run of the weekly job, while the directory has these people."""
    if answer is not None:
        server.answer = lists({STREAM: answer}) if isinstance(answer, list) else answer
    job = build(place.environ).resolve_job_def(presence.NAME)
    return job.execute_in_process(instance=place.instance, raise_on_error=False)


def said(place: Home, company: str = ACME.slug) -> Said:
    """What `present` is of each person."""
    rows = place.sql(f"SELECT job_level, present FROM current_directory_entries WHERE company = '{company}'")
    return {row["job_level"]: row["present"] for row in rows}


def noted(place: Home) -> set[str]:
    """Ids of the events of those who are gone."""
    files = Presence(place.settings.home)
    return {name for day in files.days(ACME.slug, STREAM) for name in files.ids(ACME.slug, STREAM, day)}


def test_who_is_gone_from_the_whole_directory_is_not_present(place: Home, server: Answering) -> None:
    sync(place, server, people("abc"))
    assert said(place) == dict.fromkeys("abc"), "it was never read as a whole"
    result = look(place, server, people("ac"))
    assert result.success
    metadata = result.asset_materializations_for_node("make_directory_presence")[0].metadata
    assert (metadata["people"].value, metadata["gone"].value) == (2, 1)
    assert said(place) == {"a": True, "b": False, "c": True}

    sync(place, server, people("acd"))
    assert said(place) == {"a": True, "b": False, "c": True, "d": True}, "who came since is there"
    sync(place, server, [*people("acd"), person("b", DAYS[1])])
    assert said(place) == dict.fromkeys("abcd", True), "who came back changed is there"
    look(place, server, people("cd"))
    assert said(place) == {"a": False, "b": False, "c": True, "d": True}
    look(place, server, people("abcd"))
    assert said(place) == dict.fromkeys("abcd", True), "who came back unchanged is there once it was read again"
    assert place.sql("SELECT count(*) AS n FROM directory_entries")[0]["n"] == 4, "no event has changed"


def test_whose_record_is_bad_or_new_is_there(place: Home, server: Answering) -> None:
    sync(place, server, people("ab"))
    bad = person("a")
    bad["userName"] = 7
    look(place, server, [bad, person("b", DAYS[2]), person("new")])
    assert said(place) == {"a": True, "b": True}


@pytest.mark.parametrize("mode", ["tokenize", "hash", "mask", "remove"])
def test_without_a_token_of_the_record_nothing_is_said(mode: str, home: Callable[..., Home], server: Answering) -> None:
    place = home({ACME.slug: ACME.id}, server.environment(), acme_corp={"person_ref": mode})
    sync(place, server, people("ab"))
    look(place, server, people("b"))
    if mode in ("tokenize", "hash"):
        assert said(place) == {"a": False, "b": True}
    else:
        assert set(said(place).values()) == {None}


@pytest.mark.parametrize("scim_filter", ["supported", "invalid"])
def test_many_pages_whether_the_server_filters_or_not(
    scim_filter: Literal["supported", "invalid"], home: Callable[..., Home]
) -> None:
    world = generate(seed=6, companies=[ACME, GLOBEX], first=DAYS[0], last=DAYS[1], per_day=30, with_bad=False)
    place = home({one.slug: one.id for one in world.companies}, {})
    with Server(world.records, world.companies, scim_page=7) as server:
        place.environ.update(server.environment())
        for one in world.companies:
            assert not worker(place, STREAM, company=one.slug).both(world.days).bad
    some = {slug: random.Random(1).sample(world.records[slug, STREAM], 20) for slug in (ACME.slug, GLOBEX.slug)}
    left = {(slug, STREAM): [one for one in world.records[slug, STREAM] if one not in some[slug]] for slug in some}
    with Server(left, world.companies, scim_filter=scim_filter, scim_page=7) as server:
        place.environ.update(server.environment())
        job = build(place.environ).resolve_job_def(presence.NAME)
        assert job.execute_in_process(instance=place.instance).success
    inside = expect(world.records, world.companies, world.first, world.last)
    for slug, gone in some.items():
        rows = place.sql(
            f"SELECT present, count(*) AS n FROM current_directory_entries WHERE company = '{slug}' GROUP BY 1"
        )
        every = {row.record[2] for day in world.days for row in inside[slug, STREAM, day].rows}
        lost = every & {one["id"] for one in gone}
        assert {row["present"]: row["n"] for row in rows} == {True: len(every - lost), False: len(lost)}
        assert len(lost) > 10


def moving(names: str, times: int) -> Answer:
    """The total changes while the list is read, so many times."""
    left = times

    def answer(ask: Ask) -> Reply:
        nonlocal left
        first = ask.query["startIndex"] == "1"
        if not first and left:
            left -= 1
            return Reply(page(STREAM, people(names[1:]), total=len(names) + 1))
        return Reply(page(STREAM, people(names[:1] if first else names[1:]), total=len(names)))

    return answer


def test_a_directory_that_moves_is_read_again(place: Home, server: Answering) -> None:
    sync(place, server, people("abc"))
    assert look(place, server, moving("ab", 2)).success
    assert said(place) == {"a": True, "b": True, "c": False}
    assert not look(place, server, moving("bc", 3)).success
    assert said(place) == {"a": True, "b": True, "c": False}, "what was noted before stays"


@pytest.mark.parametrize("what", ["down", "empty"])
def test_one_company_s_failure_changes_nothing_and_keeps_no_other_back(
    what: str, home: Callable[..., Home], server: Answering
) -> None:
    both = {ACME.slug: ACME.id, GLOBEX.slug: GLOBEX.id}
    place = home(both, {**server.environment([ACME, GLOBEX]), "TEEI_MAX_RETRIES": "0"})
    for slug in both:
        sync(place, server, people("ab"), slug)
    look(place, server, people("a"))
    calls = 0

    def answer(ask: Ask) -> Reply:
        nonlocal calls
        calls += 1
        if calls > 1:  # the second company
            return lists({STREAM: people("b")})(ask)
        return Reply(b"{}", 403) if what == "down" else lists({})(ask)

    result = look(place, server, answer)
    (why,) = failures(result)
    assert why.startswith("workday/workday_directory acme-corp: ")
    assert said(place, ACME.slug) == {"a": True, "b": False}
    assert said(place, GLOBEX.slug) == {"a": False, "b": True}


def test_only_ids_of_events_are_kept_and_for_nobody_else_to_read(place: Home, server: Answering) -> None:
    sync(place, server, people("ab"))
    look(place, server, people("a"))
    paths = sorted((place.settings.home / "presence").rglob("*.json"))
    below = place.settings.home / "presence" / ACME.slug
    assert paths == [below / STREAM / f"{DAYS[0]}.json", below / f"{STREAM}.json"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}
    stored = {row["event_id"] for row in place.sql("SELECT event_id FROM directory_entries WHERE job_level = 'b'")}
    assert set(json.loads(paths[0].read_text())) == stored == noted(place)


def test_tables_have_all_companies_directories_that_were_read(tmp_path: Path) -> None:
    files, first, later = Presence(tmp_path), datetime(2024, 2, 1, tzinfo=UTC), datetime(2024, 2, 2, tzinfo=UTC)
    schemas = {name: table.schema for name, table in files.tables().items()}
    assert schemas == SCHEMAS == {name: table.schema for name, table in no_tables().items()}
    assert files.read_at(ACME.slug, STREAM) is None
    east = timezone(timedelta(hours=9))
    files.note(ACME.slug, STREAM, {DAYS[0]: ["a", "b"], DAYS[1]: ["c"]}, first.astimezone(east))
    files.note(GLOBEX.slug, STREAM, {}, first)
    files.note(GLOBEX.slug, "another", {DAYS[0]: ["a"]}, first)
    files.note(ACME.slug, STREAM, {DAYS[0]: ["b"], DAYS[2]: ["d"]}, later.astimezone(east))
    assert files.ids(ACME.slug, STREAM, DAYS[0]) == {"b": first} and files.ids(ACME.slug, STREAM, DAYS[1]) == {}
    read_at = files.read_at(ACME.slug, STREAM)
    assert read_at == later and read_at.utcoffset() == timedelta(0)
    assert files.read_at(GLOBEX.slug, STREAM) == first
    rows = {name: [tuple(row.values()) for row in table.to_pylist()] for name, table in files.tables().items()}
    assert rows == {
        READ: [(ACME.slug, STREAM), (GLOBEX.slug, "another"), (GLOBEX.slug, STREAM)],
        GONE: [(ACME.slug, STREAM, "b"), (ACME.slug, STREAM, "d"), (GLOBEX.slug, "another", "a")],
    }


@pytest.mark.parametrize("damage", ["[", "7", "{}", '{"read_at": 7}', '{"read_at": "soon"}'])
def test_when_a_directory_was_read_is_damaged_or_no_file(tmp_path: Path, damage: str) -> None:
    files = Presence(tmp_path)
    files.note(ACME.slug, STREAM, {}, datetime(2024, 2, 1, tzinfo=UTC))
    path = files.folder(ACME.slug) / f"{STREAM}.json"
    path.write_text(damage)
    with pytest.raises(StoreError, match="is damaged: remove it, the next reading of the whole directory") as caught:
        files.read_at(ACME.slug, STREAM)
    assert caught.value.__cause__ is caught.value.__context__ is None
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreError, match="who is gone from a directory cannot be told: Is a directory"):
        files.read_at(ACME.slug, STREAM)


def test_a_rotation_of_keys_changes_nothing(place: Home, server: Answering) -> None:
    sync(place, server, people("abc"))
    look(place, server, people("ab"))
    rotate_company(place.settings, company_of(place))
    assert said(place) == {"a": True, "b": True, "c": False}
    look(place, server, people("bc"))
    assert said(place) == {"a": False, "b": True, "c": True}


def test_an_erasure_takes_the_ids_along(place: Home, server: Answering) -> None:
    sync(place, server, people("ab"))
    look(place, server, people("a"))
    assert len(noted(place)) == 1
    erase(place.settings, company_of(place), parse_identity(KARI))
    assert said(place) == {} and noted(place) == set()
    look(place, server, people("c"))
    assert noted(place) == set()


def test_retention_and_the_end_of_a_company_take_ids_along(place: Home, server: Answering) -> None:
    sync(place, server, [*people("ab"), person("c", DAYS[2])])
    look(place, server, people("a"))
    assert len(noted(place)) == 2
    place.environ["TEEI_EVENTS_TTL_D"] = "10"
    keep(place.settings, open_store(place.settings), datetime(2024, 1, 27, tzinfo=UTC))
    assert Presence(place.settings.home).days(ACME.slug, STREAM) == [DAYS[2]]
    assert said(place) == {"c": False}
    shred(place.settings, company_of(place), stop=lambda: 0, forget=lambda: True)
    assert not Presence(place.settings.home).folder(ACME.slug).exists()
    assert look(place, server, people("a")).success
    assert not Presence(place.settings.home).folder(ACME.slug).exists()


def test_in_a_run_over_partitions_nothing_happens(place: Home, server: Answering) -> None:
    """Somebody has one who selected all assets."""
    job = build(place.environ).resolve_job_def(presence.NAME)
    result = job.execute_in_process(instance=place.instance, tags={PARTITION: key(ACME.slug, DAYS[0])})
    assert result.success and not server.asked
    assert place.instance.get_latest_materialization_event(dg.AssetKey(presence.NAME)) is None
