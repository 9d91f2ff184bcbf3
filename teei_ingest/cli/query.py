"""`teei sql`, `teei streams`: what is stored, and what can be."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer


class Format(StrEnum):
    """How an answer is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def sql(
    question: Annotated[str, typer.Argument(metavar="QUERY", help="One SELECT, or `-` for standard input.")],
    format: Annotated[Format, typer.Option(help="A table for people; json and csv for machines.")] = Format.TABLE,
) -> None:
    """Ask the event tables in SQL (DuckDB's), read-only.

    `SHOW TABLES` lists the views, `DESCRIBE volunteer_events` the columns of one. `current_…` has the latest version of
    every record.
    """
    from teei_ingest.cli.output import write
    from teei_ingest.settings import Settings
    from teei_ingest.store import open_store
    from teei_ingest.store.sql import query, render

    settings = Settings.load()
    text = sys.stdin.read() if question == "-" else question
    names, rows = query(open_store(settings), text)
    write(render(names, rows, format.value))


def streams(json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False) -> None:
    """The streams: where they come from and what becomes of them."""
    from teei_ingest.cli.output import as_json, out, table
    from teei_ingest.streams import all_streams
    from teei_ingest.systems import all_systems

    systems = all_systems()
    rows = [
        {
            "stream": stream.name,
            "events": stream.events,
            "system": stream.system,
            "title": stream.title,
            "endpoint": f"GET {stream.path}" + "".join(f"?{k}={v}" for k, v in stream.params.items()),
            "pageSize": systems[stream.system].max_page,
            "eventType": stream.contract.event_type,
            "contract": stream.contract.__name__,
            "table": stream.contract.table,
        }
        for stream in all_streams().values()
    ]
    if json:
        as_json(rows)
        return
    shown = ["stream", "contract", "table"] if out().width < 100 else ["stream", "endpoint", "eventType", "table"]
    headers = {"eventType": "event type"}
    made = table([headers.get(name, name) for name in shown])
    before = rows[0]["system"]
    for row in rows:
        if row["system"] != before:
            made.add_section()
            before = row["system"]
        made.add_row(*(str(row[name]) for name in shown))
    out().print(made)
    count = len({row["system"] for row in rows})
    out().print(f"[dim]{len(rows)} streams of {count} systems; each is an asset, and so are its …_events.[/]")
