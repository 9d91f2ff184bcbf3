"""`teei privacy report|retention`: the record of processing on one page, and keeping the rules of retention at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from teei_ingest.cli.complete import company_slugs

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def report(
    company: Annotated[str, typer.Option(metavar="SLUG", help="The company.", autocompletion=company_slugs)],
    file: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Where to write the page; `-` prints it. Default: `$TEEI_HOME/reports/SLUG.html`.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Write one page with a company's record of processing, as GDPR's Article 30 asks for it.

    Systems and streams, every field with its class and what becomes of it, policy, retention, keys (none is shown), how
    few people share what is kept of the directory, erasures and other acts, and the figures of the last proofs. It
    names no person, by name or by token, and loads nothing from anywhere.

        teei privacy report --company acme-corp --out record.html
    """
    from datetime import UTC, datetime

    from teei_ingest.cli import home
    from teei_ingest.cli.output import NONE, OK, as_json, err, line
    from teei_ingest.companies import load_companies
    from teei_ingest.errors import UsageError
    from teei_ingest.privacy.report import gather, render
    from teei_ingest.vault.files import replacing

    settings = home.settle()
    companies = load_companies(settings)
    with err().status("reading"):
        found = gather(settings, companies, companies.get(company), datetime.now(UTC))
    if json:
        as_json(found)
        return
    page = render(found)
    if file == Path("-"):
        sys.stdout.write(page)
        return
    path = (file or settings.home / "reports" / f"{company}.html").absolute()
    with replacing(path, lambda reason: UsageError(f"{path} cannot be written: {reason}")) as write:
        write(page.encode())
    line(OK, company, str(path))
    for reason in found["missing"]:
        line(NONE, "missing", reason)


def retention(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
    json: Json = False,
) -> None:
    """Remove what is older than its rule in the settings, of all companies; the asset `retention` does so daily.

    Events that go are purged from the tables' files and logs. How Dagster's partitions stand does not change.
    """
    from teei_ingest.cli import home
    from teei_ingest.cli.output import as_json, err, out, table
    from teei_ingest.privacy.retention import rules

    settings = home.settle()
    home.prepare_dagster_home(settings)
    with err().status("loading Dagster"):
        from teei_ingest.defs.run import keep_rules
    counts = keep_rules(settings, dry_run=dry_run)
    if json:
        as_json({"dry_run": dry_run, "removed": counts})
        return
    made = table(["what", "kept for days", "setting", "would go" if dry_run else "removed"], numbers=["kept for days"])
    for rule in rules(settings):
        many = f"{counts[rule.name]:,}" + (f" rows, {counts['runs']:,} whole runs" if rule.name == "run_log" else "")
        made.add_row(rule.what, "no limit" if rule.days is None else f"{rule.days:g}", rule.variable, many)
    out().print(made)
