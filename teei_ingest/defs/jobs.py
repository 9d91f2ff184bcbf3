"""Jobs: one for each system and one for everything; a run is one company × a range of days × the job's streams."""

from __future__ import annotations

import dagster as dg

from teei_ingest.streams import all_streams
from teei_ingest.streams.base import Stream
from teei_ingest.systems import all_systems

EVERYTHING = "everything"


def _streams(job: str) -> list[Stream]:
    streams = list(all_streams().values())
    return streams if job == EVERYTHING else [stream for stream in streams if stream.system == job]


def streams_of_job(job: str) -> list[str]:
    """Names of the streams that a job fetches."""
    return [stream.name for stream in _streams(job)]


def jobs() -> list[dg.UnresolvedAssetJobDefinition]:
    """The jobs, named after their systems."""
    made = []
    for name in (EVERYTHING, *(system for system in all_systems() if _streams(system))):
        keys = [key for stream in _streams(name) for key in (stream.name, stream.events)]
        title = "all systems" if name == EVERYTHING else all_systems()[name].title
        made.append(
            dg.define_asset_job(
                name,
                selection=dg.AssetSelection.assets(*keys),
                description=f"Streams and redacted events of {title}.",
            )
        )
    return made
