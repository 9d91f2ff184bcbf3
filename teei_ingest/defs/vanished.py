"""Carried events removed, and Dagster's record of it: a run that has succeeded already, as of the quarantine."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import date

from teei_ingest.companies import Company
from teei_ingest.defs import requeue
from teei_ingest.defs.build import build
from teei_ingest.defs.resources import IngestResource
from teei_ingest.defs.run import failed_partitions, instance
from teei_ingest.errors import StoreError, TeeiError
from teei_ingest.privacy.vanished import Dropping
from teei_ingest.streams import all_streams

_RUN = "vanished"


def drop(
    company: Company, days: Mapping[str, Collection[date]]
) -> Iterator[tuple[str, Mapping[date, int] | TeeiError]]:
    """Remove what is carried over to these days, by stream; of each stream how many rows by day, or what failed.

    A partition that is failed stays so: a stream that has one among these days is left as it is.
    """
    resources = build().resources or {}
    ingest: IngestResource = resources["ingest"]
    failed = failed_partitions().get(company.slug, {})
    with instance() as opened:
        for name, wanted in days.items():
            stream = all_streams()[name]
            try:
                bad = sorted(failed.get(name, set()) & set(wanted))
                if bad:
                    raise StoreError(
                        f"{bad[0]} is failed, so what is gone is not known: `teei sync --failed`, and do this again",
                        system=stream.system,
                        stream=name,
                        company=company.slug,
                    )
                work = ingest.made(Dropping, name, company.slug, _RUN)
                record = requeue.recorder(opened, ingest, stream, work, _RUN)
                yield name, work.drop(wanted, requeue.recorded(opened, stream, company.slug), record)
            except TeeiError as error:
                yield name, error
