"""Logs: one JSON object a line, with the seed service's fields, or readable lines on a terminal.

Belongs here: which fields a line may have, and where lines go. Only our own loggers are written, and of a record only
its message and the fields below: a library's text, a traceback or an unforeseen field may hold a person's data. So what
is logged through ours must not, either; errors of ours never do (`errors.py`).
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

Format = Literal["auto", "json", "text"]
Level = Literal["debug", "info", "warning", "error"]

ROOT = "teei_ingest"
# The seed's first; `duration` is in milliseconds.
FIELDS = (
    "companyId", "totalRecords", "recordsProcessed", "recordsFailed", "duration", "company", "system", "stream",
    "from", "to", "daysFailed", "errorType", "problem", "runId", "run_id", "correlationId", "method", "route", "status",
    "token", "exitCode",
)  # fmt: skip
_RENAMED = {"run_id": "runId"}

logging.getLogger(ROOT).addHandler(logging.NullHandler())  # else Python prints warnings where no log is set up
_bound: ContextVar[dict[str, Any] | None] = ContextVar("bound", default=None)


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Every line of this task or thread within has these fields, too."""
    token = _bound.set({**(_bound.get() or {}), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def current(name: str) -> Any:
    """A field that is bound here; None if it is not."""
    return (_bound.get() or {}).get(name)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What a line says beside level and message."""
    given = {**(_bound.get() or {}), **vars(record)}
    return {_RENAMED.get(name, name): given[name] for name in FIELDS if given.get(name) is not None}


class JsonLines(logging.Formatter):
    """One object a line: `level`, `msg`, `time` (UTC), then what there is of FIELDS, then `logger`."""

    def format(self, record: logging.LogRecord) -> str:
        """A line without its end."""
        line = {
            "level": record.levelname.lower(),
            "msg": record.getMessage(),
            "time": _time(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            **fields(record),
            "logger": record.name,
        }
        return json.dumps(line, ensure_ascii=False, default=str)


class TextLines(logging.Formatter):
    """For a person: time, level where it is no news, message, fields."""

    def format(self, record: logging.LogRecord) -> str:
        """A line without its end."""
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        told = " ".join(f"{name}={value}" for name, value in fields(record).items())
        message = " ".join(record.getMessage().split())
        return f"{_time(record):%H:%M:%S} {level}{message}{f'  {told}' if told else ''}"


class Standard(logging.StreamHandler[Any]):
    """Standard error as it is at the time. A line that cannot be written stops nothing and is told nowhere else."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        """Where lines go."""
        return sys.stderr

    def handleError(self, record: logging.LogRecord) -> None:
        """Python would print the record."""


def configure(form: Format, level: Level, *, quiet: bool = False) -> None:
    """Write the lines of this process to standard error, from now on in this way.

    `auto` is text on a terminal, JSON elsewhere; with `quiet` it is nothing at all.
    """
    ours = logging.getLogger(ROOT)
    for old in [one for one in ours.handlers if isinstance(one, Standard)]:
        ours.removeHandler(old)
    ours.propagate = quiet and form == "auto"  # else `--debug` would show each line twice
    if ours.propagate:
        ours.setLevel(logging.NOTSET)
        return
    handler = Standard()
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    handler.setFormatter(TextLines() if text else JsonLines())
    ours.addHandler(handler)
    ours.setLevel(level.upper())


def is_dagster() -> bool:
    """Whether this process is one of Dagster's own, which nobody else has told where its lines go."""
    return any(part.startswith(("dagster", "dg")) for part in Path(sys.argv[0]).parts[-2:])


def is_json() -> bool:
    """Whether this process writes JSON lines, so that nothing else belongs on standard error."""
    return any(isinstance(one.formatter, JsonLines) for one in logging.getLogger(ROOT).handlers)


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)
