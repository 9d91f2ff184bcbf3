"""The metrics: names, labels, meanings. Released names are public, as those of a contract's fields are.

A label is a closed list (systems, streams, outcomes, kinds of error) or, where it says so, the companies of the
registry. None is free text, a person, a run or an address.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from teei_ingest import errors

SUCCESS, FAILURE, CANCELED = "success", "failure", "canceled"
OUTCOMES = (SUCCESS, FAILURE, CANCELED)
RECORDS = ("kept", "quarantined", "duplicates", "suppressed", "out_of_window")
CHECKS = ("contract", "quarantine", "no_personal_data")
VERDICTS = ("passed", "warned", "failed")
CRASHED = "crashed"  # the run's process is gone, or something that is not ours was raised
_SEED = {errors.BadCredentials.code: "auth_failed"}  # the seed service's name


@dataclass(frozen=True)
class Metric:
    """One metric; a `counter` never goes down."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ("connector",)


def error_type(code: str) -> str:
    """The label for an error's code; what is not in the list is `crashed`."""
    return _SEED.get(code, code) if code in _codes() else CRASHED


@cache
def error_types() -> tuple[str, ...]:
    """All that `error_type` can be."""
    return tuple(sorted({_SEED.get(code, code) for code in _codes()} | {CRASHED}))


@cache
def _codes() -> frozenset[str]:
    kinds = (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.TeeiError))
    return frozenset(kind.code for kind in kinds)


SUCCESS_RATE = Metric(
    "impact_in_connector_success_rate",
    "gauge",
    "Share of a connector's ingests (a stream of a company in a run) of the last seven days that succeeded, 0 to 1; "
    "absent without any. One that was cancelled counts neither way.",
)
LAG = Metric(
    "impact_in_ingestion_lag_seconds",
    "gauge",
    "Seconds since the last success of that company and stream of the connector which waits the longest; absent as "
    "long as there was none.",
)
PROCESSED = Metric(
    "impact_in_records_processed_total",
    "counter",
    "Records that were read and are stored, now or since before: kept and duplicates.",
)
ERRORS = Metric(
    "impact_in_errors_total",
    "counter",
    "Ingests that failed, by kind of error; one that failed for two reasons counts for both.",
    ("connector", "error_type"),
)
RUNS = Metric(
    "impact_in_runs_total",
    "counter",
    "Ingests (a stream in a run) that ended.",
    ("connector", "stream", "outcome"),
)
COMPANY_RUNS = Metric(
    "impact_in_company_runs_total",
    "counter",
    "Ingests (a stream of a company in a run) that ended.",
    ("company", "connector", "outcome"),
)
LAST_SUCCESS = Metric(
    "impact_in_last_success_timestamp_seconds",
    "gauge",
    "When a stream of a company was last read through the day before, or later, without a failure; a backfill of older "
    "days does not count.",
    ("company", "connector", "stream"),
)
RECORDS_BY_OUTCOME = Metric(
    "impact_in_records_total",
    "counter",
    "Records that were read, by what became of them; together they are all that was fetched.",
    ("connector", "stream", "outcome"),
)
REQUESTS = Metric(
    "impact_in_source_requests_total",
    "counter",
    "Requests to the source, tokens and retries included, for days that were kept.",
    ("connector", "stream"),
)
CHECKED = Metric(
    "impact_in_checks_total",
    "counter",
    "Evaluations of asset checks. `contract` warns where a day has far fewer records than usual.",
    ("connector", "stream", "check", "outcome"),
)
QUARANTINED = Metric(
    "impact_in_quarantined_days",
    "gauge",
    "Days of companies that have sealed records in the quarantine.",
    ("connector", "stream"),
)
QUOTA_USED = Metric(
    "impact_in_quota_used_ratio",
    "gauge",
    "How much of its quota that key has used which has used most, 0 to 1.",
)
QUOTA_WAITING = Metric("impact_in_quota_waiting", "gauge", "Requests that wait for the quota.")
QUOTA_BLOCKED = Metric("impact_in_quota_blocked", "gauge", "Keys with which the source wants no request just now.")
CIRCUIT_OPEN = Metric("impact_in_circuit_open", "gauge", "Accounts of the system that are down and are not asked.")
CIRCUIT_SINCE = Metric(
    "impact_in_circuit_open_since_timestamp_seconds",
    "gauge",
    "Since when the account is down that has been down longest; absent while all answer.",
)
WEBHOOKS_WAITING = Metric("impact_in_webhook_deliveries_waiting", "gauge", "Deliveries for which no run was asked yet.")
WEBHOOKS_SINCE = Metric(
    "impact_in_webhook_waiting_since_timestamp_seconds",
    "gauge",
    "When the delivery came that has waited longest; absent while none waits.",
)
WEBHOOKS_LAST = Metric(
    "impact_in_webhook_last_delivery_timestamp_seconds", "gauge", "When the last delivery came that is remembered."
)
HEARTBEAT = Metric(
    "impact_in_daemon_heartbeat_timestamp_seconds",
    "gauge",
    "When a part of Dagster's daemon last said that it is alive.",
    ("daemon",),
)
QUEUE = Metric("impact_in_queue_runs", "gauge", "Runs of Dagster that have not ended.", ("status",))
QUEUE_OLDEST = Metric(
    "impact_in_queue_oldest_timestamp_seconds",
    "gauge",
    "When the run was asked for that has been in the queue longest; absent while it is empty.",
    (),
)
STORED_BYTES = Metric(
    "impact_in_stored_bytes",
    "gauge",
    "Bytes at rest when they were measured last: the newest version of a table, by its name, and what is beside it.",
    ("what",),
)
STORED_ROWS = Metric("impact_in_stored_rows", "gauge", "Events of a table when they were measured last.", ("what",))
MEASURED = Metric(
    "impact_in_stored_measured_timestamp_seconds", "gauge", "When that was; absent as long as it never was.", ()
)
RECORDED_UNTIL = Metric(
    "impact_in_recorded_until_timestamp_seconds",
    "gauge",
    "Runs that ended until then are counted; far back while many are being counted for the first time.",
    (),
)
PART_UP = Metric(
    "impact_in_part_up",
    "gauge",
    "1 if this part of the figures could be read just now; 0 leaves its gauges out and its counters as they were.",
    ("part",),
)
BUILD = Metric("impact_in_build_info", "gauge", "Always 1.", ("version",))

METRICS = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
