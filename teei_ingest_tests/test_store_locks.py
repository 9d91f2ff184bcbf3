"""Who may change a company or a table at the same time: commits and readers share, a purge or an erasure is alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import date
from pathlib import Path
from threading import Event, Thread

import pyarrow as pa
import pytest

from teei_ingest.contracts.stored import arrow_schema
from teei_ingest.contracts.volunteer import VolunteerEvent
from teei_ingest.errors import StoreError
from teei_ingest.store.locks import Locks
from teei_ingest.store.rotations import Rotation, Rotations, Stage
from teei_ingest.store.tables import Store
from teei_ingest_tests.together import eventually


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path / "events"), sandbox=False, locks=Locks(tmp_path / "locks", patience_s=0.1))
    made.prepare()
    return made


@contextmanager
def refused() -> Iterator[None]:
    with pytest.raises(StoreError, match="has been in use"):
        yield


def has(held: AbstractContextManager[object]) -> bool:
    with held:
        return True


def test_whoever_wants_to_be_alone_with_a_company_is(store: Store) -> None:
    with store.committing("acme-corp"):
        assert has(store.committing("acme-corp"))
        assert has(store.alone_with("globex-inc"))
        with refused():
            has(store.alone_with("acme-corp"))
    with store.alone_with("acme-corp"):
        assert has(store.committing("globex-inc"))
        for act in (store.committing, store.alone_with):
            with refused():
                has(act("acme-corp"))


def test_one_after_the_other_commits_to_a_stream_of_a_company(store: Store) -> None:
    with store.turn("acme-corp", "one"):
        assert has(store.turn("acme-corp", "two")) and has(store.turn("globex-inc", "one"))
        with refused():
            has(store.turn("acme-corp", "one"))


def test_whoever_has_no_locks_waits_for_nobody(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "events"), sandbox=False)
    for held in (store.committing, store.alone_with, lambda company: store.turn(company, "one")):
        with held("acme-corp"):
            assert has(held("acme-corp"))


def test_nobody_is_alone_with_a_company_whose_rotation_was_interrupted_by_chance(tmp_path: Path) -> None:
    rotations = Rotations(tmp_path / "rotation")
    store = Store(str(tmp_path / "events"), sandbox=False, rotations=rotations)
    rotations.put("acme-corp", Rotation(2, Stage.MIGRATING, {}))
    for held in (store.committing, store.alone_with):
        with pytest.raises(StoreError, match="`teei keys rotate --company acme-corp` finishes it"):
            has(held("acme-corp"))
        assert has(held("globex-inc"))
    assert has(store.alone_with("acme-corp", unfinished=True))
    rotations.put("acme-corp", Rotation(2, Stage.DONE, {}))
    with store.committing("acme-corp") as version, store.committing("globex-inc") as first:
        assert (version, first) == (2, 1)


@pytest.mark.usefixtures("permissive")
def test_nobody_else_opens_a_lock(tmp_path: Path) -> None:
    with Locks(tmp_path / "locks").exclusive("table"):
        pass
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "locks").iterdir()} == {0o600}
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="the lock"):
        has(Locks(tmp_path / "file").shared("table"))


def test_what_killed_processes_left_is_swept_where_nobody_works(store: Store, tmp_path: Path) -> None:
    folders = [Path(store.uri, name) for name in ("volunteer_events", "donation_events")]
    left = [folders[0] / "part-1#1", folders[1] / "_delta_log" / "0.json.tmp", folders[1] / "part-2#1"]
    for path in left:
        path.touch()
    patient = Store(store.uri, sandbox=False, locks=Locks(tmp_path / "locks"))
    with store.reading():
        assert patient.sweep() == 0 and all(path.exists() for path in left)
    assert Store(store.uri, sandbox=False).sweep() == 0, "nobody knows who works"
    assert patient.sweep() == 3 and not any(path.exists() for path in left)
    assert patient.sweep() == 0


def test_nobody_purges_what_is_read_or_written(store: Store) -> None:
    with store.reading(), refused():
        store.purge(VolunteerEvent)

    def rows() -> pa.RecordBatchReader:
        with refused():
            store.purge(VolunteerEvent)
        return pa.RecordBatchReader.from_batches(arrow_schema(VolunteerEvent), [])

    store.replace(VolunteerEvent, "benevity_volunteers", "acme-corp", [date(2024, 1, 15)], rows)
    store.purge(VolunteerEvent)


def test_those_who_share_let_whoever_waits_to_be_alone_go_first(tmp_path: Path) -> None:
    mine, others = Locks(tmp_path, patience_s=60), Locks(tmp_path, patience_s=0)
    was_alone = Event()

    def alone() -> None:
        with mine.exclusive("table"):
            was_alone.set()

    def is_closed() -> bool:
        try:
            return not has(others.shared("table"))
        except StoreError:
            return True

    with mine.shared("table"):
        waiting = Thread(target=alone)
        waiting.start()
        eventually(is_closed, "nobody else may share it", 10, pause=0.01)
        assert not was_alone.is_set()
    waiting.join()
    assert was_alone.is_set()
    assert has(others.shared("table"))
