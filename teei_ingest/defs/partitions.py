"""Partitions: company × UTC day, and what a run's tags say of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime

import dagster as dg

from teei_ingest.settings import Settings

COMPANIES = dg.DynamicPartitionsDefinition(name="company")
RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
PARTITION = "dagster/partition"
COMPANY_TAG = "teei/company"
CORRELATION_TAG = "teei/correlation"  # of runs that were asked for over HTTP: what the request's log lines share
PAGE_SIZE_TAG = "teei/page_size"  # of runs that ask for smaller pages than the systems allow
TOKEN_TAG = "teei/token"  # of runs that were asked for over HTTP: the token's id
TYPED_TAG = "teei/typed"  # of runs that a person typed: when, in seconds since 1970


def partitions(settings: Settings) -> dg.MultiPartitionsDefinition:
    """Keys `company|day` from the first day up to and including the open one."""
    days = dg.DailyPartitionsDefinition(start_date=settings.start_date.isoformat(), end_offset=1)
    return dg.MultiPartitionsDefinition({"company": COMPANIES, "day": days})


def known_companies(instance: dg.DagsterInstance) -> list[str]:
    """Slugs that are partitions already."""
    return list(instance.get_dynamic_partitions(COMPANIES.name or ""))


def add_companies(instance: dg.DagsterInstance, slugs: Iterable[str]) -> list[str]:
    """Make partitions of the slugs that are none yet; those that were added."""
    known = known_companies(instance)
    new = [slug for slug in slugs if slug not in known]
    if new:
        instance.add_dynamic_partitions(COMPANIES.name or "", new)
    return new


def are_in(tags: Mapping[str, str]) -> bool:
    """Whether a run with these tags is one over partitions."""
    return PARTITION in tags or RANGE_START in tags


def key(company: str, day: date) -> str:
    """The partition key of a company's day."""
    return f"{company}|{day.isoformat()}"


def split(partition_key: str) -> tuple[str, date]:
    """(company, day) of a partition key."""
    company, day = partition_key.split("|")
    return company, date.fromisoformat(day)


def by_company(keys: Iterable[str]) -> dict[str, list[date]]:
    """The days of each company, both in the order of the keys."""
    found: dict[str, list[date]] = {}
    for partition_key in keys:
        company, day = split(partition_key)
        found.setdefault(company, []).append(day)
    return found


def open_day() -> date:
    """The last day that there is: today, in UTC."""
    return datetime.now(UTC).date()


def requested(tags: Mapping[str, str]) -> tuple[str, date, date] | None:
    """(company, first day, last day) of a run over one company's contiguous days; None for any other run."""
    ends = tags.get(RANGE_START), tags.get(RANGE_END)
    if not all(ends):
        ends = (tags.get(PARTITION),) * 2
    if not all(ends):
        return None
    (company, first), (other, last) = (split(str(end)) for end in ends)
    return (company, first, last) if company == other and first <= last <= open_day() else None


def typed_at(tags: Mapping[str, str]) -> float | None:
    """When the command was typed that wants a run, in seconds since 1970; None for any other run."""
    try:
        return float(tags[TYPED_TAG])
    except (KeyError, ValueError):
        return None


def page_size(tags: Mapping[str, str]) -> int | None:
    """How many records a page a run asks for at most; None if it does not say."""
    told = tags.get(PAGE_SIZE_TAG, "")
    return int(told) if told.isdecimal() and int(told) else None
