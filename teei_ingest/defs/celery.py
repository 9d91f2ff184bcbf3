"""Runs as tasks of Celery, for several workers; `docker/celery/dagster.yaml` names the launcher.

Belongs here: the launcher, which is Dagster's and watched, and the password of the broker. What a worker runs is in
`worker.py`. Celery hands each run out once and forgets it: one that is lost is found by its lock, and Dagster begins it
again. So the broker has to keep nothing for longer than until a worker takes it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import LaunchRunContext
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG
from kombu.exceptions import OperationalError
from redis.credentials import CredentialProvider

from teei_ingest.defs.launcher import Watched
from teei_ingest.errors import SettingsError

_PASSWORD_FILE = "REDIS_PASSWORD_FILE"


class Password(CredentialProvider):
    """The broker's password out of a file, so that it is in no address, no environment and no settings."""

    def get_credentials(self) -> tuple[str]:
        """It, read anew for each connection."""
        try:
            return (Path(os.environ.get(_PASSWORD_FILE, "")).read_text().strip(),)
        except OSError as error:
            reason = error.strerror
        raise SettingsError(f"{_PASSWORD_FILE} has to name a file with Redis' password: {reason}")


class WatchedCeleryLauncher(Watched, CeleryRunLauncher):
    """Dagster's launcher for Celery, which also knows whether the process of a run is there."""

    def launch_run(self, context: LaunchRunContext) -> None:
        """Hand it to the broker; as long as that is gone, the run stays in the queue, as if there were no code."""
        with _told():
            CeleryRunLauncher.launch_run(self, context)

    def terminate(self, run_id: str) -> bool:
        """Interrupt it, as somebody has asked for: it is not begun again. False if it is no worker's."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished or DAGSTER_CELERY_TASK_ID_TAG not in run.tags:
            return False
        with _told(), self.celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1)  # before it says that the run is being ended
        self._instance.report_run_canceling(run)
        return bool(CeleryRunLauncher.terminate(self, run_id))

    def get_run_worker_debug_info(self, run: object, include_container_logs: bool | None = True) -> None:
        """Nothing: Celery keeps no results here."""


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
        return
    except OperationalError:
        pass
    raise DagsterUserCodeUnreachableError("the broker of the workers, Redis, does not answer")
