"""Canaries, and wire records of the twelve streams that are full of them.

A canary is a value drawn when the proof runs, from the machine's own randomness, in the shape that real ones have;
nothing marks it, so nothing can be tuned to it. Each says why it must be found nowhere. The records are written from
the wire document: whatever may be kept readable there is an ordinary word, everything else is a canary.
"""

from __future__ import annotations

import itertools
import json
import secrets
import unicodedata
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

Record = dict[str, Any]

DIRECT = "names a person outright: removed or hashed"
PERSON = "a person's id: tokenized"
DOCUMENT = "a document's number: hashed"
TEXT = "prose: removed"
NARROWS = "narrows a person down: removed"
LABEL = "an identifier in a short name: scrubbed"
ID = "an identifier in the place of a record's id: tokenized"
UNKNOWN = "no contract names it: never kept"
UNLISTED = "no value of the list: becomes `other`, or the record is set aside"
BROKEN = "of a record that breaks its contract: sealed"
SAID = "said by a source in an error, a header or a page that is none: shown nowhere"
SECRET = "a credential or a key"

ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
WORKDAY = "urn:ietf:params:scim:schemas:extension:workday:2.0:User"
CORE = "urn:ietf:params:scim:schemas:core:2.0:User"

_SYLLABLES = (
    [c + v for c in "b d f g h j k l m n p r s t v z br dr fl gr kl kr pl skr st tr vl".split() for v in "aeiouy"],
    [c + v for c in "b d f g h k l m n p r s t v br kr st tr".split() for v in "åäöøæéèüñíãçôûőž"],
    [c + v for c in "б в г д ж з к л м н п р с т ф х ц ч ш".split() for v in "аеиоуыюя"],
    [c + v for c in "β γ δ ζ θ κ λ μ ν ξ π ρ σ τ φ χ ψ".split() for v in "αεηιουωάέή"],
)
_TLDS = ("no", "com", "org", "de", "io", "eu", "co.uk", "net", "se", "museum")
_PHONES = (
    "+47 4## ## ###", "+46 70-### ## ##", "+45 ## ## ## ##", "+358 40 ### ####", "+49 151 ########", "+44 7### ######",
    "+33 6 ## ## ## ##", "+1 (###) ###-####", "+91 9#### #####", "+55 11 9####-####", "+34 6## ### ###",
)  # fmt: skip
_CHANCE = secrets.SystemRandom()


@dataclass(frozen=True)
class Canary:
    """A value that must be found nowhere, why, and the texts that give it away: itself and its telling parts."""

    value: str
    why: str
    cores: tuple[str, ...]


@dataclass
class Canaries:
    """Draws canaries and remembers them; no value comes twice."""

    all: dict[str, Canary] = field(default_factory=dict)

    def cores(self) -> dict[str, Canary]:
        """What to look for, and whose it is."""
        return {core: canary for canary in self.all.values() for core in canary.cores}

    def plant(self, value: str, why: str, *cores: str) -> str:
        """Remember a value that was made elsewhere."""
        self.all[value] = Canary(value, why, tuple(dict.fromkeys(cores or (value,))))
        return value

    def sent(self, others: Canaries, records: Sequence[Record]) -> None:
        """Remember those of others that are in records, and not those that something else took the place of."""
        wire = _json(records)
        self.all |= {value: one for value, one in others.all.items() if _json(value)[1:-1] in wire}

    def email(self, why: str) -> str:
        user, host = [_word() for _ in range(_CHANCE.choice((1, 2)))], _word()
        sign = _CHANCE.choice(".._+'-")
        mailbox, domain = sign.join(user), f"{host}.{_CHANCE.choice(_TLDS)}"
        made = _CHANCE.choice((f"{mailbox}@{domain}", f"{mailbox.title()}@{domain}", f"{mailbox}@{domain.upper()}"))
        return self.plant(made, why, *user, host)

    def phone(self, why: str) -> str:
        made = _digits(_CHANCE.choice(_PHONES))
        digits = "".join(c for c in made if c.isdigit())
        national = made.split(" ", 1)[1]
        return self.plant(made, why, made[1:], *(one for one in (digits, national) if len(one) > 11))

    def name(self, why: str) -> str:
        script = _CHANCE.choices(range(4), (5, 4, 1, 1))[0]
        words = [_word(script).title() for _ in range(_CHANCE.choice((2, 2, 3)))]
        made = unicodedata.normalize(_CHANCE.choice(("NFC", "NFC", "NFD")), " ".join(words))
        return self.plant(made, why, *words)

    def words(self, why: str) -> str:
        """One or two words without any form."""
        made = [_word(_CHANCE.choice((0, 0, 1))) for _ in range(_CHANCE.choice((1, 2)))]
        return self.plant(" ".join(made), why, *made)

    def person(self, why: str = PERSON) -> str:
        """An id as HR systems give them."""
        shape = _CHANCE.choice(("E-############", "############", "uuid", "uuid", "emp/######-######", "email"))
        if shape == "email":
            return self.email(why)
        return self.uuid(why) if shape == "uuid" else self.plant(_digits(shape), why)

    def uuid(self, why: str = PERSON) -> str:
        made = uuid.UUID(int=secrets.randbits(128), version=4)
        return self.plant(str(made), why, str(made), made.hex)

    def document(self, why: str = DOCUMENT) -> str:
        return self.plant(f"{_CHANCE.choice(('R', 'CERT', 'INV'))}-{secrets.token_hex(7).upper()}", why)

    def national(self, why: str) -> str:
        """A national id with right check digits: Norway, Sweden, Finland, United States."""
        born = date(1940, 1, 1) + timedelta(_CHANCE.randrange(24_000))
        maker = _CHANCE.choice((_norwegian, _swedish, _finnish, _american))
        return self.plant(maker(born), why)

    def account(self, why: str) -> str:
        """A bank account (ISO 13616) or a payment card, with right check digits."""
        if _CHANCE.random() < 0.5:
            bare = _digits("##################")
            check = 98 - int("".join(str(int(c, 36)) for c in f"{bare}DE00")) % 97
            plain = f"DE{check:02d}{bare}"
            spaced = " ".join(plain[at : at + 4] for at in range(0, len(plain), 4))
            return self.plant(_CHANCE.choice((plain, spaced)), why, plain, spaced)
        digits = _digits("4##############")
        plain = f"{digits}{_luhn_digit(digits)}"
        spaced = " ".join(plain[at : at + 4] for at in range(0, 16, 4))
        return self.plant(_CHANCE.choice((plain, spaced)), why, plain, spaced)

    def identifier(self, why: str) -> str:
        """What patterns find wherever it stands."""
        return _CHANCE.choice((self.email, self.email, self.phone, self.national, self.account))(why)

    def anything(self, why: str) -> str:
        """Of any sort."""
        makers = (self.email, self.phone, self.name, self.words, self.person, self.uuid, self.national, self.prose)
        return _CHANCE.choice(makers)(why)

    def prose(self, why: str = TEXT) -> str:
        """Free text with people in it."""
        return (
            f"{_CHANCE.choice(('Sorted food with', 'Møtte', 'Long talk with'))} {self.name(why)}, "
            f"{_CHANCE.choice(('ring', 'tlf.', 'call'))} {self.phone(why)} / {self.email(why)}; {self.words(why)}."
        )

    def unknown(self) -> Record:
        """Fields that no contract names: their keys are canaries, too."""
        key = _CHANCE.choice((self.email, self.name, self.phone, self.uuid))(UNKNOWN)
        if _CHANCE.random() < 0.5:
            return {key: self.anything(UNKNOWN)}
        return {key: [self.anything(UNKNOWN), {"deep": {self.email(UNKNOWN): self.anything(UNKNOWN)}}], "x_null": None}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _word(script: int = 0) -> str:
    """Nine letters or more, which could be a name; script 1 has diacritics, 2 is Cyrillic, 3 is Greek."""
    made = ""
    while len(made) < 9:
        made += _CHANCE.choice(_SYLLABLES[script if script != 1 or _CHANCE.random() < 0.4 else 0])
    return made


def _digits(shape: str) -> str:
    return "".join(str(_CHANCE.randrange(2, 10)) if c == "#" else c for c in shape)


def _luhn_digit(digits: str) -> int:
    doubled = [int(d) if at % 2 else sum(divmod(2 * int(d), 10)) for at, d in enumerate(reversed(digits))]
    return -sum(doubled) % 10


def _norwegian(born: date) -> str:
    while True:
        nine = [int(c) for c in f"{born:%d%m%y}{_CHANCE.randrange(1000):03d}"]
        first = -sum(a * b for a, b in zip((3, 7, 6, 1, 8, 9, 4, 5, 2), nine, strict=True)) % 11
        second = -sum(a * b for a, b in zip((5, 4, 3, 2, 7, 6, 5, 4, 3, 2), [*nine, first], strict=True)) % 11
        if first < 10 and second < 10:
            return "".join(map(str, [*nine, first, second]))


def _swedish(born: date) -> str:
    nine = f"{born:%y%m%d}{_CHANCE.randrange(1000):03d}"
    return f"{nine[:6]}-{nine[6:]}{_luhn_digit(nine)}"


def _finnish(born: date) -> str:
    number = _CHANCE.randrange(2, 900)
    return f"{born:%d%m%y}-{number:03d}{'0123456789ABCDEFHJKLMNPRSTUVWXY'[int(f'{born:%d%m%y}{number:03d}') % 31]}"


def _american(born: date) -> str:
    return f"{_CHANCE.randrange(101, 665)}-{_CHANCE.randrange(10, 99)}-{_CHANCE.randrange(1000, 9999)}"


# --- records ------------------------------------------------------------------------------------------------------


class _Draw:
    """What one record needs; `own` are the names that the record says of people, which its labels must lose."""

    def __init__(self, canaries: Canaries, number: str) -> None:
        self.c = canaries
        self.number = number
        self.own: list[str] = []
        self.unknown = canaries.unknown

    def name(self) -> str:
        made = self.c.name(DIRECT)
        self.own.append(made)
        return made

    def label(self, words: str) -> str:
        """Ordinary words with an identifier, or one of the record's own names, among them."""
        if self.own and _CHANCE.random() < 0.5:
            found = _CHANCE.choice(self.own)
        else:
            found = self.c.identifier(LABEL)
        return _CHANCE.choice(("{} {}", "{} (ask {})", "{}: {}, please", "{1} – {0}", "{} <{}>")).format(words, found)

    def opaque(self, plain: str) -> str:
        """An id of a thing; now and then somebody's identifier has been put there."""
        if _CHANCE.random() < 0.75:
            return plain
        return _CHANCE.choice((self.c.email, self.c.phone, self.c.national))(ID)

    def listed(self, value: str) -> str:
        """A value of a list that has `other`."""
        return value if _CHANCE.random() < 0.8 else self.c.words(UNLISTED)


def _benevity_volunteers(d: _Draw) -> Record:
    who = {"userId": d.c.person(), "userEmail": d.c.email(DIRECT), "userName": d.name()}
    return {
        "id": d.opaque(f"bene-vol-{d.number}"), **who, "activityName": d.label("Food bank"),
        "activityDescription": d.c.prose(), "activityType": d.listed("hands-on"), "hoursLogged": 4.5,
        "activityDate": "2024-01-15T10:00:00Z", "nonprofitName": d.label("Oslo Food Bank"),
        "nonprofitId": d.opaque("NO-985-123"), "causeArea": d.label("hunger"), "verified": True,
        "verifiedBy": d.c.person(), "verifiedAt": "2024-01-16T08:00:00Z", "tags": ["winter", d.label("ski")],
        "location": {"country": "NO", "city": "Oslo", "coordinates": d.c.words(UNKNOWN), **d.unknown()}, **d.unknown(),
    }  # fmt: skip


def _benevity_donations(d: _Draw) -> Record:
    who = {"userId": d.c.person(), "userEmail": d.c.email(DIRECT), "userName": d.name()}
    return {
        "id": d.opaque(f"bene-don-{d.number}"), **who, "donationType": d.listed("one-time"), "amount": "250.00",
        "currency": "NOK", "nonprofitName": d.label("Red Cross"), "nonprofitId": d.opaque("NO-864"),
        "causeArea": d.label("relief"), "donationDate": "2024-01-15T11:00:00Z",
        "companyMatch": {"matched": True, "matchAmount": "250.00", "matchRatio": 1.0, **d.unknown()},
        "taxDeductible": True, "receiptNumber": d.c.document(), "tags": [d.label("winter")],
        "campaignId": d.opaque("c1"), "campaignName": d.label("Winter"), **d.unknown(),
    }  # fmt: skip


def _goodera_volunteers(d: _Draw) -> Record:
    who = {"user_id": d.c.person(), "user_email": d.c.email(DIRECT), "user_name": d.name()}
    metrics = {
        "beneficiaries": 40, "kg_waste": 120.5, d.c.email(UNKNOWN): 3, d.c.name(UNKNOWN): 2,
        "said_by": d.c.name(UNKNOWN), "norwegian": d.c.anything(UNKNOWN),
    }  # fmt: skip
    return {
        "id": d.opaque(f"g-{d.number}"), **who, "name": d.label("Beach clean-up"), "description": d.c.prose(),
        "type": d.listed("hands-on"), "hours": 3, "date": "2024-01-15T09:00:00+01:00",
        "nonprofit": {"id": d.opaque("np-3"), "name": d.label("Clean Coast"), **d.unknown()},
        "cause_area": d.label("environment"), "verified": True, "impact_metrics": metrics, "tags": [d.label("sea")],
        "location": {"country": "NO", "city": "Bergen", **d.unknown()}, "sdg_goals": [14], **d.unknown(),
    }  # fmt: skip


def _goodera_donations(d: _Draw) -> Record:
    who = {"user_id": d.c.person(), "user_email": d.c.email(DIRECT), "user_name": d.name()}
    return {
        "id": d.opaque(f"g-d-{d.number}"), **who, "type": d.listed("recurring"), "amount": 99.9, "currency": "USD",
        "nonprofit": {"id": d.opaque("np-3"), "name": d.label("Clean Coast"), **d.unknown()},
        "cause_area": d.label("environment"), "date": "2024-01-15T09:00:00+01:00",
        "company_match": {"amount": 99.9, "ratio": 1.0, **d.unknown()},
        "campaign": {"id": d.opaque("c-9"), "name": d.label("Ocean"), **d.unknown()}, "tags": [d.label("sea")],
        **d.unknown(),
    }  # fmt: skip


def _workday_directory(d: _Draw) -> Record:
    email = d.c.email(DIRECT)
    record = {
        "schemas": [CORE, ENTERPRISE, WORKDAY, f"urn:{d.c.words(UNKNOWN)}"], "id": d.c.person(),
        "externalId": d.c.person(), "userName": email if _CHANCE.random() < 0.7 else d.c.words(DIRECT), "active": True,
        "name": {"givenName": d.c.name(DIRECT), "familyName": d.c.name(DIRECT), "formatted": d.c.name(DIRECT),
                 "middleName": d.c.name(DIRECT), **d.unknown()},
        "displayName": d.c.name(DIRECT), "nickName": d.c.name(DIRECT), "title": d.c.words(NARROWS),
        "profileUrl": f"https://people.invalid/{d.c.words(UNKNOWN)}",
        "emails": [{"value": d.c.email(DIRECT), "type": "home"},
                   {"value": email, "type": "work", "primary": True, **d.unknown()}],
        "phoneNumbers": [{"value": d.c.phone(DIRECT), "type": "mobile", **d.unknown()}],
        "addresses": [{"type": "work", "streetAddress": d.c.words(DIRECT), "locality": "Oslo",
                       "region": d.c.words(DIRECT), "postalCode": d.c.words(DIRECT), "country": "NO"},
                      {"type": "home", "streetAddress": d.c.words(DIRECT), "locality": d.c.words(DIRECT),
                       "formatted": d.c.prose(DIRECT), "country": d.c.words(DIRECT)}],
        ENTERPRISE: {"employeeNumber": d.c.person(), "costCenter": "CC-7", "department": "R&D", "division": "Nordics",
                     "manager": {"value": d.c.person(), "$ref": d.c.uuid(UNKNOWN), "displayName": d.c.name(DIRECT)},
                     **d.unknown()},
        WORKDAY: {"employeeID": d.c.person(), "employeeType": d.listed("Full_Time"), "businessUnit": "Products",
                  "jobLevel": "IC4", "jobFamily": "Engineering", "hireDate": "2019-08-01", "terminationDate": None,
                  "location": "Oslo HQ", "onLeave": False, "dateOfBirth": d.c.words(UNKNOWN),
                  "ssn": d.c.national(UNKNOWN), **d.unknown()},
        "meta": {"resourceType": "User", "created": d.c.words(UNKNOWN), "location": d.c.email(UNKNOWN),
                 "version": d.c.words(UNKNOWN)},
        **d.unknown(),
    }  # fmt: skip
    if _CHANCE.random() < 0.3:
        del record[WORKDAY]
    return record


def _kintell_enrollments(d: _Draw) -> Record:
    return {
        "id": d.opaque(f"k-e-{d.number}"), "user_id": d.c.uuid(), "user_email": d.c.email(DIRECT),
        "course_id": d.opaque("norwegian-b1"), "course_name": d.label("Norwegian B1"), "description": d.c.prose(),
        "enrolled_at": "2023-11-01T09:00:00Z", "status": "active", "completed_at": None, "progress_percentage": 65,
        "passed": True, "final_score": 88, "grade": d.label("B+"), "certificate_issued": True,
        "certificate_id": d.c.document(), "hours_completed": 32, "estimated_hours": 50, "tags": [d.label("language")],
        "cohort_id": d.opaque("2023-autumn"), "instructor_id": d.c.person(), **d.unknown(),
    }  # fmt: skip


def _kintell_sessions(d: _Draw) -> Record:
    return {
        "id": d.opaque(f"k-s-{d.number}"), "enrollment_id": d.opaque("k-e-1"), "user_id": d.c.uuid(),
        "tutor_name": d.name(), "course_id": d.opaque("norwegian-b1"), "course_name": d.label("Norwegian B1"),
        "enrolled_at": "2023-11-01T09:00:00Z", "session_date": "2024-01-15T17:00:00Z", "duration_minutes": 60,
        "completed": True, "progress_percentage": 66, "hours_completed": 33, "notes": d.c.prose(), **d.unknown(),
    }  # fmt: skip


def _upskilling_enrollments(d: _Draw) -> Record:
    return {
        "id": d.opaque(f"u-{d.number}"), "user_id": d.c.uuid(), "user_email": d.c.email(DIRECT),
        "course_id": d.opaque("data-101"), "title": d.label("Data analytics"), "description": d.c.prose(),
        "enrolled_at": "2023-10-01T08:00:00Z", "status": "completed", "completed_at": "2024-01-15T15:00:00Z",
        "progress": 100, "passed": True, "score": 92, "grade": d.label("A"), "credential_issued": True,
        "credential_id": d.c.document(), "hours_completed": 40, "duration_hours": 40, "sdg_goals": [4, 8],
        "tags": [d.label("data")], "cohort_id": d.opaque("2023-q4"), **d.unknown(),
    }  # fmt: skip


def _buddy_matches(d: _Draw) -> Record:
    return {
        "id": d.opaque(f"match-{d.number}"), "user_id": d.c.uuid(), "buddy_id": d.c.person(),
        "matched_at": "2024-01-15T12:00:00Z", "status": d.label("active"), "focus_areas": [d.label("job search")],
        "goals": [d.c.prose(), d.c.words(TEXT)],
        "matching_criteria": {"language": d.label("no"), "interests": [d.label("ski")], "location": "Oslo",
                              **d.unknown()},
        **d.unknown(),
    }  # fmt: skip


def _buddy_checkins(d: _Draw) -> Record:
    return {
        "id": d.opaque(f"checkin-{d.number}"), "match_id": d.opaque("match-1"), "checkin_date": "2024-01-15T16:00:00Z",
        "mood": "good", "notes": d.c.prose(),
        "goal_progress": [{"goal": d.c.prose(), "percentage": 40, **d.unknown()}, {"goal": d.c.words(TEXT)}],
        **d.unknown(),
    }  # fmt: skip


def _buddy_events(d: _Draw) -> Record:
    return {
        "id": d.opaque(f"event-{d.number}"), "match_id": d.opaque("match-1"), "event_type": d.label("hangout"),
        "event_date": "2024-01-15T18:00:00Z", "description": d.c.prose(), "location": d.c.words(NARROWS),
        "attendees": [d.c.uuid(), d.c.person()], "duration_minutes": 90, "skills_shared": [d.label("cv writing")],
        **d.unknown(),
    }  # fmt: skip


def _mentorship_placements(d: _Draw) -> Record:
    return {
        "id": d.opaque(f"m-{d.number}"), "mentee_id": d.c.uuid(), "mentor_id": d.c.person(), "mentor_name": d.name(),
        "type": d.listed("mentorship_match"), "matched_at": "2023-12-01T09:00:00Z", "status": "active",
        "start_date": "2023-12-05T09:00:00Z", "end_date": None, "focus_areas": [d.label("interviews")],
        "goals": [d.c.prose()], "meeting_frequency": d.label("biweekly"), "employer_name": d.label("Nordic Data AS"),
        "job_title": d.c.words(NARROWS), "completed": False, "successful": None, "completion_reason": d.c.prose(),
        "feedback": d.c.prose(), "rating": 4,
        "sessions": [{"id": d.c.uuid(UNKNOWN), "date": "2024-01-10T10:00:00Z", "duration_minutes": 60,
                      "notes": d.c.prose(), **d.unknown()}],
        "sdg_goals": [8], "tags": [d.label("jobs")], **d.unknown(),
    }  # fmt: skip


MAKERS: dict[str, Callable[[_Draw], Record]] = {
    maker.__name__[1:]: maker
    for maker in (
        _benevity_volunteers,
        _benevity_donations,
        _goodera_volunteers,
        _goodera_donations,
        _workday_directory,
        _kintell_enrollments,
        _kintell_sessions,
        _upskilling_enrollments,
        _buddy_matches,
        _buddy_checkins,
        _buddy_events,
        _mentorship_placements,
    )
}
STREAMS = tuple(MAKERS)

Path = tuple[str, ...]


@dataclass(frozen=True)
class _Weak:
    """Where a stream's record can be broken: a value that is no text, a list, a required one, a readable text."""

    other: Path
    many: Path
    required: Path
    readable: Path


_WEAK = {
    "benevity_volunteers": _Weak(("hoursLogged",), ("tags",), ("activityName",), ("location", "city")),
    "benevity_donations": _Weak(("amount",), ("tags",), ("nonprofitName",), ("campaignId",)),
    "goodera_volunteers": _Weak(("hours",), ("sdg_goals",), ("name",), ("location", "city")),
    "goodera_donations": _Weak(("amount",), ("tags",), ("user_id",), ("nonprofit", "id")),
    "workday_directory": _Weak(("active",), ("emails",), ("userName",), (ENTERPRISE, "department")),
    "kintell_enrollments": _Weak(("status",), ("tags",), ("course_name",), ("cohort_id",)),
    "kintell_sessions": _Weak(("duration_minutes",), ("completed",), ("course_name",), ("enrollment_id",)),
    "upskilling_enrollments": _Weak(("status",), ("sdg_goals",), ("title",), ("cohort_id",)),
    "buddy_matches": _Weak(("matched_at",), ("focus_areas",), ("buddy_id",), ("matching_criteria", "location")),
    "buddy_checkins": _Weak(("mood",), ("goal_progress",), ("checkin_date",), ("match_id",)),
    "buddy_events": _Weak(("duration_minutes",), ("attendees",), ("event_type",), ("match_id",)),
    "mentorship_placements": _Weak(("rating",), ("sessions",), ("matched_at",), ("id",)),
}


def timestamp(stream: str) -> Path:
    """Where a stream's records have their source timestamp."""
    if stream == "workday_directory":
        return ("meta", "lastModified")
    return ("updatedAt",) if stream.startswith("benevity") else ("updated_at",)


def put(record: Record, path: Path, value: Any) -> None:
    """Set a value inside a record."""
    for key in path[:-1]:
        record = record.setdefault(key, {})
    record[path[-1]] = value


def present(record: Record, path: Path) -> bool:
    """Whether a record has something at a path."""
    for key in path:
        if not isinstance(record, dict) or key not in record:
            return False
        record = record[key]
    return True


def legal(canaries: Canaries, stream: str, number: str, at: str) -> Record:
    """A record that keeps its contract, with a canary wherever nothing may stay."""
    drawn = Canaries()
    record = MAKERS[stream](_Draw(drawn, number))
    put(record, timestamp(stream), at)
    canaries.sent(drawn, [record])
    return record


def broken(canaries: Canaries, stream: str, number: str, at: str, way: int) -> list[Record]:
    """Records that have to be set aside, broken in one of eight ways."""
    weak, drawn = _WEAK[stream], Canaries()

    def one(path: Path, value: Any) -> list[Record]:
        record = legal(drawn, stream, number, at)
        put(record, path, value)
        return [record]

    ways: tuple[Callable[[], list[Record]], ...] = (
        lambda: one(timestamp(stream), drawn.anything(BROKEN)),
        lambda: one(weak.other, drawn.words(BROKEN)),
        lambda: one(weak.readable, f"Ask {drawn.email(BROKEN)} or {drawn.phone(BROKEN)}"),
        lambda: one(("id",), {drawn.email(BROKEN): drawn.anything(BROKEN)}),
        lambda: one(weak.many, drawn.prose(BROKEN)),
        lambda: one(weak.required, None),
        lambda: one(weak.other, [drawn.anything(BROKEN), {drawn.name(BROKEN): drawn.uuid(BROKEN)}]),
        lambda: _conflicting(drawn, stream, number, at),
    )
    # A directory has one resource for each id, so no two versions of one.
    records = ways[way % (len(ways) - (stream == "workday_directory"))]()
    canaries.sent(drawn, records)
    return records


def _conflicting(canaries: Canaries, stream: str, number: str, at: str) -> list[Record]:
    first, second = legal(canaries, stream, number, at), legal(canaries, stream, number, at)
    return [first, second | {"id": first["id"]}]


@dataclass
class World:
    """Records by (company, stream); by company how many are legal, and how many have to be set aside."""

    records: dict[tuple[str, str], list[Record]] = field(default_factory=dict)
    legal: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)


def world(
    canaries: Canaries, companies: Sequence[str], days: Sequence[date], *, legal_each: int, broken_each: int = 1
) -> World:
    """For each company, stream and day so many legal records, and so many times something broken."""
    made = World()
    ways = itertools.count(_CHANCE.randrange(8))
    for company, stream, day in itertools.product(companies, STREAMS, days):
        records = made.records.setdefault((company, stream), [])
        for number in range(legal_each):
            at = f"{day}T{_CHANCE.randrange(24):02d}:{number % 60:02d}:{_CHANCE.randrange(60):02d}Z"
            records.append(legal(canaries, stream, f"{day}-{number}", at))
        made.legal[company] += legal_each
        for number in range(broken_each):
            found = broken(canaries, stream, f"{day}-b{number}", f"{day}T12:00:{number:02d}Z", next(ways))
            records += found
            made.broken[company] += len(found)
    return made
