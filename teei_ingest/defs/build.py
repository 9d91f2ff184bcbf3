"""All definitions, from the streams that there are; the one place where a test puts other resources in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from teei_ingest.defs import alerts, assets, jobs, maintenance, presence, retention, schedules, sensors, stale, webhooks
from teei_ingest.defs.partitions import partitions
from teei_ingest.defs.resources import (
    CredentialsResource,
    HttpResource,
    IngestResource,
    LandingResource,
    SettingsResource,
    StoreResource,
)
from teei_ingest.defs.sqlite import quicken
from teei_ingest.streams import all_streams


def build(overrides: Mapping[str, str] | None = None, **resources: Any) -> dg.Definitions:
    """Definitions for the environment with `overrides` of its variables; `resources` replace those of that name."""
    quicken()
    given: dict[str, Any] = {"settings": SettingsResource(overrides=dict(overrides or {})), **resources}
    configured: SettingsResource = given["settings"]
    settings = configured.settings
    partitions_def = partitions(settings)
    made = [assets.assets_for(stream, partitions_def, settings) for stream in all_streams().values()]
    given.setdefault("credentials", CredentialsResource(settings=configured))
    given.setdefault("http", HttpResource(settings=configured, credentials=given["credentials"]))
    given.setdefault("store", StoreResource(settings=configured))
    given.setdefault("landing", LandingResource(settings=configured))
    given.setdefault("ingest", IngestResource(**given))
    return dg.Definitions(
        assets=dg.with_source_code_references(
            [*made, presence.presence, retention.retention, maintenance.tidied_tables, maintenance.size_report]
        ),
        jobs=[*jobs.jobs(), presence.job, retention.job, maintenance.job],
        schedules=[
            *schedules.schedules(settings),
            presence.weekly(settings),
            retention.daily,
            maintenance.daily,
        ],
        sensors=[
            sensors.companies_registry,
            sensors.landings,
            webhooks.webhook_deliveries,
            stale.stale(settings),
            alerts.alerts,
        ],
        executor=dg.in_process_executor,
        resources=given,
    )
