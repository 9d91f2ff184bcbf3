"""What `make simulation` makes is what nights leave, and what it measures is all there; here with few of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

from teei_ingest.contracts import VolunteerEvent
from teei_ingest.defs.build import build
from teei_ingest.settings import Settings
from teei_ingest.store import open_store
from teei_ingest.store.tables import SMALL_FILES
from teei_ingest_tests.dagster_parts import all_assets, check_statuses, instance_in, keys, statuses
from teei_ingest_tests.simulation import history, measures, report
from teei_ingest_tests.simulation.measures import Place, Size
from teei_ingest_tests.simulation.tables import nights_apart
from teei_ingest_tests.test_store_tables import FIRST, event, put, store

__all__ = ["store"]  # the fixture

SIZE = Size(companies=3, days=60, rows_per_day=2)  # a whole month is among any sixty days


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, measures.Figures]]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(measures, "FOLDER", tmp_path_factory.mktemp("simulation"))
        with measures.place(SIZE) as made:
            yield made, measures.fill(made)


@pytest.fixture(scope="module")
def at(filled: tuple[Place, measures.Figures]) -> Place:
    return filled[0]


@pytest.mark.fleet
def test_nights_leave_the_files_that_are_made_at_once(store, at: Place) -> None:  # type: ignore[no-untyped-def]
    left = []
    for number in range(3 * SMALL_FILES):
        put(store, VolunteerEvent, [event(VolunteerEvent, number, day=FIRST + timedelta(number))])
        left.append(store.sizes(VolunteerEvent)["acme-corp"].files)
    assert set(left[SMALL_FILES:]) == {1 + nights_apart(number) for number in range(SMALL_FILES)}

    made = open_store(Settings.load(dict(at.env)))
    streams = 2  # of volunteers
    for number, slug in enumerate(SIZE.slugs[1:], 1):
        assert made.sizes(VolunteerEvent)[slug].files == streams * (1 + nights_apart(number))
        days = set(made.rows(VolunteerEvent, company=slug, columns=["day"])["day"].to_pylist())
        assert days <= set(at.days) and len(days) > 20
    assert made.tidy(VolunteerEvent, 24).compacted == 0


@pytest.mark.fleet
def test_dagster_says_of_all_partitions_that_they_are_there(at: Place) -> None:
    definitions = build(at.env)
    with instance_in(at.home) as instance:
        for asset in all_assets():
            for slug in SIZE.slugs[1:]:
                assert set(statuses(instance, definitions, asset, keys(slug, at.days)).values()) == {"MATERIALIZED"}
        # Of one asset it says so, too, when it has to look at its record.
        instance.wipe_asset_cached_status([dg.AssetKey(history.WHOLE)])
        wanted = keys(SIZE.slugs[1], at.days)
        assert set(statuses(instance, definitions, history.WHOLE, wanted).values()) == {"MATERIALIZED"}
        found = check_statuses(instance, definitions, history.WHOLE, "no_personal_data", wanted)
        assert set(found.values()) == {"SUCCEEDED"}


@pytest.mark.fleet
def test_every_figure_is_measured(filled: tuple[Place, measures.Figures]) -> None:
    at, figures = filled
    before = {name: measure for name, measure in measures.MEASURES.items() if name != "night"}
    found: dict[str, Any] = {"filled": figures} | {name: measure(at) for name, measure in before.items()}
    found["night"] = measures.night(at)  # after it the first company lacks no day
    assert [one.path for one in report.FIGURES if report.value(one, found) is None] == []
    assert found["questions"]["month"]["rows"] == 2, "one of each stream"
    assert found["questions"]["year"]["rows"] >= SIZE.companies
    assert found["ticks"]["nightly"]["requests"] == SIZE.companies
    assert found["ticks"]["stale"]["requests"] == 1, "the first company lacks its last day"


def test_the_docs_have_the_table_of_the_file() -> None:
    sizes = json.loads(report.FILE.read_text(encoding="utf-8"))
    assert report.table(sizes) in report.PAGE.read_text(encoding="utf-8"), "run `make simulation`"
