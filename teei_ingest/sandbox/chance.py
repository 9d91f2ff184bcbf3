"""Numbers and times that look random and are not: everything follows from the parts of a key.

Belongs here: hashing, time stamps, RFC 3339. Does not belong here: what a record holds.
"""

import re
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b

MASK = (1 << 64) - 1
DAY_US = 86_400_000_000
EPOCH = date(1970, 1, 1)

# Letters alone, so that no id looks like a telephone or identity number.
_LETTERS = str.maketrans("0123456789abcdef", "bcdfghjkmnpqrstv")

# Seconds east of UTC, as the systems write them; half of all in UTC.
_OFFSETS = (
    *[("Z", 0)] * 8,
    ("+00:00", 0),
    ("+01:00", 3600),
    ("+01:00", 3600),
    ("+02:00", 7200),
    ("+05:30", 19800),
    ("+09:00", 32400),
    ("-05:00", -18000),
    ("-08:00", -28800),
)
_TICKS_US = (1_000_000, 1_000_000, 1_000_000, 100_000, 1_000, 1_000, 1, 1)

_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?([Zz]|([+-])(\d\d):(\d\d))", re.ASCII)


def key(*parts: object) -> int:
    """64 bits from the parts (their texts, length-prefixed)."""
    text = "".join(f"{len(str(part))}:{part}" for part in parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


def mix(number: int) -> int:
    """64 bits from 64 bits (splitmix64)."""
    number = (number + 0x9E3779B97F4A7C15) & MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & MASK
    return number ^ (number >> 31)


def letters(number: int, length: int = 10) -> str:
    """A code of `length` letters; different numbers below 16 ** length give different codes."""
    bits = 4 * length
    scrambled = (number * 0x9E3779B1) & ((1 << bits) - 1)
    return f"{scrambled:0{length}x}".translate(_LETTERS)


def uuid_from(number: int) -> str:
    """A UUID (version 4 in form) from 64 bits."""
    text = f"{mix(number):016x}{mix(number ^ MASK):016x}"
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"


def parse(text: str) -> int | None:
    """Nanoseconds since 1970 of an RFC 3339 time; None if it is none."""
    found = _RFC3339.fullmatch(text)
    if not found:
        return None
    day, hour, minute, second, fraction, _, sign, off_hour, off_minute = found.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{hour}:{minute}:{second}+00:00")
    except ValueError:
        return None
    offset = 0
    if sign:
        if int(off_hour) > 23 or int(off_minute) > 59:
            return None
        offset = (int(off_hour) * 3600 + int(off_minute) * 60) * (1 if sign == "+" else -1)
    since_epoch = moment - datetime(1970, 1, 1, tzinfo=UTC)
    seconds = since_epoch.days * 86400 + since_epoch.seconds - offset
    return seconds * 1_000_000_000 + int((fraction or "").ljust(9, "0"))


@lru_cache(maxsize=8192)
def _date_text(ordinal: int) -> str:
    return (EPOCH + timedelta(days=ordinal)).isoformat()


def write(moment: int, digits: int = 0, offset: str = "Z", seconds_east: int = 0) -> str:
    """RFC 3339 of nanoseconds since 1970, with `digits` fractional ones (cut, not rounded)."""
    seconds, nanos = divmod(moment, 1_000_000_000)
    ordinal, rest = divmod(seconds + seconds_east, 86400)
    minutes, second = divmod(rest, 60)
    hour, minute = divmod(minutes, 60)
    fraction = f".{nanos:09}"[: digits + 1] if digits else ""
    return f"{_date_text(ordinal)}T{hour:02}:{minute:02}:{second:02}{fraction}{offset}"


def slot_time(day: int, slots: int, slot: int, dice: int) -> tuple[int, int]:
    """Moment (ns since 1970) and number of fractional digits of a day's slot; later slots are later.

    A day (its number since 1970) is cut into `slots` equal ones, each with one moment somewhere inside, so that
    any record can be made without the ones before it.
    """
    low, high = slot * DAY_US // slots, (slot + 1) * DAY_US // slots
    tick = _TICKS_US[dice & 7]
    while True:
        first, last = -(-low // tick), (high - 1) // tick
        if last >= first:
            break
        tick //= 10
    micros = day * DAY_US + (first + (dice >> 8) % (last - first + 1)) * tick
    if tick > 1:
        return micros * 1000, {1_000_000: 0, 100_000: 1, 1_000: 3}.get(tick, 6)
    if dice >> 61:
        return micros * 1000, 6
    return micros * 1000 + (dice >> 40) % 1000, 9


def slot_text(moment: int, digits: int, dice: int) -> str:
    """A slot's moment as a system writes it: in some zone, with some digits."""
    offset, east = _OFFSETS[(dice >> 3) & 15]
    return write(moment, digits, offset, east)
