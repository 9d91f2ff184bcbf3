"""What the UI does, through the webserver's own GraphQL, with a real webserver and a real daemon."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

import pytest

from teei_ingest.sandbox.server import SandboxConfig, environment, running
from teei_ingest.streams import all_streams
from teei_ingest_tests.dagster_parts import (
    Proxy,
    all_assets,
    check_statuses,
    days,
    instance_in,
    keys,
    proxy,
    statuses,
    window_with,
)
from teei_ingest_tests.deployed import Deployment, deployed
from teei_ingest_tests.together import eventually

pytestmark = pytest.mark.long

CONFIG = SandboxConfig(records=4)
COMPANIES = list(CONFIG.companies)

STATS = """query($keys: [AssetKeyInput!]) { assetNodes(assetKeys: $keys) { assetKey { path }
    partitionStats { numMaterialized numFailed numMaterializing } } }"""


@dataclass(frozen=True)
class Place:
    """A deployment, and the sandbox's proxy that it reads."""

    deployment: Deployment
    source: Proxy


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with running(CONFIG) as sandbox, proxy(sandbox.url) as source:
        variables = environment(CONFIG, source.url) | {"TEEI_MAX_RETRIES": "0"}
        with deployed(tmp_path_factory.mktemp("deployment"), variables) as made:
            made.start_daemon()
            eventually(lambda: made.ask.companies() == COMPANIES, "the registry's companies are partitions")
            yield Place(made, source)


@pytest.mark.timeout(600)
def test_backfill_of_all_assets(place: Place) -> None:
    deployment = place.deployment
    over = days(date(2024, 1, 15), 10)
    wanted = [each for company in COMPANIES for each in keys(company, over)]
    (bad,) = keys("globex-inc", [over[3]])
    failing = ("benevity_volunteers", "benevity_volunteers_events")
    tenant = environment(CONFIG, "")["BENEVITY_GLOBEX_INC_TENANT_ID"]

    place.source.refuses = window_with(over[3], "/volunteer-activities", tenant)
    backfill = deployment.backfill(wanted)
    assert deployment.ended(backfill) == "COMPLETED_FAILED"
    place.source.refuses = None
    runs = deployment.runs_of(backfill)
    for run in runs:  # so that the queue lets one of each company go on at a time
        assert run.tags["teei/company"] == run.company
        assert {f"teei/system.{stream.system}" for stream in all_streams().values()} <= run.tags.keys()
    assert sorted((*run.ends, run.status) for run in runs) == [
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

    assert deployment.launch("__ASSET_JOB", bad, bad, failing) == "SUCCESS"
    with instance_in(deployment.home) as instance:
        for asset, check in zip(failing, ("contract", "no_personal_data"), strict=True):
            assert statuses(instance, deployment.definitions, asset, wanted) == materialized
            assert check_statuses(instance, deployment.definitions, asset, check, wanted) == succeeded


def test_the_page_of_a_job_backfills_all_that_was_chosen(place: Place) -> None:
    deployment = place.deployment
    over = days(date(2024, 3, 4), 2)
    wanted = [each for company in COMPANIES for each in keys(company, over)]
    assets = ["benevity_donations", "benevity_donations_events"]
    # What that page sends: of the first partition, though others are chosen, too.
    tags = {"dagster/partition_set": "benevity_partition_set", "dagster/partition/company": COMPANIES[0]}
    backfill = deployment.backfill(wanted, assets, {**tags, "dagster/partition/day": f"{over[0]}"})
    assert deployment.ended(backfill) == "COMPLETED_SUCCESS"
    assert [run.status for run in deployment.runs_of(backfill)] == ["SUCCESS"] * len(COMPANIES)
    with instance_in(deployment.home) as instance:
        for asset in assets:
            found = statuses(instance, deployment.definitions, asset, wanted)
            assert found == dict.fromkeys(wanted, "MATERIALIZED"), asset


def test_the_job_for_everything(place: Place) -> None:
    wanted = keys("initech-ab", days(date(2024, 2, 5), 2))
    assert place.deployment.launch("everything", wanted[0], wanted[-1]) == "SUCCESS"
    with instance_in(place.deployment.home) as instance:
        for asset in all_assets():
            found = statuses(instance, place.deployment.definitions, asset, wanted)
            assert found == dict.fromkeys(wanted, "MATERIALIZED"), asset


def test_a_reversed_range_is_no_success(place: Place) -> None:
    first, last = keys("initech-ab", days(date(2024, 2, 12), 2))
    assert place.deployment.launch("benevity", last, first) == "FAILURE"
