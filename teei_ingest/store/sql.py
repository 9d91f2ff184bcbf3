"""Questions to the event tables in SQL, answered by DuckDB; read-only, no files, no network, no extensions.

Belongs here: the connection, one query, its output as text. Does not belong here: what a view says (`views.py`).
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from teei_ingest.contracts.base import Data
from teei_ingest.contracts.stored import arrow_schema
from teei_ingest.errors import UsageError
from teei_ingest.store.presence import BESIDE
from teei_ingest.store.tables import Store, contracts
from teei_ingest.store.views import views

FORMATS = ("table", "json", "csv")
MEMORY = "1GB"


def connect(
    store: Store, asked: str | None = None, *, spill: Path | None = None, memory: str = MEMORY
) -> duckdb.DuckDBPyConnection:
    """All views over the current version of the tables; instants in UTC. Raises StoreError.

    Where only `asked` will be asked, tables that it does not name are empty: to open one is to read its whole log.
    `spill` is the folder for what does not fit into `memory`; without it such a query fails.
    """
    connection = duckdb.connect(
        config={
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
            "memory_limit": memory,
            "temp_directory": str(spill) if spill else "",
        }
    )
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = false")
    read = contracts() if asked is None else _read_by(asked)
    for contract in contracts():
        if contract not in read:
            connection.register(contract.table, arrow_schema(contract).empty_table())
    for name, dataset in store.datasets(read).items():
        connection.register(name, dataset)
    define_views(connection, store.presence())
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _read_by(asked: str) -> tuple[type[Data], ...]:
    """The contracts whose tables some SQL may read: those that it names, or that a view does which it names."""
    text = asked.casefold()
    if "query" in text:  # DuckDB's functions of that name put a table's name together
        return contracts()
    while more := [view.sql for name, view in views().items() if view.sql and name in text and view.sql not in text]:
        text += "\n".join(more)
    return tuple(contract for contract in contracts() if contract.table in text)


def define_views(connection: duckdb.DuckDBPyConnection, beside: Mapping[str, pa.Table]) -> None:
    """All views over the contracts' tables, which the connection has by name.

    `beside` are tables that views join with and that nobody is shown: they are in a schema of their own.
    """
    connection.execute(f"CREATE SCHEMA {BESIDE}")
    for name, table in beside.items():
        connection.register("given", table)
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM given")
        connection.unregister("given")
    for name, view in views().items():
        if view.sql:
            connection.execute(f"CREATE TEMP VIEW {name} AS {view.sql}")


def query(store: Store, sql: str, *, spill: Path | None = None) -> tuple[list[str], list[tuple[Any, ...]]]:
    """(column names, all rows) of one SELECT, WITH, DESCRIBE or SHOW. Raises UsageError in one line, StoreError."""
    with store.reading(), connect(store, sql, spill=spill) as connection:
        try:
            statements = connection.extract_statements(sql)
            if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
                raise UsageError("ask one question: SELECT, WITH, DESCRIBE or SHOW")
            answer = connection.execute(statements[0])
            # Everything at once: a cursor that was read by half blocks the next query.
            return _distinct([column[0] for column in answer.description or ()]), answer.fetchall()
        except duckdb.Error as error:
            failure = store.refused(error) or UsageError(_explain(error))
    raise failure


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, a repeated one numbered: a row object has each key once."""
    distinct: list[str] = []
    for name in names:
        count, unique = 1, name
        while unique in distinct:
            count += 1
            unique = f"{name}_{count}"
        distinct.append(unique)
    return distinct


def _explain(error: duckdb.Error) -> str:
    """One line; an error that arose while running may show a row's value, so only its kind is told."""
    text = str(error).split("\n\nLINE ")[0]
    absent = re.search(r"Table with name (\S+) does not exist", text)
    if absent:
        return no_view(absent[1])
    if isinstance(error, duckdb.ParserException | duckdb.CatalogException | duckdb.BinderException):
        return text.partition(": ")[2]
    if isinstance(error, duckdb.PermissionException):
        return "only the views can be read: no files, no settings"
    if isinstance(error, duckdb.OutOfMemoryException):
        return "the query needs more memory than it may use: filter by company, stream or day"
    return f"the query failed while running ({type(error).__name__}): look at its casts and functions"


def no_view(name: str) -> str:
    """What to say of a view that there is not."""
    names = list(views())
    close = difflib.get_close_matches(name.lower(), names)
    return f"there is no view {name}: " + (
        f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(names)}"
    )


def render(names: Sequence[str], rows: Sequence[Sequence[Any]], form: str, *, width: int | None = None) -> str:
    """An answer as text: `table` for people, `json` (an array of row objects) or `csv` for machines.

    Decimals are strings in JSON, since most readers make a float of a JSON number; instants are RFC 3339 in UTC, days
    ISO 8601; structs and maps are objects, in CSV and tables as JSON. A table that is wider than `width` (default: the
    terminal; no limit where there is none) shows one column a line.
    """
    if form == "json":
        objects = [dict(zip(names, map(_plain, row), strict=True)) for row in rows]
        return json.dumps(objects, ensure_ascii=False, indent=2)
    if form == "csv":
        return "\n".join(_line(row) for row in [names, *([cell(value) for value in row] for row in rows)])
    if form == "table":
        return _table(names, rows, width)
    raise UsageError(f"there is no format {form}: use {', '.join(FORMATS)}")


def _line(fields: Sequence[str]) -> str:
    # A field with any character of the line's end is quoted: so a carriage return alone is, too.
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(fields)
    return text.getvalue().removesuffix("\r\n")


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            return value.isoformat()
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, bytes):
        return value.hex()
    return str(value)


def cell(value: Any) -> str:
    """A value as CSV has it; nothing where there is none."""
    plain = _plain(value)
    if plain is None:
        return ""
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]], width: int | None) -> str:
    if not rows:
        return f"No rows (columns: {', '.join(names)})."
    terminal = Console()
    if width is None and terminal.is_terminal:
        width = terminal.width
    # What a source wrote must not steer the terminal.
    cells = [[re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", cell(value)) for value in row] for row in rows]
    table = Table(box=box.SIMPLE_HEAD, header_style="")
    for index, name in enumerate(names):
        numbers = all(isinstance(row[index], int | float | Decimal | None) for row in rows)
        table.add_column(Text(name), justify="right" if numbers else "left", no_wrap=True)
    for row in cells:
        table.add_row(*map(Text, row))
    out = Console(file=io.StringIO(), width=1_000_000, color_system=None)
    natural = out.measure(table).maximum
    if width is not None and natural > width:
        longest = max(map(len, names))
        blocks = [
            "\n".join(f"{name:>{longest}} │ {cell}" for name, cell in zip(names, row, strict=True)) for row in cells
        ]
        return "\n\n".join(blocks)
    with out.capture() as captured:
        out.print(table, width=natural)
    lines = captured.get().splitlines()[1:-1]  # the box has an empty line above and below
    return "\n".join(line.rstrip() for line in lines)
