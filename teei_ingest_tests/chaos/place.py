"""Where cases run: a sandbox in this process, a home, an instance of Dagster, a clock that only waiting moves."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from dagster._core.storage.event_log.in_memory import InMemoryEventLogStorage
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

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

_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
_SETTINGS = {
    "TEEI_MASTER_KEY": MASTER_KEY,
    "TEEI_READ_TIMEOUT_S": "0.5",
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
    _jobs: dict[Any, Any] = field(default_factory=dict)

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
        self._instance = (
            dg.DagsterInstance.local_temp(str(self.home / "dagster")) if sqlite else dg.DagsterInstance.ephemeral()
        )
        if not sqlite:
            _quicken(self._instance)
        self._instance.add_dynamic_partitions(COMPANIES.name or "", list(SLUGS))

    def run(self, group: Group) -> Run:
        """Materialize both assets of the group's streams."""
        names = [case.stream for case in group.cases]
        logging.getLogger().addHandler(self._log)
        self._log.lines.clear()
        try:
            result = self._job(group.page_size).execute_in_process(
                instance=self._instance,
                run_config=_QUIET,
                asset_selection=[dg.AssetKey(asset) for name in names for asset in (name, f"{name}_events")],
                tags={RANGE_START: key(group.company, group.first), RANGE_END: key(group.company, group.last)},
                raise_on_error=False,
            )
        finally:
            logging.getLogger().removeHandler(self._log)
        return self._heard(result)

    def _job(self, page_size: int) -> Any:
        if page_size not in self._jobs:
            settings = SettingsResource()
            credentials = CredentialsResource(settings=settings)
            http = ClockedHttp(settings=settings, credentials=credentials, page_size=page_size)
            definitions = build(settings=settings, credentials=credentials, http=http)
            self._jobs[page_size] = definitions.resolve_implicit_global_asset_job_def()
        return self._jobs[page_size]

    def _heard(self, result: dg.ExecuteInProcessResult) -> Run:
        run = Run()
        said = list(self._log.lines)
        for entry in self._instance.all_logs(result.run_id):
            said.append(
                f"{entry.user_message} {entry.dagster_event.event_specific_data if entry.dagster_event else ''}"
            )
        run.said = "\n".join(said)
        streams = {stream.events: name for name, stream in all_streams().items()}
        for event in result.all_events:
            if event.is_step_materialization and (name := streams.get(event.asset_key.to_user_string())):
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
                    asset = evaluation.asset_key.to_user_string()
                    run.checks.append(f"check {evaluation.check_name} of {asset}: {evaluation.description}")
        return run

    def rows(self, group: Group) -> Rows:
        """What is stored of the group's streams, whatever the day."""
        store, wanted = self.store, {case.stream for case in group.cases}
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


def _quicken(instance: Any) -> None:
    """One connection for all events, no look whether its tables are there: that took a third of a run's time."""
    storage = instance.event_log_storage
    assert isinstance(storage, InMemoryEventLogStorage)

    @contextmanager
    def connect() -> Iterator[Any]:
        with storage._db_lock, connection.begin():
            yield connection

    connection = create_engine(storage._engine.url, poolclass=StaticPool).connect()
    storage._connect = connect  # type: ignore[method-assign]
    storage.has_table = lambda table_name: True  # type: ignore[method-assign]


@contextmanager
def place(parent: Path | None = None) -> Iterator[Place]:
    """A place of this process's own; its variables and working folder are this process's."""
    config = SandboxConfig(
        companies={slug: company_id(slug) for slug in SLUGS},
        records=12,
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
        root = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="teei-chaos-", dir=parent)))
        os.chdir(root)
        (root / "place").mkdir()
        sandbox = Sandbox(config, CLOCK)
        served = held.enter_context(serving(sandbox))
        yield Place(sandbox, served.url, config, root / "place", root / "place" / "home")
