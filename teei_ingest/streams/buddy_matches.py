"""Matches of two people in Buddy."""

from teei_ingest.contracts.buddy import BuddyMatchCreated
from teei_ingest.streams.base import Cursor, Person, SinceOnly, Stream

STREAM = Stream(
    name="buddy_matches",
    system="buddy",
    title="Matches in Buddy",
    contract=BuddyMatchCreated,
    path="/v1/matches",
    records="matches",
    paging=Cursor(),
    window=SinceOnly(),
    source_id="id",
    source_timestamp="updated_at",
    person=Person(id="user_id"),
    mapping={
        "match_id": "id",
        "participant_id": "user_id",
        "buddy_id": "buddy_id",
        "matched_at": "matched_at",
        "status": "status",
        "matching_criteria.language": "matching_criteria?/language?",
        "matching_criteria.interests": "matching_criteria?/interests?",
        "matching_criteria.location": "matching_criteria?/location?",
        "focus_areas": "focus_areas?",
        "goals": "goals?",
    },
    example={
        "id": "5e0f7b52-6c0e-4f0e-9b53-0f6f1c9a7d11",
        "user_id": "7b0a6f0e-6d3c-4a53-9f0b-1f2a3b4c5d6e",
        "buddy_id": "c2b1a0f9-8e7d-4c6b-a5f4-3e2d1c0b9a88",
        "matched_at": "2024-01-15T12:00:00Z",
        "status": "active",
        "focus_areas": ["job search"],
        "goals": ["Find a flat with Ola's help"],
        "matching_criteria": {"language": "no", "interests": ["ski"], "location": "Oslo"},
        "updated_at": "2024-01-15T12:00:00Z",
    },
)
