"""`teei shred`: the end of a company."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from teei_ingest.cli.complete import company_slugs

if TYPE_CHECKING:
    from teei_ingest.privacy.shred import Certificate


def shred(
    company: Annotated[str, typer.Option(metavar="SLUG", help="The company.", autocompletion=company_slugs)],
    confirm: Annotated[str, typer.Option(metavar="SLUG", help="The same again: this cannot be undone.")],
    why: Annotated[str, typer.Option(help="The reason, for the audit log; without a name in it.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print the certificate as JSON and nothing else.")] = False,
) -> None:
    """Destroy all that is kept of a company, its keys last, and print a certificate.

    Ends its runs, deletes its rows, quarantine, sealed files, list of erasures and partitions, and purges the tables'
    files and logs. After an interruption the same command goes on. The company stays in the companies file, where syncs
    of it are refused until you take it out.

    What is left: the audit log, Dagster's history, the tables' logs and the certificate tell the company, days and
    counts, no person.
    Backups are yours to destroy: in those of the tables rows of one person still share a pseudonym, which without the
    keys leads nowhere; those of the keys would open it.

        teei shred --company acme-corp --confirm acme-corp --why "contract ended"
    """
    from teei_ingest.cli.output import as_json
    from teei_ingest.errors import UsageError

    if confirm != company:
        raise UsageError("--confirm is not the same as --company: nothing was destroyed")
    made, path = destroy(company, why=why)
    if json:
        as_json(made.as_json())
    else:
        show(made, path)


def destroy(slug: str, *, export_to: Path | None = None, why: str) -> tuple[Certificate, Path]:
    """Shred a company of the registry; the certificate and its file."""
    from teei_ingest.cli import home
    from teei_ingest.cli.output import err
    from teei_ingest.companies import load_companies
    from teei_ingest.privacy import shred

    settings = home.settle()
    known = load_companies(settings).get(slug)
    home.prepare_dagster_home(settings)
    with err().status(f"shredding {slug}"):
        from teei_ingest.defs.run import remove_company, stop_company

        return shred.shred(
            settings,
            known,
            stop=lambda: stop_company(slug),
            forget=lambda: remove_company(slug),
            export_to=export_to,
            why=why,
        )


def show(made: Certificate, path: Path) -> None:
    """A certificate, and where it is."""
    from teei_ingest.cli.output import OK, line, out

    rows, files = made.rows or {}, made.files or {}
    held = ", ".join(f"{purpose} v{version}" for purpose, version in made.keys.items()) or "none found"
    line(OK, "company", f"{made.company} ({made.company_id}), {made.started} … {made.ended}")
    line(OK, "runs", f"{made.runs_stopped} ended; partitions {'removed' if made.partition_removed else 'had none'}")
    if made.exported is not None:
        line(OK, "exported", f"{sum(made.exported.values()):,} rows to {made.exported_to}")
    line(OK, "rows", f"{sum(rows.values()):,}: " + ", ".join(f"{name} {count:,}" for name, count in rows.items()))
    line(OK, "files", ", ".join(f"{kind} {count:,}" for kind, count in files.items()))
    line(OK, "keys", f"destroyed: {held}")
    out().print("\n[bold]What remains[/]")
    for text in made.remains:
        out().print(f"· {text}", highlight=False)
    out().print(f"\nCertificate: {path}", highlight=False, soft_wrap=True)
