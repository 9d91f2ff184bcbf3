"""Credentials by variable, and the companies' keys."""

import base64
import json
import pickle
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pytest

from teei_ingest.companies import SANDBOX_COMPANIES, Companies, Company
from teei_ingest.errors import KeyringError, MissingCredentials, SettingsError, UsageError
from teei_ingest.settings import Settings
from teei_ingest.systems.base import ApiKey, System
from teei_ingest.vault.credentials import key_id, refuse_common_accounts, resolve, status
from teei_ingest.vault.keys import (
    PURPOSES,
    KeyRing,
    add_version,
    destroy,
    has_ring,
    rewrap,
    shredded,
    tombstone,
    versions,
)
from teei_ingest.vault.wrapping import LocalMaster
from teei_ingest_tests.together import ready, tell

ACME, GLOBEX, INITECH = SANDBOX_COMPANIES
ZENITH = System("zenith", "Zenith", "external", "ZENITH_API_URL", ApiKey("X-Key"), "project_id", 100, "zenith")
ALONE = Companies([ACME])
ALL = Companies(SANDBOX_COMPANIES)
MASTER, OTHER = bytes(range(32)), bytes(range(1, 33))
MASTERS = LocalMaster(MASTER), LocalMaster(OTHER)

BENEVITY = {
    "BENEVITY_API_URL": "https://benevity.example/api/",
    "BENEVITY_CLIENT_ID": "id",
    "BENEVITY_CLIENT_SECRET": "geheim",
    "BENEVITY_TENANT_ID": "t",
}


def settings_of(environ: dict[str, str], home: Path | None = None, master: bytes = MASTER) -> Settings:
    key = base64.b64encode(master).decode()
    return Settings.load({"TEEI_HOME": str(home or "/nowhere"), "TEEI_MASTER_KEY": key} | environ)


def test_shared_credentials_of_the_only_company() -> None:
    found = resolve(settings_of(BENEVITY), ALONE, ACME, "benevity")
    assert found.base_url == "https://benevity.example/api"
    assert (found.client_id, found.client_secret, found.tenant_id) == ("id", "geheim", "t")
    assert (found.system, found.company, found.api_key, found.company_id) == ("benevity", "acme-corp", "", "")
    assert "geheim" not in repr(found)


def test_a_companys_own_win() -> None:
    own = {
        "BENEVITY_ACME_CORP_CLIENT_ID": "own-id",
        "BENEVITY_ACME_CORP_CLIENT_SECRET": "own-secret",
        "BENEVITY_ACME_CORP_TENANT_ID": "own-t",
        "BENEVITY_ACME_CORP_API_URL": "https://acme.example",
    }
    found = resolve(settings_of(BENEVITY | own), ALL, ACME, "benevity")
    assert (found.client_id, found.client_secret, found.tenant_id) == ("own-id", "own-secret", "own-t")
    assert found.base_url == "https://acme.example"


def test_order_of_internal_keys() -> None:
    environ = {"KINTELL_CONNECTOR_URL": "http://localhost:4000/kintell", "INTERNAL_API_KEY": "shared"}
    assert resolve(settings_of(environ), ALL, ACME, "kintell").api_key == "shared"
    environ["INTERNAL_ACME_CORP_API_KEY"] = "company"
    assert resolve(settings_of(environ), ALL, ACME, "kintell").api_key == "company"
    environ["KINTELL_ACME_CORP_API_KEY"] = " system\n"
    environ["KINTELL_ACME_CORP_CONNECTOR_URL"] = "http://localhost:5000"
    found = resolve(settings_of(environ), ALL, ACME, "kintell")
    assert (found.api_key, found.base_url) == ("system", "http://localhost:5000")
    assert found.company_id == str(ACME.id)
    assert resolve(settings_of(environ), ALL, GLOBEX, "kintell").api_key == "shared"


@pytest.mark.parametrize(
    ("environ", "names", "shared"),
    [
        (
            {},
            (
                "BENEVITY_API_URL",
                "BENEVITY_ACME_CORP_CLIENT_ID",
                "BENEVITY_ACME_CORP_CLIENT_SECRET",
                "BENEVITY_ACME_CORP_TENANT_ID",
            ),
            ("BENEVITY_CLIENT_ID", "BENEVITY_CLIENT_SECRET", "BENEVITY_TENANT_ID"),
        ),
        (BENEVITY | {"BENEVITY_CLIENT_SECRET": " "}, ("BENEVITY_CLIENT_SECRET",), ()),
        # An id of one's own is never used with the shared secret.
        (BENEVITY | {"BENEVITY_ACME_CORP_CLIENT_ID": "x"}, ("BENEVITY_ACME_CORP_CLIENT_SECRET",), ()),
        (BENEVITY | {"BENEVITY_API_URL": ""}, ("BENEVITY_API_URL",), ()),
    ],
)
def test_missing(environ: dict[str, str], names: tuple[str, ...], shared: tuple[str, ...]) -> None:
    with pytest.raises(MissingCredentials) as caught:
        resolve(settings_of(environ), ALONE, ACME, "benevity")
    assert caught.value.names == names
    assert caught.value.shared == shared
    assert str(caught.value).startswith(f"benevity acme-corp: set {', '.join(names)} in ")


def test_a_key_that_is_missing_may_be_that_of_all_internal_systems() -> None:
    with pytest.raises(MissingCredentials) as caught:
        resolve(settings_of({"KINTELL_CONNECTOR_URL": "https://k.example"}), ALONE, ACME, "kintell")
    assert (caught.value.names, caught.value.shared) == (("KINTELL_ACME_CORP_API_KEY",), ("INTERNAL_API_KEY",))


@pytest.mark.parametrize(
    ("system", "prefix", "account"),
    [("benevity", "BENEVITY", "TENANT_ID"), ("workday", "WORKDAY", "TENANT_ID"), ("goodera", "GOODERA", "PROJECT_ID")],
)
def test_accounts_are_never_shared_by_two(system: str, prefix: str, account: str) -> None:
    environ = {
        f"{prefix}_API_URL": "https://a.example",
        f"{prefix}_CLIENT_ID": "i",
        f"{prefix}_CLIENT_SECRET": "s",
        f"{prefix}_API_KEY": "k",
        f"{prefix}_{account}": "t",
    }
    assert resolve(settings_of(environ), ALONE, ACME, system)
    elsewhere = Company(UUID(int=1), "elsewhere", "Elsewhere", systems=("kintell",))
    assert resolve(settings_of(environ), Companies([ACME, elsewhere]), ACME, system)
    with pytest.raises(MissingCredentials) as caught:
        resolve(settings_of(environ), Companies([ACME, GLOBEX]), ACME, system)
    assert caught.value.names == (f"{prefix}_ACME_CORP_{account}",)

    environ |= {f"{prefix}_{c.variable}_{account}": "same" for c in (ACME, GLOBEX)}
    environ[f"{prefix}_INITECH_AB_{account}"] = "other"
    settings = settings_of(environ)
    for company in (ACME, GLOBEX):
        with pytest.raises(SettingsError, match=rf"{prefix}_\w+_{account} is the same as {prefix}_\w+_{account}"):
            resolve(settings, ALL, company, system)
    assert resolve(settings, ALL, INITECH, system)
    with pytest.raises(SettingsError, match="is the same as") as caught_at_start:
        refuse_common_accounts(settings, ALL)
    assert "same," not in str(caught_at_start.value)
    environ[f"{prefix}_GLOBEX_INC_{account}"] = "third"
    refuse_common_accounts(settings_of(environ), ALL)


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://b.example", True),
        ("https://b.example:8443/a/b/", True),
        ("http://127.0.0.1:4000/benevity", True),
        ("http://[::1]:4000", True),
        ("http://localhost", True),
        ("http://inside", True),
        ("http://b.example", False),
        ("http://127.0.0.1.b.example", False),
        ("https://user@b.example", False),
        ("https://u:p@b.example", False),
        ("https://b.example/?a=1", False),
        ("https://b.example/#x", False),
        ("https://b.example?", False),
        ("https://b.example:port", False),
        ("https://[b", False),
        ("https://b.example\\@c.example", False),
        ("https://b .example", False),
        ("https://b.\nexample", False),
        ("ftp://b.example", False),
        ("b.example", False),
        ("https:///path", False),
    ],
)
def test_base_urls(url: str, good: bool) -> None:
    settings = settings_of(BENEVITY | {"BENEVITY_API_URL": url, "TEEI_PLAINTEXT_HOSTS": "inside"})
    if good:
        assert resolve(settings, ALONE, ACME, "benevity").base_url == url.rstrip("/")
    else:
        with pytest.raises(SettingsError, match="BENEVITY_API_URL") as caught:
            resolve(settings, ALONE, ACME, "benevity")
        assert url not in str(caught.value)


@pytest.mark.parametrize("value", ["gehe\r\nim", "gehëim"])
def test_values_that_no_header_carries(value: str) -> None:
    with pytest.raises(SettingsError, match="BENEVITY_CLIENT_SECRET has characters") as caught:
        resolve(settings_of(BENEVITY | {"BENEVITY_CLIENT_SECRET": value}), ALONE, ACME, "benevity")
    assert "gehe" not in str(caught.value)


def test_systems_that_are_not_there() -> None:
    company = Company(UUID(int=1), "solo", "Solo", systems=("goodera",))
    with pytest.raises(UsageError, match="benevity solo: the company does not use this system"):
        resolve(settings_of(BENEVITY), Companies([company]), company, "benevity")
    with pytest.raises(UsageError, match="there is no system 'banevity'"):
        resolve(settings_of(BENEVITY), ALONE, ACME, "banevity")


def test_a_system_of_its_own_shape() -> None:
    company = Company(UUID(int=1), "solo", "Solo", systems=("zenith",))
    environ = {
        "ZENITH_API_URL": "https://z.example",
        "ZENITH_SOLO_API_KEY": "k",
        "ZENITH_SOLO_PROJECT_ID": "p",
    }
    found = resolve(settings_of(environ), Companies([company]), company, ZENITH)
    assert (found.api_key, found.project_id) == ("k", "p")


def test_status() -> None:
    assert status(settings_of(BENEVITY), ALONE, ACME, "benevity").state == "configured"
    only_url = settings_of({"BENEVITY_API_URL": "https://b.example"})
    assert status(only_url, ALONE, ACME, "benevity").state == "unconfigured"
    half = status(settings_of(BENEVITY | {"BENEVITY_CLIENT_SECRET": ""}), ALONE, ACME, "benevity")
    assert (half.state, half.missing) == ("incomplete", ("BENEVITY_CLIENT_SECRET",))
    assert "set BENEVITY_CLIENT_SECRET" in half.problem
    bad_url = status(settings_of(BENEVITY | {"BENEVITY_API_URL": "http://b.example"}), ALONE, ACME, "benevity")
    assert (bad_url.state, bad_url.missing) == ("incomplete", ())
    assert "TEEI_PLAINTEXT_HOSTS" in bad_url.problem
    company = Company(UUID(int=1), "solo", "Solo", systems=("goodera",))
    assert status(settings_of(BENEVITY), Companies([company]), company, "benevity").state == "unconfigured"


def test_key_id_is_that_of_the_key() -> None:
    goodera = {"GOODERA_API_URL": "https://g.example", "GOODERA_API_KEY": "geheim"}
    goodera |= {f"GOODERA_{c.variable}_PROJECT_ID": c.slug for c in SANDBOX_COMPANIES}
    goodera["GOODERA_INITECH_AB_API_KEY"] = "own"
    settings = settings_of(goodera)
    acme, globex, initech = (key_id(settings, resolve(settings, ALL, c, "goodera")) for c in SANDBOX_COMPANIES)
    assert acme == globex != initech
    assert acme == "4ba3c78fc7c753d2", "another one names another file, and the quota of now is forgotten"
    other = settings_of(goodera, master=OTHER)
    assert key_id(other, resolve(other, ALL, ACME, "goodera")) != acme


def ring_file(home: Path, company: Company = ACME) -> Path:
    return home / "keys" / f"{company.id}.json"


def keys(ring: KeyRing) -> dict[str, bytes]:
    return {purpose: ring.key(purpose) for purpose in PURPOSES}


def test_a_ring_is_made_once(tmp_path: Path) -> None:
    settings = settings_of({}, tmp_path / "home")
    ring = KeyRing.open(settings, ACME)
    assert set(keys(ring)) == {"pseudonym", "event_id", "seal", "quarantine", "suppression"}
    assert len(set(keys(ring).values())) == 5
    assert {len(key) for key in keys(ring).values()} == {32}
    assert ring.version("seal") == 1
    assert ring.key("seal", 1) == ring.key("seal")
    assert keys(KeyRing.open(settings, ACME)) == keys(ring)
    assert not set(keys(KeyRing.open(settings, GLOBEX)).values()) & set(keys(ring).values())


def test_rings_are_private(tmp_path: Path) -> None:
    KeyRing.open(settings_of({}, tmp_path / "a" / "home"), ACME)
    for path in (tmp_path / "a").rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
    text = ring_file(tmp_path / "a" / "home").read_text()
    assert base64.b64encode(MASTER).decode() not in text


def test_no_nonce_comes_twice_under_a_master_key(tmp_path: Path) -> None:
    settings = settings_of({}, tmp_path)
    nonces = []
    for company in (ACME, GLOBEX):
        KeyRing.open(settings, company)
        for _ in range(3):
            document = json.loads((tmp_path / "keys" / f"{company.id}.json").read_text())
            nonces += [base64.b64decode(box)[:12] for boxes in document["keys"].values() for box in boxes.values()]
            add_version(settings, company, ["seal"])
    assert len(set(nonces)) == len(nonces) == 2 * (5 + 6 + 7)


def test_a_ring_shows_nothing(tmp_path: Path) -> None:
    ring = KeyRing.open(settings_of({}, tmp_path), ACME)
    assert repr(ring).startswith(f"KeyRing({ACME.id}, ")
    assert repr(ring.key("seal")) not in repr(ring)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(ring)


def test_another_version_is_an_error(tmp_path: Path) -> None:
    ring = KeyRing.open(settings_of({}, tmp_path), ACME)
    with pytest.raises(KeyringError, match="no seal key of version 2"):
        ring.key("seal", 2)


def test_wrong_master_key(tmp_path: Path) -> None:
    KeyRing.open(settings_of({}, tmp_path), ACME)
    with pytest.raises(KeyringError, match="needs another master key: set TEEI_MASTER_KEY") as caught:
        KeyRing.open(settings_of({}, tmp_path, OTHER), ACME)
    assert caught.value.exit_code == 3
    assert caught.value.__context__ is None


def test_lost_keys_are_not_made_anew(tmp_path: Path) -> None:
    settings = settings_of({}, tmp_path)
    with pytest.raises(KeyringError, match="acme-corp: the keys are lost: restore"):
        KeyRing.open(settings, ACME, create=False)
    assert not ring_file(tmp_path).exists()
    KeyRing.open(settings, ACME)
    KeyRing.open(settings, ACME, create=False)


def test_a_ring_keeps_every_version(tmp_path: Path) -> None:
    settings = settings_of({}, tmp_path)
    first = KeyRing.open(settings, ACME)
    second = add_version(settings, ACME, ["pseudonym", "seal"])
    assert versions(settings, ACME) == {
        "pseudonym": 2, "event_id": 1, "seal": 2, "quarantine": 1, "suppression": 1
    }  # fmt: skip
    assert second.keys("pseudonym") == {1: first.key("pseudonym"), 2: second.key("pseudonym")}
    assert second.key("pseudonym") != first.key("pseudonym")
    assert KeyRing.open(settings, ACME).keys("seal") == second.keys("seal")
    assert second.keys("event_id") == first.keys("event_id")
    rewrap(settings, *MASTERS)
    assert KeyRing.open(settings_of({}, tmp_path, OTHER), ACME).keys("pseudonym") == second.keys("pseudonym")


def test_who_holds_a_ring_notices_a_newer_one(tmp_path: Path) -> None:
    settings = settings_of({}, tmp_path)
    held = KeyRing.open(settings, ACME)
    assert held.newest(settings, ACME) is held
    before = ring_file(tmp_path).read_bytes()
    added = add_version(settings, ACME, ["pseudonym"])
    newest = held.newest(settings, ACME, 2)
    assert newest.keys("pseudonym") == added.keys("pseudonym")
    ring_file(tmp_path).write_bytes(before)
    with pytest.raises(KeyringError, match=r"acme-corp: .* is older than the events: restore the newest"):
        held.newest(settings, ACME, 2)
    ring_file(tmp_path).unlink()
    with pytest.raises(KeyringError, match="acme-corp: the keys are lost"):
        held.newest(settings, ACME)
    with pytest.raises(KeyringError, match="acme-corp: the keys are lost"):
        add_version(settings, ACME, ["pseudonym"])


def test_a_version_in_the_middle_cannot_be_taken_away(tmp_path: Path) -> None:
    settings = settings_of({}, tmp_path)
    KeyRing.open(settings, ACME)
    for _ in range(2):
        add_version(settings, ACME, ["pseudonym"])
    document = json.loads(ring_file(tmp_path).read_text())
    for version in ("1", "2"):
        boxes = {number: box for number, box in document["keys"]["pseudonym"].items() if number != version}
        text = json.dumps(document | {"keys": document["keys"] | {"pseudonym": boxes}})
        ring_file(tmp_path).write_text(text)
        for act in (KeyRing.open, versions):
            with pytest.raises(KeyringError, match="is damaged: restore it"):
                act(settings, ACME)


def test_a_sandboxs_later_keys_are_the_same_for_everybody(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sandbox.json").write_text('{"environment": {}}')
        settings = Settings.load({"TEEI_HOME": str(tmp_path / name)})
        KeyRing.open(settings, ACME)
        found.append(add_version(settings, ACME, ["pseudonym"]).keys("pseudonym"))
    assert found[0] == found[1]
    assert len(set(found[0].values())) == 2


def test_keys_that_were_destroyed_are_not_made_anew(tmp_path: Path) -> None:
    settings = settings_of({}, tmp_path)
    KeyRing.open(settings, ACME)
    tombstone(settings, ACME).write_text('{"ended": "2024-06-01T12:00:00Z"}')
    destroy(settings, ACME)
    destroy(settings, ACME)
    assert not has_ring(settings, ACME)
    assert shredded(settings, ACME) == "2024-06-01T12:00:00Z"
    for act in (KeyRing.open, versions):
        with pytest.raises(KeyringError, match="acme-corp: was shredded: take it out of the companies file, or remove"):
            act(settings, ACME)
    tombstone(settings, ACME).write_text("{")
    with pytest.raises(KeyringError, match="is being shredded"):
        KeyRing.open(settings, ACME)
    assert not has_ring(settings, ACME)
    KeyRing.open(settings, GLOBEX)
    assert rewrap(settings, *MASTERS) == 1, "a tombstone is no ring"


def test_keys_cannot_be_swapped(tmp_path: Path) -> None:
    settings = settings_of({}, tmp_path)
    for company in (ACME, GLOBEX):
        KeyRing.open(settings, company)
    path = ring_file(tmp_path)
    whole = path.read_text()
    document = json.loads(whole)
    wrapped = document["keys"]
    for keys_ in (
        wrapped | {"seal": wrapped["quarantine"], "quarantine": wrapped["seal"]},
        wrapped | {"seal": {"2": wrapped["seal"]["1"]}},
        {purpose: boxes for purpose, boxes in wrapped.items() if purpose != "suppression"},
        wrapped | {"seal": {"1": "!"}},
        wrapped | {"seal": {"1": f"{wrapped['seal']['1'][:4]}!{wrapped['seal']['1'][4:]}"}},
    ):
        path.write_text(json.dumps(document | {"keys": keys_}))
        with pytest.raises(KeyringError, match="is damaged: restore it"):
            KeyRing.open(settings, ACME)
    for keys_ in (None, [], {}, wrapped | {"seal": []}, wrapped | {"seal": {"one": wrapped["seal"]["1"]}}):
        path.write_text(json.dumps(document | {"keys": keys_}))
        for act in (KeyRing.open, versions):
            with pytest.raises(KeyringError, match="is damaged: restore it"):
                act(settings, ACME)
    for text in ("", "[]", "{}", whole[:-30], ring_file(tmp_path, GLOBEX).read_text()):
        path.write_text(text)
        with pytest.raises(KeyringError, match="is damaged: restore it"):
            KeyRing.open(settings, ACME)


def test_a_flipped_byte_of_a_key_is_noticed(tmp_path: Path) -> None:
    settings = settings_of({}, tmp_path)
    before = keys(KeyRing.open(settings, ACME))
    path = ring_file(tmp_path)
    whole = path.read_bytes()
    refused = 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        try:
            assert keys(KeyRing.open(settings, ACME)) == before
        except KeyringError:
            refused += 1
    # What may change unseen is white space, the id's text and the mark of the master key.
    assert refused > len(whole) * 0.7


_OPEN_A_RING = """
import sys
from teei_ingest.companies import SANDBOX_COMPANIES
from teei_ingest.settings import Settings
from teei_ingest.vault.keys import KeyRing
settings = Settings.load({"TEEI_HOME": sys.argv[1], "TEEI_MASTER_KEY": sys.argv[2]})
print("ready", flush=True)
sys.stdin.readline()
print(KeyRing.open(settings, SANDBOX_COMPANIES[0]).key("seal").hex(), flush=True)
"""


def test_two_processes_make_one_ring(tmp_path: Path) -> None:
    with ready(_OPEN_A_RING, [(tmp_path, base64.b64encode(MASTER).decode())] * 2) as processes:
        tell(processes)
        found = {process.communicate(timeout=60)[0] for process in processes}
        assert [process.returncode for process in processes] == [0, 0]
    assert found == {KeyRing.open(settings_of({}, tmp_path), ACME).key("seal").hex() + "\n"}


def test_many_threads_make_one_ring(tmp_path: Path) -> None:
    settings = settings_of({}, tmp_path)
    with ThreadPoolExecutor(8) as pool:
        rings = list(pool.map(lambda _: KeyRing.open(settings, ACME).key("seal"), range(16)))
    assert len(set(rings)) == 1


def test_sandboxes_have_the_same_keys(tmp_path: Path) -> None:
    rings = []
    for name in ("one", "two"):
        home = tmp_path / name
        home.mkdir()
        (home / "sandbox.json").write_text('{"environment": {}}')
        settings = Settings.load({"TEEI_HOME": str(home)})
        rings.append(keys(KeyRing.open(settings, ACME)))
        assert keys(KeyRing.open(settings, GLOBEX)) != rings[-1]
        assert ring_file(home).exists()
    assert rings[0] == rings[1]
    # Committed, since everybody's demo ids rest on it.
    assert rings[0]["event_id"].hex() == "801441f59c1b794380bcfaa1ed70e09c405981a95266322b63a1d09a8d982b2e"
    own = settings_of({}, tmp_path / "own")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "sandbox.json").write_text('{"environment": {}}')
    assert keys(KeyRing.open(own, ACME)) != rings[0]


def test_rewrap(tmp_path: Path) -> None:
    old, new = settings_of({}, tmp_path), settings_of({}, tmp_path, OTHER)
    before = [keys(KeyRing.open(old, company)) for company in SANDBOX_COMPANIES]
    assert rewrap(old, *MASTERS) == 3
    assert [keys(KeyRing.open(new, company)) for company in SANDBOX_COMPANIES] == before
    with pytest.raises(KeyringError, match="another master key"):
        KeyRing.open(old, ACME)
    assert rewrap(old, *MASTERS) == 0


def test_rewrap_goes_on_where_it_broke(tmp_path: Path) -> None:
    old, new = settings_of({}, tmp_path), settings_of({}, tmp_path, OTHER)
    KeyRing.open(new, ACME)
    KeyRing.open(old, GLOBEX)
    assert rewrap(old, *MASTERS) == 1
    KeyRing.open(new, GLOBEX)


def test_rewrap_changes_nothing_if_one_ring_does_not_open(tmp_path: Path) -> None:
    third = bytes(32)
    KeyRing.open(settings_of({}, tmp_path), ACME)
    KeyRing.open(settings_of({}, tmp_path, third), GLOBEX)
    before = {path: path.read_bytes() for path in (tmp_path / "keys").glob("*.json")}
    with pytest.raises(KeyringError, match="another master key"):
        rewrap(settings_of({}, tmp_path), *MASTERS)
    assert {path: path.read_bytes() for path in (tmp_path / "keys").glob("*.json")} == before
