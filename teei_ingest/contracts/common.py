"""Objects and fields that several contracts share."""

from __future__ import annotations

from typing import Annotated

from teei_ingest.contracts.base import Part
from teei_ingest.contracts.fields import Sdg, label, public, quasi


class Location(Part):
    """Where an activity took place."""

    country: Annotated[str | None, public("Country, ISO 3166 where the source has it", reason="a place by name")] = None
    city: Annotated[str | None, public("City", reason="a place by name")] = None
    coordinates: Annotated[str | None, quasi("Position as `latitude,longitude`", unit="degrees")] = None


SdgGoals = Annotated[
    list[Sdg] | None, public("Sustainable Development Goals, 1 to 17", reason="the United Nations' list")
]
Tags = Annotated[list[str] | None, label("Tags set in the source")]
SourceTenantId = Annotated[
    str, public("The company's id in the source: tenant or project", reason="names a company, not a person")
]
