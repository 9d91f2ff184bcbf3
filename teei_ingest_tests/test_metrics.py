"""What operations watch: figures that agree with what happened, whatever was restarted, pruned or broken meanwhile."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import requests
import yaml
from dagster._core.remote_origin import ManagedGrpcPythonEnvCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from teei_ingest.companies import load_companies
from teei_ingest.defs.partitions import COMPANIES, COMPANY_TAG, RANGE_END, RANGE_START, key
from teei_ingest.defs.retention import forget_runs
from teei_ingest.extract.circuit import circuit_for
from teei_ingest.extract.quota import quota_for
from teei_ingest.metrics import catalog
from teei_ingest.metrics.figures import Figures
from teei_ingest.metrics.sizes import WHAT
from teei_ingest.sandbox.server import SandboxConfig, environment, running
from teei_ingest.settings import project_root
from teei_ingest.store.tables import contracts
from teei_ingest.streams import all_streams
from teei_ingest.systems import all_systems
from teei_ingest.vault.credentials import resolve
from teei_ingest.webhooks.deliveries import Deliveries, Delivery
from teei_ingest_tests.dagster_parts import ROOT, activated, free_port, process
from teei_ingest_tests.deployed import on_postgres, postgres
from teei_ingest_tests.feeding import ACME, Answering, Ask, Reply, answering, page, record
from teei_ingest_tests.gateways import Calling, gateway, token
from teei_ingest_tests.running import Home
from teei_ingest_tests.second_opinion.server import Company
from teei_ingest_tests.together import eventually

GLOBEX = Company("globex-inc", "7d444840-9dc0-41d1-b245-5ffdce74fad2")
GOOD, BAD = "benevity_volunteers", "goodera_donations"
DAY = date(2024, 1, 15)
RULES = ROOT / "docker/prometheus/rules.yml"
DASHBOARD = ROOT / "docker/grafana/dashboard.json"
NAME = re.compile(r"\bimpact_in_\w+")
# Of the gateway's own requests, which it counts in memory.
REQUESTS = {
    "impact_in_gateway_requests_total",
    *(f"impact_in_gateway_request_seconds_{part}" for part in ("bucket", "count", "sum")),
}

Seen = dict[tuple[str, ...], float]


def today() -> date:
    return datetime.now(UTC).date()


@pytest.fixture
def source() -> Iterator[Answering]:
    """Benevity sends three good records and a bad one, Goodera refuses."""

    def answer(ask: Ask) -> Reply:
        if ask.stream == BAD:
            return Reply(b"{}", 401)
        at = f"{ask.query['since'][:10]}T10:00:00Z"
        bad = {"hoursLogged": -1}
        made = [record(ask.stream, f"r-{number}", at, bad if number == 3 else {}) for number in range(4)]
        return Reply(page(ask.stream, [*made, made[0]]))

    with answering(answer) as served:
        yield served


@pytest.fixture
def place(home: Callable[..., Home], source: Answering, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """Two companies, and an instance of Dagster on SQLite, as the gateway finds it."""
    companies = (ACME, GLOBEX)
    made = home({one.slug: one.id for one in companies}, source.environment(companies) | {"TEEI_MAX_RETRIES": "0"})
    with recorded(made, monkeypatch):
        yield made


@contextmanager
def recorded(made: Home, monkeypatch: pytest.MonkeyPatch, storage: str = "") -> Iterator[None]:
    """Its runs are recorded in the home, or in a Postgres."""
    folder = made.settings.dagster_home
    folder.mkdir(parents=True)
    (folder / "dagster.yaml").write_text(yaml.safe_dump(on_postgres(storage) if storage else {}))
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    slugs = made.instance.get_dynamic_partitions(COMPANIES.name or "")
    with dg.DagsterInstance.from_config(str(folder)) as made.instance:
        made.instance.add_dynamic_partitions(COMPANIES.name or "", list(slugs))
        yield


def figures(place: Home) -> Figures:
    """Those of a gateway that has just begun."""
    return Figures(place.settings, lambda: load_companies(place.settings))


def look(place: Home, watching: Figures | None = None) -> dict[str, Seen]:
    """All figures by name, then labels."""
    return {metric.name: dict(values) for metric, values in (watching or figures(place)).now()}


def counters(seen: dict[str, Seen]) -> dict[str, Seen]:
    return {one.name: seen[one.name] for one in catalog.METRICS if one.kind == "counter"}


# --- what is counted -------------------------------------------------------------------------------------------------


def test_what_happened_is_what_is_counted(place: Home) -> None:
    place.materialize("acme-corp", DAY, DAY, [GOOD, BAD])
    place.materialize("globex-inc", DAY, DAY, [GOOD])
    seen = look(place)
    assert seen["impact_in_runs_total"]["benevity", GOOD, "success"] == 2
    assert seen["impact_in_runs_total"]["goodera", BAD, "failure"] == 1
    assert sum(seen["impact_in_runs_total"].values()) == 3
    assert seen["impact_in_errors_total"]["goodera", "auth_failed"] == 1
    assert sum(seen["impact_in_errors_total"].values()) == 1
    records = {one[2]: count for one, count in seen["impact_in_records_total"].items() if count}
    assert records == {"kept": 6, "quarantined": 2, "duplicates": 2}
    assert seen["impact_in_records_processed_total"]["benevity",] == 8
    assert seen["impact_in_company_runs_total"]["acme-corp", "goodera", "failure"] == 1
    assert seen["impact_in_company_runs_total"]["globex-inc", "benevity", "success"] == 1
    assert seen["impact_in_connector_success_rate"] == {("benevity",): 1.0, ("goodera",): 0.0}
    assert seen["impact_in_checks_total"]["benevity", GOOD, "quarantine", "warned"] == 2
    assert seen["impact_in_checks_total"]["benevity", GOOD, "no_personal_data", "passed"] == 2
    assert seen["impact_in_quarantined_days"]["benevity", GOOD] == 2
    assert seen["impact_in_source_requests_total"]["benevity", GOOD] == 4  # a token and a page each
    assert set(seen["impact_in_part_up"].values()) == {1.0}
    # A backfill of old days is no fresh success.
    assert seen["impact_in_last_success_timestamp_seconds"] == {} == seen["impact_in_ingestion_lag_seconds"]
    labels_are_closed_lists(figures(place))


def labels_are_closed_lists(watching: Figures) -> None:
    closed = {
        "connector": set(all_systems()),
        "stream": set(all_streams()),
        "company": {"acme-corp", "globex-inc"},
        "outcome": {*catalog.OUTCOMES, *catalog.RECORDS, *catalog.VERDICTS},
        "error_type": set(catalog.error_types()),
        "check": set(catalog.CHECKS),
        "status": {"queued", "not_started", "starting", "started", "canceling"},
        "part": {"dagster", "sources", "webhooks", "sizes", "companies", "totals"},
        "what": {contract.table for contract in contracts()} | set(WHAT),
        "daemon": set(),
    }
    for metric, values in watching.now():
        for labels in values:
            assert len(labels) == len(metric.labels)
            told = dict(zip(metric.labels, labels, strict=True))
            assert all(value in closed[name] for name, value in told.items() if name != "version"), (metric, told)


def test_counted_once_and_kept_when_dagster_forgets(place: Home) -> None:
    place.materialize("acme-corp", DAY, DAY, [GOOD])
    with ThreadPoolExecutor(4) as several:
        list(several.map(lambda _: look(place), range(4)))
    before = counters(look(place))
    assert sum(before["impact_in_runs_total"].values()) == 1
    place.materialize("acme-corp", DAY, DAY, [GOOD])  # which supersedes the first
    forgotten = forget_runs(place.instance, datetime.now(UTC) + timedelta(days=1))
    assert forgotten["runs"] == 1
    after = counters(look(place))
    assert sum(after["impact_in_runs_total"].values()) == 2
    assert all(after[name][labels] >= value for name, values in before.items() for labels, value in values.items())


def ended_by(place: Home, report: Callable[[dg.DagsterRun], Any]) -> None:
    """A run of Workday's one stream that was never carried out."""
    days = {RANGE_START: key("acme-corp", DAY), RANGE_END: key("acme-corp", DAY), COMPANY_TAG: "acme-corp"}
    report(place.instance.create_run_for_job(dg.job(name="workday")(lambda: None), tags=days))


def test_a_run_that_crashed_and_one_that_was_ended(place: Home) -> None:
    ended_by(place, place.instance.report_run_failed)
    ended_by(place, place.instance.report_run_canceled)
    seen = look(place)
    assert {one: count for one, count in seen["impact_in_runs_total"].items() if count} == {
        ("workday", "workday_directory", "failure"): 1,
        ("workday", "workday_directory", "canceled"): 1,
    }
    assert seen["impact_in_errors_total"]["workday", "crashed"] == 1
    assert seen["impact_in_connector_success_rate"]["workday",] == 0  # who cancels says nothing of the source


def test_who_was_read_just_now_and_who_has_left(place: Home) -> None:
    yesterday = today() - timedelta(1)
    place.materialize("globex-inc", yesterday, yesterday, [GOOD])
    seen = look(place)
    ended = seen["impact_in_last_success_timestamp_seconds"]["globex-inc", "benevity", GOOD]
    assert 0 <= time.time() - ended < 300
    assert seen["impact_in_ingestion_lag_seconds"]["benevity",] == pytest.approx(time.time() - ended, abs=60)
    registry = place.settings.companies
    assert registry is not None
    registry.write_text(yaml.safe_dump({"companies": yaml.safe_load(registry.read_text())["companies"][:1]}))
    seen = look(place)
    assert {one[0] for one in seen["impact_in_company_runs_total"]} == {"acme-corp"}
    assert seen["impact_in_last_success_timestamp_seconds"] == {} == seen["impact_in_ingestion_lag_seconds"]
    assert sum(seen["impact_in_runs_total"].values()) == 1  # of the connector it stays


def test_before_anything_has_happened_every_counter_is_there(place: Home) -> None:
    seen = look(place)
    for one in catalog.METRICS:
        if one.kind == "counter":
            assert seen[one.name] and set(seen[one.name].values()) == {0.0}, one.name
    assert len(seen["impact_in_runs_total"]) == len(all_streams()) * len(catalog.OUTCOMES)


def test_every_kind_of_error_has_a_label() -> None:
    assert {catalog.error_type(code) for code in ("bad_credentials", "source_down", "kari.nordmann", "")} == {
        "auth_failed",
        "source_down",
        "crashed",
    }


# --- what is looked at -----------------------------------------------------------------------------------------------


def test_quota_circuit_and_deliveries_of_now(place: Home) -> None:
    settings, companies = place.settings, load_companies(place.settings)
    goodera, buddy = all_systems()["goodera"], all_systems()["buddy"]
    quota = quota_for(goodera, resolve(settings, companies, companies.get("acme-corp"), "goodera"), settings)
    for _ in range(25):
        assert quota.acquire(time.sleep) == 0
    account = resolve(settings, companies, companies.get("acme-corp"), "buddy")
    circuit_for(buddy, account, settings, time.time).open("does not answer")
    Deliveries(settings).add([Delivery(b"1" * 16, "acme-corp", "benevity_donations", DAY, 1000.0)])
    where = ManagedGrpcPythonEnvCodeLocationOrigin(LoadableTargetOrigin(module_name="x"), location_name="x")
    queued = RemoteRepositoryOrigin(where, "x").get_job_origin("x")
    job = dg.job(name="x")(lambda: None)
    place.instance.create_run_for_job(job, status=dg.DagsterRunStatus.QUEUED, remote_job_origin=queued)
    seen = look(place)
    assert seen["impact_in_quota_used_ratio"] == {("goodera",): 0.25}
    assert seen["impact_in_quota_waiting"] == {("goodera",): 0} == seen["impact_in_quota_blocked"]
    assert {one for one, count in seen["impact_in_circuit_open"].items() if count} == {("buddy",)}
    assert time.time() - seen["impact_in_circuit_open_since_timestamp_seconds"]["buddy",] < 300
    assert seen["impact_in_webhook_deliveries_waiting"]["benevity",] == 1
    assert seen["impact_in_webhook_waiting_since_timestamp_seconds"] == {("benevity",): 1000.0}
    assert seen["impact_in_queue_runs"]["queued",] == 1
    assert time.time() - seen["impact_in_queue_oldest_timestamp_seconds"][()] < 300
    quota.block(60)
    quota.close()
    assert look(place)["impact_in_quota_blocked"] == {("goodera",): 1}


@pytest.mark.parametrize("part", ["dagster", "webhooks", "companies", "totals"])
def test_what_cannot_be_read_is_said_and_takes_nothing_along(place: Home, part: str, tmp_path: Path) -> None:
    ended_by(place, place.instance.report_run_failed)
    watching = figures(place)
    before = counters(look(place, watching))
    broken = {
        "dagster": place.settings.dagster_home / "dagster.yaml",
        "webhooks": place.settings.home / "webhooks" / "deliveries.sqlite",
        "companies": place.settings.companies,
        "totals": place.settings.home / "metrics" / "totals.sqlite",
    }[part]
    assert broken is not None
    broken.parent.mkdir(exist_ok=True)
    for suffix in ("-wal", "-shm"):
        Path(f"{broken}{suffix}").unlink(missing_ok=True)
    broken.write_text("kari.nordmann@acme.example: [")
    seen = look(place, watching)
    failed = {one for (one,), up in seen["impact_in_part_up"].items() if not up}
    assert failed == ({"dagster", "totals"} if part == "totals" else {part})
    if part != "totals":
        after = counters(seen)
        assert after["impact_in_runs_total"] == before["impact_in_runs_total"]
        assert sum(after["impact_in_runs_total"].values()) == 1
    assert ("impact_in_daemon_heartbeat_timestamp_seconds" in seen) == ("dagster" not in failed)


# --- what is made of it ----------------------------------------------------------------------------------------------


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def panels() -> list[tuple[str, str]]:
    """(title, query) of every query of the dashboard."""
    board = json.loads(DASHBOARD.read_text())
    queries = [(one["title"], target["expr"]) for one in board["panels"] for target in one.get("targets", [])]
    variables = [(one["name"], one["query"]["query"]) for one in board["templating"]["list"] if one["type"] == "query"]
    return [*queries, *variables, *((one["name"], one["expr"]) for one in board["annotations"]["list"])]


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: str(alert["alert"]))
def test_every_alert_has_its_runbook(alert: dict[str, Any]) -> None:
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert anchor == alert["alert"].lower()
    headings = re.findall(r"^## (.+)$", (project_root() / page).read_text(), re.MULTILINE)
    assert alert["alert"] in headings
    assert alert["labels"]["severity"] in ("page", "warning")
    assert alert["annotations"]["summary"] and alert["annotations"]["description"]


def test_the_runbook_has_no_other_section() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "docs/runbook.md").read_text(), re.MULTILINE)
    assert headings == [one["alert"] for one in _in_the_order_of(headings)]


def _in_the_order_of(headings: list[str]) -> list[dict[str, Any]]:
    return sorted(alerts(), key=lambda one: headings.index(one["alert"]) if one["alert"] in headings else 99)


@pytest.mark.parametrize("file", ["prometheus/rules.yml", "prometheus/rules_test.yml", "grafana/dashboard.json"])
def test_only_metrics_that_there_are(file: str) -> None:
    text = (ROOT / "docker" / file).read_text()
    recorded = re.findall(r"\bconnector\w*:(impact_in_\w+)", text)
    used = set(NAME.findall(text)) - set(recorded)
    assert used <= {one.name for one in catalog.METRICS} | REQUESTS


def test_every_alert_has_a_case() -> None:
    cases = (ROOT / "docker/prometheus/rules_test.yml").read_text()
    assert [one["alert"] for one in alerts() if f'alertname="{one["alert"]}", alertstate="firing"' not in cases] == []


# --- with Debian's prometheus and prometheus-alertmanager ------------------------------------------------------------


def tool(name: str, package: str) -> str:
    """The path of a program of a Debian package."""
    found = shutil.which(name)
    assert found, f"{name} is missing: apt-get install {package} (as .ci/run does), or leave out `-m long`"
    return found


def carried_out(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT / "docker", capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
def test_prometheus_takes_its_files() -> None:
    promtool = tool("promtool", "prometheus")
    carried_out(promtool, "check", "rules", "prometheus/rules.yml")
    carried_out(promtool, "check", "config", "--syntax-only", "prometheus/prometheus.yml")


@pytest.mark.long
def test_alerts_fire_when_they_should() -> None:
    assert "SUCCESS" in carried_out(tool("promtool", "prometheus"), "test", "rules", "prometheus/rules_test.yml")


@pytest.mark.long
@pytest.mark.parametrize(("severity", "receivers"), [("page", "pagerduty,opsgenie"), ("warning", "email")])
def test_alertmanager_tells_the_right_people(severity: str, receivers: str) -> None:
    amtool, file = tool("amtool", "prometheus-alertmanager"), "alertmanager/alertmanager.yml"
    carried_out(amtool, "check-config", file)
    routed = carried_out(amtool, "config", "routes", "test", f"--config.file={file}", f"severity={severity}")
    assert routed.strip() == receivers
    kinds = {name for one in yaml.safe_load((ROOT / "docker" / file).read_text())["receivers"] for name in one}
    assert {"pagerduty_configs", "opsgenie_configs", "email_configs"} <= kinds


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Calling, str]]:
    """A gateway with a daemon beside it, and the address of a Prometheus that scrapes it with the product's files."""
    program, folder = tool("prometheus", "prometheus"), tmp_path_factory.mktemp("prometheus")
    config = SandboxConfig(records=4)
    home = folder / "home"
    with running(config) as sandbox:
        variables = environment(config, sandbox.url) | {"KINTELL_GLOBEX_INC_API_KEY": "revoked"}
        with gateway(home, variables) as calling:
            caller = calling.as_(token(home)[0])
            daemon_env = activated() | {"TEEI_HOME": str(home), "DAGSTER_HOME": str(home / "dagster")}
            daemon = ["dagster-daemon", "run", "-w", str(ROOT / "workspace.yaml")]
            with process(daemon, folder / "daemon.log", env=daemon_env), prometheus(program, folder, calling) as url:
                yesterday = f"{today() - timedelta(1)}T00:00:00Z"
                assert caller.post("all", since=yesterday).json()["success"]
                assert not caller.post("kintell/enrollments", company=GLOBEX.id, since=yesterday).json()["success"]
                eventually(
                    lambda: asked(url, 'impact_in_errors_total{error_type="auth_failed"} > 0'), "the last scrape"
                )
                yield caller, url


@contextmanager
def prometheus(program: str, folder: Path, calling: Calling) -> Iterator[str]:
    given = yaml.safe_load((ROOT / "docker/prometheus/prometheus.yml").read_text())
    (scrape,) = given["scrape_configs"]
    (folder / "teei-token").write_text(token(calling.home, "read")[0])
    scrape["authorization"]["credentials_file"] = str(folder / "teei-token")
    scrape["static_configs"] = [{"targets": [calling.url.removeprefix("http://")]}]
    given["global"] |= {"scrape_interval": "2s", "evaluation_interval": "2s"}
    scrape["scrape_timeout"] = "2s"
    given["rule_files"] = [str(RULES)]
    del given["alerting"]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(given))
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        program, f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={url.removeprefix('http://')}",
    ]  # fmt: skip
    with process(command, folder / "prometheus.log", env=activated(), cwd=folder):
        eventually(lambda: asked(url, "count(count_over_time(impact_in_build_info[1m]) > 2)"), "Prometheus scrapes")
        eventually(lambda: asked(url, "impact_in_daemon_heartbeat_timestamp_seconds"), "the daemon's heartbeat")
        yield url


def asked(url: str, query: str) -> list[dict[str, Any]]:
    """The series of an instant query; none as long as nobody answers."""
    try:
        reply = requests.get(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}", timeout=30).json()
    except requests.ConnectionError:
        return []
    assert reply["status"] == "success", (query, reply)
    found: list[dict[str, Any]] = reply["data"]["result"]
    return found


@pytest.mark.long
def test_every_query_of_the_dashboard_has_an_answer(scraped: tuple[Calling, str]) -> None:
    _, url = scraped
    for title, query in panels():
        if listed := re.fullmatch(r"label_values\((\w+), (\w+)\)", query):
            query = f"group by ({listed[2]}) ({listed[1]})"
        query = query.replace("$connector", ".*").replace("$company", ".*").replace("$__rate_interval", "1m")
        assert "$" not in query
        if title == "Alerts":
            asked(url, query)  # there may be none
        else:
            eventually(partial(asked, url, query), title, 30)
    assert len(panels()) > 25


@pytest.mark.long
def test_prometheus_has_what_the_gateway_says(scraped: tuple[Calling, str]) -> None:
    caller, url = scraped
    succeeded = asked(url, 'sum(impact_in_runs_total{outcome="success"})')
    assert float(succeeded[0]["value"][1]) >= len(all_streams())
    (refused,) = asked(url, 'impact_in_errors_total{error_type="auth_failed"} > 0')
    assert refused["metric"]["connector"] == "kintell" and refused["value"][1] == "1"
    (rate,) = asked(url, 'impact_in_connector_success_rate{connector="kintell"}')
    assert 0 < float(rate["value"][1]) < 1
    assert caller.get("/metrics").headers["Content-Type"].startswith("text/plain")
    rules = requests.get(f"{url}/api/v1/rules", timeout=30).json()["data"]["groups"]
    health = {(rule["name"], rule["health"]) for group in rules for rule in group["rules"]}
    assert {state for _, state in health} == {"ok"} and len(health) > len(alerts())


@pytest.mark.long
def test_the_figures_want_a_token_for_all_companies(scraped: tuple[Calling, str]) -> None:
    caller, _ = scraped
    assert caller.as_("").get("/metrics").status_code == 401
    answer = caller.as_(token(caller.home, "read", "acme-corp")[0]).get("/metrics")
    assert answer.status_code == 403 and "--all-companies" in answer.json()["detail"]
    text = caller.as_(token(caller.home, "read")[0]).get("/metrics").text
    assert 'impact_in_gateway_requests_total{method="GET",route="/metrics",status="403"}' in text
    caller("BREW", "/kari.nordmann@acme.example")
    text = caller.get("/metrics").text
    assert "nordmann" not in text and "BREW" not in text
    assert 'impact_in_gateway_requests_total{method="other",route="-",status="404"}' in text


@pytest.mark.long
def test_a_restart_changes_no_figure(tmp_path: Path) -> None:
    config = SandboxConfig(records=4)
    home = tmp_path / "home"

    def recorded(caller: Calling) -> list[str]:
        text = caller.get("/metrics").text
        return [
            line
            for line in text.splitlines()
            if re.match(r"impact_in_(?!gateway|build|part|quota|queue|ingestion_lag)\w+(_total|_rate|_seconds)\b", line)
        ]

    with running(config) as sandbox:
        variables = environment(config, sandbox.url)
        with gateway(home, variables) as calling:
            caller = calling.as_(token(home)[0])
            caller.post("benevity/volunteers", since=f"{today() - timedelta(1)}T00:00:00Z")
            before = recorded(caller)
        with gateway(home, variables) as calling:
            after = recorded(calling.as_(caller.bearer))
    assert before == after and any(line.endswith('stream="benevity_volunteers"} 1.0') for line in after)


@pytest.mark.long
def test_on_postgres(home: Callable[..., Home], source: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    made = home({ACME.slug: ACME.id}, source.environment() | {"TEEI_MAX_RETRIES": "0"})
    with postgres() as storage, recorded(made, monkeypatch, storage):
        made.materialize("acme-corp", today(), today(), [GOOD, BAD])
        watching = figures(made)
        look(made, watching)
        made.materialize("acme-corp", today(), today(), [GOOD])
        seen = look(made, watching)
        assert seen["impact_in_runs_total"]["benevity", GOOD, "success"] == 2
        assert seen["impact_in_errors_total"]["goodera", "auth_failed"] == 1
        assert 0 <= time.time() - seen["impact_in_recorded_until_timestamp_seconds"][()] < 300
