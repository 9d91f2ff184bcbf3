"""Placements in Mentorship, their sessions counted and added up."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

from typing_extensions import TypedDict

from teei_ingest.contracts.placement import PlacementEvent, PlacementStatus, PlacementType
from teei_ingest.streams.base import Choice, Cursor, Derived, Person, SinceOnly, Stream


class Session(TypedDict):
    duration_minutes: float


def total_hours(sessions: list[Session] | None) -> Decimal | None:
    """Length of all sessions, in hours with four decimals."""
    if sessions is None:
        return None
    minutes = sum((Decimal(str(session["duration_minutes"])) for session in sessions), Decimal(0))
    return (minutes / 60).quantize(Decimal("0.0001"), ROUND_HALF_EVEN)


def session_count(sessions: list[Session] | None) -> int | None:
    """Number of sessions."""
    return None if sessions is None else len(sessions)


STREAM = Stream(
    name="mentorship_placements",
    system="mentorship",
    title="Mentorship placements",
    contract=PlacementEvent,
    path="/v1/placements",
    records="placements",
    paging=Cursor(),
    window=SinceOnly(),
    source_id="id",
    source_timestamp="updated_at",
    person=Person(id="mentee_id"),
    names=("mentor_name?",),
    mapping={
        "placement_type": Choice.same("type?", PlacementType, absent=PlacementType.MENTORSHIP_MATCH),
        "placement_date": "matched_at",
        "status": Choice(
            "status",
            {
                "active": PlacementStatus.ACTIVE,
                "matched": PlacementStatus.ACTIVE,
                "completed": PlacementStatus.COMPLETED,
                "terminated": PlacementStatus.TERMINATED,
                "on_hold": PlacementStatus.ON_HOLD,
            },
        ),
        "start_date": "start_date?",
        "end_date": "end_date?",
        "mentor_id": "mentor_id?",
        "mentor_name": "mentor_name?",
        "employer_name": "employer_name?",
        "job_title": "job_title?",
        "focus_areas": "focus_areas?",
        "goals_set": "goals?",
        "meeting_frequency": "meeting_frequency?",
        "outcome.successful": "successful?",
        "outcome.completion_reason": "completion_reason?",
        "outcome.feedback": "feedback?",
        "outcome.rating": "rating?",
        "total_hours": Derived(total_hours, sessions="sessions?"),
        "sessions_completed": Derived(session_count, sessions="sessions?"),
        "sdg_goals": "sdg_goals?",
        "tags": "tags?",
    },
    example={
        "id": "m-1",
        "mentee_id": "7b0a6f0e-6d3c-4a53-9f0b-1f2a3b4c5d6e",
        "mentor_id": "c2b1a0f9-8e7d-4c6b-a5f4-3e2d1c0b9a88",
        "mentor_name": "Per Hansen",
        "type": "mentorship_match",
        "matched_at": "2023-12-01T09:00:00Z",
        "status": "active",
        "start_date": "2023-12-05T09:00:00Z",
        "end_date": None,
        "focus_areas": ["interviews"],
        "goals": ["Get Kari a first interview"],
        "meeting_frequency": "biweekly",
        "employer_name": "Nordic Data AS",
        "job_title": "Analyst",
        "completed": False,
        "successful": None,
        "completion_reason": None,
        "feedback": "Kari is doing well",
        "rating": None,
        "sessions": [{"id": "s-1", "date": "2024-01-10T10:00:00Z", "duration_minutes": 60, "notes": "Met Kari"}],
        "sdg_goals": [8],
        "tags": [],
        "updated_at": "2024-01-15T10:05:00Z",
    },
)
