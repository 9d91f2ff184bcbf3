"""The sensor that turns webhook deliveries into runs: what changed is fetched within minutes, not at night.

A delivery is handled when Dagster has the run that covers it, which is looked up the next time: whatever is killed in
between, it is asked for again, under the same key as long as no other delivery came.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime

import dagster as dg
from dagster._core.storage.tags import RUN_KEY_TAG, SENSOR_NAME_TAG

from teei_ingest.companies import Companies
from teei_ingest.defs.jobs import EVERYTHING
from teei_ingest.defs.partitions import COMPANY_TAG, add_companies
from teei_ingest.defs.queue import UNFINISHED
from teei_ingest.defs.resources import SettingsResource, or_reason
from teei_ingest.defs.run_requests import pairs, run_request, usable
from teei_ingest.errors import TeeiError, UsageError
from teei_ingest.pipeline.days import windows
from teei_ingest.settings import Settings
from teei_ingest.vault.keys import refuse_shredded
from teei_ingest.webhooks.deliveries import Deliveries, Waiting

NAME = "webhook_deliveries"
_INTERVAL_S = 60  # what comes meanwhile goes together


@dg.sensor(
    name=NAME,
    job_name=EVERYTHING,
    minimum_interval_seconds=_INTERVAL_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Fetches the days that webhooks say have changed: one run for each company and range of days, and no "
    "other of that company before it has ended.",
)
def webhook_deliveries(
    context: dg.SensorEvaluationContext, settings: SettingsResource
) -> list[dg.RunRequest] | dg.SkipReason:
    found = or_reason(lambda: _look(context, settings.settings, settings.companies, time.time()))
    if isinstance(found, dg.SkipReason):
        return found
    made, left = found
    return made or dg.SkipReason("; ".join(left) or "no delivery waits")


def _look(
    context: dg.SensorEvaluationContext, settings: Settings, companies: Companies, now: float
) -> tuple[list[dg.RunRequest], list[str]]:
    """The runs to ask for, and why there is none for the other deliveries."""
    deliveries = Deliveries(settings)
    waiting = deliveries.waiting()
    requested = {key for key in {one.run_key for one in waiting} if key and _has_run(context.instance, key)}
    deliveries.handled(requested, now)
    by_company: dict[str, list[Waiting]] = defaultdict(list)
    for one in waiting:
        if one.run_key not in requested:
            by_company[one.company].append(one)
    busy = _busy(context.instance)
    made: list[dg.RunRequest] = []
    left: list[str] = []
    for slug, ones in by_company.items():
        if slug in busy:
            left.append(f"{slug}: waits for the run that goes on")
            continue
        try:
            due = _due(settings, companies, slug, ones, datetime.fromtimestamp(now, UTC).date())
        except TeeiError as error:
            left.append(str(error))
            continue
        for window in windows(list(due)):
            streams = sorted({stream for day in window.days for stream in due[day]})
            if run_key := deliveries.ask(slug, streams, window.first, window.last):
                made.append(run_request(slug, window, pairs(streams), run_key))
    add_companies(context.instance, {one.tags[COMPANY_TAG] for one in made})
    return made, left


def _due(
    settings: Settings, companies: Companies, slug: str, ones: Iterable[Waiting], today: date
) -> dict[date, set[str]]:
    """The streams to fetch by day; what cannot be fetched today waits. Raises UsageError, SettingsError."""
    company = companies.get(slug)
    refuse_shredded(settings, company)
    streams, wrong = usable(settings, companies, company)
    due: dict[date, set[str]] = defaultdict(set)
    for one in ones:
        if one.stream in streams and settings.start_date <= one.day <= today:
            due[one.day].add(one.stream)
    if not due:
        raise UsageError("; ".join(wrong) or "its systems lack credentials, or the day has not begun", company=slug)
    return due


def _has_run(instance: dg.DagsterInstance, run_key: str) -> bool:
    """Whether a run was made and handed over; one that was only made is handed over when it is asked for again."""
    runs = instance.get_runs(dg.RunsFilter(tags={RUN_KEY_TAG: run_key, SENSOR_NAME_TAG: NAME}))
    return any(run.status is not dg.DagsterRunStatus.NOT_STARTED for run in runs)


def _busy(instance: dg.DagsterInstance) -> set[str]:
    """Companies for which a run goes on, or waits, that deliveries asked for: what comes meanwhile has the next one."""
    statuses = [status for status in UNFINISHED if status is not dg.DagsterRunStatus.NOT_STARTED]
    runs = instance.get_runs(dg.RunsFilter(tags={SENSOR_NAME_TAG: NAME}, statuses=statuses))
    return {run.tags[COMPANY_TAG] for run in runs if COMPANY_TAG in run.tags}
