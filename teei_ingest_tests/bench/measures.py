"""What is measured, one function each: figures by name, and the details behind them.

Everything is compared with what the sandbox was told to have; a contestant that stores less is an error, not fast.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date, timedelta
from statistics import median
from typing import Any
from urllib.parse import urlencode

import requests

from teei_ingest.sandbox.config import credential
from teei_ingest.sandbox.server import Running, SandboxConfig, running
from teei_ingest.streams import all_streams
from teei_ingest.streams.base import PageNumber, Stream
from teei_ingest.systems import all_systems
from teei_ingest.systems.base import ApiKey, OAuth2, System
from teei_ingest_tests.bench import places
from teei_ingest_tests.bench.places import BenchError

COMPANY = "acme-corp"
DAY = date(2024, 1, 15)
OTHERS = ("dlt_rest_api", "server_alone")
# Ours and the floor take two seconds each, in which the machine's speed may change: so many of both in each round.
SHORT = 3
LATENCY_MS = 150
PAGES = 10
PAGE = 10

Figures = dict[str, float]
Details = dict[str, Any]


def throughput(rounds: int, scale: float) -> tuple[Figures, Details]:
    """Records per second from HTTP to stored rows, in small pages and in large ones."""
    details: Details = {}
    for name in ("benevity_volunteers", "goodera_volunteers"):
        details[name] = _throughput(all_streams()[name], rounds, int(100_000 * scale))
    figures = {
        figure: min(one["ratios"][other] for one in details.values())
        for figure, other in (("vs_dlt_parquet", "dlt_rest_api"), ("vs_floor", "floor"))
    }
    return figures, details


def _throughput(stream: Stream, rounds: int, records: int) -> Details:
    config = _one_day(records, people=5000, bad_ratio=0.01)
    rates: dict[str, list[float]] = defaultdict(list)
    cpu: dict[str, list[float]] = defaultdict(list)
    peaks: dict[str, list[float]] = defaultdict(list)
    with running(config) as sandbox:
        order = _order(stream, sandbox, config)
        pages = _render(stream, sandbox, order)
        for _ in range(rounds):
            for name in (*("ours", "floor") * SHORT, *OTHERS):
                if name == "ours":
                    with places.home(config, sandbox.url) as home:
                        found = _check(places.ours("ingest", _window(stream.name), home))
                else:
                    found = places.contestant(name, order)
                if found["records"] != records:
                    raise BenchError(f"{name} has {found['records']} of {records} records of {stream.name}")
                rates[name].append(records / found["seconds"])
                cpu[name].append(found["cpu_s"] / records * 1e6)
                peaks[name].append(found["peak_mb"])
    first = rates["ours"][::SHORT]
    ratios = {
        "floor": median(ours / floor for ours, floor in zip(rates["ours"], rates["floor"], strict=True)),
        "dlt_rest_api": median(ours / dlt for ours, dlt in zip(first, rates["dlt_rest_api"], strict=True)),
    }
    alone = median(a / b for a, b in zip(rates["server_alone"], rates["floor"][::SHORT], strict=True))
    return {
        "records": records,
        "page_size": math.ceil(records / pages),
        "ratios": ratios,
        "server_alone_vs_floor": alone,
        "records_per_s": {name: median(found) for name, found in rates.items()},
        "cpu_us_per_record": {name: median(found) for name, found in cpu.items()},
        "peak_mb": {name: median(found) for name, found in peaks.items()},
    }


def privacy(rounds: int, scale: float) -> tuple[Figures, Details]:
    """Redaction and the guard within it: events per second, and the share of the time from HTTP to stored rows."""
    details: Details = {}
    records = int(100_000 * scale)
    for name in ("benevity_volunteers", "goodera_volunteers"):
        stream = all_streams()[name]
        config = _one_day(records, people=5000, bad_ratio=0.01)
        found = []
        with running(config) as sandbox:
            _render(stream, sandbox, _order(stream, sandbox, config))
            for _ in range(rounds):
                with places.home(config, sandbox.url) as home:
                    found.append(_check(places.ours("privacy", _window(name), home)))
        details[name] = {
            "records": records,
            "redaction_per_s": median(one["kept"] / one["redaction_s"] for one in found),
            "guard_per_s": median(one["kept"] / one["guard_s"] for one in found),
            "privacy_share": median(one["redaction_s"] / one["seconds"] for one in found),
        }
    figures = {name: min(one[name] for one in details.values()) for name in ("redaction_per_s", "guard_per_s")}
    return figures | {"privacy_share": max(one["privacy_share"] for one in details.values())}, details


def request_count(rounds: int, scale: float) -> tuple[Figures, Details]:
    """Requests for 31 days of each stream, with days before and after them, beside the fewest that there can be."""
    days = 31
    each = 66
    last = DAY + timedelta(days - 1)
    # More people than records: a directory lists nobody twice.
    config = SandboxConfig(
        records=each, spread=0, people=3000, first_day=DAY - timedelta(3), last_day=last + timedelta(3)
    )
    details: Details = {}
    with running(config) as sandbox, places.home(config, sandbox.url) as home:
        found = places.ours("requests", _window("", last, quota=True), home)
        arrived = sum(sum(by.values()) for paths in sandbox.stats().values() for by in paths.values())
    for name, one in found.items():
        _check(one)
        system = all_systems()[all_streams()[name].system]
        if one["records"] != each * days:
            raise BenchError(f"ours has {one['records']} of {each * days} records of {name}")
        bound = max(1, math.ceil(each * days / system.max_page)) + isinstance(system.auth, OAuth2)
        details[name] = {"records": one["records"], "requests": one["requests"], "bound": bound}
    if arrived != sum(one["requests"] for one in found.values()):
        raise BenchError(f"the sandbox saw {arrived} requests")
    made, bound = (sum(one[name] for one in details.values()) for name in ("requests", "bound"))
    return {"requests_ratio": made / bound}, details


def daily_sync(rounds: int, scale: float) -> tuple[Figures, Details]:
    """The cold command that materializes all assets of a day, checks included, in a home without a past."""
    config = SandboxConfig()
    seconds = []
    with running(config) as sandbox:
        for _ in range(rounds):
            with places.home(config, sandbox.url) as home:
                places.ours("register", {"company": COMPANY}, home)
                arguments = ["-m", "teei_ingest.definitions", "--select", "*", "--partition", f"{COMPANY}|{DAY}"]
                begun = time.perf_counter()
                places.command(["dagster", "asset", "materialize", *arguments], home)
                seconds.append(time.perf_counter() - begun)
                made = places.ours("materialized", {}, home)
                wanted = {"assets": 2 * len(all_streams()), "checks": 3 * len(all_streams())}
                if made != wanted:
                    raise BenchError(f"the command made {made} instead of {wanted}")
    return {"daily_sync_s": median(seconds)}, {"seconds": seconds, **wanted}


def latency(rounds: int, scale: float) -> tuple[Figures, Details]:
    """All streams of a day in one run, where each request takes its time."""
    config = _one_day(PAGES * PAGE, latency_ms=LATENCY_MS)
    found = []
    with running(config) as sandbox:
        for _ in range(rounds):
            with places.home(config, sandbox.url) as home:
                places.ours("register", {"company": COMPANY}, home)
                sandbox.reset()
                found.append(places.ours("run", {**_window(""), "page_size": PAGE}, home))
                asked = sum(sum(by.values()) for paths in sandbox.stats().values() for by in paths.values())
                if asked < PAGES * len(all_streams()):
                    raise BenchError(f"the run made {asked} requests only")
    details = {name: median(one[name] for one in found) for name in found[0]}
    details |= {"requests": asked, "one_after_the_other_s": asked * LATENCY_MS / 1000}
    return {"latency_s": details["seconds"]}, details


def memory(rounds: int, scale: float) -> tuple[Figures, Details]:
    """Peak memory of the process that ingests a day of ten thousand records, and of a million."""
    details: Details = {}
    stream = all_streams()["goodera_volunteers"]
    for records in (10_000, int(1_000_000 * scale)):
        config = _one_day(records, people=5000, bad_ratio=0.01)
        with running(config) as sandbox:
            _render(stream, sandbox, _order(stream, sandbox, config))
            found = []
            for _ in range(rounds):
                with places.home(config, sandbox.url) as home:
                    found.append(_check(places.ours("ingest", _window(stream.name), home)))
        details[str(records)] = {name: median(one[name] for one in found) for name in ("peak_mb", "seconds")}
    return {"peak_mb_1m": details[str(records)]["peak_mb"]}, details


def bookkeeping(rounds: int, scale: float) -> tuple[Figures, Details]:
    """What Dagster takes to plan and record a month of all assets with their checks, a materialized partition."""
    from teei_ingest_tests.deployed import on_postgres, postgres

    days = max(1, round(31 * scale))
    window = _window("", DAY + timedelta(days - 1))
    wanted = {"partitions": 2 * days * len(all_streams()), "checks": 3 * days * len(all_streams())}
    found: dict[str, list[Details]] = defaultdict(list)
    for _ in range(rounds):
        for storage in ("sqlite", "postgres"):
            with (
                postgres() if storage == "postgres" else nullcontext() as url,
                places.home(SandboxConfig(), "http://127.0.0.1:1", on_postgres(url) if url else {}) as home,
            ):
                places.ours("register", {"company": COMPANY}, home)
                found[storage].append(places.ours("bookkeeping", window, home))
            if {name: found[storage][-1][name] for name in wanted} != wanted:
                raise BenchError(f"the run recorded {found[storage][-1]} instead of {wanted}")
    details: Details = {
        storage: {
            f"{name}_ms": median(one[source] for one in each) / wanted["partitions"] * 1000
            for name, source in (("wall", "seconds"), ("cpu", "cpu_s"))
        }
        for storage, each in found.items()
    }
    figures = {f"bookkeeping_{storage}_ms": one["wall_ms"] for storage, one in details.items()}
    return figures, details | wanted


MEASURES: dict[str, Callable[[int, float], tuple[Figures, Details]]] = {
    "throughput": throughput,
    "privacy": privacy,
    "requests": request_count,
    "daily": daily_sync,
    "latency": latency,
    "memory": memory,
    "bookkeeping": bookkeeping,
}


def _one_day(records: int, **rest: Any) -> SandboxConfig:
    return SandboxConfig(records=records, spread=0, quota=False, first_day=DAY, last_day=DAY, **rest)


def _window(stream: str, last: date = DAY, *, quota: bool = False) -> dict[str, Any]:
    return {
        "stream": stream,
        "company": COMPANY,
        "first": DAY.isoformat(),
        "last": last.isoformat(),
        "quota": quota,
    }


def _check(found: dict[str, Any]) -> dict[str, Any]:
    if found["stored"] != found["kept"] or found["kept"] + found["quarantined"] != found["records"]:
        raise BenchError(f"records are missing: {found}")
    return found


def _order(stream: Stream, sandbox: Running, config: SandboxConfig) -> dict[str, Any]:
    """What a contestant has to know."""
    system = all_systems()[stream.system]
    assert isinstance(stream.paging, PageNumber) and system.tenant_param
    day = f"{DAY}T00:00:00Z", f"{DAY + timedelta(1)}T00:00:00Z"
    return {
        "url": f"{sandbox.url}/{system.name}{stream.path}",
        "params": {
            system.tenant_param: credential(system, system.tenant, COMPANY),
            **stream.params,
            "since": day[0],
            "until": day[1],
            stream.paging.limit: system.max_page,
        },
        "headers": _authorization(system, sandbox),
        "records": stream.records,
        "more": stream.paging.more.replace("/", "."),
        "each": stream.source_timestamp,
    }


def _authorization(system: System, sandbox: Running) -> dict[str, str]:
    if isinstance(system.auth, ApiKey):
        return {system.auth.header: system.auth.prefix + credential(system, "api_key", COMPANY)}
    form = {name: credential(system, name, COMPANY) for name in system.auth.credentials}
    form |= {"grant_type": "client_credentials", "scope": system.auth.scope}
    with requests.Session() as session:
        session.trust_env = False
        reply = session.post(f"{sandbox.url}/{system.name}{system.auth.token_path}", form, timeout=60)
    return {"Authorization": f"Bearer {reply.json()['access_token']}"}


def _render(stream: Stream, sandbox: Running, order: dict[str, Any]) -> int:
    return sandbox.render_ahead(f"/{stream.system}{stream.path}", urlencode(order["params"]), COMPANY)
