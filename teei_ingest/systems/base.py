"""What a system is: where it is, how it wants to be asked, how often.

A system is data; how a kind of authentication or a quota is carried out is `extract/`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class OAuth2:
    """Client credentials (RFC 6749, section 4.4), the secret in the form."""

    scope: str
    token_path: str = "/oauth2/token"
    credentials: tuple[str, ...] = ("client_id", "client_secret")


@dataclass(frozen=True)
class ApiKey:
    """One secret in a header."""

    header: str
    prefix: str = ""
    credentials: tuple[str, ...] = ("api_key",)


@dataclass(frozen=True)
class Quota:
    """At most `requests` in any `seconds`, counted for each credential."""

    requests: int
    seconds: int


@dataclass(frozen=True)
class System:
    """One source system.

    `tenant` names the credential that says which company is meant; `tenant_param` or `tenant_header` is where a
    request carries it. `health_path` is None where a token request is the probe.
    """

    name: str
    title: str
    kind: str  # external or internal, as the health reply says
    url_variable: str
    auth: OAuth2 | ApiKey
    tenant: str  # tenant_id, project_id or company_id
    max_page: int
    namespace: str  # in which its person ids are unique
    tenant_param: str | None = None
    tenant_header: str | None = None
    health_path: str | None = None
    quota: Quota | None = None
    shared_credential: str | None = None  # a credential of the internal systems that serves several
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def credentials(self) -> tuple[str, ...]:
        """Names of the credentials that a request needs, the tenant's id included where it is one."""
        own = () if self.tenant == "company_id" else (self.tenant,)
        return (*self.auth.credentials, *own)
