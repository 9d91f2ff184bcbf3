"""The audit log: what it holds, that every change of it shows, and that a kill breaks nothing."""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from teei_ingest.cli.app import run
from teei_ingest.errors import AuditError, InternalError, KeyringError, UsageError
from teei_ingest.privacy.audit_log import FIRST, AuditLog, bucket
from teei_ingest.settings import Settings
from teei_ingest_tests.conftest import MASTER_KEY

OTHER_KEY = base64.b64encode(b"another master key, also 32 byte").decode()


def _log(folder: Path, key: str = MASTER_KEY, **environ: str) -> AuditLog:
    return AuditLog(Settings.load({"TEEI_HOME": str(folder), "TEEI_MASTER_KEY": key, **environ}))


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    made = _log(tmp_path)
    for number in range(5):
        made.append("keys.rotated", company="acme-corp", details={"version": number})
    return made


def test_an_entry_says_who_what_and_why_and_counts_in_buckets(tmp_path: Path) -> None:
    log = _log(tmp_path, TEEI_ACTOR="privacy desk")
    assert log.verify() == log.verify()
    assert (log.verify().entries, log.verify().last_hash, log.verify().intact) == (0, FIRST, True)
    entry = log.append("erase.done", company="acme-corp", why=" Ticket  4711 ", counts={"rows": 57, "matches": 0})
    assert entry == next(log.entries())
    assert (entry["seq"], entry["who"], entry["why"], entry["prev"]) == (1, "privacy desk", "Ticket 4711", FIRST)
    assert entry["counts"] == {"rows": "10-99", "matches": "0"}
    log.append("retention")
    assert [one["what"] for one in log.entries("acme-corp")] == ["erase.done"]
    assert log.verify().last_hash == list(log.entries())[-1]["hash"]
    assert (log.path.stat().st_mode & 0o777, log.path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.parametrize(("count", "expected"), [(0, "0"), (1, "1-9"), (9, "1-9"), (10, "10-99"), (100, "100-999")])
def test_buckets(count: int, expected: str) -> None:
    assert bucket(count) == expected


@pytest.mark.parametrize(
    "why", ["kari.nordmann@acme.example asked", "call +47 912 34 567", "t1_" + "0a" * 16, "x" * 501]
)
def test_a_reason_that_names_somebody_is_refused(log: AuditLog, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        log.append("erase.started", why=why)
    assert why not in str(caught.value)
    assert log.verify().entries == 5


def test_a_token_among_the_details_is_refused(log: AuditLog) -> None:
    with pytest.raises(InternalError):
        log.append("erase.done", details={"of": ["h2_" + "0a" * 16]})
    assert log.verify().entries == 5


def _edit(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], lines[2].replace(b'"version":2', b'"version":7'), *lines[3:]]


def _respell(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], lines[2].replace(b'"why":""', b'"why":"x","why":""'), *lines[3:]]


ATTACKS: dict[str, tuple[Callable[[list[bytes]], list[bytes]], int]] = {
    "edited": (_edit, 3),
    "a key twice": (_respell, 3),
    "removed": (lambda lines: [*lines[:2], *lines[3:]], 3),
    "first removed": (lambda lines: lines[1:], 1),
    "swapped": (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], 2),
    "repeated": (lambda lines: [*lines[:2], lines[1], *lines[2:]], 3),
    "tail cut": (lambda lines: lines[:-1], 5),
    "tail cut within a line": (lambda lines: [*lines[:-1], lines[-1][:-9]], 5),
    "all cut": (lambda lines: [], 1),
    "nonsense behind": (lambda lines: [*lines, b'{"seq":6'], 6),
    "last line without its end": (lambda lines: [*lines[:-1], lines[-1][:-1]], 5),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_change_shows_and_nothing_is_written_after_a_cut(log: AuditLog, attack: str) -> None:
    change, line = ATTACKS[attack]
    log.path.write_bytes(b"".join(change(log.path.read_bytes().splitlines(keepends=True))))
    verdict = log.verify()
    assert not verdict.intact
    assert verdict.line == line
    if "cut" in attack or "behind" in attack:
        with pytest.raises(AuditError, match="is broken"):
            log.append("retention")


def test_a_chain_that_was_made_anew_does_not_fit_its_head(log: AuditLog, tmp_path: Path) -> None:
    forged = _log(tmp_path / "forged", OTHER_KEY)
    for number in range(5):
        forged.append("keys.rotated", details={"version": number})
    log.path.write_bytes(forged.path.read_bytes())
    assert "had been written" in log.verify().problem
    log.path.with_name("head.json").write_bytes(forged.path.with_name("head.json").read_bytes())
    assert "another master key" in log.verify().problem


def test_a_missing_or_changed_head_shows(log: AuditLog) -> None:
    head = log.path.with_name("head.json")
    before = json.loads(head.read_bytes())
    head.write_text(json.dumps({**before, "seq": 4}))
    assert "was changed" in log.verify().problem
    head.unlink()
    assert "missing" in log.verify().problem
    with pytest.raises(AuditError, match="missing"):
        log.append("retention")
    log.path.unlink()
    head.write_text(json.dumps(before))
    assert log.verify().line == 1


def test_another_master_key_is_said_and_a_new_one_takes_over(log: AuditLog, tmp_path: Path) -> None:
    other = _log(tmp_path, OTHER_KEY)
    assert "another master key" in other.verify().problem
    assert other.verify().entries == 5
    with pytest.raises(KeyringError, match="TEEI_MASTER_KEY"):
        other.append("retention")
    for _ in range(2):
        other.rekey(base64.b64decode(MASTER_KEY), base64.b64decode(OTHER_KEY))
        assert other.verify().intact
    assert other.append("keys.rotated")["seq"] == 6


@pytest.mark.parametrize("written", [0, 1, 40, -1, None])
def test_a_line_that_a_kill_tore_is_named_and_completed(
    log: AuditLog, monkeypatch: pytest.MonkeyPatch, written: int | None
) -> None:
    def die(self: AuditLog, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data[:written])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(AuditLog, "_write", die)
        log.append("erase.started", company="acme-corp")
    verdict = log.verify()
    assert verdict.intact
    assert (verdict.entries, bool(verdict.torn)) == ((6, False) if written is None else (5, True))
    assert len(list(log.entries())) == verdict.entries
    log.append("retention")
    assert [one["what"] for one in log.entries()][5:] == ["erase.started", "retention"]
    assert log.verify().intact


WRITER = """
import sys, time
from teei_ingest.privacy.audit_log import AuditLog
from teei_ingest.settings import Settings
log = AuditLog(Settings.load({"TEEI_HOME": sys.argv[1], "TEEI_MASTER_KEY": sys.argv[2]}))
while True:
    print(log.append("retention", details={"by": sys.argv[3]})["seq"], flush=True)
    time.sleep(0.02)  # whoever waits for the lock gets a turn
"""


@pytest.mark.long
def test_processes_that_are_killed_while_they_append_lose_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    command = [sys.executable, "-c", WRITER, str(home), MASTER_KEY]
    writers = [subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True) for n in range(4)]
    written: set[int] = set()
    for writer in writers:
        assert writer.stdout is not None
        written.add(int(writer.stdout.readline()))  # it has begun
    for writer in writers:  # those that are left go on where another was killed
        time.sleep(random.uniform(0.05, 0.15))
        os.kill(writer.pid, signal.SIGKILL)
        written.update(map(int, writer.communicate()[0].split("\n")[:-1]))
        assert _log(home).verify().intact
    verdict = _log(home).verify()
    assert verdict.entries >= max(written)
    _log(home).append("retention")
    numbers = [entry["seq"] for entry in _log(home).entries()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(written) > 4


def test_the_commands(log: AuditLog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TEEI_HOME", str(log.path.parent.parent))
    monkeypatch.setenv("TEEI_MASTER_KEY", MASTER_KEY)
    assert run(["audit", "verify"]) == 0
    assert "5 entries" in capsys.readouterr().out
    assert run(["audit", "show", "--company", "globex-inc", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert run(["audit", "show"]) == 0
    assert "keys.rotated" in capsys.readouterr().out
    log.path.write_bytes(log.path.read_bytes()[:-30])
    assert run(["audit", "verify", "--json"]) == AuditError.exit_code
    verdict = json.loads(capsys.readouterr().out)
    assert (verdict["intact"], verdict["line"]) == (False, 5)
