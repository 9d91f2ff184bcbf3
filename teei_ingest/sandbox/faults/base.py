"""What a fault is: one declaration, and what it is told of the request that it disturbs.

Belongs here: the declaration's type. Does not belong here: the faults themselves, when they strike (`plan.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from teei_ingest.sandbox.reply import Reply
from teei_ingest.streams.base import Stream
from teei_ingest.systems import all_systems
from teei_ingest.systems.base import OAuth2, System

if TYPE_CHECKING:
    from teei_ingest.sandbox.app import Sandbox
    from teei_ingest.sandbox.lists import Ask

Value = str | int | float


class At(StrEnum):
    """What a request asks for."""

    LIST = "list"
    TOKEN = "token"
    HEALTH = "health"
    CONNECTION = "connection"  # before there is a request


class Heals(StrEnum):
    """What the product is expected to do when a fault strikes once."""

    RETRIED = "retried"  # it makes the request again, and has all records
    REREAD = "reread"  # it reads the window again, and has all records
    KEPT = "kept"  # it takes the reply as it is, and has all records
    QUARANTINED = "quarantined"  # it sets the bad records aside, and has all others
    LATER = "later"  # nothing shows it: a record may be missing until the window is read again
    FAILS = "fails"  # the partition fails and keeps what it had

    @property
    def succeeds(self) -> bool:
        """Whether the partition is complete."""
        return self is not Heals.FAILS


@dataclass(frozen=True)
class Parameter:
    """A setting of a fault; its type is the default's, whole numbers are good for fractions."""

    default: Value
    description: str
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = math.inf


@dataclass(frozen=True)
class Call:
    """A request. `number` counts those of its stream and company from 1, `page` is the page it asks for."""

    sandbox: Sandbox
    at: At
    system: System
    target: str  # path and query
    host: str
    stream: Stream | None = None
    company: str | None = None
    ask: Ask | None = None
    before: Ask | None = None  # what the page before was asked for with
    page: int = 1
    number: int = 0

    @property
    def listed(self) -> tuple[Stream, Ask]:
        """The stream and the page of a good reply to a list."""
        assert self.stream is not None and self.ask is not None
        return self.stream, self.ask


def everywhere(system: System, stream: Stream | None) -> bool:
    """Every system and stream can have the fault."""
    return True


def with_tokens(system: System, stream: Stream | None) -> bool:
    """Systems that give out tokens."""
    return isinstance(system.auth, OAuth2)


@dataclass(frozen=True)
class Fault:
    """One way to misbehave.

    `act(call, reply, rng, **parameters)` gives the disturbed reply, or None where there is nothing to disturb, which
    does not count. `page` says that it needs a good reply to a list. A `lasting` one goes on, for the stream and
    company that it struck, until the plan is replaced: half of it would lose records in a way that nobody can see;
    with `from_first` it begins on a first page.
    `elsewhere` gives the streams for which the product is expected to do something else. `error` is the code of the
    error where it fails.
    """

    name: str
    description: str
    heals: Heals
    act: Callable[..., Reply | None]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    places: tuple[At, ...] = (At.LIST,)
    page: bool = False
    lasting: bool = False
    from_first: bool = False
    applies_to: Callable[[System, Stream | None], bool] = everywhere
    elsewhere: Callable[[Stream], Heals | None] = lambda stream: None
    error: str = "source_misbehaves"

    def applies(self, stream: Stream) -> bool:
        """Whether a stream, or its system's token endpoint, can have it."""
        return self.applies_to(all_systems()[stream.system], stream)

    def outcome(self, stream: Stream) -> Heals:
        """What the product is expected to do for a stream."""
        return self.elsewhere(stream) or self.heals
