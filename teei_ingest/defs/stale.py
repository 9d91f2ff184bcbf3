"""The sensor that sees what should be there by now and is not: a night that nobody woke for, a run that was lost.

It asks once, then again after growing pauses, and after three tries leaves a stream to people: a thing that is broken
is not mended by running it all day.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import dagster as dg

from teei_ingest.companies import Companies
from teei_ingest.defs.jobs import EVERYTHING
from teei_ingest.defs.partitions import COMPANY_TAG, key, known_companies
from teei_ingest.defs.queue import UNFINISHED
from teei_ingest.defs.resources import SettingsResource, or_reason
from teei_ingest.defs.run_requests import pairs, run_request, usable
from teei_ingest.defs.schedules import NIGHT
from teei_ingest.errors import TeeiError
from teei_ingest.settings import Settings
from teei_ingest.streams import all_streams
from teei_ingest.sync import plan_refetch
from teei_ingest.vault.keys import shredded

PAUSES = (timedelta(0), timedelta(hours=1), timedelta(hours=4))  # before each try
_PATIENCE = timedelta(hours=1)  # that the nightly runs have


class _Tries:
    """When the streams of companies were tried for one day; a cursor of another day has nothing to say."""

    def __init__(self, cursor: str | None, day: date) -> None:
        told = json.loads(cursor or "{}")
        self._day = f"{day}"
        self._tried: dict[str, list[str]] = told["tried"] if told.get("day") == self._day else {}

    def due(self, company: str, streams: Iterable[str], now: datetime) -> list[str]:
        """Which of the streams may be tried now."""
        return [name for name in streams if self._is_due(self._tried.get(f"{company} {name}", []), now)]

    def note(self, company: str, streams: Iterable[str], now: datetime) -> None:
        """They are tried now."""
        for name in streams:
            self._tried.setdefault(f"{company} {name}", []).append(now.isoformat())

    def given_up(self, company: str, streams: Iterable[str]) -> list[str]:
        """Which of the streams were tried as often as they may be."""
        return [name for name in streams if len(self._tried.get(f"{company} {name}", [])) >= len(PAUSES)]

    @property
    def cursor(self) -> str:
        """For the next time."""
        return json.dumps({"day": self._day, "tried": self._tried})

    @staticmethod
    def _is_due(tried: list[str], now: datetime) -> bool:
        if len(tried) >= len(PAUSES):
            return False
        return not tried or datetime.fromisoformat(tried[-1]) + PAUSES[len(tried)] <= now


def day_due(now: datetime, zone: str) -> date:
    """The newest UTC day that the nightly schedule has had the time to fetch."""
    closed = now.astimezone(UTC).date()
    while True:
        closed -= timedelta(1)
        midnight = datetime.combine(closed + timedelta(1), time(0), UTC).astimezone(ZoneInfo(zone))
        night = datetime.combine(midnight.date(), NIGHT, midnight.tzinfo)
        if night < midnight:
            night = datetime.combine(midnight.date() + timedelta(1), NIGHT, midnight.tzinfo)
        if night + _PATIENCE <= now:
            return closed


def _utc_now() -> datetime:
    return datetime.now(UTC)


def stale(settings: Settings, clock: Callable[[], datetime] = _utc_now) -> dg.SensorDefinition:
    """The sensor; where the sandbox is read it is there and stopped."""

    @dg.sensor(
        name="stale",
        job_name=EVERYTHING,
        minimum_interval_seconds=300,
        default_status=dg.DefaultSensorStatus.STOPPED if settings.is_sandbox else dg.DefaultSensorStatus.RUNNING,
        description="Fetches a stream of a company whose newest closed day is missing an hour after the nightly "
        "schedule; again after one hour and after four, then it is left to people.",
    )
    def sensor(context: dg.SensorEvaluationContext, settings: SettingsResource) -> dg.SensorResult | dg.SkipReason:
        companies = or_reason(lambda: settings.companies)
        if isinstance(companies, dg.SkipReason):
            return companies
        return _evaluate(context, settings.settings, companies, clock())

    return sensor


def _evaluate(
    context: dg.SensorEvaluationContext, settings: Settings, companies: Companies, now: datetime
) -> dg.SensorResult:
    day = day_due(now, settings.schedule_timezone)
    tries = _Tries(context.cursor, day)
    busy = _busy(context.instance)
    known = known_companies(context.instance)
    there = {name: _companies_with(context.instance, known, name, day) for name in all_streams()}
    made: list[dg.RunRequest] = []
    left: list[str] = []
    for company in companies:
        slug = company.slug
        if slug not in known or slug in busy or day < settings.start_date:
            continue
        try:
            if shredded(settings, company) is not None:
                continue
            missing = [name for name in usable(settings, companies, company)[0] if slug not in there[name]]
            left += [
                f"{slug}: {name} of {day} was tried {len(PAUSES)} times and is left to people: `teei sync --failed`"
                for name in tries.given_up(slug, missing)
            ]
            due = tries.due(slug, missing, now)
            planned = plan_refetch(settings, companies, slug, f"{day}", due, today=now.date()) if due else []
        except TeeiError as error:
            context.log.warning(f"{slug}: {error}")
            continue
        tries.note(slug, due, now)
        for one in planned:
            run_key = f"{slug} {day} {now:%Y-%m-%dT%H:%M:%S} {one.window.first}"
            made.append(run_request(slug, one.window, pairs(one.streams), run_key))
    for text in left:
        context.log.warning(text)
    reason = "; ".join(left) or f"{day} is there, or on its way"
    return dg.SensorResult(made, None if made else dg.SkipReason(reason), cursor=tries.cursor)


def _busy(instance: dg.DagsterInstance) -> set[str]:
    """Companies that have a run which is queued or goes on."""
    runs = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
    return {run.tags[COMPANY_TAG] for run in runs if COMPANY_TAG in run.tags}


def _companies_with(instance: dg.DagsterInstance, known: Iterable[str], stream: str, day: date) -> set[str]:
    """Which of the known companies have their events of a stream for a day."""
    companies = {key(slug, day): slug for slug in known}
    if not companies:  # asked of no partition, Dagster answers of all
        return set()
    asset = dg.AssetKey(all_streams()[stream].events)
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION
    return {companies[one] for one in instance.get_latest_storage_id_by_partition(asset, kind, set(companies))}
