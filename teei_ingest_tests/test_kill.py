"""The machine that kills: it finds nothing in the product, and what it has to find in one that is not crash-safe."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from teei_ingest_tests.kill.__main__ import named
from teei_ingest_tests.kill.machine import OLD, Case, Machine, machine
from teei_ingest_tests.kill.planted import PLANTED
from teei_ingest_tests.kill.points import POINTS

# A point at which each of the faults shows; those in every `make test`.
FAULTS = {"commits-half": "after-commit", "leaves-files": "half-written", "skips-what-began": "before-commit"}
QUICK = {"commits-half"}
QUICK_POINT = "half-written"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machine(tmp_path_factory.mktemp("kill"), [OLD], streams=["benevity_volunteers", "goodera_donations"]) as made:
        yield made


@pytest.mark.long
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.machine) for name in PLANTED]
)
def test_a_product_that_is_not_crash_safe_is_found(small: Machine, name: str) -> None:
    verdict = small.kill(Case(OLD, point=FAULTS[name], call=1, planted=name))
    assert verdict.confirmed
    assert verdict.leftovers if name == "leaves-files" else verdict.differences


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == QUICK_POINT else pytest.mark.machine) for name in POINTS],
)
def test_nothing_is_lost_or_left_behind(small: Machine, name: str) -> None:
    case = named(name, 1)
    if case.home != OLD:
        pytest.skip("`make kill` has it")
    verdict = small.kill(case)
    assert verdict.confirmed
    assert (verdict.differences, verdict.leftovers) == ([], [])
