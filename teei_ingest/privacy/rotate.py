"""Rotation of keys: a company's pseudonyms to a newer key in all its tables at once, or all rings to a new master key.

Belongs here: the order of the steps, and going on after a process that was killed at any of them. Does not belong
here: the keys (`vault/keys.py`), what readers see meanwhile (`store/`).
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import SecretStr

from teei_ingest.companies import Company
from teei_ingest.contracts.stored import arrow_schema
from teei_ingest.errors import KeyringError, SettingsError, UsageError
from teei_ingest.pipeline.buffer import RowBuffer
from teei_ingest.privacy.audit_log import AuditLog
from teei_ingest.redact.forward import brought_forward
from teei_ingest.redact.tokens import Pseudonyms
from teei_ingest.settings import Settings, decode_master_key, is_outside, is_published
from teei_ingest.store import open_store
from teei_ingest.store.rotations import Rotation, Rotations, Stage
from teei_ingest.store.tables import Store, contracts
from teei_ingest.vault.keys import PURPOSES, KeyRing, add_version, has_ring, rewrap, shredded
from teei_ingest.vault.wrapping import check_master, forget_home_key, home_key, master_of

# An event's id never changes, so neither does the key that it is made with. Sealed files name the version of theirs.
ROTATED = ("pseudonym", "seal", "quarantine", "suppression")


@dataclass(frozen=True)
class Rotated:
    """What a rotation did: `rows` by table; `resumed` says that it went on with one that had been interrupted."""

    company: str
    version: int
    rows: dict[str, int]
    resumed: bool
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "seconds": round(self.seconds, 3)}


@dataclass(frozen=True)
class Standing:
    """How a company's keys stand: the newest version by purpose, or what is wrong with them."""

    company: str
    versions: dict[str, int]
    problem: str = ""
    shredded: bool = False
    unfinished: bool = False

    @property
    def remedy(self) -> str:
        return f"a rotation was interrupted: `teei keys rotate --company {self.company}`" if self.unfinished else ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def standing(settings: Settings, company: Company) -> Standing:
    """How the company's keys stand; what is wrong with them is not raised."""
    rotation = Rotations(settings.home / "rotation").get(company.slug)
    unfinished = rotation is not None and rotation.stage is not Stage.DONE
    if shredded(settings, company) is not None:
        return Standing(company.slug, {}, shredded=True)
    if not has_ring(settings, company) and not open_store(settings).holds(company.slug):
        return Standing(company.slug, {})
    try:
        ring = KeyRing.open(settings, company, create=False)
        ring.newest(settings, company, rotation.version if rotation and not unfinished else 1)
    except SettingsError as error:
        return Standing(company.slug, {}, problem=error.message, unfinished=unfinished)
    found = {purpose: ring.version(purpose) for purpose in PURPOSES}
    return Standing(company.slug, found, unfinished=unfinished)


def rotate_company(settings: Settings, company: Company, *, why: str = "") -> Rotated:
    """Bring a company's pseudonyms to a new key, or finish a rotation that was interrupted.

    Commits of the company wait; its readers see the rows of before until all tables are done, then those of after.
    Safe to repeat after a crash. Raises KeyringError, StoreError, AuditError.
    """
    begun = time.monotonic()
    store, audit = open_store(settings), AuditLog(settings)
    rotations, slug = Rotations(settings.home / "rotation"), company.slug
    with store.alone_with(slug, unfinished=True):
        ring = KeyRing.open(settings, company, create=False)
        rotation = rotations.get(slug)
        resumed = rotation is not None and rotation.stage is not Stage.DONE
        version = rotation.version if rotation and resumed else ring.version("pseudonym") + 1
        if rotation and not resumed:
            ring.newest(settings, company, rotation.version)
        audit.append("keys.rotation_started", company=slug, why=why, details={"version": version, "resumed": resumed})
        if rotation is None or not resumed:
            with store.reading():  # no purge may come between the versions and the note that keeps them
                rotation = Rotation(version, Stage.PREPARED, store.versions())
                rotations.put(slug, rotation)
        if rotation.stage is Stage.PREPARED:
            if ring.version("pseudonym") < rotation.version:
                ring = add_version(settings, company, ROTATED)
            rotation = replace(rotation, stage=Stage.MIGRATING)
            rotations.put(slug, rotation)
        ring = ring.newest(settings, company, rotation.version)
        rows: dict[str, int] = {}
        if rotation.stage is Stage.MIGRATING:
            rows = _migrate(store, slug, Pseudonyms.of(ring), settings.home / "tmp")
            rotation = replace(rotation, stage=Stage.PURGING)
            rotations.put(slug, rotation)
        for contract in contracts():
            store.purge(contract)
        rotations.put(slug, Rotation(rotation.version, Stage.DONE, {}))
        audit.append("keys.rotated", company=slug, why=why, counts=rows, details={"version": rotation.version})
    return Rotated(slug, rotation.version, rows, resumed, time.monotonic() - begun)


def rotate_master(settings: Settings, new: str, *, why: str = "") -> int:
    """Wrap all rings by a new master key: 32 bytes in base64, or the name of one outside; the number that were not yet.

    Keys and data stay as they are. Safe to repeat after a crash. Raises SettingsError, KeyringError, AuditError;
    SecretsError, before anything is done, where a key outside cannot be used.
    """
    old_master = master_of(settings)
    if settings.is_sandbox:
        raise SettingsError("the sandbox keeps its published master key: there is nothing to rotate")
    problem = ""
    try:
        if is_published(new):
            problem = "is the sandbox's published one: make one of your own"
        elif not is_outside(new):
            decode_master_key(new)
    except ValueError as error:
        problem = str(error)
    if problem:
        raise SettingsError(f"the new master key {problem}")
    renewed = settings.model_copy(update={"master_key": SecretStr(new.strip())})
    new_master = master_of(renewed)
    if new_master.id == old_master.id:
        raise UsageError("the new master key is the one that is in use")
    check_master(renewed)
    what, log = "keys.master_rotation_started", AuditLog(renewed)
    kept = renewed.outside_key or "here"
    try:
        AuditLog(settings).append(what, why=why, details={"kept": kept})
    except KeyringError:  # an interrupted one had come as far as the log
        log.append(what, why=why, details={"kept": kept})
    count = rewrap(settings, old_master, new_master)
    log.rekey(home_key(settings), home_key(renewed))
    log.append("keys.master_rotated", why=why, counts={"rings": count}, details={"kept": kept})
    forget_home_key(settings)
    return count


def _migrate(store: Store, company: str, names: Pseudonyms, folder: Path) -> dict[str, int]:
    """Replace all rows of a company by such with newer pseudonyms; those that have them already stay the same."""
    rows: dict[str, int] = {}
    for contract in contracts():
        for stream in store.streams_of(contract, company):
            days = list(store.counts(contract, stream, company))
            # Not in passing: delta-rs cannot read a table while it writes one.
            with closing(RowBuffer(arrow_schema(contract), folder)) as newer:
                for batch in store.batches(contract, stream=stream, company=company, days=days):
                    nothing = np.zeros(len(batch), np.int64)
                    newer.append(brought_forward(batch, names), nothing.reshape(-1, 1), nothing, nothing)
                made = store.replace(contract, stream, company, days, newer.reader(np.ones(len(newer), bool)))
            rows[contract.table] = rows.get(contract.table, 0) + made
    return rows
