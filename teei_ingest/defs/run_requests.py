"""Days and streams of a company as a run that the daemon launches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import dagster as dg

from teei_ingest.companies import Companies, Company
from teei_ingest.defs.partitions import RANGE_END, RANGE_START, key
from teei_ingest.defs.queue import tags_of
from teei_ingest.pipeline.days import Window
from teei_ingest.settings import Settings
from teei_ingest.streams import all_streams
from teei_ingest.vault.credentials import status


def run_request(company: str, window: Window, assets: Sequence[str], run_key: str) -> dg.RunRequest:
    """A run of some assets over a company's days; a second request with the same key is none, for ever."""
    ends = {RANGE_START: key(company, window.first), RANGE_END: key(company, window.last)}
    selection = [dg.AssetKey(name) for name in assets]
    return dg.RunRequest(run_key=run_key, asset_selection=selection, tags=ends | tags_of(company, assets))


def pairs(streams: Iterable[str]) -> list[str]:
    """The two assets of each stream."""
    return [asset for name in streams for asset in (name, all_streams()[name].events)]


def usable(settings: Settings, companies: Companies, company: Company) -> tuple[list[str], list[str]]:
    """(streams for which a company has all credentials, what is wrong with other systems that have some).

    What lacks credentials keeps nothing else back; where there are none at all, nothing is wrong.
    """
    found = {name: status(settings, companies, company, name) for name in company.systems}
    streams = [
        one.name for one in all_streams().values() if (state := found.get(one.system)) and state.state == "configured"
    ]
    return streams, [one.problem for one in found.values() if one.state == "incomplete"]
