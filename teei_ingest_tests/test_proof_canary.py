"""The short form of `make canary`: the search finds what is planted, canaries are everywhere, and none is left behind.

The whole is run in this process, so that it can be looked at between any two steps; the commands are the long form's.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from teei_ingest.mapping.plan import plan
from teei_ingest.pipeline import collect
from teei_ingest.pipeline.buffer import RowBuffer
from teei_ingest.redact import text
from teei_ingest.store.tables import Store
from teei_ingest.streams import all_streams
from teei_ingest_tests.feeding import ACME, Ask, Reply, answering, lists, quarantined, stored
from teei_ingest_tests.proof.canary import SecretCompany
from teei_ingest_tests.proof.faulty import faults
from teei_ingest_tests.proof.leaks import planted
from teei_ingest_tests.proof.planting import (
    LABEL,
    PERSON,
    SECRET,
    STREAMS,
    WORKDAY,
    Canaries,
    legal,
    present,
    timestamp,
    world,
)
from teei_ingest_tests.proof.search import Search, files
from teei_ingest_tests.running import Home, failures

DAYS = (date(2024, 1, 15), date(2024, 1, 16))


def drawn(count: int) -> Canaries:
    canaries = Canaries()
    for _ in range(count):
        canaries.name(PERSON)
        canaries.email(PERSON)
    return canaries


def found(search: Search, places: Iterable[tuple[str, bytes]]) -> dict[str, str]:
    return {hit.text: hit.place for name, data in places for hit in search(name, data)}


def test_the_search_finds_a_leak_of_every_place_and_form(tmp_path: Path) -> None:
    canaries, others = drawn(200), drawn(200)
    for name in ("home/events/volunteer_events", "home/quarantine", "tmp", "output", "docs"):
        (tmp_path / name).mkdir(parents=True)
    search = Search(canaries.cores())
    assert found(search, files(tmp_path)) == {}
    with planted(tmp_path, canaries.cores()) as leaks:
        assert len(leaks) == 25
        hits = found(search, files(tmp_path))
        missed = [what for leaked, what in leaks.items() if leaked not in hits]
        assert missed == []
        assert set(hits) == set(leaks)
        assert found(Search(others.cores()), files(tmp_path)) == {}


def test_digits_count_only_as_a_whole() -> None:
    search = Search(["918273645546"])
    assert search("", b"tel:918273645546.") and search("", b"918273645546")
    assert not search("", b"1918273645546") and not search("", b"9182736455460")


def test_a_border_between_pieces_hides_nothing() -> None:
    canary = "skrobudaly"
    for at in ((1 << 22) - 15, (1 << 22) - 5, (1 << 22) - 1, 1 << 22):
        assert Search([canary])("", bytes(at) + canary.encode() + bytes(9)), at


def test_canaries_are_sent_wherever_nothing_may_stay() -> None:
    canaries = Canaries()
    sent = world(canaries, ["acme-corp"], DAYS, legal_each=5)
    assert sent.legal["acme-corp"] >= 0.8 * (sent.legal["acme-corp"] + sent.broken["acme-corp"])
    on_the_wire = json.dumps(list(sent.records.values()), ensure_ascii=False)
    assert [value for value in canaries.all if json.dumps(value, ensure_ascii=False)[1:-1] not in on_the_wire] == []
    assert len({one.why for one in canaries.all.values()}) >= 9
    assert min(len(core.encode()) for core in canaries.cores()) >= 8


@pytest.mark.parametrize("stream", STREAMS)
def test_records_have_every_value_that_the_product_reads(stream: str) -> None:
    """So a field that a stream begins to read has to be given a canary, or a reason to stay readable."""
    records = [legal(Canaries(), stream, "1", "2024-01-15T10:00:00Z") for _ in range(20)]
    record = next(one for one in records if stream != "workday_directory" or WORKDAY in one)
    compiled = plan(stream)
    slots = [slot for one in compiled.fields for slot in one.slots] + list(compiled.names)
    missing = [slot.path for slot in slots if not present(record, slot.keys)]
    assert missing == []
    assert present(record, timestamp(stream)) and set(STREAMS) == set(all_streams())


def test_identifiers_in_labels_are_what_patterns_promise_to_find() -> None:
    canaries = Canaries()
    for _ in range(300):
        canaries.identifier(LABEL)
    assert [value for value in canaries.all if not text.kinds(f"Ask {value} first")] == []


class Spilling(RowBuffer):
    """Goes to disk at once."""

    def __init__(self, schema: pa.Schema, folder: Path) -> None:
        super().__init__(schema, folder, 3)


def heard(place: Home) -> Iterator[tuple[str, bytes]]:
    """All that the Dagster instance has recorded, as it would be stored."""
    for run in place.instance.get_runs():
        yield "run", dg.serialize_value(run).encode()
        for entry in place.instance.all_logs(run.run_id):
            yield "event", dg.serialize_value(entry).encode()
            yield "event", str(entry).encode()


def test_no_canary_is_found(
    home: Callable[..., Home],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(collect, "RowBuffer", Spilling)
    canaries = Canaries()
    sent = world(canaries, [ACME.slug], DAYS, legal_each=3)
    data = {stream: in_order(stream, sent.records[ACME.slug, stream]) for stream in STREAMS}
    company = SecretCompany(ACME.slug, ACME.id, canaries.plant(secrets.token_hex(16), SECRET))
    ways = list(faults(canaries).values())
    left: list[tuple[str, bytes]] = []

    def look(place: Home, moment: str) -> None:
        """Everything that there is at a moment, to be searched at the end."""
        said, complained = capfd.readouterr()
        logs = [("stdout", said.encode()), ("stderr", complained.encode()), ("logging", caplog.text.encode())]
        left.extend((f"{moment}: {name}", data) for name, data in (*files(place.path), *heard(place), *logs))

    with answering(lists(data)) as server:
        hurried = {"TEEI_MAX_RETRIES": "1", "TEEI_RETRY_WAIT_LIMIT_S": "1"}
        place = home({company.slug: company.id}, server.environment([company]) | hurried)
        result = place.materialize(company.slug, *DAYS)
        assert result.success, failures(result)
        assert sum(len(stored(place, stream)) for stream in STREAMS) == sent.legal[company.slug]
        aside = [entry for stream in STREAMS for day in DAYS for entry in quarantined(place, stream, day)]
        assert len(aside) == sent.broken[company.slug]
        assert {"contract", "leak"} <= {entry.reason for entry in aside}
        look(place, "both")

        assert place.materialize(company.slug, DAYS[0], DAYS[0], assets="stream").success
        assert len(list((place.settings.home / "landing").glob("*/*/*.sealed"))) == len(STREAMS)
        look(place, "streams alone")
        assert place.materialize(company.slug, DAYS[0], DAYS[0], assets="events").success

        for turn in range(2):

            def answer(ask: Ask, turn: int = turn) -> Reply:
                fault = ways[(STREAMS.index(ask.stream) + turn * len(STREAMS)) % len(ways)]
                return fault(ask, data[ask.stream][2:4])

            server.answer = answer
            assert not place.materialize(company.slug, DAYS[0], DAYS[0]).success
        look(place, "faults")

        server.answer = lists(data)

        def refuse(self: Store, *args: Any, **kwargs: Any) -> int:
            raise RuntimeError(f"cannot write {data} of {sorted(canaries.all)}")

        monkeypatch.setattr(Store, "replace", refuse)
        assert not place.materialize(company.slug, DAYS[0], DAYS[0]).success
        look(place, "an error that shows everything")
    hits = found(Search(canaries.cores()), left)
    assert hits == {}, [(canaries.cores()[core], where) for core, where in hits.items()][:10]


def in_order(stream: str, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records as a source without an end sends them: what has no valid time first, then by time."""

    def moment(record: dict[str, Any]) -> str:
        for key in timestamp(stream):
            record = record[key]
        said = str(record)
        return said if said.startswith("2024-") else ""

    return sorted(records, key=moment)
