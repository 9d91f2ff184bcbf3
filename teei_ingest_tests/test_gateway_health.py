"""`GET /integrations/health`: the seed's keys, statuses by their definition, figures from what Dagster recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from teei_ingest.sandbox.server import SandboxConfig, environment, running
from teei_ingest.settings import SANDBOX_FILE, Settings
from teei_ingest_tests.dagster_parts import Proxy, proxy
from teei_ingest_tests.gateways import in_this_process, token
from teei_ingest_tests.running import Teei

CONFIG = SandboxConfig(records=2)
Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def front() -> Iterator[Proxy]:
    with running(CONFIG) as sandbox, proxy(sandbox.url) as served:
        yield served


@pytest.fixture
def place(tmp_path: Path, front: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    variables = environment(CONFIG, front.url)
    del variables["WORKDAY_ACME_CORP_CLIENT_ID"], variables["WORKDAY_ACME_CORP_CLIENT_SECRET"]
    del variables["WORKDAY_ACME_CORP_TENANT_ID"]
    (home / SANDBOX_FILE).write_text(json.dumps({"environment": variables}))
    monkeypatch.setenv("TEEI_HOME", str(home))
    monkeypatch.setenv("DAGSTER_HOME", str(home / "dagster"))
    monkeypatch.setenv("TEEI_MAX_RETRIES", "0")
    monkeypatch.chdir(tmp_path)
    yield home
    front.refuses = None


@pytest.fixture
def ask(place: Path) -> Ask:
    """Asks a gateway that has just begun, with a token of these companies; the reply."""

    def get(path: str = "", *companies: str) -> Any:
        with in_this_process(Settings.load()) as calling:
            calling.bearer, _ = token(place, "read", *companies)
            answer = calling.get(f"/integrations/health{path}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    return get


def statuses(reply: Any) -> dict[str, str]:
    return {one["name"]: one["status"] for one in reply["connectors"]}


def test_the_reply_is_the_seed_s(ask: Ask) -> None:
    reply = ask()
    assert list(reply) == ["status", "summary", "connectors", "timestamp"]
    assert reply["summary"] == {
        "totalConnectors": 7,
        "healthy": 7,
        "degraded": 0,
        "unhealthy": 0,
        "overallStatus": "healthy",
    }
    first = reply["connectors"][0]
    assert list(first) == ["name", "type", "status", "responseTime", "lastCheck", "metrics"]
    assert list(first["metrics"].items()) == [("totalIngests", 0), ("successRate", 0), ("avgLag", 0)]
    assert isinstance(first["responseTime"], int) and first["responseTime"] > 0
    assert {one["name"]: one["type"] for one in reply["connectors"]} == {
        **dict.fromkeys(("benevity", "goodera", "workday"), "external"),
        **dict.fromkeys(("kintell", "upskilling", "buddy", "mentorship"), "internal"),
    }
    for moment in (reply["timestamp"], first["lastCheck"]):
        assert abs(datetime.strptime(moment, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC) - datetime.now(UTC)) < (
            timedelta(minutes=2)
        )
    assert {**ask("/benevity"), "responseTime": 0, "lastCheck": ""} == {**first, "responseTime": 0, "lastCheck": ""}


def test_statuses(ask: Ask, front: Proxy) -> None:
    # Kintell is down for everybody, Benevity refuses one company, which has no credentials for Workday either.
    front.refuses = lambda path, query, body: (
        path == "/kintell/health" or (path == "/benevity/oauth2/token" and next(tokens) == 0)
    )
    tokens = iter([0, 1, 1] + [1] * 100)
    reply = ask()
    found = statuses(reply)
    assert (found["kintell"], found["benevity"]) == ("unhealthy", "degraded")
    assert {found[name] for name in ("goodera", "workday", "buddy", "mentorship", "upskilling")} == {"healthy"}
    assert reply["status"] == reply["summary"]["overallStatus"] == "unhealthy"
    assert [reply["summary"][name] for name in ("healthy", "degraded", "unhealthy")] == [5, 1, 1]
    down = next(one for one in reply["connectors"] if one["name"] == "kintell")
    assert down["responseTime"] is None
    front.refuses = None
    only = ask("", "acme-corp")
    assert statuses(only)["workday"] == "unconfigured" and only["summary"]["totalConnectors"] == 7


def test_figures_are_what_dagster_recorded_of_the_token_s_companies(ask: Ask, front: Proxy, teei: Teei) -> None:
    sync = ("sync", "--company", "acme-corp", "--from", "2024-01-15", "--to", "2024-01-15", "--stream")
    assert teei(*sync, "benevity_volunteers")[0] == 0
    front.refuses = lambda path, query, body: path.endswith("/donations")
    assert teei(*sync, "benevity_donations", "--stream", "goodera_volunteers")[0] == 4
    front.refuses = None
    for companies in ((), ("acme-corp",)):
        reply = ask("", *companies)
        by_name = {one["name"]: one for one in reply["connectors"]}
        metrics = by_name["benevity"]["metrics"]
        assert (metrics["totalIngests"], metrics["successRate"]) == (2, 0.5) and 0 < metrics["avgLag"] < 600
        assert by_name["goodera"]["metrics"]["successRate"] == 1.0
        assert by_name["benevity"]["status"] == "degraded" and by_name["goodera"]["status"] == "healthy"
        assert reply["status"] == "degraded"
    other = ask("", "globex-inc")
    assert {one["metrics"]["totalIngests"] for one in other["connectors"]} == {0} and other["status"] == "healthy"


def test_a_probe_serves_all_that_ask_within_a_minute(place: Path, front: Proxy) -> None:
    file = place / SANDBOX_FILE
    variables = json.loads(file.read_bytes())["environment"]
    shared = {name: value for name, value in variables.items() if not name.startswith("INTERNAL_")}
    file.write_text(json.dumps({"environment": {**shared, "INTERNAL_API_KEY": "shared"}}))
    asked: list[str] = []
    front.refuses = lambda path, query, body: bool(asked.append(path))
    with in_this_process(Settings.load()) as calling:
        calling.bearer, _ = token(place, "read")
        for path in ("", "/goodera", "", "/workday"):
            assert calling.get(f"/integrations/health{path}").status_code == 200
    of_one_key = [f"/{name}/health" for name in ("buddy", "kintell", "mentorship", "upskilling")]
    of_several = ["/benevity/oauth2/token"] * 3 + ["/goodera/api/v1/health"] * 3 + ["/workday/oauth2/token"] * 2
    assert sorted(asked) == sorted(of_one_key + of_several)
