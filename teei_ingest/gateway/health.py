"""`GET /integrations/health`: how each system is, and what Dagster recorded of its ingests.

Belongs here: what healthy means, and the seed service's reply. Probes and figures are kept for a minute, so that asking
costs the systems nothing. A token sees the companies that it is good for, and no other's figures. Does not belong here:
the probe (`teei_ingest/health.py`), Dagster (`defs/history.py`).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Generic, Literal, TypeVar

from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel, Field

from teei_ingest.gateway.access import Reader
from teei_ingest.gateway.problems import Problem, documented
from teei_ingest.gateway.state import Registry
from teei_ingest.gateway.tokens import Token
from teei_ingest.health import UNCONFIGURED, UNHEALTHY, Pulse, pulses
from teei_ingest.settings import Settings
from teei_ingest.streams import all_streams
from teei_ingest.systems import all_systems

if TYPE_CHECKING:
    from teei_ingest.defs.history import Ingest

Status = Literal["healthy", "degraded", "unhealthy", "unconfigured"]
KEPT_S = 60.0
SPAN = timedelta(days=7)  # over which ingests are counted
ENOUGH = 0.9  # of them have to succeed
_OVERLAP = timedelta(minutes=5)  # of what is read again, since a run is recorded a little after it ended
_WORST_FIRST: tuple[Status, ...] = ("unhealthy", "degraded", "healthy", "unconfigured")

T = TypeVar("T")
router = APIRouter(prefix="/integrations", tags=["health"])


class Metrics(BaseModel):
    """Streams of companies in runs of the last seven days: how many, the share that succeeded (0 without any), and the
    mean time since the newest success of each, in seconds."""

    totalIngests: int
    successRate: float = Field(ge=0, le=1)
    avgLag: float


class Connector(BaseModel):
    """One system; `responseTime` in ms, null where none of it answers."""

    name: str = Field(examples=["benevity"])
    type: str = Field(examples=["external", "internal"])
    status: Status
    responseTime: int | None
    lastCheck: datetime
    metrics: Metrics


class Summary(BaseModel):
    """`totalConnectors` counts unconfigured ones, too."""

    totalConnectors: int
    healthy: int
    degraded: int
    unhealthy: int
    overallStatus: Status


class Health(BaseModel):
    """All systems."""

    status: Status
    summary: Summary
    connectors: list[Connector]
    timestamp: datetime


class Kept(Generic[T]):
    """What is found out at most once in `seconds`, by one caller; the others get what was known before."""

    def __init__(self, find: Callable[[], T], seconds: float = KEPT_S) -> None:
        self._find = find
        self._seconds = seconds
        self._lock = threading.Lock()
        self._found: tuple[float, T] | None = None

    def get(self) -> tuple[float, T]:
        """When it was found out, in seconds since 1970, and what."""
        known = self._found
        if known is not None and time.time() - known[0] <= self._seconds:
            return known
        if not self._lock.acquire(blocking=known is None):
            assert known is not None
            return known
        try:
            if self._found is known:
                self._found = time.time(), self._find()
            assert self._found is not None
            return self._found
        finally:
            self._lock.release()


class Ingests:
    """Those that Dagster recorded, remembered, so that only new ones are read."""

    def __init__(self, days: float) -> None:
        self._days = days
        self._known: dict[tuple[str, str], Ingest] = {}
        self._read: datetime | None = None

    def all(self) -> list[Ingest]:
        """Of as many days, in no order."""
        from teei_ingest.defs import history

        now = datetime.now(UTC)
        oldest = now - timedelta(self._days)
        for one in history.ingests(max(self._read - _OVERLAP, oldest) if self._read else oldest):
            self._known[one.run_id, one.stream] = one
        self._read = now
        self._known = {key: one for key, one in self._known.items() if one.ended > oldest}
        return list(self._known.values())


class Healths:
    """What is known of all companies."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings = settings
        self._registry = registry
        self._ingests = Kept(Ingests(settings.run_log_ttl_d).all)
        self._pulses = Kept(self._ask)

    def seen_by(self, token: Token) -> list[Connector]:
        """Every system, as far as a token's companies go."""
        at, found = self._pulses.get()
        _, ingests = self._ingests.get()
        slugs = {company.slug for company in self._registry.companies() if token.covers(company.slug)}
        asked, now = datetime.fromtimestamp(int(at), UTC), datetime.now(UTC)
        made = []
        for system in all_systems().values():
            streams = {stream.name for stream in all_streams().values() if stream.system == system.name}
            metrics = _metrics([one for one in ingests if one.company in slugs and one.stream in streams], now)
            mine = [one for one in found if one.system == system.name and one.company in slugs]
            times = [one.response_ms for one in mine if one.response_ms is not None]
            made.append(
                Connector(
                    name=system.name,
                    type=system.kind,
                    status=_status(mine, metrics),
                    responseTime=max(round(sum(times) / len(times)), 1) if times else None,
                    lastCheck=asked,
                    metrics=metrics,
                )
            )
        return made

    def _ask(self) -> list[Pulse]:
        companies = self._registry.companies()
        return pulses(self._settings, companies, list(companies))


def _metrics(ingests: Collection[Ingest], now: datetime) -> Metrics:
    lately = [one for one in ingests if one.ended > now - SPAN]
    newest: dict[tuple[str, str], datetime] = {}
    for one in ingests:
        if one.succeeded:
            key = one.company, one.stream
            newest[key] = max(newest.get(key, one.ended), one.ended)
    lags = [max((now - ended).total_seconds(), 0.0) for ended in newest.values()]
    return Metrics(
        totalIngests=len(lately),
        successRate=round(sum(one.succeeded for one in lately) / len(lately), 4) if lately else 0,
        avgLag=round(sum(lags) / len(lags), 1) if lags else 0,
    )


def _status(found: Collection[Pulse], metrics: Metrics) -> Status:
    """Unhealthy: no company's account is answered; degraded: some are not, or too many ingests failed."""
    statuses = {one.status for one in found} - {UNCONFIGURED}
    if not statuses:
        return "unconfigured"
    if statuses == {UNHEALTHY}:
        return "unhealthy"
    if UNHEALTHY in statuses or (metrics.totalIngests and metrics.successRate < ENOUGH):
        return "degraded"
    return "healthy"


def _overall(connectors: Collection[Connector]) -> Status:
    """As the one that is worst off."""
    statuses = {one.status for one in connectors}
    return next((status for status in _WORST_FIRST if status in statuses), "healthy")


def _of_request(request: Request) -> Healths:
    found: Healths = request.app.state.healths
    return found


_Healths = Annotated[Healths, Depends(_of_request)]


@router.get("/health", summary="How all systems are", responses=documented(401, 403, 429, 503))
def health(caller: Reader, healths: _Healths) -> Health:
    """Probes are at most a minute old. The figures are those of the token's companies."""
    connectors = healths.seen_by(caller.token)
    counts = Counter(one.status for one in connectors)
    overall = _overall(connectors)
    return Health(
        status=overall,
        summary=Summary(
            totalConnectors=len(connectors),
            healthy=counts["healthy"],
            degraded=counts["degraded"],
            unhealthy=counts["unhealthy"],
            overallStatus=overall,
        ),
        connectors=connectors,
        timestamp=datetime.now(UTC).replace(microsecond=0),
    )


@router.get("/health/{connector}", summary="How one system is", responses=documented(401, 403, 404, 422, 429, 503))
def health_of(
    caller: Reader, healths: _Healths, connector: Annotated[str, Path(examples=["benevity"], max_length=40)]
) -> Connector:
    """The same as in the list of all."""
    for one in healths.seen_by(caller.token):
        if one.name == connector:
            return one
    raise Problem(404, f"there is no such connector; known are: {', '.join(all_systems())}")
