"""Schedules: what is fetched without anybody asking.

Belongs here: when, and which days. Does not belong here: how days and streams are chosen (`sync.py`), how many runs go
on at once (`dagster.yaml`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, time

import dagster as dg

from teei_ingest.companies import Companies, Company
from teei_ingest.defs.jobs import EVERYTHING
from teei_ingest.defs.partitions import add_companies
from teei_ingest.defs.resources import SettingsResource, or_reason
from teei_ingest.defs.run_requests import pairs, run_request, usable
from teei_ingest.errors import TeeiError
from teei_ingest.settings import Settings
from teei_ingest.sync import Request, plan_refetch, plan_request
from teei_ingest.vault.keys import shredded

NIGHT = time(2)

Plan = Callable[[Settings, Companies, str, date, Sequence[str]], Sequence[Request]]


def schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """The schedules; where the sandbox is read they are there and stopped."""
    nightly = dg.DefaultScheduleStatus.STOPPED if settings.is_sandbox else dg.DefaultScheduleStatus.RUNNING
    return [
        _schedule(
            "nightly",
            f"{NIGHT.minute} {NIGHT.hour} * * *",
            settings,
            nightly,
            _refetch,
            "Fetches the last closed UTC day of each company, and as many days before it as TEEI_LOOK_BACK_DAYS says.",
        ),
        _schedule(
            "hourly_open_day",
            "10 * * * *",
            settings,
            dg.DefaultScheduleStatus.STOPPED,
            _open_day,
            "Fetches the UTC day that is still open, where nobody can wait for the night; stopped until it is wanted.",
        ),
    ]


def _refetch(
    settings: Settings, companies: Companies, slug: str, today: date, streams: Sequence[str]
) -> Sequence[Request]:
    return plan_refetch(settings, companies, slug, names=streams, today=today)


def _open_day(
    settings: Settings, companies: Companies, slug: str, today: date, streams: Sequence[str]
) -> Sequence[Request]:
    return [plan_request(settings, companies, slug, f"{today}", f"{today}", streams, today=today)]


def _schedule(
    name: str, cron: str, settings: Settings, begun: dg.DefaultScheduleStatus, plan: Plan, description: str
) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=name,
        cron_schedule=cron,
        execution_timezone=settings.schedule_timezone,
        job_name=EVERYTHING,
        default_status=begun,
        description=description,
    )
    def tick(
        context: dg.ScheduleEvaluationContext, settings: SettingsResource
    ) -> Sequence[dg.RunRequest] | dg.SkipReason:
        now = context.scheduled_execution_time.astimezone(UTC)
        companies = or_reason(lambda: settings.companies)
        if isinstance(companies, dg.SkipReason):
            raise dg.Failure(companies.skip_message)
        made: list[dg.RunRequest] = []
        wanted: set[str] = set()
        for company in _in_turn(companies, now.date()):
            try:
                streams, wrong = usable(settings.settings, companies, company)
                for problem in wrong:
                    context.log.warning(problem)
                if not streams or shredded(settings.settings, company) is not None:
                    continue
                planned = plan(settings.settings, companies, company.slug, now.date(), streams)
            except TeeiError as error:  # that of one company keeps nobody else waiting
                context.log.warning(f"{company.slug}: {error}")
                continue
            wanted.add(company.slug)
            for one in planned:
                run_key = f"{name} {now:%Y-%m-%dT%H:%M} {company.slug} {one.window.first}"
                made.append(run_request(company.slug, one.window, pairs(one.streams), run_key))
        if not made:
            return dg.SkipReason("no company has credentials for any system: `teei doctor` says what is missing")
        # A run needs its partitions: the sensor that adds them may not have ticked yet, or be stopped.
        add_companies(context.instance, [slug for slug in companies.slugs if slug in wanted])
        return made

    return tick


def _in_turn(companies: Companies, day: date) -> list[Company]:
    """All companies, another one first each day: who is last in the queue is so one day of many."""
    found = list(companies)
    first = day.toordinal() % len(found) if found else 0
    return found[first:] + found[:first]
