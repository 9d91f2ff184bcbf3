"""`make privacy`, `make canary`, or `python -m teei_ingest_tests.proof [NAME …] [--scale X]`: attacks, with figures.

An attack is a module beside this one with `prove(scale) -> figures`, which raises where a promise breaks. Each runs
in a process of its own, two at a time. A full run at scale 1 writes `docs/privacy-proof.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FILE = HERE.parent.parent / "docs" / "privacy-proof.json"
_AT_ONCE = 2
_LAST_LINES = 40
_ATTACK = """
import importlib, json, pathlib, sys
figures = importlib.import_module(sys.argv[1]).prove(float(sys.argv[2]))
pathlib.Path(sys.argv[3]).write_text(json.dumps(figures))
"""


@dataclass
class Outcome:
    """What became of an attack; `figures` is empty and `problem` says why where a promise broke."""

    name: str
    seconds: float
    figures: dict[str, Any] = field(default_factory=dict)
    problem: str = ""

    def line(self) -> str:
        """One line, or what the attack said last."""
        if self.problem:
            return f"{self.name:12} BROKEN after {self.seconds:.0f} s\n{self.problem}"
        numbers = {name: value for name, value in self.figures.items() if isinstance(value, int | float)}
        shown = ", ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in numbers.items())
        return f"{self.name:12} {shown} ({self.seconds:.0f} s)"


def _number(value: float) -> str:
    return f"{value}" if isinstance(value, int) else f"{value:.4g}"


def attacks() -> list[str]:
    """Names of the attacks that there are."""
    return sorted(file.stem for file in HERE.glob("*.py") if "\ndef prove(" in file.read_text())


def attack(name: str, scale: float) -> Outcome:
    """Run one in a process of its own."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="teei-proof-figures-") as folder:
        file = Path(folder) / "figures.json"
        done = subprocess.run(
            [sys.executable, "-c", _ATTACK, f"{__package__}.{name}", str(scale), str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        seconds = time.monotonic() - begun
        if done.returncode or not file.is_file():
            return Outcome(name, seconds, problem="\n".join(done.stdout.splitlines()[-_LAST_LINES:]))
        return Outcome(name, seconds, json.loads(file.read_text()))


def write(outcomes: Sequence[Outcome], seconds: float) -> None:
    """The figures of a full run."""
    content = {
        "version": version("teei-ingest"),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "seconds": round(seconds),
        **{one.name: {"seconds": round(one.seconds), **one.figures} for one in outcomes},
    }
    FILE.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def main() -> int:
    """Run what was asked for; 1 if a promise broke."""
    there = attacks()
    parser = argparse.ArgumentParser(prog="proof", description=__doc__)
    parser.add_argument("names", metavar="NAME", nargs="*", help=", ".join(there))
    parser.add_argument("--scale", type=float, default=1.0, help="1 for the promised numbers, less for a short run")
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(there):
        parser.error(f"no attack {', '.join(sorted(unknown))}; there are {', '.join(there)}")
    begun = time.monotonic()
    outcomes = []
    with ThreadPoolExecutor(_AT_ONCE) as running:
        for done in as_completed([running.submit(attack, name, chosen.scale) for name in chosen.names or there]):
            outcomes.append(done.result())
            print(outcomes[-1].line(), flush=True)
    broken = [one.name for one in outcomes if one.problem]
    if broken:
        print(f"broken: {', '.join(sorted(broken))}", file=sys.stderr)
        return 1
    if not chosen.names and chosen.scale == 1:
        write(sorted(outcomes, key=lambda one: one.name), time.monotonic() - begun)
        print(f"written: {FILE.relative_to(Path.cwd()) if FILE.is_relative_to(Path.cwd()) else FILE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
