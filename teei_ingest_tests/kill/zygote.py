"""A process that has imported everything and forks.

An order is a line of JSON on standard input; what it forks carries it out as if it had been started alone, in a session
of its own. Two lines answer: its process id, then its exit code (negative: the signal that killed it).
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

# What `teei sync` and `dagster asset materialize` import, but for the definitions: those are made for a home.
_WANTED = (
    "teei_ingest.cli.app",
    "teei_ingest.cli.home",
    "teei_ingest.cli.output",
    "teei_ingest.defs.build",
    "teei_ingest.sync",
    "dagster._cli",
    "teei_ingest_tests.kill.points",
    "teei_ingest_tests.kill.planted",
    "_strptime",  # Python's own, with the first time that is read: another user may not be able to read Python's files
)


def main() -> None:
    """Carry out orders until there is no more."""
    for name in _WANTED:
        importlib.import_module(name)
    gc.freeze()  # or each of those that are forked looks through all of this for garbage
    answers = os.fdopen(os.dup(1), "w")
    for line in iter(sys.stdin.readline, ""):
        pid = os.fork()
        if not pid:
            answers.close()
            _carry_out(json.loads(line))
            return
        print(json.dumps({"pid": pid}), file=answers, flush=True)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps({"code": code}), file=answers, flush=True)


def _carry_out(order: dict[str, Any]) -> None:
    from teei_ingest_tests.kill.planted import PLANTED
    from teei_ingest_tests.kill.points import lie_in_wait

    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # though a shell started all of this with `&`
    said = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for standard, descriptor in ((0, os.open(os.devnull, os.O_RDONLY)), (1, said), (2, said)):
        os.dup2(descriptor, standard)
    for limit, value in order.get("limits", {}).items():
        resource.setrlimit(getattr(resource, limit), (value, value))
    if "uid" in order:
        os.setuid(order["uid"])
    os.environ.update(order["environ"])
    home = Path(order["environ"]["TEEI_HOME"])
    os.chdir(home.parent)
    if order.get("planted"):
        PLANTED[order["planted"]]()
    if order.get("point"):
        lie_in_wait(order["point"], order["call"], Path(order["witness"]), home)
    sys.argv = list(order["command"])
    if sys.argv[0] == "teei":
        from teei_ingest.cli.app import main as command
    else:
        from dagster._cli import main as command
    command()
