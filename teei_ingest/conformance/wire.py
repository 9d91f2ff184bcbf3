"""One stream of a server, asked as the caller says, and what came back.

Belongs here: requests within the quota, with good, wrong or no credentials. Nothing is retried but what is put off by
429. Does not belong here: what an answer means (`probes.py`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode

import requests
import urllib3

from teei_ingest.errors import BadCredentials, RateLimited, SourceDown, SourceError, SourceMisbehaves
from teei_ingest.extract.auth import BearerToken, KeyHeader
from teei_ingest.extract.caller import Caller
from teei_ingest.extract.http import SANDBOX_HEADER
from teei_ingest.extract.quota import quota_for
from teei_ingest.settings import Settings
from teei_ingest.streams.base import Between, SinceOnly, Stream
from teei_ingest.systems.base import OAuth2, System
from teei_ingest.vault.credentials import SystemCredentials

GOOD, WRONG, NONE = "good", "wrong", "no"
_NONSENSE = "teei-conformance-no-such-credential"

Params = Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """A reply: `value` is its JSON, None where it is none."""

    status: int
    headers: Mapping[str, str]
    value: Any

    @property
    def is_json(self) -> bool:
        """Whether it says that it is JSON."""
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return kind == "application/json" or kind.endswith("+json")


class Wire:
    """Raises SourceDown where nothing answers, SourceMisbehaves where it is no HTTP or the wrong server."""

    def __init__(
        self, stream: Stream, system: System, credentials: SystemCredentials, settings: Settings,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self.stream, self.system = stream, system
        self.requests = 0
        self._credentials, self._settings, self._sleep = credentials, settings, sleep
        self._quota = quota_for(system, credentials, settings)
        self._session = requests.Session()
        self._session.trust_env = False
        proxy = settings.proxy.get_secret_value() if settings.proxy else None
        self._options: dict[str, Any] = {
            "stream": True,
            "allow_redirects": False,
            "timeout": (settings.connect_timeout_s, settings.read_timeout_s),
            "proxies": {"http": proxy, "https": proxy} if proxy else {},
        }
        self._auth = (
            self._bearer(system.auth, credentials)
            if isinstance(system.auth, OAuth2)
            else KeyHeader(system.auth, credentials, lambda: credentials)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()
        self._quota.close()

    def health(self) -> Answer:
        """The health path, asked without credentials."""
        return self._send("GET", str(self.system.health_path), {})

    def token(self, *, wrong: bool = False) -> Answer:
        """A token request, with another secret if `wrong`."""
        assert isinstance(self.system.auth, OAuth2)
        auth = self._auth
        if wrong:
            auth = self._bearer(self.system.auth, replace(self._credentials, client_secret=_NONSENSE))
        assert isinstance(auth, BearerToken)
        return self._send("POST", self.system.auth.token_path, {}, form=auth.form)

    def list(self, params: Params, credentials: str = GOOD) -> Answer:
        """The stream's list with these parameters, its own and the company's among them."""
        system = self.system
        account = getattr(self._credentials, system.tenant)
        headers = {system.tenant_header: account} if system.tenant_header else {}
        if credentials == GOOD:
            headers[self._auth.header] = self._auth.value(Caller(stream=self.stream.name))
        elif credentials == WRONG:
            prefix = "Bearer " if isinstance(system.auth, OAuth2) else system.auth.prefix
            headers[self._auth.header] = prefix + _NONSENSE
        own = {system.tenant_param: account} if system.tenant_param else {}
        query = urlencode({**own, **self.stream.params, **params}, quote_via=quote)
        return self._send("GET", f"{self.stream.path}?{query}", headers)

    def window(self, since: datetime, until: datetime) -> Params:
        """The parameters of a window; a source that knows no end is asked for all since its beginning."""
        first, end = (f"{at.astimezone(UTC).isoformat().removesuffix('+00:00')}Z" for at in (since, until))
        window = self.stream.window
        if isinstance(window, Between):
            return {window.since: first, window.until: end}
        if isinstance(window, SinceOnly):
            return {window.since: first}
        return {window.param: f'{window.attribute} ge "{first}" and {window.attribute} lt "{end}"'}

    def error(self, kind: type[SourceError], message: str) -> SourceError:
        """An error of this server."""
        company = self._credentials.company
        return kind(message, system=self.system.name, stream=self.stream.name, company=company)

    def _bearer(self, auth: OAuth2, credentials: SystemCredentials) -> BearerToken:
        return BearerToken(auth, credentials, self._granted, time.time, lambda: credentials)

    def _granted(self, path: str, form: Mapping[str, str], caller: Caller) -> bytes:
        answer = self._send("POST", path, {}, form=form)
        if answer.status != 200:
            raise self.error(BadCredentials, f"gives no token (status {answer.status})")
        return json.dumps(answer.value).encode()

    def _send(self, method: str, path: str, headers: Params, form: Params | None = None) -> Answer:
        """One request; made again after the wait that a 429 asks for, as long as that is waited for at all."""
        waited = 0.0
        while True:
            blocked = self._quota.acquire(self._sleep)
            answer = None if blocked else self._once(method, path, headers, form)
            if answer is not None and answer.status != 429:
                return answer
            text = answer.headers.get("Retry-After", "") if answer else ""
            wait = blocked or (float(text) if text.isascii() and text.isdigit() else 0.0)
            waited += wait
            if not wait or waited > self._settings.retry_wait_limit_s:
                raise self.error(RateLimited, "the quota of this key is used up; try again later")
            self._sleep(wait)

    def _once(self, method: str, path: str, headers: Params, form: Params | None) -> Answer:
        url = self._credentials.base_url.rstrip("/") + path
        known = {"Accept": "application/json", "User-Agent": "teei-ingest", **self.system.headers, **headers}
        limit = self._settings.max_response_mb << 20
        self.requests += 1
        response = body = None
        try:
            response = self._session.request(method, url, headers=known, data=form, **self._options)
            body = response.raw.read(limit + 1, decode_content=True)
        except (requests.RequestException, OSError, ValueError, urllib3.exceptions.HTTPError):
            pass
        finally:
            if response is not None:
                response.close()
        if response is None or body is None:
            raise self.error(SourceDown, "does not answer, or breaks off in the middle; check the address")
        if self._settings.is_sandbox and response.headers.get(SANDBOX_HEADER) != "1":
            raise self.error(SourceMisbehaves, "does not answer as the sandbox, whose credentials are for nothing else")
        try:
            value = json.loads(body) if len(body) <= limit else None
        except (ValueError, RecursionError):
            value = None
        return Answer(response.status_code, response.headers, value)
