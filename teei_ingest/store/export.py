"""Stored rows as files of their own, which outlive the tables' copy of them: a company's tables, or views.

Belongs here: Parquet and CSV files, each whole or absent. Does not belong here: who may have them, what becomes of the
tables, what a view says.
"""

from __future__ import annotations

import fcntl
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from teei_ingest.contracts.base import Data
from teei_ingest.contracts.stored import arrow_schema
from teei_ingest.errors import StoreError, UsageError
from teei_ingest.store.sql import cell, connect, no_view
from teei_ingest.store.tables import ROW_GROUP, Store, contracts
from teei_ingest.store.views import views
from teei_ingest.vault.files import os_errors, private_folder, remove_folder, replacing, sync_folder

# What a spreadsheet may take for a formula, wide forms included, and what it may skip before one.
_FORMULA = re.compile(r"[\s\0]*[=+\-@＝＋－＠]|[\t\r\n\0]")
# What is not done yet, and what a query has no memory for.
_BEGUN = ".teei-export"

# Since a field with any character of it is quoted, a carriage return alone is, too.
_LINE = "\r\n"

Write = Callable[[bytes], None]


class Written(NamedTuple):
    """A view as a file.

    `limited` says whether the days that were asked for apply to the view, `escaped` how many texts got an apostrophe,
    so that no spreadsheet computes them.
    """

    view: str
    path: Path
    rows: int
    limited: bool
    escaped: int


def here(folder: Path) -> Path:
    """The folder's absolute path. Raises UsageError for what a path makes of `s3://…`."""
    if ":/" in str(folder):
        raise UsageError(f"{folder} is no folder of this machine: write to one, and copy it from there")
    return folder.expanduser().absolute()


def folder_for(company: str, below: Path) -> Path:
    """The folder of a company's files, made where it is missing. Raises UsageError if something is in it."""
    folder = here(below) / company
    with os_errors(_failure(folder)):
        private_folder(folder).chmod(0o700)
        is_empty = next(folder.iterdir(), None) is None
    if not is_empty:
        raise UsageError(f"{folder} holds files already: name another folder", company=company)
    return folder


def export(store: Store, company: str, folder: Path) -> dict[str, int]:
    """Write what the tables have of a company to `folder/TABLE.parquet`, for this user alone; the rows of each.

    A file that is there is replaced. Nobody may commit events of the company meanwhile. Raises UsageError if the folder
    cannot be written, StoreError.
    """
    with store.reading():
        return {one.table: _export(store, one, company, folder / f"{one.table}.parquet") for one in contracts()}


def _export(store: Store, contract: type[Data], company: str, path: Path) -> int:
    with replacing(path, _failure(path)) as write:
        rows, _ = _parquet(write, arrow_schema(contract), store.batches(contract, company=company))
    _read_back(path, rows)
    return rows


def export_views(
    store: Store,
    folder: Path,
    form: str,
    names: Sequence[str] = (),
    *,
    companies: Sequence[str] = (),
    days: tuple[date | None, date | None] = (None, None),
    overwrite: bool = False,
) -> list[Written]:
    """Write views, without `names` all, to `folder/VIEW.parquet` or `.csv`, for this user alone, as of one moment.

    `companies` and `days` (first and last, inclusive) limit the rows: by their day, or where a view has months instead
    by the months of these days. Memory is bounded: what does not fit is put beside the files until the end. Files take
    their places when all are whole: after an error none has. Raises UsageError if there is no such view, if a file is
    there and may not be overwritten, or if the folder cannot be written; StoreError.
    """
    known = views()
    if unknown := [name for name in names if name not in known]:
        raise UsageError(no_view(unknown[0]))
    folder = here(folder).resolve()
    if store.folder is not None and folder.is_relative_to(store.folder.resolve()):
        raise UsageError(f"{folder} is where the event tables are: name another folder")
    paths = [folder / f"{name}.{form}" for name in known if not names or name in names]
    with _alone_in(folder) as begun:
        there = [path for path in paths if os.path.lexists(path)]
        if there and not overwrite:
            more = f" and {len(there) - 1} more" if there[1:] else ""
            raise UsageError(f"{there[0]}{more}: there already; name another folder, or add --overwrite")
        for path in there:
            if path.is_dir():
                raise UsageError(f"{path} is a folder: name another folder")
        try:
            with store.reading(), connect(store, " ".join(path.stem for path in paths), spill=begun) as connection:
                made = [_view(store, connection, path, begun / path.name, companies, days) for path in paths]
            with os_errors(_failure(folder)):
                for path in paths:
                    (begun / path.name).replace(path)
                sync_folder(folder)
            return made
        except duckdb.Error as error:
            # Its text may show a row's value.
            room = f"({type(error).__name__}): is there room in {folder}? see `teei doctor`"
            failure = store.refused(error) or StoreError(f"the views cannot be read to their end {room}")
    raise failure


def _view(
    store: Store,
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    begun: Path,
    companies: Sequence[str],
    days: tuple[date | None, date | None],
) -> Written:
    name = path.stem
    columns = connection.sql(f"SELECT * FROM {name}").columns
    time = next((column for column in ("day", "month") if column in columns), None)
    conditions: list[str] = []
    values: list[Any] = list(companies)
    if companies:
        conditions.append(f"company IN ({', '.join('?' * len(companies))})")
    for day, sign in zip(days, (">=", "<="), strict=True):
        if time is not None and day is not None:
            conditions.append(f'"{time}" {sign} ?')
            values.append(day if time == "day" else day.replace(day=1))
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    # Through `sql`: what `execute` gives has all rows in memory.
    reader = connection.sql(f"SELECT * FROM {name}{where}", params=values).to_arrow_reader(ROW_GROUP)
    schema = _schema(name, reader.schema)
    batches = (batch.cast(schema) for batch in store.drained(reader))
    with replacing(begun, _failure(path)) as write:
        rows, escaped = {".parquet": _parquet, ".csv": _csv}[path.suffix](write, schema, batches)
    if path.suffix == ".parquet":
        _read_back(begun, rows)
    return Written(name, path, rows, time is not None, escaped)


def _schema(view: str, found: pa.Schema) -> pa.Schema:
    """Columns of a contract as its table has them, of a released view as it says, others as they were found."""
    declared = {column.name: column.nullable for column in views()[view].columns}
    table = next((arrow_schema(one) for one in contracts() if one.table == view.removeprefix("current_")), found)
    fields = (table.field(field.name) if field.name in table.names else field for field in found)
    return pa.schema([field.with_nullable(declared.get(field.name, field.nullable)) for field in fields])


def _parquet(write: Write, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> tuple[int, int]:
    """The number of rows, and 0."""
    rows = 0
    with pq.ParquetWriter(_Sink(write), schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows, 0


def _read_back(path: Path, rows: int) -> None:
    """Raises StoreError if a Parquet file does not have these rows."""
    with os_errors(_failure(path)):
        written = pq.read_metadata(path).num_rows
    if written != rows:
        raise StoreError(f"{path} has {written} rows of {rows}: do it again")


def _csv(write: Write, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> tuple[int, int]:
    """The number of rows, and of texts that were escaped. RFC 4180 in UTF-8, values as `teei sql` writes them."""
    import pandas as pd

    rows = escaped = 0
    write(pd.DataFrame(columns=schema.names).to_csv(index=False, lineterminator=_LINE).encode())
    for batch in batches:
        cells: dict[str, list[str]] = {}
        for name, column in zip(schema.names, batch.columns, strict=True):
            values = column.to_pylist(maps_as_pydicts="lossy")
            harmful = [isinstance(value, str) and _FORMULA.match(value) is not None for value in values]
            cells[name] = ["'" * bad + cell(value) for value, bad in zip(values, harmful, strict=True)]
            escaped += sum(harmful)
        write(pd.DataFrame(cells, dtype=object).to_csv(index=False, header=False, lineterminator=_LINE).encode())
        rows += batch.num_rows
    return rows, escaped


@contextmanager
def _alone_in(folder: Path) -> Iterator[Path]:
    """No other export writes to the folder meanwhile; gives a folder in it for what is not done yet.

    At the end it is removed, and with it what an export that was killed had begun.
    """
    failure, begun = _failure(folder), folder / _BEGUN
    with os_errors(failure):
        descriptor = os.open(private_folder(folder), os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os_errors(failure):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_free = True
            except BlockingIOError:
                is_free = False
        if not is_free:
            raise UsageError(f"{folder} is being written by another export: wait for its end")
        with os_errors(failure):
            private_folder(begun)
        try:
            yield begun
        finally:
            with os_errors(failure):
                remove_folder(begun)
    finally:
        os.close(descriptor)


def _failure(path: Path) -> Callable[[str], UsageError]:
    return lambda reason: UsageError(f"{path} cannot be written: {reason}")


class _Sink(io.RawIOBase):
    """What a Parquet writer needs of a file, around a function that takes bytes."""

    def __init__(self, write: Write) -> None:
        self._write = write

    def writable(self) -> bool:
        return True

    def write(self, data: pa.Buffer) -> int:
        self._write(bytes(data))
        return len(data)
