"""The queries of Dagster's own UI, read out of the pages that its webserver delivers: none of them is copied here."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import dagster_webserver

_CONSTANT = re.compile(r"const (\w+)(?:: \w+)? = gql`(.*?)`;", re.DOTALL)
_PART = re.compile(r"\$\{(\w+)\}")


@cache
def _constants() -> dict[str, str]:
    """Every GraphQL text of the UI's sources, which its source maps have, by the constant's name."""
    found: dict[str, str] = {}
    for path in sorted(Path(dagster_webserver.__file__).parent.rglob("*.js.map")):
        text = path.read_text(encoding="utf-8")
        if "gql`" in text:
            for source in json.loads(text).get("sourcesContent") or ():
                found |= dict(_CONSTANT.findall(source or ""))
    return found


def query(name: str) -> str:
    """A query with its fragments. Raises KeyError where this version of the UI has none of that name."""
    for constant, text in _constants().items():
        if re.search(rf"\bquery {name}\b", text):
            return _with_parts(text, {constant})
    raise KeyError(f"the UI has no query {name}")


def _with_parts(text: str, seen: set[str]) -> str:
    whole = _PART.sub("", text)
    for part in _PART.findall(text):
        if part not in seen:
            seen.add(part)
            whole += _with_parts(_constants()[part], seen)
    return whole
