"""`teei keys status|rotate`: the companies' keys, and new ones."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from teei_ingest.cli.complete import company_slugs

app = typer.Typer(no_args_is_help=True, help="The companies' keys: how they stand, and new ones for old.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command("status")
def status(json: Json = False) -> None:
    """The keys of every company: whether the master key opens them, their versions, a rotation that is not done.

    No key is shown. Exit code 3 if some cannot be used.
    """
    from teei_ingest.cli import home
    from teei_ingest.cli.output import FAIL, NONE, OK, WARN, as_json, line
    from teei_ingest.companies import load_companies
    from teei_ingest.errors import SettingsError
    from teei_ingest.privacy.rotate import standing

    settings = home.settle()
    found = [standing(settings, company) for company in load_companies(settings)]
    if json:
        as_json([one.as_json() for one in found])
    else:
        for one in found:
            if one.problem:
                line(FAIL, one.company, one.problem)
            elif one.shredded:
                line(NONE, one.company, "shredded")
            elif not one.versions:
                line(NONE, one.company, "none yet; the first sync makes them")
            else:
                held = ", ".join(f"{purpose} v{version}" for purpose, version in one.versions.items())
                line(WARN if one.unfinished else OK, one.company, held, one.remedy)
    if any(one.problem for one in found):
        raise typer.Exit(SettingsError.exit_code)


@app.command("rotate")
def rotate(
    company: Annotated[
        str | None, typer.Option(metavar="SLUG", help="New keys for this company.", autocompletion=company_slugs)
    ] = None,
    master: Annotated[bool, typer.Option("--master", help="A new master key for all rings.")] = False,
    why: Annotated[str, typer.Option(help="The reason, for the audit log; without a name in it.")] = "",
    json: Json = False,
) -> None:
    """Replace a company's keys, or the master key; go on where an earlier attempt was interrupted.

    `--company`: every pseudonym in all tables of the company is brought to a new key, so that those of before, wherever
    they were copied to, lead nowhere, and all joins stay. `teei sql` shows the tables of before until all are done,
    then those of after; syncs of the company wait. Engines that read the files themselves see one table after the
    other. New sealed files get new keys, too; the ids of events stay.

    `--master`: the new key is read from TEEI_MASTER_KEY_NEW, else from standard input: 32 bytes in base64, or the name
    of a key outside, `transit:NAME` or `kms:ID`. It wraps the companies' keys anew and changes no data. Stop what runs
    before, since it would look for the old one.

        teei keys rotate --company acme-corp --why "yearly"

        teei keys rotate --master < new.key
    """
    from teei_ingest.cli import home
    from teei_ingest.errors import UsageError

    settings = home.settle()
    if master == (company is not None):
        raise UsageError("say which keys: --company SLUG or --master")
    if company is not None:
        _company(settings, company, why, json)
    else:
        _master(settings, why, json)


def _company(settings: Any, slug: str, why: str, json: bool) -> None:
    from teei_ingest.cli.output import OK, as_json, err, line
    from teei_ingest.companies import load_companies
    from teei_ingest.privacy.rotate import rotate_company

    company = load_companies(settings).get(slug)
    with err().status(f"rotating the keys of {slug}"):
        done = rotate_company(settings, company, why=why)
    if json:
        as_json(done.as_json())
        return
    rows = sum(done.rows.values())
    again = "finished the interrupted rotation: " if done.resumed else ""
    text = f"{again}pseudonyms are of version {done.version}, {rows:,} rows in {len(done.rows)} tables rewritten"
    line(OK, slug, f"{text} ({done.seconds:.1f} s)", "make a backup of the keys, and let older ones of the tables go")


def _master(settings: Any, why: str, json: bool) -> None:
    from teei_ingest.cli.output import OK, as_json, line, next_steps
    from teei_ingest.privacy.rotate import rotate_master

    new = settings.master_key_new.get_secret_value() if settings.master_key_new else _from_input()
    rings = rotate_master(settings, new, why=why)
    if json:
        as_json({"rings": rings})
        return
    many = "1 ring is" if rings == 1 else f"{rings} rings are"
    line(OK, "master key", f"{many} wrapped by the new one; keys and data stayed as they were")
    next_steps(
        [
            ("TEEI_MASTER_KEY", "put the new key there, in .env or in your secrets, and take TEEI_MASTER_KEY_NEW away"),
            ("teei keys status", "shows that it opens everything; then start again what you stopped"),
        ]
    )


def _from_input() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.read()
    return str(typer.prompt("The new master key", hide_input=True, err=True))
