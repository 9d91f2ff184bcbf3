"""What the sandbox does with a stream's records beyond their look: ids, what may be missing, broken or changed.

Belongs here: a `Maker` for each of the twelve streams, and those of streams that only have an example. Does not belong
here: the fields and their values (`records.py`).
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from teei_ingest.sandbox import records
from teei_ingest.sandbox.people import Person
from teei_ingest.sandbox.records import ENTERPRISE, WORKDAY, Draw, Record
from teei_ingest.streams import all_streams
from teei_ingest.streams.base import Stream


@dataclass(frozen=True)
class Maker:
    """How a stream's records are made.

    `optional` may be missing or null (none: records are served as they are made). `changes` is what a later
    version says anew. `signed` are a label, into which the person's name may get, and the field that tells this
    name. With `people` each record is a person, under the person's id.
    """

    make: Callable[[Draw], Record]
    prefix: str  # of the ids; empty: UUIDs
    required: str  # the field that a bad record lacks
    optional: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    signed: tuple[str, str] | None = None
    people: bool = False


_ENROLLMENT_CHANGES = ("status", "completed_at", "passed", "grade", "hours_completed")

MAKERS = {
    "benevity_volunteers": Maker(
        records.benevity_volunteers,
        "bene-vol-",
        "activityDate",
        (
            "userName",
            "activityDescription",
            "nonprofitName",
            "nonprofitId",
            "causeArea",
            "verifiedBy",
            "verifiedAt",
            "tags",
            "location",
        ),
        ("verified", "verifiedBy", "verifiedAt", "hoursLogged"),
        signed=("activityName", "userName"),
    ),
    "benevity_donations": Maker(
        records.benevity_donations,
        "bene-don-",
        "donationDate",
        (
            "nonprofitId",
            "causeArea",
            "companyMatch",
            "taxDeductible",
            "receiptNumber",
            "tags",
            "campaignId",
            "campaignName",
        ),
        ("taxDeductible", "receiptNumber"),
    ),
    "goodera_volunteers": Maker(
        records.goodera_volunteers,
        "g-",
        "date",
        (
            "user_name",
            "description",
            "nonprofit",
            "cause_area",
            "verified",
            "impact_metrics",
            "tags",
            "location",
            "sdg_goals",
        ),
        ("verified", "hours"),
        signed=("name", "user_name"),
    ),
    "goodera_donations": Maker(
        records.goodera_donations,
        "g-d-",
        "currency",
        ("nonprofit", "cause_area", "company_match", "campaign", "tags"),
        ("campaign",),
    ),
    "workday_directory": Maker(
        records.workday_directory,
        "",
        "userName",
        (
            "externalId",
            "displayName",
            "title",
            "phoneNumbers",
            "addresses",
        ),
        people=True,
    ),
    "kintell_enrollments": Maker(
        records.kintell_enrollments,
        "k-e-",
        "course_id",
        (
            "user_email",
            "description",
            "completed_at",
            "progress_percentage",
            "passed",
            "final_score",
            "grade",
            "certificate_issued",
            "certificate_id",
            "hours_completed",
            "estimated_hours",
            "tags",
            "cohort_id",
            "instructor_id",
        ),
        (*_ENROLLMENT_CHANGES, "progress_percentage", "final_score", "certificate_issued", "certificate_id"),
    ),
    "kintell_sessions": Maker(
        records.kintell_sessions,
        "k-s-",
        "session_date",
        ("progress_percentage", "hours_completed", "tutor_name", "notes"),
        ("completed", "notes"),
    ),
    "upskilling_enrollments": Maker(
        records.upskilling_enrollments,
        "u-",
        "course_id",
        (
            "user_email",
            "description",
            "completed_at",
            "progress",
            "passed",
            "score",
            "grade",
            "credential_issued",
            "credential_id",
            "hours_completed",
            "duration_hours",
            "sdg_goals",
            "tags",
            "cohort_id",
        ),
        (*_ENROLLMENT_CHANGES, "progress", "score", "credential_issued", "credential_id"),
    ),
    "buddy_matches": Maker(
        records.buddy_matches, "", "buddy_id", ("focus_areas", "goals", "matching_criteria"), ("status", "goals")
    ),
    "buddy_checkins": Maker(records.buddy_checkins, "", "checkin_date", ("mood", "notes", "goal_progress"), ("notes",)),
    "buddy_events": Maker(
        records.buddy_events,
        "",
        "event_date",
        ("description", "location", "attendees", "duration_minutes", "skills_shared"),
        ("description",),
    ),
    "mentorship_placements": Maker(
        records.mentorship_placements,
        "m-",
        "status",
        (
            "mentor_id",
            "mentor_name",
            "type",
            "start_date",
            "end_date",
            "focus_areas",
            "goals",
            "meeting_frequency",
            "employer_name",
            "job_title",
            "completed",
            "successful",
            "completion_reason",
            "feedback",
            "rating",
            "sessions",
            "sdg_goals",
            "tags",
        ),
        ("status", "end_date", "completed", "successful", "completion_reason", "rating", "sessions"),
    ),
}


def loosen(record: Record, maker: Maker, rng: Random, person: Person) -> None:
    """Leave optional fields out or null, add unknown ones, sign labels: what a client has to bear."""
    for name in maker.optional:
        dice = rng.random()
        if dice < 0.06:
            record.pop(name, None)
        elif dice < 0.1 and name in record:
            record[name] = None
    dice = rng.random()
    if dice < 0.02:
        record["x_contact"] = {"name": person.name, "phone": person.phone, "email": person.email}
    elif dice < 0.04:
        record["internalRemark"] = f"Ask {person.first}"
    elif dice < 0.06 and maker.signed and record.get(maker.signed[1]):
        record[maker.signed[0]] += f" with {person.name}"


def spoil(record: Record, required: str, dice: int) -> None:
    """Break a record in one of the usual ways, its id and source timestamp intact."""
    for name in ("hoursLogged", "hours", "duration_minutes"):
        if name in record and dice & 1:
            record[name] = -1
            return
    if "amount" in record and dice & 1:
        record["amount"] = "abc"
    elif dice & 2:
        record[required] = None
    else:
        record.pop(required, None)


@cache
def _example(name: str) -> Maker:
    stream = all_streams()[name]

    def make(draw: Draw) -> Record:
        record = replaced(deepcopy(dict(stream.example)), stream.source_id, draw.id)
        return replaced(record, stream.source_timestamp, draw.stamp)

    return Maker(make, f"{name}-", next(iter(stream.example), ""))


def maker_of(stream: Stream) -> Maker:
    """How a stream's records are made: those without a maker repeat the example of their declaration."""
    return MAKERS.get(stream.name) or _example(stream.name)


def replaced(record: Record, path: str, value: Any) -> Record:
    """A copy of a record with another value at a wire path; what is beside the path is shared."""
    name, _, rest = path.partition("/")
    name = name.removesuffix("?")
    return {**record, name: replaced(record.get(name) or {}, rest, value) if rest else value}


def namesake(record: Record, code: str) -> Record:
    """A directory record of somebody else: all that identifies the person carries the code."""
    copy = {**record, "id": f"{record['id']}-{code}"}
    for name in ("userName", "externalId"):
        if copy.get(name):
            copy[name] = f"{code}.{copy[name]}"
    if copy.get("emails"):
        copy["emails"] = [{**entry, "value": f"{code}.{entry['value']}"} for entry in copy["emails"]]
    for extension, name in ((ENTERPRISE, "employeeNumber"), (WORKDAY, "employeeID")):
        if extension in copy:
            copy[extension] = {**copy[extension], name: f"{copy[extension][name]}-{code}"}
    return copy
