"""`python -m teei_ingest_tests.mutation [--sample N] [--seed S] [FOLDER …]`: do the tests notice a broken promise?

First the named mutants, each of which breaks one promise, then a sample at random places of the folders. Takes as long
as hundreds of runs of some test files; `nice` is a good idea.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from teei_ingest_tests.mutation.named import named
from teei_ingest_tests.mutation.sampled import FOLDERS, sample
from teei_ingest_tests.mutation.trial import Copy, Fate, Mutant, TrialError

SHARE = 0.9  # of a sample has to be killed; of the named ones every one


def main() -> int:
    """Try the mutants; 1 if too many survive."""
    parser = argparse.ArgumentParser(prog="mutation", description=__doc__)
    parser.add_argument("folders", metavar="FOLDER", nargs="*", help=", ".join(FOLDERS))
    parser.add_argument("--sample", metavar="N", type=int, default=300, help="mutants at random places (300)")
    parser.add_argument("--seed", metavar="S", type=int, default=secrets.randbelow(10**6), help="of an earlier sample")
    parser.add_argument("--named", metavar="TEXT", default="", help="only named mutants with this in their name")
    chosen = parser.parse_args()
    if unknown := set(chosen.folders) - set(FOLDERS):
        parser.error(f"no mutants of {', '.join(unknown)}; there are {', '.join(FOLDERS)}")
    ours = [mutant for mutant in named() if chosen.named in mutant.name]
    drawn = sample(chosen.folders or FOLDERS, chosen.sample, chosen.seed) if chosen.sample else []
    with tempfile.TemporaryDirectory(prefix="teei-mutation-") as folder:
        copy = Copy(Path(folder))
        try:
            took = copy.rehearse(sorted({test for mutant in (*ours, *drawn) for test in mutant.tests}))
            print(f"the tests pass without a mutant ({took:.0f} s)", flush=True)
            lived_named = _try(copy, "named", ours) if ours else []
            lived = _try(copy, f"sampled, seed {chosen.seed}", drawn) if drawn else []
        except TrialError as problem:
            print(problem, file=sys.stderr)
            return 1
    return int(bool(lived_named) or len(drawn) - len(lived) < SHARE * len(drawn))


def _try(copy: Copy, title: str, mutants: Sequence[Mutant]) -> list[Mutant]:
    """Try each and print what became of it; those that survived."""
    fates: Counter[Fate] = Counter()
    survivors = []
    for mutant in mutants:
        begun = time.monotonic()
        fate, by = copy.fate(mutant)
        fates[fate] += 1
        if fate is Fate.SURVIVED:
            survivors.append(mutant)
        how = f" by {by}" if by else ""
        print(f"{fate}{how}: {mutant.file}, {mutant.name} ({time.monotonic() - begun:.0f} s)", flush=True)
    killed = len(mutants) - len(survivors)
    print(
        f"\n{title}: {len(mutants)} mutants, {killed} killed ({fates[Fate.TIMED_OUT]} of them by time), "
        f"{len(survivors)} survived"
    )
    for mutant in survivors:
        print(f"  {mutant.file}: {mutant.name}")
    print(flush=True)
    return survivors


if __name__ == "__main__":
    sys.exit(main())
