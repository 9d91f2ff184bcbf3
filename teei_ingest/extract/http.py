"""One system as one company uses it: requests, their retries, and what a reply means.

Belongs here: everything between a path with parameters and the bytes of a JSON reply. Does not belong here: paging
(`read.py`), JSON (`mapping/`). Errors bear system, stream and company, never a body, a query or a secret.
"""

import logging
import math
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http.client import HTTPException
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlencode, urljoin, urlsplit

import msgspec
import requests
import tenacity
import urllib3
from requests.adapters import HTTPAdapter

from teei_ingest.errors import (
    BadCredentials,
    NotAllowed,
    RateLimited,
    SettingsError,
    SourceDown,
    SourceError,
    SourceMisbehaves,
)
from teei_ingest.extract.auth import Again, BearerToken, KeyHeader
from teei_ingest.extract.caller import Caller, Cancelled, CircuitOpen, Unreachable, UnsupportedFilter
from teei_ingest.extract.circuit import Down, circuit_for
from teei_ingest.extract.quota import quota_for
from teei_ingest.settings import Settings
from teei_ingest.systems.base import ApiKey, OAuth2, System
from teei_ingest.vault.credentials import SystemCredentials
from teei_ingest.vault.documents import patiently

T = TypeVar("T")

Sleep = Callable[[float, threading.Event], object]

SANDBOX_HEADER = "X-TEEI-Sandbox"

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 3
_CONNECTIONS = 32
_PROBE_TIMEOUT_S = 5.0
# So long nothing else asks whether a system is down that answered its probe.
_WELL_S = 30.0
_SYNTAX = msgspec.json.Decoder(msgspec.Raw)
_BOM = b"\xef\xbb\xbf"
_OBJECT_BEGINS = re.compile(rb"(?:\xef\xbb\xbf)?\s*\{")

# At DEBUG it prints query strings, at WARNING whole addresses whose replies have odd headers.
logging.getLogger("urllib3").setLevel(logging.ERROR)


class _Temporary(Exception):
    """A failure that may pass; `after` is the wait in seconds that the source asks for."""

    def __init__(self, error: SourceError, after: float = 0.0) -> None:
        super().__init__()
        self.error = error
        self.after = after


class _Patience:
    """When one request is made again: tenacity's `wait` and `stop`.

    A wait that the source asks for costs no try; all waits together have a limit.
    """

    def __init__(self, settings: Settings, retries: int | None) -> None:
        self._settings = settings
        self._retries = settings.max_retries if retries is None else retries
        self._failures = 0
        self._waited = 0.0

    def wait(self, state: tenacity.RetryCallState) -> float:
        failure = state.outcome.exception() if state.outcome else None
        if isinstance(failure, _Temporary) and failure.after:
            seconds = failure.after
        else:
            initial = self._settings.retry_initial_s
            backoff = initial * 2.0**self._failures + random.uniform(0, initial)
            seconds = min(backoff, self._settings.retry_max_s)
            self._failures += 1
        self._waited += seconds
        return seconds

    def stop(self, state: tenacity.RetryCallState) -> bool:
        return self._failures > self._retries or self._waited > self._settings.retry_wait_limit_s


class Source:
    """One system × company in a run; its streams share connections, token and quota, each in its own thread.

    `clock` gives seconds since 1970; one that is given is the quota's and the circuit's, too, which have their own
    otherwise. `sleep` waits for seconds or until the event is set. `typed_at` is when a person typed the command that
    wants this, who gets one request through an open circuit. `again` reads credentials anew that a system refuses.
    `requests` counts all requests made, tokens and retries included.
    """

    def __init__(
        self,
        system: System,
        credentials: SystemCredentials,
        settings: Settings,
        *,
        clock: Callable[[], float] | None = None,
        sleep: Sleep = lambda seconds, cancel: cancel.wait(seconds),
        typed_at: float | None = None,
        again: Again | None = None,
    ) -> None:
        self.system = system
        self.company = credentials.company
        self.requests = 0
        self._credentials = self._latest = credentials
        self._again = again
        self._settings = settings
        self._clock = clock or time.time
        self._sleep = sleep
        self._is_sandbox = settings.is_sandbox
        self._counting, self._judging = threading.Lock(), threading.Lock()
        self._quota = quota_for(system, credentials, settings, clock)
        self._circuit = circuit_for(system, credentials, settings, clock)
        self._now = self._circuit.now  # of several machines, too
        self._typed_at = typed_at
        self._answered = self._well_until = -math.inf
        self._auth = (
            KeyHeader(system.auth, credentials, self._credentials_now)
            if isinstance(system.auth, ApiKey)
            else BearerToken(system.auth, credentials, self._post_form, self._clock, self._credentials_now)
        )
        # No session: it takes proxies, passwords and certificates from the environment, and reads a redirect's body.
        self._adapter = HTTPAdapter(pool_maxsize=_CONNECTIONS)
        proxy = settings.proxy.get_secret_value() if settings.proxy else None
        self._send_options: dict[str, Any] = {
            "stream": True,
            "timeout": (settings.connect_timeout_s, settings.read_timeout_s),
            "proxies": {"http": proxy, "https": proxy} if proxy else {},
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the idle connections and the quota's files."""
        self._adapter.close()
        self._quota.close()

    def get(
        self, path: str, params: Mapping[str, str], caller: Caller | None = None, *, filtered: bool = False
    ) -> bytes:
        """The body of a JSON object. `filtered` says that the parameters hold a SCIM filter.

        Raises BadCredentials, NotAllowed, RateLimited, SourceDown, SourceMisbehaves, and UnsupportedFilter
        if the filter is refused; Cancelled.
        """
        caller = caller or Caller()
        self._pass(caller)
        begun = self._now()
        tenant = self.system.tenant_param
        account = {tenant: getattr(self._credentials, self.system.tenant)} if tenant else {}
        request = self._prepared(path, caller)
        address = request.url
        request.url = f"{address}?{urlencode({**account, **params}, quote_via=quote)}"
        try:
            body = self._authenticated(request, caller, filtered)
            self._answered = self._now()
            return body
        except SourceDown as failure:
            error = failure
        finally:
            request.url = address
        raise self._judged(error, begun, caller)

    def now(self) -> datetime:
        """The moment, by the clock that this client was given."""
        return datetime.fromtimestamp(self._clock(), UTC)

    def authenticate(self, caller: Caller | None = None) -> None:
        """Have a token, or a key; makes a request only if there is no token."""
        self._auth.value(caller or Caller())

    def check(self, path: str) -> int:
        """The status of a path that needs no credentials; raises what `get` raises."""

        caller = Caller()
        request = requests.Request("GET", self._address(path), headers=self._headers()).prepare()

        def attempt() -> int:
            response = self._follow(request, caller, keyless=True)
            response.close()
            return response.status_code

        status = self._patiently(attempt, caller)
        self._circuit.close()
        return status

    @property
    def down(self) -> Down | None:
        """Since when the system is down, if it is known to be."""
        return self._circuit.down()

    def error(self, kind: type[SourceError], message: str, caller: Caller) -> SourceError:
        """An error of this source."""
        return kind(message, system=self.system.name, stream=caller.stream, company=self.company)

    def _address(self, path: str) -> str:
        return self._credentials.base_url.rstrip("/") + path

    def _headers(self) -> dict[str, str]:
        return {
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
            "User-Agent": "teei-ingest",
            **self.system.headers,
        }

    def _prepared(self, path: str, caller: Caller) -> requests.PreparedRequest:
        """The caller's own request for a path, made once: preparing costs more than all else that we do."""
        if path not in caller.prepared:
            tenant = self.system.tenant_header
            account = {tenant: getattr(self._credentials, self.system.tenant)} if tenant else {}
            request = requests.Request("GET", self._address(path), headers={**self._headers(), **account})
            caller.prepared[path] = request.prepare()
        return caller.prepared[path]

    def _authenticated(self, request: requests.PreparedRequest, caller: Caller, filtered: bool) -> bytes:
        value = self._auth.value(caller)
        request.headers[self._auth.header] = value
        attempt = partial(self._get_once, request, caller, filtered)
        try:
            return self._patiently(attempt, caller)
        except BadCredentials as error:
            refused = error
        request.headers[self._auth.header] = renewed = self._auth.value(caller, refused=value)
        if renewed == value and isinstance(self._auth, KeyHeader):
            raise refused
        return self._patiently(attempt, caller)

    def _credentials_now(self) -> SystemCredentials:
        """Read anew; those of before where that fails, since the refusal says more."""
        with suppress(SettingsError):
            if self._again is not None:
                self._latest = self._again()
        return self._latest

    def _post_form(self, path: str, form: Mapping[str, str], caller: Caller) -> bytes:
        """The reply to a token request."""

        def attempt() -> bytes:
            response = self._exchange(request, caller, refusals=(400, 401))
            return self._json(response, caller)

        request = requests.Request("POST", self._address(path), data=form, headers=self._headers()).prepare()
        reply = self._patiently(attempt, caller)
        self._circuit.close()
        return reply

    def _get_once(self, request: requests.PreparedRequest, caller: Caller, filtered: bool) -> bytes:
        return self._json(self._follow(request, caller, filtered=filtered), caller)

    def _follow(
        self,
        request: requests.PreparedRequest,
        caller: Caller,
        *,
        filtered: bool = False,
        keyless: bool = False,
    ) -> requests.Response:
        """The reply of status 200 at the end of redirects."""
        for _ in range(1 + _MAX_REDIRECTS):
            response = self._exchange(request, caller, filtered=filtered, keyless=keyless)
            if response.status_code == 200:
                return response
            response.close()
            request = self._redirected(request, response, caller)
        raise self.error(SourceMisbehaves, "redirects again and again; check the base address", caller)

    def _redirected(
        self, request: requests.PreparedRequest, response: requests.Response, caller: Caller
    ) -> requests.PreparedRequest:
        """The same request for where the reply points to, which has to be the same host."""
        url = str(request.url)
        try:
            target = urljoin(url, response.headers.get("Location", ""))
            is_same = urlsplit(target)[:2] == urlsplit(url)[:2]
        except ValueError:
            is_same = False
        if not is_same or "Location" not in response.headers:
            raise self.error(
                SourceMisbehaves,
                "redirects to another host, which gets no credentials of ours; check the base address",
                caller,
            )
        redirected = request.copy()
        redirected.url = target
        return redirected

    def _patiently(self, attempt: Callable[[], T], caller: Caller) -> T:
        """The first try is made without tenacity, which costs a tenth of a request."""
        begun = self._now()
        try:
            return self._tried(attempt, begun, caller)
        except _Temporary as temporary:
            failed = [temporary]

        def again() -> T:
            if failed:
                raise failed.pop()
            self._pass(caller)
            return self._tried(attempt, begun, caller)

        patience = _Patience(self._settings, caller.retries)
        retrying = tenacity.Retrying(
            wait=patience.wait,
            stop=patience.stop,
            retry=tenacity.retry_if_exception_type(_Temporary),
            sleep=partial(self._pause, caller),
            reraise=True,
        )
        try:
            return retrying(again)
        except _Temporary as temporary:
            error = temporary.error
        raise error

    def _tried(self, attempt: Callable[[], T], begun: float, caller: Caller) -> T:
        """One try. Where nothing answers for so long that no retry would have begun later, ask whether it is down."""
        try:
            return attempt()
        except _Temporary as temporary:
            if not isinstance(temporary.error, Unreachable) or self._now() - begun < self._settings.retry_max_s:
                raise
            failure = temporary
        error = self._judged(failure.error, begun, caller)
        raise failure if error is failure.error else error

    # --- is it down? ------------------------------------------------------------------------------------------

    def _pass(self, caller: Caller) -> None:
        """Return at once as long as the circuit is closed; where it is open, raise CircuitOpen."""
        self._shared(caller, partial(self._ask_or_wait, caller))

    def _shared(self, caller: Caller, work: Callable[[], T]) -> T:
        """What `work` gives; where what machines share is away, the request waits for that as for its source."""
        return patiently(self._settings.retry_wait_limit_s, partial(self._pause, caller), work)

    def _ask_or_wait(self, caller: Caller) -> None:
        """The one whose turn it is asks the system's probe, and the others wait for the outcome."""
        while down := self._circuit.down():
            if self._answered > down.asked:
                self._circuit.close()
                return
            # On the clock that those have who share the circuit.
            typed_at = self._typed_at and self._now() - (self._clock() - self._typed_at)
            if self._circuit.may_ask(2 * _PROBE_TIMEOUT_S, typed_at):
                problem = self._probe(caller)
                if not problem:
                    self._circuit.close()
                    return
                down = self._circuit.open(problem)
            else:
                now = self._circuit.down()  # somebody may have begun to ask since
                if now is None or self._circuit.is_asked(now):
                    self._pause(caller, 0.1)
                    continue
                down = now
            raise self._is_down(down, caller)

    def _judged(self, error: SourceError, begun: float, caller: Caller) -> SourceError:
        """The error, or that the system is down.

        A system that answers 500 for one bad day, or hangs for one stream, still answers its probe or somebody else.
        """
        with self._judging:
            if self._answered > begun or self._clock() < self._well_until:
                return error
            down = self._shared(caller, self._circuit.down)  # somebody else may have found out meanwhile
            if down is None:
                if not self._probe(caller):
                    return error
                problem = error.message.partition(";")[0]
                down = self._shared(caller, partial(self._circuit.open, problem))
            return self._is_down(down, caller)

    def _is_down(self, down: Down, caller: Caller) -> SourceError:
        return self.error(CircuitOpen, f"{down}, or now by `teei sync`", caller)

    def _probe(self, caller: Caller) -> str:
        """Ask the health path, or for a token where there is none, once. Empty if anything but a server error comes."""
        self._go_on(caller)
        system, auth = self.system, self.system.auth
        address = self._address(auth.token_path if isinstance(auth, OAuth2) else system.health_path or "/")
        made = (
            requests.Request("POST", address, data=self._auth.form, headers=self._headers())
            if isinstance(self._auth, BearerToken)
            else requests.Request("GET", address, headers=self._headers())
        )
        given = self._settings
        limits = tuple(min(_PROBE_TIMEOUT_S, limit) for limit in (given.connect_timeout_s, given.read_timeout_s))
        try:
            response = self._send(made.prepare(), caller, timeout=limits)
        except _Temporary as temporary:
            return temporary.error.message.partition(";")[0]
        except SourceMisbehaves:
            pass  # something is there
        else:
            response.close()
            if response.status_code >= 500:
                return f"answers with status {response.status_code}"
        self._well_until = self._clock() + _WELL_S
        return ""

    def _pause(self, caller: Caller, seconds: float) -> None:
        self._sleep(seconds, caller.cancel)
        self._go_on(caller)

    def _go_on(self, caller: Caller) -> None:
        if caller.cancel.is_set():
            raise self.error(Cancelled, "cancelled", caller)

    def _exchange(
        self,
        request: requests.PreparedRequest,
        caller: Caller,
        *,
        refusals: tuple[int, ...] = (401,),
        filtered: bool = False,
        keyless: bool = False,
    ) -> requests.Response:
        """One request within the quota. Returns a reply whose body is unread: 200, or a redirect of a GET.

        `refusals` are the statuses that mean bad credentials; a `keyless` request counts for no key's quota.
        """
        self._go_on(caller)
        if not keyless and (blocked := self._quota.acquire(partial(self._pause, caller))):
            raise _Temporary(self._rate_limited(caller), after=blocked)
        response = self._send(request, caller)
        status = response.status_code
        try:
            if self._is_sandbox and response.headers.get(SANDBOX_HEADER) != "1":
                raise self.error(
                    SourceMisbehaves,
                    "does not answer as the sandbox, and the sandbox's credentials are for nothing else; "
                    "start the sandbox, or set TEEI_HOME for a real deployment",
                    caller,
                )
            self._share_limits(response, caller)
            if status == 200 or (status in _REDIRECTS and request.method == "GET"):
                return response
            raise self._refusal(response, caller, refusals, filtered)
        except BaseException:
            response.close()
            raise

    def _send(self, request: requests.PreparedRequest, caller: Caller, **options: Any) -> requests.Response:
        given = self._send_options | options
        with self._counting:
            self.requests += 1
        caller.requests += 1
        try:
            return self._adapter.send(request, **given)
        except requests.exceptions.SSLError:
            problem = "cannot be trusted: its TLS certificate is not valid for this host, or it has none"
        except requests.exceptions.ProxyError:
            problem = "cannot be reached through TEEI_PROXY"
        except (requests.exceptions.ConnectTimeout, requests.exceptions.ConnectionError):
            problem = "cannot be reached, or hangs up"
        except requests.exceptions.Timeout:
            problem = f"does not answer within {given['timeout'][1]:g} s (TEEI_READ_TIMEOUT_S)"
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError):
            problem = ""
        if not problem:
            raise self.error(SourceMisbehaves, "does not speak HTTP as it should; check the base address", caller)
        raise _Temporary(self.error(Unreachable, f"{problem}; try again later", caller))

    def _share_limits(self, response: requests.Response, caller: Caller) -> None:
        """What a source says of its quota to one, it says to everybody with the key."""
        headers = response.headers
        after = 0.0
        if response.status_code == 429:
            after = self._asked_wait(headers) or self._settings.retry_initial_s
        elif headers.get("X-RateLimit-Remaining", "").strip() == "0":
            after = self._asked_wait(headers)
        if after:
            self._shared(caller, partial(self._quota.block, after))

    def _refusal(
        self, response: requests.Response, caller: Caller, refusals: tuple[int, ...], filtered: bool
    ) -> Exception:
        """What a reply other than 200 means."""
        status = response.status_code
        if filtered and (status == 501 or (status == 400 and self._is_invalid_filter(response))):
            return self.error(UnsupportedFilter, f"refuses the filter (status {status})", caller)
        if status in refusals:
            names = ", ".join(self.system.auth.credentials)
            return self.error(BadCredentials, f"refuses {names} (status {status}); renew them", caller)
        if status == 403:
            return self.error(NotAllowed, "does not allow this (status 403); have access granted there", caller)
        if status == 429:
            return _Temporary(self._rate_limited(caller), after=self._asked_wait(response.headers))
        if status == 408 or status >= 500:
            error = self.error(SourceDown, f"answers with status {status}; try again later", caller)
            return _Temporary(error, after=self._retry_after(response.headers))
        return self.error(
            SourceMisbehaves,
            f"answers with status {status}; check the base address, then ask the vendor",
            caller,
        )

    def _rate_limited(self, caller: Caller) -> SourceError:
        limit = self._settings.retry_wait_limit_s
        return self.error(
            RateLimited,
            "the quota of this key is used up for longer than is waited "
            f"(TEEI_RETRY_WAIT_LIMIT_S, {limit:g} s); try again later or have it raised",
            caller,
        )

    def _asked_wait(self, headers: Mapping[str, str]) -> float:
        """Seconds of `Retry-After`, else until the limit is reset; 0 if none is asked."""
        return self._retry_after(headers) or self._reset(headers)

    def _retry_after(self, headers: Mapping[str, str]) -> float:
        """Seconds of `Retry-After` (RFC 9110, section 10.2.3); 0 if none is asked."""
        text = headers.get("Retry-After", "").strip()
        if re.fullmatch(r"[0-9]{1,9}", text):
            return float(text)
        try:
            return max(0.0, parsedate_to_datetime(text).timestamp() - self._now())
        except (ValueError, TypeError, IndexError, OverflowError):
            return 0.0

    def _reset(self, headers: Mapping[str, str]) -> float:
        """Seconds until the source's window begins anew; some say it as a moment since 1970."""
        text = headers.get("X-RateLimit-Reset", "").strip()
        if not re.fullmatch(r"[0-9]{1,10}(\.[0-9]{1,9})?", text):
            return 0.0
        seconds = float(text)
        return max(0.0, seconds - self._now()) if seconds > 1e9 else seconds

    def _is_invalid_filter(self, response: requests.Response) -> bool:
        try:
            return bool(re.search(rb'"invalidFilter"', response.raw.read(65536, decode_content=True)))
        except (urllib3.exceptions.HTTPError, HTTPException, OSError):
            return False

    def _json(self, response: requests.Response, caller: Caller) -> bytes:
        """The whole body, as far as can be seen without decoding it a JSON object."""
        limit = self._settings.max_response_mb << 20
        body: bytes | None = None
        fits = True
        try:
            body = response.raw.read(limit + 1, decode_content=True)
        except (urllib3.exceptions.HTTPError, HTTPException, OSError):
            pass
        except MemoryError:
            fits = False
        finally:
            response.close()
        if not fits:
            raise self.error(
                SourceMisbehaves,
                "sends a reply that does not fit into memory; give more, or lower TEEI_MAX_RESPONSE_MB",
                caller,
            )
        if body is not None and len(body) > limit:
            raise self.error(
                SourceMisbehaves,
                f"sends more than {self._settings.max_response_mb} MiB in one reply (TEEI_MAX_RESPONSE_MB)",
                caller,
            )
        if body is not None and not _OBJECT_BEGINS.match(body):
            what = "something that is not a JSON object" if body.strip() else "an empty body"
            raise self.error(SourceMisbehaves, f"answers with {what}; check the base address", caller)
        if body is None or not _is_whole(response, body):
            raise _Temporary(self.error(SourceDown, "its reply breaks off in the middle; try again later", caller))
        return body


def _is_whole(response: requests.Response, body: bytes) -> bool:
    """Whether a body ends where its text does, which is looked through where neither a length nor chunks tell."""
    if not body.rstrip().endswith(b"}"):
        return False
    headers = response.headers
    # Of a cut gzip stream, the length is that of what was sent.
    if "Content-Encoding" not in headers and ("Content-Length" in headers or "Transfer-Encoding" in headers):
        return True
    try:
        _SYNTAX.decode(body.removeprefix(_BOM))
    except msgspec.DecodeError:
        return False
    return True
