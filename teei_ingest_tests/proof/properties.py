"""Attack 4: what holds for all identities and all records, tried with thousands of each (hypothesis).

Each property counts its cases, so that none is said to have been tried that was not.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from typing import Any
from unittest import mock

import jsonschema
import pyarrow as pa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from teei_ingest.contracts.base import Data, Kind, Leaf, leaves
from teei_ingest.contracts.fields import DataClass
from teei_ingest.contracts.stored import PSEUDONYMOUS, json_schema
from teei_ingest.mapping.columns import Columns
from teei_ingest.mapping.plan import plan
from teei_ingest.mapping.record import Accepted, RecordMapper
from teei_ingest.redact import apply, text, tokens
from teei_ingest.redact.apply import Redactor, find_leaks
from teei_ingest.redact.forward import brought_forward
from teei_ingest.redact.policy import ALLOWED, Policy, policy_for
from teei_ingest.redact.tighten import tighten
from teei_ingest.redact.tokens import Pseudonyms, normalize_email
from teei_ingest.streams import all_streams
from teei_ingest_tests.proof import corpus
from teei_ingest_tests.redacting import COMPANY, DOMAIN, LOCAL, disguises, ring
from teei_ingest_tests.second_opinion.data import COMPANIES, FIRST_DAY, some

Figures = dict[str, float]
STREAMS = sorted(all_streams())
NAMESPACES = ("benevity", "goodera", "workday", "teei")


def prove(scale: float = 1) -> Figures:
    """Cases by property; AssertionError with the smallest example that breaks one."""
    figures: Figures = {}
    for attack, cases in PROPERTIES.items():
        figures[f"{attack.__name__}_cases"] = attack(max(10, round(cases * scale)))
    figures["cases"] = sum(figures.values())
    assert figures["cases"] >= 10_000 * min(scale, 1), figures
    return figures | {"planted_faults_found": _planted()}


_PHASES = (Phase.generate, Phase.shrink)


def _tried(count: int, *strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], int]:
    """Run a function on `count` cases; how many it saw."""
    seen = Counter[str]()

    def run(check: Callable[..., None]) -> int:
        @settings(
            max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=_PHASES
        )
        @given(st.tuples(*strategies))
        def tried(case: tuple[Any, ...]) -> None:
            seen["cases"] += 1
            check(*case)

        tried()
        return seen["cases"]

    return run


# --- tokens ------------------------------------------------------------------------------------------------------

_texts = st.text(min_size=1, max_size=30)
_identities = st.one_of(
    st.tuples(st.just(""), st.tuples(LOCAL, DOMAIN).map("@".join)), st.tuples(st.sampled_from(NAMESPACES), _texts)
)


def equal_identities(count: int) -> int:
    """One person has one token in a company, however written and in whatever system, and another in the next one."""
    companies = [Pseudonyms.of(ring(seed)) for seed in (1, 2, 3)]

    @_tried(count, LOCAL, DOMAIN, st.sampled_from(NAMESPACES))
    def tried(local: str, domain: str, namespace: str) -> None:
        spellings = [f"{local}@{domain}", *disguises(local, domain)]
        spaces = (namespace, "teei")
        for way in (Pseudonyms.person, Pseudonyms.hashed):
            found = [{way(names, space, one) for one in spellings for space in spaces} for names in companies]
            assert [len(tokens) for tokens in found] == [1, 1, 1]
            assert len(set.union(*found)) == 3
        ids = [way(names, namespace, local) for names in companies for way in (Pseudonyms.person, Pseudonyms.hashed)]
        assert len({one[3:] for one in ids}) == len(ids)

    return tried


def unequal_identities(count: int) -> int:
    """Two people never share a token: other addresses, other ids, the same id in another system."""
    names = Pseudonyms.of(ring())

    def key(namespace: str, value: str) -> tuple[str, str]:
        email = normalize_email(value)
        return (namespace, value) if email is None else ("email", email)

    @_tried(count, _identities, _identities)
    def tried(one: tuple[str, str], other: tuple[str, str]) -> None:
        equal = key(*one) == key(*other)
        assert (names.person(*one) == names.person(*other)) == equal
        assert (names.hashed(*one) == names.hashed(*other)) == equal
        assert names.person(*one)[3:] != names.hashed(*other)[3:]

    return tried


def run_together(count: int) -> int:
    """Parts that give the same text when put together, and values that look like lengths and parts."""
    names = Pseudonyms.of(ring())

    @_tried(count, _texts, st.integers(0, 30), st.integers(0, 30), st.sampled_from(("", "\0", "\0\0\0\1", "|", ":")))
    def tried(whole: str, first: int, second: int, between: str) -> None:
        whole = whole.replace("@", "")
        pairs = {(whole[:at], whole[at:]) for at in (min(first, len(whole)), min(second, len(whole)))}
        pairs |= {(space + between, value) for space, value in pairs} | {(s, between + v) for s, v in pairs}
        pairs |= {("", "".join(chr(byte) for byte in len(s).to_bytes(4, "big")) + s + v) for s, v in pairs}
        tokens = {names.person(*pair) for pair in pairs} | {"t1_" + names.hashed(*pair)[3:] for pair in pairs}
        assert len(tokens) == 2 * len(pairs)

    return tried


def rotation(count: int) -> int:
    """Who was one person before a rotation is one after it, and nobody else; forwarded is the same as made anew."""
    generations = [Pseudonyms.of(ring(7, versions)) for versions in (1, 2, 3, 4)]

    @_tried(count, st.lists(_identities, min_size=2, max_size=8), st.integers(0, 3), st.integers(0, 3))
    def tried(people: list[tuple[str, str]], one: int, other: int) -> None:
        before, after = generations[min(one, other)], generations[max(one, other)]
        for way in (Pseudonyms.person, Pseudonyms.hashed):
            old = [way(before, *person) for person in people]
            new = [after.forward(token) for token in old]
            assert new == [way(after, *person) for person in people]
            assert _graph(old) == _graph(new)
            rows = pa.record_batch({"a": old, "b": [[token, None] for token in old], "c": [{"d": t} for t in old]})
            moved = brought_forward(rows, after).to_pylist()
            assert moved == [{"a": token, "b": [token, None], "c": {"d": token}} for token in new]

    return tried


def _graph(tokens: Sequence[str]) -> list[int]:
    """For each token the first place where it stands: which rows join with which."""
    return [tokens.index(token) for token in tokens]


# --- texts -------------------------------------------------------------------------------------------------------


@st.composite
def _sayings(draw: st.DrawFn) -> str:
    """Texts with identifiers in the middle of anything."""
    dice = draw(st.randoms(use_true_random=False))
    kinds = [
        lambda: draw(st.text(max_size=12)),
        lambda: draw(st.text("abcXYZ @+-().,/0123456789", max_size=16)),
        lambda: dice.choice(_known()),
    ]
    return draw(st.sampled_from(("", " ", ", ", "-", "/"))).join(
        dice.choice(kinds)() for _ in range(dice.randint(1, 5))
    )


@cache
def _known() -> list[str]:
    """Identifiers and what is none, as in the proof of the guard."""
    dice = random.Random(4)
    return [one.value for one in corpus.positives(dice, 0.1)] + [one.text for one in corpus.negatives(dice, 0.02)]


def scrubbing(count: int) -> int:
    """What was scrubbed holds nothing, and scrubbing it again changes nothing."""

    @_tried(count, _sayings(), st.lists(st.sampled_from(("Kari", "Nordmann", "山田", "O'Fixture", "Øy")), max_size=2))
    def tried(said: str, names: list[str]) -> None:
        once = text.scrub(said, names)
        assert text.kinds(text.scrub(said)) == set()
        assert find_leaks(pa.array([text.scrub(said)])) == set()
        assert text.scrub(once, names) == once

    return tried


# --- events ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Case:
    stream: str
    accepted: tuple[Accepted, ...]
    policy: Policy


def _settable(cls: DataClass) -> st.SearchStrategy[str]:
    return st.sampled_from([mode.value for mode in ALLOWED[cls]])


_policies = st.fixed_dictionaries({}, optional={cls.value: _settable(cls) for cls in DataClass})


@st.composite
def _cases(draw: st.DrawFn) -> _Case:
    """Legal records of a stream, close to the borders, with anything in their texts; and a policy."""
    stream = draw(st.sampled_from(STREAMS))
    records = some(draw(st.integers(0, 10**6)), COMPANIES[0], stream, FIRST_DAY, 2)
    mapper = RecordMapper(plan(stream), COMPANY, "tenant")
    labels = [
        slot.keys[0]
        for one in plan(stream).fields
        for slot in one.slots
        if one.leaf.cls in (DataClass.LABEL, DataClass.FREE_TEXT) and slot.type is str and len(slot.keys) == 1
    ]
    accepted = []
    for record in records:
        for name in labels:
            if isinstance(record.get(name), str) and draw(st.booleans()):
                record[name] = draw(_sayings()) or "x"
        found = mapper(json.dumps(record, default="{:f}".format).encode())
        assert isinstance(found, Accepted), (stream, found)
        accepted.append(found)
    return _Case(stream, tuple(accepted), policy_for("acme-corp", draw(_policies)))


def _redactor(case: _Case) -> Redactor:
    return Redactor(plan(case.stream), "acme-corp", COMPANY, "tenant", ring(), case.policy)


def _kept(case: _Case) -> pa.RecordBatch:
    redactor = _redactor(case)
    redacted = redactor(Columns(plan(case.stream), redactor.wanted).from_accepted(case.accepted))
    good = [at for at in range(len(case.accepted)) if at not in redacted.leaks]
    return redacted.rows.take(pa.array(good, pa.int64()))


def redaction(count: int) -> int:
    """The same rows each time; and what is at rest, taken through the same policy again, stays as it is."""

    @_tried(count, _cases())
    def tried(case: _Case) -> None:
        rows = _kept(case)
        assert rows.equals(_kept(case))
        table = pa.Table.from_batches([rows])
        again = tighten(table, plan(case.stream).stream.contract, case.policy, Pseudonyms.of(ring()))
        assert again.to_pylist() == table.to_pylist()

    return tried


def schemas(count: int) -> int:
    """A stored event is valid by the stored schema; the event it was made from, if it names somebody, never is."""

    @_tried(count, _cases())
    def tried(case: _Case) -> None:
        contract = plan(case.stream).stream.contract
        valid = _validator(contract)
        for row in _kept(case).to_pylist():
            problem = next(valid.iter_errors(as_event(row, contract)), None)
            assert problem is None, (list(problem.absolute_path), problem.validator)
        for one in case.accepted:
            data = one.event.model_dump(mode="json", by_alias=True)
            if any(_values(data, leaf) for leaf in leaves(contract) if leaf.cls in PSEUDONYMOUS):
                assert not valid.is_valid(_envelope(contract, data["sourceTimestamp"], data))

    return tried


@cache
def _validator(contract: type[Data]) -> Any:
    return jsonschema.Draft202012Validator(json_schema(contract))


def _values(data: Any, leaf: Leaf) -> list[Any]:
    for name in leaf.names:
        data = (data or {}).get(name)
    return [one for one in (data if isinstance(data, list) else [data]) if one is not None]


def _envelope(contract: type[Data], timestamp: str, data: Mapping[str, Any]) -> dict[str, Any]:
    made = {"type": contract.event_type, "version": "v1", "timestamp": timestamp, "data": data}
    return {"id": "018f1d3a-7b0e-8a3b-9c1d-1a2b3c4d5e6f", **made}


def as_event(row: Mapping[str, Any], contract: type[Data]) -> dict[str, Any]:
    """A stored row as the event of its JSON Schema."""
    data: dict[str, Any] = {}
    for leaf in leaves(contract):
        value: Any = row
        for part in leaf.path:
            value = None if value is None else value[part]
        if len(leaf.names) == 1:
            data[leaf.names[0]] = _wire(value, leaf)
        elif row[leaf.path[0]] is None:
            data[leaf.names[0]] = None
        else:
            data.setdefault(leaf.names[0], {})[leaf.names[1]] = _wire(value, leaf)
    return _envelope(contract, _wire(row["timestamp"]), data) | {"id": row["event_id"]}


def _wire(value: Any, leaf: Leaf | None = None) -> Any:
    if isinstance(value, Decimal):
        return f"{value:.4f}"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, list) and leaf and leaf.nested:
        return [{one.names[-1]: _wire(item[one.path[-1]]) for one in leaf.nested} for item in value]
    if isinstance(value, list):
        return dict(value) if leaf and leaf.kind is Kind.MAP else [_wire(one) for one in value]
    return value


PROPERTIES: dict[Callable[[int], int], int] = {
    equal_identities: 2500,
    unequal_identities: 2500,
    run_together: 2000,
    rotation: 1500,
    scrubbing: 1500,
    redaction: 300,
    schemas: 300,
}


# --- planted faults ----------------------------------------------------------------------------------------------


def _faults() -> Iterator[tuple[Callable[[int], int], Any, str, Any]]:
    """(the property that has to notice, what is patched, its attribute, the fault)."""
    yield equal_identities, tokens, "normalize_email", lambda value: value if "@" in value else None
    yield unequal_identities, tokens, "prefixed", lambda *parts: str(parts[0]).encode()
    yield run_together, tokens, "prefixed", lambda *parts: "".join(map(str, parts)).encode()
    yield rotation, Pseudonyms, "forward", lambda self, token: token[:-1] + "0"
    yield scrubbing, text, "_without_identifiers", cache(lambda said: said)
    yield redaction, apply, "uuid_text", lambda ids: pa.array([str(object()) for _ in ids])
    yield schemas, Redactor, "_personal", lambda self, leaf: lambda value: value


def _planted() -> int:
    """Each property notices the fault that was made for it; the number of them."""
    faults = list(_faults())
    for attack, place, name, fault in faults:
        # That there is an example is enough; it need not be the smallest.
        with mock.patch.object(place, name, fault), mock.patch.dict(globals(), _PHASES=(Phase.generate,)):
            _forget()
            try:
                attack(100)
            except (AssertionError, BaseExceptionGroup):
                continue
            finally:
                _forget()
        raise AssertionError(f"{attack.__name__} holds with a planted fault, so it shows nothing")
    return len(faults)


def _forget() -> None:
    text.kinds.cache_clear()
    text._without_identifiers.cache_clear()
