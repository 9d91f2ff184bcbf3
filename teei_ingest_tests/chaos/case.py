"""What is drawn for a case: a stream and its faults; and for the run that it shares with those of other systems.

Everything follows from the seed and the case's number, so that one number repeats it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from random import Random
from typing import Any

from teei_ingest.sandbox.faults import FAULTS, At, Fault, Heals
from teei_ingest.streams import all_streams
from teei_ingest.systems import all_systems

FIRST_DAY = date(2024, 1, 10)
LAST_DAY = date(2024, 11, 30)
GROUPS = 6  # runs in one home, each of another company
COMPANIES = tuple(f"company-{number}" for number in range(GROUPS))
SYSTEMS = tuple(sorted({stream.system for stream in all_streams().values()}))
TOGETHER = len(SYSTEMS)  # cases in one run: one stream of each system, so that none disturbs another
WORLD = ("record-changes", "record-appears", "record-late", "record-vanishes")  # after these the truth is another

# Faults that are not drawn, with the reason and where they are tested.
LEFT_OUT: Mapping[str, str] = {
    "tls-failure": "the sandbox's systems speak no TLS; test_faults.py and test_sandbox_faults.py have it",
}
_SMALLER: Mapping[str, Mapping[str, int]] = {"gzip-bomb": {"mib": 8}}


class Order(StrEnum):
    """What is materialized while the plan is in force."""

    TOGETHER = "together"  # streams and events
    STREAMS = "streams"  # the streams alone; then, undisturbed, their events from what landed
    EVENTS = "events"  # the events alone, after their streams alone landed some of the days undisturbed


@dataclass(frozen=True)
class Case:
    """One stream and the entries of the fault plan that concern it."""

    number: int
    stream: str
    entries: tuple[dict[str, Any], ...]

    @property
    def faults(self) -> tuple[Fault, ...]:
        return tuple(FAULTS[entry["fault"]] for entry in self.entries)

    @property
    def must_succeed(self) -> bool:
        """Whether no partition may fail: one fault, once, which heals."""
        if len(self.entries) > 1:
            return False
        (entry,), (fault,) = self.entries, self.faults
        if fault.name == "status-401" and entry.get("at") == "token":
            return False  # then it says what `token-refused` says
        if fault.outcome(all_streams()[self.stream]) is Heals.FAILS:
            return False
        return fault.lasting or entry["times"] == 1


@dataclass(frozen=True)
class Group:
    """Cases in one run: one company, a range of days, a page size; `filled` says that the days were read before.

    `landed` is how many of the days, from the first, have landed before where the events are materialized alone.
    Where one case is the `only` one, the others' entries stay in the plan, since chance follows from the position.
    """

    number: int
    company: str
    first: date
    last: date
    page_size: int
    filled: bool
    cases: tuple[Case, ...]
    order: Order = Order.TOGETHER
    landed: int = 0
    only: int | None = None

    @property
    def days(self) -> list[date]:
        return [self.first + timedelta(number) for number in range((self.last - self.first).days + 1)]

    def plan(self, seed: int) -> dict[str, Any]:
        """The fault plan."""
        return {"seed": seed + self.number, "faults": [entry for case in self.cases for entry in case.entries]}

    @property
    def played(self) -> tuple[Case, ...]:
        """The cases of the runs."""
        return tuple(case for case in self.cases if self.only in (None, case.number))


def group(seed: int, number: int) -> Group:
    """The group of that number; its cases are `number * TOGETHER` and those that follow."""
    rng = Random(f"{seed}/{number}")
    company = COMPANIES[number % GROUPS]
    first = FIRST_DAY + timedelta(rng.randrange((LAST_DAY - FIRST_DAY).days - 4))
    last = first + timedelta(rng.choices((0, 1, 2, 3), (5, 3, 1, 1))[0])
    cases = tuple(_case(seed, number * TOGETHER + position, system, company) for position, system in enumerate(SYSTEMS))
    page_size = rng.choices((2, 3, 4, 5, 7, 10, 20), (1, 2, 2, 2, 2, 2, 1))[0]
    filled, order = rng.random() < 0.2, rng.choices(list(Order), (8, 1, 1))[0]
    landed = rng.randint(0, (last - first).days + 1) if order is Order.EVENTS else 0
    return Group(number, company, first, last, page_size, filled, cases, order, landed)


def _case(seed: int, number: int, system: str, company: str) -> Case:
    rng = Random(f"{seed}/case/{number}")
    stream = rng.choice([one.name for one in all_streams().values() if one.system == system])
    able = [name for name, fault in FAULTS.items() if _can_have(fault, stream)]
    chosen = rng.sample(able, 1 if rng.random() < 0.85 else 2)
    return Case(number, stream, tuple(_entry(rng, FAULTS[name], stream, company) for name in chosen))


def _can_have(fault: Fault, stream: str) -> bool:
    declared = all_streams()[stream]
    shared = all_systems()[declared.system].shared_credential is not None
    if fault.name in LEFT_OUT or (fault.name == "credentials-rotated" and shared):
        return False
    return fault.applies(declared)


def _entry(rng: Random, fault: Fault, stream: str, company: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"fault": fault.name, "company": company, **_SMALLER.get(fault.name, {})}
    places = [place for place in fault.places if place in (At.LIST, At.TOKEN)]
    system = all_systems()[all_streams()[stream].system]
    if At.TOKEN in places and (places == [At.TOKEN] or (hasattr(system.auth, "token_path") and rng.random() < 0.3)):
        entry |= {"system": system.name, "at": "token"}
    else:
        entry |= {"stream": stream}
        if rng.random() < 0.8:
            entry["request"] = rng.choice((1, 1, 2, 2, 3, 4))
    if fault.lasting:
        entry["times"] = 0
    else:
        entry["times"] = rng.choices((1, 2, 6, 0), (7, 1, 1, 1))[0]
        if entry["times"] != 1 or fault.name in WORLD:
            entry.pop("request", None)
        if fault.name in WORLD:
            entry["times"] = 1
        if entry["times"] == 0 and fault.name.endswith(("-seconds", "-date")):
            entry["seconds"] = 200  # or the patience of a quarter of an hour is a thousand requests
        if entry["times"] == 0 and rng.random() < 0.5:
            entry["chance"] = 0.3
    return entry
