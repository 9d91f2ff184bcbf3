"""SIGINT (Ctrl-C) and SIGTERM: what they begin is ended, and a run that is asked to end does so within five seconds.

What a handler raises can get lost: in a callback of the garbage collector, in whatever a library catches, in what
Dagster delays. So that there was a signal is remembered, too.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

PATIENCE_S = 3.5
_LAST_S = 1.0
INTERRUPTED = 130  # exit code
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_heard = False


def raise_interrupts() -> None:
    """From now on both signals raise KeyboardInterrupt in the main thread."""
    _handle(_raise)


def die_of_interrupts() -> None:
    """From now on both signals end the process at once: nothing has begun yet, or all is done."""
    _handle(signal.SIG_DFL)


def _handle(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as in `teei … &` in a script
            signal.signal(number, handler)


def _raise(number: int, frame: FrameType | None) -> None:
    global _heard
    _heard = True
    raise KeyboardInterrupt


class Interrupts:
    """Hears both signals as long as the block lasts, in the main thread alone, and raises nothing.

    Whoever else handles them in the block, a thread hears them, too, over the descriptor that Python writes their
    numbers to, and even while a library is at work, for whose end a handler waits. A block that goes on `PATIENCE_S`
    seconds later is given up: `give_up` is called, for a second at most, and the process ends, which loses no more
    than a kill does.
    """

    def __init__(self, give_up: Callable[[], None]) -> None:
        self.happened = False
        self._give_up = give_up
        self._ended = threading.Event()
        self._is_main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Self:
        if self._is_main:
            self.happened = _heard
            self._handlers = [(number, signal.signal(number, self._note)) for number in _SIGNALS]
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            self._descriptor = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            self._thread = threading.Thread(target=self._listen, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_main:
            signal.set_wakeup_fd(self._descriptor)
            self._ended.set()
            os.close(self._pipe[1])
            self._thread.join()
            os.close(self._pipe[0])
            for number, handler in self._handlers:
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.happened = True

    def check(self) -> None:
        """Raises KeyboardInterrupt after a signal, an earlier one of this process included."""
        if self.happened:
            raise KeyboardInterrupt

    def _listen(self) -> None:
        while heard := os.read(self._pipe[0], 1):
            if heard[0] in _SIGNALS:
                self.happened = True
                if self._ended.wait(PATIENCE_S):
                    return
                last = threading.Thread(target=self._give_up, daemon=True)
                last.start()
                last.join(_LAST_S)
                sys.stderr.write("teei: interrupted; what was under way is given up, run it again\n")
                os._exit(INTERRUPTED)
