"""Canaries in every personal, free-text and unknown field of all streams: not one is found at rest or in a log."""

from __future__ import annotations

import base64
import copy
import json
import logging
import random
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from teei_ingest.contracts.base import Kind
from teei_ingest.contracts.fields import DataClass
from teei_ingest.mapping.plan import Plan, plan
from teei_ingest.pipeline import collect
from teei_ingest.pipeline.buffer import RowBuffer
from teei_ingest.store.tables import Store
from teei_ingest.streams import all_streams
from teei_ingest_tests.feeding import ACME, Record, Reply, answering, lists, page, put, quarantined, stored
from teei_ingest_tests.running import Home, failures

DAYS = [date(2024, 1, 15), date(2024, 1, 16)]
STREAMS = sorted(all_streams())
Path_ = tuple[str, ...]
MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}(T.*)?")


# How canaries begin, so that most files are told to be free of all of them at a glance.
WORD, PHONE, NUMBER, UUID = "zqkwvx", "91827", "918273645", "5ec7e7ab"


@dataclass
class Canaries:
    """Makes values that occur nowhere else, and remembers them."""

    dice: random.Random
    all: set[str] = field(default_factory=set)

    def word(self) -> str:
        made = WORD + "".join(self.dice.choices("bcdfghjklmnpqrstvwxz", k=9))
        self.all.add(made)
        return made

    def email(self) -> str:
        return f"{self.word()}@{self.word()}.example"

    def phone(self) -> str:
        digits = f"{PHONE}{self.dice.randrange(10**3):03d}"
        made = f"{digits[:3]} {digits[3:5]} {digits[5:]}"
        self.all |= {made, digits}
        return f"+47 {made}"

    def number(self) -> int:
        made = int(f"{NUMBER}{self.dice.randrange(10**6):06d}")
        self.all.add(str(made))
        return made

    def name(self) -> str:
        return f"{self.word().title()} {self.word().title()}"

    def uuid(self) -> str:
        made = uuid.UUID(f"{UUID}{self.dice.getrandbits(96):024x}")
        self.all |= {str(made), made.hex}
        return str(made)

    def like(self, value: str) -> str:
        """A canary of the kind of a value."""
        if "@" in value:
            return self.email()
        if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", value):
            return self.uuid()
        return self.phone() if value.startswith("+") else f"Said {self.word()} of {self.email()}, {self.phone()}"


def classes(compiled: Plan, path: Path_) -> set[DataClass | None]:
    """The classes that a wire value feeds; None where it only helps to know people, empty where nothing reads it."""
    found: set[DataClass | None] = set()
    for one in compiled.fields:
        for slot in one.slots:
            if path[: len(slot.keys)] == slot.keys and slot.type is not object:
                inside = [leaf for leaf in one.leaf.nested if leaf.names[-1] == path[-1]]
                found |= {leaf.cls for leaf in inside or ([] if one.leaf.nested else [one.leaf])}
    people = [slot for each in (compiled.person_id, compiled.person_email) if each for slot in each.slots]
    if any(path[: len(slot.keys)] == slot.keys for slot in (*people, *compiled.names)):
        found.add(None)
    return found


# What a computed value may take from these lists; anything else in them has to go.
READ = {("addresses", "type"), ("addresses", "locality"), ("addresses", "country")}
OPEN = {DataClass.PUBLIC, DataClass.SENSITIVE}


def planted(stream: str, canaries: Canaries) -> Record:
    """The stream's example with a canary wherever nothing may stay, labels with canaries in them, unknown fields."""
    compiled = plan(stream)
    names = [canaries.name() for _ in compiled.names]
    record: Record = copy.deepcopy(dict(compiled.stream.example))

    def value(path: Path_, old: Any) -> Any:
        if isinstance(old, dict):
            made = {key: value((*path, key), inner) for key, inner in old.items()}
            return {**made, canaries.word(): canaries.word(), "extra": {"deep": [canaries.email(), canaries.number()]}}
        if isinstance(old, list):
            return [value(path, inner) for inner in old]
        slots = [slot.keys for slot in compiled.names]
        if path in slots:
            return names[slots.index(path)]
        if not isinstance(old, str) or MOMENT.fullmatch(old) or path == compiled.source_id.keys:
            return old
        found = classes(compiled, path)
        if DataClass.LABEL in found:
            return " ".join([old, canaries.email(), canaries.phone(), *names])
        if found & OPEN and (path[0] != "addresses" or path in READ):
            return old
        return canaries.like(old)

    made = dict(value((), record))
    for slot, name in zip(compiled.names, names, strict=True):
        put(made, slot.path, name)
    return made


def variants(stream: str, canaries: Canaries, day: date) -> list[Record]:
    """Good records and one of each sort that does not become a row, in the order of their timestamps."""
    declared, compiled = all_streams()[stream], plan(stream)

    def one(number: int, **changes: Any) -> Record:
        made = planted(stream, canaries)
        put(made, declared.source_id, f"{stream}-{day}-{number}")
        put(made, declared.source_timestamp, f"{day}T10:00:{number:02d}Z")
        for path, changed in changes.items():
            put(made, path, changed)
        return made

    undated, odd, named = one(0), one(1), one(2)
    put(undated, declared.source_timestamp, canaries.word())
    put(odd, declared.source_id, {canaries.word(): canaries.word()})
    put(named, declared.source_id, canaries.email())
    leaky = one(3)
    readable = [
        slot.keys
        for each in compiled.fields
        for slot in each.slots
        if each.leaf.cls is DataClass.PUBLIC and each.leaf.kind is Kind.TEXT and isinstance(each.source, str)
    ]
    for keys in [keys for keys in readable if keys != compiled.source_id.keys][:1]:
        put(leaky, "/".join(keys), f"Ask {canaries.email()}")
    conflicting = [] if stream == "workday_directory" else [one(4), one(4)]
    return [undated, odd, named, leaky, *conflicting, *(one(number) for number in range(5, 9))]


# --- looking for them --------------------------------------------------------------------------------------------


@cache
def forms(canary: str) -> set[bytes]:
    """How a text may lie in a file."""
    raw = canary.encode()
    found = {
        raw,
        raw.hex().encode(),
        quote(canary, safe="").encode(),
        canary.encode("utf-16-le"),
        canary.encode("utf-16-be"),
    }
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            # Without the characters that also depend on what stands before and behind.
            coded = encode(b"\0" * shift + raw).rstrip(b"=")
            start = -(-shift * 8 // 6)
            found.add(coded[start : (shift + len(raw)) * 8 // 6])
    return found


def texts(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below as it is, and what is in a Parquet file."""
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        yield f"name of {name}", name.encode()
        if file.is_file():
            yield name, file.read_bytes()
            if file.suffix == ".parquet":
                rows = pq.read_table(file)
                yield f"rows of {name}", json.dumps(rows.to_pylist(), default=str, ensure_ascii=False).encode()


def traces(sources: Iterable[tuple[str, bytes]], canaries: Iterable[str]) -> list[tuple[str, str]]:
    """(source, canary) of every canary that is found, whatever its case."""

    def holds(content: bytes, folded: bytes, canary: str) -> bool:
        return canary.encode() in folded or any(shape in content for shape in forms(canary))

    found = []
    for name, content in sources:
        folded = content.lower()
        if any(holds(content, folded, begin) for begin in (WORD, PHONE, f"{PHONE[:3]} {PHONE[3:]}", NUMBER, UUID)):
            found += [(name, canary) for canary in canaries if holds(content, folded, canary)]
    return found


def heard(place: Home) -> Iterator[tuple[str, bytes]]:
    """All that the Dagster instance has recorded, as it would be stored."""
    for run in place.instance.get_runs():
        yield "run", dg.serialize_value(run).encode()
        for entry in place.instance.all_logs(run.run_id):
            yield "event", dg.serialize_value(entry).encode()
            yield "event", str(entry).encode()


@pytest.mark.parametrize(
    "write", ["raw", "upper", "utf-16-le", "base64", "base64 shifted", "hex", "percent", "parquet", "name"]
)
def test_the_search_finds_a_planted_canary(tmp_path: Path, write: str) -> None:
    canaries = Canaries(random.Random(write))
    email = canaries.email()
    raw = f"x{email}y"
    contents = {
        "raw": raw.encode(),
        "upper": raw.upper().encode(),
        "utf-16-le": raw.encode("utf-16-le"),
        "base64": base64.b64encode(email.encode()),
        "base64 shifted": base64.b64encode(f'{{"a":"{email}"}}'.encode()),
        "hex": raw.encode().hex().encode(),
        "percent": quote(raw).encode(),
        "name": b"",
    }
    if write == "parquet":
        pq.write_table(pa.table({"a": [{"b": [raw] * 1000}]}), tmp_path / "x.parquet", compression="zstd")
    else:
        (tmp_path / (email if write == "name" else "file")).write_bytes(contents[write])
    assert {canary for _, canary in traces(texts(tmp_path), canaries.all)} == canaries.all
    assert traces(texts(tmp_path), {Canaries(random.Random("another")).word()}) == []


def test_canaries_are_planted_where_nothing_may_stay() -> None:
    """The planting itself: known fields of the wire bear a canary, and what is kept does not."""
    canaries = Canaries(random.Random(1))
    made = {stream: planted(stream, canaries) for stream in STREAMS}
    everything = {canary for canary in canaries.all if canary in json.dumps(made).lower()}
    assert len(everything) > 250
    user = made["workday_directory"]

    def bears(value: Any) -> bool:
        return any(canary in json.dumps(value).lower() for canary in canaries.all)

    for path in ("userName", "displayName", "name", "emails", "phoneNumbers", "title", "externalId"):
        assert bears(user[path]), path
    enterprise = user["urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"]
    assert bears(enterprise["manager"]["value"])
    assert bears(enterprise["employeeNumber"])
    assert not bears(enterprise["department"])
    volunteer = made["benevity_volunteers"]
    for path in ("userId", "userEmail", "userName", "activityDescription", "verifiedBy", "activityName", "tags"):
        assert bears(volunteer[path]), path
    assert not bears([volunteer["nonprofitId"], volunteer["activityType"], volunteer["location"]["city"]])
    for stream, path in (
        ("kintell_sessions", "tutor_name"),
        ("kintell_sessions", "notes"),
        ("buddy_events", "attendees"),
        ("buddy_checkins", "goal_progress"),
        ("mentorship_placements", "feedback"),
        ("mentorship_placements", "sessions"),
        ("benevity_donations", "receiptNumber"),
    ):
        assert bears(made[stream][path]), (stream, path)


class Spilling(RowBuffer):
    """Goes to disk at once."""

    def __init__(self, schema: pa.Schema, folder: Path) -> None:
        super().__init__(schema, folder, 3)


def test_no_canary_is_found(
    home: Callable[..., Home],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    canaries = Canaries(random.Random(20240115))
    data = {stream: [one for day in DAYS for one in variants(stream, canaries, day)] for stream in STREAMS}
    for stream, records in data.items():  # a source without an end sends what has no time first
        undated = [one for number, one in enumerate(records) if number % (len(records) // 2) == 0]
        data[stream] = [*undated, *(one for one in records if one not in undated)]
    monkeypatch.setattr(collect, "RowBuffer", Spilling)
    monkeypatch.setattr(collect, "BATCH_ROWS", 4)
    logs: list[tuple[str, bytes]] = []

    def search(place: Home, moment: str) -> None:
        said, complained = capfd.readouterr()
        logs.extend([("stdout", said.encode()), ("stderr", complained.encode()), ("logging", caplog.text.encode())])
        found = traces([*texts(place.path), *heard(place), *logs], canaries.all)
        assert found == [], f"{moment}: {found[:10]}"

    with answering(lists(data)) as server:
        place = home({ACME.slug: ACME.id}, server.environment())

        result = place.materialize(ACME.slug, DAYS[0], DAYS[1])
        assert result.success, failures(result)
        for stream in STREAMS:
            assert len(stored(place, stream)) >= 9, stream
            entries = [entry for day in DAYS for entry in quarantined(place, stream, day)]
            rules = {entry.rule for entry in entries}
            assert {"timestamp", "type"} <= rules
            assert stream == "workday_directory" or "conflicting_versions" in rules
            assert traces([("entry", entries[0].record)], canaries.all)
        leaks = [e.reason for s in STREAMS for day in DAYS for e in quarantined(place, s, day) if e.reason == "leak"]
        assert len(leaks) >= 12
        search(place, "both")

        assert place.materialize(ACME.slug, DAYS[0], DAYS[0], assets="stream").success
        assert len(list((place.settings.home / "landing").glob("*/*/*.sealed"))) == len(STREAMS)
        search(place, "streams alone")
        assert place.materialize(ACME.slug, DAYS[0], DAYS[0], assets="events").success
        search(place, "events from the landing")

        words = json.dumps({"error": canaries.email(), "message": canaries.name()}).encode()
        faults: Sequence[Reply] = [
            Reply(words, 500),
            Reply(b"<html>" + words, headers={"Content-Type": "text/html"}),
            Reply(words[:-9]),
            Reply(words),
        ]
        for fault in faults:
            server.answer = (
                lambda ask, fault=fault: (  # type: ignore[misc]
                    Reply(page(ask.stream, data[ask.stream][2:4], following="c")) if ask.is_first else fault
                )
            )
            assert not place.materialize(ACME.slug, DAYS[0], DAYS[0]).success
        search(place, "faults")

        server.answer = lists(data)

        def refuse(self: Store, *args: Any) -> int:
            raise RuntimeError(f"cannot write {args[-1]().read_all().to_pylist()} of {sorted(canaries.all)}")

        monkeypatch.setattr(Store, "_overwrite", refuse)
        assert not place.materialize(ACME.slug, DAYS[0], DAYS[0]).success
        search(place, "an error that shows everything")
