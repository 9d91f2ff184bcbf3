"""What comes along: the lists agree with the lock, no licence slips in, and no data is no clean report."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from teei_ingest_tests import supply
from teei_ingest_tests.supply import ROOT, Package


def test_the_sbom_is_of_the_lock_and_names_no_index() -> None:
    text = (ROOT / supply.SBOM).read_text()
    document = json.loads(text)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    listed: dict[str, list[str]] = {}
    for component in document["components"]:
        listed.setdefault(component["name"], []).append(component["version"])
        assert component["purl"] == f"pkg:pypi/{component['name']}@{component['version']}"
    assert listed == supply.locked(), "make sbom"
    assert document["metadata"]["component"]["name"] == "teei-ingest"
    assert set(re.findall(r"https?://([^/\"]+)", text)) == {"cyclonedx.org"}


def listed() -> list[Package]:
    rows = re.findall(r"^\| `(\S+)` \| (\S+) \| (.+) \|$", (ROOT / supply.LICENSES).read_text(), re.MULTILINE)
    return [Package(*row) for row in rows]


def test_the_licences_are_of_the_lock_and_allowed() -> None:
    found, locked = listed(), supply.locked()
    assert [one for one in found if one.version not in locked.get(one.name, ())] == [], "make licenses"
    # What is of another system or Python is not installed here.
    assert len(found) > 0.9 * len(locked)
    assert supply.refused(found) == []
    assert supply.table(found) == (ROOT / supply.LICENSES).read_text()


@pytest.mark.parametrize(
    ("license", "allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 AND MIT", True),
        ("Apache Software License; MIT License", True),
        ("GPL-3.0-only OR MIT", True),
        ("GPL-3.0-only", False),
        ("GPL-3.0-only AND MIT", False),
        ("MIT License; GNU Affero General Public License v3", False),
        ("AGPL-3.0-only OR SSPL-1.0", False),
        ("UNKNOWN", False),
        ("", False),
    ],
)
def test_a_licence_is_allowed_or_not(license: str, allowed: bool) -> None:
    package = Package("some-package", "1.0", license)
    assert supply.refused([package]) == ([] if allowed else [package])


def test_an_exception_is_for_one_package_and_one_licence() -> None:
    (name, (license, why)), *_ = supply.EXCEPTIONS.items()
    assert why
    assert supply.refused([Package(name, "1.0", license)]) == []
    for other in (Package("another", "1.0", license), Package(name, "1.0", "AGPL-3.0-only")):
        assert supply.refused([other]) == [other]


def dependency(name: str, **others: Any) -> dict[str, Any]:
    return {"name": name, "version": "1.0", "vulns": [], **others}


UNKNOWN = {"name": "odd", "skip_reason": "not found"}


def test_a_vulnerability_is_a_line_and_what_is_unknown_is_said() -> None:
    bad = dependency(
        "bad", vulns=[{"id": "PYSEC-1", "fix_versions": ["1.1", "2.0"]}, {"id": "X-2", "fix_versions": []}]
    )
    lines, unknown = supply.judged([dependency("good"), bad, UNKNOWN])
    assert lines == ["bad 1.0: PYSEC-1, mended in 1.1, 2.0", "bad 1.0: X-2, mended in no version yet"]
    assert unknown == ["odd"]


def test_knowing_nothing_is_no_clean_report() -> None:
    with pytest.raises(supply.Unreached, match="nothing was audited"):
        supply.judged([UNKNOWN])


def said(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command that `make` carries out."""
    command = [sys.executable, "-m", "teei_ingest_tests.supply", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["sbom", "audit"]])
def test_another_command_is_refused(arguments: list[str]) -> None:
    assert said(*arguments) == (2, "", "say one of sbom, licenses, audit\n")


@pytest.mark.fleet
def test_the_tools_write_what_is_there() -> None:
    assert supply.sbom() == (ROOT / supply.SBOM).read_text()
    assert supply.table(supply.licenses()) == (ROOT / supply.LICENSES).read_text()


@pytest.mark.fleet
def test_an_audit_says_what_it_found_in_its_exit_code() -> None:
    """Whatever the index here knows: a report, or one line that says that there is none."""
    code, out, err = said("audit")
    if code == supply.UNREACHED:
        assert out == "" and len(err.splitlines()) == 1
    else:
        assert re.search(r"^\d+ known vulnerabilities in \d+ packages$", out, re.MULTILINE)
        assert code == (supply.OK if out.startswith("0 known") else supply.FOUND)
