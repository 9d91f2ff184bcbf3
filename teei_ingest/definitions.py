"""Entry point of Dagster: `teei_ingest.definitions`."""

from teei_ingest import logs
from teei_ingest.defs.build import build
from teei_ingest.settings import Settings

if logs.is_dagster():
    settings = Settings.load()
    logs.configure(settings.log_format, settings.log_level)

defs = build()
