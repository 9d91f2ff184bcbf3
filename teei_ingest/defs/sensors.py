"""Sensors: the registry of companies becomes the partitions' dimension."""

import dagster as dg

from teei_ingest.defs.partitions import COMPANIES
from teei_ingest.defs.resources import SettingsResource
from teei_ingest.errors import TeeiError
from teei_ingest.vault.keys import shredded


@dg.sensor(
    name="companies_registry",
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Adds a partition for each company in the registry. A company that left keeps its partitions, "
    "one that was shredded gets none.",
)
def companies_registry(
    context: dg.SensorEvaluationContext, settings: SettingsResource
) -> dg.SensorResult | dg.SkipReason:
    reason = ""
    slugs: tuple[str, ...] = ()
    try:
        slugs = tuple(c.slug for c in settings.companies if shredded(settings.settings, c) is None)
    except TeeiError as error:
        reason = str(error)
    if reason:
        return dg.SkipReason(reason)
    known = set(context.instance.get_dynamic_partitions(COMPANIES.name or ""))
    new = [slug for slug in slugs if slug not in known]
    if not new:
        return dg.SkipReason(f"all {len(slugs)} companies are there")
    return dg.SensorResult(dynamic_partitions_requests=[COMPANIES.build_add_request(new)])
