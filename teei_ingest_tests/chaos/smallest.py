"""The smallest form of a case that still goes wrong: greedy, one simplification after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from teei_ingest_tests.chaos.case import TOGETHER, Case, Group, Order, group

_SIMPLE_PAGE = 20


def only(seed: int, number: int) -> Group:
    """The group of a case, of which nothing else is played."""
    return replace(group(seed, number // TOGETHER), only=number)


def smallest(chosen: Group, fails: Callable[[Group], bool]) -> Group:
    """A group that fails, like the one that is given, and of which no simplification does."""
    tried: set[str] = set()
    while True:
        for simpler in _simpler(chosen):
            if shown(simpler) in tried:
                continue
            tried.add(shown(simpler))
            if fails(simpler):
                chosen = simpler
                break
        else:
            return chosen


def shown(chosen: Group) -> str:
    """A group with one case, in a line."""
    (case,) = chosen.played
    filled = ", read before" if chosen.filled else ""
    landed = f", {chosen.landed} landed" if chosen.landed else ""
    return (
        f"{case.stream} of {chosen.company}, {chosen.first} to {chosen.last}, pages of {chosen.page_size}, "
        f"{chosen.order}{landed}{filled}: {list(case.entries)}"
    )


def _simpler(chosen: Group) -> Iterator[Group]:
    (case,) = chosen.played
    if len(chosen.cases) > 1:
        yield replace(chosen, cases=(case,))
    for at in range(len(case.entries) if len(case.entries) > 1 else 0):
        yield _with(chosen, case, case.entries[:at] + case.entries[at + 1 :])
    if chosen.order is not Order.TOGETHER:
        yield replace(chosen, order=Order.TOGETHER, landed=0)
    if chosen.filled:
        yield replace(chosen, filled=False)
    days = chosen.days
    parts = [(days[0], days[-2]), (days[1], days[-1])] if days[1:] else []
    for first, last in [(day, day) for day in days if days[1:]] + parts:
        yield replace(chosen, first=first, last=last, landed=min(chosen.landed, (last - first).days + 1))
    if chosen.page_size != _SIMPLE_PAGE:
        yield replace(chosen, page_size=_SIMPLE_PAGE)
    for at, entry in enumerate(case.entries):
        for plainer in _plainer(entry):
            yield _with(chosen, case, (*case.entries[:at], plainer, *case.entries[at + 1 :]))


def _plainer(entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name in ("chance", "request"):
        if name in entry:
            yield {key: value for key, value in entry.items() if key != name}
    if entry["times"] > 1:
        yield entry | {"times": 1}


def _with(chosen: Group, case: Case, entries: tuple[dict[str, Any], ...]) -> Group:
    other = replace(case, entries=entries)
    return replace(chosen, cases=tuple(other if one.number == case.number else one for one in chosen.cases))
