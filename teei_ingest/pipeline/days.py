"""UTC days and windows of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta


@dataclass(frozen=True)
class Window:
    """A contiguous range of UTC days, both ends inclusive: `[first 00:00Z, last + 1 00:00Z)`."""

    first: date
    last: date

    @property
    def start(self) -> datetime:
        """First instant."""
        return datetime.combine(self.first, time(), UTC)

    @property
    def end(self) -> datetime:
        """First instant after it."""
        return datetime.combine(self.last + timedelta(days=1), time(), UTC)

    @property
    def days(self) -> list[date]:
        """Its days in order."""
        return [self.first + timedelta(days=n) for n in range((self.last - self.first).days + 1)]

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%dT%H:%MZ}/{self.end:%Y-%m-%dT%H:%MZ}"


def windows(days: Sequence[date]) -> list[Window]:
    """The contiguous windows that cover `days` exactly, in order."""
    found: list[Window] = []
    for day in sorted(set(days)):
        if found and found[-1].last + timedelta(days=1) == day:
            found[-1] = Window(found[-1].first, day)
        else:
            found.append(Window(day, day))
    return found
