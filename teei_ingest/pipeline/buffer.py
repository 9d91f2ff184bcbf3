"""Redacted rows of a window until they are committed: in memory while they are few, else in an unlinked file.

Only what may be at rest goes to the file, and its name is gone before the first row is in it, so that nothing is
left behind by a process that is killed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa

MEMORY_ROWS = 150_000  # of about 300 bytes


class RowBuffer:
    """Batches of rows with, for each row, its id (16 bytes), a hash of its content and its day."""

    def __init__(self, schema: pa.Schema, folder: Path, memory_rows: int = MEMORY_ROWS) -> None:
        self._schema = schema
        self._folder = folder
        self._memory_rows = memory_rows
        self._batches: list[pa.RecordBatch] = []
        self._file: IO[bytes] | None = None
        self._writer: pa.RecordBatchFileWriter | None = None
        self._ids: list[np.ndarray] = []
        self._content: list[np.ndarray] = []
        self._days: list[np.ndarray] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, rows: pa.RecordBatch, ids: np.ndarray, content: np.ndarray, days: np.ndarray) -> None:
        """`ids` n × 16 bytes, `content` n hashes, `days` n days since 1970."""
        self._ids.append(ids)
        self._content.append(content)
        self._days.append(days.astype(np.int32))
        self._count += len(rows)
        self._batches.append(rows)
        if self._count > self._memory_rows:
            self._spill()

    @property
    def ids(self) -> np.ndarray:
        """n × 16 bytes, in the order of arrival."""
        return np.concatenate(self._ids) if self._ids else np.zeros((0, 16), np.uint8)

    @property
    def content(self) -> np.ndarray:
        """n hashes of the mapped values."""
        return np.concatenate(self._content) if self._content else np.zeros(0, np.int64)

    @property
    def days(self) -> np.ndarray:
        """n days since 1970."""
        return np.concatenate(self._days) if self._days else np.zeros(0, np.int32)

    def reader(self, keep: np.ndarray, extra: pa.Table | None = None) -> Callable[[], pa.RecordBatchReader]:
        """Readers, as many as are asked for, of the rows where `keep` is true and of `extra`, sorted by day."""

        def batches() -> Iterator[pa.RecordBatch]:
            at = 0
            for batch in self._stored():
                mask = keep[at : at + len(batch)]
                at += len(batch)
                kept = batch if mask.all() else batch.filter(pa.array(mask))
                if len(kept):
                    yield kept if _ascends(kept["day"]) else kept.sort_by("day")
            if extra is not None:
                yield from extra.cast(self._schema).to_batches()

        def open_reader() -> pa.RecordBatchReader:
            if self._file is not None:
                return pa.RecordBatchReader.from_batches(self._schema, batches())
            table = pa.Table.from_batches(batches(), self._schema)
            if not _ascends(table["day"]):
                table = table.sort_by("day")
            return table.to_reader()

        return open_reader

    def columns(self, names: list[str], keep: np.ndarray) -> pa.Table:
        """Some columns of the rows where `keep` is true."""
        schema = pa.schema([self._schema.field(name) for name in names])
        at = 0
        found = []
        for batch in self._stored():
            mask = keep[at : at + len(batch)]
            at += len(batch)
            found.append(batch.select(names).filter(pa.array(mask)))
        return pa.Table.from_batches(found, schema)

    def close(self) -> None:
        """Give memory and disk back."""
        self._batches.clear()
        if self._file is not None:
            self._file.close()

    def _spill(self) -> None:
        if self._writer is None:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._writer = pa.ipc.new_file(pa.PythonFile(self._file, "w"), self._schema, options=options)
        for batch in self._batches:
            self._writer.write_batch(batch)
        self._batches.clear()

    def _stored(self) -> Iterator[pa.RecordBatch]:
        if self._file is not None and self._writer is not None:
            self._writer.close()
            self._file.flush()
            copy = os.fdopen(os.dup(self._file.fileno()), "rb")
            with copy:
                copy.seek(0)
                reader = pa.ipc.open_file(pa.PythonFile(copy, "r"))
                for number in range(reader.num_record_batches):
                    yield reader.get_batch(number)
        yield from self._batches


def _ascends(days: pa.Array | pa.ChunkedArray) -> bool:
    return bool((np.diff(days.cast(pa.int32()).to_numpy()) >= 0).all())
