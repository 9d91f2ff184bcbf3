"""`teei conformance`: does another server speak as a stream's file says?"""

from __future__ import annotations

from typing import Annotated

import typer

from teei_ingest.cli.complete import company_slugs, stream_names


def conformance(
    stream: Annotated[str, typer.Option(metavar="NAME", help="The stream.", autocompletion=stream_names)],
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Base address of the server; default: the configured one.")
    ] = None,
    company: Annotated[
        str | None,
        typer.Option(metavar="SLUG", help="Whose credentials; default: the only one.", autocompletion=company_slugs),
    ] = None,
    first: Annotated[
        str | None, typer.Option("--from", metavar="DAY", help="First day (UTC); default: 30 days before --to.")
    ] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="DAY", help="Last day; default: yesterday.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Judge a server, for example a vendor's staging system, by what it answers for a stream.

    Reads with the configured credentials, and twice with wrong ones; writes nothing, here or there. Each line is a
    probe: passed, failed, or cannot tell, with what to tell the vendor; never a value of a record. Exit code 4 if a
    probe failed.

        teei conformance --stream goodera_volunteers --url https://staging.goodera.example/api
    """
    from dataclasses import asdict
    from datetime import UTC, datetime, time, timedelta

    from teei_ingest.cli import home
    from teei_ingest.cli.output import FAIL, NONE, OK, as_json, line
    from teei_ingest.companies import load_companies
    from teei_ingest.conformance import probes
    from teei_ingest.conformance.wire import Wire
    from teei_ingest.errors import SourceError, UsageError
    from teei_ingest.sync import day_of, stream_named
    from teei_ingest.systems import all_systems
    from teei_ingest.vault.credentials import resolve, with_address

    settings = home.settle()
    companies = load_companies(settings)
    declared = stream_named(stream)
    slugs = list(companies.slugs)
    if company is None and len(slugs) != 1:
        raise UsageError(f"say whose credentials to use: --company {'|'.join(slugs)}")
    owner = companies.get(company or slugs[0])
    end = day_of(last) if last else datetime.now(UTC).date() - timedelta(days=1)
    begin = day_of(first) if first else end - timedelta(days=30)
    if begin > end:
        raise UsageError("--from is after --to")
    system = all_systems()[declared.system]
    if url is not None:
        settings = with_address(settings, owner, system, url)
    credentials = resolve(settings, companies, owner, system)
    since, until = (datetime.combine(day, time(), UTC) for day in (begin, end + timedelta(days=1)))
    marks = {probes.PASS: OK, probes.FAIL: FAIL, probes.CANNOT_TELL: NONE}
    found = []
    with Wire(declared, system, credentials, settings) as wire:
        for finding in probes.judge(wire, since, until, str(owner.id), getattr(credentials, system.tenant)):
            found.append(finding)
            if not json:
                line(marks[finding.verdict], finding.probe, finding.found, finding.remedy)
        requests = wire.requests
    counts = {verdict: sum(one.verdict == verdict for one in found) for verdict in marks}
    if json:
        as_json({"stream": declared.name, "requests": requests, "probes": [asdict(one) for one in found]})
    else:
        told = f"{counts[probes.PASS]} passed, {counts[probes.FAIL]} failed, {counts[probes.CANNOT_TELL]} cannot tell"
        line(FAIL if counts[probes.FAIL] else OK, declared.name, f"{told}; {requests} requests")
    if counts[probes.FAIL]:
        raise typer.Exit(SourceError.exit_code)
