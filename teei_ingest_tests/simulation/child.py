"""What is measured within the product: `python -m teei_ingest_tests.simulation.child MODE`, its order on standard
input, what it found as JSON on standard output. Times are seconds, without the imports.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

Order = dict[str, Any]


def _timed(work: Callable[[], Any], times: int = 1) -> tuple[dict[str, float], Any]:
    """Seconds of the first and of the quickest time, CPU seconds of the quickest, and what came of the last."""
    taken: list[tuple[float, float]] = []
    result = None
    for _ in range(times):
        begun, used = time.perf_counter(), time.process_time()
        result = work()
        taken.append((time.perf_counter() - begun, time.process_time() - used))
    return {"first_s": taken[0][0], "s": min(taken)[0], "cpu_s": min(cpu for _, cpu in taken)}, result


def sql(order: Order) -> dict[str, Any]:
    """A question, asked as `teei sql` does, several times in one process."""
    from teei_ingest.settings import Settings
    from teei_ingest.store import open_store
    from teei_ingest.store.sql import query

    settings = Settings.load()
    figures, (_, rows) = _timed(lambda: query(open_store(settings), order["sql"]), 3)
    return figures | {"rows": len(rows)}


def ticks(order: Order) -> dict[str, Any]:
    """Every schedule and sensor, evaluated twice, when the night of the day `last` is over: what the daemon's code
    location does at a tick.
    """
    import dagster as dg

    from teei_ingest.defs.build import build
    from teei_ingest.defs.schedules import NIGHT
    from teei_ingest.defs.stale import stale
    from teei_ingest.settings import Settings

    found: dict[str, Any] = {}
    night = datetime.combine(date.fromisoformat(order["last"]) + timedelta(1), NIGHT, UTC)
    late = stale(Settings.load(), lambda: night + timedelta(hours=2))  # with the clock, it would wait until 03:00
    with dg.DagsterInstance.get() as instance:
        repository = build().get_repository_def()
        resources = {"settings": repository.get_top_level_resources()["settings"]}
        for schedule in repository.schedule_defs:

            def tick(one: dg.ScheduleDefinition = schedule) -> Any:
                with dg.build_schedule_context(
                    instance, scheduled_execution_time=night, repository_def=repository, resources=resources
                ) as context:
                    return one.evaluate_tick(context)

            found[schedule.name] = _told(tick)
        for sensor in repository.sensor_defs:

            def look(one: dg.SensorDefinition = late if sensor.name == late.name else sensor) -> Any:
                with dg.build_sensor_context(instance, repository_def=repository, resources=resources) as context:
                    return one.evaluate_tick(context)

            found[sensor.name] = _told(look)
    return found


def _told(tick: Callable[[], Any]) -> dict[str, Any]:
    figures, said = _timed(tick, 2)
    return figures | {"requests": len(said.run_requests or [])}


def upkeep(order: Order) -> dict[str, Any]:
    """What a night's maintenance does, and what retention looks through."""
    import dagster as dg

    from teei_ingest.defs.maintenance import database_bytes
    from teei_ingest.defs.retention import forget_runs
    from teei_ingest.metrics.sizes import report
    from teei_ingest.settings import Settings
    from teei_ingest.store import open_store
    from teei_ingest.store.tables import contracts

    settings = Settings.load()
    store = open_store(settings)
    found: dict[str, Any] = {}
    with dg.DagsterInstance.get() as instance:
        database = database_bytes(instance, settings.dagster_home)
        for name, work in {
            "tidy": lambda: [store.tidy(contract, settings.vacuum_retention_h) for contract in contracts()],
            "size_report": lambda: report(settings, store, database),
            "retention": lambda: forget_runs(
                instance, datetime.now(UTC) - timedelta(settings.run_log_ttl_d), dry_run=True
            ),
        }.items():
            found[name], _ = _timed(work)
    return found | {"database_bytes": database}


MODES: dict[str, Callable[[Order], dict[str, Any]]] = {"sql": sql, "ticks": ticks, "upkeep": upkeep}

if __name__ == "__main__":
    print(json.dumps(MODES[sys.argv[1]](json.load(sys.stdin))))
