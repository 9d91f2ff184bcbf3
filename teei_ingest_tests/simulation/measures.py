"""Making a home of so many companies and days, and measuring the programs that work in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from teei_ingest.defs.partitions import key, partitions
from teei_ingest.sandbox.server import SandboxConfig, company_id, environment, running
from teei_ingest.settings import Settings, project_root
from teei_ingest.store import open_store
from teei_ingest_tests.dagster_parts import BIN, GraphQL, all_assets, free_port, instance_in, prepare_home, process
from teei_ingest_tests.deployed import on_postgres
from teei_ingest_tests.simulation import history, tables, ui
from teei_ingest_tests.together import eventually

ROOT = project_root()
FOLDER = ROOT / ".teei" / "simulation"
REAL_DAYS = 5  # of the first company, fetched for real before the rest is made of them
LOOK_BACK = 3
TIMES = 3  # that a page asks
AT_A_TIME, SIDE_BY_SIDE = 10, 2  # assets in a request about how they are, and requests: as the UI of Dagster 1.13 asks

Figures = dict[str, float]


class SimulationError(Exception):
    """A program failed."""


@dataclass(frozen=True)
class Size:
    """How many companies, each with how many days, and rows a day and stream in the mean."""

    companies: int
    days: int
    rows_per_day: float

    @property
    def slugs(self) -> list[str]:
        return [f"company-{number:03}" for number in range(self.companies)]


@dataclass(frozen=True)
class Place:
    """A home that was made, and the environment of programs in it; `last` is the last closed day."""

    size: Size
    home: Path
    env: Mapping[str, str]
    last: date

    @property
    def days(self) -> list[date]:
        return [self.last - timedelta(before) for before in reversed(range(self.size.days))]


@contextmanager
def place(size: Size, postgres: str = "") -> Iterator[Place]:
    """A home with nothing in it; its sandbox answers as long as the block lasts."""
    FOLDER.mkdir(parents=True, exist_ok=True, mode=0o700)
    last = datetime.now(UTC).date() - timedelta(1)
    config = SandboxConfig(
        companies={slug: company_id(slug) for slug in size.slugs},
        records=max(1, round(size.rows_per_day)),
        first_day=last - timedelta(2 * REAL_DAYS),
        quota=False,
    )
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=FOLDER, prefix="run-"))) / "home"
        sandbox = stack.enter_context(running(config))
        variables = environment(config, sandbox.url) | {"TEEI_START_DATE": f"{last - timedelta(size.days - 1)}"}
        more = on_postgres(postgres) if postgres else {}
        made = Place(size, home, prepare_home(home, variables, size.slugs, more), last)
        registry = [{"id": ident, "slug": slug, "name": slug} for slug, ident in config.companies.items()]
        (home / "registry.yaml").write_text(yaml.safe_dump({"companies": registry}))
        yield made


def fill(at: Place) -> Figures:
    """Fetch some days of the first company, which then lacks the last one alone, and make the others."""
    pattern = at.size.slugs[0]
    last = at.last - timedelta(1)
    sync = ["teei", "sync", "--company", pattern, "--from", f"{last - timedelta(REAL_DAYS - 1)}", "--to", f"{last}"]
    measured(sync, at)
    settings = Settings.load(dict(at.env))
    begun = time.perf_counter()
    rows = tables.grow(open_store(settings), pattern, at.size.slugs, at.days, at.size.rows_per_day)
    between = time.perf_counter()
    with instance_in(at.home) as instance:
        records = history.grow(instance, partitions(settings), pattern, at.size.slugs, at.days)
    print(
        f"  {rows:,} rows in {between - begun:.0f} s, {records} in {time.perf_counter() - between:.0f} s",
        file=sys.stderr,
    )
    return {"rows": rows, **{f"{table}_rows": count for table, count in records.items()}}


# A process's peak memory begins with that of the process that it was forked from: so a small one starts it.
_STARTER = """
import json, os, subprocess, sys
started = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(started.pid, 0)
with open(sys.argv[1], "w") as file:
    json.dump({"cpu_s": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1024}, file)
sys.exit(os.waitstatus_to_exitcode(status) & 255)
"""


def measured(command: Sequence[str], at: Place, order: Mapping[str, Any] | None = None) -> tuple[Figures, str]:
    """Run a program of this environment in the home; its figures, those of its children included, and its output."""
    program, *rest = command
    usage = at.home.parent / "usage.json"
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _STARTER, str(usage), str(BIN / program), *rest],
        input=json.dumps(order or {}),
        env=at.env,
        cwd=at.home,  # not in the project, which may have a `.env`
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise SimulationError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return {"s": seconds, **json.loads(usage.read_text())}, done.stdout


def child(mode: str, at: Place, order: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], float]:
    """What a mode of `child.py` found, and its peak memory in MB."""
    figures, out = measured(["python", "-m", "teei_ingest_tests.simulation.child", mode], at, order)
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found, figures["peak_mb"]


def night(at: Place) -> dict[str, Any]:
    """The night of one company: its last closed day, and those before in which something may have changed."""
    first, last = f"{at.last - timedelta(LOOK_BACK)}", f"{at.last}"
    found, _ = measured(["teei", "sync", "--company", at.size.slugs[0], "--from", first, "--to", last], at)
    return {"night": found}


def questions(at: Place) -> dict[str, Any]:
    """One company's month, a year of all, and the smallest question that there is."""
    month, year = at.last.replace(day=1) - timedelta(1), at.last - timedelta(364)
    own = f"company = '{at.size.slugs[-1]}' AND day BETWEEN '{month.replace(day=1)}' AND '{month}'"
    asked = {
        "month": f"SELECT stream, count(*), sum(hours_logged) FROM volunteer_events WHERE {own} GROUP BY ALL",
        "year": "SELECT company, date_trunc('month', day) AS m, count(*), sum(hours_logged) FROM volunteer_events "
        f"WHERE day >= '{year}' GROUP BY ALL",
        "current_year": f"SELECT company, sum(amount) FROM current_donation_events WHERE day >= '{year}' GROUP BY ALL",
    }
    found: dict[str, Any] = {"empty_command": measured(["teei", "sql", "SELECT 1"], at)[0]}
    for name, text in asked.items():
        command, _ = measured(["teei", "sql", text, "--format", "json"], at)
        inside, _ = child("sql", at, {"sql": text})
        found[name] = inside | {f"command_{figure}": value for figure, value in command.items()}
    return found


def pages(at: Place) -> dict[str, Any]:
    """What the pages of Dagster's UI ask, several times each, of a webserver of its own."""
    whole = {"path": [history.WHOLE]}
    everything = [{"path": [asset]} for asset in all_assets()]
    events = {"limit": 100, "eventTypeSelectors": ["MATERIALIZATION", "FAILED_TO_MATERIALIZE", "OBSERVATION"]}
    asked: dict[str, tuple[str, dict[str, Any]]] = {
        "catalog": ("AssetCatalogTableQuery", {"limit": 1000}),
        "some_status": ("AssetGraphLiveQuery", {"assetKeys": everything[:AT_A_TIME]}),
        "health": ("AssetHealthQuery", {"assetKeys": everything}),
        "asset": ("AssetViewDefinitionQuery", {"assetKey": whole}),
        "asset_status": ("AssetGraphLiveQuery", {"assetKeys": [whole]}),
        "asset_events": ("RecentAssetEventsQuery", {"assetKey": whole, **events}),
        "partitions": ("PartitionHealthQuery", {"assetKey": whole}),
        "partition": (
            "AssetPartitionDetailQuery",
            {"assetKey": whole, "partitionKey": key(at.size.slugs[-1], at.last)},
        ),
        "checks": ("AssetChecksQuery", {"assetKey": whole}),
        "check_partitions": (
            "AssetCheckPartitionHealthQuery",
            {"assetKey": whole, "checkName": "no_personal_data"},
        ),
        "runs": ("RunsFeedQuery", {"limit": 30, "view": "RUNS"}),
    }
    found: dict[str, Any] = {}
    ask = GraphQL(free_port())
    command = [
        str(BIN / "dagster-webserver"),
        "-h",
        "127.0.0.1",
        "-p",
        str(ask.port),
        "-w",
        str(ROOT / "workspace.yaml"),
    ]
    log = at.home.parent / "webserver.log"
    with process(command, log, env=at.env) as server:
        begun = time.perf_counter()
        eventually(ask.is_up, "the webserver answers")
        found["start"] = {"s": time.perf_counter() - begun}
        for name, (query, variables) in asked.items():
            text, seconds = ui.query(query), []
            used = _cpu_s(server.pid)
            for _ in range(TIMES):
                begun = time.perf_counter()
                ask(text, **variables)
                seconds.append(time.perf_counter() - begun)
            cpu = (_cpu_s(server.pid) - used) / TIMES
            found[name] = {"first_s": seconds[0], "s": min(seconds), "cpu_s": cpu}
        found["graph"] = {"s": _all_status(ask, everything)}
        found["peak_mb"] = max(map(_peak_mb, _family(server.pid)))
    return found


def _all_status(ask: GraphQL, assets: Sequence[Mapping[str, Any]]) -> float:
    """Seconds until the UI knows how all assets are."""
    text = ui.query("AssetGraphLiveQuery")
    parts = [assets[first : first + AT_A_TIME] for first in range(0, len(assets), AT_A_TIME)]
    begun = time.perf_counter()
    with ThreadPoolExecutor(SIDE_BY_SIDE) as asking:
        list(asking.map(lambda part: ask(text, assetKeys=part), parts))
    return time.perf_counter() - begun


def _family(pid: int) -> dict[int, list[str]]:
    """A process and what it started, each with the fields of proc_pid_stat(5) from its parent on."""
    everybody = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            everybody[int(path.parent.name)] = path.read_text().rpartition(")")[2].split()[1:]
    found = {pid: everybody[pid]}
    for _ in range(3):  # generations
        found |= {one: fields for one, fields in everybody.items() if int(fields[0]) in found}
    return found


def _cpu_s(pid: int) -> float:
    ticks = sum(int(fields[10]) + int(fields[11]) for fields in _family(pid).values())
    return ticks / os.sysconf("SC_CLK_TCK")


def _peak_mb(pid: int) -> float:
    with suppress(OSError):  # it has ended
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return 0


def ticks(at: Place) -> dict[str, Any]:
    """Every schedule and sensor."""
    found, peak = child("ticks", at, {"last": f"{at.last}"})
    return found | {"peak_mb": peak}


def upkeep(at: Place) -> dict[str, Any]:
    """Maintenance and retention."""
    found, peak = child("upkeep", at)
    return found | {"peak_mb": peak}


def places(at: Place) -> dict[str, Any]:
    """Files and bytes below the home, by what they are."""
    found: dict[str, Any] = {}
    for name, folder, pattern in (
        ("data_files", "events", "*/company=*/*.parquet"),
        ("log_files", "events", "*/_delta_log/*"),
        ("dagster", "dagster", "**/*"),
        ("all", ".", "**/*"),
    ):
        sizes = [path.stat().st_size for path in (at.home / folder).glob(pattern) if path.is_file()]
        found[name] = {"files": len(sizes), "bytes": sum(sizes)}
    return found


MEASURES = {"night": night, "questions": questions, "places": places, "pages": pages, "ticks": ticks, "upkeep": upkeep}


def measure(size: Size, only: Sequence[str] = (), postgres: str = "") -> dict[str, Any]:
    """Everything about one size."""
    with place(size, postgres) as at:
        found: dict[str, Any] = {"filled": fill(at)}
        for name in only or MEASURES:
            print(f"measuring {name} …", file=sys.stderr, flush=True)
            found[name] = MEASURES[name](at)
            print(json.dumps(found[name]), file=sys.stderr, flush=True)
        return found
