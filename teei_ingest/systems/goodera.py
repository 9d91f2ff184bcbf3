"""Goodera: volunteering and giving with impact metrics (external), 100 requests a minute for each key."""

from teei_ingest.systems.base import ApiKey, Quota, System

SYSTEM = System(
    name="goodera",
    title="Goodera",
    kind="external",
    url_variable="GOODERA_API_URL",
    auth=ApiKey(header="X-API-Key"),
    tenant="project_id",
    tenant_param="project_id",
    max_page=500,
    namespace="goodera",
    health_path="/api/v1/health",
    quota=Quota(requests=100, seconds=60),
)
