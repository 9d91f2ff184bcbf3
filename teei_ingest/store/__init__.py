"""The event tables and the SQL over them; nothing about where events come from."""

from teei_ingest.settings import Settings
from teei_ingest.store.tables import Store


def open_store(settings: Settings) -> Store:
    """The store that the settings name, its tables made where they are missing."""
    store = Store(settings.store_uri, sandbox=settings.is_sandbox)
    store.prepare()
    return store
