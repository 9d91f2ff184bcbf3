"""What a worker of Celery runs: `celery --app teei_ingest.defs.worker worker`.

Its settings are the launcher's, so that both stand in `dagster.yaml` once. What is imported here is there before a
worker forks the process of a run, which then begins at once. What settings and companies say, each run reads itself.
"""

from __future__ import annotations

import os

from dagster._core.instance.ref import InstanceRef
from dagster_celery.tasks import create_execute_job_task

from teei_ingest import logs
from teei_ingest.defs import build as build  # with all that it imports
from teei_ingest.defs.celery import WatchedCeleryLauncher
from teei_ingest.errors import SettingsError
from teei_ingest.settings import Settings

_settings = Settings.load()
logs.configure(_settings.log_format, _settings.log_level)

# Of the file alone: what is connected before the fork, processes would share.
_launcher = InstanceRef.from_dir(os.environ["DAGSTER_HOME"]).run_launcher
if not isinstance(_launcher, WatchedCeleryLauncher):
    raise SettingsError("no launcher for workers: DAGSTER_HOME has to be the folder of docker/celery/dagster.yaml")
app = _launcher.celery
create_execute_job_task(app)
