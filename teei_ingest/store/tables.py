"""The event tables: Delta Lake, one table for each contract, partitioned by company.

Belongs here: making, replacing, reading and tidying tables, and the sandbox's marker. Does not belong here: SQL
(`sql.py`), views (`views.py`), the text of predicates (`predicates.py`), what an error says (`refusals.py`), what a
refetch changes (`changes.py`), settings, what a row means.

Files get the process's umask: whoever starts a process sets 0o077. delta-rs does not survive a fork: start
processes that use a store with `spawn`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from datetime import date
from functools import partial, wraps
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake import ColumnProperties, DeltaTable, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

from teei_ingest.contracts import RELEASED
from teei_ingest.contracts.base import Data
from teei_ingest.contracts.stored import arrow_schema
from teei_ingest.errors import StoreError
from teei_ingest.store import forms, predicates
from teei_ingest.store.locks import Locks
from teei_ingest.store.presence import Presence, no_tables
from teei_ingest.store.refusals import FAILURES, Unsure, explained, failure, is_lost
from teei_ingest.store.rotations import Rotation, Rotations
from teei_ingest.streams import all_streams
from teei_ingest.vault import objects

MARKER = "_teei_sandbox.json"
# A replace rewrites the files that it touches: larger ones cost time and memory, smaller ones every reader.
FILE_BYTES = 16 * 2**20
ROW_GROUP = 65_536
SMALL_FILES, SMALL_BYTES = 8, 2**20  # more than so many small files of a stream become one
VACUUM_EVERY = 64  # commits between two removals of files that no version needs
ATTEMPTS = 50

# What a commit says of a file: never the least or greatest value of a column that is a person's.
STATISTICS = ("stream", "day", "source_timestamp")
_FILE_RETENTION = "delta.deletedFileRetentionDuration"
_LOG_RETENTION = "delta.logRetentionDuration"
# At least: each night of each company leaves a file in the log, and whoever opens a table lists them all.
LOG_HOURS = 7 * 24
PROPERTIES: dict[str, str | None] = {
    "delta.dataSkippingStatsColumns": ",".join(STATISTICS),
    "delta.targetFileSize": str(FILE_BYTES),
    _FILE_RETENTION: "interval 24 hours",
    _LOG_RETENTION: f"interval {LOG_HOURS} hours",
}
_DIFFERENT = ("event_id", "source_id", "timestamp", "source_timestamp")
# Nor do the files' own footers; and no dictionary of what hardly ever comes twice.
_WRITER = WriterProperties(
    compression="ZSTD",
    compression_level=1,
    max_row_group_size=ROW_GROUP,
    default_column_properties=ColumnProperties(statistics_enabled="NONE"),
    column_properties={
        **{name: ColumnProperties(dictionary_enabled=False, statistics_enabled="NONE") for name in _DIFFERENT},
        **{
            name: ColumnProperties(dictionary_enabled=name not in _DIFFERENT, statistics_enabled="CHUNK")
            for name in STATISTICS
        },
    },
)

P = ParamSpec("P")
T = TypeVar("T")


def contracts() -> tuple[type[Data], ...]:
    """The contracts that have a table: the released ones, then those that only a stream brings along."""
    return tuple(dict.fromkeys([*RELEASED, *(stream.contract for stream in all_streams().values())]))


def _enough(state: RetryCallState) -> bool:
    lost = state.outcome is not None and isinstance(state.outcome.exception(), CommitFailedError)
    return state.attempt_number >= (ATTEMPTS if lost else objects.UNSURE_ATTEMPTS)


def _clearly(method: Callable[Concatenate[Store, P], T]) -> Callable[Concatenate[Store, P], T]:
    """Turn what fails below into a StoreError that has no cause."""

    @wraps(method)
    def clear(self: Store, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except FAILURES as error:
            message = explained(error, self.uri)
        raise StoreError(message)

    return clear


class Size(NamedTuple):
    """What the newest version of a table has of a company, or of all; `bytes` are those of its files."""

    rows: int
    files: int
    bytes: int


class Tidied(NamedTuple):
    """What upkeep did to a table: small files that were put together, and files removed that no version needs."""

    compacted: int
    removed: int


class Store:
    """The tables below one URI. Raises StoreError, in one line and without a value of any row.

    A store made in the sandbox bears a marker: it opens in the sandbox alone, and the sandbox opens no other.
    `storage_options` are those of `vault/objects.py`; without `locks` nobody else may purge the tables meanwhile.
    `rotations` says of which companies readers see an older version; who writes sees the newest. `presence` says who is
    gone from a directory. `home` is the id of the deployment: tables of another one are refused, and those that are
    nobody's become its own with the first write.
    """

    def __init__(
        self,
        uri: str,
        *,
        sandbox: bool,
        locks: Locks | None = None,
        rotations: Rotations | None = None,
        presence: Presence | None = None,
        home: str | None = None,
        storage_options: Mapping[str, str] | None = None,
    ) -> None:
        local = uri.removeprefix("file://")
        self.folder = Path(local).absolute() if "://" not in local else None
        self.uri = str(self.folder or uri.rstrip("/"))
        self.sandbox = sandbox
        self._locks = locks
        self._rotated = rotations
        self._presence = presence
        self._home = home
        self._options = dict(storage_options or {})
        self._check_marker()

    @_clearly
    def prepare(self) -> None:
        """Make the tables that are missing; several processes may do so at once."""
        if self.folder:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.sandbox and not self._files().get_file_info(MARKER).is_file:
            with self._files().open_output_stream(MARKER) as file:
                file.write(b'{"sandbox": true}\n')
        for contract in contracts():
            self._patiently(partial(self._create, contract))

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
        with self._shared(_lock(contract)):
            return self._committed(contract, lambda: self._overwrite(contract, stream, company, days, rows))

    def rewrite(self, contract: type[Data], company: str, event_ids: Sequence[str], rows: pa.Table) -> None:
        """Put `rows` in the place of a company's rows with these ids, in one commit, which is not yet for good.

        The ids are in the log until the table is purged.
        """
        predicate = predicates.with_ids(company, event_ids)
        with self._shared(_lock(contract)):
            self._commit(contract, lambda: _write(self._table(contract), rows, predicate))

    @contextmanager
    def committing(self, company: str) -> Iterator[int]:
        """While a company's events are committed, nobody erases of them or changes their keys.

        Gives the version of the pseudonyms that its rows have. Raises StoreError where a rotation of its keys was
        interrupted, which has to be finished first.
        """
        with self._shared(_company_lock(company)):
            self._refuse_pinned(company)
            rotation = self._rotated.get(company) if self._rotated else None
            yield rotation.version if rotation else 1

    def turn(self, company: str, stream: str) -> AbstractContextManager[None]:
        """Nobody else commits events of this stream of a company meanwhile, so that what was read stays true.

        To be taken while `committing`.
        """
        return self._locks.exclusive(f"stream-{company}-{stream}") if self._locks else nullcontext()

    @contextmanager
    def alone_with(self, company: str, *, unfinished: bool = False) -> Iterator[None]:
        """Nobody commits events of a company meanwhile; `unfinished` tolerates an interrupted rotation of its keys."""
        with self._locks.exclusive(_company_lock(company)) if self._locks else nullcontext():
            if not unfinished:
                self._refuse_pinned(company)
            yield

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Nobody purges a table meanwhile, so that what a reader has opened stays there."""
        with ExitStack() as held:
            for name in sorted(map(_lock, contracts())):
                held.enter_context(self._shared(name))
            yield

    def tidy(self, contract: type[Data], retention_h: int) -> Tidied:
        """Put small files together where they are too many, and remove what no version needs; safe to repeat.

        A file stays `retention_h` hours after the newest version has stopped needing it, for whoever reads an older
        one. Of a company whose keys are being rotated nothing is touched, and no file is removed meanwhile. What an
        erasure deleted does not come back: who puts files together is no more alone than who commits events.
        """
        with self._shared(_lock(contract)):
            self._commit(contract, lambda: self._keep_files(contract, retention_h))
        compacted = 0
        for company, stream in self._crowded(contract):
            if company in self._pinned():
                continue
            one = partial(self._compacted, contract, stream, company)
            with self.committing(company), self.turn(company, stream), self._shared(_lock(contract)):
                compacted += self._commit(contract, one)
        with self._shared(_lock(contract)):
            return Tidied(compacted, self._once(lambda: self._vacuum(self._table(contract))))

    @_clearly
    def sizes(self, contract: type[Data]) -> dict[str, Size]:
        """What the newest version has of each company, by slug, from the table's log alone."""
        files = _adds(self._table(contract))
        if not files.num_rows:
            return {}
        sums = files.group_by("partition.company").aggregate(
            [("num_records", "sum"), ([], "count_all"), ("size_bytes", "sum")]
        )
        columns = (sums[name].to_pylist() for name in ("num_records_sum", "count_all", "size_bytes_sum"))
        return {
            company: Size(rows or 0, count, size)
            for company, rows, count, size in zip(sums["partition.company"].to_pylist(), *columns, strict=True)
        }

    @_clearly
    def bytes_of(self, contract: type[Data]) -> int:
        """Bytes of all files of a table: those of older versions and the log are among them."""
        found = self._files(contract.table).get_file_info(pafs.FileSelector("", recursive=True, allow_not_found=True))
        return sum(info.size for info in found if info.is_file)

    def refused(self, error: Exception) -> StoreError | None:
        """What an object store refused of what somebody else reads here, if it was that; an error to raise."""
        text = None if self.folder else objects.refusal(str(error), self.uri)
        return StoreError(text) if text else None

    @_clearly
    def keeps_versions(self) -> bool:
        """Whether what is removed stays in the object store as an older version, so that no removal is for good."""
        files = self._files(contracts()[0].table)
        return not self.folder and any(
            objects.is_versioned(files, path) for path in self._paths(files, "_delta_log")[:1]
        )

    def form(self, contract: type[Data]) -> forms.Standing:
        """Which form a table has. Raises StoreError if it is another deployment's, or a newer version's."""
        return self._once(lambda: forms.refuse(self._open(contract), self.uri, self._home, older=True))

    def migrate(self, contract: type[Data]) -> None:
        """Bring a table to this version's form; nothing happens to one that has it. Safe to repeat after a crash.

        Waits until nobody of this deployment writes or reads. Whoever opened the table before cannot commit to it.
        """
        with self._alone(contract):
            self._commit(contract, lambda: self._bring_up(contract))

    def claim(self, former: str) -> None:
        """Make the tables this deployment's, that were the `former` one's or nobody's; safe to repeat after a crash.

        Whatever the former one is writing is not committed any more.
        """
        for contract in contracts():
            self._commit(contract, partial(self._take, contract, former))

    def purge(self, contract: type[Data]) -> None:
        """Remove what the current version does not need, from the files and from the log, for good.

        Waits until nobody writes or reads. Safe to repeat after a crash.
        """
        with self._alone(contract):
            self._purge(contract)

    def expire(self, contract: type[Data], before: date) -> int:
        """Delete, in one commit and for good, the rows of all days before that one; their number.

        Like a purge it waits until nobody writes or reads, and is safe to repeat after a crash.
        """
        with self._alone(contract):
            expired = self.expired(contract, before)
            if expired:
                self._commit(contract, lambda: self._delete(contract, predicates.before(before)))
            # A delete that is in the log was not followed by its purge, or somebody was killed in between.
            if self._has_deleted(contract):
                self._purge(contract)
            return expired

    def expired(self, contract: type[Data], before: date) -> int:
        """Number of rows of all days before that one."""
        return self._scan(contract, predicates.before(before), ["day"]).num_rows

    def rows(
        self,
        contract: type[Data],
        *,
        stream: str | None = None,
        company: str | None = None,
        days: Iterable[date] | None = None,
        after: date | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Stored rows of the current version, in no promised order; a filter that is None lets all through."""
        predicate = predicates.where(stream, company, days, after)
        return self._scan(contract, predicate, columns or arrow_schema(contract).names)

    def batches(
        self,
        contract: type[Data],
        *,
        company: str,
        stream: str | None = None,
        days: Iterable[date] | None = None,
        columns: Sequence[str] | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Stored rows of the current version, a batch at a time; filters and columns as in `rows`."""
        schema = arrow_schema(contract)
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
        for batch in self.drained(self._reader(contract, predicates.where(stream, company, days), schema.names)):
            yield batch.select(schema.names).cast(schema)

    def drained(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        """The batches of a reader of the tables."""
        while (batch := self._next(reader)) is not None:
            yield batch

    def with_ids(self, contract: type[Data], company: str, event_ids: Sequence[str]) -> pa.Table:
        """A company's stored rows with these ids."""
        return self._scan(contract, predicates.with_ids(company, event_ids), arrow_schema(contract).names)

    def unfinished(self, contract: type[Data]) -> list[Path]:
        """Files that are being written, or were by a process that was killed; delta-rs removes none of these."""
        folder = self.folder / contract.table if self.folder else None
        return [*folder.rglob("*#*"), *folder.glob("_delta_log/*.tmp")] if folder else []

    @_clearly
    def sweep(self) -> int:
        """Remove those of killed processes; their number. In a table that is in use they wait for the next time."""
        removed = 0
        for contract in contracts():
            if self._locks and self.unfinished(contract):
                with suppress(StoreError), self._locks.exclusive(_lock(contract), patience_s=0):
                    for path in self.unfinished(contract):
                        path.unlink(missing_ok=True)
                        removed += 1
        return removed

    def texts(self, contract: type[Data], company: str) -> Iterator[str]:
        """Every text in the company's files, whichever version they are of, and in the table's log, decoded.

        Each once for each column of a file. A file that goes meanwhile is left out.
        """
        files = self._files(contract.table)
        for folder in (f"company={company}", "_delta_log"):
            for path in self._paths(files, folder):
                yield from self._texts_of(files, path)

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

    def dataset(self, contract: type[Data]) -> pads.Dataset:
        """What readers see of a table; filters on company, stream and day skip files."""
        return self.datasets([contract])[contract.table]

    def datasets(self, wanted: Sequence[type[Data]]) -> dict[str, pads.Dataset]:
        """What readers see of several tables, by name, with the same keys in all of them."""
        before = self._rotations()
        while True:
            found = {contract.table: self._seen(contract, before) for contract in wanted}
            after = self._rotations()
            if after == before:
                return found
            before = after

    def presence(self) -> dict[str, pa.Table]:
        """The tables beside the events of which views tell who is gone from a directory."""
        return self._presence.tables() if self._presence else no_tables()

    def versions(self) -> dict[str, int]:
        """The current version of each table, by name."""
        return {contract.table: self._version(contract) for contract in contracts()}

    def streams_of(self, contract: type[Data], company: str) -> list[str]:
        """The streams of which a company has rows."""
        return sorted(self.rows(contract, company=company, columns=["stream"])["stream"].unique().to_pylist())

    def remove_company(self, contract: type[Data], company: str) -> int:
        """Delete a company's rows in one commit, which is not yet for good; their number."""
        with self._shared(_lock(contract)):
            return self._commit(contract, lambda: self._delete(contract, predicates.where(None, company)))

    @contextmanager
    def _alone(self, contract: type[Data]) -> Iterator[None]:
        """Nobody writes or reads a table meanwhile, and no reader needs an older version of it."""
        while True:
            for company in self._pinned():
                with self.committing(company):  # whoever rotates its keys has ended then
                    pass
            with self._locks.exclusive(_lock(contract)) if self._locks else nullcontext():
                if not self._pinned():
                    yield
                    return

    def _refuse_pinned(self, company: str) -> None:
        rotation = self._rotated.get(company) if self._rotated else None
        if rotation is not None and rotation.pinned:
            raise StoreError(
                f"a rotation of its keys was interrupted: `teei keys rotate --company {company}` finishes it",
                company=company,
            )

    def _rotations(self) -> dict[str, Rotation]:
        return self._rotated.all() if self._rotated else {}

    def _pinned(self) -> dict[str, Rotation]:
        return {company: one for company, one in self._rotations().items() if one.pinned}

    @_clearly
    def _seen(self, contract: type[Data], rotations: Mapping[str, Rotation]) -> pads.Dataset:
        found = self._dataset(contract, None)
        for company, rotation in rotations.items():
            if rotation.pinned and contract.table in rotation.tables:
                own = pads.field("company") == company
                before = self._dataset(contract, rotation.tables[contract.table])
                files = [*found.get_fragments(~own), *before.get_fragments(own)]
                found = pads.FileSystemDataset(files, found.schema, found.format, found.filesystem)
        return found

    def _dataset(self, contract: type[Data], version: int | None) -> pads.FileSystemDataset:
        table = self._table(contract) if version is None else self._open(contract, version)
        return table.to_pyarrow_dataset(filesystem=self._files(contract.table), schema=arrow_schema(contract))

    @_clearly
    def _version(self, contract: type[Data]) -> int:
        return self._table(contract).version()

    def _shared(self, name: str) -> AbstractContextManager[None]:
        return self._locks.shared(name) if self._locks else nullcontext()

    def _commit(self, contract: type[Data], write: Callable[[], T]) -> T:
        """What `write` returns, in as many attempts as it takes."""
        return self._committed(contract, lambda: self._once(write))

    def _committed(self, contract: type[Data], write: Callable[[], T]) -> T:
        """What `write` returns, which is tried again when somebody else committed meanwhile."""
        again = retry_if_exception_type((CommitFailedError, Unsure))
        attempts = Retrying(retry=again, wait=objects.BETWEEN, stop=_enough, reraise=True)
        try:
            return attempts(write)
        except CommitFailedError:
            pass
        raise StoreError(f"others kept writing to {contract.table} for {ATTEMPTS} attempts: run it again")

    @_clearly
    def _paths(self, files: pafs.FileSystem, folder: str) -> list[str]:
        found = files.get_file_info(pafs.FileSelector(folder, recursive=True, allow_not_found=True))
        return [info.path for info in found if info.is_file]

    @_clearly
    def _texts_of(self, files: pafs.FileSystem, path: str) -> list[str]:
        try:
            with files.open_input_file(path) as file:
                if path.endswith(".parquet"):
                    return [text for column in pq.read_table(file).columns for text in _texts(column)]
                return file.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return []

    def _delete(self, contract: type[Data], predicate: str) -> int:
        """The number of rows that were deleted. The predicate is in the log until the table is purged."""
        return int(self._table(contract).delete(predicate)["num_deleted_rows"])

    def _once(self, write: Callable[[], T]) -> T:
        """One attempt; a race that was lost is raised as it is, to be tried again."""
        try:
            return write()
        except FAILURES as error:
            if is_lost(error):
                raise
            refused = failure(error, self.uri)
        raise refused

    def _patiently(self, ask: Callable[[], T]) -> T:
        """What `ask` returns, which an object store is asked again where it breaks off."""
        return ask() if self.folder else objects.patiently(ask)

    @_clearly
    def _has_deleted(self, contract: type[Data]) -> bool:
        return any(commit["operation"] == "DELETE" for commit in self._table(contract).history())

    @_clearly
    def _purge(self, contract: type[Data]) -> None:
        table = self._table(contract)
        table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False, full=True)
        table.alter.set_table_properties({_LOG_RETENTION: "interval 0 days"})
        table.create_checkpoint()
        table = self._table(contract)
        table.cleanup_metadata()
        table.alter.set_table_properties({_LOG_RETENTION: str(PROPERTIES[_LOG_RETENTION])})
        for path in self.unfinished(contract):  # nobody writes now
            path.unlink(missing_ok=True)

    @_clearly
    def _check_marker(self) -> None:
        files = self._files()
        # In this order: whoever makes a store in the sandbox marks it before its first table.
        everything = pafs.FileSelector("", allow_not_found=True)
        looked = Retrying(retry=retry_if_exception_type(FileNotFoundError), stop=stop_after_attempt(5), reraise=True)
        # Arrow looks twice, and another process may make the folder in between.
        found = looked(files.get_file_info, everything)
        filled = any(info.base_name != MARKER for info in found)
        marked = files.get_file_info(MARKER).is_file
        if marked and not self.sandbox:
            raise StoreError(f"{self.uri} holds the sandbox's events: set TEEI_STORE_URI to another place")
        if filled and self.sandbox and not marked:
            raise StoreError(f"{self.uri} holds real events, not the sandbox's: set TEEI_STORE_URI to another place")

    def _files(self, folder: str = "") -> pafs.FileSystem:
        if self.folder:
            # Arrow's own: a process that read through delta-rs's can abort at its end ("terminate called …").
            return pafs.SubTreeFileSystem(str(self.folder / folder), pafs.LocalFileSystem())
        return objects.files(f"{self.uri}/{folder}".rstrip("/"), self._options)

    def _location(self, contract: type[Data]) -> str:
        return f"{self.uri}/{contract.table}"

    def _open(self, contract: type[Data], version: int | None = None) -> DeltaTable:
        location = self._location(contract)
        return self._patiently(lambda: DeltaTable(location, version=version, storage_options=self._options))

    def _table(self, contract: type[Data]) -> DeltaTable:
        """The newest version. Raises StoreError if it is another deployment's, or of another form."""
        table = self._open(contract)
        forms.refuse(table, self.uri, self._home)
        return table

    def _own(self, contract: type[Data]) -> DeltaTable:
        """Likewise; one that was nobody's is this deployment's then."""
        table = self._open(contract)
        found = forms.refuse(table, self.uri, self._home)
        if self._home and not found.home:
            forms.claim(table, self._home)
            return self._table(contract)
        return table

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

    def _keep_files(self, contract: type[Data], hours: int) -> None:
        table = self._own(contract)
        wanted = {_FILE_RETENTION: f"interval {hours} hours", _LOG_RETENTION: f"interval {max(hours, LOG_HOURS)} hours"}
        if not wanted.items() <= table.metadata().configuration.items():
            table.alter.set_table_properties(wanted)

    @_clearly
    def _crowded(self, contract: type[Data]) -> list[tuple[str, str]]:
        """(company, stream) of those that have too many small files, in order."""
        files = _adds(self._table(contract))
        if not files.num_rows:
            return []
        pair = ["partition.company", "min.stream"]
        small = _small(files).group_by(pair).aggregate([([], "count_all")])
        many = small.filter(pc.greater(small["count_all"], SMALL_FILES))
        return sorted(zip(*(many[name].to_pylist() for name in pair), strict=True))

    def _bring_up(self, contract: type[Data]) -> None:
        forms.refuse(self._open(contract), self.uri, self._home, older=True)
        forms.bring_up(lambda: self._open(contract), arrow_schema(contract), PROPERTIES)

    def _take(self, contract: type[Data], former: str) -> None:
        table = self._open(contract)
        found = forms.refuse(table, self.uri, None, older=True)
        if found.home not in (None, self._home, former):
            raise StoreError(f"{contract.table} belongs to the deployment {found.home}, not to {former}")
        if self._home and found.home != self._home:
            forms.claim(table, self._home)

    def _create(self, contract: type[Data]) -> None:
        if self._exists(contract):
            return
        try:
            DeltaTable.create(
                self._location(contract),
                arrow_schema(contract),
                mode="ignore",
                partition_by="company",
                configuration={**PROPERTIES, **forms.properties(self._home)},
                raise_if_key_not_exists=False,
                storage_options=self._options,
            )
        except DeltaError:
            # Another process was faster, and a version 0 can be made only once.
            if not self._exists(contract):
                raise

    def _exists(self, contract: type[Data]) -> bool:
        if self.folder:  # delta-rs would list the whole log
            try:
                with os.scandir(self.folder / contract.table / "_delta_log") as entries:
                    return any(entry.name.endswith((".json", ".parquet")) for entry in entries)
            except FileNotFoundError:
                return False
        return self._patiently(lambda: DeltaTable.is_deltatable(self._location(contract), self._options))

    def _overwrite(
        self,
        contract: type[Data],
        stream: str,
        company: str,
        days: Sequence[date],
        rows: Callable[[], pa.RecordBatchReader],
    ) -> int:
        written = 0
        raised: BaseException | None = None
        reader = rows()

        def batches() -> Iterator[pa.RecordBatch]:
            nonlocal written, raised
            try:
                for batch in reader:
                    written += batch.num_rows
                    yield batch
            except GeneratorExit:  # not from within: whoever reads has enough
                raise
            except BaseException as error:
                raised = error
                raise

        try:
            table = self._own(contract)
            given = pa.RecordBatchReader.from_batches(reader.schema, batches())
            _write(table, given, predicates.where(stream, company, days))
        except FAILURES as error:
            if raised is None and is_lost(error):
                raise
            refused = failure(error, self.uri)
        else:
            self._tidy(table, stream, company)
            return written
        raise raised or refused

    def _tidy(self, table: DeltaTable, stream: str, company: str) -> None:
        """Put a stream's small files together, now and then remove what no version needs; never a failure."""
        with suppress(*FAILURES):
            self._compact(table, stream, company)
            if table.version() % VACUUM_EVERY == 0:
                self._vacuum(table)

    def _compact(self, table: DeltaTable, stream: str, company: str) -> int:
        """Put a stream's small files together if they are too many; their number.

        Not by delta-rs's own `optimize.compact`: two of them at once both commit, and every row is there twice.
        """
        files = _adds(table)
        own = pc.and_(pc.equal(files["partition.company"], company), pc.equal(files["min.stream"], stream))
        small = _small(files.filter(own))
        if small.num_rows <= SMALL_FILES:
            return 0
        first, last = pc.min(small["min.day"]).as_py(), pc.max(small["max.day"]).as_py()
        predicate = f"{predicates.where(stream, company)} AND {predicates.between(first, last)}"
        _write(table, table.scan(predicate=predicate), predicate)
        return small.num_rows

    def _compacted(self, contract: type[Data], stream: str, company: str) -> int:
        return self._compact(self._table(contract), stream, company)

    def _vacuum(self, table: DeltaTable) -> int:
        """Remove the files that no version needs which somebody may still read; their number."""
        # Looking first, since the removal is two commits, be there something to remove or not.
        if self._pinned() or not table.vacuum(full=True):
            return 0
        return len(table.vacuum(dry_run=False, full=True))


def _adds(table: DeltaTable) -> pa.Table:
    """The files of a version, with what its log says of each."""
    return pa.table(table.get_add_actions(flatten=True))


def _small(files: pa.Table) -> pa.Table:
    return files.filter(pc.less(files["size_bytes"], SMALL_BYTES))


def _write(table: DeltaTable, rows: Any, predicate: str) -> None:
    write_deltalake(
        table,
        rows,
        mode="overwrite",
        predicate=predicate,
        target_file_size=FILE_BYTES,
        writer_properties=_WRITER,
    )


def _texts(column: Any) -> Iterator[str]:
    """The different texts of a column, in lists, maps and structs too."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    kind = column.type
    if pa.types.is_struct(kind):
        for field in range(kind.num_fields):
            yield from _texts(pc.struct_field(column, field))
    elif pa.types.is_map(kind):
        yield from _texts(column.keys)
        yield from _texts(column.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from _texts(column.flatten())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        # What delta-rs writes anew, after a deletion, are views, of which Arrow cannot tell the different ones.
        yield from column.cast(pa.large_string()).drop_null().unique().to_pylist()


def _company_lock(company: str) -> str:
    return f"company-{company}"


def _lock(contract: type[Data]) -> str:
    return f"table-{contract.table}"
