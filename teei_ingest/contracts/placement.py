"""PlacementEvent: somebody matched with a mentor or a job."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from teei_ingest.contracts.base import Data, Part
from teei_ingest.contracts.common import Location, SdgGoals, Tags
from teei_ingest.contracts.fields import (
    Amount,
    Flag,
    Hours,
    Instant,
    Rating,
    Whole,
    direct,
    free_text,
    label,
    person_ref,
    public,
    quasi,
    sensitive,
)


class PlacementType(StrEnum):
    MENTORSHIP_MATCH = "mentorship_match"
    JOB_PLACEMENT = "job_placement"
    INTERNSHIP = "internship"
    APPRENTICESHIP = "apprenticeship"
    VOLUNTEER_PLACEMENT = "volunteer_placement"
    OTHER = "other"


class PlacementStatus(StrEnum):
    ACTIVE = "active"
    COMPLETED = "completed"
    TERMINATED = "terminated"
    ON_HOLD = "on_hold"


class PlacementOutcome(Part):
    """How it ended."""

    successful: Annotated[Flag | None, public("Whether it reached its aim", reason="yes or no")] = None
    completion_reason: Annotated[str | None, free_text("Why it ended")] = None
    feedback: Annotated[str | None, free_text("What people said of it")] = None
    rating: Annotated[Rating | None, sensitive("Rating, 1 to 5", unit="points")] = None


class PlacementEvent(Data):
    """A mentorship or job placement."""

    event_type: ClassVar = "ingest.placement.created"
    table: ClassVar = "placement_events"
    beside: ClassVar = {"mentor_name": "mentor_id"}

    placement_type: Annotated[PlacementType, public("Kind of placement", reason="a closed list")]
    placement_date: Annotated[Instant, public("When it was made", unit="UTC", reason="date of an activity")]
    status: Annotated[PlacementStatus, public("Where it stands", reason="a closed list")]
    start_date: Annotated[Instant | None, public("When it began", unit="UTC", reason="date")] = None
    end_date: Annotated[Instant | None, public("When it ended", unit="UTC", reason="date")] = None
    mentor_id: Annotated[str | None, person_ref("The mentor")] = None
    mentor_name: Annotated[str | None, direct("The mentor's name", kind="name")] = None
    employer_id: Annotated[str | None, public("The employer's id", reason="names an organisation")] = None
    employer_name: Annotated[str | None, label("The employer's name")] = None
    job_title: Annotated[str | None, quasi("Job title")] = None
    job_level: Annotated[str | None, public("Job level", reason="a step of a ladder")] = None
    industry: Annotated[str | None, label("Industry")] = None
    salary: Annotated[Amount | None, quasi("Yearly salary", unit="the employer's currency")] = None
    focus_areas: Annotated[list[str] | None, label("What it is about")] = None
    goals_set: Annotated[list[str] | None, free_text("Goals that were agreed on")] = None
    meeting_frequency: Annotated[str | None, label("How often they meet")] = None
    outcome: PlacementOutcome | None = None
    total_hours: Annotated[
        Hours | None, public("Length of all its sessions together", unit="hours", reason="hours")
    ] = None
    sessions_completed: Annotated[Whole | None, public("Number of its sessions", reason="a count")] = None
    sdg_goals: SdgGoals = None
    tags: Tags = None
    location: Location | None = None
