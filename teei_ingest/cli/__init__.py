"""`teei`, the command line.

Belongs here: arguments, what a person reads, exit codes. Does not belong here: anything that the gateway or Dagster
needs too. Commands import what they need when they run, since `teei --help` must not wait for Dagster (seconds).

Exit codes: 0 done · 1 something unexpected, or a check did not pass · 2 asked for what does not exist · 3 settings ·
4 a source system · 5 storage · 130 interrupted.
"""

from teei_ingest.cli.app import main

__all__ = ["main"]
