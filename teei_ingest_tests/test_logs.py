"""The log: the seed service's fields from runs, commands and the gateway, text on a terminal, silent about people."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import uuid
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import requests

from teei_ingest import logs
from teei_ingest.sandbox.server import SandboxConfig, environment, running
from teei_ingest.settings import SANDBOX_FILE
from teei_ingest_tests.dagster_parts import BIN, activated, instance_in, prepare_home
from teei_ingest_tests.feeding import ACME, Answering, Ask, Reply, answering, page, record
from teei_ingest_tests.gateways import gateway, token
from teei_ingest_tests.running import Home, Teei
from teei_ingest_tests.together import eventually

DAY = date(2024, 1, 15)
SEED = ["companyId", "totalRecords", "recordsProcessed", "recordsFailed", "duration"]
PERSON = "kari.nordmann@acme.example"


class Terminal(io.StringIO):
    """Standard error as a person has it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    logs.configure("auto", "info", quiet=True)


def lines(text: str) -> list[dict[str, Any]]:
    """Those that are JSON objects."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


# --- a line ----------------------------------------------------------------------------------------------------------


def test_a_line_has_the_seeds_fields_in_its_order(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info")
    told = {"duration": 1250, "recordsFailed": 0, "recordsProcessed": 42, "totalRecords": 42, "companyId": ACME.id}
    logging.getLogger("teei_ingest.runs").info("Benevity volunteers ingest completed", extra=told)
    (line,) = lines(capsys.readouterr().err)
    assert [name for name in line if name not in ("time", "logger")] == ["level", "msg", *SEED]
    assert line["level"] == "info" and line["duration"] == 1250
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])


def test_on_a_terminal_it_is_read_by_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    logs.configure("auto", "info")
    logging.getLogger("teei_ingest.runs").warning("too\nlittle", extra={"company": "acme-corp"})
    assert re.fullmatch(r"\d\d:\d\d:\d\d warning: too little  company=acme-corp\n", terminal.getvalue())


def test_elsewhere_it_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("auto", "info")
    logging.getLogger("teei_ingest.runs").info("one\nline")
    assert len(lines(capsys.readouterr().err)) == 1


@pytest.mark.parametrize("form", ["json", "text"])
def test_what_may_hold_a_person_is_not_written(form: logs.Format, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(form, "debug")
    ours = logging.getLogger("teei_ingest.pipeline")
    try:
        raise ValueError(PERSON)
    except ValueError as error:
        ours.exception("failed", extra={"record": PERSON, "email": PERSON}, stack_info=True)
        ours.debug("failed", exc_info=error)
    logging.getLogger("urllib3.connectionpool").warning("GET /users?email=%s", PERSON)
    logging.getLogger().error(PERSON)
    ours.info("a line with a wrong number of arguments %s %s", PERSON)
    said = capsys.readouterr().err
    assert "nordmann" not in said and said.count("failed") == 2


def test_the_level(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "warning")
    logging.getLogger("teei_ingest.runs").info("small")
    logging.getLogger("teei_ingest.runs").warning("large")
    assert [line["msg"] for line in lines(capsys.readouterr().err)] == ["large"]


def test_what_is_bound_is_on_every_line_within(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info")
    log = logging.getLogger("teei_ingest.runs")
    with logs.bound(correlationId="outer", runId="outer"):
        with logs.bound(runId="inner"):
            log.info("one")
        log.info("two", extra={"run_id": "own"})
    log.info("three")
    found = [(line.get("correlationId"), line.get("runId")) for line in lines(capsys.readouterr().err)]
    assert found == [("outer", "inner"), ("outer", "own"), (None, None)]


# --- who writes them -------------------------------------------------------------------------------------------------


@pytest.fixture
def source() -> Iterator[Answering]:
    """Benevity sends two good records and a bad one, which quotes a person; Goodera refuses."""

    def answer(ask: Ask) -> Reply:
        if ask.stream == "goodera_donations":
            return Reply(json.dumps({"error": PERSON}).encode(), 403)
        bad = {"hoursLogged": PERSON}
        made = [record(ask.stream, f"r-{n}", f"{DAY}T10:00:00Z", bad if n == 2 else {}) for n in range(3)]
        return Reply(page(ask.stream, made))

    with answering(answer) as served:
        yield served


def test_a_run_has_a_line_for_each_ingest(
    home: Callable[..., Home], source: Answering, capsys: pytest.CaptureFixture[str]
) -> None:
    place = home({ACME.slug: ACME.id}, source.environment() | {"TEEI_MAX_RETRIES": "0"})
    logs.configure("json", "info")
    result = place.materialize("acme-corp", DAY, DAY, ["benevity_volunteers", "goodera_donations"])
    said = capsys.readouterr().err
    assert PERSON not in said
    ended = {line["stream"]: line for line in lines(said) if line["logger"] == "teei_ingest.runs"}
    good, bad = ended["benevity_volunteers"], ended["goodera_donations"]
    assert good["msg"] == "Benevity volunteers ingest completed" and good["level"] == "info"
    assert [good[name] for name in SEED[:4]] == [ACME.id, 3, 2, 1] and good["duration"] > 0
    assert (good["company"], good["system"], good["from"], good["to"]) == (
        "acme-corp",
        "benevity",
        "2024-01-15",
        "2024-01-15",
    )
    assert bad["msg"] == "Goodera donations ingest failed" and bad["level"] == "error"
    assert (bad["errorType"], bad["daysFailed"], bad["totalRecords"]) == ("not_allowed", 1, 0)
    assert {line["runId"] for line in lines(said)} == {result.run_id}
    assert {line["correlationId"] for line in lines(said)} == {result.run_id}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / SANDBOX_FILE).write_text(json.dumps({"environment": environment(SandboxConfig(), "http://127.0.0.1:9")}))
    monkeypatch.setenv("TEEI_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    return home


def test_a_command_says_nothing_in_the_log_unless_it_is_asked_to(teei: Teei, place: Path) -> None:
    code, _, err = teei("sync", "--company", "nobody")
    assert code == 2 and lines(err) == [] and err.startswith("teei: ")


def test_a_command_whose_log_is_json_writes_nothing_else_to_standard_error(
    teei: Teei, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEEI_LOG_FORMAT", "json")
    code, _, err = teei("sync", "--company", "nobody")
    found = lines(err)
    assert code == 2 and len(found) == len(err.splitlines()) == 2
    assert found[0]["level"] == "error" and "there is no company 'nobody'" in found[0]["msg"]
    assert found[1]["msg"] == "teei sync ended" and found[1]["exitCode"] == 2
    assert found[0]["correlationId"] == found[1]["correlationId"]


@pytest.mark.parametrize(("name", "value"), [("TEEI_LOG_FORMAT", "xml"), ("TEEI_LOG_LEVEL", "loud")])
def test_a_setting_that_there_is_not(
    teei: Teei, place: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    code, _, err = teei("sync", "--company", "acme-corp")
    assert code == 3 and name in err and value not in err


@pytest.mark.long
def test_the_gateway_and_its_runs_share_an_id(tmp_path: Path) -> None:
    config, home, identity = SandboxConfig(records=4), tmp_path / "home", str(uuid.uuid4())
    with running(config) as sandbox, gateway(home, environment(config, sandbox.url)) as calling:
        caller = calling.as_(token(home)[0])
        days = {"since": "2024-01-15T00:00:00Z", "until": "2024-01-16T00:00:00Z"}
        answer = caller.post("benevity/volunteers", headers={"X-Correlation-Id": identity}, **days)
        assert answer.headers["X-Correlation-Id"] == identity
        assert caller.get("/", headers={"X-Correlation-Id": PERSON}).headers["X-Correlation-Id"] != PERSON
        with instance_in(home) as instance:
            (run,) = instance.get_runs()
        assert run.tags["teei/correlation"] == identity
        of_it = eventually(
            lambda: [line for line in lines(calling.log.read_text()) if line.get("runId") == run.run_id][1:],
            "two lines",
        )
        found = [line for line in lines(calling.log.read_text()) if line.get("runId") == run.run_id]
        assert {line["logger"] for line in found} == {"teei_ingest.runs", "teei_ingest.gateway"} and of_it
        assert {line["correlationId"] for line in found} == {identity}
        assert "nordmann" not in calling.log.read_text()


@pytest.mark.long
def test_dagsters_own_processes_write_them_too(tmp_path: Path) -> None:
    config = SandboxConfig(records=4)
    with running(config) as sandbox:
        home = tmp_path / "home"
        env = prepare_home(home, environment(config, sandbox.url), ["acme-corp"])
        command = [
            *(str(BIN / "dagster"), "asset", "materialize", "-m", "teei_ingest.definitions"),
            *("--select", "benevity_volunteers,benevity_volunteers_events", "--partition", f"acme-corp|{DAY}"),
        ]
        done = subprocess.run(command, env=activated() | env, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in lines(done.stderr) if line.get("logger") == "teei_ingest.runs"]
    assert line["msg"] == "Benevity volunteers ingest completed" and line["totalRecords"] > 0


@pytest.mark.long
def test_a_terminal_that_is_one(tmp_path: Path) -> None:
    config = SandboxConfig(records=4)
    with running(config) as sandbox:
        home = tmp_path / "home"
        home.mkdir(mode=0o700)
        (home / SANDBOX_FILE).write_text(json.dumps({"environment": environment(config, sandbox.url)}))
        ours, its = os.openpty()
        started = subprocess.Popen(
            [str(BIN / "teei"), "gateway", "--port", "0"],
            env=activated() | {"TEEI_HOME": str(home)}, cwd=tmp_path, stdout=subprocess.PIPE, stderr=its, text=True,
        )  # fmt: skip
        os.close(its)
        assert started.stdout is not None
        url = started.stdout.readline().split()[-1]
        assert requests.get(f"{url}/healthz", timeout=30).status_code == 200
        said = b""
        while b"/healthz" not in said:
            said += os.read(ours, 4096)
        started.terminate()
        assert started.wait(30) == 0
        started.stdout.close()
        os.close(ours)
    assert re.search(rb"\d\d:\d\d:\d\d request .*route=/healthz status=200", said)
