"""Object stores (S3, Google Cloud Storage, Azure) as the place of tables and sealed files.

Belongs here: what delta-rs and Arrow are told of one, a path in it, what its refusals mean. Does not belong here: what
is kept there (`store/`, `landing/`), files of this machine (`files.py`).

delta-rs commits by a conditional put (If-None-Match), so of two writers one wins and the other tries again. Arrow
lists, reads and puts, since delta-rs's own file system keeps Python's lock while it waits; delta-rs removes, since
Arrow puts an empty object in the place of a folder that became empty.
"""

from __future__ import annotations

import errno
import io
import mmap
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NoReturn, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs
from deltalake.exceptions import DeltaError
from deltalake.fs import DeltaStorageHandler
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from teei_ingest.errors import LandingError, SettingsError
from teei_ingest.settings import Settings
from teei_ingest.vault.addresses import url_problem
from teei_ingest.vault.files import Failure, os_errors, private_folder, writer

# Which variables of a deployment are of which kind of store.
_VARIABLES = {
    **dict.fromkeys(("s3", "s3a"), "AWS_"),
    "gs": "GOOGLE_",
    **dict.fromkeys(("az", "azure", "adl", "abfs", "abfss"), "AZURE_"),
}
_ENDPOINT = "AWS_ENDPOINT_URL"
_ENDPOINTS = (f"{_ENDPOINT}_S3", _ENDPOINT)  # the first that is set is meant
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
# A file is one request: one of many parts, of which a killed process sent some, stays in the bucket unseen.
ONE_REQUEST = {"DELTARS_UPLOAD_PART_SIZE": f"{64 * 2**20}"}
UNSURE_ATTEMPTS = 4
BETWEEN = wait_random_exponential(multiplier=0.05, max=2)
_CHUNK = 2**20
_SINCE = "@"  # `NAME@MILLISECONDS`, beside a file that is older than its object

T = TypeVar("T")

_REFUSALS = (
    (("nosuchbucket", "no_such_bucket"), "there is no such bucket as that of {uri}: make it, or mend TEEI_STORE_URI"),
    (("expiredtoken", "expired_token"), "the credentials for {uri} have expired: renew them, run it again"),
    (  # Arrow does not say more of what it reads
        ("(http status 400) during getobject", "(http status 400) during headobject"),
        "{uri} may not be read, most likely since the credentials have expired: renew them, run it again",
    ),
    (("tooskewed", "too_skewed"), "{uri} does not take requests of a machine whose clock is wrong: set it"),
    (
        ("no credentials found", "169.254.169.254", "unable to load credentials"),
        "there are no credentials for {uri}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a file of them "
        "in AWS_SHARED_CREDENTIALS_FILE",
    ),
    (
        (
            *("403 forbidden", "401 unauthorized", "access_denied", "privileges", "invalid_access_key"),
            *("signature_does", "invalidtoken", "invalid_token", "invalid_client_token"),
        ),
        "{uri} may not be used with these credentials: mend them, or what they allow",
    ),
    (
        (
            *("error sending request", "network_connection", "timed out", "slowdown", "slow_down"),
            *("too many requests", "internal server error", "internal_failure", "bad gateway", "unavailable"),
            "request or response body error",
        ),
        "{uri} does not answer, or not in time: wait, run it again",
    ),
)


def storage_options(settings: Settings) -> dict[str, str]:
    """What delta-rs and `files` need to know of the settings' store: credentials, address, patience.

    Nothing for a folder. Raises SettingsError.
    """
    if not settings.in_object_store:
        return {}
    place = urlsplit(settings.store_uri)
    if place.password is not None or place.query or place.fragment or not place.netloc:
        raise SettingsError("TEEI_STORE_URI has to name a bucket and a folder in it, and nothing else")
    scheme = place.scheme
    if scheme not in _VARIABLES:
        known = ", ".join(f"{name}://" for name in _VARIABLES)
        raise SettingsError(f"TEEI_STORE_URI has to be a folder, or a URI that begins with one of {known}")
    options = {name: value for name, value in settings.environ.items() if name.startswith(_VARIABLES[scheme])}
    if _VARIABLES[scheme] == "AWS_":
        options |= _of_s3(settings, options)
    wait = {"init": settings.retry_initial_s, "max": settings.retry_max_s}
    return options | {
        "max_retries": f"{settings.max_retries}",
        **{f"backoff_config.{name}_backoff": _milliseconds(seconds) for name, seconds in wait.items()},
        "connect_timeout": _milliseconds(settings.connect_timeout_s),
        "timeout": _milliseconds(settings.read_timeout_s),
    }


def _of_s3(settings: Settings, given: Mapping[str, str]) -> dict[str, str]:
    made = {"AWS_CONDITIONAL_PUT": "etag"}
    missing = [name for name in _KEYS if name not in given]
    if len(missing) == 1:
        raise SettingsError(f"set {missing[0]}, too, or neither of {' and '.join(_KEYS)}")
    if missing:  # files and roles, which delta-rs does not ask for at an address of one's own otherwise
        made["AWS_FORCE_CREDENTIAL_LOAD"] = "true"
    if name := next((name for name in _ENDPOINTS if name in given), None):
        if problem := url_problem(given[name], settings.plaintext_hosts):
            raise SettingsError(f"{name} {problem}")
        made |= {_ENDPOINT: given[name], "AWS_ALLOW_HTTP": str(given[name].startswith("http://")).lower()}
    return made


def _milliseconds(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"


def _seconds(text: str | None) -> float | None:
    return float(text.removesuffix("ms")) / 1000 if text else None


def files(uri: str, options: Mapping[str, str]) -> pafs.FileSystem:
    """What lies below a URI, to list, read and put it; with the credentials of now."""
    place = urlsplit(uri)
    bucket = place.username or place.netloc  # abfss://container@account…/path
    if place.scheme == "gs":
        found = pafs.GcsFileSystem(retry_time_limit=timedelta(minutes=1))
    elif place.scheme in ("s3", "s3a"):
        found = pafs.S3FileSystem(
            access_key=options.get("AWS_ACCESS_KEY_ID"),
            secret_key=options.get("AWS_SECRET_ACCESS_KEY"),
            session_token=options.get("AWS_SESSION_TOKEN"),
            region=options.get("AWS_REGION") or options.get("AWS_DEFAULT_REGION"),
            endpoint_override=options.get(_ENDPOINT),
            allow_delayed_open=True,  # what is small in one request
            retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=int(options.get("max_retries", 3)) + 1),
            connect_timeout=_seconds(options.get("connect_timeout")),
            request_timeout=_seconds(options.get("timeout")),
        )
    else:
        found = pafs.AzureFileSystem(
            options.get("AZURE_STORAGE_ACCOUNT_NAME") or (place.hostname or "").partition(".")[0],
            account_key=options.get("AZURE_STORAGE_ACCOUNT_KEY"),
            sas_token=options.get("AZURE_STORAGE_SAS_TOKEN"),
        )
    return pafs.SubTreeFileSystem(f"{bucket}{place.path}".rstrip("/"), found)


def is_versioned(found: pafs.FileSystem, path: str) -> bool:
    """Whether S3 keeps what is removed or replaced, as it says of a file that is there."""
    with found.open_input_file(path) as file:
        return (file.metadata() or {}).get("VersionId", b"null") != b"null"


def refusal(text: str, uri: str) -> str | None:
    """What to do about an error of delta-rs's or Arrow's with an object store, by its text; None if it is another."""
    text = text.lower()
    for signs, remedy in _REFUSALS:
        if any(sign in text for sign in signs):
            return remedy.format(uri=uri)
    return None


def is_unsure(text: str) -> bool:
    """Whether delta-rs, by its error's text, gave up at once what may have been done, or may be the next time.

    So it does with a commit that is not answered in time, and with a listing that breaks off.
    """
    return any(sign in text for sign in ("error sending request", "response body error")) and "retries" not in text


def patiently(ask: Callable[[], T]) -> T:
    """What `ask` returns, which is asked again a few times where that `is_unsure`; it has to be safe to repeat."""
    again = retry_if_exception(lambda error: is_unsure(str(error)))
    return Retrying(retry=again, wait=BETWEEN, stop=stop_after_attempt(UNSURE_ATTEMPTS), reraise=True)(ask)


@dataclass(frozen=True)
class Objects:
    """An object store from a URI on; `spool` is a folder for what is sealed and being written."""

    uri: str
    options: Mapping[str, str] = field(repr=False)
    spool: Path


@dataclass(frozen=True, order=True)
class ObjectPath:
    """A sealed file in an object store, or a folder of such, with what is asked of a `Path`.

    A folder is there as long as a file is in it. Raises LandingError, and FileNotFoundError.
    """

    parts: tuple[str, ...]
    _place: Objects = field(compare=False)
    _listed: float | None = field(default=None, compare=False, repr=False)  # when it was written, as a listing said

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath((*self.parts, *name.split("/")), self._place)

    def __str__(self) -> str:
        return "/".join((self._place.uri, *self.parts))

    @property
    def name(self) -> str:
        return self.parts[-1]

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> ObjectPath:
        return ObjectPath(self.parts[:-1], self._place)

    def exists(self) -> bool:
        """Whether a file is below."""
        return bool(self._below())

    def glob(self, pattern: str) -> list[ObjectPath]:
        """The files as deep below as the pattern goes, and whose names it fits."""
        depth, start = pattern.count("/") + 1, len(self.parts)
        return [
            one
            for one in self._below()
            if len(one.parts) == start + depth and PurePosixPath(*one.parts[start:]).match(pattern)
        ]

    def rglob(self, pattern: str) -> list[ObjectPath]:
        """The files however deep below."""
        return [one for one in self._below() if fnmatchcase(one.name, pattern)]

    def sizes(self) -> list[int]:
        """Bytes of all files below."""
        return [one.size for one in self._infos() if _SINCE not in one.path]

    def written(self) -> float:
        """When, in seconds since the epoch."""
        if self._listed is not None:
            return self._listed
        return next((one.written() for one in self.parent._below() if one == self), None) or self._missing()

    def open(self, mode: str = "rb") -> BinaryIO:
        """To read it from its begin on."""
        with self._refusing():
            return io.BufferedReader(_Reading(self, self._files().open_input_stream(self._key, buffer_size=_CHUNK)))

    @contextmanager
    def replacing(self, failure: Failure) -> Iterator[Callable[[bytes], None]]:
        """As `files.replacing`."""
        with os_errors(failure):
            kept = tempfile.TemporaryFile(buffering=0, dir=private_folder(self._place.spool))  # noqa: SIM115
        with kept:
            yield writer(kept.fileno(), failure)
            with os_errors(failure):
                before = self._marks_among(self.parent._names())
                whole = mmap.mmap(kept.fileno(), 0, access=mmap.ACCESS_READ)
                # One write: Arrow takes what it was given for all of it, also where an interruption ends this block.
                with self._refusing(), self._files().open_output_stream(self._key) as target:
                    target.write(whole)
                for mark in before:
                    mark._delete()

    def date_back(self, written: float) -> None:
        """Have it be as old as what it took the place of."""
        mark = self.parent / f"{self.name}{_SINCE}{written * 1000:.0f}"
        with self._refusing(), self._files().open_output_stream(mark._key):
            pass

    def remove(self) -> bool:
        """Whether there was such a file."""
        names = self.parent._names()
        found = self._key in names
        for one in (self, *self._marks_among(names)) if found else ():
            one._delete()
        return found

    def remove_all(self) -> None:
        """All that is below."""
        for name in self._names():
            ObjectPath(tuple(name.split("/")), self._place)._delete()

    @property
    def _key(self) -> str:
        return "/".join(self.parts)

    def _files(self) -> pafs.FileSystem:
        return files(self._place.uri, self._place.options)

    def _missing(self) -> NoReturn:
        raise FileNotFoundError(errno.ENOENT, "there is no such file", str(self))

    def _infos(self) -> list[pafs.FileInfo]:
        """All objects below, marks among them."""
        below = pafs.FileSelector(self._key, recursive=True, allow_not_found=True)
        with self._refusing():
            return [one for one in self._files().get_file_info(below) if one.type is pafs.FileType.File]

    def _names(self) -> dict[str, float]:
        """The keys below, and when each was put."""
        return {one.path: one.mtime.timestamp() for one in self._infos()}

    def _below(self) -> list[ObjectPath]:
        names, since = self._names(), dict[str, float]()
        for name in names:
            marked, mark, written = name.rpartition(_SINCE)
            if mark:
                since[marked] = min(int(written) / 1000, since.get(marked, float("inf")))
        return [
            ObjectPath(tuple(name.split("/")), self._place, min(put, since.get(name, put)))
            for name, put in sorted(names.items())
            if _SINCE not in name
        ]

    def _marks_among(self, names: Iterable[str]) -> list[ObjectPath]:
        return [self.parent / name.rpartition("/")[2] for name in names if name.startswith(f"{self._key}{_SINCE}")]

    def _delete(self) -> None:
        with self._refusing():
            patiently(lambda: DeltaStorageHandler(self._place.uri, dict(self._place.options)).delete_file(self._key))

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
            return
        except (OSError, DeltaError) as error:
            problem = refusal(str(error), self._place.uri)
            if problem is None and isinstance(error, FileNotFoundError):
                raise
            kind = type(error).__name__
        raise LandingError(problem or f"{self} cannot be used ({kind})")


class _Reading(io.RawIOBase):
    """What is read of a file, refused as everything else of it."""

    def __init__(self, path: ObjectPath, file: pa.NativeFile) -> None:
        self._path, self._file = path, file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._path._refusing():
            return int(self._file.readinto(buffer))

    def close(self) -> None:
        self._file.close()
        super().close()


def object_folder(settings: Settings, name: str) -> ObjectPath:
    """A folder beside the tables of the settings' store. Raises SettingsError."""
    options = storage_options(settings)
    return ObjectPath((name,), Objects(settings.store_uri.rstrip("/"), options, settings.home / "tmp"))
