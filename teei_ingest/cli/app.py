"""The commands put together, and what holds for each of them: the process's set-up, errors of one line, exit codes."""

from __future__ import annotations

import gc
import logging
import os
import resource
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from teei_ingest import logs
from teei_ingest.cli import (
    audit,
    check,
    companies,
    conformance,
    drift,
    erase,
    export,
    gateway,
    keys,
    person,
    play,
    privacy,
    quarantine,
    query,
    setup,
    shred,
    store,
    sync,
    token,
    vanished,
)
from teei_ingest.errors import SettingsError, TeeiError
from teei_ingest.interrupts import INTERRUPTED, die_of_interrupts, raise_interrupts

_log = logging.getLogger("teei_ingest.cli")
app = typer.Typer(
    name="teei",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Pulls corporate-social-responsibility activity out of seven systems, takes the personal data out, "
    "and keeps the events in tables that any SQL engine reads.",
    epilog="`--debug` behind any command shows tracebacks and Dagster's log.",
)

_GARBAGE = 20_000  # new objects before garbage is looked for: at Python's 700, a third of a short sync is that
_FILES = 1024  # that may be open at once, if the hard limit allows it
TRY, SET_UP, WORK, WATCH, PROTECT = "Try it", "Set up", "Work", "Watch", "Protect"

app.command("demo", rich_help_panel=TRY)(play.demo)
app.command("dev", rich_help_panel=TRY)(play.dev)
app.command("sandbox", rich_help_panel=TRY)(play.sandbox)
app.command("init", rich_help_panel=SET_UP)(setup.init)
app.command("env", rich_help_panel=SET_UP)(setup.env)
app.add_typer(companies.app, name="companies", rich_help_panel=SET_UP)
app.add_typer(store.app, name="store", rich_help_panel=SET_UP)
app.command("sync", rich_help_panel=WORK)(sync.sync)
app.command("sql", rich_help_panel=WORK)(query.sql)
app.command("export", rich_help_panel=WORK)(export.export)
app.command("streams", rich_help_panel=WORK)(query.streams)
app.command("gateway", rich_help_panel=WORK)(gateway.gateway)
app.add_typer(token.app, name="token", rich_help_panel=WORK)
app.command("health", rich_help_panel=WATCH)(check.health)
app.command("doctor", rich_help_panel=WATCH)(check.doctor)
app.command("conformance", rich_help_panel=WATCH)(conformance.conformance)
app.command("drift", rich_help_panel=WATCH)(drift.drift)
app.add_typer(quarantine.app, name="quarantine", rich_help_panel=WATCH)
app.add_typer(vanished.app, name="vanished", rich_help_panel=WATCH)
app.add_typer(privacy.app, name="privacy", rich_help_panel=PROTECT)
app.command("person", rich_help_panel=PROTECT)(person.person)
app.command("erase", rich_help_panel=PROTECT)(erase.erase)
app.command("shred", rich_help_panel=PROTECT)(shred.shred)
app.add_typer(keys.app, name="keys", rich_help_panel=PROTECT)
app.add_typer(audit.app, name="audit", rich_help_panel=PROTECT)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"teei {version('teei-ingest')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Entry point of the process."""
    _prepare()
    code = INTERRUPTED
    with suppress(KeyboardInterrupt):  # a second one, while the first is reported
        raise_interrupts()
        code = run(sys.argv[1:])
    die_of_interrupts()
    gc.freeze()  # what ends with the process need not be looked through
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Carry out a command line; its exit code. Commands find in `context.obj` whether `--debug` was given."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    debug = "--debug" in arguments[:end]
    arguments = [word for at, word in enumerate(arguments) if word != "--debug" or at > end]
    with logs.bound(correlationId=str(uuid.uuid4())):
        begun, code = time.monotonic(), _carried_out(arguments, debug)
        told = {"exitCode": code, "duration": round((time.monotonic() - begun) * 1000)}
        _log.info(f"teei {_command(arguments)} ended", extra=told)
        return code


def _command(arguments: Sequence[str]) -> str:
    """The command's name alone: what comes behind it may be personal."""
    names = {one.name for one in app.registered_commands} | {one.name for one in app.registered_groups}
    return arguments[0] if arguments and arguments[0] in names else "…"


def _carried_out(arguments: Sequence[str], debug: bool) -> int:
    try:
        code = app(arguments, prog_name="teei", standalone_mode=False, obj=debug)
    except KeyboardInterrupt:  # before the command or after it
        code = INTERRUPTED
    except TyperException as error:
        if error.format_message():  # without one, its help has been shown
            _say(_usage(error))
        return error.exit_code
    except BrokenPipeError:
        # Whoever read has enough: `teei sql … | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - a panic of a Rust extension is no Exception
        if debug:
            _show_where(error)
        return _explained(error)
    if code == INTERRUPTED:
        _say("interrupted; what was started has ended")
    return code if isinstance(code, int) else 0


def _explained(error: BaseException) -> int:
    """Say in one line what went wrong; the exit code that goes with it."""
    if isinstance(error, TeeiError):
        _say(str(error))
        return error.exit_code
    if isinstance(error, ModuleNotFoundError):
        _say(f"{error.name} is not installed: `make setup`, or pip install 'teei-ingest[gateway,sandbox]'")
        return SettingsError.exit_code
    # Its text may hold a record's value.
    _say(f"unexpected {type(error).__name__}; the same command with --debug shows where")
    return 1


def _show_where(error: BaseException) -> None:
    """The traceback without what the errors say, nor those before it: any of them may quote a record."""
    import traceback

    sys.stderr.write("Traceback (most recent call last):\n")
    sys.stderr.writelines(traceback.format_tb(error.__traceback__))


def _usage(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "teei"
    message = " ".join(error.format_message().split()).rstrip(".")
    return f"{message[0].lower()}{message[1:]}; see `{path} --help`"


def _say(message: str) -> None:
    from teei_ingest.cli.output import err

    if logs.is_json():
        _log.error(message)
        return
    err().print(f"[bold red]teei:[/] {_escaped(message)}", soft_wrap=True, highlight=False)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _prepare() -> None:
    """What is kept is for this user alone, nothing is dumped, and no log shows a query string."""
    gc.set_threshold(_GARBAGE)
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < _FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES if hard < 0 else min(_FILES, hard), hard))
    # Libraries have nothing to say to a person; what went wrong comes as an error of one line.
    logging.getLogger().addHandler(logging.StreamHandler() if "--debug" in sys.argv else logging.NullHandler())
    logging.getLogger("urllib3").setLevel(logging.WARNING)
