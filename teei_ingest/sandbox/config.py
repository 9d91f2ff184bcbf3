"""What a sandbox plays, and the variables that point the product at it.

Belongs here: the settings, the companies, the credentials that the sandbox accepts. Does not belong here:
how they are checked (`app.py`), which records there are (`world.py`).
"""

import uuid
from dataclasses import dataclass, field
from datetime import date

from teei_ingest.companies import SANDBOX_COMPANIES, Company
from teei_ingest.sandbox.sign import SENDERS
from teei_ingest.systems import all_systems
from teei_ingest.systems.base import System

HEADER = "X-TEEI-Sandbox"

# Slug, id and name of the companies that every sandbox knows.
COMPANIES = tuple((company.slug, str(company.id), company.name) for company in SANDBOX_COMPANIES)
# Every stream has records on each of these days for these companies, whatever the seed.
DEMO_DAYS = (date(2024, 1, 15), date(2024, 1, 21))

_NAMESPACE = uuid.UUID("f3b0c442-98fc-4c14-9afb-f4c8996fb924")


def company_id(slug: str) -> str:
    """The id of a company: the known one, else one made from the slug, so that any company can be served."""
    known = {known_slug: identity for known_slug, identity, _ in COMPANIES}
    return known.get(slug) or str(uuid.uuid5(_NAMESPACE, slug))


@dataclass(frozen=True)
class SandboxConfig:
    """One sandbox. `companies` maps slug to company id and only matters for ids other than `company_id`'s and
    for `environment`: every slug is served, and a record depends on seed, slug, stream and day alone.
    """

    companies: dict[str, str] = field(default_factory=lambda: {slug: ident for slug, ident, _ in COMPANIES})
    seed: int = 20240115
    records: int = 12  # mean number of records for a company, stream and day
    spread: float = 0.4  # share by which a day's number differs from the mean at most; 0: never
    people: int = 120  # for each company
    first_day: date = date(2023, 6, 1)
    last_day: date | None = None  # None: today, as far as it has passed
    bad_ratio: float = 0.0  # share of records that break their contract
    quota: bool = True
    token_ttl_s: int = 3600
    latency_ms: float = 0

    def id_of(self, slug: str) -> str:
        """The company id that belongs to a slug."""
        return self.companies.get(slug) or company_id(slug)


_SECRETS = ("client_secret", "api_key")


def owner_of(system: System) -> str:
    """Whose a system's credentials are: internal systems share one key."""
    return system.shared_credential.lower() if system.shared_credential else system.name


def credential(system: System, name: str, slug: str, *, rotated: bool = False) -> str:
    """The value of a company's credential, or the one after it if it is a secret; plainly no secret."""
    made = f"sandbox-{owner_of(system)}-{name.replace('_', '-')}-{slug}"
    return f"rotated-{made}" if rotated and name in _SECRETS else made


def environment(config: SandboxConfig, url: str) -> dict[str, str]:
    """All variables that point the product at the sandbox at `url`, each company with its own credentials."""
    found = {}
    for system in all_systems().values():
        found[system.url_variable] = f"{url}/{system.name}"
        owner = (system.shared_credential or system.name).upper()
        for slug, identity in config.companies.items():
            company = Company(uuid.UUID(identity), slug, slug)
            for name in system.credentials:
                found[f"{owner}_{company.variable}_{name.upper()}"] = credential(system, name, slug)
            if system.name in SENDERS:
                found[f"{owner}_{company.variable}_WEBHOOK_SECRET"] = credential(system, "webhook_secret", slug)
    return found
