"""The sandbox with every fault on, whose records are full of canaries.

Belongs here: which faults strike together, the sandbox that has them. Does not belong here: what is made of it
(`canary.py`), what the product does for each fault (`test_faults.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from teei_ingest.sandbox.app import Sandbox
from teei_ingest.sandbox.config import SandboxConfig, environment
from teei_ingest.sandbox.faults import FAULTS, At, Fault, Plan
from teei_ingest.sandbox.lists import Lists
from teei_ingest.sandbox.records import Record
from teei_ingest.sandbox.server import serving
from teei_ingest.sandbox.world import Span, World
from teei_ingest.streams import all_streams
from teei_ingest.systems import all_systems
from teei_ingest_tests.proof.planting import Canaries, legal

# `teei`, which asks for small pages, so that there is a second one for a fault to strike.
TEEI = """
from teei_ingest.systems import all_systems
for system in all_systems().values():
    object.__setattr__(system, "max_page", 3)
from teei_ingest.cli import main
main()
"""
_RECORDS = 7
_TRIES = 3
# More than the patience of the runs, and no more, since whoever is told to wait does so in the next run, too.
_LESS = {"gzip-bomb": {"mib": 8}, "status-429-far": {"seconds": 2}, "status-503-far": {"seconds": 2}}


class _World(World):
    """The sandbox's ids and timestamps, with canaries in all other places."""

    def __init__(self, config: SandboxConfig, now: Any, canaries: Canaries) -> None:
        super().__init__(config, now)
        self._canaries = canaries
        self._drawn: dict[tuple[str, str, int, int], Record] = {}

    def slots(self, stream: str, company: str, span: Span, shuffled: bool) -> list[tuple[int, Record]]:
        return [
            (slot, self._full(stream, company, span.day, slot, record))
            for slot, record in super().slots(stream, company, span, shuffled)
        ]

    def _full(self, stream: str, company: str, day: int, slot: int, record: Record) -> Record:
        if (stream, company, day, slot) not in self._drawn:
            moment = _value(record, all_streams()[stream].source_timestamp)
            self._drawn[stream, company, day, slot] = legal(self._canaries, stream, f"{day}-{slot}", moment)
        return self._drawn[stream, company, day, slot]


def _value(record: Any, path: str) -> Any:
    for name in path.split("/"):
        record = record[name]
    return record


@dataclass
class Misbehaving:
    """A sandbox for one company."""

    sandbox: Sandbox
    url: str
    company: str

    @property
    def environment(self) -> dict[str, str]:
        """Addresses and credentials, and little patience."""
        return environment(self.sandbox.config, self.url) | {
            "TEEI_READ_TIMEOUT_S": "3",
            "TEEI_MAX_RESPONSE_MB": "4",
        }

    def records(self, day: date) -> int:
        """How many records there are of a day."""
        first = datetime.combine(day, datetime.min.time(), UTC)
        found = (self.sandbox.records(name, self.company, first, first + timedelta(1)) for name in all_streams())
        return sum(map(len, found))

    def played(self, together: dict[str, Fault], run: Callable[[], object]) -> None:
        """Let each of these streams have its fault in a run; in another one, where a slow machine came first.

        Raises AssertionError where one never struck.
        """
        self.sandbox.faults = plan = Plan.parse({"seed": 1, "faults": [_entry(*one) for one in together.items()]})
        for _ in range(_TRIES):
            run()
            if all(plan.fired):
                break
        self.sandbox.faults = Plan()
        idle = [entry.fault.name for entry in plan.entries if not entry.fired]
        assert not idle, f"these faults did not strike: {', '.join(idle)}"


@contextmanager
def misbehaving(canaries: Canaries, company: str, identity: str) -> Iterator[Misbehaving]:
    """Serve it."""
    config = SandboxConfig(companies={company: identity}, records=_RECORDS, spread=0, quota=False)
    sandbox = Sandbox(config)
    sandbox.lists = Lists(_World(config, lambda: int(sandbox.now() * 1e9), canaries))
    with serving(sandbox) as served:
        yield Misbehaving(sandbox, served.url, company)


def rounds() -> list[dict[str, Fault]]:
    """The faults by the stream that has them, in as few rounds as it takes to give each system one at a time.

    Not `tls-failure`, which strikes all systems, and the address has to be another for it.
    """
    found: list[dict[str, Fault]] = []
    for number, fault in enumerate(one for one in FAULTS.values() if one.places != (At.CONNECTION,)):
        able = [name for name in _turned(number) if _can_have(fault, name)]
        for together in found:
            taken = {all_streams()[name].system for name in together}
            if free := [name for name in able if all_streams()[name].system not in taken]:
                together[free[0]] = fault
                break
        else:
            found.append({able[0]: fault})
    return found


def _turned(number: int) -> list[str]:
    names = list(all_streams())
    at = number % len(names)
    return names[at:] + names[:at]


def _can_have(fault: Fault, stream: str) -> bool:
    """Whether it can, and disturbs no other system: some share their credentials."""
    shared = all_systems()[all_streams()[stream].system].shared_credential is not None
    return fault.applies(all_streams()[stream]) and not (fault.name == "credentials-rotated" and shared)


def _entry(stream: str, fault: Fault) -> dict[str, Any]:
    if fault.places == (At.CONNECTION,):
        return {"fault": fault.name, "times": 0}
    if At.LIST not in fault.places:
        return {"fault": fault.name, "system": all_streams()[stream].system}
    return {"fault": fault.name, "stream": stream, **_LESS.get(fault.name, {})}
