"""Runs as processes beside the code location, watched: one whose process is gone is failed, and so begun again.

Dagster's own launchers cannot tell. A run whose container was killed counts as running until its longest time is over,
a day, and keeps its company's place in the queue. The locks of `processes.py` tell, for all that share their folder.
`docker/dagster.yaml` names this launcher, `docker/celery/dagster.yaml` the one of `celery.py`.
"""

from __future__ import annotations

import time
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, RunLauncher, WorkerStatus
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin

from teei_ingest.defs import processes

# Far longer than a run has no lock, which is so for a moment at its beginning and its end.
_PATIENCE_S = 20.0
# How long an answer of a code location counts, so that it is asked once for all runs that are looked after together.
_ASKED_S = 5.0
# A run that fails while its code location cannot be reached is never begun again: Dagster tries once. Its daemon looks
# at the location anew at least every 60 s, so that after this time it knows that the location is there.
_SETTLED_S = 75.0


class Watched(RunLauncher):
    """What makes a launcher know whether the process of a run is there."""

    watches_locks = True

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._gone_since: dict[str, float] = {}
        # Which process of a code location answered last, and since when it is that one.
        self._servers: dict[str, tuple[str, float]] = {}
        self._asked: dict[str, float] = {}

    @property
    def supports_check_run_worker_health(self) -> bool:
        """It does."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """FAILED once nobody has been at the run for a while, and its code location has been there for longer."""
        now = time.monotonic()
        is_settled = self._is_settled(run, now)
        if processes.is_executed(self._instance, run.run_id):
            self._gone_since.pop(run.run_id, None)
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        since = self._gone_since.setdefault(run.run_id, now)
        if now - since < _PATIENCE_S or not is_settled:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        del self._gone_since[run.run_id]
        return CheckRunHealthResult(WorkerStatus.FAILED, "its process is gone")

    def _is_settled(self, run: dg.DagsterRun, now: float) -> bool:
        """Whether the same server of the run's code answers for long enough; a run of `teei` has none to wait for."""
        origin = run.remote_job_origin.repository_origin.code_location_origin if run.remote_job_origin else None
        if not isinstance(origin, GrpcServerCodeLocationOrigin):
            return True
        name = origin.location_name
        if now >= self._asked.get(name, now):
            try:
                answering = origin.create_client().get_server_id(timeout=5)
            except DagsterUserCodeUnreachableError:
                answering = ""
            self._asked[name] = now + _ASKED_S
            if not answering or self._servers.get(name, ("",))[0] != answering:
                self._servers[name] = answering, now
        return now - self._servers[name][1] >= _SETTLED_S


class WatchedRunLauncher(Watched, DefaultRunLauncher):
    """Dagster's launcher, which also knows whether the process of a run is there."""
