"""Workday: the employee directory over SCIM 2.0 (RFC 7643, RFC 7644) (external)."""

from teei_ingest.systems.base import OAuth2, System

SYSTEM = System(
    name="workday",
    title="Workday",
    kind="external",
    url_variable="WORKDAY_API_URL",
    auth=OAuth2(scope="directory_read"),
    tenant="tenant_id",
    tenant_header="X-Workday-Tenant",
    max_page=100,
    namespace="workday",
    headers={"Accept": "application/scim+json, application/json"},
)
