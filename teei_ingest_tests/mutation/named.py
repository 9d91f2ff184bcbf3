"""Mutants that each break one promise, and the tests that have to notice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from teei_ingest_tests.bench.places import ROOT
from teei_ingest_tests.mutation.trial import Mutant

_SEALED, _KEYS, _TOKENS = "landing/sealed.py", "vault/keys.py", "redact/tokens.py"
_TABLES, _LOCKS, _INGEST, _BATCH = "store/tables.py", "store/locks.py", "pipeline/ingest.py", "pipeline/batch.py"
_DRY = "table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False, full=True)"
_TIDY = "table.vacuum(dry_run=False, full=True)"


class _Named(NamedTuple):
    name: str
    file: str
    tests: tuple[str, ...]
    edits: tuple[tuple[str, str], ...]  # what is there once, and what takes its place


_NAMED = (
    # --- additional data: a box opens only in its own place
    _Named(
        "AAD dropped: chunks",
        _SEALED,
        ("test_landing.py",),
        (
            ("chunk, prefix + _POSITION.pack(number, final)", "chunk, None"),
            ("box, prefix + _POSITION.pack(number, final)", "box, None"),
        ),
    ),
    _Named(
        "AAD dropped: position and end of a chunk",
        _SEALED,
        ("test_landing.py",),
        (
            ("chunk, prefix + _POSITION.pack(number, final)", "chunk, prefix"),
            ("box, prefix + _POSITION.pack(number, final)", "box, prefix"),
        ),
    ),
    _Named(
        "AAD dropped: a file's data key",
        _SEALED,
        ("test_landing.py",),
        (
            ("encrypt(nonce, data_key, _MAGIC + _json(fields))", "encrypt(nonce, data_key, None)"),
            ("decrypt(box[:12], box[12:], _MAGIC + _json(fields))", "decrypt(box[:12], box[12:], None)"),
        ),
    ),
    _Named(
        "AAD dropped: keys of a ring",
        _KEYS,
        ("test_vault.py",),
        (
            ("encrypt(nonce, key, _aad(company_id, purpose, version))", "encrypt(nonce, key, None)"),
            ("decrypt(raw[:12], raw[12:], aad)", "decrypt(raw[:12], raw[12:], None)"),
        ),
    ),
    # --- nonces
    _Named(
        "nonce reused: chunks",
        _SEALED,
        ("test_landing.py",),
        (("return number.to_bytes(12, ", "return (0).to_bytes(12, "),),
    ),
    _Named(
        "nonce reused: every file under one data key",
        _SEALED,
        ("test_landing.py",),
        (("data_key, nonce = secrets.token_bytes(32)", "data_key, nonce = ring.key(purpose)"),),
    ),
    _Named(
        "nonce reused: wrapped data keys",
        _SEALED,
        ("test_landing.py", "test_proof_sealing.py"),
        (("secrets.token_bytes(32), secrets.token_bytes(12)", "secrets.token_bytes(32), bytes(12)"),),
    ),
    _Named(
        "nonce reused: keys of a ring",
        _KEYS,
        ("test_vault.py",),
        (("nonce = secrets.token_bytes(12)", "nonce = bytes(12)"),),
    ),
    # --- keyed hashes
    _Named(
        "hash without key: pseudonyms",
        _TOKENS,
        ("test_redact.py",),
        (("mac.digest(prefixed(*parts))", "hashlib.sha256(prefixed(*parts)).digest()"),),
    ),
    _Named(
        "hash without key: every MAC",
        _TOKENS,
        ("test_redact.py",),
        (('padded = key.ljust(_BLOCK, b"\\0")', "padded = bytes(_BLOCK)"),),
    ),
    _Named(
        "hash without key: event ids",
        _TOKENS,
        ("test_redact.py",),
        (("self._mac = Mac(key, prefixed(company_id, stream))", 'self._mac = Mac(b"", prefixed(company_id, stream))'),),
    ),
    _Named(
        "hash without key: content of the quarantine",
        "landing/quarantine.py",
        ("test_landing.py",),
        (("hmac.digest(ring.key(_PURPOSE, 1), ", 'hmac.digest(b"", '),),
    ),
    _Named(
        "hash without key: names of quotas",
        "vault/credentials.py",
        ("test_vault.py",),
        (("hmac.digest(home_key(settings), ", 'hmac.digest(b"", '),),
    ),
    _Named(
        "lengths dropped from what a MAC takes",
        _TOKENS,
        ("test_redact.py",),
        (('len(part).to_bytes(4, "big") + part for', "part for"),),
    ),
    _Named(
        "addresses not brought to their normal form",
        _TOKENS,
        ("test_redact.py",),
        (("email = normalize_email(value)", 'email = value if "@" in value else None'),),
    ),
    _Named(
        "older pseudonyms not taken forward",
        _TOKENS,
        ("test_redact.py::test_a_token_goes_forward_to_where_a_new_one_is_made",),
        (("return self._forward(found[1], int(found[2]), found[3])", "return text"),),
    ),
    # --- who was erased
    _Named(
        "suppression check dropped: rows",
        _BATCH,
        ("test_erase.py::test_nobody_comes_back",),
        (("if self._redactor.suppressor is not None:\n            gone", "if False:\n            gone"),),
    ),
    _Named(
        "suppression check dropped: quarantine",
        _BATCH,
        ("test_erase.py::test_sealed_records_go_too",),
        (("if suppressor is not None and suppressor.names(people, self._mapper.group(record)):", "if False:"),),
    ),
    _Named(
        "suppression check dropped: groups",
        "redact/suppress.py",
        ("test_erase.py::test_nobody_comes_back",),
        (("gone |= np.fromiter(map(self.group, groups), bool, count)", "pass"),),
    ),
    _Named(
        "suppression check dropped: references",
        "redact/apply.py",
        ("test_erase.py::test_nobody_comes_back",),
        (("return lambda value: None if erased.person(value) else make(value)", "return make"),),
    ),
    _Named(
        "suppression check dropped: names beside references",
        "redact/apply.py",
        (
            "test_erase.py::test_nobody_comes_back",
            "test_erase.py::test_a_name_goes_with_the_reference_that_it_belongs_to",
        ),
        (("if self.suppressor and leaf.key in self._plan.stream.contract.beside:", "if False:"),),
    ),
    _Named(
        "suppression check dropped: references in a landing",
        _BATCH,
        ("test_erase.py::test_who_is_suppressed_does_not_land", "test_erase.py::test_nobody_comes_back"),
        ((" if suppressor is None else self._mapper.without(record, suppressor.person, MARK)", ""),),
    ),
    _Named(
        "suppression not looked at again before a commit",
        _INGEST,
        (
            "test_erase.py::test_a_landing_that_was_read_before_the_erasure",
            "test_shred.py::test_who_was_about_to_commit_does_not",
        ),
        (("            if not self._is_current(needed):\n                raise Stale\n", ""),),
    ),
    _Named(
        "suppression that changed is no reason to read again",
        _INGEST,
        ("test_erase.py::test_a_landing_that_was_read_before_the_erasure",),
        ((" and self._suppressions.version(self.company.slug) == self._suppressed", ""),),
    ),
    _Named(
        "suppression list not taken forward",
        "redact/suppress.py",
        ("test_erase.py::test_suppressed_through_a_rotation_of_keys",),
        (("frozenset(map(pseudonyms.forward, suppression.tokens))", "frozenset(suppression.tokens)"),),
    ),
    _Named(
        "what suppressed records show is not learned",
        _INGEST,
        ("test_erase.py::test_a_new_match_of_the_person_takes_its_check_ins_along",),
        (("        if found.links:\n", "        if False:\n"),),
    ),
    # --- purges and locks
    _Named(
        "full=True dropped: purge",
        _TABLES,
        ("test_erase.py::test_what_a_killed_writer_left_of_them",),
        ((_DRY, _DRY.replace(", full=True", "")),),
    ),
    _Named(
        "dry_run=False dropped: purge",
        _TABLES,
        ("test_erase.py::test_all_of_a_person_goes_and_nothing_else_changes",),
        ((_DRY, _DRY.replace("dry_run=False, ", "")),),
    ),
    _Named(
        "full=True dropped: tidying up",
        _TABLES,
        ("test_store_tables.py::test_what_no_version_needs_is_removed_after_a_day",),
        ((_TIDY, _TIDY.replace(", full=True", "")),),
    ),
    _Named(
        "dry_run=False dropped: tidying up",
        _TABLES,
        ("test_store_tables.py::test_what_no_version_needs_is_removed_after_a_day",),
        ((_TIDY, _TIDY.replace("dry_run=False, ", "")),),
    ),
    _Named(
        "log not cut by a purge",
        _TABLES,
        ("test_erase.py::test_all_of_a_person_goes_and_nothing_else_changes",),
        (("        table.cleanup_metadata()\n", ""),),
    ),
    _Named(
        "unfinished files left by a purge",
        _TABLES,
        ("test_erase.py::test_what_a_killed_writer_left_of_them",),
        (("  # nobody writes now\n            path.unlink(missing_ok=True)\n", "\n            pass\n"),),
    ),
    _Named(
        "purge beside readers",
        _TABLES,
        ("test_store_locks.py",),
        (("self._locks.exclusive(_lock(contract))", "self._locks.shared(_lock(contract))"),),
    ),
    _Named(
        "purge in the middle of a rotation",
        _TABLES,
        ("test_keys_rotate.py::test_nothing_that_readers_need_is_purged",),
        (
            ("                if not self._pinned():\n", "                if True:\n"),
            ("            for company in self._pinned():\n", "            for company in ():\n"),
        ),
    ),
    _Named(
        "lock not taken: commits",
        _TABLES,
        ("test_store_locks.py",),
        (("with self._shared(_company_lock(company)):", "with nullcontext():"),),
    ),
    _Named(
        "lock not taken: whoever wants to be alone",
        _TABLES,
        ("test_store_locks.py",),
        (("self._locks.exclusive(_company_lock(company)) if self._locks else ", ""),),
    ),
    _Named(
        "lock not taken: readers",
        _TABLES,
        ("test_store_locks.py",),
        (("held.enter_context(self._shared(name))", "pass"),),
    ),
    _Named(
        "no gate before a lock",
        _LOCKS,
        ("test_store_locks.py",),
        (("for one in (gate, room):", "for one in (room,):"),),
    ),
    # --- the guard and the policy
    _Named(
        "guard's result ignored: by the pipeline",
        _BATCH,
        ("test_pipeline.py::test_the_guard_quarantines_that_record_and_no_other",),
        (("            good[position] = False\n", ""),),
    ),
    _Named(
        "guard's result ignored: by redaction",
        "redact/apply.py",
        ("test_redact.py::test_the_guard_stops_what_a_readable_field_holds",),
        (("self._guard(batch, made, inside, own))", "{})"),),
    ),
    _Named(
        "guard without the record's own names",
        "redact/apply.py",
        ("test_redact.py",),
        (("(set() if free else own.full_names(values, rows))", "set()"),),
    ),
    _Named(
        "direct identifiers kept by default",
        "redact/policy.py",
        ("test_redact.py::test_the_default_is_what_the_design_says",),
        (('"direct": Mode.REMOVE', '"direct": Mode.KEEP'),),
    ),
    _Named(
        "a person's id among the allowed fields",
        "redact/policy.py",
        ("test_redact_policy.py",),
        (("if any(leaf.cls in PSEUDONYMS for leaf in known[name]):", "if False:"),),
    ),
    _Named(
        "class changed to public: a name",
        "contracts/directory.py",
        ("test_contracts.py",),
        (('direct("Given name", kind="name")', 'public("Given name", reason="short")'),),
    ),
    _Named(
        "class changed to public: a person's id",
        "contracts/base.py",
        ("test_contracts.py",),
        (('person_ref("The person\'s id in the source")', 'public("The person\'s id in the source", reason="an id")'),),
    ),
    _Named(
        "class changed to public: a receipt",
        "contracts/donation.py",
        ("test_contracts.py",),
        (('document_ref("Number of the receipt")', 'public("Number of the receipt", reason="a number")'),),
    ),
    _Named(
        "class changed to public: feedback",
        "contracts/placement.py",
        ("test_contracts.py",),
        (('free_text("What people said of it")', 'public("What people said of it", reason="words")'),),
    ),
    # --- keys and files
    _Named(
        "a ring older than the tables is taken",
        _KEYS,
        ("test_vault.py", "test_keys_rotate.py::test_keys_that_cannot_be_used"),
        (('if ring.version("pseudonym") < needed:', "if False:"),),
    ),
    _Named(
        "keys are made anew after a shredding",
        _KEYS,
        ("test_vault.py::test_keys_that_were_destroyed_are_not_made_anew",),
        (
            ("refuse_shredded(settings, company)\n        master", "master"),
            ("                    refuse_shredded(settings, company)\n", ""),
        ),
    ),
    _Named(
        "keys are kept after a shredding",
        _KEYS,
        ("test_shred.py::test_nothing_is_left",),
        (("        remove_dead(path.parent)\n        remove(path)\n", "        remove_dead(path.parent)\n"),),
    ),
    _Named(
        "files that others may read",
        "vault/files.py",
        ("test_landing.py::test_files_and_folders_are_private",),
        (("os.O_EXCL, 0o600", "os.O_EXCL, 0o644"),),
    ),
    _Named(
        "folders that others may read",
        "vault/files.py",
        ("test_landing.py::test_files_and_folders_are_private",),
        (("mkdir(mode=0o700)", "mkdir(mode=0o755)"),),
    ),
    # --- errors that carry a value along
    _Named(
        "from None dropped: a header",
        _SEALED,
        ("test_landing.py::test_every_flipped_bit_is_noticed",),
        ((" from None\n    if (fields", "\n    if (fields"),),
    ),
    _Named(
        "from None dropped: a chunk",
        _SEALED,
        ("test_landing.py::test_every_flipped_bit_is_noticed",),
        ((" from None\n        if final", "\n        if final"),),
    ),
    _Named(
        "from None dropped: the operating system's refusals",
        "vault/files.py",
        ("test_landing.py",),
        (("raise failure(reason) from None", "raise failure(reason)"),),
    ),
    _Named(
        "from None dropped: heads of a reply",
        "mapping/decode.py",
        ("test_mapping.py",),
        ((" from None\n        if reply", "\n        if reply"),),
    ),
    _Named(
        "from None dropped: records of a reply",
        "mapping/decode.py",
        ("test_mapping.py",),
        ((" from None\n        raw", "\n        raw"),),
    ),
    _Named(
        "from None dropped: times",
        "contracts/fields.py",
        ("test_contracts.py",),
        (
            (
                'raise ValueError("no such day, time or offset") from None',
                'raise ValueError("no such day, time or offset")',
            ),
        ),
    ),
    _Named(
        "from None dropped: days",
        "contracts/fields.py",
        ("test_contracts.py",),
        (('raise ValueError("no such day") from None', 'raise ValueError("no such day")'),),
    ),
    # --- erasing
    _Named(
        "nothing looked through after an erasure",
        "privacy/erase.py",
        ("test_erase.py::test_what_a_purge_left_is_found_before_it_is_done",),
        (("    if left or sealed.any:\n", "    if False:\n"),),
    ),
)


def named() -> Iterator[Mutant]:
    """All of them. Raises LookupError for one whose place is not there, or twice."""
    for one in _NAMED:
        text = (ROOT / "teei_ingest" / one.file).read_text()
        for old, new in one.edits:
            if text.count(old) != 1:
                raise LookupError(f"{one.name}: {one.file} has {old!r} {text.count(old)} times")
            text = text.replace(old, new)
        yield Mutant(one.name, one.file, text, one.tests)
