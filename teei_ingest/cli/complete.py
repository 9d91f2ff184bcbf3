"""What a shell may complete. A shell that waits for Tab is told nothing of errors."""

from __future__ import annotations

from contextlib import suppress


def company_slugs(incomplete: str) -> list[str]:
    """Slugs in the registry."""
    from teei_ingest.companies import load_companies
    from teei_ingest.errors import TeeiError
    from teei_ingest.settings import Settings

    with suppress(TeeiError):
        return [slug for slug in load_companies(Settings.load()).slugs if slug.startswith(incomplete)]
    return []


def stream_names(incomplete: str) -> list[str]:
    """Names of the streams."""
    from teei_ingest.streams import all_streams

    return [name for name in all_streams() if name.startswith(incomplete)]


def view_names(incomplete: str) -> list[str]:
    """Names of the views."""
    from teei_ingest.store.views import views

    return [name for name in views() if name.startswith(incomplete)]
