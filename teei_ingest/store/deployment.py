"""Which deployment this is: the id of its home, by which the event tables know whose they are.

Two deployments with one store would spoil each other's events: each has keys, a list of erased people and locks of its
own. A copy of a home is the same deployment; so only one of the two may run.
"""

from __future__ import annotations

import uuid
from pathlib import Path

from teei_ingest.errors import StoreError
from teei_ingest.store.locks import Locks
from teei_ingest.vault.files import os_errors, replacing

FILE = "deployment.id"


def deployment_id(home: Path) -> str:
    """The id of a home, made where it has none yet. Raises StoreError."""
    path = home / FILE
    with os_errors(lambda reason: StoreError(f"{path}: {reason}")):
        if not path.exists():
            with Locks(home / "locks").exclusive("deployment"):
                if not path.exists():
                    with replacing(path, lambda reason: StoreError(f"{path}: {reason}")) as write:
                        write(f"{uuid.uuid4()}\n".encode())
        text = path.read_text(encoding="utf-8", errors="replace").strip()
    try:
        return str(uuid.UUID(text))
    except ValueError:
        pass
    raise StoreError(f"{path} is damaged: restore it from its backup, or remove it and do what the next error says")
