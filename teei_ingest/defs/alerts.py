"""One alert for each run that failed and is not tried again."""

from __future__ import annotations

import dagster as dg
import requests

from teei_ingest.defs.partitions import COMPANY_TAG
from teei_ingest.defs.resources import SettingsResource

_TIMEOUT_S = 10
_WILL_RETRY = "dagster/will_retry"


@dg.run_failure_sensor(
    name="alerts",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="Says once that a run failed: in the daemon's log, and to TEEI_ALERT_URL where that is set.",
)
def alerts(context: dg.RunFailureSensorContext, settings: SettingsResource) -> dg.SkipReason | None:
    run = context.dagster_run
    if run.tags.get(_WILL_RETRY) == "true":
        return dg.SkipReason("it is tried again")
    steps = sorted(event.step_key for event in context.get_step_failure_events() if event.step_key)
    company = run.tags.get(COMPANY_TAG)
    text = (
        f"run {run.run_id}{f' of {company}' if company else ''} failed"
        f"{': ' + ', '.join(steps) if steps else ''}; `teei sync --failed` tries again what is missing"
    )
    context.log.error(text)
    url = settings.settings.alert_url
    if url is None:
        return None
    reached = False
    try:
        with requests.Session() as session:
            session.trust_env = False
            reply = session.post(url.get_secret_value(), json={"text": text}, timeout=_TIMEOUT_S, allow_redirects=False)
            reached = reply.ok
    except requests.RequestException:
        pass  # its text has the address, which is a secret
    if not reached:
        context.log.error("TEEI_ALERT_URL could not be reached, or did not accept the alert")
    return None
