"""The table of a simulation, in the terminal and in `docs/maintenance.md`, and `docs/simulation.json`.

Two sizes stand side by side: what a figure grew by is to be compared with what the data grew by.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, NamedTuple

from teei_ingest_tests.bench.report import rounded
from teei_ingest_tests.simulation.measures import ROOT, Size

FILE = ROOT / "docs" / "simulation.json"
PAGE = ROOT / "docs" / "maintenance.md"
_TABLE = re.compile(r"\| At .+? days \|.*?(?=\n\n)", re.DOTALL)
_VERSIONS = ("dagster", "deltalake", "pyarrow", "duckdb")


class Figure(NamedTuple):
    """Where a figure is among the details, what it is, its unit, and what it may be at most."""

    path: str
    title: str
    unit: str = "s"
    goal: float | None = None


FIGURES = (
    Figure("filled/rows", "rows in the event tables", "rows"),
    Figure("places/data_files", "files of the newest versions", "files"),
    Figure("places/data_files", "bytes of these", "bytes"),
    Figure("places/log_files", "files of the tables' logs", "files"),
    Figure("places/dagster", "Dagster's database, as far as it was made", "bytes"),
    Figure("night/night/s", "a company's night, the whole command"),
    Figure("night/night/peak_mb", "its peak memory", "MB"),
    Figure("questions/empty_command/s", '`teei sql "SELECT 1"`, the whole command'),
    Figure("questions/month/s", "a company's month by `teei sql`, without the start of the command", goal=0.3),
    Figure("questions/year/s", "a year of all companies"),
    Figure("questions/current_year/s", "a year of all companies, the newest versions alone"),
    Figure("questions/current_year/command_peak_mb", "its peak memory", "MB"),
    Figure("pages/catalog/s", "the UI's catalog", goal=1),
    Figure("pages/some_status/s", "how ten assets are (a request of the graph)", goal=1),
    Figure("pages/graph/s", "how all 24 are, in such requests"),
    Figure("pages/asset/s", "an asset's page", goal=1),
    Figure("pages/asset_status/s", "how it is", goal=1),
    Figure("pages/asset_events/s", "its last 100 events", goal=1),
    Figure("pages/partitions/s", "all its partitions", goal=1),
    Figure("pages/partition/s", "one of them", goal=1),
    Figure("pages/checks/s", "its checks", goal=1),
    Figure("pages/check_partitions/s", "all partitions of a check", goal=1),
    Figure("pages/runs/s", "the runs", goal=1),
    Figure("pages/peak_mb", "the webserver's peak memory, or that of its code location", "MB"),
    Figure("ticks/nightly/s", "tick of `nightly`"),
    Figure("ticks/stale/s", "tick of `stale`"),
    Figure("ticks/companies_registry/s", "tick of `companies_registry`"),
    Figure("ticks/landings/s", "tick of `landings`"),
    Figure("ticks/webhook_deliveries/s", "tick of `webhook_deliveries`"),
    Figure("ticks/alerts/s", "tick of `alerts`"),
    Figure("ticks/peak_mb", "peak memory of all ticks", "MB"),
    Figure("upkeep/tidy/s", "a night's tidying, with nothing to do"),
    Figure("upkeep/size_report/s", "the size report"),
    Figure("upkeep/retention/s", "retention's look at Dagster's record"),
    Figure("upkeep/peak_mb", "peak memory of these", "MB"),
)


def value(figure: Figure, details: Mapping[str, Any]) -> float | None:
    """The figure's value; None if it was not measured."""
    found = _at(figure.path, details)
    return found[figure.unit] if isinstance(found, dict) else found


def _at(path: str, details: Mapping[str, Any]) -> Any:
    found: Any = details
    for part in path.split("/"):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def table(sizes: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row for each figure, a column for each size."""
    heads = [f"{one['companies']:,} × {one['days']:,}" for one in sizes]
    lines = [f"| At companies × days | {' | '.join(heads)} | goal |", f"| --- | {'---: | ' * len(heads)}---: |"]
    lines += [f"| {' | '.join(cells)} |" for cells in _rows([one["figures"] for one in sizes])]
    return "\n".join(lines)


def _rows(details: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    for figure in FIGURES:
        values = [value(figure, one) for one in details]
        if any(one is not None for one in values):
            goal = "" if figure.goal is None else f"≤ {figure.goal:g} s"
            cpu = [
                _at(f"{figure.path.removesuffix('/s')}/cpu_s", one) if figure.path.endswith("/s") else None
                for one in details
            ]
            shown = [_shown(one, figure.unit, used) for one, used in zip(values, cpu, strict=True)]
            yield [figure.title, *shown, goal]


def _shown(number: float | None, unit: str, cpu: float | None) -> str:
    if number is None:
        return ""
    if cpu is not None:
        return f"{number:.2f} s ({cpu:.2f} s)"
    if unit == "bytes":
        return f"{number / 1e6:,.0f} MB"
    return f"{number:,.0f}" if unit in ("rows", "files") else f"{number:,.0f} MB" if unit == "MB" else f"{number:.2f} s"


def missed(details: Mapping[str, Any]) -> list[str]:
    """The figures that are over their goal."""
    return [
        f"{figure.title}: {found:.2f} s, the goal is {figure.goal:g} s"
        for figure in FIGURES
        if figure.goal is not None and (found := value(figure, details)) is not None and found > figure.goal
    ]


def content(size: Size, found: Mapping[str, Any], storage: str) -> dict[str, Any]:
    """What the file has of a size. `load` is of five minutes: where it is beyond `cores`, go by the CPU times."""
    return {
        **asdict(size),
        "storage": storage,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            "cores": os.cpu_count(),
            "load": rounded(os.getloadavg()[1]),
            "python": platform.python_version(),
            "system": platform.system(),
        },
        "versions": {name: version(name) for name in _VERSIONS},
        "figures": rounded(dict(found)),
    }


def write(made: Mapping[str, Any]) -> None:
    """Put a size among those of the file, the smallest first, and make the table in its page anew."""
    before = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else []
    others = [one for one in before if (one["companies"], one["days"]) != (made["companies"], made["days"])]
    sizes = sorted([*others, made], key=lambda one: one["companies"] * one["days"])
    FILE.write_text(json.dumps(sizes, indent=2) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_TABLE.sub(lambda _: table(sizes), page, count=1), encoding="utf-8")
