"""Changing a company's policy: the file, the versions, who is asked, and stored events brought up to it."""

from __future__ import annotations

import difflib
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer

from teei_ingest.cli.app import run
from teei_ingest.companies import load_companies
from teei_ingest.errors import CompaniesFileError, UsageError
from teei_ingest.privacy import policies
from teei_ingest.privacy.audit_log import AuditLog
from teei_ingest.redact.policy import Policy, policy_for
from teei_ingest.settings import SANDBOX_FILE, Settings
from teei_ingest_tests.conftest import MASTER_KEY
from teei_ingest_tests.feeding import ACME, Answering, always, answering, lists, record, stored
from teei_ingest_tests.running import Home

REGISTRY = """\
# The companies; a new one needs no deploy.
companies:
  - id: 550e8400-e29b-41d4-a716-446655440000  # never changed
    slug: acme-corp
    name: "Acme: the corporation"
    systems: [benevity, buddy]  # no more
    privacy:
      # agreed in 2023
      email: mask   # instead of hash
      mood: 'remove'
      allowed_fields: [jobTitle, hireDate]  # works council

  - id: 7d444840-9dc0-41d1-b245-5ffdce74fad2
    slug: globex-inc
    name: Globex Inc
    # privacy: {email: hash}
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    file = tmp_path / "companies.yaml"
    file.write_text(REGISTRY)
    variables = {
        "TEEI_HOME": str(tmp_path / "home"),
        "TEEI_COMPANIES": str(file),
        "TEEI_MASTER_KEY": MASTER_KEY,
        "TEEI_ACTOR": "privacy desk",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home" / "dagster"))
    return Settings.load(variables)


def _change(settings: Settings, slug: str = "acme-corp", **wanted: Any) -> policies.Change:
    return policies.plan_change(settings, load_companies(settings), slug, **wanted)


def _file(settings: Settings) -> str:
    assert settings.companies is not None
    return settings.companies.read_text()


def _changed_lines(settings: Settings) -> list[str]:
    lines = difflib.ndiff(REGISTRY.splitlines(), _file(settings).splitlines())
    return [" ".join(line.split()) for line in lines if line[0] in "+-"]  # the column of a comment may move


# --- the file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slug", "wanted", "lines"),
    [
        (
            "acme-corp",
            {"modes": ["email=remove"], "unset": ["mood"]},
            [
                "- email: mask # instead of hash",
                "+ email: remove # instead of hash",
                "- mood: 'remove'",
            ],
        ),
        (
            "acme-corp",
            {"modes": ["label=hash"], "disallow": ["jobTitle"]},
            [
                "- allowed_fields: [jobTitle, hireDate] # works council",
                "+ allowed_fields: [hireDate] # works council",
                "+ label: hash",
            ],
        ),
        (
            "globex-inc",
            {"modes": ["email=remove"]},
            ["+ privacy:", "+ email: remove"],
        ),
    ],
)
def test_a_change_touches_nothing_else_in_the_file(
    settings: Settings, slug: str, wanted: dict[str, Any], lines: list[str]
) -> None:
    change = _change(settings, slug, **wanted)
    policies.carry_out(settings, change, "ticket 17")
    assert sorted(_changed_lines(settings)) == sorted(lines)
    company = load_companies(settings).get(slug)
    assert policy_for(slug, company.privacy).version == change.after.version != change.before.version


def test_what_is_undone_leaves_no_trace(settings: Settings) -> None:
    policies.carry_out(settings, _change(settings, "globex-inc", modes=["mood=remove"]), "")
    policies.carry_out(settings, _change(settings, "globex-inc", unset=["mood"]), "")
    assert _changed_lines(settings) == []


def test_a_privacy_that_companies_share_is_not_edited(settings: Settings) -> None:
    assert settings.companies is not None
    shared = REGISTRY.replace("    privacy:\n      # agreed", "    privacy: &strict\n      # agreed")
    settings.companies.write_text(shared.replace("    # privacy: {email: hash}", "    privacy: *strict"))
    before = _file(settings)
    with pytest.raises(CompaniesFileError, match="by hand"):
        policies.carry_out(settings, _change(settings, modes=["email=remove"]), "")
    assert _file(settings) == before
    assert list(AuditLog(settings).entries()) == []


def test_a_file_that_changed_meanwhile_is_left_alone(settings: Settings) -> None:
    assert settings.companies is not None
    change = _change(settings, modes=["email=remove"])
    settings.companies.write_text(REGISTRY + "# mine\n")
    with pytest.raises(UsageError, match="changed meanwhile"):
        policies.carry_out(settings, change, "")
    assert _file(settings) == REGISTRY + "# mine\n"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"modes": ["email"]}, "is not NAME=MODE"),
        ({"modes": ["email=keep"]}, "`email` is direct and cannot be set to keep"),
        ({"modes": ["shoeSize=remove"]}, "neither a class, a kind nor a field"),
        ({"unset": ["label"]}, "`label` is not set"),
        ({"disallow": ["notes"]}, "`notes` is not among allowed_fields"),
        ({"allow": ["firstName"]}, "`firstName` identifies a person"),
    ],
)
def test_what_cannot_be_set_is_refused(settings: Settings, wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _change(settings, **wanted)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [(9, ("email: mask", "email: hush")), (9, ("email: mask", "e_mail: mask")), (11, ("[jobTitle,", "[shoeSize,"))],
)
def test_an_error_in_the_file_names_line_and_field(settings: Settings, line: int, wrong: tuple[str, str]) -> None:
    assert settings.companies is not None
    settings.companies.write_text(REGISTRY.replace(*wrong))
    with pytest.raises(CompaniesFileError) as caught:
        _change(settings, modes=["label=hash"])
    field = wrong[1].split(":")[0] if ":" in wrong[1] else "allowed_fields"
    assert f"companies.yaml, line {line}, {field}: " in str(caught.value)


def test_a_sandbox_without_a_file_gets_one(tmp_path: Path) -> None:
    (tmp_path / SANDBOX_FILE).write_text('{"environment": {}}')
    settings = Settings.load({"TEEI_HOME": str(tmp_path)})
    before = list(load_companies(settings))
    policies.carry_out(settings, _change(settings, modes=["mood=remove"]), "")
    after = list(load_companies(Settings.load({"TEEI_HOME": str(tmp_path)})))
    assert after[1:] == before[1:]
    assert (after[0].id, after[0].systems) == (before[0].id, before[0].systems)
    assert dict(after[0].privacy) == {"mood": "remove"}


# --- versions and differences ----------------------------------------------------------------------------------------


def test_every_policy_is_remembered_once_with_who_and_when(settings: Settings) -> None:
    first = _change(settings, modes=["email=remove"])
    policies.carry_out(settings, first, "")
    policies.carry_out(settings, _change(settings, modes=["email=mask"]), "")
    known = policies.history(settings, "acme-corp")
    assert [one.version for one in known] == [first.before.version, first.after.version]
    assert [one.policy for one in known] == [first.before, first.after]
    assert {one.who for one in known} == {"privacy desk"}
    file = settings.home / "policies" / "acme-corp.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert policies.history(settings, "globex-inc") == []


def test_differences_name_fields_and_say_what_is_looser() -> None:
    found = policies.differences(Policy({}), policy_for("a", {"email": "remove", "jobTitle": "keep", "mood": "remove"}))
    said = {(one.contract, one.field, str(one.before), str(one.after), one.loosens) for one in found}
    assert said == {
        ("DirectoryEntry", "email", "hash", "remove", False),
        ("DirectoryEntry", "managerEmail", "hash", "remove", False),
        ("DirectoryEntry", "jobTitle", "remove", "keep", True),
        ("PlacementEvent", "jobTitle", "remove", "keep", True),
        ("BuddyCheckinCompleted", "mood", "keep", "remove", False),
    }
    (nested,) = policies.differences(Policy({}), policy_for("a", {"goal": "mask"}))
    assert (nested.contract, nested.field) == ("BuddyCheckinCompleted", "goalProgress[].goal")


@pytest.mark.parametrize(("stricter", "looser"), [("remove", "mask"), ("hash", "tokenize"), ("coarsen", "keep")])
def test_the_order_of_modes(stricter: str, looser: str) -> None:
    order = [mode.value for mode in policies.STRICTEST_FIRST]
    assert order.index(stricter) < order.index(looser)


# --- asking ----------------------------------------------------------------------------------------------------------

LOOSER = ["privacy", "policy", "set", "--company", "globex-inc", "--allow", "jobTitle"]


@pytest.mark.parametrize(("extra", "missing"), [([], "--yes"), (["--why", "ticket 18"], "--yes"), (["--yes"], "--why")])
def test_keeping_more_has_to_be_said_twice(
    settings: Settings, capsys: pytest.CaptureFixture[str], extra: list[str], missing: str
) -> None:
    assert run([*LOOSER, *extra]) == UsageError.exit_code
    assert missing in capsys.readouterr().err
    assert _file(settings) == REGISTRY


def test_keeping_more_is_asked_on_a_terminal_and_audited(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("teei_ingest.cli.privacy._is_terminal", lambda: True)
    monkeypatch.setattr(typer, "confirm", lambda question, **kwargs: False)
    assert run(LOOSER) == UsageError.exit_code
    assert _file(settings) == REGISTRY
    monkeypatch.setattr(typer, "confirm", lambda question, **kwargs: True)
    capsys.readouterr()
    monkeypatch.setattr(typer, "prompt", lambda question, **kwargs: "works council, ticket 18")
    assert run([*LOOSER, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [(one["field"], one["loosens"]) for one in answer["fields"]] == [("jobTitle", True)] * 2
    started, done = AuditLog(settings).entries("globex-inc")
    assert (started["what"], done["what"]) == ("policy.change_started", "policy.changed")
    assert done["why"] == "works council, ticket 18"
    assert done["details"]["loosened"] == ["DirectoryEntry.jobTitle", "PlacementEvent.jobTitle"]


# --- stored events ---------------------------------------------------------------------------------------------------

DAYS = (date(2024, 1, 15), date(2024, 1, 16))


@dataclass
class Place:
    home: Home
    server: Answering
    call: Callable[..., Any]

    def standing(self) -> dict[str, Any]:
        return {one["stream"]: one for one in self.call("privacy", "policy", "show", json=True)["outdated"]}

    def texts(self) -> str:
        """Every value in every file of the tables."""
        files = Path(self.home.settings.store_uri).rglob("*.parquet")
        return "\n".join(str(pq.read_table(file, partitioning=None).to_pylist()) for file in files)


@pytest.fixture
def place(
    home: Callable[..., Home], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Place]:
    with answering(always(b"")) as server:
        made = home({ACME.slug: ACME.id}, server.environment())
        for name, value in {**made.environ, "TEEI_MAX_RETRIES": "0"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("DAGSTER_HOME", str(made.path / "dagster"))

        def call(*words: str, json: bool = False) -> Any:
            from json import loads

            capsys.readouterr()
            code = run([*words, "--company", ACME.slug, *(["--json"] if json else [])])
            told = capsys.readouterr()
            assert code == 0, told.err + told.out
            return loads(told.out) if json else told.out

        yield Place(made, server, call)


def test_stored_events_are_brought_up_to_a_policy(place: Place) -> None:
    def volunteer(number: int, day: date) -> dict[str, Any]:
        changes = {"activityName": f"Forest no. {number}"}
        return record("benevity_volunteers", f"v-{number}", f"{day}T10:00:00Z", changes)

    both = [volunteer(1, DAYS[0]), volunteer(2, DAYS[0]), volunteer(3, DAYS[1])]
    checkins = [record("buddy_checkins", "c-1", f"{DAYS[0]}T10:00:00Z")]
    place.server.answer = lists({"benevity_volunteers": both, "buddy_checkins": checkins})
    streams = ["--stream", "benevity_volunteers", "--stream", "buddy_checkins"]
    place.call("sync", "--from", str(DAYS[0]), "--to", str(DAYS[1]), *streams)
    assert place.standing() == {}
    assert "Forest no. 2" in place.texts()

    place.call("privacy", "policy", "set", "label=hash")
    older = place.standing()
    assert {name: one["partitions"] for name, one in older.items()} == {"benevity_volunteers": 2, "buddy_checkins": 1}
    assert older["benevity_volunteers"]["to"] == str(DAYS[1])
    diff = place.call("privacy", "policy", "diff", json=True)
    assert ("VolunteerEvent", "activityName", "scrub", "hash") in {
        (one["contract"], one["field"], one["before"], one["after"]) for one in diff["fields"]
    }
    assert len(place.call("privacy", "reapply", "--dry-run", json=True)["outdated"]) == 2
    assert "Forest no. 2" in place.texts()

    place.server.answer = lists({"benevity_volunteers": [both[0], both[2]], "buddy_checkins": checkins})  # one is gone
    done = place.call("privacy", "reapply", json=True)
    assert (done["reread"], done["tightened"], done["same"]) == (2, 0, 1), "no check-in has a label"
    rows = stored(place.home, "benevity_volunteers")
    assert len(rows) == 3, "what the source has no more is carried"
    assert all(row["activity_name"].startswith("h1_") for row in rows)
    assert "Forest" not in place.texts(), "nothing of before is left on the disk"
    assert place.standing() == {}

    place.call("privacy", "policy", "set", "label=mask", "mood=remove")
    place.server.answer = always(b"", 500)
    done = place.call("privacy", "reapply", json=True)
    assert (done["reread"], done["tightened"], set(done["reasons"])) == (
        0,
        3,
        {"benevity_volunteers", "buddy_checkins"},
    )
    assert {row["activity_name"] for row in stored(place.home, "benevity_volunteers")} == {"[REDACTED]"}
    assert [row["mood"] for row in stored(place.home, "buddy_checkins")] == [None]
    assert place.standing() == {}
    what = [entry["what"] for entry in AuditLog(place.home.settings).entries(ACME.slug)]
    assert what == ["policy.change_started", "policy.changed", "policy.reapply_started", "policy.reapplied"] * 2


def test_a_person_is_found_by_what_was_said_and_not_written_down(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = record("benevity_volunteers", "v-1", f"{DAYS[0]}T10:00:00Z")
    other = record("benevity_volunteers", "v-2", f"{DAYS[0]}T11:00:00Z", {"userEmail": "x@acme.example", "userId": "X"})
    other |= {"verifiedBy": "Kari.Nordmann@acme.example"}
    place.server.answer = lists({"benevity_volunteers": [mine, other]})
    place.call("sync", "--from", str(DAYS[0]), "--to", str(DAYS[0]), "--stream", "benevity_volunteers")
    for said in ("kari.nordmann@ACME.example\n", "benevity E-10442"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(said))
        answer = place.call("person", json=True)
        row = next(row for row in stored(place.home, "benevity_volunteers") if row["source_id"] == "v-1")
        assert row["user_id"] in answer["tokens"]
        assert answer["streams"] == [{"stream": "benevity_volunteers", "theirs": 1, "refer": 1}]
    log = AuditLog(place.home.settings)
    assert [entry["what"] for entry in log.entries()] == ["person.lookup_started", "person.looked_up"] * 2
    kept = log.path.read_text()
    assert row["user_id"] not in kept
    assert "nordmann" not in kept.casefold()
    monkeypatch.setattr(sys, "stdin", io.StringIO("two\nlines\n"))
    assert run(["person", "--company", ACME.slug]) == UsageError.exit_code
