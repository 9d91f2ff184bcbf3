"""What a person sees: consoles, tables, lines; and JSON for machines."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

OK, WARN, FAIL, NONE = "ok", "warn", "fail", "none"
_MARKS = {OK: ("✔", "green"), WARN: ("!", "yellow"), FAIL: ("✘", "red"), NONE: ("·", "dim")}
_NO_LIMIT = 1_000


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    # Without a terminal there is no width that anything has to fit.
    width = None if stream.isatty() or "COLUMNS" in os.environ else _NO_LIMIT
    return Console(stderr=stderr, width=width, highlight=False)


def out() -> Console:
    """Standard output: what was asked for."""
    return _console(False)


def err() -> Console:
    """Standard error: progress and errors."""
    return _console(True)


def write(text: str) -> None:
    """Text on standard output as it is; silently less where whoever reads has enough, as in `teei sql … | head`."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def as_json(value: Any) -> None:
    """One JSON document on standard output, and nothing else."""
    write(json.dumps(value, ensure_ascii=False, indent=2))


def mark(state: str) -> Text:
    """✔, !, ✘ or · in its colour."""
    sign, style = _MARKS[state]
    return Text(sign, style=style)


def line(state: str, subject: str, text: str, remedy: str = "") -> None:
    """A marked line on standard output: subject, what was found, and what to do about it."""
    grid = Table.grid(padding=(0, 1), pad_edge=False)
    grid.add_column(width=1)
    grid.add_column(min_width=12, no_wrap=True)
    grid.add_column(overflow="fold")
    found = Text(text)
    if remedy:
        found.append(f"\n→ {remedy}", style=_MARKS[state][1])
    grid.add_row(mark(state), Text(subject, style="bold"), found)
    out().print(grid)


def table(headers: Sequence[str], *, numbers: Sequence[str] = (), footer: Sequence[str] = ()) -> Table:
    """An empty table; the columns named in `numbers` are set to the right."""
    made = Table(
        box=box.SIMPLE_HEAD,
        header_style="bold",
        pad_edge=False,
        collapse_padding=True,
        show_footer=bool(footer),
        footer_style="bold",
    )
    for index, header in enumerate(headers):
        made.add_column(
            header,
            justify="right" if header in numbers else "left",
            no_wrap=header in numbers or index == 0,
            overflow="fold",
            footer=footer[index] if footer else "",
        )
    return made


@cache
def program() -> str:
    """How this shell calls `teei`: by name where that finds this one, else by path."""
    here = Path(sys.prefix) / "bin" / "teei"
    found = shutil.which("teei")
    if found is not None and Path(found).resolve() == here.resolve():
        return "teei"
    return os.path.relpath(here) if here.is_relative_to(Path.cwd()) else str(here)


def next_steps(steps: Sequence[tuple[str, str]]) -> None:
    """What to do next: commands, each with what it does; in two lines where one is too long."""
    out().print("\n[bold]What next[/]")
    longest = max(len(command) for command, _ in steps)
    beside = longest + max(len(what) for _, what in steps) + 5 <= min(out().width, 110)
    for command, what in steps:
        shown = Text("  ").append(command, style="cyan")
        if beside:
            shown.append(" " * (longest - len(command) + 3)).append(what, style="dim")
        else:
            shown = Text(f"  # {what}\n", style="dim").append_text(shown)
        out().print(shown, soft_wrap=True)


@contextmanager
def quiet_progress(total: int, what: str) -> Iterator[Any]:
    """A bar on standard error as long as the block lasts, removed at its end; nothing where there is no terminal.

    Gives a function that takes how much was done since its last call.
    """
    if not err().is_terminal:
        yield lambda count: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err(), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)
