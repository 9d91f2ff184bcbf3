"""What the matches in Buddy did together."""

from teei_ingest.contracts.buddy import BuddyEventLogged
from teei_ingest.streams.base import Cursor, SinceOnly, Stream

STREAM = Stream(
    name="buddy_events",
    system="buddy",
    title="Events of the matches in Buddy",
    contract=BuddyEventLogged,
    path="/v1/events",
    records="events",
    paging=Cursor(),
    window=SinceOnly(),
    source_id="id",
    source_timestamp="updated_at",
    mapping={
        "buddy_event_id": "id",
        "match_id": "match_id",
        "buddy_event_type": "event_type",
        "event_date": "event_date",
        "description": "description?",
        "location": "location?",
        "attendees": "attendees?",
        "duration_minutes": "duration_minutes?",
        "skills_shared": "skills_shared?",
    },
    example={
        "id": "a1b2c3d4-e5f6-4789-8abc-def012345678",
        "match_id": "5e0f7b52-6c0e-4f0e-9b53-0f6f1c9a7d11",
        "event_type": "hangout",
        "event_date": "2024-01-15T18:00:00Z",
        "description": "Coffee with Kari",
        "location": "Kari's place",
        "attendees": ["7b0a6f0e-6d3c-4a53-9f0b-1f2a3b4c5d6e"],
        "duration_minutes": 90,
        "skills_shared": ["cv writing"],
        "updated_at": "2024-01-15T20:00:00Z",
    },
)
