"""The companies file: what it may say, and where an error is found in it."""

from pathlib import Path

import pytest

from teei_ingest.companies import SANDBOX_COMPANIES, SYSTEMS, Companies, load_companies
from teei_ingest.errors import CompaniesFileError, SettingsError, UsageError
from teei_ingest.settings import Settings

ACME = "550e8400-e29b-41d4-a716-446655440000"
GLOBEX = "7d444840-9dc0-41d1-b245-5ffdce74fad2"


def load(tmp_path: Path, text: str) -> Companies:
    path = tmp_path / "companies.yaml"
    path.write_text(text)
    return load_companies(Settings.load({"TEEI_HOME": str(tmp_path), "TEEI_COMPANIES": str(path)}))


def two(first: str = "acme-corp", second: str = "globex-inc", second_id: str = GLOBEX) -> str:
    return f"""companies:
  - id: {ACME}
    slug: {first}
    name: Acme Corp
  - id: {second_id}
    slug: {second}
    name: Globex Inc
"""


def test_a_whole_file(tmp_path: Path) -> None:
    companies = load(
        tmp_path,
        two() + "    systems: [workday, buddy]\n    privacy: {email: mask, allowed_fields: [grade]}\n",
    )
    assert companies.slugs == ("acme-corp", "globex-inc")
    assert len(companies) == 2
    assert "acme-corp" in companies
    acme, globex = companies
    assert str(acme.id) == ACME
    assert (acme.slug, acme.name, acme.systems, acme.privacy) == ("acme-corp", "Acme Corp", SYSTEMS, {})
    assert globex.systems == ("workday", "buddy")
    assert globex.privacy == {"email": "mask", "allowed_fields": ["grade"]}
    assert companies.using("workday") == (acme, globex)
    assert companies.using("kintell") == (acme,)
    assert companies.by_id(GLOBEX.upper()) is globex
    assert companies.by_id(globex.id) is globex
    assert companies.get("acme-corp") is acme
    assert globex.variable == "GLOBEX_INC"


def test_a_slug_that_looks_like_a_number(tmp_path: Path) -> None:
    assert load(tmp_path, two("007", "3m")).slugs == ("007", "3m")


def test_an_unknown_company_says_which_are_known(tmp_path: Path) -> None:
    companies = load(tmp_path, two())
    with pytest.raises(UsageError, match=r"acme_corp.*did you mean acme-corp\?.*acme-corp, globex-inc"):
        companies.get("acme_corp")
    with pytest.raises(UsageError, match="no company with the id"):
        companies.by_id("550e8400-e29b-41d4-a716-446655440001")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "line 1, companies"),
        ("[]", "line 1, the file"),
        ("companies:\n", "line 1, companies"),
        ("companies: []\n", "line 1, companies"),
        ("companys: []\n", "line 1, companys"),
        ("companies:\n  - 3\n", "line 2, a company"),
        ("companies:\n  - id: [\n", "line 3, YAML"),
        ("companies: \x01\n", "line 1, YAML"),
        (two() + "    systems: [workday, banevity]\n", "line 8, systems"),
        (two() + "    systems: workday\n", "line 8, systems"),
        (two() + "    systems: []\n", "line 8, systems"),
        (two() + "    systems: [buddy, buddy]\n", "line 8, systems"),
        (two() + "    privacy: hash\n", "line 8, privacy"),
        (two() + "    privacy: {email: hash, email: mask}\n", "line 8, email"),
        (two() + "    privacy: {email: !!python/object:os.system x}\n", "line 8, privacy"),
        (two() + "    name: Globex\n", "line 8, name"),
        (two() + "    nam: Globex\n", "line 8, nam"),
        (two().replace("    name: Globex Inc\n", ""), "line 5, name"),
        (two().replace("name: Globex Inc", "name:"), "line 7, name"),
        (two().replace("name: Globex Inc", "name: [a]"), "line 7, name"),
        (two(second_id="12"), "line 5, id"),
        (two(second_id=ACME.upper()), "line 5, id"),
        (two(second="acme-corp"), "line 6, slug"),
        (two(second="acme--corp"), "line 6, slug"),
        (two(second="acme-corp-"), "line 6, slug"),
        (two(second="Globex"), "line 6, slug"),
        (two(second="'-'"), "line 6, slug"),
        (two(second="g" * 41), "line 6, slug"),
        (two(second="'a|b'"), "line 6, slug"),
    ],
)
def test_malformed(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(CompaniesFileError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"companies.yaml, {place}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    environ = {"TEEI_HOME": str(tmp_path), "TEEI_COMPANIES": str(tmp_path / "none.yaml")}
    with pytest.raises(CompaniesFileError, match=r"none\.yaml \(TEEI_COMPANIES\): No such file"):
        load_companies(Settings.load(environ))
    (tmp_path / "none.yaml").write_bytes(b"\xff")
    with pytest.raises(CompaniesFileError, match="is not UTF-8"):
        load_companies(Settings.load(environ))


def test_without_a_file(tmp_path: Path) -> None:
    settings = Settings.load({"TEEI_HOME": str(tmp_path)})
    with pytest.raises(SettingsError, match="set TEEI_COMPANIES"):
        load_companies(settings)
    (tmp_path / "sandbox.json").write_text('{"environment": {}}')
    companies = load_companies(settings)
    assert tuple(companies) == SANDBOX_COMPANIES
    assert companies.slugs == ("acme-corp", "globex-inc", "initech-ab")
    assert str(companies.get("acme-corp").id) == ACME
