"""Resources are replaced in one place, and the registry of companies becomes partitions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from teei_ingest.defs.build import build
from teei_ingest.defs.partitions import COMPANIES, RANGE_END, RANGE_START, key
from teei_ingest.defs.resources import (
    CredentialsResource,
    HttpResource,
    LandingResource,
    SettingsResource,
    StoreResource,
)
from teei_ingest.defs.sensors import companies_registry
from teei_ingest.landing.landing import Landing
from teei_ingest.sandbox.server import SandboxConfig, company_id, environment, running
from teei_ingest.settings import Settings
from teei_ingest.store.tables import Store
from teei_ingest.vault.credentials import SystemCredentials
from teei_ingest_tests.running import Home, failures

CONFIG = SandboxConfig()
DAY = date(2024, 1, 15)
STREAM = "benevity_volunteers"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(CONFIG) as started:
        yield started.url


@pytest.fixture
def place(home: Callable[..., Home], url: str) -> Home:
    return home(CONFIG.companies, environment(CONFIG, url))


@pytest.fixture
def settings(place: Home) -> SettingsResource:
    return SettingsResource(overrides=place.environ)


def run(place: Home, *assets: str, **resources: Any) -> dg.ExecuteInProcessResult:
    """The assets (default: both) of one partition, with resources in place of the usual ones."""
    job = build(place.environ, **resources).resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=place.instance,
        asset_selection=[dg.AssetKey(asset) for asset in assets or (STREAM, f"{STREAM}_events")],
        tags={RANGE_START: key("acme-corp", DAY), RANGE_END: key("acme-corp", DAY)},
        raise_on_error=False,
    )


def count(place: Home) -> int:
    found: int = place.sql("SELECT count(*) AS n FROM volunteer_events")[0]["n"]
    return found


def test_http(place: Home, settings: SettingsResource) -> None:
    http = HttpResource(settings=settings, credentials=CredentialsResource(settings=settings), page_size=2)
    result = run(place, http=http)
    assert result.success, failures(result)
    figures = place.metadata(result, STREAM)[key("acme-corp", DAY)]
    assert figures["pages"] == -(-figures["fetched"] // 2) > 1


def test_credentials(place: Home, settings: SettingsResource) -> None:
    class Wrong(CredentialsResource):
        def get(self, company: str, system: str) -> SystemCredentials:
            return super().get("globex-inc", system)

    result = run(place, credentials=Wrong(settings=settings))
    assert result.success, failures(result)
    others = count(place)
    result = run(place)  # with its own credentials there are other records, and those of before are kept
    figures = place.metadata(result, f"{STREAM}_events")[key("acme-corp", DAY)]
    assert (figures["carried"], figures["dagster/row_count"]) == (others, count(place))
    assert count(place) > others > 0


def test_store(place: Home, settings: SettingsResource, tmp_path: Path) -> None:
    class Elsewhere(StoreResource):
        @cached_property
        def store(self) -> Store:
            made = Store(str(tmp_path / "elsewhere"), sandbox=False)
            made.prepare()
            return made

    result = run(place, store=Elsewhere(settings=settings))
    assert result.success, failures(result)
    assert list((tmp_path / "elsewhere" / "volunteer_events").glob("company=acme-corp/*.parquet"))
    assert count(place) == 0


def test_landing(place: Home, settings: SettingsResource, tmp_path: Path) -> None:
    class Elsewhere(LandingResource):
        @cached_property
        def landing(self) -> Landing:
            return Landing(Settings.load({**place.environ, "TEEI_HOME": str(tmp_path / "other")}))

    landing = Elsewhere(settings=settings)
    assert run(place, STREAM, landing=landing).success
    assert (tmp_path / "other" / "landing" / "acme-corp" / STREAM / f"{DAY}.sealed").is_file()
    assert not list((tmp_path / "home" / "landing").rglob("*.sealed"))
    result = run(place, f"{STREAM}_events", landing=landing)
    assert place.metadata(result, f"{STREAM}_events")[key("acme-corp", DAY)]["read_from"] == "landing"


def test_settings(place: Home, tmp_path: Path) -> None:
    elsewhere = str(tmp_path / "elsewhere")
    result = run(place, settings=SettingsResource(overrides={**place.environ, "TEEI_STORE_URI": elsewhere}))
    assert result.success, failures(result)
    assert count(place) == 0
    place.environ["TEEI_STORE_URI"] = elsewhere
    assert count(place) > 0


def evaluate(place: Home, instance: dg.DagsterInstance) -> list[str]:
    """Evaluate the sensor and do what the daemon does with the result; the reason of a skip."""
    settings = SettingsResource(overrides=place.environ)
    with dg.build_sensor_context(instance=instance, resources={"settings": settings}) as context:
        result = companies_registry(context)
    if isinstance(result, dg.SkipReason):
        return [str(result.skip_message)]
    assert isinstance(result, dg.SensorResult)
    for request in result.dynamic_partitions_requests or []:
        assert isinstance(request, dg.AddDynamicPartitionsRequest)
        instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
    return []


def test_the_registry_becomes_partitions(place: Home) -> None:
    instance = dg.DagsterInstance.ephemeral()
    assert evaluate(place, instance) == []
    assert instance.get_dynamic_partitions("company") == ["acme-corp", "globex-inc", "initech-ab"]
    assert evaluate(place, instance) == ["all 3 companies are there"]

    registry = Path(place.environ["TEEI_COMPANIES"])
    entries = [{"id": company_id(slug), "slug": slug, "name": slug} for slug in ("globex-inc", "umbrella-gmbh")]
    registry.write_text(yaml.safe_dump({"companies": entries}))
    assert evaluate(place, instance) == []
    assert instance.get_dynamic_partitions(COMPANIES.name or "") == [
        "acme-corp",
        "globex-inc",
        "initech-ab",
        "umbrella-gmbh",
    ]


def test_a_broken_registry_is_a_reason_to_skip(place: Home) -> None:
    instance = dg.DagsterInstance.ephemeral()
    Path(place.environ["TEEI_COMPANIES"]).write_text("companies:\n  - slug: Not A Slug\n")
    (reason,) = evaluate(place, instance)
    assert "companies.yaml" in reason and "\n" not in reason
    assert instance.get_dynamic_partitions("company") == []
