"""An erasure in a process of its own that is killed at a point: `python -m teei_ingest_tests.proof.killed POINT`.

The environment is the home's, standard input the identity. Beside `erasure.py`, so that nothing slow is imported.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from deltalake import DeltaTable

from teei_ingest.companies import load_companies
from teei_ingest.landing.landing import Landing
from teei_ingest.landing.quarantine import Quarantine
from teei_ingest.landing.suppression import Suppressions
from teei_ingest.privacy import erase
from teei_ingest.privacy.identity import read_identity
from teei_ingest.settings import Settings
from teei_ingest.store.tables import Store

# (owner, method, its so-manieth call, whether before it): where the process is killed.
POINTS: dict[str, tuple[Any, str, int, bool]] = {
    "before anything": (Suppressions, "add", 1, True),
    "suppressed": (Suppressions, "add", 1, False),
    "first rows": (Store, "rewrite", 1, False),
    "some rows": (Store, "rewrite", 6, True),
    "all rows": (Landing, "sweep", 1, True),
    "quarantine": (Quarantine, "_write", 1, False),
    "landing": (Landing, "write", 1, False),
    "before the purge": (Store, "purge", 1, True),
    "files gone": (DeltaTable, "vacuum", 1, False),
    "before the checkpoint": (DeltaTable, "create_checkpoint", 2, True),
    "log not cut": (DeltaTable, "cleanup_metadata", 3, True),
    "log cut": (DeltaTable, "cleanup_metadata", 3, False),
    "purged": (erase, "_refuse_remains", 1, True),
    "looked through": (erase, "_refuse_remains", 1, False),
    "before it is done": (Suppressions, "finish", 1, True),
}


def main(label: str) -> None:
    owner, method, call, before = POINTS[label]
    original, calls = getattr(owner, method), 0

    def die(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if before and calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, method, die)
    settings = Settings.load(dict(os.environ))
    (company,) = load_companies(settings)
    erase.erase(settings, company, read_identity(sys.stdin), why="proof")


if __name__ == "__main__":
    main(sys.argv[1])
