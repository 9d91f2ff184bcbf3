"""Which variables hold a company's credentials of a system, and what is wrong with them.

Belongs here: the names of design section 2, their order, what may be shared, and checks that need no request to the
system. Does not belong here: requests, tokens, where values are (`secrets.py`), settings of our own (`settings.py`).

A company's own variable is the shared one with the slug behind the system (BENEVITY_CLIENT_ID,
BENEVITY_ACME_CORP_CLIENT_ID) and wins over it, wherever each is; else the environment wins over a secrets manager.
Secrets that belong together come from one place: a company's id is never used with the shared secret.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from weakref import WeakKeyDictionary

from teei_ingest.companies import Companies, Company
from teei_ingest.errors import MissingCredentials, SecretsDown, SecretsError, SettingsError, UsageError
from teei_ingest.settings import Settings
from teei_ingest.systems import all_systems
from teei_ingest.systems.base import System
from teei_ingest.vault.addresses import url_problem
from teei_ingest.vault.secrets import Place, Standing, forget, places, prefetch, standing
from teei_ingest.vault.wrapping import home_key


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
    """What doctor and health show: what is missing and `where` it may be set, or in `problem` what `resolve` raises."""

    state: Literal["configured", "unconfigured", "incomplete"]
    missing: tuple[str, ...] = ()
    problem: str = ""
    where: str = ""


def resolve(settings: Settings, companies: Companies, company: Company, system: str | System) -> SystemCredentials:
    """The company's credentials of a system; by name or by declaration.

    Raises UsageError if the company does not use the system, MissingCredentials with the variables to set,
    SettingsError if an address or a value cannot be used or another company has the same account, SecretsError and
    SecretsDown of a secrets manager.
    """
    shape = _shape(system)
    if shape.system not in company.systems:
        raise UsageError(
            f"the company does not use this system; add it to its systems in {_registry(settings)}",
            system=shape.system,
            company=company.slug,
        )
    found = _look_up(_places(settings, company, shape.system), companies, company, shape)
    if found.missing:
        context = {"system": shape.system, "company": company.slug}
        raise MissingCredentials(found.missing, shared=found.shared, where=found.where, **context)
    for variable, value in found.values.values():
        if not re.fullmatch(r"[\x20-\x7e]+", value):
            raise _unusable(variable, "has characters outside printable ASCII", shape, company)
    if shape.account:
        variable, value = found.values[shape.account]
        if other := _accounts(settings, companies, shape).other(company.slug, value):
            raise _common(variable, other, shape, company)
    url_variable, url = found.values["base_url"]
    problem = url_problem(url, settings.plaintext_hosts)
    if problem:
        raise _unusable(url_variable, problem, shape, company)
    return SystemCredentials(
        system=shape.system,
        company=company.slug,
        **({} if shape.account else {"company_id": str(company.id)}),
        **{name: value for name, (_, value) in found.values.items()} | {"base_url": url.rstrip("/")},
    )


def renewed(settings: Settings, companies: Companies, company: Company, system: str) -> SystemCredentials:
    """Like `resolve`, with everything read anew that is remembered of files and of a secrets manager."""
    forget(settings, company)
    return resolve(settings, companies, company, system)


def with_address(settings: Settings, company: Company, system: System, url: str) -> Settings:
    """The settings with another base address of a system for this company; `resolve` checks it."""
    variable = _shape(system).own(system.url_variable, company)
    return Settings.load({**settings.environ, variable: url})


def status(settings: Settings, companies: Companies, company: Company, system: str | System) -> CredentialStatus:
    """Like `resolve`, without raising: unconfigured means not used, or no variable of it is set at all."""
    shape = _shape(system)
    if shape.system not in company.systems:
        return CredentialStatus("unconfigured")
    try:
        found = _look_up(_places(settings, company, shape.system), companies, company, shape)
    except SecretsError as error:
        return CredentialStatus("incomplete", (), error.message)
    if not set(found.values) - {"base_url"}:
        return CredentialStatus("unconfigured", found.missing, where=found.where)
    try:
        resolve(settings, companies, company, system)
    except SettingsError as error:
        return CredentialStatus("incomplete", found.missing, str(error))
    return CredentialStatus("configured")


def refuse_common_accounts(settings: Settings, companies: Companies) -> None:
    """To be called at start: SettingsError if two companies have one tenant or project id at a system."""
    for shape in map(_shape, all_systems()):
        found = _accounts(settings, companies, shape)
        for slug, (variable, value) in found.variables.items():
            if other := found.other(slug, value):
                raise _common(variable, other, shape, companies.get(slug))


def accounts(settings: Settings, companies: Companies, system: str) -> dict[str, str]:
    """Slug to tenant or project id at a system, of all companies whose id is set. Raises SecretsDown."""
    found = _accounts(settings, companies, _shape(system))
    return {slug: value for slug, (_, value) in found.variables.items()}


def webhook_secrets(settings: Settings, company: Company, system: str) -> tuple[str, ...]:
    """What a system may sign a company's webhooks with, the newest first: two while one takes the other's place.

    Never shared: whoever has a secret speaks for all companies that have it. Raises SecretsError, SecretsDown.
    """
    name = f"{system.upper()}_{company.variable}_WEBHOOK_SECRET"
    known = _places(settings, company, system)
    found = (next(filter(None, (place.value(one) for place in known)), "") for one in (name, f"{name}_PREVIOUS"))
    return tuple(filter(None, found))


def key_id(settings: Settings, credentials: SystemCredentials) -> str:
    """16 hex digits that stand for the credential in names of quota files; not reversible, not guessable.

    Companies that share a key have the same id: its quota is counted for the key.
    """
    parts = (credentials.system, credentials.client_id, credentials.api_key)
    message = b"".join(len(part).to_bytes(4, "big") + part.encode() for part in ("quota key id", *parts))
    return hmac.digest(home_key(settings), message, hashlib.sha256).hex()[:16]


@dataclass
class _Found:
    """`values`: field to (variable, value). `shared`: what would do instead of `missing`, and `where` it may be set."""

    values: dict[str, tuple[str, str]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    where: str = ""


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


def _places(settings: Settings, company: Company, system: str) -> Sequence[Place]:
    """Where the company's variables are looked for. Errors name company and system."""
    try:
        return places(settings, company)
    except SecretsError as error:
        kind, message = type(error), error.message
    raise kind(message, system=system, company=company.slug)


def _look_up(known: Sequence[Place], companies: Companies, company: Company, shape: _Shape) -> _Found:
    found = _Found(where=next((place.title for place in known if place.own), known[0].title))
    for_all = [place for place in known if not place.own]
    missing: list[str] = []
    shared: list[str] = []

    def take(names: Mapping[str, str], known: Sequence[Place]) -> list[str]:
        """Fill in what the first place has that has any of it; the variables that are not set there."""
        for place in known:
            values = {name: (variable, place.value(variable)) for name, variable in names.items()}
            here = {name: value for name, value in values.items() if value[1]}
            if here:
                found.values |= here
                if len(here) < len(names):
                    found.where = place.title
                return [variable for name, variable in names.items() if name not in here]
        return list(names.values())

    if take({"base_url": shape.own(shape.url, company)}, known):
        missing += take({"base_url": shape.url}, known)

    own = [f"{family}_{company.variable}_" for family in shape.families]
    for prefix, among in (*((one, known) for one in own), (f"{shape.families[-1]}_", for_all)):
        names = {name: f"{prefix}{name.upper()}" for name in shape.secrets}
        unset = take(names, among)
        if len(unset) < len(names):
            missing += unset
            break
    else:
        missing += [f"{own[0]}{name.upper()}" for name in shape.secrets]
        shared += [f"{shape.families[-1]}_{name.upper()}" for name in shape.secrets]

    if shape.account:
        shared_account = f"{shape.system.upper()}_{shape.account.upper()}"
        unset = take({shape.account: shape.own(shared_account, company)}, known)
        if unset and len(companies.using(shape.system)) < 2:
            if take({shape.account: shared_account}, for_all):
                missing += unset
                shared.append(shared_account)
        else:
            missing += unset

    found.missing, found.shared = tuple(missing), tuple(shared)
    return found


class _Accounts:
    """Who has which account at a system: `variables` are slug to (variable, value)."""

    def __init__(self, variables: Mapping[str, tuple[str, str]]) -> None:
        self.variables = variables
        self._with: dict[str, list[str]] = {}
        for slug, (_, value) in variables.items():
            self._with.setdefault(value, []).append(slug)

    def other(self, slug: str, value: str) -> str | None:
        """The variable by which another company has the account, if one has."""
        return next((self.variables[one][0] for one in self._with.get(value, ()) if one != slug), None)


# To look at all companies for each of them takes seconds where there are hundreds.
_known: WeakKeyDictionary[Companies, dict[_Shape, tuple[Standing | None, _Accounts]]] = WeakKeyDictionary()


def _accounts(settings: Settings, companies: Companies, shape: _Shape) -> _Accounts:
    """Remembered until one of the companies' variables may have changed. Raises SecretsDown."""
    of_companies = _known.setdefault(companies, {})
    using = companies.using(shape.system) if shape.account else ()
    then, found = of_companies.get(shape, (None, _Accounts({})))
    if then is None or then != standing(settings, using):
        found = _Accounts(_account_variables(settings, companies, shape))
        of_companies[shape] = standing(settings, using), found
    return found


def _account_variables(settings: Settings, companies: Companies, shape: _Shape) -> dict[str, tuple[str, str]]:
    """Of all companies whose account at this system is set.

    A secret that cannot be read, be it for ever, is that company's problem alone.
    """
    found_of = {}
    using = companies.using(shape.system) if shape.account else ()
    prefetch(settings, using)
    for company in using:
        try:
            found = _look_up(_places(settings, company, shape.system), companies, company, shape)
        except SecretsDown:
            raise
        except SecretsError:
            continue
        if shape.account in found.values:
            found_of[company.slug] = found.values[shape.account]
    return found_of


def _common(variable: str, other: str, shape: _Shape, company: Company) -> SettingsError:
    return _unusable(variable, f"is the same as {other}: each company has its own", shape, company)


def _registry(settings: Settings) -> str:
    return settings.companies.name if settings.companies else "TEEI_COMPANIES"


def _unusable(variable: str, problem: str, shape: _Shape, company: Company) -> SettingsError:
    return SettingsError(f"{variable} {problem}", system=shape.system, company=company.slug)
