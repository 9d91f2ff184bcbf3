"""A ring of keys for each company, wrapped by the master key.

Belongs here: making, wrapping, opening, rewrapping, adding and destroying keys. Does not belong here: what they are
used for (`redact/`, `landing/`), bringing data to a newer key (`privacy/`), the master key itself (`wrapping.py`).

Keys are independent and random, 32 bytes, AES-256-GCM-wrapped with (company id, purpose, version) as
additional data, so that none can be put in another's place. What wraps them is the master key, or, where that stays
outside, a key of the file's own, which it wraps. One file a company, outside the data:
`$TEEI_HOME/keys/<company id>.json`. A sandbox with the published master key derives them instead
(HKDF-SHA-256, RFC 5869), so that its ids are the same for everybody. A ring keeps every version of a key, numbered
from 1. Beside the ring of a company that was shredded lies a tombstone, as long as which no new ring is made.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from teei_ingest.companies import Company
from teei_ingest.errors import KeyringError
from teei_ingest.settings import SANDBOX_MASTER_KEY, Settings, decode_master_key, is_outside
from teei_ingest.vault.files import Failure, os_errors, remove, remove_dead, replacing
from teei_ingest.vault.wrapping import Master, lock_of, master_of

PURPOSES = ("pseudonym", "event_id", "seal", "quarantine", "suppression")

_FORMAT = "teei-keys-1"
_STILL = "until then nothing is added; `teei sql` shows what is there"
_Keys = dict[tuple[str, int], bytes]


class KeyRing:
    """One company's keys, by purpose and version. Neither repr nor pickle shows them."""

    def __init__(self, company_id: UUID, keys: Mapping[tuple[str, int], bytes]) -> None:
        self.company_id = company_id
        self._keys = dict(keys)
        self._current = {purpose: max(v for p, v in keys if p == purpose) for purpose in PURPOSES}

    @classmethod
    def open(cls, settings: Settings, company: Company, *, create: bool | Callable[[], bool] = True) -> Self:
        """Open the company's ring; the first time, make it.

        With `create` false a missing ring is an error: right where the company has data already, which new keys could
        not join. A function is asked only where there is no ring. Raises KeyringError, for a shredded company too;
        SettingsError if there is no master key, SecretsError if it stays outside and cannot be used.
        """
        refuse_shredded(settings, company)
        master = master_of(settings)
        path = _path(settings, company.id)
        with os_errors(_disk_failure(path)):
            if not path.exists():
                may_create = create() if callable(create) else create
                if not may_create and not path.exists():
                    raise _lost(path, company)
                with lock_of(path.parent):
                    refuse_shredded(settings, company)
                    if not path.exists():
                        _write(path, company.id, _new_keys(settings, company.id), master)
            return cls(company.id, _read(path, company.id, master))

    def newest(self, settings: Settings, company: Company, needed: int = 1) -> KeyRing:
        """The ring as it is now, this one if no key was added; `needed` is the pseudonyms' version in the tables.

        Raises KeyringError, also for a ring that is older than the tables, such as one from an old backup.
        """
        now = versions(settings, company)
        ring = self if now == self._current else KeyRing.open(settings, company, create=False)
        if ring.version("pseudonym") < needed:
            raise _outdated(settings, company)
        return ring

    def key(self, purpose: str, version: int | None = None) -> bytes:
        """32 bytes; the newest version unless told. Raises KeyringError for one that is not there."""
        key = self._keys.get((purpose, self.version(purpose) if version is None else version))
        if key is None:
            raise KeyringError(f"company {self.company_id} has no {purpose} key of version {version}")
        return key

    def keys(self, purpose: str) -> dict[int, bytes]:
        """All versions of a key, 32 bytes each."""
        return {version: key for (of, version), key in self._keys.items() if of == purpose}

    def version(self, purpose: str) -> int:
        """The newest version."""
        return self._current[purpose]

    def __repr__(self) -> str:
        return f"KeyRing({self.company_id}, {self._current})"

    def __reduce__(self) -> Any:
        raise TypeError("a key ring is not pickled: open it where it is needed")


def rewrap(settings: Settings, old_master: Master, new_master: Master) -> int:
    """Wrap all rings of this home by a new master key; the keys, and so the data, stay as they are.

    Rings that the new one wraps already are left alone, so a broken run is mended by another. Nothing is
    written unless every ring opens. Returns the number of rings rewrapped. Raises KeyringError, SecretsError.
    """
    with os_errors(_disk_failure(_folder(settings))), lock_of(_folder(settings)):
        rings: dict[Path, tuple[UUID, _Keys]] = {}
        for path in sorted(_folder(settings).glob("*.json")):
            company_id = _company_id(path)
            document = _document(path)
            if document["master"] != new_master.id:
                rings[path] = company_id, _unwrap(path, document, company_id, old_master)
        for path, (company_id, keys) in rings.items():
            _write(path, company_id, keys, new_master)
        return len(rings)


def add_version(settings: Settings, company: Company, purposes: Iterable[str]) -> KeyRing:
    """Give a ring a newer key for each purpose, in one step; the ring with them. Raises KeyringError."""
    refuse_shredded(settings, company)
    master = master_of(settings)
    path = _path(settings, company.id)
    with os_errors(_disk_failure(path)), lock_of(path.parent):
        if not path.exists():
            raise _lost(path, company)
        keys = _read(path, company.id, master)
        for purpose in purposes:
            version = 1 + max(version for of, version in keys if of == purpose)
            keys[purpose, version] = _new_key(settings, company.id, purpose, version)
        _write(path, company.id, keys, master)
    return KeyRing(company.id, keys)


def versions(settings: Settings, company: Company) -> dict[str, int]:
    """The newest version of each key as the file has it, cheaply and without opening any.

    Nobody vouches for them but the file. Raises KeyringError, for a shredded company too.
    """
    refuse_shredded(settings, company)
    path = _path(settings, company.id)
    if not path.exists():
        raise _lost(path, company)
    with os_errors(_disk_failure(path)):
        return _versions(path)


def destroy(settings: Settings, company: Company) -> None:
    """Remove a company's keys for good; nothing happens if there are none."""
    path = _path(settings, company.id)
    with os_errors(_disk_failure(path)), lock_of(path.parent):
        remove_dead(path.parent)
        remove(path)


def has_ring(settings: Settings, company: Company) -> bool:
    """Whether the company has keys, readable or not."""
    return _path(settings, company.id).exists()


def tombstone(settings: Settings, company: Company) -> Path:
    """The file that says that a company was shredded, or is being."""
    return _path(settings, company.id).with_suffix(".shredded")


def shredded(settings: Settings, company: Company) -> str | None:
    """When the company was shredded; empty as long as that is not done, None if it was not. Raises KeyringError."""
    path = tombstone(settings, company)
    try:
        return str(json.loads(path.read_bytes())["ended"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return ""
    except OSError as error:
        reason = error.strerror
    raise KeyringError(f"the keys in {path.parent} cannot be read: {reason}; mend that", company=company.slug)


def refuse_shredded(settings: Settings, company: Company) -> None:
    """Raises KeyringError for a company that was shredded, since new keys would begin it anew unasked."""
    when, slug = shredded(settings, company), company.slug
    if when == "":
        message = f"is being shredded: `teei shred --company {slug} --confirm {slug}` finishes that"
    elif when:
        stone = tombstone(settings, company)
        message = f"was shredded: take it out of the companies file, or remove {stone} to begin it anew with other keys"
    else:
        return
    raise KeyringError(message, company=slug)


def _folder(settings: Settings) -> Path:
    return settings.home / "keys"


def _path(settings: Settings, company_id: UUID) -> Path:
    return _folder(settings) / f"{company_id}.json"


def _company_id(path: Path) -> UUID:
    try:
        return UUID(path.stem)
    except ValueError:
        pass
    raise KeyringError(f"{path} is no key ring: move it elsewhere")


def _new_keys(settings: Settings, company_id: UUID) -> _Keys:
    return {(purpose, 1): _new_key(settings, company_id, purpose, 1) for purpose in PURPOSES}


def _new_key(settings: Settings, company_id: UUID, purpose: str, version: int) -> bytes:
    if settings.is_sandbox:
        published = decode_master_key(SANDBOX_MASTER_KEY)
        return HKDF(SHA256(), 32, salt=None, info=_aad(company_id, purpose, version)).derive(published)
    return secrets.token_bytes(32)


def _aad(company_id: UUID, purpose: str, version: int) -> bytes:
    return f"{_FORMAT}\n{company_id}\n{purpose}\n{version}".encode()


def _write(path: Path, company_id: UUID, keys: _Keys, master: Master) -> None:
    wrapping, text = master.new_key(str(company_id))
    wrapped: dict[str, dict[str, str]] = {}
    for (purpose, version), key in keys.items():
        nonce = secrets.token_bytes(12)
        box = nonce + AESGCM(wrapping).encrypt(nonce, key, _aad(company_id, purpose, version))
        wrapped.setdefault(purpose, {})[str(version)] = base64.b64encode(box).decode()
    document = {
        "format": _FORMAT,
        "company_id": str(company_id),
        "master": master.id,
        **({"wrapped": text} if text else {}),
        "keys": wrapped,
    }
    with replacing(path, _disk_failure(path)) as write:
        write(json.dumps(document, indent=1).encode() + b"\n")


def _read(path: Path, company_id: UUID, master: Master) -> _Keys:
    return _unwrap(path, _document(path), company_id, master)


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
        if document["format"] == _FORMAT and isinstance(document["master"], str):
            return dict(document)
    except (ValueError, KeyError, TypeError):
        pass
    raise _damaged(path)


def _unwrap(path: Path, document: dict[str, Any], company_id: UUID, master: Master) -> _Keys:
    keys: _Keys = {}
    made_with = document["master"]
    if made_with != master.id:
        named = made_with if is_outside(made_with) else "the one that it was made with"
        raise KeyringError(f"{path} needs another master key: set TEEI_MASTER_KEY to {named} ({_STILL})")
    try:
        wrapping = master.key(str(document.get("wrapped", "")), str(company_id))
        for purpose, versions in document["keys"].items():
            for version, box in versions.items():
                raw = base64.b64decode(box, validate=True)
                aad = _aad(company_id, purpose, int(version))
                keys[purpose, int(version)] = AESGCM(wrapping).decrypt(raw[:12], raw[12:], aad)
        if _complete(keys):
            return keys
    except (InvalidTag, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise _damaged(path)


def _versions(path: Path) -> dict[str, int]:
    try:
        keys = {(purpose, int(version)): b"" for purpose, boxes in _document(path)["keys"].items() for version in boxes}
        if _complete(keys):
            return {purpose: sum(of == purpose for of, _ in keys) for purpose in PURPOSES}
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise _damaged(path)


def _complete(keys: _Keys) -> bool:
    """Whether every purpose has its keys, without a gap."""
    found: dict[str, list[int]] = {}
    for purpose, version in keys:
        found.setdefault(purpose, []).append(version)
    whole = all(sorted(numbers) == list(range(1, len(numbers) + 1)) for numbers in found.values())
    return whole and set(found) == set(PURPOSES)


def _disk_failure(path: Path) -> Failure:
    return lambda reason: KeyringError(f"{path}: {reason}")


def _outdated(settings: Settings, company: Company) -> KeyringError:
    path = _path(settings, company.id)
    return KeyringError(f"{path} is older than the events: restore the newest ({_STILL})", company=company.slug)


def _lost(path: Path, company: Company) -> KeyringError:
    return KeyringError(f"the keys are lost: restore {path} ({_STILL})", company=company.slug)


def _damaged(path: Path) -> KeyringError:
    return KeyringError(f"{path} is damaged: restore it from its backup ({_STILL})")
