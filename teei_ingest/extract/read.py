"""A window of one stream, page by page, until the source has no more.

Belongs here: the three ways of paging, the three ways of asking for a window, and what a source may not do in
either. Does not belong here: requests (`http.py`), what is in a page (`mapping/decode.py`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from threading import Event
from typing import Any, Generic, Protocol, TypeVar

from teei_ingest.errors import SourceError, SourceMisbehaves
from teei_ingest.extract.caller import Caller, PagesMoved, UnsupportedFilter
from teei_ingest.extract.http import Source
from teei_ingest.streams.base import Between, Cursor, PageNumber, ScimFilter, SinceOnly, StartIndex, Stream

_EMPTY_PAGES = 5
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Page(Protocol):
    """A decoded reply, as far as reading needs it.

    `count` records in a body of `size` bytes. `more`, `next`, `total` are what the stream's paging declares, as the
    source sent them. `versions` are the records' ids and timestamps, as sent; `fingerprint` is equal for pages where
    they are. `last_timestamp_ns` belongs to the last record that has a valid one, in nanoseconds since 1970.
    """

    @property
    def count(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def more(self) -> Any: ...
    @property
    def next(self) -> Any: ...
    @property
    def total(self) -> Any: ...
    @property
    def fingerprint(self) -> int: ...
    @property
    def versions(self) -> Sequence[tuple[str, str]]: ...
    @property
    def last_timestamp_ns(self) -> int | None: ...


P = TypeVar("P", bound=Page)
Params = dict[str, str]
Ask = Callable[[Params], P]
Fail = Callable[[type[SourceError], str], SourceError]


class Reading(Generic[P]):
    """One reading of a window; iterate once. `pages` and `filtered_by_source` are final when it has ended."""

    def __init__(
        self,
        source: Source,
        stream: Stream,
        start: datetime,
        end: datetime,
        decode: Callable[[bytes], P],
        page_size: int,
        cancel: Event,
        retries: int | None,
    ) -> None:
        self.pages = 0
        self.filtered_by_source = True
        self._source = source
        self._stream = stream
        self._decode = decode
        self._caller = Caller(stream=stream.name, cancel=cancel, retries=retries)
        self._window = _window_params(stream.window, start, end)
        self._end_ns = (end - _EPOCH) // timedelta(microseconds=1) * 1000
        self._seen: set[int] = set()
        self._empty = 0
        self._newest = 0
        self._iterator = self._read(page_size)

    @property
    def requests(self) -> int:
        """Requests made so far, retries and the tokens that this reading fetched included."""
        return self._caller.requests

    def __iter__(self) -> Iterator[P]:
        return self._iterator

    def _read(self, page_size: int) -> Iterator[P]:
        read = _PAGING[type(self._stream.paging)]
        ends_by_time = isinstance(self._stream.window, SinceOnly)
        for page in read(self._ask, self._fail, self._stream.paging, page_size):
            yield page
            if ends_by_time and self._is_beyond(page):
                return

    def _ask(self, paging: Params) -> P:
        """The next page; with it, all that every way of paging has to be on its guard against."""
        page = self._decode(self._get(paging))
        self.pages += 1
        if page.count:
            self._empty = 0
            fingerprint = page.fingerprint
            if fingerprint in self._seen:
                raise self._fail(SourceMisbehaves, f"page {self.pages} is one that was sent before")
            self._seen.add(fingerprint)
        else:
            self._empty += 1
            if self._empty > _EMPTY_PAGES:
                raise self._fail(SourceMisbehaves, f"sends {self._empty} empty pages one after the other")
        return page

    def _get(self, paging: Params) -> bytes:
        stream = self._stream
        filtered = isinstance(stream.window, ScimFilter) and self.filtered_by_source
        try:
            params = {**stream.params, **self._window, **paging}
            return self._source.get(stream.path, params, self._caller, filtered=filtered)
        except UnsupportedFilter:
            if self.pages:
                raise
        self.filtered_by_source = False
        self._window = {}
        return self._source.get(stream.path, {**stream.params, **paging}, self._caller)

    def _is_beyond(self, page: P) -> bool:
        """Whether nothing that follows the page can be in the window."""
        last = page.last_timestamp_ns
        if last is None:
            return False
        if last < self._newest:
            raise self._fail(SourceMisbehaves, f"page {self.pages} is older than the one before it")
        self._newest = last
        return last >= self._end_ns

    def _fail(self, kind: type[SourceError], message: str) -> SourceError:
        return self._source.error(kind, message, self._caller)


def read(
    source: Source,
    stream: Stream,
    start: datetime,
    end: datetime,
    decode: Callable[[bytes], P],
    *,
    page_size: int | None = None,
    cancel: Event | None = None,
    retries: int | None = None,
) -> Reading[P]:
    """Read what changed in `[start, end)`, and, where the source cannot tell, some of what did not.

    A stream whose source knows no end comes with the rest of the page that passes it; a SCIM server that refuses
    the filter gives all (`filtered_by_source` is False then). `page_size` is at most, and by default, what the
    system allows. Raises what `Source.get` and `decode` raise, SourceMisbehaves when the paging does not hold, and
    PagesMoved when a list changed meanwhile and should be read again.
    """
    allowed = source.system.max_page
    size = min(page_size or allowed, allowed)
    return Reading(source, stream, start, end, decode, size, cancel or Event(), retries)


def _by_number(ask: Ask[P], fail: Fail, paging: PageNumber, size: int) -> Iterator[P]:
    for number in count(1):
        page = ask({paging.page: str(number), paging.limit: str(size)})
        more = page.more
        if not isinstance(more, bool):
            raise fail(SourceMisbehaves, f"page {number} does not say in `{paging.more}` whether there are more")
        yield page
        if not more:
            return


def _by_cursor(ask: Ask[P], fail: Fail, paging: Cursor, size: int) -> Iterator[P]:
    params = {paging.limit: str(size)}
    seen: set[str] = set()
    for number in count(1):
        page = ask(params)
        cursor = page.next
        if not isinstance(cursor, str | None) or cursor in seen:
            raise fail(SourceMisbehaves, f"page {number} has no usable `{paging.next}`: it is no text, or not new")
        yield page
        if not cursor:
            return
        seen.add(cursor)
        params = {paging.limit: str(size), paging.cursor: cursor}


def _by_index(ask: Ask[P], fail: Fail, paging: StartIndex, size: int) -> Iterator[P]:
    received, total = 0, None
    seen: set[tuple[str, str]] = set()
    while total is None or received < total:
        page = ask({paging.start: str(received + 1), paging.limit: str(size)})
        if not isinstance(page.total, int) or isinstance(page.total, bool):
            raise fail(SourceMisbehaves, f"a page has no number in `{paging.total}`")
        if total is not None and page.total != total:
            raise fail(PagesMoved, f"`{paging.total}` changed from {total} to {page.total} while reading")
        total = page.total
        versions = set(page.versions)
        if not seen.isdisjoint(versions):
            raise fail(PagesMoved, "a version of a record came twice while reading")
        seen |= versions
        received += page.count
        if received > total or (received < total and not page.count):
            raise fail(SourceMisbehaves, f"sends {received} records where `{paging.total}` says {total}")
        yield page


_PAGING: Mapping[type, Callable[..., Iterator[Any]]] = {
    PageNumber: _by_number,
    Cursor: _by_cursor,
    StartIndex: _by_index,
}


def _window_params(window: Between | SinceOnly | ScimFilter, start: datetime, end: datetime) -> Params:
    since, until = _rfc3339(start), _rfc3339(end)
    if isinstance(window, Between):
        return {window.since: since, window.until: until}
    if isinstance(window, SinceOnly):
        return {window.since: since}
    # Without the Z some servers answer 200 and no rows.
    name = window.attribute
    return {window.param: f'{name} ge "{since}" and {name} lt "{until}"'}


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
