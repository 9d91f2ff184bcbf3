"""The asset `directory_presence`: whole directories, read once a week to tell who is gone from them."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from teei_ingest.contracts.base import is_directory
from teei_ingest.defs.assets import harmless
from teei_ingest.defs.catalog import unpartitioned
from teei_ingest.defs.resources import IngestResource, SettingsResource
from teei_ingest.errors import TeeiError
from teei_ingest.pipeline.presence import Present, WholeDirectory
from teei_ingest.settings import Settings
from teei_ingest.streams import all_streams
from teei_ingest.vault.credentials import status
from teei_ingest.vault.keys import shredded

NAME = "directory_presence"


@unpartitioned(
    NAME,
    "directories",
    "Reads the whole directory of each company and notes which stored people it has no more, as `present` of "
    "`current_directory_entries` says. Nothing else is kept, and no event changes.",
    {"python", "rest"},
)
def presence(
    context: dg.AssetExecutionContext, settings: SettingsResource, ingest: IngestResource
) -> Iterator[dg.MaterializeResult[Any]]:
    found: dict[tuple[str, str], Present] = {}
    failed: dict[tuple[str, str], TeeiError] = {}
    for company in settings.companies:
        for stream in all_streams().values():
            at = company.slug, stream.name
            try:
                if is_directory(stream.contract) and _is_read(settings, company.slug, stream.system):
                    work = ingest.made(WholeDirectory, stream.name, company.slug, context.run.run_id)
                    found[at] = work.look()
            except BaseException as error:  # noqa: BLE001
                failed[at] = harmless(error, stream, company.slug)
    if found:
        yield dg.MaterializeResult(NAME, metadata=_metadata(found))
    if failed:
        raise dg.Failure(
            "; ".join(f"{error}" for error in failed.values()),
            metadata={f"{company} {stream}": f"{error.code}: {error}" for (company, stream), error in failed.items()},
            allow_retries=False,
        )


def _is_read(settings: SettingsResource, slug: str, system: str) -> bool:
    """Whether a company uses a system and has its credentials; some of them missing is an error of the reading."""
    company = settings.companies.get(slug)
    if system not in company.systems or shredded(settings.settings, company) is not None:
        return False
    return status(settings.settings, settings.companies, company, system).state != "unconfigured"


def _metadata(found: dict[tuple[str, str], Present]) -> dict[str, Any]:
    lines = ["| company | directory | people | gone of those stored |", "| --- | --- | --- | --- |"]
    lines += [f"| {company} | {stream} | {one.people} | {one.gone} |" for (company, stream), one in found.items()]
    return {
        "directories": dg.MetadataValue.md("\n".join(lines)),
        "people": sum(one.people for one in found.values()),
        "gone": sum(one.gone for one in found.values()),
    }


job = dg.define_asset_job(
    NAME, selection=dg.AssetSelection.assets(NAME), description="Reads whole directories, to tell who is gone."
)


def weekly(settings: Settings) -> dg.ScheduleDefinition:
    """On Sunday, when the night's runs are over; where the sandbox is read it is there and stopped."""
    begun = dg.DefaultScheduleStatus.STOPPED if settings.is_sandbox else dg.DefaultScheduleStatus.RUNNING
    return dg.ScheduleDefinition(
        name="directory_presence_weekly",
        job=job,
        cron_schedule="30 5 * * 0",
        execution_timezone="UTC",
        default_status=begun,
    )
