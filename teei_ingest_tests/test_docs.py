"""The words around the code: generated parts fresh, links sound, nothing of a machine in them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
import xml.etree.ElementTree as ET
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from teei_ingest import docs
from teei_ingest.cli.reference import commands
from teei_ingest.contracts import RELEASED
from teei_ingest.mapping.plan import compile_stream
from teei_ingest.mapping.record import Accepted, RecordMapper
from teei_ingest.settings import project_root
from teei_ingest.streams import all_streams
from teei_ingest.systems import all_systems

ROOT = project_root()
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
# Homes of users and roots of checkouts, as they stand in text by accident; hosts of package registries and mirrors.
MACHINE = re.compile(
    r"(?<![\w.$}])/(?:home|Users|root|work|builds|workspace)/[\w.-]+"
    r"|\b(?:[\w-]+\.)*(?:pythonhosted|pypi|artifactory|nexus|npmjs)\.(?:org|com|io|net|local|internal)\b"
    r"|--(?:extra-)?index-url|\b(?:UV|PIP)_(?:INDEX|EXTRA_INDEX)\w*=",
)


def read(path: str | Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@cache
def files() -> list[Path]:
    """Files of the tree that belong to it: what git would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def pages() -> list[Path]:
    return [*docs.pages(ROOT), ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]


every_page = pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))


def test_generated_parts_are_fresh() -> None:
    stale = [
        str(path.relative_to(ROOT))
        for path, text in docs.generated(ROOT).items()
        if not path.exists() or read(path) != text
    ]
    assert stale == [], "run `make docs`"


def test_every_block_has_a_place() -> None:
    places = "".join(read(page) for page in docs.pages(ROOT))
    assert [name for name in docs.blocks() if f"<!-- {name}:begin -->" not in places] == []


def test_a_block_that_nobody_knows_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("<!-- nonsense:begin -->\n<!-- nonsense:end -->\n")
    with pytest.raises(KeyError, match="nonsense"):
        docs.generated(tmp_path)


def test_generating_fills_blocks_and_leaves_the_rest(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- classes:begin -->\nold\n<!-- classes:end -->\nafter\n")
    made = docs.generated(tmp_path)[page]
    assert made.startswith("before\n<!-- classes:begin -->\n| Class |")
    assert made.endswith("|\n<!-- classes:end -->\nafter\n")
    assert "old" not in made


def test_a_released_schema_is_not_overwritten_by_a_breaking_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").touch()
    monkeypatch.setattr(docs, "project_root", lambda: tmp_path)
    assert docs.main() == 0
    assert "docs/cli.md" in capsys.readouterr().out
    assert docs.main() == 0
    assert capsys.readouterr().out == ""

    path = tmp_path / docs.SCHEMAS / "VolunteerEvent.v1.json"
    released = json.loads(path.read_text())
    released["properties"]["data"]["properties"]["shoeSize"] = {"type": "integer"}
    path.write_text(json.dumps(released))
    assert docs.main() == 1
    assert "VolunteerEvent: event.data.shoeSize: was removed" in capsys.readouterr().err
    assert "shoeSize" in path.read_text()


def anchors(page: Path) -> set[str]:
    """Anchors that GitHub makes of a page's headings."""
    found: set[str] = set()
    for heading in HEADING.findall(CODE.sub("", read(page))):
        text = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower())
        anchor = text.replace(" ", "-")
        number = 0
        while (name := f"{anchor}-{number}" if number else anchor) in found:
            number += 1
        found.add(name)
    return found


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(CODE.sub("", read(page))):
        if re.match(r"https?://", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(link)
    assert broken == []


@every_page
def test_tables_have_as_many_cells_as_their_head(page: Path) -> None:
    width = 0
    for line in CODE.sub("", read(page)).splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert not (width and cells) or cells == width, line
        width = cells


def test_every_stream_and_command_is_documented() -> None:
    readme, streams, cli = read("README.md"), read("docs/streams.md"), read("docs/cli.md")
    for stream in all_streams().values():
        page = read(f"docs/integrations/{stream.system}.md")
        assert f"`{stream.name}`" in readme, stream.name
        assert f"### {stream.name}\n" in streams, stream.name
        assert f"### {stream.name}\n" in page, stream.name
    for words, _ in commands():
        assert f"## `{words}`" in cli, words
    for system in all_systems().values():
        assert f"(integrations/{system.name}.md)" in streams, system.name
    for contract in RELEASED:
        assert f"### {contract.__name__}\n" in read("docs/contracts.md")


@every_page
def test_commands_in_the_text_exist(page: Path) -> None:
    known = {words for words, _ in commands()}
    words = {known_words.split()[1] for known_words in known}
    named = re.findall(r"(?:`|^\$ |\(| )teei ([a-z]+)\b(?=[^a-z]|$)", read(page), re.MULTILINE)
    quoted = {word for word in named if f"`teei {word}" in read(page) or f"$ teei {word}" in read(page)}
    assert quoted <= words


@every_page
def test_make_targets_in_the_text_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    assert set(re.findall(r"(?:`|\$ )make ([a-z-]+)", read(page))) <= targets


@every_page
def test_variables_in_the_text_exist(page: Path) -> None:
    from teei_ingest.settings import Settings

    known = {info.alias or f"TEEI_{name.upper()}" for name, info in Settings.model_fields.items()}
    named = set(re.findall(r"\bTEEI_[A-Z_]+\b", read(page)))
    assert {name.removesuffix("_FILE") for name in named} <= known


def blocks_of_code(path: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", read(path), re.MULTILINE | re.DOTALL)


def test_the_questions_in_the_text_can_be_asked() -> None:
    questions = [one for block in blocks_of_code("docs/views.md", "sql") for one in block.split(";") if one.strip()]
    for page in ("README.md", "docs/getting-started.md"):
        questions += re.findall(r'^\$ teei sql "([^"]+)"$', read(page), re.MULTILINE)
    assert len(questions) > 5
    for question in questions:
        docs.empty_views().execute(question)


def test_the_stream_that_is_shown_is_one() -> None:
    (code,) = blocks_of_code("docs/adding-a-stream.md", "python")
    names: dict[str, Any] = {}
    exec(code, names)
    compiled = compile_stream(names["STREAM"])
    said = RecordMapper(compiled, "550e8400-e29b-41d4-a716-446655440000", "p-1")(
        json.dumps(compiled.stream.example).encode()
    )
    assert isinstance(said, Accepted), said


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    extras = project["optional-dependencies"]
    named = {re.split(r"[<>=\[ ]", line)[0] for line in chain(project["dependencies"], *extras.values())}
    reasons = re.findall(r"`([\w.-]+)[^`]*`", read("docs/decisions/0002-dependencies.md"))
    assert named - {"teei-ingest"} <= set(reasons)


def test_nothing_of_a_machine_or_registry_is_in_the_tree() -> None:
    found = []
    for path in files():
        if path == Path(__file__).resolve() or path.suffix in (".png", ".gz"):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{path.relative_to(ROOT)}: {hit[0]}" for hit in MACHINE.finditer(text)]
        if str(ROOT) in text and str(ROOT) != "/":
            found.append(f"{path.relative_to(ROOT)}: {ROOT}")
    assert found == []


def test_the_picture_is_drawn() -> None:
    picture = ROOT / "docs" / "data-flow.svg"
    assert ET.parse(picture).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    if shutil.which("rsvg-convert"):
        drawn = subprocess.run(["rsvg-convert", str(picture)], capture_output=True, check=True)
        assert drawn.stdout.startswith(b"\x89PNG")


def test_no_placeholder_is_left() -> None:
    assert [
        str(page.relative_to(ROOT)) for page in pages() if re.search(r"\bTODO\b|\bTBD\b|\bFIXME\b", read(page))
    ] == []
