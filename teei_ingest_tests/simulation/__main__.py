"""`make simulation`, or `python -m teei_ingest_tests.simulation --companies 20 --days 100 --only pages`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import ExitStack

from teei_ingest_tests.deployed import postgres
from teei_ingest_tests.simulation import report
from teei_ingest_tests.simulation.measures import MEASURES, SimulationError, Size, measure


def main() -> int:
    """Measure and print one size; `--write` puts it beside the others in the file."""
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("--companies", type=int, default=200, metavar="N")
    parser.add_argument("--days", type=int, default=1095, metavar="N")
    parser.add_argument("--rows-per-day", type=float, default=1, metavar="N", help="of each stream")
    parser.add_argument("--postgres", action="store_true", help="Dagster's record in Postgres instead of SQLite")
    parser.add_argument("--only", metavar="NAME", action="append", choices=MEASURES, help=", ".join(MEASURES))
    parser.add_argument("--write", action="store_true", help="put it into docs/simulation.json and docs/maintenance.md")
    chosen = parser.parse_args()
    os.umask(0o077)
    size = Size(chosen.companies, chosen.days, chosen.rows_per_day)
    begun = time.monotonic()
    try:
        with ExitStack() as stack:
            found = measure(size, chosen.only or (), stack.enter_context(postgres()) if chosen.postgres else "")
    except SimulationError as error:
        print(error, file=sys.stderr)
        return 1
    made = report.content(size, found, "Postgres" if chosen.postgres else "SQLite")
    print(report.table([made]))
    print("\n".join(f"missed: {one}" for one in report.missed(found)))
    print(f"{time.monotonic() - begun:.0f} s")
    if chosen.write:
        report.write(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
