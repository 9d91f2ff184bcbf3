"""Event contracts: Pydantic models whose every field carries a personal-data class.

No vendor's names, no HTTP, no storage: only what an event is.
"""

from teei_ingest.contracts.base import Data
from teei_ingest.contracts.buddy import BuddyCheckinCompleted, BuddyEventLogged, BuddyMatchCreated
from teei_ingest.contracts.directory import DirectoryEntry
from teei_ingest.contracts.donation import DonationEvent
from teei_ingest.contracts.enrollment import EnrollmentEvent
from teei_ingest.contracts.placement import PlacementEvent
from teei_ingest.contracts.volunteer import VolunteerEvent

RELEASED: tuple[type[Data], ...] = (
    VolunteerEvent,
    DonationEvent,
    DirectoryEntry,
    EnrollmentEvent,
    PlacementEvent,
    BuddyMatchCreated,
    BuddyCheckinCompleted,
    BuddyEventLogged,
)
