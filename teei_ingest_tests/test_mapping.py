"""From the wire to the contract: the two ways of mapping give the same, and the declarations are what they say.

What a stream's fields hold is compared with `wire.md` by the second opinion; here it is whether the fast way ever
accepts what Pydantic would refuse, or reads it differently.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from teei_ingest.errors import SourceMisbehaves
from teei_ingest.mapping.columns import Batch, Columns, Items
from teei_ingest.mapping.decode import Pages, Records
from teei_ingest.mapping.plan import Plan, compile_stream, plan
from teei_ingest.mapping.record import Accepted, Broken, RecordMapper
from teei_ingest.streams import all_streams
from teei_ingest.streams.base import Derived, Person, Stream

COMPANY = "550e8400-e29b-41d4-a716-446655440000"
STREAMS = sorted(all_streams())
every_stream = pytest.mark.parametrize("name", STREAMS)

Path = tuple[str | int, ...]


def mapper(name: str) -> RecordMapper:
    return RecordMapper(plan(name), COMPANY, "tenant-1")


def columns(compiled: Plan) -> Columns:
    return Columns(compiled, frozenset(field.leaf.key for field in compiled.fields))


def page(compiled: Plan, *records: bytes) -> list[Any]:
    name = json.dumps(compiled.stream.records).encode()
    return Records(compiled)(b"{" + name + b":[" + b",".join(records) + b"]}")[0]


def _listed(column: Any) -> Any:
    if isinstance(column, Items):
        return column.offsets.to_pylist(), {key: values.to_pylist() for key, values in column.columns.items()}
    return column.to_pylist()


def shown(batch: Batch) -> dict[str, Any]:
    """A batch as plain values, without what only holds within one way of reading."""
    return {
        "source_id": batch.source_id,
        "timestamp_ns": batch.timestamp_ns.tolist(),
        "columns": {key: _listed(column) for key, column in batch.columns.items()},
        "present": {key: mask.tolist() for key, mask in batch.present.items()},
        "person": [batch.person_id, batch.person_email, batch.person_key],
        "names": [tuple(filter(None, names)) for names in batch.names],
        "unlisted": batch.unlisted,
    }


@every_stream
def test_the_example_is_an_event_by_both_ways(name: str) -> None:
    compiled = plan(name)
    raw = json.dumps(compiled.stream.example).encode()

    slow = mapper(name)(raw)
    assert isinstance(slow, Accepted), slow

    fast = columns(compiled).from_rows(page(compiled, raw))
    assert fast.refused == []
    assert shown(fast) == shown(columns(compiled).from_accepted([slow]))


# --- what the fast way accepts, Pydantic accepts with equal values ---------------------------------------------------


class Literal(str):
    """A JSON number as it is written, which Python's own would normalize."""


NUMBERS = [
    "0", "-0", "-0.0", "1", "-1", "17", "18", "100", "100.0", "100.5", "101", "1.0", "2.5", "1e2", "1E2", "1.5e1",
    "12e-1", "5e-324", "1e400", "-1e400", "0.1", "0.00004", "0.12345", "10.1234", "9007199254740992",
    "9007199254740993", "9223372036854775808", "18446744073709551616", "9999999999.9999", "99999999999",
    "12345678901234.5", "99999999999999", "100000000000000", "123456789012345678", "0.1e0",
]  # fmt: skip
INSTANTS = [
    "2024-01-15", "2024-01-15T10:00:00Z", "2024-01-15T10:00:00z", "2024-01-15t10:00:00Z", "2024-01-15 10:00:00Z",
    "2024-01-15T10:00:00", "2024-01-15T10:00Z", "2024-01-15T10:00:00.1Z", "2024-01-15T10:00:00.123456789Z",
    "2024-01-15T10:00:00.1234567891Z", "2024-01-15T10:00:00.Z", "2024-01-15T10:00:00,5Z", "2024-01-15T10:00:00+01:00",
    "2024-01-15T10:00:00-00:00", "2024-01-15T10:00:00+23:59", "2024-01-15T10:00:00+24:00", "2024-01-15T10:00:00+01:60",
    "2024-01-15T10:00:00+0100", "2024-01-15T10:00:00+01", "2024-01-15T24:00:00Z", "2024-01-15T23:59:60Z",
    "2024-01-15T23:60:00Z", "2024-02-29T00:00:00Z", "2023-02-29T00:00:00Z", "2024-13-01T00:00:00Z",
    "2024-00-10T00:00:00Z", "2024-01-00T00:00:00Z", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00Z",
    "1582-10-10T00:00:00Z", "1899-12-31T23:59:59.999999999Z", "1900-01-01T00:00:00Z", "1900-01-01T00:00:00+01:00",
    "2199-12-31T23:59:59.999999999Z", "2200-01-01T00:00:00Z", "2199-12-31T23:59:59-01:00", "9999-12-31T23:59:59Z",
    "20240115T100000Z", "2024-W03-1", "1705312800", " 2024-01-15T10:00:00Z", "2024-01-15T10:00:00Z\n",
    "２０２４-01-15", "2024-1-5", "24-01-15", "",
]  # fmt: skip
TEXTS = [
    "", " ", "other", "OTHER", "Hands-On", "ſkills", "active", "ACTIVE", "Full_Time", "NOK", "nok", "XXX", "ZZZ",
    "kari.nordmann@acme.example", "no-address", "@", "a@", "\u0000", "\U0001f600", "e\u0301", "12", "true", "null",
    "250.00", "0250.00", "250.", ".5", "+1", "-1", "1e3", "0.00001", "99999999999999.9999", "100000000000000",
    "123456789012345678", "٣", " 1", "1 ", "NaN", "Infinity",
]  # fmt: skip
ODD: list[Any] = [
    None, True, False, [], {}, [None], [""], ["a", "b"], [1], [17], [18], [0], [[]], [{}], {"a": 1}, {"A": 1},
    {"a": True}, {"a": "1"}, {"a": None}, {"": 1}, {"value": None}, [{"value": "x@y.example"}],
    [{"value": "a@b.example", "primary": None}, {"value": "c@d.example", "primary": True}], [{"value": 1}],
    [{"duration_minutes": 1}], [{"duration_minutes": None}], [{"duration_minutes": -5}, {"duration_minutes": 0.1}],
    [{"goal": None, "percentage": 100}], [{"goal": 1}], [{"percentage": 101}],
    [{"type": "work"}], [{"type": "work", "locality": "", "country": "NO"}], [{"type": None}],
]  # fmt: skip

odd_values = st.one_of(
    st.sampled_from([Literal(number) for number in NUMBERS]),
    st.sampled_from(INSTANTS),
    st.sampled_from(TEXTS),
    st.sampled_from(ODD),
    st.text(max_size=6),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(0, 200).map(lambda value: Literal(f"{value:.7g}")),
    st.datetimes().map(lambda moment: f"{moment.isoformat()}Z"),
    st.decimals(0, 10**15, places=4).map(str),
)


def paths(value: Any, here: Path = ()) -> Iterator[Path]:
    """Paths of all values in a record, objects and lists included."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*here, key)
        yield from paths(inner, (*here, key))


def mutated(record: Any, path: Path, action: str, value: Any) -> Any:
    """A record with one value dropped, replaced or added to; as it was where the path is gone."""
    target: Any = record
    value = copy.deepcopy(value)
    try:
        for key in path[:-1]:
            target = target[key]
        if action == "drop":
            del target[path[-1]]
        elif action == "append" and isinstance(target[path[-1]], list):
            target[path[-1]].append(value)
        elif action == "unknown" and isinstance(target[path[-1]], dict):
            target[path[-1]]["x-unknown"] = value
        else:
            target[path[-1]] = value
    except (KeyError, IndexError, TypeError):
        pass
    return record


def dumps(record: Any) -> bytes:
    """JSON with literals as they are written."""
    found: list[str] = []

    def plain(value: Any) -> Any:
        if isinstance(value, Literal):
            found.append(value)
            return f"\ue000{len(found) - 1}\ue000"
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return [plain(inner) for inner in value] if isinstance(value, list) else value

    text = json.dumps(plain(record), ensure_ascii=False)
    for number, literal in enumerate(found):
        text = text.replace(f'"\ue000{number}\ue000"', literal)
    return text.encode("utf-8", "surrogatepass")


ACTIONS = st.sampled_from(["drop", "replace", "replace", "replace", "append", "unknown"])


@st.composite
def records(draw: st.DrawFn, stream: Stream) -> bytes:
    record = copy.deepcopy(dict(stream.example))
    places = sorted(paths(record), key=repr)
    for _ in range(draw(st.integers(1, 3))):
        mutated(record, draw(st.sampled_from(places)), draw(ACTIONS), draw(odd_values))
    return dumps(record)


def agree(name: str, *raw: bytes) -> int:
    """Compare both ways on a page of records; how many of them the fast way took."""
    compiled = plan(name)
    rows = page(compiled, *raw)
    ways = columns(compiled)
    fast = ways.from_rows(rows)
    mapped = mapper(name)
    results = [mapped(one) for position, one in enumerate(raw) if position not in set(fast.refused)]
    assert [result for result in results if isinstance(result, Broken)] == []
    assert shown(fast) == shown(ways.from_accepted([result for result in results if isinstance(result, Accepted)]))
    return len(fast)


@every_stream
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_fast_accepts_only_what_pydantic_accepts_and_reads_it_alike(name: str, data: st.DataObject) -> None:
    stream = plan(name).stream
    sound = dumps(dict(stream.example))
    with contextlib.suppress(SourceMisbehaves):  # what is not JSON at all never comes to a record
        agree(name, sound, data.draw(records(stream)), sound)


@every_stream
def test_every_field_with_every_odd_value(name: str) -> None:
    """The property without chance: each value of the lists in each place of the example."""
    sample = dict(plan(name).stream.example)

    def replaced(path: Path, values: Iterable[Any]) -> list[bytes]:
        return [dumps(mutated(copy.deepcopy(sample), path, "replace", value)) for value in values]

    taken = 0
    for path in paths(sample):
        dropped = dumps(mutated(copy.deepcopy(sample), path, "drop", None))
        taken += agree(name, dropped, *replaced(path, [*map(Literal, NUMBERS), *TEXTS, *INSTANTS, *ODD]))
        if "T" in str(functools.reduce(lambda inner, key: inner[key], path, sample)):  # type: ignore[index]
            # Alone on its page, each takes the way of Arrow's own cast where it looks plain enough.
            taken += sum(agree(name, one) for one in replaced(path, INSTANTS))
    assert taken > 0


@pytest.mark.parametrize("body", [b'{"data": [{"userEmail": "kari.nordmann@acme.example', b'{"data": "kari\xff"}'])
def test_a_reply_that_cannot_be_read_is_not_in_the_error(body: bytes) -> None:
    compiled = plan("benevity_volunteers")
    for decode in (Pages(compiled, "acme-corp"), Records(compiled), Records(compiled).raw):
        with pytest.raises(SourceMisbehaves) as caught:
            decode(body)
        assert "kari" not in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


# --- what a broken record is said to be ----------------------------------------------------------------------------


def changed(name: str, **changes: Any) -> bytes:
    return dumps({**plan(name).stream.example, **changes})


@pytest.mark.parametrize(
    ("name", "changes", "broken"),
    [
        ("benevity_donations", {"id": None}, Broken("sourceId", "missing")),
        ("benevity_donations", {"id": ""}, Broken("sourceId", "missing")),
        ("benevity_donations", {"id": 7}, Broken("sourceId", "type")),
        ("benevity_donations", {"updatedAt": None}, Broken("sourceTimestamp", "missing")),
        ("benevity_donations", {"updatedAt": "0001-01-01T00:00:00Z"}, Broken("sourceTimestamp", "timestamp")),
        ("benevity_donations", {"updatedAt": "9999-12-31T00:00:00Z"}, Broken("sourceTimestamp", "timestamp")),
        ("benevity_donations", {"amount": "abc"}, Broken("amount", "amount")),
        ("benevity_donations", {"amount": None}, Broken("amount", "missing")),
        ("benevity_donations", {"amount": "0.00001"}, Broken("amount", "amount_precision")),
        ("benevity_donations", {"amount": Literal("1234567890123.456")}, Broken("amount", "amount_precision")),
        ("benevity_donations", {"currency": "ZZZ"}, Broken("currency", "currency")),
        ("benevity_donations", {"companyMatch": "yes"}, Broken("companyMatch/matched", "type")),
        ("benevity_volunteers", {"hoursLogged": -1}, Broken("hoursLogged", "greater_than_equal")),
        ("benevity_volunteers", {"activityDate": "0001-01-01"}, Broken("activityDate", "instant")),
        ("goodera_volunteers", {"sdg_goals": [18]}, Broken("sdgGoals", "less_than_equal")),
        ("goodera_volunteers", {"sdg_goals": [1, None]}, Broken("sdgGoals", "number")),
        ("goodera_volunteers", {"impact_metrics": {"kari": Literal("1e400")}}, Broken("impactMetrics", "number")),
        (
            "buddy_checkins",
            {"goal_progress": [{"percentage": 101}]},
            Broken("goalProgress.percentage", "less_than_equal"),
        ),
        ("kintell_enrollments", {"status": "paused"}, Broken("status", "enum")),
        ("buddy_checkins", {"mood": "ecstatic"}, Broken("mood", "enum")),
        ("buddy_checkins", {"goal_progress": [7]}, Broken("goalProgress", "type")),
        ("mentorship_placements", {"sessions": [{}]}, Broken("totalHours", "type")),
    ],
)
def test_a_broken_record_names_field_and_rule(name: str, changes: dict[str, Any], broken: Broken) -> None:
    raw = changed(name, **changes)
    assert mapper(name)(raw) == broken
    assert columns(plan(name)).from_rows(page(plan(name), raw)).refused == [0]


@every_stream
def test_what_is_said_of_a_broken_record_holds_nothing_of_it(name: str) -> None:
    secret = "kari_nordmann"
    sample = dict(plan(name).stream.example)
    for path in paths(sample):
        for value in (secret, [secret], {secret: secret}, [{secret: secret}], {secret: Literal("1e400")}):
            said = mapper(name)(dumps(mutated(copy.deepcopy(sample), path, "replace", value)))
            assert isinstance(said, Accepted) or secret not in f"{said!r}{vars(said)}"


@pytest.mark.parametrize("raw", [b"null", b"[]", b"7", b'"text"', b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_record_is_broken(raw: bytes) -> None:
    said = mapper("goodera_donations")(raw)
    assert isinstance(said, Broken)
    assert said.field == "record"
    assert mapper("goodera_donations").timestamp_ns(raw) is None


def test_unlisted_values_become_other_and_are_counted() -> None:
    said = mapper("benevity_volunteers")(changed("benevity_volunteers", activityType="gardening"))
    assert isinstance(said, Accepted)
    assert (said.event.activity_type, said.unlisted) == ("other", 1)


def test_a_timestamp_is_found_in_a_record_that_is_broken_elsewhere() -> None:
    raw = changed("benevity_donations", amount="abc", updatedAt="2024-01-16T08:00:00.000000001Z")
    assert mapper("benevity_donations").timestamp_ns(raw) == 1_705_392_000_000_000_001


# --- slips in a declaration end the import -------------------------------------------------------------------------


def _title(title: str) -> str:
    return title


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mapping": {"no_such_field": "id"}}, "has no"),
        ({"mapping": {}}, "nothing fills the required"),
        ({"person": Person(id="id?")}, "declared twice and differently"),
        ({"person": Person(id=Derived(_title, title="nick?"))}, "takes no None"),
    ],
)
def test_a_slip_in_a_declaration_is_refused(changes: dict[str, Any], message: str) -> None:
    stream = plan("buddy_matches").stream
    mapping = stream.mapping if changes.get("mapping") != {} else {}
    changes = {**changes, "mapping": {**mapping, **changes.get("mapping", {})}}
    with pytest.raises(TypeError, match=message):
        compile_stream(replace(stream, **changes))
