"""Which variables hold a company's credentials of a system, and what is wrong with them.

Belongs here: the names of design section 2, their order, what may be shared, and checks that need no request.
Does not belong here: requests, tokens, and settings of our own (`settings.py`).

A company's own variable is the shared one with the slug behind the system (BENEVITY_CLIENT_ID,
BENEVITY_ACME_CORP_CLIENT_ID) and wins over it. Secrets that belong together come from one place: a company's
id is never used with the shared secret.
"""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from teei_ingest.companies import Companies, Company
from teei_ingest.errors import MissingCredentials, SettingsError, UsageError
from teei_ingest.settings import Settings
from teei_ingest.systems import all_systems
from teei_ingest.systems.base import System

_HOST = r"[a-z0-9._-]+|[0-9a-f:.]+"


@dataclass(frozen=True)
class SystemCredentials:
    """All that a company's requests to one system need; what the system does not use is empty.

    `base_url` may carry a path and ends without a slash.
    """

    system: str
    company: str
    base_url: str
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    api_key: str = field(default="", repr=False)
    tenant_id: str = ""
    project_id: str = ""
    company_id: str = ""


@dataclass(frozen=True)
class _Shape:
    """Which variables a system takes.

    `url`: the shared variable of the base address. `secrets`: fields that belong together. `account`: the
    field that says whose data it is; None where that is our own company id. `families`: what the names of the
    secrets begin with, first choice first; the last one's are also the shared ones.
    """

    system: str
    url: str
    secrets: tuple[str, ...]
    account: str | None
    families: tuple[str, ...]

    def own(self, shared_name: str, company: Company) -> str:
        """The company's own variable beside a shared one of this system."""
        prefix = f"{self.system.upper()}_"
        return f"{prefix}{company.variable}_{shared_name.removeprefix(prefix)}"


@dataclass(frozen=True)
class CredentialStatus:
    """What doctor and health show. `problem` is the one line of the error that `resolve` would raise."""

    state: Literal["configured", "unconfigured", "incomplete"]
    missing: tuple[str, ...] = ()
    problem: str = ""


def resolve(settings: Settings, companies: Companies, company: Company, system: str | System) -> SystemCredentials:
    """The company's credentials of a system; by name or by declaration.

    Raises UsageError if the company does not use the system, MissingCredentials with the variables to set,
    SettingsError if an address or a value cannot be used or another company has the same account.
    """
    shape = _shape(system)
    if shape.system not in company.systems:
        raise UsageError(
            f"the company does not use this system; add it to its systems in {_registry(settings)}",
            system=shape.system,
            company=company.slug,
        )
    found = _look_up(settings.environ, companies, company, shape)
    if found.missing:
        raise MissingCredentials(found.missing, shared=found.shared, system=shape.system, company=company.slug)
    for variable, value in found.values.values():
        if not re.fullmatch(r"[\x20-\x7e]+", value):
            raise _unusable(variable, "has characters outside printable ASCII", shape, company)
    _refuse_common_account(settings.environ, companies, company, shape)
    url_variable, url = found.values["base_url"]
    problem = _url_problem(url, settings.plaintext_hosts)
    if problem:
        raise _unusable(url_variable, problem, shape, company)
    return SystemCredentials(
        system=shape.system,
        company=company.slug,
        **({} if shape.account else {"company_id": str(company.id)}),
        **{name: value for name, (_, value) in found.values.items()} | {"base_url": url.rstrip("/")},
    )


def with_address(settings: Settings, company: Company, system: System, url: str) -> Settings:
    """The settings with another base address of a system for this company; `resolve` checks it."""
    variable = _shape(system).own(system.url_variable, company)
    return Settings.load({**settings.environ, variable: url})


def status(settings: Settings, companies: Companies, company: Company, system: str | System) -> CredentialStatus:
    """Like `resolve`, without raising: unconfigured means not used, or no variable of it is set at all."""
    shape = _shape(system)
    if shape.system not in company.systems:
        return CredentialStatus("unconfigured")
    found = _look_up(settings.environ, companies, company, shape)
    if not set(found.values) - {"base_url"}:
        return CredentialStatus("unconfigured", found.missing)
    try:
        resolve(settings, companies, company, system)
    except SettingsError as error:
        return CredentialStatus("incomplete", found.missing, str(error))
    return CredentialStatus("configured")


def refuse_common_accounts(settings: Settings, companies: Companies) -> None:
    """To be called at start: SettingsError if two companies have one tenant or project id at a system."""
    for shape in map(_shape, all_systems()):
        for company in companies.using(shape.system):
            _refuse_common_account(settings.environ, companies, company, shape)


def accounts(settings: Settings, companies: Companies, system: str) -> dict[str, str]:
    """Slug to tenant or project id at a system, of all companies whose id is set."""
    found = _account_variables(settings.environ, companies, _shape(system))
    return {slug: value for slug, (_, value) in found.items()}


def webhook_secrets(settings: Settings, company: Company, system: str) -> tuple[str, ...]:
    """What a system may sign a company's webhooks with, the newest first: two while one takes the other's place.

    Never shared: whoever has a secret speaks for all companies that have it.
    """
    name = f"{system.upper()}_{company.variable}_WEBHOOK_SECRET"
    found = (settings.environ.get(variable, "").strip() for variable in (name, f"{name}_PREVIOUS"))
    return tuple(filter(None, found))


def key_id(settings: Settings, credentials: SystemCredentials) -> str:
    """16 hex digits that stand for the credential in names of quota files; not reversible, not guessable.

    Companies that share a key have the same id: its quota is counted for the key.
    """
    parts = (credentials.system, credentials.client_id, credentials.api_key)
    message = b"".join(len(part).to_bytes(4, "big") + part.encode() for part in ("quota key id", *parts))
    return hmac.digest(settings.master_key_bytes(), message, hashlib.sha256).hex()[:16]


@dataclass
class _Found:
    """`values`: field to (variable, value). `shared`: what would do instead of `missing`."""

    values: dict[str, tuple[str, str]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()


def _shape(system: str | System) -> _Shape:
    """What a system's declaration says of its variables."""
    if isinstance(system, str):
        known = all_systems()
        if system not in known:
            raise UsageError(f"there is no system {system!r}; known are: {', '.join(known)}")
        system = known[system]
    name = system.name.upper()
    return _Shape(
        system=system.name,
        url=system.url_variable,
        secrets=system.auth.credentials,
        account=None if system.tenant == "company_id" else system.tenant,
        families=(name, system.shared_credential) if system.shared_credential else (name,),
    )


def _look_up(environ: Mapping[str, str], companies: Companies, company: Company, shape: _Shape) -> _Found:
    found = _Found()
    missing: list[str] = []
    shared: list[str] = []

    def take(names: Mapping[str, str]) -> list[str]:
        """Fill in what is set; the variables that are not."""
        unset = []
        for name, variable in names.items():
            if value := environ.get(variable, "").strip():
                found.values[name] = variable, value
            else:
                unset.append(variable)
        return unset

    if take({"base_url": shape.own(shape.url, company)}):
        missing += take({"base_url": shape.url})

    own = [f"{family}_{company.variable}_" for family in shape.families]
    for prefix in (*own, f"{shape.families[-1]}_"):
        names = {name: f"{prefix}{name.upper()}" for name in shape.secrets}
        unset = take(names)
        if len(unset) < len(names):
            missing += unset
            break
    else:
        missing += [f"{own[0]}{name.upper()}" for name in shape.secrets]
        shared += [f"{shape.families[-1]}_{name.upper()}" for name in shape.secrets]

    if shape.account:
        shared_account = f"{shape.system.upper()}_{shape.account.upper()}"
        unset = take({shape.account: shape.own(shared_account, company)})
        if unset and len(companies.using(shape.system)) < 2:
            if take({shape.account: shared_account}):
                missing += unset
                shared.append(shared_account)
        else:
            missing += unset

    found.missing, found.shared = tuple(missing), tuple(shared)
    return found


def _account_variables(environ: Mapping[str, str], companies: Companies, shape: _Shape) -> dict[str, tuple[str, str]]:
    """Slug to (variable, value) of all companies whose account at this system is set."""
    accounts = {}
    for company in companies.using(shape.system) if shape.account else ():
        found = _look_up(environ, companies, company, shape)
        if shape.account in found.values:
            accounts[company.slug] = found.values[shape.account]
    return accounts


def _refuse_common_account(environ: Mapping[str, str], companies: Companies, company: Company, shape: _Shape) -> None:
    accounts = _account_variables(environ, companies, shape)
    variable, value = accounts.pop(company.slug, ("", ""))
    for other_variable, other_value in accounts.values():
        if other_value == value:
            raise _unusable(variable, f"is the same as {other_variable}: each company has its own", shape, company)


def _url_problem(url: str, plaintext_hosts: tuple[str, ...]) -> str:
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").lower(), parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme not in ("http", "https") or not re.fullmatch(_HOST, host) or " " in url:
        return "has to be a URL that begins with https://"
    if parts.username is not None or parts.password is not None:
        return "must not have a user or password in it"
    if "?" in url or "#" in url:
        return "must not have a query or fragment"
    if parts.scheme == "http" and not _is_loopback(host) and host not in plaintext_hosts:
        return "has to begin with https://, or its host be named in TEEI_PLAINTEXT_HOSTS"
    return ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _registry(settings: Settings) -> str:
    return settings.companies.name if settings.companies else "TEEI_COMPANIES"


def _unusable(variable: str, problem: str, shape: _Shape, company: Company) -> SettingsError:
    return SettingsError(f"{variable} {problem}", system=shape.system, company=company.slug)
