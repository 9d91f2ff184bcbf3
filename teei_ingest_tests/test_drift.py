"""Fields that a source adds, drops or changes in type are noticed, each once, and no name or value that is data."""

from __future__ import annotations

import copy
import json
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from teei_ingest.cli.app import run
from teei_ingest.errors import StoreError
from teei_ingest.mapping.drift import NOT_KEPT, READ, UNKNOWN, Profile, Shape
from teei_ingest.mapping.plan import plan
from teei_ingest.pipeline import collect
from teei_ingest.privacy.inventory import dropped
from teei_ingest.store.drift import ADDED, CHANGED, DROPPED, Change, Drift, Known
from teei_ingest.streams import all_streams
from teei_ingest_tests.feeding import ABSENT, ACME, Record, always, answering, lists, page, put, record, worker
from teei_ingest_tests.running import Home, failures

FIRST = date(2024, 1, 15)
INGESTED = "2024-06-01"
STREAMS = sorted(all_streams())
EMAIL, NAME, PHONE, NATIONAL = "kari.nordmann@acme.example", "Kari Nordmann", "+47 912 34 567", "X9464186P"
UNFIT = (
    EMAIL,
    NAME,
    PHONE,
    NATIONAL,
    "Кари",
    "a" * 41,
    "urn:person:kari",
    "x.y",
    "1st",
    "",
    f"{EMAIL}/a",
    f"meta/{EMAIL}",
)

PLAIN: dict[str, Any] = {}

Homes = Callable[..., Home]


def day(number: int) -> date:
    return FIRST + timedelta(number)


def records(stream: str, on: date, count: int = 60, **changes: Any) -> list[Record]:
    """A day's records; `changes` by wire path, a function of the record's number or the same in all."""
    made = []
    for number in range(count):
        own = {path: value(number) if callable(value) else value for path, value in changes.items()}
        made.append(record(stream, f"{stream}-{on}-{number}", f"{on}T{number // 60:02}:{number % 60:02}:00Z", own))
    return made


def read(place: Home, stream: str, data: Sequence[Record], first: date, last: date | None = None) -> list[Change]:
    """Ingest a window; what was noticed."""
    with answering(lists({stream: data})) as server:
        place.environ |= server.environment()
        outcome = worker(place, stream).both([first + timedelta(n) for n in range(((last or first) - first).days + 1)])
    return [change for _, partition in sorted(outcome.partitions.items()) for change in partition.drift]


def known(place: Home, stream: str) -> Known:
    found = Drift(place.settings.home).get(ACME.slug, stream)
    assert found is not None
    return found


def optional_of(stream: str) -> str:
    """A top-level field with a value in the example that records may lack."""
    slots = [slot for one in plan(stream).fields for slot in one.slots]
    example = all_streams()[stream].example
    return next(slot.path for slot in slots if slot.optional and len(slot.keys) == 1 and example.get(slot.path))


def required_of(stream: str) -> str:
    """The source id, which is text in every stream."""
    return plan(stream).source_id.path


@pytest.fixture
def place(home: Homes) -> Home:
    return home({ACME.slug: ACME.id}, {})


class Seen:
    """What is known of a stream, given records by hand."""

    def __init__(self, folder: Path, stream: str) -> None:
        self.folder, self.stream = folder, stream
        self.drift = Drift(folder)
        self.shape = Shape(plan(stream))

    def __call__(self, changes: Iterable[Mapping[str, Any]], first: int, last: int | None = None) -> list[Change]:
        """A window with the stream's example, changed by wire path in each record; what was noticed."""
        profile = Profile()
        for one in changes:
            made = copy.deepcopy(dict(all_streams()[self.stream].example))
            for path, value in one.items():
                put(made, path, value)
            self.look(made, profile)
        return self.note(profile, first, last)

    def look(self, made: Record, profile: Profile) -> None:
        self.shape.look(json.dumps(made).encode(), profile)

    def note(self, profile: Profile, first: int, last: int | None = None) -> list[Change]:
        window = (day(first), day(first if last is None else last))
        return self.drift.note(ACME.slug, self.stream, self.shape, profile, window, day(first + 1))

    def said(self, changes: Iterable[Mapping[str, Any]], first: int, last: int | None = None) -> list[str]:
        return [f"{one.field} {one.change}" for one in self(changes, first, last)]

    def field(self, name: str) -> Any:
        found = self.drift.get(ACME.slug, self.stream)
        assert found is not None
        return found.fields[name]

    def at_rest(self) -> str:
        """All bytes of the files, and their names."""
        paths = list(self.folder.rglob("*"))
        return "\n".join([*map(str, paths), *(path.read_text() for path in paths if path.is_file())])


@pytest.fixture
def seen(tmp_path: Path, request: pytest.FixtureRequest) -> Seen:
    """Of the stream that the test is for."""
    return Seen(tmp_path, getattr(request, "param", "kintell_enrollments"))


every_stream = pytest.mark.parametrize("seen", STREAMS, indirect=True)


# --- what is noticed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", STREAMS)
def test_what_a_source_adds_drops_and_changes(place: Home, stream: str) -> None:
    gone, broken = optional_of(stream), required_of(stream)
    assert read(place, stream, records(stream, day(0)), day(0)) == []
    new = {"shoeSize": lambda number: 43 if number % 2 else ABSENT, "badges": [{"of": EMAIL}], gone: ABSENT}
    noticed = read(place, stream, records(stream, day(1), **new), day(1))
    types = known(place, stream).fields[gone].types
    assert [one for one in noticed if one.field != gone] == [
        Change("badges", UNKNOWN, ADDED, ("array",), (), 1.0, INGESTED, INGESTED),
        Change("shoeSize", UNKNOWN, ADDED, ("integer",), (), 0.5, INGESTED, INGESTED),
    ]
    (change,) = [one for one in noticed if one.field == gone]
    assert (change.change, change.status, change.types, change.share) == (DROPPED, READ, types, 1.0)

    assert read(place, stream, records(stream, day(2), **new), day(2)) == [], "each once"
    noticed = read(place, stream, records(stream, day(3), **new, **{broken: 7}), day(3))
    assert [(one.field, one.change, one.before, one.types) for one in noticed] == [
        (broken, CHANGED, ("string",), ("integer",))
    ], "records that break their contract count"
    path = place.settings.home / "drift" / ACME.slug / f"{stream}.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert EMAIL not in path.read_text() and "43" not in path.read_text()


@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_landed_alone_is_looked_at_once(place: Home, stream: str) -> None:
    with answering(lists({stream: records(stream, day(0))})) as server:
        place.environ |= server.environment()
        assert not worker(place, stream).stream([day(0)]).bad
        server.answer = lists({stream: records(stream, day(1), shoeSize=43)})
        (landed,) = worker(place, stream).stream([day(1)]).good
        (committed,) = worker(place, stream).events([day(1)]).good
    assert [one.field for one in landed.drift] == ["shoeSize"]
    assert (committed.from_landing, list(committed.drift)) == (True, [])


@pytest.mark.parametrize("stream", STREAMS)
def test_what_is_declared_is_known_apart(stream: str) -> None:
    shape, profile = Shape(plan(stream)), Profile()
    shape.look(json.dumps({**all_streams()[stream].example, "shoeSize": 43}).encode(), profile)
    found = {path: shape.status(path) for path in profile.types()}
    assert found.pop("shoeSize") == UNKNOWN
    assert {READ} <= set(found.values()) <= {READ, NOT_KEPT}
    left = set(dropped(plan(stream)))
    assert left <= {path for path, status in found.items() if status == NOT_KEPT}
    slots = [slot for one in plan(stream).fields for slot in one.slots]
    assert all(shape.status(slot.path) == READ for slot in slots)


def test_open_maps_and_objects_that_nobody_declares_are_not_looked_into() -> None:
    shape, profile = Shape(plan("goodera_volunteers")), Profile()
    raw = record("goodera_volunteers", "1", "2024-01-15T10:00:00Z", {"impact_metrics": {"ola": 1}, "by": {"ola": 1}})
    shape.look(json.dumps(raw).encode(), profile)
    assert {"impact_metrics", "by", "location/city"} <= set(profile.types())
    assert not [path for path in profile.types() if "ola" in path]


@pytest.mark.parametrize("raw", [b"[1]", b"7", b"null", b'{"a": ', b'"\xff"', b"[" * 5000 + b"]" * 5000])
def test_a_record_that_is_none_has_no_field(raw: bytes) -> None:
    profile = Profile()
    Shape(plan("buddy_matches")).look(raw, profile)
    assert profile.types() == {}


# --- names ------------------------------------------------------------------------------------------------------------


@every_stream
def test_names_that_may_be_data_are_counted_and_kept_nowhere(seen: Seen) -> None:
    seen([PLAIN] * 3, 0)
    profile = Profile()
    for _ in range(3):
        seen.look({**all_streams()[seen.stream].example, **dict.fromkeys((*UNFIT, "harmless_name"), 1)}, profile)
    assert [(one.field, one.fields, one.change) for one in seen.note(profile, 1)] == [
        ("harmless_name", 1, ADDED),
        ("", len(UNFIT), ADDED),
    ]
    assert [key for key in UNFIT if key and json.dumps(key)[1:-1] in seen.at_rest()] == []
    assert EMAIL not in f"{profile}"
    assert seen.note(profile, 2) == []


@pytest.mark.parametrize("seen", ["workday_directory"], indirect=True)
def test_the_schemas_of_scim_have_harmless_names(seen: Seen) -> None:
    name = "urn:ietf:params:scim:schemas:extension:acme:2.0:User"
    seen([PLAIN] * 3, 0)
    (change,) = seen([{name: {"kari": 1}}] * 3, 1)
    assert (change.field, change.types) == (name, ("object",))


@pytest.mark.parametrize("seen", [name for name in STREAMS if plan(name).names], indirect=True)
def test_a_field_that_has_the_persons_name_is_not_shown(seen: Seen) -> None:
    seen([PLAIN] * 3, 0)
    path = plan(seen.stream).names[0].path
    for number, key in enumerate(("skrobudal", "LudvigHours", "hours_of_ludvig_skrobudal"), 1):
        assert not [one.field for one in seen([{path: "Ludvig Skrobudal", key: 3}] * 3, number) if one.field], key
    assert "ludvig" not in seen.at_rest().casefold()
    by_chance = [{path: "Ludvig Skrobudal" if number < 3 else "Ola Hansen", "ludvig_prize": 1} for number in range(60)]
    assert [one.field for one in seen(by_chance, 4)] == ["ludvig_prize"]


def test_what_is_there_once_may_be_data(seen: Seen) -> None:
    seen([PLAIN] * 60, 0)
    assert [one.title for one in seen([{"ola": 1}] * 2 + [PLAIN] * 58, 1)] == ["1 whose names are not shown"]
    assert "ola" not in seen.at_rest()
    assert [one.title for one in seen([{"ola": 1}] * 3 + [PLAIN] * 57, 2)] == ["ola"]
    assert seen.said([{"ola": 1}] + [PLAIN] * 59, 3) == [], "it is known now"


# --- the rules --------------------------------------------------------------------------------------------------------


NO_GRADE, GRADE = {"grade": None}, {"grade": "A"}


def test_the_first_look_shows_how_it_is(seen: Seen) -> None:
    assert seen.said([{"shoeSize": 43}] * 3, 0) == []
    assert seen.field("shoeSize").first_seen == str(day(1))
    assert seen.said([{"shoeSize": 43}] * 3, 5) == []
    assert (seen.field("shoeSize").first_seen, seen.field("shoeSize").last_seen) == (str(day(1)), str(day(6)))


def test_a_field_without_a_value_is_seen_and_one_that_is_away_is_not(seen: Seen) -> None:
    for number, sent in ((0, {"shoeSize": 43}), (2, {"shoeSize": None}), (5, PLAIN)):
        seen([sent] * 3, number)
    assert seen.field("shoeSize").last_seen == str(day(3))


def test_a_field_that_is_known_is_seen_however_rare(seen: Seen) -> None:
    rare, others = {"grade": "A", "shoeSize": 43}, {"grade": ABSENT}
    seen([{**others, "shoeSize": 43}] * 60, 0)
    assert seen.said([rare] + [others] * 59, 1) == []
    assert (seen.field("grade").types, seen.field("grade").share) == (("string",), 1 / 60)
    assert seen.field("shoeSize").last_seen == str(day(2))
    assert seen.field("shoeSize").share == 61 / 120


@pytest.mark.usefixtures("permissive")
def test_nobody_else_reads_what_is_known(seen: Seen) -> None:
    seen([PLAIN] * 3, 0)
    assert {stat.S_IMODE(path.stat().st_mode) for path in seen.drift.folder(ACME.slug).iterdir()} == {0o600}


def test_what_is_known_of_a_company_is_forgotten_with_it(seen: Seen) -> None:
    seen([PLAIN] * 3, 0)
    seen.drift.forget(ACME.slug)
    assert seen.drift.get(ACME.slug, seen.stream) is None and not seen.drift.folder(ACME.slug).exists()


def test_a_declared_field_is_never_new(seen: Seen) -> None:
    assert seen.said([{"tags": ABSENT, "user_email": ABSENT}] * 3, 0) == []
    assert seen.said([GRADE] * 60, 1) == []


def test_no_records_say_nothing(seen: Seen) -> None:
    assert seen.said([], 0) == []
    assert seen.drift.get(ACME.slug, seen.stream) is None


def test_old_days_say_nothing(seen: Seen) -> None:
    seen([PLAIN] * 60, 10)
    before = seen.drift.get(ACME.slug, seen.stream)
    for first, last in ((0, 0), (3, 9), (9, 9)):
        assert seen.said([{"shoeSize": 43, "tags": ABSENT, "id": 7}] * 60, first, last) == []
    assert seen.drift.get(ACME.slug, seen.stream) == before
    assert seen.said([{"shoeSize": 43}] * 60, 9, 11) == ["shoeSize added"]


def test_the_same_day_again_may_be_compared(seen: Seen) -> None:
    seen([PLAIN] * 60, 0)
    assert seen.said([{"shoeSize": 43}] * 60, 0) == ["shoeSize added"]


@pytest.mark.parametrize(
    ("before", "now", "noticed"),
    [
        ([GRADE] * 50, [NO_GRADE] * 50, True),
        ([GRADE] * 50, [{"grade": ABSENT}] * 50, True),
        ([GRADE] * 10 + [NO_GRADE] * 40, [NO_GRADE] * 50, True),
        ([GRADE] * 9 + [NO_GRADE] * 41, [NO_GRADE] * 50, False),  # too rare to miss it
        ([GRADE] * 49, [NO_GRADE] * 50, False),  # too few to know
        ([GRADE] * 50, [NO_GRADE] * 49, False),
        ([GRADE] * 50, [NO_GRADE] * 99 + [GRADE], False),
    ],
)
def test_when_a_field_is_dropped(seen: Seen, before: Any, now: Any, noticed: bool) -> None:
    seen(before, 0)
    assert seen.said(now, 1) == (["grade dropped"] if noticed else [])


def test_small_days_add_up(seen: Seen) -> None:
    for number in range(5):
        assert seen.said([GRADE] * 10, number) == []
    assert [seen.said([NO_GRADE] * 10, number) for number in range(5, 10)] == [[]] * 4 + [["grade dropped"]]
    assert seen.said([NO_GRADE] * 60, 10) == []
    assert seen.said([GRADE] * 10, 11) == ["grade added"]
    assert seen.field("grade").share == 1.0


def test_a_day_that_is_read_again_does_not_add_up(seen: Seen) -> None:
    for number in range(5):
        seen([GRADE] * 10, number)
    assert [seen.said([NO_GRADE] * 10, 5) for _ in range(6)] == [[]] * 6
    assert [seen.said([NO_GRADE] * 40, 2, 5) for _ in range(3)] == [[]] * 3, "nor one among others"


@pytest.mark.parametrize("seen", ["goodera_volunteers"], indirect=True)
def test_what_is_around_a_field_has_to_be_there(seen: Seen) -> None:
    seen([PLAIN] * 60, 0)
    assert seen.said([{"nonprofit": None}] * 60, 1) == ["nonprofit dropped"], "and not all that is in it"
    assert seen.said([PLAIN] * 60, 2) == ["nonprofit added"]
    assert seen.said([{"nonprofit": {"id": "np-3"}}] * 60, 3) == ["nonprofit/name dropped"]
    assert seen.said([{"nonprofit": {"id": "np-3"}, "sdg_goals": []}] * 60, 4) == [], "an empty list is a list"


@pytest.mark.parametrize(
    ("before", "now", "noticed"),
    [
        ({"final_score": 92}, [{"final_score": "92"}] * 60, "number"),
        ({"final_score": 92}, [{"final_score": 92.5}] * 60, ""),  # JSON has one kind of number
        ({"final_score": 92.5}, [{"final_score": 92}] * 60, ""),
        ({"final_score": 92}, [{"final_score": None}] * 20, ""),
        ({"final_score": None}, [{"final_score": "92"}] * 60, ""),  # it had no type before
        ({"final_score": 92}, [{"final_score": "92"}] * 3 + [{"final_score": 92}] * 57, "both"),
        ({"final_score": 92}, [{"final_score": "92"}] * 3 + [{"final_score": 92}] * 58, ""),  # bad rows are no drift
        ({"final_score": 92}, [{"final_score": "92"}] * 2 + [{"final_score": 92}] * 38, ""),
        ({"final_score": 92}, [{"final_score": "92"}] * 2 + [{"final_score": 92}] * 10, ""),
        ({"final_score": 92}, [{"final_score": "92"}], "one"),
        ({"tags": ["a"]}, [{"tags": [{"of": 1}]}] * 60, "items"),
        ({"tags": ["a"]}, [{"tags": "a"}] * 60, "list"),
    ],
)
def test_when_a_type_changes(seen: Seen, before: Any, now: Any, noticed: str) -> None:
    seen([before] * 60, 0)
    field = next(iter(before)) + ("[]" if noticed == "items" else "")
    assert seen.said(now, 1) == ([f"{field} type changed"] if noticed else [])
    assert seen.said(now, 2) == [], "once"


@pytest.mark.parametrize(
    ("now", "types"), [(92.5, ("number",)), ("92", ("integer", "string")), (None, ("integer",)), (7, ("integer",))]
)
def test_few_values_add_types_and_take_none_away(seen: Seen, now: Any, types: tuple[str, ...]) -> None:
    seen([{"final_score": 92}] * 60, 0)
    seen([{"final_score": now}] * 49, 1)
    assert seen.field("final_score").types == types
    seen([{"final_score": now}] * 50, 2)
    assert seen.field("final_score").types == (types[-1:] if now is not None else types)


def test_a_share_is_of_the_last_five_hundred_records(seen: Seen) -> None:
    for number in range(2):
        seen([GRADE] * 251, number)
    assert (seen.field("grade").share, seen.field("grade").records) == (1.0, 500)
    seen([GRADE] * 125 + [NO_GRADE] * 375, 2)
    assert seen.field("grade").share == 0.625


def test_a_type_that_comes_back_is_new_again(seen: Seen) -> None:
    numbers, texts = [{"final_score": 92}] * 60, [{"final_score": "92"}] * 60
    assert [seen.said(now, number) for number, now in enumerate((numbers, texts, numbers, texts))] == [
        [],
        *[["final_score type changed"]] * 3,
    ]
    assert seen.field("final_score").types == ("string",)


def test_a_source_with_keys_at_random_fills_nothing(seen: Seen) -> None:
    for number in range(5):
        seen([{f"key_{number}_{key}": 1 for key in range(1000)}] * 3, number)
    found = seen.drift.get(ACME.slug, seen.stream)
    assert found is not None
    assert 50 < len(found.fields) < 150 and len(found.changes) < 150


# --- which records are looked at -------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 3])
def test_large_windows_are_looked_at_here_and_there(
    home: Homes, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    for name, value in (("BATCH_ROWS", 40), ("SHARED_ROWS", 40), ("LOOKED_AT", 12)):
        monkeypatch.setattr(collect, name, value)
    monkeypatch.setattr(collect, "LOOKED_AT_LATER", 3)
    place, stream = home({ACME.slug: ACME.id}, {"TEEI_PROCESSES": str(processes)}), "kintell_sessions"
    late = {"shoeSize": lambda number: 43 if number >= 320 else ABSENT}
    for number, changes in enumerate(({}, late)):
        data = records(stream, day(number), 400, **changes)
        pages = [page(stream, data[at : at + 10], str(at) if at < 390 else None) for at in range(0, 400, 10)]
        with answering(always(b"")) as server:
            server.answer = lambda ask, pages=pages: always(pages[int(ask.query.get("cursor", "-10")) // 10 + 1])(ask)
            place.environ |= server.environment()
            (partition,) = worker(place, stream).both([day(number)]).good
            assert partition.kept == 400
    assert [one.field for one in partition.drift] == ["shoeSize"]
    found = known(place, stream).fields["id"].records
    assert 2 * 12 < found < 2 * (12 + 9 * 10), "a few of each batch, and not all"


def test_what_cannot_be_kept_fails_no_day(place: Home, caplog: pytest.LogCaptureFixture) -> None:
    stream = "buddy_matches"
    read(place, stream, records(stream, day(0)), day(0))
    path = place.settings.home / "drift" / ACME.slug / f"{stream}.json"
    path.write_text("{")
    with answering(lists({stream: records(stream, day(1))})) as server:
        place.environ |= server.environment()
        assert not worker(place, stream).both([day(1)]).bad
    assert f"{path} is damaged: remove it, and the next run begins anew" in caplog.text


def test_what_is_damaged_is_one_line(seen: Seen) -> None:
    seen([PLAIN] * 3, 0)
    path = seen.drift.folder(ACME.slug) / f"{seen.stream}.json"
    whole = json.loads(path.read_text())
    for damage in ("", "7", "[]", "{}", json.dumps(whole | {"until": None}), json.dumps(whole | {"until": "soon"})):
        path.write_text(damage)
        for use in (lambda: seen.drift.get(ACME.slug, seen.stream), lambda: seen([PLAIN], 1)):
            with pytest.raises(StoreError, match="is damaged: remove it, and the next run begins anew") as caught:
                use()
            assert str(path) in str(caught.value) and caught.value.__cause__ is caught.value.__context__ is None
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreError, match=f"{path}: Is a directory"):
        seen.drift.get(ACME.slug, seen.stream)


def test_changes_are_there_until_they_are_accepted(seen: Seen) -> None:
    accept = partial(seen.drift.accept, ACME.slug, seen.stream)
    accept()
    assert seen.drift.get(ACME.slug, seen.stream) is None, "there is nothing to accept"
    seen([PLAIN] * 60, 0)
    (added,) = seen([{"shoeSize": 43}] * 60, 1)
    seen([{"shoeSize": "43", "zeal": 1}] * 60, 2)
    found = seen.drift.get(ACME.slug, seen.stream)
    assert found is not None and found.until == day(2)
    every = found.all(seen.shape)
    assert [one.field for one in every] == sorted(found.fields)
    changed = {one.field: (one.change, one.type, one.title, one.noticed) for one in every if one.change}
    assert changed == {
        "shoeSize": (CHANGED, "integer → string", "shoeSize", str(day(3))),
        "zeal": (ADDED, "integer", "zeal", str(day(3))),
    }
    assert (added.status, added.types, added.before, added.share, added.fields) == (UNKNOWN, ("integer",), (), 1.0, 1)
    accept()
    found = seen.drift.get(ACME.slug, seen.stream)
    assert found is not None and found.changes == () and not any(one.change for one in found.all(seen.shape))
    file = seen.drift.folder(ACME.slug) / f"{seen.stream}.json"
    before = file.stat().st_ino
    accept()
    assert file.stat().st_ino == before, "nothing has changed"


# --- where it is shown -----------------------------------------------------------------------------------------------


@pytest.fixture
def shell(place: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """`teei` in the home: exit code, standard output, standard error."""
    for name, value in place.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_HOME", str(place.settings.home / "dagster"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(place.path)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(list(arguments))
        said = capsys.readouterr()
        return code, " ".join(said.out.split()), said.err

    yield call


def test_the_command(place: Home, shell: Any) -> None:
    stream, other = "buddy_matches", "kintell_sessions"
    assert shell("drift")[:2] == (0, "· drift no records were looked at yet → `teei sync` reads the first")
    for name in (stream, other):
        read(place, name, records(name, day(0)), day(0))
    assert shell("drift")[1] == "✔ drift 2 streams: no field was added or dropped, none changed its type"
    assert shell("drift", "--json")[1] == "[]"
    changes = {"shoeSize": lambda number: EMAIL if number % 4 == 0 else ABSENT, "status": 7, EMAIL: 1}
    read(place, stream, records(stream, day(1), **changes), day(1))
    rows = json.loads(shell("drift", "--company", ACME.slug, "--json")[1])
    assert [(row["stream"], row["field"], row["types"], row["before"], row["change"]) for row in rows] == [
        (stream, "shoeSize", ["string"], [], "added"),
        (stream, "status", ["integer"], ["string"], "type changed"),
        (stream, None, [], [], "added"),
    ]
    assert (rows[0]["share"], rows[0]["firstSeen"], rows[0]["noticed"]) == (0.25, INGESTED, INGESTED)
    code, shown, _ = shell("drift")
    assert code == 0 and EMAIL not in shown
    for part in (
        f"shoeSize string 25% {INGESTED} added (unknown) {INGESTED}",
        f"status string → integer 100% {INGESTED} type changed (read)",
        "1 whose names are not shown",
    ):
        assert part in shown
    assert shell("drift", "--stream", other)[1].startswith("✔ drift 1 stream:")
    every = json.loads(shell("drift", "--stream", stream, "--all", "--json")[1])
    assert {"shoeSize", "id", "matching_criteria/language", None} <= {row["field"] for row in every}
    assert len({row["field"] for row in every}) == len(every)

    assert shell("drift", "--accept") == (
        2, "", "teei: --accept needs --company: changes are accepted company by company\n"
    )  # fmt: skip
    assert "shoeSize" in shell("drift", "--company", ACME.slug, "--accept")[1]
    assert shell("drift")[1].startswith("✔ drift 2 streams:")
    assert "shoeSize" in shell("drift", "--all")[1]
    assert read(place, stream, records(stream, day(2), **changes), day(2)) == [], "accepted is known"
    assert shell("drift", "--company", "nobody")[0] == shell("drift", "--stream", "nothing")[0] == 2
    (place.settings.home / "drift" / ACME.slug / f"{stream}.json").write_text("[]")
    code, _, said = shell("drift")
    assert code == 5 and f"{stream}.json is damaged: remove it" in said


def test_materializations_say_it(place: Home) -> None:
    stream = "kintell_sessions"
    changes = {"shoeSize": 43, "tutor_name": ABSENT, "notes": 7}
    with answering(lists({stream: records(stream, day(0))})) as server:
        place.environ |= server.environment()
        before = place.materialize(ACME.slug, day(0), day(0), [stream])
        server.answer = lists({stream: [*records(stream, day(1), **changes), *records(stream, day(2), 3, **changes)]})
        after = place.materialize(ACME.slug, day(1), day(2), [stream])
        server.answer = lists({stream: records(stream, day(3), **changes, id=7, **{EMAIL: 1})})
        failed = place.materialize(ACME.slug, day(3), day(3), [stream])
    (first,) = place.metadata(before, stream).values()
    assert "drift" not in first
    second, last = place.metadata(after, stream).values()
    assert "drift" not in second
    table = {line.split(" | ")[0].strip("| "): line for line in last["drift"].splitlines()}
    assert table["shoeSize"] == "| shoeSize | added | integer | 100% | " + table["shoeSize"].split(" | ")[-1]
    assert " dropped | string |" in table["tutor_name"] and "| string → integer |" in table["notes"]
    assert (last["fields_added"], last["fields_dropped"], last["fields_changed"]) == (1, 1, 1)
    assert len(failures(failed)) == 1
    assert not place.metadata(failed, stream), "it failed; the log and `teei drift` say what changed"
    logged = [str(event.user_message) for event in place.instance.all_logs(failed.run_id)]
    assert f"{stream} {ACME.slug}: id type changed (string → integer); see `teei drift`" in logged
    assert not [text for text in logged if EMAIL in text]
