"""The streams, one file each, discovered: adding a file adds assets, checks, health, docs and tests."""

import sys
from functools import cache

from teei_ingest.discovery import declared
from teei_ingest.streams.base import Stream
from teei_ingest.systems import all_systems


@cache
def all_streams() -> dict[str, Stream]:
    """Every stream by name, in the order of its system, then of its name."""
    order = list(all_systems())
    found = declared(sys.modules[__name__], "STREAM", Stream)
    for stream in found.values():
        if stream.system not in order:
            raise TypeError(f"stream {stream.name}: there is no system {stream.system} in teei_ingest/systems/")
    return dict(sorted(found.items(), key=lambda item: (order.index(item[1].system), item[0])))
