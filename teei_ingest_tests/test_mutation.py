"""The mutants fit the code as it is; whether they are killed is asked by `python -m teei_ingest_tests.mutation`."""

from __future__ import annotations

import ast
from pathlib import Path

from teei_ingest_tests.bench.places import ROOT
from teei_ingest_tests.mutation.named import named
from teei_ingest_tests.mutation.sampled import FOLDERS, TESTS


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
