"""The report for the privacy officer: one page with the record of processing of a company, as it stands now.

Belongs here: what stands in it, read from declarations, settings, tables and logs; nothing that names a person, by name
or by token. Does not belong here: how it looks (`report.html.j2`), and Dagster.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import duckdb
from jinja2 import Environment, StrictUndefined

from teei_ingest.companies import Companies, Company
from teei_ingest.contracts import DirectoryEntry
from teei_ingest.contracts.fields import DataClass
from teei_ingest.errors import AuditError, KeyringError, LandingError, SettingsError
from teei_ingest.landing.landing import SUFFIX, folder_of
from teei_ingest.landing.suppression import Suppressions
from teei_ingest.privacy import inventory
from teei_ingest.privacy.audit_log import AuditLog, copies
from teei_ingest.privacy.policies import history
from teei_ingest.privacy.retention import rules
from teei_ingest.privacy.rotate import standing
from teei_ingest.redact.policy import Mode, Policy, policy_for
from teei_ingest.settings import Settings, project_root
from teei_ingest.store import open_store
from teei_ingest.store.sql import connect
from teei_ingest.streams import all_streams
from teei_ingest.systems import all_systems
from teei_ingest.vault.credentials import status
from teei_ingest.vault.keys import KeyRing

SMALL = 5  # a group with fewer people in it is small
# Public by their class, since hours are attributed to them; together they say as much of somebody as a job title.
WORKPLACE = (
    "employee_type",
    "department",
    "division",
    "business_unit",
    "cost_center",
    "location",
    "job_level",
    "job_family",
)
_GONE = (Mode.REMOVE, Mode.MASK)
_TEMPLATE = Path(__file__).with_name("report.html.j2")


def gather(settings: Settings, companies: Companies, company: Company, now: datetime) -> dict[str, Any]:
    """What the report says, as JSON. What cannot be said is in `missing`, with the reason. `now` is in UTC.

    Raises StoreError if the tables cannot be read, SettingsError for a policy that is not in order.
    """
    policy = policy_for(company.slug, company.privacy, company.places)
    missing: list[str] = []
    store = open_store(settings)
    with store.reading(), connect(store) as tables:
        stored = list(_streams(settings, companies, company, tables))
        anonymity = list(_anonymity(tables, company, policy))
    if not any(stream["rows"] for stream in stored):
        missing.append(f"No event is stored yet: `teei sync --company {company.slug}` reads the first.")
    items = [_item(item) for item in inventory.fields(policy)]
    keys, problem = _keys(settings, company)
    if problem:
        missing.append(problem)
    acts, problem = _acts(settings, company)
    if problem:
        missing.append(problem)
    proofs = read_proofs()
    if not proofs:
        missing.append("No figures of proofs are there: `make privacy` tries to break each promise and writes them.")
    return {
        "company": {"slug": company.slug, "name": company.name, "id": str(company.id)},
        "made": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "version": version("teei-ingest"),
        "sandbox": settings.is_sandbox,
        "missing": missing,
        "streams": stored,
        "fields": items,
        "modes": _modes(items),
        "policy": _policy(settings, company, policy),
        "retention": [rule._asdict() for rule in rules(settings)],
        "places": _places(settings, company),
        "keys": keys,
        "anonymity": anonymity,
        "suppressed": _suppressed(settings, company),
        **acts,
        "proofs": proofs,
    }


def render(report: Mapping[str, Any]) -> str:
    """The page: HTML that needs nothing else."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(report)


def _streams(
    settings: Settings, companies: Companies, company: Company, tables: duckdb.DuckDBPyConnection
) -> Iterator[dict[str, Any]]:
    found: dict[str, tuple[Any, ...]] = {}
    for contract in dict.fromkeys(stream.contract for stream in all_streams().values()):
        person = f"count(DISTINCT coalesce({', '.join(contract.subject)}))" if contract.subject else "NULL"
        rows = tables.execute(
            f"SELECT stream, count(*), {person}, min(day), max(day) FROM {contract.table} "
            "WHERE company = ? GROUP BY stream",
            [company.slug],
        )
        found |= {row[0]: row[1:] for row in rows.fetchall()}
    for stream in all_streams().values():
        system = all_systems()[stream.system]
        count, people, first, last = found.get(stream.name, (0, None, None, None))
        yield {
            "system": system.title,
            "state": status(settings, companies, company, system).state,
            "stream": stream.name,
            "title": stream.title,
            "table": stream.contract.table,
            "rows": count,
            "people": people or None,  # check-ins and events of a match name nobody
            "first_day": first and str(first),
            "last_day": last and str(last),
        }


def _item(item: inventory.Item) -> dict[str, Any]:
    return {
        "stream": item.stream,
        "wire": list(item.wire),
        "field": item.field,
        "column": item.column,
        "class": item.cls.value if item.cls else None,
        "mode": item.mode.value if item.column else "not kept",
        "set_by_company": item.rule.startswith(("company", "allowed_fields")),
        "why": item.why,
    }


def _modes(items: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Numbers of the sources' fields by class and what becomes of them."""
    found: dict[str, Counter[str]] = {}
    for item in items:
        if item["wire"]:
            found.setdefault(item["class"] or "unknown", Counter())[item["mode"]] += 1
    order = [*(each.value for each in DataClass), "unknown"]
    return {name: dict(found[name]) for name in order if name in found}


def _policy(settings: Settings, company: Company, policy: Policy) -> dict[str, Any]:
    return {
        "version": policy.version,
        "set": dict(sorted(policy.overrides.items())),
        "allowed_fields": sorted(policy.allowed_fields),
        "history": [
            {"version": one.version, "since": one.since, "who": one.who} for one in history(settings, company.slug)
        ],
    }


def _places(settings: Settings, company: Company) -> list[dict[str, Any]]:
    def sealed(folder: Path) -> int:
        return sum(1 for _ in (folder / company.slug).rglob(f"*{SUFFIX}"))

    home, landing, quarantine = settings.home, folder_of(settings, "landing"), folder_of(settings, "quarantine")
    return [
        {"what": "events", "where": settings.store_uri, "form": "pseudonymous", "files": None},
        {"what": "landed records", "where": str(landing), "form": "sealed", "files": sealed(landing)},
        {"what": "quarantine", "where": str(quarantine), "form": "sealed", "files": sealed(quarantine)},
        {"what": "suppression list", "where": f"{home}/suppression", "form": "sealed", "files": None},
        {"what": "vanished events", "where": f"{home}/vanished", "form": "ids of stored events", "files": None},
        {"what": "who left a directory", "where": f"{home}/presence", "form": "ids of stored events", "files": None},
        {"what": "webhook deliveries", "where": f"{home}/webhooks", "form": "hashed ids and days", "files": None},
        {"what": "fields that sources send", "where": f"{home}/drift", "form": "names and types", "files": None},
        {"what": "keys", "where": f"{home}/keys", "form": "wrapped by the master key", "files": None},
        *(
            {"what": what, "where": str(where), "form": "names no person", "files": None}
            for what, where in (
                ("audit log", home / "audit"),
                ("audit log, copied", copies(settings)),
                ("calls of the gateway", home / "gateway"),
                ("figures", home / "metrics"),
                ("Dagster's log", settings.dagster_home),
            )
            if where is not None
        ),
    ]


def _keys(settings: Settings, company: Company) -> tuple[list[dict[str, Any]], str]:
    found = standing(settings, company)
    if found.shredded:
        return [], "The company was shredded: its keys are destroyed."
    if found.problem or not found.versions:
        return [], f"Nothing is known of the keys: {found.problem or 'there are none before the first sync'}."
    # A key is at least as old as the file that holds it; how old one is that came by a rotation, the audit log knows.
    ring = settings.home / "keys" / f"{company.id}.json"
    oldest = datetime.fromtimestamp(ring.stat().st_mtime, UTC)
    since = _rotations(settings, company)
    return [
        {
            "purpose": purpose,
            "id": f"{purpose}-{newest}",
            "at_least_since": since.get(newest, f"{oldest:%Y-%m-%dT%H:%M:%SZ}"),
        }
        for purpose, newest in found.versions.items()
    ], ""


def _rotations(settings: Settings, company: Company) -> dict[int, str]:
    """When which version of the keys came."""
    try:
        entries = list(AuditLog(settings).entries(company.slug))
    except AuditError:
        return {}
    return {int(entry["details"]["version"]): entry["at"] for entry in entries if entry["what"] == "keys.rotated"}


def _anonymity(tables: duckdb.DuckDBPyConnection, company: Company, policy: Policy) -> Iterator[dict[str, Any]]:
    """How many of the directory's people share what is kept of them with fewer than `SMALL`."""
    directory = next(name for name, stream in all_streams().items() if stream.contract is DirectoryEntry)
    kept = {
        item.column: item.cls
        for item in inventory.fields(policy, {directory: all_streams()[directory]})
        if item.column and item.mode not in _GONE
    }
    quasi = [column for column, cls in kept.items() if cls is DataClass.QUASI]
    workplace = [column for column in WORKPLACE if column in kept]
    sets: list[tuple[str, list[str]]] = [(column, [column]) for column in [*quasi, *workplace]]
    if quasi:
        sets.append(("all quasi-identifiers", quasi))
    if quasi or workplace:
        sets.append(("quasi-identifiers and workplace together", [*quasi, *workplace]))
    for name, columns in sets:
        found = tables.execute(
            f"SELECT count(*), min(n), coalesce(sum(n), 0), coalesce(sum(n) FILTER (n < {SMALL}), 0) FROM ("
            f"SELECT count(*) AS n FROM current_directory_entries WHERE company = ? GROUP BY {', '.join(columns)})",
            [company.slug],
        )
        groups, smallest, people, few = found.fetchall()[0]
        yield {
            "name": name,
            "columns": columns,
            "groups": groups,
            "smallest": smallest,
            "people": int(people),
            "share_in_small_groups": int(few) / int(people) if people else None,
        }


def _suppressed(settings: Settings, company: Company) -> dict[str, int] | None:
    """Number of people who were erased and are kept out, and of those whose erasure is not done."""
    suppressions = Suppressions(settings)
    if not suppressions.version(company.slug):
        return {"people": 0, "pending": 0}
    try:
        found = suppressions.entries(KeyRing.open(settings, company, create=False), company.slug)
    except (KeyringError, LandingError, SettingsError):
        return None
    return {"people": len(found), "pending": sum(not entry.done for entry in found)}


def _acts(settings: Settings, company: Company) -> tuple[dict[str, Any], str]:
    """What was done to the company, from the audit log: by kind, erasures by month; and whether the log is whole."""
    log = AuditLog(settings)
    verdict = log.verify()
    audit = {"entries": verdict.entries, "last_hash": verdict.last_hash, "problem": verdict.problem}
    found: dict[str, Any] = {"audit": audit, "acts": [], "erasures": {}, "shreds": []}
    try:
        entries = list(log.entries(company.slug))
    except AuditError as error:
        return found, f"What was done cannot be told: {error.message}"
    last = {entry["what"]: entry["at"] for entry in entries}
    many = Counter(entry["what"] for entry in entries)
    found["acts"] = [{"what": what, "times": many[what], "last": at} for what, at in sorted(last.items())]
    found["erasures"] = dict(sorted(Counter(e["at"][:7] for e in entries if e["what"] == "erase.done").items()))
    found["shreds"] = [entry["at"] for entry in entries if entry["what"] == "shred.done"]
    return found, f"The audit log is not whole: {verdict.problem}" if verdict.problem else ""


# --- proofs ----------------------------------------------------------------------------------------------------------


def read_proofs(root: Path | None = None) -> list[dict[str, Any]]:
    """The figures of the last proofs as `make privacy` wrote them, by proof; empty if there are none."""
    path = (root or project_root()) / "docs" / "privacy-proof.json"
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return []
    own = {name: value for name, value in document.items() if not isinstance(value, dict)}
    parts = {"run": own} | {name: value for name, value in document.items() if isinstance(value, dict)}
    return [{"name": name, "figures": dict(_flat(value))} for name, value in parts.items() if value]


def _flat(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from _flat(inner, f"{path}{name}: ")
        else:
            yield f"{path}{name}", inner
