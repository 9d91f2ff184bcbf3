"""Shredding a company: everything that is kept of it goes, its keys last, and a certificate says so.

Before anything goes, its events may be written to files that it takes along.

Belongs here: the order of the steps, and going on after a process that was killed at any of them. Does not belong
here: Dagster's runs and partitions, which the caller brings along.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from teei_ingest.companies import Company
from teei_ingest.errors import KeyringError, LandingError, UsageError
from teei_ingest.landing.landing import SUFFIX, Landing
from teei_ingest.landing.quarantine import Quarantine
from teei_ingest.landing.suppression import Suppressions
from teei_ingest.privacy.audit_log import AuditLog
from teei_ingest.settings import Settings
from teei_ingest.store import open_store
from teei_ingest.store.drift import Drift
from teei_ingest.store.export import export, folder_for, here
from teei_ingest.store.presence import Presence
from teei_ingest.store.rotations import Rotations
from teei_ingest.store.tables import Store, contracts
from teei_ingest.store.vanished import Vanished
from teei_ingest.vault.files import os_errors, remove_folder, replacing
from teei_ingest.vault.keys import destroy, tombstone, versions
from teei_ingest.webhooks.deliveries import Deliveries

REMAINS = (
    "Here: the audit log, Dagster's history of runs, the gateway's calls (30 days), names in the tables' logs and this "
    "certificate tell the company, days and counts, no person.",
    "In older backups of the tables: pseudonyms. Without the destroyed keys nobody can go from a known person to them "
    "or back, but rows of one person still share one, so joins inside such a backup remain, beside departments, "
    "hours, amounts and dates as they were.",
    "In older backups of the keys: the keys, which whoever has the master key can open. Destroy those backups, too.",
    "In older backups of sealed files: records that only those keys open.",
)


@dataclass(frozen=True)
class Certificate:
    """What was destroyed: `rows` by table, files by kind, `keys` as the newest version of each; times are UTC.

    `exported` are the rows that were written to files before.
    """

    company: str
    company_id: str
    started: str
    keys: dict[str, int]
    runs_stopped: int = 0
    exported_to: str = ""
    exported: dict[str, int] | None = None  # rows by table
    rows: dict[str, int] | None = None  # None until they were counted
    files: dict[str, int] | None = None
    partition_removed: bool = False
    ended: str = ""
    remains: tuple[str, ...] = REMAINS

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def shred(
    settings: Settings,
    company: Company,
    *,
    stop: Callable[[], int],
    forget: Callable[[], bool],
    export_to: Path | None = None,
    why: str = "",
) -> tuple[Certificate, Path]:
    """Destroy all that is kept of a company; the certificate and its file.

    `stop` ends the company's runs and gives their number, `forget` removes its partitions. With `export_to` its events
    are in a folder below it before the first of them goes. Safe to repeat after a crash at any step: nothing is begun
    anew in between, since a tombstone lies beside the keys from the first step on. A company that was shredded before
    can be again if something of it is back, from a backup. Raises UsageError if nothing is or the folder cannot be
    used, StoreError, LandingError, KeyringError, AuditError.
    """
    stone = tombstone(settings, company)
    made = _read(stone)
    if made is None or (made.ended and _is_back(settings, company.slug)):
        made = Certificate(company.slug, str(company.id), _now(), keys=_keys(settings, company))
    path = settings.home / "audit" / "certificates" / f"{company.slug}-{made.started.replace(':', '')}.json"
    if made.ended:
        raise UsageError(f"was shredded at {made.ended}: {path}", company=company.slug)
    if export_to is not None:
        made = _exporting(company, made, export_to)
    audit = AuditLog(settings)
    audit.append("shred.started", company=company.slug, why=why)
    _write(stone, made)
    store = open_store(settings)
    made = replace(made, runs_stopped=made.runs_stopped + stop())
    with store.alone_with(company.slug, unfinished=True):
        if made.exported_to and made.exported is None:
            made = replace(made, exported=export(store, company.slug, Path(made.exported_to)))
            _write(stone, made)
        if made.rows is None:
            made = _counted(settings, store, company, made)
        _write(stone, made)
        _remove(settings, store, company)
    made = replace(made, partition_removed=forget() or made.partition_removed)
    _write(stone, made)
    destroy(settings, company)
    counts = {**(made.rows or {}), **(made.files or {}), "runs": made.runs_stopped}
    if made.exported is not None:
        counts["exported"] = sum(made.exported.values())
    audit.append("shred.done", company=company.slug, why=why, counts=counts, details={"keys": made.keys})
    made = replace(made, ended=_now())
    _write(path, made)
    _write(stone, made)
    return made, path


def _is_back(settings: Settings, slug: str) -> bool:
    """Whether a backup of before a company was shredded was restored."""
    return open_store(settings).holds(slug) or any(folder.exists() for folder in _folders(settings, slug).values())


def _exporting(company: Company, made: Certificate, below: Path) -> Certificate:
    """With the folder that the events are to be in; the one that they were to be in before, if it is that again."""
    if made.exported is not None or made.exported_to == str(here(below) / company.slug):
        return made
    if made.rows is not None:
        raise UsageError("its rows may have gone in part: do it without an export", company=company.slug)
    folder = folder_for(company.slug, below)
    remains = f"In {folder}: its events as they were, with their pseudonyms, for whoever may have them."
    return replace(made, exported_to=str(folder), remains=(*REMAINS, remains))


def _counted(settings: Settings, store: Store, company: Company, made: Certificate) -> Certificate:
    """With what there is, before the first of it goes. Needs no key, since a company whose keys are lost can go."""
    slug = company.slug
    rows = {contract.table: store.rows(contract, company=slug, columns=["day"]).num_rows for contract in contracts()}
    rows["webhook_deliveries"] = sum(one.known for one in Deliveries(settings).figures() if one.company == slug)
    files = {kind: sum(1 for _ in folder.rglob(f"*{SUFFIX}")) for kind, folder in _folders(settings, slug).items()}
    files["suppression"] = int(bool(Suppressions(settings).version(slug)))
    return replace(made, rows=rows, files=files)


def _remove(settings: Settings, store: Store, company: Company) -> None:
    slug = company.slug
    Rotations(settings.home / "rotation").forget(slug)
    for contract in contracts():
        store.remove_company(contract, slug)
    with os_errors(lambda reason: LandingError(f"the sealed files cannot be removed: {reason}", company=slug)):
        for kind, folder in _folders(settings, slug).items():
            remove_folder(folder)
            remove_folder(settings.home / kind / slug)  # its locks, where the files are elsewhere
    Suppressions(settings).forget(slug)
    Drift(settings.home).forget(slug)
    Vanished(settings.home).forget_company(slug)
    Presence(settings.home).forget_company(slug)
    Deliveries(settings).forget_company(slug)
    for contract in contracts():
        store.purge(contract)


def _folders(settings: Settings, slug: str) -> dict[str, Path]:
    return {"landing": Landing(settings).folder / slug, "quarantine": Quarantine(settings).folder / slug}


def _keys(settings: Settings, company: Company) -> dict[str, int]:
    """The newest version of each key; none where the ring is lost or damaged, which is no obstacle."""
    with suppress(KeyringError):
        return versions(settings, company)
    return {}


def _read(path: Path) -> Certificate | None:
    try:
        return Certificate(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        pass
    raise KeyringError(f"{path} is damaged: remove it, then shred the company again")


def _write(path: Path, made: Certificate) -> None:
    with replacing(path, lambda reason: KeyringError(f"{path}: {reason}")) as write:
        write(json.dumps(made.as_json(), indent=1).encode() + b"\n")


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
