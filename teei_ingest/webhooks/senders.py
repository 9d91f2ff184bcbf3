"""Which company a delivery is of, and which secrets that company and the system share.

A delivery names a tenant, as the requests to the system do; the company is the one whose id at the system that is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from teei_ingest.companies import Companies, Company
from teei_ingest.settings import Settings
from teei_ingest.vault.credentials import accounts, webhook_secrets
from teei_ingest.vault.keys import shredded
from teei_ingest.webhooks.signatures import SYSTEMS


class Sender(NamedTuple):
    """A company at a system: its slug, and the secrets that are valid there, if any."""

    company: str
    secrets: tuple[str, ...]


class Senders:
    """All companies of the registry, of which no two have one id at a system; these are TEEI_SECRETS_TTL_S old at most.

    For several threads.
    """

    def __init__(self, settings: Settings, companies: Callable[[], Companies]) -> None:
        self._settings = settings
        self._companies = companies
        self._of: Companies | None = None
        self._until = 0.0
        self._known: dict[tuple[str, str], Company] = {}

    def find(self, system: str, tenant: str) -> Sender | None:
        """None if no company has this id there, or it is shredded. Raises SettingsError as `companies` does."""
        companies = self._companies()
        if companies is not self._of or time.monotonic() >= self._until:
            known = {
                (name, account): companies.get(slug)
                for name in SYSTEMS
                for slug, account in accounts(self._settings, companies, name).items()
            }
            self._known, self._of, self._until = known, companies, time.monotonic() + self._settings.secrets_ttl_s
        company = self._known.get((system, tenant))
        if company is None or shredded(self._settings, company) is not None:
            return None
        return Sender(company.slug, webhook_secrets(self._settings, company, system))
