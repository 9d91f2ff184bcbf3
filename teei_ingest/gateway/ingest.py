"""`POST /v1/ingest/…`: the seed service's routes; each call is a run of Dagster.

Belongs here: routes, and what a reply looks like. Does not belong here: which parameters are right (`orders.py`), how a
run is begun and awaited (`calls.py`).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from teei_ingest.gateway.access import Caller, Ingester, Reader
from teei_ingest.gateway.calls import ALL, Call
from teei_ingest.gateway.orders import UUID_PATTERN, Asked, order
from teei_ingest.gateway.problems import Problem, documented, unavailable
from teei_ingest.gateway.state import Gateway, Shared
from teei_ingest.privacy.audit_log import AuditLog
from teei_ingest.streams import all_streams
from teei_ingest.sync import connector

PREFIX = "/v1/ingest"
_POLL_S = 2

router = APIRouter(prefix=PREFIX, tags=["ingest"])


class Metadata(BaseModel):
    """Records that were read, that are kept or were there already, that broke their contract; when the run ended."""

    totalRecords: int
    recordsProcessed: int
    recordsFailed: int
    lastSyncTimestamp: datetime


class Error(BaseModel):
    """Why a day of a stream failed; a run that broke off has neither."""

    stream: str | None = None
    day: str | None = None
    code: str
    message: str


class Reply(BaseModel):
    """How a connector's run went; `summary` has the kept records by kind."""

    success: bool
    summary: dict[str, int] = Field(examples=[{"volunteers": 42, "donations": 0}])
    metadata: Metadata
    errors: list[Error]


class Outcome(BaseModel):
    """How a connector's part went; `reason` where it is `rejected`, `data` where it was asked."""

    connector: str = Field(examples=["benevity-volunteers"])
    status: Literal["fulfilled", "rejected"]
    reason: str | None = None
    data: Reply | None = None


class Summary(BaseModel):
    """Connectors."""

    total: int
    successful: int
    failed: int


class ReplyOfAll(BaseModel):
    """How the run of all connectors went; `success` is about those that could be asked."""

    success: bool
    summary: Summary
    results: list[Outcome]


class Accepted(BaseModel):
    """A run that goes on, and where to ask how it went."""

    status: Literal["running"]
    runId: str
    statusUrl: str
    accepted: datetime


_Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[!-~]{1,255}$",
        description="The same key with the same request, within a day, is one call.",
    ),
]
_Prefer = Annotated[
    str | None,
    Header(description="`respond-async`: do not wait for the run; `wait=10`: so many seconds (RFC 7240)."),
]
_ACCEPTED: dict[int | str, dict[str, Any]] = {202: {"model": Accepted, "description": "The run goes on"}}


def _endpoint(route: str, names: tuple[str, ...] | None) -> Callable[..., Awaitable[Response]]:
    async def call(
        request: Request,
        caller: Ingester,
        gateway: Shared,
        asked: Annotated[Asked, Query()],
        prefer: _Prefer = None,
        idempotency_key: _Key = None,
    ) -> Response:
        accepted = await run_in_threadpool(_accept, request, caller, gateway, route, names, asked, idempotency_key)
        request.state.run_id = accepted.run_id
        gateway.calls.carry_out(accepted)
        at_once, seconds = _preferred(prefer or "", gateway.settings.gateway_wait_s)
        found = await gateway.calls.ended(accepted.run_id, seconds)
        await run_in_threadpool(caller.check)  # it may have expired meanwhile
        return _answer(found or accepted, {"Preference-Applied": "respond-async"} if at_once else {})

    return call


def _accept(
    request: Request,
    caller: Caller,
    gateway: Gateway,
    route: str,
    names: tuple[str, ...] | None,
    asked: Asked,
    key: str | None,
) -> Call:
    from teei_ingest.defs import history

    companies = gateway.registry.companies()
    company = caller.company(companies, asked.company_id)
    request.state.company = company.slug
    wanted = order(gateway.settings, companies, company, route, asked, names, history.newest_days)
    gateway.check_dagster()
    AuditLog(gateway.settings).append(
        "gateway.ingest",
        company=company.slug,
        details={"token": caller.token.id, "route": route, "from": f"{wanted.first}", "to": f"{wanted.last}"},
    )
    return gateway.calls.accept(wanted, caller.token.id, key)


def _preferred(prefer: str, most: float) -> tuple[bool, float]:
    """Whether the caller would rather not wait, and how many seconds it is let wait."""
    wait = re.search(r"(?:^|[,;\s])wait\s*=\s*(\d{1,6})(?:$|[,;\s])", prefer)
    at_once = re.search(r"(?:^|[,;\s])respond-async(?:$|[,;\s])", prefer) is not None
    if wait:
        return at_once, min(float(wait[1]), most)
    return at_once, 0.0 if at_once else most


def _answer(call: Call, headers: dict[str, str]) -> Response:
    url = f"{PREFIX}/runs/{call.run_id}"
    headers = {**headers, "X-Run-Id": call.run_id}
    if call.ended is None:
        accepted = f"{datetime.fromtimestamp(call.accepted, UTC):%Y-%m-%dT%H:%M:%SZ}"
        content = {"status": "running", "runId": call.run_id, "statusUrl": url, "accepted": accepted}
        return JSONResponse(content, 202, headers={**headers, "Location": url, "Retry-After": f"{_POLL_S}"})
    if call.status != 200:
        raise unavailable("the run could not be begun: the gateway's log says why")
    return Response(call.reply, media_type="application/json", headers=headers)


@router.get(
    "/runs/{run_id}",
    summary="How a call went",
    response_model=Reply | ReplyOfAll,
    responses=_ACCEPTED | documented(401, 403, 404, 422, 429, 503),
)
def run(
    request: Request,
    caller: Reader,
    gateway: Shared,
    run_id: Annotated[str, Path(pattern=UUID_PATTERN, json_schema_extra={"format": "uuid"})],
) -> Response:
    """What the call would have been answered, had it waited. Kept for 30 days."""
    call = gateway.calls.find(run_id.lower())
    if call is None or not caller.token.covers(call.company):
        raise Problem(404, "there is no such run for this token")
    request.state.company = call.company
    return _answer(call, {})


def _routes() -> dict[str, tuple[str, ...]]:
    """Paths below the prefix, each with its streams: one each, but for Buddy, which the seed service has as a whole."""
    found: dict[str, tuple[str, ...]] = {}
    for name, stream in all_streams().items():
        path = "buddy/data" if connector(name) == "buddy-data" else f"{stream.system}/{_kind(name, stream.system)}"
        found[path] = (*found.get(path, ()), name)
    return found


def _kind(name: str, system: str) -> str:
    return name.removeprefix(f"{system}_")


_SHARED: dict[str, Any] = {"methods": ["POST"]}
_ERRORS = documented(401, 403, 404, 409, 413, 422, 429, 503)
for _path, _names in _routes().items():
    router.add_api_route(
        f"/{_path}",
        _endpoint(f"{PREFIX}/{_path}", _names),
        summary=f"Ingest {', '.join(all_streams()[name].title for name in _names)}",
        operation_id=f"ingest_{_path.replace('/', '_')}",
        response_model=Reply,
        responses=_ACCEPTED | _ERRORS,
        **_SHARED,
    )
router.add_api_route(
    ALL.removeprefix(PREFIX),
    _endpoint(ALL, None),
    summary="Ingest all that the company's systems have",
    operation_id="ingest_all",
    response_model=ReplyOfAll,
    responses=_ACCEPTED | _ERRORS,
    **_SHARED,
)
