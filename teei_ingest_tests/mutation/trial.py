"""Running tests against a mutant: a copy of the tree, in which one file is another.

Belongs here: the copy, which tests run, their outcome. Does not belong here: which mutants there are.
"""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from teei_ingest_tests.bench.places import ROOT, base, environment_of
from teei_ingest_tests.mutation.lines import AT_IMPORT
from teei_ingest_tests.mutation.swap import differs_in_functions

_LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "dist")
_TESTS = "teei_ingest_tests"
_COVERAGE = ("coverage==7.17.5",)  # used by our interpreter, which is that of its environment
_REHEARSAL_S = 3600.0
_HIDDEN = 99  # an exit code: the functions that changed were not found


class Fate(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    TIMED_OUT = "timed out"  # killed as well: the tests never ended
    SURVIVED = "survived"
    NOT_COVERED = "not covered"  # survived as well: no test runs the line


@dataclass(frozen=True)
class Mutant:
    """A module below `teei_ingest/` with another text, and the tests (a file, or one of its tests) to notice it."""

    name: str
    file: str
    text: str = field(repr=False)
    tests: tuple[str, ...]
    line: int | None = None  # the only one that changed; then only tests that run it are asked


class TrialError(Exception):
    """The tests do not run without a mutant either, or those of a mutant fail, so that they can show nothing."""


@dataclass(frozen=True)
class Rehearsal:
    """What is known of the tests from a run without any mutant."""

    took: float
    seconds: dict[str, tuple[float, float]]  # of each test: its own, and those of fixtures that it shares with others
    lines: dict[str, dict[int, frozenset[str]]] = field(repr=False)  # file, line: the tests that run it
    failed: list[str] = field(default_factory=list)  # they are not asked

    def of(self, names: Collection[str]) -> list[str]:
        """The tests of files, functions."""
        whole = tuple(f"{_TESTS}/{name}::" for name in names if "::" not in name)
        functions = {f"{_TESTS}/{name}" for name in names}
        return [test for test in self.seconds if test.startswith(whole) or test.partition("[")[0] in functions]

    def asked(self, mutant: Mutant, source: str) -> list[str]:
        """The tests that can notice a mutant; those first that are likely to notice it soon."""
        able = self.of(mutant.tests)
        if mutant.line is None:
            return sorted(able, key=self._rank)
        near = self._near(mutant, source)
        if AT_IMPORT not in near:
            return sorted(near.intersection(able), key=self._rank)
        # What a module computes at its import may show wherever it is used.
        touching = frozenset().union(*self.lines[mutant.file].values())
        return sorted(able, key=lambda test: (test not in near, test not in touching, *self._rank(test)))

    def at_import(self, mutant: Mutant, source: str) -> bool:
        """Whether a mutant's line runs before any test."""
        return mutant.line is None or AT_IMPORT in self._near(mutant, source)

    def _near(self, mutant: Mutant, source: str) -> frozenset[str]:
        line = mutant.line or 0
        # A library's own thread may run a nested function, which coverage does not see: whoever makes it is asked then.
        return self._running(mutant.file, statement(source, line)) or self._running(mutant.file, nested(source, line))

    def _running(self, file: str, lines: range) -> frozenset[str]:
        return frozenset().union(*(self.lines[file].get(line, ()) for line in lines))

    def modules(self) -> list[str]:
        """The modules of the tests."""
        return sorted({test.partition(".py::")[0].replace("/", ".") for test in self.seconds})

    def limit(self, test: str) -> float:
        """Seconds after which a test is said to hang."""
        return 10 + 5 * sum(self.seconds[test])

    def _rank(self, test: str) -> tuple[float, str, float]:
        """Quick ones first; then by file, so that a shared fixture is made once."""
        own, shared = self.seconds[test]
        return (0, "", own) if own + shared < 0.5 else (1 + shared, test.partition("::")[0], own)


def statement(source: str, line: int) -> range:
    """The lines of the smallest statement around a line; of one that has a body, those before the body."""
    found = range(line, line + 1)
    smallest = sys.maxsize
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.stmt) or node.end_lineno is None:
            continue
        begin = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", ()))])
        end = node.end_lineno
        if begin <= line <= end and end - begin < smallest:
            smallest = end - begin
            body: list[ast.stmt] = getattr(node, "body", [])
            head = max(begin, body[0].lineno - 1) if body else end
            found = range(begin, head + 1) if line <= head else range(line, line + 1)
    return found


def nested(source: str, line: int) -> range:
    """The head of the innermost function around a line that is made by another function; empty without one."""
    found, functions = range(0), (ast.FunctionDef, ast.AsyncFunctionDef)
    for outer in ast.walk(ast.parse(source)):
        for inner in ast.walk(outer) if isinstance(outer, functions) else ():
            if isinstance(inner, functions) and inner is not outer and inner.lineno <= line <= (inner.end_lineno or 0):
                found = max(found, range(inner.lineno, inner.body[0].lineno), key=lambda lines: lines.start)
    return found


class _Zygote:
    """A `zygote.py` that runs in a tree, and ends with this process."""

    def __init__(self, tree: Path, *modules: str) -> None:
        # Under CI, hypothesis draws the same examples each time.
        variables = base() | {"PYTHONPATH": str(tree), "CI": "1", "COVERAGE_CORE": "ctrace"}
        self._process = subprocess.Popen(
            [sys.executable, f"{_TESTS}/mutation/zygote.py", *modules],
            cwd=tree,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, order: dict[str, Any]) -> int | None:
        """pytest's exit code, None if it took too long."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise TrialError("the process that runs the tests has ended")
        code: int | None = json.loads(answer)
        return code

    def end(self) -> None:
        """To be called when no order is carried out."""
        self._process.communicate()


class Copy(AbstractContextManager["Copy"]):
    """A copy of the tree as it was when the trials began; the tree itself is never changed."""

    def __init__(self, folder: Path) -> None:
        self._tree = folder / "tree"
        self._said = folder / "said.txt"
        self._found = folder / "found.json"
        self._at = folder / "tests"
        shutil.copytree(ROOT, self._tree, ignore=_LEFT_OUT)
        self._cold = _Zygote(self._tree)
        self._warm: _Zygote | None = None  # has imported the product and its tests

    def __exit__(self, *_: object) -> None:
        for zygote in (self._cold, self._warm):
            if zygote is not None:
                zygote.end()

    def rehearse(self, tests: Sequence[str], files: Collection[str]) -> Rehearsal:
        """Run the tests without any mutant, and watch which lines of the files they run.

        Raises TrialError if they do not run at all.
        """
        begun = time.monotonic()
        (coverage,) = environment_of("coverage", _COVERAGE).parents[1].glob("lib/*/site-packages")
        order = {"watched": sorted(files), "found": str(self._found), "coverage": str(coverage)}
        code = self._run(self._cold, tests, _REHEARSAL_S, **order)
        if code not in (0, 1):
            raise TrialError(f"without a mutant, too, the tests do not run:\n{self._said.read_text()[-4000:]}")
        found = json.loads(self._found.read_text())
        lines = {
            file: {int(line): frozenset(tests) for line, tests in known.items()}
            for file, known in found["lines"].items()
        }
        return Rehearsal(time.monotonic() - begun, found["seconds"], lines, found["failed"])

    def fate(self, mutant: Mutant, rehearsal: Rehearsal) -> tuple[Fate, str]:
        """What becomes of a mutant, and the test that noticed it."""
        path = self._tree / "teei_ingest" / mutant.file
        before = path.read_text()
        asked = rehearsal.asked(mutant, before)
        if not rehearsal.of(mutant.tests):
            raise TrialError(f"{mutant.name}: its tests fail without it, too")
        if not asked:
            return Fate.NOT_COVERED, ""
        limits = {test: rehearsal.limit(test) for test in asked}
        files = list(dict.fromkeys(test.partition("::")[0].removeprefix(f"{_TESTS}/") for test in asked))
        order: dict[str, Any] = {"chosen": limits, "known": rehearsal.of(files)}
        limit = 30 + sum(limits.values())
        code: int | None = _HIDDEN
        with self._with(path, mutant.text):
            if not rehearsal.at_import(mutant, before) and differs_in_functions(before, mutant.text):
                self._warm = self._warm or _Zygote(self._tree, *rehearsal.modules())
                swapped = {"path": str(path), "before": before, "after": mutant.text}
                code = self._run(self._warm, files, limit, **order, swapped=swapped, hidden=_HIDDEN)
            if code == _HIDDEN:
                code = self._run(self._cold, files, limit, **order)
        if code is None:
            return Fate.TIMED_OUT, ""
        if code in (0, 5):  # 5: the mutant has taken the tests away
            return Fate.SURVIVED, ""
        # They passed without the mutant, so whatever went wrong now is its doing.
        said = self._said.read_text(errors="replace").splitlines()
        failed = [line.partition(" ")[2] for line in said if line.startswith(("FAILED ", "ERROR "))]
        return Fate.KILLED, failed[0].partition(" - ")[0].removeprefix(f"{_TESTS}/") if failed else "the import"

    @contextmanager
    def _with(self, path: Path, text: str) -> Iterator[None]:
        before = path.read_text()
        self._put(path, text)
        try:
            yield
        finally:
            self._put(path, before)

    def _put(self, path: Path, text: str) -> None:
        path.write_text(text)
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
            compiled.unlink()  # one of the same second and size would be taken for it

    def _run(self, zygote: _Zygote, tests: Sequence[str], limit: float, **order: Any) -> int | None:
        arguments = [
            *(["-x"] if "chosen" in order else []),
            "-q",
            "-rfE",
            "--tb=line",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
        ]
        arguments += ["-m", "not long and not machine", "--basetemp", str(self._at)]
        arguments += [f"{_TESTS}/{test}" for test in tests]
        return zygote.ask(order | {"arguments": arguments, "limit": limit, "said": str(self._said)})
