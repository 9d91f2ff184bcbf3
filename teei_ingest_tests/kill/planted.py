"""Faults of a product that is not crash-safe, which the machine has to find.

Each is put into a process before it works; none is in the product.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from teei_ingest.store.tables import Store
from teei_ingest.vault import files


def _commits_half() -> None:
    """A partition is emptied in one commit and filled in another."""
    real = Store._overwrite

    def overwrite(self: Store, contract: Any, stream: str, company: str, days: Any, rows: Any) -> int:
        real(self, contract, stream, company, days, lambda: rows().schema.empty_table().to_reader())
        return real(self, contract, stream, company, days, rows)

    Store._overwrite = overwrite  # type: ignore[method-assign]


def _leaves_files() -> None:
    """What is being written is recognized by nobody afterwards."""
    files._TEMPORARY = f".{os.getpid()}.part"


def _skips_what_began() -> None:
    """What was begun once is taken for done."""
    real = Store.replace

    def replace(self: Store, contract: Any, stream: str, company: str, days: Any, rows: Any) -> int:
        begun = Path(os.environ["TEEI_HOME"]) / "locks" / f"begun-{stream}.lock"
        if begun.exists():
            return 0
        begun.touch()
        return real(self, contract, stream, company, days, rows)

    Store.replace = replace  # type: ignore[method-assign]


PLANTED: dict[str, Callable[[], None]] = {
    "commits-half": _commits_half,
    "leaves-files": _leaves_files,
    "skips-what-began": _skips_what_began,
}
