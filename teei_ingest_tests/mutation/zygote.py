"""A process that has imported what the tests import of others, and forks a pytest for each order.

Runs as a script in the copy of the tree. An order is a line of JSON on standard input; pytest's exit code answers, null
if it took too long. Modules of ours are imported before only if they are named on the command line: what is forked then
can no longer change but in the bodies of functions.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FunctionType
from typing import Any

# What takes the tests seconds to import; what is missing here is only imported again and again.
_WANTED = (
    *("cryptography.fernet", "dagster", "dagster._cli", "dagster_postgres", "deltalake", "duckdb", "faker", "filelock"),
    *("hypothesis", "jsonschema", "msgspec", "numpy", "pandas", "phonenumbers", "pyarrow.compute", "pyarrow.dataset"),
    *("pyarrow.parquet", "pydantic", "pyrate_limiter", "pytest", "pytest_timeout", "requests", "rich.console"),
    *("ruamel.yaml", "sqlalchemy", "starlette.applications", "tenacity", "typer", "unittest.mock", "uvicorn", "yaml"),
)
_MEMORY = 8 << 30  # bytes; a mutant may loop and collect


def main() -> None:
    """Carry out orders until there is no more."""
    sys.path[0] = str(Path.cwd())  # instead of this script's folder
    for name in (*_WANTED, *sys.argv[1:]):
        importlib.import_module(name)
    from teei_ingest_tests.mutation.swap import imported

    functions = imported(str(Path.cwd()))
    gc.collect()
    gc.freeze()  # pytest collects garbage, and would look through all of this each time
    answers = os.fdopen(os.dup(1), "w")
    for line in iter(sys.stdin.readline, ""):
        order = json.loads(line)
        pid = os.fork()
        if not pid:
            answers.close()
            _carry_out(order, functions)
        print(json.dumps(_wait(pid, order["limit"])), file=answers, flush=True)


def _wait(pid: int, limit: float) -> int | None:
    """The exit code of the first of a group of processes; nothing of the group is left."""
    end = time.monotonic() + limit
    try:
        while time.monotonic() < end:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        return None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _carry_out(order: dict[str, Any], functions: list[FunctionType]) -> None:
    os.setpgid(0, 0)  # no session of its own: Linux shares the processor among sessions, whatever their `nice` is
    said = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for standard, descriptor in ((0, os.open(os.devnull, os.O_RDONLY)), (1, said), (2, said)):
        os.dup2(descriptor, standard)
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    import pytest

    from teei_ingest_tests.mutation.lines import Chosen, Lines
    from teei_ingest_tests.mutation.swap import swap

    plugin: object
    if "watched" in order:
        sys.path.append(order["coverage"])
        plugin = Lines(Path.cwd() / "teei_ingest", order["watched"], Path(order["found"]))
    else:
        plugin = Chosen(order["chosen"], order["known"])
    if "swapped" in order and not swap(functions, **order["swapped"]):
        os._exit(order["hidden"])
    code = pytest.main(order["arguments"], plugins=[plugin])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


main()
