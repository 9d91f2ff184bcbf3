"""The end of a company: nothing is left, wherever its process was killed; others keep all; nothing begins anew."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.utils import make_new_run_id

from teei_ingest.cli.app import run
from teei_ingest.companies import load_companies
from teei_ingest.contracts.stored import arrow_schema
from teei_ingest.defs.partitions import COMPANY_TAG, PARTITION, RANGE_START
from teei_ingest.defs.run import remove_company, stop_company
from teei_ingest.errors import KeyringError, LandingError, StoreError, UsageError
from teei_ingest.landing.landing import Landing
from teei_ingest.landing.quarantine import Quarantine, QuarantineEntry
from teei_ingest.landing.suppression import Suppressions
from teei_ingest.privacy import shred as module
from teei_ingest.privacy.audit_log import AuditLog
from teei_ingest.privacy.rotate import standing
from teei_ingest.privacy.shred import Certificate, shred
from teei_ingest.redact.tokens import Pseudonyms
from teei_ingest.store import open_store
from teei_ingest.store.rotations import Rotation, Rotations, Stage
from teei_ingest.store.tables import Store, contracts
from teei_ingest.sync import plan_request
from teei_ingest.vault.keys import KeyRing, has_ring, shredded, tombstone
from teei_ingest_tests.dagster_parts import BIN, instance_in
from teei_ingest_tests.feeding import Ask, Reply, answering, worker
from teei_ingest_tests.filled import DAY, STREAMS, Filled, filled, killed_after, texts_on_disk
from teei_ingest_tests.second_opinion.data import people
from teei_ingest_tests.together import eventually

TEEI = str(BIN / "teei")
ACME, GLOBEX = "acme-corp", "globex-inc"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    """With a landing, a quarantine and a list of erasures of both companies."""
    with filled(tmp_path_factory.mktemp("filled")) as made:
        for at, slug in enumerate((ACME, GLOBEX)):
            ring = KeyRing.open(made.settings, made.company(at))
            Landing(made.settings).write(ring, slug, STREAMS[0], DAY, {}, [b"a record"], attempt="a")
            entry = QuarantineEntry("contract", "hours", "missing", b"{}")
            Quarantine(made.settings).replace(ring, slug, STREAMS[0], {DAY: [entry]}, attempt="a")
            Suppressions(made.settings).add(ring, slug, [Pseudonyms.of(ring).person("teei", "ola@acme.example")])
        yield made


@pytest.fixture
def place(original: Filled, tmp_path: Path) -> Filled:
    return original.copy(tmp_path)


def end(place: Filled, **others: Any) -> Certificate:
    return shred(place.settings, place.company(), **{"stop": lambda: 0, "forget": lambda: True, **others})[0]


def holding(home: Path, slug: str) -> set[str]:
    """The folders of a home in which a file has a company's slug in its name or in its bytes."""
    paths = [path for path in home.rglob("*") if slug in str(path.relative_to(home))]
    paths += [path for path in home.rglob("*") if path.is_file() and slug.encode() in path.read_bytes()]
    return {path.relative_to(home).parts[0] for path in paths}


def sealed(place: Filled, kind: str, slug: str = ACME) -> list[Path]:
    return sorted((place.settings.home / kind / slug).rglob("*.sealed"))


def test_nothing_is_left(place: Filled) -> None:
    others, mine, bad = place.rows(1), place.rows(0), len(sealed(place, "quarantine"))
    home, company = place.settings.home, place.company()
    assert {"events", "quarantine", "landing", "suppression", "drift"} <= holding(home, ACME)

    made, path = shred(place.settings, company, stop=lambda: 2, forget=lambda: True, why="contract ended")

    assert sum((made.rows or {}).values()) == len(mine)
    assert made.files == {"landing": 1, "quarantine": bad, "suppression": 1}
    assert made.keys == {"pseudonym": 1, "event_id": 1, "seal": 1, "quarantine": 1, "suppression": 1}
    assert (made.runs_stopped, made.partition_removed) == (2, True)
    assert json.loads(path.read_text()) == json.loads(json.dumps(made.as_json()))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (place.rows(0), place.rows(1)) == ({}, others)
    assert holding(home, ACME) == {"audit", "keys", "locks", "events"}, "log, certificate, tombstone, a lock, a name"
    assert not list((home / "events").rglob(f"company={ACME}/*"))
    assert not any(str(company.id) in text for text in texts_on_disk(home / "events"))
    assert sorted(one.name for one in (home / "keys").glob(f"{company.id}*")) == [f"{company.id}.shredded"]
    entries = list(AuditLog(place.settings).entries(ACME))
    assert [entry["what"] for entry in entries] == ["shred.started", "shred.done"]
    assert entries[1]["counts"]["runs"] == "1-9"
    assert AuditLog(place.settings).verify().intact
    assert place.sync(1, STREAMS[:1]) == []


STEPS: list[tuple[Any, str, int]] = [
    (module, "_write", 1),
    (module, "_write", 2),
    (Store, "remove_company", 3),
    (module, "remove_folder", 1),
    (Suppressions, "forget", 1),
    (Store, "purge", 5),
    (module, "_write", 3),
    (module, "destroy", 1),
    (AuditLog, "append", 2),
    (module, "_write", 4),
]


def test_it_goes_on_from_each_step(place: Filled) -> None:
    mine, others, bad = place.rows(0), place.rows(1), len(sealed(place, "quarantine"))
    for owner, name, times in STEPS:
        with killed_after(owner, name, times):
            end(place, stop=lambda: 1)
        kept = [place.rows(0), sealed(place, "quarantine"), sealed(place, "landing")]
        assert has_ring(place.settings, place.company()) or not any(kept), "the keys go last"
        with pytest.raises(
            KeyringError, match="is being shredded: `teei shred --company acme-corp --confirm acme-corp`"
        ):
            KeyRing.open(place.settings, place.company())
    made = end(place)
    assert made.runs_stopped == len(STEPS) - 1, "a stop that nobody could note is not counted"
    assert sum((made.rows or {}).values()) == len(mine)
    assert (made.files or {})["quarantine"] == bad
    assert made.keys["seal"] == 1
    assert (place.rows(0), place.rows(1)) == ({}, others)
    assert holding(place.settings.home, ACME) == {"audit", "keys", "locks", "events"}


@pytest.mark.parametrize("harm", ["lost", "damaged", "rotating"])
def test_keys_that_cannot_be_used_are_no_obstacle(place: Filled, harm: str) -> None:
    ring = tombstone(place.settings, place.company()).with_suffix(".json")
    if harm == "lost":
        ring.unlink()
    elif harm == "damaged":
        ring.write_text("{")
    else:
        rotation = Rotation(2, Stage.MIGRATING, open_store(place.settings).versions())
        Rotations(place.settings.home / "rotation").put(ACME, rotation)
    made = end(place)
    assert bool(made.keys) == (harm == "rotating")
    assert (place.rows(0), ring.exists()) == ({}, False)


def test_a_rotation_of_others_that_was_interrupted_comes_first(place: Filled) -> None:
    rotations = Rotations(place.settings.home / "rotation")
    rotations.put(GLOBEX, Rotation(2, Stage.MIGRATING, open_store(place.settings).versions()))
    with pytest.raises(StoreError, match=r"globex-inc: .*`teei keys rotate --company globex-inc` finishes it"):
        end(place)
    assert has_ring(place.settings, place.company())
    rotations.forget(GLOBEX)
    assert end(place).ended


# --- what it takes along --------------------------------------------------------------------------------------------


def exported(folder: Path) -> dict[str, dict[str, Any]]:
    """All rows of the files by event id; each is of the table that it is called after."""
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    found: dict[str, dict[str, Any]] = {}
    for contract in contracts():
        path = folder / f"{contract.table}.parquet"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        table = pq.read_table(path)
        assert table.schema.equals(arrow_schema(contract))
        found |= {row["event_id"]: row for row in table.to_pylist()}
    assert len(list(folder.iterdir())) == len(contracts())
    return found


EXPORT_STEPS: list[tuple[Any, str, int]] = [(module, "_write", 1), (module, "export", 1), (module, "_write", 2)]


def test_its_events_are_in_files_before_they_go(place: Filled, tmp_path: Path) -> None:
    mine, others, below = place.rows(0), place.rows(1), tmp_path / "exports"
    for owner, name, times in EXPORT_STEPS:
        with killed_after(owner, name, times):
            end(place, export_to=below)
        assert place.rows(0) == mine
    made = end(place)  # and whatever goes on with it knows where to
    assert exported(below / ACME) == mine
    assert made.exported_to == str(below / ACME)
    assert sum((made.exported or {}).values()) == len(mine)
    assert made.remains[-1].startswith(f"In {below / ACME}: its events")
    assert (place.rows(0), place.rows(1)) == ({}, others)
    assert list(AuditLog(place.settings).entries(ACME))[-1]["counts"]["exported"] != "0"


def test_a_folder_that_cannot_be_used_begins_nothing(place: Filled, tmp_path: Path) -> None:
    mine, below = place.rows(0), tmp_path / "exports"
    (below / ACME).mkdir(parents=True)
    (below / ACME / "volunteer_events.parquet").write_bytes(b"of another company that was called so")
    (tmp_path / "file").touch()
    for folder, says in ((below, "holds files already: name another folder"), (tmp_path / "file", "cannot be written")):
        with pytest.raises(UsageError, match=says):
            end(place, export_to=folder)
    assert shredded(place.settings, place.company()) is None
    assert place.rows(0) == mine
    with killed_after(module, "_write", 2):
        end(place)
    with pytest.raises(UsageError, match="acme-corp: its rows may have gone in part: do it without an export"):
        end(place, export_to=tmp_path / "late")


# --- afterwards -----------------------------------------------------------------------------------------------------


def test_who_was_about_to_commit_does_not(place: Filled) -> None:
    late = [worker(place.home, stream) for stream in STREAMS]
    end(place)
    for one in late:
        for outcome in (one.both([DAY]), one.stream([DAY])):
            (bad,) = outcome.bad
            assert "acme-corp: was shredded: take it out of the companies file, or remove" in str(bad.error)
    assert place.rows(0) == {}
    assert holding(place.settings.home, ACME) == {"audit", "keys", "locks", "events"}


def test_nothing_begins_anew_until_the_operator_decides(place: Filled) -> None:
    before = {row["user_id"] for row in place.rows(0).values()}
    end(place)
    companies = load_companies(place.settings)
    with pytest.raises(KeyringError, match="acme-corp: was shredded") as caught:
        plan_request(place.settings, companies, ACME, str(DAY), str(DAY))
    assert caught.value.exit_code == 3
    assert standing(place.settings, place.company()).shredded
    assert place.company() not in [company for company in companies if shredded(place.settings, company) is None]
    with pytest.raises(UsageError, match=r"acme-corp: was shredded at .*/certificates/acme-corp-"):
        end(place)
    tombstone(place.settings, place.company()).unlink()
    assert plan_request(place.settings, companies, ACME, str(DAY), str(DAY))
    assert place.sync() == []
    after = {row["user_id"] for row in place.rows(0).values()}
    assert len(after) == len(before)
    assert after & before <= {None}, "with other keys nobody is who he was"


def test_a_restored_backup_shows_nobody(place: Filled, tmp_path: Path) -> None:
    home, joins = place.settings.home, place.joins()
    before = {row["user_id"] for row in place.rows(0).values()}
    kinds = ("events", "quarantine", "landing", "suppression")
    for kind in kinds:
        shutil.copytree(home / kind, tmp_path / "backup" / kind)
    end(place)
    for kind in kinds:
        shutil.rmtree(home / kind)
        shutil.copytree(tmp_path / "backup" / kind, home / kind)

    assert place.joins() == joins, "which is why the certificate says it"
    texts = "\n".join(texts_on_disk(home / "events")).casefold()
    everybody = people(place.world.companies[0], seed=4)
    assert everybody
    for one in everybody:
        assert one.email.casefold() not in texts
        assert one.full_name.casefold() not in texts
    tombstone(place.settings, place.company()).unlink()
    ring = KeyRing.open(place.settings, place.company())
    candidates = {Pseudonyms.of(ring).person("teei", one.email) for one in everybody}
    assert not candidates & before
    for read in (
        lambda: list(Landing(place.settings).read(ring, ACME, STREAMS[0], DAY) or ()),
        lambda: Quarantine(place.settings).entries(ring, ACME, STREAMS[0], DAY),
        lambda: Suppressions(place.settings).entries(ring, ACME),
    ):
        with pytest.raises(LandingError, match="is damaged"):
            read()


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", [COMPANY_TAG, PARTITION, RANGE_START])
def test_runs_of_a_company_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tag: str) -> None:
    """Queued ones, too, and those of which the process is gone; others go on."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    (tmp_path / "dagster").mkdir()
    statuses = (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.SUCCESS)
    with instance_in(tmp_path) as opened:
        opened.add_dynamic_partitions("company", [ACME, GLOBEX])
        home = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("here"), "__repository__")
        for slug in (ACME, GLOBEX):
            tags = {tag: slug if tag == COMPANY_TAG else f"{slug}|2024-01-15"}
            for status in statuses:
                opened.add_run(
                    dg.DagsterRun(
                        "a_job",
                        make_new_run_id(),
                        status=status,
                        tags=tags,
                        remote_job_origin=RemoteJobOrigin(home, "a_job"),
                    )
                )
    assert stop_company(ACME, 0.1) == 2
    assert (remove_company(ACME), remove_company(ACME)) == (True, False)
    with instance_in(tmp_path) as opened:
        found = sorted((run.tags[tag].partition("|")[0], run.status.value) for run in opened.get_runs())
        assert opened.get_dynamic_partitions("company") == [GLOBEX]
    assert found == [
        (ACME, "CANCELED"),
        (ACME, "CANCELED"),
        (ACME, "SUCCESS"),
        (GLOBEX, "QUEUED"),
        (GLOBEX, "STARTED"),
        (GLOBEX, "SUCCESS"),
    ]


@pytest.fixture
def shell(place: Filled, monkeypatch: pytest.MonkeyPatch) -> Filled:
    """With the home's variables in the environment."""
    for name, value in place.home.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_HOME", str(place.settings.home / "dagster"))
    monkeypatch.chdir(place.home.path)
    return place


SYNC = ["sync", "--company", ACME, "--from", str(DAY), "--to", str(DAY)]
SHRED = ["shred", "--company", ACME, "--confirm"]


def test_the_command(shell: Filled, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*SHRED, GLOBEX]) == run(["shred", "--company", "nobody", "--confirm", "nobody"]) == 2
    assert "nothing was destroyed" in capsys.readouterr().err
    assert run([*SHRED, ACME, "--why", "asked by ola.nordmann@acme.example"]) == 2
    assert shell.rows(0)
    assert run(["companies", "sync"]) == 0
    capsys.readouterr()
    assert run([*SHRED, ACME, "--why", "contract ended"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "keys destroyed: pseudonym v1" in shown
    assert "0 ended; partitions removed" in shown
    assert "Destroy those backups, too." in shown
    assert (shell.rows(0), bool(shell.rows(1))) == ({}, True)
    assert run(SYNC) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("teei: acme-corp: was shredded: take it out of the companies file, or remove ")
    assert run([*SHRED, ACME]) == 2
    assert run(["companies", "sync", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["added"] == []
    assert run(["companies", "list", "--json"]) == 0
    assert [(one["partition"], one["shredded"]) for one in json.loads(capsys.readouterr().out)] == [
        (False, True),
        (True, False),
    ]


def test_offboarding(shell: Filled, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    mine = shell.rows(0)
    offboard = ["companies", "offboard", ACME, "--export", str(tmp_path / "exports")]
    assert [run(offboard), run([*offboard, "--confirm", GLOBEX])] == [2, 2]
    assert "--confirm is not the company that is to leave: nothing was done" in capsys.readouterr().err
    assert run(["companies", "offboard", "nobody", "--confirm", "nobody"]) == 2
    assert run([*offboard[:-1], "s3://bucket/exports", "--confirm", ACME]) == 2
    assert "is no folder of this machine" in capsys.readouterr().err
    assert (shell.rows(0), run(["companies", "sync"])) == (mine, 0)
    capsys.readouterr()
    assert run([*offboard, "--confirm", ACME, "--why", "contract ended"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for text in (f"{len(mine)} rows to", "partitions removed", "Now take acme-corp out of the companies file."):
        assert text in shown
    assert (exported(tmp_path / "exports" / ACME), shell.rows(0)) == (mine, {})
    assert run([*offboard, "--confirm", ACME]) == 2
    assert "was shredded at" in capsys.readouterr().err
    with instance_in(shell.settings.home) as opened:
        assert opened.get_dynamic_partitions("company") == [GLOBEX]


@pytest.mark.long
def test_a_run_in_progress_is_ended(
    shell: Filled, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sync in another process, which waits for its source."""
    waiting = threading.Event()

    def never(ask: Ask) -> Reply:
        waiting.wait(60)
        return Reply(b"", 503)

    with answering(never) as server:
        for name, value in server.environment(shell.world.companies).items():
            monkeypatch.setenv(name, value)
        process = subprocess.Popen([TEEI, *SYNC], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            eventually(lambda: server.asked, "the sync asks its source")
            assert run([*SHRED, ACME, "--json"]) == 0
            certificate = json.loads(capsys.readouterr().out)
            assert process.wait(20) != 0
        finally:
            waiting.set()
            process.kill()
            process.communicate()
    assert (certificate["runs_stopped"], certificate["partition_removed"]) == (1, True)
    assert shell.rows(0) == {}
    with instance_in(shell.settings.home) as opened:
        assert [one.status.value for one in opened.get_runs()] == ["CANCELED"]
        assert ACME not in opened.get_dynamic_partitions("company")
