"""Which form a table has, whose it is, and bringing an older one up to the form of this version.

Belongs here: the two properties of a table that say so, what is refused because of them, the steps from one form to the
next. Does not belong here: what is in a table (`tables.py`).

Both are in the table's own metadata: to change them is a commit, with which every commit collides that somebody began
before. So whoever was writing has to open the table again, and is refused then. Other engines pass over them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from teei_ingest.errors import StoreError

# One more for whatever a process of before could misread or spoil: a column, another meaning of one, another layout.
FORMAT = 1
# By the number of the older form: what makes a table of the next one of it. New columns are there already, empty. It
# opens the table anew for each commit, and is safe to repeat.
STEPS: dict[int, Callable[[Callable[[], DeltaTable]], None]] = {}

_FORMAT, _HOME = "teei.format", "teei.home"
_ON_THE_WAY = ">"  # `1>2`: on the way from 1 to 2


@dataclass(frozen=True)
class Standing:
    """A table's form, `to` which it is on the way or there, and the id of the home that it belongs to."""

    number: int
    to: int
    home: str | None

    @property
    def is_current(self) -> bool:
        """Whether this version may use it."""
        return self.number == self.to == FORMAT

    def __str__(self) -> str:
        return f"{self.number}" if self.number == self.to else f"{self.number}, on the way to {self.to}"


def standing(table: DeltaTable) -> Standing:
    """How a table stands. One that says nothing is of before there were numbers: of form 1, and nobody's yet."""
    said = table.metadata().configuration
    number, on_the_way, to = (said.get(_FORMAT) or "1").partition(_ON_THE_WAY)
    return Standing(int(number), int(to) if on_the_way else int(number), said.get(_HOME))


def properties(home: str | None) -> dict[str, str]:
    """Of a new table."""
    return {_FORMAT: str(FORMAT)} | ({_HOME: home} if home else {})


def refuse(table: DeltaTable, uri: str, home: str | None, *, older: bool = False) -> Standing:
    """How a table stands. Raises StoreError if another version or another home has to be asked for it.

    With `older` one that has to be brought up is let through. Without a `home` nobody's is asked for.
    """
    found = standing(table)
    if max(found.number, found.to) > FORMAT:
        raise StoreError(
            f"{uri} was written by a newer teei_ingest (form {found}, this one knows {FORMAT}): upgrade this one"
        )
    if home and found.home not in (None, home):
        raise StoreError(
            f"{uri} belongs to the deployment {found.home}, this is {home}: set TEEI_STORE_URI to another place; if "
            f"this one takes its place, `teei store claim --from {found.home}`"
        )
    if not older and not found.is_current:
        raise StoreError(
            f"{uri} was written by an older teei_ingest (form {found}): stop what runs, then `teei store migrate`"
        )
    return found


def claim(table: DeltaTable, home: str) -> None:
    """Make a table a home's, in one commit."""
    table.alter.set_table_properties({_HOME: home}, raise_if_not_exists=False)


def bring_up(opened: Callable[[], DeltaTable], schema: pa.Schema, wanted: Mapping[str, str | None]) -> None:
    """Bring a table to the form of this version; `wanted` are its other properties. Safe to repeat after a crash.

    The first commit keeps out everybody else, whichever version they are of, the last one lets in those of this one.
    """
    begun = standing(opened())
    if begun.is_current:
        return
    _note(opened(), {_FORMAT: f"{begun.number}{_ON_THE_WAY}{FORMAT}"})
    write_deltalake(opened(), schema.empty_table(), mode="append", schema_mode="merge")  # new columns, empty so far
    for number in range(begun.number, FORMAT):
        if number in STEPS:
            STEPS[number](opened)
    _note(opened(), {**{name: value for name, value in wanted.items() if value}, _FORMAT: str(FORMAT)})


def _note(table: DeltaTable, said: Mapping[str, str]) -> None:
    table.alter.set_table_properties(dict(said), raise_if_not_exists=False)
