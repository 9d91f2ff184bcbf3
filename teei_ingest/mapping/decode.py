"""Replies as JSON bytes: what reading needs to know of a page, and the records in it.

Reading looks at the ids and timestamps alone (`Pages`); the records are decoded when they are checked (`Records`), as a
whole, and only when one does not fit the generated type is the page taken apart.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from teei_ingest.contracts.fields import instant_ns
from teei_ingest.errors import SourceMisbehaves
from teei_ingest.mapping.plan import Plan


class Unreadable(SourceMisbehaves):
    """A reply that is not JSON, or ends in the middle of it; asking again may help."""


@dataclass
class Page:
    """A reply as far as reading needs it; `ids` has source id and timestamp, as sent, of each record."""

    body: bytes
    ids: list[tuple[Any, Any]]
    more: Any = None
    next: Any = None
    total: Any = None

    @property
    def count(self) -> int:
        """Records in the page."""
        return len(self.ids)

    @property
    def size(self) -> int:
        """Bytes of the reply."""
        return len(self.body)

    @cached_property
    def versions(self) -> list[tuple[str, str]]:
        """Source id and timestamp, as sent, of the records that have both."""
        return [pair for pair in self.ids if isinstance(pair[0], str) and isinstance(pair[1], str)]

    @property
    def fingerprint(self) -> int:
        """Equal for pages with the same ids and timestamps in the same order."""
        known = self.versions
        return hash(tuple(known)) if len(known) == len(self.ids) else hash(self.body)

    @property
    def last_timestamp_ns(self) -> int | None:
        """Source timestamp of the last record that has a valid one, in nanoseconds since 1970."""
        for _, moment in reversed(self.versions):
            try:
                return instant_ns(moment)
            except ValueError:
                continue
        return None


class Pages:
    """Decodes the replies of one stream as far as reading needs them; errors bear `company` and never a value."""

    def __init__(self, plan: Plan, company: str | None = None) -> None:
        self._plan = plan
        self._company = company
        self._heads = msgspec.json.Decoder(plan.head_page)
        self._head = msgspec.json.Decoder(plan.head)
        self._raw_page = msgspec.json.Decoder(plan.raw_page)

    def __call__(self, body: bytes) -> Page:
        body = body.removeprefix(codecs.BOM_UTF8)
        reply: Any = None
        try:
            reply = self._heads.decode(body)
        except msgspec.ValidationError:
            pass  # a record that is no object, or no list of records at all
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise unreadable(self._plan, self._company) from None
        if reply is not None:
            try:
                return _page(body, reply, list(map(self._plan.version_of, reply.records)))
            except AttributeError:  # an object around one of them is missing
                return _page(body, reply, [self._version(row) for row in reply.records])
        reply, ids = _taken_apart(self._raw_page, body, self._plan, self._company), []
        for item in reply.records:
            try:
                ids.append(self._version(self._head.decode(item)))
            except (msgspec.DecodeError, RecursionError):
                ids.append((None, None))
        return _page(body, reply, ids)

    def _version(self, row: Any) -> tuple[Any, Any]:
        try:
            return self._plan.version_of(row)
        except AttributeError:
            return None, None


class Records:
    """Decodes the records of one stream's replies."""

    def __init__(self, plan: Plan, company: str | None = None) -> None:
        self._plan = plan
        self._company = company
        self._page = msgspec.json.Decoder(plan.page)
        self._raw_page = msgspec.json.Decoder(plan.raw_page)
        self._record = msgspec.json.Decoder(plan.record)
        self._whole_first = True  # not after a page with a bad record: the next one likely has one, too

    def __call__(self, body: bytes) -> tuple[list[Any], Sequence[msgspec.Raw] | None]:
        """(a Struct for each record, None where the type did not fit; the records as sent, if it came to that)."""
        try:
            if self._whole_first:
                reply: Any = self._page.decode(body)
                return reply.records, None
        except msgspec.ValidationError:
            pass
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise unreadable(self._plan, self._company) from None
        raw = self.raw(body)
        rows: list[Any] = []
        decode = self._record.decode
        for item in raw:
            try:
                rows.append(decode(item))
            except (msgspec.DecodeError, RecursionError):  # a ValidationError is one, too
                rows.append(None)  # the record-wise way decides about it
        self._whole_first = None not in rows
        return rows, raw

    def raw(self, body: bytes) -> Sequence[msgspec.Raw]:
        """The records as the source sent them."""
        found: list[msgspec.Raw] = _taken_apart(self._raw_page, body, self._plan, self._company).records
        return found


def _taken_apart(decoder: msgspec.json.Decoder[Any], body: bytes, plan: Plan, company: str | None) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError:
        pass
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise unreadable(plan, company) from None
    stream = plan.stream
    raise SourceMisbehaves(
        f"the reply has no list `{stream.records}`; is this the right API version?",
        system=stream.system,
        stream=stream.name,
        company=company,
    )


def _page(body: bytes, reply: Any, ids: list[tuple[Any, Any]]) -> Page:
    page = Page(body, ids)
    for name in ("more", "next", "total"):
        value = getattr(reply, name, None)
        while isinstance(value, msgspec.Struct):
            value = value.value  # type: ignore[attr-defined]
        setattr(page, name, value)
    return page


def unreadable(plan: Plan, company: str | None) -> Unreadable:
    """The error for a reply that cannot be decoded."""
    stream = plan.stream
    message = "the reply is not complete JSON in UTF-8"
    return Unreadable(message, system=stream.system, stream=stream.name, company=company)
