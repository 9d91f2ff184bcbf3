"""Recording what a step has made: at once, where Dagster's storage takes batches (`postgres.py`), else one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import dagster as dg
from dagster._core.events import DagsterEventBatchMetadata, DagsterEventType, generate_event_batch_id

T = TypeVar("T")


def materialized(context: dg.AssetExecutionContext, made: Iterable[dg.AssetMaterialization]) -> list[dg.DagsterEvent]:
    """Record materializations of one asset, for the step to yield; afterwards they are in Dagster's database."""
    step = context.get_step_execution_context()
    return [dg.DagsterEvent.asset_materialization(step, one, place) for one, place in _batch(made)]


def checked(context: dg.AssetExecutionContext, made: Iterable[dg.AssetCheckEvaluation]) -> list[dg.DagsterEvent]:
    """Record evaluations of checks in the same way."""
    if not getattr(context.instance.event_log_storage, "takes_checks", False):  # Dagster's own storages refuse them
        return [dg.DagsterEvent.asset_check_evaluation(context.get_step_execution_context(), one) for one in made]
    return [
        dg.DagsterEvent.from_step(
            DagsterEventType.ASSET_CHECK_EVALUATION,
            context.get_step_execution_context(),
            one,
            f"{one.check_name} of {one.asset_key.to_user_string()} {'passed' if one.passed else 'did not pass'}",
            place,
        )
        for one, place in _batch(made)
    ]


def _batch(made: Iterable[T]) -> Iterator[tuple[T, DagsterEventBatchMetadata]]:
    """Each with its place in a batch, which is written when its last one is reported."""
    batch, these = generate_event_batch_id(), list(made)
    for number, one in enumerate(these, 1):
        yield one, DagsterEventBatchMetadata(batch, is_end=number == len(these))
