"""The predicates by which delta-rs finds rows, as text.

Belongs here: how a company, a stream, days and ids are spelt in one, quotes included. Does not belong here: reading or
replacing what it finds (`tables.py`), the SQL of `teei sql` (`sql.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta


def where(
    stream: str | None, company: str | None, days: Iterable[date] | None = None, after: date | None = None
) -> str:
    """What holds of the rows of all of these, `after` meaning the days after that one; empty where all are None."""
    parts = [
        f"{column} = {_quoted(value)}"
        for column, value in (("company", company), ("stream", stream))
        if value is not None
    ]
    if days is not None:
        spans = [between(first, last) for first, last in _spans(days)]
        parts.append(f"({' OR '.join(spans)})" if spans else "false")
    if after is not None:
        parts.append(f"day > '{after}'")
    return " AND ".join(parts)


def before(day: date) -> str:
    """Of all days before that one."""
    return f"day < '{day}'"


def between(first: date, last: date) -> str:
    """Of the days from the first to the last, both included."""
    return f"day BETWEEN '{first}' AND '{last}'"


def with_ids(company: str, event_ids: Iterable[str]) -> str:
    """Of a company's rows with these ids."""
    return f"{where(None, company)} AND event_id IN ({', '.join(map(_quoted, event_ids))})"


def _quoted(text: str) -> str:
    return f"'{text.replace(chr(39), chr(39) * 2)}'"


def _spans(days: Iterable[date]) -> list[tuple[date, date]]:
    """First and last of each run of days without a gap."""
    spans: list[tuple[date, date]] = []
    for day in sorted(set(days)):
        if spans and day - spans[-1][1] == timedelta(days=1):
            spans[-1] = (spans[-1][0], day)
        else:
            spans.append((day, day))
    return spans
