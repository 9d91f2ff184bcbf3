"""`make chaos`, or `python -m teei_ingest_tests.chaos [--cases N] [--seed S] [--only CASE]`: what cases show.

Ends with one line of figures, and with 1 where one of them is not zero; a case that went wrong says how to repeat it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from teei_ingest_tests.chaos import machine


def main() -> int:
    """Run what was asked for; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="CASE", help="this one alone")
    parser.add_argument("--workers", type=int, default=2, help="processes; 0 for none but this one")
    asked = parser.parse_args()
    begun, back = time.monotonic(), Path.cwd()
    try:
        verdicts = list(machine.run(asked.cases, asked.seed, asked.only, asked.workers))
    finally:
        machine.close()
        os.chdir(back)
    print(machine.report(verdicts, asked.seed, time.monotonic() - begun))
    return int(any(verdict.wrong for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
