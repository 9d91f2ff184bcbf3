"""`teei export`: views as files, for warehouses and spreadsheets."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from teei_ingest.cli.complete import company_slugs, view_names
from teei_ingest.cli.options import First, Last


class Format(StrEnum):
    """Of the files."""

    PARQUET = "parquet"
    CSV = "csv"


def export(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; it is made if it is missing.")],
    format: Annotated[Format, typer.Option(help="Parquet keeps every type; CSV is for spreadsheets.")] = Format.PARQUET,
    company: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SLUG", help="A company; may be given several times. Without it: all.", autocompletion=company_slugs
        ),
    ] = None,
    view: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A view; may be given several times. Without it: all.", autocompletion=view_names
        ),
    ] = None,
    first: First = None,
    last: Last = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Write the views of `teei sql` to files that are called as they are: FOLDER/volunteer_events.parquet.

    All files are of the same moment, and after an error the folder is as it was. They are for you alone (0600) and hold
    pseudonymous personal data, which no later erasure reaches: look after them, and write them anew. `--from` and
    `--to` limit views that have a `day` to these days, those that have a `month` to these days' months, and no others.

    In CSV, instants are ISO 8601 in UTC, decimals exact, structs and lists JSON, and null and no text the same; a text
    that a spreadsheet would compute (it begins with = + - or @) has an apostrophe before it.

        teei export exports --format csv --view sroi_v1 --view vis_v1
    """
    from rich.markup import escape

    from teei_ingest.cli.output import as_json, err, out, table
    from teei_ingest.companies import load_companies
    from teei_ingest.settings import Settings
    from teei_ingest.store import open_store
    from teei_ingest.store.export import export_views
    from teei_ingest.sync import day_of, in_order

    settings = Settings.load()
    days = in_order(day_of(first) if first else None, day_of(last) if last else None)
    slugs = [one.slug for one in map(load_companies(settings).get, company)] if company else []
    with err().status(f"writing to {escape(str(folder))}"):
        written = export_views(
            open_store(settings), folder, format.value, view or (), companies=slugs, days=days, overwrite=overwrite
        )
    if json:
        files = [{**one._asdict(), "path": str(one.path)} for one in written]
        as_json({"format": format.value, "folder": str(written[0].path.parent), "files": files})
        return
    asked = any(days)
    made = table(["view", "rows", *(["days"] if asked else [])], numbers=["rows"])
    for one in written:
        made.add_row(one.view, f"{one.rows:,}", *(["as asked" if one.limited else "all"] if asked else []))
    out().print(made)
    many = f"{len(written)} file{'s' if written[1:] else ''} in {written[0].path.parent}"
    marked = sum(one.escaped for one in written)
    text = f"{many}; {marked:,} texts begin like a formula and have an apostrophe" if marked else many
    out().print(text, highlight=False, markup=False, soft_wrap=True)
