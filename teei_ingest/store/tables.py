"""The event tables: Delta Lake, one table for each contract, partitioned by company.

Belongs here: making, replacing, reading and tidying tables, and the sandbox's marker. Does not belong here: SQL
(`sql.py`), views (`views.py`), settings, what a row means.

Files get the process's umask: whoever starts a process sets 0o077. delta-rs does not survive a fork: start
processes that use a store with `spawn`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from datetime import date, timedelta
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs as pafs
from deltalake import DeltaTable, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, SchemaMismatchError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from teei_ingest.contracts import RELEASED
from teei_ingest.contracts.base import Data
from teei_ingest.contracts.stored import arrow_schema
from teei_ingest.errors import StoreError
from teei_ingest.store.locks import Locks
from teei_ingest.streams import all_streams

MARKER = "_teei_sandbox.json"
# A replace rewrites the files that it touches: larger ones cost time and memory, smaller ones every reader.
FILE_BYTES = 16 * 2**20
ROW_GROUP = 65_536
SMALL_FILES, SMALL_BYTES = 8, 2**20  # more than so many small files of a stream become one
VACUUM_EVERY = 64  # commits between two removals of files that no version needs
ATTEMPTS = 50

# What a commit says of a file: never the least or greatest value of a column that is a person's.
STATISTICS = ("stream", "day", "source_timestamp")
PROPERTIES: dict[str, str | None] = {
    "delta.dataSkippingStatsColumns": ",".join(STATISTICS),
    "delta.targetFileSize": str(FILE_BYTES),
    "delta.deletedFileRetentionDuration": "interval 1 days",
}
_LOG_RETENTION = "delta.logRetentionDuration"
_WRITER = WriterProperties(compression="ZSTD", compression_level=1, max_row_group_size=ROW_GROUP)

_FAILURES = (DeltaError, OSError, ValueError, TypeError, RuntimeError)
_BY_TEXT = (
    (("os error 28", "os error 122", "os error 27", "no space left"), "{uri} is on a full disk: make room, run again"),
    (("os error 13", "os error 1)", "os error 30", "permission denied"), "{uri} may not be used: mend its permissions"),
    (("failed validation check",), "a row for {uri} is outside of the stream, company and days to replace"),
)
_BY_TYPE: dict[type[Exception], str] = {
    TableNotFoundError: "{uri} has no event tables yet: `teei demo` or `teei sync` makes them",
    SchemaMismatchError: "the rows for {uri} have other columns than their table",
}

P = ParamSpec("P")
T = TypeVar("T")


def contracts() -> tuple[type[Data], ...]:
    """The contracts that have a table: the released ones, then those that only a stream brings along."""
    return tuple(dict.fromkeys([*RELEASED, *(stream.contract for stream in all_streams().values())]))


def _explain(error: Exception, uri: str) -> str:
    """What to do about an error of delta-rs, Arrow or the system, without its text, which may show rows."""
    text = str(error).lower()
    for signs, remedy in _BY_TEXT:
        if any(sign in text for sign in signs):
            return remedy.format(uri=uri)
    for kind, remedy in _BY_TYPE.items():
        if isinstance(error, kind):
            return remedy.format(uri=uri)
    return f"the event tables at {uri} cannot be used ({type(error).__name__}): `teei doctor` looks for the reason"


def _clearly(method: Callable[Concatenate[Store, P], T]) -> Callable[Concatenate[Store, P], T]:
    """Turn what fails below into a StoreError that has no cause."""

    @wraps(method)
    def clear(self: Store, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except _FAILURES as error:
            message = _explain(error, self.uri)
        raise StoreError(message)

    return clear


class Store:
    """The tables below one URI. Raises StoreError, in one line and without a value of any row.

    A store made in the sandbox bears a marker: it opens in the sandbox alone, and the sandbox opens no other.
    `storage_options` are delta-rs's (region, endpoint, credentials of an object store); without `locks` nobody else
    may purge the tables meanwhile.
    """

    def __init__(
        self,
        uri: str,
        *,
        sandbox: bool,
        locks: Locks | None = None,
        storage_options: Mapping[str, str] | None = None,
    ) -> None:
        local = uri.removeprefix("file://")
        self.folder = Path(local).absolute() if "://" not in local else None
        self.uri = str(self.folder or uri.rstrip("/"))
        self.sandbox = sandbox
        self._locks = locks
        self._options = dict(storage_options or {})
        self._check_marker()

    @_clearly
    def prepare(self) -> None:
        """Make the tables that are missing; several processes may do so at once."""
        if self.folder:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.sandbox and self._files().get_file_info(MARKER).type is pafs.FileType.NotFound:
            with self._files().open_output_stream(MARKER) as file:
                file.write(b'{"sandbox": true}\n')
        for contract in contracts():
            self._create(contract)

    def replace(
        self,
        contract: type[Data],
        stream: str,
        company: str,
        days: Sequence[date],
        rows: Callable[[], pa.RecordBatchReader],
    ) -> int:
        """Put `rows` in the place of all that is stored for these days, in one commit; the number written.

        `rows` makes a new reader of `arrow_schema(contract)` for every attempt, sorted by day. What the reader
        raises comes out as it is, and nothing is changed.
        """
        if not days:
            return 0
        attempts = Retrying(
            retry=retry_if_exception_type(CommitFailedError),
            wait=wait_random_exponential(multiplier=0.05, max=2),
            stop=stop_after_attempt(ATTEMPTS),
            reraise=True,
        )
        try:
            with self._shared(_lock(contract)):
                return attempts(self._overwrite, contract, stream, company, days, rows)
        except CommitFailedError:
            pass
        raise StoreError(
            f"others kept writing to {contract.table} for {ATTEMPTS} attempts: run it again",
            stream=stream,
            company=company,
        )

    def committing(self, company: str) -> AbstractContextManager[None]:
        """While a company's events are committed, nobody erases of them or changes their keys."""
        return self._shared(f"company-{company}")

    def alone_with(self, company: str) -> AbstractContextManager[None]:
        """Nobody commits events of a company meanwhile."""
        return self._locks.exclusive(f"company-{company}") if self._locks else nullcontext()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Nobody purges a table meanwhile, so that what a reader has opened stays there."""
        with ExitStack() as held:
            for name in sorted(map(_lock, contracts())):
                held.enter_context(self._shared(name))
            yield

    def purge(self, contract: type[Data]) -> None:
        """Remove what the current version does not need, from the files and from the log, for good.

        Waits until nobody writes or reads. Safe to repeat after a crash.
        """
        with self._locks.exclusive(_lock(contract)) if self._locks else nullcontext():
            self._purge(contract)

    def rows(
        self,
        contract: type[Data],
        *,
        stream: str | None = None,
        company: str | None = None,
        days: Iterable[date] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Stored rows of the current version, in no promised order; a filter that is None lets all through."""
        return self._scan(contract, _where(stream, company, days), columns or arrow_schema(contract).names)

    def batches(
        self, contract: type[Data], *, stream: str, company: str, days: Iterable[date]
    ) -> Iterator[pa.RecordBatch]:
        """Stored rows of the current version, a batch at a time."""
        schema = arrow_schema(contract)
        reader = self._reader(contract, _where(stream, company, days), schema.names)
        while (batch := self._next(reader)) is not None:
            yield batch.select(schema.names).cast(schema)

    def gone(
        self, contract: type[Data], stream: str, company: str, days: Sequence[date], new: pa.Table
    ) -> tuple[pa.Table, dict[date, int]]:
        """What a refetch of closed days changes: (full rows to carry over, number of late records by day).

        `new` has `event_id`, `day`, `source_id`, `source_timestamp` of all that replaces these days. A stored row that
        it lacks goes where a newer version of the same record is in `new`, on another day, or carried itself. Late is
        what `new` brings for a day of which something was stored before.
        """
        keys = ["source_id", "source_timestamp"]
        nothing = arrow_schema(contract).empty_table()
        stored = self.rows(contract, stream=stream, company=company, days=days, columns=["event_id", "day", *keys])
        late = _late(stored, new)
        missing = stored.filter(pc.invert(_among(stored["event_id"], new["event_id"])))
        if not missing.num_rows:
            return nothing, late
        since = f"{_where(stream, company, None)} AND day > '{pc.min(missing['day'])}'"
        later = self._scan(contract, since, ["day", *keys])
        later = later.filter(pc.invert(_among(later["day"], pa.chunked_array([pa.array(days, pa.date32())]))))
        schema = missing.select(keys).schema
        versions = pa.concat_tables(table.select(keys).cast(schema) for table in (new, missing, later))
        newest = versions.group_by("source_id").aggregate([("source_timestamp", "max")])
        place = pc.index_in(missing["source_id"], value_set=newest["source_id"].combine_chunks())
        newer = pc.greater(newest["source_timestamp_max"].take(place), missing["source_timestamp"])
        # An emptied source_id names no record, so nothing can supersede it.
        superseded = pc.and_(newer, pc.is_valid(missing["source_id"]))
        carried = missing.filter(pc.invert(superseded))["event_id"]
        if not len(carried):
            return nothing, late
        full = self.rows(contract, stream=stream, company=company, days=days)
        return full.filter(_among(full["event_id"], carried)), late

    def counts(
        self, contract: type[Data], stream: str, company: str, days: Iterable[date] | None = None
    ) -> dict[date, int]:
        """Number of stored rows by day, in order; days without rows are absent."""
        found = self.rows(contract, stream=stream, company=company, days=days, columns=["day"])
        by_day = found.group_by("day").aggregate([([], "count_all")]).sort_by("day")
        return dict(zip(by_day["day"].to_pylist(), by_day["count_all"].to_pylist(), strict=True))

    @_clearly
    def holds(self, company: str) -> bool:
        """Whether any event of a company is stored."""
        filters = [("company", "=", company)]
        return any(self._table(contract).file_uris(file_pruning_predicate=filters) for contract in contracts())

    def newest_day(self, contract: type[Data], stream: str, company: str) -> date | None:
        """The last day with a stored row."""
        return max(self.counts(contract, stream, company), default=None)

    @_clearly
    def dataset(self, contract: type[Data]) -> pads.Dataset:
        """The current version for engines that read Arrow datasets; filters on company, stream and day skip files."""
        table = self._table(contract)
        return table.to_pyarrow_dataset(filesystem=self._files(contract.table), schema=arrow_schema(contract))

    def _shared(self, name: str) -> AbstractContextManager[None]:
        return self._locks.shared(name) if self._locks else nullcontext()

    @_clearly
    def _purge(self, contract: type[Data]) -> None:
        table = self._table(contract)
        kept = {name: str(value) for name, value in table.metadata().configuration.items()}
        table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False, full=True)
        table.alter.set_table_properties({_LOG_RETENTION: "interval 0 days"})
        table.create_checkpoint()
        table = self._table(contract)
        table.cleanup_metadata()
        table.alter.set_table_properties({_LOG_RETENTION: kept.get(_LOG_RETENTION, "interval 30 days")})

    @_clearly
    def _check_marker(self) -> None:
        files = self._files()
        # In this order: whoever makes a store in the sandbox marks it before its first table.
        filled = any(
            info.base_name != MARKER for info in files.get_file_info(pafs.FileSelector("", allow_not_found=True))
        )
        marked = files.get_file_info(MARKER).type is not pafs.FileType.NotFound
        if marked and not self.sandbox:
            raise StoreError(f"{self.uri} holds the sandbox's events: set TEEI_STORE_URI to another place")
        if filled and self.sandbox and not marked:
            raise StoreError(f"{self.uri} holds real events, not the sandbox's: set TEEI_STORE_URI to another place")

    def _files(self, folder: str = "") -> pafs.FileSystem:
        if self.folder:
            # Arrow's own: a process that read through delta-rs's can abort at its end ("terminate called …").
            return pafs.SubTreeFileSystem(str(self.folder / folder), pafs.LocalFileSystem())
        return pafs.PyFileSystem(DeltaStorageHandler(f"{self.uri}/{folder}".rstrip("/"), self._options))

    def _location(self, contract: type[Data]) -> str:
        return f"{self.uri}/{contract.table}"

    def _table(self, contract: type[Data]) -> DeltaTable:
        return DeltaTable(self._location(contract), storage_options=self._options)

    @_clearly
    def _scan(self, contract: type[Data], predicate: str, columns: Sequence[str]) -> pa.Table:
        schema = pa.schema([arrow_schema(contract).field(name) for name in columns])
        return self._reader(contract, predicate, columns).read_all().select(columns).cast(schema)

    @_clearly
    def _reader(self, contract: type[Data], predicate: str, columns: Sequence[str]) -> pa.RecordBatchReader:
        found = self._table(contract).scan(columns=list(columns), predicate=predicate or None)
        return pa.RecordBatchReader.from_stream(found)

    @_clearly
    def _next(self, reader: pa.RecordBatchReader) -> pa.RecordBatch | None:
        return next(reader, None)

    def _create(self, contract: type[Data]) -> None:
        if self._exists(contract):
            return
        try:
            DeltaTable.create(
                self._location(contract),
                arrow_schema(contract),
                mode="ignore",
                partition_by="company",
                configuration=PROPERTIES,
                storage_options=self._options,
            )
        except DeltaError:
            # Another process was faster, and a version 0 can be made only once.
            if not self._exists(contract):
                raise

    def _exists(self, contract: type[Data]) -> bool:
        return DeltaTable.is_deltatable(self._location(contract), self._options)

    def _overwrite(
        self,
        contract: type[Data],
        stream: str,
        company: str,
        days: Sequence[date],
        rows: Callable[[], pa.RecordBatchReader],
    ) -> int:
        written = 0
        raised: Exception | KeyboardInterrupt | None = None
        reader = rows()

        def batches() -> Iterator[pa.RecordBatch]:
            nonlocal written, raised
            try:
                for batch in reader:
                    written += batch.num_rows
                    yield batch
            except (Exception, KeyboardInterrupt) as error:
                raised = error
                raise

        try:
            table = self._table(contract)
            _write(table, pa.RecordBatchReader.from_batches(reader.schema, batches()), _where(stream, company, days))
        except _FAILURES as error:
            if raised is None and isinstance(error, CommitFailedError) and "os error" not in str(error):
                raise
            message = _explain(error, self.uri)
        else:
            self._tidy(table, stream, company)
            return written
        raise raised or StoreError(message)

    def _tidy(self, table: DeltaTable, stream: str, company: str) -> None:
        """Put a stream's small files together, now and then remove what no version needs; never a failure.

        Not by delta-rs's own `optimize.compact`: two of them at once both commit, and every row is there twice.
        """
        with suppress(*_FAILURES):
            files = pa.table(table.get_add_actions(flatten=True))
            own = pc.and_(pc.equal(files["partition.company"], company), pc.equal(files["min.stream"], stream))
            small = files.filter(pc.and_(own, pc.less(files["size_bytes"], SMALL_BYTES)))
            if small.num_rows > SMALL_FILES:
                days = f"day BETWEEN '{pc.min(small['min.day'])}' AND '{pc.max(small['max.day'])}'"
                predicate = f"{_where(stream, company, None)} AND {days}"
                _write(table, table.scan(predicate=predicate), predicate)
            if table.version() % VACUUM_EVERY == 0:
                table.vacuum(dry_run=False, full=True)


def _write(table: DeltaTable, rows: Any, predicate: str) -> None:
    write_deltalake(
        table,
        rows,
        mode="overwrite",
        predicate=predicate,
        target_file_size=FILE_BYTES,
        writer_properties=_WRITER,
    )


def _lock(contract: type[Data]) -> str:
    return f"table-{contract.table}"


def _among(values: pa.ChunkedArray, others: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.is_in(values, value_set=others.combine_chunks() if isinstance(others, pa.ChunkedArray) else others)


def _where(stream: str | None, company: str | None, days: Iterable[date] | None) -> str:
    """A predicate of delta-rs over the three; empty where all are None."""
    parts = [
        f"{column} = '{value.replace(chr(39), chr(39) * 2)}'"
        for column, value in (("company", company), ("stream", stream))
        if value is not None
    ]
    if days is not None:
        spans = [f"day BETWEEN '{first}' AND '{last}'" for first, last in _spans(days)]
        parts.append(f"({' OR '.join(spans)})" if spans else "false")
    return " AND ".join(parts)


def _spans(days: Iterable[date]) -> list[tuple[date, date]]:
    """First and last of each run of days without a gap."""
    spans: list[tuple[date, date]] = []
    for day in sorted(set(days)):
        if spans and day - spans[-1][1] == timedelta(days=1):
            spans[-1] = (spans[-1][0], day)
        else:
            spans.append((day, day))
    return spans


def _late(stored: pa.Table, new: pa.Table) -> dict[date, int]:
    if not stored.num_rows:
        return {}
    before = pc.is_in(new["day"], value_set=pc.unique(stored["day"]))
    late = new.filter(pc.and_(before, pc.invert(_among(new["event_id"], stored["event_id"]))))
    return {item["values"]: item["counts"] for item in late["day"].value_counts().to_pylist()}
