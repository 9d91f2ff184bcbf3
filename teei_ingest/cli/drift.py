"""`teei drift`: fields that a source added, dropped or changed in type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from teei_ingest.cli.complete import company_slugs, stream_names

if TYPE_CHECKING:
    from teei_ingest.store.drift import Change


def drift(
    company: Annotated[
        str | None, typer.Option(metavar="SLUG", help="One company alone.", autocompletion=company_slugs)
    ] = None,
    stream: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="One stream alone; may be given several times.", autocompletion=stream_names),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every field as it is known, not only what changed.")] = False,
    accept: Annotated[
        bool,
        typer.Option("--accept", help="Show the changes of a company for the last time: they are as they should be."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Show fields that a source added, dropped or changed in type, for each company and stream; never a value.

    A sample of each window's records is looked at, those that break their contract among them. A field is new where no
    stream declares it and none was seen before, dropped where 50 records in a row lack what a fifth had before. *Share*
    is that of the last 500 records looked at that have a value there; days are those of the ingest. Names of unknown
    fields that may be data themselves are counted and not shown.

        teei drift --company acme-corp --accept
    """
    from teei_ingest.cli import home
    from teei_ingest.cli.output import NONE, OK, as_json, line
    from teei_ingest.companies import load_companies
    from teei_ingest.errors import UsageError
    from teei_ingest.mapping.drift import Shape
    from teei_ingest.mapping.plan import plan
    from teei_ingest.store.drift import Drift
    from teei_ingest.streams import all_streams
    from teei_ingest.sync import stream_named

    if accept and company is None:
        raise UsageError("--accept needs --company: changes are accepted company by company")
    settings = home.settle()
    companies = load_companies(settings)
    slugs = [companies.get(company).slug] if company else list(companies.slugs)
    names = [stream_named(name).name for name in dict.fromkeys(stream)] if stream else list(all_streams())
    files = Drift(settings.home)
    found: list[tuple[str, str, Change]] = []
    looked = 0
    for slug, name in ((slug, name) for slug in slugs for name in names):
        known = files.get(slug, name)
        if known is not None:
            looked += 1
            found += [(slug, name, one) for one in (known.all(Shape(plan(name))) if every else known.changes)]
            if accept:
                files.accept(slug, name)
    if json:
        as_json([_row(*one) for one in found])
    elif found:
        _show(found)
    elif looked:
        many = "1 stream" if looked == 1 else f"{looked} streams"
        line(OK, "drift", f"{many}: no field was added or dropped, none changed its type")
    else:
        line(NONE, "drift", "no records were looked at yet", "`teei sync` reads the first")


def _row(company: str, stream: str, one: Change) -> dict[str, Any]:
    return {
        "company": company,
        "stream": stream,
        "field": one.field or None,
        "fields": one.fields,
        "status": one.status,
        "types": list(one.types),
        "before": list(one.before),
        "share": round(one.share, 4) if one.field else None,
        "firstSeen": one.first_seen,
        "change": one.change or None,
        "noticed": one.noticed or None,
    }


def _show(found: list[tuple[str, str, Change]]) -> None:
    from rich.text import Text

    from teei_ingest.cli.output import out, table

    made = table(["company", "stream", "field", "type", "share", "first seen", "change", "noticed"], numbers=["share"])
    for company, stream, one in found:
        share = f"{one.share:.0%}" if one.field else ""
        change = f"{one.change} ({one.status})" if one.change else one.status
        cells = (company, stream, one.title, one.type, share, one.first_seen, change, one.noticed)
        made.add_row(*map(Text, cells))
    out().print(made)
