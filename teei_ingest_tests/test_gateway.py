"""`teei gateway` over HTTP, in a process of its own, before a sandbox in another one: routes, access, bad input."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import requests

from teei_ingest.sandbox.server import SandboxConfig, environment, running
from teei_ingest_tests.dagster_parts import Proxy, instance_in, proxy
from teei_ingest_tests.gateways import ACME, GLOBEX, Calling, gateway, refused, token, tokens
from teei_ingest_tests.together import eventually

CONFIG = SandboxConfig(records=4)
DAYS = {"since": "2024-01-15T00:00:00Z", "until": "2024-01-17T00:00:00Z"}
PROBLEM = {"type", "title", "status", "detail"}
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def front() -> Iterator[Proxy]:
    """The sandbox, behind a proxy that can hold what it answers."""
    with running(CONFIG) as sandbox, proxy(sandbox.url) as served:
        yield served


@pytest.fixture(scope="module")
def served(front: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calling]:
    home = tmp_path_factory.mktemp("gateway") / "home"
    variables = environment(CONFIG, front.url)
    del variables["GOODERA_GLOBEX_INC_API_KEY"], variables["GOODERA_GLOBEX_INC_PROJECT_ID"]
    with gateway(home, variables) as calling:
        yield calling


@pytest.fixture(scope="module")
def acme(served: Calling) -> Calling:
    """With a token that may ingest one company."""
    return served.as_(token(served.home, "ingest", "acme-corp")[0])


def problem_of(answer: requests.Response, status: int) -> dict[str, Any]:
    """The problem document that an answer is."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found.keys() - {"errors"} == PROBLEM and found["status"] == status and found["detail"]
    return found


# --- what there is ------------------------------------------------------------------------------------------------


def test_it_says_what_there_is_to_anybody(served: Calling) -> None:
    found = served.get("/").json()
    routes = {(one["method"], one["path"]) for one in found["routes"]}
    assert {("POST", "/v1/ingest/all"), ("POST", "/v1/ingest/buddy/data"), ("GET", "/integrations/health")} <= routes
    documented = served.get(found["docs"]["openapi"]).json()
    assert routes == {(method.upper(), path) for path, one in documented["paths"].items() for method in one}
    assert served.get("/healthz").json() == {"status": "ok"} and served.get("/readyz").json() == {"status": "ready"}


def test_every_answer_has_security_headers_and_none_for_other_origins(served: Calling, acme: Calling) -> None:
    origin = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
    for answer in (served.get("/"), served.get("/nothing"), served("OPTIONS", "/v1/ingest/all", headers=origin)):
        assert answer.headers["X-Content-Type-Options"] == "nosniff" and answer.headers["Cache-Control"] == "no-store"
        assert (
            answer.headers["X-Frame-Options"] == "DENY"
            and "default-src 'none'" in (answer.headers["Content-Security-Policy"])
        )
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
        assert "Server" not in answer.headers


# --- access -------------------------------------------------------------------------------------------------------


def test_no_token_is_like_any_that_is_good_for_nothing(served: Calling) -> None:
    expired = token(served.home, "ingest", lasts=timedelta(0))[0]
    revoked, kept = token(served.home)
    tokens(served.home).revoke(kept.id)
    wrong = f"{revoked.rpartition('_')[0]}_{'0' * 64}"
    told = set()
    for bearer in ("", expired, revoked, wrong, "teei__", "x", "teei_x_y_z", "\xff"):
        answer = served.as_(bearer).post("all", **DAYS)
        problem_of(answer, 401)
        told.add((answer.text, answer.headers["WWW-Authenticate"]))
    answer = served("POST", "/v1/ingest/all", headers={"Authorization": "Basic dTpw"})
    assert told == {(answer.text, "Bearer")}


def test_a_token_that_reads_starts_nothing(served: Calling) -> None:
    reading = served.as_(token(served.home, "read")[0])
    problem_of(reading.post("all", **DAYS), 403)
    assert reading.get("/integrations/health").status_code == 200


def test_another_company_is_like_none(acme: Calling) -> None:
    answers = [acme.post("all", company, **DAYS) for company in (GLOBEX, NOBODY)]
    assert problem_of(answers[0], 404) == problem_of(answers[1], 404)
    assert len({answer.headers["Content-Length"] for answer in answers}) == 1


def test_a_token_has_its_number_of_calls(served: Calling) -> None:
    one, other = (served.as_(token(served.home, "read")[0]) for _ in range(2))
    path = f"/v1/ingest/runs/{NOBODY}"
    allowed = list(takewhile(lambda answer: answer.status_code == 404, (one.get(path) for _ in range(2000))))
    assert 120 <= len(allowed) < 2000
    problem_of(limited := one.get(path), 429)
    assert 0 < int(limited.headers["Retry-After"]) <= 60
    problem_of(other.get(path), 404)


# --- bad input ----------------------------------------------------------------------------------------------------

_LATER = f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%dT%H:%M:%SZ}"


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ({"company_id": "nobody"}, "company_id"),
        ({"company_id": ACME.replace("-", "")}, "company_id"),
        ({"company_id": f"{{{ACME}}}"}, "company_id"),
        ({"company_id": None}, "company_id"),
        ({"since": _LATER}, "since"),
        ({"until": _LATER}, "until"),
        ({"since": "2024-02-02T00:00:00Z", "until": "2024-02-01T00:00:00Z"}, "until"),
        ({"since": "2024-02-01T00:00:00Z", "until": "2024-02-01T00:00:00Z"}, "until"),
        ({"since": "2024-01-15T00:00:00"}, "since"),
        ({"since": "2023-12-31T23:59:59Z"}, "since"),
        ({"since": "yesterday"}, "since"),
        ({"since": "2024-02-30T00:00:00Z"}, "since"),
        ({"since": "9999-12-31T00:00:00Z"}, "since"),
        ({"since": ""}, "since"),
        ({"limit": "0"}, "limit"),
        ({"limit": "-1"}, "limit"),
        ({"limit": "1000000000"}, "limit"),
        ({"limit": "abc"}, "limit"),
        ({"untill": "2024-01-17T00:00:00Z"}, "query"),
    ],
)
def test_a_parameter_that_cannot_be_used(acme: Calling, query: Mapping[str, Any], parameter: str) -> None:
    answer = acme("POST", "/v1/ingest/all", params={"company_id": ACME, **DAYS, **query})
    problem = problem_of(answer, 422)
    assert [one["parameter"] for one in problem["errors"]] == [parameter]
    assert not any(str(value) in answer.text for value in query.values() if value and len(str(value)) > 3)


@pytest.mark.parametrize("path", ["/v1/ingest/benevity/nothing", "/v1/ingest/nobody/volunteers", "/v1/ingest", "/v1"])
def test_an_unknown_route(acme: Calling, path: str) -> None:
    problem_of(acme("POST", path, params={"company_id": ACME}), 404)


def test_an_unknown_connector(acme: Calling) -> None:
    assert "benevity" in problem_of(acme.get("/integrations/health/nobody"), 404)["detail"]


@pytest.mark.parametrize("key", ["", "two words", "x" * 256])
def test_a_key_that_is_none(acme: Calling, key: str) -> None:
    problem = problem_of(acme.post("all", headers={"Idempotency-Key": key}, **DAYS), 422)
    assert problem["errors"][0]["parameter"] == "Idempotency-Key"


def test_a_body_that_is_too_large_or_never_comes(acme: Calling) -> None:
    problem_of(acme("POST", "/v1/ingest/all", data=b"x" * 65_537), 413)
    parts = (b"x" * 1024 for _ in range(65))
    problem_of(acme("POST", "/v1/ingest/all", data=parts), 413)
    assert acme("POST", "/v1/ingest/all", data=b"x" * 65_536).status_code == 422  # the company is missing


def test_a_connector_that_a_company_does_not_have(served: Calling) -> None:
    calling = served.as_(token(served.home)[0])
    assert "goodera" in problem_of(calling.post("goodera/volunteers", GLOBEX, **DAYS), 409)["detail"]


@pytest.mark.parametrize("since", [{}, DAYS], ids=["newest", "since"])
def test_dagster_out_of_reach_is_told(served: Calling, since: Mapping[str, str]) -> None:
    calling = served.as_(token(served.home)[0])
    config = served.home / "dagster" / "dagster.yaml"
    target = config.readlink()
    config.unlink()
    config.write_text("run_storage: [")
    try:
        for answer in (calling.post("all", **since), calling.get("/readyz")):
            problem_of(answer, 503)
            assert int(answer.headers["Retry-After"]) > 0 and str(served.home) not in answer.text
        assert calling.get("/healthz").status_code == 200
    finally:
        config.unlink()
        config.symlink_to(target)
    assert calling.get("/readyz").status_code == 200


# --- calls and their runs -----------------------------------------------------------------------------------------


def held(front: Proxy) -> threading.Event:
    """The sandbox answers nothing until the event is set."""
    gate = threading.Event()
    front.refuses = lambda path, query, body: not gate.wait(60)
    return gate


def test_calls_that_are_the_same_wait_for_one_run(served: Calling, acme: Calling, front: Proxy) -> None:
    bearer, kept = token(served.home, "ingest", "acme-corp")
    days = {"since": "2024-02-01T00:00:00+00:00", "until": "2024-02-02T00:00:00Z", "limit": "2"}
    gate = held(front)
    with ThreadPoolExecutor(3) as threads:
        waiting = threads.submit(served.as_(bearer).post, "benevity/volunteers", **days)
        brief, short = token(served.home, "ingest", "acme-corp", lasts=timedelta(seconds=4))
        expiring = threads.submit(served.as_(brief).post, "benevity/volunteers", **days)
        quick = {"Prefer": "respond-async", "Idempotency-Key": "a"}
        first = acme.post("benevity/volunteers", headers=quick, **days)
        assert first.status_code == 202 and first.headers["Preference-Applied"] == "respond-async"
        run, url = first.headers["X-Run-Id"], first.headers["Location"]
        assert first.json() == {**first.json(), "status": "running", "runId": run, "statusUrl": url}
        assert acme.get(url).status_code == 202 and served.get("/readyz").status_code == 200
        again = threads.submit(acme.post, "benevity/volunteers", **days)
        # Another request under the same key is refused, the same one is the same call.
        problem_of(acme.post("benevity/donations", headers=quick, **days), 422)
        assert acme.post("benevity/volunteers", headers=quick, **days).headers["X-Run-Id"] == run
        # A token may end while its call waits.
        eventually(lambda: "gateway.ingest" in (served.home / "audit" / "audit.jsonl").read_text(), "an audit line")
        tokens(served.home).revoke(kept.id)
        eventually(lambda: datetime.now(UTC) > short.expires, "the other one expires")
        gate.set()
        problem_of(waiting.result(), 401)
        problem_of(expiring.result(), 401)
        answer = again.result()
    assert answer.status_code == 200 and answer.headers["X-Run-Id"] == run
    assert answer.json()["success"] and acme.get(url).json() == answer.json()
    assert acme.post("benevity/volunteers", headers=quick, **days).json() == answer.json()
    other = served.as_(token(served.home, "ingest", "globex-inc")[0])
    assert problem_of(other.get(url), 404) == problem_of(other.get(f"/v1/ingest/runs/{NOBODY}"), 404)
    with instance_in(served.home) as instance:
        made = instance.get_run_by_id(run)
        assert made is not None and made.tags["teei/company"] == "acme-corp"
        assert made.tags["teei/page_size"] == "2" and made.tags["teei/token"] and "teei/typed" not in made.tags
        assert made.tags["dagster/asset_partition_range_start"] == "acme-corp|2024-02-01"
    audit = [json.loads(line) for line in (served.home / "audit" / "audit.jsonl").read_text().splitlines()]
    calls = [one for one in audit if one["what"] == "gateway.ingest" and one["details"]["from"] == "2024-02-01"]
    assert {one["company"] for one in calls} == {"acme-corp"}
    assert {one["details"]["token"] for one in calls} >= {kept.id, short.id}


def test_all_reads_what_can_be_read_and_says_what_cannot(acme: Calling, front: Proxy) -> None:
    front.refuses = lambda path, query, body: path.endswith("/api/v1/activities")
    try:
        answer = acme.post("all", since="2024-01-15T08:00:00 00:00", until="2024-01-16T00:00:00Z")
    finally:
        front.refuses = None
    found = answer.json()
    assert answer.status_code == 200 and list(found) == ["success", "summary", "results"]
    assert found["summary"] == {"total": 9, "successful": 7, "failed": 2} and not found["success"]
    bad = [one for one in found["results"] if one["status"] == "rejected"]
    assert [one["connector"] for one in bad] == ["goodera-volunteers", "goodera-donations"]
    assert all(list(one) == ["connector", "status", "reason", "data"] and one["reason"] for one in bad)
    assert "nordmann" not in answer.text


def test_the_access_log_names_routes_and_nobody(acme: Calling) -> None:
    acme.get("/integrations/health/ola.nordmann@acme.example")
    acme.get("/ola.nordmann@acme.example?email=ola.nordmann@acme.example")
    lines = eventually(lambda: _lines(acme.log, "/integrations/health/{connector}"), "a line")
    assert lines[-1].keys() >= {"time", "level", "msg", "method", "route", "status", "duration", "token"}
    text = acme.log.read_text()
    assert "nordmann" not in text and "127.0.0.1" not in text and acme.bearer.rpartition("_")[2] not in text


def _lines(log: Path, route: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("route") == route]


@pytest.mark.long
def test_one_gateway_for_a_home(served: Calling) -> None:
    assert "a gateway of this home" in refused(served.home)


@pytest.mark.long
def test_what_is_wrong_with_a_lock_is_no_other_gateway(served: Calling) -> None:
    lock = served.home / "locks/gateway.gate.lock"
    aside = lock.rename(lock.with_suffix(".aside"))
    lock.mkdir()
    try:
        assert f"the lock {lock.with_suffix('')}: " in refused(served.home, 5)
    finally:
        lock.rmdir()
        aside.rename(lock)
