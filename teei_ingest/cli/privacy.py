"""`teei privacy`: what is kept of whom, the policy that decides it, and bringing stored events up to a new one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from teei_ingest.cli import officer
from teei_ingest.cli.complete import company_slugs, stream_names

if TYPE_CHECKING:
    from teei_ingest.companies import Company
    from teei_ingest.privacy.policies import Difference, Outdated
    from teei_ingest.redact.policy import Policy
    from teei_ingest.settings import Settings

app = typer.Typer(no_args_is_help=True, help="What is kept and why, and a company's privacy policy.")

CompanySlug = Annotated[str, typer.Option(metavar="SLUG", help="The company.", autocompletion=company_slugs)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command("fields")
def fields(
    company: Annotated[
        str | None,
        typer.Option(
            metavar="SLUG", help="Under this company's policy; else the default.", autocompletion=company_slugs
        ),
    ] = None,
    stream: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Of this stream; may be given several times.", autocompletion=stream_names),
    ] = None,
    json: Json = False,
) -> None:
    """Every field from the source's name to the stored column: its class, what becomes of it, and why.

    What a source sends and nothing keeps comes last.
    """
    from dataclasses import asdict

    from rich.text import Text

    from teei_ingest.cli import home
    from teei_ingest.cli.output import as_json, out, table
    from teei_ingest.companies import load_companies
    from teei_ingest.privacy import inventory
    from teei_ingest.redact.policy import Policy, policy_for
    from teei_ingest.streams import all_streams
    from teei_ingest.sync import stream_named

    policy = Policy({})
    if company is not None:
        known = load_companies(home.settle()).get(company)
        policy = policy_for(company, known.privacy, known.places)
    chosen = {name: stream_named(name) for name in stream or all_streams()}
    found = inventory.fields(policy, chosen)
    if json:
        as_json({"company": company, "policyVersion": policy.version, "fields": [asdict(item) for item in found]})
        return
    for name in chosen:
        made = table(["source's name", "field", "column", "class", "mode", "why"])
        for item in found:
            if item.stream == name:
                mode = item.mode.value if item.column else "not kept"
                cells = ("\n".join(item.wire), item.field, item.column, item.cls or "", mode, item.why)
                made.add_row(*map(Text, cells))
        out().print(f"[bold]{name}[/]")
        out().print(made)
    out().print(f"[dim]policy {policy.version}, {f'of {company}' if company else 'the default'}[/]")


policy = typer.Typer(no_args_is_help=True, help="A company's policy: what it is, changing it, what a change means.")
app.add_typer(policy, name="policy")


@policy.command("show")
def show(company: CompanySlug, json: Json = False) -> None:
    """The policy in force: each class, kind or field with its mode, its versions so far, and which events are older."""
    from rich.text import Text

    from teei_ingest.cli import home
    from teei_ingest.cli.output import as_json, out, table
    from teei_ingest.privacy.policies import history, remember
    from teei_ingest.redact.policy import DEFAULTS

    settings = home.settle()
    known, policy, stale = _standing(settings, company)
    remember(settings, company, policy)
    versions = history(settings, company)
    rules = {**dict.fromkeys(DEFAULTS, "default"), **dict.fromkeys(policy.overrides, "company")}
    modes = {**DEFAULTS, **policy.overrides}
    rows = [(name, modes[name].value, source) for name, source in rules.items()]
    rows += [(name, "keep", "allowed_fields") for name in sorted(policy.allowed_fields)]
    if json:
        as_json(
            {
                "company": company,
                "version": policy.version,
                "rules": [{"name": name, "mode": mode, "set_by": source} for name, mode, source in rows],
                "versions": [{"version": one.version, "since": one.since, "who": one.who} for one in versions],
                "outdated": _outdated_json(stale),
            }
        )
        return
    made = table(["class, kind or field", "mode", "set by"])
    for name, mode, source in rows:
        made.add_row(name, mode, Text(source, style="" if source == "default" else "yellow"))
    out().print(f"[bold]{known.name}[/] · policy {policy.version}")
    out().print(made)
    for one in versions:
        here = " (in force)" if one.version == policy.version else ""
        out().print(f"[dim]{one.version} since {one.since}, {one.who}{here}[/]", highlight=False)
    _show_outdated(company, stale)


@policy.command("set")
def set_(
    company: CompanySlug,
    modes: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=MODE]...", help="A class, kind or field, and its mode.")
    ] = None,
    unset: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Back to the default.")] = None,
    allow: Annotated[list[str] | None, typer.Option(metavar="FIELD", help="Keep this field as it is.")] = None,
    disallow: Annotated[list[str] | None, typer.Option(metavar="FIELD", help="Not any more.")] = None,
    why: Annotated[
        str, typer.Option(help="The reason, for the audit log; without a name in it. Needed where more is kept.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Keep more than before without being asked.")] = False,
    json: Json = False,
) -> None:
    """Change the policy in the companies file, whose comments stay.

    Says which fields change, and asks before more is kept of any. It holds for what is read from now on; events that
    are stored already are brought up to it by `teei privacy reapply`.

        teei privacy policy set --company acme-corp email=remove --unset mood

        teei privacy policy set --company acme-corp --allow jobTitle --why "agreed with the works council" --yes
    """
    from teei_ingest.cli import home
    from teei_ingest.cli.output import as_json, out
    from teei_ingest.companies import load_companies
    from teei_ingest.errors import UsageError
    from teei_ingest.privacy.policies import carry_out, plan_change

    settings = home.settle()
    change = plan_change(
        settings,
        load_companies(settings),
        company,
        modes=modes or (),
        unset=unset or (),
        allow=allow or (),
        disallow=disallow or (),
    )
    if change.privacy == change.company.privacy:
        raise UsageError("that is how it is already; `teei privacy policy show` says what is set", company=company)
    if not json:
        _show_differences(change.fields)
    if change.loosened:
        why = _sure(len(change.loosened), why, yes)
    carry_out(settings, change, why)
    _, policy, stale = _standing(settings, company)
    if json:
        as_json(
            {
                "company": company,
                "before": change.before.version,
                "after": policy.version,
                "fields": [_difference_json(one) for one in change.fields],
                "outdated": _outdated_json(stale),
            }
        )
        return
    out().print(f"policy {change.before.version} → [bold]{policy.version}[/]")
    _show_outdated(company, stale)


@policy.command("diff")
def diff(
    company: CompanySlug,
    first: Annotated[
        str | None, typer.Option("--from", metavar="VERSION", help="An older version; default: the one before.")
    ] = None,
    second: Annotated[
        str | None, typer.Option("--to", metavar="VERSION", help="Another version; default: the one in force.")
    ] = None,
    json: Json = False,
) -> None:
    """The fields that two versions of the policy treat differently, and which events are older than the newest."""
    from teei_ingest.cli import home
    from teei_ingest.cli.output import as_json, out
    from teei_ingest.errors import UsageError
    from teei_ingest.privacy.policies import differences, history, remember

    settings = home.settle()
    _, policy, stale = _standing(settings, company)
    remember(settings, company, policy)
    versions = {one.version: one.policy for one in history(settings, company)}
    for wanted in (first, second):
        if wanted is not None and wanted not in versions:
            raise UsageError(f"there was no policy {wanted!r}; known are: {', '.join(versions)}", company=company)
    after = second or policy.version
    earlier = [version for version in versions if version != after]
    before = first or (earlier[-1] if earlier else after)
    found = differences(versions[before], versions[after])
    if json:
        fields = [_difference_json(one) for one in found]
        as_json({"company": company, "from": before, "to": after, "fields": fields, "outdated": _outdated_json(stale)})
        return
    out().print(f"policy {before} → {after}" if before != after else f"policy {after} is the only one so far")
    _show_differences(found)
    _show_outdated(company, stale)


@app.command("reapply")
def reapply(
    context: typer.Context,
    company: CompanySlug,
    stream: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Of this stream; may be given several times.", autocompletion=stream_names),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    why: Annotated[str, typer.Option(help="The reason, for the audit log; without a name in it.")] = "",
    json: Json = False,
) -> None:
    """Bring stored events of an older policy up to the one in force, and take what they had before off the disk.

    Their days are read again from the source. What the source does not give any more is tightened where it lies, and
    never loosened. After an interruption the same command goes on.
    """
    from dataclasses import asdict

    from rich.text import Text

    from teei_ingest.cli import home
    from teei_ingest.cli.output import OK, WARN, as_json, err, line, out, quiet_progress
    from teei_ingest.companies import load_companies
    from teei_ingest.privacy import policies
    from teei_ingest.store import open_store
    from teei_ingest.sync import Request, Result, stream_named

    settings = home.settle()
    known, policy, stale = _standing(settings, company, [stream_named(name).name for name in stream or ()])
    if dry_run or not stale:
        if json:
            as_json({"company": company, "version": policy.version, "outdated": _outdated_json(stale)})
        else:
            _show_outdated(company, stale, hint=False)
        return
    with err().status("loading Dagster"):
        from teei_ingest.defs.run import run
        from teei_ingest.defs.versions import record_version
    total = 2 * sum(len(one.days) for one in stale)
    with quiet_progress(total, company) as progress:

        def work(request: Request) -> Result:
            return run(request, progress, debug=bool(context.obj))

        done = policies.reapply(
            settings,
            load_companies(settings),
            known,
            stale,
            open_store(settings),
            run=work,
            record=lambda name, days, version: record_version(company, name, days, version),
            why=why,
        )
    if json:
        as_json({"company": company, "version": policy.version, **asdict(done)})
    else:
        line(
            OK,
            f"policy {policy.version}",
            f"{done.reread:,} partitions read again, {done.tightened:,} tightened where they lie, "
            f"{done.same:,} of which nothing changes",
        )
        for name, reason in done.reasons.items():
            line(WARN, name, f"was not read again: {reason}", "what the policy would keep beyond it comes with a sync")
        for problem in done.failed_checks:
            out().print(Text(f"✘ {problem}", style="red"), soft_wrap=True)
    if done.failed_checks:
        raise typer.Exit(1)


def _standing(settings: Settings, slug: str, streams: Sequence[str] = ()) -> tuple[Company, Policy, list[Outdated]]:
    """The company, its policy, and what is stored under an older one."""
    from teei_ingest.cli import home
    from teei_ingest.cli.output import err
    from teei_ingest.companies import load_companies
    from teei_ingest.privacy.policies import outdated
    from teei_ingest.redact.policy import policy_for
    from teei_ingest.store import open_store

    company = load_companies(settings).get(slug)
    policy = policy_for(slug, company.privacy, company.places)
    home.prepare_dagster_home(settings)
    with err().status("loading Dagster"):
        from teei_ingest.defs.versions import policy_versions
    found = outdated(open_store(settings), slug, policy.version, policy_versions(slug), streams)
    return company, policy, found


def _sure(count: int, why: str, yes: bool) -> str:
    """The reason for keeping more than before. Raises UsageError where nobody can be asked, or says no."""
    from teei_ingest.errors import UsageError

    many = "1 field" if count == 1 else f"{count} fields"
    if not yes:
        if not _is_terminal():
            raise UsageError(f"this keeps more of {many}: say --yes and --why if that is meant")
        if not typer.confirm(f"This keeps more of {many}. Go on?", err=True):
            raise UsageError("nothing was changed")
        why = why or typer.prompt("Why (for the audit log; without a name)", err=True)
    if not why.strip():
        raise UsageError(f"this keeps more of {many}: say --why, which the audit log keeps")
    return why


def _is_terminal() -> bool:
    import sys

    return sys.stdin.isatty() and sys.stdout.isatty()


def _show_differences(found: Sequence[Difference]) -> None:
    from rich.text import Text

    from teei_ingest.cli.output import out, table

    if not found:
        out().print("no field is treated differently")
        return
    made = table(["contract", "field", "class", "before", "after", ""])
    for one in found:
        mark = Text("keeps more", style="yellow") if one.loosens else ""
        made.add_row(one.contract, Text(one.field), one.cls, one.before, one.after, mark)
    out().print(made)


def _difference_json(one: Difference) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(one), "loosens": one.loosens}


def _show_outdated(slug: str, stale: Sequence[Outdated], *, hint: bool = True) -> None:
    from teei_ingest.cli.output import out, program, table

    if not stale:
        out().print("[green]✔[/] all stored events are as this policy wants them")
        return
    made = table(["stream", "policy", "days", "from", "to"], numbers=["days"])
    for one in stale:
        made.add_row(one.stream, one.version, f"{len(one.days):,}", str(one.days[0]), str(one.days[-1]))
    out().print("Stored events of another policy:")
    out().print(made)
    if hint:
        out().print(f"→ {program()} privacy reapply --company {slug}", style="cyan", soft_wrap=True)


def _outdated_json(stale: Sequence[Outdated]) -> list[dict[str, Any]]:
    return [
        {
            "stream": one.stream,
            "version": one.version,
            "partitions": len(one.days),
            "from": one.days[0].isoformat(),
            "to": one.days[-1].isoformat(),
        }
        for one in stale
    ]


app.command("report")(officer.report)
app.command("retention")(officer.retention)
