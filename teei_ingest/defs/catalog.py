"""What the catalog shows of an asset: columns with their classes, lineage, where it is, who owns it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any

import dagster as dg

from teei_ingest import streams
from teei_ingest.contracts.base import VERSION, Leaf, leaves
from teei_ingest.contracts.stored import arrow_schema
from teei_ingest.defs.partitions import are_in
from teei_ingest.settings import Settings
from teei_ingest.streams.base import Stream
from teei_ingest.systems import all_systems

OWNER = "team:csr-data"
Results = Iterator[dg.MaterializeResult[Any]]


def unpartitioned(
    name: str, group: str, description: str, kinds: set[str], deps: Sequence[str] = ()
) -> Callable[[Callable[..., Results]], dg.AssetsDefinition]:
    """Decorates what materializes an asset of no partition.

    It is not called in a run over partitions, which somebody has who selected all assets.
    """
    spec = dg.AssetSpec(
        name,
        deps=list(deps),
        group_name=group,
        owners=[OWNER],
        kinds=kinds,
        skippable=True,
        description=description,
    )
    # A selection of everything with a range of partitions is allowed only if each asset has this.
    made = dg.multi_asset(specs=[spec], name=f"make_{name}", backfill_policy=dg.BackfillPolicy.single_run())

    def decorated(make: Callable[..., Results]) -> dg.AssetsDefinition:
        @wraps(make)
        def unless_over_partitions(context: dg.AssetExecutionContext, **resources: Any) -> Results:
            if not are_in(context.run.tags):
                yield from make(context, **resources)

        return made(unless_over_partitions)

    return decorated


def _described(leaf: Leaf) -> str:
    unit = leaf.extra.get("unit")
    return f"{leaf.info.description or leaf.name}{f' [{unit}]' if unit else ''} ({leaf.cls.value})"


def _source_column(leaf: Leaf) -> dg.TableColumn:
    kind = f"list<{leaf.kind.value}>" if leaf.many else leaf.kind.value
    return dg.TableColumn(
        leaf.name,
        kind,
        description=_described(leaf),
        constraints=dg.TableColumnConstraints(nullable=not leaf.required),
        tags={"personal-data": leaf.cls.value},
    )


def source_schema(stream: Stream) -> dg.TableSchema:
    """The contract as it is checked, before redaction."""
    return dg.TableSchema([_source_column(leaf) for leaf in leaves(stream.contract)])


def stored_schema(stream: Stream) -> dg.TableSchema:
    """The columns of the table."""
    inside: dict[str, list[Leaf]] = {}
    for leaf in leaves(stream.contract):
        inside.setdefault(leaf.path[0], []).append(leaf)
    columns = []
    for field in arrow_schema(stream.contract):
        found = inside.get(field.name, [])
        if not found:
            description, tags = "Envelope of the event (public)", {"personal-data": "public"}
        elif len(found) == 1 and len(found[0].path) == 1:
            description, tags = _described(found[0]), {"personal-data": found[0].cls.value}
        else:
            description, tags = "; ".join(f"{leaf.names[-1]}: {_described(leaf)}" for leaf in found), {}
        columns.append(
            dg.TableColumn(
                field.name,
                str(field.type),
                description=description,
                constraints=dg.TableColumnConstraints(nullable=field.nullable),
                tags=tags,
            )
        )
    return dg.TableSchema(columns)


def lineage(stream: Stream) -> dg.TableColumnLineage:
    """Which field of the stream each stored column comes from."""
    made: dict[str, list[dg.TableColumnDep]] = {
        "event_id": [_dep(stream, "sourceId"), _dep(stream, "sourceTimestamp")],
        "timestamp": [_dep(stream, "sourceTimestamp")],
        "day": [_dep(stream, "sourceTimestamp")],
    }
    for leaf in leaves(stream.contract):
        made.setdefault(leaf.path[0], []).append(_dep(stream, leaf.name))
    return dg.TableColumnLineage(made)


def _dep(stream: Stream, column: str) -> dg.TableColumnDep:
    return dg.TableColumnDep(asset_key=dg.AssetKey(stream.name), column_name=column)


def _declaration(stream: Stream) -> dg.CodeReferencesMetadataValue:
    """The stream's own file; the code that is common to all is added to it where the assets are made."""
    file = importlib.import_module(f"{streams.__name__}.{stream.name}").__file__
    reference = dg.LocalFileCodeReference(
        file_path=str(file), line_number=1, label=f"{stream.name}.py, what is read and how"
    )
    return dg.CodeReferencesMetadataValue(code_references=[reference])


def specs(stream: Stream, settings: Settings) -> list[dg.AssetSpec]:
    """The two assets of a stream: what the source sends, and the redacted events."""
    system = all_systems()[stream.system]
    contract = stream.contract
    shared: dict[str, Any] = {"group_name": system.name, "owners": [OWNER], "skippable": True, "code_version": VERSION}
    tags = {"system": system.name, "contract": contract.__name__, "event_type": contract.event_type}
    endpoint = f"GET {stream.path}" + "".join(f"?{k}={v}" for k, v in stream.params.items())
    return [
        dg.AssetSpec(
            stream.name,
            description=f"{stream.title}: `{endpoint}`, one UTC day of source timestamps for each partition, checked "
            f"against {contract.__name__} {VERSION}. Materialized alone it leaves its records sealed for its events.",
            kinds={"python", "rest", "json"},
            tags=tags,
            metadata={
                "dagster/column_schema": source_schema(stream),
                "dagster/code_references": _declaration(stream),
                "endpoint": endpoint,
            },
            **shared,
        ),
        dg.AssetSpec(
            stream.events,
            deps=[stream.name],
            description=f"{stream.title}, redacted: `{contract.event_type}` events as rows of `{contract.table}`.",
            kinds={"python", "deltalake", "arrow"},
            tags=tags,
            metadata={
                "dagster/column_schema": stored_schema(stream),
                "dagster/column_lineage": lineage(stream),
                "dagster/code_references": _declaration(stream),
                "dagster/uri": f"{settings.store_uri}/{contract.table}",
                "dagster/table_name": contract.table,
            },
            **shared,
        ),
    ]
