"""Programs that do something at the same moment: each says `ready`, then waits for a line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def ready(script: str, arguments: Iterable[Sequence[object]]) -> Iterator[list[subprocess.Popen[str]]]:
    """A process of Python for each list of arguments, once all are ready; none outlives the block."""
    made = [
        subprocess.Popen(
            [sys.executable, "-c", script, *map(str, these)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for these in arguments
    ]
    try:
        for one in made:
            assert one.stdout and one.stdout.readline() == "ready\n"
        yield made
    finally:
        for one in made:
            one.kill()
            one.wait()


def tell(processes: Iterable[subprocess.Popen[str]], line: object = "go") -> None:
    """What they wait for."""
    for one in processes:
        assert one.stdin
        one.stdin.write(f"{line}\n")
        one.stdin.flush()
