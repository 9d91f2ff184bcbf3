"""Mutants at random places, and which tests are to notice one of a file."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from teei_ingest_tests.bench.places import ROOT, base, child, environment_of
from teei_ingest_tests.mutation.trial import Mutant

FOLDERS = ("redact", "landing", "vault")
# Fast ones first.
TESTS: dict[str, tuple[str, ...]] = {
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
    "vault/credentials.py": ("test_vault.py",),
    "vault/files.py": ("test_landing.py", "test_vault.py"),
    "vault/keys.py": ("test_vault.py", "test_keys_rotate.py"),
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
        made.append(Mutant(name, file, found["text"], TESTS[file]))
    return made
