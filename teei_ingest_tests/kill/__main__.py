"""`make kill`, or `python -m teei_ingest_tests.kill [--kills N] [--seed S] [--only POINT]`: nothing is lost by a kill.

Every named point at least five times, cold processes ten times, and the rest at random moments; then prints
`kills N, differences 0, leftovers 0` and how many were confirmed at each point. Exit code 1 if it is not so.
"""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from teei_ingest_tests.kill.machine import BARE, LANDED, OLD, Case, Machine, machine
from teei_ingest_tests.kill.points import BOTH, EVENTS, POINTS, STREAMS

EACH, COLD = 5, 10
_TRIES = 4  # for a point that was not reached: the call before it, and so on


def main() -> int:
    """Kill, print; 1 if something was lost or left behind, or a point was not reached often enough."""
    parser = argparse.ArgumentParser(prog="kill", description=__doc__)
    parser.add_argument("--kills", metavar="N", type=int, default=120, help="kills in all (120)")
    parser.add_argument("--seed", metavar="S", type=int, default=secrets.randbelow(10**6), help="of an earlier run")
    parser.add_argument("--only", metavar="POINT", choices=[*POINTS, "random", "cold"], help="kill there alone")
    chosen = parser.parse_args()
    chance = random.Random(chosen.seed)
    begun = time.monotonic()
    confirmed: Counter[str] = Counter()
    differences = leftovers = kills = 0
    print(f"seed {chosen.seed}", flush=True)
    with (
        suppress(KeyboardInterrupt),  # what was seen until then is told
        tempfile.TemporaryDirectory(prefix="teei-kill-") as folder,
        machine(Path(folder)) as made,
    ):
        for case in _cases(chosen.kills, chosen.only, chance):
            where, problems, was_killed = _kill(made, case)
            confirmed[where] += was_killed
            kills += was_killed
            differences += sum(kind == "difference" for kind, _ in problems)
            leftovers += sum(kind == "leftover" for kind, _ in problems)
            for kind, problem in problems:
                print(f"  {kind}: {problem}\n    {case}", flush=True)
    wanted = [name for name in POINTS if chosen.only in (None, name) and chosen.kills >= EACH * len(POINTS)]
    for name in confirmed:
        print(f"{confirmed[name]:5}  {POINTS[name].what if name in POINTS else name}")
    print(f"kills {kills}, differences {differences}, leftovers {leftovers} ({time.monotonic() - begun:.0f} s)")
    missed = [name for name in wanted if confirmed[name] < EACH]
    if missed:
        print(f"not reached {EACH} times: {', '.join(missed)}", file=sys.stderr)
    return int(bool(differences or leftovers or missed))


def _kill(made: Machine, case: Case) -> tuple[str, list[tuple[str, str]], bool]:
    """(where, what was wrong, whether it was killed there); tried again a little earlier if it was not."""
    problems = []
    for _ in range(_TRIES):
        verdict = made.kill(case)
        problems += [("difference", one) for one in verdict.differences]
        problems += [("leftover", one) for one in verdict.leftovers]
        if verdict.confirmed:
            break
        case = case.earlier()
    return case.where, problems, verdict.confirmed


def _cases(kills: int, only: str | None, chance: random.Random) -> Iterator[Case]:
    """The named points in turns, so that an early end has seen all of them, then the cold ones, then any moment."""
    names = [only] if only in POINTS else list(POINTS) if only is None else []
    each = kills if only in POINTS else EACH
    cold = kills if only == "cold" else COLD if only is None else 0
    cases = [named(name, chance.randint(1, POINTS[name].calls)) for _ in range(each) for name in names]
    cases += [Case(chance.choice([BARE, OLD]), share=chance.uniform(0.02, 0.9), cold=True) for _ in range(cold)]
    while len(cases) < kills:
        home, work = chance.choice([(BARE, BOTH), (OLD, BOTH), (OLD, BOTH), (OLD, STREAMS), (LANDED, EVENTS)])
        cases.append(Case(home, work, share=chance.uniform(0.02, 0.95), twice=chance.random() < 0.2))
    yield from cases[:kills]


def named(name: str, call: int) -> Case:
    """A kill at a point, at the so-manieth call, in a home that gets there."""
    point = POINTS[name]
    home = BARE if point.bare else LANDED if point.work == EVENTS else OLD
    return Case(home, point.work, name, call)


if __name__ == "__main__":
    sys.exit(main())
