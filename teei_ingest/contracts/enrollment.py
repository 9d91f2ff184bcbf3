"""EnrollmentEvent: somebody on a course, and how far they are."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from teei_ingest.contracts.base import Data, Part
from teei_ingest.contracts.common import SdgGoals, Tags
from teei_ingest.contracts.fields import (
    Flag,
    Instant,
    NonNegative,
    Percentage,
    document_ref,
    free_text,
    label,
    person_ref,
    public,
    sensitive,
)


class ProgramType(StrEnum):
    LANGUAGE_COURSE = "language_course"
    UPSKILLING_COURSE = "upskilling_course"
    MENTORSHIP_PROGRAM = "mentorship_program"
    BUDDY_PROGRAM = "buddy_program"
    CERTIFICATION_PROGRAM = "certification_program"
    OTHER = "other"


class EnrollmentStatus(StrEnum):
    ENROLLED = "enrolled"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    WITHDRAWN = "withdrawn"
    FAILED = "failed"


class Outcome(Part):
    """How it ended."""

    passed: Annotated[Flag | None, public("Whether the course was passed", reason="yes or no")] = None
    score: Annotated[Percentage | None, sensitive("Final score, 0 to 100", unit="points")] = None
    grade: Annotated[str | None, label("Grade, as the source writes it")] = None
    certificate_issued: Annotated[Flag | None, public("Whether a certificate was issued", reason="yes or no")] = None
    certificate_id: Annotated[str | None, document_ref("Number of the certificate")] = None


class Session(Part):
    """One lesson."""

    enrollment_id: Annotated[str | None, public("The enrollment it belongs to", reason="an opaque record id")] = None
    session_date: Annotated[Instant | None, public("When it took place", unit="UTC", reason="date")] = None
    duration_minutes: Annotated[
        NonNegative | None, public("How long it was; adds up", unit="minutes", reason="duration")
    ] = None
    completed: Annotated[Flag | None, public("Whether it was held to its end", reason="yes or no")] = None


class EnrollmentEvent(Data):
    """An enrollment in a course or programme, or a session of one."""

    event_type: ClassVar = "ingest.enrollment.created"
    table: ClassVar = "enrollment_events"
    either: ClassVar = (("status", "session"),)

    program_type: Annotated[ProgramType, public("Kind of programme", reason="a closed list")]
    program_id: Annotated[str, public("Its id in the source", reason="names a course")]
    program_name: Annotated[str, label("Its name")]
    program_description: Annotated[str | None, free_text("What it teaches")] = None
    enrollment_date: Annotated[Instant, public("When they enrolled", unit="UTC", reason="date of an activity")]
    status: Annotated[
        EnrollmentStatus | None,
        public("Where they stand; null only beside a session", reason="a closed list"),
    ] = None
    completion_date: Annotated[Instant | None, public("When they completed it", unit="UTC", reason="date")] = None
    completion_percentage: Annotated[
        Percentage | None, public("Share completed so far, 0 to 100", unit="percent", reason="progress")
    ] = None
    outcome: Outcome | None = None
    hours_completed: Annotated[
        NonNegative | None, public("Hours so far; does not add up", unit="hours", reason="hours")
    ] = None
    estimated_hours: Annotated[NonNegative | None, public("Hours it takes", unit="hours", reason="hours")] = None
    sdg_goals: SdgGoals = None
    tags: Tags = None
    cohort_id: Annotated[str | None, public("The group they learn in", reason="names a group")] = None
    instructor_id: Annotated[str | None, person_ref("Who teaches")] = None
    session: Session | None = None
