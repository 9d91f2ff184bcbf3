"""Runs: a request as a real run of Dagster's instance, companies as partitions, runs whose process is gone.

Belongs here: what `teei` and the gateway need of Dagster, in types that know nothing of it. Importing this module
loads Dagster and all definitions, which takes seconds: import it where it is used.
"""

import os
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.execution.api import execute_run_iterator
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.utils import make_new_run_id
from filelock import FileLock
from sqlalchemy.exc import DBAPIError

from teei_ingest.definitions import defs
from teei_ingest.defs import partitions, processes, retention
from teei_ingest.defs.checks import QUARANTINE
from teei_ingest.defs.partitions import (
    COMPANIES,
    COMPANY_TAG,
    PARTITION,
    RANGE_END,
    RANGE_START,
    TYPED_TAG,
    key,
    split,
)
from teei_ingest.defs.queue import UNFINISHED
from teei_ingest.defs.sqlite import quicken, remove_half_made
from teei_ingest.errors import SettingsError, StoreError
from teei_ingest.interrupts import Interrupts
from teei_ingest.settings import Settings
from teei_ingest.store import open_store
from teei_ingest.streams import all_streams
from teei_ingest.sync import Figures, Problem, Request, Result
from teei_ingest.vault.files import private_folder

DEFINITIONS = "teei_ingest.definitions"
PROCESS_TAG = "teei/process"  # of runs that are carried out by the process that asked for them
# What SQLite says, and what to do.
_DATABASE = {
    "full": "is on a full disk: make room",
    "disk i/o": "is on a full disk: make room",
    "locked": "has been in use for too long: wait for whoever uses it",
    "readonly": "may not be written: mend its permissions",
    "unable to open": "cannot be opened: mend its permissions",
}
_INTERRUPTED = "interrupted; the days that were done are kept"
_FILES = 256  # that a run may open at once: tables, databases, connections
_COUNTS = ("fetched", "kept", "quarantined", "duplicates", "suppressed", "out_of_window")


@contextmanager
def instance() -> Iterator[dg.DagsterInstance]:
    """The instance in DAGSTER_HOME. Raises SettingsError if it cannot be opened, StoreError if it fails later."""
    quicken()
    home = os.environ.get("DAGSTER_HOME", "")
    beside = Path(os.environ["TEEI_HOME"], "dagster") if "TEEI_HOME" in os.environ else Path(home)
    try:
        # Processes that make its databases at once spoil them. In a container DAGSTER_HOME itself is read-only.
        with FileLock(private_folder(beside) / ".opening", mode=0o600):
            remove_half_made(Path(home))
            opened = dg.DagsterInstance.get()
    except Exception as error:  # noqa: BLE001 - whatever is wrong there, it is mended in the same way
        kind = type(error).__name__
    else:
        try:
            with opened:
                yield opened
            return
        except DBAPIError as error:  # its own text has the statement with its values
            reason = str(error.orig).lower()
        remedies = (remedy for sign, remedy in _DATABASE.items() if sign in reason)
        raise StoreError(f"Dagster's database in {home} {next(remedies, 'cannot be used')}; then run it again")
    raise SettingsError(f"DAGSTER_HOME ({home or 'not set'}) cannot be used ({kind})")


def _origin(job: str) -> RemoteJobOrigin:
    """Where the UI finds a job, without which it cannot execute a run of it again; as `workspace.yaml` has it."""
    target = LoadableTargetOrigin(module_name=DEFINITIONS)
    location = ManagedGrpcPythonEnvCodeLocationOrigin(target, location_name=DEFINITIONS.partition(".")[0])
    return RemoteRepositoryOrigin(location, "__repository__").get_job_origin(job)


def failed_partitions(first: date | None = None, last: date | None = None) -> dict[str, dict[str, set[date]]]:
    """Days that are failed, by company and stream: those of the stream or of its events, within both days."""
    found: dict[str, dict[str, set[date]]] = {}
    graph = defs.get_repository_def().asset_graph
    with instance() as opened:
        for stream in all_streams().values():
            for asset in (dg.AssetKey(stream.name), dg.AssetKey(stream.events)):
                partitions_def = graph.get(asset).partitions_def
                cached = get_and_update_asset_status_cache_value(opened, asset, partitions_def)
                if cached is None or partitions_def is None:
                    continue
                with partition_loading_context(dynamic_partitions_store=opened):
                    failed = cached.deserialize_failed_partition_subsets(partitions_def)
                    keys = list(failed.get_partition_keys())
                for company, day in map(split, keys):
                    if (first is None or first <= day) and (last is None or day <= last):
                        found.setdefault(company, {}).setdefault(stream.name, set()).add(day)
    return found


def known_companies() -> list[str]:
    """Slugs that are partitions already."""
    with instance() as opened:
        return partitions.known_companies(opened)


def add_companies(slugs: Iterable[str]) -> list[str]:
    """Make partitions of the slugs that are none yet; those that were added."""
    with instance() as opened:
        return partitions.add_companies(opened, slugs)


def run(
    request: Request,
    progress: Callable[[int], None] = lambda count: None,
    *,
    debug: bool = False,
    typed_at: float | None = None,
    run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> Result:
    """Materialize a request in one run and in this process; `progress` hears of every partition of an asset.

    What fails is in the result. With `debug` Dagster's log goes to standard error. `typed_at` is when a person typed
    the command, in seconds since 1970: by default now. Where nobody did, there are `tags`, maybe none.
    """
    if 0 <= (most := resource.getrlimit(resource.RLIMIT_NOFILE)[0]) < _FILES:
        raise SettingsError(
            f"this process may open {most} files, which is too few: `ulimit -n 1024`, then run it again"
        )
    run_id = run_id or make_new_run_id()
    if tags is None:
        tags = {TYPED_TAG: str(time.time() if typed_at is None else typed_at)}
    told = Told(request, run_id, progress)
    with (
        Interrupts(lambda: _give_up(run_id)) as interrupts,
        instance() as opened,
        processes.executing(opened, run_id),
    ):
        interrupts.check()
        _end_stuck(opened)
        partitions.add_companies(opened, [request.company.slug])
        keys = {dg.AssetKey(name) for stream in request.streams for name in (stream, all_streams()[stream].events)}
        job = defs.get_repository_def().get_implicit_job_def_for_assets(keys)
        assert job is not None
        window = request.window
        interrupts.check()
        with _ended(opened, run_id):
            made = opened.create_run_for_job(
                run_id=run_id,
                job_def=job,
                asset_selection=frozenset(keys),
                run_config={"loggers": {"console": {"config": {"log_level": "DEBUG" if debug else "CRITICAL"}}}},
                tags={
                    RANGE_START: key(request.company.slug, window.first),
                    RANGE_END: key(request.company.slug, window.last),
                    COMPANY_TAG: request.company.slug,
                    PROCESS_TAG: str(os.getpid()),
                    **tags,
                },
                remote_job_origin=_origin(job.name),
            )
            interrupts.check()
            is_ending = False
            with suppress(dg.DagsterExecutionInterruptedError):
                for event in execute_run_iterator(InMemoryJob(job), made, opened):
                    told.hear(event)
                    was_raised = _is_interrupt(event)
                    if (interrupts.happened or was_raised) and event.step_key:
                        if not is_ending:
                            is_ending = True
                            opened.report_run_canceling(made)  # else Dagster takes it for a failure
                        if not was_raised:
                            signal.raise_signal(signal.SIGTERM)  # what the one before raised got lost
            if is_ending or interrupts.happened:
                ended = opened.get_run_by_id(run_id)
                if ended and ended.status is dg.DagsterRunStatus.FAILURE:  # so Dagster has it, before the first step
                    opened.report_run_canceled(ended, message=_INTERRUPTED)
                raise KeyboardInterrupt
        return told.result()


def _is_interrupt(event: dg.DagsterEvent) -> bool:
    error = event.step_failure_data.error if event.is_step_failure else None
    return error is not None and error.cls_name == dg.DagsterExecutionInterruptedError.__name__


@contextmanager
def _ended(opened: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """However the block ends, the run does not count as running afterwards."""
    try:
        yield
    finally:
        _cancel(opened, run_id)


def _give_up(run_id: str) -> None:
    with instance() as opened:
        _cancel(opened, run_id)


def _cancel(opened: dg.DagsterInstance, run_id: str) -> None:
    """Unless the run has ended."""
    made = opened.get_run_by_id(run_id)
    if made is not None and not made.is_finished:
        opened.report_run_canceled(made, message=_INTERRUPTED)


class Told:
    """Makes a result of what a run tells while it goes, or afterwards."""

    def __init__(self, request: Request, run_id: str, progress: Callable[[int], None] = lambda count: None) -> None:
        self._request = request
        self._progress = progress
        self._figures = {name: Figures() for name in request.streams}
        self._problems: list[Problem] = []
        self._notes: list[str] = []
        self._done: dict[str, set[date]] = {name: set() for name in request.streams}
        self._windows: set[tuple[str, str]] = set()
        self._begun: dict[str, float] = {}
        self._run_id = run_id
        self._broken = ""
        streams = all_streams()
        self._stream_of = {streams[name].events: name for name in request.streams} | {n: n for n in request.streams}

    def hear(self, event: dg.DagsterEvent) -> None:
        """Take in one event."""
        kind = event.event_type
        if kind is dg.DagsterEventType.ASSET_MATERIALIZATION:
            self._materialized(event.step_materialization_data.materialization)
        elif kind is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            self._checked(event.asset_check_evaluation_data)
        elif kind is dg.DagsterEventType.STEP_START:
            self._begun[str(event.step_key)] = time.monotonic()
        elif kind in (dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.STEP_FAILURE):
            name = str(event.step_key)
            if name in self._figures and name in self._begun:
                self._figures[name].seconds += time.monotonic() - self._begun[name]
            if kind is dg.DagsterEventType.STEP_FAILURE:
                self._failed(name, event.step_failure_data)
        elif kind is dg.DagsterEventType.RUN_FAILURE and not self._problems:
            when = "broke off" if self._begun else "failed before it began"
            self._broken = f"run {self._run_id} {when}: `teei doctor` looks for the reason, `--debug` shows where"
        elif kind is dg.DagsterEventType.RUN_CANCELED:
            self._broken = f"run {self._run_id} was cancelled; the days that were done are kept"

    def result(self) -> Result:
        """To be called when the run has ended."""
        if not self._broken:
            told = {(problem.stream, problem.day) for problem in self._problems}
            for name, done in self._done.items():
                for day in self._request.window.days:
                    if day not in done and (name, day) not in told:
                        self._problems.append(Problem(name, day, "not_run", "the run ended before this day was done"))
        problems = sorted(self._problems, key=lambda problem: (problem.stream, problem.day))
        return Result(
            company=self._request.company.slug,
            window=self._request.window,
            run_id=self._run_id,
            streams=self._figures,
            problems=problems,
            notes=self._notes,
            broken=self._broken,
        )

    def _materialized(self, materialization: dg.AssetMaterialization) -> None:
        asset = materialization.asset_key.to_user_string()
        stream = self._stream_of[asset]
        self._progress(1)
        if asset == stream:
            return  # the events say the same
        metadata: dict[str, Any] = {name: value.value for name, value in materialization.metadata.items()}
        figures = self._figures[stream]
        for name in _COUNTS:
            setattr(figures, name, getattr(figures, name) + metadata[name])
        if (stream, metadata["window"]) not in self._windows:  # the days of a window share its requests
            self._windows.add((stream, metadata["window"]))
            figures.requests += metadata["requests"]
        self._done[stream].add(split(str(materialization.partition))[1])

    def _checked(self, evaluation: dg.AssetCheckEvaluation) -> None:
        stream = self._stream_of[evaluation.asset_key.to_user_string()]
        figures = self._figures[stream]
        figures.checks += 1
        figures.checks_passed += evaluation.passed
        if not evaluation.passed and evaluation.severity is dg.AssetCheckSeverity.WARN:
            figures.warnings += 1
            if evaluation.check_name != QUARANTINE:  # its figure is in the table
                self._notes.append(f"{stream} {evaluation.description}")
        elif not evaluation.passed:
            day = split(str(evaluation.partition))[1]
            message = f"check {evaluation.check_name}: {evaluation.description}"
            self._problems.append(Problem(stream, day, "check_failed", message))

    def _failed(self, stream: str, failure: Any) -> None:
        told = failure.user_failure_data
        reasons = told.metadata if told else {}
        for partition_key, value in reasons.items():
            code, _, message = str(value.value).partition(": ")
            self._problems.append(Problem(stream, split(partition_key)[1], code, message))
        if reasons:
            return
        kind = failure.error.cls_name if failure.error else "error"
        message = told.description if told else f"unexpected {kind}; `--debug` shows where"
        days = [day for day in self._request.window.days if day not in self._done[stream]]
        self._problems += [Problem(stream, day, "unexpected", message) for day in days or self._request.window.days]


def stop_company(slug: str, patience_s: float = 10.0) -> int:
    """End the runs of a company, queued ones and those of `teei sync` included; their number.

    What does not end in `patience_s` seconds, though its process is on this machine, is killed. Raises StoreError if a
    run goes on elsewhere.
    """
    with instance() as opened:
        found = [run for run in opened.get_runs(dg.RunsFilter(statuses=UNFINISHED)) if _is_of(run, slug)]
        for run in found:
            with suppress(Exception):  # a launcher that does not answer; the process is asked below
                opened.run_coordinator.cancel_run(run.run_id)
            _signal(opened, run, signal.SIGTERM)
        limit = time.monotonic() + patience_s
        while any(_goes_on(opened, run) for run in found) and time.monotonic() < limit:
            time.sleep(0.1)
        for run in found:
            if _goes_on(opened, run) and not _signal(opened, run, signal.SIGKILL):
                raise StoreError(
                    f"run {run.run_id} goes on elsewhere: terminate it there, then do this again", company=slug
                )
            now = opened.get_run_by_id(run.run_id)
            if now is not None and not now.is_finished:
                opened.report_run_canceled(now, message="its company is being shredded")
        return len(found)


def remove_company(slug: str) -> bool:
    """Remove a company's partitions; whether it had any."""
    with instance() as opened:
        known = slug in partitions.known_companies(opened)
        if known:
            opened.delete_dynamic_partition(COMPANIES.name or "", slug)
        return known


def _is_of(run: dg.DagsterRun, slug: str) -> bool:
    keys = (run.tags.get(name, "") for name in (RANGE_START, PARTITION))
    return run.tags.get(COMPANY_TAG) == slug or any(one.startswith(f"{slug}|") for one in keys)


def _goes_on(opened: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether a process is at a run; where those are not known, whether it counts as running."""
    if processes.are_known(opened):
        return processes.is_executed(opened, run.run_id)
    now = opened.get_run_by_id(run.run_id)
    return now is not None and not now.is_finished


def _signal(opened: dg.DagsterInstance, run: dg.DagsterRun, number: int) -> bool:
    """Whether the run's process can be reached from here."""
    process = processes.number_of(opened, run.run_id) if processes.are_known(opened) else None
    if process is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(process, number)
    return True


def keep_rules(settings: Settings, *, dry_run: bool = False) -> dict[str, int]:
    """What the asset `retention` does, here and now, recorded as its materialization; what went, by rule."""
    with instance() as opened:
        counts = retention.keep(opened, settings, open_store(settings), datetime.now(UTC), dry_run=dry_run)
        if not dry_run:
            opened.report_runless_asset_event(dg.AssetMaterialization(retention.NAME, metadata=dict(counts)))
        return counts


def stuck_runs() -> list[str]:
    """Ids of runs that count as running though the process that was at them is gone."""
    with instance() as opened:
        return [run.run_id for run in _stuck(opened)]


def end_stuck_runs() -> list[str]:
    """Record those runs as failed; their ids. What they had committed stays, and they can be run again."""
    with instance() as opened:
        return _end_stuck(opened)


def _end_stuck(opened: dg.DagsterInstance) -> list[str]:
    found = _stuck(opened)
    for run in found:
        opened.report_run_failed(run, "its process is gone")
    processes.forget_dead(opened)
    return [run.run_id for run in found]


def _stuck(opened: dg.DagsterInstance) -> list[dg.DagsterRun]:
    if not processes.are_known(opened):
        return []
    statuses = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    runs = opened.get_runs(dg.RunsFilter(statuses=statuses))
    return [run for run in runs if _is_stuck(opened, run.run_id)]


def _is_stuck(opened: dg.DagsterInstance, run_id: str) -> bool:
    if processes.is_executed(opened, run_id):
        return False
    run = opened.get_run_by_id(run_id)  # it may have ended since it was listed
    if run is None or run.is_finished:
        return False
    # Those of `teei` have a process from before they are recorded; one that is executed again has its parent's tags.
    if PROCESS_TAG in run.tags and run.parent_run_id is None:
        return True
    records = opened.get_records_for_run(run_id, of_type=dg.DagsterEventType.RUN_START, limit=1).records
    event = records[0].event_log_entry.dagster_event if records else None
    return event is not None and event.pid is not None and not processes.is_alive(event.pid)
