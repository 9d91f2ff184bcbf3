"""Who may do what: a bearer token (RFC 6750), its scope, the companies that it is good for.

Does not belong here: what a token is (`tokens.py`).
"""

from __future__ import annotations

import math
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from teei_ingest.companies import Companies, Company
from teei_ingest.errors import UsageError
from teei_ingest.gateway.problems import Problem
from teei_ingest.gateway.state import Gateway, Shared
from teei_ingest.gateway.tokens import Scope, Token

_BEARER = HTTPBearer(auto_error=False, scheme_name="token", description="Made by `teei token create`.")
_Shown = Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]


class Caller:
    """Whoever shows a token: what it is good for, now and later."""

    def __init__(self, gateway: Gateway, shown: str, scope: Scope) -> None:
        self._gateway = gateway
        self._shown = shown
        self._scope = scope
        self.token = self.check()

    def check(self) -> Token:
        """The token as it is now. Raises Problem: 401, the same for whatever is wrong with it, or 403."""
        token = self._gateway.tokens.find(self._shown)
        if token is None:
            raise unauthorized()
        if not token.allows(self._scope):
            raise Problem(403, f"the token is good for `{token.scope}` alone, and this needs `{self._scope}`")
        return token

    def company(self, companies: Companies, company_id: str) -> Company:
        """Raises Problem, the same whether there is no such company or the token is not good for it."""
        try:
            found = companies.by_id(company_id)
        except UsageError:
            found = None
        if found is None or not self.token.covers(found.slug):
            raise not_found()
        return found


def unauthorized() -> Problem:
    """One for all causes."""
    return Problem(401, "show a token that is valid: `Authorization: Bearer …`", headers={"WWW-Authenticate": "Bearer"})


def not_found() -> Problem:
    """Of what there is not, or not for this token."""
    return Problem(404, "there is no such company for this token")


def _caller(scope: Scope, request: Request, shown: HTTPAuthorizationCredentials | None, gateway: Gateway) -> Caller:
    caller = Caller(gateway, shown.credentials if shown else "", scope)
    request.state.token = caller.token.id
    if wait := gateway.rate.wait_s(caller.token.id):
        raise Problem(
            429,
            f"a token may make {gateway.settings.gateway_rate} calls a minute",
            headers={"Retry-After": f"{math.ceil(wait)}"},
        )
    return caller


def _reader(request: Request, shown: _Shown, gateway: Shared) -> Caller:
    return _caller("read", request, shown, gateway)


def _ingester(request: Request, shown: _Shown, gateway: Shared) -> Caller:
    return _caller("ingest", request, shown, gateway)


Reader = Annotated[Caller, Depends(_reader)]
Ingester = Annotated[Caller, Depends(_ingester)]
