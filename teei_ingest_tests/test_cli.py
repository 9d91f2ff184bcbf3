"""`teei` without Dagster: help, wrong input, settings, what is printed; and the seed service's reply."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from uuid import UUID

import pytest

from teei_ingest.cli.reference import commands, render
from teei_ingest.cli.sync import show_figures
from teei_ingest.companies import Company, load_companies
from teei_ingest.pipeline.days import Window
from teei_ingest.settings import SANDBOX_FILE, SANDBOX_MASTER_KEY, Settings
from teei_ingest.streams import all_streams
from teei_ingest.sync import Figures, Problem, Result, plan_request, reply, retries, stream_named
from teei_ingest_tests.running import Teei

ROOT = Path(__file__).resolve().parent.parent
TEEI = str(Path(sys.executable).parent / "teei")
CLOSED = "http://127.0.0.1:9"
OWN_KEY = "YSB0ZXN0J3Mgb3duIG1hc3RlciBrZXksIDMyIGJ5dGU="


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sandbox's home with a space in its name, and an empty working folder."""
    home = tmp_path / "a home"
    home.mkdir(mode=0o700)
    (home / SANDBOX_FILE).write_text('{"environment": {}}')
    monkeypatch.setenv("TEEI_HOME", str(home))
    monkeypatch.setenv("DAGSTER_HOME", str(home / "dagster"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return home


def one_line(text: str) -> str:
    """The text, which has to be one line of `teei`."""
    lines = text.splitlines()
    assert len(lines) == 1 and lines[0].startswith("teei: "), text
    return lines[0].removeprefix("teei: ")


# --- help and documentation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [words for words, _ in commands()])
def test_every_command_has_help(words: str, teei: Teei) -> None:
    code, out, err = teei(*words.split()[1:], "--help")
    assert (code, err) == (0, "")
    assert f"Usage: {words}" in out
    command = dict(commands())[words]
    assert command.help
    assert all(param.help for param in command.params if param.name != "help"), "an option is not explained"


def test_the_commands_are_those_of_the_design() -> None:
    assert {words.removeprefix("teei ") for words, _ in commands()} >= {
        *("demo", "sandbox", "dev", "env", "init", "companies list", "companies sync"),
        *("sync", "sql", "streams", "health", "doctor"),
    }


def test_every_command_is_documented() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    assert page == render(), "`make docs` writes docs/cli.md anew"
    for words, command in commands():
        section = page.partition(f"## `{words}`\n")[2].partition("\n## ")[0]
        assert section, words
        for param in command.params:
            if param.param_type_name == "option" and param.name != "help":
                assert param.opts[0] in section, f"{words} {param.opts[0]}"


def test_version(teei: Teei) -> None:
    code, out, _ = teei("--version")
    assert code == 0 and re.fullmatch(r"teei \d+\.\d+\.\d+\n", out)


def test_alone_it_shows_its_help(teei: Teei) -> None:
    code, out, err = teei()
    assert code == 2 and "Usage: teei" in out + err and "teei: " not in err


def test_completion_knows_streams_and_companies(place: Path) -> None:
    environment = os.environ | {
        "_TEEI_COMPLETE": "complete_bash",
        "COMP_WORDS": "teei sync --stream buddy_",
        "COMP_CWORD": "3",
    }
    asked = subprocess.run([TEEI], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert asked.stdout.split() == ["buddy_checkins", "buddy_events", "buddy_matches"]
    environment |= {"COMP_WORDS": "teei sync --company gl"}
    asked = subprocess.run([TEEI], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert asked.stdout.split() == ["globex-inc"]


@pytest.mark.parametrize("arguments", [["--help"], ["streams"], ["sql", "SELECT 1"], ["health"], ["env"]])
def test_what_needs_neither_dagster_nor_pandas_does_not_load_them(arguments: list[str], place: Path) -> None:
    loaded = "{'dagster', 'pandas'}.isdisjoint(sys.modules)"
    script = f"import sys; from teei_ingest.cli.app import run; run({arguments!r}); sys.exit(not {loaded})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


# --- wrong input --------------------------------------------------------------------------------------------------

SYNC = ("sync", "--company", "acme-corp", "--from", "2024-01-15", "--to", "2024-01-16")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"--company": "acme"}, "no company 'acme' (did you mean acme-corp?)"),
        ({"--stream": "benevity-volunteer"}, "no stream 'benevity-volunteer' (did you mean benevity_volunteers?)"),
        ({"--stream": "weather"}, "no stream 'weather'; `teei streams` lists all"),
        ({"--from": "15.01.2024"}, "'15.01.2024' is no day: write it as YYYY-MM-DD"),
        ({"--from": "2024-02-30"}, "'2024-02-30' is no day"),
        ({"--from": "20240115"}, "'20240115' is no day"),
        ({"--from": "2024-01-17"}, "the range is reversed: 2024-01-17 comes after 2024-01-16"),
        ({"--from": "2023-12-31"}, "2023-12-31 is before the first day, 2024-01-01 (TEEI_START_DATE)"),
        ({"--to": "9999-12-31"}, "9999-12-31 has not begun"),
        ({"--too": "x"}, "no such option: --too"),
    ],
)
def test_what_does_not_exist_is_one_line(change: dict[str, str], says: str, teei: Teei) -> None:
    asked = dict(zip(SYNC[1::2], SYNC[2::2], strict=True)) | change
    code, out, err = teei("sync", *(word for pair in asked.items() for word in pair))
    assert (code, out) == (2, "")
    assert says in one_line(err)


def test_a_missing_option_and_an_unknown_command_are_one_line(teei: Teei) -> None:
    code, _, err = teei("sync", "--from", "2024-01-15")
    assert code == 2 and one_line(err) == "give --company, or --failed"
    code, _, err = teei("sink")
    assert code == 2 and "no such command 'sink'" in one_line(err)


def test_the_open_day_may_be_synced_and_no_other_after_it(place: Path) -> None:
    settings = Settings.load({"TEEI_HOME": str(place), **goodera("acme-corp"), "GOODERA_API_KEY": "k"})
    companies = load_companies(settings)
    today = date(2024, 3, 1)
    request = plan_request(settings, companies, "acme-corp", "2024-02-29", "2024-03-01", today=today)
    assert request.window == Window(date(2024, 2, 29), today)
    with pytest.raises(Exception, match="2024-03-02 has not begun: the open UTC day is 2024-03-01"):
        plan_request(settings, companies, "acme-corp", "2024-02-29", "2024-03-02", today=today)


def goodera(slug: str, url: str = CLOSED) -> dict[str, str]:
    return {"GOODERA_API_URL": url, f"GOODERA_{slug.upper().replace('-', '_')}_PROJECT_ID": f"project-of-{slug}"}


def test_missing_credentials_are_named(teei: Teei) -> None:
    code, _, err = teei(*SYNC, "--stream", "benevity_volunteers")
    said = one_line(err)
    assert code == 3 and "benevity acme-corp: set BENEVITY_API_URL" in said
    assert "BENEVITY_ACME_CORP_CLIENT_ID" in said and "BENEVITY_ACME_CORP_CLIENT_SECRET" in said
    code, _, err = teei(*SYNC)
    assert code == 3 and "no system has credentials" in one_line(err)


def test_half_set_credentials_are_an_error_before_any_request(teei: Teei, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in goodera("acme-corp").items():
        monkeypatch.setenv(name, value)
    code, _, err = teei(*SYNC)
    assert code == 3 and "set GOODERA_ACME_CORP_API_KEY" in one_line(err)


def test_systems_without_credentials_are_left_out(place: Path) -> None:
    settings = Settings.load({"TEEI_HOME": str(place), **goodera("acme-corp"), "GOODERA_API_KEY": "k"})
    request = plan_request(settings, load_companies(settings), "acme-corp", "2024-01-15", "2024-01-15")
    assert request.streams == ("goodera_donations", "goodera_volunteers")
    assert set(request.left_out) == {"benevity", "workday", "buddy", "kintell", "mentorship", "upskilling"}


def test_streams_are_taken_once_and_in_their_order(place: Path) -> None:
    environment = {"TEEI_HOME": str(place), **goodera("acme-corp"), "GOODERA_API_KEY": "k"}
    settings = Settings.load(environment)
    names = ["goodera_volunteers", "goodera_donations", "goodera_volunteers"]
    request = plan_request(settings, load_companies(settings), "acme-corp", "2024-01-15", "2024-01-15", names)
    assert request.streams == ("goodera_donations", "goodera_volunteers")


def test_a_stream_is_found_by_what_people_type() -> None:
    for typed in ("kintell-sessions", "Kintell_Sessions", "kintell_sessions_events"):
        with pytest.raises(Exception, match=r"did you mean kintell_sessions\?"):
            stream_named(typed)


def test_an_unexpected_error_shows_its_kind_and_nothing_else(teei: Teei, monkeypatch: pytest.MonkeyPatch) -> None:
    record = {"userEmail": "kari.nordmann@acme.example"}

    def broken() -> None:
        raise ValueError(record)

    monkeypatch.setattr("teei_ingest.streams.all_streams", broken)
    code, out, err = teei("streams")
    assert (code, out) == (1, "")
    assert one_line(err) == "unexpected ValueError; the same command with --debug shows where"
    code, out, err = teei("streams", "--debug")
    assert (code, out) == (1, "")
    assert "Traceback" in err and "all_streams()" in err and "kari" not in err


def test_a_package_that_is_missing_is_named(teei: Teei, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("teei_ingest.sandbox")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, _, err = teei("sandbox")
    assert code == 3 and one_line(err).startswith("uvicorn is not installed: `make setup`")


def test_the_process_shows_no_traceback_unless_asked(place: Path) -> None:
    command = [TEEI, *SYNC, "--stream", "weather"]
    quiet = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert quiet.returncode == 2 and "no stream" in one_line(quiet.stderr)
    loud = subprocess.run([*command, "--debug"], capture_output=True, text=True, timeout=60, check=False)
    assert loud.returncode == 2 and loud.stderr.startswith("Traceback") and "no stream" in loud.stderr


# --- what is printed ----------------------------------------------------------------------------------------------


def test_streams(teei: Teei) -> None:
    code, out, _ = teei("streams", "--json")
    rows = json.loads(out)
    assert code == 0 and [row["stream"] for row in rows] == list(all_streams())
    assert rows[0].keys() >= {"system", "endpoint", "eventType", "contract", "table"}
    _, table, _ = teei("streams")
    assert all(name in table for name in all_streams())


def test_sql_in_three_formats(teei: Teei) -> None:
    query = "SELECT 1 AS one, 'a, b' AS two UNION ALL SELECT 2, NULL ORDER BY one"
    code, out, err = teei("sql", query, "--format", "json")
    assert (code, err) == (0, "")
    assert json.loads(out) == [{"one": 1, "two": "a, b"}, {"one": 2, "two": None}]
    _, out, _ = teei("sql", query, "--format", "csv")
    assert list(csv.reader(io.StringIO(out))) == [["one", "two"], ["1", "a, b"], ["2", ""]]
    _, out, _ = teei("sql", query)
    assert "one" in out and "a, b" in out


def test_sql_from_standard_input(teei: Teei, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("SELECT count(*) AS n FROM volunteer_events"))
    _, out, _ = teei("sql", "-", "--format", "json")
    assert json.loads(out) == [{"n": 0}]


def test_sql_wrong(teei: Teei) -> None:
    code, out, err = teei("sql", "SELECT * FROM volunteers")
    assert (code, out) == (2, "") and "did you mean volunteer_events" in one_line(err)


def test_sql_into_a_closed_pipe_is_silent(place: Path) -> None:
    query = "SELECT * FROM range(200000)"
    process = subprocess.Popen([TEEI, "sql", query, "--format", "csv"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr
    process.stdout.read(10)
    process.stdout.close()
    assert (process.wait(60), process.stderr.read()) == (0, b"")
    process.stderr.close()


# --- settings -----------------------------------------------------------------------------------------------------


def test_env_is_what_a_shell_takes(place: Path) -> None:
    script = f'eval "$({TEEI} env)" && printf "%s\\n" "$TEEI_HOME" "$DAGSTER_HOME" "$DAGSTER_MODULE_NAME"'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == [str(place), str(place / "dagster"), "teei_ingest.definitions"]
    config = place / "dagster" / "dagster.yaml"
    assert config.is_symlink() and config.resolve() == ROOT / "dagster.yaml"
    assert stat.S_IMODE((place / "dagster").stat().st_mode) == 0o700


def test_env_leaves_a_config_of_ones_own(teei: Teei, place: Path) -> None:
    (place / "dagster").mkdir()
    own = place / "dagster" / "dagster.yaml"
    own.write_text("telemetry: {enabled: false}\n")
    assert teei("env")[0] == 0
    assert not own.is_symlink() and own.read_text() == "telemetry: {enabled: false}\n"
    own.unlink()
    own.symlink_to(place / "gone")
    assert teei("env")[0] == 0
    assert own.resolve() == ROOT / "dagster.yaml"


@pytest.fixture
def no_variables(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Like a new user's shell; what a command sets of it goes afterwards."""
    with monkeypatch.context() as patch:
        patch.delenv("TEEI_HOME")
        patch.delenv("DAGSTER_HOME")
        yield


def test_init_sets_up_a_real_deployment(teei: Teei, no_variables: None) -> None:
    code, out, err = teei("init", "--company", "tyrell-as", "--name", 'Tyrell "AS"')
    assert (code, err) == (0, "") and "teei doctor" in out
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in Path().iterdir() if path.is_file()} == {
        ".env": 0o600,
        "companies.yaml": 0o600,
    }
    settings = Settings.load()
    assert not settings.is_sandbox and len(settings.master_key_bytes()) == 32
    assert settings.home == Path.cwd() / ".teei" and settings.dagster_home == settings.home / "dagster"
    (company,) = load_companies(settings)
    assert (company.slug, company.name) == ("tyrell-as", 'Tyrell "AS"')
    text = Path(".env").read_text()
    assert "# BENEVITY_TYRELL_AS_CLIENT_SECRET=" in text and "# INTERNAL_TYRELL_AS_API_KEY=" in text
    assert OWN_KEY not in text and SANDBOX_MASTER_KEY not in text


@pytest.mark.parametrize("name", [".env", "companies.yaml"])
def test_init_writes_over_nothing(name: str, teei: Teei) -> None:
    Path(name).write_text("mine")
    code, _, err = teei("init")
    assert code == 2 and f"{name} is there already" in one_line(err)
    assert [path.name for path in Path().iterdir()] == [name] and Path(name).read_text() == "mine"


def test_init_wants_a_slug(teei: Teei) -> None:
    code, _, err = teei("init", "--company", "Acme Corp")
    assert code == 2 and "--company has to be" in one_line(err) and not any(Path().iterdir())


@pytest.mark.parametrize("command", ["sandbox", "demo", "dev"])
def test_no_sandbox_where_real_data_are(command: str, teei: Teei, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEEI_MASTER_KEY", OWN_KEY)
    code, _, err = teei(command)
    assert code == 3 and "set up for real data" in one_line(err)
    monkeypatch.delenv("TEEI_MASTER_KEY")
    (place / SANDBOX_FILE).unlink()
    (place / "events").mkdir()
    code, _, err = teei(command)
    assert code == 3 and "is no sandbox's home" in one_line(err)
    assert sorted(path.name for path in place.iterdir()) == ["events"]


# --- health -------------------------------------------------------------------------------------------------------


def test_health_tells_unconfigured_from_unhealthy(teei: Teei, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = teei("health", "--json")
    found = json.loads(out)
    assert code == 0 and found["summary"]["unconfigured"] == found["summary"]["totalConnectors"] == 21
    for name, value in {**goodera("acme-corp"), "GOODERA_ACME_CORP_API_KEY": "k"}.items():
        monkeypatch.setenv(name, value)
    code, out, _ = teei("health", "--company", "acme-corp", "--json")
    found = json.loads(out)
    assert code == 4 and found["status"] == "unhealthy"
    by_name = {each["name"]: each for each in found["connectors"]}
    assert by_name["goodera"]["status"] == "unhealthy" and "cannot be reached" in by_name["goodera"]["error"]
    assert by_name["goodera"]["type"] == "external" and by_name["buddy"]["status"] == "unconfigured"
    code, out, _ = teei("health", "--company", "acme-corp")
    assert code == 4 and "goodera (acme-corp): " in out and "1 unhealthy, 6 unconfigured" in out


# --- the seed service's reply -------------------------------------------------------------------------------------

DAY = date(2024, 1, 15)


def result(streams: dict[str, Figures], *problems: Problem) -> Result:
    window = Window(DAY, date(2024, 1, 18))
    return Result(
        "acme-corp", window, "run", streams, list(problems), ended=datetime(2024, 11, 17, 12, 0, 0, 999, tzinfo=UTC)
    )


def test_one_stream_gives_the_single_reply() -> None:
    figures = Figures(fetched=47, kept=40, duplicates=2, quarantined=3, out_of_window=2)
    assert reply(result({"benevity_volunteers": figures})) == {
        "success": True,
        "summary": {"volunteers": 40, "donations": 0},
        "metadata": {
            "totalRecords": 47,
            "recordsProcessed": 42,
            "recordsFailed": 3,
            "lastSyncTimestamp": "2024-11-17T12:00:00Z",
        },
        "errors": [],
    }
    assert reply(result({"workday_directory": Figures()}))["summary"] == {"directoryEntries": 0}


def test_several_streams_give_the_reply_of_all() -> None:
    problem = Problem("buddy_events", DAY, "source_down", "cannot be reached")
    found = reply(result({name: Figures(fetched=2, kept=2) for name in all_streams()}, problem))
    assert found["success"] is False and found["summary"] == {"total": 9, "successful": 8, "failed": 1}
    by_name = {each["connector"]: each for each in found["results"]}
    assert set(by_name) == {
        *("benevity-volunteers", "benevity-donations", "goodera-volunteers", "goodera-donations"),
        *("workday-directory", "kintell-enrollments", "upskilling-enrollments", "buddy-data", "mentorship-placements"),
    }
    assert by_name["kintell-enrollments"]["data"]["summary"] == {"enrollments": 2, "sessions": 2}
    assert by_name["kintell-enrollments"]["data"]["metadata"]["totalRecords"] == 4
    buddy = by_name["buddy-data"]
    assert buddy["status"] == "rejected" and list(buddy["data"]["summary"]) == ["matches", "checkins", "events"]
    assert buddy["data"]["errors"] == [
        {"stream": "buddy_events", "day": "2024-01-15", "code": "source_down", "message": "cannot be reached"}
    ]


def test_retries_ask_for_what_failed_and_nothing_else() -> None:
    problems = [
        Problem(stream, date(2024, 1, day), "source_down", "x")
        for stream, days in {"buddy_events": (15, 16, 18), "buddy_matches": (15, 16)}.items()
        for day in days
    ]
    assert retries(result({}, *problems)) == [
        "teei sync --company acme-corp --from 2024-01-15 --to 2024-01-16 --stream buddy_events --stream buddy_matches",
        "teei sync --company acme-corp --from 2024-01-18 --to 2024-01-18 --stream buddy_events",
    ]
    assert retries(result({})) == []


def test_a_company_that_does_not_use_a_system_is_told_so(place: Path, tmp_path: Path) -> None:
    registry = tmp_path / "companies.yaml"
    one = Company(UUID(int=1), "small-as", "Small AS")
    registry.write_text(f"companies: [{{id: {one.id}, slug: {one.slug}, name: {one.name}, systems: [goodera]}}]")
    environment = {"TEEI_HOME": str(place), "TEEI_COMPANIES": str(registry)}
    settings = Settings.load(environment | goodera("small-as") | {"GOODERA_API_KEY": "k"})
    companies = load_companies(settings)
    request = plan_request(settings, companies, "small-as", "2024-01-15", "2024-01-15")
    assert request.streams == ("goodera_donations", "goodera_volunteers") and request.left_out == ()
    with pytest.raises(Exception, match="does not use this system"):
        plan_request(settings, companies, "small-as", "2024-01-15", "2024-01-15", ["buddy_events"])


@pytest.mark.parametrize("columns", ["60", "80", "110", "200"])
def test_no_terminal_is_so_narrow_that_a_figure_is_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    many = {"fetched": 5_430, "kept": 2_947, "quarantined": 29, "out_of_window": 2_454, "suppressed": 1}
    checks = {"checks": 756, "checks_passed": 727, "warnings": 29, "requests": 42}
    show_figures({name: Figures(**many, **checks, seconds=18.0) for name in ("mentorship_placements", "other")})
    out = capsys.readouterr().out
    for figure in ("5,430", "2,947", "2,454", "727/756", "10,860", "5,894", "4,908", "1,454/1,512", "58", "84"):
        assert f" {figure} " in out, figure
