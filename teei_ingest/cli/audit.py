"""`teei audit verify|show`: who did what to a company's data, and whether the log of it is whole."""

from __future__ import annotations

from typing import Annotated

import typer

from teei_ingest.cli.complete import company_slugs

app = typer.Typer(no_args_is_help=True, help="The audit log: who did what to a company's data, when and why.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command("verify")
def verify(json: Json = False) -> None:
    """Look whether an entry was changed, removed, moved or cut off; exit code 5 if so.

    Note the hash of the last entry elsewhere: it tells even whether somebody has made the whole log anew.
    """
    from dataclasses import asdict

    from teei_ingest.cli import home
    from teei_ingest.cli.output import FAIL, OK, WARN, as_json, line
    from teei_ingest.errors import AuditError
    from teei_ingest.privacy.audit_log import AuditLog

    log = AuditLog(home.settle())
    verdict = log.verify()
    if json:
        as_json({"intact": verdict.intact, **asdict(verdict)})
    elif verdict.problem:
        where = f"line {verdict.line}: " if verdict.line else ""
        line(FAIL, "audit log", f"{where}{verdict.problem}", f"keep {log.path.parent} as it is and restore a copy")
    else:
        many = "1 entry" if verdict.entries == 1 else f"{verdict.entries:,} entries"
        line(OK, "audit log", f"{many}, none changed or missing; the last one's hash is {verdict.last_hash}")
        if verdict.torn:
            line(WARN, "last entry", verdict.torn, "the next entry completes it")
    if verdict.problem:
        raise typer.Exit(AuditError.exit_code)


@app.command("show")
def show(
    company: Annotated[
        str | None, typer.Option(metavar="SLUG", help="Of this company alone.", autocompletion=company_slugs)
    ] = None,
    json: Json = False,
) -> None:
    """The entries, oldest first. A company that was shredded is still in it."""
    from rich.text import Text

    from teei_ingest.cli import home
    from teei_ingest.cli.output import as_json, out, table
    from teei_ingest.privacy.audit_log import AuditLog

    entries = list(AuditLog(home.settle()).entries(company))
    if json:
        as_json(entries)
        return
    made = table(["#", "at (UTC)", "who", "company", "what", "counts", "details", "why"], numbers=["#"])
    for entry in entries:
        cells = (
            str(entry["seq"]),
            f"{entry['at'][:10]} {entry['at'][11:19]}",
            entry["who"],
            entry["company"] or "",
            entry["what"],
            _pairs(entry["counts"]),
            _pairs(entry["details"]),
            entry["why"],
        )
        made.add_row(*map(Text, cells))
    out().print(made)


def _pairs(values: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
