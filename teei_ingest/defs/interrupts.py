"""A run that is asked to end, by Ctrl-C or SIGTERM, ends within five seconds.

What a handler raises can get lost (in a callback of the garbage collector, in whatever Dagster delays), and a handler
waits while a library is at work. So signals are heard beside their handlers, too: by a thread, over the descriptor
that Python writes their numbers to.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

PATIENCE_S = 3.5
_LAST_S = 1.0
INTERRUPTED = 130  # exit code


class Interrupts:
    """Hears SIGINT and SIGTERM as long as the block lasts, in the main thread alone.

    A block that goes on `PATIENCE_S` seconds later is given up: `give_up` is called, for a second at most, and the
    process ends, which loses no more than a kill does.
    """

    def __init__(self, give_up: Callable[[], None]) -> None:
        self.happened = False
        self._give_up = give_up
        self._ended = threading.Event()
        self._before: int | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._heard, self._told = os.pipe()
            os.set_blocking(self._told, False)
            self._before = signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
            self._thread = threading.Thread(target=self._listen, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.set_wakeup_fd(self._before)
            self._ended.set()
            os.close(self._told)
            self._thread.join()
            os.close(self._heard)

    def check(self) -> None:
        """Raises KeyboardInterrupt after a signal."""
        if self.happened:
            raise KeyboardInterrupt

    def _listen(self) -> None:
        while heard := os.read(self._heard, 1):
            if heard[0] in (signal.SIGINT, signal.SIGTERM):
                self.happened = True
                if self._ended.wait(PATIENCE_S):
                    return
                last = threading.Thread(target=self._give_up, daemon=True)
                last.start()
                last.join(_LAST_S)
                sys.stderr.write("teei: interrupted; what was under way is given up, run it again\n")
                os._exit(INTERRUPTED)
