"""What a call asks for: a company, days, streams; from the seed service's parameters.

Belongs here: reading and checking parameters, without any request to a system. Does not belong here: carrying it out
(`calls.py`), routes (`ingest.py`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from teei_ingest.companies import Companies, Company
from teei_ingest.contracts.fields import EPOCH, INSTANT, instant_ns
from teei_ingest.gateway.problems import Problem, refused
from teei_ingest.pipeline.days import Window
from teei_ingest.settings import Settings
from teei_ingest.streams import all_streams
from teei_ingest.sync import Request, connectors
from teei_ingest.vault.credentials import status
from teei_ingest.vault.keys import shredded

UUID_PATTERN = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
_AHEAD = timedelta(minutes=5)  # that a caller's clock may be

Newest = Callable[[str, Collection[str], Collection[date]], dict[str, date]]


class Asked(BaseModel):
    """The seed service's parameters, and `until`."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    company_id: Annotated[str, Field(pattern=UUID_PATTERN, json_schema_extra={"format": "uuid"})] = Field(
        description="The company, as the companies file has it.", examples=["550e8400-e29b-41d4-a716-446655440000"]
    )
    since: str | None = Field(
        default=None,
        max_length=64,
        description="RFC 3339 with an offset, or a day; its UTC day is the first one. Without it: the newest day that "
        "is there, else the first of all.",
        examples=["2024-01-01T00:00:00Z"],
        json_schema_extra={"format": "date-time"},
    )
    until: str | None = Field(
        default=None,
        max_length=64,
        description="Likewise, exclusive: midnight means the day before. Without it: today.",
        examples=["2024-01-08T00:00:00Z"],
        json_schema_extra={"format": "date-time"},
    )
    limit: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Records a page, cut to what the system allows; never a bound on the records.",
        examples=[100],
    )


class Order(BaseModel):
    """What is to be carried out; `left_out` are connectors that cannot be asked, and why."""

    model_config = ConfigDict(frozen=True)

    route: str
    company: str
    company_id: UUID
    streams: tuple[str, ...]
    first: date
    last: date
    page_size: int | None = None
    left_out: dict[str, str] = {}

    @property
    def same(self) -> str:
        """Equal for orders that would do the same."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def request(self) -> Request:
        """What Dagster is asked for, though the company may have left the registry meanwhile."""
        company = Company(self.company_id, self.company, self.company)
        return Request(company, Window(self.first, self.last), self.streams)


def order(
    settings: Settings,
    companies: Companies,
    company: Company,
    route: str,
    asked: Asked,
    names: Sequence[str] | None,
    newest: Newest,
) -> Order:
    """What a call to a route asks for; without `names`: all that the company's systems have.

    `newest` tells the last day of each stream that is there. Raises Problem.
    """
    now = datetime.now(UTC)
    first, last = _days(settings, asked, now)
    streams, left_out = _streams(settings, companies, company, names)
    if first is None:
        days = Window(settings.start_date, last).days
        found = newest(company.slug, streams, days)
        first = min((found.get(name, settings.start_date) for name in streams), default=last)
    return Order(
        route=route,
        company=company.slug,
        company_id=company.id,
        streams=streams,
        first=first,
        last=last,
        page_size=asked.limit,
        left_out=left_out,
    )


def _days(settings: Settings, asked: Asked, now: datetime) -> tuple[date | None, date]:
    since = _moment("since", asked.since) if asked.since is not None else None
    until = _moment("until", asked.until) if asked.until is not None else now
    last = (until - timedelta(microseconds=asked.until is not None)).date()
    first = since.date() if since else None
    if since and since > now + _AHEAD:
        raise refused(("since", "lies in the future"))
    if first and first < settings.start_date:
        raise refused(("since", f"is before the first day, {settings.start_date}"))
    if last > now.date():
        raise refused(("until", "lies in the future"))
    if last < (first or settings.start_date):
        raise refused(("until", "has to be later than `since`" if first else "is before the first day"))
    return first, last


def _moment(name: str, text: str) -> datetime:
    """A `+` that was not encoded arrives as a space: the seed service's cron job sends it so."""
    text = re.sub(r" (\d\d:\d\d)$", r"+\1", text)
    found = INSTANT.fullmatch(text)
    if found and (found["zone"] or not found["time"]):
        try:
            return EPOCH + timedelta(microseconds=instant_ns(text) // 1000)
        except ValueError:
            pass
    raise refused((name, "has to be RFC 3339 with an offset, such as 2024-01-01T00:00:00Z, or a day"))


def _streams(
    settings: Settings, companies: Companies, company: Company, names: Sequence[str] | None
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The streams to ask for, and the connectors that are left out with the reason. Raises Problem."""
    if shredded(settings, company) is not None:
        raise Problem(409, "this company was shredded")
    declared = all_streams()
    wanted = list(declared) if names is None else names
    reasons: dict[str, str] = {}
    for system in {declared[name].system: None for name in wanted}:
        found = status(settings, companies, company, system)
        if found.state == "unconfigured":
            reasons[system] = f"{system} is not configured for this company"
        elif found.state == "incomplete":
            reasons[system] = f"the credentials of {system} cannot be used: `teei doctor` says why"
    streams = tuple(name for name in declared if name in wanted and declared[name].system not in reasons)
    if not streams or (names is not None and reasons):
        raise Problem(409, "; ".join(reasons.values()))
    left_out = {
        connector: reasons[declared[of_it[0]].system]
        for connector, of_it in connectors().items()
        if names is None and declared[of_it[0]].system in reasons
    }
    return streams, left_out
