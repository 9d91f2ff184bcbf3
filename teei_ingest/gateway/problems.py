"""Errors as problem documents (RFC 9457).

Belongs here: how an error looks. Nothing that a caller sent is ever in it, since it may be personal. Does not belong
here: what is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from teei_ingest.errors import SettingsError, StoreError, TeeiError

MEDIA_TYPE = "application/problem+json"
_log = logging.getLogger("teei_ingest.gateway")
RETRY_S = 10  # after which a caller may ask again, where nothing better is known
_RESPONSES: dict[int, str] = {
    401: "No token, or one that is good for nothing (any more)",
    403: "The token lacks the scope",
    404: "There is no such thing, or not for this token",
    409: "The company cannot be ingested as it is set up",
    413: "The body is larger than 64 KiB",
    422: "A parameter or header cannot be used",
    429: "More calls a minute than a token may make",
    503: "Dagster cannot be reached, or too much waits; nothing was begun",
}


class ParameterProblem(BaseModel):
    """What is wrong with a parameter."""

    parameter: str
    problem: str


class ProblemDocument(BaseModel):
    """RFC 9457: `title` goes with the status, `detail` says what to do."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Unprocessable Entity"])
    status: int = Field(ge=400, le=599)
    detail: str
    errors: list[ParameterProblem] | None = None


class Problem(Exception):
    """Ends a request with this status."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.status = status
        self.detail = detail
        self.headers = headers
        self.errors = errors
        super().__init__(detail)

    def response(self) -> JSONResponse:
        """The document."""
        content: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            content["errors"] = [{"parameter": name, "problem": problem} for name, problem in self.errors]
        return JSONResponse(content, self.status, self.headers, MEDIA_TYPE)


def refused(*errors: tuple[str, str]) -> Problem:
    """For parameters, each with what it has to be."""
    return Problem(422, "; ".join(f"{name} {problem}" for name, problem in errors), errors=errors)


def unavailable(detail: str) -> Problem:
    """For what may work later."""
    return Problem(503, detail, headers={"Retry-After": f"{RETRY_S}"})


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These errors, for the OpenAPI document."""
    reference = {"schema": {"$ref": f"#/components/schemas/{ProblemDocument.__name__}"}}
    return {status: {"description": _RESPONSES[status], "content": {MEDIA_TYPE: reference}} for status in statuses}


def add_handlers(app: FastAPI) -> None:
    """All errors that routes and dependencies raise end as problem documents."""

    @app.exception_handler(Problem)
    async def ours(request: Request, error: Problem) -> JSONResponse:
        return error.response()

    @app.exception_handler(HTTPException)
    async def of_the_framework(request: Request, error: HTTPException) -> JSONResponse:
        return Problem(error.status_code, _DETAILS.get(error.status_code, ""), headers=error.headers).response()

    @app.exception_handler(RequestValidationError)
    async def of_parameters(request: Request, error: RequestValidationError) -> JSONResponse:
        return refused(*dict(map(_parameter, error.errors())).items()).response()

    @app.exception_handler(TeeiError)
    async def of_the_package(request: Request, error: TeeiError) -> JSONResponse:
        return of_error(error).response()


def of_error(error: TeeiError) -> Problem:
    """What an error of ours means to a caller, who is told nothing of this machine's files; the log is."""
    _log.warning("request failed", extra={"problem": str(error)})
    if isinstance(error, SettingsError | StoreError):
        return unavailable("Dagster or the companies file cannot be used just now: the gateway's log says why")
    return Problem(500, f"this failed ({error.code}): the gateway's log says why")


_DETAILS = {
    404: "there is no such path: `/` lists all",
    405: "this path has other methods: `/` lists all",
}


def _parameter(error: Mapping[str, Any]) -> tuple[str, str]:
    """The name and the problem; neither what was sent, nor the name of what is not known."""
    if error["type"] == "extra_forbidden":
        return "query", "has a parameter that there is not: `/openapi.json` lists all"
    name = str(error["loc"][-1]) if error["loc"] else "body"
    text = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "missing":
        text = "is missing"
    elif error["type"] == "string_pattern_mismatch":
        text = _PATTERNS.get(name, "is malformed")
    return name, f"{text[0].lower()}{text[1:]}"


_PATTERNS = {"company_id": "has to be a UUID", "Idempotency-Key": "has to be 1 to 255 visible ASCII characters"}
