"""The event tables and the SQL over them; nothing about where events come from."""

import os

# With a second thread delta-rs reads ahead without bound: a million rows took twice the memory and no less time.
os.environ.setdefault("TOKIO_WORKER_THREADS", "1")

from teei_ingest.settings import Settings
from teei_ingest.store import pandas_later  # noqa: F401
from teei_ingest.store.deployment import deployment_id
from teei_ingest.store.locks import Locks
from teei_ingest.store.presence import Presence
from teei_ingest.store.rotations import Rotations
from teei_ingest.store.tables import Store
from teei_ingest.vault.objects import ONE_REQUEST, storage_options


def open_store(settings: Settings) -> Store:
    """The store that the settings name, its tables made where they are missing."""
    options = storage_options(settings)
    if options:
        os.environ.update(ONE_REQUEST)  # delta-rs asks for it once
    store = Store(
        settings.store_uri,
        sandbox=settings.is_sandbox,
        locks=Locks(settings.home / "locks"),
        rotations=Rotations(settings.home / "rotation"),
        presence=Presence(settings.home),
        home=deployment_id(settings.home),
        storage_options=options,
    )
    store.prepare()
    return store
