"""Entry point of Dagster: `teei_ingest.definitions`."""

from teei_ingest import logs
from teei_ingest.defs.build import build
from teei_ingest.settings import Settings

if logs.is_dagster():
    logs.configure(Settings.load().log_format, Settings.load().log_level)

defs = build()
