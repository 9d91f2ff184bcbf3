"""Lessons held in Kintell: each with its length, and the progress reached by then."""

from teei_ingest.contracts.enrollment import EnrollmentEvent, ProgramType
from teei_ingest.streams.base import Constant, Cursor, Person, SinceOnly, Stream

STREAM = Stream(
    name="kintell_sessions",
    system="kintell",
    title="Language course sessions in Kintell",
    contract=EnrollmentEvent,
    path="/v1/sessions",
    records="sessions",
    paging=Cursor(),
    window=SinceOnly(),
    source_id="id",
    source_timestamp="updated_at",
    person=Person(id="user_id"),
    names=("tutor_name?",),
    mapping={
        "program_type": Constant(ProgramType.LANGUAGE_COURSE),
        "program_id": "course_id",
        "program_name": "course_name",
        "enrollment_date": "enrolled_at",
        "completion_percentage": "progress_percentage?",
        "hours_completed": "hours_completed?",
        "session.enrollment_id": "enrollment_id",
        "session.session_date": "session_date",
        "session.duration_minutes": "duration_minutes",
        "session.completed": "completed",
    },
    example={
        "id": "k-s-1",
        "enrollment_id": "k-e-1",
        "user_id": "7b0a6f0e-6d3c-4a53-9f0b-1f2a3b4c5d6e",
        "course_id": "norwegian-b1",
        "course_name": "Norwegian B1",
        "enrolled_at": "2023-11-01T09:00:00Z",
        "session_date": "2024-01-15T17:00:00Z",
        "duration_minutes": 60,
        "completed": True,
        "progress_percentage": 66,
        "hours_completed": 33,
        "tutor_name": "Per Hansen",
        "notes": "Talked about Kari's new flat",
        "updated_at": "2024-01-15T18:05:00Z",
    },
)
