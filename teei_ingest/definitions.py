"""Entry point of Dagster: `teei_ingest.definitions`."""

from teei_ingest.defs.build import build

defs = build()
