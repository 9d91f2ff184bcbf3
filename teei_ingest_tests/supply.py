"""`make sbom`, `make audit`, `make licenses`: what comes along with this project, from the lock file.

Belongs here: running the tools, pinned, through `uv tool run`, so that they are no dependency of anything; what they
say without the address of any index; which licences may come along. Does not belong here: choosing dependencies
(`docs/decisions/0002-dependencies.md`).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
SBOM, LICENSES = "docs/sbom.cdx.json", "docs/licenses.md"
OK, FOUND, UNREACHED = 0, 1, 3

# A program, and the package that has it.
_CYCLONEDX = ("cyclonedx-py", "cyclonedx-bom==7.5.0")
_PIP_AUDIT = ("pip-audit", "pip-audit==2.10.1")
_PIP_LICENSES = ("pip-licenses", "pip-licenses==5.5.5")

# As SPDX spells them, and as packages do in their older classifiers.
ALLOWED = frozenset(
    (
        "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MIT-0", "MPL-2.0", "PSF-2.0",
        "Zlib",
        "3-Clause BSD License", "Apache Software License", "BSD", "BSD 3-Clause", "BSD License", "DFSG approved",
        "ISC License (ISCL)", "MIT License", "Mozilla Public License 2.0 (MPL 2.0)",
        "Python Software Foundation License",
    )
)  # fmt: skip
# Others that may come along all the same, and why.
EXCEPTIONS: Mapping[str, tuple[str, str]] = {
    "psycopg2-binary": (
        "GNU Library or Lesser General Public License (LGPL)",
        "used as a library, unchanged, and can be replaced by another build",
    ),
}


class Package(NamedTuple):
    """A package of the environment."""

    name: str
    version: str
    license: str


class Unreached(Exception):
    """A tool could not be had, or could not ask what it has to ask."""


def locked() -> dict[str, list[str]]:
    """Versions by name, as the lock has them: a package may have several, for several Pythons."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        wanted = Requirement(line)
        found.setdefault(_normalized(wanted.name), []).append(str(wanted.specifier).removeprefix("=="))
    return found


def sbom() -> str:
    """CycloneDX of the lock, as JSON, the same for the same lock."""
    options = ("requirements", "requirements.lock", "--pyproject", "pyproject.toml", "--output-reproducible")
    document = _without_addresses(json.loads(_tool(*_CYCLONEDX, *options)))
    # Of the program itself alone, whose version is given here: what it needs, it takes the newest of.
    tools = document["metadata"]["tools"]
    tools["components"] = [one for one in tools["components"] if one["name"] == _CYCLONEDX[0]]
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _without_addresses(value: Any) -> Any:
    """Without where things could come from, which is the business of whoever installs them."""
    if isinstance(value, dict):
        return {key: _without_addresses(each) for key, each in value.items() if key != "externalReferences"}
    return [_without_addresses(each) for each in value] if isinstance(value, list) else value


def licenses() -> list[Package]:
    """The locked packages that are installed here, by name."""
    rows = json.loads(_tool(*_PIP_LICENSES, "--python", sys.executable, "--format", "json", "--from", "mixed"))
    names = locked()
    found = (Package(_normalized(row["Name"]), row["Version"], row["License"]) for row in rows)
    return sorted(package for package in found if package.name in names)


def refused(packages: Iterable[Package]) -> list[Package]:
    """Those whose licence is not allowed."""
    return [one for one in packages if not _is_allowed(one)]


def _is_allowed(package: Package) -> bool:
    if package.name in EXCEPTIONS and package.license == EXCEPTIONS[package.name][0]:
        return True
    # Classifiers are separated by `;` and say, as SPDX's AND does, that all hold; of SPDX's OR one is enough.
    either = re.split(r"\s+OR\s+", package.license)
    return any(all(part in ALLOWED for part in re.split(r"\s+AND\s+|;\s*", one)) for one in either)


def table(packages: Collection[Package]) -> str:
    """The page that lists them."""
    rows = "".join(f"| `{one.name}` | {one.version} | {one.license} |\n" for one in packages)
    here = sorted({one.name for one in packages} & EXCEPTIONS.keys())
    why = "".join(f"- `{name}` ({EXCEPTIONS[name][0]}): {EXCEPTIONS[name][1]}.\n" for name in here)
    return (
        "# Licences\n\n"
        "Of every package that `requirements.lock` brings along on Linux, the tools of the tests among them, as the "
        "packages say\nthemselves. `make licenses` writes this page, and fails where one is not on the list in "
        "`teei_ingest_tests/supply.py`.\n\n"
        f"{why}\n"
        f"| Package | Version | Licence |\n| --- | --- | --- |\n{rows}"
    )


def audit() -> list[dict[str, Any]]:
    """What pip-audit says of each locked package."""
    options = ("--requirement", "requirements.lock", "--no-deps", "--disable-pip", "--progress-spinner", "off")
    found: list[dict[str, Any]] = json.loads(_tool(*_PIP_AUDIT, *options, "--format", "json", fails=(FOUND,)))[
        "dependencies"
    ]
    return found


def judged(dependencies: Collection[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """(a line for each known vulnerability, packages of which nothing is known).

    Raises Unreached if nothing is known of any, which is not the same as no vulnerability.
    """
    unknown = [str(one["name"]) for one in dependencies if "skip_reason" in one]
    if len(unknown) == len(dependencies):
        raise Unreached("the package index here has no data about vulnerabilities: nothing was audited")
    return [
        f"{one['name']} {one['version']}: {each['id']}, mended in {', '.join(each['fix_versions']) or 'no version yet'}"
        for one in dependencies
        for each in one.get("vulns", ())
    ], unknown


def _tool(program: str, package: str, *options: str, fails: tuple[int, ...] = ()) -> str:
    """What a program prints. Raises Unreached."""
    called = [str(BIN / "uv"), "tool", "run", "--quiet", "--from", package, program, *options]
    done = subprocess.run(called, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode not in (0, *fails) or not done.stdout.strip():
        last = (done.stderr.strip().splitlines() or [""])[-1]
        raise Unreached(f"{program} could not do its work: {last}")
    return done.stdout


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _write(path: str, text: str) -> None:
    (ROOT / path).write_text(text, encoding="utf-8")
    print(path)


def _make_sbom() -> int:
    _write(SBOM, sbom())
    return OK


def _make_licenses() -> int:
    found = licenses()
    _write(LICENSES, table(found))
    for one in refused(found):
        print(f"{one.name} {one.version}: {one.license!r} is not on the list of allowed licences", file=sys.stderr)
    return FOUND if refused(found) else OK


def _make_audit() -> int:
    found = audit()
    vulnerable, unknown = judged(found)
    for line in vulnerable:
        print(line)
    if unknown:
        print(f"nothing is known of {', '.join(unknown)}", file=sys.stderr)
    print(f"{len(vulnerable)} known vulnerabilities in {len(found) - len(unknown)} packages")
    return FOUND if vulnerable else OK


def main(arguments: list[str]) -> int:
    """1 if something was found, 3 if a tool or its source could not be reached."""
    commands: dict[str, Callable[[], int]] = {"sbom": _make_sbom, "licenses": _make_licenses, "audit": _make_audit}
    if len(arguments) != 1 or arguments[0] not in commands:
        print(f"say one of {', '.join(commands)}", file=sys.stderr)
        return 2
    try:
        return commands[arguments[0]]()
    except Unreached as error:
        print(error, file=sys.stderr)
    return UNREACHED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
