"""The commands as a page of Markdown, made of their own help: `docs/cli.md`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from teei_ingest.cli.app import app

_EXIT_CODES = (
    (0, "done"),
    (1, "something unexpected, or a check did not pass"),
    (2, "what was asked for does not exist: a company, a stream, a day, an option"),
    (3, "settings or credentials have to be mended"),
    (4, "a source system did not give everything that was asked for"),
    (5, "the tables or sealed files cannot be read or written"),
    (130, "interrupted (Ctrl-C, SIGTERM); what was started has ended"),
)


def commands() -> Iterator[tuple[str, Any]]:
    """(what to type, command) of every command, groups left out, in the order of the help."""
    yield from _below("teei", typer.main.get_command(app))


def render() -> str:
    """The page."""
    root = typer.main.get_command(app)
    parts = [
        "# Command line",
        "<!-- written by `make docs` from the commands' own help -->",
        _text(root.help),
        "`--debug` behind any command shows tracebacks and Dagster's log; `--help` explains each. "
        "`teei --install-completion` teaches your shell to complete.",
        "| exit code | meaning |\n| --- | --- |\n" + "\n".join(f"| {code} | {text} |" for code, text in _EXIT_CODES),
    ]
    for words, command in commands():
        parts += [f"## `{words}`", _text(command.help)]
        rows = [_row(param) for param in command.params if param.name != "help"]
        if rows:
            parts.append("| option | default | what it is |\n| --- | --- | --- |\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _below(words: str, command: Any) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield words, command
        return
    for name, child in children.items():
        yield from _below(f"{words} {name}", child)


def _row(param: Any) -> str:
    names = " ".join(param.opts) if param.param_type_name == "option" else f"`{param.metavar or param.name.upper()}`"
    if param.param_type_name == "option":
        names = f"`{names}`" + (f" {param.metavar}" if param.metavar else "")
    default = "required" if param.required else "" if param.default in (None, False) else f"`{_plain(param.default)}`"
    return f"| {names} | {default} | {_text(param.help).replace('|', chr(92) + '|')} |"


def _plain(value: Any) -> str:
    return str(getattr(value, "value", value))


def _text(help: str | None) -> str:
    return "\n\n".join(" ".join(part.split()) for part in (help or "").split("\n\n"))
