"""HashiCorp Vault, and OpenBao, which speaks the same: secrets in KV version 2, and keys in the transit engine.

Belongs here: logging in, asking, and what a reply means. Does not belong here: remembering and trying again
(`secrets.py`), what a key wraps (`wrapping.py`). Needs the extra `vault`.

A reply's text is never shown: it may quote what was asked. Whether a token that is refused has expired, or may not do
this, is told by asking who we are.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from typing import Any, Self

import requests
from cryptography.exceptions import InvalidTag

from teei_ingest.errors import SecretsDown, SecretsError
from teei_ingest.settings import Settings
from teei_ingest.vault.addresses import url_problem
from teei_ingest.vault.secrets import are_set, kept

_TIMEOUT_S = (5.0, 10.0)  # to connect; between two bytes
_MAY_PASS = (412, 429, 472, 473)  # behind its peers, overloaded, a standby; and all from 500 on

_Ask = Callable[[Any], requests.Response]


class Vault:
    """One login, for several threads. Raises SecretsError, SecretsDown."""

    def __init__(self, settings: Settings) -> None:
        try:
            import hvac  # type: ignore[import-untyped]
            from hvac.adapters import RawAdapter  # type: ignore[import-untyped]
        except ModuleNotFoundError:
            hvac = None
        if hvac is None:
            raise SecretsError("Vault needs the package hvac: pip install 'teei-ingest[vault]'")
        self._settings = settings
        self.address = self._value("VAULT_ADDR").rstrip("/")
        if not self.address:
            raise SecretsError("set VAULT_ADDR to the address of Vault")
        if problem := url_problem(self.address, settings.plaintext_hosts):
            raise SecretsError(f"VAULT_ADDR {problem}")
        self._role = self._checked_login()
        session = requests.Session()
        session.trust_env = False  # a netrc or proxy of this machine's gets nothing
        session.verify = str(settings.vault_cacert) if settings.vault_cacert else True
        self._adapter = RawAdapter(
            base_uri=self.address,
            token="",  # none yet; without this, hvac takes what it finds in the user's home
            session=session,
            timeout=_TIMEOUT_S,
            allow_redirects=False,  # the token would go along
            namespace=settings.vault_namespace,
            ignore_exceptions=True,
        )
        self._client = hvac.Client(token="", adapter=lambda **_: self._adapter)
        self._logging_in = threading.Lock()

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The one that all share who have these settings."""
        return kept(settings, "vault", lambda: cls(settings))

    def place(self, name: str) -> str:
        """Mount and path, as `vault kv get` takes them."""
        return f"{self._settings.vault_mount}/{self._settings.secrets_path}/{name} (Vault)"

    def read(self, name: str) -> dict[str, Any] | None:
        """The newest version of a secret; None if there is none."""
        mount, path = self._settings.vault_mount, f"{self._settings.secrets_path}/{name}"
        reply = self.ask(
            lambda client: client.secrets.kv.v2.read_secret_version(
                path=path, mount_point=mount, raise_on_deleted_version=False
            ),
            f"to read {self.place(name)}",
        )
        if reply.status_code == 404:
            if _errors(reply):
                raise SecretsError(f"Vault has no secrets engine at {mount}/: set TEEI_VAULT_MOUNT to that of KV 2")
            return None
        found = self.data(reply).get("data")
        if not isinstance(found, dict):
            raise SecretsError(f"what Vault has at {mount}/ is not KV version 2: set TEEI_VAULT_MOUNT")
        return found

    def check(self) -> str:
        """Address, and how long the login is valid yet."""
        left = self.data(self.ask(_who_we_are, "to look up its own token")).get("ttl")
        valid = f"valid for {left / 3600:,.1f} h" if isinstance(left, int) and left else "valid without end"
        return f"{self.address} answers; the login by {'AppRole' if self._role else 'token'} is {valid}"

    def ask(self, request: _Ask, what: str) -> requests.Response:
        """A reply of status 200, 400 or 404 to who may do this, logged in again where a login has expired."""
        token = self._logged_in("")
        reply = self._sent(request)
        if reply.status_code == 403 and self._sent(_who_we_are).status_code == 403:
            self._logged_in(token)
            reply = self._sent(request)
        if reply.status_code == 403:
            raise SecretsError(f"Vault does not allow us {what}: let the policy of our login do so")
        if reply.status_code not in (200, 400, 404):
            raise self._strange(reply)
        return reply

    def data(self, reply: requests.Response) -> dict[str, Any]:
        """What a reply carries."""
        try:
            found = reply.json()["data"]
        except (ValueError, KeyError, TypeError):
            found = None
        if not isinstance(found, dict):
            raise self._strange(reply)
        return found

    def _value(self, variable: str) -> str:
        return self._settings.environ.get(variable, "").strip()

    def _checked_login(self) -> bool:
        """Whether an AppRole logs in, and not a token."""
        token, role = "VAULT_TOKEN", ("VAULT_ROLE_ID", "VAULT_SECRET_ID")
        given = next(filter(self._value, role), "")
        if given and self._value(token):
            raise SecretsError(f"{token} and {given} are both set: take one of them away")
        if not given and not self._value(token):
            raise SecretsError(f"set {token}, or {' and '.join(role)}, to log in at Vault")
        return are_set(self._settings, *role)

    def _logged_in(self, refused: str) -> str:
        """The token; another one than the `refused`."""
        with self._logging_in:
            if self._adapter.token == refused:
                self._adapter.token = self._new_token() if self._role else self._given_token(refused)
            return str(self._adapter.token)

    def _given_token(self, refused: str) -> str:
        token = self._value("VAULT_TOKEN")
        if token == refused:
            raise SecretsError("Vault refuses VAULT_TOKEN, which has expired or is not known there: renew it")
        return token

    def _new_token(self) -> str:
        role, secret = self._value("VAULT_ROLE_ID"), self._value("VAULT_SECRET_ID")
        mount = self._settings.vault_approle_mount
        reply = self._sent(lambda client: client.auth.approle.login(role, secret, use_token=False, mount_point=mount))
        if reply.status_code == 400:
            raise SecretsError("Vault refuses VAULT_ROLE_ID and VAULT_SECRET_ID: make a new secret id")
        if reply.status_code in (403, 404):
            raise SecretsError(f"Vault lets nobody log in from here at auth/{mount}/: set TEEI_VAULT_APPROLE_MOUNT")
        try:
            return str(reply.json()["auth"]["client_token"])
        except (ValueError, KeyError, TypeError):
            pass
        raise self._strange(reply)

    def _sent(self, request: _Ask) -> requests.Response:
        """A reply that is neither a redirect nor a failure of the server's."""
        try:
            reply = request(self._client)
        except requests.exceptions.SSLError:
            problem, down = "cannot be trusted: set VAULT_CACERT to the authority's certificate", False
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
            problem, down = "cannot be reached, or does not answer; try again later", True
        except (requests.RequestException, OSError, ValueError):
            problem, down = "cannot be asked: check VAULT_ADDR, VAULT_CACERT and the login for odd characters", False
        else:
            if reply.status_code >= 500 or reply.status_code in _MAY_PASS:
                raise self._failed(reply)
            if 300 <= reply.status_code < 400:
                raise SecretsError("Vault redirects: set VAULT_ADDR to the server that is active, or to its balancer")
            return reply
        raise (SecretsDown if down else SecretsError)(f"Vault at {self.address} {problem}")

    def _failed(self, reply: requests.Response) -> SecretsDown:
        if any("sealed" in error for error in _errors(reply)):
            return SecretsDown("Vault is sealed: unseal it, then try again")
        return SecretsDown(f"Vault answers with status {reply.status_code}; try again later")

    def _strange(self, reply: requests.Response) -> SecretsError:
        return SecretsError(
            f"what answers at {self.address} with status {reply.status_code} is no Vault, or asks for more: "
            "check VAULT_ADDR and VAULT_NAMESPACE"
        )


class Transit:
    """A key of the transit engine, which wraps and unwraps keys and never leaves Vault. Raises as `Vault`."""

    def __init__(self, vault: Vault, name: str) -> None:
        mount, _, self._key = name.removeprefix("transit:").rpartition("/")
        self._mount = mount or "transit"
        self._vault = vault
        self.id = f"transit:{self._mount}/{self._key}"

    def wrap(self, key: bytes, context: str) -> str:
        """The key, wrapped together with what it is for."""
        reply = self._vault.ask(
            lambda client: client.secrets.transit.encrypt_data(
                self._key, plaintext=_text(key), associated_data=_text(context.encode()), mount_point=self._mount
            ),
            f"to encrypt with {self.id}, if there is such a key",
        )
        return str(self._answer(reply, "ciphertext"))

    def unwrap(self, wrapped: str, context: str) -> bytes:
        """The key again. Raises InvalidTag for what was wrapped by another key, or for something else."""
        reply = self._vault.ask(
            lambda client: client.secrets.transit.decrypt_data(
                self._key, ciphertext=wrapped, associated_data=_text(context.encode()), mount_point=self._mount
            ),
            f"to decrypt with {self.id}",
        )
        if reply.status_code == 400 and any("too old" in error for error in _errors(reply)):
            raise SecretsError(f"{self.id} opens nothing any more that is so old: lower its min_decryption_version")
        if reply.status_code == 400 and not any("key not found" in error for error in _errors(reply)):
            raise InvalidTag
        try:
            return base64.b64decode(self._answer(reply, "plaintext"), validate=True)
        except (ValueError, TypeError):
            pass
        raise InvalidTag

    def _answer(self, reply: requests.Response, field: str) -> Any:
        if reply.status_code != 200:
            raise SecretsError(f"Vault has no key {self.id} of type aes256-gcm96: make it, or mend TEEI_MASTER_KEY")
        return self._vault.data(reply).get(field)


def _who_we_are(client: Any) -> requests.Response:
    reply: requests.Response = client.auth.token.lookup_self()
    return reply


def _errors(reply: requests.Response) -> list[str]:
    """What a reply says went wrong."""
    try:
        return [str(error) for error in reply.json()["errors"]]
    except (ValueError, KeyError, TypeError):
        return []


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
