"""The app: its routes put together, and what tells how it is.

Belongs here: what is included, `/`, `/healthz`, `/readyz`. Does not belong here: sockets (`server.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI, Request

from teei_ingest.gateway import health, ingest, metrics, webhooks
from teei_ingest.gateway.guard import Guard
from teei_ingest.gateway.problems import ProblemDocument, add_handlers, documented
from teei_ingest.gateway.state import Gateway, Shared
from teei_ingest.settings import Settings

_MARGIN_S = 30.0  # beyond what a call waits for its run
_DESCRIPTION = "Starts and watches the ingest of corporate-social-responsibility data, a run of Dagster for each call."

router = APIRouter(tags=["service"])


@router.get("/", summary="What there is")
async def discovery(request: Request) -> dict[str, Any]:
    """Name, version, where the documentation is, and all routes."""
    return {
        "service": "teei-ingest",
        "version": version("teei-ingest"),
        "docs": {"openapi": "/openapi.json", "guide": "docs/gateway.md"},
        "routes": [
            {"method": method.upper(), "path": path, "summary": operation["summary"]}
            for path, methods in request.app.openapi()["paths"].items()
            for method, operation in methods.items()
        ],
    }


@router.get("/healthz", summary="Does the process answer?")
async def healthz() -> dict[str, str]:
    """For a supervisor that restarts what does not answer."""
    return {"status": "ok"}


@router.get("/readyz", summary="Can it do its work?", responses=documented(503))
def readyz(gateway: Shared) -> dict[str, str]:
    """For a load balancer: whether the companies file can be read and Dagster can be reached."""
    gateway.registry.companies()
    gateway.check_dagster()
    return {"status": "ready"}


def create_app(settings: Settings) -> FastAPI:
    """The app of a home; it begins with its lifespan and leaves runs that go on alone at its end."""
    gateway = Gateway(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with gateway.running():
            await asyncio.to_thread(app.openapi)  # which takes a second
            yield

    app = FastAPI(
        title="teei-ingest",
        version=version("teei-ingest"),
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.gateway = gateway
    app.state.healths = health.Healths(settings, gateway.registry)
    add_handlers(app)
    app.include_router(router)
    app.include_router(ingest.router)
    app.include_router(health.router)
    app.include_router(webhooks.routes(gateway))
    figures, requests = metrics.routes(gateway)
    app.include_router(figures)
    app.add_middleware(Guard, patience_s=settings.gateway_wait_s + _MARGIN_S, requests=requests)
    _add_schema(app)
    return app


def _add_schema(app: FastAPI) -> None:
    """The OpenAPI document with the schema of problems in it, which routes name and do not return."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            found = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= found.pop("$defs", {}) | {ProblemDocument.__name__: found}
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]
