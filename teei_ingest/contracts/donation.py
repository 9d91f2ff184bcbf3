"""DonationEvent: money that somebody gave."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from teei_ingest.contracts.base import Data, Part
from teei_ingest.contracts.common import SdgGoals, SourceTenantId, Tags
from teei_ingest.contracts.fields import (
    Amount,
    Currency,
    Flag,
    Instant,
    NonNegative,
    document_ref,
    label,
    public,
)


class DonationType(StrEnum):
    ONE_TIME = "one_time"
    RECURRING = "recurring"
    MATCHING_GIFT = "matching_gift"
    PAYROLL_DEDUCTION = "payroll_deduction"
    VOLUNTEER_GRANT = "volunteer_grant"
    DISASTER_RELIEF = "disaster_relief"
    OTHER = "other"


class CompanyMatch(Part):
    """What the company added."""

    matched: Annotated[Flag | None, public("Whether the company matched it", reason="yes or no")] = None
    match_amount: Annotated[
        Amount | None, public("What it added", unit="the donation's currency", reason="an amount")
    ] = None
    match_ratio: Annotated[NonNegative | None, public("Added ÷ given", reason="a ratio")] = None


class DonationEvent(Data):
    """A donation made through an external platform."""

    event_type: ClassVar = "ingest.donation.made"
    table: ClassVar = "donation_events"

    source_tenant_id: SourceTenantId
    donation_type: Annotated[DonationType, public("Kind of donation", reason="a closed list")]
    amount: Annotated[Amount, public("What was given, exact", unit="`currency`", reason="an amount")]
    currency: Annotated[Currency, public("ISO 4217 code", reason="a closed list")]
    amount_usd: Annotated[
        Amount | None,
        Field(alias="amountUSD"),
        public("The amount in US dollars", unit="USD", reason="an amount"),
    ] = None
    nonprofit_name: Annotated[str | None, label("Organisation that received it")] = None
    nonprofit_id: Annotated[str | None, public("Its id in the source", reason="names an organisation")] = None
    cause_area: Annotated[str | None, label("Cause")] = None
    donation_date: Annotated[Instant, public("When it was given", unit="UTC", reason="date of an activity")]
    company_match: CompanyMatch | None = None
    sdg_goals: SdgGoals = None
    tax_deductible: Annotated[Flag | None, public("Whether it can be deducted from tax", reason="yes or no")] = None
    receipt_number: Annotated[str | None, document_ref("Number of the receipt")] = None
    tags: Tags = None
    campaign_id: Annotated[str | None, public("Id of the campaign in the source", reason="names a campaign")] = None
    campaign_name: Annotated[str | None, label("Name of the campaign")] = None
