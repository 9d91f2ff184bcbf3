"""Is every system of a company well? One request for each account, no retries.

Belongs here: what `teei health`, `teei doctor` and the gateway ask. Does not belong here: how it is shown, and the
request itself (`extract/probe.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from teei_ingest.companies import Companies, Company
from teei_ingest.errors import TeeiError
from teei_ingest.extract.circuit import Down
from teei_ingest.extract.probe import probe
from teei_ingest.settings import Settings
from teei_ingest.systems import all_systems
from teei_ingest.vault.credentials import SystemCredentials, resolve, status

HEALTHY, UNHEALTHY, UNCONFIGURED = "healthy", "unhealthy", "unconfigured"
_AT_ONCE = 16


@dataclass(frozen=True)
class Pulse:
    """How a company's system is: `healthy`, `unhealthy` or `unconfigured`; `problem` says what to do."""

    company: str
    system: str
    status: str
    response_ms: float | None = None
    problem: str = ""
    down: Down | None = None


def pulses(settings: Settings, companies: Companies, asked: Sequence[Company]) -> list[Pulse]:
    """The pulse of every system of these companies, in order; all are asked at the same time.

    Companies that share address and credentials of a system share the request.
    """
    pairs = [(company, system) for company in asked for system in company.systems]
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        known = list(threads.map(lambda pair: _credentials(settings, companies, *pair), pairs))
        accounts = {_account(one): one for one in known if isinstance(one, SystemCredentials)}
        asking = {account: threads.submit(_pulse, settings, one) for account, one in accounts.items()}
        return [
            replace(asking[_account(one)].result(), company=company.slug) if isinstance(one, SystemCredentials) else one
            for (company, _), one in zip(pairs, known, strict=True)
        ]


def _credentials(settings: Settings, companies: Companies, company: Company, system: str) -> SystemCredentials | Pulse:
    """What the question needs, or the answer where it cannot be asked."""
    if status(settings, companies, company, system).state == UNCONFIGURED:
        return Pulse(company.slug, system, UNCONFIGURED)
    try:
        return resolve(settings, companies, company, system)
    except TeeiError as error:
        return Pulse(company.slug, system, UNHEALTHY, problem=error.message)


def _account(credentials: SystemCredentials) -> tuple[str, ...]:
    one = credentials
    return one.system, one.base_url, one.client_id, one.client_secret, one.api_key


def _pulse(settings: Settings, credentials: SystemCredentials) -> Pulse:
    company, system = credentials.company, credentials.system
    try:
        answer = probe(all_systems()[system], credentials, settings)
    except TeeiError as error:
        return Pulse(company, system, UNHEALTHY, problem=error.message)
    if answer.error:
        problem = f"{answer.down}, or now by `teei sync`" if answer.down else answer.error.message
        return Pulse(company, system, UNHEALTHY, problem=problem, down=answer.down)
    return Pulse(company, system, HEALTHY, round(answer.response_ms, 1))
