"""The employee directory of Workday, or of any SCIM 2.0 server (RFC 7643)."""

from __future__ import annotations

from typing_extensions import TypedDict

from teei_ingest.contracts.directory import DirectoryEntry, EmployeeStatus, EmployeeType
from teei_ingest.contracts.fields import instant_ns
from teei_ingest.streams.base import Choice, Derived, Person, ScimFilter, StartIndex, Stream

ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User?"
WORKDAY = "urn:ietf:params:scim:schemas:extension:workday:2.0:User?"


class Email(TypedDict, total=False):
    value: str | None
    primary: bool | None


class Address(TypedDict, total=False):
    type: str | None
    locality: str | None
    country: str | None
    primary: bool | None


def email(emails: list[Email] | None, user_name: str) -> str | None:
    """The primary address, else the first, else the user name if it is one (RFC 7643, section 4.1.2)."""
    given = [entry for entry in emails or () if entry.get("value")]
    for entry in sorted(given, key=lambda entry: entry.get("primary") is not True):
        return entry["value"]
    return user_name if "@" in user_name.strip("@") else None


def first_known(employee_id: str | None, external_id: str | None) -> str | None:
    """Workday's employeeID, else SCIM's externalId."""
    return employee_id if employee_id is not None else external_id


def status(
    termination_date: str | None, on_leave: bool | None, active: bool | None, last_modified: str
) -> EmployeeStatus:
    """A termination counts once its day has come by `meta.lastModified`; leave is stronger than active."""
    if termination_date is not None and instant_ns(termination_date) <= instant_ns(last_modified):
        return EmployeeStatus.TERMINATED
    if on_leave:
        return EmployeeStatus.ON_LEAVE
    return EmployeeStatus.ACTIVE if active else EmployeeStatus.INACTIVE


def location(workday: object | None, site: str | None, addresses: list[Address] | None) -> str | None:
    """Workday's site; on a server without its extension the work address's city and country."""
    if workday is not None:
        return site
    for address in addresses or ():
        if address.get("type") == "work":
            return ", ".join(part for part in (address.get("locality"), address.get("country")) if part) or None
    return None


EMAIL = Derived(email, emails="emails?", user_name="userName")

STREAM = Stream(
    name="workday_directory",
    system="workday",
    title="Employee directory of Workday (SCIM 2.0)",
    contract=DirectoryEntry,
    path="/scim/v2/Users",
    records="Resources",
    paging=StartIndex(),
    window=ScimFilter(),
    source_id="id",
    source_timestamp="meta/lastModified",
    person=Person(
        id=Derived(first_known, employee_id=f"{WORKDAY}/employeeID?", external_id="externalId?"),
        email=EMAIL,
        key="id",
    ),
    names=(
        "displayName?",
        "name?/givenName?",
        "name?/familyName?",
        f"{ENTERPRISE}/manager?/displayName?",
    ),
    mapping={
        "email": EMAIL,
        "first_name": "name?/givenName?",
        "last_name": "name?/familyName?",
        "display_name": "displayName?",
        "employee_number": f"{ENTERPRISE}/employeeNumber?",
        "employee_type": Choice(f"{WORKDAY}/employeeType?", {member.value: member for member in EmployeeType}),
        "status": Derived(
            status,
            termination_date=f"{WORKDAY}/terminationDate?",
            on_leave=f"{WORKDAY}/onLeave?",
            active="active?",
            last_modified="meta/lastModified",
        ),
        "department": f"{ENTERPRISE}/department?",
        "division": f"{ENTERPRISE}/division?",
        "business_unit": f"{WORKDAY}/businessUnit?",
        "cost_center": f"{ENTERPRISE}/costCenter?",
        "location": Derived(location, workday=WORKDAY, site=f"{WORKDAY}/location?", addresses="addresses?"),
        "manager_id": f"{ENTERPRISE}/manager?/value?",
        "job_title": "title?",
        "job_level": f"{WORKDAY}/jobLevel?",
        "job_family": f"{WORKDAY}/jobFamily?",
        "hire_date": f"{WORKDAY}/hireDate?",
        "termination_date": f"{WORKDAY}/terminationDate?",
        "last_updated": "meta/lastModified",
    },
    example={
        "schemas": [
            "urn:ietf:params:scim:schemas:core:2.0:User",
            "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User",
            "urn:ietf:params:scim:schemas:extension:workday:2.0:User",
        ],
        "id": "wd-1",
        "externalId": "E-10442",
        "userName": "kari.nordmann@acme.example",
        "active": True,
        "name": {"givenName": "Kari", "familyName": "Nordmann", "formatted": "Kari Nordmann"},
        "displayName": "Kari Nordmann",
        "title": "Engineer",
        "emails": [{"value": "kari.nordmann@acme.example", "type": "work", "primary": True}],
        "phoneNumbers": [{"value": "+47 912 34 567", "type": "mobile"}],
        "addresses": [{"type": "work", "locality": "Oslo", "region": "Oslo", "postalCode": "0150", "country": "NO"}],
        "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User": {
            "employeeNumber": "10442",
            "costCenter": "CC-7",
            "department": "R&D",
            "division": "Nordics",
            "manager": {"value": "wd-9", "displayName": "Per Hansen"},
        },
        "urn:ietf:params:scim:schemas:extension:workday:2.0:User": {
            "employeeID": "E-10442",
            "employeeType": "Full_Time",
            "businessUnit": "Products",
            "jobLevel": "IC4",
            "jobFamily": "Engineering",
            "hireDate": "2019-08-01",
            "terminationDate": None,
            "location": "Oslo HQ",
            "onLeave": False,
        },
        "meta": {
            "resourceType": "User",
            "created": "2019-08-01T07:00:00Z",
            "lastModified": "2024-01-15T07:30:00Z",
            "version": 'W/"3"',
        },
    },
)
