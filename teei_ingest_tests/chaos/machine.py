"""Playing cases: seven share a run, one of each system, and forty-two a home, in a few processes.

One home in forty has Dagster's SQLite instance, the others have the ephemeral one.
"""

from __future__ import annotations

import gc
import multiprocessing
import resource
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack

from teei_ingest.sandbox.faults import FAULTS, Plan
from teei_ingest_tests.chaos.case import GROUPS, LEFT_OUT, TOGETHER, Group, Order, group
from teei_ingest_tests.chaos.judge import LEAKED, LOST, VERDICTS, WRONGLY_FAILED, Verdict, canaries, judge, same, truth
from teei_ingest_tests.chaos.place import CLOCK, Place, place
from teei_ingest_tests.proof.search import Search, files

_SQLITE = 40
_GARBAGE = 20_000  # Dagster's objects stay: looking through them often took a seventh of the time
_SHOWN = 20
_WRONGS = 4
_CAME = ("kept", "retried", "reread", "quarantined", "failed")

_here: tuple[Place, Search] | None = None
_held = ExitStack()


def play(seed: int, home: int, wanted: Iterable[Group]) -> list[Verdict]:
    """The groups of a home, one after the other, in a place of this process's own."""
    global _here
    if _here is None:
        gc.set_threshold(_GARBAGE)
        made = _held.enter_context(place())
        _here = made, canaries(made.config.seed, made.config.people)
    where, search = _here
    where.renew(sqlite=_on_sqlite(home))
    found: list[Verdict] = []
    for chosen in wanted:
        try:
            found += _group(where, search, seed, chosen)
        except Exception:  # noqa: BLE001 - whatever it is, the other cases go on
            said = f"not played to its end: {traceback.format_exc(limit=-3)}"
            found += [Verdict(case, wrong=[(WRONGLY_FAILED, said)]) for case in chosen.played]
            where.renew(sqlite=_on_sqlite(home))
    hits = [hit for name, data in files(where.home) for hit in search(name, data)]
    found[-1].wrong += [(LEAKED, f"{hit.place} has somebody's {hit.form}") for hit in hits[:3]]
    return found


def play_case(seed: int, chosen: Group) -> Verdict:
    """The only case of a group, in a home of its own."""
    (verdict,) = play(seed, chosen.number // GROUPS, [chosen])
    return verdict


def _group(where: Place, search: Search, seed: int, chosen: Group) -> list[Verdict]:
    streams = [case.stream for case in chosen.played]
    said = []
    if chosen.filled:
        said.append(where.run(chosen).said)
    before, truths = where.rows(chosen), {stream: truth(where, chosen, stream) for stream in streams}
    if chosen.landed:
        said.append(where.run(chosen, events=False, days=chosen.landed).said)
    plan = Plan.parse(chosen.plan(seed))
    where.sandbox.faults = plan
    disturbed = kept = where.run(
        chosen, streams=chosen.order is not Order.EVENTS, events=chosen.order is not Order.STREAMS
    )
    said.append(disturbed.said)
    where.sandbox.faults = Plan()
    CLOCK.now += 7200
    if chosen.order is Order.STREAMS:
        meanwhile = where.rows(chosen)
        kept = where.run(chosen, streams=False)
        said.append(kept.said)
    between = where.rows(chosen)
    undisturbed = where.run(chosen)
    after = where.rows(chosen)
    said.append(undisturbed.said)
    times = iter(plan.fired)
    fired, verdicts = {case.number: [next(times) for _ in case.entries] for case in chosen.cases}, []
    for case in chosen.played:
        verdict = Verdict(case, fired[case.number])
        both = truths[case.stream], truth(where, chosen, case.stream)
        judge(verdict, chosen, (disturbed, kept, undisturbed), (before, between, after), both)
        if chosen.order is Order.STREAMS and not same(case.stream, before, meanwhile):
            verdict.say(LOST, "a stream alone changed its events")
        verdicts.append(verdict)
    for left in (where.home / "landing").rglob("*.sealed"):
        verdicts[0].say(LEAKED, f"{left.relative_to(where.home)} is left behind")
    for hit in search("what was logged", "\n".join(said).encode()):
        verdicts[0].say(LEAKED, f"{hit.place} has somebody's {hit.form}")
    return verdicts


def _on_sqlite(home: int) -> bool:
    return home % _SQLITE == 2


def _homes(cases: int, seed: int) -> Iterator[tuple[int, list[Group]]]:
    homes: dict[int, list[Group]] = {}
    for number in range(-(-cases // TOGETHER)):
        homes.setdefault(number // GROUPS, []).append(group(seed, number))
    yield from homes.items()


def run(cases: int, seed: int, workers: int = 2) -> Iterator[Verdict]:
    """The verdicts, as they come; in this process where there are no `workers`."""
    homes = list(_homes(cases, seed))
    if not workers:
        for home, groups in homes:
            yield from play(seed, home, groups)
        return
    spawned = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=spawned)
    try:
        for done in [pool.submit(play, seed, home, groups) for home, groups in homes]:
            yield from done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def wrongs(verdict: Verdict) -> str:
    """What is wrong with a case, the first of it."""
    return "\n".join(f"  {kind}: {what}" for kind, what in verdict.wrong[:_WRONGS])


def told(verdict: Verdict, seed: int) -> str:
    """What is wrong with a case, and what repeats it."""
    case = verdict.case
    again = f"again: python -m teei_ingest_tests.chaos --seed {seed} --only {case.number}"
    return f"case {case.number}, {case.stream}, {list(case.entries)}\n{wrongs(verdict)}\n  {again}"


def report(verdicts: list[Verdict], seed: int, seconds: float) -> str:
    """What the cases showed, as it is printed."""
    lines = []
    wrong = Counter(kind for verdict in verdicts for kind in {kind for kind, _ in verdict.wrong})
    lines += [told(verdict, seed) for verdict in [one for one in verdicts if one.wrong][:_SHOWN]]
    alone: dict[str, Counter[str]] = {name: Counter() for name in FAULTS}
    fired: Counter[str] = Counter()
    for verdict in verdicts:
        for fault, times in zip(verdict.case.faults, verdict.fired, strict=bool(verdict.fired)):
            fired[fault.name] += times
            if times and len(verdict.fired) == 1:
                alone[fault.name][verdict.came] += 1
    lines.append(f"{'fault':24}{'fired':>7}" + "".join(f"{came:>12}" for came in _CAME))
    for name, came in alone.items():
        lines.append(f"{name:24}{fired[name]:>7}" + "".join(f"{came[one] or '':>12}" for one in _CAME))
    lines += [f"not drawn: {name}: {why}" for name, why in LEFT_OUT.items()]
    groups = {verdict.case.number // TOGETHER: group(seed, verdict.case.number // TOGETHER) for verdict in verdicts}
    orders = Counter(groups[verdict.case.number // TOGETHER].order for verdict in verdicts)
    sqlite = sum(_on_sqlite(verdict.case.number // TOGETHER // GROUPS) for verdict in verdicts)
    shares = ", ".join(f"{orders[order]} {order}" for order in Order)
    lines.append(f"{seconds:.0f} s, {_cpu():.0f} s of CPU, seed {seed}; {shares}; {sqlite} on SQLite")
    figures = ", ".join(f"{kind} {wrong[kind]}" for kind in VERDICTS)
    lines.append(f"cases {len(verdicts)}, {figures}")
    return "\n".join(lines)


def _cpu() -> float:
    """Seconds of this process and of those that it has waited for."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def close() -> None:
    """Give back what this process's own place holds."""
    global _here
    _here = None
    _held.close()
