"""Whether a day has about as many records as such days of the same stream and company had before.

Belongs here: the rule. Does not belong here: where the counts come from, who is warned.

A source that answers and sends next to nothing looks like a quiet day: nothing fails. What is quiet, the company's own
past says: the same weekday of the weeks before, so that no calendar is needed, in their median, so that an outage or a
campaign among them does not count. Where days are too small to tell, one without any, though such days had some, is
judged by the seven days that end with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from statistics import median

WEEKS = 8  # that are looked back on
_ENOUGH = 4  # of them since the first record, before anything is expected
_LEAST = 8  # records expected: of fewer, a quarter or none comes about by chance now and then
_SHARE = 0.25  # of what is expected; below that it is too few
_WEEK = 7


@dataclass(frozen=True)
class Volume:
    """The `records` of so many `days` up to a day; `expected` is what as many had before, 0 where nothing is known."""

    records: int
    expected: float
    days: int = 1

    @property
    def is_too_low(self) -> bool:
        """Whether this is no accident."""
        return self.expected >= _LEAST and self.records < _SHARE * self.expected

    def __str__(self) -> str:
        if self.days == 1:
            return f"{self.records} records where that weekday had {self.expected:g} before"
        return f"no records, and its last {self.days} days {self.records} where they had {self.expected:g} before"


def needed(days: Collection[date], start: date) -> set[date]:
    """The days, theirs among them, whose counts `low` wants to know; none where `start` was too recently."""
    if not days or max(days) - timedelta(_ENOUGH * _WEEK) < start:
        return set()
    first, last = min(days) - timedelta(WEEKS * _WEEK + _WEEK - 1), max(days)
    return {first + timedelta(number) for number in range((last - first).days + 1)}


def low(counts: Mapping[date, int], days: Iterable[date]) -> dict[date, Volume]:
    """Those of the days that have too few records. `counts` of all that are `needed`; absent means none."""
    begun = min((day for day, count in counts.items() if count), default=None)
    if begun is None:
        return {}
    found = {}
    for day in days:
        today, week = (_volume(counts, begun, day, span) for span in (1, _WEEK))
        if today.is_too_low:
            found[day] = today
        elif not today.records and today.expected and week.is_too_low:
            found[day] = week
    return found


def _volume(counts: Mapping[date, int], begun: date, day: date, span: int) -> Volume:
    def records(last: date) -> int:
        return sum(counts.get(last - timedelta(number), 0) for number in range(span))

    ends = [day - timedelta(_WEEK * week) for week in range(1, WEEKS + 1)]
    before = [records(end) for end in ends if end - timedelta(span - 1) >= begun]
    return Volume(records(day), median(before) if len(before) >= _ENOUGH else 0, span)
