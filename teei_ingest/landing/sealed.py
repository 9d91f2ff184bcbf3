"""The format of a sealed file: records that only the company's key opens, whole or not at all.

Belongs here: the bytes of the file. Does not belong here: where files lie and how long (`landing.py`,
`quarantine.py`), what a record is.

    magic      8 bytes, the format and its version
    header     length (4 bytes), then JSON: company, stream, day, attempt, purpose and version of the key, and
               the file's own random data key, wrapped by that key with the rest of the header as its AAD
    chunks     final flag (1 byte), length (4 bytes), then AES-256-GCM of at most 1 MiB of records; the nonce
               is the chunk's number; AAD: magic, header, chunk number, final flag
    records    length (4 bytes), then the bytes; a record may reach over several chunks

So a chunk that is changed, left out, moved, or taken from another file is an error, and so is a file that
ends early, goes on after its end, or lies in another's place. Integers are big-endian.
"""

import base64
import json
import secrets
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from teei_ingest.errors import KeyringError, LandingError
from teei_ingest.vault.files import Failure, os_errors, replacing
from teei_ingest.vault.keys import KeyRing

CHUNK = 1 << 20

_MAGIC = b"TEEISEA1"
_LENGTH = struct.Struct(">I")
_CHUNK_HEAD = struct.Struct(">BI")
_POSITION = struct.Struct(">QB")
_TAG = 16
_LONGEST_HEADER = 4096


def write_sealed(
    path: Path,
    ring: KeyRing,
    records: Iterable[bytes],
    *,
    company: str,
    stream: str,
    day: date,
    attempt: str,
    purpose: str = "seal",
) -> None:
    """Seal the records into a file that takes the place of `path` once it is whole and on disk.

    What the iterable raises goes through, and nothing has changed. Raises LandingError if the disk refuses.
    """
    header, cipher = _new_header(ring, company, stream, day, attempt, purpose)
    prefix = _MAGIC + header

    def failure(reason: str) -> LandingError:
        return LandingError(f"{path} cannot be written: {reason}", stream=stream, company=company)

    with replacing(path, failure) as write:
        write(_MAGIC + _LENGTH.pack(len(header)) + header)
        for number, (chunk, final) in enumerate(_chunks(records)):
            box = cipher.encrypt(_nonce(number), chunk, prefix + _POSITION.pack(number, final))
            write(_CHUNK_HEAD.pack(final, len(box)) + box)


def read_sealed(
    path: Path, ring: KeyRing, *, company: str, stream: str, day: date, purpose: str = "seal"
) -> Iterator[bytes]:
    """Yield the records as they were written; none if there is no such file.

    Each was authenticated before it comes out, but only the end tells that none is missing: commit nothing
    before it is reached. Raises LandingError, also in the middle.
    """
    with os_errors(_unreadable(path)), _opened(path) as file:
        if file:
            header = _read_header(file, path)
            cipher = _open_header(header, ring, path, company, stream, day, purpose)
            yield from _records(_open_chunks(file, cipher, _MAGIC + header, path), path)


def attempt_of(path: Path) -> str | None:
    """The attempt that a file says it is from, unauthenticated; None without a file, empty if damaged."""
    with os_errors(_unreadable(path)), _opened(path) as file:
        if not file:
            return None
        try:
            return str(_fields(_read_header(file, path), path)["attempt"])
        except (LandingError, KeyError):
            return ""


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO | None]:
    file = None
    with suppress(FileNotFoundError):
        file = path.open("rb")
    if file is None:
        yield None
    else:
        with file:
            yield file


def _unreadable(path: Path) -> Failure:
    return lambda reason: LandingError(f"{path} cannot be read: {reason}")


def _new_header(
    ring: KeyRing, company: str, stream: str, day: date, attempt: str, purpose: str
) -> tuple[bytes, AESGCM]:
    fields = {
        "company": company,
        "stream": stream,
        "day": day.isoformat(),
        "attempt": attempt,
        "purpose": purpose,
        "version": ring.version(purpose),
    }
    data_key, nonce = secrets.token_bytes(32), secrets.token_bytes(12)
    box = nonce + AESGCM(ring.key(purpose)).encrypt(nonce, data_key, _MAGIC + _json(fields))
    return _json({**fields, "data_key": base64.b64encode(box).decode()}), AESGCM(data_key)


def _read_header(file: BinaryIO, path: Path) -> bytes:
    start = file.read(len(_MAGIC) + _LENGTH.size)
    if len(start) != len(_MAGIC) + _LENGTH.size or not start.startswith(_MAGIC):
        raise _damaged(path)
    (length,) = _LENGTH.unpack_from(start, len(_MAGIC))
    header = file.read(length) if length <= _LONGEST_HEADER else b""
    if len(header) != length:
        raise _damaged(path)
    return header


def _fields(header: bytes, path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(header))
    except (ValueError, TypeError, RecursionError):
        pass
    raise _damaged(path)


def _open_header(
    header: bytes, ring: KeyRing, path: Path, company: str, stream: str, day: date, purpose: str
) -> AESGCM:
    fields = _fields(header, path)
    try:
        box = base64.b64decode(fields.pop("data_key"), validate=True)
        key = AESGCM(ring.key(purpose, fields["version"]))
        data_key = key.decrypt(box[:12], box[12:], _MAGIC + _json(fields))
    except (ValueError, KeyError, TypeError, InvalidTag, KeyringError):
        raise _damaged(path) from None
    if (fields["company"], fields["stream"], fields["day"], fields["purpose"]) != (
        company,
        stream,
        day.isoformat(),
        purpose,
    ):
        raise _damaged(path)
    return AESGCM(data_key)


def _chunks(records: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Cut the framed records; the last chunk, maybe empty, is marked."""
    buffer = bytearray()
    for record in records:
        buffer += _LENGTH.pack(len(record))
        buffer += record
        while len(buffer) > CHUNK:
            yield bytes(buffer[:CHUNK]), False
            del buffer[:CHUNK]
    yield bytes(buffer), True


def _open_chunks(file: BinaryIO, cipher: AESGCM, prefix: bytes, path: Path) -> Iterator[bytes]:
    final, number = 0, 0
    while not final:
        head = file.read(_CHUNK_HEAD.size)
        if len(head) != _CHUNK_HEAD.size:
            raise _damaged(path)
        final, length = _CHUNK_HEAD.unpack(head)
        box = file.read(length) if length <= CHUNK + _TAG else b""
        if len(box) != length:
            raise _damaged(path)
        try:
            chunk = cipher.decrypt(_nonce(number), box, prefix + _POSITION.pack(number, final))
        except (ValueError, InvalidTag):
            raise _damaged(path) from None
        if final and file.read(1):
            raise _damaged(path)
        yield chunk
        number += 1


def _records(chunks: Iterable[bytes], path: Path) -> Iterator[bytes]:
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        position = 0
        while len(buffer) - position >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, position)
            end = position + _LENGTH.size + length
            if end > len(buffer):
                break
            yield bytes(buffer[position + _LENGTH.size : end])
            position = end
        del buffer[:position]
    if buffer:
        raise _damaged(path)


def _json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")


def _damaged(path: Path) -> LandingError:
    return LandingError(f"{path} is damaged or in the wrong place: remove it and materialize the day again")
