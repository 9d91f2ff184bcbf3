"""The master key: 32 bytes of ours, or one that stays outside and wraps keys for us.

Belongs here: which one it is, and what each does for a file of keys. Does not belong here: the files
(`keys.py`), Vault's and AWS's protocols (`hashicorp.py`, `aws.py`).

Ours wraps the keys in a file itself. One that stays outside, of which we never see a byte, wraps one new key for each
file, and that wraps those in it: one request to open a file, however many keys it has.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from filelock import FileLock

from teei_ingest.errors import KeyringError, SecretsError
from teei_ingest.settings import Settings
from teei_ingest.vault.files import os_errors, private_folder, remove, replacing
from teei_ingest.vault.secrets import kept, patiently

_FORMAT = "teei-home-key-1"
_HOME = "home"  # what the home's own key is for, where a ring's is for a company's id


class Wrapper(Protocol):
    """A key outside. Raises SecretsError, SecretsDown; InvalidTag for what another one wrapped, or for another use."""

    id: str

    def wrap(self, key: bytes, context: str) -> str:
        """Text from which `unwrap` makes the key again, for the same context."""

    def unwrap(self, wrapped: str, context: str) -> bytes:
        """The key."""


class Master(Protocol):
    """What a file's keys are wrapped by, in the end. `id` tells which, and is no secret."""

    id: str

    def new_key(self, context: str) -> tuple[bytes, str]:
        """32 bytes to wrap with, and the text that gives them again."""

    def key(self, text: str, context: str) -> bytes:
        """These bytes. Raises InvalidTag where the text is another master key's."""


class LocalMaster:
    """32 bytes that are in our memory; the text is empty."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        # Tells a wrong master key from a damaged file; 64 bits say nothing about a random key.
        self.id = HKDF(SHA256(), 8, salt=None, info=b"teei-keys-1\nmaster").derive(key).hex()

    def new_key(self, context: str) -> tuple[bytes, str]:
        return self._key, ""

    def key(self, text: str, context: str) -> bytes:
        return self._key


class OutsideMaster:
    """One that stays in Vault or AWS."""

    def __init__(self, wrapper: Wrapper, settings: Settings) -> None:
        self._wrapper = wrapper
        self._settings = settings
        self.id = wrapper.id

    def new_key(self, context: str) -> tuple[bytes, str]:
        key = secrets.token_bytes(32)
        return key, patiently(self._settings, lambda: self._wrapper.wrap(key, context))

    def key(self, text: str, context: str) -> bytes:
        key = patiently(self._settings, lambda: self._wrapper.unwrap(text, context))
        if len(key) != 32:
            raise InvalidTag
        return key


def master_of(settings: Settings) -> Master:
    """The master key. Raises SettingsError if there is none, SecretsError where it cannot be asked for."""
    name = settings.outside_key
    if not name:
        return LocalMaster(settings.master_key_bytes())
    return kept(settings, name, lambda: OutsideMaster(_wrapper(settings, name), settings))


def check_master(settings: Settings) -> None:
    """Have the master key wrap and unwrap something. Raises SettingsError, SecretsError, SecretsDown."""
    master = master_of(settings)
    key, text = master.new_key("check")
    try:
        same = master.key(text, "check") == key
    except InvalidTag:
        same = False
    if not same:
        raise SecretsError(f"{master.id} does not unwrap what it wraps: is it a key for encryption?")


def home_key(settings: Settings) -> bytes:
    """32 bytes for what is no company's: the audit log, names of quota files, ids of webhook deliveries.

    It is the master key, as long as that is ours; else a key of the home's own, made when it is first needed, which
    the master key wraps. Raises KeyringError, SettingsError, SecretsError.
    """
    if not settings.outside_key:
        return settings.master_key_bytes()
    path = _home_path(settings)
    found = kept(settings, str(path), lambda: _HomeKey(path, master_of(settings)))
    return found.key()


def forget_home_key(settings: Settings) -> None:
    """Remove the home's own key of a master key that is no longer in use."""
    if settings.outside_key:
        remove(_home_path(settings))


def lock_of(folder: Path) -> FileLock:
    """Held by the one process that changes files of keys."""
    return FileLock(private_folder(folder) / ".lock", mode=0o600)


def _home_path(settings: Settings) -> Path:
    name = hashlib.sha256(master_of(settings).id.encode()).hexdigest()[:16]
    return settings.home / "keys" / f"{_HOME}-{name}.key"


def _wrapper(settings: Settings, name: str) -> Wrapper:
    if name.startswith("transit:"):
        from teei_ingest.vault.hashicorp import Transit, Vault

        return Transit(Vault.of(settings), name)
    from teei_ingest.vault.aws import Kms

    return Kms(settings, name)


class _HomeKey:
    """The home's own key in its file; unwrapped once."""

    def __init__(self, path: Path, master: Master) -> None:
        self._path = path
        self._master = master
        self._known: tuple[str, bytes] = ("", b"")

    def key(self) -> bytes:
        with os_errors(self._failure):
            if not self._path.exists():
                with lock_of(self._path.parent):
                    if not self._path.exists():
                        self._make()
            text = self._text()
        if text != self._known[0]:
            self._known = text, self._opened(text)
        return self._known[1]

    def _make(self) -> None:
        _, text = self._master.new_key(_HOME)
        document = {"format": _FORMAT, "master": self._master.id, "wrapped": text}
        with replacing(self._path, self._failure) as write:
            write(json.dumps(document, indent=1).encode() + b"\n")

    def _text(self) -> str:
        try:
            document = json.loads(self._path.read_bytes())
            if document["format"] == _FORMAT and document["master"] == self._master.id:
                return str(document["wrapped"])
        except (ValueError, KeyError, TypeError):
            pass
        raise self._failure("is damaged: restore it from its backup")

    def _opened(self, text: str) -> bytes:
        try:
            return self._master.key(text, _HOME)
        except InvalidTag:
            pass
        raise self._failure("is damaged: restore it from its backup")

    def _failure(self, reason: str) -> KeyringError:
        return KeyringError(f"{self._path}: {reason}")
