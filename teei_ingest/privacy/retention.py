"""How long things are kept: the rules that the settings set, and the end of events and files that have outlived theirs.

Does not belong here: Dagster's own log (`defs/retention.py`), and what goes because somebody asked for it (`erase.py`).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from teei_ingest.errors import SettingsError
from teei_ingest.landing.landing import Landing, old_files
from teei_ingest.landing.quarantine import Quarantine
from teei_ingest.settings import Settings
from teei_ingest.store.presence import Presence
from teei_ingest.store.tables import Store, contracts
from teei_ingest.store.vanished import Vanished
from teei_ingest.vault.files import older, os_errors, remove
from teei_ingest.webhooks.deliveries import Deliveries


class Rule(NamedTuple):
    """What is kept, for how many days (None: until somebody erases it), and the variable that says so."""

    name: str
    what: str
    days: float | None
    variable: str


def rules(settings: Settings) -> tuple[Rule, ...]:
    """The rules in force, one for each kind of thing."""
    events = settings.events_ttl_d
    found = (
        ("events", "events, by their own day", "D", events),
        ("landing", "sealed records that wait for their events", "H", settings.landing_ttl_h / 24),
        ("quarantine", "sealed records that broke their contract", "D", settings.quarantine_ttl_d),
        ("webhooks", "ids of webhook deliveries, as keyed hashes", "D", settings.webhooks_ttl_d),
        ("run_log", "Dagster's runs and their log, from their end", "D", settings.run_log_ttl_d),
        ("compute_log", "files of what steps printed", "D", settings.compute_log_ttl_d),
    )
    return tuple(Rule(name, what, days, f"TEEI_{name.upper()}_TTL_{unit}") for name, what, unit, days in found)


def keep(settings: Settings, store: Store, now: datetime, *, dry_run: bool = False) -> dict[str, int]:
    """Remove the events (rows) and files that are older than their rule; how many, by rule. Safe to repeat.

    `now` is in UTC. With `dry_run` nothing is removed. Raises StoreError, LandingError, SettingsError.
    """
    moment = now.timestamp()
    landing, quarantine = Landing(settings), Quarantine(settings)
    if dry_run:
        landed = len(old_files(landing.folder, settings.landing_ttl_h * 3600, moment))
        quarantined = len(old_files(quarantine.folder, settings.quarantine_ttl_d * 86400, moment))
    else:
        landed, quarantined = landing.sweep(moment), quarantine.sweep(moment)
    # Where Dagster puts them unless told otherwise, and where they stay when it is told otherwise later.
    captured = (settings.dagster_home / "storage").glob("*/compute_logs/*")
    with os_errors(lambda reason: SettingsError(f"{settings.dagster_home}/storage: {reason}")):
        printed = list(older(captured, moment - settings.compute_log_ttl_d * 86400))
        if not dry_run:
            for path in printed:
                remove(path)
    delivered = Deliveries(settings).forget_before(moment - settings.webhooks_ttl_d * 86400, dry_run=dry_run)
    events = 0
    if settings.events_ttl_d is not None:
        before = now.date() - timedelta(settings.events_ttl_d)
        expire = store.expired if dry_run else store.expire
        events = sum(expire(contract, before) for contract in contracts())
        if not dry_run:
            Vanished(settings.home).forget_before(before)
            Presence(settings.home).forget_before(before)
    files = {"landing": landed, "quarantine": quarantined, "compute_log": len(printed)}
    return {"events": events, **files, "webhooks": delivered}
