"""Erasing a person: what belongs to them and what does not, what comes after, and what goes wrong."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest

from teei_ingest.contracts.base import Data
from teei_ingest.contracts.fields import public
from teei_ingest.errors import LandingError, StoreError, UsageError
from teei_ingest.landing.landing import Landing
from teei_ingest.mapping.plan import plan
from teei_ingest.mapping.record import RecordMapper
from teei_ingest.privacy.audit_log import AuditLog
from teei_ingest.privacy.erase import erase, look, resume, undo
from teei_ingest.privacy.identity import Identity, parse_identity
from teei_ingest.privacy.rotate import rotate_company
from teei_ingest.store import open_store
from teei_ingest.store.tables import Store, contracts
from teei_ingest.streams import all_streams
from teei_ingest.vault.keys import KeyRing
from teei_ingest_tests.conftest import MASTER_KEY
from teei_ingest_tests.erasing import (
    AT,
    DAY,
    KARI,
    KARI_INTERNAL,
    KARI_SCIM,
    KARI_WORKDAY,
    OLA,
    OLA_INTERNAL,
    OLAS,
    all_rows,
    company_of,
    mentions,
    pending,
    people,
    sync,
)
from teei_ingest_tests.feeding import ACME, Answering, Record, lists, quarantined, record, stored, worker
from teei_ingest_tests.running import Home
from teei_ingest_tests.second_opinion.server import Company

KARIS = (KARI, f"teei {KARI_INTERNAL}", f"workday {KARI_WORKDAY}", f"workday {KARI_SCIM}", f"benevity {KARI_WORKDAY}")
WORKDAY = "urn:ietf:params:scim:schemas:extension:workday:2.0:User"
SEVEN = dict.fromkeys({declared.contract.table for name, declared in all_streams().items() if name in OLAS}, 1)


Make = Callable[..., Home]


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory, server: Answering) -> Home:
    """A home with Kari and Ola in its tables, to be copied."""
    server.answer = lists(people())
    environ = {"TEEI_MASTER_KEY": MASTER_KEY, **server.environment()}
    place = Home.create(tmp_path_factory.mktemp("of-two"), {ACME.slug: ACME.id}, environ)
    sync(place)
    return place


@pytest.fixture
def make(home: Callable[..., Home], server: Answering, of_two: Home) -> Make:
    """A home in whose tables are these records, or Kari and Ola."""

    def made(data: dict[str, list[Record]] | None = None, **privacy: Any) -> Home:
        is_usual = data is None and not privacy
        data = people() if data is None else data
        server.answer = lists(data)
        if is_usual:
            place = home({ACME.slug: ACME.id}, server.environment())
            shutil.copytree(of_two.settings.home, place.settings.home)
            return place
        place = home({ACME.slug: ACME.id}, server.environment(), **privacy)
        sync(place, *data)
        return place

    return made


def erased(place: Home, line: str, **options: Any) -> Any:
    return erase(place.settings, company_of(place), parse_identity(line), **options)


def seen(place: Home, line: str) -> Any:
    return look(place.settings, company_of(place), parse_identity(line))


# --- what goes ----------------------------------------------------------------------------------------------------


def test_all_of_a_person_goes_and_nothing_else_changes(make: Make) -> None:
    place = make()
    before = all_rows(place)
    assert mentions(place, *KARIS) > 7

    found = erased(place, KARI)

    assert found.rows == SEVEN
    assert found.references == dict.fromkeys([name for name in SEVEN if name != "buddy_checkins"], 1)
    assert mentions(place, *KARIS) == 0
    after = all_rows(place)
    assert len(after) == len(before) - 7 == 7
    for event_id, row in after.items():
        changed = {name for name, value in row.items() if value != before[event_id][name]}
        assert changed <= {"manager_id", "verified_by", "instructor_id", "buddy_id", "attendees", "mentor_id"}
        for name in changed - {"attendees"}:
            assert row[name] is None
    (met,) = stored(place, "buddy_events")
    assert len(met["attendees"]) == 1
    assert pending(place) == 0
    store = open_store(place.settings)
    shown = "\n".join(text for contract in contracts() for text in store.texts(contract, ACME.slug))
    assert all(event_id in shown for event_id in after)
    assert not any(event_id in shown for event_id in before.keys() - after.keys())


@pytest.mark.parametrize("line", KARIS)
def test_whatever_the_person_is_known_by(make: Make, line: str) -> None:
    place = make()
    assert seen(place, line).rows == SEVEN
    assert erased(place, line).rows == SEVEN
    assert mentions(place, *KARIS) == 0


def test_however_the_address_is_written(make: Make) -> None:
    place = make()
    for line in (f"  {KARI.upper()} ", "Kari.Nordmann@acme.example", KARI.replace("@", "＠")):
        assert seen(place, line).rows == SEVEN, line


@pytest.mark.parametrize("privacy", [{"person_ref": "hash"}, {"email": "tokenize"}, {"direct": "hash"}])
def test_under_other_policies(make: Make, privacy: dict[str, str]) -> None:
    place = make(acme_corp=privacy)
    assert erased(place, KARI).rows == SEVEN
    assert mentions(place, *KARIS) == 0
    assert sum(one.suppressed for one in sync(place).values()) == 7
    assert mentions(place, *KARIS) == 0


def test_a_name_goes_with_the_reference_that_it_belongs_to(make: Make) -> None:
    place = make(acme_corp={"name": "hash"})
    assert all(row["mentor_name"] for row in stored(place, "mentorship_placements"))
    erased(place, KARI)
    for _ in range(2):
        (placement,) = stored(place, "mentorship_placements")
        assert placement["mentor_name"] is None
        sync(place, "mentorship_placements")


def test_masked_people_are_not_one_person(make: Make) -> None:
    place = make(acme_corp={"person_ref": "mask"})
    rows = {row["event_id"] for row in stored(place, "benevity_volunteers")}
    found = erased(place, KARI)  # the directory has a hash of her address
    assert found.rows == {"directory_entries": 1}
    assert {row["event_id"] for row in stored(place, "benevity_volunteers")} == rows


def test_an_empty_id_makes_nobody_the_same_person(make: Make) -> None:
    volunteers = [
        record("benevity_volunteers", f"v{n}", AT, {"userId": "", "userEmail": email})
        for n, email in enumerate((KARI, OLA))
    ]
    place = make({"benevity_volunteers": volunteers})
    assert erased(place, KARI).rows == {"volunteer_events": 1}
    assert mentions(place, OLA) == 1
    assert sync(place, "benevity_volunteers")["benevity_volunteers"].suppressed == 1


def test_a_record_whose_id_is_an_address_is_that_persons(make: Make) -> None:
    place = make({"benevity_volunteers": [record("benevity_volunteers", KARI, AT, {"userId": "x", "userEmail": None})]})
    assert erased(place, KARI).rows == {"volunteer_events": 1}
    assert sync(place, "benevity_volunteers")["benevity_volunteers"].suppressed == 1


def test_the_other_companies_keep_theirs(home: Callable[..., Home], server: Answering) -> None:
    globex = Company("globex-inc", "6ba7b810-9dad-41d1-80b4-00c04fd430c8")
    server.answer = lists(people())
    place = home({ACME.slug: ACME.id, globex.slug: globex.id}, server.environment([ACME, globex]))
    for company in (ACME, globex):
        for stream in OLAS:
            assert worker(place, stream, company=company.slug).both([DAY]).good
    theirs = {key: row for key, row in all_rows(place).items() if row["company"] == globex.slug}
    erased(place, KARI)
    assert {key: row for key, row in all_rows(place).items() if row["company"] == globex.slug} == theirs


def test_sealed_records_go_too(make: Make, server: Answering) -> None:
    data = people()
    broken = {"mentee_id": KARI_INTERNAL, "status": 7}
    others = {"mentee_id": OLA_INTERNAL, "mentor_id": "a-third", "status": 7}
    data["mentorship_placements"] += [
        record("mentorship_placements", "b1", "2024-01-15T11:00:00Z", broken),
        record("mentorship_placements", "b2", "2024-01-15T12:00:00Z", others),
        record("mentorship_placements", "b3", "2024-01-15T13:00:00Z", others | {"mentor_id": KARI_INTERNAL}),
    ]
    data["buddy_checkins"].append(
        record("buddy_checkins", "b4", "2024-01-15T11:00:00Z", {"match_id": "match-1", "mood": "unheard of"})
    )
    data["workday_directory"].append(
        record("workday_directory", "wd-3", "2024-01-15T11:00:00Z", {"active": "yes", "externalId": 3, WORKDAY: {}})
    )
    place = make(data)
    assert len(quarantined(place, "mentorship_placements", DAY)) == 3

    assert erased(place, KARI).quarantine == 4

    (left,) = quarantined(place, "mentorship_placements", DAY)
    assert json.loads(left.record)["id"] == "b2"
    assert quarantined(place, "buddy_checkins", DAY) == []
    again = sync(place)
    assert again["mentorship_placements"].suppressed == 3
    assert again["mentorship_placements"].quarantined == 1
    assert again["buddy_checkins"].suppressed == 2
    assert quarantined(place, "mentorship_placements", DAY) == [left]


# --- what comes afterwards ------------------------------------------------------------------------------------------


def test_nobody_comes_back(make: Make) -> None:
    place = make()
    erased(place, KARI)
    left = all_rows(place)
    for _ in range(3):
        made = sync(place)
        assert {one.suppressed for one in made.values()} == {1}
        assert {one.carried for one in made.values()} == {0}
        assert all_rows(place) == left
    assert pending(place) == 0
    assert not seen(place, KARI).any


def test_the_metadata_count_who_is_suppressed(make: Make) -> None:
    place = make()
    erased(place, KARI)
    result = place.materialize(ACME.slug, DAY, DAY, ["buddy_matches", "buddy_checkins"])
    assert result.success
    for stream in ("buddy_matches", "buddy_checkins"):
        (figures,) = place.metadata(result, f"{stream}_events").values()
        assert (figures["fetched"], figures["kept"], figures["suppressed"], figures["carried"]) == (2, 1, 1, 0)
    assert all(check.passed for check in result.get_asset_check_evaluations())


def test_who_is_suppressed_does_not_land(make: Make, server: Answering) -> None:
    place = make()
    erased(place, KARI)
    left = all_rows(place)
    settings, ring = place.settings, KeyRing.open(place.settings, company_of(place))
    for stream in OLAS:
        (landed,) = worker(place, stream).stream([DAY]).good
        assert (landed.kept, landed.suppressed) == (1, 1)
        found = Landing(settings).read(ring, ACME.slug, stream, DAY)
        assert found is not None
        raw = b"".join(found[1])
        assert not [one for one in (KARI, KARI_INTERNAL, KARI_WORKDAY) if one.encode() in raw]
        (made,) = worker(place, stream).events([DAY]).good
        assert made.balanced
        assert (made.from_landing, made.kept, made.suppressed) == (True, 1, 1)
    assert all_rows(place) == left


def test_a_landing_of_before_is_rewritten(make: Make) -> None:
    place = make()
    for stream in OLAS:
        assert worker(place, stream).stream([DAY]).good
    files = list((place.settings.home / "landing").rglob("*.sealed"))
    for path in files:
        os.utime(path, (1e9, 1e9))
    place.environ["TEEI_LANDING_TTL_H"] = "1000000"
    found = erased(place, KARI)
    assert {path.stat().st_mtime for path in files} == {1e9}  # they go in their time
    assert found.landing == 13  # all but Ola's check-in
    left = all_rows(place)
    for stream in OLAS:
        (made,) = worker(place, stream).events([DAY]).good
        assert made.balanced
        assert (made.from_landing, made.fetched, made.kept, made.suppressed) == (True, 2, 1, 1)
    assert all_rows(place) == left


def test_a_landing_that_was_read_before_the_erasure(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    place = make()
    at_work = worker(place, "kintell_enrollments")
    assert at_work.stream([DAY]).good
    replay = at_work._replay
    done: list[Any] = []

    def slow(records: Any) -> Any:
        pages = list(replay(records))
        if not done:
            done.append(erased(place, KARI))
        return pages

    monkeypatch.setattr(at_work, "_replay", slow)
    (made,) = at_work.events([DAY]).good
    assert (made.kept, made.suppressed) == (1, 1)
    assert mentions(place, *KARIS) == 0


def test_a_new_match_of_the_person_takes_its_check_ins_along(make: Make, server: Answering) -> None:
    place = make()
    erased(place, KARI)
    data = people()
    late = "2024-01-15T11:00:00Z"
    data["buddy_matches"].append(record("buddy_matches", "match-3", late))
    data["buddy_checkins"].append(record("buddy_checkins", "c3", late, {"match_id": "match-3"}))
    server.answer = lists(data)
    assert sync(place, "buddy_checkins")["buddy_checkins"].kept == 2  # nothing links it to her yet
    assert sync(place, "buddy_matches")["buddy_matches"].suppressed == 2
    assert pending(place) == 1
    assert sync(place, "buddy_checkins")["buddy_checkins"].suppressed == 2

    (done,) = resume(place.settings, company_of(place))

    assert done.rows == {"buddy_checkins": 1}
    assert pending(place) == 0
    assert {row["match_id"] for row in stored(place, "buddy_checkins")} == {"match-2"}
    sync(place)
    assert pending(place) == 0


def test_what_landed_before_it_was_known_whose_it_is(make: Make, server: Answering) -> None:
    place = make()
    erased(place, KARI)
    late = "2024-01-15T11:00:00Z"
    matches = [record("buddy_matches", "match-3", late)]
    checkins = [record("buddy_checkins", f"c{n}", late, {"match_id": f"match-{n}"}) for n in (2, 3)]
    server.answer = lists({"buddy_matches": matches, "buddy_checkins": checkins})
    assert worker(place, "buddy_checkins").stream([DAY]).good
    sync(place, "buddy_matches")
    (made,) = worker(place, "buddy_checkins").events([DAY]).good
    assert made.balanced
    assert (made.from_landing, made.kept, made.suppressed, made.carried) == (True, 1, 1, 1)
    assert len(stored(place, "buddy_checkins")) == 2


def test_an_id_that_a_source_links_to_the_person_later(make: Make, server: Answering) -> None:
    data = people()
    place = make({"benevity_volunteers": data["benevity_volunteers"]})
    erased(place, KARI)
    server.answer = lists(data)
    assert sync(place, "mentorship_placements")["mentorship_placements"].kept == 2  # by an id that nobody knew
    assert sync(place, "kintell_enrollments")["kintell_enrollments"].suppressed == 1
    assert resume(place.settings, company_of(place))[0].rows == {"placement_events": 1}
    sync(place)
    assert mentions(place, *KARIS) == 0


def test_suppressed_through_a_rotation_of_keys(make: Make) -> None:
    place = make()
    erased(place, KARI)
    rotate_company(place.settings, company_of(place))
    assert {one.suppressed for one in sync(place).values()} == {1}
    assert mentions(place, *KARIS) == 0
    assert erased(place, OLA).rows == SEVEN
    assert all_rows(place) == {}
    assert {one.suppressed for one in sync(place).values()} == {2}


# --- unknown, undone ------------------------------------------------------------------------------------------------


def test_nobody_has_this_identity(make: Make) -> None:
    place = make()
    before = all_rows(place)
    with pytest.raises(UsageError, match="nobody here has this identity, and nothing was done") as caught:
        erased(place, "stranger@acme.example")
    assert "stranger" not in str(caught.value)
    assert list(AuditLog(place.settings).entries()) == []
    assert all_rows(place) == before
    assert not (place.settings.home / "suppression").exists()


def test_an_unknown_person_is_kept_out_if_asked_for(make: Make, server: Answering) -> None:
    place = make({"buddy_checkins": people()["buddy_checkins"]})
    assert not erased(place, KARI, suppress_unknown=True).any
    server.answer = lists(people())
    assert sync(place, "benevity_volunteers")["benevity_volunteers"].suppressed == 1


def test_erased_twice(make: Make) -> None:
    place = make()
    erased(place, KARI)
    again = erased(place, f'{{"system": "kintell", "id": "{KARI_INTERNAL}"}}')
    assert again.suppressed
    assert not again.any
    assert [one["what"] for one in AuditLog(place.settings).entries()] == ["erase.started", "erase.done"]


def test_erased_by_two_at_once(make: Make) -> None:
    place = make()
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda line: erased(place, line), (KARI, f"workday {KARI_WORKDAY}")))
    assert sum(sum(one.rows.values()) for one in found) == 7
    assert pending(place) == 0
    assert mentions(place, *KARIS) == 0


def test_undone(make: Make) -> None:
    place = make()
    before = all_rows(place)
    erased(place, KARI)
    undo(place.settings, company_of(place), parse_identity(f"workday {KARI_WORKDAY}"))
    sync(place)
    assert all_rows(place) == before
    with pytest.raises(UsageError, match="nobody with this identity is suppressed"):
        undo(place.settings, company_of(place), parse_identity(KARI))


def test_a_person_who_is_only_in_older_versions_of_a_table(make: Make, server: Answering) -> None:
    place = make()
    store, stream = open_store(place.settings), all_streams()["benevity_volunteers"]
    for one in all_streams().values():
        nothing = store.rows(one.contract).schema.empty_table()
        store.replace(one.contract, one.name, ACME.slug, [DAY], nothing.to_reader)
    assert all_rows(place) == {}
    assert seen(place, KARI).older
    assert "volunteer_events" in erased(place, KARI).purged
    assert not any("t1_" in text for text in store.texts(stream.contract, ACME.slug))


def test_what_a_killed_writer_left_of_them(make: Make) -> None:
    place = make({"benevity_volunteers": people()["benevity_volunteers"]})
    folder = Path(open_store(place.settings).uri)
    left = [
        folder / "donation_events" / f"company={ACME.slug}" / "part-00000-c000.zstd.parquet#1",
        folder / "buddy_matches" / "_delta_log" / "_commit_1.json.tmp",
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half a file")
    (whole,) = (folder / "volunteer_events" / f"company={ACME.slug}").glob("*.parquet")
    left.append(whole.with_name("part-00000-uncommitted.zstd.parquet"))
    left[-1].write_bytes(whole.read_bytes())
    assert {"donation_events", "buddy_matches", "volunteer_events"} <= set(erased(place, KARI).purged)
    assert not any(path.exists() for path in left)


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_damaged_list_lets_nobody_in(make: Make) -> None:
    place = make()
    erased(place, KARI)
    (path,) = (place.settings.home / "suppression").glob("*.sealed")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(LandingError, match="restore it from its backup"):
        worker(place, "benevity_volunteers")


def test_a_reason_that_names_somebody_stops_everything(make: Make) -> None:
    place = make()
    before = all_rows(place)
    with pytest.raises(UsageError, match="the reason names somebody"):
        erased(place, KARI, why=f"asked by {KARI}")
    assert all_rows(place) == before
    assert pending(place) == 0


def test_undo_of_what_is_not_done(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    place = make()
    with monkeypatch.context() as patch:
        patch.setattr(Store, "purge", fails)
        with pytest.raises(StoreError, match="no room; then `teei erase --company acme-corp --resume`"):
            erased(place, KARI)
    assert pending(place) == 1
    with pytest.raises(UsageError, match="is pending"):
        undo(place.settings, company_of(place), parse_identity(KARI))
    resume(place.settings, company_of(place))
    assert pending(place) == 0


def fails(*_: Any) -> None:
    raise StoreError("no room")


def test_what_a_purge_left_is_found_before_it_is_done(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    place = make()
    with monkeypatch.context() as patch:
        patch.setattr(Store, "purge", lambda *_: None)
        with pytest.raises(StoreError, match=r"something of the person is left in .*volunteer_events.*--resume"):
            erased(place, KARI)
    assert pending(place) == 1
    resume(place.settings, company_of(place))
    assert pending(place) == 0


def on_a_full_disk(environ: dict[str, str]) -> str:
    """In another process whose disk is full as soon as the purge begins: the error's message."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    place = Home(Path(environ["TEEI_HOME"]), environ, None)  # type: ignore[arg-type]
    purge = Store.purge

    def full(self: Store, contract: type[Data]) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, resource.RLIM_INFINITY))
        try:
            purge(self, contract)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)

    Store.purge = full  # type: ignore[method-assign]
    try:
        erased(place, KARI)
    except StoreError as error:
        return str(error)
    return ""


@pytest.mark.long
def test_a_full_disk_in_the_middle_of_a_purge(make: Make) -> None:
    place = make()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        message = pool.submit(on_a_full_disk, place.environ).result(120)
    assert "is on a full disk: make room" in message
    assert "`teei erase --company acme-corp --resume`" in message
    assert "\n" not in message
    assert pending(place) == 1
    resume(place.settings, company_of(place))
    assert pending(place) == 0
    assert mentions(place, *KARIS) == 0
    assert {one.suppressed for one in sync(place).values()} == {1}


# --- identities and declarations ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (" Kari@Acme.example\n", Identity("email", "Kari@Acme.example")),
        ("workday E-1", Identity("workday", "E-1")),
        ("buddy  a b ", Identity("teei", "a b")),
        ("teei x", Identity("teei", "x")),
        ('{"email": "kari@acme.example"}', Identity("email", "kari@acme.example")),
        ('{"system": "goodera", "id": "u-77"}', Identity("goodera", "u-77")),
    ],
)
def test_identities(line: str, expected: Identity) -> None:
    assert parse_identity(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        *("", "secret", "workday", "workday  ", "nowhere secret", "workday [REDACTED]", "{", "[1]"),
        *('{"email": "secret"}', '{"system": "workday"}', '{"system": "workday", "id": 7}'),
        '{"system": "workday", "id": "secret", "more": "x"}',
    ],
)
def test_lines_that_name_nobody(line: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_identity(line)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_no_suppression_costs_nothing(make: Make) -> None:
    place = make({})
    assert worker(place, "benevity_volunteers")._collector._batches._redactor.suppressor is None


@pytest.mark.parametrize("declared", [{"subject": ("nobody",)}, {"group": "nobody"}, {"beside": {"shape": "nobody"}}])
def test_declarations_name_fields(declared: dict[str, Any]) -> None:
    body = {"event_type": "a.b", "table": "c", "shape": None, **declared}
    annotations = {
        "event_type": ClassVar[str],
        "table": ClassVar[str],
        "shape": Annotated[str | None, public("A shape", reason="no person")],
    } | dict.fromkeys(declared, ClassVar[Any])
    with pytest.raises(TypeError, match="has no field nobody"):
        type("Declared", (Data,), {**body, "__annotations__": annotations, "__module__": __name__})


def test_a_reference_is_taken_out_of_a_record_and_nothing_else_changes() -> None:
    raw = (
        b'{"id": "p", "mentee_id": "m", "mentor_id": "gone", "mentor_name": "N", "rating": 1.00000000000000000001, '
        b'"n": 123456789012345678901234567890, "\\u00e9": "\xc3\xa9", "gone": ["gone"]}'
    )
    mapper = RecordMapper(plan("mentorship_placements"), str(ACME.id), None)
    made = mapper.without(raw, "gone".__eq__, "-")
    assert json.loads(made, parse_float=str, parse_int=str) == json.loads(raw, parse_float=str, parse_int=str) | {
        "mentor_id": "-",
        "mentor_name": "-",
    }
    assert mapper.without(raw, "m or n".__eq__, "-") is raw
