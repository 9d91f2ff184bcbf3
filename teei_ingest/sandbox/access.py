"""Who may ask: tokens, keys and quotas.

Belongs here: what turns the headers of a request into a company, or refuses it. Does not belong here: which
parameters a request may carry (`lists.py`).
"""

import math
import re
import secrets
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from teei_ingest.sandbox.config import SandboxConfig, credential, owner_of
from teei_ingest.systems.base import OAuth2, Quota, System

SLUG = re.compile(r"[a-z0-9-]{1,40}")


@dataclass(eq=False)
class Refused(Exception):
    """An answer that is an error: HTTP status, code, message and further headers; SCIM's code where it has one.

    `company` is who asked, as far as that is known.
    """

    status: int
    error: str
    message: str
    headers: tuple[tuple[bytes, bytes], ...] = ()
    scim_type: str | None = None
    company: str | None = None


def unauthorized(message: str) -> Refused:
    """A 401."""
    return Refused(401, "unauthorized", message, ((b"www-authenticate", b"Bearer"),))


def unprocessable(message: str) -> Refused:
    """A 422."""
    return Refused(422, "unprocessable", message)


@dataclass(frozen=True)
class _Token:
    system: str
    company: str
    expires: float


class Access:
    """Tokens given out and requests counted. `now` gives seconds and never goes back."""

    def __init__(self, config: SandboxConfig, now: Callable[[], float]) -> None:
        self._config = config
        self._now = now
        self._tokens: dict[str, _Token] = {}
        self._spent: defaultdict[tuple[str, str], deque[float]] = defaultdict(deque)
        self._rotated: set[tuple[str, str]] = set()  # credential's owner and company

    def reset(self) -> None:
        """Revoke all tokens, forget what was counted."""
        self._tokens.clear()
        self._spent.clear()

    def revoke(self, system: System, company: str) -> None:
        """A company's tokens are good no more."""
        revoked = system.name, company
        self._tokens = {text: token for text, token in self._tokens.items() if (token.system, token.company) != revoked}

    def rotate(self, system: System, company: str) -> bool:
        """A company's old secret or key is good no more, nor are its tokens; whether it was until now."""
        rotated = owner_of(system), company
        if rotated in self._rotated:
            return False
        self._rotated.add(rotated)
        self.revoke(system, company)
        return True

    def restore(self) -> None:
        """The old secrets and keys are good again, the new ones no more."""
        self._rotated.clear()

    def token(self, system: System, auth: OAuth2, content_type: str, body: bytes) -> dict[str, object]:
        """The reply to a token request (RFC 6749, section 4.4). Raises Refused."""
        if content_type.partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
            raise Refused(400, "invalid_request", "the body has to be a form")
        form = dict(parse_qsl(body.decode("latin-1"), keep_blank_values=True))
        if form.get("grant_type") != "client_credentials":
            raise Refused(400, "unsupported_grant_type", "grant_type has to be client_credentials")
        company = self.client(system, body)
        if company is None or form.get("client_secret") != self._credential(system, "client_secret", company):
            raise Refused(401, "invalid_client", "unknown client or wrong secret")
        scopes = form.get("scope", "").split()
        if not scopes or not set(scopes) <= set(auth.scope.split()):
            raise Refused(400, "invalid_scope", f"scope has to be {auth.scope}")
        self._expire()
        token = secrets.token_urlsafe(24)
        ttl = self._config.token_ttl_s
        self._tokens[token] = _Token(system.name, company, self._now() + ttl)
        return {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": ttl,
            "scope": " ".join(scopes),
        }

    def client(self, system: System, body: bytes) -> str | None:
        """The slug of the company that asks for a token."""
        form = dict(parse_qsl(body.decode("latin-1"), keep_blank_values=True))
        return self._owner(system, "client_id", form.get("client_id", ""))

    def company(self, system: System, headers: Mapping[bytes, bytes]) -> str:
        """The slug of the company whose credentials the headers carry. Raises Refused."""
        if isinstance(system.auth, OAuth2):
            company = self._bearer(system, headers.get(b"authorization", b"").decode("latin-1"))
        else:
            name, prefix = system.auth.header, system.auth.prefix
            value = headers.get(name.lower().encode(), b"").decode("latin-1")
            owner = self._owner(system, "api_key", value.removeprefix(prefix))
            if owner is None or not value.startswith(prefix):
                raise unauthorized(f"{name}: missing or unknown key")
            company = owner
        if system.tenant_header:
            given = headers.get(system.tenant_header.lower().encode())
            if given is None:
                raise unauthorized(f"{system.tenant_header} is missing")
            if given.decode("latin-1") != credential(system, system.tenant, company):
                raise Refused(403, "forbidden", f"{system.tenant_header}: not your tenant")
        return company

    def spend(self, system: System, company: str) -> tuple[tuple[bytes, bytes], ...]:
        """Count a request against the quota of a company's key and give the headers. Raises Refused (429)."""
        if system.quota is None or not self._config.quota:
            return ()
        quota, now = system.quota, self._now()
        spent = self._spent[system.name, company]
        while spent and spent[0] <= now - quota.seconds:
            spent.popleft()
        if len(spent) >= quota.requests:
            left = math.ceil(spent[0] + quota.seconds - now)
            raise Refused(
                429,
                "rate_limited",
                f"more than {quota.requests} requests in {quota.seconds} s",
                (*_quota_headers(quota, 0, left), (b"retry-after", str(left).encode())),
            )
        spent.append(now)
        left = math.ceil(spent[0] + quota.seconds - now)
        return _quota_headers(quota, quota.requests - len(spent), left)

    def _bearer(self, system: System, value: str) -> str:
        scheme, _, text = value.partition(" ")
        token = self._tokens.get(text) if scheme.lower() == "bearer" else None
        if token is None or token.system != system.name:
            raise unauthorized("unknown token")
        if token.expires <= self._now():
            raise unauthorized("token expired")
        return token.company

    def _expire(self) -> None:
        now = self._now()
        self._tokens = {text: token for text, token in self._tokens.items() if token.expires > now}

    def _owner(self, system: System, name: str, value: str) -> str | None:
        slug = value.rpartition(credential(system, name, ""))[2]
        return slug if SLUG.fullmatch(slug) and value == self._credential(system, name, slug) else None

    def _credential(self, system: System, name: str, slug: str) -> str:
        return credential(system, name, slug, rotated=(owner_of(system), slug) in self._rotated)


def _quota_headers(quota: Quota, remaining: int, left: int) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"x-ratelimit-limit", str(quota.requests).encode()),
        (b"x-ratelimit-remaining", str(remaining).encode()),
        (b"x-ratelimit-reset", str(left).encode()),
    )
