"""`teei token`: made once, kept as a digest, listed without what is secret, revoked; each act in the audit log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from teei_ingest.gateway.tokens import Tokens
from teei_ingest.sandbox.server import SandboxConfig, environment
from teei_ingest.settings import SANDBOX_FILE, Settings
from teei_ingest_tests.running import Teei


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    variables = environment(SandboxConfig(), "http://127.0.0.1:9")
    (home / SANDBOX_FILE).write_text(json.dumps({"environment": variables}))
    monkeypatch.setenv("TEEI_HOME", str(home))
    monkeypatch.setenv("DAGSTER_HOME", str(home / "dagster"))
    monkeypatch.chdir(tmp_path)
    return home


def test_a_token_is_shown_once_and_kept_as_a_digest(teei: Teei, place: Path) -> None:
    code, out, err = teei("token", "create", "--company", "acme-corp", "--scope", "ingest", "--days", "7")
    text = out.strip()
    _, identity, secret = text.split("_")
    assert code == 0 and len(secret) == 64 and identity in err and secret not in err
    files = [path.read_text() for path in place.rglob("*") if path.is_file()]
    assert sum(identity in file for file in files) >= 2 and not any(secret in file for file in files)
    assert (place / "gateway" / "tokens.json").stat().st_mode & 0o077 == 0
    found = Tokens(Settings.load()).find(text)
    assert found is not None and found.covers("acme-corp") and not found.covers("globex-inc")
    assert found.allows("read") and found.allows("ingest")


def test_they_are_listed_and_revoked(teei: Teei, place: Path) -> None:
    made = [
        json.loads(teei("token", "create", *arguments, "--json")[1])
        for arguments in (
            ("--all-companies", "--scope", "read"),
            ("--company", "acme-corp", "--company", "globex-inc", "--scope", "ingest"),
        )
    ]
    code, out, _ = teei("token", "list", "--json")
    listed = json.loads(out)
    assert code == 0 and [one["id"] for one in listed] == [one["id"] for one in made]
    assert [one["companies"] for one in listed] == [[], ["acme-corp", "globex-inc"]]
    assert {one["state"] for one in listed} == {"active"} and not any("digest" in one for one in listed)
    running = Tokens(Settings.load())
    assert running.find(made[0]["token"]) is not None
    assert teei("token", "revoke", made[0]["id"])[0] == 0
    assert running.find(made[0]["token"]) is None and running.find(made[1]["token"]) is not None
    code, out, _ = teei("token", "list")
    assert code == 0 and "revoked" in out and made[1]["token"] not in out
    audit = [json.loads(line) for line in (place / "audit" / "audit.jsonl").read_text().splitlines()]
    assert [one["what"] for one in audit] == ["token create", "token create", "token revoke"]
    assert teei("audit", "verify")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("create", "--scope", "read"), "say for whom"),
        (("create", "--scope", "read", "--company", "acme-corp", "--all-companies"), "say for whom"),
        (("create", "--scope", "read", "--company", "acme"), "did you mean acme-corp?"),
        (("create", "--scope", "write", "--all-companies"), "write"),
        (("create", "--scope", "read", "--all-companies", "--days", "0"), "--days"),
        (("revoke", "nobody"), "there is no token"),
    ],
)
def test_what_cannot_be(teei: Teei, place: Path, arguments: tuple[str, ...], told: str) -> None:
    code, out, err = teei("token", *arguments)
    assert (code, out) == (2, "") and told in err
    assert not (place / "gateway" / "tokens.json").exists()


def test_a_damaged_file_ends_all_tokens(teei: Teei, place: Path) -> None:
    text = teei("token", "create", "--all-companies", "--scope", "read")[1].strip()
    path = place / "gateway" / "tokens.json"
    path.write_text(path.read_text()[:-20])
    code, _, err = teei("token", "list")
    assert code == 3 and "is damaged" in err and text not in err
