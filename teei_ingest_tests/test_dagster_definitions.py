"""What Dagster's catalog shows, against streams, systems and contracts."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from teei_ingest.contracts.base import leaves
from teei_ingest.contracts.fields import DataClass
from teei_ingest.contracts.stored import arrow_schema
from teei_ingest.defs.build import build
from teei_ingest.defs.jobs import EVERYTHING
from teei_ingest.streams import all_streams
from teei_ingest.streams.base import Stream
from teei_ingest.systems import all_systems
from teei_ingest_tests.dagster_parts import OF_NO_PARTITION, all_assets

STREAMS = list(all_streams().values())
CLASSES = {each.value for each in DataClass}


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return build({"TEEI_STORE_URI": "s3://bucket/events"})


@pytest.fixture(scope="module")
def specs(definitions: dg.Definitions) -> dict[str, dg.AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}


def test_each_stream_is_two_assets(specs: dict[str, dg.AssetSpec]) -> None:
    assert len(all_assets()) == 24
    assert sorted(specs) == sorted([*all_assets(), *OF_NO_PARTITION])
    for stream in STREAMS:
        raw, events = specs[stream.name], specs[f"{stream.name}_events"]
        assert not list(raw.deps)
        assert [dep.asset_key for dep in events.deps] == [dg.AssetKey(stream.name)]


def test_each_asset_is_filled_in(specs: dict[str, dg.AssetSpec]) -> None:
    for stream in STREAMS:
        for name in (stream.name, stream.events):
            spec = specs[name]
            assert spec.group_name == stream.system
            assert spec.description and len(spec.description) > 40
            assert spec.owners == ["team:csr-data"]
            assert {"system": stream.system, "contract": stream.contract.__name__}.items() <= spec.tags.items()
            assert spec.tags["event_type"] == stream.contract.event_type
            assert spec.code_version == "v1"
        assert {"rest", "json"} <= specs[stream.name].kinds
        assert "deltalake" in specs[stream.events].kinds
        assert stream.path in (specs[stream.name].description or "")


def test_code_references_are_the_streams_file_and_the_common_code(specs: dict[str, dg.AssetSpec]) -> None:
    for stream in STREAMS:
        for name in (stream.name, stream.events):
            references = specs[name].metadata["dagster/code_references"].code_references
            files = [Path(reference.file_path) for reference in references]
            assert [file.parts[-3:] for file in files] == [
                ("teei_ingest", "streams", f"{stream.name}.py"),
                ("teei_ingest", "defs", "assets.py"),
            ]
            assert all(file.is_file() for file in files)


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
def test_column_schemas_are_the_contract_with_its_classes(stream: Stream, specs: dict[str, dg.AssetSpec]) -> None:
    raw = {column.name: column for column in specs[stream.name].metadata["dagster/column_schema"].columns}
    assert list(raw) == [leaf.name for leaf in leaves(stream.contract)]
    for leaf in leaves(stream.contract):
        column = raw[leaf.name]
        assert (leaf.info.description or "").rstrip(".") in (column.description or "")
        assert (column.description or "").endswith(f"({leaf.cls.value})")
        assert column.tags == {"personal-data": leaf.cls.value}
        assert column.constraints.nullable is not leaf.required

    stored = specs[stream.events].metadata["dagster/column_schema"].columns
    schema = arrow_schema(stream.contract)
    assert [column.name for column in stored] == schema.names
    for column in stored:
        assert column.type == str(schema.field(column.name).type)
        assert any(f"({name})" in column.description for name in CLASSES), column.name


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
def test_lineage_goes_from_stream_to_events(stream: Stream, specs: dict[str, dg.AssetSpec]) -> None:
    lineage = specs[stream.events].metadata["dagster/column_lineage"].deps_by_column
    fields = {column.name for column in specs[stream.name].metadata["dagster/column_schema"].columns}
    columns = set(arrow_schema(stream.contract).names)
    assert set(lineage) <= columns
    used = set()
    for deps in lineage.values():
        assert {dep.asset_key for dep in deps} == {dg.AssetKey(stream.name)}
        used |= {dep.column_name for dep in deps}
    assert used == fields
    assert {dep.column_name for dep in lineage["event_id"]} == {"sourceId", "sourceTimestamp"}


def test_events_say_where_they_are(specs: dict[str, dg.AssetSpec]) -> None:
    for stream in STREAMS:
        metadata = specs[stream.events].metadata
        assert metadata["dagster/uri"] == f"s3://bucket/events/{stream.contract.table}"
        assert metadata["dagster/table_name"] == stream.contract.table


def test_three_checks_for_each_stream(definitions: dg.Definitions) -> None:
    found = {(key.asset_key.to_user_string(), key.name) for key in definitions.resolve_asset_graph().asset_check_keys}
    assert found == {
        (asset, check)
        for stream in STREAMS
        for asset, check in (
            (stream.name, "contract"),
            (stream.name, "quarantine"),
            (stream.events, "no_personal_data"),
        )
    }


def test_a_run_is_one_company_and_a_range(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    for name in all_assets():
        node = graph.get(dg.AssetKey(name))
        assert isinstance(node.partitions_def, dg.MultiPartitionsDefinition)
        assert node.partitions_def.partition_dimension_names == ["company", "day"]
        assert node.backfill_policy == dg.BackfillPolicy.single_run()


def test_a_job_for_each_system_and_one_for_everything(definitions: dg.Definitions) -> None:
    jobs = {job.name for job in definitions.resolve_all_job_defs()} - {"__ASSET_JOB"}
    assert jobs == {EVERYTHING, *OF_NO_PARTITION.values(), *all_systems()}
    for name in jobs - set(OF_NO_PARTITION.values()):
        selected = definitions.resolve_job_def(name).asset_layer.executable_asset_keys
        assert {key.to_user_string() for key in selected} == {
            asset for stream in STREAMS if name in (EVERYTHING, stream.system) for asset in (stream.name, stream.events)
        }


def test_the_registry_sensor_is_on_by_default(definitions: dg.Definitions) -> None:
    sensor = definitions.get_unresolved_sensor_def("companies_registry")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING


@pytest.mark.parametrize(
    ("name", "group", "schedule"),
    [
        ("retention", "privacy", "retention_daily"),
        ("directory_presence", "directories", "directory_presence_weekly"),
        ("tidied_tables", "maintenance", "maintenance_daily"),
        ("size_report", "maintenance", "maintenance_daily"),
    ],
)
def test_what_is_of_no_partition_is_done_by_a_schedule(
    name: str, group: str, schedule: str, definitions: dg.Definitions
) -> None:
    node = definitions.resolve_asset_graph().get(dg.AssetKey(name))
    assert node.partitions_def is None and node.group_name == group
    made = definitions.resolve_schedule_def(schedule)
    # In a sandbox, as here, nothing is asked of a source unbidden.
    asks_nobody = name != "directory_presence"
    assert (made.default_status is dg.DefaultScheduleStatus.RUNNING) == asks_nobody
    selected = definitions.resolve_job_def(made.job_name).asset_layer.executable_asset_keys
    assert selected == {dg.AssetKey(one) for one, job in OF_NO_PARTITION.items() if job == made.job_name}
