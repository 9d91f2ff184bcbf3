"""The settings of this package, each documented once, in its field.

Belongs here: what is read from the environment and is no credential of a source system, and the order in
which the places are asked. Does not belong here: credentials (`vault/credentials.py`), companies
(`companies.py`).

A value comes from the first of these that has it; an empty value counts as absent:

1. `.env` in the working folder, which overrides the environment, as it does in every Dagster command
2. the environment
3. `environment` in `$TEEI_HOME/sandbox.json`, which the sandbox writes and which marks a sandbox's home
4. the default

In the first two, `X_FILE` may name a file with the value of `X`, if `X` is a setting or a credential.
"""

import base64
import binascii
import json
import os
import re
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
)

from teei_ingest.errors import SettingsError
from teei_ingest.logs import Format, Level
from teei_ingest.systems import prefixes

SANDBOX_MASTER_KEY = base64.b64encode(b"sandbox only, never in production"[:32]).decode()
SANDBOX_FILE = "sandbox.json"

_FILE = "_FILE"  # behind a variable's name: where its value is
_PATH = r"(?!\.\.?(/|$))[\w.-]+(/(?!\.\.?(/|$))[\w.-]+)*"  # which leads nowhere else
_OUTSIDE = rf"transit:{_PATH}|kms:[\w:/-]+"
_MAKE_A_KEY = """python3 -c 'import base64, os; print(base64.b64encode(os.urandom(32)).decode())'"""


def project_root() -> Path:
    """The folder of `pyproject.toml`; the working folder where the package is installed without it."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").is_file() else Path.cwd()


def sandbox_home() -> Path:
    """Where everything runs as long as nothing else is configured."""
    return project_root() / ".teei" / "sandbox"


def _cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class LookBack:
    """How many days back of the last one a sync reads: `others` by stream, `days` for all that are not among them."""

    days: int = 3
    others: Mapping[str, int] = field(default_factory=dict)

    def of(self, stream: str) -> int:
        """Days of a stream."""
        return self.others.get(stream, self.days)

    def __str__(self) -> str:
        return " ".join([f"{self.days}", *(f"{name}={days}" for name, days in self.others.items())])


def _timezone(name: str) -> str:
    with suppress(ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo(name).key
    raise ValueError("has to be the IANA name of a time zone, such as `Europe/Oslo`")


def _words(value: Any) -> Any:
    return tuple(value.lower().replace(",", " ").split()) if isinstance(value, str) else value


def _look_back(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found: dict[str, int] = {}
    for word in _words(value):
        name, _, days = word.rpartition("=")
        if not (days.isdecimal() and len(days) < 5 and name not in found):
            raise ValueError("has to be days, with exceptions for single streams: `3, workday_directory=14`")
        found[name] = int(days)
    return LookBack(found.pop("", LookBack.days), found)


def _absolute(value: Any) -> Any:
    return Path(value).expanduser().absolute() if isinstance(value, str | Path) else value


def _store_uri(value: Any) -> Any:
    if "://" in str(value):
        return value
    if re.match(r"\w+:", str(value)):  # or data would go into a folder of that name
        raise ValueError("has to be a folder, or a URI such as `s3://bucket/folder`")
    return str(_absolute(value))


def _postgres_url(value: SecretStr) -> SecretStr:
    if value.get_secret_value().strip().startswith(("postgresql://", "postgres://")):
        return value
    raise ValueError("has to begin with `postgresql://`")


def _path(text: str) -> str:
    if re.fullmatch(_PATH, text, re.ASCII):
        return text
    raise ValueError("has to be names of letters, digits, `_`, `.`, `-`, with `/` between them")


AbsolutePath = Annotated[Path, BeforeValidator(_absolute)]
PathInside = Annotated[str, AfterValidator(_path)]


class Settings(BaseModel):
    """All settings, typed. `Settings.load()` reads them; a field's alias is its variable."""

    model_config = ConfigDict(
        alias_generator=lambda name: f"TEEI_{name.upper()}",
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    home: AbsolutePath = Field(
        description="Folder of all state. Default: `.teei/sandbox` in the project's folder as long as there "
        "is no `.env`, else `.teei`."
    )
    store_uri: Annotated[str, BeforeValidator(_store_uri)] = Field(
        default_factory=lambda data: str(data["home"] / "events"),
        description="Where the event tables are: a folder, or a URI such as `s3://bucket/events`. "
        "Default: `$TEEI_HOME/events`.",
    )
    dagster_home: AbsolutePath = Field(
        default_factory=lambda data: data["home"] / "dagster",
        alias="DAGSTER_HOME",
        description="Dagster's own folder, absolute. Default: `$TEEI_HOME/dagster`.",
    )
    companies: AbsolutePath | None = Field(
        default=None,
        description="The registry of companies, a YAML file. Default in a sandbox's home: its companies, or "
        "`registry.yaml` in it once a policy was set.",
    )
    start_date: date = Field(
        default=date(2024, 1, 1), description="First day (UTC) that can be materialized, YYYY-MM-DD."
    )
    look_back_days: Annotated[LookBack, BeforeValidator(_look_back)] = Field(
        default=LookBack(),
        description="Days before the last one that a sync without a first day reads again, since a change may arrive "
        "late; with exceptions for single streams: `3, workday_directory=14`.",
    )
    schedule_timezone: Annotated[str, AfterValidator(_timezone)] = Field(
        default="UTC",
        description="Time zone of the schedules, by its IANA name, such as `Europe/Oslo`; days stay those of UTC.",
    )
    alert_url: SecretStr | None = Field(
        default=None,
        description="Where a run that failed is reported, as JSON with a `text`: what Slack and Mattermost take.",
    )
    master_key: SecretStr | None = Field(
        default=None,
        description="32 bytes in base64; wraps the companies' keys. Default in a sandbox's home alone: a "
        f"published key. Make one with `{_MAKE_A_KEY}`. Or the name of a key that stays "
        "[outside](secrets.md#the-master-key-outside): `transit:NAME` in Vault, `kms:ID` in AWS.",
    )
    master_key_new: SecretStr | None = Field(
        default=None,
        description="The master key that `teei keys rotate --master` brings in; nothing else reads it.",
    )
    secrets: Literal["env", "vault", "aws"] = Field(
        default="env",
        description="Where credentials are that the environment does not have: `env`, nowhere; `vault`, in HashiCorp "
        "Vault or OpenBao; `aws`, in AWS Secrets Manager. See [Secrets](secrets.md).",
    )
    secrets_path: PathInside = Field(
        default="teei",
        description="What the names of secrets begin with there: a company's is `teei/SLUG`, that of all is "
        "`teei/_shared`.",
    )
    secrets_ttl_s: float = Field(
        default=60.0,
        ge=0,
        description="Seconds that a secret is remembered, and a file that a variable `…_FILE` names; then it is read "
        "again.",
    )
    vault_addr: str | None = Field(default=None, alias="VAULT_ADDR", description="Address of Vault, https.")
    vault_token: SecretStr | None = Field(
        default=None, alias="VAULT_TOKEN", description="Token for Vault; or log in by AppRole."
    )
    vault_role_id: str | None = Field(
        default=None, alias="VAULT_ROLE_ID", description="AppRole to log in with at Vault."
    )
    vault_secret_id: SecretStr | None = Field(
        default=None, alias="VAULT_SECRET_ID", description="Secret id of that AppRole."
    )
    vault_namespace: str | None = Field(
        default=None, alias="VAULT_NAMESPACE", description="Namespace in Vault, where it has any."
    )
    vault_cacert: AbsolutePath | None = Field(
        default=None,
        alias="VAULT_CACERT",
        description="File with the certificate of the authority that signed Vault's. Default: those that Python knows.",
    )
    vault_mount: PathInside = Field(
        default="secret", description="Where in Vault the KV engine, version 2, is mounted."
    )
    vault_approle_mount: PathInside = Field(default="approle", description="Where in Vault AppRole is mounted.")
    plaintext_hosts: Annotated[tuple[str, ...], BeforeValidator(_words)] = Field(
        default=(),
        description="Host names, separated by commas, that may be talked to over http. Loopback always may.",
    )
    proxy: SecretStr | None = Field(
        default=None, description="URL of the HTTP proxy for all source systems. HTTP_PROXY is not read."
    )
    max_retries: int = Field(
        default=3,
        ge=0,
        le=100,
        description="Retries of a request after a connection error, a time-out, 408, 429 or 5xx.",
    )
    retry_initial_s: float = Field(default=1.0, ge=0, description="Seconds before the first retry; doubles.")
    retry_max_s: float = Field(default=10.0, ge=0, description="Longest wait between two retries, seconds.")
    retry_wait_limit_s: float = Field(
        default=900.0,
        ge=0,
        description="Limit on the sum of all waits for one request, `Retry-After` included, seconds.",
    )
    circuit_pause_s: float = Field(
        default=30.0,
        ge=0,
        description="Seconds after which a source system that is down is asked again, once; doubles while it stays "
        "down. A sync typed by a person asks at once.",
    )
    circuit_pause_max_s: float = Field(default=900.0, ge=0, description="Longest such pause, seconds.")
    shared_state_url: Annotated[SecretStr, AfterValidator(_postgres_url)] | None = Field(
        default=None,
        description="Postgres in which several machines share quotas and circuits, `postgresql://USER@HOST/DATABASE`; "
        "the password is better in a file (`TEEI_SHARED_STATE_URL_FILE`, or libpq's `PGPASSFILE`). Default: files in "
        "`TEEI_HOME`, for the processes of one machine.",
    )
    connect_timeout_s: float = Field(default=10.0, gt=0, description="Seconds to connect to a source system.")
    read_timeout_s: float = Field(default=60.0, gt=0, description="Seconds without a byte until a read ends.")
    max_response_mb: int = Field(default=64, gt=0, description="Largest response that is read, decompressed, in MiB.")
    quarantine_ratio: float = Field(
        default=0.05,
        gt=0,
        le=1,
        description="Share of a partition's records from which on, when they are quarantined, it fails and keeps what "
        "it had. `teei quarantine list` shows them.",
    )
    quarantine_min: int = Field(
        default=10, ge=1, description="A partition with fewer quarantined records never fails for their share."
    )
    processes: int = Field(
        default_factory=lambda: min(2, _cores()),
        ge=1,
        le=16,
        description="Processes that check and redact a large window together, on Linux alone. "
        "Default: 2, where there are two cores.",
    )
    landing_ttl_h: float = Field(
        default=72.0,
        gt=0,
        description="Hours that a landed stream waits for its events, then it goes.",
    )
    quarantine_ttl_d: float = Field(default=30.0, gt=0, description="Days that quarantined records are kept, sealed.")
    webhooks_ttl_d: float = Field(
        default=7.0,
        ge=1,
        description="Days that the ids of webhook deliveries are kept, as keyed hashes, to tell a repeated one.",
    )
    events_ttl_d: int | None = Field(
        default=None,
        gt=0,
        description="Days that events are kept after their own day, the directory's entries among them. Default: until "
        "somebody erases them.",
    )
    run_log_ttl_d: float = Field(
        default=90.0,
        gt=0,
        description="Days that Dagster's runs and their events are kept after their end; how each partition stands, "
        "and the run that says so, stays.",
    )
    compute_log_ttl_d: float = Field(
        default=7.0,
        gt=0,
        description="Days that files are kept in which Dagster put what steps printed; the project's `dagster.yaml` "
        "has it put them nowhere.",
    )
    vacuum_retention_h: int = Field(
        default=24,
        ge=24,
        le=24 * 366,
        description="Hours that files stay which only older versions of the event tables need, for whoever is reading "
        "one, or none yet, for whoever is writing: a run may take 24 hours. What an erasure deletes goes at once.",
    )
    gateway_wait_s: float = Field(
        default=300.0,
        gt=0,
        description="Seconds that a call of the HTTP interface waits for its run; then it is answered where to ask.",
    )
    gateway_runs: int = Field(
        default=2, ge=1, le=64, description="Runs at a time that the HTTP interface starts, one for each company."
    )
    gateway_rate: int = Field(
        default=120, ge=1, description="Calls a minute that a token of the HTTP interface may make."
    )
    log_format: Format = Field(
        default="auto",
        description="Form of the log on standard error: `json`, a JSON object a line; `text`, for people; `auto`, text "
        "on a terminal and JSON elsewhere, but nothing from commands that end by themselves, which say what they did.",
    )
    log_level: Level = Field(default="info", description="Least level that is logged: debug, info, warning or error.")
    actor: str | None = Field(
        default=None,
        description="Who acts, for the audit log, where the operating system's user says little (a service's account).",
    )

    _environ: Mapping[str, str] = PrivateAttr(default_factory=dict)
    _files: Mapping[str, Path] = PrivateAttr(default_factory=dict)
    _files_read: float = PrivateAttr(default=0.0)

    @field_validator("master_key")
    @classmethod
    def _check_master_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not is_outside(value.get_secret_value()):
            decode_master_key(value.get_secret_value())
        return value

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read all settings; `environ` stands for the environment and `.env` together.

        Raises SettingsError, which names variables and never a value.
        """
        env_file = Path(".env")
        has_env_file = environ is None and env_file.is_file()
        if environ is None:
            environ = dict(os.environ)
            if has_env_file:
                environ |= _read_env_file(env_file)
        given = {name: value for name, value in environ.items() if value.strip()}
        files = _take_files(given, {str(info.alias) for info in cls.model_fields.values()})
        given |= {name: _read_value(name, path) for name, path in files.items()}
        default_home = project_root() / ".teei" if has_env_file else sandbox_home()
        home = _absolute(given.get("TEEI_HOME", str(default_home)))
        merged = _read_sandbox_file(home) | given | {"TEEI_HOME": str(home)}
        try:
            settings = cls.model_validate(merged)
        except ValidationError as error:
            problems = [f"{problem['loc'][0]}: {_reason(problem['msg'])}" for problem in error.errors()]
        else:
            settings._environ, settings._files, settings._files_read = merged, files, time.monotonic()
            return settings
        raise SettingsError("; ".join(problems))

    @property
    def environ(self) -> Mapping[str, str]:
        """All variables after merging, from which the credentials are read; those from files as the files are now."""
        if self._files and time.monotonic() >= self._files_read + self.secrets_ttl_s:
            self.read_files()
        return self._environ

    def read_files(self) -> None:
        """Read the files again that variables name. What has no file any more is absent, for its company alone."""
        environ = {name: value for name, value in self._environ.items() if name not in self._files}
        for name, path in self._files.items():
            with suppress(SettingsError):
                environ[name] = _read_value(name, path)
        self._environ, self._files_read = environ, time.monotonic()

    @property
    def in_object_store(self) -> bool:
        """Whether the event tables, and what is kept beside them, are in no folder."""
        return "://" in self.store_uri.removeprefix("file://")

    @property
    def is_sandbox(self) -> bool:
        """Whether the sandbox's published key is in force: in a sandbox's home, as long as no other is set."""
        own_key = self.master_key is not None and not is_published(self.master_key.get_secret_value())
        return not own_key and (self.home == sandbox_home() or (self.home / SANDBOX_FILE).is_file())

    @property
    def outside_key(self) -> str:
        """The name of the master key where it stays outside; else empty."""
        text = self.master_key.get_secret_value().strip() if self.master_key else ""
        return text if is_outside(text) else ""

    def master_key_bytes(self) -> bytes:
        """The 32 bytes of the master key. Raises SettingsError if there is none, or it stays outside."""
        if self.outside_key:
            raise SettingsError(f"TEEI_MASTER_KEY is {self.outside_key}, which stays outside")
        if self.master_key is None and not self.is_sandbox:
            raise SettingsError(f"set TEEI_MASTER_KEY, 32 bytes in base64; make one with: {_MAKE_A_KEY}")
        text = self.master_key.get_secret_value() if self.master_key else SANDBOX_MASTER_KEY
        if is_published(text) and not self.is_sandbox:
            raise SettingsError(f"TEEI_MASTER_KEY is the sandbox's published key; make one with: {_MAKE_A_KEY}")
        return decode_master_key(text)


def decode_master_key(text: str) -> bytes:
    """32 bytes from base64. Raises ValueError without the text in it."""
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = None
    if key is None:
        raise ValueError(f"is not base64; make one with: {_MAKE_A_KEY}")
    if len(key) != 32:
        raise ValueError(f"has {len(key)} bytes instead of 32; make one with: {_MAKE_A_KEY}")
    return key


def is_published(text: str) -> bool:
    """Whether a master key is the sandbox's, however it is spelt. Raises ValueError as `decode_master_key`."""
    return not is_outside(text) and decode_master_key(text) == decode_master_key(SANDBOX_MASTER_KEY)


def is_outside(text: str) -> bool:
    """Whether a master key is the name of one that stays in Vault or AWS."""
    return re.fullmatch(_OUTSIDE, text.strip(), re.ASCII) is not None


def _take_files(given: dict[str, str], settings: Collection[str]) -> dict[str, Path]:
    """Take the variables `X_FILE` out, of which X is a setting or a credential: the file of each X."""
    found = {}
    for name in [name for name in given if name.endswith(_FILE)]:
        variable = name.removesuffix(_FILE)
        if variable not in settings and not variable.startswith(prefixes()):
            continue
        if variable in given:
            raise SettingsError(f"{variable} and {name} are both set: take one of them away")
        found[variable] = Path(given.pop(name).strip()).expanduser().absolute()
    return found


def _read_value(variable: str, path: Path) -> str:
    try:
        value = path.read_bytes().decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        problem = error.strerror or "cannot be read"
    except UnicodeDecodeError:
        problem = "is not UTF-8"
    else:
        if value.strip():
            return value
        problem = "is empty"
    raise SettingsError(f"{variable}{_FILE}, {path}: {problem}")


def _read_env_file(path: Path) -> dict[str, str]:
    try:
        return {name: value for name, value in dotenv_values(path).items() if value is not None}
    except (OSError, UnicodeDecodeError):
        pass
    raise SettingsError(".env in the working folder cannot be read; it has to be a readable UTF-8 file")


def _reason(message: str) -> str:
    return message.removeprefix("Value error, ")


def _read_sandbox_file(home: Path) -> dict[str, str]:
    path = home / SANDBOX_FILE
    try:
        environment = json.loads(path.read_bytes())["environment"]
        return {str(name): str(value) for name, value in environment.items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        reason = error.strerror
    except (ValueError, KeyError, TypeError, AttributeError):
        reason = ""
    if reason:
        raise SettingsError(f"{path} cannot be read: {reason}; mend that, or set TEEI_HOME to a folder of your own")
    raise SettingsError(f"{path} is not a sandbox's file; remove it and start the sandbox again")
