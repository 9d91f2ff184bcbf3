"""A window of one stream, page by page, until the source has no more.

Belongs here: the three ways of paging, the three ways of asking for a window, and what a source may not do in
either. Does not belong here: requests (`http.py`), what is in a page (`mapping/decode.py`).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from operator import itemgetter
from threading import Event
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from teei_ingest.contracts.fields import instant_ns
from teei_ingest.errors import SourceError, SourceMisbehaves
from teei_ingest.extract.caller import Caller, PagesMoved, UnsupportedFilter
from teei_ingest.extract.http import Source
from teei_ingest.streams.base import Between, Cursor, PageNumber, ScimFilter, SinceOnly, StartIndex, Stream

_EMPTY_PAGES = 5
# Clocks differ: what changed so long before the reading began is looked at, too.
_SKEW = timedelta(minutes=5)
_PAGES_OF_CHANGES = 3
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
        self._page_size = page_size
        self._began = source.now()
        self._versions: list[np.ndarray] = []  # hashes of id and timestamp, by page
        self._ids: list[np.ndarray] = []
        self._decode = decode
        self._caller = Caller(stream=stream.name, cancel=cancel, retries=retries)
        self._window = _window_params(stream.window, start, end)
        self._end_ns = _ns(end)
        self._seen: set[int] = set()
        self._empty = 0
        self._newest = -math.inf
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
            if not ends_by_time:
                self._remember(page)
            yield page
            if ends_by_time and self._is_beyond(page):
                return
        if self.pages > 1 and not ends_by_time:
            yield from self._missed()

    def _remember(self, page: P) -> None:
        """Which records were read, in which version: 16 bytes for each."""
        versions = page.versions
        self._versions.append(np.fromiter(map(hash, versions), np.int64, len(versions)))
        self._ids.append(np.fromiter(map(hash, map(itemgetter(0), versions)), np.int64, len(versions)))

    def _missed(self) -> Iterator[P]:
        """Pages with records that changed or appeared since the reading began, and were not where it came by.

        Raises PagesMoved if a record that was read has changed. It left its place then, and what came behind it moved
        up: by page number or index the next page begins one record too late. Nothing else tells, where the total is not
        sent or stays the same.
        """
        read, ids = np.concatenate(self._versions), np.concatenate(self._ids)
        began_ns = _ns(self._began)
        for page in self._changes():
            is_new = False
            for name, moment in page.versions:
                versions = int((ids == hash(name)).sum())
                # Where it is now it may have been read, too: from where it was, if it moved meanwhile.
                is_known = bool((read == hash((name, moment))).any())
                if versions > is_known and not (is_known and _before(moment, began_ns)):
                    raise self._fail(PagesMoved, "a record changed while its list was read page by page")
                is_new |= not versions
            if is_new and self._end_ns > began_ns:  # else it is of no day that is read
                yield page

    def _changes(self) -> Iterator[P]:
        """The first pages of what changed since the reading began; none from a source that does not say."""
        if not self.filtered_by_source:
            return
        window = _window_params(self._stream.window, self._began - _SKEW, self._began + timedelta(days=1))
        ask = {**self._stream.params, **window}

        def changed(paging: Params) -> P:
            return self._decode(self._source.get(self._stream.path, {**ask, **paging}, self._caller))

        read = _PAGING[type(self._stream.paging)]
        try:
            yield from islice(read(changed, self._fail, self._stream.paging, self._page_size), _PAGES_OF_CHANGES)
        except SourceMisbehaves:
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


def _ns(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def _before(text: str, moment_ns: int) -> bool:
    """Whether a source timestamp lies before; also if it is none."""
    try:
        return instant_ns(text) < moment_ns
    except ValueError:
        return True


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
