"""What the tables must hold, from the wire records and the written decisions, without any key.

Expected values are plain where the value is kept, and symbolic where a key or a scrubber makes them.
The default privacy policy alone is known here; there is no HTTP and no product code.
"""

import re
import unicodedata
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from .instants import Record, microseconds, midnight, parse_or_day, source_timestamp, utc_day
from .server import Company

ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
WORKDAY = "urn:ietf:params:scim:schemas:extension:workday:2.0:User"

VIEWS = {
    "benevity_volunteers": "volunteer_events",
    "goodera_volunteers": "volunteer_events",
    "benevity_donations": "donation_events",
    "goodera_donations": "donation_events",
    "workday_directory": "directory_entries",
    "kintell_enrollments": "enrollment_events",
    "kintell_sessions": "enrollment_events",
    "upskilling_enrollments": "enrollment_events",
    "mentorship_placements": "placement_events",
    "buddy_matches": "buddy_matches",
    "buddy_checkins": "buddy_checkins",
    "buddy_events": "buddy_events",
}
_EVENT_TYPES = {
    "volunteer_events": "ingest.volunteer.logged",
    "donation_events": "ingest.donation.made",
    "directory_entries": "ingest.directory.synced",
    "enrollment_events": "ingest.enrollment.created",
    "placement_events": "ingest.placement.created",
    "buddy_matches": "buddy.match.created",
    "buddy_checkins": "buddy.checkin.completed",
    "buddy_events": "buddy.event.logged",
}
# No document says whether a Buddy table has these two columns.
_UNSETTLED = {"buddy_matches", "buddy_checkins", "buddy_events"}

# ISO 4217, active codes of countries.
_CURRENCIES = frozenset(
    """AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF
    CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD
    HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD
    LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK
    PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS
    TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VED VES VND VUV WST XAF XCD XOF XPF YER ZAR ZMW
    """.split()
)


# Symbols.


@dataclass(frozen=True)
class Removed:
    """Null; for a list also a list without any content."""


@dataclass(frozen=True)
class Token:
    """`t1_…`: equal identities and equal tokens go together within a company, never across."""

    identity: tuple[str, ...]


@dataclass(frozen=True)
class Hash:
    """`h1_…`: equal kind and value and equal hashes go together within a company, never across."""

    kind: str
    value: str


@dataclass(frozen=True)
class EventId:
    """A UUID of version 8, one for each (company, stream, source id, full source timestamp)."""

    identity: tuple[str, ...]


@dataclass(frozen=True)
class Coarse:
    """A month, YYYY-MM."""

    month: str


@dataclass(frozen=True)
class Scrubbed:
    """A text that has none of these in it, whatever the case."""

    forbidden: tuple[str, ...]


@dataclass(frozen=True)
class Measures:
    """An open map with numbers; an empty one may be null."""

    numbers: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class AnyOf:
    """The documents leave the choice."""

    choices: tuple[Any, ...]


REMOVED = Removed()


class Row(dict[str, Any]):
    """The expected columns; `record` and `at` (nanoseconds) say which version of what it is."""

    def __init__(self, columns: Mapping[str, Any], record: tuple[str, str, str], at: int) -> None:
        super().__init__(columns)
        self.record = record
        self.at = at

    @property
    def view(self) -> str:
        return VIEWS[self["stream"]]


@dataclass(frozen=True)
class Counts:
    """Of a partition's own records; out-of-window ones belong to no partition and are not in `fetched`."""

    fetched: int = 0
    kept: int = 0
    quarantined: int = 0
    duplicates: int = 0


@dataclass
class Partition:
    """One company, stream and day; `quarantined` has the reason and the wire record.

    `carried` are rows beside `rows` that the source had once and has no more.
    """

    rows: list[Row] = field(default_factory=list)
    quarantined: list[tuple[str, Record]] = field(default_factory=list)
    duplicates: int = 0
    carried: list[Row] = field(default_factory=list)

    @property
    def counts(self) -> Counts:
        kept, bad = len(self.rows), len(self.quarantined)
        return Counts(kept + bad + self.duplicates, kept, bad, self.duplicates)


Expected = dict[tuple[str, str, date], Partition]


def expect(
    data: Mapping[tuple[str, str], Iterable[Record]], companies: Iterable[Company], first: date, last: date
) -> Expected:
    """The partitions after a read of the whole range `first` … `last` (both inclusive) as one window.

    Keys are (slug, stream, day), empty days included. A record without a valid source timestamp is the
    first day's.
    """
    by_slug = {company.slug: company for company in companies}
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    expected: Expected = {(*key, day): Partition() for key in data for day in days}
    for (slug, stream), records in data.items():
        versions: dict[tuple[str, int], list[Record]] = {}
        for record in records:
            at = source_timestamp(stream, record)
            if at is None:
                expected[slug, stream, first].quarantined.append(("source timestamp", record))
            elif midnight(first) <= at < midnight(last + timedelta(days=1)):
                record_id = record.get("id")
                if isinstance(record_id, str):
                    versions.setdefault((record_id, at), []).append(record)
                else:
                    expected[slug, stream, utc_day(at)].quarantined.append(("id", record))
        for (record_id, at), same in versions.items():
            partition = expected[slug, stream, utc_day(at)]
            different = [record for n, record in enumerate(same) if record not in same[:n]]
            partition.duplicates += len(same) - len(different)
            if len(different) > 1:
                partition.quarantined += [("conflicting_versions", record) for record in different]
                continue
            try:
                columns = _row(by_slug[slug], stream, record_id, at, same[0])
            except _Bad as bad:
                partition.quarantined.append((bad.reason, same[0]))
            else:
                partition.rows.append(Row(columns, (slug, stream, record_id), at))
    return expected


def refetched(stored: Expected, read: Expected, today: date) -> Expected:
    """What is there after `read` came in the place of what was `stored`, which may have other days, too.

    Of a day before `today` nothing disappears unseen: a version that is not sent again is carried over, unless a newer
    one of the same record is there afterwards, wherever. The days from `today` on are as they were read.
    """
    others = {key: part for key, part in stored.items() if key not in read}
    missing: dict[tuple[str, str, date], list[Row]] = {}
    for key in stored.keys() & read.keys():
        sent = {(row.record, row.at) for row in read[key].rows}
        if key[2] < today:
            before = [*stored[key].rows, *stored[key].carried]
            missing[key] = [row for row in before if (row.record, row.at) not in sent]
    newest: dict[tuple[str, str, str], datetime] = {}
    there = [*rows_of(read), *rows_of(others), *(row for rows in missing.values() for row in rows)]
    for row in there:
        newest[row.record] = max(row["source_timestamp"], newest.get(row.record, row["source_timestamp"]))
    after = dict(others)
    for key, part in read.items():
        left = [row for row in missing.get(key, []) if row["source_timestamp"] == newest[row.record]]
        after[key] = replace(part, carried=left)
    return after


def rows_of(expected: Expected, view: str | None = None) -> list[Row]:
    """All rows, or those of one view (`volunteer_events`, …)."""
    every = (row for part in expected.values() for row in (*part.rows, *part.carried))
    return [row for row in every if view in (None, row.view)]


def current_rows(expected: Expected, view: str | None = None) -> list[Row]:
    """The newest version of every record: what `current_…` shows.

    Versions within one stored microsecond cannot be told apart, so either is right there. When `Bindings`
    are shared, compare the full view first: it alone says which event id is which version's.
    """
    newest: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows_of(expected, view):
        best = newest.setdefault(row.record, [row])
        if row["source_timestamp"] > best[0]["source_timestamp"]:
            newest[row.record] = [row]
        elif row is not best[0] and row["source_timestamp"] == best[0]["source_timestamp"]:
            best.append(row)
    return [
        Row({name: _either([row[name] for row in rows]) for name in rows[0]}, record, rows[0].at)
        for record, rows in newest.items()
    ]


def totals(expected: Expected) -> dict[tuple[str, str], Counts]:
    """Counts by (slug, stream) over all days."""
    sums: dict[tuple[str, str], Counts] = {}
    for (slug, stream, _), part in expected.items():
        one, two = sums.get((slug, stream), Counts()), part.counts
        sums[slug, stream] = Counts(
            one.fetched + two.fetched,
            one.kept + two.kept,
            one.quarantined + two.quarantined,
            one.duplicates + two.duplicates,
        )
    return sums


def _either(values: list[Any]) -> Any:
    different = [value for n, value in enumerate(values) if value not in values[:n]]
    return different[0] if len(different) == 1 else AnyOf(tuple(different))


# Reading a wire record strictly.


class _Bad(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


_MISSING = object()


class _Wire:
    """One JSON object; every method takes a field's name and quarantines what is not what it says."""

    def __init__(self, record: Record, where: str = "") -> None:
        self.record = record
        self.where = where

    def bad(self, name: str, why: str) -> _Bad:
        return _Bad(f"{self.where}{name}: {why}")

    def has(self, name: str) -> bool:
        return self.record.get(name) is not None

    def need(self, *names: str) -> None:
        for name in names:
            if not self.has(name):
                raise self.bad(name, "required")

    def _typed(self, name: str, kind: type) -> Any:
        value = self.record.get(name)
        if value is not None and not isinstance(value, kind):
            raise self.bad(name, f"not a {kind.__name__}")
        return value

    def text(self, name: str) -> str | None:
        value = self._typed(name, str)
        assert value is None or isinstance(value, str)
        return value

    def flag(self, name: str) -> bool | None:
        value = self._typed(name, bool)
        assert value is None or isinstance(value, bool)
        return value

    def inner(self, name: str) -> "_Wire":
        """An optional object; empty where it is absent."""
        return _Wire(self._typed(name, dict) or {}, f"{self.where}{name}.")

    def items(self, name: str) -> list[Any] | None:
        value = self._typed(name, list)
        assert value is None or isinstance(value, list)
        return value

    def objects(self, name: str) -> list["_Wire"] | None:
        found = self.items(name)
        if found is None:
            return None
        if not all(isinstance(item, dict) for item in found):
            raise self.bad(name, "not a list of objects")
        return [_Wire(item, f"{self.where}{name}[].") for item in found]

    def texts(self, name: str) -> list[str] | None:
        found = self.items(name)
        if found is not None and not all(isinstance(item, str) for item in found):
            raise self.bad(name, "not a list of texts")
        return found

    def number(self, name: str, low: float | None = None, high: float | None = None) -> float | None:
        return self._bounded(name, self.record.get(name), low, high)

    def _bounded(self, name: str, value: Any, low: float | None, high: float | None) -> float | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
            raise self.bad(name, "not a number")
        if (low is not None and value < low) or (high is not None and value > high):
            raise self.bad(name, "out of range")
        return float(value)

    def whole(self, name: str, low: int | None = None, high: int | None = None) -> int | None:
        return self._integral(name, self.number(name, low, high))

    def _integral(self, name: str, value: float | None) -> int | None:
        if value is not None and value != int(value):
            raise self.bad(name, "not a whole number")
        return None if value is None else int(value)

    def goals(self, name: str) -> list[int | None] | None:
        """Sustainable development goals, 1 to 17."""
        found = self.items(name)
        if found is None:
            return None
        return [self._integral(name, self._bounded(name, item, 1, 17)) for item in found]

    def instant(self, name: str) -> datetime | None:
        value = self.text(name)
        if value is None:
            return None
        try:
            at = parse_or_day(value)
        except ValueError:
            raise self.bad(name, "not a time") from None
        if not 1900 <= microseconds(at).year < 2200:
            raise self.bad(name, "year out of range")
        return microseconds(at)

    def month(self, name: str) -> Coarse | None:
        at = self.instant(name)
        return None if at is None else Coarse(f"{at:%Y-%m}")

    def amount(self, name: str) -> Decimal | None:
        """An exact decimal that fits decimal(18, 4)."""
        value = self.record.get(name)
        if value is None:
            return None
        if isinstance(value, str):
            if not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", value):
                raise self.bad(name, "not a decimal")
            exact, most = Decimal(value), 18
        elif isinstance(value, bool) or not isinstance(value, int | float | Decimal):
            raise self.bad(name, "not an amount")
        else:
            exact, most = Decimal(repr(value)) if isinstance(value, float) else Decimal(value), 15
        plain = exact.normalize()
        digits, exponent = plain.as_tuple().digits, plain.as_tuple().exponent
        assert isinstance(exponent, int)
        if exact < 0:
            raise self.bad(name, "negative")
        if -exponent > 4 or len(digits) > most or len(digits) + exponent > 14:
            raise self.bad(name, "too many digits")
        return exact.quantize(Decimal("0.0001"))

    def choice(self, name: str, choices: Mapping[str, str], other: bool) -> str | None:
        value = self.text(name)
        if value is None:
            return None
        known = choices.get(value.lower())
        if known is None and not other:
            raise self.bad(name, "unknown value")
        return known or "other"


# People, and labels with people in them.


def normal_email(text: str) -> str:
    """Trimmed, NFKC, case folded, the domain in IDNA."""
    mailbox, _, host = unicodedata.normalize("NFKC", text.strip()).casefold().rpartition("@")
    return f"{mailbox}@{host.encode('idna').decode()}"


def _is_email(text: str) -> bool:
    return re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s.]+", text.strip()) is not None


def _person(system: str, value: str | None) -> Token | None:
    """Whoever the id (or the address in its place) means; the internal systems know the same people."""
    if value is None:
        return None
    if _is_email(value):
        return Token(("email", normal_email(value)))
    internal = system in ("kintell", "upskilling", "buddy", "mentorship")
    return Token(("teei" if internal else system, value))


_EMAIL_INSIDE = re.compile(r"[^@\s<>,;]+@[^@\s<>,;]+\.[a-z]+")
_PHONE_INSIDE = re.compile(r"\+[0-9]{1,3}((?: ?[0-9]){8,})")


def _label(text: str | None, *names: str | None) -> str | Scrubbed | None:
    if text is None:
        return None
    found = [*_EMAIL_INSIDE.findall(text), *(tail.strip() for tail in _PHONE_INSIDE.findall(text))]
    found += [name for name in names if name and name.casefold() in text.casefold()]
    return Scrubbed(tuple(found)) if found else text


def _labels(texts: list[str] | None, *names: str | None) -> list[str | Scrubbed | None] | None:
    return None if texts is None else [_label(text, *names) for text in texts]


def _gone(value: object) -> Removed | None:
    """A removed value; None where there was nothing, which keeps a struct of nothings null."""
    return None if value is None else REMOVED


def _struct(**fields: Any) -> dict[str, Any] | None:
    return fields if any(value is not None for value in fields.values()) else None


def _hash(kind: str, value: str | None) -> Hash | None:
    return None if value is None else Hash(kind, value)


# The rows.


def _row(company: Company, stream: str, record_id: str, at: int, record: Record) -> dict[str, Any]:
    system = stream.partition("_")[0]
    view = VIEWS[stream]
    about: Callable[[Company, _Wire], dict[str, Any]] = _ABOUT[stream]
    own_id: str | Token | None = record_id
    if stream == "workday_directory" or _is_email(record_id):
        own_id = _person(system, record_id)
    return {
        "event_id": EventId((company.slug, stream, record_id, str(at))),
        "event_type": _EVENT_TYPES[view],
        "version": "v1",
        "timestamp": microseconds(at),
        "stream": stream,
        "company": company.slug,
        "day": utc_day(at),
        "company_id": company.id,
        "source_system": system,
        "source_id": own_id,
        "source_timestamp": microseconds(at),
        **about(company, _Wire(record)),
    }


def _who(system: str, person: str | None, email: str | None) -> dict[str, Any]:
    return {"user_id": _person(system, email or person), "external_user_id": _person(system, person)}


_BENEVITY_ACTIVITIES = {
    "skills-based": "skills_volunteering",
    "hands-on": "hands_on_volunteering",
    "virtual": "virtual_volunteering",
    "board": "board_service",
    "pro-bono": "pro_bono",
}
_GOODERA_ACTIVITIES = {
    "skills": "skills_volunteering",
    "hands-on": "hands_on_volunteering",
    "virtual": "virtual_volunteering",
    "board": "board_service",
}
_BENEVITY_DONATIONS = {
    "one-time": "one_time",
    "recurring": "recurring",
    "matching": "matching_gift",
    "payroll": "payroll_deduction",
    "volunteer-grant": "volunteer_grant",
    "disaster": "disaster_relief",
}
_GOODERA_DONATIONS = {"one-time": "one_time", "recurring": "recurring", "matching": "matching_gift"}
_EMPLOYEES = {
    "full_time": "full_time",
    "part_time": "part_time",
    "contractor": "contractor",
    "intern": "intern",
    "temporary": "temporary",
}
_ENROLLMENTS = {
    "enrolled": "enrolled",
    "active": "in_progress",
    "in_progress": "in_progress",
    "completed": "completed",
    "withdrawn": "withdrawn",
    "failed": "failed",
}
_PLACEMENTS = {
    "active": "active",
    "matched": "active",
    "completed": "completed",
    "terminated": "terminated",
    "on_hold": "on_hold",
}
_MOODS = {mood: mood for mood in ("great", "good", "okay", "struggling", "difficult")}


def _place(wire: _Wire) -> dict[str, Any] | None:
    place = wire.inner("location")
    country, city = place.text("country"), place.text("city")
    return _struct(country=country, city=city, coordinates=None)


def _benevity_volunteers(company: Company, wire: _Wire) -> dict[str, Any]:
    wire.need("userId", "activityName", "activityType", "hoursLogged", "activityDate")
    name = wire.text("userName")
    return {
        **_who("benevity", wire.text("userId"), wire.text("userEmail")),
        "source_tenant_id": company.benevity_tenant,
        "activity_name": _label(wire.text("activityName"), name),
        "activity_description": _gone(wire.text("activityDescription")),
        "activity_type": wire.choice("activityType", _BENEVITY_ACTIVITIES, other=True),
        "hours_logged": wire.number("hoursLogged", 0),
        "activity_date": wire.instant("activityDate"),
        "nonprofit_name": _label(wire.text("nonprofitName"), name),
        "nonprofit_id": wire.text("nonprofitId"),
        "cause_area": _label(wire.text("causeArea"), name),
        "sdg_goals": None,
        "verified": wire.flag("verified"),
        "verified_by": _person("benevity", wire.text("verifiedBy")),
        "verified_at": wire.instant("verifiedAt"),
        "impact_metrics": None,
        "tags": _labels(wire.texts("tags"), name),
        "location": _place(wire),
    }


def _goodera_volunteers(company: Company, wire: _Wire) -> dict[str, Any]:
    wire.need("user_id", "name", "type", "hours", "date")
    nonprofit, name = wire.inner("nonprofit"), wire.text("user_name")
    measures = None
    if wire.has("impact_metrics"):
        measures = Measures(
            tuple(
                (key, float(value))
                for key, value in wire.inner("impact_metrics").record.items()
                if re.fullmatch(r"[a-z0-9_]{1,40}", key)
                and isinstance(value, int | float | Decimal)
                and not isinstance(value, bool)
            )
        )
    return {
        **_who("goodera", wire.text("user_id"), wire.text("user_email")),
        "source_tenant_id": company.goodera_project,
        "activity_name": _label(wire.text("name"), name),
        "activity_description": _gone(wire.text("description")),
        "activity_type": wire.choice("type", _GOODERA_ACTIVITIES, other=True),
        "hours_logged": wire.number("hours", 0),
        "activity_date": wire.instant("date"),
        "nonprofit_name": _label(nonprofit.text("name"), name),
        "nonprofit_id": nonprofit.text("id"),
        "cause_area": _label(wire.text("cause_area"), name),
        "sdg_goals": wire.goals("sdg_goals"),
        "verified": wire.flag("verified"),
        "verified_by": None,
        "verified_at": None,
        "impact_metrics": measures,
        "tags": _labels(wire.texts("tags"), name),
        "location": _place(wire),
    }


def _currency(wire: _Wire) -> str | None:
    code = wire.text("currency")
    if code not in _CURRENCIES:
        raise wire.bad("currency", "unknown")
    return code


def _benevity_donations(company: Company, wire: _Wire) -> dict[str, Any]:
    wire.need("userId", "donationType", "amount", "currency", "nonprofitName", "donationDate")
    match = wire.inner("companyMatch")
    return {
        **_who("benevity", wire.text("userId"), wire.text("userEmail")),
        "source_tenant_id": company.benevity_tenant,
        "donation_type": wire.choice("donationType", _BENEVITY_DONATIONS, other=True),
        "amount": wire.amount("amount"),
        "currency": _currency(wire),
        "amount_usd": None,
        "nonprofit_name": _label(wire.text("nonprofitName")),
        "nonprofit_id": wire.text("nonprofitId"),
        "cause_area": _label(wire.text("causeArea")),
        "donation_date": wire.instant("donationDate"),
        "company_match": _struct(
            matched=match.flag("matched"),
            match_amount=match.amount("matchAmount"),
            match_ratio=match.number("matchRatio"),
        ),
        "sdg_goals": None,
        "tax_deductible": wire.flag("taxDeductible"),
        "receipt_number": _hash("receipt", wire.text("receiptNumber")),
        "tags": _labels(wire.texts("tags")),
        "campaign_id": wire.text("campaignId"),
        "campaign_name": _label(wire.text("campaignName")),
    }


def _goodera_donations(company: Company, wire: _Wire) -> dict[str, Any]:
    wire.need("user_id", "type", "amount", "currency", "date")
    nonprofit, match, campaign = wire.inner("nonprofit"), wire.inner("company_match"), wire.inner("campaign")
    return {
        **_who("goodera", wire.text("user_id"), wire.text("user_email")),
        "source_tenant_id": company.goodera_project,
        "donation_type": wire.choice("type", _GOODERA_DONATIONS, other=True),
        "amount": wire.amount("amount"),
        "currency": _currency(wire),
        "amount_usd": None,
        "nonprofit_name": _label(nonprofit.text("name")),
        "nonprofit_id": nonprofit.text("id"),
        "cause_area": _label(wire.text("cause_area")),
        "donation_date": wire.instant("date"),
        "company_match": _struct(
            matched=True if wire.has("company_match") else None,
            match_amount=match.amount("amount"),
            match_ratio=match.number("ratio"),
        ),
        "sdg_goals": None,
        "tax_deductible": None,
        "receipt_number": None,
        "tags": _labels(wire.texts("tags")),
        "campaign_id": campaign.text("id"),
        "campaign_name": _label(campaign.text("name")),
    }


def _workday_directory(company: Company, wire: _Wire) -> dict[str, Any]:
    wire.need("userName")
    enterprise, workday, name = wire.inner(ENTERPRISE), wire.inner(WORKDAY), wire.inner("name")
    emails = [one for one in wire.objects("emails") or [] if one.has("value")]
    primary = [one for one in emails if one.flag("primary")] or emails
    user_name = wire.text("userName")
    assert user_name is not None
    email = primary[0].text("value") if primary else user_name if _is_email(user_name) else None

    external = workday.text("employeeID") or wire.text("externalId")
    changed = source_timestamp("workday_directory", wire.record)
    ended = workday.instant("terminationDate")
    assert changed is not None
    on_leave, active = workday.flag("onLeave"), wire.flag("active")
    if ended is not None and ended <= microseconds(changed):
        status = "terminated"
    else:
        status = "on_leave" if on_leave else "active" if active else "inactive"

    location = workday.text("location")
    if not wire.has(WORKDAY):
        work = [one for one in wire.objects("addresses") or [] if one.text("type") == "work"]
        parts = [work[0].text("locality"), work[0].text("country")] if work else []
        location = ", ".join(part for part in parts if part) or None
    return {
        **_who("workday", external or wire.record["id"], email),
        "external_user_id": _person("workday", external),
        "source_tenant_id": company.workday_tenant,
        "email": None if email is None else Hash("email", normal_email(email)),
        "first_name": _gone(name.text("givenName")),
        "last_name": _gone(name.text("familyName")),
        "display_name": _gone(wire.text("displayName")),
        "employee_number": _number(enterprise.text("employeeNumber")),
        "employee_type": workday.choice("employeeType", _EMPLOYEES, other=True),
        "status": status,
        "department": enterprise.text("department"),
        "division": enterprise.text("division"),
        "business_unit": workday.text("businessUnit"),
        "cost_center": enterprise.text("costCenter"),
        "location": location,
        "manager_id": _person("workday", enterprise.inner("manager").text("value")),
        "manager_email": None,
        "job_title": _gone(wire.text("title")),
        "job_level": workday.text("jobLevel"),
        "job_family": workday.text("jobFamily"),
        "hire_date": workday.month("hireDate"),
        "termination_date": workday.month("terminationDate"),
        "last_updated": microseconds(changed),
        "permissions": None,
        "custom_fields": None,
    }


def _number(employee_number: str | None) -> Token | None:
    return None if employee_number is None else Token(("employee number", employee_number))


def _enrollment(**given: Any) -> dict[str, Any]:
    absent = (
        "program_description",
        "status",
        "completion_date",
        "completion_percentage",
        "outcome",
        "hours_completed",
        "estimated_hours",
        "sdg_goals",
        "tags",
        "cohort_id",
        "instructor_id",
        "session",
    )
    return {**dict.fromkeys(absent), **given}


def _kintell_enrollments(company: Company, wire: _Wire) -> dict[str, Any]:
    wire.need("user_id", "course_id", "course_name", "enrolled_at", "status")
    return _enrollment(
        **_who("kintell", wire.text("user_id"), wire.text("user_email")),
        program_type="language_course",
        program_id=wire.text("course_id"),
        program_name=_label(wire.text("course_name")),
        program_description=_gone(wire.text("description")),
        enrollment_date=wire.instant("enrolled_at"),
        status=wire.choice("status", _ENROLLMENTS, other=False),
        completion_date=wire.instant("completed_at"),
        completion_percentage=wire.number("progress_percentage", 0, 100),
        outcome=_struct(
            passed=wire.flag("passed"),
            score=wire.number("final_score", 0, 100),
            grade=_label(wire.text("grade")),
            certificate_issued=wire.flag("certificate_issued"),
            certificate_id=_hash("certificate", wire.text("certificate_id")),
        ),
        hours_completed=wire.number("hours_completed"),
        estimated_hours=wire.number("estimated_hours"),
        tags=_labels(wire.texts("tags")),
        cohort_id=wire.text("cohort_id"),
        instructor_id=_person("kintell", wire.text("instructor_id")),
    )


def _kintell_sessions(company: Company, wire: _Wire) -> dict[str, Any]:
    wire.need("enrollment_id", "user_id", "course_id", "course_name", "enrolled_at")
    wire.need("session_date", "duration_minutes", "completed")
    return _enrollment(
        **_who("kintell", wire.text("user_id"), None),
        program_type="language_course",
        program_id=wire.text("course_id"),
        program_name=_label(wire.text("course_name")),
        enrollment_date=wire.instant("enrolled_at"),
        completion_percentage=wire.number("progress_percentage", 0, 100),
        hours_completed=wire.number("hours_completed"),
        session=_struct(
            enrollment_id=wire.text("enrollment_id"),
            session_date=wire.instant("session_date"),
            duration_minutes=wire.whole("duration_minutes", 0),
            completed=wire.flag("completed"),
        ),
    )


def _upskilling_enrollments(company: Company, wire: _Wire) -> dict[str, Any]:
    wire.need("user_id", "course_id", "title", "enrolled_at", "status")
    return _enrollment(
        **_who("upskilling", wire.text("user_id"), wire.text("user_email")),
        program_type="upskilling_course",
        program_id=wire.text("course_id"),
        program_name=_label(wire.text("title")),
        program_description=_gone(wire.text("description")),
        enrollment_date=wire.instant("enrolled_at"),
        status=wire.choice("status", _ENROLLMENTS, other=False),
        completion_date=wire.instant("completed_at"),
        completion_percentage=wire.number("progress", 0, 100),
        outcome=_struct(
            passed=wire.flag("passed"),
            score=wire.number("score", 0, 100),
            grade=_label(wire.text("grade")),
            certificate_issued=wire.flag("credential_issued"),
            certificate_id=_hash("certificate", wire.text("credential_id")),
        ),
        hours_completed=wire.number("hours_completed"),
        estimated_hours=wire.number("duration_hours"),
        sdg_goals=wire.goals("sdg_goals"),
        tags=_labels(wire.texts("tags")),
        cohort_id=wire.text("cohort_id"),
    )


def _mentorship_placements(company: Company, wire: _Wire) -> dict[str, Any]:
    wire.need("mentee_id", "matched_at", "status")
    kind = wire.choice("type", {"mentorship_match": "mentorship_match"}, other=True)
    sessions = wire.objects("sessions")
    hours = None
    if sessions is not None:
        minutes = sum(Decimal(one.whole("duration_minutes", 0) or 0) for one in sessions)
        hours = (Decimal(minutes) / 60).quantize(Decimal("0.0001"), ROUND_HALF_EVEN)
    return {
        **_who("mentorship", wire.text("mentee_id"), None),
        "placement_type": kind or "mentorship_match",
        "placement_date": wire.instant("matched_at"),
        "status": wire.choice("status", _PLACEMENTS, other=False),
        "start_date": wire.instant("start_date"),
        "end_date": wire.instant("end_date"),
        "mentor_id": _person("mentorship", wire.text("mentor_id")),
        "mentor_name": _gone(wire.text("mentor_name")),
        "employer_id": None,
        "employer_name": _label(wire.text("employer_name")),
        "job_title": _gone(wire.text("job_title")),
        "job_level": None,
        "industry": None,
        "salary": None,
        "focus_areas": _labels(wire.texts("focus_areas")),
        "goals_set": _gone(wire.texts("goals")),
        "meeting_frequency": _label(wire.text("meeting_frequency")),
        "outcome": _struct(
            successful=wire.flag("successful"),
            completion_reason=_gone(wire.text("completion_reason")),
            feedback=_gone(wire.text("feedback")),
            rating=wire.number("rating", 1, 5),
        ),
        "total_hours": hours,
        "sessions_completed": None if sessions is None else len(sessions),
        "sdg_goals": wire.goals("sdg_goals"),
        "tags": _labels(wire.texts("tags")),
        "location": None,
    }


def _buddy_matches(company: Company, wire: _Wire) -> dict[str, Any]:
    wire.need("user_id", "buddy_id", "matched_at", "status")
    person = _person("buddy", wire.text("user_id"))
    criteria = wire.inner("matching_criteria")
    return {
        "user_id": AnyOf((person, None)),
        "external_user_id": AnyOf((person, None)),
        "match_id": wire.text("id"),
        "participant_id": person,
        "buddy_id": _person("buddy", wire.text("buddy_id")),
        "matched_at": wire.instant("matched_at"),
        "status": _label(wire.text("status")),
        "matching_criteria": _struct(
            language=_label(criteria.text("language")),
            interests=_labels(criteria.texts("interests")),
            location=criteria.text("location"),
        ),
        "focus_areas": _labels(wire.texts("focus_areas")),
        "goals": _gone(wire.texts("goals")),
    }


def _buddy_checkins(company: Company, wire: _Wire) -> dict[str, Any]:
    wire.need("match_id", "checkin_date")
    progress = wire.objects("goal_progress")
    return {
        "user_id": None,
        "external_user_id": None,
        "checkin_id": wire.text("id"),
        "match_id": wire.text("match_id"),
        "checkin_date": wire.instant("checkin_date"),
        "mood": wire.choice("mood", _MOODS, other=False),
        "notes": _gone(wire.text("notes")),
        "goal_progress": None
        if progress is None
        else [{"goal": _gone(one.text("goal")), "percentage": one.number("percentage")} for one in progress],
    }


def _buddy_events(company: Company, wire: _Wire) -> dict[str, Any]:
    wire.need("match_id", "event_type", "event_date")
    attendees = wire.texts("attendees")
    return {
        "user_id": None,
        "external_user_id": None,
        "buddy_event_id": wire.text("id"),
        "match_id": wire.text("match_id"),
        "buddy_event_type": _label(wire.text("event_type")),
        "event_date": wire.instant("event_date"),
        "description": _gone(wire.text("description")),
        "location": _gone(wire.text("location")),
        "attendees": None if attendees is None else [_person("buddy", one) for one in attendees],
        "duration_minutes": wire.whole("duration_minutes", 0),
        "skills_shared": _labels(wire.texts("skills_shared")),
    }


_ABOUT: dict[str, Callable[[Company, _Wire], dict[str, Any]]] = {
    "benevity_volunteers": _benevity_volunteers,
    "benevity_donations": _benevity_donations,
    "goodera_volunteers": _goodera_volunteers,
    "goodera_donations": _goodera_donations,
    "workday_directory": _workday_directory,
    "kintell_enrollments": _kintell_enrollments,
    "kintell_sessions": _kintell_sessions,
    "upskilling_enrollments": _upskilling_enrollments,
    "mentorship_placements": _mentorship_placements,
    "buddy_matches": _buddy_matches,
    "buddy_checkins": _buddy_checkins,
    "buddy_events": _buddy_events,
}


# Comparing.

_PATTERNS = {
    Token: re.compile(r"t1_[!-~]+"),
    Hash: re.compile(r"h1_[!-~]+"),
    EventId: re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"),
}
_Secret = Token | Hash | EventId


class Bindings:
    """Which stored text stands for which (company, symbol): one to one. Keep it over several compares."""

    def __init__(self) -> None:
        self._texts: dict[tuple[str, _Secret], str] = {}
        self._meanings: dict[str, tuple[str, _Secret]] = {}
        self._journal: list[tuple[str, _Secret]] = []

    def bind(self, company: str, symbol: _Secret, text: str) -> bool:
        """False where the text or the symbol is already bound to something else."""
        key = (company, symbol)
        if key in self._texts or text in self._meanings:
            return self._texts.get(key) == text and self._meanings.get(text) == key
        self._texts[key] = text
        self._meanings[text] = key
        self._journal.append(key)
        return True

    def mark(self) -> int:
        return len(self._journal)

    def undo(self, mark: int) -> None:
        while len(self._journal) > mark:
            del self._meanings[self._texts.pop(self._journal.pop())]


def compare(expected: Iterable[Row], rows: Iterable[Mapping[str, Any]], bindings: Bindings | None = None) -> list[str]:
    """The differences, one line each; empty where `rows` are exactly what is expected.

    Rows may be Python values or those of `json.loads(…, parse_float=Decimal)`: instants are aware or text
    with an offset, decimals are `Decimal` or text, days are dates or text. More than the expected columns
    may be there where they hold nothing. A table with a `float` for a decimal is a difference.
    """
    bindings = bindings or Bindings()
    groups: dict[tuple[Any, ...], tuple[list[Row], list[Mapping[str, Any]]]] = {}
    for row in expected:
        plain_id = row["source_id"] if isinstance(row["source_id"], str) else None
        key = (row["company"], row["stream"], plain_id, row["source_timestamp"])
        groups.setdefault(key, ([], []))[0].append(row)
    differences = []
    for found in rows:
        at = _instant(found.get("source_timestamp"))
        if at is None:
            differences.append(f"{_name(found)}: source_timestamp is no instant with an offset")
        place = (found.get("company"), found.get("stream"))
        exact = (*place, found.get("source_id"), at)
        groups.setdefault(exact if exact in groups else (*place, None, at), ([], []))[1].append(found)
    # Rows that can be only one thing bind their tokens first.
    for wanted, there in sorted(groups.values(), key=lambda group: max(len(group[0]), len(group[1]))):
        differences += _pair(wanted, there, bindings)
    return list(dict.fromkeys(differences))


def _pair(wanted: list[Row], there: list[Mapping[str, Any]], bindings: Bindings) -> list[str]:
    if len(wanted) == len(there) and _perfect(wanted, there, bindings, [2000]):
        return []
    differences, left = [], list(there)
    for row in wanted:
        if not left:
            differences.append(f"{_name(row)}: missing")
            continue
        tried = []
        for found in left:
            mark = bindings.mark()
            tried.append(sum(1 for _ in _differences(row, found, bindings)))
            bindings.undo(mark)
        best = left.pop(tried.index(min(tried)))
        differences += list(_differences(row, best, bindings))
    return differences + [f"{_name(found)}: not expected" for found in left]


def _perfect(wanted: list[Row], there: list[Mapping[str, Any]], bindings: Bindings, tries: list[int]) -> bool:
    """Binds a pairing without any difference, if there is one (within so many tries)."""
    if not wanted:
        return True
    for n, found in enumerate(there):
        tries[0] -= 1
        if tries[0] < 0:
            return False
        mark = bindings.mark()
        if next(_differences(wanted[0], found, bindings), None) is None and _perfect(
            wanted[1:], there[:n] + there[n + 1 :], bindings, tries
        ):
            return True
        bindings.undo(mark)
    return False


def _name(row: Mapping[str, Any]) -> str:
    return f"{row.get('company')} {row.get('stream')} {row.get('source_id')} {row.get('source_timestamp')}"


def _differences(row: Row, found: Mapping[str, Any], bindings: Bindings) -> Iterator[str]:
    for column, wanted in row.items():
        if column not in found:
            if not (row["stream"] in _UNSETTLED and column in ("user_id", "external_user_id")):
                yield f"{row['stream']}: no column {column}"
        elif not _same(wanted, found[column], row["company"], bindings):
            yield f"{_name(row)}: {column} is {found[column]!r}, expected {wanted!r}"
    for column in found.keys() - row.keys():
        if found[column] is not None:
            yield f"{row['stream']}: column {column} is not expected and holds something"


def _same(wanted: Any, got: Any, company: str, bindings: Bindings) -> bool:
    if isinstance(wanted, AnyOf):
        return any(_same(choice, got, company, bindings) for choice in wanted.choices)
    if isinstance(wanted, Removed):
        return got is None or (isinstance(got, list) and all(item is None for item in got))
    if isinstance(wanted, Measures):
        return _measures(got) == dict(wanted.numbers) or (got is None and not wanted.numbers)
    if isinstance(wanted, dict):
        if got is None:
            return all(value is None or value == REMOVED for value in wanted.values())
        return (
            isinstance(got, Mapping)
            and all(name in got and _same(value, got[name], company, bindings) for name, value in wanted.items())
            and all(got[name] is None for name in got.keys() - wanted.keys())
        )
    if isinstance(wanted, list):
        return (
            isinstance(got, list)
            and len(got) == len(wanted)
            and all(_same(one, other, company, bindings) for one, other in zip(wanted, got, strict=True))
        )
    if got is None or wanted is None:
        return got is wanted
    if isinstance(wanted, Token | Hash | EventId):
        text = str(got) if isinstance(got, uuid.UUID) else got
        matches = isinstance(text, str) and _PATTERNS[type(wanted)].fullmatch(text) is not None
        return matches and bindings.bind(company, wanted, text)
    if isinstance(wanted, Scrubbed):
        return isinstance(got, str) and not any(part.casefold() in got.casefold() for part in wanted.forbidden)
    if isinstance(wanted, Coarse):
        return bool(got == wanted.month)
    return _same_plain(wanted, got)


def _same_plain(wanted: Any, got: Any) -> bool:
    if isinstance(wanted, bool) or isinstance(got, bool):
        return wanted is got
    if isinstance(wanted, datetime):
        return _instant(got) == wanted
    if isinstance(wanted, date):
        return got == wanted or got == wanted.isoformat()
    if isinstance(wanted, Decimal):
        if isinstance(got, str) and re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", got):
            got = Decimal(got)
        return isinstance(got, int | Decimal) and got == wanted
    if isinstance(wanted, int | float):
        return isinstance(got, int | float | Decimal) and float(got) == wanted
    return bool((str(got) if isinstance(got, uuid.UUID) else got) == wanted)


def _instant(value: Any) -> datetime | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    return value if isinstance(value, datetime) and value.tzinfo is not None else None


def _measures(value: Any) -> dict[str, float] | None:
    """A map in any form that engines give it: an object, pairs, or key and value."""
    if isinstance(value, Mapping):
        value = list(value.items())
    if not isinstance(value, list):
        return None
    pairs = [(item["key"], item["value"]) if isinstance(item, Mapping) else item for item in value]
    return {name: float(number) for name, number in pairs}


def quarantine_reasons(expected: Expected) -> Counter[str]:
    """How many records were quarantined for what."""
    return Counter(reason for part in expected.values() for reason, _ in part.quarantined)
