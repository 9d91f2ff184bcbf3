"""Bearer tokens: made once, kept as a digest, good for some companies and one scope until they expire.

A token is `teei_ID_SECRET`. `$TEEI_HOME/gateway/tokens.json` has the SHA-256 of the secret, which has 256 random bits,
so that guessing is as hopeless as with a slower digest.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from teei_ingest.errors import SettingsError, UsageError
from teei_ingest.privacy.audit_log import AuditLog
from teei_ingest.settings import Settings
from teei_ingest.store.locks import Locks
from teei_ingest.vault.files import os_errors, replacing

Scope = Literal["read", "ingest"]
PREFIX = "teei"


class Token(BaseModel):
    """What is kept of a token. Without `companies` it is good for all; `ingest` includes `read`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    id: str
    digest: str
    scope: Scope
    companies: tuple[str, ...]
    created: datetime
    expires: datetime
    revoked: datetime | None = None

    def allows(self, scope: Scope) -> bool:
        """Whether a call that needs this scope may be made."""
        return scope == "read" or self.scope == scope

    def covers(self, company: str) -> bool:
        """Whether the company, by slug, may be asked about."""
        return not self.companies or company in self.companies

    def state(self, now: datetime) -> Literal["active", "expired", "revoked"]:
        """How the token stands."""
        if self.revoked is not None:
            return "revoked"
        return "active" if now < self.expires else "expired"


_TOKENS = TypeAdapter(list[Token])


class Tokens:
    """The tokens of one home. Raises SettingsError where their file cannot be used."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.path = settings.home / "gateway" / "tokens.json"
        self._locks = Locks(settings.home / "locks")
        self._read_at: tuple[int, ...] = ()
        self._known: dict[str, Token] = {}

    def create(self, scope: Scope, companies: Collection[str], lifetime: timedelta) -> tuple[str, Token]:
        """A new token, and what is kept of it; nobody can be told the first one again."""
        now = datetime.now(UTC)
        secret = secrets.token_hex(32)
        made = Token(
            id=secrets.token_hex(6),
            digest=_digest(secret),
            scope=scope,
            companies=tuple(companies),
            created=now,
            expires=now + lifetime,
        )
        with self._locks.exclusive("tokens"):
            known = self._all()
            self._audit("token create", made)
            self._write([*known.values(), made])
        return f"{PREFIX}_{made.id}_{secret}", made

    def revoke(self, identity: str) -> Token:
        """From now on the token is good for nothing. Raises UsageError if there is none."""
        with self._locks.exclusive("tokens"):
            known = self._all()
            if identity not in known:
                raise UsageError(f"there is no token {identity!r}: `teei token list` shows them")
            if known[identity].revoked is None:
                known[identity] = known[identity].model_copy(update={"revoked": datetime.now(UTC)})
                self._audit("token revoke", known[identity])
                self._write(list(known.values()))
        return known[identity]

    def all(self) -> list[Token]:
        """Every token, revoked and expired ones too, oldest first."""
        return list(self._all().values())

    def find(self, text: str) -> Token | None:
        """The token that somebody shows, if it is good now. Takes as long for one that nobody knows."""
        prefix, _, rest = text.partition("_")
        identity, _, secret = rest.partition("_")
        found = self._all().get(identity)
        same = hmac.compare_digest(_digest(secret), found.digest if found else _digest(""))
        if found is None or not same or prefix != PREFIX or found.state(datetime.now(UTC)) != "active":
            return None
        return found

    def _all(self) -> dict[str, Token]:
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return {}
        read_at = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if read_at != self._read_at:
            with os_errors(self._failure):
                content = self.path.read_bytes()
            self._known = {token.id: token for token in _parsed(content, self.path)}
            self._read_at = read_at
        return dict(self._known)

    def _write(self, tokens: list[Token]) -> None:
        with replacing(self.path, self._failure) as write:
            write(_TOKENS.dump_json(tokens, indent=2) + b"\n")

    def _failure(self, reason: str) -> SettingsError:
        return SettingsError(f"{self.path}: {reason}")

    def _audit(self, what: str, token: Token) -> None:
        (company,) = token.companies if len(token.companies) == 1 else (None,)
        AuditLog(self._settings).append(
            what,
            company=company,
            details={
                "token": token.id,
                "scope": token.scope,
                "companies": list(token.companies) or "all",
                "expires": f"{token.expires:%Y-%m-%d}",
            },
        )


def _parsed(content: bytes, path: Path) -> list[Token]:
    try:
        return _TOKENS.validate_json(content)
    except ValidationError:
        pass
    raise SettingsError(f"{path} is damaged: restore it, or remove it, which ends all tokens")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
