"""A fault plan: which faults strike which requests, how often, and how often they did.

Belongs here: reading a plan strictly, choosing the requests. Everything follows from the plan's seed and from which
request of its stream and company one is, so that it does not matter who comes first. Does not belong here: what a
fault does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from teei_ingest.errors import UsageError
from teei_ingest.sandbox.access import SLUG
from teei_ingest.sandbox.chance import MASK, key, mix
from teei_ingest.sandbox.faults.base import At, Call, Fault, Parameter, Value
from teei_ingest.sandbox.faults.catalog import FAULTS
from teei_ingest.sandbox.reply import Reply
from teei_ingest.streams import all_streams
from teei_ingest.systems import all_systems

_SELECTORS = ("at", "system", "stream", "company", "request", "page", "times", "chance")
_ANYWHERE = "any"


@dataclass
class Entry:
    """One fault and the requests that it strikes; a selector that is None selects all. `times` 0: for ever."""

    fault: Fault
    places: tuple[At, ...]
    system: str | None = None
    stream: str | None = None
    company: str | None = None
    request: int | None = None
    page: int | None = None
    times: int = 1
    chance: float = 1.0
    parameters: Mapping[str, Value] = field(default_factory=dict)
    fired: int = 0
    struck: set[tuple[str | None, str | None]] = field(default_factory=set)

    def selects(self, call: Call, seed: int) -> bool:
        """Whether the fault strikes this request."""
        fault, stream = self.fault, call.stream.name if call.stream else None
        if call.at not in self.places or not fault.applies_to(call.system, call.stream):
            return False
        if any(
            wanted not in (None, given)
            for wanted, given in (
                (self.system, call.system.name),
                (self.stream, stream),
                (self.company, call.company),
            )
        ):
            return False
        if fault.lasting and (stream, call.company) in self.struck:
            return True
        if fault.from_first and call.page != 1:
            return False
        if self.request not in (None, call.number) or self.page not in (None, call.page):
            return False
        if self.times and self.fired >= self.times:
            return False
        return self.chance == 1 or mix(seed ^ MASK) / (MASK + 1) < self.chance

    def described(self) -> dict[str, Any]:
        """The entry as it is written, with how often it fired."""
        chosen = {name: getattr(self, name) for name in _SELECTORS[1:6]}
        said: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
        if self.places != self.fault.places[:1]:
            said["at"] = self.places[0] if len(self.places) == 1 else _ANYWHERE
        return {
            "fault": self.fault.name,
            **said,
            "times": self.times,
            "chance": self.chance,
            **self.parameters,
            "fired": self.fired,
        }


@dataclass
class Plan:
    """What is to go wrong, in this order for each reply."""

    seed: int = 0
    entries: list[Entry] = field(default_factory=list)
    _numbers: Counter[tuple[At, str, str | None, str | None]] = field(default_factory=Counter, repr=False)

    @classmethod
    def parse(cls, data: Any) -> Plan:
        """A plan from its JSON: `{"seed": 7, "faults": [{"fault": "status-503", "stream": …, "times": 1}]}`.

        Raises UsageError, with one line that names the entry and says what there is.
        """
        given = _object(data, "the plan")
        _known(given, ("seed", "faults"), "the plan")
        seed, faults = given.get("seed", 0), given.get("faults", [])
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise UsageError("the plan's seed has to be a whole number")
        if not isinstance(faults, list):
            raise UsageError("the plan's faults have to be a list")
        return cls(seed, [_entry(item, f"fault {number}") for number, item in enumerate(faults, 1)])

    def described(self) -> dict[str, Any]:
        """The plan's JSON, with how often each entry fired."""
        return {"seed": self.seed, "faults": [entry.described() for entry in self.entries]}

    @property
    def fired(self) -> list[int]:
        """How often each entry fired, in the plan's order."""
        return [entry.fired for entry in self.entries]

    def number(self, at: At, system: str, stream: str | None, company: str | None) -> int:
        """Count a request; which of its stream and company it is, from 1."""
        which = at, system, stream, company
        self._numbers[which] += 1
        return self._numbers[which]

    def disturb(self, call: Call, reply: Reply) -> Reply:
        """The reply after all faults that strike this request."""
        stream = call.stream.name if call.stream else None
        for position, entry in enumerate(self.entries):
            plain = reply.status == 200 and reply.body.startswith(b'{"')  # neither an error nor encoded by now
            if entry.fault.page and not (plain and call.ask):
                continue
            seed = key(self.seed, position, entry.fault.name, call.at, call.system.name, stream, call.company)
            seed = mix(seed + call.number)
            if not entry.selects(call, seed):
                continue
            disturbed = entry.fault.act(call, reply, Random(seed), **entry.parameters)
            if disturbed is not None:
                entry.fired += 1
                entry.struck.add((stream, call.company))
                reply = disturbed
        return reply

    def on_connection(self) -> Entry | None:
        """The entry that strikes a connection before there is a request, if one does; it counts as fired."""
        for entry in self.entries:
            if At.CONNECTION in entry.places and (not entry.times or entry.fired < entry.times):
                entry.fired += 1
                return entry
        return None


def _object(data: Any, what: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise UsageError(f"{what} has to be a JSON object")
    return data


def _known(given: Mapping[str, Any], known: Iterable[str], what: str) -> None:
    if unknown := sorted(given.keys() - set(known)):
        raise UsageError(f"{what}: unknown key {unknown[0][:40]}; there is {', '.join(known)}")


def _entry(data: Any, what: str) -> Entry:
    given = _object(data, what)
    name = given.get("fault")
    if not isinstance(name, str) or name not in FAULTS:
        unknown = f"unknown fault {name[:40]}" if isinstance(name, str) else "no fault is named"
        raise UsageError(f"{what}: {unknown}; there is {', '.join(FAULTS)}")
    fault, what = FAULTS[name], f"{what} ({name})"
    on_connection = fault.places == (At.CONNECTION,)
    selectors = ("times",) if on_connection else _SELECTORS
    _known(given, ("fault", *selectors, *fault.parameters), what)
    entry = Entry(
        fault,
        _places(fault, given.get("at"), what),
        system=_one_of(given, "system", all_systems(), what),
        stream=_one_of(given, "stream", all_streams(), what),
        company=_company(given, what),
        request=_whole(given, "request", 1, what),
        page=_whole(given, "page", 1, what),
        times=_times(fault, given, what),
        chance=_fraction(given.get("chance", 1.0), f"{what}: chance"),
        parameters={key: _value(given, key, one, what) for key, one in fault.parameters.items()},
    )
    _check_reach(entry, what)
    return entry


def _places(fault: Fault, at: Any, what: str) -> tuple[At, ...]:
    if at is None:
        return fault.places[:1]
    if at == _ANYWHERE:
        return fault.places
    if at not in list(fault.places):
        raise UsageError(f"{what}: at has to be {', '.join((*fault.places, _ANYWHERE))}")
    return (At(at),)


def _check_reach(entry: Entry, what: str) -> None:
    """A plan that can strike nothing is a mistake."""
    stream = all_streams().get(entry.stream or "")
    if stream and entry.system not in (None, stream.system):
        raise UsageError(f"{what}: {stream.name} is not a stream of {entry.system}; it is one of {stream.system}")
    if stream and At.LIST not in entry.places and At.CONNECTION not in entry.places:
        raise UsageError(f"{what}: a {entry.places[0]} request belongs to no stream; select a system")
    able = [one for one in all_streams().values() if entry.fault.applies(one)]
    if not any(entry.stream in (None, one.name) and entry.system in (None, one.system) for one in able):
        names = ", ".join(one.name for one in able)
        raise UsageError(f"{what}: cannot strike {entry.stream or entry.system}; it can strike {names}")


def _one_of(given: Mapping[str, Any], name: str, known: Iterable[str], what: str) -> str | None:
    value = given.get(name)
    if value is not None and value not in list(known):
        raise UsageError(f"{what}: unknown {name} {str(value)[:40]}; there is {', '.join(known)}")
    return value


def _company(given: Mapping[str, Any], what: str) -> str | None:
    value = given.get("company")
    if value is not None and not (isinstance(value, str) and SLUG.fullmatch(value)):
        raise UsageError(f"{what}: company has to be a slug, lower-case letters, digits and hyphens")
    return value


def _whole(given: Mapping[str, Any], name: str, low: int, what: str) -> int | None:
    value = given.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
        raise UsageError(f"{what}: {name} has to be a whole number from {low}")
    return value


def _times(fault: Fault, given: Mapping[str, Any], what: str) -> int:
    times = _whole(given, "times", 0, what)
    if fault.lasting:
        if times:
            raise UsageError(f"{what}: lasts until the plan is replaced; leave times out, or give 0")
        return 0
    return 1 if times is None else times


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{what} has to be a number")
    return value


def _fraction(value: Any, what: str) -> float:
    if not 0 <= _number(value, what) <= 1:
        raise UsageError(f"{what} has to be from 0 to 1")
    return float(value)


def _value(given: Mapping[str, Any], name: str, parameter: Parameter, what: str) -> Value:
    value, default = given.get(name, parameter.default), parameter.default
    what = f"{what}: {name}"
    if isinstance(default, str):
        if not isinstance(value, str) or (parameter.choices and value not in parameter.choices):
            raise UsageError(f"{what} has to be {', '.join(parameter.choices) or 'text'}")
        return value
    if not parameter.low <= _number(value, what) <= parameter.high:
        raise UsageError(f"{what} has to be from {parameter.low:g} to {parameter.high:g}")
    if isinstance(default, int) and not isinstance(value, int):
        raise UsageError(f"{what} has to be a whole number")
    return type(default)(value)
