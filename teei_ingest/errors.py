"""The package's exceptions, ordered by what the reader has to do next.

    TeeiError                  1   never raised itself: catch this to catch them all
    ├── UsageError             2   ask for something else: unknown company, stream, day, range
    ├── SettingsError          3   mend the settings
    │   ├── MissingCredentials     set the named variables
    │   ├── CompaniesFileError     mend the companies file at the named line
    │   ├── KeyringError           bring back the master key or the key file
    │   ├── SecretsError           mend what the secrets manager refuses, or what is not in it
    │   │   └── SecretsDown    4       (no answer, sealed, 5xx) unseal it, or wait and try again
    │   └── SharedStateDown    4   (Postgres for quotas and circuits gives no answer) wait and try again
    ├── SourceError            4   a source system did not give what was asked for
    │   ├── BadCredentials         (401) renew the credentials
    │   ├── NotAllowed             (403) have the source grant access
    │   ├── RateLimited            (429 for too long) wait, or ask for a greater quota
    │   ├── SourceDown             (no answer, 5xx) wait and try again
    │   ├── SourceMisbehaves       (lies about its paging, not JSON, too large) talk to the vendor
    │   └── ContractBroken         (too many bad records) look at the quarantine, then at the mapping
    ├── StoreError             5   the event tables cannot be read or written
    ├── AuditError             5   the audit log is broken or cannot be written: mend it, nothing is done without it
    ├── InternalError          70  a fault of this package: report it with its place
    └── LandingError           5   a sealed file is damaged, or cannot be written

The number is the process's exit code. Belongs here: exceptions that may cross into Dagster or onto a
terminal. Their messages name systems, streams, companies, variables, field paths and counts; never a
record's value, a body, a query string or a secret. Does not belong here: anything that inspects a response
or a record. Raise them outside the `except`, or `from None`: a cause would carry the value along.
"""

from collections.abc import Iterable
from typing import Any


class TeeiError(Exception):
    """One line that says what to do. Survives pickling with its context; never carries a cause."""

    code = "error"
    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        system: str | None = None,
        stream: str | None = None,
        company: str | None = None,
    ) -> None:
        self.message = " ".join(message.split())
        self.system = system
        self.stream = stream
        self.company = company
        super().__init__(self.message)

    def __str__(self) -> str:
        source = "/".join(part for part in (self.system, self.stream) if part)
        context = " ".join(part for part in (source, self.company) if part)
        return f"{context}: {self.message}" if context else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(cls: type[TeeiError], args: tuple[Any, ...], state: dict[str, Any]) -> TeeiError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(state)
    return error


class UsageError(TeeiError):
    """What was asked for does not exist: a company, a stream, a day, a range."""

    code = "usage"
    exit_code = 2


class SettingsError(TeeiError):
    """A setting is missing or malformed; the message names the variable."""

    code = "settings"
    exit_code = 3


class MissingCredentials(SettingsError):
    """Environment variables are not set; `names` are exactly those that would complete the credentials.

    `shared` are variables that would do in place of those, for all companies together; `where` is the place for them.
    """

    code = "missing_credentials"

    def __init__(
        self,
        names: Iterable[str],
        *,
        shared: Iterable[str] = (),
        where: str = "the environment or in .env",
        system: str | None = None,
        stream: str | None = None,
        company: str | None = None,
    ) -> None:
        self.names = tuple(names)
        self.shared = tuple(shared)
        instead = f"; or, for all companies, {', '.join(self.shared)}" if self.shared else ""
        super().__init__(
            f"set {', '.join(self.names)} in {where}{instead}",
            system=system,
            stream=stream,
            company=company,
        )


class CompaniesFileError(SettingsError):
    """The companies file is malformed; the message names file, line and field."""

    code = "companies_file"


class KeyringError(SettingsError):
    """A company's keys are lost, damaged or wrapped by another master key."""

    code = "keyring"


class SecretsError(SettingsError):
    """The secrets manager does not know us, does not allow it, or has not what is asked for."""

    code = "secrets"


class SecretsDown(SecretsError):
    """The secrets manager does not answer, is sealed or overloaded; it may do later."""

    code = "secrets_down"
    exit_code = 4


class SharedStateDown(SettingsError):
    """The Postgres that several machines share for quotas and circuits does not answer; it may do later."""

    code = "shared_state_down"
    exit_code = 4


class SourceError(TeeiError):
    """A source system did not give what was asked for."""

    code = "source"
    exit_code = 4


class BadCredentials(SourceError):
    """The source does not know the credentials (401, or a refused token request)."""

    code = "bad_credentials"


class NotAllowed(SourceError):
    """The source knows the credentials and refuses the access (403)."""

    code = "not_allowed"


class RateLimited(SourceError):
    """The source's quota was used up for longer than the limit on the whole wait."""

    code = "rate_limited"


class SourceDown(SourceError):
    """The source does not answer, or answers with a server error, after all retries."""

    code = "source_down"


class SourceMisbehaves(SourceError):
    """The source answers in a way that its documentation excludes."""

    code = "source_misbehaves"


class ContractBroken(SourceError):
    """So many of a partition's records break their contract that it keeps what it had."""

    code = "contract_broken"


class StoreError(TeeiError):
    """The event tables cannot be read or written."""

    code = "store"
    exit_code = 5


class LandingError(TeeiError):
    """A sealed file is damaged, belongs elsewhere, or cannot be written."""

    code = "landing"
    exit_code = 5


class AuditError(TeeiError):
    """The audit log is broken or cannot be written; nothing is done that it cannot record."""

    code = "audit"
    exit_code = 5


class InternalError(TeeiError):
    """A fault of this package. Says where it arose, not what the exception said, which may quote a record."""

    code = "internal"
    exit_code = 70

    @classmethod
    def of(cls, error: BaseException, **context: str) -> "InternalError":
        """Names the type of an unforeseen exception and the innermost place in this package."""
        place, trace = "", error.__traceback__
        while trace is not None:
            module = trace.tb_frame.f_globals.get("__name__", "")
            if module.startswith("teei_ingest."):
                place = f"{module}:{trace.tb_lineno}"
            trace = trace.tb_next
        return cls(f"{type(error).__name__} at {place or 'an unknown place'}; please report this", **context)
