"""Tables of another version or another deployment: refused in one line, brought up, moved; and nothing is spoilt."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from teei_ingest.cli.app import run
from teei_ingest.contracts import RELEASED, VolunteerEvent
from teei_ingest.contracts.stored import arrow_schema
from teei_ingest.errors import StoreError
from teei_ingest.store import forms, open_store
from teei_ingest.store.deployment import FILE, deployment_id
from teei_ingest.store.forms import FORMAT
from teei_ingest.store.tables import PROPERTIES, Store, contracts
from teei_ingest_tests.feeding import ACME, Answering
from teei_ingest_tests.running import Home
from teei_ingest_tests.test_store_tables import event, put

FIRST = date(2024, 1, 1)
TABLE = VolunteerEvent
# The columns of all released tables, by form. Other columns need another FORMAT.
COLUMNS = {1: "4e7e96f7ae411eabe57f6f631bc6deebad8ff5995780565ee752b95eb0a257cc"}

Use = Callable[[Store], object]
USES: dict[str, Use] = {
    "rows": lambda store: store.rows(TABLE),
    "dataset": lambda store: store.dataset(TABLE),
    "holds": lambda store: store.holds("acme-corp"),
    "versions": lambda store: store.versions(),
    "replace": lambda store: put(store, TABLE, [event(TABLE, 9)]),
    "remove_company": lambda store: store.remove_company(TABLE, "acme-corp"),
    "expire": lambda store: store.expire(TABLE, FIRST + timedelta(400)),
    "purge": lambda store: store.purge(TABLE),
    "tidy": lambda store: store.tidy(TABLE, 24),
    "sizes": lambda store: store.sizes(TABLE),
}


def at(store: Store, contract: Any = TABLE) -> DeltaTable:
    return DeltaTable(f"{store.uri}/{contract.table}")


def say(store: Store, **properties: str) -> None:
    """What another version would have written into the tables' metadata."""
    said = {f"teei.{name}": value for name, value in properties.items()}
    for contract in contracts():
        at(store, contract).alter.set_table_properties(said, raise_if_not_exists=False)


def versions(store: Store) -> list[int]:
    return [at(store, contract).version() for contract in contracts()]


def ids(store: Store) -> list[str]:
    return sorted(at(store).to_pyarrow_table(columns=["event_id"])["event_id"].to_pylist())


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return str(tmp_path / "events")


@pytest.fixture
def store(uri: str) -> Store:
    """With two rows, of a home called `a`."""
    made = Store(uri, sandbox=False, home="a")
    made.prepare()
    put(made, TABLE, [event(TABLE, 1), event(TABLE, 2)])
    return made


# --- another version --------------------------------------------------------------------------------------------------


def test_other_columns_are_another_form() -> None:
    columns = [(one.table, [(f.name, str(f.type), f.nullable) for f in arrow_schema(one)]) for one in RELEASED]
    found = sha256(json.dumps(columns).encode()).hexdigest()
    assert COLUMNS.get(FORMAT) == found, "columns changed: one more FORMAT, and its columns here"


def test_a_new_table_says_its_form_and_whose_it_is(store: Store) -> None:
    for contract in contracts():
        said = at(store, contract).metadata().configuration
        assert (said["teei.format"], said["teei.home"]) == (f"{FORMAT}", "a")
        assert PROPERTIES.items() <= said.items()


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("said", [f"{FORMAT + 1}", f"{FORMAT}>{FORMAT + 1}"], ids=["newer", "becoming newer"])
def test_a_table_of_a_newer_version_is_refused_and_left_alone(store: Store, said: str, use: Use) -> None:
    say(store, format=said)
    before = versions(store)
    with pytest.raises(StoreError, match=r"was written by a newer teei_ingest.*upgrade this one") as caught:
        use(store)
    assert "\n" not in str(caught.value)
    assert (versions(store), ids(store)) == (before, ["e1", "e2"])


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_table_of_an_older_version_is_refused_and_left_alone(store: Store, use: Use) -> None:
    say(store, format=f"{FORMAT - 1}")
    before = versions(store)
    with pytest.raises(StoreError, match=r"was written by an older teei_ingest.*`teei store migrate`"):
        use(store)
    assert (versions(store), ids(store)) == (before, ["e1", "e2"])


def test_tables_from_before_there_were_numbers_are_of_the_first_form(uri: str) -> None:
    for contract in contracts():
        DeltaTable.create(
            f"{uri}/{contract.table}", arrow_schema(contract), partition_by="company", configuration=PROPERTIES
        )
    old = Store(uri, sandbox=False, home="a")
    old.prepare()
    found = old.form(TABLE)
    assert (found.number, found.home) == (1, None)
    if FORMAT == 1:
        put(old, TABLE, [event(TABLE, 1)])
        assert old.form(TABLE).home == "a", "whoever writes first owns it"
        with pytest.raises(StoreError, match="belongs to the deployment a, this is b"):
            Store(uri, sandbox=False, home="b").rows(TABLE)


# The next version, which nobody has written yet: one column more, and a value for it in what is there.
NEXT = """
import os, sys
import pyarrow as pa
from deltalake import write_deltalake
from teei_ingest.store import forms, tables

def columns(contract, of_now=tables.arrow_schema):
    return of_now(contract).append(pa.field("origin", pa.string()))

def fill(opened):
    rows = opened().to_pyarrow_table()
    if rows.num_rows:
        origin = pa.array([f"{value or ''}filled" for value in rows["origin"].to_pylist()], pa.string())
        rows = rows.set_column(rows.schema.get_field_index("origin"), "origin", origin)
        write_deltalake(opened(), rows, mode="overwrite")
    if os.environ.get("KILLED_AFTER"):
        os._exit(9)

tables.arrow_schema = columns
forms.FORMAT += 1
forms.STEPS[forms.FORMAT - 1] = fill
from teei_ingest.cli.app import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.fixture
def place(home: Callable[..., Home], server: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home, which the commands find, with two rows."""
    made = home({ACME.slug: ACME.id}, server.environment())
    for name, value in made.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    monkeypatch.chdir(tmp_path)
    put(open_store(made.settings), TABLE, [event(TABLE, 1), event(TABLE, 2)])
    return made


def next_version(place: Home, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """`teei` of the next version."""
    return subprocess.run(
        [sys.executable, "-c", NEXT, *arguments],
        env={**place.environ, **environ},
        cwd=place.path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def elsewhere(place: Home) -> Store:
    """The store as a process has it that shares no lock with us, as on another machine."""
    return Store(place.settings.store_uri, sandbox=False, home=deployment_id(place.settings.home))


class Waiting:
    """Rows to replace with, the second part of which comes when it is let."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.error: StoreError | None = None

    def __call__(self) -> pa.RecordBatchReader:
        made = pa.Table.from_pylist([event(TABLE, 3), event(TABLE, 4)], schema=arrow_schema(TABLE))

        def batches() -> Iterator[pa.RecordBatch]:
            for batch in made.to_batches(max_chunksize=1):
                yield batch
                self.begun.set()
                assert self.go_on.wait(120)

        return pa.RecordBatchReader.from_batches(made.schema, batches())

    def replacing(self, store: Store) -> threading.Thread:
        def work() -> None:
            try:
                store.replace(TABLE, "one", ACME.slug, [event(TABLE, 3)["day"]], self)
            except StoreError as error:
                self.error = error

        thread = threading.Thread(target=work)
        thread.start()
        assert self.begun.wait(30)
        return thread


@pytest.mark.fleet
def test_an_upgrade_with_somebody_still_writing(place: Home, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(open_store(place.settings).rows(TABLE).to_pylist(), key=lambda row: str(row["event_id"]))
    refused = next_version(place, "sql", "SELECT 1 FROM volunteer_events")
    assert refused.returncode == StoreError.exit_code
    assert "was written by an older teei_ingest" in refused.stderr and len(refused.stderr.splitlines()) == 1

    dry = next_version(place, "store", "migrate", "--dry-run", "--json")
    assert json.loads(dry.stdout)["older"] == [contract.table for contract in contracts()], dry.stderr
    assert open_store(place.settings).rows(TABLE).num_rows == 2, "nothing has changed"

    late = Waiting()
    thread = late.replacing(elsewhere(place))
    done = next_version(place, "store", "migrate")
    assert done.returncode == 0, done.stderr
    late.go_on.set()
    thread.join()
    assert late.error and "was written by a newer teei_ingest" in str(late.error)

    rows = sorted(at(elsewhere(place)).to_pyarrow_table().to_pylist(), key=lambda row: str(row["event_id"]))
    assert [row.pop("origin") for row in rows] == ["filled", "filled"]
    assert rows == before
    assert run(["sql", "SELECT 1 FROM volunteer_events"]) == StoreError.exit_code
    told = capsys.readouterr().err
    assert "upgrade this one" in told and len(told.splitlines()) == 1
    again = next_version(place, "store", "migrate", "--json")
    assert json.loads(again.stdout) == {
        "form": FORMAT + 1,
        "dry_run": False,
        "before": {contract.table: FORMAT + 1 for contract in contracts()},
        "older": [],
    }


@pytest.mark.fleet
def test_a_migration_that_was_killed_goes_on(place: Home) -> None:
    assert next_version(place, "store", "migrate", KILLED_AFTER="1").returncode == 9
    with pytest.raises(StoreError, match=f"newer teei_ingest \\(form {FORMAT}, on the way to {FORMAT + 1}"):
        open_store(place.settings).rows(contracts()[0])
    refused = next_version(place, "sql", f"SELECT 1 FROM {contracts()[0].table}")
    assert "stop what runs, then `teei store migrate`" in refused.stderr
    done = next_version(place, "store", "migrate")
    assert done.returncode == 0, done.stderr
    assert {forms.standing(at(elsewhere(place), one)).number for one in contracts()} == {FORMAT + 1}
    assert ids(elsewhere(place)) == ["e1", "e2"]


def test_there_is_nothing_to_migrate(place: Home, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(place.settings)
    before = versions(store)
    assert run(["store", "migrate"]) == 0
    assert f"have form {FORMAT}: there is nothing to do" in capsys.readouterr().out
    store.migrate(TABLE)  # as when two commands are given at once
    assert versions(store) == before


# --- another deployment -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_tables_of_another_deployment_are_refused_and_left_alone(store: Store, uri: str, use: Use) -> None:
    other = Store(uri, sandbox=False, home="b")
    other.prepare()
    before = versions(store)
    with pytest.raises(StoreError, match=r"belongs to the deployment a, this is b.*`teei store claim --from a`"):
        use(other)
    assert (versions(store), ids(store)) == (before, ["e1", "e2"])
    assert store.rows(TABLE).num_rows == 2


# In a process of its own: within one, delta-rs waits for the writer that waits for us.
CLAIM = """
import sys
from teei_ingest.store.tables import Store
Store(sys.argv[1], sandbox=False, home="b").claim("a")
"""


@pytest.mark.fleet
def test_a_store_that_is_claimed_is_lost_to_whoever_had_it(store: Store, uri: str) -> None:
    new = Store(uri, sandbox=False, home="b")
    with pytest.raises(StoreError, match="volunteer_events belongs to the deployment a, not to c"):
        new.claim("c")
    waiting = Waiting()
    thread = waiting.replacing(store)
    subprocess.run([sys.executable, "-c", CLAIM, uri], check=True, timeout=60)
    waiting.go_on.set()
    thread.join()
    assert waiting.error and "belongs to the deployment b, this is a" in str(waiting.error)
    assert ids(store) == ["e1", "e2"]
    for use in USES.values():
        with pytest.raises(StoreError, match="belongs to the deployment b"):
            use(store)
    put(new, TABLE, [event(TABLE, 5, day=FIRST + timedelta(7))])
    assert ids(store) == ["e1", "e2", "e5"]
    new.claim("a")  # which was interrupted, for all that it knows
    assert {new.form(contract).home for contract in contracts()} == {"b"}


def test_two_homes_with_one_store(
    place: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = deployment_id(place.settings.home)
    monkeypatch.setenv("TEEI_STORE_URI", place.settings.store_uri)
    monkeypatch.setenv("TEEI_HOME", str(tmp_path / "second"))
    question = ["sql", "SELECT count(*) AS n FROM volunteer_events", "--format", "json"]
    assert run(question) == StoreError.exit_code
    told = capsys.readouterr().err
    theirs = deployment_id(tmp_path / "second")
    assert ours != theirs
    assert len(told.splitlines()) == 1 and f"belongs to the deployment {ours}, this is {theirs}" in told
    assert run(["store", "claim", "--from", ours, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"from": ours, "to": theirs}
    assert run(question) == 0
    assert json.loads(capsys.readouterr().out) == [{"n": 2}]
    monkeypatch.setenv("TEEI_HOME", str(place.settings.home))
    assert run(question) == StoreError.exit_code


@pytest.mark.fleet
def test_the_doctor_says_so(
    place: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TEEI_STORE_URI", place.settings.store_uri)
    monkeypatch.setenv("TEEI_HOME", str(tmp_path / "second"))
    assert run(["doctor", "--json"]) == 1
    found = [one for one in json.loads(capsys.readouterr().out) if one["subject"] == "storage"]
    assert [one["state"] for one in found] == ["fail"] and "teei store claim --from" in found[0]["remedy"]


def test_a_home_keeps_its_id(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(deployment_id(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    (tmp_path / FILE).write_bytes(b"\xff\x00")
    with pytest.raises(StoreError, match="is damaged: restore it from its backup"):
        deployment_id(tmp_path)


def test_who_has_no_home_asks_for_none(store: Store, uri: str) -> None:
    assert Store(uri, sandbox=False).rows(TABLE).num_rows == 2
