"""Check-ins of the matches in Buddy; they name nobody themselves."""

from teei_ingest.contracts.buddy import BuddyCheckinCompleted, Mood
from teei_ingest.streams.base import Choice, Cursor, SinceOnly, Stream

STREAM = Stream(
    name="buddy_checkins",
    system="buddy",
    title="Check-ins in Buddy",
    contract=BuddyCheckinCompleted,
    path="/v1/checkins",
    records="checkins",
    paging=Cursor(),
    window=SinceOnly(),
    source_id="id",
    source_timestamp="updated_at",
    mapping={
        "checkin_id": "id",
        "match_id": "match_id",
        "checkin_date": "checkin_date",
        "mood": Choice.same("mood?", Mood),
        "notes": "notes?",
        "goal_progress": "goal_progress?",
    },
    example={
        "id": "3f2e1d0c-9b8a-4766-9544-32211000aabb",
        "match_id": "5e0f7b52-6c0e-4f0e-9b53-0f6f1c9a7d11",
        "checkin_date": "2024-01-15T16:00:00Z",
        "mood": "good",
        "notes": "Kari was happy about the interview",
        "goal_progress": [{"goal": "Find a flat", "percentage": 40}],
        "updated_at": "2024-01-15T16:10:00Z",
    },
)
