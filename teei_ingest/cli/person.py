"""`teei person`: the tokens that stand for somebody."""

from __future__ import annotations

from typing import Annotated

import typer

from teei_ingest.cli.complete import company_slugs


def person(
    company: Annotated[str, typer.Option(metavar="SLUG", help="The company.", autocompletion=company_slugs)],
    why: Annotated[str, typer.Option(help="The reason, for the audit log; without a name in it.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Show the tokens of a person, and how many events of each stream are theirs or refer to them.

    Who it is, is read from standard input, never from an argument: an email, or a system and the person's id there. The
    other way round, from a token to a person, there is no way. The audit log says that somebody was looked up, not who.

        echo "kari.nordmann@acme.example" | teei person --company acme-corp --why "request 4711"
    """
    from teei_ingest.cli import home
    from teei_ingest.cli.erase import ask_identity
    from teei_ingest.cli.output import as_json, out, table
    from teei_ingest.companies import load_companies
    from teei_ingest.privacy.audit_log import AuditLog
    from teei_ingest.privacy.erase import whereabouts

    settings = home.settle()
    known = load_companies(settings).get(company)
    identity = ask_identity()
    log = AuditLog(settings)
    log.append("person.lookup_started", company=company, why=why)
    tokens, streams = whereabouts(settings, known, identity)
    counts = {name: sum(count) for name, count in streams.items()}
    log.append("person.looked_up", company=company, why=why, counts={"tokens": len(tokens), **counts})
    if json:
        found = [{"stream": name, "theirs": own, "refer": others} for name, (own, others) in streams.items()]
        as_json({"company": company, "tokens": sorted(tokens), "streams": found})
        return
    for token in sorted(tokens):
        out().print(token, highlight=False)
    if not streams:
        out().print("no stored event is theirs or refers to them")
        return
    made = table(["stream", "theirs", "refer to them"], numbers=["theirs", "refer to them"])
    for name, (own, others) in streams.items():
        made.add_row(name, f"{own:,}", f"{others:,}")
    out().print(made)
