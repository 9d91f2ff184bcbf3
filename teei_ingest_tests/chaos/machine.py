"""Playing cases: seven share a run, one of each system, and forty-two a home, in as many processes as there are cores.

One home in fifty has Dagster's SQLite instance, the others have the ephemeral one.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack

from teei_ingest.sandbox.faults import FAULTS, Plan
from teei_ingest_tests.chaos.case import GROUPS, TOGETHER, Group, group
from teei_ingest_tests.chaos.judge import LEAKED, VERDICTS, Verdict, canaries, judge, truth
from teei_ingest_tests.chaos.place import CLOCK, Place, place
from teei_ingest_tests.proof.search import Search, files

_SQLITE = 50
_SHOWN = 20
_CAME = ("kept", "retried", "reread", "quarantined", "failed")

_here: tuple[Place, Search] | None = None
_held = ExitStack()


def play(seed: int, home: int, wanted: tuple[int, ...], only: int | None) -> list[Verdict]:
    """The groups of a home, one after the other, in a place of this process's own."""
    global _here
    if _here is None:
        made = _held.enter_context(place())
        _here = made, canaries(made.config.seed, made.config.people)
    where, search = _here
    where.renew(sqlite=home % _SQLITE == _SQLITE - 1)
    found: list[Verdict] = []
    for number in wanted:
        chosen = group(seed, number)
        found += _group(where, search, seed, chosen if only is None else chosen.only(only))
    hits = [hit for name, data in files(where.home) for hit in search(name, data)]
    found[-1].wrong += [(LEAKED, f"{hit.place} has somebody's {hit.form}") for hit in hits[:3]]
    return found


def _group(where: Place, search: Search, seed: int, chosen: Group) -> list[Verdict]:
    streams = [case.stream for case in chosen.cases]
    said = []
    if chosen.filled:
        said.append(where.run(chosen).said)
    before, truths = where.rows(chosen), {stream: truth(where, chosen, stream) for stream in streams}
    plan = Plan.parse(chosen.plan(seed))
    where.sandbox.faults = plan
    disturbed = where.run(chosen)
    where.sandbox.faults = Plan()
    CLOCK.now += 7200
    between = where.rows(chosen)
    undisturbed = where.run(chosen)
    after = where.rows(chosen)
    said += [disturbed.said, undisturbed.said]
    fired, verdicts = iter(plan.fired), []
    for case in chosen.cases:
        verdict = Verdict(case, [next(fired) for _ in case.entries])
        both = truths[case.stream], truth(where, chosen, case.stream)
        judge(verdict, chosen, (disturbed, undisturbed), (before, between, after), both)
        verdicts.append(verdict)
    for hit in search("what was logged", "\n".join(said).encode()):
        verdicts[0].say(LEAKED, f"{hit.place} has somebody's {hit.form}")
    return verdicts


def _homes(cases: int, only: int | None) -> Iterator[tuple[int, tuple[int, ...]]]:
    groups = range(-(-cases // TOGETHER)) if only is None else [only // TOGETHER]
    homes: dict[int, list[int]] = {}
    for number in groups:
        homes.setdefault(number // GROUPS, []).append(number)
    for home, numbers in homes.items():
        yield home, tuple(numbers)


def run(cases: int, seed: int, only: int | None = None, workers: int = 2) -> Iterator[Verdict]:
    """The verdicts, as they come; in this process where there are no `workers`."""
    homes = list(_homes(cases, only))
    if not workers or len(homes) == 1:
        for home, numbers in homes:
            yield from play(seed, home, numbers, only)
        return
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawned) as pool:
        for done in [pool.submit(play, seed, home, numbers, only) for home, numbers in homes]:
            yield from done.result()


def report(verdicts: list[Verdict], seed: int, seconds: float) -> str:
    """What the cases showed, as it is printed."""
    lines = []
    wrong = Counter(kind for verdict in verdicts for kind in {kind for kind, _ in verdict.wrong})
    for verdict in [one for one in verdicts if one.wrong][:_SHOWN]:
        lines.append(f"case {verdict.case.number}, {verdict.case.stream}, {verdict.case.entries}")
        lines += [f"  {kind}: {what}" for kind, what in verdict.wrong[:4]]
        lines.append(f"  again: python -m teei_ingest_tests.chaos --seed {seed} --only {verdict.case.number}")
    alone: dict[str, Counter[str]] = {name: Counter() for name in FAULTS}
    fired: Counter[str] = Counter()
    for verdict in verdicts:
        for fault, times in zip(verdict.case.faults, verdict.fired, strict=True):
            fired[fault.name] += times
            if times and len(verdict.fired) == 1:
                alone[fault.name][verdict.came] += 1
    lines.append(f"{'fault':24}{'fired':>7}" + "".join(f"{came:>12}" for came in _CAME))
    for name, came in alone.items():
        lines.append(f"{name:24}{fired[name]:>7}" + "".join(f"{came[one] or '':>12}" for one in _CAME))
    lines.append(f"{seconds:.0f} s, seed {seed}")
    figures = ", ".join(f"{kind} {wrong[kind]}" for kind in VERDICTS)
    lines.append(f"cases {len(verdicts)}, {figures}")
    return "\n".join(lines)


def close() -> None:
    """Give back what this process's own place holds."""
    global _here
    _here = None
    _held.close()
