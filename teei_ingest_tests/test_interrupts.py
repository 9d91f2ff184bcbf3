"""A signal to end is never lost, whoever handles it. Whole syncs that are told to end: `test_machine.py`."""

from __future__ import annotations

import subprocess
import sys

import pytest

BEGIN = """
import os, signal, sys, time
from teei_ingest import interrupts
signal.signal(number, signal.SIG_DFL)
interrupts.PATIENCE_S = 0.2
tell = lambda: os.kill(os.getpid(), number)
give_up = lambda: print("gave up", flush=True)
"""
# What a process does: exit code and what it printed.
PROCESSES = {
    "raised": ("interrupts.raise_interrupts()\ntry:\n    tell()\nexcept KeyboardInterrupt:\n    sys.exit(7)", 7, ""),
    "lost before the block": (
        """
interrupts.raise_interrupts()
class Loses:
    def __del__(self):
        tell()  # nobody gets what is raised here
Loses()
with interrupts.Interrupts(give_up) as heard:
    try:
        heard.check()
    except KeyboardInterrupt:
        sys.exit(7)
""",
        7,
        "",
    ),
    "handled by another in the block": (
        """
with interrupts.Interrupts(give_up) as heard:
    signal.signal(number, lambda *told: None)
    tell()
    while not heard.happened:
        time.sleep(0.01)
""",
        0,
        "",
    ),
    "a block that goes on": ("with interrupts.Interrupts(give_up):\n    tell()\n    time.sleep(60)", 130, "gave up\n"),
    "after a block": (
        """
interrupts.raise_interrupts()
with interrupts.Interrupts(give_up):
    pass
try:
    tell()
except KeyboardInterrupt:
    sys.exit(7)
""",
        7,
        "",
    ),
    "that is ignored": (
        "signal.signal(number, signal.SIG_IGN)\ninterrupts.die_of_interrupts()\ninterrupts.raise_interrupts()\ntell()",
        0,
        "",
    ),
    "when all is done": ("interrupts.raise_interrupts()\ninterrupts.die_of_interrupts()\ntell()", None, ""),
}


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("number", [2, 15])
def test_a_signal(name: str, number: int) -> None:
    code, exit_code, printed = PROCESSES[name]
    script = f"number = {number}\n{BEGIN}\n{code}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (-number if exit_code is None else exit_code, printed), done.stderr
