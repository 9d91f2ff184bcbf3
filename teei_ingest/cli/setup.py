"""`teei init`, `teei env`: a real deployment, and the environment of bare `dagster` commands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from teei_ingest.companies import Company

_ENV = ".env"
_REGISTRY = "companies.yaml"


def env() -> None:
    """Print the variables with which bare `dagster` commands work on the same home: `eval "$(teei env)"`.

    For the UI use `teei dev`: a bare `dagster dev` hangs as long as DAGSTER_MODULE_NAME is set.
    """
    import shlex

    from teei_ingest.cli import home

    settings = home.settle()
    home.prepare_dagster_home(settings)
    module = {"DAGSTER_MODULE_NAME": "teei_ingest.definitions"}
    for name, value in (home.variables(settings) | module).items():
        typer.echo(f"export {name}={shlex.quote(value)}")


def init(
    company: Annotated[
        str, typer.Option(metavar="SLUG", help="Slug of the first company: a-z, 0-9 and hyphens.")
    ] = "my-company",
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Its name; the slug's words by default.")] = None,
    home: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where all state goes; default: `.teei` in this folder.")
    ] = None,
) -> None:
    """Set up a real deployment in this folder: `.env`, with a fresh master key, and `companies.yaml`.

    Nothing that is there is written over. From then on no sandbox is used.
    """
    import uuid

    from teei_ingest.cli.home import prepare_dagster_home, settle
    from teei_ingest.cli.output import next_steps, out, program
    from teei_ingest.companies import Company
    from teei_ingest.errors import SettingsError, UsageError

    for path in (Path(_ENV), Path(_REGISTRY)):
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path} is there already, and nothing is written over: move it away first")
    if not re.fullmatch(r"[a-z0-9-]{1,40}", company) or not company.strip("-"):
        raise UsageError("--company has to be 1 to 40 of a-z, 0-9 and hyphens")
    first = Company(uuid.uuid4(), company, name or company.replace("-", " ").title())
    folder = (home or Path(".teei")).expanduser().absolute()
    _write(Path(_REGISTRY), _registry(first), SettingsError)
    _write(Path(_ENV), _variables(first, folder), SettingsError)
    prepare_dagster_home(settle())
    out().print(
        f"[green]✔[/] {_ENV}: settings and the master key; keep a copy of the key apart from all backups of data"
    )
    out().print(f"[green]✔[/] {_REGISTRY}: {first.name} ({first.slug})")
    teei = program()
    next_steps(
        [
            (f"$EDITOR {_REGISTRY} {_ENV}", "the company's id, its systems, their credentials"),
            (f"{teei} doctor", "is everything right? each line has its remedy"),
            (f"{teei} sync --company {first.slug} --from 2024-01-15 --to 2024-01-15", "read a day"),
            (f"{teei} dev", "Dagster's UI"),
        ]
    )


def _write(path: Path, text: str, failure: type[Exception]) -> None:
    from teei_ingest.vault.files import os_errors

    with os_errors(lambda reason: failure(f"{path}: {reason}")):
        path.touch(mode=0o600, exist_ok=False)
        path.write_text(text, encoding="utf-8")


def _registry(company: Company) -> str:
    return f"""# The companies; a new one needs no deploy. Their credentials are in {_ENV}.
companies:
  - id: {company.id}  # companyId in every event: the platform's id of the company, never changed afterwards
    slug: {company.slug}  # partition key and part of the variables' names, never changed afterwards
    name: {_yaml(company.name)}
    systems: [{", ".join(company.systems)}]  # take out what it does not use
    # privacy: {{email: hash}}  # overrides the policy
"""


def _yaml(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)


def _variables(company: Company, home: Path) -> str:
    import base64
    import os

    from teei_ingest.systems import all_systems
    from teei_ingest.webhooks.signatures import SYSTEMS as WEBHOOKS

    lines = [
        "# Read by `teei` and by every Dagster command started in this folder; it wins over the environment.",
        f"TEEI_HOME={_dotenv(str(home))}",
        f"DAGSTER_HOME={_dotenv(str(home / 'dagster'))}",
        f"TEEI_COMPANIES={_dotenv(str(Path(_REGISTRY).absolute()))}",
        "",
        "# Wraps the companies' keys. Without it nothing joins with what is stored; with it one can test who is who.",
        f"TEEI_MASTER_KEY={base64.b64encode(os.urandom(32)).decode()}",
        "",
        f"# Credentials of {company.slug}: take the # away and fill in what it uses. A name without the company",
        "# (BENEVITY_CLIENT_ID) is for all companies that have none of their own.",
    ]
    internal = ""
    for system in all_systems().values():
        lines += ["", f"# {system.title}", f"# {system.url_variable}="]
        if system.shared_credential:
            internal = system.shared_credential
            continue
        names = (*system.credentials, "webhook_secret") if system.name in WEBHOOKS else system.credentials
        lines += [f"# {system.name.upper()}_{company.variable}_{name.upper()}=" for name in names]
    if internal:
        lines += ["", "# One key for all internal systems", f"# {internal}_{company.variable}_API_KEY="]
    return "\n".join([*lines, ""])


def _dotenv(text: str) -> str:
    return text if re.fullmatch(r"[\w./-]+", text) else "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
