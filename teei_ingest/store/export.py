"""A company's rows as files of its own, which outlive the tables' copy of them.

Belongs here: Parquet files from tables, whole or absent. Does not belong here: who may have them, what becomes of the
tables.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from teei_ingest.contracts.base import Data
from teei_ingest.contracts.stored import arrow_schema
from teei_ingest.errors import StoreError, UsageError
from teei_ingest.store.tables import Store, contracts
from teei_ingest.vault.files import os_errors, private_folder, replacing


def folder_for(company: str, below: Path) -> Path:
    """The folder of a company's files, made where it is missing. Raises UsageError if something is in it."""
    folder = below.expanduser().absolute() / company
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
    rows, schema = 0, arrow_schema(contract)
    with (
        replacing(path, _failure(path)) as write,
        pq.ParquetWriter(_Sink(write), schema, compression="zstd") as writer,
    ):
        for batch in store.batches(contract, company=company):
            writer.write_batch(batch)
            rows += batch.num_rows
    with os_errors(_failure(path)):
        written = pq.read_metadata(path).num_rows
    if written != rows:
        raise StoreError(f"{path} has {written} rows of {rows}: nothing was removed, do it again", company=company)
    return rows


def _failure(path: Path) -> Callable[[str], UsageError]:
    return lambda reason: UsageError(f"{path} cannot be written: {reason}")


class _Sink(io.RawIOBase):
    """What a Parquet writer needs of a file, around a function that takes bytes."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._at = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def write(self, data: pa.Buffer) -> int:
        self._write(bytes(data))
        self._at += len(data)
        return len(data)
