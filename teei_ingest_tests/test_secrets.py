"""Credentials from files, Vault and AWS, and a master key that stays outside; against real servers where there is one.

Vault is OpenBao, a process of its own; AWS is moto, asked over HTTP. Tests with either carry the marker `fleet`.
"""

from __future__ import annotations

import base64
import json
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from teei_ingest.cli.app import run
from teei_ingest.companies import SANDBOX_COMPANIES, Companies, load_companies
from teei_ingest.errors import (
    BadCredentials,
    KeyringError,
    MissingCredentials,
    SecretsDown,
    SecretsError,
    SettingsError,
    UsageError,
)
from teei_ingest.extract.http import Source
from teei_ingest.privacy import rotate
from teei_ingest.privacy.audit_log import AuditLog
from teei_ingest.privacy.rotate import rotate_master
from teei_ingest.sandbox.server import SandboxConfig, environment, running
from teei_ingest.settings import Settings
from teei_ingest.vault import keys as keys_module
from teei_ingest.vault.credentials import (
    SystemCredentials,
    key_id,
    refuse_common_accounts,
    renewed,
    resolve,
    status,
    webhook_secrets,
)
from teei_ingest.vault.keys import KeyRing, add_version
from teei_ingest.vault.wrapping import home_key, master_of
from teei_ingest_tests.conftest import MASTER_KEY
from teei_ingest_tests.extracting import SYSTEMS, Answer, Ask, certificate, serving
from teei_ingest_tests.filled import killed_after
from teei_ingest_tests.gateways import in_this_process
from teei_ingest_tests.managers import Aws, Bao, aws, open_bao
from teei_ingest_tests.running import Home, failures
from teei_ingest_tests.together import eventually

ACME, GLOBEX, _ = SANDBOX_COMPANIES
BOTH = Companies([ACME, GLOBEX])
DAY = date(2024, 1, 15)
SECRET = "a-secret-that-nobody-may-see"
OTHER_KEY = base64.b64encode(b"another master key, also 32 byte").decode()
BENEVITY = {
    "BENEVITY_ACME_CORP_CLIENT_ID": "id-of-acme",
    "BENEVITY_ACME_CORP_CLIENT_SECRET": SECRET,
    "BENEVITY_ACME_CORP_TENANT_ID": "t-of-acme",
}
AT_BENEVITY = {"BENEVITY_API_URL": "https://benevity.example"}


def settings_of(environ: dict[str, str], home: Path | None = None) -> Settings:
    quick = {"TEEI_MAX_RETRIES": "1", "TEEI_RETRY_INITIAL_S": "0.01", "TEEI_RETRY_MAX_S": "0.02"}
    return Settings.load({"TEEI_HOME": str(home or "/nowhere"), "TEEI_MASTER_KEY": MASTER_KEY} | quick | environ)


def one_line(error: Exception) -> str:
    """Its text, which is one line and quotes no secret; nor does what it carries along."""
    text = str(error)
    assert "\n" not in text and SECRET not in text
    assert error.__cause__ is None
    context = error.__context__
    assert context is None or error.__suppress_context__
    return text


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_file_has_the_value(tmp_path: Path, ending: str) -> None:
    for name, value in {"master": OTHER_KEY, "secret": f" {SECRET}"}.items():
        (tmp_path / name).write_bytes(f"{value}{ending}".encode())
    settings = Settings.load(
        AT_BENEVITY
        | {name: value for name, value in BENEVITY.items() if "SECRET" not in name}
        | {
            "TEEI_HOME": "/nowhere",
            "TEEI_MASTER_KEY_FILE": str(tmp_path / "master"),
            "BENEVITY_ACME_CORP_CLIENT_SECRET_FILE": str(tmp_path / "secret"),
        }
    )
    assert settings.master_key_bytes() == base64.b64decode(OTHER_KEY)
    assert resolve(settings, BOTH, ACME, "benevity").client_secret == SECRET
    assert settings.environ["BENEVITY_ACME_CORP_CLIENT_SECRET"] == f" {SECRET}", "one line's end is cut, and no more"
    assert SECRET not in repr(settings)
    again = Settings.load(settings.environ)
    assert again.master_key_bytes() == settings.master_key_bytes(), "what was read is read again as it is"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file or directory"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\xff\xfe", "is not UTF-8"),
        ("folder", "Is a directory"),
    ],
)
@pytest.mark.parametrize("variable", ["TEEI_MASTER_KEY", "GOODERA_API_KEY", "VAULT_TOKEN"])
def test_a_file_that_cannot_be_used(tmp_path: Path, variable: str, content: Any, problem: str) -> None:
    path = tmp_path / "value"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        path.mkdir()
    with pytest.raises(SettingsError) as caught:
        Settings.load({f"{variable}_FILE": str(path)})
    assert one_line(caught.value) == f"{variable}_FILE, {path}: {problem}"


def test_a_file_with_a_bad_value_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(SECRET)
    with pytest.raises(SettingsError, match="TEEI_MASTER_KEY: is not base64") as caught:
        Settings.load({"TEEI_MASTER_KEY_FILE": str(tmp_path / "key")})
    one_line(caught.value)


def test_a_value_and_a_file_exclude_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "value").write_text(SECRET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOODERA_API_KEY_FILE", str(tmp_path / "value"))
    assert Settings.load().environ["GOODERA_API_KEY"] == SECRET
    (tmp_path / ".env").write_text("GOODERA_API_KEY=other\n")
    with pytest.raises(SettingsError, match="GOODERA_API_KEY and GOODERA_API_KEY_FILE are both set: take one"):
        Settings.load()
    (tmp_path / ".env").write_text("GOODERA_API_KEY=\n")
    assert Settings.load().environ["GOODERA_API_KEY"] == SECRET, "an empty value counts as absent"


def test_files_of_others_are_left_alone() -> None:
    others = {"SSL_CERT_FILE": "/nowhere/a", "AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere/b", "TEEI_OF_NOBODY_FILE": "/c"}
    environ = Settings.load({"TEEI_HOME": "/nowhere", **others}).environ
    assert environ == {"TEEI_HOME": "/nowhere", **others}


def test_a_file_wins_over_the_sandbox(tmp_path: Path) -> None:
    (tmp_path / "sandbox.json").write_text('{"environment": {"GOODERA_API_KEY": "published"}}')
    (tmp_path / "value").write_text("own")
    given = {"TEEI_HOME": str(tmp_path), "GOODERA_API_KEY_FILE": str(tmp_path / "value")}
    assert Settings.load(given).environ["GOODERA_API_KEY"] == "own"


def test_another_content_is_noticed_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "value"
    path.write_text("one")
    given = {"TEEI_HOME": "/nowhere", "GOODERA_API_KEY_FILE": str(path)}
    kept, short = Settings.load(given), Settings.load(given | {"TEEI_SECRETS_TTL_S": "0"})
    path.write_text("two")
    assert (kept.environ["GOODERA_API_KEY"], short.environ["GOODERA_API_KEY"]) == ("one", "two")
    path.unlink()
    assert "GOODERA_API_KEY" not in short.environ, "which is its company's problem, and not everybody's"
    assert kept.environ["GOODERA_API_KEY"] == "one"
    kept.read_files()
    assert "GOODERA_API_KEY" not in kept.environ


def test_a_refused_value_is_read_anew_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("one")
    own = {"GOODERA_ACME_CORP_PROJECT_ID": "p", "GOODERA_ACME_CORP_API_KEY_FILE": str(path)}
    settings = settings_of({"GOODERA_API_URL": "https://goodera.example", "TEEI_SECRETS_TTL_S": "3600", **own})
    path.write_text("two")
    assert resolve(settings, BOTH, ACME, "goodera").api_key == "one"
    assert renewed(settings, BOTH, ACME, "goodera").api_key == "two"


# --- what is wrong with the settings --------------------------------------------------------------------------------

VAULT = {"TEEI_SECRETS": "vault", "VAULT_ADDR": "https://vault.example", "VAULT_TOKEN": SECRET}


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"VAULT_ADDR": ""}, "set VAULT_ADDR to the address of Vault"),
        ({"VAULT_ADDR": "http://vault.example"}, "VAULT_ADDR has to begin with https://"),
        ({"VAULT_TOKEN": ""}, "set VAULT_TOKEN, or VAULT_ROLE_ID and VAULT_SECRET_ID, to log in at Vault"),
        ({"VAULT_TOKEN": "", "VAULT_ROLE_ID": "r"}, "set VAULT_SECRET_ID, which belongs to VAULT_ROLE_ID"),
        ({"VAULT_TOKEN": "", "VAULT_SECRET_ID": SECRET}, "set VAULT_ROLE_ID, which belongs to VAULT_SECRET_ID"),
        ({"VAULT_ROLE_ID": "r", "VAULT_SECRET_ID": "s"}, "VAULT_TOKEN and VAULT_ROLE_ID are both set"),
    ],
)
def test_a_login_that_is_half_set(environ: dict[str, str], message: str) -> None:
    settings = settings_of(AT_BENEVITY | VAULT | environ)
    with pytest.raises(SecretsError) as caught:
        resolve(settings, BOTH, ACME, "benevity")
    assert one_line(caught.value).startswith(f"benevity acme-corp: {message}")
    assert (caught.value.exit_code, type(caught.value)) == (3, SecretsError)
    found = status(settings, BOTH, ACME, "benevity")
    assert (found.state, found.problem) == ("incomplete", caught.value.message)


@pytest.mark.parametrize(
    ("extra", "package", "key"), [("vault", "hvac", "transit:teei"), ("aws", "boto3", "kms:alias/teei")]
)
def test_an_extra_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, extra: str, package: str, key: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    expected = rf"needs the package {package}: pip install 'teei-ingest\[{extra}\]'"
    with pytest.raises(SecretsError, match=expected) as caught:
        resolve(settings_of(VAULT | {"TEEI_SECRETS": extra}), BOTH, ACME, "benevity")
    one_line(caught.value)
    with pytest.raises(SecretsError, match=expected):
        KeyRing.open(settings_of({"TEEI_MASTER_KEY": key}, tmp_path), ACME)
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.fleet
def test_the_environment_alone_needs_no_manager() -> None:
    code = "import sys; import teei_ingest.vault.credentials; print({'hvac', 'boto3', 'botocore'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize(
    "key",
    [
        *("transit:", "transit:/x", "transit:a b", "transit:../sys/x", "transit:a/.", "transit:å"),
        *("kms:", "kms:?", f"vault:{SECRET}", f"transit:{SECRET}!"),
    ],
)
def test_names_that_no_key_outside_has(key: str) -> None:
    with pytest.raises(SettingsError, match="TEEI_MASTER_KEY: is not base64") as caught:
        Settings.load({"TEEI_MASTER_KEY": key})
    one_line(caught.value)


@pytest.mark.parametrize("variable", ["TEEI_SECRETS_PATH", "TEEI_VAULT_MOUNT", "TEEI_VAULT_APPROLE_MOUNT"])
def test_where_no_secret_is(variable: str) -> None:
    for path in ("a//b", "/a", "a/", "a b", "..", "a/../b", "./a", "å", "a?b", "a#b"):
        with pytest.raises(SettingsError, match=f"{variable}: has to be names of letters"):
            Settings.load({variable: path})
    assert Settings.load({variable: "prod/.teei_2..eu"})


# --- what a reply means, as far as no real server gives it when it is told ------------------------------------------


def vault_at(url: str, **environ: str) -> Settings:
    return settings_of(AT_BENEVITY | VAULT | {"VAULT_ADDR": url, "TEEI_SECRETS_TTL_S": "0"} | environ)


@pytest.mark.parametrize(
    ("answer", "kind", "message", "asked"),
    [
        (Answer.of({"errors": ["Vault is sealed"]}, 503), SecretsDown, "Vault is sealed: unseal it, then try again", 2),
        (Answer.of({"errors": [SECRET]}, 500), SecretsDown, "Vault answers with status 500; try again later", 2),
        (Answer.of({"errors": []}, 429), SecretsDown, "Vault answers with status 429; try again later", 2),
        (Answer.of({"errors": []}, 412), SecretsDown, "Vault answers with status 412; try again later", 2),
        (None, SecretsDown, "cannot be reached, or does not answer; try again later", 2),
        (Answer(307, headers={"Location": "https://other.example/"}), SecretsError, "Vault redirects: set VAULT_", 1),
        (Answer(200, b"<html>" + SECRET.encode()), SecretsError, "is no Vault, or asks for more: check VAULT_", 1),
        (Answer.of({"data": {"data": [SECRET]}}), SecretsError, "is not KV version 2: set TEEI_VAULT_MOUNT", 1),
        (Answer.of({"data": {"data": {"K": 5}}}), SecretsError, r"K in secret/teei/acme-corp .* has to be a text", 1),
        (Answer.of({"errors": [SECRET]}, 403), SecretsError, "refuses VAULT_TOKEN, which has expired or is not", 2),
        (Answer.of({"errors": [SECRET]}, 404), SecretsError, "has no secrets engine at secret/: set TEEI_VAULT", 1),
        (Answer.of({"errors": [SECRET]}, 405), SecretsError, "with status 405 is no Vault", 1),
    ],
)  # fmt: skip
def test_what_vault_may_answer(answer: Answer | None, kind: type[Exception], message: str, asked: int) -> None:
    """Asked again where it may pass, and only there."""
    with serving(lambda ask: answer) as server, pytest.raises(SecretsError, match=message) as caught:
        resolve(vault_at(server.url), BOTH, ACME, "benevity")
    one_line(caught.value)
    assert type(caught.value) is kind
    assert caught.value.exit_code == (4 if kind is SecretsDown else 3)
    assert len(server.asked) == asked
    assert {ask.headers["x-vault-token"] for ask in server.asked} == {SECRET}


def test_each_secret_is_read_once() -> None:
    with serving(lambda ask: Answer.of({"data": {"data": BENEVITY}})) as server:
        settings = vault_at(server.url, TEEI_SECRETS_TTL_S="60")
        refuse_common_accounts(settings, BOTH)
        assert resolve(settings, BOTH, ACME, "benevity").client_secret == SECRET
        assert status(settings, BOTH, GLOBEX, "benevity").state == "unconfigured", "another company's names say nothing"
    assert sorted(ask.path.rsplit("/")[-1] for ask in server.asked) == ["_shared", "acme-corp", "globex-inc"]


def test_no_company_begins_while_another_ones_id_cannot_be_compared() -> None:
    def script(ask: Ask) -> Answer:
        return Answer.of({"errors": []}, 503) if "globex" in ask.path else Answer.of({"data": {"data": BENEVITY}})

    with serving(script) as server:
        for check in (refuse_common_accounts, lambda *given: resolve(*given, ACME, "benevity")):
            with pytest.raises(SecretsDown, match="benevity globex-inc: Vault answers with status 503"):
                check(vault_at(server.url), BOTH)


def test_where_nobody_answers_nobody_waits_twice() -> None:
    with serving(lambda ask: None) as server:
        settings = vault_at(server.url, TEEI_SECRETS_TTL_S="60")
        for company in BOTH:
            for system in ("benevity", "goodera"):
                assert "try again later" in status(settings, BOTH, company, system).problem
    assert len(server.asked) == 2, "one try, and one more"


def test_what_is_in_an_address_is_no_ones_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A netrc, a proxy or a token of the machine's user has no part in it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    (tmp_path / ".vault-token").write_text("a-token-of-the-home")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with serving(lambda ask: Answer.of({"data": {"data": BENEVITY}})) as server:
        assert resolve(vault_at(server.url), BOTH, ACME, "benevity").client_secret == SECRET
    assert all("authorization" not in ask.headers for ask in server.asked)
    assert {ask.headers["x-vault-token"] for ask in server.asked} == {SECRET}


@pytest.mark.fleet
def test_who_waits_for_a_manager_keeps_nobody_else_waiting(home: Callable[..., Home]) -> None:
    """The sender of a webhook is looked up there."""
    asked, go = threading.Event(), threading.Event()
    answer = Answer.of({"data": {"data": {}}})
    answer.wait = go

    def silent(ask: Ask) -> Answer:
        asked.set()
        return answer

    with serving(silent) as vault, ThreadPoolExecutor(1) as threads:
        place = home({"acme-corp": str(ACME.id)}, VAULT | {"VAULT_ADDR": vault.url})
        with in_this_process(place.settings) as calling:
            told = threads.submit(calling, "POST", "/v1/webhooks/benevity", json={"tenant": "t"})
            assert asked.wait(20)
            assert calling.get("/healthz").status_code == 200
            assert not told.done()
            go.set()
            assert told.result().status_code == 401


# --- the real servers -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bao]:
    with open_bao(tmp_path_factory.mktemp("bao")) as server:
        yield server


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    with aws(tmp_path_factory.mktemp("aws")) as server:
        yield server


@pytest.fixture
def empty(request: pytest.FixtureRequest) -> Bao | Aws:
    """One of the managers, with no secret in it."""
    manager: Bao | Aws = request.getfixturevalue(request.param)
    if isinstance(manager, Aws):
        manager.reset()
    else:
        for name in ("acme-corp", "globex-inc", "_shared"):
            manager.remove(name)
    return manager


each = pytest.mark.parametrize("empty", ["bao", "cloud"], indirect=True)


def asking(manager: Bao | Aws, home: Path | None = None, **environ: str) -> Settings:
    return settings_of(AT_BENEVITY | manager.variables() | environ, home)


@pytest.mark.fleet
@each
def test_a_stream_is_read_with_what_a_manager_has(empty: Bao | Aws, home: Callable[..., Home], tmp_path: Path) -> None:
    config = SandboxConfig()
    with running(config) as sandbox:
        everything = environment(config, sandbox.url)
        addresses = {name: value for name, value in everything.items() if value.startswith("http")}
        for company in SANDBOX_COMPANIES:
            own = {name: value for name, value in everything.items() if f"_{company.variable}_" in name}
            empty.put(company.slug, own)
        empty.put("_shared", addresses)
        place = home(config.companies, empty.variables())
        for company in ("acme-corp", "globex-inc"):
            result = place.materialize(company, DAY, DAY, ["benevity_volunteers", "kintell_sessions"])
            assert result.success, failures(result)
    assert place.sql("SELECT count(DISTINCT company) AS n FROM volunteer_events")[0]["n"] == 2
    values = {value for name, value in everything.items() if name.endswith(("_SECRET", "_API_KEY"))}
    assert len(values) > 9
    files = b"".join(path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file())
    assert not [value for value in values if value.encode() in files], "no secret is left on disk"


@pytest.mark.fleet
@each
def test_the_environment_wins_and_groups_come_from_one_place(empty: Bao | Aws) -> None:
    empty.put("acme-corp", BENEVITY | {"BENEVITY_ACME_CORP_WEBHOOK_SECRET": "hook"})
    empty.put("_shared", {"BENEVITY_CLIENT_ID": "shared", "BENEVITY_CLIENT_SECRET": "of all"})
    settings = asking(empty)
    found = resolve(settings, BOTH, ACME, "benevity")
    assert (found.client_id, found.client_secret, found.tenant_id) == ("id-of-acme", SECRET, "t-of-acme")
    assert webhook_secrets(settings, ACME, "benevity") == ("hook",)
    assert webhook_secrets(settings, GLOBEX, "benevity") == ()
    own = {"BENEVITY_ACME_CORP_CLIENT_ID": "nearer", "BENEVITY_ACME_CORP_CLIENT_SECRET": "n"}
    found = resolve(asking(empty, **own), BOTH, ACME, "benevity")
    assert (found.client_id, found.client_secret, found.tenant_id) == ("nearer", "n", "t-of-acme")
    with pytest.raises(MissingCredentials, match="set BENEVITY_ACME_CORP_CLIENT_SECRET in the environment or in "):
        resolve(asking(empty, BENEVITY_ACME_CORP_CLIENT_ID="half"), BOTH, ACME, "benevity")
    empty.put("globex-inc", {"BENEVITY_GLOBEX_INC_TENANT_ID": "t-of-globex"})
    found = resolve(asking(empty), BOTH, GLOBEX, "benevity")
    assert (found.client_id, found.tenant_id) == ("shared", "t-of-globex")
    empty.put("globex-inc", {"BENEVITY_GLOBEX_INC_TENANT_ID": "t-of-acme"})
    with pytest.raises(SettingsError, match="is the same as BENEVITY_"):
        refuse_common_accounts(asking(empty), BOTH)


@pytest.mark.fleet
@each
@pytest.mark.parametrize("missing", [("CLIENT_SECRET",), ("CLIENT_ID",), ("TENANT_ID",), ()])
def test_a_secret_that_is_half_set(empty: Bao | Aws, missing: tuple[str, ...]) -> None:
    """The error of half-set variables, with the place; before any request to the source."""
    names = [f"BENEVITY_ACME_CORP_{name}" for name in missing or ("CLIENT_ID", "CLIENT_SECRET", "TENANT_ID")]
    empty.put("acme-corp", {name: value for name, value in BENEVITY.items() if name not in names} | {"NOTE": "x"})
    where = "secret/teei/acme-corp (Vault)" if isinstance(empty, Bao) else "teei/acme-corp (AWS Secrets Manager)"
    with pytest.raises(MissingCredentials) as caught:
        resolve(asking(empty), BOTH, ACME, "benevity")
    assert one_line(caught.value).startswith(f"benevity acme-corp: set {', '.join(names)} in {where}")
    assert caught.value.names == tuple(names)


@pytest.mark.fleet
@each
def test_a_new_secret_is_noticed_without_a_restart(empty: Bao | Aws) -> None:
    empty.put("acme-corp", BENEVITY)
    short, long = asking(empty, TEEI_SECRETS_TTL_S="0.2"), asking(empty, TEEI_SECRETS_TTL_S="3600")
    other = Settings.load(long.environ)

    def secret(settings: Settings) -> str:
        return resolve(settings, BOTH, ACME, "benevity").client_secret

    assert secret(short) == secret(long) == SECRET
    empty.put("acme-corp", BENEVITY | {"BENEVITY_ACME_CORP_CLIENT_SECRET": "the next"})
    eventually(lambda: secret(short) == "the next", "it is noticed", pause=0.02)
    assert secret(long) == secret(other) == SECRET, "remembered by all of a process"
    assert renewed(long, BOTH, ACME, "benevity").client_secret == "the next"
    assert secret(long) == "the next"


@pytest.mark.fleet
@each
def test_an_account_that_another_company_gets_is_noticed(empty: Bao | Aws) -> None:
    theirs = {name.replace("ACME_CORP", "GLOBEX_INC"): value for name, value in BENEVITY.items()}
    tenant = "BENEVITY_GLOBEX_INC_TENANT_ID"
    empty.put("acme-corp", BENEVITY)
    empty.put("globex-inc", theirs | {tenant: "t-of-globex"})
    short, long = asking(empty, TEEI_SECRETS_TTL_S="0.2"), asking(empty, TEEI_SECRETS_TTL_S="3600")

    def is_refused(settings: Settings) -> bool:
        try:
            resolve(settings, BOTH, ACME, "benevity")
        except SettingsError as error:
            assert f"BENEVITY_ACME_CORP_TENANT_ID is the same as {tenant}" in str(error)
            return True
        return False

    assert not is_refused(short) and not is_refused(long)
    empty.put("globex-inc", theirs)
    eventually(lambda: is_refused(short), "it is noticed", pause=0.02)
    assert not is_refused(long), "remembered by all of a process"
    with pytest.raises(SettingsError, match=f"{tenant} is the same as BENEVITY_ACME_CORP_TENANT_ID"):
        renewed(long, BOTH, GLOBEX, "benevity")
    assert is_refused(long)
    empty.put("globex-inc", theirs | {tenant: "t-of-globex"})
    eventually(lambda: not is_refused(short), "that it is mended, too", pause=0.02)


class Vendor:
    """Takes one key, or one client's secret, and no other."""

    def __init__(self, good: str) -> None:
        self.good = good

    def __call__(self, ask: Ask) -> Answer:
        good = self.given(ask) == self.good
        if ask.method == "POST":
            return Answer.of({"access_token": f"for-{self.good}"}) if good else Answer.of({}, 401)
        return Answer.of({"records": []}) if good else Answer(401)

    @staticmethod
    def given(ask: Ask) -> str:
        """What came with a request."""
        if ask.method == "POST":
            return ask.form["client_secret"][0]
        return ask.headers.get("x-api-key") or ask.headers["authorization"].removeprefix("Bearer for-")


@pytest.mark.fleet
@each
@pytest.mark.parametrize("system", ["benevity", "goodera"])
def test_a_refused_secret_is_read_anew_once(empty: Bao | Aws, tmp_path: Path, system: str) -> None:
    name = {"benevity": "CLIENT_SECRET", "goodera": "API_KEY"}[system]
    own = {f"{system.upper()}_ACME_CORP_{one}": "x" for one in ("CLIENT_ID", "TENANT_ID", "PROJECT_ID")}
    variable = f"{system.upper()}_ACME_CORP_{name}"
    empty.put("acme-corp", own | {variable: "one"})
    vendor = Vendor("one")
    with serving(vendor) as server:
        given = {f"{system.upper()}_API_URL": server.url, "TEEI_SECRETS_TTL_S": "3600"}
        settings = asking(empty, tmp_path / "home", **given)
        credentials = resolve(settings, BOTH, ACME, system)
        again = lambda: renewed(settings, BOTH, ACME, system)  # noqa: E731
        with Source(SYSTEMS[system], credentials, settings, again=again) as source:
            source.get("/list", {})
            vendor.good = "two"
            with pytest.raises(BadCredentials, match=r"refuses .* \(status 401\); renew them"):
                source.get("/list", {})
            before = len(server.asked)
            empty.put("acme-corp", own | {variable: "two"})
            source.get("/list", {})
            assert len(server.asked) - before <= 4
            before = len(server.asked)
            source.get("/list", {})
            assert len(server.asked) == before + 1


@pytest.mark.parametrize("system", ["benevity", "goodera"])
def test_where_nothing_can_be_read_anew_the_refusal_stands(tmp_path: Path, system: str) -> None:
    """And what went before is not sent again."""
    vendor = Vendor("two")
    with serving(vendor) as server:
        one = SystemCredentials(system, "acme-corp", server.url, "x", "one", "one", "t", "p")
        left = [replace(one, client_secret="two", api_key="two")]

        def again() -> SystemCredentials:
            if left:
                return left.pop()
            raise SecretsDown("Vault is sealed")

        with Source(SYSTEMS[system], one, settings_of({}, tmp_path / "home"), again=again) as source:
            source.get("/list", {})
            vendor.good = "three"
            before = len(server.asked)
            with pytest.raises(BadCredentials, match=r"refuses .* \(status 401\); renew them"):
                source.get("/list", {})
    assert {vendor.given(ask) for ask in server.asked[before:]} == {"two"}


@pytest.mark.fleet
@each
def test_nothing_of_a_secret_is_shown(empty: Bao | Aws, caplog: pytest.LogCaptureFixture) -> None:
    empty.put("acme-corp", BENEVITY)
    with caplog.at_level(logging.DEBUG):
        settings = asking(empty)
        found = resolve(settings, BOTH, ACME, "benevity")
    token = settings.environ.get("VAULT_TOKEN", settings.environ.get("AWS_SECRET_ACCESS_KEY", ""))
    for text in (caplog.text, repr(found), repr(settings), repr(status(settings, BOTH, ACME, "benevity"))):
        assert SECRET not in text and token not in text
    for bad in (["not", "texts"], 5, {"deeper": SECRET}):
        empty.put("acme-corp", BENEVITY | {"BENEVITY_ACME_CORP_CLIENT_SECRET": bad})
        with pytest.raises(SecretsError, match=r"_ACME_CORP_CLIENT_SECRET in .* has to be a text") as caught:
            resolve(asking(empty, TEEI_SECRETS_TTL_S="0"), BOTH, ACME, "benevity")
        one_line(caught.value)


@pytest.mark.fleet
@each
def test_doctor(empty: Bao | Aws, home: Callable[..., Home], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    place = home({"acme-corp": str(ACME.id), "globex-inc": str(GLOBEX.id)}, empty.variables() | AT_BENEVITY)
    monkeypatch.chdir(place.path)
    empty.put("acme-corp", {name: value for name, value in BENEVITY.items() if "SECRET" not in name})

    def findings(**environ: str) -> dict[str, list[dict[str, str]]]:
        for name, value in {**place.environ, **environ}.items():
            monkeypatch.setenv(name, value)
        run(["doctor", "--json"])
        found: dict[str, list[dict[str, str]]] = {}
        for one in json.loads(capsys.readouterr().out):
            found.setdefault(one["subject"], []).append(one)
        return found

    found = findings()
    assert [one["state"] for one in found["secrets"]] == ["ok"]
    assert "answers" in found["secrets"][0]["text"]
    (half,) = [one for one in found["credentials"] if one["state"] == "fail"]
    assert half["text"] == "acme-corp: those of benevity cannot be used"
    assert "set BENEVITY_ACME_CORP_CLIENT_SECRET in " in half["remedy"]
    assert any("globex-inc: none of benevity" in one["text"] for one in found["credentials"])
    bad = {"VAULT_TOKEN": "s.unknown"} if isinstance(empty, Bao) else {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    found = findings(**bad)
    assert [one["state"] for one in found["secrets"]] == ["fail"]
    assert "credentials" not in found and "systems" not in found, "said once, and not for every company"
    remedy = found["secrets"][0]["remedy"]
    assert ("renew it" if isinstance(empty, Bao) else "cannot be reached") in remedy


# --- Vault ----------------------------------------------------------------------------------------------------------


@pytest.mark.fleet
def test_sealed_in_the_middle(bao: Bao, home: Callable[..., Home]) -> None:
    config = SandboxConfig()
    with running(config) as sandbox:
        everything = environment(config, sandbox.url)
        bao.put("acme-corp", {name: value for name, value in everything.items() if "_ACME_CORP_" in name})
        addresses = {name: value for name, value in everything.items() if value.startswith("http")}
        quick = {"TEEI_SECRETS_TTL_S": "0", "TEEI_MAX_RETRIES": "1"}
        place = home({"acme-corp": str(ACME.id)}, bao.variables() | addresses | quick)
        assert place.materialize("acme-corp", DAY, DAY, ["benevity_volunteers"]).success
        before = place.sql("SELECT * FROM volunteer_events ORDER BY event_id")
        bao.seal()
        try:
            result = place.materialize("acme-corp", DAY, DAY, ["benevity_volunteers"])
            assert not result.success
            assert "Vault is sealed: unseal it, then try again" in str(failures(result))
            with pytest.raises(SecretsDown, match="Vault is sealed") as caught:
                resolve(place.settings, BOTH, ACME, "benevity")
            one_line(caught.value)
        finally:
            bao.unseal()
        assert place.materialize("acme-corp", DAY, DAY, ["benevity_volunteers"]).success
    assert place.sql("SELECT * FROM volunteer_events ORDER BY event_id") == before


@pytest.mark.fleet
def test_tokens_that_are_good_no_more(bao: Bao) -> None:
    bao.put("acme-corp", BENEVITY)
    settings = asking(bao, TEEI_SECRETS_TTL_S="0")
    assert resolve(settings, BOTH, ACME, "benevity").client_secret == SECRET
    bao.end(settings.environ["VAULT_TOKEN"])
    for wrong in (settings, asking(bao, VAULT_TOKEN="s.never-was")):
        with pytest.raises(SecretsError, match="refuses VAULT_TOKEN, which has expired or is not known there: renew"):
            resolve(wrong, BOTH, ACME, "benevity")
        assert "s.never-was" not in status(wrong, BOTH, ACME, "benevity").problem


@pytest.mark.fleet
def test_a_token_in_a_file_is_followed(bao: Bao, tmp_path: Path) -> None:
    """What an agent beside us keeps fresh."""
    bao.put("acme-corp", BENEVITY)
    path, first = tmp_path / "token", bao.token()
    path.write_text(first)
    given = {name: value for name, value in bao.variables().items() if name != "VAULT_TOKEN"}
    settings = settings_of(AT_BENEVITY | given | {"VAULT_TOKEN_FILE": str(path), "TEEI_SECRETS_TTL_S": "0"})
    assert resolve(settings, BOTH, ACME, "benevity").client_secret == SECRET
    path.write_text(bao.token())
    bao.end(first)
    assert resolve(settings, BOTH, ACME, "benevity").client_secret == SECRET


@pytest.mark.fleet
@pytest.mark.parametrize("mount", ["approle", "robots"])
def test_an_approle_logs_in_again(bao: Bao, mount: str) -> None:
    bao.put("acme-corp", BENEVITY)
    role = bao.role(mount)
    given = {"VAULT_TOKEN": "", "TEEI_SECRETS_TTL_S": "0", "TEEI_VAULT_APPROLE_MOUNT": mount, **role}
    settings = asking(bao, **given)
    assert resolve(settings, BOTH, ACME, "benevity").client_secret == SECRET
    bao.end_logins(mount)
    assert resolve(settings, BOTH, ACME, "benevity").client_secret == SECRET
    with pytest.raises(SecretsError, match="refuses VAULT_ROLE_ID and VAULT_SECRET_ID: make a new secret id"):
        resolve(asking(bao, **{**given, "VAULT_SECRET_ID": "unknown"}), BOTH, ACME, "benevity")
    with pytest.raises(SecretsError, match="at auth/elsewhere/: set TEEI_VAULT_APPROLE_MOUNT"):
        resolve(asking(bao, **{**given, "TEEI_VAULT_APPROLE_MOUNT": "elsewhere"}), BOTH, ACME, "benevity")


@pytest.mark.fleet
def test_a_policy_for_one_company_alone(bao: Bao) -> None:
    for company in BOTH:
        own = {name.replace("ACME_CORP", company.variable): value for name, value in BENEVITY.items()}
        bao.put(company.slug, own | {f"BENEVITY_{company.variable}_TENANT_ID": company.slug})
    settings = asking(bao, VAULT_TOKEN=bao.token("acme-corp"))
    assert resolve(settings, BOTH, ACME, "benevity").client_secret == SECRET
    refuse_common_accounts(settings, BOTH)
    with pytest.raises(SecretsError) as caught:
        resolve(settings, BOTH, GLOBEX, "benevity")
    assert one_line(caught.value) == (
        "benevity globex-inc: Vault does not allow us to read secret/teei/globex-inc (Vault): "
        "let the policy of our login do so"
    )


@pytest.mark.fleet
def test_where_the_secrets_are(bao: Bao) -> None:
    bao.remove("acme-corp")
    bao.put("acme-corp", BENEVITY, path="kv/data/deep/er")
    there = asking(bao, TEEI_VAULT_MOUNT="kv", TEEI_SECRETS_PATH="deep/er")
    assert resolve(there, BOTH, ACME, "benevity").client_secret == SECRET
    with pytest.raises(MissingCredentials, match=r"in secret/teei/acme-corp \(Vault\)"):
        resolve(asking(bao), BOTH, ACME, "benevity")
    with pytest.raises(SecretsError, match="Vault has no secrets engine at nowhere/: set TEEI_VAULT_MOUNT"):
        resolve(asking(bao, TEEI_VAULT_MOUNT="nowhere"), BOTH, ACME, "benevity")
    bao.put("acme-corp", {"data": "x"}, path="old/data/teei")
    with pytest.raises(SecretsError, match="is not KV version 2: set TEEI_VAULT_MOUNT"):
        resolve(asking(bao, TEEI_VAULT_MOUNT="old"), BOTH, ACME, "benevity")


@pytest.mark.fleet
def test_a_certificate_has_to_be_trusted(tmp_path: Path) -> None:
    with open_bao(tmp_path, certificate(tmp_path)) as server:
        server.put("acme-corp", BENEVITY)
        given = server.variables()
        assert resolve(settings_of(AT_BENEVITY | given), BOTH, ACME, "benevity").client_secret == SECRET
        for wrong, message in {
            "": "cannot be trusted: set VAULT_CACERT to the authority's certificate",
            str(tmp_path / "none.pem"): "cannot be asked: check VAULT_ADDR, VAULT_CACERT",
        }.items():
            with pytest.raises(SecretsError, match=message) as caught:
                resolve(settings_of(AT_BENEVITY | given | {"VAULT_CACERT": wrong}), BOTH, ACME, "benevity")
            one_line(caught.value)
            assert type(caught.value) is SecretsError


# --- AWS ------------------------------------------------------------------------------------------------------------


@pytest.mark.fleet
def test_secrets_of_aws_that_cannot_be_used(cloud: Aws) -> None:
    cloud.reset()
    settings = asking(cloud, TEEI_SECRETS_TTL_S="0")
    for text in ("", SECRET, f'["{SECRET}"]', f'{{"K": "{SECRET}"'):
        cloud.put("acme-corp", text or " ")
        with pytest.raises(SecretsError, match=r"teei/acme-corp .* has to be a JSON object") as caught:
            resolve(settings, BOTH, ACME, "benevity")
        one_line(caught.value)
    cloud.put("acme-corp", BENEVITY)
    assert resolve(settings, BOTH, ACME, "benevity").client_secret == SECRET
    cloud.remove("acme-corp")
    with pytest.raises(SecretsError, match=r"teei/acme-corp .* is marked to be deleted: restore"):
        resolve(settings, BOTH, ACME, "benevity")


@pytest.mark.fleet
@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"AWS_REGION": ""}, "set AWS_REGION"),
        ({"AWS_ACCESS_KEY_ID": ""}, "set AWS_ACCESS_KEY_ID, which belongs to AWS_SECRET_ACCESS_KEY"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "set AWS_SECRET_ACCESS_KEY, which belongs to AWS_ACCESS_KEY_ID"),
        (
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": SECRET},
            "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, which belongs to AWS_SESSION_TOKEN",
        ),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no credentials, or half of them: set AWS_"),
        ({"AWS_PROFILE": "nobody"}, "there is no such profile: mend AWS_PROFILE"),
        ({"AWS_ENDPOINT_URL": "http://aws.example"}, "AWS_ENDPOINT_URL has to begin with https://"),
        ({"AWS_ENDPOINT_URL_SECRETS_MANAGER": "http://a.example"}, "AWS_ENDPOINT_URL_SECRETS_MANAGER has to begin"),
    ],
)
def test_a_login_at_aws_that_is_half_set(
    cloud: Aws, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], message: str
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(SecretsError, match=message) as caught:
        resolve(asking(cloud, **environ), BOTH, ACME, "benevity")
    one_line(caught.value)
    assert type(caught.value) is SecretsError


def test_the_endpoint_of_a_profile_is_looked_at_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text("[default]\nendpoint_url = http://aws.example\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(SecretsError, match="AWS Secrets Manager: endpoint_url in its profile has to begin with https"):
        resolve(settings_of(Aws("").variables()), BOTH, ACME, "benevity")


AWS_SAYS = [
    ("ThrottlingException", 400, SecretsDown, "AWS Secrets Manager answers with ThrottlingException; try again later"),
    ("InternalServiceError", 500, SecretsDown, "answers with InternalServiceError; try again later"),
    ("", 503, SecretsDown, "try again later"),
    ("ExpiredTokenException", 400, SecretsError, r"refuses us \(ExpiredTokenException\): renew AWS_"),
    ("UnrecognizedClientException", 400, SecretsError, "refuses us"),
    ("AccessDeniedException", 400, SecretsError, "does not allow us to read teei/acme-corp"),
    ("DecryptionFailure", 400, SecretsError, "cannot be decrypted: let our role use its key"),
    ("InvalidParameterException", 400, SecretsError, "cannot be read .InvalidParameterException."),
]


@pytest.mark.fleet
@pytest.mark.parametrize(("code", "http", "kind", "message"), AWS_SAYS)
def test_what_aws_may_answer(code: str, http: int, kind: type[Exception], message: str) -> None:
    """moto asks nobody who he is, and is never overloaded."""
    answer = Answer.of({"__type": code, "Message": SECRET} if code else {}, http)
    with serving(lambda ask: answer) as server, pytest.raises(SecretsError, match=message) as caught:
        resolve(asking(Aws(server.url)), BOTH, ACME, "benevity")
    one_line(caught.value)
    assert type(caught.value) is kind
    assert len(server.asked) == (2 if kind is SecretsDown else 1)


def test_the_name_of_a_key_of_aws_may_come_to_mean_another(tmp_path: Path) -> None:
    """moto says that nobody may use it then."""
    answer = Answer.of({"__type": "IncorrectKeyException", "message": SECRET}, 400)
    with serving(lambda ask: answer) as server:
        settings = settings_of(Aws(server.url).variables() | {"TEEI_MASTER_KEY": "kms:alias/teei"}, tmp_path)
        with pytest.raises(SecretsError, match="kms:alias/teei is another key than it was") as caught:
            master_of(settings).key("AAAA", str(ACME.id))
    one_line(caught.value)


# --- the master key outside -----------------------------------------------------------------------------------------


@pytest.fixture
def outside(bao: Bao, cloud: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Settings]:
    """The settings of one home with a master key, which is `here`, `transit` or `kms`."""
    for manager in (bao, cloud):
        if isinstance(manager, Aws):
            manager.reset()
        for key in ("teei", "other"):
            manager.make_key(key)
    login = {name: value for name, value in (cloud.variables() | bao.variables()).items() if name != "TEEI_SECRETS"}
    masters = {"here": MASTER_KEY, "transit": "transit:teei", "kms": "kms:alias/teei", "other": "transit:transit/other"}

    def make(master: str) -> Settings:
        return settings_of(login | {"TEEI_MASTER_KEY": masters[master]}, tmp_path / "home")

    return make


def opened(settings: Settings) -> list[dict[int, bytes]]:
    return [KeyRing.open(settings, company, create=False).keys("pseudonym") for company in BOTH]


@pytest.mark.fleet
@pytest.mark.parametrize("master", ["transit", "kms"])
def test_a_master_key_that_stays_outside(outside: Callable[[str], Settings], tmp_path: Path, master: str) -> None:
    settings = outside(master)
    rings = [KeyRing.open(settings, company).keys("pseudonym") for company in BOTH]
    assert opened(settings) == rings
    added = add_version(settings, ACME, ["pseudonym"])
    assert opened(settings) == [added.keys("pseudonym"), rings[1]]
    log = AuditLog(settings)
    log.append("keys.rotated", company="acme-corp")
    assert log.verify().intact and len(home_key(settings)) == 32
    credentials = resolve(settings_of(AT_BENEVITY | BENEVITY), BOTH, ACME, "benevity")
    assert key_id(settings, credentials) == key_id(outside(master), credentials)
    with pytest.raises(SettingsError, match="which stays outside"):
        settings.master_key_bytes()
    secret = {key for ring in rings for key in ring.values()} | {home_key(settings)}
    for path in (tmp_path / "home").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not [key for key in secret if key in data or base64.b64encode(key) in data]
            assert path.stat().st_mode & 0o077 == 0
    name = r"(transit:transit|kms:alias)/teei"
    with pytest.raises(KeyringError, match=f"needs another master key: set TEEI_MASTER_KEY to {name}"):
        opened(outside("here"))


@pytest.mark.fleet
@pytest.mark.parametrize("master", ["transit", "kms"])
def test_what_was_wrapped_for_another_company_or_by_another_key_does_not_open(
    outside: Callable[[str], Settings], tmp_path: Path, master: str
) -> None:
    settings = outside(master)
    for company in BOTH:
        KeyRing.open(settings, company)
    acme, globex = (tmp_path / "home" / "keys" / f"{company.id}.json" for company in BOTH)
    whole, other = json.loads(acme.read_text()), json.loads(globex.read_text())
    for wrapped in (other["wrapped"], "", "vault:v1:AAAA", "AAAA", whole["wrapped"][:-8], 5, None):
        acme.write_text(json.dumps(whole | {"wrapped": wrapped}))
        with pytest.raises(KeyringError, match="is damaged: restore it from its backup"):
            KeyRing.open(settings, ACME)
    acme.write_text(json.dumps(whole))
    assert KeyRing.open(settings, ACME)
    home_key(settings)
    (home_file,) = (tmp_path / "home" / "keys").glob("home-*.key")
    found = json.loads(home_file.read_text())
    for damaged in ({"wrapped": whole["wrapped"]}, {"master": "x"}, {"format": "x"}):
        home_file.write_text(json.dumps(found | damaged))
        with pytest.raises(KeyringError, match="is damaged: restore it from its backup"):
            home_key(settings)


STEPS: list[tuple[Any, str, int]] = [
    (AuditLog, "append", 1),
    (keys_module, "_write", 1),
    (rotate, "rewrap", 1),
    (AuditLog, "rekey", 1),
    (AuditLog, "append", 2),
    (rotate, "forget_home_key", 1),
]


@pytest.mark.fleet
@pytest.mark.parametrize(
    "way", [("here", "transit"), ("transit", "here"), ("here", "kms"), ("kms", "here"), ("kms", "transit", "other")]
)
def test_to_and_fro_with_a_kill_at_every_step(
    outside: Callable[[str], Settings], tmp_path: Path, way: tuple[str, ...]
) -> None:
    first = outside(way[0])
    rings = [KeyRing.open(first, company).keys("pseudonym") for company in BOTH]
    AuditLog(first).append("something")
    for before, after in pairwise(way):
        old, new = outside(before), outside(after)
        name = str(new.master_key.get_secret_value() if new.master_key else "")
        for owner, step, times in STEPS:
            with killed_after(owner, step, times):
                rotate_master(old, name, why="yearly")
        assert rotate_master(old, name) == 0
        assert opened(new) == rings
        assert AuditLog(new).verify().intact
        with pytest.raises(KeyringError, match="needs another master key"):
            opened(old)
        left = [path.name for path in (tmp_path / "home" / "keys").glob("home-*.key")]
        assert len(left) == (after != "here"), "the home's key of a master key that went, went"
        with pytest.raises(UsageError, match="the one that is in use"):
            rotate_master(new, name)


# Rotates, and is killed when one step has been done for the first time.
_ROTATE = """
import os, pydoc, signal, sys
from teei_ingest.privacy.rotate import rotate_master
from teei_ingest.settings import Settings
owner, step = pydoc.locate(sys.argv[1]), sys.argv[2]
real = getattr(owner, step)
def last(*given, **more):
    real(*given, **more)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, step, last)
rotate_master(Settings.load(), sys.argv[3])
"""


@pytest.mark.fleet
def test_a_rotation_to_the_outside_is_killed_for_real(outside: Callable[[str], Settings]) -> None:
    """Between two companies, and between the log and the end."""
    old, new = outside("here"), outside("transit")
    rings = [KeyRing.open(old, company).keys("pseudonym") for company in BOTH]
    AuditLog(old).append("something")

    def killed_after_first(owner: str, step: str) -> None:
        command = [sys.executable, "-c", _ROTATE, owner, step, "transit:teei"]
        done = subprocess.run(command, env=old.environ, capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr

    killed_after_first("teei_ingest.vault.keys", "_write")
    for settings in (old, new):
        with pytest.raises(KeyringError, match="needs another master key"):
            opened(settings)
    killed_after_first("teei_ingest.privacy.audit_log.AuditLog", "rekey")
    assert opened(new) == rings
    rotate_master(old, "transit:teei")
    assert opened(new) == rings
    assert AuditLog(new).verify().intact


@pytest.mark.fleet
def test_a_master_key_outside_that_cannot_be_used(
    outside: Callable[[str], Settings], bao: Bao, cloud: Aws, tmp_path: Path
) -> None:
    here, transit, kms = outside("here"), outside("transit"), outside("kms")
    bao.make_key("pair", type="rsa-2048")
    rings = [KeyRing.open(here, company).keys("pseudonym") for company in BOTH]
    before = {path: path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file()}
    for name, message in {
        "transit:nokey": "does not allow us to encrypt with transit:transit/nokey, if there is such a key",
        "transit:nowhere/teei": "does not allow us to encrypt with transit:nowhere/teei, if there is such a key",
        "transit:pair": "Vault has no key transit:transit/pair of type aes256-gcm96: make it",
        "kms:alias/nokey": "AWS KMS has no kms:alias/nokey in this region",
    }.items():
        with pytest.raises(SecretsError, match=message) as caught:
            rotate_master(here, name)
        one_line(caught.value)
    denied = settings_of({**here.environ, "VAULT_TOKEN": bao.token(key="other")}, tmp_path / "home")
    with pytest.raises(SecretsError, match="does not allow us to encrypt with transit:transit/teei"):
        rotate_master(denied, "transit:teei")
    assert before == {path: path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file()}

    rotate_master(here, "transit:teei")
    bao.rotate_key("teei")
    assert opened(transit) == rings, "what an older version of Vault's key wrapped opens still"
    bao.set_key("teei", min_decryption_version=2)
    with pytest.raises(SecretsError, match="opens nothing any more that is so old: lower its min_decryption_version"):
        opened(transit)
    bao.set_key("teei", min_decryption_version=1)
    bao.seal()
    try:
        with pytest.raises(SecretsDown, match="Vault is sealed"):
            opened(transit)
        with pytest.raises(SecretsDown, match="Vault is sealed"):
            rotate_master(transit, "kms:alias/teei")
    finally:
        bao.unseal()
    rotate_master(transit, "kms:alias/teei")
    assert opened(kms) == rings


@pytest.mark.fleet
def test_the_commands_with_a_key_outside(
    bao: Bao, home: Callable[..., Home], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bao.make_key("teei")
    login = {name: value for name, value in bao.variables().items() if name != "TEEI_SECRETS"}
    place = home({"acme-corp": str(ACME.id)}, login)
    KeyRing.open(place.settings, load_companies(place.settings).get("acme-corp"))
    for name, value in {**place.environ, "TEEI_MASTER_KEY_NEW": "transit:teei"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(place.path)
    assert run(["keys", "rotate", "--master", "--why", "yearly"]) == 0
    assert "1 ring is wrapped by the new one" in capsys.readouterr().out
    monkeypatch.setenv("TEEI_MASTER_KEY", "transit:teei")
    assert run(["keys", "status"]) == 0
    assert run(["audit", "verify"]) == 0
    capsys.readouterr()
    run(["doctor", "--json"])
    found = {one["subject"]: one for one in json.loads(capsys.readouterr().out)}
    assert (found["master key"]["state"], found["keys"]["state"]) == ("ok", "ok")
    monkeypatch.setenv("VAULT_TOKEN", "s.unknown")
    assert run(["keys", "status"]) == 3
    assert "refuses VAULT_TOKEN" in capsys.readouterr().out
    run(["doctor", "--json"])
    found = {one["subject"]: one for one in json.loads(capsys.readouterr().out)}
    assert (found["master key"]["state"], found["keys"]["state"]) == ("fail", "fail")
    assert "renew it" in found["master key"]["remedy"]
