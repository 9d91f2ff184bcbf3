"""A day that did not change is not written again, and is materialized all the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from deltalake import DeltaTable

from teei_ingest.contracts.base import Kind, leaves
from teei_ingest.contracts.fields import DataClass
from teei_ingest.mapping.plan import parse
from teei_ingest.store import changes, open_store
from teei_ingest.store.tables import Store
from teei_ingest.streams import all_streams
from teei_ingest_tests.feeding import (
    ACME,
    Answering,
    Record,
    contract_of,
    declared,
    lists,
    put,
    stored,
    worker,
)
from teei_ingest_tests.feeding import record as of
from teei_ingest_tests.running import Home
from teei_ingest_tests.second_opinion.data import generate
from teei_ingest_tests.second_opinion.server import Server

DAYS = [date(2024, 1, 15) + timedelta(number) for number in range(3)]
STREAMS = sorted(all_streams())


@pytest.fixture
def place(home: Callable[..., Home], server: Answering) -> Home:
    server.answer = lists({})
    return home({ACME.slug: ACME.id}, server.environment())


def version(place: Home, stream: str) -> int:
    return open_store(place.settings).versions()[contract_of(stream).table]


def written(place: Home, stream: str) -> str:
    """What the last commit to the stream's table replaced."""
    table = DeltaTable(f"{place.settings.store_uri}/{contract_of(stream).table}")
    return str(table.history(1)[0]["operationParameters"]["predicate"])


def test_what_did_not_change_is_not_written_again(place: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the source orders and spells it, and however many rows are compared at once."""
    world = generate(seed=3, companies=[ACME], first=DAYS[0], last=DAYS[-1], per_day=4)
    with Server(world.records, [ACME], seed=1) as one, Server(world.records, [ACME], seed=2) as two:
        first, second = (replace(place, environ={**place.environ, **at.environment()}) for at in (one, two))
        for stream in STREAMS:
            made = worker(first, stream).both(DAYS).good
            assert [partition.unchanged for partition in made] == [False] * 3, stream
        before = {stream: (version(place, stream), stored(place, stream)) for stream in STREAMS}
        compared: list[int] = []
        own = Store.rows

        def rows(self: Store, *given: Any, **options: Any) -> pa.Table:
            if "columns" not in options:
                compared.append(len(options["days"]))
            return own(self, *given, **options)

        for number, stream in enumerate(STREAMS):
            two = sum(len(stored(place, stream, day=day)) for day in DAYS[:2])
            most, portions = ((150_000, [3]), (two, [2, 1]), (1, [1, 1, 1]))[number % 3]
            monkeypatch.setattr(changes, "COMPARED_ROWS", most)
            with monkeypatch.context() as patched:
                patched.setattr(Store, "rows", rows)
                made = worker(second, stream, page_size=7).both(DAYS).good
            assert [partition.unchanged for partition in made] == [True] * 3, stream
            assert compared == portions, stream
            compared.clear()
            assert [(partition.carried, partition.late) for partition in made] == [(0, 0)] * 3
        assert {stream: (version(place, stream), stored(place, stream)) for stream in STREAMS} == before


def changed(stream: str, one: Record) -> Record:
    """The record with another value in a field that is kept as it is."""
    made, data = declared(stream), json.loads(json.dumps(one))
    own = {made.source_id, made.source_timestamp}
    for leaf in leaves(made.contract):
        path = made.mapping.get(leaf.key)
        fit = leaf.kind is Kind.INSTANT or (leaf.kind is Kind.TEXT and not leaf.enum and leaf.key != "currency")
        if fit and leaf.cls is DataClass.PUBLIC and not leaf.many and isinstance(path, str) and path not in own:
            put(data, "/".join(parse(path)[0]), "2023-03-03T00:00:00Z")
            return dict(data)
    raise AssertionError(f"{stream} has no such field")


@pytest.mark.parametrize("stream", STREAMS)
def test_only_the_day_that_changed_is_written(place: Home, server: Answering, stream: str) -> None:
    records = [of(stream, f"{day}-{n}", f"{day}T10:00:0{n}Z") for day in DAYS for n in range(3)]
    server.answer = lists({stream: records})
    worker(place, stream).both(DAYS)
    before = {day: stored(place, stream, day=day) for day in DAYS}
    at = version(place, stream)
    server.answer = lists({stream: [changed(stream, one) if n == 4 else one for n, one in enumerate(records)]})

    made = worker(place, stream).both(DAYS).good

    assert [(one.day, one.unchanged, one.kept) for one in made] == [
        (DAYS[0], True, 3),
        (DAYS[1], False, 3),
        (DAYS[2], True, 3),
    ]
    assert version(place, stream) == at + 1
    (replaced,) = {day for day in DAYS if f"{day}" in written(place, stream)}
    assert replaced == DAYS[1]
    after = {day: stored(place, stream, day=day) for day in DAYS}
    assert (after[DAYS[0]], after[DAYS[2]]) == (before[DAYS[0]], before[DAYS[2]])
    assert sum(one != other for one, other in zip(after[DAYS[1]], before[DAYS[1]], strict=True)) == 1


@pytest.mark.parametrize("stream", ["benevity_volunteers", "workday_directory", "mentorship_placements"])
def test_another_policy_writes_again(place: Home, server: Answering, stream: str) -> None:
    server.answer = lists({stream: [of(stream, f"{day}", f"{day}T10:00:00Z") for day in DAYS]})
    worker(place, stream).both(DAYS)
    before = stored(place, stream)
    file = Path(place.environ["TEEI_COMPANIES"])
    companies = yaml.safe_load(file.read_text())
    companies["companies"][0]["privacy"] = {"person_ref": "hash"}
    file.write_text(yaml.safe_dump(companies))

    assert [one.unchanged for one in worker(place, stream).both(DAYS).good] == [False] * 3
    assert stored(place, stream) != before
    assert [one.unchanged for one in worker(place, stream).both(DAYS).good] == [True] * 3


def test_an_unchanged_day_is_materialized_all_the_same(place: Home, server: Answering) -> None:
    stream = "buddy_matches"
    server.answer = lists({stream: [of(stream, "m", f"{DAYS[0]}T10:00:00Z")]})
    found = []
    for _ in range(2):
        result = place.materialize(ACME.slug, DAYS[0], DAYS[1], [stream])
        assert result.success
        found.append(place.metadata(result, f"{stream}_events"))
    assert [one[f"{ACME.slug}|{DAYS[0]}"]["unchanged"] for one in found] == [False, True]
    assert [one[f"{ACME.slug}|{DAYS[1]}"]["unchanged"] for one in found] == [True, True], "nothing, and nothing before"
