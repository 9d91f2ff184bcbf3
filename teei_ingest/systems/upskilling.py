"""Upskilling: professional courses and credentials (internal)."""

from teei_ingest.systems.base import ApiKey, System

SYSTEM = System(
    name="upskilling",
    title="Upskilling",
    kind="internal",
    url_variable="UPSKILLING_CONNECTOR_URL",
    auth=ApiKey(header="Authorization", prefix="Bearer "),
    tenant="company_id",
    tenant_param="company_id",
    max_page=200,
    namespace="teei",
    health_path="/health",
    shared_credential="INTERNAL",
)
