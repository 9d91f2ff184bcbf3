"""People to erase: records of one in all roles and of others, fed to the pipeline, and what is stored of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

from teei_ingest.companies import Company, load_companies
from teei_ingest.landing.suppression import Suppressions
from teei_ingest.pipeline.partition import Partition
from teei_ingest.privacy.identity import parse_identity
from teei_ingest.redact.tokens import Pseudonyms
from teei_ingest.store import open_store
from teei_ingest.store.tables import contracts
from teei_ingest.vault.keys import KeyRing
from teei_ingest_tests.feeding import ACME, Record, record, worker
from teei_ingest_tests.running import Home

DAY = date(2024, 1, 15)
AT = "2024-01-15T09:00:00Z"
KARI, KARI_INTERNAL, KARI_WORKDAY, KARI_SCIM = (
    "kari.nordmann@acme.example",
    "7b0a6f0e-6d3c-4a53-9f0b-1f2a3b4c5d6e",
    "E-10442",
    "wd-1",
)
OLA, OLA_INTERNAL = "ola.hansen@acme.example", "1a1b1c1d-6d3c-4a53-9f0b-1f2a3b4c5d6e"
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
WORKDAY = "urn:ietf:params:scim:schemas:extension:workday:2.0:User"

OLAS: dict[str, dict[str, Any]] = {
    "workday_directory": {
        "emails?": [{"value": OLA}],
        "userName": OLA,
        "externalId": "E-2",
        ENTERPRISE: {"manager": {"value": KARI_SCIM}},
        WORKDAY: {"employeeID": "E-2"},
    },
    "benevity_volunteers": {"userId": "E-2", "userEmail": OLA, "verifiedBy": KARI},
    "kintell_enrollments": {"user_id": OLA_INTERNAL, "user_email": OLA, "instructor_id": KARI_INTERNAL},
    "buddy_matches": {"user_id": OLA_INTERNAL, "buddy_id": KARI_INTERNAL},
    "buddy_checkins": {"match_id": "match-2"},
    "buddy_events": {"match_id": "match-2", "attendees": [OLA_INTERNAL, KARI_INTERNAL]},
    "mentorship_placements": {"mentee_id": OLA_INTERNAL, "mentor_id": KARI_INTERNAL, "mentor_name": "Kari Nordmann"},
}


def people() -> dict[str, list[Record]]:
    """Of each stream one record of Kari, who is its example, and one of Ola, which refers to her where it can."""
    made = {}
    for stream, changes in OLAS.items():
        ids = {"workday_directory": (KARI_SCIM, "wd-2"), "buddy_matches": ("match-1", "match-2")}
        first, second = ids.get(stream, (f"{stream}-1", f"{stream}-2"))
        own = {"match_id": "match-1"} if "match_id" in changes else {}
        made[stream] = [record(stream, first, AT, own), record(stream, second, "2024-01-15T10:00:00Z", changes)]
    return made


def sync(place: Home, *streams: str) -> dict[str, Partition]:
    """Read the day; by stream what became of it."""
    made = {}
    for stream in streams or tuple(OLAS):
        outcome = worker(place, stream).both([DAY])
        assert not outcome.bad, [str(one.error) for one in outcome.bad]
        made[stream] = outcome.partitions[DAY]
        assert made[stream].balanced
    return made


def company_of(place: Home) -> Company:
    """The company."""
    return load_companies(place.settings).get(ACME.slug)


def tokens_of(place: Home, *lines: str) -> set[str]:
    """Tokens and hashes under which these identities may be stored."""
    names = Pseudonyms.of(KeyRing.open(place.settings, company_of(place)))
    return {token for line in lines for token in parse_identity(line).pseudonyms(names)}


def all_rows(place: Home) -> dict[str, dict[str, Any]]:
    """All stored rows by event id."""
    store = open_store(place.settings)
    return {row["event_id"]: row for contract in contracts() for row in store.rows(contract).to_pylist()}


def texts(value: Any) -> Iterator[str]:
    """All texts in a row."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from texts(one)


def mentions(place: Home, *lines: str) -> int:
    """In how many stored rows there is a pseudonym of one of these identities."""
    wanted = tokens_of(place, *lines)
    return sum(not wanted.isdisjoint(texts(row)) for row in all_rows(place).values())


def pending(place: Home) -> int:
    """The number of erasures that were not carried out to their end."""
    ring = KeyRing.open(place.settings, company_of(place))
    return len(Suppressions(place.settings).pending(ring, ACME.slug))
