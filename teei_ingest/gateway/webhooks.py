"""`POST /v1/webhooks/…`: what Benevity, Goodera and Workday tell us unasked.

Belongs here: HTTP. Does not belong here: what is believed (`webhooks/receive.py`), how it is kept
(`webhooks/deliveries.py`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from teei_ingest.errors import TeeiError
from teei_ingest.gateway.problems import Problem, documented, refused, unavailable
from teei_ingest.gateway.state import Gateway
from teei_ingest.settings import Settings
from teei_ingest.systems import all_systems
from teei_ingest.vault.keys import shredded
from teei_ingest.webhooks.deliveries import Deliveries, Delivery, Writer
from teei_ingest.webhooks.receive import CHANGED, NotGenuine, NotUnderstood, Receiver
from teei_ingest.webhooks.signatures import HEADERS

_Judge = Callable[..., Awaitable[Delivery | None]]

_AT_ONCE = 8
_log = logging.getLogger("teei_ingest.gateway")


class Accepted(BaseModel):
    """The delivery is on disk, now or since it came before, or concerns no day of ours."""

    status: str = "accepted"


def routes(gateway: Gateway) -> APIRouter:
    """One for each system that sends webhooks; the signature is the sender's credential, and there is no token."""
    settings = gateway.settings
    judge = _judging(settings, Receiver(settings, gateway.registry.companies))

    def is_shredded(slug: str) -> bool:
        companies = gateway.registry.companies()
        return slug in companies and shredded(settings, companies.get(slug)) is not None

    writer = Writer(Deliveries(settings), is_shredded)
    router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])
    for system in HEADERS:
        _add(router, system, judge, writer)
    return router


def _judging(settings: Settings, receiver: Receiver) -> _Judge:
    """What `receiver` finds; in threads of their own where a secrets manager may keep it waiting."""
    threads = ThreadPoolExecutor(_AT_ONCE, "webhooks") if settings.secrets != "env" else None

    async def judge(*said: Any) -> Delivery | None:
        if threads is None:
            return receiver.delivery(*said)
        return await asyncio.get_running_loop().run_in_executor(threads, receiver.delivery, *said)

    return judge


def _add(router: APIRouter, system: str, judge: _Judge, writer: Writer) -> None:
    @router.post(
        f"/{system}",
        status_code=202,
        summary=f"{all_systems()[system].title} says that data of a company has changed",
        operation_id=f"webhook_{system}",
        responses={at: one | {"description": _ANSWERS[int(at)]} for at, one in documented(*_ANSWERS).items()},
        openapi_extra={"parameters": list(map(_header, HEADERS[system])), "requestBody": _BODY},
    )
    async def deliver(request: Request) -> Accepted:
        try:
            delivery = await judge(system, request.headers, await request.body(), time.time())
            if delivery is not None:
                request.state.company = delivery.company
                await asyncio.wrap_future(writer.put(delivery))
            return Accepted()
        except NotGenuine as error:
            _log.warning("webhook refused", extra={"system": system, "problem": str(error)})
            problem = Problem(401, "this is not accepted", headers={"WWW-Authenticate": "Signature"})
        except NotUnderstood as error:
            problem = refused((error.field, str(error)))
        except TeeiError as error:
            _log.error("webhook not kept", extra={"system": system, "problem": str(error)})
            problem = unavailable("this could not be kept: send it again")
        raise problem


def _header(name: str) -> dict[str, Any]:
    return {"in": "header", "name": name, "required": True, "schema": {"type": "string"}}


_ANSWERS = {
    401: "It is not known to be genuine",
    413: "The body is larger than 64 KiB",
    422: "It is genuine, and a field cannot be used",
    503: "It could not be kept",
}
_SCHEMA = {
    "type": "object",
    "required": ["event", "id", "tenant", "stream", "updatedAt"],
    "properties": {
        "event": {"type": "string", "description": f"`{CHANGED}`; anything else is accepted and does nothing"},
        "id": {"type": "string", "description": "the delivery's; one that comes again does nothing"},
        "tenant": {"type": "string", "description": "the company's tenant or project id"},
        "stream": {"type": "string", "description": "volunteers, donations or directory"},
        "updatedAt": {"type": "string", "format": "date-time"},
    },
}
_EXAMPLE = {
    "event": CHANGED,
    "id": "6b7f0f2c-4a51-4c55-9d3c-2f3c9f0f1d77",
    "tenant": "acme-tenant",
    "stream": "donations",
    "updatedAt": "2024-01-15T08:30:00Z",
}
_BODY = {"required": True, "content": {"application/json": {"schema": _SCHEMA, "example": _EXAMPLE}}}
