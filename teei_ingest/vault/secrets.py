"""Where credentials are: the environment, and behind it a secrets manager.

Belongs here: the seam to a manager (`Manager`), what of it is remembered and for how long, trying again. Does not
belong here: how a manager is asked (`hashicorp.py`, `aws.py`), what the variables mean (`credentials.py`).

A secret holds variables by the names that they have in the environment. `$TEEI_SECRETS_PATH/SLUG` has a company's own,
`$TEEI_SECRETS_PATH/_shared` those of all companies, a name that no slug can be.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import tenacity

from teei_ingest.companies import Company
from teei_ingest.errors import SecretsDown, SecretsError
from teei_ingest.settings import Settings

T = TypeVar("T")

Standing = tuple[Mapping[str, str], tuple[float, ...]]  # what is known of variables, and until when

SHARED = "_shared"

_ENVIRONMENT = "the environment or in .env"
_DOWN_S = 5.0  # so long nobody asks again, where all tries have failed
_AT_ONCE = 8
_KEPT = 16
# Whoever has other values of these has other secrets. A token that a file names changes while a process lives.
_TELLING = (
    *("VAULT_ADDR", "VAULT_TOKEN", "VAULT_ROLE_ID", "VAULT_SECRET_ID", "VAULT_NAMESPACE", "VAULT_CACERT"),
    *("TEEI_VAULT_MOUNT", "TEEI_VAULT_APPROLE_MOUNT", "TEEI_SECRETS", "TEEI_SECRETS_PATH", "TEEI_SECRETS_TTL_S"),
    *("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_CA_BUNDLE", "AWS_ENDPOINT_URL"),
    *("AWS_ENDPOINT_URL_SECRETS_MANAGER", "AWS_ENDPOINT_URL_KMS"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
)


class Manager(Protocol):
    """A secrets manager. Raises SecretsDown for what may pass, SecretsError for what has to be mended."""

    def place(self, name: str) -> str:
        """How people find a secret."""

    def read(self, name: str) -> Mapping[str, Any] | None:
        """A secret's values by key; None if there is no such secret."""

    def check(self) -> str:
        """Log in, and say who we are there."""


@dataclass(frozen=True)
class Place:
    """Where variables are, for people, and their values. `own`: one company's alone."""

    title: str
    values: Mapping[str, str] = field(repr=False)
    own: bool = False

    def value(self, variable: str) -> str:
        """Empty if it is not set here."""
        return self.values.get(variable, "").strip()


class Secrets:
    """What a manager has, remembered for a short time. For several threads."""

    def __init__(self, manager: Manager, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.manager = manager
        self._settings = settings
        self._clock = clock
        self._read: dict[str, tuple[float, Mapping[str, str]]] = {}
        self._reading: dict[str, threading.Lock] = {}
        self._down: tuple[float, str] = (0.0, "")

    def place(self, name: str, *, own: bool = False) -> Place:
        """A secret; without values if there is no such secret. Raises SecretsError, SecretsDown."""
        with self._reading.setdefault(name, threading.Lock()):
            until, values = self._read.get(name, (0.0, {}))
            if self._clock() >= until:
                values = self._checked(name, self._asked(name))
                self._read[name] = self._clock() + self._settings.secrets_ttl_s, values
        return Place(self.manager.place(name), values, own)

    def prefetch(self, names: Iterable[str]) -> None:
        """Read, several at once, what is not remembered; what goes wrong is for the one who needs that secret."""
        due = [name for name in names if self._clock() >= self._read.get(name, (0.0, {}))[0]]
        if len(due) > 1:
            with ThreadPoolExecutor(_AT_ONCE) as threads:
                list(threads.map(self._try, due))

    def forget(self, *names: str) -> None:
        """Read these anew when they are needed next."""
        for name in names:
            self._read.pop(name, None)

    def untils(self, names: Iterable[str]) -> tuple[float, ...] | None:
        """Until when each is remembered, 0 where it could not be read; None where one has to be read anew."""
        untils = tuple(self._read.get(name, (0.0, {}))[0] for name in names)
        now = self._clock()
        return None if any(0 < until <= now for until in untils) else untils

    def _try(self, name: str) -> None:
        with suppress(SecretsError):
            self.place(name)

    def _asked(self, name: str) -> Mapping[str, Any]:
        until, problem = self._down
        if self._clock() >= until:
            try:
                return patiently(self._settings, lambda: self.manager.read(name)) or {}
            except SecretsDown as error:
                problem = error.message
            self._down = self._clock() + min(_DOWN_S, self._settings.secrets_ttl_s), problem
        raise SecretsDown(problem)

    def _checked(self, name: str, found: Mapping[str, Any]) -> dict[str, str]:
        for key, value in found.items():
            if not isinstance(value, str):
                raise SecretsError(f"{key} in {self.manager.place(name)} has to be a text")
        return dict(found)


def secrets_of(settings: Settings) -> Secrets | None:
    """The manager that TEEI_SECRETS names; None for the environment alone. Raises SecretsError."""
    if settings.secrets == "vault":
        from teei_ingest.vault.hashicorp import Vault

        return kept(settings, "secrets", lambda: Secrets(Vault.of(settings), settings))
    if settings.secrets == "aws":
        from teei_ingest.vault.aws import SecretsManager

        return kept(settings, "secrets", lambda: Secrets(SecretsManager(settings), settings))
    return None


def places(settings: Settings, company: Company) -> tuple[Place, ...]:
    """Where a company's variables are looked for, in this order. Raises SecretsError, SecretsDown."""
    environment = Place(_ENVIRONMENT, settings.environ)
    secrets = secrets_of(settings)
    if secrets is None:
        return (environment,)
    return environment, secrets.place(company.slug, own=True), secrets.place(SHARED)


def standing(settings: Settings, companies: Iterable[Company]) -> Standing | None:
    """Equal to that of before if none of the companies can have other values since; None if one may have.

    Raises SecretsError.
    """
    secrets = secrets_of(settings)
    untils = secrets.untils([SHARED, *(company.slug for company in companies)]) if secrets else ()
    return None if untils is None else (settings.environ, untils)


def prefetch(settings: Settings, companies: Iterable[Company]) -> None:
    """Read the secrets of many companies at once, before `places` needs them one after the other."""
    if secrets := secrets_of(settings):
        secrets.prefetch([SHARED, *(company.slug for company in companies)])


def forget(settings: Settings, company: Company) -> None:
    """Have what a company's credentials come from read anew: files that variables name, and its secrets."""
    settings.read_files()
    if secrets := secrets_of(settings):
        secrets.forget(company.slug, SHARED)


_kept: dict[tuple[str, ...], Any] = {}
_keeping = threading.Lock()


def kept(settings: Settings, what: str, make: Callable[[], T]) -> T:
    """The one of all who ask with the same settings, so that they share a login and what is remembered."""
    environ = settings.environ
    key = (what, *(environ.get(name, "") for name in _TELLING))
    with _keeping:
        found: T | None = _kept.get(key)
    if found is None:
        made = make()
        with _keeping:
            if len(_kept) >= _KEPT:
                _kept.clear()
            found = _kept.setdefault(key, made)
    return found


def are_set(settings: Settings, *names: str) -> bool:
    """Whether variables that belong together are. Raises SecretsError where some are, and others not."""
    unset = [name for name in names if not settings.environ.get(name, "").strip()]
    if unset and len(unset) < len(names):
        given = next(name for name in names if name not in unset)
        raise SecretsError(f"set {', '.join(unset)}, which belongs to {given}")
    return not unset


def patiently(settings: Settings, ask: Callable[[], T]) -> T:
    """What `ask` gives; asked again, as a source system is, where it raises SecretsDown."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(SecretsDown),
        stop=tenacity.stop_after_attempt(1 + settings.max_retries),
        wait=tenacity.wait_random_exponential(multiplier=settings.retry_initial_s, max=settings.retry_max_s),
        reraise=True,
    )
    return retrying(ask)
