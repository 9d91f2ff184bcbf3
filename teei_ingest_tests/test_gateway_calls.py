"""The gateway for real: the seed's usage examples, a fuzzer over the OpenAPI document, kills while a run goes on."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import pytest

from teei_ingest.gateway.calls import MOST_WAITING
from teei_ingest.sandbox.server import SandboxConfig, environment, running, sign
from teei_ingest_tests.dagster_parts import BIN, Proxy, instance_in, proxy
from teei_ingest_tests.gateways import ACME, Calling, gateway, token
from teei_ingest_tests.together import eventually

pytestmark = pytest.mark.long

CONFIG = SandboxConfig(records=4)
FIRST = datetime.now(UTC).date() - timedelta(2)  # of all days, so that a call without `since` is short
SINGLE = """{"success": true, "summary": {"volunteers": 42, "donations": 0}, "metadata": {"totalRecords": 42,
"recordsProcessed": 42, "recordsFailed": 0, "lastSyncTimestamp": "2024-11-17T12:00:00Z"}, "errors": []}"""
DIRECTORY = SINGLE.replace('"volunteers": 42, "donations": 0', '"directoryEntries": 150')
CONNECTORS = (
    "benevity-volunteers benevity-donations goodera-volunteers goodera-donations workday-directory kintell-enrollments "
    "upskilling-enrollments buddy-data mentorship-placements"
).split()
HEALTH = """{"status": "healthy", "summary": {"totalConnectors": 7, "healthy": 7, "degraded": 0, "unhealthy": 0,
"overallStatus": "healthy"}, "connectors": [{"name": "benevity", "type": "external", "status": "healthy",
"responseTime": 125, "lastCheck": "2024-11-17T12:10:00Z", "metrics": {"totalIngests": 0, "successRate": 0,
"avgLag": 0}}], "timestamp": "2024-11-17T12:10:00Z"}"""


@pytest.fixture(scope="module")
def front() -> Iterator[Proxy]:
    with running(CONFIG) as sandbox, proxy(sandbox.url) as served:
        yield served


@pytest.fixture(scope="module")
def served(front: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calling]:
    home = tmp_path_factory.mktemp("gateway") / "home"
    variables = environment(CONFIG, front.url)
    with gateway(home, variables, TEEI_GATEWAY_RATE="1000000", TEEI_START_DATE=f"{FIRST}") as calling:
        calling.bearer = token(home)[0]
        yield calling


def shape(value: Any) -> Any:
    """Keys in their order, and kinds of values."""
    if isinstance(value, dict):
        return [(name, shape(one)) for name, one in value.items()]
    if isinstance(value, list):
        return [shape(one) for one in value]
    if isinstance(value, str) and value.endswith("Z"):
        return len(value)
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value)


def test_the_seed_s_usage_examples(served: Calling) -> None:
    """Its own addresses and parameters, but for the first day of all."""
    since = f"{FIRST}T00:00:00Z"
    answer = served.post("benevity/volunteers", since=since, limit=100)
    assert answer.status_code == 200 and shape(answer.json()) == shape(json.loads(SINGLE))
    answer = served.post("workday/directory")
    assert answer.status_code == 200 and shape(answer.json()) == shape(json.loads(DIRECTORY))
    assert first_day(served, answer) == FIRST
    today = datetime.now(UTC).date()
    assert today <= first_day(served, served.post("workday/directory")) <= datetime.now(UTC).date()
    found = served.post("all", since=since).json()
    assert list(found) == ["success", "summary", "results"] and found["success"] is True
    assert list(found["summary"].items()) == [("total", 9), ("successful", 9), ("failed", 0)]
    assert [one["connector"] for one in found["results"]] == CONNECTORS
    assert {tuple(one) for one in found["results"]} == {("connector", "status", "data")}
    assert {one["status"] for one in found["results"]} == {"fulfilled"}
    assert shape(found["results"][0]["data"]) == shape(json.loads(SINGLE))
    health = served.get("/integrations/health").json()
    health["connectors"] = health["connectors"][:1]
    assert shape(health) == shape(json.loads(HEALTH))


def first_day(served: Calling, answer: Any) -> date:
    """Of the run of a call."""
    with instance_in(served.home) as instance:
        run = instance.get_run_by_id(answer.headers["X-Run-Id"])
    assert run is not None
    return date.fromisoformat(run.tags["dagster/asset_partition_range_start"].partition("|")[2])


# --- whatever the document allows, and what it does not ------------------------------------------------------------


def test_any_request_is_answered_as_documented(tmp_path: Path, front: Proxy) -> None:
    """Examples, the bounds of every parameter, and what is generated, in and out of the document."""
    quickly = {"TEEI_GATEWAY_RATE": "1000000", "TEEI_GATEWAY_WAIT_S": "0.2", "TEEI_START_DATE": f"{FIRST}"}
    with gateway(tmp_path / "home", environment(CONFIG, front.url), **quickly) as calling:
        bearer = token(calling.home)[0]
        # A day in the future or an unknown company fit the document, and are refused all the same.
        command = [
            BIN / "schemathesis",
            "run",
            f"{calling.url}/openapi.json",
            "--header",
            f"Authorization: Bearer {bearer}",
        ]
        command += ["--exclude-checks", "positive_data_acceptance", "--max-examples", "8", "--seed", "1", "--no-color"]
        command += ["--phases", "examples,coverage,fuzzing", "--generation-database", "none"]
        found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert found.returncode == 0, found.stdout[-20_000:]


def test_every_route_answers_what_is_right(served: Calling) -> None:
    days = {"since": f"{datetime.now(UTC):%Y-%m-%d}T00:00:00Z"}
    run = served.post("all", headers={"Prefer": "respond-async"}, **days).json()["runId"]
    statuses = {}
    for path, methods in served.get("/openapi.json").json()["paths"].items():
        for method in methods:
            options: dict[str, Any] = {}
            if path.startswith("/v1/ingest") and method == "post":
                options = {"params": {"company_id": ACME, **days}, "headers": {"Prefer": "respond-async"}}
            elif path.startswith("/v1/webhooks"):
                options = delivery(path.rpartition("/")[2])
            at = path.format(run_id=run, connector="benevity")
            statuses[method, path] = served(method.upper(), at, **options).status_code
    assert set(statuses.values()) <= {200, 202}, statuses


def delivery(system: str) -> dict[str, Any]:
    """A webhook of Acme's that is signed."""
    variables = environment(CONFIG, "http://127.0.0.1:9")
    name = f"{system.upper()}_ACME_CORP_"
    tenant = variables.get(f"{name}TENANT_ID") or variables[f"{name}PROJECT_ID"]
    now = datetime.now(UTC)
    body = json.dumps(
        {
            "event": "data.changed",
            "id": "evt-1",
            "tenant": tenant,
            "stream": "directory" if system == "workday" else "donations",
            "updatedAt": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        }
    ).encode()
    return {"data": body, "headers": sign(system, variables[f"{name}WEBHOOK_SECRET"], body, now)}


# --- limits -------------------------------------------------------------------------------------------------------


def test_a_body_that_never_comes_ends_the_request(served: Calling) -> None:
    at = urlsplit(served.url)
    with socket.create_connection((at.hostname, at.port), timeout=60) as connection:
        connection.sendall(b"POST /v1/ingest/all HTTP/1.1\r\nHost: gateway\r\nContent-Length: 10\r\n\r\nx")
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 408 ") and b"application/problem+json" in answer


def test_so_many_calls_may_wait(tmp_path: Path, front: Proxy) -> None:
    gate = threading.Event()
    front.refuses = lambda path, query, body: not gate.wait(120)
    days = {"since": "2024-01-15T00:00:00Z", "until": "2024-01-16T00:00:00Z"}
    try:
        with gateway(tmp_path / "home", environment(CONFIG, front.url), TEEI_GATEWAY_RATE="1000000") as calling:
            calling.bearer = token(calling.home)[0]
            later = {"Prefer": "respond-async"}
            for limit in range(1, MOST_WAITING + 1):
                assert calling.post("benevity/donations", headers=later, limit=limit, **days).status_code == 202
            answer = calling.post("benevity/donations", headers=later, limit=MOST_WAITING + 1, **days)
            assert answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0
            assert calling.post("benevity/donations", headers=later, limit=MOST_WAITING, **days).status_code == 202
            gate.set()
    finally:
        gate.set()
        front.refuses = None


# --- kills --------------------------------------------------------------------------------------------------------


def workers(home: Path) -> list[int]:
    """Process ids of the workers of a home that have an order: they hold the lock of a run."""
    folder = home / "dagster" / "processes"
    written = [path.read_text().split() for path in folder.iterdir()] if folder.is_dir() else []
    return [int(words[0]) for words in written if words]  # a lock is there a moment before who holds it


def has_begun(home: Path, run_id: str) -> bool:
    """Whether Dagster says that the run goes on."""
    with instance_in(home) as instance:
        run = instance.get_run_by_id(run_id)
    return run is not None and run.status is dg.DagsterRunStatus.STARTED


@pytest.mark.parametrize("killed", ["gateway", "worker", pytest.param("both", marks=pytest.mark.machine)])
def test_what_was_accepted_is_carried_out_whoever_is_killed(tmp_path: Path, front: Proxy, killed: str) -> None:
    home, variables = tmp_path / "home", environment(CONFIG, front.url)
    gate = threading.Event()
    front.refuses = lambda path, query, body: not gate.wait(120)
    days = {"since": "2024-01-15T00:00:00Z", "until": "2024-01-16T00:00:00Z"}
    try:
        with gateway(home, variables, may_be_killed=True) as calling:
            calling.bearer = token(home)[0]
            accepted = calling.post("benevity/donations", headers={"Prefer": "respond-async"}, **days)
            url = accepted.headers["Location"]
            (worker,) = eventually(lambda: has_begun(home, accepted.headers["X-Run-Id"]) and workers(home), "a run")
            if killed in ("gateway", "both"):
                os.kill(calling.pid, signal.SIGKILL)
            if killed in ("worker", "both"):
                os.kill(worker, signal.SIGKILL)
            gate.set()
            if killed == "worker":
                found = eventually(lambda: done(calling, url), "the end of the call")
        if killed != "worker":
            with gateway(home, variables) as next_one:
                next_one.bearer = calling.bearer
                found = eventually(lambda: done(next_one, url), "the end of the call")
    finally:
        gate.set()
        front.refuses = None
    assert found["success"] is (killed == "gateway")
    if killed != "gateway":
        assert found["errors"][0]["code"] in ("run_failed", "not_run")
    with instance_in(home) as instance:
        assert len(instance.get_runs()) == 1


def done(calling: Calling, url: str) -> dict[str, Any] | None:
    answer = calling.get(url)
    assert answer.status_code in (200, 202), answer.text
    return answer.json() if answer.status_code == 200 else None


def test_a_call_whose_run_cannot_begin_waits_for_dagster(tmp_path: Path, front: Proxy) -> None:
    home = tmp_path / "home"
    days = {"since": "2024-01-15T00:00:00Z", "until": "2024-01-16T00:00:00Z"}
    with gateway(home, environment(CONFIG, front.url), TEEI_GATEWAY_RUNS="1", may_be_killed=True) as calling:
        calling.bearer = token(home)[0]
        gate = threading.Event()
        front.refuses = lambda path, query, body: not gate.wait(120)
        later = {"Prefer": "respond-async"}
        try:
            calling.post("benevity/donations", headers=later, **days)
            url = calling.post("workday/directory", headers=later, **days).headers["Location"]  # it waits for its turn
            eventually(lambda: workers(home), "a worker at its run")
            os.kill(calling.pid, signal.SIGKILL)
        finally:
            gate.set()
            front.refuses = None
    config = home / "dagster" / "dagster.yaml"
    target = config.readlink()
    config.unlink()
    config.write_text("run_storage: [")
    with gateway(home, environment(CONFIG, front.url)) as calling:
        calling.bearer = token(home)[0]
        eventually(lambda: "a call waits for Dagster" in calling.log.read_text(), "a line in the log")
        assert calling.get(url).status_code == 202
        config.unlink()
        config.symlink_to(target)
        assert eventually(lambda: done(calling, url), "the end of the call")["success"]
