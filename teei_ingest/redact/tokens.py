"""Pseudonyms: people's tokens, hashes and event ids, all HMAC-SHA-256 (RFC 2104) under a company's keys.

What goes into a MAC is length-prefixed, so that no two inputs run into each other.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Self

import idna
import numpy as np
import pyarrow as pa

from teei_ingest.vault.keys import KeyRing

_BLOCK = 64
_ADDRESS = re.compile(r"[^@\s]+@[^@\s]+")
PSEUDONYM = r"([ht])([1-9][0-9]*)_([0-9a-f]{32})"
_PSEUDONYM = re.compile(PSEUDONYM)


def normalize_email(value: str) -> str | None:
    """The form in which addresses are compared, or None if it is no address.

    Trimmed, NFKC, casefolded, domain in IDNA; dots and plus signs stay, since they tell people apart.
    """
    if "@" not in value and value.isascii():
        return None
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", value).strip().casefold())
    if not _ADDRESS.fullmatch(folded):
        return None
    local, domain = folded.split("@")
    return f"{local}@{_ascii_domain(domain)}"


@lru_cache(10_000)
def _ascii_domain(domain: str) -> str:
    """A domain in IDNA's letters (RFC 5891), or as it is where it has none."""
    try:
        return idna.encode(domain, uts46=True).decode()
    except (idna.IDNAError, UnicodeError):
        return domain


def prefixed(*parts: str | bytes) -> bytes:
    """Parts with their lengths (4 bytes, big-endian) before them."""
    encoded = [part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


class Mac:
    """HMAC-SHA-256 whose two inner states are prepared once and copied for each message."""

    def __init__(self, key: bytes, start: bytes = b"") -> None:
        if len(key) > _BLOCK:
            key = hashlib.sha256(key).digest()
        padded = key.ljust(_BLOCK, b"\0")
        self._inner = hashlib.sha256(bytes(b ^ 0x36 for b in padded) + start)
        self._outer = hashlib.sha256(bytes(b ^ 0x5C for b in padded))

    def digest(self, message: bytes) -> bytes:
        """32 bytes."""
        inner = self._inner.copy()
        inner.update(message)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()

    def digests(self, messages: Iterable[bytes]) -> bytes:
        """All digests, one behind the other."""
        take_inner, take_outer = self._inner.copy, self._outer.copy
        made = []
        for message in messages:
            inner = take_inner()
            inner.update(message)
            outer = take_outer()
            outer.update(inner.digest())
            made.append(outer.digest())
        return b"".join(made)


class Pseudonyms:
    """A company's tokens (`t2_…`) and hashes (`h2_…`), each computed once; the number is the newest key's version.

    All are made under the first key and then taken forward, one version after the other, so that whoever holds the
    keys can bring an older one up to date without knowing whose it is, and two that were equal stay equal.
    """

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        """`keys` by version, from 1 without a gap."""
        self.version = len(keys)
        first, *later = (Mac(keys[version]) for version in range(1, self.version + 1))
        self._mac = first
        self._later = later
        self._people: dict[tuple[str, str], str] = {}
        self._hashes: dict[tuple[str, str], str] = {}

    @classmethod
    def of(cls, ring: KeyRing) -> Self:
        """Those of a company's ring."""
        return cls(ring.keys("pseudonym"))

    def person(self, namespace: str, value: str) -> str:
        """Token of a person: by email where the value is one, else by the id in its namespace."""
        known = self._people.get((namespace, value))
        if known is None:
            known = self._people[namespace, value] = self._made("t", "person", namespace, value)
        return known

    def hashed(self, namespace: str, value: str) -> str:
        """Hash of a value; addresses are normalized first."""
        known = self._hashes.get((namespace, value))
        if known is None:
            known = self._hashes[namespace, value] = self._made("h", "hash", namespace, value)
        return known

    def forward(self, text: str) -> str:
        """A pseudonym of an older version as the newest has it; every other text as it is."""
        found = _PSEUDONYM.fullmatch(text)
        if found is None or int(found[2]) >= self.version:
            return text
        return self._forward(found[1], int(found[2]), found[3])

    def _made(self, letter: str, kind: str, namespace: str, value: str) -> str:
        email = normalize_email(value)
        parts = (kind, "email", email) if email is not None else (kind, namespace, value)
        return self._forward(letter, 1, _body(self._mac, *parts))

    def _forward(self, letter: str, version: int, body: str) -> str:
        for mac in self._later[version - 1 :]:
            body = _body(mac, "rotate", body)
        return f"{letter}{self.version}_{body}"


def _body(mac: Mac, *parts: str) -> str:
    """128 bits in hex."""
    return mac.digest(prefixed(*parts)).hex()[:32]


class EventIds:
    """Event ids of one stream of a company: UUIDv8 (RFC 9562) from the first 128 bits of a MAC."""

    def __init__(self, key: bytes, company_id: str, stream: str) -> None:
        self._mac = Mac(key, prefixed(company_id, stream))

    def __call__(self, source_ids: Sequence[str], timestamp_ns: np.ndarray) -> np.ndarray:
        """n × 16 bytes; `timestamp_ns` is the source timestamp in nanoseconds since 1970."""
        moments = timestamp_ns.astype(">i8").tobytes()
        messages = [
            len(name).to_bytes(4, "big") + name + b"\0\0\0\x08" + moments[8 * at : 8 * at + 8]
            for at, name in enumerate(map(str.encode, source_ids))
        ]
        ids = np.frombuffer(self._mac.digests(messages), np.uint8).reshape(-1, 32)[:, :16].copy()
        ids[:, 6] = (ids[:, 6] & 0x0F) | 0x80
        ids[:, 8] = (ids[:, 8] & 0x3F) | 0x80
        return ids


_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_PLACES = [i for i in range(36) if i not in (8, 13, 18, 23)]


def uuid_text(ids: np.ndarray) -> Any:
    """n × 16 bytes as an Arrow array of UUIDs in their usual spelling."""
    count = len(ids)
    text = np.full((count, 36), ord("-"), np.uint8)
    digits = np.empty((count, 32), np.uint8)
    digits[:, 0::2] = _HEX[ids >> 4]
    digits[:, 1::2] = _HEX[ids & 15]
    text[:, _PLACES] = digits
    offsets = np.arange(0, 36 * (count + 1), 36, dtype=np.int32)
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(text))
