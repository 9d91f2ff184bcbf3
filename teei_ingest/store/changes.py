"""What reading days again changes of what is stored of them.

Belongs here: comparing stored rows with those that would replace them: what is gone, what is late, which days differ.
Does not belong here: replacing them (`tables.py`), remembering what is gone (`vanished.py`), whether a day is closed
(`pipeline/ingest.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from teei_ingest.contracts.base import Data
from teei_ingest.contracts.stored import arrow_schema
from teei_ingest.store.tables import Store

COMPARED_ROWS = 150_000  # of about 300 bytes: so many stored rows are in memory at once while they are compared
_BY_DAY = [("day", "ascending"), ("event_id", "ascending")]


def gone(
    store: Store,
    contract: type[Data],
    stream: str,
    company: str,
    days: Sequence[date],
    new: pa.Table,
    open_days: Sequence[date] = (),
) -> tuple[pa.Table, dict[date, int]]:
    """What a refetch of closed days changes: (full rows to carry over, number of late records by day).

    `new` has `event_id`, `day`, `source_id`, `source_timestamp` of all that replaces these days and `open_days`,
    of which nothing is carried over. A stored row that it lacks goes where a newer version of the same record is
    in `new`, on another day, or carried itself. Late is what `new` brings for a day of which something was stored
    before.
    """
    keys = ["source_id", "source_timestamp"]
    nothing = arrow_schema(contract).empty_table()
    stored = store.rows(contract, stream=stream, company=company, days=days, columns=["event_id", "day", *keys])
    late = _late(stored, new)
    missing = stored.filter(pc.invert(_among(stored["event_id"], new["event_id"])))
    if not missing.num_rows:
        return nothing, late
    first = pc.min(missing["day"]).as_py()
    later = store.rows(contract, stream=stream, company=company, after=first, columns=["day", *keys])
    replaced = pa.chunked_array([pa.array([*days, *open_days], pa.date32())])
    later = later.filter(pc.invert(_among(later["day"], replaced)))
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
    full = store.rows(contract, stream=stream, company=company, days=days)
    return full.filter(_among(full["event_id"], carried)), late


def differing(
    store: Store,
    contract: type[Data],
    stream: str,
    company: str,
    stored: Mapping[date, int],
    days: Mapping[date, int],
    rows: Callable[[Sequence[date]], Callable[[], pa.RecordBatchReader]],
) -> list[date]:
    """The days whose stored rows are not, in any order and to the value, those that would replace them.

    `stored` are their `counts`; `days` says how many rows would replace them, of which `rows` makes readers as
    `replace` takes them.
    """
    found = {day for day, count in days.items() if stored.get(day, 0) != count}
    for some in _portions({day: count for day, count in days.items() if count and day not in found}):
        before = store.rows(contract, stream=stream, company=company, days=some).sort_by(_BY_DAY)
        after = rows(some)().read_all().sort_by(_BY_DAY)
        at = 0
        for day in some:
            if not before.slice(at, days[day]).equals(after.slice(at, days[day])):
                found.add(day)
            at += days[day]
    return sorted(found)


def _late(stored: pa.Table, new: pa.Table) -> dict[date, int]:
    if not stored.num_rows:
        return {}
    before = pc.is_in(new["day"], value_set=pc.unique(stored["day"]))
    late = new.filter(pc.and_(before, pc.invert(_among(new["event_id"], stored["event_id"]))))
    return {item["values"]: item["counts"] for item in late["day"].value_counts().to_pylist()}


def _among(values: pa.ChunkedArray, others: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.is_in(values, value_set=others.combine_chunks() if isinstance(others, pa.ChunkedArray) else others)


def _portions(days: Mapping[date, int]) -> Iterator[list[date]]:
    """The days in order, in portions of at most COMPARED_ROWS rows, or of one day; `days` has the rows of each."""
    some: list[date] = []
    size = 0
    for day, count in sorted(days.items()):
        if some and size + count > COMPARED_ROWS:
            yield some
            some, size = [], 0
        some.append(day)
        size += count
    if some:
        yield some
