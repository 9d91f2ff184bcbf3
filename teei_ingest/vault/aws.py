"""AWS: secrets in Secrets Manager, and keys in KMS.

Belongs here: asking, and what an answer means. Does not belong here: remembering and trying again (`secrets.py`), what
a key wraps (`wrapping.py`). Needs the extra `aws`.

Who we are and which region is boto3's business: variables, profile, or the role of the machine or container. An error's
text is never shown: it may quote what was asked.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable
from typing import Any

from cryptography.exceptions import InvalidTag

from teei_ingest.errors import SecretsDown, SecretsError
from teei_ingest.settings import Settings
from teei_ingest.vault.addresses import url_problem
from teei_ingest.vault.secrets import SHARED, are_set

# At DEBUG it prints requests and answers whole.
logging.getLogger("botocore").setLevel(logging.WARNING)

_KEY, _TOKEN = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "AWS_SESSION_TOKEN"
_CONNECT_S, _READ_S = 5.0, 10.0
_MAY_PASS = {
    *("ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded"),
    *("LimitExceededException", "RequestTimeout", "RequestTimeoutException"),
    *("DependencyTimeoutException", "KeyUnavailableException"),
}
_UNKNOWN = {
    *("UnrecognizedClientException", "InvalidClientTokenId", "InvalidSignatureException", "SignatureDoesNotMatch"),
    *("IncompleteSignature", "ExpiredToken", "ExpiredTokenException", "MissingAuthenticationToken"),
}


class _Refused(Exception):
    """An answer whose code has a meaning for the one who asked."""

    def __init__(self, code: str) -> None:
        super().__init__()
        self.code = code


class _Service:
    """One service of AWS, for several threads. Raises SecretsError, SecretsDown."""

    def __init__(self, settings: Settings, name: str, title: str) -> None:
        try:
            import boto3  # type: ignore[import-untyped]
            from botocore.config import Config  # type: ignore[import-untyped]
            from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]
        except ModuleNotFoundError:
            boto3 = None
        if boto3 is None:
            raise SecretsError("AWS needs the package boto3: pip install 'teei-ingest[aws]'")
        self._title = title

        def value(variable: str) -> str | None:
            return settings.environ.get(variable, "").strip() or None

        special = f"AWS_ENDPOINT_URL_{title.removeprefix('AWS ').replace(' ', '_').upper()}"
        variable = special if value(special) else "AWS_ENDPOINT_URL"
        endpoint = value(variable)
        if endpoint and (problem := url_problem(endpoint, settings.plaintext_hosts)):
            raise SecretsError(f"{variable} {problem}")
        # boto3 signs with half of them.
        are_set(settings, *_KEY, *filter(value, [_TOKEN]))
        # Given by hand, since `.env` is no part of the environment that boto3 sees.
        try:
            session = boto3.session.Session(
                aws_access_key_id=value(_KEY[0]),
                aws_secret_access_key=value(_KEY[1]),
                aws_session_token=value(_TOKEN),
                region_name=value("AWS_REGION") or value("AWS_DEFAULT_REGION"),
                profile_name=value("AWS_PROFILE"),
            )
            self.client: Any = session.client(
                name,
                endpoint_url=endpoint,
                verify=value("AWS_CA_BUNDLE"),
                # `secrets.py` tries again.
                config=Config(connect_timeout=_CONNECT_S, read_timeout=_READ_S, retries={"total_max_attempts": 1}),
            )
            problem = url_problem(self.client.meta.endpoint_url, settings.plaintext_hosts)
            problem = problem and f"endpoint_url in its profile {problem}"
        except (BotoCoreError, ValueError) as error:
            problem = _problem(error)
        if problem:
            raise SecretsError(f"{title}: {problem}")

    def ask(self, request: Callable[[], dict[str, Any]], what: str) -> dict[str, Any]:
        """The answer. Raises _Refused for codes that say something about what was asked for, and nothing about us."""
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, SSLError
        from botocore.exceptions import ConnectionError as Unreachable

        try:
            return request()
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            raised = self._meaning(code, status, what)
        except SSLError:
            raised = SecretsError(f"{self._title} cannot be trusted: set AWS_CA_BUNDLE to the authority's certificate")
        except (Unreachable, HTTPClientError):
            raised = SecretsDown(f"{self._title} cannot be reached, or does not answer; try again later")
        except (BotoCoreError, ValueError) as error:
            raised = SecretsError(f"{self._title}: {_problem(error)}")
        raise raised

    def _meaning(self, code: str, status: int, what: str) -> Exception:
        if code in _MAY_PASS or status >= 500:
            return SecretsDown(f"{self._title} answers with {code or f'status {status}'}; try again later")
        if code in _UNKNOWN:
            return SecretsError(f"{self._title} refuses us ({code}): renew AWS_… or the role, and look at the clock")
        if code == "AccessDeniedException":
            return SecretsError(f"{self._title} does not allow us {what}: let the policy of our role do so")
        return _Refused(code)


def _problem(error: Exception) -> str:
    """What boto3 lacks, by the name of its error."""
    lacking = f"no credentials, or half of them: set {' and '.join(_KEY)}, or give us a role"
    known = {
        "NoRegionError": "set AWS_REGION",
        "NoCredentialsError": lacking,
        "PartialCredentialsError": lacking,
        "ProfileNotFound": "there is no such profile: mend AWS_PROFILE",
    }
    return known.get(type(error).__name__, "cannot be asked: check the variables AWS_…")


class SecretsManager(_Service):
    """Secrets Manager: each secret a JSON object of variables."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, "secretsmanager", "AWS Secrets Manager")
        self._path = settings.secrets_path

    def place(self, name: str) -> str:
        """The secret's name."""
        return f"{self._path}/{name} (AWS Secrets Manager)"

    def read(self, name: str) -> dict[str, Any] | None:
        """The current version of a secret; None if there is none."""
        identity = f"{self._path}/{name}"
        try:
            answer = self.ask(lambda: self.client.get_secret_value(SecretId=identity), f"to read {self.place(name)}")
        except _Refused as refused:
            code = refused.code
        else:
            return self._object(answer, name)
        if code == "ResourceNotFoundException":
            return None
        if code == "InvalidRequestException":
            raise SecretsError(f"{self.place(name)} is marked to be deleted: restore it")
        if code == "DecryptionFailure":
            raise SecretsError(f"{self.place(name)} cannot be decrypted: let our role use its key")
        raise SecretsError(f"{self.place(name)} cannot be read ({code}): check TEEI_SECRETS_PATH")

    def check(self) -> str:
        """Address."""
        self.read(SHARED)
        return f"{self.client.meta.endpoint_url} answers, and knows us"

    def _object(self, answer: dict[str, Any], name: str) -> dict[str, Any]:
        try:
            found = json.loads(answer["SecretString"])
        except (ValueError, KeyError, TypeError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise SecretsError(f"{self.place(name)} has to be a JSON object of variables")
        return found


class Kms(_Service):
    """A key of KMS, which wraps and unwraps keys and never leaves it."""

    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(settings, "kms", "AWS KMS")
        self.id = name
        self._key = name.removeprefix("kms:")

    def wrap(self, key: bytes, context: str) -> str:
        """The key, wrapped together with what it is for, which KMS writes into its own log."""
        answer = self._asked("to encrypt", self.client.encrypt, Plaintext=key, EncryptionContext={"teei": context})
        return base64.b64encode(answer["CiphertextBlob"]).decode()

    def unwrap(self, wrapped: str, context: str) -> bytes:
        """The key again. Raises InvalidTag for what was wrapped by another key, or for something else."""
        try:
            box = base64.b64decode(wrapped, validate=True)
        except ValueError:
            box = b""
        if not box:
            raise InvalidTag
        context_of = {"teei": context}
        answer = self._asked("to decrypt", self.client.decrypt, CiphertextBlob=box, EncryptionContext=context_of)
        return bytes(answer["Plaintext"])

    def _asked(self, what: str, request: Callable[..., dict[str, Any]], **given: Any) -> dict[str, Any]:
        try:
            return self.ask(lambda: request(KeyId=self._key, **given), f"{what} with {self.id}")
        except _Refused as refused:
            code = refused.code
        if code == "InvalidCiphertextException":
            raise InvalidTag
        if code == "IncorrectKeyException":
            raise SecretsError(f"{self.id} is another key than it was: have it name the one that it named before")
        if code == "NotFoundException":
            raise SecretsError(f"AWS KMS has no {self.id} in this region: mend TEEI_MASTER_KEY, or AWS_REGION")
        if code in ("DisabledException", "KMSInvalidStateException"):
            raise SecretsError(f"{self.id} is disabled or to be deleted: have it enabled again")
        raise SecretsError(f"AWS KMS cannot use {self.id} ({code}): it has to be symmetric, for encryption")
