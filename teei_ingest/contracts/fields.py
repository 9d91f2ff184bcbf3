"""Field types and personal-data classes that contracts are made of.

Every leaf of a contract is declared with one of the class functions below (`public`, `label`, `person_ref`, …).
What a class becomes at rest is decided in `redact/`, not here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, NoReturn

from pydantic import BeforeValidator, Field
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError


class DataClass(StrEnum):
    """How personal a field is; exactly one for each leaf."""

    DIRECT = "direct"
    PERSON_REF = "person_ref"
    DOCUMENT_REF = "document_ref"
    QUASI = "quasi"
    SENSITIVE = "sensitive"
    FREE_TEXT = "free_text"
    LABEL = "label"
    PUBLIC = "public"


KEY = "x-personal-data"
# Personal by their names, whatever a contract calls them.
PERSONAL_NAMES = frozenset(
    "email firstName lastName displayName phoneNumber mobilePhone homeAddress ssn taxId dateOfBirth".split()
)


def _declare(cls: DataClass, description: str, **extra: Any) -> FieldInfo:
    shown = {f"x-{name}": value for name, value in extra.items() if value is not None}
    info: FieldInfo = Field(description=description, json_schema_extra={KEY: cls.value, **shown})
    return info


def direct(description: str, *, kind: str) -> FieldInfo:
    """Names a person outright; `kind` is email, name, phone, address, national_id or birth_date."""
    return _declare(DataClass.DIRECT, description, kind=kind)


def person_ref(description: str) -> FieldInfo:
    """An id of a person in some system; an email found there is that person's identity."""
    return _declare(DataClass.PERSON_REF, description)


def document_ref(description: str) -> FieldInfo:
    """The number of a document that was issued to a person."""
    return _declare(DataClass.DOCUMENT_REF, description)


def quasi(description: str, *, unit: str | None = None) -> FieldInfo:
    """Narrows a person down together with other fields."""
    return _declare(DataClass.QUASI, description, unit=unit)


def sensitive(description: str, *, unit: str | None = None) -> FieldInfo:
    """Says something delicate about a person who is only known by token."""
    return _declare(DataClass.SENSITIVE, description, unit=unit)


def free_text(description: str) -> FieldInfo:
    """Prose that people wrote, in which anybody may be named."""
    return _declare(DataClass.FREE_TEXT, description)


def label(description: str) -> FieldInfo:
    """A short name that may hold a person's by accident."""
    return _declare(DataClass.LABEL, description)


def public(description: str, *, reason: str, unit: str | None = None) -> FieldInfo:
    """Says nothing about a person; `reason` says why it may stay."""
    return _declare(DataClass.PUBLIC, description, reason=reason, unit=unit)


# RFC 3339, section 5.6, and a bare day, which stands for its first instant.
INSTANT = re.compile(
    r"(?P<day>\d{4}-\d{2}-\d{2})"
    r"(?:[Tt ](?P<time>\d{2}:\d{2}:\d{2})(?:\.(?P<fraction>\d{1,9}))?(?P<zone>[Zz]|[+-]\d{2}:\d{2}))?",
    re.ASCII,
)
BARE_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
DECIMAL = re.compile(r"\d+(\.\d+)?", re.ASCII)
OPEN_KEY = re.compile(r"[a-z0-9_]{1,40}")
# A float holds no larger whole number exactly.
MAX_WHOLE = 2**53
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Readers keep instants as 64-bit nanoseconds: outside of this they overflow without a word.
FIRST_INSTANT, LAST_INSTANT = datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


def instant_ns(text: str) -> int:
    """Nanoseconds since 1970-01-01T00:00Z of an RFC 3339 time or a bare day; ValueError without the text."""
    found = INSTANT.fullmatch(text)
    if found is None:
        raise ValueError("not an RFC 3339 time")
    zone = (found["zone"] or "Z").upper().replace("Z", "+00:00")
    try:
        moment = datetime.fromisoformat(f"{found['day']}T{found['time'] or '00:00:00'}{zone}")
        elapsed = moment - EPOCH
    except (ValueError, OverflowError):
        raise ValueError("no such day, time or offset") from None
    if not FIRST_INSTANT - EPOCH <= elapsed < LAST_INSTANT - EPOCH:
        raise ValueError("outside the years 1900 to 2199")
    seconds = elapsed.days * 86_400 + elapsed.seconds
    return seconds * 1_000_000_000 + int((found["fraction"] or "").ljust(9, "0") or 0)


def _refuse(rule: str, message: str) -> NoReturn:
    """End a validation with a rule's name, which errors and the quarantine show instead of the value."""
    raise PydanticCustomError(rule, message)


def _instant(value: Any) -> datetime:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC)
    try:
        return EPOCH + timedelta(microseconds=instant_ns(value) // 1000)
    except (TypeError, ValueError):
        pass
    _refuse("instant", "is no RFC 3339 time between 1900 and 2199")


def _day(value: Any) -> date:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    try:
        return parse_day(value)
    except (TypeError, ValueError):
        pass
    _refuse("day", "is no day")


def parse_day(text: str) -> date:
    """The day of `YYYY-MM-DD`, or the UTC day of an RFC 3339 time; ValueError without the text."""
    try:
        return date.fromisoformat(text) if BARE_DAY.fullmatch(text) else _instant(text).date()
    except ValueError:
        raise ValueError("no such day") from None


def _amount(value: Any) -> Decimal:
    """A decimal string as it stands, or the literal of a JSON number with at most 15 significant digits."""
    if isinstance(value, Decimal):  # a JSON number, read without passing through a float
        number, limit = value, 15
    elif isinstance(value, int) and not isinstance(value, bool):
        number, limit = Decimal(value), 15
    elif isinstance(value, str) and DECIMAL.fullmatch(value):
        number, limit = Decimal(value), 18
    else:
        _refuse("amount", "is neither a decimal string nor a number")
    if not number.is_finite():
        _refuse("amount", "is not finite")
    _, digits, exponent = number.as_tuple()
    if not isinstance(exponent, int) or exponent < -4 or len(digits) > limit or abs(number) >= Decimal(10) ** 14:
        _refuse("amount_precision", "has more digits than can be kept exactly")
    return number.quantize(Decimal("0.0001"))


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        _refuse("number", "is no number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        _refuse("number", "is not finite")
    return number


def _whole(value: Any) -> int:
    number = _number(value)
    if not number.is_integer() or abs(number) > MAX_WHOLE:
        _refuse("whole_number", "is no whole number")
    return int(value)


def _open_map(value: Any) -> Any:
    """Open maps keep harmless keys with numbers; the rest is left behind."""
    if not isinstance(value, Mapping):
        return value
    kept = {}
    for key, item in value.items():
        if OPEN_KEY.fullmatch(key) and isinstance(item, int | float | Decimal) and not isinstance(item, bool):
            kept[key] = item
    return kept


Instant = Annotated[datetime, BeforeValidator(_instant)]
Day = Annotated[date, BeforeValidator(_day)]
Amount = Annotated[Decimal, BeforeValidator(_amount), Field(ge=0, max_digits=18, decimal_places=4)]
Hours = Annotated[Decimal, Field(ge=0, max_digits=9, decimal_places=4)]
Number = Annotated[float, BeforeValidator(_number)]
NonNegative = Annotated[float, BeforeValidator(_number), Field(ge=0)]
Percentage = Annotated[float, BeforeValidator(_number), Field(ge=0, le=100)]
Whole = Annotated[int, BeforeValidator(_whole), Field(ge=0)]
Rating = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=5)]
Sdg = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=17)]
Metrics = Annotated[dict[str, Number], BeforeValidator(_open_map)]
Flag = bool
Text = str

CURRENCIES = frozenset(
    """
    AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF
    CHE CHF CHW CLF CLP CNY COP COU CRC CUC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD
    GNF GTQ GYD HKD HNL HRK HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP
    LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN
    PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SLL SOS SRD SSP STN SVC SYP SZL THB TJS
    TMT TND TOP TRY TTD TWD TZS UAH UGX USD USN UYI UYU UYW UZS VED VES VND VUV WST XAF XAG XAU XBA XBB XBC XBD XCD
    XCG XDR XOF XPD XPF XPT XSU XTS XUA XXX YER ZAR ZMW ZWG ZWL
    """.split()
)


def _currency(value: Any) -> str:
    if not isinstance(value, str) or value not in CURRENCIES:
        _refuse("currency", "is no ISO 4217 code")
    return value


Currency = Annotated[str, BeforeValidator(_currency)]
