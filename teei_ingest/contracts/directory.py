"""DirectoryEntry: an employee as the HR system knows them (RFC 7643)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from teei_ingest.contracts.base import Data
from teei_ingest.contracts.common import SourceTenantId
from teei_ingest.contracts.fields import Day, Instant, Metrics, direct, person_ref, public, quasi


class EmployeeType(StrEnum):
    FULL_TIME = "full_time"
    PART_TIME = "part_time"
    CONTRACTOR = "contractor"
    INTERN = "intern"
    TEMPORARY = "temporary"
    OTHER = "other"


class EmployeeStatus(StrEnum):
    ACTIVE = "active"
    INACTIVE = "inactive"
    TERMINATED = "terminated"
    ON_LEAVE = "on_leave"


ATTRIBUTION = "what hours are attributed to"


class DirectoryEntry(Data):
    """An entry of the employee directory."""

    event_type: ClassVar = "ingest.directory.synced"
    table: ClassVar = "directory_entries"
    subject: ClassVar = ("user_id", "external_user_id", "source_id", "email")

    source_id: Annotated[str, person_ref("The person's id there, in one namespace with managerId")]
    source_tenant_id: SourceTenantId
    email: Annotated[str | None, direct("Work address", kind="email")] = None
    first_name: Annotated[str | None, direct("Given name", kind="name")] = None
    last_name: Annotated[str | None, direct("Family name", kind="name")] = None
    display_name: Annotated[str | None, direct("Name as shown", kind="name")] = None
    employee_number: Annotated[str | None, person_ref("Number in the HR system")] = None
    employee_type: Annotated[EmployeeType | None, public("Kind of employment", reason="a closed list")] = None
    status: Annotated[EmployeeStatus, public("Whether they work here", reason="a closed list")]
    department: Annotated[str | None, public("Department", reason=ATTRIBUTION)] = None
    division: Annotated[str | None, public("Division", reason=ATTRIBUTION)] = None
    business_unit: Annotated[str | None, public("Business unit", reason=ATTRIBUTION)] = None
    cost_center: Annotated[str | None, public("Cost centre", reason=ATTRIBUTION)] = None
    location: Annotated[str | None, public("Site, or city and country", reason="a place by name")] = None
    manager_id: Annotated[str | None, person_ref("The manager's sourceId")] = None
    manager_email: Annotated[str | None, direct("The manager's address", kind="email")] = None
    job_title: Annotated[str | None, quasi("Job title")] = None
    job_level: Annotated[str | None, public("Job level", reason=ATTRIBUTION)] = None
    job_family: Annotated[str | None, public("Job family", reason=ATTRIBUTION)] = None
    hire_date: Annotated[Day | None, quasi("First day of work", unit="day")] = None
    termination_date: Annotated[Day | None, quasi("Last day of work", unit="day")] = None
    last_updated: Annotated[Instant, public("When the entry was last changed", unit="UTC", reason="date")]
    permissions: Annotated[list[str] | None, public("Roles in the source", reason="no source sends it")] = None
    custom_fields: Annotated[Metrics | None, public("The source's own figures", reason="numbers only")] = None
