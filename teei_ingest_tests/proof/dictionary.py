"""Attack 3: who has every table and a list of everybody's addresses and ids, and guesses; with and without a key.

The tables are those of two companies that employ the same people, made by the real ingest under a random master key.
The attacker knows all of the code, the published sandbox key included.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import tempfile
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from deltalake import DeltaTable

from teei_ingest.companies import load_companies
from teei_ingest.redact.tokens import Mac
from teei_ingest.settings import SANDBOX_MASTER_KEY
from teei_ingest.store.tables import contracts
from teei_ingest.streams import all_streams
from teei_ingest.systems import all_systems
from teei_ingest.vault.keys import PURPOSES, KeyRing
from teei_ingest_tests.feeding import ACME, answering, lists, record, worker
from teei_ingest_tests.running import Home
from teei_ingest_tests.second_opinion.server import Company

GLOBEX = Company("globex-inc", "6ba7b810-9dad-41d1-80b4-00c04fd430c8")
COMPANIES = (ACME, GLOBEX)
DAY = date(2024, 1, 15)
AT = "2024-01-15T10:00:00Z"

Figures = dict[str, float]


@dataclass(frozen=True)
class Person:
    """What the sources know somebody by."""

    email: str
    id: str  # in Benevity, Goodera, Workday
    internal: str  # in the four internal systems
    number: str
    documents: tuple[str, ...]

    def __iter__(self) -> Iterator[str]:
        yield from (self.email, self.id, self.internal, self.number, *self.documents)


def prove(scale: float = 1) -> Figures:
    """Matches without a key and with that of another company: none; AssertionError otherwise."""
    people = [_person() for _ in range(max(20, round(200 * scale)))]
    true = [value for person in people for value in person]
    candidates = _candidates(true, max(500, round(100_000 * scale)))
    with tempfile.TemporaryDirectory() as name:
        home, tables = _filled(Path(name), people)
        loot = {company.slug: Loot(tables[company.slug]) for company in COMPANIES}
        everything = Loot([text for texts in tables.values() for text in texts])
        figures: Figures = {
            "candidates": len(candidates),
            "rows": home.sql("SELECT count(*) AS n FROM (" + _all_rows() + ")")[0]["n"],
            "texts": len(everything.texts),
        }
        found = blind(candidates, everything)
        figures |= {"guesses": found.guesses, "matches_without_key": len(found.matches)}
        assert not found.matches, f"without a key, by {sorted(found.ways)[:5]}"
        figures["planted_faults_found"] = _planted(candidates)
        figures |= _with_key(home, people, candidates, loot)
    return figures


# --- the tables --------------------------------------------------------------------------------------------------


def _person() -> Person:
    mark = secrets.token_hex(5)
    return Person(
        f"{mark[:5]}.{mark[5:]}@acme.example",
        f"wd-{secrets.randbelow(10**8):08d}",
        str(uuid.uuid4()),
        f"{10**7 + secrets.randbelow(10**7)}",
        tuple(f"R-{secrets.randbelow(10**9):09d}" for _ in range(2)),
    )


def _candidates(true: Iterable[str], count: int) -> list[str]:
    """The true ones, and others like them, none twice."""
    found = dict.fromkeys(true)
    while len(found) < count:
        found |= dict.fromkeys(_person())
    return list(found)[:count]


def _filled(folder: Path, people: Sequence[Person]) -> tuple[Home, dict[str, list[str]]]:
    """A home of two companies with the same people, and every text and whole number in its tables, by company."""
    records = {stream: list(_records(stream, people)) for stream in all_streams()}
    with answering(lists(records)) as server:
        master = base64.b64encode(secrets.token_bytes(32)).decode()
        environ = {"TEEI_MASTER_KEY": master, **server.environment(COMPANIES)}
        home = Home.create(folder, {company.slug: company.id for company in COMPANIES}, environ)
        for company in COMPANIES:
            for stream in all_streams():
                (partition,) = worker(home, stream, company=company.slug).both([DAY]).good
                assert (partition.kept, partition.quarantined) == (len(people), 0), stream
    return home, {company.slug: list(_texts(home, company.slug)) for company in COMPANIES}


def _records(stream: str, people: Sequence[Person]) -> Iterator[dict[str, Any]]:
    """A record for each person; the next one is colleague, manager, buddy, mentor."""
    for person, other in zip(people, [*people[1:], people[0]], strict=True):
        internal = all_systems()[all_streams()[stream].system].namespace == "teei"
        is_person = stream == "workday_directory"
        changes: dict[str, Any] = {}
        own, others = (person.internal, other.internal) if internal else (person.id, other.id)
        example = all_streams()[stream].example
        for path, value in {
            "userId": own,
            "user_id": own,
            "mentee_id": own,
            "userEmail": person.email,
            "user_email": person.email,
            "verifiedBy": other.email,
            "verified_by": other.email,
            "buddy_id": others,
            "mentor_id": others,
            "instructor_id": others,
            "attendees": [own, others],
            "receiptNumber": person.documents[0],
            "receipt_number": person.documents[0],
            "certificate_id": person.documents[1],
            "credential_id": person.documents[1],
            "userName": person.email if is_person else "Kari Nordmann",
            "externalId": person.number,
            "emails": [{"value": person.email, "type": "work", "primary": True}],
            "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User/manager/value": other.id,
            "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User/employeeNumber": person.number,
            "urn:ietf:params:scim:schemas:extension:workday:2.0:User/employeeID": person.number,
        }.items():
            if path.split("/")[0] in example:
                changes[path] = value
        yield record(stream, person.id if is_person else f"{stream}-{person.internal}", AT, changes)


def _all_rows() -> str:
    return " UNION ALL ".join(f"SELECT event_id FROM {contract.table}" for contract in contracts())


def _texts(home: Home, company: str) -> Iterator[str]:
    """What a stranger reads in the tables of a company, whatever its column."""
    for path in sorted(Path(home.settings.store_uri).glob("*/_delta_log")):
        rows = DeltaTable(path.parent).to_pyarrow_table(filters=[("company", "=", company)])
        for column in rows.columns:
            for chunk in column.chunks:
                yield from _leaves(chunk)


def _leaves(values: pa.Array) -> Iterator[str]:
    kind = values.type
    if pa.types.is_struct(kind):
        for at in range(kind.num_fields):
            yield from _leaves(values.field(at))
    elif pa.types.is_map(kind):
        yield from _leaves(values.keys)
    elif pa.types.is_list(kind):
        yield from _leaves(values.flatten())
    elif pa.types.is_string(kind) or pa.types.is_integer(kind):
        yield from (str(value) for value in values.unique().to_pylist() if value is not None)


# --- guessing ----------------------------------------------------------------------------------------------------


class Loot:
    """Stored texts, ready to be compared with digests: their first and last bytes, were they hexadecimal or base64."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = set(texts)
        self.words = {word for text in self.texts for word in re.findall(r"[^\s\"'(),;<>\[\]{}=]+", text.casefold())}
        self._begins: dict[bytes, list[str]] = defaultdict(list)
        self._ends: dict[bytes, list[str]] = defaultdict(list)
        self._base64: set[bytes] = set()
        for text in self.texts:
            bare = re.sub(r"^[a-z]+[0-9]+_", "", text)
            hexadecimal = bare.casefold().replace("-", "")
            if re.fullmatch(r"[0-9a-f]{12,}", hexadecimal):
                self._begins[bytes.fromhex(hexadecimal[:12])].append(hexadecimal)
                self._ends[bytes.fromhex(hexadecimal[-12:])].append(hexadecimal)
            if re.match(r"[A-Za-z0-9+/_-]{12}", bare):
                self._base64.add(base64.urlsafe_b64decode(bare[:12].replace("+", "-").replace("/", "_")))

    def holds(self, digest: bytes) -> bool:
        """Whether a stored text is the digest or a part from either end."""
        if digest[:9] in self._base64:
            return True
        if digest[:6] not in self._begins and digest[-6:] not in self._ends:
            return False
        # 48 bits may agree by chance; a UUID has a version and a variant in it.
        whole = digest.hex()
        return any(_agree(whole, one) for one in self._begins.get(digest[:6], ())) or any(
            whole.endswith(one[-16:]) for one in self._ends.get(digest[-6:], ())
        )


def _agree(digest: str, stored: str) -> bool:
    return all(a == b for at, (a, b) in enumerate(zip(digest, stored, strict=False)) if at not in (12, 16))


@dataclass
class Found:
    """How many guesses were made, and which candidates matched in which way."""

    guesses: int = 0
    matches: set[str] = field(default_factory=set)
    ways: set[str] = field(default_factory=set)

    def add(self, candidate: str, way: str) -> None:
        self.matches.add(candidate)
        self.ways.add(way)


_HASHES = {
    "sha256": hashlib.sha256,
    "md5": hashlib.md5,
    "sha1": hashlib.sha1,
    "sha512": hashlib.sha512,
    "blake2b": hashlib.blake2b,
}


def _spelled(*parts: str) -> bytes:
    """The product's length-prefixed message, from its description."""
    return b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)


def _messages(candidate: str, namespaces: Iterable[str]) -> list[bytes]:
    """The candidate as it may have gone into a hash."""
    plain = candidate.casefold()
    made = [candidate.encode(), candidate.upper().encode(), plain.encode() + b"\n"]
    if "@" in candidate:
        return [*made, *(_spelled(kind, "email", plain) for kind in ("person", "hash"))]
    return [*made, *(_spelled(kind, space, candidate) for kind in ("person", "hash") for space in namespaces)]


_NAMESPACES = ("benevity", "goodera", "workday", "teei")
_DOCUMENTS = tuple(f"document_ref:{space}" for space in _NAMESPACES)


def _guessable_keys() -> dict[str, bytes]:
    """What somebody may have taken for a key, and what the sandbox's published master key gives."""
    master = base64.b64decode(SANDBOX_MASTER_KEY)
    keys = {"empty": b"", "sandbox": master, "sandbox text": SANDBOX_MASTER_KEY.encode()}
    for word in ("teei", "teei_ingest", "TEEI_MASTER_KEY", "pseudonym", "secret", "salt"):
        keys[word] = word.encode()
    for company in COMPANIES:
        keys |= {company.slug: company.slug.encode(), f"id of {company.slug}": company.id.encode()}
        keys[f"bytes of id of {company.slug}"] = uuid.UUID(company.id).bytes
        for purpose in PURPOSES:
            about = f"teei-keys-1\n{company.id}\n{purpose}\n1".encode()
            keys[f"sandbox's {purpose} of {company.slug}"] = HKDF(SHA256(), 32, salt=None, info=about).derive(master)
    return keys


_UUID_SPACES = (uuid.NAMESPACE_DNS, uuid.NAMESPACE_URL, uuid.NAMESPACE_OID, *(uuid.UUID(c.id) for c in COMPANIES))


def blind(candidates: Iterable[str], loot: Loot) -> Found:
    """All candidates, plain, hashed, under guessable keys, as UUIDs; truncated and encoded."""
    found = Found()
    keys = {name: Mac(key) for name, key in _guessable_keys().items()}
    for candidate in candidates:
        plain = candidate.casefold()
        found.guesses += 1
        if plain in loot.words:
            found.add(candidate, "plain")
        for name, digest in _digests(candidate, plain, keys):
            found.guesses += 1
            if loot.holds(digest):
                found.add(candidate, name)
    return found


def _digests(candidate: str, plain: str, keys: dict[str, Mac]) -> Iterator[tuple[str, bytes]]:
    yield "encoded", candidate.encode()
    for message in _messages(candidate, _NAMESPACES):
        for hash_name, make in _HASHES.items():
            yield hash_name, make(message).digest()
        for key_name, mac in keys.items():
            yield f"hmac under {key_name}", mac.digest(message)
    for space in _UUID_SPACES:
        yield "uuid5", uuid.uuid5(space, plain).bytes
    for company in COMPANIES:
        for stream in all_streams():
            yield "uuid5 over parts", uuid.uuid5(uuid.NAMESPACE_URL, f"{company.id}:{stream}:{candidate}:{AT}").bytes


def _planted(candidates: Sequence[str]) -> int:
    """Leaks as a careless writer would make them, one column each; the attack finds every one."""
    one = next(value for value in candidates if "@" in value)
    key = ACME.slug.encode()
    leaks: dict[str, Callable[[bytes], str]] = {
        "plain": lambda raw: f"Ask {raw.decode()}",
        "sha256": lambda raw: hashlib.sha256(raw).hexdigest(),
        "sha256, short": lambda raw: hashlib.sha256(raw).hexdigest()[:16],
        "sha256, its end": lambda raw: hashlib.sha256(raw).hexdigest()[-16:],
        "sha1 in capitals": lambda raw: hashlib.sha1(raw).hexdigest().upper(),
        "md5 as a UUID": lambda raw: str(uuid.UUID(hashlib.md5(raw).hexdigest())),
        "sha256 in base64": lambda raw: base64.b64encode(hashlib.sha256(raw).digest()).decode(),
        "the same for URLs": lambda raw: base64.urlsafe_b64encode(hashlib.sha256(raw).digest()).decode().rstrip("="),
        "hmac under the slug": lambda raw: f"t1_{hmac.digest(key, raw, 'sha256').hex()[:32]}",
        "the product's own under an empty key": lambda raw: (
            "t1_" + hmac.digest(b"", _spelled("person", "email", raw.decode()), "sha256").hex()[:32]
        ),
        "uuid5": lambda raw: str(uuid.uuid5(uuid.NAMESPACE_URL, raw.decode())),
        "encoded": lambda raw: base64.b64encode(raw).decode(),
    }
    for name, leak in leaks.items():
        found = blind([one], Loot([leak(one.encode()), str(uuid.uuid4())]))
        assert found.matches == {one}, f"the attack does not find a planted leak ({name}), so it shows nothing"
    return len(leaks)


# --- with a key --------------------------------------------------------------------------------------------------


def _with_key(home: Home, people: Sequence[Person], candidates: Sequence[str], loot: dict[str, Loot]) -> Figures:
    """The keys of the first company: they open its own tables, which shows that the attack works, and no other's."""
    settings = home.settings
    ring = KeyRing.open(settings, load_companies(settings).get(ACME.slug), create=False)
    true = {value for person in people for value in person}
    ours, theirs = Found(), Found()
    for purpose in PURPOSES:
        mac = Mac(ring.key(purpose))
        for candidate in candidates if purpose == "pseudonym" else true:
            for message in _messages(candidate, (*_NAMESPACES, *_DOCUMENTS)):
                digest = mac.digest(message)
                for found, place in ((ours, loot[ACME.slug]), (theirs, loot[GLOBEX.slug])):
                    if place.holds(digest):
                        found.add(candidate, purpose)
    assert ours.matches <= true, "somebody matched who is not there"
    missed = true - ours.matches
    assert not missed, f"with the key {len(missed)} of {len(true)} are not found, so the attack shows nothing"
    assert not theirs.matches, f"the key of one company opens another's tables, by {sorted(theirs.ways)}"
    figures = {
        "matches_with_its_own_key": len(ours.matches),
        "true_candidates": len(true),
        "matches_with_anothers_key": len(theirs.matches),
    }
    return figures | _event_ids(ring, people, loot)


def _event_ids(ring: KeyRing, people: Sequence[Person], loot: dict[str, Loot]) -> Figures:
    """Event ids over all that goes into them, with the first company's key."""
    moment = int(np.datetime64(AT.removesuffix("Z"), "ns").astype(np.int64)).to_bytes(8, "big")
    counts = dict.fromkeys(loot, 0)
    wanted = 0
    for stream in all_streams():
        for made in _records(stream, people):
            wanted += 1
            name = str(made["id"]).encode()
            for company in COMPANIES:
                message = _spelled(company.id, stream) + len(name).to_bytes(4, "big") + name + b"\0\0\0\x08" + moment
                digest = hmac.digest(ring.key("event_id"), message, "sha256")
                counts[company.slug] += loot[company.slug].holds(digest)
    assert counts == {ACME.slug: wanted, GLOBEX.slug: 0}, f"event ids that were found: {counts} of {wanted}"
    return {"event_ids_with_its_own_key": counts[ACME.slug], "event_ids_with_anothers_key": counts[GLOBEX.slug]}
