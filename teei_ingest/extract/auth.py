"""How a system knows us: an API key, or an OAuth2 token that is fetched, shared and renewed.

Belongs here: the value of the header that authenticates a request. Does not belong here: where the secrets come
from (`vault/`), sending (`http.py`).
"""

import json
import math
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

from teei_ingest.errors import BadCredentials, SourceMisbehaves
from teei_ingest.extract.caller import Caller, Cancelled
from teei_ingest.systems.base import ApiKey, OAuth2
from teei_ingest.vault.credentials import SystemCredentials

Post = Callable[[str, Mapping[str, str], Caller], bytes]
Again = Callable[[], SystemCredentials]  # the credentials, with everything read anew that is remembered of them

_SKEW_S = 30.0
_SKEW_SHARE = 0.1


class KeyHeader:
    """An API key; where `again` gives another one than was refused, that."""

    def __init__(self, auth: ApiKey, credentials: SystemCredentials, again: Again) -> None:
        self.header = auth.header
        self._auth = auth
        self._again = again
        self._lock = threading.Lock()
        self._value = self._of(credentials)

    def value(self, caller: Caller, refused: str | None = None) -> str:
        """The header's value; read anew if it is the `refused` one."""
        with self._lock:
            if self._value == refused:
                self._value = self._of(self._again())
            return self._value

    def _of(self, credentials: SystemCredentials) -> str:
        (name,) = self._auth.credentials
        return f"{self._auth.prefix}{getattr(credentials, name)}"


class BearerToken:
    """A token by client credentials (RFC 6749, section 4.4), one for all streams of a system.

    It is renewed a tenth of its life, at most 30 s, before it expires. Where the client is refused, and `again` gives
    another one, that asks once more.
    """

    header = "Authorization"

    def __init__(
        self, auth: OAuth2, credentials: SystemCredentials, post: Post, clock: Callable[[], float], again: Again
    ) -> None:
        self._auth = auth
        self._again = again
        self.form = self._form(credentials)
        self._path = auth.token_path
        self._credentials = credentials
        self._post = post
        self._clock = clock
        self._lock = threading.Lock()
        self._value = ""
        self._renew_at = -math.inf

    def value(self, caller: Caller, refused: str | None = None) -> str:
        """The header's value; fetched if there is none, if it is about to expire, or if it is the `refused` one."""
        while not self._lock.acquire(timeout=0.1):
            if caller.cancel.is_set():
                raise Cancelled("cancelled", system=self._credentials.system, stream=caller.stream)
        try:
            if self._clock() >= self._renew_at or self._value == refused:
                self._renew(caller)
            return self._value
        finally:
            self._lock.release()

    def _renew(self, caller: Caller) -> None:
        asked_at = self._clock()
        token, lifetime = self._parse(self._asked(caller), caller)
        self._value = f"Bearer {token}"
        self._renew_at = asked_at + lifetime - min(_SKEW_S, lifetime * _SKEW_SHARE)

    def _asked(self, caller: Caller) -> bytes:
        """The reply to the token request."""
        try:
            return self._post(self._path, self.form, caller)
        except BadCredentials as error:
            refused = error
        form = self._form(self._again())
        if form == self.form:
            raise refused
        self.form = form
        return self._post(self._path, form, caller)

    def _form(self, credentials: SystemCredentials) -> dict[str, str]:
        client_id, client_secret = (getattr(credentials, name) for name in self._auth.credentials)
        return {
            "grant_type": "client_credentials",
            "client_id": client_id,
            "client_secret": client_secret,
            "scope": self._auth.scope,
        }

    def _parse(self, body: bytes, caller: Caller) -> tuple[str, float]:
        """The token and its lifetime in seconds, infinite where the reply does not say it."""
        try:
            reply: Any = json.loads(body)
        except (ValueError, RecursionError):
            reply = None
        problem = "is no JSON object"
        if isinstance(reply, dict):
            token, kind = reply.get("access_token"), reply.get("token_type", "Bearer")
            if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
                problem = "has no usable access_token"
            elif not isinstance(kind, str) or kind.casefold() != "bearer":
                problem = "has a token_type other than Bearer"
            else:
                return token, _seconds(reply.get("expires_in"))
        raise SourceMisbehaves(
            f"the reply to the token request {problem}; check the base address",
            system=self._credentials.system,
            stream=caller.stream,
            company=self._credentials.company,
        )


def _seconds(value: Any) -> float:
    """`expires_in` as a number, which some servers send as a string, and some not at all."""
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = 0.0
    return seconds if seconds > 0 else math.inf
