"""Where settings come from, what they refuse, and that they say so without the value."""

import base64
import json
import pickle
from datetime import date
from pathlib import Path

import pytest

from teei_ingest.errors import MissingCredentials, SettingsError, TeeiError, UsageError
from teei_ingest.settings import SANDBOX_MASTER_KEY, Settings

KEY = base64.b64encode(bytes(range(32))).decode()


@pytest.fixture(autouse=True)
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh clone's folder, since this one may have a sandbox by now."""
    monkeypatch.setattr("teei_ingest.settings.project_root", lambda: tmp_path / "clone")
    return tmp_path / "clone"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without settings."""
    for name in ("TEEI_HOME", "DAGSTER_HOME", "TEEI_STORE_URI", "TEEI_MAX_RETRIES", "TEEI_MASTER_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_clone_with_nothing_set_lives_in_its_sandbox(clone: Path) -> None:
    settings = Settings.load({})
    assert settings.home == clone / ".teei" / "sandbox"
    assert settings.is_sandbox
    assert settings.store_uri == str(settings.home / "events")
    assert settings.dagster_home == settings.home / "dagster"
    assert settings.start_date == date(2024, 1, 1)
    assert settings.master_key_bytes() == b"sandbox only, never in productio"


def test_an_env_file_ends_the_sandbox(folder: Path, clone: Path) -> None:
    assert Settings.load().is_sandbox
    (folder / ".env").write_text("GOODERA_API_KEY=k\n")
    settings = Settings.load()
    assert settings.home == clone / ".teei"
    assert not settings.is_sandbox


def test_precedence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = folder / "home"
    home.mkdir()
    names = ("TEEI_MAX_RETRIES", "TEEI_READ_TIMEOUT_S", "TEEI_CONNECT_TIMEOUT_S")
    (home / "sandbox.json").write_text(json.dumps({"environment": dict.fromkeys(names, "11")}))
    monkeypatch.setenv("TEEI_READ_TIMEOUT_S", "22")
    monkeypatch.setenv("TEEI_CONNECT_TIMEOUT_S", "22")
    (folder / ".env").write_text("TEEI_HOME=home\nTEEI_CONNECT_TIMEOUT_S=33\nTEEI_RETRY_MAX_S=\n")
    settings = Settings.load()
    assert settings.home == home
    assert (settings.max_retries, settings.read_timeout_s, settings.connect_timeout_s) == (11, 22, 33)
    assert settings.retry_max_s == 10
    assert settings.environ["TEEI_CONNECT_TIMEOUT_S"] == "33"


def test_a_home_with_a_sandbox_file_is_a_sandbox(tmp_path: Path) -> None:
    assert not Settings.load({"TEEI_HOME": str(tmp_path)}).is_sandbox
    (tmp_path / "sandbox.json").write_text('{"environment": {"GOODERA_API_KEY": "k"}}')
    settings = Settings.load({"TEEI_HOME": str(tmp_path)})
    assert settings.is_sandbox
    assert settings.environ["GOODERA_API_KEY"] == "k"


@pytest.mark.parametrize("text", ["", "[]", '{"environment": 3}', "{}"])
def test_a_broken_sandbox_file_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "sandbox.json").write_text(text)
    with pytest.raises(SettingsError, match=r"sandbox\.json is not a sandbox's file"):
        Settings.load({"TEEI_HOME": str(tmp_path)})


def test_an_unreadable_env_file_is_one_line(folder: Path) -> None:
    (folder / ".env").write_bytes(b"A=\xff\xfe\n")
    with pytest.raises(SettingsError, match=r"\.env in the working folder"):
        Settings.load()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TEEI_MAX_RETRIES", "geheim"),
        ("TEEI_MAX_RETRIES", "-1"),
        ("TEEI_START_DATE", "2024-13-01"),
        ("TEEI_READ_TIMEOUT_S", "inf"),
        ("TEEI_QUARANTINE_RATIO", "1.5"),
        ("TEEI_STORE_URI", "s3:/bucket/geheim"),
        ("TEEI_STORE_URI", "s3:bucket/geheim"),
        ("TEEI_MASTER_KEY", "geheim"),
        ("TEEI_MASTER_KEY", base64.b64encode(bytes(31)).decode()),
        ("TEEI_MASTER_KEY", base64.b64encode(bytes(33)).decode()),
    ],
)
def test_a_bad_value_names_the_variable_and_not_the_value(variable: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load({variable: value})
    text = str(caught.value)
    assert text.startswith(f"{variable}: ")
    assert value not in text
    assert "\n" not in text
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_outside_a_sandbox_the_master_key_has_no_default(tmp_path: Path) -> None:
    home = {"TEEI_HOME": str(tmp_path)}
    respelt = f"{SANDBOX_MASTER_KEY[:-2]}{chr(ord(SANDBOX_MASTER_KEY[-2]) + 1)}="  # in bits that say nothing
    assert base64.b64decode(respelt) == base64.b64decode(SANDBOX_MASTER_KEY)
    published = (SANDBOX_MASTER_KEY, f" {SANDBOX_MASTER_KEY}\n", respelt)
    for environ in (home, *(home | {"TEEI_MASTER_KEY": key} for key in published)):
        settings = Settings.load(environ)
        with pytest.raises(SettingsError, match=r"TEEI_MASTER_KEY.* make one with: python3") as caught:
            settings.master_key_bytes()
        assert caught.value.exit_code == 3
    assert Settings.load(home | {"TEEI_MASTER_KEY": KEY + "\n"}).master_key_bytes() == bytes(range(32))


def test_nothing_secret_in_repr(tmp_path: Path) -> None:
    settings = Settings.load(
        {
            "TEEI_HOME": str(tmp_path),
            "TEEI_MASTER_KEY": KEY,
            "TEEI_PROXY": "http://u:geheim@p",
            "GOODERA_API_KEY": "geheim",
        }
    )
    for text in (repr(settings), str(settings.model_dump())):
        assert "geheim" not in text
        assert KEY not in text


def test_lists_and_uris() -> None:
    settings = Settings.load({"TEEI_PLAINTEXT_HOSTS": "kintell, Buddy.internal", "TEEI_STORE_URI": "s3://b/e"})
    assert settings.plaintext_hosts == ("kintell", "buddy.internal")
    assert settings.store_uri == "s3://b/e"
    assert Settings.load({"TEEI_STORE_URI": "events"}).store_uri == str(Path.cwd() / "events")


def test_every_setting_has_a_description() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.alias and field.alias.isupper(), name


@pytest.mark.parametrize(
    "error",
    [
        UsageError("no such\n day", stream="s"),
        MissingCredentials(["A", "B"], shared=["C"], system="goodera", company="acme-corp"),
    ],
)
def test_errors_survive_pickling(error: TeeiError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__
    assert "\n" not in str(error)


def test_an_error_is_led_by_its_context() -> None:
    error = TeeiError("m", system="benevity", stream="benevity_donations", company="acme-corp")
    assert str(error) == "benevity/benevity_donations acme-corp: m"
    assert str(TeeiError("m", company="acme-corp")) == "acme-corp: m"
    assert str(TeeiError("m")) == "m"


def test_every_error_has_its_own_code() -> None:
    def tree(kind: type[TeeiError]) -> list[type[TeeiError]]:
        return [kind, *(below for sub in kind.__subclasses__() for below in tree(sub))]

    kinds = [kind for kind in tree(TeeiError) if kind.__module__ == "teei_ingest.errors"]
    assert len({kind.code for kind in kinds}) == len(kinds) > 10
    assert {kind.exit_code for kind in kinds} == {1, 2, 3, 4, 5, 70}
