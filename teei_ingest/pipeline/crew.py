"""Other processes of this machine that work on batches of a large window while this one reads.

Belongs here: starting them, handing batches over, and doing without them. Does not belong here: what is done with a
batch (`batch.py`), when it is worth while (`collect.py`).

They are forked, since a process that starts anew needs a second until it knows the contracts, in which this one does
thirty thousand records alone. A fork has no thread but its own and must not touch what others may have held at that
moment: it computes, keeps no descriptor but its two pipes, and never returns. Should one get stuck all the same, its
batch is done here. When this process dies, the pipes end, and so do they.
"""

from __future__ import annotations

import gc
import os
import pickle
import select
import signal
import struct
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import cycle
from typing import Any, NoReturn

from teei_ingest.errors import TeeiError
from teei_ingest.pipeline.batch import Ask, Part

# One that is being worked on, and one that waits for it.
EACH = 2
PATIENCE_S = 60.0
_SIZE = struct.Struct("Q")

Work = Callable[[Sequence[bytes], Ask], Part]


class Unable(Exception):
    """The other process is not there, or could not do it; the batch has to be done here."""


class Crew:
    """At most `hands` processes that do the same work; each starts when a batch finds the others busy."""

    def __init__(self, work: Work, hands: int) -> None:
        self._work = work
        self._most = hands if sys.platform == "linux" else 0
        self._hands: list[_Hand] = []

    def take(self, bodies: Sequence[bytes], ask: Ask) -> Future[Part] | None:
        """The part to come of a batch, or None if all hands are full. It raises Unable, or what a batch raises."""
        hand = min(self._hands, key=lambda one: one.waiting, default=None)
        if (hand is None or hand.waiting) and len(self._hands) < self._most:
            hand = _Hand(self._work)
            self._hands.append(hand)
        return hand.take(bodies, ask) if hand is not None and hand.waiting < EACH else None

    def close(self) -> None:
        """End all of them."""
        while self._hands:
            self._hands.pop().end()


class _Hand:
    """One process, and a thread that waits for it.

    A batch lies in memory that both share, so that it is there in one step: through a pipe it would go in forty, and at
    each the other threads of this process may take a while to let this one on.
    """

    def __init__(self, work: Work) -> None:
        self._pid: int | None = None
        self._asked: list[Future[Part]] = []
        self._thread = ThreadPoolExecutor(1, "crew")
        self._places = [os.memfd_create("batch") for _ in range(EACH)]
        self._next = 0
        orders, self._orders = os.pipe()
        self._parts, parts = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads; see the module
            pid = os.fork()
        if not pid:
            _serve(work, self._places, orders, parts)
        self._pid = pid
        os.close(orders)
        os.close(parts)

    @property
    def waiting(self) -> int:
        """Batches that it has not done yet."""
        self._asked = [one for one in self._asked if not one.done()]
        return len(self._asked)

    def take(self, bodies: Sequence[bytes], ask: Ask) -> Future[Part]:
        """A batch to do after those that it has, which are fewer than `EACH`. Not to be cancelled: its answer comes."""
        place = self._places[self._next]
        self._next = (self._next + 1) % EACH
        is_there = False
        with suppress(OSError):
            _put(place, self._orders, (list(bodies), ask))
            is_there = True
        self._asked.append(self._thread.submit(self._part, place, is_there))
        return self._asked[-1]

    def _part(self, place: int, is_there: bool) -> Part:
        result: Any = None
        if not is_there:
            self._kill()  # which place is next, it does not know any more
        else:
            with suppress(OSError, EOFError, pickle.PickleError):
                if not select.select([self._parts], [], [], PATIENCE_S)[0]:
                    self._kill()
                result = _taken(place, self._parts)
        if isinstance(result, TeeiError):
            raise result
        if not isinstance(result, Part):
            raise Unable
        return result

    def end(self) -> None:
        """End the process; it has nothing of its own that could be left half-done."""
        self._kill()
        self._thread.shutdown(cancel_futures=True)
        for descriptor in (self._orders, self._parts, *self._places):
            os.close(descriptor)

    def _kill(self) -> None:
        pid, self._pid = self._pid, None
        if pid is not None:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _put(place: int, told: int, content: object) -> None:
    """Leave something in shared memory, and tell the other side how many bytes it is."""
    data = pickle.dumps(content, pickle.HIGHEST_PROTOCOL)
    if os.pwrite(place, data, 0) != len(data):
        raise OSError
    os.write(told, _SIZE.pack(len(data)))


def _taken(place: int, told: int) -> Any:
    """What the other side left, once it has told. Raises EOFError if it is gone."""
    size = os.read(told, _SIZE.size)
    if len(size) < _SIZE.size:
        raise EOFError
    (count,) = _SIZE.unpack(size)
    return pickle.loads(os.pread(place, count, 0))


def _serve(work: Work, places: Sequence[int], orders: int, parts: int) -> NoReturn:
    """The other process: batches come in, their parts go out."""
    try:
        gc.freeze()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it ends it
        _keep_open(orders, parts, *places)
        for place in cycle(places):
            _put(place, parts, _done(work, *_taken(place, orders)))
    finally:
        os._exit(0)


def _done(work: Work, bodies: Sequence[bytes], ask: Ask) -> Part | TeeiError | None:
    try:
        return work(bodies, ask)
    except TeeiError as error:
        return error
    except Exception:  # noqa: BLE001 - what it says may quote a record; the other side does the batch again
        return None


def _keep_open(*wanted: int) -> None:
    """Close all descriptors but these; what this process says goes nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nowhere, standard)
    first = 3
    for descriptor in sorted(wanted):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))
