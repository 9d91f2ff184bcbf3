"""Dagster's own databases in a home: a process that dies while it makes them leaves nothing for a person to mend."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from teei_ingest_tests.dagster_parts import ROOT

# For each number a new home, in which a process kills itself before that statement (0: never), then another opens it.
PROGRAM = """
import json, os, signal, sqlite3, sys
from contextlib import closing
from pathlib import Path

from sqlalchemy import event
from sqlalchemy.engine import Engine

from teei_ingest.defs import sqlite
from teei_ingest.defs.run import instance

sqlite._MAKING_S = 0.0
statements = 0


def die_at(number):
    def executes(*given):
        global statements
        statements += 1
        if statements == number:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", executes)


def child(number):
    pid = os.fork()
    if not pid:
        try:
            if number is not None:
                die_at(number)
            with instance() as opened:
                opened.add_dynamic_partitions("company", ["acme-corp"])
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


for number in json.loads(sys.argv[2]):
    home = Path(sys.argv[1], str(number))
    home.mkdir()
    os.environ["DAGSTER_HOME"] = str(home)
    ends = [child(number), child(None)]
    databases = {}
    for path in sorted(home.glob("*/**/*.db")):
        with closing(sqlite3.connect(path)) as opened:
            made = opened.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
            done = opened.execute("SELECT name FROM secondary_indexes").fetchall()
        databases[str(path.relative_to(home))] = [sorted(map(str, made)), sorted(map(str, done))]
    print(json.dumps([ends, databases]), flush=True)
"""


NUMBERS = range(2, 200, 24)


@pytest.mark.long
def test_a_process_may_die_while_it_makes_the_databases(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), json.dumps([0, *NUMBERS])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    (ends, whole), *others = map(json.loads, done.stdout.splitlines())
    assert ends == [0, 0] and len(whole) == 3
    for number, (ends, databases) in zip(NUMBERS, others, strict=True):
        assert ends[0] in ([-9] if number < 150 else [-9, 0]), number
        assert (ends[1], databases) == (0, whole), (number, done.stderr)
