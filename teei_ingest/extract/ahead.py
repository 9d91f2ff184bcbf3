"""Several streams read side by side, so that they wait for their sources at the same time.

Belongs here: threads, and room for what is read before it is wanted. Does not belong here: what is read, and in
which order it is consumed.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Generic, Self, TypeVar

from teei_ingest.extract.caller import Cancelled
from teei_ingest.extract.read import Page

P = TypeVar("P", bound=Page)

Begin = Callable[[threading.Event], Iterable[P]]

ROOM_BYTES = 8 << 20
_FAREWELL_S = 2.0


class Ahead(Generic[P]):
    """Begins all readings at once, each in a thread of its own; each is consumed once, in any order or not at all.

    `readings` maps a name to a function that begins the reading; its argument is the event that cancels it. Of
    each stream, pages of at most `room` bytes are kept, or one page, if that is larger.
    """

    def __init__(self, readings: Mapping[str, Begin[P]], *, room: int = ROOM_BYTES) -> None:
        self._lanes = {name: _Lane(name, begin, room) for name, begin in readings.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def pages(self, name: str) -> Iterator[P]:
        """The pages of a stream; raises what its reading raised. To stop early ends the reading."""
        return self._lanes[name].pages()

    def cancel(self, name: str) -> None:
        """End the reading of a stream that nobody wants."""
        self._lanes[name].cancel()

    def close(self) -> None:
        """End all readings. A thread that waits for bytes ends when they come, or with the read time-out."""
        for lane in self._lanes.values():
            lane.cancel()
        deadline = time.monotonic() + _FAREWELL_S
        for lane in self._lanes.values():
            lane.thread.join(max(0.0, deadline - time.monotonic()))


class _Lane(Generic[P]):
    """One stream: a thread that reads, and the pages that wait."""

    def __init__(self, name: str, begin: Begin[P], room: int) -> None:
        self._begin = begin
        self._room = room
        self._cancelled = threading.Event()
        self._changed = threading.Condition()
        self._waiting: deque[P] = deque()
        self._bytes = 0
        self._ended = False
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name=f"read {name}", daemon=True)
        self.thread.start()

    def cancel(self) -> None:
        self._cancelled.set()
        with self._changed:
            self._waiting.clear()
            self._changed.notify_all()

    def pages(self) -> Iterator[P]:
        try:
            while (page := self._next()) is not None:
                yield page
        finally:
            self.cancel()
        if self._error:
            raise self._error

    def _next(self) -> P | None:
        """The next page; None at the end or at an error."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended or self._cancelled.is_set())
            if self._cancelled.is_set():
                raise Cancelled("this stream was read before, or nobody wanted it")
            if not self._waiting:
                return None
            page = self._waiting.popleft()
            self._bytes -= page.size
            self._changed.notify_all()
            return page

    def _run(self) -> None:
        try:
            for page in self._begin(self._cancelled):
                self._put(page)
        except BaseException as error:  # noqa: BLE001 it is raised again, where the stream is consumed
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _put(self, page: P) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: not self._waiting or self._bytes + page.size <= self._room or self._cancelled.is_set()
            )
            if self._cancelled.is_set():
                raise Cancelled("cancelled")
            self._waiting.append(page)
            self._bytes += page.size
            self._changed.notify_all()
