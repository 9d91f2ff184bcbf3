"""Which tests run which lines, and running only those: two plug-ins for pytest.

Belongs here: what happens in the process of the tests. Does not belong here: which lines a mutant changes.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Generator, Mapping
from pathlib import Path
from typing import Any

import pytest

AT_IMPORT = ""  # stands for a test's name


class Lines:
    """Writes how long each test took, which lines of some files it ran, and which tests failed.

    What a fixture of a whole module runs counts for all tests that use it.
    """

    def __init__(self, below: Path, files: Collection[str], to: Path) -> None:
        from coverage import Coverage  # type: ignore[import-not-found]  # of another environment, as `trial` says

        self._files = {str(below / file): file for file in files}
        self._to = to
        self._now = AT_IMPORT  # a test, or a fixture of more than one
        self._seconds: dict[str, float] = defaultdict(float)
        self._fixtures: dict[str, list[str]] = {}
        self._failed: set[str] = set()
        self._coverage = Coverage(data_file=None, config_file=False, include=[*self._files])
        self._coverage.start()

    def _switch(self, to: str) -> None:
        self._now = to
        self._coverage.switch_context(to)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Function) -> Generator[None, object, object]:
        self._switch(item.nodeid)
        shared = [one for found in item._fixtureinfo.name2fixturedefs.values() for one in found]
        self._fixtures[item.nodeid] = [_name(one) for one in shared if one.scope != "function"]
        for forget in self._memories():
            forget()
        return (yield)

    def _memories(self) -> list[Callable[[], None]]:
        """What a test of before has computed must be computed again, so that it is seen."""
        ours = [module for module in sys.modules.values() if getattr(module, "__file__", None) in self._files]
        return [one.cache_clear for module in ours for one in vars(module).values() if hasattr(one, "cache_clear")]

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        if fixturedef.scope == "function":
            return (yield)
        around, begun = self._now, time.monotonic()
        self._switch(_name(fixturedef))
        try:
            return (yield)
        finally:
            took = time.monotonic() - begun
            self._seconds[self._now] += took
            self._seconds[around] -= took
            self._switch(around)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] += report.duration
        if report.failed:
            self._failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        users: dict[str, list[str]] = {AT_IMPORT: [AT_IMPORT]}
        for test, fixtures in self._fixtures.items():
            for one in (test, *fixtures):
                users.setdefault(one, []).append(test)
        data = self._coverage.get_data()
        lines = {
            file: {
                line: [test for one in ran for test in users.get(one, ())]
                for line, ran in data.contexts_by_lineno(path).items()
            }
            for path, file in self._files.items()
        }
        seconds = {
            test: (self._seconds[test], sum(self._seconds[one] for one in fixtures))
            for test, fixtures in self._fixtures.items()
            if test not in self._failed
        }
        self._to.write_text(json.dumps({"seconds": seconds, "lines": lines, "failed": sorted(self._failed)}))


def _name(fixture: pytest.FixtureDef[Any]) -> str:
    return f"fixture {fixture.baseid}::{fixture.argname}"


class Chosen:
    """Runs some of the tests, in their order, each with its limit in seconds.

    A mutant may change the name of a test, by its parameters: what is not known is run if one of its function is.
    """

    def __init__(self, limits: Mapping[str, float], known: Collection[str]) -> None:
        self._limits = limits
        self._known = set(known)
        self._functions = {test.partition("[")[0] for test in limits}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        rank = {test: place for place, test in enumerate(self._limits)}
        slowest = max(self._limits.values())
        items[:] = sorted(filter(self._wanted, items), key=lambda item: rank.get(item.nodeid, len(rank)))
        for item in items:
            item.add_marker(pytest.mark.timeout(self._limits.get(item.nodeid, slowest)), append=False)

    def _wanted(self, item: pytest.Item) -> bool:
        name = item.nodeid
        return name in self._limits or (name not in self._known and name.partition("[")[0] in self._functions)
