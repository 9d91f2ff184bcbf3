"""Attack 5: one of many people, in every role, is erased, whatever happens meanwhile, and does not come back.

The person is known by an address, an id of each kind and in every role of every stream; the process is killed at each
step; writers hold records of them from before; the sources send them again and again. What has to be left is worked
out here from the rows of before, with nothing of the product but the pseudonyms.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from teei_ingest.companies import Company, load_companies
from teei_ingest.landing.landing import Landing
from teei_ingest.landing.quarantine import Quarantine
from teei_ingest.landing.suppression import Suppressions
from teei_ingest.privacy import erase as product
from teei_ingest.privacy.audit_log import AuditLog
from teei_ingest.privacy.identity import parse_identity
from teei_ingest.redact.tokens import Pseudonyms
from teei_ingest.store import open_store
from teei_ingest.store.tables import Store, contracts
from teei_ingest.vault.keys import KeyRing
from teei_ingest_tests.conftest import MASTER_KEY
from teei_ingest_tests.feeding import ACME, Ask, Record, Reply, answering, page, record, worker
from teei_ingest_tests.proof.killed import POINTS
from teei_ingest_tests.proof.search import Search, files
from teei_ingest_tests.running import Home

DAYS = [date(2024, 1, 15), date(2024, 1, 16), date(2024, 1, 17)]
ROOT = Path(__file__).parents[2]
SPAWN = multiprocessing.get_context("spawn")
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
WORKDAY = "urn:ietf:params:scim:schemas:extension:workday:2.0:User"
WHO = 3  # the one
EVERY = 13  # to every so many records of others they are referred to

Figures = dict[str, float]


def email(number: int) -> str:
    return f"person.{number}@erasure-proof.example"


def internal(number: int) -> str:
    return f"7b0a6f0e-6d3c-4a53-9f0b-{number:012x}"


def scim(number: int) -> str:
    return f"scim-identity-{number}"


def employee(number: int) -> str:
    return f"employee-number-{number}"


def goodera(number: int) -> str:
    return f"goodera-user-{number}"


def moment(number: int) -> str:
    return f"2024-01-{15 + number % 3}T08:00:{number % 60:02d}.{number:09d}Z"


def records(people: int) -> dict[str, list[Record]]:
    """What the sources have: of everybody the same, and the one among those who are referred to."""
    made: dict[str, list[Record]] = {}
    for n in range(people):
        at, other = moment(n), WHO if n % EVERY == 1 else (n * 7 + 5) % people
        mine = {"userId": employee(n), "userEmail": email(n) if n % 2 else email(n).upper()}
        internal_mine = {"user_id": internal(n)}
        both = internal_mine | {"user_email": email(n)}
        match = {"match_id": f"match-{n}"}
        entries: dict[str, Mapping[str, Any]] = {
            "workday_directory": {
                "emails?": [{"value": email(n)}],
                "userName": email(n),
                "externalId": employee(n),
                ENTERPRISE: {"manager": {"value": scim(other)}, "costCenter": "CC-7"},
                WORKDAY: {"employeeID": employee(n)},
            },
            "benevity_volunteers": mine | {"verifiedBy": email(other)},
            "benevity_donations": mine,
            "goodera_volunteers": {"user_id": goodera(n), "user_email": email(n)},
            "kintell_enrollments": both | {"instructor_id": internal(other)},
            "kintell_sessions": internal_mine,
            "upskilling_enrollments": both,
            "buddy_matches": internal_mine | {"buddy_id": internal(other)},
            "buddy_checkins": match,
            "buddy_events": match | {"attendees": [internal(n), internal(other), "a-guest"]},
            "mentorship_placements": {"mentee_id": internal(n), "mentor_id": internal(other)},
        }
        names = {"workday_directory": scim(n), "buddy_matches": f"match-{n}"}
        for stream, changes in entries.items():
            made.setdefault(stream, []).append(record(stream, names.get(stream, f"{stream}-{n}"), at, changes))
    # Records that break their contract: one of theirs, one that refers to them, one of somebody else.
    for number, (mentee, mentor) in enumerate(((WHO, 1), (1, WHO), (1, 2))):
        broken = {"mentee_id": internal(mentee), "mentor_id": internal(mentor), "status": 7}
        bad = record("mentorship_placements", f"broken-{number}", moment(3 * number), broken)
        made["mentorship_placements"].append(bad)
    for entries_of in made.values():
        entries_of.sort(key=_changed)
    return made


def _changed(one: Record) -> str:
    return str(one.get("updated_at") or one.get("updatedAt") or one["meta"]["lastModified"])


STREAMS = tuple(records(1))


def theirs(stream: str, source_id: str, own_scim: str) -> bool:
    """Whether a stored row is the one's, by its record's id alone."""
    return source_id in (own_scim, f"match-{WHO}", f"{stream}-{WHO}")


Tables = dict[str, pa.Table]


def tables(store: Store) -> Tables:
    """All rows of all tables, in the order of their ids."""
    return {contract.table: store.rows(contract).sort_by("event_id").combine_chunks() for contract in contracts()}


def expected(before: Tables, tokens: frozenset[str], own_scim: str) -> Tables:
    """The same without the one's rows and without references to them."""

    def cleaned(value: Any) -> Any:
        if isinstance(value, list):
            return [one for one in value if not (isinstance(one, str) and one in tokens)]
        return None if isinstance(value, str) and value in tokens else value

    made = {}
    for name, table in before.items():
        rows = [row for row in table.to_pylist() if not theirs(row["stream"], row["source_id"], own_scim)]
        cleared = [{key: cleaned(value) for key, value in row.items()} for row in rows]
        made[name] = pa.Table.from_pylist(cleared, table.schema)
    return made


class Scene:
    """A home with everybody in its tables, quarantine and landing, and what has to be left once the one is erased."""

    def __init__(self, place: Home, people: int) -> None:
        self.place = place
        self.people = people
        self.line = email(WHO)
        self.company: Company = load_companies(place.settings).get(ACME.slug)
        self.ring = KeyRing.open(place.settings, self.company, create=False)
        names = Pseudonyms.of(self.ring)
        known = [("benevity", email(WHO)), ("teei", internal(WHO)), ("goodera", goodera(WHO))]
        known += [(space, value) for space in ("workday", "benevity") for value in (scim(WHO), employee(WHO))]
        self.tokens = frozenset(make(*one) for one in known for make in (names.person, names.hashed))
        self.identities = {value for _, value in known}
        self.scim = names.person("workday", scim(WHO))
        self.before = tables(open_store(place.settings))
        self.expected = expected(self.before, self.tokens, self.scim)

    def elsewhere(self, folder: Path) -> Scene:
        """A copy of the home, as it is now."""
        copy = object.__new__(Scene)
        copy.__dict__.update(self.__dict__)
        shutil.copytree(self.place.settings.home, folder, ignore=shutil.ignore_patterns("locks"))
        copy.place = dataclasses.replace(self.place, environ=self.place.environ | {"TEEI_HOME": str(folder)})
        return copy

    def erase(self) -> product.Traces:
        return product.erase(self.place.settings, self.company, parse_identity(self.line), why="proof")

    def pending(self) -> int:
        return len(Suppressions(self.place.settings).pending(self.ring, self.company.slug))

    def check(self) -> int:
        """Every other row as it was, and nothing of the one in any byte; the number of layers that were looked at."""
        settings = self.place.settings
        left = tables(open_store(settings))
        for name, table in self.expected.items():
            assert left[name].equals(table), f"{name} is not what has to be left"
        return self.search(settings.home)

    def search(self, home: Path) -> int:
        search, looked = Search(self.tokens | self.identities), 0
        for where, data in self._bytes(home):
            looked += 1
            hits = search(where, data)
            assert not hits, f"{len(hits)} in {where} ({hits[0].form})"
        return looked

    def _bytes(self, home: Path) -> Iterator[tuple[str, bytes]]:
        yield from files(home)
        slug, settings = self.company.slug, self.place.settings
        quarantine, landing = Quarantine(settings), Landing(settings)
        for stream in STREAMS:
            for day in quarantine.days(slug, stream):
                for entry in quarantine.entries(self.ring, slug, stream, day):
                    yield f"quarantine of {stream}", entry.record + " ".join(entry.people).encode()
            for day in DAYS:
                landed = landing.read(self.ring, slug, stream, day)
                yield f"landing of {stream}", b"\n".join(landed[1]) if landed else b""


def fill(place: Home) -> None:
    for stream in STREAMS:
        outcome = worker(place, stream).both(DAYS)
        assert not outcome.bad, (stream, outcome.bad)
    for stream in ("kintell_enrollments", "buddy_events"):
        assert not worker(place, stream).stream(DAYS).bad


def sync(place: Home, streams: Collection[str]) -> int:
    """Read everything again; the number of records that were suppressed."""
    suppressed = 0
    for stream in streams:
        outcome = worker(place, stream).both(DAYS)
        assert not outcome.bad, (stream, [str(one.error) for one in outcome.bad])
        assert all(one.balanced for one in outcome.good)
        suppressed += sum(one.suppressed for one in outcome.good)
    return suppressed


def prove(scale: float = 1, points: Collection[str] = tuple(POINTS), stale: Collection[str] = STREAMS) -> Figures:
    """What is left of one of 10,000 people at all times, which has to be nothing. AssertionError otherwise.

    The process is killed, and the writers write, among a tenth as many.
    """
    figures: Figures = {}
    with _scene(max(40, round(10_000 * scale))) as (scene, root, _):
        rows = sum(map(len, scene.before.values()))
        gone = rows - sum(map(len, scene.expected.values()))
        assert gone >= len(STREAMS), "the one is in every stream"
        figures |= {"people": scene.people, "rows": rows, "rows_erased": gone, "found_before": _found_before(scene)}
        with _copy(scene, root) as one:
            found = one.erase()
            figures["seconds"] = round(found.seconds, 2)
            assert sum(found.rows.values()) == gone
            one.check()
            for _ in range(3):
                suppressed = sync(one.place, STREAMS)
                assert suppressed >= gone
                assert one.pending() == 0
                figures |= {"suppressed": suppressed, "layers_searched": one.check()}
            figures["reingests"] = 3
    with _scene(max(40, round(1_000 * scale))) as (scene, root, hooks):
        for label in points:
            with _copy(scene, root) as one:
                _killed(one, label)
        figures |= {"killed_among": scene.people, "kills": len(points)}
        figures["stale_writers"] = _stale(scene, root, hooks, stale)
        with _copy(scene, root) as one:
            figures["concurrent_syncs"] = _concurrent(one)
    return figures | {"remaining": 0}


Hooks = list[Callable[[Ask], None]]


@contextmanager
def _scene(people: int) -> Iterator[tuple[Scene, Path, Hooks]]:
    """(everybody in their tables, a folder, what is called at each request)."""
    data = records(people)
    hooks: Hooks = []

    def answer(ask: Ask) -> Reply:
        for hook in hooks:
            hook(ask)
        return Reply(page(ask.stream, data.get(ask.stream, [])))

    with tempfile.TemporaryDirectory() as name, answering(answer) as server:
        environ = {"TEEI_MASTER_KEY": MASTER_KEY, **server.environment()}
        place = Home.create(Path(name), {ACME.slug: ACME.id}, environ)
        fill(place)
        yield Scene(place, people), Path(name), hooks


@contextmanager
def _copy(scene: Scene, root: Path) -> Iterator[Scene]:
    folder = root / "copy"
    try:
        yield scene.elsewhere(folder)
    finally:
        shutil.rmtree(folder)


def _found_before(scene: Scene) -> int:
    """In how many layers the search finds the one before the erasure: it would find them afterwards, too."""
    search = Search(scene.tokens | scene.identities)
    found = sum(bool(search(where, data)) for where, data in scene._bytes(scene.place.settings.home))
    assert found > len(STREAMS)
    return found


def _killed(scene: Scene, label: str) -> None:
    """Kill the erasure at a point; end it by --resume, or by the same command where nothing had begun."""
    command = [sys.executable, "-m", "teei_ingest_tests.proof.killed", label]
    environ = {**os.environ, **scene.place.environ}
    ended = subprocess.run(
        command, env=environ, cwd=ROOT, input=scene.line, text=True, capture_output=True, timeout=300
    )
    assert ended.returncode == -signal.SIGKILL, f"{label}: {ended.returncode} {ended.stderr[-500:]}"
    pending = scene.pending()
    assert pending == (0 if label == "before anything" else 1), label
    if pending:
        product.resume(scene.place.settings, scene.company)
    else:
        scene.erase()
    assert scene.pending() == 0
    scene.check()
    verdict = AuditLog(scene.place.settings).verify()
    assert verdict.intact, verdict.problem
    assert [one["what"] for one in AuditLog(scene.place.settings).entries()][-1] == "erase.done"


def _stale(scene: Scene, root: Path, hooks: Hooks, streams: Collection[str]) -> int:
    """In the middle of each stream's reading the one is erased: what was read before is not committed."""
    for stream in streams:
        with _copy(scene, root) as one:
            done: list[product.Traces] = []
            hooks[:] = [partial(_erase_once, one, done)]
            suppressed = sync(one.place, [stream])
            hooks.clear()
            assert done
            assert suppressed > 0, stream
            one.check()
    return len(streams)


def _erase_once(scene: Scene, done: list[Any], ask: Ask) -> None:
    if not done:
        done.append(scene.erase())


def _concurrent(scene: Scene) -> int:
    """Syncs in a process of their own all the while."""
    stop = SPAWN.Event()
    rounds = SPAWN.Value("i", 0)
    process = SPAWN.Process(target=_sync_on, args=(scene.place.environ, STREAMS, stop, rounds))
    process.start()
    try:
        while not rounds.value and process.is_alive():
            time.sleep(0.05)
        scene.erase()
        during = rounds.value
        while rounds.value < during + 2 and process.is_alive():
            time.sleep(0.05)
    finally:
        stop.set()
        process.join(300)
    assert process.exitcode == 0
    scene.check()
    return int(rounds.value)


def _sync_on(environ: dict[str, str], streams: Collection[str], stop: Any, rounds: Any) -> None:
    place = Home(Path(environ["TEEI_HOME"]), environ, None)  # type: ignore[arg-type]
    while not stop.is_set():
        for stream in streams:
            sync(place, [stream])
            rounds.value += 1
            if stop.is_set():
                return


if __name__ == "__main__":
    print(prove())
