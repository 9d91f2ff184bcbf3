"""Benevity: volunteering and giving (external)."""

from teei_ingest.systems.base import OAuth2, System

SYSTEM = System(
    name="benevity",
    title="Benevity",
    kind="external",
    url_variable="BENEVITY_API_URL",
    auth=OAuth2(scope="volunteer_read donation_read"),
    tenant="tenant_id",
    tenant_param="tenant_id",
    max_page=100,
    namespace="benevity",
)
