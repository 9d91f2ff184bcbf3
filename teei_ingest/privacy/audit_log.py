"""The audit log: who did what to a company's data, when and why; append-only and hash-chained.

Belongs here: writing, reading and verifying the log. Does not belong here: what the acts do, and whom they concern:
no entry names a person, by name or by token.

`$TEEI_HOME/audit/audit.jsonl` has one JSON object a line, each with the SHA-256 of itself and its predecessor.
`head.json` beside it says where the log ends, under an HMAC whose key comes from the home's (`vault/wrapping.py`;
HKDF, RFC 5869), so that a tail that was cut off shows. It also holds the line that is being written, so that the next
one completes what a killed process began. Who takes away both files, or has the master key, can make a log of his
own; the hash that `teei audit verify` prints, noted elsewhere, tells even then.

Where the events are in an object store, each entry is copied there, too, as an object named by its number and hash, and
`verify` asks for them; under an object lock nobody can make them as if they had not been.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import pwd
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from teei_ingest.errors import AuditError, InternalError, KeyringError, LandingError, UsageError
from teei_ingest.redact import text
from teei_ingest.settings import Settings
from teei_ingest.store.locks import Locks
from teei_ingest.vault.files import os_errors, private_folder, replacing
from teei_ingest.vault.wrapping import home_key

if TYPE_CHECKING:
    from teei_ingest.vault.objects import ObjectPath

FIRST = "0" * 64  # what the first entry follows

_KEYS = ("seq", "at", "who", "company", "what", "why", "counts", "details", "prev", "hash")
_PSEUDONYM = re.compile(r"(?<![a-z0-9])[ht][1-9][0-9]*_[0-9a-f]{32}")
_MAX_WHY = 500

Entry = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What a look through the whole log found: `problem` is empty where nothing is wrong, `line` counts from 1.

    `torn` says that a process was killed while it wrote the last line, which the next one completes.
    """

    entries: int
    last_hash: str
    problem: str = ""
    line: int | None = None
    torn: str = ""

    @property
    def intact(self) -> bool:
        return not self.problem


@dataclass(frozen=True)
class _Head:
    """The log's end: the last entry's number and hash, its end in bytes, and the line that is being written."""

    seq: int = 0
    hash: str = FIRST
    end: int = 0
    next: str = ""

    def mac(self, key: bytes) -> str:
        return hmac.digest(key, _canonical(vars(self)), hashlib.sha256).hex()


class AuditLog:
    """The log of one home. Raises AuditError where it is broken or cannot be written: then nothing may be done."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.path = settings.home / "audit" / "audit.jsonl"
        self._head_path = self.path.with_name("head.json")
        self._locks = Locks(settings.home / "locks")
        self._copies = copies(settings)

    def append(
        self,
        what: str,
        *,
        company: str | None = None,
        why: str = "",
        counts: Mapping[str, int] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> Entry:
        """Write down an act, on disk when this returns; the entry.

        `counts` are real ones and become buckets; `details` are versions, ids of keys, names of fields. Raises
        UsageError for a reason that names somebody.
        """
        about: Entry = {
            "who": actor(self._settings),
            "company": company,
            "what": what,
            "why": _checked(why),
            "counts": {name: bucket(count) for name, count in (counts or {}).items()},
            "details": dict(details or {}),
        }
        if found := _PSEUDONYM.search(json.dumps(about)):
            raise InternalError(f"{what} would write a token ({found[0][0]}…) into the audit log; please report this")
        with self._locks.exclusive("audit"), os_errors(self._failure):
            master = home_key(self._settings)
            head = self._finished(self._read_head(master), master)
            entry: Entry = {"seq": head.seq + 1, "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}", **about}
            entry["prev"] = head.hash
            entry["hash"] = _hash(entry)
            head = replace(head, next=_line(entry))
            self._write_head(head, master)
            self._finished(head, master)
            self._copy()
        return entry

    def entries(self, company: str | None = None) -> Iterator[Entry]:
        """All whole entries in their order; of one company. Raises AuditError for a line that is none."""
        with self._locks.shared("audit"), os_errors(self._failure):
            lines = self._read().splitlines(keepends=True)
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return
            entry = _entry(line)
            if entry is None:
                raise AuditError(f"{self.path}, line {number} is no entry: `teei audit verify`")
            if company is None or entry["company"] == company:
                yield entry

    def verify(self) -> Verdict:
        """Look at every line, and at the end. With another master key the end cannot be told, which is a problem."""
        with self._locks.shared("audit"), os_errors(self._failure):
            content = self._read()
            try:
                head, unsure = self._read_head(home_key(self._settings)), ""
            except (AuditError, KeyringError) as error:
                head, unsure = None, error.message
        seq, last, end = 0, FIRST, 0
        ends = {(seq, last, end)}
        for line in content.splitlines(keepends=True):
            entry = _entry(line)
            if head is not None and end == head.end and not line.endswith(b"\n"):
                break  # whether it is the beginning of what was to be written is seen below
            problem = _wrong(line, entry, seq, last)
            if problem:
                return Verdict(seq, last, problem, seq + 1)
            assert entry is not None
            seq, last, end = entry["seq"], entry["hash"], end + len(line)
            ends.add((seq, last, end))
        if head is None:
            return Verdict(seq, last, unsure)
        if (head.seq, head.hash, head.end) not in ends:
            return Verdict(seq, last, f"the log ends after entry {seq}, and entry {head.seq} had been written", seq + 1)
        if not head.next.encode().startswith(content[head.end :]):
            return Verdict(seq, last, "there is more than was written", head.seq + 1)
        if problem := self._unlike_copies(content):
            return Verdict(seq, last, problem)
        torn = f"entry {seq + 1} was being written when its process ended" if head.next and seq == head.seq else ""
        return Verdict(seq, last, torn=torn)

    def rekey(self, old_master: bytes, new_master: bytes) -> None:
        """Put the log's end under a new master key; one that is already, stays. Raises KeyringError."""
        with self._locks.exclusive("audit"), os_errors(self._failure):
            try:
                self._read_head(new_master)
            except KeyringError:
                self._write_head(self._read_head(old_master), new_master)

    # --- the two files ----------------------------------------------------------------------------------------

    def _read(self) -> bytes:
        return self.path.read_bytes() if self.path.exists() else b""

    def _read_head(self, master: bytes) -> _Head:
        if not self._head_path.exists():
            if self._read():
                raise self._broken(f"{self._head_path.name} is missing")
            return _Head()
        try:
            document = json.loads(self._head_path.read_bytes())
            mac, key = document.pop("mac"), document.pop("key")
            head = _Head(**document)
            sound = hmac.compare_digest(mac, head.mac(_key(master)))
        except (ValueError, KeyError, TypeError, AttributeError):
            sound, key = False, None
        if sound:
            return head
        if isinstance(key, str) and key != _key_id(master):
            raise KeyringError("the audit log was written with another master key: set TEEI_MASTER_KEY to that one")
        raise self._broken(f"{self._head_path.name} was changed")

    def _write_head(self, head: _Head, master: bytes) -> None:
        document = {**vars(head), "key": _key_id(master), "mac": head.mac(_key(master))}
        with replacing(self._head_path, self._failure) as write:
            write(_canonical(document) + b"\n")

    def _finished(self, head: _Head, master: bytes) -> _Head:
        """Write what is missing of the head's next line, and the head after it."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < head.end:
            raise self._broken("its end is missing")
        there = b""
        if size:
            with self.path.open("rb") as file:
                file.seek(head.end)
                there = file.read()
        line = head.next.encode()
        if not line.startswith(there):
            raise self._broken("there is more than was written")
        if not line:
            return head
        self._write(line[len(there) :])
        done = _Head(head.seq + 1, json.loads(line)["hash"], head.end + len(line))
        self._write_head(done, master)
        return done

    def _write(self, data: bytes) -> None:
        private_folder(self.path.parent)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    # --- copies in the object store ---------------------------------------------------------------------------

    def _copy(self) -> None:
        """Put there what it lacks."""
        if self._copies is None:
            return
        try:
            there = {path.name for path in self._copies.glob("*.json")}
            for name, line in _named(self._read()):
                if name not in there:
                    with replacing(self._copies / name, self._failure) as write:
                        write(line)
            return
        except LandingError as error:
            problem = error.message
        raise AuditError(f"{problem}; nothing is done that cannot be written down there, too")

    def _unlike_copies(self, content: bytes) -> str:
        """How the log differs from its copies, which say by their names what was written once; empty if it does not."""
        if self._copies is None:
            return ""
        lacking = {path.name for path in self._copies.glob("*.json")} - {name for name, _ in _named(content)}
        return f"the log lacks what was copied to {self._copies / min(lacking)}" if lacking else ""

    def _failure(self, reason: str) -> AuditError:
        return AuditError(f"{self.path}: {reason}; nothing is done that cannot be written down")

    def _broken(self, problem: str) -> AuditError:
        return AuditError(
            f"{self.path} is broken ({problem}): `teei audit verify` says where; restore its folder, or keep it "
            "elsewhere and begin a new one"
        )


def bucket(count: int) -> str:
    """The order of magnitude of a count: 0, 1-9, 10-99, …"""
    if count <= 0:
        return "0"
    digits = len(str(count))
    return f"{10 ** (digits - 1)}-{10**digits - 1}"


def _checked(why: str) -> str:
    why = " ".join(why.split())
    if found := text.kinds(why):
        raise UsageError(f"the reason names somebody ({', '.join(sorted(found))}): say it without, it is kept for good")
    if _PSEUDONYM.search(why):
        raise UsageError("the reason has a person's token in it: say it without, it is kept for good")
    if len(why) > _MAX_WHY:
        raise UsageError(f"the reason has {len(why)} characters; {_MAX_WHY} are enough")
    return why


def actor(settings: Settings) -> str:
    """Who acts: as the settings say, else the user of the operating system, whatever its environment says."""
    if settings.actor:
        return settings.actor
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _canonical(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _hash(entry: Entry) -> str:
    bare = {name: value for name, value in entry.items() if name != "hash"}
    return hashlib.sha256(bare["prev"].encode() + _canonical(bare)).hexdigest()


def _line(entry: Entry) -> str:
    return json.dumps({name: entry[name] for name in _KEYS}, separators=(",", ":")) + "\n"


def _entry(line: bytes) -> Entry | None:
    """The entry of a line, None if it is none."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and set(entry) == set(_KEYS) else None


def _wrong(line: bytes, entry: Entry | None, seq: int, last: str) -> str:
    """What is wrong with a line that follows the entry `seq` of this hash; empty if nothing is."""
    if entry is None:
        return "is no entry"
    if entry["prev"] != last or entry["seq"] != seq + 1:
        return f"does not follow entry {seq}: a line was removed, moved or put in"
    if entry["hash"] != _hash(entry) or _line(entry).encode() != line:
        return "was changed"
    return ""


def copies(settings: Settings) -> ObjectPath | None:
    """Where the log is copied to; None where tables are in folders."""
    if not settings.in_object_store:
        return None
    from teei_ingest.vault.objects import object_folder  # which loads Arrow

    return object_folder(settings, "_audit")


def _named(content: bytes) -> Iterator[tuple[str, bytes]]:
    """The whole entries of a log, each with the name of its copy: its number and its hash."""
    for line in content.splitlines(keepends=True):
        entry = _entry(line)
        if entry is not None and line.endswith(b"\n"):
            yield f"{entry['seq']:09d}-{entry['hash']}.json", line


def _key(master: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=b"teei-audit-1\nhead").derive(master)


def _key_id(master: bytes) -> str:
    """Tells another master key from a changed file."""
    return HKDF(SHA256(), 8, salt=None, info=b"teei-audit-1\nid").derive(master).hex()
