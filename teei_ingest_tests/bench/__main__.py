"""`make bench`, or `python -m teei_ingest_tests.bench --only NAME … --quick`."""

from __future__ import annotations

import argparse
import os
import sys
import time

from teei_ingest_tests.bench import places, report
from teei_ingest_tests.bench.measures import MEASURES, Details, Figures


def main() -> int:
    """Measure, print, and write the file when everything was measured in full."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--only", metavar="NAME", action="append", choices=MEASURES, help=", ".join(MEASURES))
    parser.add_argument("--quick", action="store_true", help="once, a tenth of the records")
    chosen = parser.parse_args()
    os.umask(0o077)
    figures: Figures = {}
    details: dict[str, Details] = {}
    begun = time.monotonic()
    try:
        places.prepare()
        for name in chosen.only or MEASURES:
            print(f"measuring {name} …", file=sys.stderr, flush=True)
            found, details[name] = MEASURES[name](1 if chosen.quick else 3, 0.1 if chosen.quick else 1.0)
            figures |= found
    except places.BenchError as error:
        print(error, file=sys.stderr)
        return 1
    print(report.table(figures, details))
    print(f"\n{time.monotonic() - begun:.0f} s")
    if not chosen.only and not chosen.quick:
        print(f"written: {report.write(figures, details)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
