"""Attack 6: sealed files that were changed, cut, or put together from others; and whether a nonce ever comes twice.

What one file promises is tested in `test_landing.py`; here is every byte, every pair of places, and a million chunks.
"""

from __future__ import annotations

import base64
import itertools
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from teei_ingest.companies import SANDBOX_COMPANIES, Company
from teei_ingest.errors import LandingError
from teei_ingest.landing import sealed
from teei_ingest.landing.sealed import read_sealed, write_sealed
from teei_ingest.settings import Settings
from teei_ingest.vault.keys import KeyRing

CHUNK = 32
RECORDS = [bytes([65 + at]) * (CHUNK - 4) for at in range(4)]  # each fills a chunk with its length
DAYS = (date(2024, 1, 15), date(2024, 1, 16))
STREAMS = ("benevity_volunteers", "benevity_donations")

Figures = dict[str, float]


@dataclass(frozen=True)
class _Place:
    company: Company
    stream: str
    day: date
    purpose: str

    @property
    def names(self) -> dict[str, Any]:
        return {"company": self.company.slug, "stream": self.stream, "day": self.day, "purpose": self.purpose}


def prove(scale: float = 1) -> Figures:
    """Counts of forgeries, all refused, and of nonces, none twice; AssertionError otherwise."""
    figures = _attacks(scale) | nonces(round(1_000_000 * scale))
    faults: tuple[tuple[str, Any, Callable[[], Any]], ...] = (
        ("AESGCM", _Unbound, lambda: _attacks(0.02)),
        ("_nonce", lambda number: bytes(12), lambda: nonces(100)),
        ("secrets", mock.Mock(token_bytes=bytes), lambda: nonces(100)),
    )
    for name, fault, attack in faults:
        with mock.patch.object(sealed, name, fault):
            try:
                attack()
            except AssertionError:
                continue
        raise AssertionError(f"the proof holds with a planted fault in `{name}`, so it shows nothing")
    return figures | {"planted_faults_found": len(faults)}


def _attacks(scale: float) -> Figures:
    with tempfile.TemporaryDirectory() as name, mock.patch.object(sealed, "CHUNK", CHUNK):
        folder = Path(name)
        rings = _rings(folder)
        files = {place: _sealed(folder, rings, place) for place in _places()}
        check = _Checker(folder / "forged", rings)
        one = next(iter(files))
        flips = itertools.product(range(0, len(files[one]), max(1, round(0.02 / scale))), range(8))
        figures = {
            "flipped_bits_refused": check(one, (_flipped(files[one], at, bit) for at, bit in flips)),
            "truncations_refused": check(one, (files[one][:end] for end in range(len(files[one])))),
            "extensions_refused": check(one, (files[one] + more for more in (b"\0", RECORDS[0], files[one]))),
        }
        swapped = moved = 0
        for place, other in itertools.permutations(files, 2):
            swapped += check(place, _exchanged(files[place], files[other]))
            moved += check(place, [files[other]])
        figures |= {"exchanged_chunks_refused": swapped, "moved_files_refused": moved}
        return figures | {"reordered_chunks_refused": check(one, _reordered(files[one]))}


def _rings(home: Path) -> dict[str, KeyRing]:
    master = base64.b64encode(secrets.token_bytes(32)).decode()
    settings = Settings.load({"TEEI_HOME": str(home), "TEEI_MASTER_KEY": master})
    return {company.slug: KeyRing.open(settings, company) for company in SANDBOX_COMPANIES[:2]}


def _places() -> Iterator[_Place]:
    for parts in itertools.product(SANDBOX_COMPANIES[:2], STREAMS, DAYS, ("seal", "quarantine")):
        yield _Place(*parts)


def _sealed(folder: Path, rings: dict[str, KeyRing], place: _Place) -> bytes:
    path = folder / "f"
    write_sealed(path, rings[place.company.slug], RECORDS, **place.names, attempt="a")
    assert list(read_sealed(path, rings[place.company.slug], **place.names)) == RECORDS
    return path.read_bytes()


@dataclass
class _Checker:
    """Reads forgeries in a place; all have to be refused."""

    path: Path
    rings: dict[str, KeyRing]

    def __call__(self, place: _Place, forgeries: Any) -> int:
        count = 0
        for forged in forgeries:
            self.path.write_bytes(forged)
            try:
                list(read_sealed(self.path, self.rings[place.company.slug], **place.names))
            except LandingError:
                count += 1
                continue
            raise AssertionError(f"a forged file was read as one of {place.stream}, {place.day}")
        return count


def _flipped(whole: bytes, at: int, bit: int) -> bytes:
    return whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]


def _parts(whole: bytes) -> list[bytes]:
    """Header and chunks."""
    size = 5 + CHUNK + 16
    start = len(whole) - len(RECORDS) * size
    return [whole[:start], *(whole[at : at + size] for at in range(start, len(whole), size))]


def _exchanged(whole: bytes, other: bytes) -> Iterator[bytes]:
    """Each part from another file, one at a time."""
    parts, others = _parts(whole), _parts(other)
    for at in range(len(parts)):
        yield b"".join([*parts[:at], others[at], *parts[at + 1 :]])


def _reordered(whole: bytes) -> Iterator[bytes]:
    head, *chunks = _parts(whole)
    for size in range(len(chunks) + 1):
        for order in itertools.permutations(chunks, size):
            if list(order) != chunks:
                yield head + b"".join(order)


class _Unbound:
    """A cipher that forgets what a chunk is bound to."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def encrypt(self, nonce: bytes, data: bytes, _: bytes) -> bytes:
        return self._cipher.encrypt(nonce, data, None)

    def decrypt(self, nonce: bytes, data: bytes, _: bytes) -> bytes:
        return self._cipher.decrypt(nonce, data, None)


# --- nonces ------------------------------------------------------------------------------------------------------


def nonces(count: int) -> Figures:
    """Write `count` chunks, half of them in one file, and look at every key and nonce that the writer used."""
    with tempfile.TemporaryDirectory() as name, mock.patch.object(sealed, "CHUNK", CHUNK), _recorded() as used:
        folder = Path(name)
        rings = _rings(folder)
        files = [count // 2, *[max(1, count // 1000)] * 500] if count >= 1000 else [count // 4] * 4
        for chunks in files:
            place = next(_places())
            records = itertools.repeat(RECORDS[0], chunks)
            write_sealed(folder / "f", rings[place.company.slug], records, **place.names, attempt="a")
        seen = np.frombuffer(used, "V16")
        unique = len(np.unique(seen.view("u8").reshape(-1, 2), axis=0))
    assert len(seen) >= count, "not all chunks were seen"
    assert unique == len(seen), f"{len(seen) - unique} nonces were used twice"
    return {"chunks": sum(files), "nonces_used_twice": len(seen) - unique}


@contextmanager
def _recorded() -> Iterator[bytearray]:
    """Key (by number, 4 bytes) and nonce (12) of each encryption of the writer."""
    used, keys = bytearray(), dict[bytes, bytes]()
    real = sealed.AESGCM

    class Recording:
        def __init__(self, key: bytes) -> None:
            self._cipher = real(key)
            self._key = keys.setdefault(key, len(keys).to_bytes(4, "big"))

        def encrypt(self, nonce: bytes, data: bytes, bound: bytes) -> bytes:
            used.extend(self._key + nonce)
            return self._cipher.encrypt(nonce, data, bound)

    with mock.patch.object(sealed, "AESGCM", Recording):
        yield used
