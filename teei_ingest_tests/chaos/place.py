"""Where cases run: a sandbox in this process, a home, an instance of Dagster, a clock that only waiting moves."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from dagster._core.storage.event_log.in_memory import InMemoryEventLogStorage

from teei_ingest.defs.build import build
from teei_ingest.defs.partitions import COMPANIES, RANGE_END, RANGE_START, key, split
from teei_ingest.defs.resources import CredentialsResource, HttpResource, SettingsResource
from teei_ingest.extract.http import Source
from teei_ingest.sandbox.app import Sandbox
from teei_ingest.sandbox.config import SandboxConfig, company_id, environment
from teei_ingest.sandbox.server import serving
from teei_ingest.settings import Settings
from teei_ingest.store import open_store
from teei_ingest.store.tables import Store, contracts
from teei_ingest.streams import all_streams
from teei_ingest_tests.chaos.case import COMPANIES as SLUGS
from teei_ingest_tests.chaos.case import Group
from teei_ingest_tests.conftest import MASTER_KEY

Rows = dict[tuple[str, date], list[dict[str, Any]]]  # of a company, by stream and day

_PAGE_SIZE = "CHAOS_PAGE_SIZE"
_MEMORY = Path("/dev/shm")  # a file system that has no disk to wait for, where there is one
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
_SETTINGS = {
    "TEEI_MASTER_KEY": MASTER_KEY,
    "TEEI_READ_TIMEOUT_S": "1",
    "TEEI_MAX_RESPONSE_MB": "4",
    "TEEI_PROCESSES": "1",
}


class Clock:
    """Seconds since 1970; who sleeps moves it on, several at once by the longest sleep."""

    def __init__(self) -> None:
        self.now = 1_740_000_000.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float, cancel: threading.Event) -> None:
        until = self.now + seconds
        with self._lock:
            self.now = max(self.now, until)


CLOCK = Clock()


class ClockedHttp(HttpResource):
    """Clients that wait by the clock of this process."""

    def open(self, company: str, system: str, **options: Any) -> Source:
        return super().open(company, system, clock=CLOCK, sleep=CLOCK.sleep, **options)


@dataclass
class Run:
    """What a run said of its partitions: metadata of good ones, reasons of failed ones, and of what checks failed."""

    good: dict[tuple[str, date], dict[str, Any]] = field(default_factory=dict)
    failed: dict[tuple[str, date], str] = field(default_factory=dict)
    checks: list[str] = field(default_factory=list)
    said: str = ""


class _Kept(logging.Handler):
    """All that is logged, as text."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@dataclass
class Place:
    """One process's sandbox, and the home that it uses now."""

    sandbox: Sandbox
    url: str
    config: SandboxConfig
    root: Path
    home: Path
    _instance: Any = None
    _log: _Kept = field(default_factory=_Kept)

    def renew(self, *, sqlite: bool) -> None:
        """A home and an instance with nothing in them, the sandbox as it was."""
        self.sandbox.reset()
        CLOCK.now += 7200
        if self._instance is not None:
            self._instance.dispose()
        shutil.rmtree(self.root)
        self.home.mkdir(parents=True)
        file = self.root / "companies.yaml"
        entries = [{"id": company_id(slug), "slug": slug, "name": slug} for slug in SLUGS]
        file.write_text(yaml.safe_dump({"companies": entries}))
        os.environ.update(
            {
                **environment(self.config, self.url),
                **_SETTINGS,
                "TEEI_HOME": str(self.home),
                "TEEI_COMPANIES": str(file),
            }
        )
        if sqlite:
            (self.home / "dagster").mkdir()
            self._instance = dg.DagsterInstance.local_temp(str(self.home / "dagster"))
        else:
            self._instance = dg.DagsterInstance.ephemeral()
            self._instance._event_storage = events = Events()
            events.register_instance(self._instance)
        self._instance.add_dynamic_partitions(COMPANIES.name or "", list(SLUGS))

    def run(self, group: Group, *, streams: bool = True, events: bool = True, days: int | None = None) -> Run:
        """Materialize the group's `streams`, their `events` or both; the first `days` of its days, else all."""
        names = [case.stream for case in group.played]
        assets = [name for name in names if streams] + [f"{name}_events" for name in names if events]
        last = group.last if days is None else group.days[days - 1]
        os.environ[_PAGE_SIZE] = str(group.page_size)
        logging.getLogger().addHandler(self._log)
        self._log.lines.clear()
        try:
            result = self._job.execute_in_process(
                instance=self._instance,
                run_config=_QUIET,
                asset_selection=[dg.AssetKey(asset) for asset in assets],
                tags={RANGE_START: key(group.company, group.first), RANGE_END: key(group.company, last)},
                raise_on_error=False,
            )
        finally:
            logging.getLogger().removeHandler(self._log)
        return self._heard(result, {f"{name}_events" if events else name: name for name in names})

    @cached_property
    def _job(self) -> Any:
        settings = SettingsResource()
        credentials = CredentialsResource(settings=settings)
        page_size: Any = dg.EnvVar.int(_PAGE_SIZE)
        http = ClockedHttp(settings=settings, credentials=credentials, page_size=page_size)
        return build(settings=settings, credentials=credentials, http=http).resolve_implicit_global_asset_job_def()

    def _heard(self, result: dg.ExecuteInProcessResult, streams: Mapping[str, str]) -> Run:
        """What a run said; `streams` by the assets whose materializations tell that a partition is complete."""
        run = Run()
        said = list(self._log.lines)
        for entry in self._instance.all_logs(result.run_id):
            said.append(
                f"{entry.user_message} {entry.dagster_event.event_specific_data if entry.dagster_event else ''}"
            )
        run.said = "\n".join(said)
        for event in result.all_events:
            asset = event.asset_key.to_user_string() if event.asset_key else ""
            if event.is_step_materialization and (name := streams.get(asset)):
                figures = {label: value.value for label, value in event.materialization.metadata.items()}
                run.good[name, split(str(event.partition))[1]] = figures
            elif event.is_step_failure:
                told = event.step_failure_data.user_failure_data
                for partition, reason in (told.metadata if told else {}).items():
                    run.failed[str(event.step_key), split(partition)[1]] = str(reason.value)
                if not told:
                    run.checks.append(f"{event.step_key}: {event.step_failure_data.error}")
            elif event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
                evaluation = event.asset_check_evaluation_data
                if not evaluation.passed and evaluation.severity is dg.AssetCheckSeverity.ERROR:
                    run.checks.append(f"check {evaluation.check_name} of {asset}: {evaluation.description}")
        return run

    def rows(self, group: Group) -> Rows:
        """What is stored of the group's streams, whatever the day."""
        store, wanted = self.store, {case.stream for case in group.played}
        found: Rows = {}
        for contract in contracts():
            if any(all_streams()[name].contract is contract for name in wanted):
                for row in store.rows(contract, company=group.company).to_pylist():
                    if row["stream"] in wanted:
                        found.setdefault((row["stream"], row["day"]), []).append(row)
        for rows in found.values():
            rows.sort(key=lambda row: str(row["event_id"]))
        return found

    @property
    def store(self) -> Store:
        return open_store(Settings.load())


class Events(InMemoryEventLogStorage):
    """The events of an ephemeral instance in a list: Dagster's own, SQLite in memory, took a third of a run's time."""

    def __init__(self) -> None:
        super().__init__()
        self._entries: list[dg.EventLogEntry] = []
        self._newest: dict[tuple[Any, Any], dict[str | None, int]] = {}
        self._dynamic: dict[str, list[str]] = {}

    def store_event(self, event: dg.EventLogEntry) -> None:
        self._entries.append(event)
        if (told := event.dagster_event) and told.asset_key:
            self._newest.setdefault((told.asset_key, told.event_type), {})[told.partition] = len(self._entries)

    def get_logs_for_run(self, run_id: str, *args: Any, **options: Any) -> list[dg.EventLogEntry]:
        return [event for event in self._entries if event.run_id == run_id]

    def get_latest_storage_id_by_partition(
        self, asset_key: dg.AssetKey, event_type: Any, partitions: Any = None, after_cursor: int | None = None
    ) -> dict[str, int]:
        found = self._newest.get((asset_key, event_type), {})
        return {name: number for name, number in found.items() if name and (not partitions or name in partitions)}

    def add_dynamic_partitions(self, partitions_def_name: str, partition_keys: Sequence[str]) -> None:
        self._dynamic.setdefault(partitions_def_name, []).extend(partition_keys)

    def get_dynamic_partitions(self, partitions_def_name: str) -> list[str]:
        return self._dynamic[partitions_def_name]

    def has_dynamic_partition(self, partitions_def_name: str, partition_key: str) -> bool:
        return partition_key in self._dynamic[partitions_def_name]


@contextmanager
def place() -> Iterator[Place]:
    """A place of this process's own; its variables and working folder are this process's."""
    config = SandboxConfig(
        companies={slug: company_id(slug) for slug in SLUGS},
        records=10,
        spread=0.8,
        people=12,
        bad_ratio=0.02,
        quota=False,
        last_day=date(2024, 12, 31),
    )
    for name in [*os.environ]:
        if name.startswith(("TEEI_", "DAGSTER_HOME")):
            del os.environ[name]
    with ExitStack() as held:
        folder = _MEMORY if os.access(_MEMORY, os.W_OK) else None
        root = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="teei-chaos-", dir=folder)))
        os.chdir(root)
        (root / "place").mkdir()
        sandbox = Sandbox(config, CLOCK)
        served = held.enter_context(serving(sandbox))
        yield Place(sandbox, served.url, config, root / "place", root / "place" / "home")
