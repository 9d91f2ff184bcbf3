"""`python -m teei_ingest_tests.mutation [--sample N] [--seed S] [FOLDER …]`: do the tests notice a broken promise?

First the named mutants, each of which breaks one promise, then a sample at random places of each group of folders. The
tests run once without a mutant, to see which lines each of them runs; then those that run a mutant's line are asked,
until one fails.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue

from teei_ingest_tests.mutation.named import named
from teei_ingest_tests.mutation.sampled import FOLDERS, GROUPS, sample
from teei_ingest_tests.mutation.trial import Copy, Fate, Mutant, Rehearsal, TrialError

_LIVED = (Fate.SURVIVED, Fate.NOT_COVERED)


def main() -> int:
    """Try the mutants; 1 if too many survive."""
    parser = argparse.ArgumentParser(prog="mutation", description=__doc__)
    parser.add_argument("folders", metavar="FOLDER", nargs="*", help=", ".join(FOLDERS))
    parser.add_argument(
        "--sample", metavar="N", type=int, default=300, help="mutants at random places of a group (300)"
    )
    parser.add_argument("--seed", metavar="S", type=int, default=secrets.randbelow(10**6), help="of an earlier sample")
    parser.add_argument("--named", metavar="TEXT", default="", help="only named mutants with this in their name")
    parser.add_argument("--workers", metavar="N", type=int, default=1, help="mutants at the same time (1)")
    chosen = parser.parse_args()
    if unknown := set(chosen.folders) - set(FOLDERS):
        parser.error(f"no mutants of {', '.join(unknown)}; there are {', '.join(FOLDERS)}")
    ours = [mutant for mutant in named() if chosen.named in mutant.name]
    asked = set(chosen.folders or FOLDERS)
    groups = [(sorted(asked.intersection(group)), share) for group, share in GROUPS.items()] if chosen.sample else []
    drawn = [(group, share, sample(group, chosen.sample, chosen.seed)) for group, share in groups if group]
    every = [*ours, *(mutant for _, _, mutants in drawn for mutant in mutants)]
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="teei-mutation-")))
        copies = [held.enter_context(Copy(folder / str(number))) for number in range(chosen.workers)]
        try:
            rehearsal = copies[0].rehearse(
                sorted({test for mutant in every for test in mutant.tests}), {mutant.file for mutant in every}
            )
            print(f"{len(rehearsal.seconds)} tests pass without a mutant ({rehearsal.took:.0f} s)", flush=True)
            for test in rehearsal.failed:
                print(f"  and this one fails, so it is not asked: {test}", flush=True)
            failed = bool(_try(copies, rehearsal, "named", ours)) if ours else False
            for group, share, mutants in drawn:
                lived = _try(copies, rehearsal, f"{', '.join(group)}, seed {chosen.seed}", mutants)
                failed |= len(mutants) - lived < share * len(mutants)
        except TrialError as problem:
            print(problem, file=sys.stderr)
            return 1
    return int(failed)


def _try(copies: Sequence[Copy], rehearsal: Rehearsal, title: str, mutants: Sequence[Mutant]) -> int:
    """Try each and print what became of it; how many survived."""
    free: SimpleQueue[Copy] = SimpleQueue()
    for copy in copies:
        free.put(copy)

    def one(mutant: Mutant) -> Fate:
        copy, begun = free.get(), time.monotonic()
        try:
            fate, by = copy.fate(mutant, rehearsal)
        finally:
            free.put(copy)
        how = f" by {by}" if by else ""
        print(f"{fate}{how}: {mutant.file}, {mutant.name} ({time.monotonic() - begun:.1f} s)", flush=True)
        return fate

    begun = time.monotonic()
    with ThreadPoolExecutor(len(copies)) as pool:
        found = list(zip(mutants, pool.map(one, mutants), strict=True))
    fates = Counter(fate for _, fate in found)
    survivors = [mutant for mutant, fate in found if fate in _LIVED]
    killed = len(mutants) - len(survivors)
    print(
        f"\n{title}: {len(mutants)} mutants, {killed} killed ({fates[Fate.TIMED_OUT]} of them by time), "
        f"{len(survivors)} survived ({fates[Fate.NOT_COVERED]} of them not covered), "
        f"{60 * len(mutants) / (time.monotonic() - begun):.0f} a minute"
    )
    for mutant in survivors:
        print(f"  {mutant.file}: {mutant.name}")
    print(flush=True)
    return len(survivors)


if __name__ == "__main__":
    sys.exit(main())
