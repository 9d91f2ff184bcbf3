"""One reply at a time: JSON bytes to the records of a page, and what the source says of further pages.

A page is decoded as a whole; only when a record does not fit the generated type is the page taken apart.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import Any

import msgspec

from teei_ingest.contracts.fields import instant_ns
from teei_ingest.errors import SourceMisbehaves
from teei_ingest.mapping.plan import Plan


class Unreadable(SourceMisbehaves):
    """A reply that is not JSON, or ends in the middle of it; asking again may help."""


@dataclass
class Page:
    """A decoded reply: `rows` has a Struct for each record, or None where the type did not fit."""

    body: bytes
    rows: list[Any]
    plan: Plan
    more: Any = None
    next: Any = None
    total: Any = None

    @property
    def count(self) -> int:
        """Records in the page."""
        return len(self.rows)

    @property
    def size(self) -> int:
        """Bytes of the reply."""
        return len(self.body)

    @property
    def versions(self) -> list[tuple[str, str]]:
        """Source id and timestamp, as sent, of the records that have both."""
        return [self.plan.version_of(row) for row in self.rows if row is not None]

    @property
    def fingerprint(self) -> int:
        """Equal for pages with the same ids and timestamps in the same order."""
        return hash(self.body) if None in self.rows else hash(tuple(self.versions))

    @property
    def last_timestamp_ns(self) -> int | None:
        """Source timestamp of the last record that has a valid one, in nanoseconds since 1970."""
        for row in reversed(self.rows):
            try:
                if row is not None:
                    return instant_ns(self.plan.version_of(row)[1])
            except ValueError:
                continue
        return None

    def raw(self) -> list[msgspec.Raw]:
        """The records as the source sent them."""
        reply: Any = msgspec.json.decode(self.body, type=self.plan.raw_page)
        found: list[msgspec.Raw] = reply.records
        return found


class Decoder:
    """Decodes the replies of one stream; errors bear `company` and never a value."""

    def __init__(self, plan: Plan, company: str | None = None) -> None:
        self._plan = plan
        self._company = company
        self._page = msgspec.json.Decoder(plan.page)
        self._raw_page = msgspec.json.Decoder(plan.raw_page)
        self._record = msgspec.json.Decoder(plan.record)
        self._whole_first = True  # not after a page with a bad record: the next one likely has one, too

    def __call__(self, body: bytes) -> Page:
        body = body.removeprefix(codecs.BOM_UTF8)
        try:
            if self._whole_first:
                return self._whole(body)
        except msgspec.ValidationError:
            pass
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise self._error(Unreadable, "the reply is not complete JSON in UTF-8") from None
        page = self._by_record(body)
        self._whole_first = None not in page.rows
        return page

    def _whole(self, body: bytes) -> Page:
        reply: Any = self._page.decode(body)
        return self._wrap(body, reply, reply.records)

    def _by_record(self, body: bytes) -> Page:
        reply: Any = None
        try:
            reply = self._raw_page.decode(body)
        except msgspec.ValidationError:
            pass
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise self._error(Unreadable, "the reply is not complete JSON in UTF-8") from None
        if reply is None:
            name = self._plan.stream.records
            raise self._error(SourceMisbehaves, f"the reply has no list `{name}`; is this the right API version?")
        rows: list[Any] = []
        decode = self._record.decode
        for item in reply.records:
            try:
                rows.append(decode(item))
            except (msgspec.DecodeError, RecursionError):  # a ValidationError is one, too
                rows.append(None)  # the record-wise way decides about it
        return self._wrap(body, reply, rows)

    def _wrap(self, body: bytes, reply: Any, rows: list[Any]) -> Page:
        page = Page(body, rows, self._plan)
        for name in ("more", "next", "total"):
            value = getattr(reply, name, None)
            while isinstance(value, msgspec.Struct):
                value = value.value  # type: ignore[attr-defined]
            setattr(page, name, value)
        return page

    def _error(self, kind: type[SourceMisbehaves], message: str) -> SourceMisbehaves:
        stream = self._plan.stream
        return kind(message, system=stream.system, stream=stream.name, company=self._company)
