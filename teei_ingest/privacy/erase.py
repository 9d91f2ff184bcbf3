"""Erasing a person: out of the tables, the quarantine and the landing, for good, and never to come back.

Belongs here: what belongs to a person, and the order of the steps. Does not belong here: how a record is told to be
theirs (`redact/suppress.py`), how a table is rewritten and purged (`store/`), asking for confirmation (`cli/`).

First the person is put on the list of those suppressed, pending, so that no sync brings them back; then rows go and
references to them become null; then the files and logs of the tables are purged of what they were before; then all
is looked through, decoded; only then the erasure is done. Killed in between, the list knows what is left.
"""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from teei_ingest.companies import Company
from teei_ingest.contracts.base import Data, Leaf, is_opaque_id, leaves, references
from teei_ingest.contracts.stored import arrow_schema
from teei_ingest.errors import LandingError, StoreError, UsageError
from teei_ingest.landing.landing import Landing
from teei_ingest.landing.quarantine import Quarantine, QuarantineEntry
from teei_ingest.landing.suppression import Erasure, Suppressions
from teei_ingest.mapping.plan import plan
from teei_ingest.mapping.record import RecordMapper
from teei_ingest.privacy.audit_log import AuditLog
from teei_ingest.privacy.identity import Identity
from teei_ingest.redact.apply import list_offsets, parents
from teei_ingest.redact.suppress import Suppression, Suppressor, is_nobody
from teei_ingest.redact.text import MARK
from teei_ingest.redact.tokens import PSEUDONYM, Pseudonyms
from teei_ingest.settings import Settings
from teei_ingest.store import open_store
from teei_ingest.store.presence import Presence
from teei_ingest.store.tables import Store, contracts
from teei_ingest.store.vanished import Vanished
from teei_ingest.streams import all_streams
from teei_ingest.systems import all_systems
from teei_ingest.vault.keys import KeyRing

CHUNK = 2_000  # rows in one commit
ROUNDS = 5  # syncs may find more of the person while they are erased, but not for ever

_PSEUDONYM = re.compile(PSEUDONYM)


@dataclass
class Traces:
    """What there is of a person, as counts: rows and references by table, sealed records, and pseudonyms.

    `older` says that, though nothing else is there, files of older versions of the tables show them; `suppressed`, that
    they are on the list already; `purged`, which tables were, once it is done.
    """

    company: str
    pseudonyms: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    references: dict[str, int] = field(default_factory=dict)
    quarantine: int = 0
    landing: int = 0
    older: bool = False
    suppressed: bool = False
    purged: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def any(self) -> bool:
        """Whether there is anything."""
        return bool(self.rows or self.references or self.quarantine or self.landing or self.older)

    def counts(self) -> dict[str, int]:
        """Sums, for the audit log."""
        return {
            "rows": sum(self.rows.values()),
            "references": sum(self.references.values()),
            "quarantine": self.quarantine,
            "landing": self.landing,
        }

    def add(self, other: Traces) -> None:
        """Add what another round or person brought."""
        self.pseudonyms += other.pseudonyms
        for mine, theirs in ((self.rows, other.rows), (self.references, other.references)):
            for table, count in theirs.items():
                mine[table] = mine.get(table, 0) + count
        self.quarantine += other.quarantine
        self.landing += other.landing
        self.purged = sorted({*self.purged, *other.purged})
        self.seconds += other.seconds


def look(settings: Settings, company: Company, identity: Identity) -> Traces:
    """What an erasure would touch. Raises StoreError, LandingError, KeyringError."""
    store = open_store(settings)
    with store.committing(company.slug), store.reading():
        place = _Place(settings, company, store)
        given = identity.pseudonyms(place.names)
        found = _found(place, *_reach(place, given))
        found.suppressed = bool(place.listed(given))
        return found


def whereabouts(
    settings: Settings, company: Company, identity: Identity
) -> tuple[frozenset[str], dict[str, tuple[int, int]]]:
    """All pseudonyms of a person, and by stream how many rows are theirs and how many refer to them.

    Raises as `look`.
    """
    store = open_store(settings)
    found: dict[str, tuple[int, int]] = {}
    with store.committing(company.slug), store.reading():
        place = _Place(settings, company, store)
        tokens, groups = _reach(place, identity.pseudonyms(place.names))
        for contract in contracts():
            ids = _rows(place, contract, _among(place, tokens), _among(place, groups))
            if not any(ids):
                continue
            rows = store.rows(contract, company=company.slug, columns=["event_id", "stream"])
            theirs, others = (
                Counter(rows.filter(_is_in(rows["event_id"], some))["stream"].to_pylist()) for some in ids
            )
            found |= {stream: (theirs[stream], others[stream]) for stream in sorted(theirs | others)}
    return tokens, found


def look_listed(settings: Settings, company: Company, *, again: bool = False) -> tuple[int, Traces]:
    """How many erasures are pending, or with `again` on the list, and what is left of those persons."""
    store = open_store(settings)
    left = Traces(company.slug)
    with store.committing(company.slug), store.reading():
        place = _Place(settings, company, store)
        pending = place.listed_all() if again else place.suppressions.pending(place.ring, company.slug)
        for erasure in pending:
            left.add(_remove(place, *_reach(place, erasure.tokens, erasure.groups), dry_run=True))
    return len(pending), left


def erase(
    settings: Settings, company: Company, identity: Identity, *, why: str = "", suppress_unknown: bool = False
) -> Traces:
    """Erase a person and suppress them from now on; what was erased.

    Raises UsageError if nothing is known of them, unless they are to be suppressed all the same; StoreError and
    LandingError, which say how to go on, AuditError, KeyringError.
    """
    store = open_store(settings)
    with store.alone_with(company.slug):
        place = _Place(settings, company, store)
        given = identity.pseudonyms(place.names)
        tokens, groups = _reach(place, given)
        found = _found(place, tokens, groups)
        listed = place.listed(given)
        if not found.any and listed and listed.done:
            found.suppressed = True
            return found
        if not found.any and not listed and not suppress_unknown:
            raise UsageError(
                "nobody here has this identity, and nothing was done; --suppress-unknown keeps them out from now on",
                company=company.slug,
            )
        AuditLog(settings).append("erase.started", company=company.slug, why=why, counts=found.counts())
        erasure = place.suppressions.add(place.ring, company.slug, tokens, groups)
    return _carry_out(settings, company, store, erasure.id, why, resumed=False)


def resume(settings: Settings, company: Company, *, why: str = "", again: bool = False) -> list[Traces]:
    """Carry out to their end the erasures that are pending, or with `again` all of the list; what each still had.

    Raises as `erase`.
    """
    store = open_store(settings)
    with store.alone_with(company.slug):
        place = _Place(settings, company, store)
        if again:
            place.suppressions.reopen(place.ring, company.slug)
        pending = place.suppressions.pending(place.ring, company.slug)
    done = []
    for erasure in pending:
        AuditLog(settings).append("erase.resumed", company=company.slug, why=why, details={"erasure": erasure.id})
        done.append(_carry_out(settings, company, store, erasure.id, why, resumed=True))
    return done


def undo(settings: Settings, company: Company, identity: Identity, *, why: str = "") -> None:
    """Take a person off the list, so that the next sync brings what the sources have of them; nothing comes back by it.

    Raises UsageError for a person who is not on it, or whose erasure is pending.
    """
    store = open_store(settings)
    with store.alone_with(company.slug):
        place = _Place(settings, company, store)
        listed = place.listed(identity.pseudonyms(place.names))
        if listed is None:
            raise UsageError("nobody with this identity is suppressed", company=company.slug)
        if not listed.done:
            raise UsageError(
                f"the erasure of this person is pending: `teei erase --company {company.slug} --resume` first",
                company=company.slug,
            )
        details = {"erasure": listed.id}
        AuditLog(settings).append("erase.undo_started", company=company.slug, why=why, details=details)
        place.suppressions.undo(place.ring, company.slug, listed)
        AuditLog(settings).append("erase.undone", company=company.slug, why=why, details=details)


# --- the steps ----------------------------------------------------------------------------------------------------


class _Place:
    """A company's tables, sealed files and keys; to be made anew whenever nobody held its lock in between."""

    def __init__(self, settings: Settings, company: Company, store: Store) -> None:
        self.company = company
        self.store = store
        self.landing = Landing(settings)
        self.quarantine = Quarantine(settings)
        self.suppressions = Suppressions(settings)
        self.vanished = Vanished(settings.home)
        self.presence = Presence(settings.home)
        self.ring = KeyRing.open(settings, company, create=lambda: not store.holds(company.slug))
        self.names = Pseudonyms.of(self.ring)

    def listed_all(self) -> list[Erasure]:
        """All erasures of the list."""
        return self.suppressions.entries(self.ring, self.company.slug)

    def listed(self, tokens: frozenset[str]) -> Erasure | None:
        """The erasure that suppresses one of these pseudonyms."""
        return next(
            (one for one in self.listed_all() if not tokens.isdisjoint(map(self.names.forward, one.tokens))), None
        )

    def streams(self, suppression: Suppression) -> Iterator[tuple[str, RecordMapper, Suppressor]]:
        """For each stream what tells whose a record of it is."""
        for name, stream in all_streams().items():
            namespace = all_systems()[stream.system].namespace
            mapper = RecordMapper(plan(name), str(self.company.id), None)
            yield name, mapper, Suppressor(stream.contract, namespace, self.names, suppression)


def _carry_out(
    settings: Settings, company: Company, store: Store, erasure_id: str, why: str, *, resumed: bool
) -> Traces:
    begun = time.monotonic()
    done = Traces(company.slug)
    problem = ""
    try:
        for _ in range(ROUNDS):
            with store.alone_with(company.slug):
                place = _Place(settings, company, store)
                erasure = _extended(place, erasure_id)
                if erasure is None:
                    break
                removed = _remove(place, erasure.tokens, erasure.groups)
            touched = contracts() if resumed else _touched(place, erasure, removed)
            for contract in touched:
                store.purge(contract)
            removed.purged = [contract.table for contract in touched]
            done.add(removed)
            done.pseudonyms = removed.pseudonyms
            with store.committing(company.slug), store.reading():
                _refuse_remains(place, erasure)
            with store.alone_with(company.slug):
                place = _Place(settings, company, store)
                if erasure in place.suppressions.pending(place.ring, company.slug):  # it did not grow meanwhile
                    AuditLog(settings).append(
                        "erase.done",
                        company=company.slug,
                        why=why,
                        counts=done.counts(),
                        details={"erasure": erasure_id},
                    )
                    place.suppressions.finish(place.ring, company.slug, erasure)
                    break
        else:
            problem = "syncs keep finding more of this person"
    except (StoreError, LandingError) as error:
        problem = error.message
    if problem:
        raise StoreError(f"{problem}; then `teei erase --company {company.slug} --resume`", company=company.slug)
    done.seconds = time.monotonic() - begun
    return done


def _extended(place: _Place, erasure_id: str) -> Erasure | None:
    """The erasure with what the tables and sealed files link to its person by now; None if another process did it."""
    slug = place.company.slug
    erasure = next((one for one in place.suppressions.pending(place.ring, slug) if one.id == erasure_id), None)
    if erasure is None:
        return None
    tokens, groups = _reach(place, erasure.tokens, erasure.groups)
    if tokens <= erasure.tokens and groups <= erasure.groups:
        return erasure
    return place.suppressions.add(place.ring, slug, tokens, groups)


def _reach(
    place: _Place, tokens: frozenset[str], groups: frozenset[str] = frozenset()
) -> tuple[frozenset[str], frozenset[str]]:
    """All pseudonyms of a person, from one record to the next that shares one with it, and the groups of theirs."""
    beside: dict[str, set[str]] = defaultdict(set)
    in_groups: dict[str, set[str]] = defaultdict(set)
    for found, group in _links(place):
        for token in found:
            beside[token] |= found
            if group is not None:
                in_groups[token].add(group)
    reached: set[str] = set()
    waiting = set(map(place.names.forward, tokens))
    while waiting:
        reached |= waiting
        waiting = set().union(*(beside.get(token, ()) for token in waiting)) - reached
    return frozenset(reached), groups.union(*(in_groups.get(token, ()) for token in reached))


def _links(place: _Place) -> Iterator[tuple[frozenset[str], str | None]]:
    """(pseudonyms that are one person's, the group of the record that shows it)."""
    slug, forward = place.company.slug, place.names.forward
    namespaces = {system.namespace for system in all_systems().values()}
    nobody = {make(namespace, "") for namespace in namespaces for make in (place.names.person, place.names.hashed)}
    for contract in contracts():
        columns = [*contract.subject, *([contract.group] if contract.group else ())]
        seen: set[tuple[Any, ...]] = set()
        for batch in place.store.batches(contract, company=slug, columns=columns):
            distinct = pa.Table.from_batches([batch]).group_by(columns).aggregate([])
            seen.update(zip(*(distinct[name].to_pylist() for name in columns), strict=True))
        for shown in seen:
            people = shown[: len(contract.subject)]
            tokens = {forward(value) for value in people if value is not None and _PSEUDONYM.fullmatch(value)}
            if tokens - nobody:
                yield frozenset(tokens - nobody), shown[-1] if contract.group else None
    for stream, mapper, suppressor in place.streams(Suppression()):
        for record in _sealed(place, stream):
            values = [value for value in mapper.subject(record) if not is_nobody(value)]
            if values:
                group = mapper.group(record)
                tokens = {token for value in values for token in suppressor.pseudonyms(value)}
                yield frozenset(tokens), None if group is None else suppressor.stored_id(group)


def _sealed(place: _Place, stream: str) -> Iterator[bytes]:
    """All sealed records of a stream."""
    slug = place.company.slug
    for day in place.quarantine.days(slug, stream):
        for entry in place.quarantine.entries(place.ring, slug, stream, day):
            yield entry.record
    for landed in place.landing.waiting():
        if (landed.company, landed.stream) == (slug, stream):
            found = place.landing.read(place.ring, slug, stream, landed.day)
            yield from found[1] if found else ()


def _remove(place: _Place, tokens: frozenset[str], groups: frozenset[str], *, dry_run: bool = False) -> Traces:
    """Remove a person's rows and sealed records, and the references to them."""
    found = Traces(place.company.slug, pseudonyms=len(tokens))
    suppression, erased, grouped = Suppression(tokens, groups), _among(place, tokens), _among(place, groups)
    for contract in contracts():
        gone, named = _rows(place, contract, erased, grouped)
        if gone:
            found.rows[contract.table] = len(gone)
        if named:
            found.references[contract.table] = len(named)
        if not dry_run:
            # First, since nobody would find these ids once the rows are gone.
            place.vanished.forget(place.company.slug, gone)
            place.presence.forget(place.company.slug, gone)
            _rewrite(place, contract, gone, named, erased)
    if not dry_run:
        place.landing.sweep()
        place.quarantine.sweep()
    for stream, mapper, suppressor in place.streams(suppression):
        _remove_sealed(place, stream, mapper, suppressor, erased, found, dry_run)
    return found


def _found(place: _Place, tokens: frozenset[str], groups: frozenset[str]) -> Traces:
    """What there is of a person."""
    found = _remove(place, tokens, groups, dry_run=True)
    found.older = not found.any and any(_remains(place, contract, tokens) for contract in contracts())
    return found


def _among(place: _Place, wanted: Iterable[str]) -> Callable[[str], bool]:
    """Whether a stored value is one of these, whatever version of it."""
    forward = place.names.forward
    known = frozenset(map(forward, wanted))
    return known.__contains__ if place.names.version == 1 else lambda value: forward(value) in known


def _rows(
    place: _Place, contract: type[Data], erased: Callable[[str], bool], grouped: Callable[[str], bool]
) -> tuple[list[str], list[str]]:
    """Ids of the rows that go, and of those that only refer to the person."""
    own = [leaf for leaf in leaves(contract) if leaf.key in contract.subject or is_opaque_id(leaf)]
    together = [leaf for leaf in leaves(contract) if leaf.key == contract.group]
    others = references(contract)
    columns = list(dict.fromkeys(["event_id", *(leaf.path[0] for leaf in (*own, *together, *others))]))
    gone: list[str] = []
    named: list[str] = []
    for batch in place.store.batches(contract, company=place.company.slug, columns=columns):
        theirs = _any(batch, own, erased) | _any(batch, together, grouped)
        about = _any(batch, others, erased) & ~theirs
        ids = batch.column("event_id")
        gone += ids.filter(pa.array(theirs)).to_pylist()
        named += ids.filter(pa.array(about)).to_pylist()
    return gone, named


def _is_in(values: pa.ChunkedArray, wanted: list[str]) -> pa.ChunkedArray:
    return pc.is_in(values, value_set=pa.array(wanted, pa.string()))


def _any(batch: pa.RecordBatch, among: Iterable[Leaf], erased: Callable[[str], bool]) -> np.ndarray:
    """n booleans: whether one of these leaves has a value that is erased."""
    found = np.zeros(len(batch), bool)
    for leaf in among:
        values = batch.column(leaf.path[0])
        if len(leaf.path) > 1:
            values = pc.struct_field(values, leaf.path[1])
        rows = parents(list_offsets(values)) if leaf.many else None
        encoded = (values.flatten() if leaf.many else values).dictionary_encode()
        known = pa.array([erased(value) for value in encoded.dictionary.to_pylist()], pa.bool_())
        hits = np.flatnonzero(known.take(encoded.indices).fill_null(False).to_numpy(zero_copy_only=False))
        found[rows[hits] if rows is not None else hits] = True
    return found


def _rewrite(
    place: _Place, contract: type[Data], gone: list[str], named: list[str], erased: Callable[[str], bool]
) -> None:
    slug, nothing = place.company.slug, arrow_schema(contract).empty_table()
    for start in range(0, len(gone), CHUNK):
        place.store.rewrite(contract, slug, gone[start : start + CHUNK], nothing)
    for start in range(0, len(named), CHUNK):
        ids = named[start : start + CHUNK]
        rows = place.store.with_ids(contract, slug, ids)
        made = [_unnamed(row, contract, erased) for row in rows.to_pylist()]
        place.store.rewrite(contract, slug, ids, pa.Table.from_pylist(made, rows.schema))


def _unnamed(row: dict[str, Any], contract: type[Data], erased: Callable[[str], bool]) -> dict[str, Any]:
    """A row without its references to the person."""
    for leaf in references(contract):
        around = row if len(leaf.path) == 1 else row[leaf.path[0]]
        value = around[leaf.path[-1]] if around is not None else None
        if isinstance(value, list):
            around[leaf.path[-1]] = [one for one in value if not erased(one)]
        elif value is not None and erased(value):
            around[leaf.path[-1]] = None
            row.update((name, None) for name, other in contract.beside.items() if other == leaf.key)
    return row


def _remove_sealed(
    place: _Place,
    stream: str,
    mapper: RecordMapper,
    suppressor: Suppressor,
    erased: Callable[[str], bool],
    found: Traces,
    dry_run: bool,
) -> None:
    slug = place.company.slug

    def goes(entry: QuarantineEntry) -> bool:
        named = suppressor.names(mapper.people(entry.record), mapper.group(entry.record))
        return named or any(map(erased, entry.people))

    def change(record: bytes) -> bytes | None:
        group = mapper.group(record)
        if not suppressor.names(mapper.people(record), group):
            return record
        theirs = any(map(suppressor.person, mapper.subject(record))) or suppressor.group(group)
        return None if theirs else mapper.without(record, suppressor.person, MARK)

    found.quarantine += place.quarantine.erase(place.ring, slug, stream, goes, dry_run=dry_run)
    for landed in list(place.landing.waiting()):
        if (landed.company, landed.stream) == (slug, stream):
            found.landing += place.landing.erase(place.ring, slug, stream, landed.day, change, dry_run=dry_run)


def _touched(place: _Place, erasure: Erasure, removed: Traces) -> list[type[Data]]:
    """Tables that were changed, and those whose older or unfinished files may still show the person."""
    return [
        contract
        for contract in contracts()
        if contract.table in removed.rows
        or contract.table in removed.references
        or place.store.unfinished(contract)
        or _remains(place, contract, erasure.tokens)
    ]


def _refuse_remains(place: _Place, erasure: Erasure) -> None:
    """Look through everything, decoded. Raises StoreError if there is still something of the person."""
    left = [contract.table for contract in contracts() if _remains(place, contract, erasure.tokens)]
    sealed = _remove(place, erasure.tokens, erasure.groups, dry_run=True)
    if left or sealed.any:
        raise StoreError(f"something of the person is left in {', '.join(left) or 'the sealed files'}")


def _remains(place: _Place, contract: type[Data], tokens: frozenset[str]) -> bool:
    """Whether a file of the table, of whatever version, or its log shows a pseudonym of the person."""
    erased = _among(place, tokens)
    texts = place.store.texts(contract, place.company.slug)
    return any(erased(found[0]) for text in texts for found in _PSEUDONYM.finditer(text))
