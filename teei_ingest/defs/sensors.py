"""Sensors: the registry of companies becomes the partitions' dimension, and what has landed alone gets its events."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from hashlib import sha256

import dagster as dg

from teei_ingest.defs.jobs import EVERYTHING
from teei_ingest.defs.partitions import COMPANIES, known_companies
from teei_ingest.defs.resources import SettingsResource, or_reason
from teei_ingest.defs.run_requests import run_request
from teei_ingest.landing.landing import Landing
from teei_ingest.pipeline.days import Window
from teei_ingest.streams import all_streams
from teei_ingest.sync import ranges
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
    slugs = or_reason(lambda: _there(settings))
    if isinstance(slugs, dg.SkipReason):
        return slugs
    known = known_companies(context.instance)
    new = [slug for slug in slugs if slug not in known]
    if not new:
        return dg.SkipReason(f"all {len(slugs)} companies are there")
    return dg.SensorResult(dynamic_partitions_requests=[COMPANIES.build_add_request(new)])


@dg.sensor(
    name="landings",
    job_name=EVERYTHING,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="A stream that was materialized alone gets its events: one run for each company and range of days. If "
    "that fails, it is not tried again for the same records.",
)
def landings(
    context: dg.SensorEvaluationContext, settings: SettingsResource
) -> Sequence[dg.RunRequest] | dg.SkipReason:
    found = or_reason(lambda: (_there(settings), list(Landing(settings.settings).waiting())))
    if isinstance(found, dg.SkipReason):
        return found
    slugs, waiting = found
    going = {attempt for attempt in {one.attempt for one in waiting} if _goes_on(context.instance, attempt)}
    days: dict[str, dict[str, set[date]]] = defaultdict(lambda: defaultdict(set))
    attempts: dict[tuple[str, str, date], str] = {}
    for one in waiting:
        if one.company in slugs and one.stream in all_streams() and one.attempt not in going:
            days[one.company][one.stream].add(one.day)
            attempts[one.company, one.stream, one.day] = one.attempt
    made = []
    for company, by_stream in days.items():
        for (first, last), streams in ranges(by_stream):
            window = Window(first, last)
            seen = "".join(attempts[company, stream, day] for stream in streams for day in window.days)
            assets = [all_streams()[stream].events for stream in streams]
            run_key = f"{company} {first} {sha256(seen.encode()).hexdigest()[:16]}"
            made.append(run_request(company, window, assets, run_key))
    return made or dg.SkipReason("nothing waits for its events")


def _there(settings: SettingsResource) -> list[str]:
    """Companies of the registry that have not been shredded, and are not being."""
    return [one.slug for one in settings.companies if shredded(settings.settings, one) is None]


def _goes_on(instance: dg.DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id)
    return run is not None and not run.is_finished
