"""Views as files, the two that are contracts, and engines that are not ours over the same tables."""

from __future__ import annotations

import copy
import csv
import fcntl
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import jsonschema
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

import teei_ingest.store
from teei_ingest import docs
from teei_ingest.contracts import (
    RELEASED,
    BuddyEventLogged,
    DonationEvent,
    EnrollmentEvent,
    PlacementEvent,
    VolunteerEvent,
)
from teei_ingest.contracts.base import Data
from teei_ingest.contracts.stored import arrow_schema
from teei_ingest.errors import UsageError
from teei_ingest.redact.text import MARK
from teei_ingest.settings import SANDBOX_FILE, Settings, project_root
from teei_ingest.store import export, open_store
from teei_ingest.store.released import breaking, json_schema
from teei_ingest.store.sql import connect, define_views, query, render
from teei_ingest.store.tables import Store, contracts
from teei_ingest.store.views import RELEASED as RELEASED_VIEWS
from teei_ingest.store.views import views
from teei_ingest_tests.filled import Filled, filled
from teei_ingest_tests.object_storage import KEY, S3, SECRET, s3_server
from teei_ingest_tests.running import Teei
from teei_ingest_tests.test_store_tables import at, event, put

ACME, GLOBEX = "acme-corp", "globex-inc"
SCHEMAS = Path(teei_ingest.store.__file__).parent / "schemas"
every_released_view = pytest.mark.parametrize("view", RELEASED_VIEWS)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, beside a sandbox's home."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / SANDBOX_FILE).write_text('{"environment": {}}')
    monkeypatch.setenv("TEEI_HOME", str(home))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def store(place: Path) -> Store:
    return open_store(Settings.load())


@pytest.fixture
def full(store: Store) -> Store:
    """With some rows of every contract, one of which has nothing but what it must have."""
    for contract in RELEASED:
        needed = {field.name: None for field in arrow_schema(contract) if field.nullable}
        rows = [event(contract, 1), event(contract, 2, company=GLOBEX), event(contract, 3) | needed]
        put(store, contract, [*rows, event(contract, 4, source_timestamp=at(20))])
    return store


def read(path: Path) -> duckdb.DuckDBPyConnection:
    """A file's rows, by a reader of its own."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    return connection.execute("SELECT * FROM read_parquet(?)", [str(path)])


# --- files --------------------------------------------------------------------------------------------------------


# One of each sort: a table, its latest versions, one with a struct of lists, one over all, and one that is a contract.
SOME = ("donation_events", "current_volunteer_events", "buddy_checkins", "org_hierarchy", "vis_v1")
some_or_all = pytest.mark.parametrize("wanted", [SOME, pytest.param((), marks=pytest.mark.fleet)], ids=["some", "all"])


@some_or_all
def test_parquet_has_the_rows_and_types_of_views(full: Store, teei: Teei, wanted: tuple[str, ...]) -> None:
    code, out, _ = teei("export", "out", "--json", *(f"--view={view}" for view in wanted))
    assert code == 0
    names = [view for view in views() if not wanted or view in wanted]
    assert {path.name for path in Path("out").iterdir()} == {f"{view}.parquet" for view in names}
    assert [file["view"] for file in json.loads(out)["files"]] == names
    by_table = {contract.table: arrow_schema(contract) for contract in RELEASED}
    with connect(full) as connection:
        for view in names:
            expected = connection.execute(f"SELECT * FROM {view}").fetchall()
            assert sorted(map(repr, read(Path(f"out/{view}.parquet")).fetchall())) == sorted(map(repr, expected)), view
            if view in by_table:
                kept = pq.read_schema(f"out/{view}.parquet")
                assert [(f.name, f.nullable) for f in kept] == [(f.name, f.nullable) for f in by_table[view]]
                assert kept.types == by_table[view].types


@some_or_all
def test_csv_has_what_sql_prints(full: Store, teei: Teei, wanted: tuple[str, ...]) -> None:
    assert teei("export", "out", "--format", "csv", *(f"--view={view}" for view in wanted))[0] == 0
    names = wanted or tuple(views())
    assert {path.name for path in Path("out").iterdir()} == {f"{view}.csv" for view in names}
    with connect(full) as connection:
        for view in names:
            header, *lines = Path(f"out/{view}.csv").read_text(encoding="utf-8").splitlines()
            shown = connection.sql(f"SELECT * FROM {view}")
            expected = render(shown.columns, shown.fetchall(), "csv").splitlines()
            assert (header, sorted(lines)) == (expected[0], sorted(expected[1:])), view


def test_companies_views_and_days_limit_what_is_written(full: Store, teei: Teei) -> None:
    code, out, _ = teei(
        *("export", "out", "--company", ACME, "--view", "donation_events", "--view", "hours_by_cost_center"),
        *("--view", "org_hierarchy", "--from", "2024-01-02", "--to", "2024-01-20", "--json"),
    )
    assert code == 0
    told = {file["view"]: (file["rows"], file["limited"]) for file in json.loads(out)["files"]}
    assert told == {"donation_events": (1, True), "org_hierarchy": (2, False), "hours_by_cost_center": (2, True)}
    assert {path.stem for path in Path("out").iterdir()} == set(told)
    assert [row[0] for row in read(Path("out/donation_events.parquet")).fetchall()] == ["e4"]
    code, out, _ = teei("export", "later", "--view", "hours_by_cost_center", "--from", "2024-02-01")
    assert (code, "0" in out.split()) == (0, True)
    assert read(Path("later/hours_by_cost_center.parquet")).fetchall() == []


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_many_rows_are_written_in_pieces(store: Store, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(export, "ROW_GROUP", 2)
    rows = [event(VolunteerEvent, n, activity_name=f"={n}") for n in range(5)]
    put(store, VolunteerEvent, [*rows, event(VolunteerEvent, 7, company=GLOBEX), event(VolunteerEvent, 8, company="x")])
    days = (rows[0]["day"], rows[0]["day"])
    names = ["sroi_v1", "people", "volunteer_events"]
    made = export.export_views(store, Path("out"), form, names, companies=[ACME, GLOBEX], days=days)
    assert [one.view for one in made] == ["volunteer_events", "people", "sroi_v1"], "each after what it needs"
    escaped = 5 if form == "csv" else 0
    assert (made[0].rows, made[0].escaped, made[0].limited, made[1].limited) == (6, escaped, True, False)
    assert made[0].path == Path("out").resolve() / f"volunteer_events.{form}"
    assert form == "csv" or pq.read_metadata(made[0].path).num_row_groups > 1
    found = duckdb.connect().execute(f"SELECT event_id FROM 'out/volunteer_events.{form}'").fetchall()
    assert sorted(found) == [(f"e{n}",) for n in (0, 1, 2, 3, 4, 7)]
    for count, more in ((1, ""), (3, " and 2 more")):
        with pytest.raises(UsageError, match=rf"\.{form}{more}: there already"):
            export.export_views(store, Path("out"), form, names[:count], companies=[ACME])


def test_a_companys_folder_is_its_own_and_empty(tmp_path: Path) -> None:
    (tmp_path / ACME).mkdir(mode=0o755)
    for slug in (ACME, GLOBEX):
        assert export.folder_for(slug, tmp_path) == tmp_path / slug
        assert stat.S_IMODE((tmp_path / slug).stat().st_mode) == 0o700
    (tmp_path / ACME / "file").touch()
    with pytest.raises(UsageError, match="holds files already: name another folder"):
        export.folder_for(ACME, tmp_path)
    with pytest.raises(UsageError, match="cannot be written: Not a directory"):
        export.folder_for(GLOBEX, tmp_path / ACME / "file")


def test_a_companys_tables_are_files(full: Store, tmp_path: Path) -> None:
    """Those that are there are replaced."""
    (tmp_path / "donation_events.parquet").write_text("old")
    assert export.export(full, ACME, tmp_path) == {contract.table: 3 for contract in RELEASED}
    for contract in RELEASED:
        found = pq.read_table(tmp_path / f"{contract.table}.parquet")
        assert found.schema.equals(arrow_schema(contract))
        assert sorted(found["event_id"].to_pylist()) == ["e1", "e3", "e4"]
        assert set(found["company"].to_pylist()) == {ACME}


def test_a_text_that_a_spreadsheet_would_compute_is_none(store: Store, teei: Teei) -> None:
    harmful = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1", "=a,b\n", "\ta", "\ra", "\na", "\0a"]
    harmless = ["a=1", "1-1", "", "'=1", 'say "=1"', "a,=1"]
    texts = [*harmful, *harmless]
    put(store, VolunteerEvent, [event(VolunteerEvent, n, activity_name=text) for n, text in enumerate(texts)])
    code, out, _ = teei("export", "out", "--format", "csv", "--view", "volunteer_events")
    assert code == 0 and f"{len(harmful)} texts begin like a formula" in out
    with Path("out/volunteer_events.csv").open(newline="", encoding="utf-8") as file:
        found = {row["event_id"]: row["activity_name"] for row in csv.DictReader(file)}
    assert [found[f"e{n}"] for n in range(len(texts))] == [*(f"'{text}" for text in harmful), *harmless]


def test_files_are_for_this_user_and_of_one_piece(full: Store, teei: Teei) -> None:
    mine = Path("out/.notes.tmp")
    mine.parent.mkdir()
    mine.touch()
    assert teei("export", "out/below", "--view", "people")[0] == 0
    assert stat.S_IMODE(Path("out/below").stat().st_mode) == 0o700
    assert stat.S_IMODE(Path("out/below/people.parquet").stat().st_mode) == 0o600
    assert teei("export", "out", "--view", "people")[0] == 0
    assert {path.name for path in Path("out").iterdir()} == {"people.parquet", "below", mine.name}


def test_after_an_error_files_are_as_they_were(full: Store, teei: Teei) -> None:
    some = ("--view", "donation_events", "--view", "buddy_events")
    assert teei("export", "out", *some)[0] == 0
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    for path in Path(full.uri, "buddy_events").rglob("*.parquet"):
        path.unlink()
    put(full, DonationEvent, [event(DonationEvent, 1)])
    code, _, err = teei("export", "out", "--overwrite", *some)
    assert (code, err.count("\n")) == (5, 1)
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before
    assert teei("export", "out", "--overwrite", *some[:2])[0] == 0
    assert {path.name for path in Path("out").iterdir() if path.read_bytes() != before[path.name]} == {
        "donation_events.parquet"
    }


# Exports with room for 20,000 bytes a file; a write beyond is refused, or kills the process.
LIMITED = """
import resource, signal, sys
from teei_ingest.cli.app import run
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
signal.signal(signal.SIGXFSZ, getattr(signal, sys.argv[1]))
sys.exit(run(["export", *sys.argv[2:]]))
"""


@pytest.mark.fleet
@pytest.mark.parametrize("form", ["parquet", "csv"])
@pytest.mark.parametrize(
    ("at_the_limit", "code", "says"),
    [("SIG_IGN", 2, "people.{form} cannot be written: File too large\n"), ("SIG_DFL", -signal.SIGXFSZ, "")],
    ids=["full", "killed"],
)
def test_neither_a_full_disk_nor_a_kill_leaves_half_of_it(
    store: Store, teei: Teei, form: str, at_the_limit: str, code: int, says: str
) -> None:
    put(store, VolunteerEvent, [event(VolunteerEvent, n, user_id=f"{n * 7919**9:x}") for n in range(2000)])
    arguments = ("out", "--overwrite", "--format", form, "--view=buddy_events", "--view=people")  # the first has room
    assert teei("export", *arguments)[0] == 0
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    put(store, VolunteerEvent, [event(VolunteerEvent, n, user_id=f"{n * 7907**9:x}") for n in range(2000)])
    put(store, BuddyEventLogged, [event(BuddyEventLogged, 1)])
    command = [sys.executable, "-c", LIMITED, at_the_limit, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert ended.stderr.endswith(says.format(form=form)) and ended.stderr.count("\n") == bool(says), ended.stderr
    left = {path.name: path.read_bytes() for path in Path("out").iterdir() if path.is_file()}
    assert left == before
    assert {path.name for path in Path("out").iterdir()} - set(before) == ({".teei-export"} if code < 0 else set())
    assert teei("export", "out", "--overwrite", "--view=sroi_v1")[0] == 0
    assert {path.name for path in Path("out").iterdir()} == {*before, "sroi_v1.parquet"}, "what was begun is removed"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["out", "--view", "volunter_events"], 2, "no view volunter_events: did you mean volunteer_events"),
        (["out", "--company", "acme"], 2, "no company 'acme'"),
        (["out", "--from", "2024-01-02", "--to", "2024-01-01"], 2, "reversed"),
        (["out", "--to", "out"], 2, "'out' is no day"),
        (["s3://bucket/out"], 2, "no folder of this machine"),
        (["there", "--view", "people"], 2, "people.parquet: there already; name another folder, or add --overwrite"),
        (["there", "--view", "sroi_v1", "--overwrite"], 2, "sroi_v1.parquet is a folder: name another"),
        (["there/people.parquet"], 2, "Not a directory"),
        (["/sys/out"], 2, "/sys/out cannot be written:"),
        (["busy"], 2, "another export"),
        ([], 2, "missing argument"),
        (["out", "--format", "xml"], 2, "parquet"),
        (["../home/events/out"], 2, "is where the event tables are"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    store: Store, teei: Teei, arguments: list[str], code: int, says: str
) -> None:
    for folder in ("there", "busy"):
        Path(folder).mkdir()
    Path("there/people.parquet").touch()
    Path("there/sroi_v1.parquet").mkdir()
    busy = os.open("busy", os.O_RDONLY)
    fcntl.flock(busy, fcntl.LOCK_EX)
    try:
        found, out, err = teei("export", *arguments)
    finally:
        os.close(busy)
    assert (found, out, err.count("\n")) == (code, "", 1), err
    assert says in err
    assert not Path("out").exists() or not list(Path("out").iterdir())


# --- the views that are contracts ---------------------------------------------------------------------------------


def fact(contract: type[Data], seed: int, user: str | None, **more: Any) -> dict[str, Any]:
    """A row of a contract whose person has one token, of the company's own id."""
    values = {"user_id": user, "external_user_id": None, "company_id": f"id of {more.get('company', ACME)}"}
    return event(contract, seed, **values, **more)


def hours(seed: int, user: str | None, when: datetime | None = None, **more: Any) -> dict[str, Any]:
    return fact(VolunteerEvent, seed, user, activity_date=when or at(5), **{"hours_logged": 1.25, **more})


def sroi(store: Store, company: str = ACME) -> dict[tuple[str, str, str], tuple[Decimal | None, int | None]]:
    rows = query(store, f"SELECT * FROM sroi_v1 WHERE company = '{company}'")[1]
    found = {(f"{month:%Y-%m}", measure, unit): (value, people) for _, _, month, measure, unit, value, people in rows}
    assert len(found) == len(rows)
    return found


def vis(store: Store, month: str = "2024-01", company: str = ACME) -> dict[str, Any]:
    names, rows = query(store, f"SELECT * FROM vis_v1 WHERE company = '{company}' AND month = '{month}-01'")
    (row,) = rows
    return dict(zip(names[3:], row[3:], strict=True))


HOURS = ("2024-01", "volunteer_hours", "hours")
Rows = list[dict[str, Any]]


def five(**more: Any) -> Rows:
    return [hours(n, f"t_{n}", **more) for n in range(5)]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (five(), ("6.2500", 5)),
        (five()[:4], None),
        ([*five()[:4], hours(9, "t_1")], None),  # five records of four people
        ([*five()[:4], hours(9, None)], None),  # nobody is no fifth
        ([*five()[:4], hours(9, MARK)], None),
        ([*five(), hours(9, None), hours(10, MARK)], ("8.7500", 5)),  # but counts in a group that is shown
        ([hours(n, None) for n in range(9)], None),
        ([*five()[:4], hours(9, "t_old", source_id="s1", source_timestamp=at(1, 8))], None),  # an older version
        ([*five()[:4], hours(9, "t_9", company=GLOBEX)], None),
        ([*five()[:4], hours(9, "t_9", datetime(2024, 2, 1, tzinfo=UTC))], None),
        ([*five()[:4], hours(9, "t_9", datetime(2024, 1, 31, 23, 59, 59, 999_999, UTC))], ("6.2500", 5)),
        ([*five(hours_logged=0.00001)], ("0.0001", 5)),  # rounded once, as a sum
        ([*five(hours_logged=1e300)], (None, 5)),
    ],
)
def test_a_figure_is_of_five_people_or_of_none(
    store: Store, rows: Rows, expected: tuple[str | None, int] | None
) -> None:
    put(store, VolunteerEvent, rows)
    value, people = expected or (None, None)
    told, shown = sroi(store)[HOURS], vis(store)
    assert told == (shown["hours"], shown["volunteers"]) == (Decimal(value) if value else None, people)
    assert (shown["activities"] is None) == (expected is None)
    assert {shown[name] for name in ("placed", "placements", "completers", "completions", "donors", "donations")} == {0}


def test_two_tokens_of_one_person_are_one(store: Store) -> None:
    known = hours(8, "t_0", datetime(2024, 3, 1, tzinfo=UTC)) | {"external_user_id": "t_4"}
    put(store, VolunteerEvent, [*five(), known])
    assert sroi(store)[HOURS] == (None, None), "t_4 is the id of t_0"


@pytest.mark.parametrize(("user", "outside", "expected"), [("t_9", MARK, None), (MARK, "t_4", ("6.2500", 5))])
def test_a_mask_is_nobody_and_links_nobody(
    store: Store, user: str, outside: str, expected: tuple[str, int] | None
) -> None:
    others = five() if expected else [*five()[:4], hours(9, None) | {"external_user_id": MARK}]
    masked = hours(8, user, datetime(2024, 3, 1, tzinfo=UTC)) | {"external_user_id": outside}
    put(store, VolunteerEvent, [*others, masked])
    assert sroi(store)[HOURS] == ((Decimal(expected[0]), expected[1]) if expected else (None, None))


def test_each_measure_counts_what_its_page_says(store: Store) -> None:
    def each(contract: type[Data], first: int, **more: Any) -> Rows:
        return [fact(contract, first + n, f"t_{n}", **more) for n in range(5)]

    def learnt(first: int, when: datetime | None, **more: Any) -> Rows:
        return each(EnrollmentEvent, first, completion_date=when, **{"status": "completed", **more})

    given = {"donation_date": at(3), "currency": "NOK"}
    put(store, DonationEvent, each(DonationEvent, 0, amount=Decimal("12345678901234.5678"), **given))
    put(store, PlacementEvent, each(PlacementEvent, 30, placement_date=at(3), status="terminated"))
    march = datetime(2024, 3, 1, tzinfo=UTC)
    put(
        store,
        EnrollmentEvent,
        [
            *learnt(40, march),
            *learnt(50, None, source_timestamp=at(9)),
            *learnt(60, at(3), status="in_progress"),
            *learnt(70, at(3), status=None),  # a session
        ],
    )
    assert sroi(store) == {
        ("2024-01", "donations", "NOK"): (Decimal("61728394506172.8390"), 5),
        ("2024-01", "placements", "placements"): (Decimal(5), 5),
        ("2024-01", "completions", "completions"): (Decimal(5), 5),
        ("2024-03", "completions", "completions"): (Decimal(5), 5),
    }
    assert vis(store) == {
        **dict.fromkeys(("volunteers", "activities", "hours"), 0),
        **dict.fromkeys(("placed", "placements", "completers", "completions", "donors", "donations"), 5),
    }
    assert vis(store, "2024-03")["placements"] == 0


def test_currencies_are_groups_of_their_own(store: Store) -> None:
    rows = [
        fact(DonationEvent, n, f"t_{n}", donation_date=at(3), currency=currency, amount=Decimal(10))
        for n, currency in enumerate(["NOK"] * 6 + ["USD"] * 2)
    ]
    put(store, DonationEvent, rows)
    assert sroi(store) == {
        ("2024-01", "donations", "NOK"): (Decimal(60), 6),
        ("2024-01", "donations", "USD"): (None, None),
    }
    shown = vis(store)
    assert (shown["donors"], shown["donations"]) == (None, None), "8 - 6 are the two"
    more = [row | {"source_id": f"m{n}", "event_id": f"m{n}", "user_id": f"m_{n}"} for n, row in enumerate(rows[5:8])]
    put(store, DonationEvent, [*rows, *more[1:], more[2] | {"source_id": "m9", "event_id": "m9", "user_id": "t_0"}])
    assert sroi(store)["2024-01", "donations", "USD"] == (Decimal(50), 5)
    shown = vis(store)
    assert (shown["donors"], shown["donations"]) == (10, 11), "t_0 gave in both"


@every_released_view
def test_a_view_is_what_its_contract_says(store: Store, view: str, teei: Teei) -> None:
    put(store, VolunteerEvent, [*five(), hours(9, "t_9", company=GLOBEX)])
    described = query(store, f"DESCRIBE {view}")[1]
    assert [row[:2] for row in described] == [(one.name, one.type) for one in RELEASED_VIEWS[view].columns]
    _, out, _ = teei("sql", f"SELECT * FROM {view}", "--format", "json")
    schema = json_schema(view)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    rows = json.loads(out)
    assert len(rows) == 2
    for row in rows:
        validator.validate(row)
        assert list(row) == list(schema["properties"])
    assert teei("export", "out", "--view", view)[0] == 0
    nullable = {field.name: field.nullable for field in pq.read_schema(f"out/{view}.parquet")}
    assert nullable == {one.name: one.nullable for one in RELEASED_VIEWS[view].columns}


@every_released_view
def test_the_released_contract_is_kept(view: str) -> None:
    """Fails on a breaking change; for a harmless one `make docs` writes the file anew."""
    assert breaking(view, json.loads((SCHEMAS / f"{view}.json").read_text()), json_schema(view)) == []


def test_every_schema_belongs_to_a_released_view() -> None:
    assert {path.name for path in SCHEMAS.iterdir()} == {f"{view}.json" for view in RELEASED_VIEWS}


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    schema = copy.deepcopy(json_schema("sroi_v1"))
    change(schema)
    return schema


def reordered(schema: dict[str, Any]) -> None:
    schema["properties"] = dict(reversed(schema["properties"].items()))


def added(schema: dict[str, Any], *, first: bool = False) -> None:
    extra, columns = {"country": {"type": ["string", "null"]}}, schema["properties"]
    schema["properties"] = {**extra, **columns} if first else {**columns, **extra}
    schema["required"].append("country")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda schema: schema["properties"].pop("people"), "sroi_v1.people: was removed"),
        (lambda schema: schema["properties"]["value"].update({"x-kind": "DOUBLE"}), "sroi_v1.value: `x-kind`"),
        (lambda schema: schema["properties"]["value"].update({"x-unit": "USD"}), "sroi_v1.value: the unit was `unit`"),
        (lambda schema: schema["properties"]["month"].update(type=["string", "null"]), "sroi_v1.month: the type was"),
        (lambda schema: schema["properties"]["measure"]["enum"].pop(), "no longer lists 'donations'"),
        (reordered, "in this order"),
        (lambda schema: added(schema, first=True), "in this order"),
    ],
)
def test_a_breaking_change_is_found(change: Callable[[dict[str, Any]], Any], says: str) -> None:
    found = breaking("sroi_v1", json_schema("sroi_v1"), changed(change))
    assert any(says in line for line in found), found


def test_harmless_changes_are_harmless() -> None:
    assert breaking("sroi_v1", json_schema("sroi_v1"), changed(added)) == []
    more = changed(lambda schema: schema["properties"]["measure"]["enum"].append("mentoring_hours"))
    assert breaking("sroi_v1", json_schema("sroi_v1"), more) == []


def test_a_released_view_is_not_overwritten_by_a_breaking_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / docs.VIEW_SCHEMAS / "vis_v1.json"
    path.parent.mkdir(parents=True)
    released = copy.deepcopy(json_schema("vis_v1"))
    released["properties"]["shoes"] = {"type": "integer"}
    path.write_text(json.dumps(released))
    monkeypatch.setattr(docs, "project_root", lambda: tmp_path)
    assert docs.main() == 1
    assert "vis_v1.shoes: was removed" in capsys.readouterr().err


# --- other engines ------------------------------------------------------------------------------------------------

PAGE = project_root() / "docs" / "warehouses.md"
FILES = "/var/lib/clickhouse/user_files"
# Carries out statements (JSON, standard input) in ClickHouse; what each answers goes to NUMBER.arrow.
CLICKHOUSE = """
import json, pathlib, sys, chdb
connection = chdb.connect(":memory:")
for number, statement in enumerate(json.load(sys.stdin)):
    pathlib.Path(f"{number}.arrow").write_bytes(connection.query(statement, "Arrow").bytes() or b"")
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    with filled(tmp_path_factory.mktemp("filled")) as made:
        yield made


@pytest.fixture(scope="module")
def tables(original: Filled) -> Store:
    return open_store(original.settings)


def clickhouse(folder: Path, statements: list[str]) -> list[pa.Table | None]:
    """What ClickHouse answers to each; it may read below the folder alone."""
    done = subprocess.run(
        [sys.executable, "-c", CLICKHOUSE],
        input=json.dumps(statements),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers = [folder / f"{number}.arrow" for number in range(len(statements))]
    return [pa.ipc.open_file(path).read_all() if path.stat().st_size else None for path in answers]


def unnulled(value: Any, kind: pa.DataType) -> Any:
    """A value as ClickHouse has it, which knows no null list, map or struct."""
    if pa.types.is_map(kind):
        return sorted(value or ())
    if pa.types.is_list(kind):
        return [unnulled(one, kind.value_type) for one in value or ()]
    if pa.types.is_struct(kind):
        return {field.name: unnulled((value or {}).get(field.name), field.type) for field in kind}
    return value


def unordered(table: pa.Table, schema: pa.Schema) -> list[str]:
    return sorted(repr({f.name: unnulled(row[f.name], f.type) for f in schema}) for row in normal(table))


def normal(table: pa.Table) -> list[dict[str, Any]]:
    """Rows whose instants are in UTC, whatever the engine calls it."""
    fields = [pa.field(f.name, pa.timestamp("us", "UTC")) if pa.types.is_timestamp(f.type) else f for f in table.schema]
    rows: list[dict[str, Any]] = table.cast(pa.schema(fields)).to_pylist()
    return rows


@pytest.fixture(scope="module")
def s3(tables: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """With the tables in the bucket `teei`."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        server.make("teei")
        pafs.copy_files(tables.uri, "teei/events", destination_filesystem=server.files())
        yield server


@pytest.mark.fleet
@pytest.mark.parametrize("kept", ["in a folder", "in a bucket"])
def test_clickhouse_reads_every_table(request: pytest.FixtureRequest, tables: Store, kept: str) -> None:
    folder, function = Path(tables.uri), "deltaLakeLocal('{0}/{2}')"
    server = request.getfixturevalue("s3") if kept == "in a bucket" else None
    if server:
        function = f"deltaLakeS3('{{1}}/teei/events/{{2}}', '{KEY}', '{SECRET}')"
    places = [function.format(folder, server and server.url, contract.table) for contract in contracts()]
    asked = [f"SELECT * FROM {place}" for place in places]
    for contract, found in zip(contracts(), clickhouse(folder.parent, asked), strict=True):
        schema = arrow_schema(contract)
        stored = tables.rows(contract)
        assert found is not None and found.schema.names == schema.names
        assert unordered(found, schema) == unordered(stored, schema), contract.table


@pytest.mark.fleet
def test_clickhouse_does_what_the_page_says(original: Filled, tables: Store, teei: Teei, tmp_path: Path) -> None:
    folder = Path(tables.uri).parent
    with pytest.MonkeyPatch.context() as patched:
        for name, value in original.home.environ.items():
            patched.setenv(name, value)
        assert teei("export", str(folder / "exports"), "--view", "sroi_v1", "--overwrite")[0] == 0
    section = PAGE.read_text().partition("## ClickHouse\n")[2].partition("\n## ")[0]
    (block,) = re.findall(r"^```sql\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert FILES in block
    written = [one.strip() for one in block.replace(FILES, str(folder)).split(";") if one.strip()]
    *_, hours, _, donations, _, figures, current = clickhouse(
        folder, [*written, "SELECT * FROM current_volunteer_events"]
    )
    same = """
        SELECT company, date_trunc('month', activity_date)::DATE AS month, sum(hours_logged) AS hours, count(*)
        FROM current_volunteer_events GROUP BY ALL ORDER BY ALL"""
    assert (
        hours is not None
        and [
            (row["company"], row["month"], pytest.approx(row["hours"]), row["activities"]) for row in hours.to_pylist()
        ]
        == query(tables, same)[1]
    )
    same = """
        SELECT company, currency, sum(amount) AS given, sum(company_match.match_amount) AS matched
        FROM current_donation_events GROUP BY ALL ORDER BY company, currency"""
    assert donations is not None
    assert [tuple(row.values()) for row in donations.to_pylist()] == query(tables, same.replace("current_", ""))[1]
    same = f"SELECT month, measure, unit, value FROM sroi_v1 WHERE company = '{ACME}' ORDER BY ALL"
    assert figures is not None and [tuple(row.values()) for row in figures.to_pylist()] == query(tables, same)[1]
    assert current is not None
    with connect(tables) as connection:
        expected = connection.sql("SELECT * FROM current_volunteer_events").to_arrow_table()
    assert unordered(current, arrow_schema(VolunteerEvent)) == unordered(expected, arrow_schema(VolunteerEvent))


@pytest.mark.fleet
def test_polars_reads_tables_of_which_every_view_is_the_same(tables: Store) -> None:
    import polars

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    for contract in contracts():
        frame = polars.scan_delta(f"{tables.uri}/{contract.table}").collect()
        assert frame.height == tables.rows(contract).num_rows
        connection.register(contract.table, frame.to_arrow())
    define_views(connection, tables.presence())
    for view in views():
        found, expected = (
            sorted(map(repr, rounded(rows)))
            for rows in (
                connection.execute(f"SELECT * FROM {view}").fetchall(),
                query(tables, f"SELECT * FROM {view}")[1],
            )
        )
        assert found == expected, view
        assert found or view in ("buddy_checkins", "current_buddy_checkins"), f"nothing to compare in {view}"


def rounded(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Floats without the digits that depend on the order of a sum."""
    return [tuple(round(value, 9) if isinstance(value, float) else value for value in row) for row in rows]
