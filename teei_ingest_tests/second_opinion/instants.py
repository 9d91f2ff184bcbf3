"""RFC 3339 in whole nanoseconds, and where each stream's record keeps its source timestamp.

No policy and no window logic belongs here.
"""

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

Record = dict[str, Any]

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})"
    r"(?:\.([0-9]{1,9}))?(?:([Zz])|([+-])([0-9]{2}):([0-9]{2}))"
)
_BARE_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

_UPDATED = {
    "benevity_volunteers": ("updatedAt",),
    "benevity_donations": ("updatedAt",),
    "goodera_volunteers": ("updated_at",),
    "goodera_donations": ("updated_at",),
    "workday_directory": ("meta", "lastModified"),
    "kintell_enrollments": ("updated_at",),
    "kintell_sessions": ("updated_at",),
    "upskilling_enrollments": ("updated_at",),
    "buddy_matches": ("updated_at",),
    "buddy_checkins": ("updated_at",),
    "buddy_events": ("updated_at",),
    "mentorship_placements": ("updated_at",),
}
STREAMS = tuple(_UPDATED)


def parse(text: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time with an offset. Raises ValueError."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("not RFC 3339")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    whole = datetime(year, month, day, hour, minute, second, tzinfo=UTC) - _EPOCH
    nanos = (whole.days * 86_400 + whole.seconds) * SECOND + int((match[7] or "0").ljust(9, "0"))
    if match[8]:
        return nanos
    hours, minutes = int(match[10]), int(match[11])
    if hours > 23 or minutes > 59:
        raise ValueError("offset out of range")
    shift = (hours * 60 + minutes) * 60 * SECOND
    return nanos - shift if match[9] == "+" else nanos + shift


def parse_or_day(text: str) -> int:
    """As `parse`; a bare day is its 00:00Z."""
    return parse(f"{text}T00:00:00Z") if _BARE_DAY.fullmatch(text) else parse(text)


def spell(nanos: int, offset_minutes: int = 0, digits: int = 9, utc: str = "Z") -> str:
    """RFC 3339 text of an instant, cut to `digits` fractional digits; `utc` is the text for offset 0."""
    second, fraction = divmod(nanos + offset_minutes * 60 * SECOND, SECOND)
    text = (_EPOCH + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S")
    if digits:
        text += "." + f"{fraction:09d}"[:digits]
    if offset_minutes == 0:
        return text + utc
    hours, minutes = divmod(abs(offset_minutes), 60)
    return f"{text}{'-' if offset_minutes < 0 else '+'}{hours:02d}:{minutes:02d}"


def midnight(day: date) -> int:
    """Nanoseconds since 1970 at 00:00Z of the day."""
    return (day - date(1970, 1, 1)).days * DAY


def utc_day(nanos: int) -> date:
    """The UTC day that an instant lies in."""
    return date(1970, 1, 1) + timedelta(days=nanos // DAY)


def microseconds(nanos: int) -> datetime:
    """The instant, cut (not rounded) to microseconds, in UTC."""
    return _EPOCH + timedelta(microseconds=nanos // 1000)


def source_timestamp(stream: str, record: Mapping[str, Any]) -> int | None:
    """Nanoseconds of the record's source timestamp; None where there is no valid one."""
    value: Any = record
    for part in _UPDATED[stream]:
        value = value.get(part) if isinstance(value, Mapping) else None
    if not isinstance(value, str):
        return None
    try:
        return parse_or_day(value)
    except ValueError:
        return None
