"""Looking for thousands of texts in all bytes of a place, in every form in which they may lie there.

A form is an encoding of the text (`_forms`); what hides bytes as a whole (compression, Parquet, databases) is taken
off first (`layers`). All forms are looked for in one pass: positions whose eight bytes begin no form fall out by a
table look-up over the whole array, and only what is left is compared in full.
"""

from __future__ import annotations

import base64
import gzip
import html
import io
import json
import shutil
import sqlite3
import tempfile
import unicodedata
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, quote_plus

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

SHORTEST = 8  # bytes; what is shorter would be found by chance
_PIECE = 1 << 22
_BITS = 24
_MIX = np.uint64(0x9E3779B97F4A7C15)
_DEEPEST = 4
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


@dataclass(frozen=True)
class Hit:
    """A text that was found: where, and in which form."""

    text: str
    place: str
    form: str


class Search:
    """Looks for texts. A text of digits alone counts only where no digit goes before or follows."""

    def __init__(self, texts: Iterable[str]) -> None:
        folded: dict[bytes, tuple[str, str]] = {}
        exact: dict[bytes, tuple[str, str]] = {}
        for text in texts:
            for form, data, with_case in _forms(text):
                if len(data) >= SHORTEST:
                    (exact if with_case else folded).setdefault(data if with_case else data.lower(), (text, form))
        self._folded, self._exact = _Patterns(folded), _Patterns(exact)

    def __call__(self, place: str, data: bytes) -> list[Hit]:
        """Everything that is found in some bytes, each text and form once."""
        found = self._folded.find(data.lower()) | self._exact.find(data)
        return [Hit(text, place, form) for text, form in sorted(found)]


class _Patterns:
    def __init__(self, forms: dict[bytes, tuple[str, str]]) -> None:
        by_head: dict[int, list[bytes]] = defaultdict(list)
        for data in forms:
            by_head[int.from_bytes(data[:8], "little")].append(data)
        self._forms = forms
        self._by_head = dict(by_head)
        self._heads = np.array(sorted(by_head), np.uint64)
        self._table = np.zeros(1 << _BITS, bool)
        self._table[_mixed(self._heads)] = True

    def find(self, data: bytes) -> set[tuple[str, str]]:
        found = set()
        for begin in range(0, len(data), _PIECE):
            piece = data[begin : begin + _PIECE + 7]
            for shift in range(min(8, len(piece) - 7)):
                words = np.frombuffer(piece, "<u8", (len(piece) - shift) // 8, shift)
                for at in np.flatnonzero(self._table[_mixed(words)]).tolist():
                    for form in self._by_head.get(int(words[at]), ()):
                        start = begin + shift + 8 * at
                        if data.startswith(form, start) and _stands_alone(form, data, start):
                            found.add(self._forms[form])
        return found


def _mixed(words: np.ndarray) -> np.ndarray:
    """The top bits of a multiplicative hash."""
    return ((words * _MIX) >> np.uint64(64 - _BITS)).astype(np.int64)


def _stands_alone(form: bytes, data: bytes, start: int) -> bool:
    if not form.isdigit():
        return True
    end = start + len(form)
    return not data[max(0, start - 1) : start].isdigit() and not data[end : end + 1].isdigit()


def _forms(text: str) -> Iterator[tuple[str, bytes, bool]]:
    """(name of the form, its bytes, whether case matters) of a text."""
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    written = {composed, composed.casefold(), composed.upper(), composed.lower()}
    spellings = dict.fromkeys([text, *written, decomposed, *(unicodedata.normalize("NFD", one) for one in written)])
    folded = set()
    for one in spellings:
        raw = one.encode()
        yield "hex", raw.hex().encode(), False
        for shift in range(3):
            # Without the characters that also depend on what stands before and behind.
            sixes = base64.b64encode(b"\0" * shift + raw)[-(-shift * 8 // 6) : (shift + len(raw)) * 8 // 6]
            yield "base64", sixes, True
            if b"+" in sixes or b"/" in sixes:
                yield "base64", sixes.translate(_URL_SAFE), True
        if raw.lower() in folded:
            continue
        folded.add(raw.lower())
        yield "text", raw, False
        yield "utf-16", one.encode("utf-16-le"), False
        yield "utf-16", one.encode("utf-16-be"), False
        if one.isalnum() and one.isascii():
            continue  # the other forms are the text itself
        for encoded in (quote(one, safe=""), quote(quote(one, safe=""), safe=""), quote_plus(one)):
            yield "url", encoded.encode(), False
        escaped = json.dumps(one)[1:-1]
        yield "json", escaped.encode(), False
        yield "json in json", json.dumps(escaped)[1:-1].encode(), False
        yield "html", html.escape(one).encode(), False
        for entity in ("&#{};", "&#x{:x};"):
            coded = "".join(c if c.isascii() and c.isalnum() else entity.format(ord(c)) for c in one)
            yield "html", coded.encode(), False
        yield "python", one.encode("unicode_escape"), False
        yield "python", repr(raw)[2:-1].encode(), False
        with suppress(UnicodeEncodeError):
            yield "latin-1", one.encode("latin-1"), False


# --- what the bytes of a place are ----------------------------------------------------------------------------------


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of the name and of every layer of every file below a folder; links are not followed."""
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        yield f"the name of {name}", name.encode(errors="surrogateescape")
        if file.is_file() and not file.is_symlink():
            yield from file_layers(file, name)


def file_layers(file: Path, name: str) -> Iterator[tuple[str, bytes]]:
    """A file's bytes and what is in them; nothing of a file that is gone meanwhile."""
    with suppress(FileNotFoundError, PermissionError):
        data = file.read_bytes()
        yield from layers(name, data)
        if data.startswith(b"SQLite format 3\0"):
            yield from _rows(file, name)


def layers(name: str, data: bytes, depth: int = 0) -> Iterator[tuple[str, bytes]]:
    """The bytes, and what they are a compressed or columnar form of."""
    yield name, data
    if depth == _DEEPEST:
        return
    inner: list[tuple[str, bytes]] = []
    with suppress(OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile, pa.ArrowException, RuntimeError):
        if data.startswith(b"PAR1"):
            inner.append(("rows", _parquet(data)))
        elif data.startswith(b"ARROW1"):
            inner.append(("rows", _columns(pa.ipc.open_file(data).read_all())))
        elif data.startswith(b"\x1f\x8b"):
            inner.append(("gzip", gzip.decompress(data)))
        elif data.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                inner += [(member, member.encode() + b"\n" + archive.read(member)) for member in archive.namelist()]
        elif data.startswith(b"\x28\xb5\x2f\xfd"):
            inner.append(("zstd", pa.CompressedInputStream(pa.BufferReader(data), "zstd").read()))
        elif data[:1] == b"\x78" and data[1:2] in (b"\x01", b"\x5e", b"\x9c", b"\xda"):
            inner.append(("zlib", zlib.decompress(data)))
    for kind, decoded in inner:
        yield from layers(f"{name} ({kind})", decoded, depth + 1)


def _parquet(data: bytes) -> bytes:
    file = pq.ParquetFile(pa.BufferReader(data))
    return _columns(file.read()) + repr(file.metadata.metadata).encode()


def _columns(table: pa.Table) -> bytes:
    """All values of a table as text, each once a column."""
    texts: list[str] = []
    for column in table.columns:
        texts += dict.fromkeys(map(str, column.to_pylist()))
    return "\n".join(texts).encode(errors="surrogateescape")


def _rows(file: Path, name: str) -> Iterator[tuple[str, bytes]]:
    """All rows of a SQLite database as its readers see them, its write-ahead log included."""
    with tempfile.TemporaryDirectory() as folder:
        for one in (file, *file.parent.glob(f"{file.name}-wal")):
            shutil.copyfile(one, Path(folder) / one.name)
        with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(Path(folder) / file.name)) as database:
            tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                quoted = table.replace('"', '""')
                texts, blobs = [], []
                for row in database.execute(f'SELECT * FROM "{quoted}"'):
                    texts += [str(value) for value in row if value is not None and not isinstance(value, bytes)]
                    blobs += [value for value in row if isinstance(value, bytes)]
                where = f"{name} (table {table})"
                yield where, "\n".join(texts).encode(errors="surrogateescape")
                for blob in blobs:
                    yield from layers(where, blob, 1)
