"""The registry of companies: who they are, which systems they use, how they override the privacy policy.

Belongs here: reading and checking the file that TEEI_COMPANIES names, and the sandbox's companies. Does not
belong here: their credentials (`vault/credentials.py`), what a privacy override means (`redact/`), Dagster's
partitions.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml

from teei_ingest.errors import CompaniesFileError, SettingsError, UsageError
from teei_ingest.settings import Settings
from teei_ingest.systems import all_systems

SYSTEMS = tuple(all_systems())

_SLUG = re.compile(r"[a-z0-9-]{1,40}")
_SANDBOX_REGISTRY = "registry.yaml"
_FIELDS = ("id", "slug", "name", "systems", "privacy")


@dataclass(frozen=True)
class Company:
    """One tenant. `id` is the companyId of its events, `slug` its partition key."""

    id: UUID
    slug: str
    name: str
    systems: tuple[str, ...] = SYSTEMS
    privacy: Mapping[str, Any] = field(default_factory=dict, hash=False)
    places: Mapping[str, str] = field(default_factory=dict, compare=False)  # file and line of each entry of `privacy`

    @property
    def variable(self) -> str:
        """The slug as it stands in names of environment variables: acme-corp is ACME_CORP."""
        return re.sub("-+", "_", self.slug.strip("-")).upper()


SANDBOX_COMPANIES = (
    Company(UUID("550e8400-e29b-41d4-a716-446655440000"), "acme-corp", "Acme Corp"),
    Company(UUID("7d444840-9dc0-41d1-b245-5ffdce74fad2"), "globex-inc", "Globex Inc"),
    Company(UUID("9b2f1c6e-3a57-4d0b-8e64-2f8a1c0d5b73"), "initech-ab", "Initech AB"),
)


class Companies:
    """The companies in the order of their file."""

    def __init__(self, companies: Iterable[Company]) -> None:
        self._by_slug = {company.slug: company for company in companies}

    def __iter__(self) -> Iterator[Company]:
        return iter(self._by_slug.values())

    def __len__(self) -> int:
        return len(self._by_slug)

    def __contains__(self, slug: object) -> bool:
        return slug in self._by_slug

    @property
    def slugs(self) -> tuple[str, ...]:
        return tuple(self._by_slug)

    def get(self, slug: str) -> Company:
        """Raises UsageError, which names the known slugs and the nearest one."""
        if slug in self._by_slug:
            return self._by_slug[slug]
        near = difflib.get_close_matches(slug, self._by_slug, n=1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise UsageError(f"there is no company {slug!r}{meant}; known are: {', '.join(self._by_slug) or 'none'}")

    def by_id(self, company_id: UUID | str) -> Company:
        """Raises UsageError if no company has this id."""
        for company in self:
            if str(company.id) == str(company_id).lower():
                return company
        raise UsageError(f"there is no company with the id {company_id}")

    def using(self, system: str) -> tuple[Company, ...]:
        return tuple(company for company in self if system in company.systems)


def load_companies(settings: Settings) -> Companies:
    """Read the file that TEEI_COMPANIES names; without one, a sandbox's home has the sandbox's companies.

    Raises CompaniesFileError (file, line, field) or SettingsError.
    """
    path = registry_path(settings)
    if settings.companies is None and not path.exists():
        return Companies(SANDBOX_COMPANIES)
    return Companies(_read(path, SYSTEMS))


def registry_path(settings: Settings) -> Path:
    """The companies file; in a sandbox's home without one, where it would be. Raises SettingsError."""
    if settings.companies is not None:
        return settings.companies
    if settings.is_sandbox:
        return settings.home / _SANDBOX_REGISTRY
    raise SettingsError("set TEEI_COMPANIES to the path of your companies file; `teei init` writes one")


def parse_companies(text: str, path: Path) -> Companies:
    """The companies in the text of a file. Raises CompaniesFileError."""
    return Companies(_Reader(path, SYSTEMS).companies(text))


def _read(path: Path, systems: tuple[str, ...]) -> list[Company]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        problem = error.strerror or "cannot be read"
    except UnicodeDecodeError:
        problem = "is not UTF-8"
    else:
        return _Reader(path, systems).companies(text)
    raise CompaniesFileError(f"{path} (TEEI_COMPANIES): {problem}")


class _Reader:
    """Walks YAML's nodes instead of its values, for their line numbers."""

    def __init__(self, path: Path, systems: tuple[str, ...]) -> None:
        self.path = path
        self.systems = systems

    def error(self, node: yaml.Node, field: str, problem: str) -> CompaniesFileError:
        return self.error_at(node.start_mark.line + 1, field, problem)

    def error_at(self, line: int, field: str, problem: str) -> CompaniesFileError:
        return CompaniesFileError(f"{self.path.name}, line {line}, {field}: {problem}")

    def companies(self, text: str) -> list[Company]:
        try:
            loader = yaml.SafeLoader(text)
            root = loader.get_single_node()
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = mark.line + 1 if mark else 1
            problem = getattr(error, "problem", None) or "unreadable characters"
        else:
            if root is None:
                raise self.error_at(1, "companies", "the file is empty")
            return self.checked(self.fields(root, "the file", ("companies",)), root, loader)
        raise self.error_at(line, "YAML", problem)

    def checked(self, fields: dict[str, yaml.Node], root: yaml.Node, loader: yaml.SafeLoader) -> list[Company]:
        listed = fields.get("companies", root)
        if not isinstance(listed, yaml.SequenceNode) or not listed.value:
            raise self.error(listed, "companies", "has to be a list of at least one company")
        companies: list[Company] = []
        for node in listed.value:
            fields = self.fields(node, "a company", _FIELDS)
            company = self.company(node, fields, loader)
            for other in companies:
                if other.id == company.id:
                    raise self.error(fields["id"], "id", f"is also the id of {other.slug}")
                if other.slug == company.slug:
                    raise self.error(fields["slug"], "slug", f"{other.slug} is there twice")
                if other.variable == company.variable:
                    raise self.error(
                        fields["slug"],
                        "slug",
                        f"{company.slug} and {other.slug} would share the variables …_{company.variable}_…",
                    )
            companies.append(company)
        return companies

    def company(self, node: yaml.Node, fields: dict[str, yaml.Node], loader: yaml.SafeLoader) -> Company:
        for required in ("id", "slug", "name"):
            if required not in fields:
                raise self.error(node, required, "is missing")
        slug = self.text(fields["slug"], "slug")
        if not _SLUG.fullmatch(slug) or not slug.strip("-"):
            raise self.error(fields["slug"], "slug", "has to be 1 to 40 of a-z, 0-9 and hyphens")
        privacy = fields.get("privacy")
        return Company(
            id=self.uuid(fields["id"]),
            slug=slug,
            name=self.text(fields["name"], "name"),
            systems=self.system_names(fields["systems"]) if "systems" in fields else self.systems,
            privacy=self.privacy(privacy, loader) if privacy else {},
            places=self.places(privacy) if privacy else {},
        )

    def fields(self, node: yaml.Node, what: str, known: tuple[str, ...] | None) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, what, "has to be a mapping")
        fields: dict[str, yaml.Node] = {}
        for key_node, value_node in node.value:
            key = self.text(key_node, what)
            if key in fields:
                raise self.error(key_node, key, "is there twice")
            if known and key not in known:
                raise self.error(key_node, key, f"is unknown; known are: {', '.join(known)}")
            fields[key] = value_node
        return fields

    def text(self, node: yaml.Node, field: str) -> str:
        if not isinstance(node, yaml.ScalarNode) or not node.value.strip() or node.tag.endswith(":null"):
            raise self.error(node, field, "has to be a text")
        return str(node.value)

    def uuid(self, node: yaml.Node) -> UUID:
        text = self.text(node, "id")
        if not re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text):
            raise self.error(node, "id", "has to be a UUID")
        return UUID(text)

    def system_names(self, node: yaml.Node) -> tuple[str, ...]:
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            raise self.error(node, "systems", f"has to be a list of: {', '.join(self.systems)}")
        names: list[str] = []
        for item in node.value:
            name = self.text(item, "systems")
            if name not in self.systems:
                raise self.error(item, "systems", f"{name!r} is unknown; known are: {', '.join(self.systems)}")
            if name in names:
                raise self.error(item, "systems", f"{name} is there twice")
            names.append(name)
        return tuple(names)

    def places(self, node: yaml.Node) -> dict[str, str]:
        entries = self.fields(node, "privacy", None).items()
        return {name: f"{self.path.name}, line {entry.start_mark.line + 1}" for name, entry in entries}

    def privacy(self, node: yaml.Node, loader: yaml.SafeLoader) -> dict[str, Any]:
        self.fields(node, "privacy", None)
        try:
            return dict(loader.construct_document(node))
        except yaml.YAMLError:
            pass
        raise self.error(node, "privacy", "has to be plain YAML")
