"""Mutants at random places, and which tests are to notice one of a file."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from teei_ingest_tests.bench.places import ROOT, base, child, environment_of
from teei_ingest_tests.mutation.trial import Mutant

# Which folders make a sample, and how much of it has to be killed.
GROUPS = {("redact", "landing", "vault"): 0.9, ("extract", "store"): 0.85}
FOLDERS = tuple(folder for group in GROUPS for folder in group)
_HTTP = (
    *("test_extract_http.py", "test_extract_auth.py", "test_extract_quota.py", "test_extract_read.py"),
    *("test_extract_ahead.py", "test_circuit.py"),
)
TESTS: dict[str, tuple[str, ...]] = {
    "extract/ahead.py": ("test_extract_ahead.py",),
    "extract/auth.py": ("test_extract_auth.py", "test_extract_http.py"),
    "extract/caller.py": ("test_extract_http.py", "test_extract_quota.py", "test_extract_read.py"),
    "extract/circuit.py": ("test_circuit.py", "test_shared_state.py"),
    "extract/http.py": _HTTP,
    "extract/ledger.py": ("test_extract_quota.py", "test_shared_state.py", "test_extract_http.py"),
    "extract/probe.py": ("test_extract_auth.py", "test_extract_read.py", "test_circuit.py"),
    "extract/quota.py": ("test_extract_quota.py", "test_shared_state.py", "test_extract_http.py"),
    "extract/read.py": ("test_extract_read.py", "test_moving_pages.py", "test_extract_ahead.py"),
    "landing/landing.py": ("test_landing.py", "test_erase.py", "test_pipeline.py"),
    "landing/quarantine.py": ("test_landing.py", "test_erase.py"),
    "landing/sealed.py": ("test_landing.py", "test_proof_sealing.py"),
    "landing/suppression.py": ("test_erase.py",),
    "redact/apply.py": ("test_redact.py", "test_erase.py"),
    "redact/audit.py": ("test_redact_policy.py", "test_dagster_checks.py"),
    "redact/forward.py": ("test_keys_rotate.py",),
    "redact/numbers.py": ("test_redact.py", "test_proof_guard.py"),
    "redact/policy.py": ("test_redact_policy.py", "test_redact.py", "test_privacy_policy.py"),
    "redact/suppress.py": ("test_erase.py",),
    "redact/text.py": ("test_redact.py", "test_proof_guard.py"),
    "redact/tighten.py": ("test_redact_tighten.py",),
    "redact/tokens.py": ("test_redact.py", "test_proof_properties.py"),
    "store/changes.py": ("test_store_tables.py", "test_unchanged.py", "test_late.py", "test_vanished.py"),
    "store/deployment.py": ("test_upgrade.py",),
    "store/drift.py": ("test_drift.py",),
    "store/export.py": ("test_shred.py", "test_export.py"),
    "store/forms.py": ("test_upgrade.py",),
    "store/locks.py": ("test_store_locks.py", "test_store_tables.py"),
    "store/pandas_later.py": ("test_store_sql.py", "test_cli.py"),
    "store/predicates.py": ("test_store_tables.py", "test_maintenance.py", "test_erase.py", "test_vanished.py"),
    "store/presence.py": ("test_presence.py",),
    "store/refusals.py": ("test_store_tables.py", "test_object_storage.py", "test_pipeline.py"),
    "store/released.py": ("test_export.py",),
    "store/rotations.py": ("test_keys_rotate.py", "test_shred.py"),
    "store/sql.py": ("test_store_sql.py",),
    "store/tables.py": (
        *("test_store_tables.py", "test_store_locks.py", "test_unchanged.py", "test_vanished.py", "test_erase.py"),
        *("test_keys_rotate.py", "test_store_sql.py", "test_maintenance.py", "test_upgrade.py"),
    ),
    "store/vanished.py": ("test_vanished.py",),
    "store/views.py": ("test_store_sql.py", "test_vanished.py", "test_export.py"),
    "vault/addresses.py": ("test_vault.py",),
    "vault/aws.py": ("test_secrets.py",),
    "vault/credentials.py": ("test_vault.py", "test_secrets.py"),
    "vault/database.py": ("test_webhooks.py", "test_gateway.py", "test_metrics.py"),
    "vault/documents.py": ("test_circuit.py", "test_extract_quota.py", "test_shared_state.py"),
    "vault/files.py": ("test_landing.py", "test_vault.py"),
    "vault/hashicorp.py": ("test_secrets.py",),
    "vault/keys.py": ("test_vault.py", "test_keys_rotate.py"),
    "vault/objects.py": ("test_object_storage.py",),
    "vault/postgres.py": ("test_shared_state.py", "test_circuit.py", "test_extract_quota.py"),
    "vault/secrets.py": ("test_secrets.py",),
    "vault/wrapping.py": ("test_secrets.py", "test_vault.py", "test_keys_rotate.py"),
}
_PACKAGES = ("cosmic-ray==8.7.0",)


def sample(folders: Collection[str], count: int, seed: int) -> list[Mutant]:
    """So many mutants of the modules below these folders, each at another place; the same for the same seed."""
    sources = {file: (ROOT / "teei_ingest" / file).read_text() for file in TESTS if file.split("/")[0] in folders}
    order = {"sources": sources, "sample": count, "seed": seed}
    python = environment_of("cosmic-ray", _PACKAGES)
    script = Path(__file__).with_name("operators.py")
    made = []
    for found in child([str(python), str(script)], order, ROOT, base())["mutants"]:
        file, line = found["file"], found["line"]
        was, made_of_it = (text.splitlines()[line - 1].strip() for text in (sources[file], found["text"]))
        name = f"line {line}, {found['operator']}: {was} → {made_of_it}"
        made.append(Mutant(name, file, found["text"], TESTS[file], line))
    return made
