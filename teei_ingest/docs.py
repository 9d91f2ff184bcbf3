"""`python -m teei_ingest.docs`: what can be said of the code from the code itself.

Writes the JSON Schema of every released contract, and fills the blocks between `<!-- NAME:begin -->` and
`<!-- NAME:end -->` in README.md and docs/. Nothing here is prose that a person could write better beside a block.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb

from teei_ingest.cli.reference import render as cli_reference
from teei_ingest.companies import Companies, Company
from teei_ingest.contracts import RELEASED
from teei_ingest.contracts.base import VERSION, Data, Kind, Leaf, leaves
from teei_ingest.contracts.compat import breaking
from teei_ingest.contracts.fields import DataClass
from teei_ingest.contracts.stored import LEADING, TEXT_AT_REST, arrow_schema, json_schema, limits, stored_type
from teei_ingest.errors import MissingCredentials
from teei_ingest.mapping.plan import parse, plan
from teei_ingest.metrics.catalog import METRICS, error_types
from teei_ingest.privacy import inventory
from teei_ingest.privacy.report import read_proofs
from teei_ingest.privacy.retention import rules
from teei_ingest.redact.policy import ALLOWED, DEFAULTS, Policy
from teei_ingest.sandbox.faults import FAULTS
from teei_ingest.settings import Settings, project_root
from teei_ingest.store import released
from teei_ingest.store.presence import no_tables
from teei_ingest.store.sql import define_views
from teei_ingest.store.tables import contracts
from teei_ingest.store.views import RELEASED as RELEASED_VIEWS
from teei_ingest.store.views import views
from teei_ingest.streams import all_streams
from teei_ingest.streams.base import Between, Choice, Constant, Cursor, Derived, PageNumber, ScimFilter, Stream
from teei_ingest.systems import all_systems
from teei_ingest.systems.base import ApiKey, System

BLOCK = re.compile(r"(<!-- (?P<name>[a-z-]+):begin -->\n).*?(<!-- (?P=name):end -->)", re.DOTALL)
SCHEMAS = "teei_ingest/contracts/schemas"
VIEW_SCHEMAS = "teei_ingest/store/schemas"


def schemas() -> dict[str, str]:
    """JSON Schemas of the released contracts and views by path."""
    found = {f"{SCHEMAS}/{contract.__name__}.{VERSION}.json": json_schema(contract) for contract in RELEASED}
    found |= {f"{VIEW_SCHEMAS}/{name}.json": released.json_schema(name) for name in RELEASED_VIEWS}
    return {path: json.dumps(schema, indent=2) + "\n" for path, schema in found.items()}


def blocks() -> dict[str, str]:
    """Markdown of each block by name."""
    found = {
        "readme-streams": _readme_streams(),
        "streams": _streams(),
        "mappings": "\n".join(_mapping(stream, "###") for stream in all_streams().values()),
        "contracts": "\n".join(map(_contract, contracts())),
        "classes": _classes(),
        "fields": _fields(),
        "settings": _settings(),
        "metrics": _metrics(),
        "retention": _retention(),
        "faults": _faults(),
        "privacy-proof": _proofs(),
        "credentials": _credentials(all_systems().values()),
        "views": _views(),
        "released-views": _released_views(),
    }
    for system in all_systems().values():
        streams = [stream for stream in all_streams().values() if stream.system == system.name]
        found[f"{system.name}-facts"] = _facts(system)
        found[f"{system.name}-mappings"] = "\n".join(_mapping(stream, "###") for stream in streams)
    return {name: text.strip() + "\n" for name, text in found.items()}


def pages(root: Path) -> list[Path]:
    """All Markdown pages that may have blocks."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def generated(root: Path) -> dict[Path, str]:
    """Every generated file below `root` with the content that it should have. KeyError names an unknown block."""
    known = blocks()
    found = {root / path: text for path, text in schemas().items()}
    found[root / "docs/cli.md"] = cli_reference()
    for page in pages(root):
        if page in found:
            continue
        text = page.read_text(encoding="utf-8")
        found[page] = BLOCK.sub(lambda match: match[1] + known[match["name"]] + match[3], text)
    return found


def broken_releases(root: Path) -> list[str]:
    """Breaking changes between the schema files below `root` and the code; they need a new version."""
    found = []
    for contract in RELEASED:
        path = root / SCHEMAS / f"{contract.__name__}.{VERSION}.json"
        if path.exists():
            schema = json.loads(path.read_text(encoding="utf-8"))
            found += [f"{contract.__name__}: {line}" for line in breaking(schema, json_schema(contract))]
    for name in RELEASED_VIEWS:
        path = root / VIEW_SCHEMAS / f"{name}.json"
        if path.exists():
            found += released.breaking(name, json.loads(path.read_text(encoding="utf-8")), released.json_schema(name))
    return found


def main() -> int:
    """Write what is stale. Refuses to overwrite a released schema with one that breaks it."""
    root = project_root()
    if problems := broken_releases(root):
        print("a released contract would be broken, so it needs a new version:", *problems, sep="\n  ", file=sys.stderr)
        return 1
    for path, text in generated(root).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(root))
    return 0


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def _code(*names: str) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _sentence(text: str | None) -> str:
    return (text or "").strip().splitlines()[0]


def _metrics() -> str:
    rows = [[_code(one.name), one.kind, _code(*one.labels) or "none", one.help] for one in METRICS]
    kinds = f"`error_type` is one of {_code(*error_types())}.\n"
    return _table(["Metric", "Kind", "Labels", "What it is"], rows) + "\n" + kinds


# --- streams ---------------------------------------------------------------------------------------------------------


def _endpoint(stream: Stream) -> str:
    return f"GET {stream.path}" + "".join(f"?{name}={value}" for name, value in stream.params.items())


def _auth(system: System) -> str:
    if isinstance(system.auth, ApiKey):
        return f"API key in `{system.auth.header}{': ' + system.auth.prefix.strip() if system.auth.prefix else ''}`"
    return "OAuth2 client credentials"


def _paging(stream: Stream) -> str:
    paging = stream.paging
    if isinstance(paging, PageNumber):
        return f"`{paging.page}`, `{paging.limit}`, until `{paging.more}` is false"
    if isinstance(paging, Cursor):
        return f"`{paging.cursor}`, `{paging.limit}`, until there is no `{paging.next}`"
    return f"`{paging.start}`, `{paging.limit}`, until `{paging.total}` are there"


def _window(stream: Stream) -> str:
    window = stream.window
    if isinstance(window, Between):
        return f"`{window.since}`, `{window.until}`"
    if isinstance(window, ScimFilter):
        return f"`{window.param}` on `{window.attribute}`"
    return f"`{window.since}` only, ascending"


def _readme_streams() -> str:
    titles = {system.name: system.title for system in all_systems().values()}
    return _table(
        ["Stream", "System", "What it brings", "Event type", "Table"],
        (
            [
                f"[`{s.name}`](docs/streams.md#{s.name})",
                f"[{titles[s.system]}](docs/integrations/{s.system}.md)",
                s.title,
                f"`{s.contract.event_type}`",
                f"`{s.contract.table}`",
            ]
            for s in all_streams().values()
        ),
    )


def _streams() -> str:
    return _table(
        ["Stream", "System", "Endpoint", "Auth", "Paging", "Window", "Event type", "Contract"],
        (
            [
                f"[`{s.name}`](#{s.name})",
                f"[{all_systems()[s.system].title}](integrations/{s.system}.md)",
                f"`{_endpoint(s)}`",
                _auth(all_systems()[s.system]),
                _paging(s),
                _window(s),
                f"`{s.contract.event_type}`",
                f"[{s.contract.__name__}](contracts.md#{s.contract.__name__.lower()})",
            ]
            for s in all_streams().values()
        ),
    )


def _mapping(stream: Stream, heading: str) -> str:
    system, compiled = all_systems()[stream.system], plan(stream.name)
    rows, unfed = [], []
    for leaf in leaves(stream.contract):
        wire = _automatic(stream, system, leaf) or _wire(stream, leaf)
        if wire is None:
            unfed.append(leaf.name)
            continue
        if not leaf.nested:
            rows.append([f"`{leaf.name}`", wire, f"`{leaf.cls}`"])
        rows += [
            [f"`{leaf.name}[].{one.name}`", f"{wire}, each one's `{one.names[-1]}`", f"`{one.cls}`"]
            for one in leaf.nested
        ]
    parts = [
        f"{heading} {stream.name}\n",
        f"{stream.title}: `{_endpoint(stream)}`, records in `{stream.records}`. "
        f"The day is the UTC day of `{stream.source_timestamp}`.\n",
        _table(["Contract field", "From the wire", "Class"], rows),
    ]
    if unfed:
        parts.append(f"Null, because the source does not send them: {_code(*unfed)}.\n")
    mapped = {slot.keys for field in compiled.fields for slot in field.slots}
    if names := [slot.path for slot in compiled.names if slot.keys not in mapped]:
        parts.append(f"Read only to find these people's names in labels, not kept: {_code(*names)}.\n")
    if dropped := sorted(inventory.dropped(compiled)):
        parts.append(f"Sent (see the example in `streams/{stream.name}.py`) and not kept: {_code(*dropped)}.\n")
    return "\n".join(parts)


def _path(path: str) -> str:
    keys, optional = parse(path)
    return f"`{'/'.join(keys)}`" + (" (optional)" if optional else "")


def _automatic(stream: Stream, system: System, leaf: Leaf) -> str | None:
    """Where the fields come from that no mapping names."""
    person = stream.person
    fixed = {
        "source_system": f"always `{system.name}`",
        "source_id": _path(stream.source_id),
        "source_timestamp": _path(stream.source_timestamp),
        "company_id": "the companies file",
        "source_tenant_id": f"the company's {system.tenant.replace('_', ' ')}",
    }
    if person is not None:
        fixed["external_user_id"] = _person(person.id)
        by = [_person(part) for part in (person.email, person.key or person.id) if part is not None]
        fixed["user_id"] = "token of " + ", else of ".join(by)
    return fixed.get(leaf.key)


def _person(source: str | Derived) -> str:
    return _path(source) if isinstance(source, str) else _derived(source)


def _derived(source: Derived) -> str:
    about = _sentence(source.function.__doc__).rstrip(".")
    return f"{', '.join(map(_path, source.paths.values()))} ({about[0].lower()}{about[1:]})"


def _wire(stream: Stream, leaf: Leaf) -> str | None:
    source = stream.mapping.get(leaf.key)
    if source is None:
        return None
    if isinstance(source, str):
        return _path(source)
    if isinstance(source, Constant):
        return f"always `{getattr(source.value, 'value', source.value)}`"
    if isinstance(source, Derived):
        return _derived(source)
    return _choice(source, leaf)


def _choice(source: Choice, leaf: Leaf) -> str:
    listed = [
        f"`{wire}`" if wire == member.value else f"`{wire}` → `{member.value}`"
        for wire, member in source.values.items()
        if not (wire == "other" == member.value)
    ]
    other = "anything else → `other`" if leaf.enum and "OTHER" in leaf.enum.__members__ else "anything else: quarantine"
    absent = [f"absent → `{source.absent.value}`"] if source.absent else []
    return f"{_path(source.path)}: {', '.join([*listed, *absent])}; {other}"


# --- contracts -------------------------------------------------------------------------------------------------------


def _contract(contract: type[Data]) -> str:
    policy = Policy({})
    stored = json_schema(contract)["properties"]["data"]["properties"]
    rows = []
    for leaf in leaves(contract):
        for one in leaf.nested or (leaf,):
            name = leaf.name if one is leaf else f"{leaf.name}[].{one.name}"
            extra = one.extra
            about = f"{one.info.description}" + (f" [{extra['unit']}]" if "unit" in extra else "")
            rows.append(
                [
                    f"`{name}`",
                    about + _limits(one),
                    f"`{one.cls}`" + (f": {extra['reason']}" if "reason" in extra else ""),
                    f"`{policy.mode(one)}`",
                    _at_rest(one),
                    "yes" if _nullable(stored, name) else "no",
                ]
            )
    return "\n".join(
        [
            f"### {contract.__name__}\n",
            f"{_sentence(contract.__doc__)} Event type `{contract.event_type}`, version `{VERSION}`, table "
            f"`{contract.table}`, {_released(contract)}.\n",
            _table(["Field", "What it is", "Class and reason", "Default mode", "At rest", "May be null"], rows),
        ]
    )


def _released(contract: type[Data]) -> str:
    link = f"[JSON Schema](../{SCHEMAS}/{contract.__name__}.{VERSION}.json)"
    return link if contract in RELEASED else "not released"


def _limits(leaf: Leaf) -> str:
    if leaf.enum is not None:
        return f" ({_code(*(member.value for member in leaf.enum))})"
    bounds = limits(leaf)
    low, high = bounds.get("ge"), bounds.get("le")
    if f"{low} to {high}" in f"{leaf.info.description}":
        return ""
    if high is not None:
        return f" ({low} to {high})"
    return f" (≥ {low})" if low is not None else ""


def _at_rest(leaf: Leaf) -> str:
    if leaf.cls in TEXT_AT_REST:
        kind = "string"
    else:
        kind = {Kind.INSTANT: "UTC timestamp, µs", Kind.MAP: "map of numbers"}.get(leaf.kind, "")
        kind = kind or str(stored_type(leaf).value_type if leaf.many else stored_type(leaf)).replace("128", "")
    return f"list of {kind}" if leaf.many else kind


def _nullable(stored: Mapping[str, Any], name: str) -> bool:
    schema: Any = {"properties": stored}
    for part in name.replace("[]", ".[]").split("."):
        schema = schema["items"] if part == "[]" else schema["properties"][part]
    return "null" in schema["type"]


def _classes() -> str:
    at_rest = {True: "string", False: "its own type"}
    return _table(
        ["Class", "Default mode", "May be set to", "Stored as"],
        (
            [f"`{cls}`", f"`{DEFAULTS[cls]}`{_exceptions(cls)}", _code(*ALLOWED[cls]), at_rest[cls in TEXT_AT_REST]]
            for cls in DataClass
        ),
    )


def _exceptions(cls: DataClass) -> str:
    """Kinds and fields of a class with a default of their own."""
    found = {}
    for contract in contracts():
        for leaf in leaves(contract):
            for name in (leaf.names[-1], leaf.extra.get("kind")):
                if leaf.cls is cls and name in DEFAULTS:
                    found[name] = DEFAULTS[name]
    return "".join(f"; `{name}`: `{mode}`" for name, mode in found.items())


def _fields() -> str:
    parts = []
    found = inventory.fields(Policy({}))
    for stream in all_streams().values():
        own = [item for item in found if item.stream == stream.name]
        parts += [
            f"## {stream.name}\n",
            _table(
                ["The source's name", "Contract field", "Stored column", "Class", "Mode", "Why"],
                (
                    [
                        _code(*item.wire) or "–",
                        f"`{item.field}`" if item.field else "–",
                        f"`{item.column}`" if item.column else "–",
                        f"`{item.cls}`" if item.cls else "–",
                        f"`{item.mode}`" if item.column else "not kept",
                        item.why,
                    ]
                    for item in own
                ),
            ),
        ]
    return "\n".join(parts)


# --- settings and credentials ----------------------------------------------------------------------------------------


def _settings() -> str:
    return _table(
        ["Variable", "Default", "What it is"],
        (
            [f"`{info.alias or f'TEEI_{name.upper()}'}`", _default(info), f"{info.description}"]
            for name, info in Settings.model_fields.items()
        ),
    )


def _retention() -> str:
    rows = [
        [
            rule.what,
            "until somebody erases it" if rule.days is None else f"{rule.days:g} days",
            f"`{rule.variable}`",
        ]
        for rule in rules(Settings(home=project_root()))
    ]
    return _table(["What", "Kept by default", "Setting"], rows)


def _faults() -> str:
    rows = []
    for fault in FAULTS.values():
        outcomes: dict[str, list[str]] = {}
        for name, stream in all_streams().items():
            if fault.applies(stream):
                outcomes.setdefault(fault.outcome(stream), []).append(name)
        usual = max(outcomes, key=lambda outcome: len(outcomes[outcome]))
        others = "; ".join(f"{one}: {', '.join(names)}" for one, names in outcomes.items() if one != usual)
        does = f"{usual} ({others})" if others else usual
        rows.append([f"`{fault.name}`", fault.description, does, f"`test_fault[{fault.name}-…]`"])
    return _table(["Fault", "What the sandbox does", "What the product does", "Test"], rows)


def _proofs() -> str:
    parts = []
    for proof in read_proofs():
        figures = ([name.replace("_", " "), _figure(value)] for name, value in proof["figures"].items())
        parts.append(f"**{proof['name'].replace('_', ' ')}**\n\n" + _table(["Figure", "Value"], figures))
    return "\n".join(parts) or "None yet: `make privacy` writes them."


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _default(info: Any) -> str:
    if info.is_required() or info.default_factory or info.default in (None, ()):
        return "see right" if "Default" in info.description else "none"
    return f"`{info.default}`"


def _missing(system: System) -> MissingCredentials:
    """What `vault` says of a company SLUG that has set nothing."""
    from teei_ingest.vault.credentials import resolve

    company = Company(UUID(int=0), "slug", "", (system.name,))
    try:
        resolve(Settings.model_validate({"TEEI_HOME": "/"}), Companies([company]), company, system)
    except MissingCredentials as missing:
        return missing
    raise AssertionError(f"{system.name} asks for no credentials")


def _credentials(systems: Iterable[System]) -> str:
    rows = []
    for system in systems:
        missing = _missing(system)
        own = [name for name in missing.names if name != system.url_variable]
        rows.append([system.title, f"`{system.url_variable}`", _code(*own), _code(*missing.shared)])
    return _table(["System", "Address", "A company's own", "Shared by all companies"], rows)


def _facts(system: System) -> str:
    quota = system.quota
    rows = [
        ["Kind", system.kind],
        ["Authentication", _authentication(system)],
        ["The company is named by", _tenant(system)],
        ["Largest page", f"{system.max_page} records"],
        ["Quota", f"{quota.requests} requests in {quota.seconds} s for each key" if quota else "none declared"],
        ["Health probe", f"`GET {system.health_path}`, without a key" if system.health_path else "a token request"],
        ["Person ids are unique in", f"the namespace `{system.namespace}`"],
    ]
    return _table(["", system.title], rows) + "\n" + _credentials([system])


def _authentication(system: System) -> str:
    if isinstance(system.auth, ApiKey):
        return _auth(system)
    return f"{_auth(system)}: `POST {system.auth.token_path}`, scope `{system.auth.scope}`"


def _tenant(system: System) -> str:
    where = f"header `{system.tenant_header}`" if system.tenant_header else f"parameter `{system.tenant_param}`"
    what = "our own company id" if system.tenant == "company_id" else f"its {system.tenant.replace('_', ' ')}"
    return f"{where}: {what}"


# --- views -----------------------------------------------------------------------------------------------------------


def empty_views() -> duckdb.DuckDBPyConnection:
    """All views over tables without rows."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    for contract in contracts():
        connection.register(contract.table, arrow_schema(contract).empty_table())
    define_views(connection, no_tables())
    return connection


def _views() -> str:
    connection = empty_views()
    overview: list[list[str]] = []
    details: list[str] = []
    leading: list[list[str]] = []
    for name, view in views().items():
        overview.append([f"`{name}`", view.description])
        if not name.startswith("current_"):
            described = connection.execute(f"DESCRIBE {name}").fetchall()
            rows = [[f"`{row[0]}`", f"`{row[1]}`"] for row in described]
            if not view.sql:
                leading, rows = rows[: len(LEADING)], rows[len(LEADING) :]
            details.append(f"### {name}\n\n{view.description}\n\n{_table(['Column', 'Type'], rows)}")
    return "\n".join(
        [
            _table(["View", "What it shows"], overview),
            f"Every view of events begins with these columns:\n\n{_table(['Column', 'Type'], leading)}",
            *details,
        ]
    )


def _released_views() -> str:
    parts = []
    for name, view in RELEASED_VIEWS.items():
        rows = [
            [
                f"`{column.name}`",
                f"`{column.type}`",
                column.unit or "–",
                "yes" if column.nullable else "no",
                column.description + (f" ({_code(*column.values)})" if column.values else ""),
            ]
            for column in view.columns
        ]
        parts += [
            f"### {name}\n",
            f"{view.description} [JSON Schema](../{VIEW_SCHEMAS}/{name}.json) of a row.\n",
            _table(["Column", "Type", "Unit", "May be null", "What it is"], rows),
        ]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
