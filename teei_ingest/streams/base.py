"""What a stream is: endpoint, paging, window, contract, and the way from the wire to the contract.

Everything here is data. How a page is fetched is `extract/`, how a mapping is carried out is `mapping/`.

A wire path names keys with `/` between them; `?` behind a key says that it may be missing or null, and then so may
the whole value: `"location?/country"`. A path without `?` is required, and a record that lacks it is quarantined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from teei_ingest.contracts.base import Data


@dataclass(frozen=True)
class PageNumber:
    """Pages counted from 1 until `more` says false."""

    more: str
    page: str = "page"
    limit: str = "limit"


@dataclass(frozen=True)
class Cursor:
    """An opaque cursor until `next` is missing or null."""

    next: str = "next_cursor"
    cursor: str = "cursor"
    limit: str = "limit"


@dataclass(frozen=True)
class StartIndex:
    """SCIM's paging (RFC 7644, section 3.4.2.4): 1-based index; the server may return fewer than asked for."""

    start: str = "startIndex"
    limit: str = "count"
    total: str = "totalResults"
    per_page: str = "itemsPerPage"


@dataclass(frozen=True)
class Between:
    """The source takes both ends of a window: `since` inclusive, `until` exclusive."""

    since: str = "since"
    until: str = "until"


@dataclass(frozen=True)
class SinceOnly:
    """The source knows no end, but sends records in ascending order, so reading stops beyond the window."""

    since: str = "since"


@dataclass(frozen=True)
class ScimFilter:
    """`attribute ge … and attribute lt …` (RFC 7644, section 3.4.2.2); a server may refuse it."""

    attribute: str = "meta.lastModified"
    param: str = "filter"


@dataclass(frozen=True)
class Choice:
    """A wire value looked up without regard to case.

    What `values` does not list becomes the contract's `other`, and is counted; where the contract has none, the
    record is quarantined. `absent` is what a missing value means, where the source says so.
    """

    path: str
    values: Mapping[str, Enum]
    absent: Enum | None = None

    @classmethod
    def same(cls, path: str, values: type[Enum], *, absent: Enum | None = None) -> Choice:
        """The wire uses the contract's own names."""
        return cls(path, {member.value: member for member in values}, absent)


@dataclass(frozen=True, init=False)
class Derived:
    """A value computed from others: each argument of `function` is a wire path, typed by its annotation.

    `object` stands for a JSON object of which only the presence is known.
    """

    function: Callable[..., Any]
    paths: Mapping[str, str]

    def __init__(self, function: Callable[..., Any], **paths: str) -> None:
        object.__setattr__(self, "function", function)
        object.__setattr__(self, "paths", paths)


@dataclass(frozen=True)
class Constant:
    """The same for every record of the stream."""

    value: Any


Source = str | Choice | Derived | Constant


@dataclass(frozen=True)
class Person:
    """Whom a record is about: by email where it has one, else by the id in the system's namespace, else by `key`."""

    id: str | Derived
    email: str | Derived | None = None
    key: str | None = None


@dataclass(frozen=True)
class Stream:
    """One stream: `mapping` goes from the contract's dotted field names to their wire sources."""

    name: str
    system: str
    title: str
    contract: type[Data]
    path: str
    records: str
    paging: PageNumber | Cursor | StartIndex
    window: Between | SinceOnly | ScimFilter
    source_id: str
    source_timestamp: str
    mapping: Mapping[str, Source]
    person: Person | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()  # where the wire names people, so that labels can be freed of them
    example: Mapping[str, Any] = field(default_factory=dict)  # one record, as the source sends it

    @property
    def events(self) -> str:
        """Name of the asset downstream: the redacted events."""
        return f"{self.name}_events"
