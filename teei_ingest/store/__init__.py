"""The event tables and the SQL over them; nothing about where events come from."""

import os

# With a second thread delta-rs reads ahead without bound: a million rows took twice the memory and no less time.
os.environ.setdefault("TOKIO_WORKER_THREADS", "1")

from teei_ingest.settings import Settings
from teei_ingest.store.locks import Locks
from teei_ingest.store.presence import Presence
from teei_ingest.store.rotations import Rotations
from teei_ingest.store.tables import Store


def open_store(settings: Settings) -> Store:
    """The store that the settings name, its tables made where they are missing."""
    store = Store(
        settings.store_uri,
        sandbox=settings.is_sandbox,
        locks=Locks(settings.home / "locks"),
        rotations=Rotations(settings.home / "rotation"),
        presence=Presence(settings.home),
    )
    store.prepare()
    return store
