"""`teei erase`: a person, for good."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from teei_ingest.cli.complete import company_slugs

if TYPE_CHECKING:
    from teei_ingest.companies import Company
    from teei_ingest.privacy.erase import Traces
    from teei_ingest.privacy.identity import Identity
    from teei_ingest.settings import Settings

MANY = 20  # pseudonyms: more than one person has, as a rule


def erase(
    company: Annotated[str, typer.Option(metavar="SLUG", help="The company.", autocompletion=company_slugs)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be erased, as counts.")] = False,
    undo_suppression: Annotated[
        bool, typer.Option("--undo-suppression", help="Let the next sync bring this person again.")
    ] = False,
    suppress_unknown: Annotated[
        bool, typer.Option("--suppress-unknown", help="Keep out a person of whom nothing is here yet.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Carry out to their end erasures that were interrupted; asks for nobody.")
    ] = False,
    reapply: Annotated[
        bool, typer.Option("--reapply", help="Carry out again all that ever were, after a backup was restored.")
    ] = False,
    why: Annotated[str, typer.Option(help="The reason, for the audit log; without a name in it.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Erase a person of a company, and keep them out from now on.

    Who it is, is read from standard input, never from an argument: an email, or a system and the person's id there.
    All that is linked to it goes: rows of theirs, their matches with check-ins and events, sealed records; where
    others' rows refer to them, the reference becomes null. Files and logs of the tables are purged, and all is looked
    through before it is done.

    An interrupted erasure stays pending (`teei doctor` says so), and `--resume` ends it. Older tables that were
    restored from a backup show people who were erased since: `--reapply` erases everybody on the list again.

        echo "kari.nordmann@acme.example" | teei erase --company acme-corp --dry-run

        echo "workday E-10442" | teei erase --company acme-corp --yes --why "request 4711"

        teei erase --company acme-corp --resume
    """
    from teei_ingest.cli import home
    from teei_ingest.companies import load_companies
    from teei_ingest.errors import UsageError

    settings = home.settle()
    known = load_companies(settings).get(company)
    if undo_suppression + suppress_unknown + resume + reapply > 1 or (undo_suppression and dry_run):
        raise UsageError("these options do not go together")
    if resume or reapply:
        _resume(settings, known, dry_run, why, yes, json, again=reapply)
        return
    identity = ask_identity()
    if undo_suppression:
        _undo(settings, known, identity, why, yes, json)
        return
    _erase(settings, known, identity, dry_run, suppress_unknown, why, yes, json)


def _erase(
    settings: Settings,
    company: Company,
    identity: Identity,
    dry_run: bool,
    suppress_unknown: bool,
    why: str,
    yes: bool,
    json: bool,
) -> None:
    from teei_ingest.cli.output import as_json, err
    from teei_ingest.privacy.erase import erase as carry_out
    from teei_ingest.privacy.erase import look

    if dry_run or not yes:
        with err().status("looking for this person"):
            found = look(settings, company, identity)
        if dry_run and json:
            as_json(_plain(found))
            return
        _show(found, on_err=not dry_run)
        if dry_run:
            return
        if found.any or suppress_unknown:
            _ask("Erase this person, for good?", yes)
    with err().status(f"erasing a person of {company.slug}"):
        done = carry_out(settings, company, identity, why=why, suppress_unknown=suppress_unknown)
    _done(done, json)


def _resume(
    settings: Settings, company: Company, dry_run: bool, why: str, yes: bool, json: bool, *, again: bool
) -> None:
    from teei_ingest.cli.output import NONE, as_json, err, line
    from teei_ingest.privacy.erase import Traces, look_listed
    from teei_ingest.privacy.erase import resume as carry_out

    count, left = look_listed(settings, company, again=again)
    if json and (dry_run or not count):
        as_json({"listed" if again else "pending": count} | _plain(left))
        return
    if not count:
        line(NONE, "erasure", f"{company.slug} has none{'' if again else ' that is pending'}")
        return
    if dry_run or not yes:
        _show(left, on_err=not dry_run)
    if dry_run:
        return
    _ask(f"Carry out {count} erasure{'s' if count > 1 else ''} to the end?", yes)
    done = Traces(company.slug)
    with err().status(f"erasing persons of {company.slug}"):
        for each in carry_out(settings, company, why=why, again=again):
            done.add(each)
    _done(done, json)


def _undo(settings: Settings, company: Company, identity: Identity, why: str, yes: bool, json: bool) -> None:
    from teei_ingest.cli.output import OK, as_json, line
    from teei_ingest.privacy.erase import undo

    _ask("Let the next sync bring this person again?", yes)
    undo(settings, company, identity, why=why)
    if json:
        as_json({"company": company.slug, "undone": True})
    else:
        line(OK, "suppression", "undone; a sync brings what the sources still have, nothing else comes back")


def ask_identity() -> Identity:
    """From standard input; a person is asked for it, without an echo."""
    import getpass

    from teei_ingest.privacy.identity import parse_identity, read_identity

    if sys.stdin.isatty():
        return parse_identity(getpass.getpass("Who (email, or system and id; not shown): "))
    return read_identity(sys.stdin)


def _ask(question: str, yes: bool) -> None:
    """Go on only if a person says so; standard input may have been the identity's. Raises UsageError."""
    from teei_ingest.errors import UsageError

    if yes:
        return
    answer = None
    with suppress(OSError), Path("/dev/tty").open(encoding="utf-8") as terminal:
        typer.echo(f"{question} [y/N] ", nl=False, err=True)
        answer = terminal.readline()
    if answer is None:
        raise UsageError("there is no terminal to ask on: look with --dry-run, then give --yes")
    if answer.strip().casefold() not in ("y", "yes"):
        raise UsageError("nothing was done")


def _show(found: Traces, *, on_err: bool = False) -> None:
    """What there is of a person, as counts."""
    from teei_ingest.cli.output import err, out, table

    console = err() if on_err else out()
    if found.older:
        console.print("only files of older versions of the tables show this person")
    elif found.any:
        made = table(["what", "rows", "references"], numbers=["rows", "references"])
        for name in dict.fromkeys([*found.rows, *found.references]):
            made.add_row(name, f"{found.rows.get(name, 0):,}", f"{found.references.get(name, 0):,}")
        for name, count in (("quarantined records", found.quarantine), ("landed records", found.landing)):
            if count:
                made.add_row(name, f"{count:,}", "")
        console.print(made)
        console.print(f"{found.pseudonyms:,} pseudonyms are linked to this person")
    else:
        console.print("nothing of this person is here")
    if found.suppressed:
        console.print("the person is on the list of those suppressed")
    if found.pseudonyms > MANY:
        console.print("[yellow]! so many pseudonyms: is one of their ids or addresses shared by several people?[/]")


def _done(done: Traces, json: bool) -> None:
    from teei_ingest.cli.output import NONE, OK, as_json, line

    if json:
        as_json(_plain(done))
        return
    if done.suppressed:
        line(NONE, "person", "was erased before and is suppressed; nothing of them is here")
        return
    counts = ", ".join(f"{count:,} {name}" for name, count in done.counts().items())
    line(OK, "erased", f"{counts} ({done.seconds:.1f} s)")
    line(OK, "purged", ", ".join(done.purged) or "no table held anything")
    line(OK, "looked for", "nothing is left in any version of the tables, their logs, quarantine and landing")
    line(OK, "suppressed", "from now on; `--undo-suppression` takes that back")


def _plain(found: Traces) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(found) | {"seconds": round(found.seconds, 3)}
