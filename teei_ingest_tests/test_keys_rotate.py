"""New keys, for a company or all rings: joins stay, readers see before or after, a kill at any moment is mended."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teei_ingest.cli.app import run
from teei_ingest.errors import KeyringError, SettingsError, StoreError, UsageError
from teei_ingest.landing.quarantine import Quarantine, QuarantineEntry
from teei_ingest.privacy import rotate
from teei_ingest.privacy.audit_log import AuditLog
from teei_ingest.privacy.rotate import rotate_company, rotate_master, standing
from teei_ingest.redact.forward import brought_forward
from teei_ingest.redact.tokens import Pseudonyms
from teei_ingest.settings import SANDBOX_MASTER_KEY, Settings
from teei_ingest.store import open_store
from teei_ingest.store.rotations import Rotation, Rotations, Stage
from teei_ingest.store.tables import Store, contracts
from teei_ingest.vault.keys import KeyRing, versions
from teei_ingest_tests.filled import DAY, JOINS, STREAMS, Filled, Killed, filled, killed_after, texts_on_disk

NEW_MASTER = "bmV3IG1hc3RlciBrZXksIDMyIGJ5dGVzIGxvbmcuLi4="
OLD, NEW = re.compile(r"[ht]1_[0-9a-f]{32}"), re.compile(r"[ht]2_[0-9a-f]{32}")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    with filled(tmp_path_factory.mktemp("filled")) as made:
        yield made


@pytest.fixture
def place(original: Filled, tmp_path: Path) -> Filled:
    return original.copy(tmp_path)


def stage(place: Filled) -> Stage | None:
    rotation = Rotations(place.settings.home / "rotation").get("acme-corp")
    return rotation.stage if rotation else None


# --- what changes ---------------------------------------------------------------------------------------------------


def test_every_pseudonym_goes_forward_and_nothing_else(place: Filled) -> None:
    before, others, joins = place.rows(0), place.rows(1), place.joins()
    assert min(joins[name] for name in joins if name != "versions") > 0
    old = {text for text in texts_on_disk(place.settings.home / "events" / "directory_entries") if OLD.fullmatch(text)}

    done = rotate_company(place.settings, place.company(), why="yearly")

    assert (done.version, done.resumed, sum(done.rows.values())) == (2, False, len(before))
    forward = Pseudonyms.of(KeyRing.open(place.settings, place.company())).forward
    after = place.rows(0)
    assert after == {key: each_text(row, forward) for key, row in before.items()}
    assert place.rows(1) == others
    assert place.joins() == {**joins, "versions": ["t2_"]}
    theirs = {text for row in others.values() for text in OLD.findall(json.dumps(row, default=str))}
    left = {found for text in texts_on_disk(place.settings.home / "events") for found in OLD.findall(text)}
    assert left == theirs, "older pseudonyms of the company are in no file"
    assert old - theirs

    assert place.sync() == []
    assert place.rows(0) == after, "what is made anew is what was taken forward"
    again = rotate_company(place.settings, place.company())
    assert (again.version, place.joins()) == (3, {**joins, "versions": ["t3_"]})
    told = [(entry["what"], entry["why"], entry["details"]) for entry in AuditLog(place.settings).entries("acme-corp")]
    assert told == [
        ("keys.rotation_started", "yearly", {"version": 2, "resumed": False}),
        ("keys.rotated", "yearly", {"version": 2}),
        ("keys.rotation_started", "", {"version": 3, "resumed": False}),
        ("keys.rotated", "", {"version": 3}),
    ]


@pytest.mark.parametrize("damage", ["{", "[]", "null", "{}", *({name: "x"} for name in ("version", "stage", "tables"))])
def test_what_is_known_of_a_rotation_may_be_damaged(tmp_path: Path, damage: str | dict[str, str]) -> None:
    rotations, known = Rotations(tmp_path / "rotation"), Rotation(2, Stage.MIGRATING, {"donation_events": 7})
    rotations.put("acme-corp", known)
    assert rotations.get("acme-corp") == known and rotations.get("globex-inc") is None
    (path,) = (tmp_path / "rotation").iterdir()
    path.write_text(damage if isinstance(damage, str) else json.dumps(json.loads(path.read_text()) | damage))
    for ask in (lambda: rotations.get("acme-corp"), rotations.all):
        with pytest.raises(StoreError, match=f"{path} is damaged: restore it from its backup"):
            ask()


@pytest.mark.parametrize("stage", Stage)
def test_readers_are_kept_at_the_older_version_until_all_is_new(stage: Stage) -> None:
    assert Rotation(2, stage, {}).pinned is (stage in ("prepared", "migrating"))


def each_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: each_text(one, change) for key, one in value.items()}
    return [each_text(one, change) for one in value] if isinstance(value, list) else value


TEXT = st.none() | st.text(max_size=3) | st.from_regex(r"[ht][1-3]_[0-9a-f]{32}", fullmatch=True)
NESTED = pa.schema(
    [
        ("plain", pa.string()),
        ("number", pa.int64()),
        ("many", pa.list_(pa.string())),
        ("inside", pa.struct([("one", pa.string()), ("two", pa.float64())])),
        ("items", pa.list_(pa.struct([("who", pa.string()), ("all", pa.list_(pa.string()))]))),
        ("map", pa.map_(pa.string(), pa.float64())),
    ]
)
ROW = st.fixed_dictionaries(
    {
        "plain": TEXT,
        "number": st.none() | st.integers(0, 9),
        "many": st.none() | st.lists(TEXT, max_size=3),
        "inside": st.none() | st.fixed_dictionaries({"one": TEXT, "two": st.none() | st.floats(0, 1)}),
        "items": st.none()
        | st.lists(
            st.none() | st.fixed_dictionaries({"who": TEXT, "all": st.none() | st.lists(TEXT, max_size=2)}), max_size=3
        ),
        "map": st.none()
        | st.dictionaries(st.text("ab", max_size=2), st.floats(0, 1), max_size=2).map(lambda m: [*m.items()]),
    }
)


@given(st.lists(ROW, max_size=6), st.integers(0, 3))
@settings(max_examples=80, deadline=None)
def test_pseudonyms_are_found_however_deep(rows: list[dict[str, Any]], skipped: int) -> None:
    names = Pseudonyms({1: b"a" * 32, 2: b"b" * 32})
    batch = pa.RecordBatch.from_pylist(rows, schema=NESTED).slice(skipped)
    found = brought_forward(batch, names)
    found.validate(full=True)
    assert found.schema == NESTED
    assert found.to_pylist() == [each_text(row, names.forward) for row in batch.to_pylist()]
    assert brought_forward(found, names).equals(found)


def test_event_ids_and_sealed_files_stay(place: Filled) -> None:
    quarantine, company = Quarantine(place.settings), place.company()
    undated = QuarantineEntry("contract", "sourceTimestamp", "missing", b'{"id": "x"}', undated=True)
    ring = KeyRing.open(place.settings, company)
    quarantine.replace(ring, "acme-corp", "kintell_enrollments", {DAY: [undated]}, attempt="a")

    rotate_company(place.settings, company)

    new = KeyRing.open(place.settings, company)
    assert versions(place.settings, company) == {
        "pseudonym": 2, "event_id": 1, "seal": 2, "quarantine": 2, "suppression": 2
    }  # fmt: skip
    assert new.keys("event_id") == ring.keys("event_id")
    assert [entry.record for entry in quarantine.entries(new, "acme-corp", "kintell_enrollments", DAY)] == [
        b'{"id": "x"}'
    ]
    window = {DAY + timedelta(1): [undated]}
    again = quarantine.replace(new, "acme-corp", "kintell_enrollments", window, attempt="b")
    assert again == {DAY + timedelta(1): 1}, "a record that was known before is known again"


# --- readers, writers, kills ----------------------------------------------------------------------------------------

_READ = """
import json, sys
from teei_ingest.settings import Settings
from teei_ingest.store import open_store
from teei_ingest.store.sql import query
store = open_store(Settings.load())
while True:
    names, rows = query(store, sys.argv[1])
    print(json.dumps(dict(zip(names, rows[0]))), flush=True)
"""
_ROTATE = """
from teei_ingest.companies import load_companies
from teei_ingest.privacy.rotate import rotate_company
from teei_ingest.settings import Settings
settings = Settings.load()
company = load_companies(settings).get("acme-corp")
print("ready", flush=True)
rotate_company(settings, company)
"""
_SYNC = """
import os
from pathlib import Path
from teei_ingest_tests.feeding import worker
from teei_ingest_tests.filled import DAY
from teei_ingest_tests.running import Home
home = Home(Path(os.environ["TEEI_HOME"]), dict(os.environ), None)
streams = ["benevity_volunteers", "workday_directory"]
workers = [worker(home, stream) for stream in streams]
print("ready", flush=True)
for _ in range(3):
    for one in workers:
        print([str(bad.error) for bad in one.both([DAY]).bad], flush=True)
"""


def killed(place: Filled, seconds: float) -> bool:
    """Rotate in another process and kill it so many seconds after it began; whether that came in time."""
    process = place.process(_ROTATE)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.mark.long
def test_a_reader_is_undisturbed_by_rotations_that_are_killed(place: Filled) -> None:
    joins, others = place.joins(), place.rows(1)
    reader = place.process(_READ, JOINS)
    begun = time.monotonic()
    rotate_company(place.settings, place.company())
    whole = time.monotonic() - begun
    rng, stages = random.Random(), set()
    for _ in range(3):
        assert killed(place, rng.uniform(0, whole * 0.9)) or stage(place) is Stage.DONE
        stages.add(stage(place))
    done = rotate_company(place.settings, place.company())
    reader.kill()
    out, problems = reader.communicate()
    seen = [json.loads(line) for line in out.splitlines()[:-1]]

    assert not problems
    assert len(seen) > 5
    assert stages & {Stage.PREPARED, Stage.MIGRATING, Stage.PURGING}, "nothing was interrupted"
    counts = [{**one, "versions": None} for one in seen]
    assert counts == [{**joins, "versions": None}] * len(seen)
    order = [one["versions"] for one in seen]
    assert {len(one) for one in order} == {1}, "never two versions in one answer"
    assert order == sorted(order), "never back"
    assert place.joins() == {**joins, "versions": [f"t{done.version}_"]}
    assert place.rows(1) == others
    assert place.sync() == []
    assert place.joins() == {**joins, "versions": [f"t{done.version}_"]}


STEPS = [
    (Rotations, "put", 1),
    (rotate, "add_version", 1),
    (Rotations, "put", 1),
    (Store, "replace", 3),
    (Rotations, "put", 1),
    (Store, "purge", 2),
    (Store, "purge", 8),
]


def test_a_rotation_goes_on_from_each_step(place: Filled) -> None:
    joins, company = place.joins(), place.company()
    stages = []
    for owner, name, times in STEPS:
        with killed_after(owner, name, times):
            rotate_company(place.settings, company)
        stages.append(stage(place))
        pinned = stages[-1] in (Stage.PREPARED, Stage.MIGRATING)
        assert place.joins() == {**joins, "versions": ["t1_" if pinned else "t2_"]}
        errors = place.sync(0, STREAMS[:1])
        if pinned:
            assert set(errors) == {
                "acme-corp: a rotation of its keys was interrupted: `teei keys rotate --company acme-corp` finishes it"
            }
        else:
            assert errors == []
        assert place.sync(1, STREAMS[:1]) == []
        assert standing(place.settings, company).unfinished
    assert stages == ["prepared", "prepared", "migrating", "migrating", "purging", "purging", "purging"]
    assert rotate_company(place.settings, company).resumed
    assert versions(place.settings, company)["pseudonym"] == 2
    assert place.joins() == {**joins, "versions": ["t2_"]}
    assert not standing(place.settings, company).unfinished


def test_nothing_that_readers_need_is_purged(place: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted rotation of one company stops what would remove older files, whoever begins it."""
    with monkeypatch.context() as patched:
        patched.setattr(rotate, "_migrate", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            rotate_company(place.settings, place.company())
    joins = place.joins()
    store = open_store(place.settings)
    for act in (
        lambda: store.purge(contracts()[0]),
        lambda: store.expire(contracts()[0], DAY),
        lambda: rotate_company(place.settings, place.company(1)),
    ):
        with pytest.raises(StoreError, match=r"acme-corp: .*`teei keys rotate --company acme-corp` finishes it"):
            act()
    assert place.joins() == joins
    assert rotate_company(place.settings, place.company()).rows
    assert rotate_company(place.settings, place.company(1)).resumed
    assert place.joins() == {**joins, "versions": ["t2_"]}


@pytest.mark.long
def test_a_rotation_while_a_sync_runs(place: Filled) -> None:
    joins = place.joins()
    process = place.process(_SYNC)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    done = rotate_company(place.settings, place.company())
    out, problems = process.communicate(timeout=120)
    assert (process.returncode, problems) == (0, "")
    assert out.splitlines() == ["[]"] * 6
    assert place.joins() == {**joins, "versions": [f"t{done.version}_"]}
    before = place.rows()
    assert place.sync() == []
    assert place.rows() == before


# --- the master key -------------------------------------------------------------------------------------------------


def with_master(place: Filled, key: str) -> Settings:
    return Settings.load({**place.home.environ, "TEEI_MASTER_KEY": key})


def test_a_new_master_key_changes_no_data(place: Filled) -> None:
    rows, ring = place.rows(), KeyRing.open(place.settings, place.company())
    log = AuditLog(place.settings)
    log.append("something")
    assert rotate_master(place.settings, NEW_MASTER + "\n", why="yearly") == 2
    renewed = with_master(place, NEW_MASTER)
    assert KeyRing.open(renewed, place.company()).keys("pseudonym") == ring.keys("pseudonym")
    assert place.rows() == rows
    with pytest.raises(KeyringError, match="needs another master key: set TEEI_MASTER_KEY"):
        KeyRing.open(place.settings, place.company())
    assert AuditLog(renewed).verify().intact
    assert rotate_master(place.settings, NEW_MASTER) == 0, "again, since nobody knew that it was done"
    assert [entry["what"] for entry in AuditLog(renewed).entries()][-2:] == [
        "keys.master_rotation_started",
        "keys.master_rotated",
    ]
    assert AuditLog(renewed).verify().intact


@pytest.mark.parametrize("step", ["rewrap", "rekey"])
def test_a_new_master_key_goes_on(place: Filled, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    owner = rotate if step == "rewrap" else AuditLog
    real = getattr(owner, step)

    def ending(*args: Any) -> None:
        real(*args)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(owner, step, ending)
        with pytest.raises(Killed):
            rotate_master(place.settings, NEW_MASTER)
    rotate_master(place.settings, NEW_MASTER)
    renewed = with_master(place, NEW_MASTER)
    assert KeyRing.open(renewed, place.company(1)).version("seal") == 1
    assert AuditLog(renewed).verify().intact


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        (f"{SANDBOX_MASTER_KEY}\n", SettingsError, "the new master key is the sandbox's published one: make one"),
        ("short", SettingsError, "the new master key is not base64; make one with"),
        ("YWJj", SettingsError, "the new master key has 3 bytes instead of 32"),
        ("", SettingsError, "the new master key has 0 bytes"),
        (None, UsageError, "the one that is in use"),
    ],
)
def test_master_keys_that_will_not_do(place: Filled, key: str | None, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        rotate_master(place.settings, place.home.environ["TEEI_MASTER_KEY"] if key is None else key)
    assert not key or key == "short" or key not in str(caught.value)
    KeyRing.open(place.settings, place.company())


def test_the_sandbox_keeps_its_key(tmp_path: Path) -> None:
    (tmp_path / "sandbox.json").write_text('{"environment": {}}')
    with pytest.raises(SettingsError, match="the sandbox keeps its published master key"):
        rotate_master(Settings.load({"TEEI_HOME": str(tmp_path)}), NEW_MASTER)


# --- keys that cannot be used ---------------------------------------------------------------------------------------


def lost(place: Filled) -> None:
    ring_of(place).unlink()


def tampered(place: Filled) -> None:
    document = json.loads(ring_of(place).read_text())
    document["keys"]["seal"]["1"], document["keys"]["quarantine"]["1"] = (
        document["keys"][purpose]["1"] for purpose in ("quarantine", "seal")
    )
    ring_of(place).write_text(json.dumps(document))


def outdated(place: Filled) -> None:
    before = ring_of(place).read_bytes()
    rotate_company(place.settings, place.company())
    ring_of(place).write_bytes(before)


def ring_of(place: Filled) -> Path:
    return place.settings.home / "keys" / f"{place.company().id}.json"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lost, "acme-corp: the keys are lost: restore"),
        (tampered, "is damaged: restore it from its backup"),
        (outdated, "acme-corp: .* is older than the events: restore the newest"),
        (None, "needs another master key: set TEEI_MASTER_KEY to the one that it was made with"),
    ],
)
def test_keys_that_cannot_be_used(
    place: Filled,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    harm: Callable[[Filled], None] | None,
    message: str,
) -> None:
    """Each its own line, which says what still works; and that does."""
    if harm:
        harm(place)
    for name, value in {**place.home.environ, **({} if harm else {"TEEI_MASTER_KEY": NEW_MASTER})}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(place.home.path)
    assert run(["keys", "rotate", "--company", "acme-corp"]) == 3
    said = capsys.readouterr().err
    assert re.search(message, " ".join(said.split()))
    assert "until then nothing is added; `teei sql` shows what is there" in " ".join(said.split())
    assert said.count("teei:") == 1
    assert run(["sql", "SELECT count(*) > 0 AS there FROM volunteer_events", "--format", "csv"]) == 0
    assert capsys.readouterr().out == "there\ntrue\n"
    assert run(["keys", "status", "--json"]) == 3
    found = {one["company"]: one for one in json.loads(capsys.readouterr().out)}
    assert re.search(message.removeprefix("acme-corp: "), found["acme-corp"]["problem"])
    assert bool(found["globex-inc"]["problem"]) == (harm is None)


def test_the_command(place: Filled, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in place.home.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(place.home.path)
    assert run(["keys", "rotate"]) == run(["keys", "rotate", "--master", "--company", "acme-corp"]) == 2
    assert "say which keys: --company SLUG or --master" in capsys.readouterr().err
    assert run(["keys", "rotate", "--company", "acme-corp", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == 2
    assert run(["keys", "rotate", "--company", "acme-corp", "--why", "asked by ola.nordmann@acme.example"]) == 2
    assert stage(place) is Stage.DONE
    monkeypatch.setenv("TEEI_MASTER_KEY_NEW", NEW_MASTER)
    capsys.readouterr()
    assert run(["keys", "rotate", "--master"]) == 0
    shown = capsys.readouterr().out
    assert "2 rings are wrapped by the new one" in shown
    assert "put the new key there" in shown
    assert NEW_MASTER not in shown
    monkeypatch.setenv("TEEI_MASTER_KEY", NEW_MASTER)
    assert run(["keys", "status"]) == 0
    assert "pseudonym v2, event_id v1, seal v2" in capsys.readouterr().out
