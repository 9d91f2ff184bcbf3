"""The twelve streams against a server and an oracle that share no line with the product: exact, to the value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date

import pytest

from teei_ingest_tests.running import Home, failures
from teei_ingest_tests.second_opinion.data import World, generate
from teei_ingest_tests.second_opinion.oracle import (
    VIEWS,
    Bindings,
    compare,
    current_rows,
    expect,
    rows_of,
)
from teei_ingest_tests.second_opinion.server import Server


def ids(world: World) -> dict[str, str]:
    return {company.slug: company.id for company in world.companies}


DIRECTORY = ("workday_directory",)  # no other stream has a filter that could be refused


@pytest.mark.parametrize(
    ("scim_filter", "seed", "streams"),
    [("supported", 1, tuple(VIEWS)), ("invalid", 2, DIRECTORY), ("not_implemented", 3, DIRECTORY)],
)
def test_tables_are_exact(home: Callable[..., Home], scim_filter: str, seed: int, streams: Sequence[str]) -> None:
    world = generate(seed=seed, first=date(2024, 1, 15), last=date(2024, 1, 17))
    expected = expect(world.records, world.companies, world.first, world.last)
    with Server(world.records, world.companies, seed=seed, scim_filter=scim_filter) as server:
        place = home(ids(world), server.environment())
        for company in world.companies:
            result = place.materialize(company.slug, world.first, world.last, streams)
            assert result.success, failures(result)
            for stream in streams:
                found = place.metadata(result, f"{stream}_events")
                for day in world.days:
                    figures = found[f"{company.slug}|{day}"]
                    outside = figures["out_of_window"]
                    counts = expected[company.slug, stream, day].counts
                    assert (figures["fetched"] - outside, figures["kept"], figures["quarantined"]) == (
                        counts.fetched,
                        counts.kept,
                        counts.quarantined,
                    ), (stream, day)
                    assert figures["duplicates"] == counts.duplicates, (stream, day)
    bindings = Bindings()
    differences = []
    for view in sorted({VIEWS[stream] for stream in streams}):
        rows = place.sql(f"SELECT * FROM {view}")
        differences += compare(rows_of(expected, view), rows, bindings)
        current = place.sql(f"SELECT * FROM current_{view}")
        for row in current:
            row.pop("present", None)
        differences += compare(current_rows(expected, view), current, bindings)
    assert not differences, "\n".join(differences[:20])
