"""Event tables as years of nights leave them, made of one company's real events in a few large commits.

A night leaves one small file for each company and stream, and more than `SMALL_FILES` become one. So a table has, of
each, one file of all but the last days and up to seven of a day; each company is at another point of that. A table's
log keeps a file for each commit for a week (`LOG_HOURS`); here most of these say nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from teei_ingest.contracts.base import Data, is_directory
from teei_ingest.contracts.stored import arrow_schema
from teei_ingest.sandbox.config import company_id
from teei_ingest.store.tables import _WRITER, FILE_BYTES, LOG_HOURS, SMALL_FILES, Store, contracts
from teei_ingest.streams import all_streams

AT_ONCE = 25  # companies in memory
PEOPLE = 400  # of a company
LOG_DAYS = LOG_HOURS // 24
TAIL = 50  # commits since the last checkpoint: half of the hundred between two
_EPOCH = date(1970, 1, 1)


def nights_apart(company: int) -> int:
    """The number of a company's last days that have a file each."""
    return company % SMALL_FILES


def grow(store: Store, pattern: str, companies: Sequence[str], days: Sequence[date], rows_per_day: float) -> int:
    """Give each company so many rows of every stream on these days, made of those of the company `pattern`; how many.

    It has its own from the first day of which it has events.
    """
    chance = np.random.default_rng(7)
    numbered = list(enumerate(companies))
    total = 0
    for contract in contracts():
        location = f"{store.uri}/{contract.table}"
        streams = [stream.name for stream in all_streams().values() if stream.contract is contract]
        for name in streams:
            real = store.rows(contract, stream=name, company=pattern)
            wanted = dict.fromkeys(companies, days) | {pattern: _before(days, real)}
            # All but the last days first, then night after night.
            commits: list[tuple[list[tuple[int, str]], int | None]] = [(some, None) for some in _portions(numbered)]
            commits += [(numbered, night) for night in range(1, SMALL_FILES)]
            for some, night in commits:
                parts = [
                    _rows(chance, contract, real, slug, number, own, rows_per_day)
                    for number, slug in some
                    if (own := _of_night(wanted[slug], nights_apart(number), night))
                ]
                rows = pa.concat_tables(parts) if parts else None
                if rows and rows.num_rows:
                    write_deltalake(
                        location, rows, mode="append", target_file_size=FILE_BYTES, writer_properties=_WRITER
                    )
                    total += rows.num_rows
        _age(location, len(companies) * len(streams) * min(LOG_DAYS, len(days)))
    return total


def _before(days: Sequence[date], real: pa.Table) -> list[date]:
    first = min(real["day"].to_pylist())
    return [day for day in days if day < first]


def _portions(companies: list[tuple[int, str]]) -> list[list[tuple[int, str]]]:
    return [companies[start : start + AT_ONCE] for start in range(0, len(companies), AT_ONCE)]


def _of_night(days: Sequence[date], apart: int, night: int | None) -> Sequence[date]:
    """The days that are in one file with each other: all but the last, or one of those."""
    apart = min(apart, len(days))
    if night is None:
        return days[: len(days) - apart]
    return days[len(days) - apart :][night - 1 : night]


def _rows(
    chance: np.random.Generator,
    contract: type[Data],
    real: pa.Table,
    slug: str,
    number: int,
    days: Sequence[date],
    rows_per_day: float,
) -> pa.Table:
    """Rows of a company, sorted by day: real ones with days, ids and people of their own."""
    counts = chance.poisson(rows_per_day, len(days))
    size = int(counts.sum())
    found = real.take(pa.array(chance.integers(0, real.num_rows, size)))
    day = np.repeat(np.array([(one - _EPOCH).days for one in days]), counts)
    moment = pa.array(day * 86_400_000_000 + chance.integers(0, 86_400_000_000, size)).cast(pa.timestamp("us", "UTC"))
    people = _tokens(np.random.default_rng(number), PEOPLE)
    own = people.take(pa.array(chance.integers(0, PEOPLE, size)))
    columns = {
        "event_id": _uuids(chance, size),
        "source_id": own if is_directory(contract) else _uuids(chance, size),
        "day": pa.array(day.astype(np.int32)).cast(pa.date32()),
        "timestamp": moment,
        "source_timestamp": moment,
        "company": pa.DictionaryArray.from_arrays(np.zeros(size, np.int32), [slug]).cast(pa.string()),
        "company_id": pa.DictionaryArray.from_arrays(np.zeros(size, np.int32), [company_id(slug)]).cast(pa.string()),
        **{name: own for name in ("user_id", "external_user_id") if real[name].null_count < real.num_rows},
    }
    schema = arrow_schema(contract)
    for name, values in columns.items():
        found = found.set_column(schema.get_field_index(name), schema.field(name), values.cast(schema.field(name).type))
    return found.cast(schema)


_HEX = np.array([f"{one:02x}".encode() for one in range(256)], dtype="S2")


def _hex(chance: np.random.Generator, size: int) -> np.ndarray:
    """So many texts of 32 hexadecimal digits, as bytes, 32 a row."""
    return _HEX[chance.integers(0, 256, (size, 16), dtype=np.uint8)].view("S1").reshape(size, 32)


def _texts(characters: np.ndarray) -> pa.Array:
    size, width = characters.shape
    offsets = np.arange(0, (size + 1) * width, width, dtype=np.int32)
    data = pa.py_buffer(np.ascontiguousarray(characters).tobytes())
    return pa.StringArray.from_buffers(size, pa.py_buffer(offsets), data)


def _uuids(chance: np.random.Generator, size: int) -> pa.Array:
    digits, dash = _hex(chance, size), np.full((size, 1), b"-", "S1")
    cuts = [digits[:, start:end] for start, end in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))]
    return _texts(np.hstack([part for cut in cuts for part in (cut, dash)][:-1]))


def _tokens(chance: np.random.Generator, size: int) -> pa.Array:
    prefix = np.tile(np.array([b"t", b"1", b"_"], "S1"), (size, 1))
    return _texts(np.hstack([prefix, _hex(chance, size)]))


def _age(location: str, commits: int) -> None:
    """Put so many commits that change nothing behind the newest version, all but the last ones behind a checkpoint."""
    table = DeltaTable(location)
    table.create_checkpoint()
    log = Path(location) / "_delta_log"
    before, after = table.version(), table.version() + commits
    info = {"commitInfo": {"timestamp": int(datetime.now(UTC).timestamp() * 1000), "operation": "WRITE"}}
    text = json.dumps(info) + "\n"
    for version in range(before + 1, after + 1):
        (log / f"{version:020}.json").write_text(text)
    newest = max(before, after - TAIL)
    pointer = json.loads((log / "_last_checkpoint").read_text())
    (log / f"{before:020}.checkpoint.parquet").rename(log / f"{newest:020}.checkpoint.parquet")
    (log / "_last_checkpoint").write_text(json.dumps({**pointer, "version": newest}))
