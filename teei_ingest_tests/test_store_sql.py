"""`teei sql`: the views say the right thing, one question at a time, and the output is what machines can read."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from teei_ingest.contracts import RELEASED, DirectoryEntry, DonationEvent, EnrollmentEvent, VolunteerEvent
from teei_ingest.contracts.base import Data
from teei_ingest.contracts.stored import arrow_schema
from teei_ingest.errors import StoreError, UsageError
from teei_ingest.store import sql as sql_module
from teei_ingest.store.sql import connect, query, render
from teei_ingest.store.tables import Store, contracts
from teei_ingest.store.views import views
from teei_ingest_tests.test_store_tables import at, event, put, store

__all__ = ["store"]  # the fixture


def ask(store: Store, sql: str) -> list[dict[str, Any]]:
    names, rows = query(store, sql)
    return [dict(zip(names, row, strict=True)) for row in rows]


@pytest.mark.parametrize("contract", RELEASED, ids=lambda contract: contract.table)
def test_a_contracts_view_has_its_tables_columns_in_order(store: Store, contract: type[Data]) -> None:
    row = event(contract, 1)
    put(store, contract, [row])
    for view in (contract.table, f"current_{contract.table}"):
        names, rows = query(store, f"SELECT * FROM {view}")
        found = dict(zip(names, rows[0], strict=True))
        assert found.pop("present", None) is None, "who is gone from a directory was never read"
        assert list(found) == arrow_schema(contract).names
        # Arrow shows a map as pairs, DuckDB as a dict.
        assert found == {k: dict(v) if k in ("impact_metrics", "custom_fields") else v for k, v in row.items()}


def test_every_view_is_described_and_can_be_read_while_empty(store: Store) -> None:
    with connect(store) as connection:
        for name, view in views().items():
            assert view.description.endswith(".")
            assert connection.execute(f"SELECT * FROM {name}").fetchall() == []
    assert {row["name"] for row in ask(store, "SHOW TABLES")} == set(views())
    assert ask(store, "DESCRIBE people")[0]["column_name"] == "company"


@pytest.mark.parametrize(
    "named", ["{0}{1}", '{schema}."{0}{1}"', "query_table('{0}{1}')", "query('FROM {0}' || '{1}')"]
)
def test_a_question_finds_what_it_names_however_it_is_written(store: Store, named: str) -> None:
    for contract in contracts():
        put(store, contract, [event(contract, 1)])
    with connect(store) as connection:
        for view, made in views().items():
            everything = connection.execute(f"SELECT * FROM {view}").fetchall()
            place = named.format(view[:3].upper(), view[3:], schema="temp" if made.sql else "main")
            found = query(store, f"SELECT * FROM {place}")[1]
            assert sorted(found, key=repr) == sorted(everything, key=repr), view
            assert everything or view in ("impact_by_org_unit", "org_hierarchy"), view


def test_a_table_that_is_damaged_does_not_keep_others_from_being_asked(store: Store) -> None:
    put(store, VolunteerEvent, [event(VolunteerEvent, 1)])
    for path in Path(store.uri, DonationEvent.table, "_delta_log").iterdir():
        path.write_text("torn")
    assert len(ask(store, "SELECT * FROM current_volunteer_events")) == 1
    with pytest.raises(StoreError, match="cannot be used"):
        ask(store, "SELECT * FROM volunteer_events, people")


def test_a_long_question_shows_no_progress_where_its_answer_goes(store: Store) -> None:
    """DuckDB takes a program without a file for somebody at a prompt."""
    script = (
        "import sys; from teei_ingest.store.sql import query; from teei_ingest.store.tables import Store;"
        "print(query(Store(sys.argv[1], sandbox=True), \"SELECT current_setting('enable_progress_bar')\")[1])"
    )
    told = subprocess.run([sys.executable, "-c", script, store.uri], capture_output=True, text=True, check=True)
    assert told.stdout == "[(False,)]\n"


def test_current_is_the_newest_version_of_a_record_in_its_stream_and_company(store: Store) -> None:
    rows = [
        event(VolunteerEvent, 1, source_id="a", source_timestamp=at(1)),
        event(VolunteerEvent, 2, source_id="a", source_timestamp=at(3)),
        event(VolunteerEvent, 3, source_id="a", source_timestamp=at(2)),
        event(VolunteerEvent, 4, source_id="a", source_timestamp=at(1), stream="two"),
        event(VolunteerEvent, 5, source_id="a", source_timestamp=at(1), company="globex-inc"),
        event(VolunteerEvent, 6, source_id=None, source_timestamp=at(1)),
        event(VolunteerEvent, 7, source_id=None, source_timestamp=at(2)),
    ]
    put(store, VolunteerEvent, rows)
    found = ask(store, "SELECT event_id FROM current_volunteer_events ORDER BY 1")
    assert [row["event_id"] for row in found] == ["e2", "e4", "e5", "e6", "e7"]


def person(contract: type[Data], seed: int, user: str | None, external: str | None = None, **more: Any) -> Any:
    return event(contract, seed, user_id=user, external_user_id=external, **more)


def test_people_links_the_tokens_that_a_record_had_together(store: Store) -> None:
    put(
        store,
        EnrollmentEvent,
        [
            person(EnrollmentEvent, 1, "t_mail", "t_id", source_system="kintell"),
            person(EnrollmentEvent, 2, "t_mail", "t_id", source_system="upskilling"),
            person(EnrollmentEvent, 3, "t_other", "t_other", source_system="kintell"),
            person(EnrollmentEvent, 4, "t_lonely", None, source_system="kintell"),
            person(EnrollmentEvent, 5, "t_mail", "t_id", source_system="kintell", company="globex-inc"),
        ],
    )
    put(store, VolunteerEvent, [person(VolunteerEvent, 6, "t_mail", "t_bene", source_system="benevity")])
    found = query(store, "SELECT company, namespace, external_user_id, user_id FROM people ORDER BY ALL")[1]
    assert found == [
        ("acme-corp", "benevity", "t_bene", "t_mail"),
        ("acme-corp", "teei", "t_id", "t_mail"),
        ("globex-inc", "teei", "t_id", "t_mail"),
    ]


def entry(seed: int, manager: str | None = None, **more: Any) -> dict[str, Any]:
    return event(DirectoryEntry, seed, stream="workday_directory", manager_id=manager, **more)


def test_the_hierarchy_shows_everybody_once_with_the_way_from_the_top(store: Store) -> None:
    put(
        store,
        DirectoryEntry,
        [
            entry(1, None, source_id="top"),
            entry(2, "top", source_id="mid"),
            entry(3, "elsewhere", source_id="low", source_timestamp=at(1)),
            entry(4, "mid", source_id="low", source_timestamp=at(2)),
            entry(5, "left-long-ago", source_id="orphan"),
            entry(6, "circle-b", source_id="circle-a"),
            entry(7, "circle-a", source_id="circle-b"),
            entry(8, "circle-b", source_id="below"),
            entry(9, "self", source_id="self"),
            entry(10, "top", source_id="low", company="globex-inc"),
        ],
    )
    found = ask(store, "SELECT company, source_id, depth, path FROM org_hierarchy")
    assert {(row["company"], row["source_id"]): row["path"] for row in found} == {
        ("acme-corp", "top"): ["top"],
        ("acme-corp", "mid"): ["top", "mid"],
        ("acme-corp", "low"): ["top", "mid", "low"],
        ("acme-corp", "orphan"): ["orphan"],
        ("acme-corp", "circle-a"): ["circle-b", "circle-a"],
        ("acme-corp", "circle-b"): ["circle-a", "circle-b"],
        ("acme-corp", "below"): ["circle-a", "circle-b", "below"],
        ("acme-corp", "self"): ["self"],
        ("globex-inc", "low"): ["low"],
    }
    assert len(found) == 9
    assert all(row["depth"] == len(row["path"]) - 1 for row in found)
    names, _ = query(store, "SELECT * FROM org_hierarchy")
    assert names == ["company", "source_id", "user_id", "manager_id", "depth", "path", "department", "cost_center"]


def activity(seed: int, user: str | None, when: datetime, hours: float, **more: Any) -> dict[str, Any]:
    values = {"external_user_id": None, "user_id": user, "activity_date": when, "hours_logged": hours}
    return event(VolunteerEvent, seed, **{"source_timestamp": at(28), **values, **more})


def hours(store: Store, company: str = "acme-corp") -> dict[tuple[str | None, str | None, str], float]:
    sql = f"""SELECT cost_center, department, "month", hours FROM hours_by_cost_center WHERE company = '{company}'"""
    rows = query(store, sql)[1]
    found: dict[tuple[str | None, str | None, str], float] = {
        (center, department, str(month)): total for center, department, month, total in rows
    }
    assert len(found) == len(rows)
    return found


def test_hours_go_where_the_person_was_at_the_time(store: Store) -> None:
    def placed(seed: int, moment: datetime, center: str, user: str = "t_kari") -> dict[str, Any]:
        return entry(seed, source_id="k", user_id=user, external_user_id=None, source_timestamp=moment,
                     cost_center=center, department=f"in {center}")  # fmt: skip

    put(store, DirectoryEntry, [placed(1, at(10), "CC-1"), placed(2, at(20), "CC-2"), placed(3, at(20, 10), "CC-3")])
    put(
        store,
        VolunteerEvent,
        [
            activity(11, "t_kari", at(5), 1),  # before the directory knew her: the oldest entry
            activity(12, "t_kari", at(10), 2),  # the very moment
            activity(13, "t_kari", at(19), 4),
            activity(14, "t_kari", at(20, 9), 8),
            activity(15, "t_kari", datetime(2024, 2, 1, tzinfo=UTC), 16),
            activity(16, "t_nobody", at(1), 32),
            activity(17, None, at(1), 64),
            activity(18, "t_kari", at(11), 128, source_id="changed", source_timestamp=at(12)),
            activity(19, "t_kari", at(11), 0.5, source_id="changed", source_timestamp=at(13)),
            activity(20, "t_kari", at(11), 1000, company="globex-inc"),
        ],
    )
    assert hours(store) == {
        ("CC-1", "in CC-1", "2024-01-01"): 7.5,
        ("CC-2", "in CC-2", "2024-01-01"): 8,
        ("CC-3", "in CC-3", "2024-02-01"): 16,
        (None, None, "2024-01-01"): 96,
    }
    assert hours(store, "globex-inc") == {(None, None, "2024-01-01"): 1000}
    ((total, count),) = query(store, "SELECT sum(hours), sum(activities) FROM hours_by_cost_center")[1]
    assert (total, count) == query(store, "SELECT sum(hours_logged), count(*) FROM current_volunteer_events")[1][0]


def test_hours_of_an_id_go_to_the_person_that_a_record_once_named_with_it(store: Store) -> None:
    kari = {"cost_center": "CC-7", "department": "R&D"}
    put(store, DirectoryEntry, [entry(1, user_id="t_mail", external_user_id="t_wd", **kari)])
    put(
        store,
        VolunteerEvent,
        [
            activity(2, "t_mail", at(3), 1, external_user_id="t_id"),
            activity(3, "t_id", at(3), 2, external_user_id="t_id"),
            activity(4, None, at(3), 4, external_user_id="t_id"),
            # Two addresses were seen with this id: the hours count once.
            activity(5, "t_old_mail", at(3), 8, external_user_id="t_id", source_timestamp=at(2)),
        ],
    )
    assert hours(store) == {("CC-7", "R&D", "2024-01-01"): 7, (None, None, "2024-01-01"): 8}


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("selec 1", 'syntax error at or near "selec"'),
        ("", "ask one question"),
        ("SELECT 1; SELECT 2", "ask one question"),
        ("INSERT INTO people VALUES (1)", "ask one question"),
        ("DROP VIEW people", "ask one question"),
        ("SET threads = 1", "ask one question"),
        ("ATTACH 'x.db'", "ask one question"),
        ("COPY people TO 'x.csv'", "ask one question"),
        ("SELECT * FROM volunter_events", "there is no view volunter_events: did you mean volunteer_events"),
        ("SELECT * FROM zzz", "there is no view zzz: there are volunteer_events, donation_events"),
        ("DESCRIBE zzz", "there is no view zzz"),
        ("SELECT * FROM store", "there is no view store"),  # a variable of ours
        ("SELECT nothing FROM people", 'column "nothing" not found'),
        ("SELECT * FROM read_csv('/etc/passwd')", "only the views can be read"),
        ("SELECT * FROM '/etc/passwd'", "there is no view /etc/passwd"),
        ("SELECT user_id::INT FROM volunteer_events", r"failed while running \(ConversionException\)"),
    ],
)
def test_what_cannot_be_asked_is_one_line(store: Store, sql: str, says: str) -> None:
    put(store, VolunteerEvent, [person(VolunteerEvent, 1, "t_secret")])
    with pytest.raises(UsageError, match=says) as caught:
        query(store, sql)
    assert "\n" not in str(caught.value) and "t_secret" not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_a_store_without_tables_cannot_be_asked(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="teei demo"):
        query(Store(str(tmp_path / "events"), sandbox=True), "SELECT * FROM volunteer_events")


def test_filters_reach_the_files(store: Store) -> None:
    put(store, VolunteerEvent, [event(VolunteerEvent, 1)])
    where = "company = 'acme-corp' AND stream = 'one' AND day BETWEEN '2024-01-01' AND '2024-01-03'"
    for view, filters in (
        ("volunteer_events", ("company", "stream", "day")),
        ("current_volunteer_events", ("company", "stream")),
    ):
        with connect(store) as connection:
            plan = str(connection.execute(f"EXPLAIN SELECT event_id FROM {view} WHERE {where}").fetchall())
        scan = plan[plan.rindex("Arrow Scan") :]
        assert "Filters" in scan and all(f'"{column}"' in scan for column in filters)


def test_a_query_beyond_its_memory_spills_where_it_may(store: Store, tmp_path: Path) -> None:
    sql = "SELECT count(*) FROM (SELECT DISTINCT hash(i) h, hash(i + 1) k FROM range(3000000) t(i))"
    with connect(store, memory="50MB", spill=tmp_path / "spill") as connection:
        assert connection.execute(sql).fetchall() == [(3_000_000,)]


def test_what_cannot_be_remembered_says_what_to_do(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_module, "connect", partial(connect, memory="20MB"))
    with pytest.raises(UsageError, match="more memory than it may use: filter by company, stream or day") as caught:
        query(store, "SELECT count(*) FROM (SELECT DISTINCT hash(i) h, hash(i + 1) k FROM range(3000000) t(i))")
    assert caught.value.__cause__ is caught.value.__context__ is None


NAMES = ["amount", "when", "day", "location", "tags", "metrics", "name", "flag", "nothing"]
ROW = (
    Decimal("250.0000"),
    datetime(2024, 1, 15, 10, 0, 0, 5, tzinfo=UTC),
    date(2024, 1, 15),
    {"country": "NO", "city": None},
    ["winter", "ski, indoors"],
    {"kg_waste": 1.5},
    "[REDACTED]",
    True,
    None,
)


def test_json_is_one_array_of_objects() -> None:
    assert json.loads(render(NAMES, [ROW, ROW], "json")) == 2 * [
        {
            "amount": "250.0000",
            "when": "2024-01-15T10:00:00.000005Z",
            "day": "2024-01-15",
            "location": {"country": "NO", "city": None},
            "tags": ["winter", "ski, indoors"],
            "metrics": {"kg_waste": 1.5},
            "name": "[REDACTED]",
            "flag": True,
            "nothing": None,
        }
    ]
    assert json.loads(render(NAMES, [], "json")) == []


def test_csv_has_a_header_and_reads_back() -> None:
    found = list(csv.reader(io.StringIO(render(NAMES, [ROW], "csv"))))
    assert found[0] == NAMES
    assert found[1][:4] == ["250.0000", "2024-01-15T10:00:00.000005Z", "2024-01-15", '{"country": "NO", "city": null}']
    assert found[1][4:] == ['["winter", "ski, indoors"]', '{"kg_waste": 1.5}', "[REDACTED]", "true", ""]
    assert render(NAMES, [], "csv") == ",".join(NAMES)
    ends = [["a\rb", "c\nd", "e\r\nf", "g\r"]]
    assert list(csv.reader(io.StringIO(render(["a", "b", "c", "d"], ends, "csv"), newline="")))[1:] == ends


def test_a_table_is_complete_or_shown_by_column() -> None:
    wide = render(NAMES, [ROW, ROW], "table", width=400)
    assert len(wide.splitlines()) == 4 and wide.count("[REDACTED]") == 2
    assert render(NAMES, [ROW, ROW], "table") == wide  # the test's output is no terminal
    narrow = render(NAMES, [ROW, ROW], "table", width=40)
    assert narrow.count("[REDACTED]") == 2 and "    name │ [REDACTED]" in narrow.splitlines()
    assert len(render(["a"], [(None,), (None,)], "table").split("\n")) == 4
    assert render(["a"], [], "table") == "No rows (columns: a)."
    numbers, texts = render(["n", "t"], [(1, "a"), (None, "b"), (1000, "long")], "table").splitlines()[2:5:2]
    assert (numbers.index("1"), texts.index("1")) == (5, 2) and numbers.index("a") == texts.index("long")
    assert "\x1b" not in render(["a"], [["\x1b[31mred\nline"]], "table")


def test_a_table_is_as_wide_as_the_terminal_or_as_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, narrow = (render(NAMES, [ROW], "table", width=width) for width in (400, 40))
    assert wide.splitlines()[0].split() == NAMES and wide != narrow
    monkeypatch.setenv("COLUMNS", "40")
    assert render(NAMES, [ROW], "table") == wide, "what is no terminal has no width"
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert render(NAMES, [ROW], "table") == narrow
    assert render(NAMES, [ROW], "table", width=400) == wide


def test_letters_are_as_they_are_and_what_json_has_not_is_text_or_nothing() -> None:
    names, row = ["place", "raw", "odd", "local"], ({"city": "Ås"}, b"\x00\xff", float("nan"), datetime(2024, 1, 15, 9))
    assert '"Ås"' in render(names, [row], "json")
    assert json.loads(render(names, [row], "json"))[0] == {
        "place": {"city": "Ås"},
        "raw": "00ff",
        "odd": None,
        "local": "2024-01-15T09:00:00",
    }
    assert list(csv.reader(io.StringIO(render(names, [row], "csv"))))[1] == [
        '{"city": "Ås"}',
        "00ff",
        "",
        "2024-01-15T09:00:00",
    ]


def test_an_unknown_format_says_which_there_are() -> None:
    with pytest.raises(UsageError, match="table, json, csv"):
        render(NAMES, [], "xml")


def test_instants_are_utc_and_decimals_exact_whatever_the_machine_says(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    put(store, DonationEvent, [event(DonationEvent, 1, amount=Decimal("12345678901234.5678"), source_timestamp=at(1))])
    names, rows = query(store, "SELECT source_timestamp, amount, amount AS amount FROM donation_events")
    assert json.loads(render(names, rows, "json")) == [
        {
            "source_timestamp": "2024-01-01T09:00:00Z",
            "amount": "12345678901234.5678",
            "amount_2": "12345678901234.5678",
        }
    ]
    assert query(store, "SELECT source_timestamp::VARCHAR FROM donation_events")[1] == [("2024-01-01 09:00:00+00",)]


def test_pandas_is_loaded_by_who_wants_a_data_frame_alone(tmp_path: Path) -> None:
    script = """
import sys
import pyarrow as pa
import teei_ingest.store.sql
pa.array([1])
assert "pandas" not in sys.modules
assert pa.table({"a": ["x", None]}).to_pandas().a.count() == 1
import pandas as pd
frame = pd.DataFrame({"kind": pd.Categorical(["x"]), "at": pd.to_datetime(["2024-01-15"])})
assert pa.types.is_dictionary(pa.Table.from_pandas(frame).schema.field("kind").type)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
