"""The product in a process of its own: `python -m teei_ingest_tests.bench.ours MODE`, an order on standard input.

The clock starts after the imports; settings, keys, tables and the token are made while it runs. Each mode prints what
it found as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.dataset as pads
from deltalake import DeltaTable

from teei_ingest.companies import load_companies
from teei_ingest.extract.http import Source
from teei_ingest.landing.landing import Landing
from teei_ingest.landing.quarantine import Quarantine
from teei_ingest.mapping.plan import plan
from teei_ingest.pipeline.days import Window
from teei_ingest.pipeline.ingest import Ingest, Places
from teei_ingest.pipeline.partition import Outcome, Partition
from teei_ingest.redact.apply import Redactor
from teei_ingest.redact.policy import policy_for
from teei_ingest.settings import Settings
from teei_ingest.store import open_store
from teei_ingest.streams import all_streams
from teei_ingest.systems import all_systems
from teei_ingest.vault.credentials import resolve
from teei_ingest.vault.keys import KeyRing

Order = dict[str, Any]


def ingest(order: Order) -> dict[str, Any]:
    """One window of one stream, fetched, checked, redacted and committed, without Dagster."""
    begun, used = time.perf_counter(), time.process_time()
    outcome, source = _both(order)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    own = pads.field("stream") == order["stream"]
    return {
        "records": _sum(outcome, "fetched") - _sum(outcome, "out_of_window"),
        "seconds": seconds,
        "cpu_s": cpu,
        "peak_mb": peak,
        "kept": _sum(outcome, "kept"),
        "quarantined": _sum(outcome, "quarantined"),
        "stored": sum(table.to_pyarrow_dataset().count_rows(filter=own) for table in _tables()),
        "requests": source.requests,
    }


def privacy(order: Order) -> dict[str, Any]:
    """`ingest` in one process, and what of its time the redaction took, and within it the guard."""
    os.environ["TEEI_PROCESSES"] = "1"
    spent = dict.fromkeys(("__call__", "_guard"), 0.0)
    for name in spent:
        setattr(Redactor, name, _clocked(getattr(Redactor, name), name, spent))
    return {**ingest(order), "redaction_s": spent["__call__"], "guard_s": spent["_guard"]}


def _clocked(method: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    def clocked(*arguments: Any) -> Any:
        begun = time.perf_counter()
        try:
            return method(*arguments)
        finally:
            spent[name] += time.perf_counter() - begun

    return clocked


def requests(order: Order) -> dict[str, Any]:
    """The requests that each stream needs for a window, with a token of its own."""
    return {name: ingest({**order, "stream": name}) for name in all_streams()}


def register(order: Order) -> dict[str, Any]:
    """Add the company's partition to Dagster's storage."""
    import dagster as dg

    from teei_ingest.defs.partitions import COMPANIES

    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions(str(COMPANIES.name), [order["company"]])
    return {}


def materialized(order: Order) -> dict[str, Any]:
    """How many assets the day has, and how many of its checks passed."""
    import dagster as dg

    from teei_ingest.definitions import defs

    with dg.DagsterInstance.get() as instance:
        graph = defs.resolve_asset_graph()
        assets = [key for key in graph.get_all_asset_keys() if instance.get_latest_materialization_event(key)]
        storage = instance.event_log_storage
        checks = [
            key
            for key in graph.asset_check_keys
            for one in storage.get_asset_check_execution_history(key, limit=1)
            if one.status.value == "SUCCEEDED"
        ]
    return {"assets": len(assets), "checks": len(checks)}


def run(order: Order) -> dict[str, Any]:
    """All assets of a day in one Dagster run, with pages of `page_size`."""
    import dagster as dg
    from requests.adapters import HTTPAdapter

    from teei_ingest.defs.build import build
    from teei_ingest.defs.resources import CredentialsResource, HttpResource, SettingsResource

    first_request = 0.0
    send = HTTPAdapter.send

    def timed(*arguments: Any, **options: Any) -> Any:
        nonlocal first_request
        first_request = first_request or time.time()
        return send(*arguments, **options)

    HTTPAdapter.send = timed  # type: ignore[method-assign]
    settings = SettingsResource()
    credentials = CredentialsResource(settings=settings)
    http = HttpResource(settings=settings, credentials=credentials, page_size=order["page_size"])
    defs = build(settings=settings, credentials=credentials, http=http)
    job = defs.resolve_implicit_global_asset_job_def()
    assets = list(defs.resolve_asset_graph().get_all_asset_keys())
    day = f"{order['company']}|{order['first']}"
    with dg.DagsterInstance.get() as instance:
        begun, used = time.perf_counter(), time.process_time()
        job.execute_in_process(instance=instance, partition_key=day, asset_selection=assets)
        seconds, cpu = time.perf_counter() - begun, time.process_time() - used
    last_commit = max(table.history(1)[0]["timestamp"] for table in _tables()) / 1000
    return {"seconds": seconds, "cpu_s": cpu, "from_first_request_to_last_commit_s": last_commit - first_request}


def bookkeeping(order: Order) -> dict[str, Any]:
    """A run of all assets over a window, with their checks, for which nothing is read or stored: Dagster's part."""
    from teei_ingest.defs.resources import IngestResource, StoreResource
    from teei_ingest.defs.run import run as run_of
    from teei_ingest.sync import Request

    company = load_companies(Settings.load()).get(order["company"])
    window = Window(date.fromisoformat(order["first"]), date.fromisoformat(order["last"]))
    done = Outcome({day: Partition(day, window) for day in window.days})
    work = SimpleNamespace(
        company=company, policy=policy_for(company.slug, company.privacy), first_day=window.first, both=lambda *_: done
    )
    nothing = SimpleNamespace(batches=lambda *_, **__: iter(()), counts=lambda *_, **__: {})
    replaced: list[tuple[type, str, Any]] = [
        (IngestResource, "setup_for_execution", lambda *_: None),
        (IngestResource, "ingest", lambda *_: work),
        (StoreResource, "store", nothing),
    ]
    for owner, name, value in replaced:
        setattr(owner, name, value)
    made: list[int] = []
    begun, used = time.perf_counter(), time.process_time()
    result = run_of(Request(company, window, tuple(all_streams())), made.append)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - used
    return {
        "partitions": sum(made),
        "checks": sum(one.checks_passed for one in result.streams.values()),
        "seconds": seconds,
        "cpu_s": cpu,
    }


def _tables() -> list[DeltaTable]:
    """All event tables, with the eyes of a stranger."""
    return [DeltaTable(path.parent) for path in Path(Settings.load().store_uri).glob("*/_delta_log")]


def _both(order: Order) -> tuple[Outcome, Source]:
    settings = Settings.load()
    companies = load_companies(settings)
    company = companies.get(order["company"])
    declared = plan(order["stream"])
    credentials = resolve(settings, companies, company, declared.stream.system)
    system = all_systems()[declared.stream.system]
    if not order["quota"]:
        system = replace(system, quota=None)
    with Source(system, credentials, settings) as source:
        work = Ingest(
            declared,
            company,
            getattr(credentials, system.tenant),
            Places(settings, open_store(settings), Landing(settings), Quarantine(settings)),
            KeyRing.open(settings, company),
            policy_for(company.slug, company.privacy),
            lambda: source,
            run_id="bench",
        )
        window = Window(date.fromisoformat(order["first"]), date.fromisoformat(order["last"]))
        outcome = work.both(window.days)
    for partition in outcome.bad:
        assert partition.error is not None
        raise partition.error
    return outcome, source


def _sum(outcome: Outcome, name: str) -> int:
    return sum(getattr(partition, name) for partition in outcome.good)


MODES: dict[str, Callable[[Order], dict[str, Any]]] = {
    mode.__name__: mode for mode in (ingest, privacy, requests, register, materialized, run, bookkeeping)
}

if __name__ == "__main__":
    os.umask(0o077)
    found = MODES[sys.argv[1]](json.load(sys.stdin))
    print(json.dumps(found))
