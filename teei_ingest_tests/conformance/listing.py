"""Any records of a stream, windowed and paged as the stream's file says, with nothing else going on.

Strict: a parameter that the file does not declare, a time without offset, a page that is too large, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from teei_ingest.streams import all_streams
from teei_ingest.streams.base import Between, PageNumber, ScimFilter, StartIndex
from teei_ingest.systems import all_systems
from teei_ingest_tests.feeding import Ask, Record, Reply, page
from teei_ingest_tests.second_opinion.instants import parse

_FILTER = re.compile(r'(\S+) ge "([^"]+)" and \1 lt "([^"]+)"')


class Refused(Exception):
    """The request is not as the stream's file says."""


class Listing:
    """Answers for `answering`: the records of one stream, in ascending order where that is promised.

    A record without a valid timestamp is in every window.
    """

    def __init__(self, stream: str, records: Sequence[Record]) -> None:
        self.stream = all_streams()[stream]
        self.most = all_systems()[self.stream.system].max_page
        self.records = list(records)

    def __call__(self, ask: Ask) -> Reply:
        try:
            return Reply(self.page(ask.query))
        except (Refused, ValueError, KeyError):
            return Reply(b'{"error": "invalid", "scimType": "invalidValue"}', 422)

    def page(self, query: dict[str, str]) -> bytes:
        """The page that the query asks for. Raises Refused, ValueError, KeyError."""
        stream, paging = self.stream, self.stream.paging
        tenant = all_systems()[stream.system].tenant_param
        names = {value for part in (paging, stream.window) for name, value in vars(part).items()}
        if unknown := query.keys() - names - set(stream.params) - {tenant}:
            raise Refused(unknown)
        found = self.found(query)
        size = int(query.get(paging.limit, min(100, self.most)))
        if not 0 <= size <= self.most:
            raise Refused(size)
        if isinstance(paging, PageNumber):
            first = (int(query.get(paging.page, 1)) - 1) * size
            return page(stream.name, found[first : first + size], following=first + size < len(found))
        if isinstance(paging, StartIndex):
            first = int(query.get(paging.start, 1)) - 1
            return page(stream.name, found[first : first + size], total=len(found))
        first = int(query.get(paging.cursor, "at 0").removeprefix("at "))
        following = f"at {first + size}" if first + size < len(found) else None
        return page(stream.name, found[first : first + size], following=following)

    def found(self, query: dict[str, str]) -> list[Record]:
        """The records of the window that the query asks for."""
        window = self.stream.window
        if isinstance(window, ScimFilter):
            if window.param not in query:
                return self.records
            match = _FILTER.fullmatch(query[window.param])
            if match is None or match[1] != window.attribute:
                raise Refused
            return self._between(parse(match[2]), parse(match[3]))
        since = parse(query[window.since])
        if isinstance(window, Between):
            return self._between(since, parse(query[window.until]))
        return sorted(self._between(since, None), key=lambda record: self.moment(record) or 0)

    def _between(self, since: int, until: int | None) -> list[Record]:
        return [
            record
            for record in self.records
            if (at := self.moment(record)) is None or (since <= at and (until is None or at < until))
        ]

    def moment(self, record: Record) -> int | None:
        """The record's source timestamp in ns since 1970, if it has a valid one."""
        value: Any = record
        for key in self.stream.source_timestamp.split("/"):
            value = value.get(key) if isinstance(value, dict) else None
        try:
            return parse(value)
        except (ValueError, TypeError):
            return None
