"""What the UI does, through the webserver's own GraphQL, with a real webserver and a real daemon."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from teei_ingest.defs.build import build
from teei_ingest.defs.partitions import RANGE_END, RANGE_START
from teei_ingest.sandbox.server import SandboxConfig, environment, running
from teei_ingest.streams import all_streams
from teei_ingest_tests.dagster_parts import (
    BIN,
    GraphQL,
    Proxy,
    all_assets,
    check_statuses,
    days,
    eventually,
    free_port,
    instance_in,
    keys,
    prepare_home,
    process,
    proxy,
    statuses,
    window_with,
)

pytestmark = pytest.mark.long

CONFIG = SandboxConfig()
COMPANIES = list(CONFIG.companies)

BACKFILL = """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
BACKFILL_STATUS = """query($id: String!) { partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill { status } } }"""
LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
RUNS = """query($filter: RunsFilter) { runsOrError(filter: $filter) {
    ... on Runs { results { runId status tags { key value } } } } }"""
STATS = """query($keys: [AssetKeyInput!]) { assetNodes(assetKeys: $keys) { assetKey { path }
    partitionStats { numMaterialized numFailed numMaterializing } } }"""


@dataclass
class Deployment:
    """A webserver and a daemon on a home of their own."""

    home: Path
    source: Proxy
    ask: GraphQL
    definitions: dg.Definitions

    def runs(self, **run_filter: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask(RUNS, filter=run_filter)["runsOrError"]["results"]
        return found


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("deployment")
    with running(CONFIG) as sandbox, proxy(sandbox.url) as source:
        variables = environment(CONFIG, source.url) | {"TEEI_MAX_RETRIES": "0"}
        env = prepare_home(folder / "home", variables)
        ask = GraphQL(free_port())
        where = ["-w", "workspace.yaml"]
        webserver = [str(BIN / "dagster-webserver"), "-h", "127.0.0.1", "-p", str(ask.port), *where]
        daemon = [str(BIN / "dagster-daemon"), "run", *where]
        with process(webserver, folder / "webserver.log", env=env), process(daemon, folder / "daemon.log", env=env):
            # the daemon's sensor makes them
            eventually(lambda: ask.companies() == COMPANIES, "the registry's companies are partitions")
            yield Deployment(folder / "home", source, ask, build(env))
    for log in ("webserver.log", "daemon.log"):
        assert "Traceback" not in (folder / log).read_text()


def backfill(deployment: Deployment, partition_keys: list[str]) -> tuple[str, list[dict[str, Any]]]:
    """Backfill all assets as the UI does; its status and its runs when it has ended."""
    params = {
        "assetSelection": [{"path": [asset]} for asset in all_assets()],
        "partitionNames": partition_keys,
        "tags": [],
    }
    launched = deployment.ask(BACKFILL, params=params)["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    identity = launched["backfillId"]

    def finished() -> str:
        status: str = deployment.ask(BACKFILL_STATUS, id=identity)["partitionBackfillOrError"]["status"]
        return status if status.startswith(("COMPLETED", "CANCELED", "FAILED")) else ""

    status = eventually(finished, "the backfill ends", 400)
    return status, deployment.runs(tags=[{"key": "dagster/backfill", "value": identity}])


def launch(deployment: Deployment, job: str, first: str, last: str, assets: list[str] | None = None) -> str:
    """Launch a job over a range as the UI does; the run's status when it has ended."""
    selection = [{"path": [asset]} for asset in assets] if assets else None
    params = {
        "selector": {
            "repositoryLocationName": "teei_ingest",
            "repositoryName": "__repository__",
            "jobName": job,
            "assetSelection": selection,
        },
        "mode": "default",
        "runConfigData": {},
        "executionMetadata": {"tags": [{"key": RANGE_START, "value": first}, {"key": RANGE_END, "value": last}]},
    }
    launched = deployment.ask(LAUNCH, params=params)["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched

    def ended() -> str:
        (status,) = (run["status"] for run in deployment.runs(runIds=[launched["run"]["runId"]]))
        return status if status in ("SUCCESS", "FAILURE", "CANCELED") else ""

    return eventually(ended, "the run ends")


def ends_of(run: dict[str, Any]) -> tuple[str, str]:
    """The partition keys between which a run works."""
    tags = {tag["key"]: tag["value"] for tag in run["tags"]}
    return tags[RANGE_START], tags[RANGE_END]


@pytest.mark.timeout(600)
def test_backfill_of_all_assets(deployment: Deployment) -> None:
    over = days(date(2024, 1, 15), 10)
    wanted = [each for company in COMPANIES for each in keys(company, over)]
    (bad,) = keys("globex-inc", [over[3]])
    failing = ("benevity_volunteers", "benevity_volunteers_events")
    tenant = environment(CONFIG, "")["BENEVITY_GLOBEX_INC_TENANT_ID"]

    deployment.source.refuses = window_with(over[3], "/volunteer-activities", tenant)
    status, runs = backfill(deployment, wanted)
    deployment.source.refuses = None
    assert status == "COMPLETED_FAILED"
    for run in runs:  # so that the queue lets one of each company go on at a time
        tags = {tag["key"]: tag["value"] for tag in run["tags"]}
        assert ends_of(run)[0].startswith(f"{tags['teei/company']}|")
        assert {f"teei/system.{stream.system}" for stream in all_streams().values()} <= tags.keys()
    assert sorted((*ends_of(run), run["status"]) for run in runs) == [
        (keys(company, over)[0], keys(company, over)[-1], "FAILURE" if company == "globex-inc" else "SUCCESS")
        for company in COMPANIES
    ]
    materialized = dict.fromkeys(wanted, "MATERIALIZED")
    succeeded = dict.fromkeys(wanted, "SUCCEEDED")
    with instance_in(deployment.home) as instance:
        for asset in all_assets():
            expected = materialized | ({bad: "FAILED"} if asset in failing else {})
            assert statuses(instance, deployment.definitions, asset, wanted) == expected, asset
        for stream in all_streams().values():
            expected = succeeded | ({bad: "EXECUTION_FAILED"} if stream.name in failing else {})
            for asset, check in ((stream.name, "contract"), (stream.events, "no_personal_data")):
                assert check_statuses(instance, deployment.definitions, asset, check, wanted) == expected, asset
    stats = deployment.ask(STATS, keys=[{"path": [asset]} for asset in failing])["assetNodes"]
    for node in stats:
        assert (node["partitionStats"]["numFailed"], node["partitionStats"]["numMaterializing"]) == (1, 0)

    assert launch(deployment, "__ASSET_JOB", bad, bad, list(failing)) == "SUCCESS"
    with instance_in(deployment.home) as instance:
        for asset, check in zip(failing, ("contract", "no_personal_data"), strict=True):
            assert statuses(instance, deployment.definitions, asset, wanted) == materialized
            assert check_statuses(instance, deployment.definitions, asset, check, wanted) == succeeded


def test_the_job_for_everything(deployment: Deployment) -> None:
    wanted = keys("initech-ab", days(date(2024, 2, 5), 2))
    assert launch(deployment, "everything", wanted[0], wanted[-1]) == "SUCCESS"
    with instance_in(deployment.home) as instance:
        for asset in all_assets():
            found = statuses(instance, deployment.definitions, asset, wanted)
            assert found == dict.fromkeys(wanted, "MATERIALIZED"), asset


def test_a_reversed_range_is_no_success(deployment: Deployment) -> None:
    first, last = keys("initech-ab", days(date(2024, 2, 12), 2))
    assert launch(deployment, "benevity", last, first) == "FAILURE"
