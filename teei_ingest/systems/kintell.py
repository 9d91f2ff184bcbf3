"""Kintell: language courses and their sessions (internal)."""

from teei_ingest.systems.base import ApiKey, System

SYSTEM = System(
    name="kintell",
    title="Kintell",
    kind="internal",
    url_variable="KINTELL_CONNECTOR_URL",
    auth=ApiKey(header="Authorization", prefix="Bearer "),
    tenant="company_id",
    tenant_param="company_id",
    max_page=200,
    namespace="teei",
    health_path="/health",
    shared_credential="INTERNAL",
)
