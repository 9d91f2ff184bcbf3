"""A stream is one file: with it in a copy of the package its assets, checks, sandbox, table and listing are there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import teei_ingest
from teei_ingest_tests.conftest import MASTER_KEY
from teei_ingest_tests.dagster_parts import OF_NO_PARTITION

PACKAGE = Path(teei_ingest.__file__).parent

# A contract, ways of paging and of asking for a window with names of their own, values computed and looked up.
STREAM = '''
"""Pledges: a stream that only a test knows."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from teei_ingest.contracts.base import Data
from teei_ingest.contracts.fields import (
    Amount, Currency, Day, Instant, Percentage, direct, document_ref, free_text, label, public, quasi, sensitive,
)
from teei_ingest.streams.base import Between, Choice, Cursor, Derived, PageNumber, Person, SinceOnly, Stream


class Shape(StrEnum):
    MONEY = "money"
    TIME = "time"
    OTHER = "other"


class Pledge(Data):
    """A promise to give."""

    event_type: ClassVar = "ingest.pledge.made"
    table: ClassVar = "pledge_events"

    source_tenant_id: Annotated[str, public("The account", reason="a company")]
    shape: Annotated[Shape, public("What is promised", reason="a closed list")]
    amount: Annotated[Amount, public("How much", unit="currency", reason="an amount")]
    currency: Annotated[Currency, public("ISO 4217", reason="a currency")]
    kept_share: Annotated[Percentage | None, public("Share kept so far", unit="percent", reason="a share")] = None
    headline: Annotated[str | None, label("What it is for")] = None
    wording: Annotated[str | None, free_text("In the giver's words")] = None
    certificate: Annotated[str | None, document_ref("Certificate")] = None
    giver_phone: Annotated[str | None, direct("Telephone", kind="phone")] = None
    born: Annotated[Day | None, quasi("Day of birth", unit="day")] = None
    zeal: Annotated[str | None, sensitive("How eager")] = None
    pledged_at: Annotated[Instant, public("When", unit="UTC", reason="date of an activity")]


def share(kept: float | None, amount: float) -> float | None:
    """Percent of the amount that was given already."""
    return None if kept is None else kept / amount * 100


STREAM = Stream(
    name="NAME",
    system="SYSTEM",
    title="Pledges",
    contract=Pledge,
    path="/v9/pledges",
    records="promises",
    paging=PAGING,
    window=WINDOW,
    source_id="ref/number",
    source_timestamp="ref/touched",
    params={"flavour": "vanilla"},
    person=Person(id="giver/id", email="giver/mail?"),
    names=("giver/called?",),
    mapping={
        "shape": Choice("kind", {"cash": Shape.MONEY, "hours": Shape.TIME}),
        "amount": "sum",
        "currency": "unit",
        "kept_share": Derived(share, kept="done?", amount="target"),
        "headline": "headline?",
        "wording": "wording?",
        "certificate": "paper?",
        "giver_phone": "giver/call?",
        "born": "giver/born?",
        "zeal": "zeal?",
        "pledged_at": "pledged",
    },
    example={
        "ref": {"number": "p-1", "touched": "2024-01-15T07:30:00Z"},
        "giver": {
            "id": "g-1", "mail": "ola.normann@acme.example", "called": "Ola Normann",
            "call": "+47 912 34 567", "born": "1980-02-03",
        },
        "kind": "cash",
        "sum": "100.50",
        "unit": "NOK",
        "done": 25,
        "target": 100,
        "headline": "Ola Normann runs for the food bank",
        "wording": "I promised it to Kari",
        "paper": "C-77",
        "zeal": "high",
        "pledged": "2024-01-14",
    },
)
'''

SYSTEM = '''
"""Verdant: a vendor that only a test knows."""

from teei_ingest.systems.base import ApiKey, System

SYSTEM = System(
    name="verdant",
    title="Verdant",
    kind="external",
    url_variable="VERDANT_API_URL",
    auth=ApiKey(header="X-Verdant-Key"),
    tenant="tenant_id",
    tenant_param="org",
    max_page=5,
    namespace="verdant",
    health_path="/ping",
)
'''

SCRIPT = """
import json, sys
from datetime import date
from pathlib import Path

from teei_ingest.defs.build import build
from teei_ingest.sandbox.server import SandboxConfig, environment, running
from teei_ingest.store import open_store
from teei_ingest.streams import all_streams
from teei_ingest.streams.base import Stream
from teei_ingest_tests.running import Home, failures

name, folder, key = sys.argv[1:]
graph = build({"TEEI_HOME": folder, "TEEI_MASTER_KEY": key}).resolve_asset_graph()
told = {
    "package": sys.modules[Stream.__module__].__file__,
    "streams": list(all_streams()),
    "assets": sorted(asset.to_user_string() for asset in graph.get_all_asset_keys()),
    "checks": sorted(f"{check.asset_key.to_user_string()}: {check.name}" for check in graph.asset_check_keys),
    "group": graph.get(next(k for k in graph.get_all_asset_keys() if k.to_user_string() == name)).group_name,
}
config = SandboxConfig(quota=False)
with running(config) as sandbox:
    variables = {"TEEI_MASTER_KEY": key, **environment(config, sandbox.url)}
    home = Home.create(Path(folder), config.companies, variables)
    first, last = date(2024, 1, 15), date(2024, 1, 17)
    results = [home.materialize("acme-corp", first, last, [name]) for _ in range(2)]
    told["failures"] = [failure for result in results for failure in failures(result)]
    told["metadata"] = home.metadata(results[1], f"{name}_events")
    told["checked"] = [
        (event.event_specific_data.check_name, event.event_specific_data.passed)
        for event in results[1].all_events
        if event.event_type_value == "ASSET_CHECK_EVALUATION"
    ]
    told["requests"] = sandbox.stats()
contract = all_streams()[name].contract
told["files"] = [p.name for p in Path(home.settings.store_uri).iterdir() if (p / "_delta_log").is_dir()]
told["rows"] = home.sql("SELECT * FROM pledge_events")
told["current"] = home.sql("SELECT count(*) AS n FROM current_pledge_events")[0]["n"]
print(json.dumps(told, default=str))
"""


def project(tmp_path: Path, files: dict[str, str]) -> Path:
    """A copy of the package with more files in it."""
    root = tmp_path / "project"
    shutil.copytree(PACKAGE, root / "teei_ingest", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in files.items():
        (root / "teei_ingest" / name).write_text(text)
    return root


def python(root: Path, *arguments: str, **variables: str) -> str:
    path = os.pathsep.join([str(root), str(PACKAGE.parent)])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **variables},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


VARIANTS: dict[str, dict[str, str]] = {
    "benevity_pledges": {
        "SYSTEM": "benevity",
        "PAGING": 'PageNumber(more="paging/further", page="sheet", limit="per_sheet")',
        "WINDOW": 'Between(since="changed_from", until="changed_before")',
    },
    "verdant_pledges": {
        "SYSTEM": "verdant",
        "PAGING": 'Cursor(next="then", cursor="after", limit="size")',
        "WINDOW": 'SinceOnly(since="newer_than")',
    },
}


def declaration(name: str) -> str:
    """The stream's file."""
    text = STREAM.replace("NAME", name)
    for word, value in VARIANTS[name].items():
        text = text.replace(f'"{word}"', f'"{value}"').replace(f"={word},", f"={value},")
    return text


@pytest.mark.parametrize("name", [pytest.param("benevity_pledges", marks=pytest.mark.long), "verdant_pledges"])
def test_one_file_is_a_stream(tmp_path: Path, name: str) -> None:
    files = {f"streams/{name}.py": declaration(name)}
    if name.startswith("verdant"):
        files["systems/verdant.py"] = SYSTEM
    root = project(tmp_path, files)
    folder = tmp_path / "state"
    folder.mkdir()

    told: dict[str, Any] = json.loads(python(root, "-c", SCRIPT, name, str(folder), MASTER_KEY).splitlines()[-1])

    assert told["package"].startswith(str(root))
    assert len(told["streams"]) == 13
    assert name in told["streams"]
    assert len(told["assets"]) - len(OF_NO_PARTITION) == 2 * 13 and len(told["checks"]) == 3 * 13
    assert {name, f"{name}_events"} <= set(told["assets"])
    assert {f"{name}: contract", f"{name}: quarantine", f"{name}_events: no_personal_data"} <= set(told["checks"])
    assert told["group"] == VARIANTS[name]["SYSTEM"]

    assert told["failures"] == []
    metadata = list(told["metadata"].values())
    assert len(metadata) == 3
    assert all(one["kept"] == one["fetched"] - one["out_of_window"] > 5 for one in metadata)
    assert all(one["contract"] == "Pledge v1" for one in metadata)
    checks = ("contract", "no_personal_data", "quarantine")
    assert sorted(map(tuple, told["checked"])) == [(check, True) for check in checks for _ in range(3)]
    asked = told["requests"][VARIANTS[name]["SYSTEM"]]["/v9/pledges"]
    assert set(asked) == {"200"}
    assert asked["200"] > (8 if name.startswith("verdant") else 1)

    assert "pledge_events" in told["files"]
    rows = told["rows"]
    assert len(rows) == told["current"] == sum(one["kept"] for one in metadata)
    assert len({row["event_id"] for row in rows}) == len(rows)
    row = rows[0]
    assert (row["shape"], row["amount"], row["currency"]) == ("money", "100.5000", "NOK")
    assert (row["kept_share"], row["zeal"], row["event_type"]) == (25.0, "high", "ingest.pledge.made")
    assert (row["wording"], row["giver_phone"], row["born"]) == (None, None, None)
    assert row["headline"] == "[REDACTED] runs for the food bank"
    assert row["user_id"].startswith("t1_")
    assert row["certificate"].startswith("h1_")
    everything = json.dumps(rows)
    assert not [word for word in ("ola.normann", "Normann", "912 34 567", "Kari", "C-77", "1980") if word in everything]

    listed = python(root, "-c", "from teei_ingest.cli import main; main()", "streams", "--json", TEEI_HOME=str(folder))
    (entry,) = [one for one in json.loads(listed) if one["stream"] == name]
    assert (entry["contract"], entry["table"]) == ("Pledge", "pledge_events")


@pytest.mark.long
def test_one_file_is_tested_like_every_stream(tmp_path: Path) -> None:
    """The suite in `conformance/` takes the new stream, as often as any other, and it passes."""
    name = "verdant_pledges"
    root = project(tmp_path, {f"streams/{name}.py": declaration(name), "systems/verdant.py": SYSTEM})
    suite = str(PACKAGE.parent / "teei_ingest_tests" / "conformance")
    done = python(root, "-m", "pytest", "--import-mode=append", "-p", "no:cacheprovider", suite, "-k", name)

    match = re.search(r"(\d+) passed, (\d+) deselected", done)
    assert match is not None, done
    passed, others = map(int, match.groups())
    assert passed > 8
    assert others == 12 * passed


def test_a_slip_in_the_file_ends_the_import(tmp_path: Path) -> None:
    """Nothing is accepted by omission: a field without a class, a required field that nothing fills."""
    good = declaration("benevity_pledges")
    slips = {
        "Pledge.zeal has no personal-data class": good.replace(
            'zeal: Annotated[str | None, sensitive("How eager")] = None', "zeal: str | None = None"
        ),
        "nothing fills the required amount": good.replace('        "amount": "sum",\n', ""),
        "there is no system atlantis": good.replace('system="benevity"', 'system="atlantis"'),
    }
    root = project(tmp_path, {})
    for message, text in slips.items():
        assert text != good
        (root / "teei_ingest/streams/benevity_pledges.py").write_text(text)
        script = (
            "from teei_ingest.mapping.plan import plan\n"
            "try:\n    plan('benevity_pledges')\n"
            "except TypeError as error:\n    print(error)"
        )
        assert message in python(root, "-c", script)
