"""The table that `make bench` prints, and `docs/benchmarks.json`."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from teei_ingest_tests.bench.measures import Details, Figures
from teei_ingest_tests.bench.places import PACKAGES, ROOT

FILE = ROOT / "docs" / "benchmarks.json"
# Figure: what it is, whether more is better, what is to be reached.
GOALS: dict[str, tuple[str, bool, float]] = {
    "vs_dlt_parquet": ("records/s, times dlt", True, 4.0),
    "vs_floor": ("records/s, times the floor", True, 0.9),
    "privacy_share": ("redaction, share of HTTP → stored rows", False, 0.25),
    "latency_s": ("12 streams × 10 pages at 150 ms, seconds", False, 6.0),
    "requests_ratio": ("requests, times the bound, all streams", False, 1.05),
    "daily_sync_s": ("cold command, 24 assets with checks, seconds", False, 8.0),
    "bookkeeping_sqlite_ms": ("Dagster's record of a partition, SQLite, ms", False, 35.0),
    "bookkeeping_postgres_ms": ("Dagster's record of a partition, Postgres, ms", False, 4.0),
    "peak_mb_1m": ("peak memory at a million records, MB", False, 600.0),
}
_OURS = ("dagster", "deltalake", "pyarrow", "msgspec", "pydantic", "requests")


def table(figures: Figures, details: dict[str, Details]) -> str:
    """Figures with their goals, then what is behind them."""
    lines = [f"{'':44} {'measured':>9} {'goal':>8}"]
    for name, (title, more, goal) in GOALS.items():
        if name in figures:
            reached = figures[name] >= goal if more else figures[name] <= goal
            sign = "≥" if more else "≤"
            lines.append(f"{title:44} {figures[name]:9.2f} {sign + f' {goal:g}':>8}  {'' if reached else 'missed'}")
    for stream, one in details.get("throughput", {}).items():
        lines += ["", f"{stream}, {one['records']:,} records in pages of {one['page_size']}"]
        lines.append(f"  {'':14} {'records/s':>10} {'× floor':>8} {'CPU µs':>8} {'peak MB':>8}")
        for name, rate in one["records_per_s"].items():
            share = rate / one["records_per_s"]["floor"]
            cpu, peak = one["cpu_us_per_record"][name], one["peak_mb"][name]
            lines.append(f"  {name:14} {rate:10,.0f} {share:8.2f} {cpu:8.1f} {peak:8.0f}")
        if one["server_alone_vs_floor"] < 3:
            lines.append("  the server alone is less than 3 × the floor: these ratios are too near to 1")
    for stream, one in details.get("privacy", {}).items():
        lines += [
            "",
            f"{stream}, {one['records']:,} records, one process: redaction {one['redaction_per_s']:,.0f} events/s, "
            f"the guard in it {one['guard_per_s']:,.0f} events/s, {one['privacy_share']:.0%} of the whole",
        ]
    if found := details.get("requests"):
        lines += ["", f"{'requests for 31 days':24} {'records':>8} {'made':>6} {'bound':>6}"]
        lines += [f"  {n:22} {one['records']:8,} {one['requests']:6} {one['bound']:6}" for n, one in found.items()]
    if found := details.get("latency"):
        lines += [
            "",
            f"{found['requests']} requests one after the other: {found['one_after_the_other_s']:.1f} s; "
            f"from the first request to the last commit {found['from_first_request_to_last_commit_s']:.2f} s, "
            f"the whole run {found['seconds']:.2f} s",
        ]
    if found := details.get("bookkeeping"):
        lines += ["", f"a run that records {found['partitions']} partitions and {found['checks']} checks, a partition:"]
        lines += [
            f"  {storage:10} {found[storage]['wall_ms']:5.1f} ms, CPU {found[storage]['cpu_ms']:.1f} ms"
            for storage in ("sqlite", "postgres")
        ]
    if found := details.get("memory"):
        lines.append("")
        lines += [
            f"{int(records):9,} records: {one['peak_mb']:.0f} MB, {one['seconds']:.1f} s"
            for records, one in found.items()
        ]
    return "\n".join(lines)


def write(figures: Figures, details: dict[str, Details]) -> Path:
    """Write the file; its path below the project's folder. Ratios travel, the raw medians are this machine's."""
    content = {
        **{name: rounded(figures[name]) for name in GOALS},
        "details": rounded(details),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system()},
        "versions": {name: version(name) for name in _OURS} | dict(package.split("==") for package in PACKAGES),
    }
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(content, indent=2) + "\n")
    return FILE.relative_to(ROOT)


def rounded(value: Any) -> Any:
    """Three significant digits and no false ones."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    if isinstance(value, float):
        return round(value) if value >= 100 else float(f"{value:.3g}")
    return value
