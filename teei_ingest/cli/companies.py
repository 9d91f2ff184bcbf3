"""`teei companies list|sync|offboard`: the registry, its companies as Dagster's partitions, and who leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from teei_ingest.cli.complete import company_slugs

app = typer.Typer(no_args_is_help=True, help="The registry of companies, and their partitions in Dagster.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command("list")
def list_(json: Json = False) -> None:
    """Companies of the registry: their systems, and whether Dagster has their partitions."""
    from rich.text import Text

    from teei_ingest.cli import home
    from teei_ingest.cli.output import as_json, err, out, table
    from teei_ingest.companies import load_companies
    from teei_ingest.vault.credentials import status
    from teei_ingest.vault.keys import shredded

    settings = home.settle()
    home.prepare_dagster_home(settings)
    companies = load_companies(settings)
    with err().status("loading Dagster"):
        from teei_ingest.defs.run import known_companies
    known = set(known_companies())
    rows: list[dict[str, Any]] = [
        {
            "slug": company.slug,
            "id": str(company.id),
            "name": company.name,
            "systems": {name: status(settings, companies, company, name).state for name in company.systems},
            "partition": company.slug in known,
            "shredded": shredded(settings, company) is not None,
        }
        for company in companies
    ]
    if json:
        as_json(rows)
        return
    styles = {"configured": "green", "incomplete": "red", "unconfigured": "dim"}
    made = table(["company", "name", "systems", "partition"])
    for row in rows:
        systems = Text(", ").join(Text(name, style=styles[state]) for name, state in row["systems"].items())
        made.add_row(row["slug"], row["name"], systems, _partition(row))
    out().print(made)
    legend = Text("systems: ").append("configured", "green").append(", ").append("incomplete", "red")
    out().print(legend.append(", ").append("unconfigured", "dim"))


def _partition(row: dict[str, Any]) -> str:
    if row["shredded"]:
        return "shredded"
    return "yes" if row["partition"] else "not yet"


@app.command("sync")
def sync(json: Json = False) -> None:
    """Make a partition of every company in the registry that has none; Dagster's sensor does the same.

    A company that left the registry keeps its partitions; one that was shredded gets none.
    """
    from teei_ingest.cli import home
    from teei_ingest.cli.output import as_json, err, out
    from teei_ingest.companies import load_companies
    from teei_ingest.vault.keys import shredded

    settings = home.settle()
    home.prepare_dagster_home(settings)
    companies = load_companies(settings)
    with err().status("loading Dagster"):
        from teei_ingest.defs.run import add_companies
    added = add_companies(one.slug for one in companies if shredded(settings, one) is None)
    if json:
        as_json({"added": added, "companies": list(companies.slugs)})
        return
    many = "1 company" if len(companies) == 1 else f"{len(companies)} companies"
    out().print(f"{many} in the registry, {len(added)} added{': ' + ', '.join(added) if added else ''}")


@app.command("offboard")
def offboard(
    company: Annotated[str, typer.Argument(metavar="SLUG", help="The company.", autocompletion=company_slugs)],
    confirm: Annotated[str, typer.Option(metavar="SLUG", help="The same again: this cannot be undone.")],
    export: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write its events to FOLDER/SLUG first, a Parquet file for each table."),
    ] = None,
    why: Annotated[str, typer.Option(help="The reason, for the audit log; without a name in it.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print the certificate as JSON and nothing else.")] = False,
) -> None:
    """End a company: stop what runs or would run for it, export its events, shred it, remove its partitions.

    From the first step on no schedule, sensor or sync takes it, a backfill's runs of it fail, and those that go on are
    ended. The export holds its events as they are stored, pseudonyms included, for you alone (folder 0700, files 0600),
    and is read back before anything is destroyed. The rest is `teei shred`. After an interruption the same command goes
    on. At the end, take the company out of the companies file.

        teei companies offboard acme-corp --export ~/leaving --confirm acme-corp --why "contract ended"
    """
    from teei_ingest.cli.output import as_json, out
    from teei_ingest.cli.shred import destroy, show
    from teei_ingest.errors import UsageError

    if confirm != company:
        raise UsageError("--confirm is not the company that is to leave: nothing was done")
    made, path = destroy(company, export_to=export, why=why)
    if json:
        as_json(made.as_json())
        return
    show(made, path)
    out().print(f"\nNow take {company} out of the companies file.", highlight=False)
