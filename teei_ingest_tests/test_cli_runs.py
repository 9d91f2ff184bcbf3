"""`teei` with Dagster and a sandbox: sync, companies, doctor, and the three commands that bring a sandbox along."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from teei_ingest.sandbox.server import Running, SandboxConfig, environment, running
from teei_ingest.settings import SANDBOX_FILE, Settings
from teei_ingest.store import open_store
from teei_ingest.store.sql import query
from teei_ingest.streams import all_streams
from teei_ingest_tests.dagster_parts import (
    BIN,
    Proxy,
    activated,
    dagster_home,
    free_port,
    instance_in,
    proxy,
    window_with,
)
from teei_ingest_tests.running import Teei
from teei_ingest_tests.together import eventually

TEEI = str(BIN / "teei")
CONFIG = SandboxConfig(records=4)
SYNC = ("sync", "--company", "acme-corp", "--from", "2024-01-15")
DEMO_FIGURES = re.compile(r"^ *(\w+)((?: +[\d,]+){6}) +(\d+)/(\d+)(?: +(\d+))? +[\d.]+ *$", re.MULTILINE)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Running]:
    with running(CONFIG) as served:
        yield served


@pytest.fixture(scope="module")
def front(sandbox: Running) -> Iterator[Proxy]:
    with proxy(sandbox.url) as served:
        yield served


@pytest.fixture
def place(tmp_path: Path, sandbox: Running, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    point(home, environment(CONFIG, sandbox.url))
    monkeypatch.setenv("TEEI_HOME", str(home))
    monkeypatch.setenv("DAGSTER_HOME", str(dagster_home(home / "dagster")))
    monkeypatch.setenv("TEEI_MAX_RETRIES", "0")
    monkeypatch.chdir(tmp_path)
    return home


def point(home: Path, variables: Mapping[str, str]) -> None:
    """Give a sandbox's home these variables."""
    (home / SANDBOX_FILE).write_text(json.dumps({"environment": dict(variables)}))


def asked(teei: Teei, sql: str) -> Any:
    code, out, err = teei("sql", sql, "--format", "json")
    assert code == 0, err
    return json.loads(out)


def runs(place: Path) -> list[dg.DagsterRun]:
    with instance_in(place) as instance:
        return list(instance.get_runs())


def some_are_done(place: Path) -> bool:
    with instance_in(place) as instance:
        return any(instance.get_materialized_partitions(key) for key in instance.all_asset_keys())


def test_sync_is_a_run_of_dagster_and_replies_as_the_seed_did(teei: Teei, place: Path) -> None:
    code, out, err = teei(*SYNC, "--to", "2024-01-17", "--stream", "benevity_volunteers", "--json")
    assert (code, err) == (0, "")
    reply = json.loads(out)
    stored = asked(teei, "SELECT count(*) AS n FROM volunteer_events")[0]["n"]
    assert reply["summary"] == {"volunteers": stored, "donations": 0} and stored > 0
    assert list(reply) == ["success", "summary", "metadata", "errors"]
    assert reply["metadata"]["totalRecords"] == reply["metadata"]["recordsProcessed"] == stored
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", reply["metadata"]["lastSyncTimestamp"])

    (run_of,) = runs(place)
    assert run_of.status is dg.DagsterRunStatus.SUCCESS
    assert run_of.tags["dagster/asset_partition_range_start"] == "acme-corp|2024-01-15"
    assert run_of.tags["dagster/asset_partition_range_end"] == "acme-corp|2024-01-17"
    with instance_in(place) as instance:
        key = dg.AssetKey("benevity_volunteers_events")
        assert instance.get_materialized_partitions(key) == {f"acme-corp|2024-01-{day}" for day in (15, 16, 17)}
        assert instance.get_dynamic_partitions("company") == ["acme-corp"]


def test_the_table_has_what_dagster_has(teei: Teei) -> None:
    code, out, err = teei(*SYNC, "--to", "2024-01-16", "--stream", "kintell_sessions", "--stream", "workday_directory")
    assert (code, err) == (0, "")
    assert out.startswith("Acme Corp · 2024-01-15 … 2024-01-16 · 2 days · run ")
    rows = {found[1]: (found[2].split(), found[3], found[4]) for found in DEMO_FIGURES.finditer(out)}
    assert set(rows) == {"kintell_sessions", "workday_directory", "total"}
    for name, table in (("kintell_sessions", "enrollment_events"), ("workday_directory", "directory_entries")):
        (fetched, kept, quarantined, duplicates, outside, requests), passed, checks = rows[name]
        assert int(kept) == asked(teei, f"SELECT count(*) AS n FROM {table}")[0]["n"] > 0
        assert int(fetched) == sum(map(int, (kept, quarantined, duplicates, outside)))
        assert int(requests) >= 1 and passed == checks == "6"
    assert "Dagster" not in out and "Try again" not in out


def test_a_day_that_fails_is_named_with_the_command_that_tries_it_again(teei: Teei, place: Path, front: Proxy) -> None:
    point(place, environment(CONFIG, front.url))
    front.refuses = window_with(date(2024, 1, 16), "/volunteer-activities")
    names = ("--stream", "benevity_volunteers", "--stream", "benevity_donations")
    code, out, err = teei(*SYNC, "--to", "2024-01-18", *names)
    assert (code, err) == (4, "")
    (problem,) = [line for line in out.splitlines() if line.startswith("✘")]
    assert problem.startswith("✘ 2024-01-16  benevity/benevity_volunteers acme-corp: ")
    again = out.partition("Try again\n")[2].strip()
    assert again.endswith(
        "teei sync --company acme-corp --from 2024-01-16 --to 2024-01-16 --stream benevity_volunteers"
    )
    query = "SELECT DISTINCT day FROM volunteer_events ORDER BY day"
    assert [row["day"] for row in asked(teei, query)] == ["2024-01-15", "2024-01-17", "2024-01-18"]
    assert len(asked(teei, "SELECT DISTINCT day FROM donation_events")) == 4
    code, out, _ = teei(*SYNC, "--to", "2024-01-18", *names, "--json")
    (failed, good) = sorted(json.loads(out)["results"], key=lambda each: each["data"]["success"])
    assert code == 4 and failed["status"] == "rejected" and good["status"] == "fulfilled"
    assert [error["day"] for error in failed["data"]["errors"]] == ["2024-01-16"]

    front.refuses = None
    assert teei(*again.split()[again.split().index("sync") :])[0] == 0
    assert len(asked(teei, query)) == 4
    with instance_in(place) as instance:
        key = dg.AssetKey("benevity_volunteers_events")
        assert len(instance.get_materialized_partitions(key)) == 4


def test_bad_credentials_end_with_the_source_s_code(teei: Teei, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERNAL_ACME_CORP_API_KEY", "wrong")
    code, out, _ = teei(*SYNC, "--to", "2024-01-15", "--stream", "buddy_matches")
    assert code == 4 and out.count("✘") == 1 and "buddy/buddy_matches acme-corp: " in out and "wrong" not in out


@pytest.mark.long
def test_an_interrupted_sync_does_not_count_as_running(teei: Teei, place: Path) -> None:
    assert teei("companies", "sync")[0] == 0
    command = [TEEI, *SYNC, "--to", "2024-02-15"]
    process = subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        eventually(lambda: some_are_done(place), "a partition in the middle of a run")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "teei: interrupted; what was started has ended"
    assert all(each.is_finished for each in runs(place))


def test_doctor_ends_runs_whose_process_is_gone(teei: Teei, place: Path, front: Proxy) -> None:
    asked, gone = threading.Event(), threading.Event()

    def waits(*_: object) -> bool:
        asked.set()
        return gone.wait(60)

    point(place, environment(CONFIG, front.url))
    assert teei("companies", "sync")[0] == 0
    front.refuses = waits
    command = [TEEI, *SYNC, "--to", "2024-01-15", "--stream", "buddy_matches"]
    process = subprocess.Popen(command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert asked.wait(60)
        front.refuses = None
        assert "none is stuck" in teei("doctor")[1]
    finally:
        process.kill()
        process.wait()
        gone.set()
    code, out, _ = teei("doctor")
    (found,) = runs(place)
    assert code == 0 and f"their process is gone: {found.run_id[:8]}" in out and "teei doctor --fix" in out
    assert not found.is_finished
    assert teei("doctor", "--fix")[0] == 0
    assert runs(place)[0].status is dg.DagsterRunStatus.FAILURE
    assert "none is stuck" in teei("doctor")[1]


def test_doctor_finds_everything_well(teei: Teei) -> None:
    code, out, _ = teei("doctor", "--json")
    found = json.loads(out)
    assert code == 0 and not [line for line in found if line["state"] not in ("ok", "none")], found
    assert {line["subject"] for line in found} == {
        *("versions", "settings", "storage", "companies", "credentials", "systems", "keys", "clock", "dagster", "runs")
    }


def test_doctor_says_what_to_do(teei: Teei, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = place / "companies.yaml"
    registry.write_text("companies:\n  - id: 1\n")
    place.chmod(0o755)
    monkeypatch.setenv("TEEI_COMPANIES", str(registry))
    code, out, _ = teei("doctor", "--json")
    found = {line["subject"]: line for line in json.loads(out) if line["state"] != "ok"}
    assert code == 1 and found["companies"]["state"] == "fail"
    assert "companies.yaml, line 2" in found["companies"]["remedy"]
    assert found["settings"] == {
        "state": "warn",
        "subject": "settings",
        "text": f"{place} is open to other users of this machine",
        "remedy": f"chmod 700 {place}",
    }
    monkeypatch.setenv("TEEI_READ_TIMEOUT_S", "soon")
    code, out, _ = teei("doctor")
    assert code == 1 and "TEEI_READ_TIMEOUT_S" in out


def test_doctor_sees_half_set_credentials_and_a_lost_key(teei: Teei, place: Path, sandbox: Running) -> None:
    assert teei(*SYNC, "--to", "2024-01-15", "--stream", "goodera_volunteers")[0] == 0
    (key,) = (place / "keys").glob("*.json")
    key.unlink()
    variables = environment(CONFIG, sandbox.url)
    del variables["BENEVITY_GLOBEX_INC_CLIENT_SECRET"]
    point(place, variables)
    code, out, _ = teei("doctor", "--json")
    failed = {line["subject"]: line for line in json.loads(out) if line["state"] == "fail"}
    assert code == 1 and f"restore {key}" in failed["keys"]["remedy"]
    assert "set BENEVITY_GLOBEX_INC_CLIENT_SECRET" in failed["credentials"]["remedy"]


def test_companies(teei: Teei, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = teei("companies", "list", "--json")
    rows = json.loads(out)
    assert code == 0 and [row["slug"] for row in rows] == ["acme-corp", "globex-inc", "initech-ab"]
    assert set(rows[0]["systems"].values()) == {"configured"} and not any(row["partition"] for row in rows)
    code, out, _ = teei("companies", "sync", "--json")
    assert code == 0 and json.loads(out)["added"] == ["acme-corp", "globex-inc", "initech-ab"]
    _, out, _ = teei("companies", "sync")
    assert out == "3 companies in the registry, 0 added\n"
    code, out, _ = teei("companies", "list")
    assert code == 0 and "acme-corp" in out and "not yet" not in out


def test_health_is_all_well(teei: Teei) -> None:
    code, out, _ = teei("health", "--json")
    found = json.loads(out)
    assert code == 0 and found["summary"]["healthy"] == found["summary"]["totalConnectors"] == 21
    assert all(each["responseTime"] > 0 for each in found["connectors"])
    code, out, _ = teei("health")
    assert code == 0 and "21 healthy, 0 unhealthy" in out


def test_bookkeeping_does_not_wait_for_the_disk(teei: Teei) -> None:
    assert teei("companies", "sync")[0] == 0
    from teei_ingest.defs.run import instance

    engines = set()
    with instance() as opened:
        for _ in range(2):
            with opened.event_log_storage.index_connection() as connection:  # type: ignore[attr-defined]
                assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1
                assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
                engines.add(connection.engine)
    assert len(engines) == 1


# --- the commands that bring a sandbox along ----------------------------------------------------------------------


@contextmanager
def started(command: list[str], home: Path) -> Iterator[subprocess.Popen[str]]:
    """A command of ours in a home of its own; killed if it has not ended."""
    environ = activated() | {"TEEI_HOME": str(home)}
    process = subprocess.Popen(
        command, cwd=home.parent, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_sandbox_serves_other_companies_until_it_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    with started([TEEI, "sandbox", "--port", "0", "--companies", "5", "--records", "2"], home) as process:
        assert process.stdout
        line = process.stdout.readline()
        assert "Seven systems with data of 5 companies at http://127.0.0.1:" in line
        environ = activated() | {"TEEI_HOME": str(home)}
        asked = subprocess.run([TEEI, "health", "--json"], env=environ, cwd=tmp_path, capture_output=True, check=True)
        assert json.loads(asked.stdout)["summary"]["healthy"] == 35
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert (home / SANDBOX_FILE).stat().st_mode & 0o077 == 0
    assert (home / "companies.yaml").read_text().count("slug: ") == 5


@pytest.mark.long
def test_demo_is_complete_and_its_second_run_changes_no_event(tmp_path: Path) -> None:
    """Nor the file of a sandbox that serves the same home meanwhile, nor does it ask a real system."""
    home = tmp_path / "home"
    environ = activated() | {"TEEI_HOME": str(home)}

    def demo(**more: str) -> str:
        done = subprocess.run(
            [TEEI, "demo"], env=environ | more, cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert [line[:1] for line in done.stderr.splitlines() if line][1:] == ["✔"] * 5
        return done.stdout

    def events() -> dict[str, Any]:
        tables = {stream.contract.table for stream in all_streams().values()}
        store = open_store(Settings.load({"TEEI_HOME": str(home)}))
        return {table: query(store, f"SELECT * FROM {table} ORDER BY event_id") for table in tables}

    out = demo()
    rows = {found[1]: found for found in DEMO_FIGURES.finditer(out)}
    assert list(rows) == [*all_streams(), "total"]
    assert all(int(row[2].split()[1].replace(",", "")) > 0 for row in rows.values()), "a stream without records"
    warnings = {name: int(row[5] or 0) for name, row in rows.items()}  # where a record is quarantined
    assert all(int(row[3]) + warnings[name] == int(row[4]) for name, row in rows.items())
    assert rows["total"][4] == "756" and warnings["total"] > 0
    assert "make dev" in out
    before = events()
    shown = re.search(r'sql "([^"]+)"', out)
    assert shown
    asked = subprocess.run([TEEI, "sql", shown[1]], env=environ, cwd=tmp_path, capture_output=True, check=True)
    assert b"acme-corp" in asked.stdout
    with started([TEEI, "sandbox", "--port", "0"], home) as process:
        assert process.stdout
        process.stdout.readline()
        file = (home / SANDBOX_FILE).read_bytes()
        out = demo(BENEVITY_API_URL="https://real.example")
        assert (home / SANDBOX_FILE).read_bytes() == file
    again = {found[1]: found[2].split()[:5] for found in DEMO_FIGURES.finditer(out)}
    assert again == {name: found[2].split()[:5] for name, found in rows.items()}
    assert events() == before
    strangers = [path for path in home.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o077]
    assert not strangers
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]


@pytest.mark.long
@pytest.mark.parametrize("end", ["SIGINT", pytest.param("SIGTERM", marks=pytest.mark.machine), "the sandbox"])
def test_dev_serves_both_and_ends_what_it_started(end: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    port = free_port()
    with started([TEEI, "dev", "--port", str(port)], home) as process:
        assert process.stderr
        lines: list[str] = []
        while not lines or "Ctrl-C" not in lines[-1]:
            lines.append(process.stderr.readline())
            assert lines[-1], "".join(lines)
        assert f"http://127.0.0.1:{port}" in lines[-2] and len(lines) == 3, "".join(lines)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=20) as answer:
            assert json.load(answer)["dagster_version"]
        with instance_in(home) as instance:
            assert instance.get_dynamic_partitions("company") == ["acme-corp", "globex-inc", "initech-ab"]
        family = descendants(process.pid)
        assert len(family) >= 4
        if end == "the sandbox":
            (sandbox,) = [pid for pid, command in family.items() if "teei_ingest.sandbox" in command]
            os.kill(sandbox, signal.SIGKILL)
        else:
            process.send_signal(getattr(signal, end))
        code = process.wait(90)
        rest = process.stderr.read()
    assert code == (1 if end == "the sandbox" else 130) and "Traceback" not in rest
    assert rest.splitlines()[-1].startswith("teei: ")
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family), "all of them to end", 20)


def descendants(pid: int) -> dict[int, str]:
    """Command lines of all processes below one."""
    found: dict[int, str] = {}
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()[1:]]
    parents = {pid}
    while parents:
        below = {int(child): args for child, parent, args in rows if int(parent) in parents}
        found |= below
        parents = set(below)
    return found
