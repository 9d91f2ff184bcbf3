"""Running the real assets in a home of a test's own, in this process, and reading what they left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from teei_ingest.defs.build import build
from teei_ingest.defs.partitions import COMPANIES, RANGE_END, RANGE_START, key
from teei_ingest.settings import Settings
from teei_ingest.store import open_store
from teei_ingest.store.sql import query
from teei_ingest.streams import all_streams

Teei = Callable[..., tuple[int, str, str]]


@dataclass
class Home:
    """A TEEI_HOME, the variables that go with it, and an ephemeral Dagster instance."""

    path: Path
    environ: dict[str, str]
    instance: dg.DagsterInstance

    @classmethod
    def create(
        cls,
        path: Path,
        companies: Mapping[str, str],
        environ: Mapping[str, str],
        privacy: Mapping[str, Any] | None = None,
    ) -> Home:
        """`companies` maps slug to id; `privacy` maps slug (with underscores) to overrides."""
        file = path / "companies.yaml"
        entries = [
            {"id": identity, "slug": slug, "name": slug}
            | ({"privacy": privacy[slug.replace("-", "_")]} if privacy and slug.replace("-", "_") in privacy else {})
            for slug, identity in companies.items()
        ]
        file.write_text(yaml.safe_dump({"companies": entries}))
        variables = {
            "TEEI_HOME": str(path / "home"),
            "TEEI_COMPANIES": str(file),
            "TEEI_RETRY_INITIAL_S": "0.01",
            "TEEI_RETRY_MAX_S": "0.02",
            **environ,
        }
        instance = dg.DagsterInstance.ephemeral()
        instance.add_dynamic_partitions(COMPANIES.name or "", list(companies))
        return cls(path, variables, instance)

    @property
    def settings(self) -> Settings:
        return Settings.load(self.environ)

    def materialize(
        self, company: str, first: date, last: date, streams: Iterable[str] | None = None, *, assets: str = "both"
    ) -> dg.ExecuteInProcessResult:
        """One run over a company's days; `assets` is both, stream or events."""
        of_each = {"both": ("", "_events"), "stream": ("",), "events": ("_events",)}[assets]
        names = [f"{name}{ending}" for name in streams or all_streams() for ending in of_each]
        return self.run({RANGE_START: key(company, first), RANGE_END: key(company, last)}, *names)

    def run(self, tags: Mapping[str, str], *assets: str) -> dg.ExecuteInProcessResult:
        """One run of these assets."""
        job = build(self.environ).resolve_implicit_global_asset_job_def()
        return job.execute_in_process(
            instance=self.instance,
            asset_selection=[dg.AssetKey(asset) for asset in assets],
            tags=dict(tags),
            raise_on_error=False,
        )

    def sql(self, text: str) -> list[dict[str, Any]]:
        """Rows of a query as dicts."""
        names, rows = query(open_store(self.settings), text)
        return [dict(zip(names, row, strict=True)) for row in rows]

    def metadata(self, result: dg.ExecuteInProcessResult, asset: str) -> dict[str, dict[str, Any]]:
        """Metadata of an asset's materializations in a run, by partition key."""
        return {
            str(event.partition): {name: value.value for name, value in event.materialization.metadata.items()}
            for event in result.all_events
            if event.is_step_materialization and event.asset_key == dg.AssetKey(asset)
        }


def failures(result: dg.ExecuteInProcessResult) -> list[str]:
    """Descriptions of a run's failed steps."""
    return [
        str(event.step_failure_data.user_failure_data.description)
        for event in result.all_events
        if event.is_step_failure and event.step_failure_data.user_failure_data
    ]
