"""`teei`, the command line.

Belongs here: arguments, what a person reads, exit codes. Does not belong here: anything that the gateway or Dagster
needs too. Commands import what they need when they run, since `teei --help` must not wait for Dagster (seconds).

Exit codes: 0 done · 1 something unexpected, or a check did not pass · 2 asked for what does not exist · 3 settings ·
4 a source system · 5 storage · 130 interrupted.
"""

from typing import NoReturn

from teei_ingest.interrupts import die_of_interrupts


def main() -> NoReturn:
    """Entry point of the process."""
    die_of_interrupts()  # without a traceback, while the commands are imported
    from teei_ingest.cli import app

    app.main()
