"""Twenty-five leaks, one for each place and form, to show that the search would find what it says is not there."""

from __future__ import annotations

import base64
import gzip
import html
import json
import pickle
import sqlite3
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

Leak = Callable[[Path, str], None]

_ROWS = 2_000  # enough that a Parquet file has pages and a dictionary


@contextmanager
def planted(copy: Path, texts: Iterable[str]) -> Iterator[dict[str, str]]:
    """Leaks in a copy of the searched places, which is a folder with `home`, `tmp`, `output` and `docs`.

    Gives what each leaked text is planted as. Forms that need it get a text with letters beyond ASCII.
    """
    plain, others = _sorted(texts)
    made = {}
    with ExitStack() as stack:
        for what, leak in _LEAKS.items():
            text = next(others if what.startswith("*") else plain)
            leak(copy, text)
            made[text] = what.lstrip("* ")
        for what, open_leak in _OPEN_LEAKS.items():
            text = next(plain)
            stack.enter_context(open_leak(copy, text))
            made[text] = what
        yield made


def _sorted(texts: Iterable[str]) -> tuple[Iterator[str], Iterator[str]]:
    """Words of ASCII letters, and words whose composed and decomposed forms differ."""
    words = [text for text in texts if text.isalpha()]
    plain = [word for word in words if word.isascii()]
    others = [word for word in words if unicodedata.normalize("NFC", word) != unicodedata.normalize("NFD", word)]
    return iter(plain), iter([word for word in others if word not in plain])


def _file(name: str, make: Callable[[str], bytes]) -> Leak:
    """What a function makes of the text, behind whatever a file has or in a new one."""

    def leak(copy: Path, text: str) -> None:
        path = copy / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(make(text))

    return leak


def _name(copy: Path, text: str) -> None:
    (copy / "home" / "quarantine" / f"{text}.sealed").write_bytes(b"")


def _table(compression: str) -> Leak:
    def leak(copy: Path, text: str) -> None:
        rows = [{"tags": [{"name": text if number == _ROWS // 2 else f"row {number}"}]} for number in range(_ROWS)]
        folder = copy / "home" / "events" / "volunteer_events"
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{compression}.parquet", compression=compression)

    return leak


def _spill(copy: Path, text: str) -> None:
    table = pa.table({"name": [text, *("nobody" for _ in range(_ROWS))]})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(copy / "tmp" / "spilled.arrow", table.schema, options=options) as writer:
        writer.write_table(table)


def _zip(copy: Path, text: str) -> None:
    with zipfile.ZipFile(copy / "tmp" / "support.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("log.txt", f"first {text} last" * 3)


def _sealed_header(text: str) -> bytes:
    header = json.dumps({"company": "acme-corp", "day": "2024-01-15", "attempt": text}).encode()
    return b"TEEISEA1" + struct.pack(">I", len(header)) + header


def _database(name: str) -> Callable[[Path], sqlite3.Connection]:
    def connect(copy: Path) -> sqlite3.Connection:
        path = copy / "home" / "dagster" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path)
        database.execute("CREATE TABLE IF NOT EXISTS leaked (value)")
        return database

    return connect


def _row(copy: Path, text: str) -> None:
    with _database("history/runs.db")(copy) as database:
        database.execute("INSERT INTO leaked VALUES (?)", (f'{{"tags": {{"who": "{text}"}}}}',))
    database.close()


def _deleted_row(copy: Path, text: str) -> None:
    with _database("schedules/schedules.db")(copy) as database:
        database.execute("PRAGMA secure_delete = OFF")
        database.execute("INSERT INTO leaked VALUES (?)", (f"{text} " * 9,))
        database.commit()
        database.execute("DELETE FROM leaked")
    database.close()


@contextmanager
def _logged_ahead(copy: Path, text: str) -> Iterator[None]:
    """A compressed value that is in the write-ahead log alone, as long as the block lasts."""
    database = _database("history/runs/index.db")(copy)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA wal_autocheckpoint = 0")
        database.execute("INSERT INTO leaked VALUES (?)", (zlib.compress(f"first {text} last".encode()),))
        database.commit()
        yield
    finally:
        database.close()


def _base64(shift: int) -> Callable[[str], bytes]:
    return lambda text: base64.b64encode(b"x" * shift + text.encode() + b"yz")


def _json_in_json(text: str) -> bytes:
    return json.dumps({"data": json.dumps({"message": text})}).encode()


# A star says that the form differs only for letters beyond ASCII.
_LEAKS: dict[str, Leak] = {
    "a table's rows, zstd": _table("zstd"),
    "a table's rows, snappy": _table("snappy"),
    "a table's log": _file("home/events/donation_events/_delta_log/leak.json", lambda t: f'{{"min": "{t}"}}'.encode()),
    "a sealed file's header": _file("home/landing/acme-corp/goodera_volunteers/leak.sealed", _sealed_header),
    "a sealed file's chunk, unsealed": _file("home/quarantine/leak.sealed", lambda t: bytes(99) + t.encode()),
    "a file's name": _name,
    "gzip": _file("home/landing/leak.gz", lambda t: gzip.compress(f"a {t}".encode() * 3)),
    "a row of SQLite": _row,
    "a deleted row of SQLite": _deleted_row,
    "pickled": _file("home/dagster/storage/step/result", lambda t: pickle.dumps([{"email": t}])),
    "a compute log, upper case": _file("home/dagster/storage/run/compute_logs/step.err", lambda t: t.upper().encode()),
    "* a compute log, percent-encoded": _file(
        "home/dagster/storage/run/compute_logs/step.out", lambda t: f"GET /?user={quote(t)}&x".encode()
    ),
    "* standard output, for HTML": _file(
        "output/leak.out", lambda t: "".join(f"&#{ord(c)};" if ord(c) > 127 else c for c in html.escape(t)).encode()
    ),
    "* standard error, as bytes are shown": _file("output/leak.err", lambda t: repr(t.encode()).encode()),
    "* a GraphQL answer, JSON in JSON": _file("output/graphql.json", _json_in_json),
    "* JSON, escaped": _file("home/audit/leak.jsonl", lambda t: json.dumps({"why": t}).encode()),
    "zip": _zip,
    "Arrow, zstd": _spill,
    "UTF-16": _file("tmp/leak.utf16", lambda t: f"first {t}".encode("utf-16-be")),
    "* decomposed letters": _file("tmp/leak.nfd", lambda t: unicodedata.normalize("NFD", t).upper().encode()),
    "base64, first alignment": _file("tmp/leak.b64", _base64(0)),
    "base64, second alignment": _file("home/keys/leak.json", _base64(1)),
    "base64, third alignment": _file("home/limits/leak", _base64(2)),
    "docs, in hex": _file("docs/leak.md", lambda t: f"`{t.encode().hex()}`".encode()),
}
_OPEN_LEAKS = {"a write-ahead log of SQLite, deflated": _logged_ahead}
