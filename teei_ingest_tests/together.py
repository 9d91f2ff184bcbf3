"""What goes on side by side: programs that do something at the same moment, and waiting for what is bound to come."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


def eventually(ask: Callable[[], T], what: str, seconds: float = 120, pause: float = 0.25) -> T:
    """Ask until the answer is true."""
    end = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(pause)
    return answer


@contextmanager
def ready(script: str, arguments: Iterable[Sequence[object]]) -> Iterator[list[subprocess.Popen[str]]]:
    """A process of Python for each list of arguments, once each has said `ready`; none outlives the block."""
    made: list[subprocess.Popen[str]] = []
    try:
        for these in arguments:
            command = [sys.executable, "-c", script, *map(str, these)]
            pipe = subprocess.PIPE
            made.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
        for one in made:
            assert one.stdout and one.stderr
            assert one.stdout.readline() == "ready\n", one.stderr.read()
        yield made
    finally:
        for one in made:
            one.kill()
            one.wait()


def tell(processes: Iterable[subprocess.Popen[str]], line: object = "go") -> None:
    """The line that they wait for."""
    for one in processes:
        assert one.stdin
        one.stdin.write(f"{line}\n")
        one.stdin.flush()
