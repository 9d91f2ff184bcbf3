"""Donations made through Goodera."""

from teei_ingest.contracts.donation import DonationEvent, DonationType
from teei_ingest.streams.base import Between, Choice, Derived, PageNumber, Person, Stream


def matched(company_match: object | None) -> bool | None:
    """Goodera says that a donation was matched by sending the match."""
    return None if company_match is None else True


STREAM = Stream(
    name="goodera_donations",
    system="goodera",
    title="Donations made through Goodera",
    contract=DonationEvent,
    path="/api/v1/activities",
    params={"activity_type": "donation"},
    records="data",
    paging=PageNumber(more="pagination/hasMore"),
    window=Between(),
    source_id="id",
    source_timestamp="updated_at",
    person=Person(id="user_id", email="user_email?"),
    names=("user_name?",),
    mapping={
        "donation_type": Choice(
            "type",
            {
                "one-time": DonationType.ONE_TIME,
                "recurring": DonationType.RECURRING,
                "matching": DonationType.MATCHING_GIFT,
            },
        ),
        "amount": "amount",
        "currency": "currency",
        "nonprofit_name": "nonprofit?/name?",
        "nonprofit_id": "nonprofit?/id?",
        "cause_area": "cause_area?",
        "donation_date": "date",
        "company_match.matched": Derived(matched, company_match="company_match?"),
        "company_match.match_amount": "company_match?/amount?",
        "company_match.match_ratio": "company_match?/ratio?",
        "tags": "tags?",
        "campaign_id": "campaign?/id?",
        "campaign_name": "campaign?/name?",
    },
    example={
        "id": "g-d-1",
        "user_id": "u-77",
        "user_email": "kari.nordmann@acme.example",
        "type": "recurring",
        "amount": 99.9,
        "currency": "USD",
        "nonprofit": {"id": "np-3", "name": "Clean Coast"},
        "cause_area": "environment",
        "date": "2024-01-15T09:00:00+01:00",
        "company_match": {"amount": 99.9, "ratio": 1.0},
        "campaign": {"id": "c-9", "name": "Ocean"},
        "tags": [],
        "updated_at": "2024-01-16T08:00:00Z",
    },
)
