"""`teei sync --failed`, `teei health` of a source that is down, and Dagster's own way to execute a run again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import dagster as dg
import pytest

from teei_ingest.defs.run import stuck_runs
from teei_ingest.sandbox.server import SandboxConfig, environment, running
from teei_ingest.settings import SANDBOX_FILE
from teei_ingest_tests.dagster_parts import (
    BIN,
    GraphQL,
    Proxy,
    activated,
    dagster_home,
    free_port,
    instance_in,
    process,
    proxy,
    window_with,
)
from teei_ingest_tests.running import Teei
from teei_ingest_tests.together import eventually

CONFIG = SandboxConfig(records=4)
STREAMS = ("benevity_volunteers", "benevity_donations")
TENANT = environment(CONFIG, "")["BENEVITY_ACME_CORP_TENANT_ID"]


@pytest.fixture(scope="module")
def front() -> Iterator[Proxy]:
    with running(CONFIG) as sandbox, proxy(sandbox.url) as served:
        yield served


@pytest.fixture
def place(tmp_path: Path, front: Proxy, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / SANDBOX_FILE).write_text(json.dumps({"environment": environment(CONFIG, front.url)}))
    monkeypatch.setenv("TEEI_HOME", str(home))
    monkeypatch.setenv("DAGSTER_HOME", str(dagster_home(home / "dagster")))
    monkeypatch.setenv("TEEI_MAX_RETRIES", "0")
    monkeypatch.chdir(tmp_path)
    front.refuses = None
    return home


def sync(teei: Teei, company: str, last: str) -> tuple[int, str, str]:
    names = [word for name in STREAMS for word in ("--stream", name)]
    return teei("sync", "--company", company, "--from", "2024-01-15", "--to", last, *names)


def ranges(place: Path) -> list[tuple[str, str, set[str]]]:
    """What each run was for, the newest first."""
    with instance_in(place) as instance:
        return [
            (
                found.tags["dagster/asset_partition_range_start"],
                found.tags["dagster/asset_partition_range_end"],
                {key.to_user_string() for key in found.asset_selection or ()},
            )
            for found in instance.get_runs()
        ]


def test_failed_partitions_are_synced_again_and_only_they(teei: Teei, place: Path, front: Proxy) -> None:
    assert teei("sync", "--failed")[:2] == (0, "no partition is failed\n")
    front.refuses = window_with(date(2024, 1, 16), "/volunteer-activities", TENANT)
    assert sync(teei, "acme-corp", "2024-01-18")[0] == 4
    assert sync(teei, "globex-inc", "2024-01-16")[0] == 0
    before = len(ranges(place))
    assert teei("sync", "--failed", "--company", "globex-inc")[:2] == (0, "no partition is failed\n")
    assert teei("sync", "--failed", "--from", "2024-01-17")[:2] == (0, "no partition is failed\n")
    assert teei("sync", "--failed", "--stream", STREAMS[1])[:2] == (0, "no partition is failed\n")
    assert len(ranges(place)) == before
    code, out, _ = teei("sync", "--failed", "--json")
    (reply,) = json.loads(out)
    assert code == 4 and not reply["success"]
    assert (reply["company"], reply["from"], reply["to"]) == ("acme-corp", "2024-01-16", "2024-01-16")

    front.refuses = None
    code, out, _ = teei("sync", "--failed")
    assert code == 0 and out.startswith("Acme Corp · 2024-01-16 … 2024-01-16 · 1 day")
    only = "acme-corp|2024-01-16", "acme-corp|2024-01-16", {STREAMS[0], f"{STREAMS[0]}_events"}
    assert ranges(place)[:2] == [only, only]
    assert teei("sync", "--failed")[:2] == (0, "no partition is failed\n")


@pytest.mark.long
def test_what_cannot_be_synced_again_keeps_no_other_back(
    teei: Teei, place: Path, front: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    front.refuses = lambda path, query, body: path.endswith("/volunteer-activities")
    for company in ("acme-corp", "globex-inc"):
        assert sync(teei, company, "2024-01-15")[0] == 4
    front.refuses = None
    monkeypatch.setenv("BENEVITY_ACME_CORP_CLIENT_SECRET", "wrong")
    code, out, _ = teei("sync", "--failed")
    assert code == 4 and "benevity/benevity_volunteers acme-corp: refuses" in out
    assert "Globex" in out and out.count("✘") == 1
    monkeypatch.delenv("BENEVITY_ACME_CORP_CLIENT_SECRET")
    code, out, _ = teei("sync", "--failed")
    assert code == 0 and "Globex" not in out


def test_health_says_since_when_a_source_is_down(teei: Teei, front: Proxy, place: Path) -> None:
    front.refuses = lambda path, query, body: "/goodera" in path
    arguments = "sync --company acme-corp --from 2024-01-15 --to 2024-01-15 --stream goodera_volunteers".split()
    code, out, _ = teei(*arguments)
    assert code == 4 and "down since 20" in out
    code, out, _ = teei("health", "--company", "acme-corp")
    assert code == 4 and "down since 20" in out and "asked again at" in out
    code, out, _ = teei("health", "--company", "acme-corp", "--json")
    assert code == 4
    told = {each["name"]: each["down"] for each in json.loads(out)["connectors"]}
    assert {name for name, down in told.items() if down} == {"goodera"}
    assert told["goodera"]["since"] < told["goodera"]["nextProbe"]

    front.refuses = None  # a sync that somebody types asks once, and it is back
    assert teei(*arguments)[0] == 0
    assert not any(each["down"] for each in json.loads(teei("health", "--json")[1])["connectors"])


def failed_run(teei: Teei, place: Path, front: Proxy) -> dg.DagsterRun:
    front.refuses = window_with(date(2024, 1, 16), "/volunteer-activities")
    assert sync(teei, "acme-corp", "2024-01-17")[0] == 4
    front.refuses = None
    with instance_in(place) as instance:
        (found,) = instance.get_runs()
    return found


REEXECUTE = """mutation($id: String!) {
    launchRunReexecution(reexecutionParams: {parentRunId: $id, strategy: FROM_FAILURE}) {
        __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
STATUS = """query($id: ID!) { runOrError(runId: $id) { ... on Run { status stepKeysToExecute } } }"""


@pytest.mark.long
def test_the_ui_executes_a_failed_sync_again(teei: Teei, place: Path, front: Proxy) -> None:
    parent = failed_run(teei, place, front)
    ask = GraphQL(free_port())
    env = activated() | {"TEEI_HOME": str(place), "DAGSTER_HOME": str(place / "dagster")}
    webserver = [str(BIN / "dagster-webserver"), "-h", "127.0.0.1", "-p", str(ask.port), "-w", "workspace.yaml"]
    daemon = [str(BIN / "dagster-daemon"), "run", "-w", "workspace.yaml"]
    logs = place.parent
    with process(webserver, logs / "web.log", env=env), process(daemon, logs / "daemon.log", env=env):
        eventually(ask.companies, "the webserver is up")
        launched = ask(REEXECUTE, id=parent.run_id)["launchRunReexecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched

        def ended() -> bool:
            assert stuck_runs() == []
            status = ask(STATUS, id=launched["run"]["runId"])["runOrError"]
            assert status["stepKeysToExecute"] == [STREAMS[0]]
            assert status["status"] not in ("FAILURE", "CANCELED")
            return status["status"] == "SUCCESS"

        eventually(ended, "the run ends")
    assert teei("sync", "--failed")[:2] == (0, "no partition is failed\n")
