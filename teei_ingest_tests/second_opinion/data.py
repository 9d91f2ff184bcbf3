"""Wire records of all twelve streams from a seed: legal ones close to every border, and labelled bad ones.

What the tables should make of them is the oracle's business; the labels here say only what was broken.
"""

import copy
import random
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from .instants import DAY, SECOND, STREAMS, Record, midnight, parse_or_day, spell
from .server import Company

COMPANIES = (
    Company("acme-corp", "550e8400-e29b-41d4-a716-446655440000"),
    Company("globex-inc", "6fa459ea-ee8a-4ca4-894e-db77e160355e"),
    Company("x9", "16fd2706-8baf-433b-82eb-8c7fada847da"),
)
FIRST_DAY = date(2024, 1, 15)
LAST_DAY = date(2024, 1, 17)

ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
WORKDAY = "urn:ietf:params:scim:schemas:extension:workday:2.0:User"
CORE = "urn:ietf:params:scim:schemas:core:2.0:User"

_MAX_BAD_A_DAY = 6  # the product fails a partition from 10 quarantined records on
_GIVEN = ("Aila", "Bror", "Çağla", "Dagný", "Eskil", "Frøya", "Gísli", "Håkon", "Ìfé", "Jānis", "李明")
_FAMILY = ("Testesen", "Prøvik", "Eksempelberg", "Mönsterli", "O'Fixture", "Sampleova", "de la Prueba")
_LABELS = (
    "Food bank",
    "Språkkafé på biblioteket",
    "Café NFD: Cafe\u0301",
    "日本語の講座",
    "Beach clean-up, group 2 (a/b) & more",
    'She said "hi"; DROP TABLE x --',
    "Winter 🎿 drive",
    "x" * 240,
    "[brackets] {braces} \\ backslash",
    "null",
)
_WORDS = ("winter", "hunger", "language", "ski", "cv writing", "miljø", "R&D")
_PLACES = ("Oslo", "Bergen", "Tromsø", "São Paulo", "Zürich")


@dataclass(frozen=True)
class Person:
    """Somebody invented, known to the systems under different ids."""

    given: str
    family: str
    email: str
    employee: str
    goodera: str
    scim: str
    teei: str

    @property
    def full_name(self) -> str:
        return f"{self.given} {self.family}"


@dataclass(frozen=True)
class Bad:
    """A record that must be quarantined, and why."""

    reason: str
    record: Record


@dataclass
class World:
    """`records` is what a `Server` takes; `bad` holds those of them that are broken."""

    companies: tuple[Company, ...]
    first: date
    last: date
    records: dict[tuple[str, str], list[Record]] = field(default_factory=dict)
    bad: dict[tuple[str, str], list[Bad]] = field(default_factory=dict)

    @property
    def days(self) -> list[date]:
        return [self.first + timedelta(days=n) for n in range((self.last - self.first).days + 1)]


def generate(
    seed: int = 1,
    companies: Iterable[Company] = COMPANIES,
    first: date = FIRST_DAY,
    last: date = LAST_DAY,
    per_day: int = 16,
    sizes: Mapping[str, int] | None = None,
    with_bad: bool = True,
) -> World:
    """`per_day` legal records for each stream, company and day (`sizes` overrides it for a stream).

    The first company's Benevity volunteers are topped up to full pages of 100, so that the last page of
    the whole range is exactly full.
    """
    world = World(tuple(companies), first, last)
    for number, company in enumerate(world.companies):
        for stream in STREAMS:
            maker = _Maker(random.Random(f"{seed}/{company.slug}/{stream}"), company, stream, seed)
            size = (sizes or {}).get(stream, per_day)
            records, bad = maker.everything(world.days, size, number if with_bad else None)
            if number == 0 and stream == "benevity_volunteers":
                records += [maker.build(maker.moment(last)) for _ in range(-len(records) % 100)]
            records += [maker.build(spell(midnight(first) - 1)), maker.build(spell(midnight(last) + DAY))]
            maker.rng.shuffle(records)
            world.records[company.slug, stream] = records
            world.bad[company.slug, stream] = bad
    return world


def some(seed: int, company: Company, stream: str, day: date, count: int) -> list[Record]:
    """Legal records of one stream, nothing else of the company."""
    maker = _Maker(random.Random(f"{seed}/{company.slug}/{stream}"), company, stream, seed)
    return [maker.build(maker.moment(day)) for _ in range(count)]


def people(company: Company, seed: int, count: int = 14) -> list[Person]:
    """The company's people; the last one has the same email in every company."""
    rng = random.Random(f"{seed}/{company.slug}/people")
    found = []
    for n in range(count):
        given, family = _GIVEN[n % len(_GIVEN)], _FAMILY[n % len(_FAMILY)]
        mailbox = f"p{n}.testesen" if n % 4 else f"p{n}.straße"
        host = f"{company.slug}.example" if n % 5 else f"bücher-{company.slug}.example"
        email = f"{mailbox}@{host}" if n < count - 1 else "visiting.contractor@partner.example"
        employee = email if n == 3 else f"E-10{n:02d}/{company.slug}" if n % 2 else f"e 10{n:02d}|ø"
        found.append(Person(given, family, email, employee, f"u-{n}'\"", f"wd-{n}%2F", str(_uuid(rng))))
    return found


def _uuid(rng: random.Random) -> uuid.UUID:
    return uuid.UUID(int=rng.getrandbits(128), version=4)


class _Maker:
    """Builds the records of one company's stream."""

    def __init__(self, rng: random.Random, company: Company, stream: str, seed: int) -> None:
        self.rng = rng
        self.company = company
        self.stream = stream
        self.people = people(company, seed)
        self.count = 0

    # The whole of a stream.

    def everything(self, days: list[date], per_day: int, bad_from: int | None) -> tuple[list[Record], list[Bad]]:
        records: list[Record] = []
        for day in days:
            edges = self.edges(day)
            together = self.moment(day)
            for n in range(per_day):
                # A third shares one timestamp, so that page borders fall between equals.
                at = edges[n] if n < len(edges) else together if n % 3 == 0 else self.moment(day)
                records.append(self.build(at))
        if self.stream != "workday_directory":  # a directory has one resource for each id
            records += self.versions(records, days)
            records += [copy.deepcopy(record) for record in self.rng.sample(records, min(3, len(records)))]
        bad = self.bad(days, bad_from) if bad_from is not None else []
        return records + [one.record for one in bad], bad

    def edges(self, day: date) -> list[str]:
        start = midnight(day)
        return [
            spell(start),
            spell(start + DAY - 1),
            spell(start, 330, 0),
            spell(start + DAY - 1, 330),
            day.isoformat(),
            spell(start + DAY - 1000, 0, 6),
            spell(start + DAY - SECOND, -480, 0),
            spell(start + 1, 840),
            spell(start + 12 * 3600 * SECOND, 0, 1, "z"),
            spell(start + 12 * 3600 * SECOND, 0, 0, "-00:00"),
        ]

    def versions(self, records: list[Record], days: list[date]) -> list[Record]:
        """Newer versions: on the last day, one microsecond later, and within the same microsecond."""
        made = []
        for base in self.rng.sample(records, min(3, len(records))):
            newer = self.build(self.moment(days[-1]))
            newer["id"] = base["id"]
            made.append(newer)
        noon = midnight(days[0]) + 12 * 3600 * SECOND
        for first, second in ((999, 1001), (100, 200)):
            older = self.build(spell(noon + first))
            newer = copy.deepcopy(older)
            newer["updatedAt" if "updatedAt" in older else "updated_at"] = spell(noon + second)
            made += [older, newer]
        return made

    def moment(self, day: date) -> str:
        """Any instant of the UTC day in any legal spelling."""
        digits = self.rng.randint(0, 9)
        step = 10 ** (9 - digits)
        nanos = midnight(day) + self.rng.randrange(DAY // step) * step
        offset = self.rng.choice((0, 0, 0, 60, 330, -480, 840, -210))
        return spell(nanos, offset, digits, self.rng.choice(("Z", "Z", "+00:00")))

    def some_time(self) -> str:
        day = date(2023, 1, 1) + timedelta(days=self.rng.randrange(500))
        return day.isoformat() if self.rng.random() < 0.15 else self.moment(day)

    # Pieces.

    def optional(self, **fields: Any) -> Record:
        """Each field there, null or absent."""
        kept: Record = {}
        for name, value in fields.items():
            draw = self.rng.random()
            if draw > 0.3:
                kept[name] = value
            elif draw > 0.15:
                kept[name] = None
        return kept

    def spelled(self, email: str) -> str:
        """The same address as other systems would write it."""
        mailbox, _, host = email.partition("@")
        fullwidth = "".join(chr(ord(c) + 0xFEE0) if "a" <= c <= "z" else c for c in mailbox)
        return self.rng.choice(
            (
                email,
                email,
                email.upper().replace("STRASSE", "STRAßE"),
                f"  {email} ",
                f"{fullwidth}@{host}",
                f"{mailbox.title()}@{host.encode('idna').decode()}",
            )
        )

    def label(self, person: Person | None = None) -> str:
        draw = self.rng.random()
        if draw < 0.04:
            return f"Food bank, ask {self.people[1].email}"
        if draw < 0.08:
            return "Food bank, ring +47 912 34 567 first"
        if draw < 0.12 and person is not None:
            return f"Food bank with {person.full_name}"
        return self.rng.choice(_LABELS)

    def words(self) -> list[str]:
        return self.rng.sample(_WORDS, self.rng.randint(0, 3))

    def goals(self) -> list[Any]:
        return self.rng.choice(([], [14], [4, 8], [1, 17], [5.0]))

    def whole(self, low: int, high: int) -> int | float:
        number = self.rng.choice((low, high, self.rng.randint(low, high)))
        return float(number) if self.rng.random() < 0.2 else number

    def hours(self) -> int | float:
        return self.rng.choice((4.5, 3, 0, 0.25, 60.0, 0.1, 1.3333, 24, 1000))

    def amount(self) -> str | int | float | Decimal:
        return self.rng.choice(
            (
                "250.00",
                "0",
                "0.0001",
                "99999999999999.9999",
                "1234.5",
                99.9,
                100,
                0,
                0.1,
                Decimal("12345678901.2345"),
                Decimal("1E+2"),
                Decimal("250.1000"),
            )
        )

    def place(self) -> Record | None:
        return self.rng.choice(({"country": "NO", "city": "Bergen"}, {"country": "NO"}, {"city": "Tromsø"}, {}))

    def new_id(self, prefix: str) -> str:
        self.count += 1
        n = self.count
        odd = (
            f"{prefix}-{n}",
            f"{prefix}-{n}",
            f"{prefix}/{n}?x=1&y=2#z",
            f"{prefix} {n}%41+",
            f"{prefix}-{n}-ø😀",
            f"{prefix}\"{n}'|\\",
            f"{prefix.upper()}-{n}",
        )
        return self.rng.choice(odd)

    # One record of each stream, legal, at a given source timestamp.

    def build(self, at: str) -> Record:
        makers: dict[str, Callable[[str], Record]] = {
            "benevity_volunteers": self.benevity_volunteers,
            "benevity_donations": self.benevity_donations,
            "goodera_volunteers": self.goodera_volunteers,
            "goodera_donations": self.goodera_donations,
            "workday_directory": self.workday_directory,
            "kintell_enrollments": self.kintell_enrollments,
            "kintell_sessions": self.kintell_sessions,
            "upskilling_enrollments": self.upskilling_enrollments,
            "buddy_matches": self.buddy_matches,
            "buddy_checkins": self.buddy_checkins,
            "buddy_events": self.buddy_events,
            "mentorship_placements": self.mentorship_placements,
        }
        return makers[self.stream](at)

    def benevity_volunteers(self, at: str) -> Record:
        who = self.rng.choice(self.people)
        verifier = self.rng.choice(self.people)
        # Now and then the record's own id is a person's address.
        record_id = self.new_id("bene-vol")
        if self.rng.random() < 0.05:
            record_id = f"signup{self.count}@forms.example"
        record = {
            "id": record_id,
            "userId": who.employee,
            "activityName": self.label(who),
            "activityType": self.rng.choice(
                ("skills-based", "hands-on", "Hands-On", "virtual", "BOARD", "pro-bono", "knitting", "other")
            ),
            "hoursLogged": self.hours(),
            "activityDate": self.some_time(),
            "updatedAt": at,
            **self.optional(
                userEmail=self.spelled(who.email),
                activityDescription="Sorted food with Ola. " * self.rng.choice((1, 1, 300)),
                nonprofitName="Oslo Food Bank",
                nonprofitId="NO-985-123",
                causeArea="hunger",
                verified=self.rng.random() < 0.5,
                verifiedBy=self.rng.choice((self.spelled(verifier.email), verifier.employee)),
                verifiedAt=self.some_time(),
                tags=self.words(),
                location=self.place(),
            ),
        }
        if "Food bank with" in record["activityName"] or self.rng.random() < 0.7:
            record["userName"] = who.full_name
        return record

    def match(self) -> Record:
        return self.rng.choice(
            (
                {"matched": True, "matchAmount": "250.00", "matchRatio": 1.0},
                {"matched": False},
                {"matchAmount": 12.5, "matchRatio": None},
                {},
            )
        )

    def benevity_donations(self, at: str) -> Record:
        who = self.rng.choice(self.people)
        return {
            "id": self.new_id("bene-don"),
            "userId": who.employee,
            "donationType": self.rng.choice(
                ("one-time", "Recurring", "matching", "payroll", "volunteer-grant", "disaster", "bake-sale")
            ),
            "amount": self.amount(),
            "currency": self.rng.choice(("NOK", "USD", "EUR", "JPY", "KWD")),
            "nonprofitName": self.label(),
            "donationDate": self.some_time(),
            "updatedAt": at,
            **self.optional(
                userEmail=self.spelled(who.email),
                nonprofitId="NO-864",
                causeArea="relief",
                companyMatch=self.match(),
                taxDeductible=True,
                receiptNumber=f"R-{self.rng.randint(1, 20)}",
                tags=self.words(),
                campaignId="c1",
                campaignName=self.label(),
            ),
        }

    def goodera_volunteers(self, at: str) -> Record:
        who = self.rng.choice(self.people)
        record = {
            "id": self.new_id("g"),
            "user_id": who.goodera,
            "name": self.label(who),
            "type": self.rng.choice(("skills", "hands-on", "VIRTUAL", "board", "juggling")),
            "hours": self.hours(),
            "date": self.some_time(),
            "updated_at": at,
            **self.optional(
                user_email=self.spelled(who.email),
                description="free words",
                nonprofit=self.rng.choice(({"id": "np-3", "name": "Clean Coast"}, {"name": "Only a name"}, {})),
                cause_area="environment",
                verified=True,
                impact_metrics=self.rng.choice(
                    (
                        {"beneficiaries": 40, "kg_waste": 120.5},
                        {"trees": 3, "Bad Key": 4, "said_by": "somebody", "done": True, "x" * 41: 1},
                        {},
                    )
                ),
                tags=self.words(),
                location=self.place(),
                sdg_goals=self.goals(),
            ),
        }
        if "Food bank with" in record["name"] or self.rng.random() < 0.7:
            record["user_name"] = who.full_name
        return record

    def goodera_donations(self, at: str) -> Record:
        who = self.rng.choice(self.people)
        return {
            "id": self.new_id("g-d"),
            "user_id": who.goodera,
            "type": self.rng.choice(("one-time", "recurring", "MATCHING", "raffle")),
            "amount": self.amount(),
            "currency": self.rng.choice(("USD", "NOK", "GBP")),
            "date": self.some_time(),
            "updated_at": at,
            **self.optional(
                user_email=self.spelled(who.email),
                nonprofit=self.rng.choice(({"id": "np-3", "name": self.label()}, {"id": "np-4"}, {})),
                cause_area="environment",
                company_match=self.rng.choice(({"amount": 99.9, "ratio": 1.0}, {"amount": "5.25"})),
                campaign=self.rng.choice(({"id": "c9", "name": self.label()}, {"id": "c8"}, {})),
                tags=self.words(),
            ),
        }

    def workday_directory(self, at: str) -> Record:
        self.count += 1
        who = self.people[self.count % len(self.people)]
        boss = self.rng.choice(self.people)
        round_number = self.count // len(self.people)
        # One resource for each id: the same person again is another account.
        scim = who.scim if round_number == 0 else f"{who.scim}.{round_number}"
        address = who.email if self.rng.random() < 0.5 else f"login{self.count}"
        has_extension = self.rng.random() < 0.75
        record: Record = {
            "schemas": [CORE, ENTERPRISE, *([WORKDAY] if has_extension else [])],
            "id": scim,
            "userName": address,
            "meta": {"resourceType": "User", "created": "2020-01-01T00:00:00Z", "lastModified": at},
            **self.optional(
                externalId=f"X-{self.count}",
                active=self.rng.random() < 0.8,
                name={"givenName": who.given, "familyName": who.family, "formatted": who.full_name},
                displayName=who.full_name,
                title="Engineer",
                emails=self.rng.choice(
                    (
                        [{"value": self.spelled(who.email), "type": "work", "primary": True}],
                        [
                            {"value": f"home{self.count}@elsewhere.example", "type": "home"},
                            {"value": self.spelled(who.email), "type": "work", "primary": True},
                        ],
                        [{"value": self.spelled(who.email)}],
                        [],
                    )
                ),
                phoneNumbers=[{"value": "+47 912 34 567", "type": "mobile"}],
            ),
        }
        record[ENTERPRISE] = {
            "costCenter": f"CC-{self.count}",
            **self.optional(
                employeeNumber=f"10{self.count:03d}",
                department="R&D",
                division="Nordics",
                manager={"value": boss.scim, "displayName": boss.full_name},
            ),
        }
        if has_extension:
            changed = parse_or_day(at)
            ended = spell(changed + self.rng.choice((-40, -3, 3, 400)) * DAY)[:10]
            record[WORKDAY] = {
                "employeeType": self.rng.choice(("Full_Time", "PART_TIME", "Contractor", "Intern", "Robot")),
                "location": "Oslo HQ",
                **self.optional(
                    employeeID=f"EMP/{self.count}" if round_number else who.employee,
                    businessUnit="Products",
                    jobLevel="IC4",
                    jobFamily="Engineering",
                    hireDate=self.rng.choice(("2019-08-01", "2020-02-29", "2024-12-31")),
                    terminationDate=ended if self.rng.random() < 0.4 else None,
                    onLeave=self.rng.random() < 0.3,
                ),
            }
        else:
            work = {"type": "work", "streetAddress": "Invented street 1", "postalCode": "0150"}
            work |= self.rng.choice(({"locality": "Oslo", "country": "NO"}, {"country": "NO"}, {}))
            home = {"type": "home", "locality": "Secretville", "country": "SE"}
            record |= self.optional(addresses=self.rng.choice(([work], [home, work], [home], [])))
        return record

    def kintell_enrollments(self, at: str) -> Record:
        who = self.rng.choice(self.people)
        return {
            "id": self.new_id("k-e"),
            "user_id": who.teei,
            "course_id": "norwegian-b1",
            "course_name": self.label(),
            "enrolled_at": self.some_time(),
            "status": self.rng.choice(("enrolled", "active", "in_progress", "Completed", "withdrawn", "FAILED")),
            "updated_at": at,
            **self.optional(
                user_email=self.spelled(who.email),
                description="free words",
                completed_at=self.some_time(),
                progress_percentage=self.whole(0, 100),
                passed=True,
                final_score=self.whole(0, 100),
                grade=self.rng.choice(("A", "Bestått", "4+")),
                certificate_issued=False,
                certificate_id=f"K-CERT-{self.rng.randint(1, 9)}",
                hours_completed=self.hours(),
                estimated_hours=self.hours(),
                tags=self.words(),
                cohort_id="cohort-2024/1",
                instructor_id=self.rng.choice(("instructor-a", "instructor-b")),
            ),
        }

    def kintell_sessions(self, at: str) -> Record:
        who = self.rng.choice(self.people)
        return {
            "id": self.new_id("k-s"),
            "enrollment_id": f"k-e-{self.rng.randint(1, 40)}",
            "user_id": who.teei,
            "course_id": "norwegian-b1",
            "course_name": self.label(),
            "enrolled_at": self.some_time(),
            "session_date": self.some_time(),
            "duration_minutes": self.whole(0, 90),
            "completed": self.rng.random() < 0.5,
            "updated_at": at,
            **self.optional(
                progress_percentage=self.whole(0, 100),
                hours_completed=self.hours(),
                tutor_name=self.people[1].full_name,
                notes="free words",
            ),
        }

    def upskilling_enrollments(self, at: str) -> Record:
        who = self.rng.choice(self.people)
        return {
            "id": self.new_id("u"),
            "user_id": who.teei,
            "course_id": "course/1",
            "title": self.label(),
            "enrolled_at": self.some_time(),
            "status": self.rng.choice(("completed", "Active", "in_progress", "enrolled")),
            "updated_at": at,
            **self.optional(
                user_email=self.spelled(who.email),
                description="free words",
                completed_at=self.some_time(),
                progress=self.whole(0, 100),
                passed=False,
                score=self.whole(0, 100),
                grade="A",
                credential_issued=True,
                credential_id=f"U-CERT-{self.rng.randint(1, 9)}",
                hours_completed=self.hours(),
                duration_hours=self.hours(),
                sdg_goals=self.goals(),
                tags=self.words(),
                cohort_id="cohort-1",
            ),
        }

    def record_uuid(self) -> str:
        text = str(_uuid(self.rng))
        return text.upper() if self.rng.random() < 0.1 else text

    def buddy_matches(self, at: str) -> Record:
        one, other = self.rng.sample(self.people, 2)
        return {
            "id": self.record_uuid(),
            "user_id": one.teei,
            "buddy_id": other.teei,
            "matched_at": self.some_time(),
            "status": self.rng.choice(("active", "Paused", "something new")),
            "updated_at": at,
            **self.optional(
                focus_areas=self.words(),
                goals=["to speak with my neighbours"],
                matching_criteria=self.rng.choice(
                    (
                        {"language": "no", "interests": ["ski"], "location": "Oslo"},
                        {"language": "uk"},
                        {"interests": []},
                        {},
                    )
                ),
            ),
        }

    def buddy_checkins(self, at: str) -> Record:
        return {
            "id": self.record_uuid(),
            "match_id": self.record_uuid(),
            "checkin_date": self.some_time(),
            "updated_at": at,
            **self.optional(
                mood=self.rng.choice(("great", "Good", "okay", "STRUGGLING", "difficult")),
                notes="free words",
                goal_progress=self.rng.choice(([{"goal": "secret goal", "percentage": 40}], [])),
            ),
        }

    def buddy_events(self, at: str) -> Record:
        return {
            "id": self.record_uuid(),
            "match_id": self.record_uuid(),
            "event_type": self.rng.choice(("hangout", "Museum visit", "språkkafé")),
            "event_date": self.some_time(),
            "updated_at": at,
            **self.optional(
                description="free words",
                location=self.rng.choice(_PLACES),
                attendees=[who.teei for who in self.rng.sample(self.people, self.rng.randint(0, 3))],
                duration_minutes=self.whole(0, 180),
                skills_shared=self.words(),
            ),
        }

    def mentorship_placements(self, at: str) -> Record:
        mentee, mentor = self.rng.sample(self.people, 2)
        sessions = [
            {"id": f"ms-{n}", "date": self.some_time(), "duration_minutes": minutes, "notes": "free words"}
            for n, minutes in enumerate(self.rng.choice(([], [60], [50, 25], [20.0, 0, 7])))
        ]
        return {
            "id": self.new_id("m"),
            "mentee_id": mentee.teei,
            "matched_at": self.some_time(),
            "status": self.rng.choice(("active", "Matched", "completed", "terminated", "ON_HOLD")),
            "updated_at": at,
            **self.optional(
                mentor_id=mentor.teei,
                mentor_name=mentor.full_name,
                type=self.rng.choice(("mentorship_match", "stargazing")),
                start_date=self.some_time(),
                end_date=self.some_time(),
                focus_areas=self.words(),
                goals=["to find work"],
                meeting_frequency="biweekly",
                employer_name=self.label(),
                job_title="Engineer",
                completed=False,
                successful=True,
                completion_reason="free words",
                feedback="free words",
                rating=self.whole(1, 5),
                sessions=sessions,
                sdg_goals=self.goals(),
                tags=self.words(),
            ),
        }

    # Bad records.

    def bad(self, days: list[date], turn: int) -> list[Bad]:
        """Every way to be bad, over the days; what does not fit is left to other companies' turns.

        Records without a time belong to the first day, so they are counted there.
        """
        at_path = (
            ("meta", "lastModified")
            if self.stream == "workday_directory"
            else (("updatedAt",) if self.stream.startswith("benevity") else ("updated_at",))
        )
        ways: list[tuple[str, Callable[[Record], None]]] = [
            ("missing_id", _without("id")),
            ("null_id", _put("id", value=None)),
            *((f"missing:{'.'.join(path)}", _without(*path)) for path in _REQUIRED[self.stream]),
            *((f"null:{'.'.join(path)}", _put(*path, value=None)) for path in _REQUIRED[self.stream][:2]),
            *((f"{reason}:{'.'.join(path)}", _put(*path, value=value)) for reason, path, value in _BROKEN[self.stream]),
        ]
        undated: list[tuple[str, Callable[[Record], None]]] = [
            ("missing_timestamp", _without(*at_path)),
            ("null_timestamp", _put(*at_path, value=None)),
            *(
                ("invalid_timestamp", _put(*at_path, value=value))
                for value in ("2024-02-30T10:00:00Z", "yesterday", "2024-01-15T10:00:00", 1705312800)
            ),
        ]
        found = []
        for n in (turn * 2, turn * 2 + 1):
            reason, spoil = undated[n % len(undated)]
            found.append(self._spoiled(days[0], reason, spoil))
        room = [_MAX_BAD_A_DAY - 2 * (n == 0) for n in range(len(days))]
        if self.stream != "workday_directory":
            at = self.moment(days[-1])
            one, other = self.build(at), self.build(at)
            other["id"] = one["id"]
            if self.stream == "benevity_volunteers":
                one["hoursLogged"], other["hoursLogged"] = 1, 2
            found += [Bad("conflicting_versions", one), Bad("conflicting_versions", other)]
            room[-1] -= 2
        ways = ways[turn * 7 % len(ways) :] + ways[: turn * 7 % len(ways)]
        for reason, spoil in ways:
            free = [n for n, left in enumerate(room) if left > 0]
            if not free:
                break
            room[free[0]] -= 1
            found.append(self._spoiled(days[free[0]], reason, spoil))
        return found

    def _spoiled(self, day: date, reason: str, spoil: Callable[[Record], None]) -> Bad:
        record = copy.deepcopy(self.build(self.moment(day)))
        if self.stream == "workday_directory":
            record["emails"] = [{"value": "somebody@elsewhere.example"}]
            record[WORKDAY] = {"location": "Oslo HQ", "employeeID": f"bad {self.count}"}
            record.pop("addresses", None)
        spoil(record)
        return Bad(reason, record)


def _put(*path: str, value: object) -> Callable[[Record], None]:
    def spoil(record: Record) -> None:
        for part in path[:-1]:
            if not isinstance(record.get(part), dict):
                record[part] = {}
            record = record[part]
        record[path[-1]] = value

    return spoil


def _without(*path: str) -> Callable[[Record], None]:
    def spoil(record: Record) -> None:
        for part in path[:-1]:
            record = record[part]
        record.pop(path[-1], None)

    return spoil


# Required on the wire (no `?`), the id and the source timestamp aside, and without another field to stand in.
_REQUIRED: dict[str, list[tuple[str, ...]]] = {
    "benevity_volunteers": [
        ("userId",),
        ("activityName",),
        ("activityType",),
        ("hoursLogged",),
        ("activityDate",),
    ],
    "benevity_donations": [
        ("userId",),
        ("donationType",),
        ("amount",),
        ("currency",),
        ("donationDate",),
        ("nonprofitName",),
    ],
    "goodera_volunteers": [("user_id",), ("name",), ("type",), ("hours",), ("date",)],
    "goodera_donations": [("user_id",), ("type",), ("amount",), ("currency",), ("date",)],
    "workday_directory": [("userName",)],
    "kintell_enrollments": [("user_id",), ("status",), ("course_id",), ("course_name",), ("enrolled_at",)],
    "kintell_sessions": [
        ("user_id",),
        ("session_date",),
        ("enrollment_id",),
        ("duration_minutes",),
        ("completed",),
        ("course_name",),
        ("course_id",),
        ("enrolled_at",),
    ],
    "upskilling_enrollments": [("user_id",), ("status",), ("title",), ("course_id",), ("enrolled_at",)],
    "buddy_matches": [("user_id",), ("buddy_id",), ("matched_at",), ("status",)],
    "buddy_checkins": [("match_id",), ("checkin_date",)],
    "buddy_events": [("match_id",), ("event_type",), ("event_date",)],
    "mentorship_placements": [("mentee_id",), ("status",), ("matched_at",)],
}
_LONG = Decimal("1234567890123.4567")
_AMOUNTS: list[tuple[str, object]] = [
    ("not_a_number", "abc"),
    ("not_a_number", "NaN"),
    ("negative", "-5.00"),
    ("negative", -5),
    ("five_decimals", "1.00001"),
    ("five_decimals", 1.00001),
    ("too_many_digits", _LONG),
    ("too_many_digits", "123456789012345.00"),
    ("wrong_type", True),
    ("wrong_type", [1]),
]
_BROKEN: dict[str, list[tuple[str, tuple[str, ...], object]]] = {
    "benevity_volunteers": [
        ("negative", ("hoursLogged",), -1),
        ("wrong_type", ("hoursLogged",), "4.5"),
        ("wrong_type", ("hoursLogged",), True),
        ("year_1", ("activityDate",), "0001-01-01T00:00:00Z"),
        ("year_9999", ("activityDate",), "9999-12-31T23:59:59Z"),
        ("invalid_time", ("activityDate",), "2024-01-15 10:00"),
        ("wrong_type", ("tags",), "winter"),
        ("wrong_type", ("verified",), "yes"),
        ("wrong_type", ("location",), "Oslo"),
        ("invalid_time", ("verifiedAt",), "soon"),
        ("wrong_type", ("activityName",), 7),
    ],
    "benevity_donations": [
        *((reason, ("amount",), value) for reason, value in _AMOUNTS),
        ("unknown_currency", ("currency",), "ZZZ"),
        ("not_a_number", ("companyMatch", "matchAmount"), "abc"),
        ("wrong_type", ("taxDeductible",), "true"),
        ("year_9999", ("donationDate",), "9999-12-31T00:00:00+00:00"),
    ],
    "goodera_volunteers": [
        ("sdg_18", ("sdg_goals",), [4, 18]),
        ("sdg_0", ("sdg_goals",), [0]),
        ("wrong_type", ("sdg_goals",), ["4"]),
        ("wrong_type", ("sdg_goals",), [4.5]),
        ("negative", ("hours",), -0.5),
        ("wrong_type", ("hours",), {"h": 1}),
        ("wrong_type", ("impact_metrics",), [1]),
        ("wrong_type", ("nonprofit",), "Clean Coast"),
        ("year_1", ("date",), "0001-01-01"),
    ],
    "goodera_donations": [
        *((reason, ("amount",), value) for reason, value in _AMOUNTS[::-1]),
        ("unknown_currency", ("currency",), "ZZZ"),
        ("wrong_type", ("campaign",), "Winter"),
        ("wrong_type", ("company_match",), 99.9),
    ],
    "workday_directory": [
        ("invalid_date", (WORKDAY, "hireDate"), "2019-02-30"),
        ("invalid_date", (WORKDAY, "terminationDate"), "never"),
        ("wrong_type", ("active",), "yes"),
        ("wrong_type", (WORKDAY, "onLeave"), "no"),
        ("wrong_type", (ENTERPRISE, "department"), 5),
        ("wrong_type", ("emails",), "somebody"),
    ],
    "kintell_enrollments": [
        ("unknown_enum", ("status",), "dormant"),
        ("over_100", ("progress_percentage",), 101),
        ("over_100", ("final_score",), 100.5),
        ("negative", ("progress_percentage",), -1),
        ("wrong_type", ("passed",), "yes"),
        ("wrong_type", ("tags",), {"a": 1}),
        ("invalid_time", ("completed_at",), "2024-13-01T00:00:00Z"),
    ],
    "kintell_sessions": [
        ("wrong_type", ("duration_minutes",), "60"),
        ("wrong_type", ("completed",), "true"),
        ("invalid_time", ("session_date",), ""),
        ("over_100", ("progress_percentage",), 101),
    ],
    "upskilling_enrollments": [
        ("unknown_enum", ("status",), "dormant"),
        ("sdg_18", ("sdg_goals",), [18]),
        ("over_100", ("score",), 101),
        ("wrong_type", ("hours_completed",), "40"),
    ],
    "buddy_matches": [
        ("wrong_type", ("matching_criteria",), "ski"),
        ("wrong_type", ("focus_areas",), "ski"),
        ("invalid_time", ("matched_at",), "2024-01-15T25:00:00Z"),
    ],
    "buddy_checkins": [
        ("unknown_enum", ("mood",), "elated"),
        ("wrong_type", ("mood",), 5),
        ("wrong_type", ("goal_progress",), {"goal": "x"}),
        ("invalid_time", ("checkin_date",), "2024-01-15T10:00:00+25:00"),
    ],
    "buddy_events": [
        ("wrong_type", ("duration_minutes",), "90"),
        ("wrong_type", ("attendees",), "me"),
        ("invalid_time", ("event_date",), "15.01.2024"),
    ],
    "mentorship_placements": [
        ("unknown_enum", ("status",), "dormant"),
        ("rating_6", ("rating",), 6),
        ("rating_0", ("rating",), 0),
        ("sdg_18", ("sdg_goals",), [18]),
        ("wrong_type", ("sessions",), "three"),
        ("invalid_time", ("start_date",), "soon"),
    ],
}
