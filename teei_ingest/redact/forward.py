"""Stored rows with their pseudonyms brought to the newest keys, whatever their column: what a rotation does to them.

Belongs here: finding pseudonyms in columns. Does not belong here: what a pseudonym is (`tokens.py`), reading or
writing rows.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from teei_ingest.redact.apply import list_offsets
from teei_ingest.redact.tokens import PSEUDONYM, Pseudonyms


def brought_forward(rows: pa.RecordBatch, names: Pseudonyms) -> pa.RecordBatch:
    """The rows with every older pseudonym as `names` has it, in structs and lists too; all else as it is."""
    return pa.RecordBatch.from_arrays([_forward(column, names) for column in rows.columns], schema=rows.schema)


def _forward(values: Any, names: Pseudonyms) -> Any:
    kind = values.type
    if pa.types.is_string(kind):
        return _texts(values, names)
    if pa.types.is_struct(kind):
        parts = [_forward(values.field(place), names) for place in range(kind.num_fields)]
        return pa.StructArray.from_arrays(parts, fields=list(kind), mask=values.is_null())
    if pa.types.is_list(kind):
        return pa.ListArray.from_arrays(list_offsets(values), _forward(values.flatten(), names), type=kind)
    return values


def _texts(values: pa.StringArray, names: Pseudonyms) -> pa.StringArray:
    if not pc.any(pc.match_substring_regex(values, f"^{PSEUDONYM}$")).as_py():
        return values
    encoded = values.dictionary_encode()
    known = [names.forward(text) for text in encoded.dictionary.to_pylist()]
    return pa.array(known, pa.string()).take(encoded.indices)
