"""`make chaos`, or `python -m teei_ingest_tests.chaos [--cases N] [--seed S] [--only CASE]`: what cases show.

Ends with one line of figures, and with 1 where one of them is not zero; a case that went wrong says how to repeat it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from teei_ingest_tests.chaos import machine, smallest


def main() -> int:
    """Run what was asked for; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--only", type=int, metavar="CASE", help="this one alone, and its smallest form that goes wrong"
    )
    # One more than there are cores, since a case also waits.
    workers = (os.cpu_count() or 1) + 1
    parser.add_argument("--workers", type=int, default=workers, help="processes; 0 for none but this one")
    asked = parser.parse_args()
    begun, back = time.monotonic(), Path.cwd()
    verdicts = []
    try:
        if asked.only is not None:
            return _alone(asked.seed, asked.only)
        for verdict in machine.run(asked.cases, asked.seed, asked.workers):
            verdicts.append(verdict)
            if verdict.wrong:
                print(machine.told(verdict, asked.seed), file=sys.stderr, flush=True)
            if len(verdicts) % 1000 == 0:
                print(f"{len(verdicts)} cases, {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("interrupted: what follows is of the cases up to here", file=sys.stderr)
    finally:
        machine.close()
        os.chdir(back)
    print(machine.report(verdicts, asked.seed, time.monotonic() - begun))
    return int(any(verdict.wrong for verdict in verdicts))


def _alone(seed: int, number: int) -> int:
    """One case; where it goes wrong, its smallest form, too."""
    chosen = smallest.only(seed, number)
    verdict = machine.play_case(seed, chosen)
    print(f"case {number}, {smallest.shown(chosen)}: {verdict.came}, fired {verdict.fired}")
    if not verdict.wrong:
        return 0
    kinds = {kind for kind, _ in verdict.wrong}
    chosen = smallest.smallest(
        chosen, lambda simpler: bool(kinds & {kind for kind, _ in machine.play_case(seed, simpler).wrong})
    )
    print(machine.wrongs(verdict), f"smallest: {smallest.shown(chosen)}", sep="\n")
    print(machine.wrongs(machine.play_case(seed, chosen)))
    return 1


if __name__ == "__main__":
    sys.exit(main())
