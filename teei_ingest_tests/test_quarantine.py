"""`teei quarantine`: what broke its contract is counted, shown, brought in once that is mended, or discarded."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from teei_ingest.cli.app import run
from teei_ingest.companies import load_companies
from teei_ingest.definitions import defs
from teei_ingest.defs import requeue
from teei_ingest.defs.partitions import key
from teei_ingest.landing.landing import day_file
from teei_ingest.landing.quarantine import Quarantine
from teei_ingest.landing.sealed import write_sealed
from teei_ingest.mapping.plan import compile_stream, plan
from teei_ingest.settings import Settings
from teei_ingest.store import open_store
from teei_ingest.store.tables import Store
from teei_ingest.streams import all_streams
from teei_ingest.streams.base import Cursor, PageNumber, Stream
from teei_ingest.vault.keys import KeyRing
from teei_ingest_tests.conftest import MASTER_KEY
from teei_ingest_tests.dagster_parts import check_statuses, dagster_home, instance_in
from teei_ingest_tests.feeding import ABSENT, ACME, Answering, Record, answering, lists, record

DAY, NEXT = date(2024, 1, 15), date(2024, 1, 16)
KINTELL = "kintell_sessions"
FIGURES = ("fetched", "kept", "quarantined", "duplicates", "suppressed", "out_of_window")

Figures = tuple[int, ...]


@dataclass
class Place:
    """A home in which `teei` runs in this process, and the server that it reads."""

    home: Path
    served: Answering
    captured: pytest.CaptureFixture[str]
    held: ExitStack

    @cached_property
    def instance(self) -> dg.DagsterInstance:
        """Opened once: it takes longer than what is asked of it."""
        return self.held.enter_context(instance_in(self.home))

    def teei(self, *arguments: str) -> tuple[int, str, str]:
        code = run(list(arguments))
        found = self.captured.readouterr()
        return code, found.out, found.err

    def good(self, *arguments: str) -> str:
        code, out, err = self.teei(*arguments)
        assert code == 0, out + err
        return out

    def sync(self, *streams: str, last: date = DAY) -> str:
        chosen = [word for name in streams for word in ("--stream", name)]
        return self.good("sync", "--company", ACME.slug, "--from", f"{DAY}", "--to", f"{last}", *chosen)

    def quarantine(self, command: str, *options: str) -> Any:
        return json.loads(self.good("quarantine", command, "--company", ACME.slug, *options, "--json"))

    def vanished(self, command: str, *options: str) -> Any:
        return json.loads(self.good("vanished", command, "--company", ACME.slug, *options, "--format", "json"))

    def rows(self, stream: str) -> dict[str, dict[str, Any]]:
        store = open_store(Settings.load())
        found = store.rows(all_streams()[stream].contract, stream=stream, company=ACME.slug).to_pylist()
        return {row["event_id"]: row for row in found}

    def metadata(self, asset: str, day: date = DAY) -> dict[str, Any]:
        """Of the last materialization."""
        wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[key(ACME.slug, day)])
        one = self.instance.fetch_materializations(wanted, limit=1).records[0].asset_materialization
        assert one is not None
        return {name: value.value for name, value in one.metadata.items()}

    def figures(self, stream: str, day: date = DAY) -> Figures:
        """Of both assets, which say the same and add up."""
        both = [self.metadata(asset, day) for asset in (stream, f"{stream}_events")]
        found = [tuple(one[name] for name in FIGURES) for one in both]
        assert found[0] == found[1] and found[0][0] == sum(found[0][1:])
        return found[0]

    def checks(self, stream: str, day: date = DAY) -> dict[str, str]:
        partition = key(ACME.slug, day)
        return {
            check: check_statuses(self.instance, defs, asset, check, [partition])[partition]
            for check, asset in (
                ("contract", stream),
                ("quarantine", stream),
                ("no_personal_data", f"{stream}_events"),
            )
        }

    def acts(self) -> list[tuple[str, str, dict[str, str]]]:
        entries = json.loads(self.good("audit", "show", "--json"))
        return [(entry["what"], entry["why"], entry["counts"]) for entry in entries]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Place]:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    companies = tmp_path / "companies.yaml"
    companies.write_text(yaml.safe_dump({"companies": [{"id": ACME.id, "slug": ACME.slug, "name": "Acme"}]}))
    with answering(lists({})) as served, ExitStack() as held:
        for name, value in {
            "TEEI_HOME": str(home),
            "DAGSTER_HOME": str(dagster_home(home / "dagster")),
            "TEEI_COMPANIES": str(companies),
            "TEEI_MASTER_KEY": MASTER_KEY,
            **served.environment(),
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.chdir(tmp_path)
        yield Place(home, served, capsys, held)


def slip(stream: Stream) -> tuple[str, Stream]:
    """A wire path that may be missing, and the stream as it would be if somebody had declared it as required."""
    for name, source in stream.mapping.items():
        if isinstance(source, str) and source.endswith("?") and "/" not in source:
            made = dataclasses.replace(stream, mapping={**stream.mapping, name: source.removesuffix("?")})
            try:
                compile_stream(made)
            except TypeError:
                continue  # another field reads it, too
            return source, made
    raise AssertionError(f"{stream.name} has no such field")


@contextmanager
def declared_as(*streams: Stream) -> Iterator[None]:
    """The streams are declared so as long as the block lasts."""
    with pytest.MonkeyPatch.context() as patched:
        for stream in streams:
            patched.setitem(all_streams(), stream.name, stream)
        plan.cache_clear()
        yield
    plan.cache_clear()


def at(minute: int, day: date = DAY) -> str:
    return f"{day}T09:{minute:02}:00Z"


def five(stream: str) -> list[Record]:
    """Two whole records, two that the slip refuses, and one without an id, which nothing mends."""
    path, _ = slip(all_streams()[stream])
    lacking = [record(stream, f"{stream}-{n}", at(n), {path: ABSENT}) for n in (3, 4)]
    nameless = record(stream, ABSENT, at(5))
    return [record(stream, f"{stream}-{n}", at(n)) for n in (1, 2)] + lacking + [nameless]


# One for each way of paging.
SOME = [next(s.name for s in all_streams().values() if isinstance(s.paging, kind)) for kind in (Cursor, PageNumber)]


@pytest.mark.parametrize(
    "names", [SOME, pytest.param(list(all_streams()), marks=pytest.mark.machine)], ids=["some", "all"]
)
def test_what_a_mended_mapping_accepts_comes_in_and_nothing_is_fetched(place: Place, names: list[str]) -> None:
    place.served.answer = lists({name: five(name) for name in names})
    with declared_as(*(slip(all_streams()[name])[1] for name in names)):
        out = place.sync(*names)
    many = len(names)
    assert f"{3 * many} quarantined: `" in out
    total = next(line for line in out.splitlines() if line.split()[:1] == ["total"]).split()
    assert total[-3:-1] == [f"{2 * many}/{3 * many}", f"{many}"]  # only `quarantine` warns, which is no failure
    assert {place.figures(name) for name in names} == {(5, 2, 3, 0, 0, 0)}
    warned = {"contract": "SUCCEEDED", "quarantine": "FAILED", "no_personal_data": "SUCCEEDED"}
    assert place.checks(names[0]) == warned
    listed = place.quarantine("list")
    assert {one["stream"] for one in listed} == set(names)
    assert sum(one["records"] for one in listed) == 3 * many and not any(one["failed"] for one in listed)

    asked = len(place.served.asked), place.served.tokens
    done = place.quarantine("retry", "--why", "mended")
    assert (len(place.served.asked), place.served.tokens) == asked
    for name in names:
        assert done[name]["kept"] == 2 and done[name]["left"] == 1, name
        assert place.figures(name) == (5, 4, 1, 0, 0, 0)
        assert place.metadata(f"{name}_events")["requeued"] == 2
    assert [one["records"] for one in place.quarantine("list")] == [1] * many
    assert place.checks(names[0]) == warned
    started, ended = [act for act in place.acts() if act[0].startswith("quarantine.retr")]
    assert started[:2] == ("quarantine.retry_started", "mended")
    assert ended[:2] == ("quarantine.retried", "mended") and set(ended[2]) == {"kept", "left"}

    kept = {name: place.rows(name) for name in names}
    place.sync(*names)
    for name in names:
        assert len(kept[name]) == 4
        assert place.rows(name) == kept[name], "a sync with the mended mapping gives the same"
        assert place.metadata(f"{name}_events")["unchanged"] is True


def broken_day(place: Place) -> set[str]:
    """A day of four records, two of which are quarantined by a slip; the ids of all."""
    path, wrong = slip(all_streams()[KINTELL])
    whole = [record(KINTELL, f"k-{n}", at(n), {path: ABSENT} if n > 2 else None) for n in range(1, 5)]
    place.served.answer = lists({KINTELL: whole})
    with declared_as(wrong):
        place.sync(KINTELL)
    assert place.figures(KINTELL) == (4, 2, 2, 0, 0, 0)
    return {"k-1", "k-2", "k-3", "k-4"}


Point = tuple[Any, str, int]
POINTS: dict[str, Point] = {
    "marked": (Quarantine, "change", 1),
    "committed": (Store, "replace", 1),
    "half recorded": (requeue.assets, "materialization", 1),
    "recorded": (requeue.checks, "set_aside", 1),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "committed" else pytest.mark.long) for name in POINTS]
)
def test_killed_and_repeated_it_gives_the_same(place: Place, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = broken_day(place)
    owner, step, left = POINTS[name]
    real = getattr(owner, step)

    class Killed(BaseException):
        pass

    def ending(*args: Any, **others: Any) -> Any:
        made = real(*args, **others)
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed
        return made

    with monkeypatch.context() as patched:
        patched.setattr(owner, step, ending)
        code, _, _ = place.teei("quarantine", "retry", "--company", ACME.slug)
    assert code == 1 and left <= 0
    place.quarantine("retry")
    assert {row["source_id"] for row in place.rows(KINTELL).values()} == wanted
    assert place.figures(KINTELL) == (4, 4, 0, 0, 0, 0)
    assert set(place.checks(KINTELL).values()) == {"SUCCEEDED"}
    assert place.quarantine("list") == []
    place.sync(KINTELL)
    assert place.metadata(f"{KINTELL}_events")["unchanged"] is True


@pytest.mark.long
def test_kill_9_after_the_commit(place: Place) -> None:
    wanted = broken_day(place)
    script = (
        "import os, signal\nfrom teei_ingest.store.tables import Store\nfrom teei_ingest.cli.app import run\n"
        "real = Store.replace\n"
        "def replace(*args):\n    real(*args)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"Store.replace = replace\nrun(['quarantine', 'retry', '--company', '{ACME.slug}'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert {row["source_id"] for row in place.rows(KINTELL).values()} == wanted
    place.quarantine("retry")
    assert place.figures(KINTELL) == (4, 4, 0, 0, 0, 0)
    assert place.quarantine("list") == []


def test_the_same_twice_is_a_duplicate_and_another_version_stays(place: Place) -> None:
    path, wrong = slip(all_streams()[KINTELL])
    twice = record(KINTELL, "k-2", at(2), {path: ABSENT})
    other = record(KINTELL, "k-1", at(1), {path: ABSENT})  # the one that is stored has the field
    place.served.answer = lists({KINTELL: [record(KINTELL, "k-1", at(1)), other, twice, twice]})
    with declared_as(wrong):
        place.sync(KINTELL)
    before = place.rows(KINTELL)
    done = place.quarantine("retry")[KINTELL]
    assert (done["kept"], done["duplicates"], done["left"]) == (1, 1, 1)
    assert place.figures(KINTELL) == (4, 2, 1, 1, 0, 0)
    assert place.rows(KINTELL).items() > before.items()
    (left,) = place.quarantine("list")
    assert (left["reason"], left["rule"]) == ("conflict", "conflicting_versions")


@pytest.mark.long
def test_records_without_a_time_come_to_their_own_day(place: Place) -> None:
    stream = all_streams()[KINTELL]
    made = [record(KINTELL, f"k-{n}", at(n, day)) for n, day in enumerate((DAY, NEXT, NEXT), 1)]
    place.served.answer = lists({KINTELL: made})
    with declared_as(dataclasses.replace(stream, source_timestamp="touched_at")):
        place.sync(KINTELL, last=NEXT)
    assert place.figures(KINTELL) == (3, 0, 3, 0, 0, 0) and place.figures(KINTELL, NEXT) == (0,) * 6
    assert place.quarantine("retry")[KINTELL]["kept"] == 3
    assert place.figures(KINTELL) == (3, 1, 0, 0, 0, 2) and place.figures(KINTELL, NEXT) == (2, 2, 0, 0, 0, 0)
    assert {row["source_id"]: row["day"] for row in place.rows(KINTELL).values()} == {
        "k-1": DAY,
        "k-2": NEXT,
        "k-3": NEXT,
    }


def test_a_partition_that_failed_has_to_be_synced_again(place: Place) -> None:
    path, wrong = slip(all_streams()[KINTELL])
    place.served.answer = lists({KINTELL: [record(KINTELL, f"k-{n}", at(n), {path: ABSENT}) for n in range(12)]})
    with declared_as(wrong):
        code, out, _ = place.teei(
            "sync", "--company", ACME.slug, "--from", f"{DAY}", "--to", f"{DAY}", "--stream", KINTELL
        )
    assert code == 4
    assert f"`teei quarantine list --company {ACME.slug} --stream {KINTELL} --from {DAY} --to {DAY}`" in out
    (listed,) = place.quarantine("list")
    assert (listed["records"], listed["failed"]) == (12, True)
    assert "1 partitions failed" in place.good("quarantine", "list", "--company", ACME.slug)
    code, out, _ = place.teei("quarantine", "retry", "--company", ACME.slug)
    assert code == 4 and f"sync --company {ACME.slug} --stream {KINTELL} --from {DAY} --to {DAY}" in out
    assert place.rows(KINTELL) == {}
    assert place.quarantine("list") == [listed]
    place.sync(KINTELL)
    assert len(place.rows(KINTELL)) == 12 and place.quarantine("list") == []


def test_what_another_reading_set_aside_is_not_mixed_with_what_is_stored(place: Place) -> None:
    broken_day(place)
    before = place.rows(KINTELL)
    settings = Settings.load()
    ring = KeyRing.open(settings, load_companies(settings).get(ACME.slug))

    def of_another(day: Any) -> Any:
        return dataclasses.replace(day, attempt="a reading that was killed before its commit")

    assert Quarantine(settings).change(ring, ACME.slug, KINTELL, DAY, of_another)
    code, out, _ = place.teei("quarantine", "retry", "--company", ACME.slug)
    assert code == 5 and "was not completed by the reading" in out
    assert place.rows(KINTELL) == before and place.quarantine("list")[0]["records"] == 2


@pytest.mark.long
def test_files_of_older_versions_are_shown_but_not_brought_in(place: Place) -> None:
    broken_day(place)
    settings = Settings.load()
    ring = KeyRing.open(settings, load_companies(settings).get(ACME.slug))
    head = {"reason": "contract", "field": "sourceId", "rule": "missing", "people": [], "undated": False}
    frames = [b'{"count": 1}', json.dumps({**head, "content_key": "0" * 32}).encode(), b'{"old": 1}']
    path = day_file(Quarantine(settings).folder, ACME.slug, KINTELL, DAY)
    write_sealed(path, ring, frames, company=ACME.slug, stream=KINTELL, day=DAY, attempt="old", purpose="quarantine")
    (listed,) = place.quarantine("list")
    assert (listed["field"], listed["records"], listed["failed"]) == ("sourceId", 1, False)
    (shown,) = place.quarantine("show", "--stream", KINTELL, "--day", f"{DAY}")
    assert shown["record"] == {"old": 1}
    assert place.teei("quarantine", "retry", "--company", ACME.slug)[0] == 5


def test_show_writes_down_who_looks_before_anything_is_shown(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_day(place)
    options = ("--company", ACME.slug, "--stream", KINTELL, "--day", f"{DAY}")
    code, out, err = place.teei("quarantine", "show", *options, "--number", "2", "--why", "ticket 12")
    assert code == 0 and '"k-4"' in out and '"k-3"' not in out and "personal data" in err
    assert place.acts()[-1] == ("quarantine.shown", "ticket 12", {"records": "1-9"})
    first, second = place.quarantine("show", "--stream", KINTELL, "--day", f"{DAY}")
    assert (first["number"], second["number"]) == (1, 2) and second["record"]["id"] == "k-4"
    code, out, err = place.teei("quarantine", "show", *options, "--id", first["id"])
    assert code == 0 and '"k-3"' in out and '"k-4"' not in out
    looked = len(place.acts())
    assert place.teei("quarantine", "show", *options, "--number", "3")[0] == 2
    assert place.teei("quarantine", "show", *options, "--why", "kari.nordmann@acme.example asks")[:2] == (2, "")
    assert len(place.acts()) == looked
    monkeypatch.setenv("TEEI_MASTER_KEY", "")
    code, out, err = place.teei("quarantine", "show", *options)
    assert code == 3 and out == "" and "k-3" not in err


def test_discard_removes_what_was_asked_for_and_only_with_yes(place: Place) -> None:
    broken_day(place)
    before = place.rows(KINTELL)
    out = place.good("quarantine", "discard", "--company", ACME.slug)
    assert "2 records of 1 days would go" in out and "--yes" in out
    assert place.quarantine("discard", "--to", "2024-01-14", "--yes")["records"] == {}
    assert place.quarantine("list")[0]["records"] == 2
    assert place.quarantine("discard", "--yes", "--why", "rubbish")["records"] == {KINTELL: 2}
    assert place.quarantine("list") == [] and place.rows(KINTELL) == before
    assert [act[:2] for act in place.acts()] == [
        ("quarantine.discard_started", "rubbish"),
        ("quarantine.discarded", "rubbish"),
    ]
    assert place.checks(KINTELL) == dict.fromkeys(("contract", "quarantine", "no_personal_data"), "SUCCEEDED")


def test_who_was_erased_meanwhile_does_not_come_in(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    path, wrong = slip(all_streams()[KINTELL])
    theirs = {"user_id": "7b0a6f0e-6d3c-4a53-9f0b-1f2a3b4c5d6e"}
    others = {"user_id": "1a1b1c1d-6d3c-4a53-9f0b-1f2a3b4c5d6e"}
    made = [
        record(KINTELL, f"k-{n}", at(n), {**who, **({path: ABSENT} if n > 2 else {})})
        for n, who in enumerate((theirs, others, theirs, others), 1)
    ]
    place.served.answer = lists({KINTELL: made})
    with declared_as(wrong):
        place.sync(KINTELL)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"kintell {theirs['user_id']}\n"))
    place.good("erase", "--company", ACME.slug, "--yes")
    place.quarantine("retry")
    assert {row["source_id"] for row in place.rows(KINTELL).values()} == {"k-2", "k-4"}
    assert place.figures(KINTELL) == (4, 2, 0, 0, 2, 0)
    assert set(place.checks(KINTELL).values()) == {"SUCCEEDED"}
