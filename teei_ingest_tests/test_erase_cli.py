"""`teei erase`: who is meant comes in and never out, counts first, then a question; and what the doctor says."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from teei_ingest.cli import check
from teei_ingest.cli.app import run
from teei_ingest.companies import load_companies
from teei_ingest.errors import StoreError
from teei_ingest.store.tables import Store
from teei_ingest_tests.erasing import KARI, KARI_INTERNAL, all_rows, mentions, pending, people, sync
from teei_ingest_tests.feeding import ACME, Answering, answering, lists
from teei_ingest_tests.running import Home

ERASE = ("erase", "--company", ACME.slug)
Teei = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def server() -> Iterator[Answering]:
    with answering(lists(people())) as served:
        yield served


@pytest.fixture
def place(home: Callable[..., Home], server: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with Kari and Ola in it, which the commands find, and no terminal."""
    made = home({ACME.slug: ACME.id}, server.environment())
    sync(made)
    for name, value in made.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    monkeypatch.chdir(tmp_path)
    return made


@pytest.fixture
def teei(place: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Teei:
    """Carries out `teei erase` in this process, with a standard input: exit code, standard output, standard error."""

    def call(line: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(line))
        code = run([*ERASE, *arguments])
        captured = capsys.readouterr()
        assert KARI not in (captured.out + captured.err).casefold()
        assert KARI_INTERNAL not in captured.out + captured.err
        return code, captured.out, captured.err

    return call


def answers(monkeypatch: pytest.MonkeyPatch, answer: str | None) -> None:
    """What a person types on the terminal; None: there is none."""
    original = Path.open

    def opened(self: Path, *args: Any, **kwargs: Any) -> Any:
        if str(self) != "/dev/tty":
            return original(self, *args, **kwargs)
        if answer is None:
            raise OSError
        return io.StringIO(answer)

    monkeypatch.setattr(Path, "open", opened)


def test_a_dry_run_shows_counts_and_does_nothing(place: Home, teei: Teei) -> None:
    before = all_rows(place)
    code, out, err = teei(KARI, "--dry-run", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert sum(found["rows"].values()) == 7
    code, out, _ = teei(f"kintell {KARI_INTERNAL}\n", "--dry-run")
    assert code == 0
    assert [line.split() for line in out.splitlines() if "buddy_matches" in line] == [["buddy_matches", "1", "1"]]
    assert all_rows(place) == before
    assert not (place.settings.home / "audit").exists()


def test_erased_at_once_with_yes(place: Home, teei: Teei) -> None:
    code, out, err = teei(KARI.upper(), "--yes", "--json", "--why", "request 4711")
    assert code == 0, err
    done = json.loads(out)
    assert sum(done["rows"].values()) == 7
    assert len(done["purged"]) >= 7
    assert mentions(place, KARI) == 0
    assert all_rows(place)
    code, out, _ = teei(KARI, "--yes")
    assert code == 0
    assert "was erased before" in out


@pytest.mark.parametrize("answer", ["n\n", "\n", "", None])
def test_nothing_without_a_yes(place: Home, teei: Teei, monkeypatch: pytest.MonkeyPatch, answer: str | None) -> None:
    answers(monkeypatch, answer)
    before = all_rows(place)
    code, out, err = teei(KARI)
    assert code == 2
    assert ("nothing was done" if answer is not None else "give --yes") in err
    assert out == ""
    assert "buddy_checkins" in err  # the counts were shown
    assert all_rows(place) == before


def test_asked_and_answered(place: Home, teei: Teei, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, "y\n")
    code, out, err = teei(KARI)
    assert code == 0, err
    assert "7 rows, 6 references" in out
    assert mentions(place, KARI) == 0


def test_a_stranger(place: Home, teei: Teei) -> None:
    code, out, _ = teei("stranger@acme.example", "--dry-run")
    assert code == 0
    assert "nothing of this person is here" in out
    code, _, err = teei("stranger@acme.example", "--yes")
    assert code == 2
    assert "--suppress-unknown" in err
    assert "stranger" not in err
    code, out, _ = teei("stranger@acme.example", "--yes", "--suppress-unknown")
    assert code == 0
    assert "0 rows" in out


@pytest.mark.parametrize("line", ["", "\n\n", f"{KARI}\n{KARI}", f"nowhere {KARI_INTERNAL}", "{}"])
def test_a_line_that_names_nobody(place: Home, teei: Teei, line: str) -> None:
    code, out, err = teei(line, "--yes")
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1


@pytest.mark.parametrize("options", ["--resume --undo-suppression", "--undo-suppression --dry-run"])
def test_options_that_exclude_each_other(place: Home, teei: Teei, options: str) -> None:
    assert teei(KARI, "--yes", *options.split())[0] == 2


def test_interrupted_named_by_the_doctor_and_resumed(place: Home, teei: Teei, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise StoreError("no room")

    settings = place.settings
    companies = load_companies(settings)
    assert list(check._erasures(settings, companies)) == []
    with monkeypatch.context() as patch:
        patch.setattr(Store, "purge", fails)
        code, _, err = teei(KARI, "--yes")
    assert code == 5
    assert "--resume" in err
    (finding,) = check._erasures(settings, companies)
    assert (finding.state, finding.remedy) == ("warn", f"teei erase --company {ACME.slug} --resume")
    code, out, _ = teei("", "--resume", "--dry-run", "--json")
    assert json.loads(out)["pending"] == 1

    code, out, err = teei("", "--resume", "--yes")

    assert code == 0, err
    assert pending(place) == 0
    (finding,) = check._erasures(settings, companies)
    assert finding.state == "ok"
    assert "none that is pending" in teei("", "--resume")[1]


def test_undone(place: Home, teei: Teei) -> None:
    assert teei(KARI, "--undo-suppression", "--yes")[0] == 2
    before = all_rows(place)
    assert teei(KARI, "--yes")[0] == 0
    _, out, _ = teei(KARI, "--undo-suppression", "--yes", "--json")
    assert json.loads(out) == {"company": ACME.slug, "undone": True}
    sync(place)
    assert all_rows(place) == before
