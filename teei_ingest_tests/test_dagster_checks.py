"""The checks look at what is at rest: whatever a row became behind the writer's back is found, and never quoted."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from dagster._core.asset_graph_view.serializable_entity_subset import SerializableEntitySubset
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecordStatus,
    AssetCheckExecutionResolvedStatus,
    AssetCheckPartitionInfo,
)
from dagster_shared.serdes import serialize_value
from deltalake import DeltaTable

from teei_ingest.contracts.base import Data
from teei_ingest.defs import check_states
from teei_ingest.defs.build import build
from teei_ingest.defs.partitions import RANGE_END, RANGE_START
from teei_ingest.defs.resources import SettingsResource, StoreResource
from teei_ingest.sandbox.server import SandboxConfig, environment, running
from teei_ingest.store.tables import Store
from teei_ingest_tests.dagster_parts import ROOT, check_statuses, dagster_home, days, keys
from teei_ingest_tests.running import Home

CONFIG = SandboxConfig()
FIRST = date(2024, 1, 15)
STREAM = "benevity_volunteers"
AUDITS = {"contract": STREAM, "no_personal_data": f"{STREAM}_events"}
CHECKS = {**AUDITS, "quarantine": STREAM}

Change = Callable[[DeltaTable, str], Any]


def put(column: str, value: str) -> Change:
    """Writes SQL's `value` into a column of the row that a predicate names."""
    return lambda table, row: table.update(updates={column: value}, predicate=row)


# What happens to one row of a day, the check that finds it, and the rule that it names.
CHANGES: list[tuple[Change, str, str]] = [
    (put("activity_name", "'Ask kari.nordmann@acme.example'"), "no_personal_data", "activityName: identifier"),
    (put("nonprofit_name", "'Call +47 912 34 567'"), "no_personal_data", "nonprofitName: identifier"),
    (put("tags", "['winter', 'kari.nordmann@acme.example']"), "no_personal_data", "tags: identifier"),
    (put("user_id", "'kari.nordmann'"), "no_personal_data", "userId: pseudonym"),
    (put("source_id", "'kari.nordmann@acme.example'"), "no_personal_data", "sourceId: identifier"),
    (put("activity_description", "'with kari.nordmann'"), "no_personal_data", "activityDescription: removed"),
    (put("activity_type", "'kari.nordmann'"), "contract", "activityType: enum"),
    (put("hours_logged", "-1"), "contract", "hoursLogged: minimum"),
    (put("hours_logged", "NULL"), "contract", "hoursLogged: required"),
    (put("source_timestamp", "source_timestamp - interval '3 days'"), "contract", "sourceTimestamp: utc_day"),
    (lambda table, row: table.delete(row), "contract", "rows: stored = kept + carried"),
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(CONFIG) as started:
        yield started.url


@pytest.fixture
def place(home: Callable[..., Home], url: str) -> Home:
    return home(CONFIG.companies, environment(CONFIG, url))


def run(
    place: Home, partition_keys: list[str], changes: Mapping[date, Change] | None = None
) -> tuple[dg.Definitions, dg.ExecuteInProcessResult]:
    """Materialize both assets over a range; after the write each change happens to one row of its day."""

    class Meddled(Store):
        def replace(
            self,
            contract: type[Data],
            stream: str,
            company: str,
            days: Any,
            rows: Callable[[], pa.RecordBatchReader],
        ) -> int:
            written = super().replace(contract, stream, company, days, rows)
            for day, change in (changes or {}).items():
                row = self.rows(contract, stream=stream, company=company, days=[day])["event_id"][0]
                change(DeltaTable(f"{self.uri}/{contract.table}"), f"event_id = '{row}'")
            return written

    class MeddledResource(StoreResource):
        @cached_property
        def store(self) -> Store:
            made = Meddled(place.settings.store_uri, sandbox=False)
            made.prepare()
            return made

    store = MeddledResource(settings=SettingsResource(overrides=place.environ))
    definitions = build(place.environ, store=store)
    result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=place.instance,
        asset_selection=[dg.AssetKey(asset) for asset in AUDITS.values()],
        tags={RANGE_START: partition_keys[0], RANGE_END: partition_keys[-1]},
    )
    return definitions, result


def evaluations(result: dg.ExecuteInProcessResult) -> dict[tuple[str, str], dg.AssetCheckEvaluation]:
    """By check and partition; more than one of a pair is an error."""
    kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    found = [event.asset_check_evaluation_data for event in result.all_events if event.event_type is kind]
    by_pair = {(each.check_name, str(each.partition)): each for each in found}
    assert len(by_pair) == len(found)
    return by_pair


def test_every_partition_is_evaluated_and_bound_to_its_materialization(place: Home) -> None:
    wanted = keys("acme-corp", days(FIRST, 3))
    definitions, result = run(place, wanted)
    found = evaluations(result)
    assert set(found) == {(check, each) for check in CHECKS for each in wanted}
    for check, asset in CHECKS.items():
        statuses = check_statuses(place.instance, definitions, asset, check, wanted)
        assert statuses == dict.fromkeys(wanted, "SUCCEEDED")
        ids = place.instance.event_log_storage.get_latest_storage_id_by_partition(
            dg.AssetKey(asset), dg.DagsterEventType.ASSET_MATERIALIZATION
        )
        for each in wanted:
            evaluation = found[check, each]
            assert evaluation.asset_key == dg.AssetKey(asset)
            target = evaluation.target_materialization_data
            assert target is not None
            assert (target.storage_id, target.run_id) == (ids[each], result.run_id)
            if check not in AUDITS:
                assert evaluation.metadata["quarantined"].value == 0
                continue
            rules = evaluation.metadata["rules"].value
            assert isinstance(rules, str)
            assert {"contract": "required", "no_personal_data": "identifier"}[check] in rules.split(", ")
            figures = place.metadata(result, f"{STREAM}_events")[each]
            assert evaluation.metadata["checked"].value == figures["dagster/row_count"] > 0


def test_what_happened_behind_the_writers_back_is_found(place: Home) -> None:
    over = days(FIRST, len(CHANGES) + 1)  # nothing happens on the last day
    wanted = keys("acme-corp", over)
    changes = {day: change for day, (change, _, _) in zip(over, CHANGES, strict=False)}
    definitions, result = run(place, wanted, changes)
    assert result.success
    found = evaluations(result)
    broken = {key: evaluation for key, evaluation in found.items() if not evaluation.passed}
    rules = {(check, each): rule for each, (_, check, rule) in zip(wanted, CHANGES, strict=False)}
    assert {key: evaluation.metadata["breaches"].value for key, evaluation in broken.items()} == {
        key: {rule: 1} for key, rule in rules.items()
    }
    for (check, each), evaluation in broken.items():
        assert evaluation.description == f"{each} breaks {rules[check, each]} (1 rows)"
    for check, asset in CHECKS.items():
        assert check_statuses(place.instance, definitions, asset, check, wanted) == {
            each: "FAILED" if (check, each) in rules else "SUCCEEDED" for each in wanted
        }
    log = " ".join(serialize_value(entry) for entry in place.instance.all_logs(result.run_id))
    assert "breaks activityName: identifier" in log
    for value in ("kari.nordmann", "912 34 567"):
        assert value not in log


def test_materializing_again_mends_it(place: Home) -> None:
    wanted = keys("acme-corp", days(FIRST, 1))
    definitions, _ = run(place, wanted, {FIRST: CHANGES[0][0]})
    asset, check = f"{STREAM}_events", "no_personal_data"
    assert check_statuses(place.instance, definitions, asset, check, wanted) == {wanted[0]: "FAILED"}
    definitions, _ = run(place, wanted)
    assert check_statuses(place.instance, definitions, asset, check, wanted) == {wanted[0]: "SUCCEEDED"}


# --- how many of them stand -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_checks_stand_as_dagster_says_when_it_looks_one_by_one(seed: int) -> None:
    chance, own = random.Random(seed), check_states._one_by_one
    dimensions = {"company": dg.StaticPartitionsDefinition(["a", "b"]), "day": dg.DailyPartitionsDefinition(str(FIRST))}
    partitions_def = dg.MultiPartitionsDefinition(dimensions)
    check = dg.AssetCheckKey(dg.AssetKey(STREAM), "contract")
    statuses = [*AssetCheckExecutionResolvedStatus]

    def told(partition: str | None) -> AssetCheckPartitionInfo:
        return AssetCheckPartitionInfo(
            check_key=check,
            partition_key=partition,
            latest_execution_status=chance.choice([*AssetCheckExecutionRecordStatus]),
            latest_planned_run_id=chance.choice("xyz"),
            latest_check_event_storage_id=1,
            latest_materialization_storage_id=chance.choice([None, 1, 2]),
            latest_target_materialization_storage_id=1,
        )

    there = keys("a", days(FIRST, 15)) + keys("b", days(FIRST, 15))
    nowhere = [*keys("c", days(FIRST, 2)), *keys("a", days(date(2023, 1, 1), 2)), "a", "a|b|c", None]
    subsets: Any = {status: SerializableEntitySubset.empty(check, partitions_def) for status in statuses}
    runs: Any = {}
    for _ in range(2):  # once from nothing, once on what was known before
        infos = [told(partition) for partition in [*chance.sample(there, 20), *nowhere]]
        wanted = own(check, partitions_def, subsets, runs, infos)
        assert check_states.at_once(check, partitions_def, subsets, runs, infos) == wanted
        subsets, runs = wanted
    assert not any(subset.is_empty for status, subset in subsets.items() if status.name in ("SUCCEEDED", "FAILED"))


def test_the_projects_instance_tells_so(tmp_path: Path) -> None:
    script = f"""
import dagster as dg
with dg.DagsterInstance.from_config({str(dagster_home(tmp_path / "home"))!r}):
    from dagster._core.storage.asset_check_state import _process_partition_records as used
print(used.__module__)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == f"{check_states.__name__}\n"
