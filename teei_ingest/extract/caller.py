"""For whom a request is made, and the errors that only reading knows."""

from dataclasses import dataclass, field
from threading import Event

from requests import PreparedRequest

from teei_ingest.errors import SourceDown, SourceError, SourceMisbehaves


class Cancelled(SourceError):
    """Whoever wanted the stream no longer does; nobody needs to be told."""

    code = "cancelled"


class Unreachable(SourceDown):
    """A request gets no answer at all."""


class CircuitOpen(Unreachable):
    """The system is known to be down, so that asking for less is of no use."""


class UnsupportedFilter(SourceMisbehaves):
    """A SCIM server refuses the filter (RFC 7644, section 3.12: 400 invalidFilter, or 501)."""


class PagesMoved(SourceMisbehaves):
    """A SCIM list changed while it was read; reading it again may help."""


@dataclass(eq=False)
class Caller:
    """One reading of a stream, used by one thread at a time.

    `requests` counts those made on its behalf, retries and token requests included. `retries` replaces the settings'
    number. Setting `cancel` ends its
    waits, and the next request that it would make, with Cancelled.
    """

    stream: str | None = None
    retries: int | None = None
    cancel: Event = field(default_factory=Event)
    requests: int = 0
    prepared: dict[str, PreparedRequest] = field(default_factory=dict, repr=False)
