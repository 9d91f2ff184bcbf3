"""Redacting by hand: records of a stream in, what is kept of them out, under fixed keys."""

from __future__ import annotations

import json
import unicodedata
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import idna
from hypothesis import strategies as st

from teei_ingest.mapping.columns import Batch, Columns
from teei_ingest.mapping.decode import Records
from teei_ingest.mapping.plan import plan
from teei_ingest.redact.apply import Redacted, Redactor
from teei_ingest.redact.policy import policy_for
from teei_ingest.vault.keys import PURPOSES, KeyRing

COMPANY = "550e8400-e29b-41d4-a716-446655440000"


def ring(seed: int = 0, versions: int = 1) -> KeyRing:
    """Fixed keys, another set for each seed; `versions` of those for pseudonyms."""
    keys = {(purpose, 1): bytes([seed + number]) * 32 for number, purpose in enumerate(PURPOSES)}
    keys |= {("pseudonym", version): bytes([seed, version] * 16) for version in range(2, versions + 1)}
    return KeyRing(uuid.UUID(COMPANY), keys)


def mapped(stream: str, records: Sequence[Mapping[str, Any]], wanted: frozenset[str] | None = None) -> Batch:
    """Records as columns; all of them have to keep their contract."""
    compiled = plan(stream)
    body = json.dumps({compiled.stream.records: records}).encode()
    everything = frozenset(field.leaf.key for field in compiled.fields)
    batch = Columns(compiled, everything if wanted is None else wanted).from_rows(Records(compiled)(body)[0])
    assert batch.refused == []
    return batch


def redact(
    stream: str,
    records: Sequence[Mapping[str, Any]],
    privacy: Mapping[str, Any] | None = None,
    *,
    keys: KeyRing | None = None,
    company: str = COMPANY,
) -> Redacted:
    """What is kept of the records, and what the guard stops."""
    redactor = Redactor(
        plan(stream), "acme-corp", company, "tenant", keys or ring(), policy_for("acme-corp", privacy or {})
    )
    return redactor(mapped(stream, records, redactor.wanted))


# --- addresses, and in how many ways they are written

LOCAL = st.from_regex(r"[a-z0-9]{1,8}([.+_-][a-z0-9]{1,6})?", fullmatch=True)
LABEL = st.text("abcdefghijklmnopqrstuvwxyzøüéäß日本", min_size=1, max_size=8).filter(lambda one: one.casefold() == one)
DOMAIN = st.lists(LABEL, min_size=1, max_size=2).map(lambda labels: ".".join([*labels, "example"]))


def disguises(local: str, domain: str) -> list[str]:
    """Other spellings of an address."""
    plain = f"{local}@{domain}"
    wide = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in local)
    return [
        plain.upper() if plain.upper().casefold() == plain else plain,
        plain.title() if plain.title().casefold() == plain else plain,
        f" {plain}\t",
        f"\u00a0{plain}\u3000",
        f"{wide}@{domain}",
        f"{local}\uff20{domain}",
        unicodedata.normalize("NFD", plain),
        f"{local}@{idna.encode(domain, uts46=True).decode()}",
        f"{local}@{idna.encode(domain, uts46=True).decode().upper()}",
    ]
