"""Running tests against a mutant: a copy of the tree, in which one file is another.

Belongs here: the copy, the run, its outcome. Does not belong here: which mutants there are.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from teei_ingest_tests.bench.places import ROOT, base

_LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "dist")
_TEST_LIMIT_S = 120


class Fate(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    TIMED_OUT = "timed out"  # killed as well: some test never ended
    SURVIVED = "survived"


@dataclass(frozen=True)
class Mutant:
    """A module below `teei_ingest/` with another text, and the tests (a file, or one of its tests) to notice it."""

    name: str
    file: str
    text: str = field(repr=False)
    tests: tuple[str, ...]


class TrialError(Exception):
    """Tests fail without a mutant, or are not there, so that they can show nothing."""


class Copy:
    """A copy of the tree as it was when the trials began; the tree itself is never changed."""

    def __init__(self, folder: Path) -> None:
        self._tree = folder / "tree"
        self._folder = folder
        self._limit_s = 3600.0
        shutil.copytree(ROOT, self._tree, ignore=_LEFT_OUT)

    def rehearse(self, tests: Sequence[str]) -> float:
        """Run the tests without any mutant; the seconds they take. Raises TrialError if one fails."""
        begun = time.monotonic()
        code, said = self._run(tests)
        if code != 0:
            raise TrialError(f"without a mutant, too, the tests fail:\n{said[-4000:]}")
        took = time.monotonic() - begun
        self._limit_s = 60 + 2 * took
        return took

    def fate(self, mutant: Mutant) -> tuple[Fate, str]:
        """What becomes of a mutant, and the test that noticed it; to be rehearsed before."""
        with self._with(mutant):
            code, said = self._run(mutant.tests)
        if code == 0:
            return Fate.SURVIVED, ""
        if code is None:
            return Fate.TIMED_OUT, ""
        # They passed without the mutant, so whatever went wrong now is its doing.
        failed = [line.partition(" ")[2] for line in said.splitlines() if line.startswith(("FAILED ", "ERROR "))]
        return Fate.KILLED, failed[0].partition(" - ")[0].removeprefix("teei_ingest_tests/") if failed else "the import"

    @contextmanager
    def _with(self, mutant: Mutant) -> Iterator[None]:
        path = self._tree / "teei_ingest" / mutant.file
        before = path.read_text()
        self._put(path, mutant.text)
        try:
            yield
        finally:
            self._put(path, before)

    def _put(self, path: Path, text: str) -> None:
        path.write_text(text)
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
            compiled.unlink()  # one of the same second and size would be taken for it

    def _run(self, tests: Sequence[str]) -> tuple[int | None, str]:
        """pytest's exit code, None if it took too long, and what it said."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "--tb=line", "-p", "no:cacheprovider"]
        command += [
            "-m",
            "not long and not machine",
            "-o",
            f"timeout={_TEST_LIMIT_S}",
            "--basetemp",
            str(self._folder / "tests"),
        ]
        # Under CI, hypothesis draws the same examples each time.
        variables = base() | {"PYTHONPATH": str(self._tree), "CI": "1"}
        with tempfile.TemporaryFile("w+", errors="replace") as said:
            process = subprocess.Popen(
                [*command, *(f"teei_ingest_tests/{test}" for test in tests)],
                cwd=self._tree,
                env=variables,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            code: int | None = None
            try:
                code = process.wait(self._limit_s)
            except subprocess.TimeoutExpired:
                pass
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            said.seek(0)
            return code, said.read()
