"""`teei token create|list|revoke`: who may call the gateway."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from teei_ingest.cli.complete import company_slugs

app = typer.Typer(no_args_is_help=True, help="Tokens of the HTTP interface: who may call it, for which companies.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


class Scope(StrEnum):
    """What a token is good for."""

    READ = "read"
    INGEST = "ingest"


@app.command("create")
def create(
    scope: Annotated[
        Scope, typer.Option(help="`read` shows health and the state of calls; `ingest` starts runs as well.")
    ],
    company: Annotated[
        list[str] | None,
        typer.Option(metavar="SLUG", help="A company; may be given several times.", autocompletion=company_slugs),
    ] = None,
    all_companies: Annotated[
        bool, typer.Option("--all-companies", help="All companies, also those that are added later.")
    ] = False,
    days: Annotated[int, typer.Option(min=1, max=3650, help="Days until it expires.")] = 90,
    json: Json = False,
) -> None:
    """Make a token and print it: this once, since only a digest of it is kept.

    A running gateway knows it at once.

        TOKEN=$(teei token create --company acme-corp --scope ingest)
    """
    from datetime import timedelta

    from teei_ingest.cli import home
    from teei_ingest.cli.output import as_json, err, write
    from teei_ingest.companies import load_companies
    from teei_ingest.errors import UsageError
    from teei_ingest.gateway.tokens import Tokens

    settings = home.settle()
    if bool(company) == all_companies:
        raise UsageError("say for whom: --company SLUG, or --all-companies")
    companies = load_companies(settings)
    slugs = [companies.get(slug).slug for slug in dict.fromkeys(company or ())]
    text, made = Tokens(settings).create(scope.value, slugs, timedelta(days))
    if json:
        as_json({"token": text, **made.model_dump(mode="json", exclude={"digest"})})
        return
    write(text)
    whom = ", ".join(slugs) or "all companies"
    err().print(f"[dim]{made.id}: {scope.value}, {whom}, until {made.expires:%Y-%m-%d}. It is not shown again.[/]")


@app.command("list")
def list_(json: Json = False) -> None:
    """All tokens, without what is secret of them."""
    from datetime import UTC, datetime

    from teei_ingest.cli import home
    from teei_ingest.cli.output import as_json, err, out, table
    from teei_ingest.gateway.tokens import Tokens

    now = datetime.now(UTC)
    found = Tokens(home.settle()).all()
    if json:
        as_json([{**one.model_dump(mode="json", exclude={"digest"}), "state": one.state(now)} for one in found])
        return
    if not found:
        err().print("[dim]no tokens yet: `teei token create --company SLUG --scope ingest` makes one[/]")
        return
    made = table(["token", "state", "scope", "companies", "created", "expires"])
    for one in found:
        days = f"{one.created:%Y-%m-%d}", f"{one.expires:%Y-%m-%d}"
        made.add_row(one.id, one.state(now), one.scope, ", ".join(one.companies) or "all", *days)
    out().print(made)


@app.command("revoke")
def revoke(
    token: Annotated[str, typer.Argument(metavar="ID", help="The token's id, as `teei token list` shows it.")],
) -> None:
    """End a token at once, also for calls that are waiting; their runs go on."""
    from teei_ingest.cli import home
    from teei_ingest.cli.output import OK, line
    from teei_ingest.gateway.tokens import Tokens

    line(OK, Tokens(home.settle()).revoke(token).id, "is good for nothing any more")
