"""The contracts: every leaf classified, rules at their borders, released schemas never broken."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, ClassVar

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

import teei_ingest.contracts
from teei_ingest.contracts import RELEASED, VolunteerEvent
from teei_ingest.contracts.base import Data, Leaf, Part, leaves
from teei_ingest.contracts.compat import breaking
from teei_ingest.contracts.fields import (
    CURRENCIES,
    FIRST_INSTANT,
    LAST_INSTANT,
    MAX_WHOLE,
    Amount,
    Currency,
    DataClass,
    Day,
    Hours,
    Instant,
    Metrics,
    NonNegative,
    Percentage,
    Rating,
    Sdg,
    instant_ns,
    label,
    parse_day,
)
from teei_ingest.contracts.stored import arrow_schema, json_schema

SCHEMAS = Path(teei_ingest.contracts.__file__).parent / "schemas"
# What the service that this replaces called personal, wherever it appears.
PERSONAL_NAMES = {
    "email", "firstName", "lastName", "displayName", "phoneNumber", "mobilePhone", "homeAddress", "ssn", "taxId",
    "dateOfBirth",
}  # fmt: skip

every_contract = pytest.mark.parametrize("contract", RELEASED, ids=lambda contract: contract.__name__)


class Shoe(Part):
    colour: Annotated[str | None, label("Colour")] = None


class Careful(Data):
    event_type: ClassVar = "careful"
    table: ClassVar = "careful"
    shoes: list[Shoe] | None = None


def every_leaf() -> list[tuple[type[Data], Leaf]]:
    return [(contract, one) for contract in RELEASED for leaf in leaves(contract) for one in leaf.nested or (leaf,)]


# --- classes ---------------------------------------------------------------------------------------------------------


@every_contract
def test_every_leaf_is_described_and_classified(contract: type[Data]) -> None:
    for leaf in (one for of, one in every_leaf() if of is contract):
        extra = leaf.info.json_schema_extra
        assert isinstance(extra, dict), leaf.name
        assert leaf.info.description, leaf.name
        cls = DataClass(str(extra["x-personal-data"]))
        assert (cls is DataClass.PUBLIC) == ("reason" in leaf.extra), leaf.name
        assert (cls is DataClass.DIRECT) == ("kind" in leaf.extra), leaf.name


def test_a_field_without_a_class_ends_the_import() -> None:
    with pytest.raises(TypeError, match=r"Careless\.shoe_size has no personal-data class"):

        class Careless(Data):
            event_type: ClassVar = "careless"
            table: ClassVar = "careless"
            shoe_size: int

    with pytest.raises(TypeError, match=r"Inside\.shoe_size"):

        class Inside(Part):
            shoe_size: Annotated[int | None, "no class"] = None


def test_a_list_of_objects_needs_no_class_of_its_own() -> None:
    (shoes,) = [leaf for leaf in leaves(Careful) if leaf.key == "shoes"]
    assert [leaf.cls for leaf in shoes.nested] == [DataClass.LABEL]


def test_personal_names_are_never_public_or_labels() -> None:
    named = [(leaf.name, leaf.cls) for _, leaf in every_leaf() if leaf.names[-1] in PERSONAL_NAMES]
    assert {name for name, _ in named} == {"email", "firstName", "lastName", "displayName"}
    assert not [item for item in named if item[1] in (DataClass.PUBLIC, DataClass.LABEL)]


@every_contract
def test_a_personal_field_is_a_string_or_null_at_rest(contract: type[Data]) -> None:
    """Neither a date nor a number of a person can be stored as it is."""
    data = json_schema(contract)["properties"]["data"]["properties"]

    def walk(schema: dict[str, Any]) -> None:
        for inner in schema.get("properties", {}).values():
            walk(inner)
        if "items" in schema:
            walk(schema["items"])
        cls = schema.get("x-personal-data")
        if cls not in (None, "public", "sensitive"):
            of = schema.get("items", schema)
            assert of["type"] in ("string", ["string", "null"])
            assert "null" in schema["type"]
        if cls in ("direct", "person_ref", "document_ref"):
            pattern = schema.get("items", schema)["pattern"]
            assert not jsonschema.Draft202012Validator({"pattern": pattern}).is_valid("kari.nordmann@acme.example")

    for schema in data.values():
        walk(schema)


# --- released schemas ------------------------------------------------------------------------------------------------


@every_contract
def test_the_released_schema_is_kept(contract: type[Data]) -> None:
    """Fails on a breaking change; for a harmless one `make docs` writes the file anew."""
    released = json.loads((SCHEMAS / f"{contract.__name__}.v1.json").read_text(encoding="utf-8"))
    assert breaking(released, json_schema(contract)) == []


def test_every_schema_file_belongs_to_a_released_contract() -> None:
    assert {path.name for path in SCHEMAS.iterdir()} == {f"{contract.__name__}.v1.json" for contract in RELEASED}


@every_contract
def test_schemas_are_valid_and_name_the_columns(contract: type[Data]) -> None:
    schema = json_schema(contract)
    jsonschema.Draft202012Validator.check_schema(schema)
    tops = {leaf.path[0]: leaf.names[0] for leaf in leaves(contract)}
    columns = arrow_schema(contract).names
    assert set(tops) <= set(columns)
    assert set(schema["properties"]["data"]["properties"]) == set(tops.values())


def edit(change: Callable[[dict[str, Any]], Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of VolunteerEvent before and after a change of its `data`."""
    old = json_schema(VolunteerEvent)
    new = copy.deepcopy(old)
    change(new["properties"]["data"])
    return old, new


def field(data: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = data["properties"][name]
    return found


BREAKING: dict[str, Callable[[dict[str, Any]], Any]] = {
    "removed": lambda data: data["properties"].pop("hoursLogged"),
    "removed inside": lambda data: field(data, "location")["properties"].pop("city"),
    "renamed": lambda data: data["properties"].update(hours=data["properties"].pop("hoursLogged")),
    "narrowed type": lambda data: field(data, "hoursLogged").update(type="integer"),
    "no longer nullable": lambda data: field(data, "verified").update(type="boolean"),
    "newly nullable": lambda data: field(data, "hoursLogged").update(type=["number", "null"]),
    "a list no more": lambda data: data["properties"].update(tags={"type": ["string", "null"]}),
    "items of another type": lambda data: field(data, "sdgGoals")["items"].update(type="string"),
    "narrowed enum": lambda data: field(data, "activityType")["enum"].remove("pro_bono"),
    "new enum": lambda data: field(data, "activityName").update(enum=["a", None]),
    "new pattern": lambda data: field(data, "activityName").update(pattern="^[a-z]+$"),
    "pattern gone": lambda data: field(data, "userId").pop("pattern"),
    "format gone": lambda data: field(data, "activityDate").pop("format"),
    "higher minimum": lambda data: field(data, "hoursLogged").update(minimum=1),
    "new maximum": lambda data: field(data, "hoursLogged").update(maximum=24),
    "new and required": lambda data: (
        data["properties"].update(extra={"type": "string"}),
        data["required"].append("extra"),
    ),
    "no longer required": lambda data: data["required"].remove("hoursLogged"),
    "less protected": lambda data: field(data, "activityName").update({"x-personal-data": "public"}),
    "map of another type": lambda data: field(data, "impactMetrics")["additionalProperties"].update(type="string"),
    "open object": lambda data: data.update(additionalProperties=True),
}
HARMLESS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "nothing": lambda data: None,
    "description": lambda data: field(data, "hoursLogged").update(description="How long"),
    "unit": lambda data: field(data, "hoursLogged").update({"x-unit": "h"}),
    "wider enum": lambda data: field(data, "activityType")["enum"].append("mentoring"),
    "lower minimum": lambda data: field(data, "hoursLogged").update(minimum=-1),
    "no minimum": lambda data: field(data, "hoursLogged").pop("minimum"),
    "new and nullable": lambda data: (
        data["properties"].update(extra={"type": ["string", "null"]}),
        data["required"].append("extra"),
    ),
    "other order": lambda data: data["required"].reverse(),
}


@pytest.mark.parametrize("change", BREAKING.values(), ids=BREAKING)
def test_breaking_changes_are_found(change: Callable[[dict[str, Any]], Any]) -> None:
    found = breaking(*edit(change))
    assert found
    assert all(line.startswith("event.data") for line in found)


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_harmless_changes_are_let_through(change: Callable[[dict[str, Any]], Any]) -> None:
    assert breaking(*edit(change)) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda schema: schema["properties"]["type"].update(const="ingest.volunteer.made"),
        lambda schema: schema["properties"]["version"].update(const="v2"),
        lambda schema: schema["properties"].pop("correlationId"),
        lambda schema: schema["required"].append("correlationId"),
    ],
)
def test_breaking_changes_of_the_envelope_are_found(change: Callable[[dict[str, Any]], Any]) -> None:
    new = copy.deepcopy(json_schema(VolunteerEvent))
    change(new)
    assert breaking(json_schema(VolunteerEvent), new)


# --- rules of fields at their borders --------------------------------------------------------------------------------


def accepts(kind: Any, value: Any) -> bool:
    try:
        TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def read(kind: Any, value: Any) -> Any:
    return TypeAdapter(kind).validate_python(value, strict=True)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-01-15", datetime(2024, 1, 15, tzinfo=UTC)),
        ("2024-01-15T10:00:00Z", datetime(2024, 1, 15, 10, tzinfo=UTC)),
        ("2024-01-15t10:00:00z", datetime(2024, 1, 15, 10, tzinfo=UTC)),
        ("2024-01-15 10:00:00Z", datetime(2024, 1, 15, 10, tzinfo=UTC)),
        ("2024-01-15T10:00:00+01:00", datetime(2024, 1, 15, 9, tzinfo=UTC)),
        ("2024-01-15T00:30:00+05:45", datetime(2024, 1, 14, 18, 45, tzinfo=UTC)),
        ("2024-01-15T10:00:00-23:59", datetime(2024, 1, 16, 9, 59, tzinfo=UTC)),
        ("2024-01-15T10:00:00.5Z", datetime(2024, 1, 15, 10, 0, 0, 500_000, tzinfo=UTC)),
        ("2024-01-15T10:00:00.123456789Z", datetime(2024, 1, 15, 10, 0, 0, 123_456, tzinfo=UTC)),
        ("1900-01-01T00:00:00Z", FIRST_INSTANT),
        ("2199-12-31T23:59:59.999999999Z", LAST_INSTANT - timedelta(microseconds=1)),
        ("2024-02-29T23:59:59Z", datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_instants(text: str, moment: datetime) -> None:
    assert read(Instant, text) == moment


@pytest.mark.parametrize(
    "value",
    [
        "", "2024", "2024-01", "2024-1-5", "20240115", "2024-01-15T10:00", "2024-01-15T10:00:00",
        "2024-01-15T10:00:00.Z", "2024-01-15T10:00:00.1234567890Z", "2024-01-15T10:00:00,5Z", "2024-01-15T24:00:00Z",
        "2024-01-15T10:00:60Z", "2024-01-15T10:60:00Z", "2024-02-30", "2023-02-29T00:00:00Z",
        "2024-01-15T10:00:00+24:00", "2024-01-15T10:00:00+0100", "2024-01-15T10:00:00 Z", " 2024-01-15", "2024-01-15\n",
        "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "0000-01-01", "1899-12-31T23:59:59.999999999Z",
        "1900-01-01T00:00:00+00:01", "2200-01-01T00:00:00Z", "2199-12-31T23:59:59-00:01", "٢٠٢٤-01-15",
        1_705_312_800, 1.5, True, None, ["2024-01-15"], datetime(2024, 1, 15),
    ],
)  # fmt: skip
def test_what_is_no_instant(value: Any) -> None:
    assert not accepts(Instant, value)


@given(
    moment=st.datetimes(datetime(1900, 1, 2), datetime(2199, 12, 30)),
    minutes=st.integers(-23 * 60 - 59, 23 * 60 + 59),
    digits=st.text("0123456789", max_size=9),
)
def test_instants_keep_every_digit(moment: datetime, minutes: int, digits: str) -> None:
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    local = moment + timedelta(minutes=minutes)
    zone = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
    text = f"{local:%Y-%m-%dT%H:%M:%S}{f'.{digits}' if digits else ''}{zone}"
    assert instant_ns(text) == int(moment.timestamp()) * 10**9 + int(digits.ljust(9, "0"))
    assert read(Instant, text) == moment + timedelta(microseconds=int(digits.ljust(9, "0")) // 1000)


def test_days() -> None:
    assert read(Day, "2024-02-29") == date(2024, 2, 29)
    assert read(Day, "2024-01-15T23:30:00-01:00") == date(2024, 1, 16)
    assert read(Day, "0001-01-01") == date(1, 1, 1)
    for value in ("2023-02-29", "15.01.2024", "2024-01-15T10:00:00", "", 20240115, None, datetime(2024, 1, 15)):
        assert not accepts(Day, value)


@pytest.mark.parametrize(
    ("value", "amount"),
    [
        ("0", "0"), ("250.00", "250"), ("0.0001", "0.0001"), ("0250.50", "250.5"),
        ("99999999999999.9999", "99999999999999.9999"), (0, "0"), (250, "250"), (Decimal("99.9"), "99.9"),
        (99_999_999_999_999, "99999999999999"), (Decimal("12345678901.1234"), "12345678901.1234"),
    ],
)  # fmt: skip
def test_amounts_are_exact(value: Any, amount: str) -> None:
    assert read(Amount, value) == Decimal(amount)
    assert read(Amount, value).as_tuple().exponent == -4


@pytest.mark.parametrize(
    "value",
    [
        "", "abc", "1,000", "1e3", " 1", "+1", "-1", ".5", "5.", "0.00001", "100000000000000", "NaN", "Infinity", "٣",
        "0x10", -1, 100_000_000_000_000, Decimal("-0.0001"), Decimal("123456789012.3456"), Decimal("0.00001"),
        Decimal("NaN"), Decimal("Infinity"), Decimal("1E+20"), 99.9, True, None, [],
    ],
)  # fmt: skip
def test_what_is_no_amount(value: Any) -> None:
    assert not accepts(Amount, value)


@given(st.decimals(0, Decimal("99999999999999.9999"), places=4))
def test_any_amount_with_four_decimals_is_kept(value: Decimal) -> None:
    assert read(Amount, f"{value:f}") == value


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Sdg, [1, 17, 5.0], [0, 18, -1, 1.5, True, "4", None]),
        (Rating, [1, 5], [0, 6, "5", True]),
        (Percentage, [0, 100, 99.9], [-0.1, 100.1, float("nan"), float("inf"), True, "50"]),
        (NonNegative, [0, 0.25, MAX_WHOLE, 1e300], [-1, -0.001, 10**400, float("nan"), True, "3", [], None]),
        (Hours, [Decimal("0"), Decimal("99999.9999")], [Decimal("-1"), Decimal("100000"), Decimal("0.00001"), 1.5]),
        (Currency, ["NOK", "USD", "XXX"], ["nok", "ZZZ", "", "NO", None, 578]),
    ],
)  # fmt: skip
def test_numbers_and_codes_at_their_borders(kind: Any, good: list[Any], bad: list[Any]) -> None:
    assert [value for value in good if not accepts(kind, value)] == []
    assert [value for value in bad if accepts(kind, value)] == []


def test_currencies_look_like_codes() -> None:
    assert len(CURRENCIES) > 150
    assert all(len(code) == 3 and code.isascii() and code.isupper() for code in CURRENCIES)


def test_open_maps_keep_harmless_keys_with_numbers() -> None:
    given = {"trees": 4, "kg_waste": 1.5, "Kari": 1, "a b": 1, "x" * 41: 1, "note": "text", "flag": True, "none": None}
    assert read(Metrics, given) == {"trees": 4.0, "kg_waste": 1.5}
    assert read(Metrics, {}) == {}
    assert not accepts(Metrics, [1])
    assert not accepts(Metrics, {"trees": float("inf")})


def test_a_refused_value_is_not_in_the_error() -> None:
    secret = "kari.nordmann@acme.example"
    for kind in (Instant, Day, Amount, Currency, NonNegative, Sdg):
        with pytest.raises(ValidationError) as caught:
            read(kind, secret)
        shown = caught.value.errors(include_input=False, include_url=False, include_context=False)
        assert secret not in f"{shown}"


@pytest.mark.parametrize(("read_as", "value"), [(instant_ns, "2024-02-30T09:00:00Z"), (parse_day, "2024-02-30")])
def test_a_refused_time_is_not_in_the_cause(read_as: Callable[[str], object], value: str) -> None:
    with pytest.raises(ValueError, match="no such day") as caught:
        read_as(value)
    assert value not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_refused_event_is_not_in_the_error() -> None:
    with pytest.raises(ValidationError) as caught:
        VolunteerEvent.model_validate({"source_id": "kari.nordmann@acme.example"})
    assert "nordmann" not in str(caught.value)
