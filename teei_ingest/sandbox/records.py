"""How a record of each stream looks: twelve functions from a draw to the object on the wire (`wire.md`).

Belongs here: the fields of the twelve streams, legal throughout, with personal data in all the places where
real systems have it. Does not belong here: what may be missing, broken or changed of a record (`makers.py`), when it
appears (`world.py`), how it is asked for (`app.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random
from typing import Any

from teei_ingest.sandbox.chance import EPOCH, write
from teei_ingest.sandbox.people import Person

Record = dict[str, Any]

_HOUR = 3_600_000_000_000
_DAY = 24 * _HOUR

_CAUSES = ("hunger", "environment", "education", "health", "relief", "inclusion", "animals")
_NONPROFITS = (
    ("NO-985", "Oslo Food Bank"),
    ("NO-864", "Red Cross"),
    ("SE-120", "Clean Coast"),
    ("DE-331", "Reading Circle"),
    ("US-707", "Code for Schools"),
    ("GB-412", "Shelter & Warmth"),
    ("FR-215", "Jardins Partagés"),
)
_ACTIVITIES = (
    "Food bank",
    "Beach clean-up",
    "Homework help",
    "CV workshop",
    "Coding club",
    "Language café",
    "Tree planting",
    "Board meeting",
)
_TAGS = ("winter", "team", "remote", "language", "newcomers", "youth", "summer-drive", "skills")
_COURSES = (
    ("norwegian-a2", "Norwegian A2"),
    ("norwegian-b1", "Norwegian B1"),
    ("english-b2", "English B2"),
    ("swedish-a1", "Swedish A1"),
)
_TRAININGS = (
    ("data-analytics", "Data analytics"),
    ("cloud-basics", "Cloud basics"),
    ("care-assistant", "Care assistant"),
    ("bookkeeping", "Bookkeeping"),
)
_EMPLOYERS = ("Nordic Retail", "Fjord Logistics", "Baltic Software", "Alpine Care", "Harbour Foods")
_INTERESTS = ("ski", "cooking", "football", "music", "hiking", "chess", "reading")
_SKILLS = ("cv writing", "interview training", "spreadsheets", "small talk", "public transport")
_FOCUS = ("career", "language", "network", "confidence")
_GOALS = ("Find a first job", "Pass the B1 test", "Speak on the phone without fear", "Build a network")
_CURRENCIES = ("NOK", "USD", "EUR", "GBP", "SEK", "DKK", "PLN")
_MOODS = ("great", "good", "okay", "struggling", "difficult")


@dataclass(frozen=True, slots=True)
class Draw:
    """What one record is made from. `at` is its source timestamp in ns since 1970, `stamp` the same in writing.

    `earlier` gives a record of another stream from one of the days before.
    """

    rng: Random
    company: str
    staff: tuple[Person, ...]
    person: Person
    id: str
    at: int
    stamp: str
    earlier: Callable[[str], Record]

    def some(self, chance: float) -> bool:
        """True in this share of cases."""
        return self.rng.random() < chance

    def other(self) -> Person:
        """Somebody of the company."""
        return self.rng.choice(self.staff)

    def before(self, days: float, within_hours: bool = False) -> str:
        """A moment up to so many days before the source timestamp."""
        moment = self.at - self.rng.randrange(int(days * _DAY))
        kind = self.rng.random()
        if kind < 0.02 and not within_hours:
            return write(moment)[:10]
        if kind < 0.25:
            return write(moment, 0, "+01:00", 3600)
        if kind < 0.35:
            return write(moment, 3)
        return write(moment // _HOUR * _HOUR)

    def after(self, days: int) -> str:
        """A moment up to so many days after the source timestamp."""
        return write((self.at + self.rng.randrange(days * _DAY)) // _HOUR * _HOUR)

    def tags(self, pool: tuple[str, ...] = _TAGS) -> list[str]:
        """None to three of the pool."""
        return self.rng.sample(pool, self.rng.randrange(4))

    def sdgs(self) -> list[int]:
        """None to three of the seventeen goals."""
        return sorted(self.rng.sample(range(1, 18), self.rng.randrange(4)))

    def email(self) -> str:
        """The person's address, now and then in other letter case."""
        return self.person.email.title() if self.some(0.03) else self.person.email

    def text(self, *subjects: str) -> str:
        """Free text, in which people are named, written to and called."""
        other = self.other()
        subject = self.rng.choice(subjects)
        return self.rng.choice(
            (
                f"{subject} with {other.first}.",
                f"{subject} together with {other.name}, who brought the children.",
                f"{subject}. Questions to {other.email} or {other.phone}.",
                f"{subject}; {self.person.first} was ill, {other.first} stepped in (tel. {other.phone}).",
                f"{subject} at {other.street}, {other.postcode} {other.city}.",
                f"{subject}. A good day.",
                f"{subject} – «{other.last}» har ansvar. 👍",
            )
        )

    def label(self, name: str) -> str:
        """A short name, into which somebody now and then wrote an address."""
        return f"{name} ({self.person.email})" if self.some(0.02) else name

    def spelled(self, *values: str, unknown: tuple[str, ...] = ()) -> str:
        """One of the values, now and then in other letter case or none that the contract knows."""
        if unknown and self.some(0.05):
            return self.rng.choice(unknown)
        value = self.rng.choice(values)
        return value.upper() if self.some(0.02) else value

    def number(self, low: int, high: int, steps: int = 2) -> int | float:
        """A number in parts of 1 / `steps`, whole ones as an integer."""
        parts = self.rng.randint(low * steps, high * steps)
        return parts // steps if parts % steps == 0 else parts / steps

    def place(self) -> Record:
        """Country, city and sometimes the coordinates of an office."""
        place: Record = {"country": self.person.country, "city": self.person.city}
        if self.some(0.2):
            place["coordinates"] = {
                "latitude": round(self.rng.uniform(36, 69), 5),
                "longitude": round(self.rng.uniform(-9, 30), 5),
            }
        if self.some(0.05):
            del place["city"]
        return place


def benevity_volunteers(draw: Draw) -> Record:
    """An hour log of Benevity."""
    rng, person = draw.rng, draw.person
    nonprofit = rng.choice(_NONPROFITS)
    verified = draw.some(0.7)
    return {
        "id": draw.id,
        "userId": person.employee_id,
        "userEmail": draw.email(),
        "userName": person.name,
        "activityName": draw.label(rng.choice(_ACTIVITIES)),
        "activityDescription": draw.text("Sorted food", "Painted the hall", "Helped with homework"),
        "activityType": draw.spelled(
            "skills-based",
            "hands-on",
            "virtual",
            "board",
            "pro-bono",
            unknown=("event-support", "mentoring", "fundraising walk"),
        ),
        "hoursLogged": draw.number(0, 12, 4),
        "activityDate": draw.before(5),
        "nonprofitName": nonprofit[1],
        "nonprofitId": nonprofit[0],
        "causeArea": rng.choice(_CAUSES),
        "verified": verified,
        "verifiedBy": draw.other().email if verified else None,
        "verifiedAt": draw.stamp if verified else None,
        "tags": draw.tags(),
        "location": draw.place(),
        "updatedAt": draw.stamp,
    }


def _amount(draw: Draw) -> str | int | float:
    cents = draw.rng.choice((5_000, 10_000, 25_000, 50_000, draw.rng.randrange(100, 5_000_000)))
    kind = draw.rng.random()
    if kind < 0.5:
        return f"{cents // 100}.{cents % 100:02}"
    if kind < 0.55:
        return f"{cents // 100}.{cents % 100:02}25"
    return cents // 100 if cents % 100 == 0 and kind < 0.8 else cents / 100


def benevity_donations(draw: Draw) -> Record:
    """A donation in Benevity."""
    rng = draw.rng
    nonprofit = rng.choice(_NONPROFITS)
    amount = _amount(draw)
    matched = draw.some(0.5)
    campaign = rng.randrange(1, 6)
    return {
        "id": draw.id,
        "userId": draw.person.employee_id,
        "userEmail": draw.email(),
        "donationType": draw.spelled(
            "one-time",
            "recurring",
            "matching",
            "payroll",
            "volunteer-grant",
            "disaster",
            unknown=("stock", "in-kind"),
        ),
        "amount": amount,
        "currency": rng.choice(_CURRENCIES),
        "nonprofitName": nonprofit[1],
        "nonprofitId": nonprofit[0],
        "causeArea": rng.choice(_CAUSES),
        "donationDate": draw.before(4),
        "companyMatch": {"matched": True, "matchAmount": amount, "matchRatio": 1.0} if matched else {"matched": False},
        "taxDeductible": draw.some(0.8),
        "receiptNumber": f"R-{rng.randrange(1, 100_000)}",
        "tags": draw.tags(),
        "campaignId": f"c{campaign}",
        "campaignName": draw.label(("Winter", "Back to school", "Ukraine", "Earth week", "Year end")[campaign - 1]),
        "updatedAt": draw.stamp,
    }


def _nonprofit(draw: Draw) -> Record:
    identity, name = draw.rng.choice(_NONPROFITS)
    return {"name": name} if draw.some(0.1) else {"id": identity, "name": name}


def goodera_volunteers(draw: Draw) -> Record:
    """A volunteering activity of Goodera."""
    rng = draw.rng
    return {
        "id": draw.id,
        "user_id": draw.person.goodera_id,
        "user_email": draw.email(),
        "user_name": draw.person.name,
        "name": draw.label(rng.choice(_ACTIVITIES)),
        "description": draw.text("Collected plastic", "Taught a class", "Packed boxes"),
        "type": draw.spelled("skills", "hands-on", "virtual", "board", unknown=("hackathon", "marathon")),
        "hours": draw.number(0, 10),
        "date": draw.before(6),
        "nonprofit": _nonprofit(draw),
        "cause_area": rng.choice(_CAUSES),
        "verified": draw.some(0.6),
        "impact_metrics": {"beneficiaries": rng.randrange(200), "kg_waste": rng.randrange(4000) / 8},
        "tags": draw.tags(),
        "location": draw.place(),
        "sdg_goals": draw.sdgs(),
        "updated_at": draw.stamp,
    }


def goodera_donations(draw: Draw) -> Record:
    """A donation in Goodera."""
    rng = draw.rng
    amount = _amount(draw)
    campaign = rng.randrange(1, 4)
    return {
        "id": draw.id,
        "user_id": draw.person.goodera_id,
        "user_email": draw.email(),
        "type": draw.spelled("one-time", "recurring", "matching", unknown=("crypto", "points")),
        "amount": amount,
        "currency": rng.choice(_CURRENCIES),
        "nonprofit": _nonprofit(draw),
        "cause_area": rng.choice(_CAUSES),
        "date": draw.before(3),
        "company_match": {"amount": amount, "ratio": 1.0} if draw.some(0.5) else None,
        "campaign": {"id": f"g-c{campaign}", "name": ("Winter", "Spring", "Relief")[campaign - 1]},
        "tags": draw.tags(),
        "updated_at": draw.stamp,
    }


_CORE = "urn:ietf:params:scim:schemas:core:2.0:User"
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
WORKDAY = "urn:ietf:params:scim:schemas:extension:workday:2.0:User"


def workday_directory(draw: Draw) -> Record:
    """A user of Workday's directory, as it was after a change."""
    rng, person = draw.rng, draw.person
    today = EPOCH + timedelta(days=draw.at // _DAY)
    state = rng.random()
    ended: date | None = None
    if state < 0.04:
        ended = today - timedelta(days=rng.randrange(40))
    elif state < 0.06:
        ended = today + timedelta(days=rng.randrange(1, 60))
    record: Record = {
        "schemas": [_CORE],
        "id": draw.id,
        "externalId": person.employee_id,
        "userName": person.email,
        "active": ended is None or ended > today,
        "name": {"givenName": person.first, "familyName": person.last, "formatted": person.name},
        "displayName": person.name,
        "title": person.title,
        "emails": [{"value": draw.email(), "type": "work", "primary": True}],
        "phoneNumbers": [{"value": person.phone, "type": "mobile"}],
        "addresses": [
            {
                "type": "work",
                "streetAddress": person.street,
                "locality": person.city,
                "region": person.city,
                "postalCode": person.postcode,
                "country": person.country,
            }
        ],
        "meta": {
            "resourceType": "User",
            "created": f"{person.hired}T08:00:00Z",
            "lastModified": draw.stamp,
            "version": f'W/"{rng.randrange(1, 40)}"',
        },
    }
    if state > 0.985:
        return {name: record[name] for name in ("schemas", "id", "userName", "meta")}
    if 0.06 <= state < 0.09:
        record["active"] = False
    if draw.some(0.1):
        private = {"value": f"{person.scim_id}@home.example", "type": "home"}
        record["emails"].insert(0, private)
    elif draw.some(0.02):
        del record["emails"]
    if draw.some(0.95):
        record["schemas"].append(ENTERPRISE)
        enterprise = {
            "employeeNumber": person.employee_number,
            "costCenter": person.cost_center,
            "department": person.department,
            "division": person.division,
        }
        if person.manager is not None:
            manager = draw.staff[person.manager]
            enterprise["manager"] = {"value": manager.scim_id, "displayName": manager.name}  # type: ignore[assignment]
        record[ENTERPRISE] = enterprise
    if draw.some(0.96):
        record["schemas"].append(WORKDAY)
        record[WORKDAY] = {
            "employeeID": person.employee_id,
            "employeeType": draw.spelled(
                "Full_Time",
                "Full_Time",
                "Part_Time",
                "Contractor",
                "Intern",
                "Temporary",
                unknown=("Seasonal", "Apprentice"),
            ),
            "businessUnit": person.business_unit,
            "jobLevel": person.job_level,
            "jobFamily": person.job_family,
            "hireDate": person.hired.isoformat(),
            "terminationDate": ended.isoformat() if ended else None,
            "location": f"{person.city} HQ",
            "onLeave": draw.some(0.05),
        }
    return record


def _progress(draw: Draw) -> tuple[str, int, bool]:
    status = draw.spelled("enrolled", "active", "in_progress", "completed", "withdrawn", "failed")
    done = status.lower() == "completed"
    started = status.lower() != "enrolled"
    return status, 100 if done else draw.rng.randrange(1, 100) if started else 0, done


def kintell_enrollments(draw: Draw) -> Record:
    """An enrolment in a language course."""
    rng = draw.rng
    course, title = rng.choice(_COURSES)
    status, progress, done = _progress(draw)
    hours = draw.number(30, 60)
    certificate = done and draw.some(0.7)
    return {
        "id": draw.id,
        "user_id": draw.person.user_id,
        "user_email": draw.email(),
        "course_id": course,
        "course_name": title,
        "description": draw.text("Evening course", "Course for newcomers"),
        "enrolled_at": draw.before(90),
        "status": status,
        "completed_at": draw.stamp if done else None,
        "progress_percentage": progress,
        "passed": draw.some(0.9) if done else None,
        "final_score": draw.number(40, 100) if done else None,
        "grade": rng.choice("ABCDE") if done else None,
        "certificate_issued": certificate,
        "certificate_id": f"KIN-{rng.randrange(1, 100_000)}" if certificate else None,
        "hours_completed": round(hours * progress / 100 * 4) / 4,
        "estimated_hours": hours,
        "tags": draw.tags(),
        "cohort_id": f"cohort-{rng.randrange(1, 9)}",
        "instructor_id": draw.other().user_id,
        "updated_at": draw.stamp,
    }


def kintell_sessions(draw: Draw) -> Record:
    """One lesson of an enrolment."""
    rng = draw.rng
    enrollment = draw.earlier("kintell_enrollments")
    progress = rng.randrange(101)
    return {
        "id": draw.id,
        "enrollment_id": enrollment["id"],
        "user_id": enrollment["user_id"],
        "course_id": enrollment["course_id"],
        "course_name": enrollment["course_name"],
        "enrolled_at": enrollment["enrolled_at"],
        "session_date": draw.before(1),
        "duration_minutes": rng.choice((30, 45, 60, 90)),
        "completed": draw.some(0.85),
        "progress_percentage": progress,
        "hours_completed": progress / 2,
        "tutor_name": draw.other().name,
        "notes": draw.text("Practised the past tense", "Role play at the doctor's"),
        "updated_at": draw.stamp,
    }


def upskilling_enrollments(draw: Draw) -> Record:
    """An enrolment in a vocational course, with its credential."""
    rng = draw.rng
    course, title = rng.choice(_TRAININGS)
    status, progress, done = _progress(draw)
    hours = draw.number(10, 80)
    issued = done and draw.some(0.8)
    return {
        "id": draw.id,
        "user_id": draw.person.user_id,
        "user_email": draw.email(),
        "course_id": course,
        "title": draw.label(title),
        "description": draw.text("Self-paced course", "Course with a mentor"),
        "enrolled_at": draw.before(120),
        "status": status,
        "completed_at": draw.stamp if done else None,
        "progress": progress,
        "passed": draw.some(0.9) if done else None,
        "score": draw.number(40, 100) if done else None,
        "grade": rng.choice(("A", "B", "C", "pass")) if done else None,
        "credential_issued": issued,
        "credential_id": f"CERT-{rng.randrange(1, 100_000)}" if issued else None,
        "hours_completed": round(hours * progress / 100 * 4) / 4,
        "duration_hours": hours,
        "sdg_goals": draw.sdgs(),
        "tags": draw.tags(),
        "cohort_id": f"cohort-{rng.randrange(1, 9)}",
        "updated_at": draw.stamp,
    }


def buddy_matches(draw: Draw) -> Record:
    """A participant and their buddy."""
    rng = draw.rng
    return {
        "id": draw.id,
        "user_id": draw.person.user_id,
        "buddy_id": draw.other().user_id,
        "matched_at": draw.before(60, within_hours=True),
        "status": rng.choice(("active", "paused", "ended")),
        "focus_areas": draw.tags(_FOCUS),
        "goals": rng.sample(_GOALS, rng.randrange(3)) if draw.some(0.8) else [draw.text("Meet weekly")],
        "matching_criteria": {
            "language": rng.choice(("no", "en", "sv", "uk")),
            "interests": draw.tags(_INTERESTS),
            "location": draw.person.city,
        },
        "updated_at": draw.stamp,
    }


def buddy_checkins(draw: Draw) -> Record:
    """How a match is going."""
    rng = draw.rng
    return {
        "id": draw.id,
        "match_id": draw.earlier("buddy_matches")["id"],
        "checkin_date": draw.before(2),
        "mood": draw.spelled(*_MOODS),
        "notes": draw.text("Had a long walk", "Talked about the job interview"),
        "goal_progress": [
            {"goal": goal, "percentage": rng.randrange(101)} for goal in rng.sample(_GOALS, rng.randrange(3))
        ],
        "updated_at": draw.stamp,
    }


def buddy_events(draw: Draw) -> Record:
    """Something that a match did together."""
    rng = draw.rng
    other = draw.other()
    return {
        "id": draw.id,
        "match_id": draw.earlier("buddy_matches")["id"],
        "event_type": rng.choice(("hangout", "language_exchange", "cultural_event", "job_shadowing")),
        "event_date": draw.before(3),
        "description": draw.text("Coffee and a museum", "Cooked dinner"),
        "location": f"{other.street}, {other.city}" if draw.some(0.5) else other.city,
        "attendees": [draw.other().user_id for _ in range(rng.randrange(1, 5))],
        "duration_minutes": rng.choice((30, 60, 90, 120)),
        "skills_shared": draw.tags(_SKILLS),
        "updated_at": draw.stamp,
    }


def mentorship_placements(draw: Draw) -> Record:
    """A mentee with a mentor or an employer, the sessions nested."""
    rng = draw.rng
    mentor = draw.other()
    status = draw.spelled("active", "active", "matched", "completed", "terminated", "on_hold")
    done = status.lower() == "completed"
    ended = done or status.lower() == "terminated"
    return {
        "id": draw.id,
        "mentee_id": draw.person.user_id,
        "mentor_id": mentor.user_id,
        "mentor_name": mentor.name,
        "type": draw.spelled(
            *["mentorship_match"] * 6,
            "job_placement",
            "internship",
            "apprenticeship",
            "volunteer_placement",
            unknown=("work_trial",),
        ),
        "matched_at": draw.before(120),
        "status": status,
        "start_date": draw.before(60),
        "end_date": draw.stamp if ended else draw.after(200) if draw.some(0.3) else None,
        "focus_areas": draw.tags(_FOCUS),
        "goals": rng.sample(_GOALS, rng.randrange(3)),
        "meeting_frequency": rng.choice(("weekly", "biweekly", "monthly")),
        "employer_name": rng.choice(_EMPLOYERS),
        "job_title": rng.choice(("Shop assistant", "Data analyst", "Care worker", "Driver")),
        "completed": done,
        "successful": draw.some(0.8) if ended else None,
        "completion_reason": draw.text("Found a job", "Moved away") if ended else None,
        "feedback": draw.text("Very helpful", "Good advice") if draw.some(0.5) else None,
        "rating": rng.randrange(1, 6) if ended else None,
        "sessions": [
            {
                "id": f"{draw.id}-{letter}",
                "date": draw.before(50),
                "duration_minutes": rng.choice((20, 30, 45, 60)),
                "notes": draw.text("Looked at the CV", "Practised an interview"),
            }
            for letter in "abcdef"[: rng.randrange(6)]
        ],
        "sdg_goals": draw.sdgs(),
        "tags": draw.tags(),
        "updated_at": draw.stamp,
    }
