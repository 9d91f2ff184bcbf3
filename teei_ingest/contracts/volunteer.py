"""VolunteerEvent: hours that somebody gave."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from teei_ingest.contracts.base import Data
from teei_ingest.contracts.common import Location, SdgGoals, SourceTenantId, Tags
from teei_ingest.contracts.fields import (
    Flag,
    Instant,
    Metrics,
    NonNegative,
    free_text,
    label,
    person_ref,
    public,
)


class ActivityType(StrEnum):
    SKILLS_VOLUNTEERING = "skills_volunteering"
    HANDS_ON_VOLUNTEERING = "hands_on_volunteering"
    VIRTUAL_VOLUNTEERING = "virtual_volunteering"
    BOARD_SERVICE = "board_service"
    PRO_BONO = "pro_bono"
    OTHER = "other"


class VolunteerEvent(Data):
    """Volunteer hours logged in an external platform."""

    event_type: ClassVar = "ingest.volunteer.logged"
    table: ClassVar = "volunteer_events"

    source_tenant_id: SourceTenantId
    activity_name: Annotated[str, label("Name of the activity")]
    activity_description: Annotated[str | None, free_text("What was done")] = None
    activity_type: Annotated[ActivityType, public("Kind of volunteering", reason="a closed list")]
    hours_logged: Annotated[NonNegative, public("Time given", unit="hours", reason="what impact is counted in")]
    activity_date: Annotated[Instant, public("When it took place", unit="UTC", reason="date of an activity")]
    nonprofit_name: Annotated[str | None, label("Organisation that was helped")] = None
    nonprofit_id: Annotated[str | None, public("Its id in the source", reason="names an organisation")] = None
    cause_area: Annotated[str | None, label("Cause")] = None
    sdg_goals: SdgGoals = None
    verified: Annotated[Flag | None, public("Whether somebody confirmed the hours", reason="yes or no")] = None
    verified_by: Annotated[str | None, person_ref("Who confirmed them")] = None
    verified_at: Annotated[Instant | None, public("When they were confirmed", unit="UTC", reason="date")] = None
    impact_metrics: Annotated[Metrics | None, public("The source's own figures by name", reason="numbers only")] = None
    tags: Tags = None
    location: Location | None = None
