"""The mutants fit the code as it is; whether they are killed is asked by `python -m teei_ingest_tests.mutation`."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

from teei_ingest_tests.bench.places import ROOT
from teei_ingest_tests.mutation.lines import AT_IMPORT
from teei_ingest_tests.mutation.named import named
from teei_ingest_tests.mutation.sampled import FOLDERS, TESTS
from teei_ingest_tests.mutation.swap import differs_in_functions, imported, swap
from teei_ingest_tests.mutation.trial import Mutant, Rehearsal, statement


def test_each_named_mutant_has_its_place_and_its_tests() -> None:
    mutants = list(named())
    assert len({mutant.name for mutant in mutants}) == len(mutants) > 50
    for mutant in mutants:
        before = (ROOT / "teei_ingest" / mutant.file).read_text()
        assert ast.dump(ast.parse(mutant.text)) != ast.dump(ast.parse(before)), mutant.name
        for file, _, test in (name.partition("::") for name in mutant.tests):
            assert f"def {test}" in (ROOT / "teei_ingest_tests" / file).read_text(), mutant.name


def test_each_module_of_the_sampled_folders_has_tests() -> None:
    below = ROOT / "teei_ingest"
    modules = {str(path.relative_to(below)) for folder in FOLDERS for path in (below / folder).glob("*.py")}
    assert {file for file in modules if not file.endswith("__init__.py")} == set(TESTS)
    assert {test for tests in TESTS.values() for test in tests} <= {
        path.name for path in Path(__file__).parent.glob("test_*.py")
    }


MODULE = """\
from functools import cache
LIMIT = (
    1,
    2,
)
class One:
    size = 3
    @cache
    def both(self, more=4):
        if more > (
            5
        ):
            return [
                n + LIMIT[0] for n in range(more)
            ]
        return lambda: 6
def outer():
    def inner():
        return 7
    return inner
"""


@pytest.mark.parametrize(
    ("line", "around"),
    [(3, (2, 5)), (7, (7, 7)), (8, (8, 9)), (9, (8, 9)), (11, (10, 12)), (14, (13, 15)), (16, (16, 16))],
)
def test_a_statement_is_whole_and_without_its_body(line: int, around: tuple[int, int]) -> None:
    assert statement(MODULE, line) == range(around[0], around[1] + 1)


@pytest.mark.parametrize(
    ("old", "new", "inside"),
    [
        ("    1,", "    0,", False),
        ("size = 3", "size = 2", False),
        ("more=4", "more=5", False),
        ("    @cache\n", "", False),
        ("more > (", "more < (", True),
        ("n + LIMIT", "n - LIMIT", True),
        ("lambda: 6", "lambda: 7", True),
    ],
)
def test_only_bodies_of_functions_are_swapped(tmp_path: Path, old: str, new: str, inside: bool) -> None:
    path, after = tmp_path / "swapped.py", MODULE.replace(old, new)
    path.write_text(MODULE)
    assert differs_in_functions(MODULE, after) == inside
    if inside:
        spec = importlib.util.spec_from_file_location("swapped", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        one = module.One()
        assert swap(imported(str(tmp_path)), str(path), MODULE, after) == 1
        made = {"more > (": ([1, 2, 3], 6), "n + LIMIT": (6, [-1, 0, 1, 2, 3, 4]), "lambda: 6": (7, [1, 2, 3, 4, 5, 6])}
        found = [value() if callable(value) else value for value in (one.both(3), one.both(6))]
        assert (found[0], found[1]) == made[old]


def test_those_that_run_a_line_are_asked_and_quick_ones_first() -> None:
    a, b, c, d = (f"teei_ingest_tests/test_{name}" for name in ("a.py::one", "a.py::two[x]", "b.py::one", "c.py::one"))
    rehearsal = Rehearsal(
        took=9,
        seconds={a: (3, 0), b: (0.1, 0), c: (0.2, 0), d: (0.1, 0)},
        lines={
            "x.py": {
                7: frozenset({AT_IMPORT}),
                10: frozenset({a, c}),
                12: frozenset({b, d}),
                16: frozenset(),
                18: frozenset({c}),
            }
        },
    )

    def asked(line: int | None, *tests: str) -> list[str]:
        return rehearsal.asked(Mutant("", "x.py", "", tests, line), MODULE)

    files = ("test_a.py", "test_b.py")
    assert asked(10, *files) == [b, c, a]  # one statement
    assert asked(12, "test_a.py::one") == [a]
    assert asked(16, *files) == []
    assert asked(19, *files) == [c]  # nobody was seen to run the nested function, but somebody made it
    assert asked(20, *files) == []
    assert asked(7, *files) == [b, c, a]  # at import: all of them
    assert asked(None, "test_a.py::two") == [b]
