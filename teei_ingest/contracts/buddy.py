"""The three Buddy contracts: a match, its check-ins and its events."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from teei_ingest.contracts.base import Data, Part
from teei_ingest.contracts.fields import (
    Instant,
    NonNegative,
    Percentage,
    free_text,
    label,
    person_ref,
    public,
    quasi,
    sensitive,
)

MatchId = Annotated[str, public("The match", reason="an opaque record id")]


class MatchingCriteria(Part):
    """Why these two were brought together."""

    language: Annotated[str | None, label("Language they share")] = None
    interests: Annotated[list[str] | None, label("Interests they share")] = None
    location: Annotated[str | None, public("Where they live", reason="a place by name")] = None


class BuddyMatchCreated(Data):
    """Two people matched as buddies."""

    event_type: ClassVar = "buddy.match.created"
    table: ClassVar = "buddy_matches"
    subject: ClassVar = ("user_id", "external_user_id", "participant_id")
    group: ClassVar = "match_id"

    match_id: MatchId
    participant_id: Annotated[str, person_ref("The newcomer")]
    buddy_id: Annotated[str, person_ref("The buddy")]
    matched_at: Annotated[Instant, public("When they were matched", unit="UTC", reason="date of an activity")]
    status: Annotated[str | None, label("Where the match stands")] = None
    matching_criteria: MatchingCriteria | None = None
    focus_areas: Annotated[list[str] | None, label("What it is about")] = None
    goals: Annotated[list[str] | None, free_text("What they want to reach")] = None


class Mood(StrEnum):
    GREAT = "great"
    GOOD = "good"
    OKAY = "okay"
    STRUGGLING = "struggling"
    DIFFICULT = "difficult"


class GoalProgress(Part):
    """How far a goal has come."""

    goal: Annotated[str | None, free_text("The goal")] = None
    percentage: Annotated[Percentage | None, sensitive("Share reached, 0 to 100", unit="percent")] = None


class BuddyCheckinCompleted(Data):
    """A check-in of a match."""

    event_type: ClassVar = "buddy.checkin.completed"
    table: ClassVar = "buddy_checkins"
    group: ClassVar = "match_id"

    checkin_id: Annotated[str, public("The check-in", reason="an opaque record id")]
    match_id: MatchId
    checkin_date: Annotated[Instant, public("When it took place", unit="UTC", reason="date of an activity")]
    mood: Annotated[Mood | None, sensitive("How the participant feels")] = None
    notes: Annotated[str | None, free_text("Notes")] = None
    goal_progress: list[GoalProgress] | None = None


class BuddyEventLogged(Data):
    """Something a match did together."""

    event_type: ClassVar = "buddy.event.logged"
    table: ClassVar = "buddy_events"
    group: ClassVar = "match_id"

    # `event_id` and `event_type` lead every view and stand on every contract, so the columns are renamed.
    buddy_event_id: Annotated[str, Field(alias="eventId"), public("The event", reason="an opaque record id")]
    match_id: MatchId
    buddy_event_type: Annotated[str, Field(alias="eventType"), label("Kind of event, as the source writes it")]
    event_date: Annotated[Instant, public("When it took place", unit="UTC", reason="date of an activity")]
    description: Annotated[str | None, free_text("What they did")] = None
    location: Annotated[str | None, quasi("Where they met")] = None
    attendees: Annotated[list[str] | None, person_ref("Who was there")] = None
    duration_minutes: Annotated[NonNegative | None, public("How long it was", unit="minutes", reason="duration")] = None
    skills_shared: Annotated[list[str] | None, label("Skills they shared")] = None
