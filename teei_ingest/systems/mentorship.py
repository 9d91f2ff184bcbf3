"""Mentorship: placements and their sessions (internal)."""

from teei_ingest.systems.base import ApiKey, System

SYSTEM = System(
    name="mentorship",
    title="Mentorship",
    kind="internal",
    url_variable="MENTORSHIP_SERVICE_URL",
    auth=ApiKey(header="Authorization", prefix="Bearer "),
    tenant="company_id",
    tenant_param="company_id",
    max_page=200,
    namespace="teei",
    health_path="/health",
    shared_credential="INTERNAL",
)
