"""A company's privacy policy over time: its versions, a change of it, and stored events brought up to it.

Belongs here: remembering every policy that was used, changing one in the companies file, and the order of steps in
which events of an older one are made anew. Does not belong here: what a policy means (`redact/policy.py`), how rows get
stricter (`redact/tighten.py`), Dagster, whose functions the caller brings along.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.compat import StringIO
from ruamel.yaml.error import YAMLError

from teei_ingest.companies import SANDBOX_COMPANIES, Companies, Company, parse_companies, registry_path
from teei_ingest.contracts.base import Leaf, leaves
from teei_ingest.errors import CompaniesFileError, SettingsError, UsageError
from teei_ingest.pipeline.days import Window, windows
from teei_ingest.privacy.audit_log import AuditLog, actor
from teei_ingest.redact.policy import REVISION, Mode, Policy, policy_for
from teei_ingest.redact.tighten import tighten
from teei_ingest.redact.tokens import Pseudonyms
from teei_ingest.settings import Settings
from teei_ingest.store.locks import Locks
from teei_ingest.store.tables import Store, contracts
from teei_ingest.streams import all_streams
from teei_ingest.sync import Request, Result
from teei_ingest.vault.credentials import status
from teei_ingest.vault.files import os_errors, replacing
from teei_ingest.vault.keys import KeyRing

UNKNOWN = "unknown"  # of events whose materialization nobody remembers
# From the mode that keeps nothing to the one that keeps all; a token joins with more than a hash.
STRICTEST_FIRST = (Mode.REMOVE, Mode.MASK, Mode.HASH, Mode.TOKENIZE, Mode.COARSEN, Mode.SCRUB, Mode.KEEP)
_DAYS_AT_ONCE = 31


# --- versions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """A policy that was in force: since when it is known (RFC 3339), and who was the first to use it."""

    policy: Policy
    version: str
    since: str
    who: str
    revision: int = REVISION


def history(settings: Settings, slug: str) -> list[Known]:
    """All policies of a company that were ever used, the oldest first. Raises SettingsError."""
    path = _path(settings, slug)
    try:
        with os_errors(lambda reason: SettingsError(f"{path}: {reason}")):
            document = json.loads(path.read_bytes()) if path.exists() else {"versions": []}
        return [_known(entry) for entry in document["versions"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise SettingsError(f"{path} is damaged: restore it from its backup, or remove it to forget older policies")


def remember(settings: Settings, slug: str, policy: Policy) -> None:
    """Note that a policy is in use; nothing happens if it is known."""
    if any(known.version == policy.version for known in history(settings, slug)):
        return
    path = _path(settings, slug)
    with Locks(settings.home / "locks").exclusive(f"policies-{slug}"):
        found = history(settings, slug)
        if any(known.version == policy.version for known in found):
            return
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        found.append(Known(policy, policy.version, now, actor(settings)))
        with replacing(path, lambda reason: SettingsError(f"{path}: {reason}")) as write:
            write(json.dumps({"versions": [_entry(known) for known in found]}, indent=1).encode() + b"\n")


def _path(settings: Settings, slug: str) -> Path:
    return settings.home / "policies" / f"{slug}.json"


def _entry(known: Known) -> dict[str, Any]:
    policy = known.policy
    return {
        "version": known.version,
        "since": known.since,
        "who": known.who,
        "revision": known.revision,
        "overrides": dict(sorted(policy.overrides.items())),
        "allowed_fields": sorted(policy.allowed_fields),
    }


def _known(entry: Mapping[str, Any]) -> Known:
    overrides = {name: Mode(mode) for name, mode in entry["overrides"].items()}
    policy = Policy(overrides, frozenset(entry["allowed_fields"]))
    return Known(policy, entry["version"], entry["since"], entry["who"], entry["revision"])


# --- differences -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """A field that two policies treat differently."""

    contract: str
    field: str
    cls: str
    before: Mode
    after: Mode

    @property
    def loosens(self) -> bool:
        """Whether more of it is kept than before."""
        return STRICTEST_FIRST.index(self.after) > STRICTEST_FIRST.index(self.before)


def differences(before: Policy, after: Policy) -> list[Difference]:
    """All fields of all contracts with another mode."""
    return [
        Difference(contract.__name__, name, leaf.cls.value, before.mode(leaf), after.mode(leaf))
        for contract in contracts()
        for name, leaf in _named(contract)
        if before.mode(leaf) is not after.mode(leaf)
    ]


def _named(contract: Any) -> list[tuple[str, Leaf]]:
    return [
        (leaf.name if one is leaf else f"{leaf.name}[].{one.names[-1]}", one)
        for leaf in leaves(contract)
        for one in leaf.nested or (leaf,)
    ]


# --- a change --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """A policy to be: `privacy` as the companies file will have it, and what differs by field."""

    company: Company
    before: Policy
    after: Policy
    privacy: Mapping[str, Any]
    text: str  # of the companies file that the change was made for
    fields: list[Difference]

    @property
    def loosened(self) -> list[Difference]:
        return [one for one in self.fields if one.loosens]


def plan_change(
    settings: Settings,
    companies: Companies,
    slug: str,
    *,
    modes: Sequence[str] = (),
    unset: Sequence[str] = (),
    allow: Sequence[str] = (),
    disallow: Sequence[str] = (),
) -> Change:
    """What a change comes to; nothing is written. `modes` are `NAME=MODE`, the rest names.

    Raises UsageError for what cannot be set, SettingsError for a policy that is not in order already.
    """
    company = companies.get(slug)
    before = policy_for(slug, company.privacy, company.places)
    privacy = {name: value for name, value in company.privacy.items() if name != "allowed_fields"}
    allowed = list(company.privacy.get("allowed_fields") or [])
    for name in unset:
        if name not in privacy:
            raise UsageError(f"`{name}` is not set, so it cannot be unset; set are: {', '.join(privacy) or 'none'}")
        del privacy[name]
    for pair in modes:
        if not re.fullmatch(r"[^=\s]+=[^=\s]+", pair):
            raise UsageError(f"{pair!r} is not NAME=MODE, for example email=remove")
        name, mode = pair.split("=")
        privacy[name] = mode
    for name in disallow:
        if name not in allowed:
            raise UsageError(f"`{name}` is not among allowed_fields ({', '.join(allowed) or 'none'})")
        allowed.remove(name)
    allowed += [name for name in dict.fromkeys(allow) if name not in allowed]
    if allowed:
        privacy["allowed_fields"] = allowed
    try:
        after = policy_for(slug, privacy)
    except SettingsError as error:
        problem = error.message
    else:
        return Change(company, before, after, privacy, _registry(settings), differences(before, after))
    raise UsageError(problem)


def carry_out(settings: Settings, change: Change, why: str) -> None:
    """Write a change into the companies file, atomically, and into the audit log.

    Raises UsageError where the file changed meanwhile, CompaniesFileError where it cannot be edited safely.
    """
    slug, log = change.company.slug, AuditLog(settings)
    set_before, set_after = _settings(change.company.privacy), _settings(change.privacy)
    said = {
        "before": change.before.version,
        "after": change.after.version,
        "set": {name: value for name, value in set_after.items() if set_before.get(name) != value},
        "unset": sorted(set(set_before) - set(set_after)),
        "loosened": [f"{one.contract}.{one.field}" for one in change.loosened],
    }
    path = registry_path(settings).resolve()
    with Locks(settings.home / "locks").exclusive("companies"):
        if _registry(settings) != change.text:
            raise UsageError(f"{path.name} was changed meanwhile: look at the policy and say it again")
        text = _edited(change.text, path, change)
        log.append("policy.change_started", company=slug, why=why, details=said)
        remember(settings, slug, change.before)
        with replacing(path, lambda reason: CompaniesFileError(f"{path}: {reason}")) as write:
            write(text.encode())
        remember(settings, slug, change.after)
    log.append("policy.changed", company=slug, why=why, details=said)


def _settings(privacy: Mapping[str, Any]) -> dict[str, str]:
    """Names with their modes; an allowed field counts as one that is kept."""
    modes = {name: str(value) for name, value in privacy.items() if name != "allowed_fields"}
    return modes | {f"allowed_fields.{name}": "keep" for name in privacy.get("allowed_fields") or ()}


def _registry(settings: Settings) -> str:
    """The text of the companies file; of the sandbox's companies where there is none."""
    path = registry_path(settings)
    if settings.companies is None and not path.exists():
        entries = [f"  - id: {one.id}\n    slug: {one.slug}\n    name: {one.name}\n" for one in SANDBOX_COMPANIES]
        return "".join(["# The sandbox's companies.\ncompanies:\n", *entries])
    with os_errors(lambda reason: CompaniesFileError(f"{path} (TEEI_COMPANIES): {reason}")):
        return path.read_text(encoding="utf-8")


def _edited(text: str, path: Path, change: Change) -> str:
    """The file with the company's new privacy and nothing else changed, comments included."""
    before = list(parse_companies(text, path))
    wanted = [replace(one, privacy=dict(change.privacy)) if one.slug == change.company.slug else one for one in before]
    position = [one.slug for one in before].index(change.company.slug)
    made = StringIO()
    try:
        round_trip = _round_trip(text)
        document = round_trip.load(text)
        _put(document["companies"][position], change.privacy)
        round_trip.dump(document, made)
        if list(parse_companies(made.getvalue(), path)) == wanted:
            return made.getvalue()
    except (YAMLError, CompaniesFileError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise CompaniesFileError(
        f"{path.name} cannot be edited without changing something else (an anchor that companies share?): "
        f"write privacy of {change.company.slug} by hand"
    )


def _round_trip(text: str) -> YAML:
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 10_000  # no line is broken
    first = re.search(r"^( *)- ", text, re.MULTILINE)
    offset = len(first[1]) if first else 2
    yaml.indent(mapping=2, sequence=offset + 2, offset=offset)
    return yaml


def _put(entry: CommentedMap, privacy: Mapping[str, Any]) -> None:
    if not privacy:
        entry.pop("privacy", None)
        return
    if not isinstance(entry.get("privacy"), CommentedMap):
        entry["privacy"] = CommentedMap()
    own = entry["privacy"]
    for name in [name for name in own if name not in privacy]:
        del own[name]
    for name, value in privacy.items():
        if own.get(name) == value:
            continue
        if isinstance(value, list) and isinstance(own.get(name), CommentedSeq):
            _put_list(own[name], value)
        elif isinstance(value, list):
            own[name] = CommentedSeq(value)
            own[name].fa.set_flow_style()
        else:
            own[name] = value


def _put_list(listed: CommentedSeq, values: list[str]) -> None:
    for at in reversed(range(len(listed))):
        if listed[at] not in values:
            del listed[at]
    listed.extend(value for value in values if value not in listed)


# --- stored events ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outdated:
    """Days of a stream whose stored events were made under another version of the policy."""

    stream: str
    version: str
    days: tuple[date, ...]

    @property
    def spans(self) -> list[Window]:
        return windows(list(self.days))


def outdated(
    store: Store, slug: str, current: str, versions: Mapping[str, Mapping[date, str]], wanted: Sequence[str] = ()
) -> list[Outdated]:
    """By stream (all, or the wanted ones) and version. `versions` has that of each day's last materialization."""
    found: list[Outdated] = []
    for stream in all_streams().values():
        if wanted and stream.name not in wanted:
            continue
        by_version: dict[str, list[date]] = {}
        for day in store.counts(stream.contract, stream.name, slug):
            version = versions.get(stream.name, {}).get(day, UNKNOWN)
            if version != current:
                by_version.setdefault(version, []).append(day)
        found += [Outdated(stream.name, version, tuple(days)) for version, days in sorted(by_version.items())]
    return found


@dataclass
class Reapplied:
    """Partitions by what was done: read again from the source, or tightened where they lie since it gave nothing.

    In those that are the `same`, both policies want the same of every field. `reasons` say by stream why its source
    gave nothing, `failed_checks` what a check found afterwards.
    """

    reread: int = 0
    tightened: int = 0
    same: int = 0
    reasons: dict[str, str] = field(default_factory=dict)
    failed_checks: list[str] = field(default_factory=list)


def reapply(
    settings: Settings,
    companies: Companies,
    company: Company,
    stale: Sequence[Outdated],
    store: Store,
    *,
    run: Callable[[Request], Result],
    record: Callable[[str, Sequence[date], str], None],
    why: str = "",
) -> Reapplied:
    """Bring partitions up to the company's policy, and what they had before off the disk.

    `run` materializes a request, `record` notes the policy's version of days that were tightened in place. Safe to
    repeat: what was done is not outdated any more.
    """
    policy = policy_for(company.slug, company.privacy, company.places)
    log, done = AuditLog(settings), Reapplied()
    same = [one for one in stale if _is_same(settings, company, one, policy)]
    days: dict[str, list[date]] = {}
    for one in stale:
        if one not in same:
            days.setdefault(one.stream, []).extend(one.days)
    details = {"version": policy.version, "streams": list(days)}
    log.append(
        "policy.reapply_started",
        company=company.slug,
        why=why,
        counts={"partitions": sum(map(len, days.values()))},
        details=details,
    )
    remember(settings, company.slug, policy)
    for one in same:
        record(one.stream, one.days, policy.version)
        done.same += len(one.days)
    left = _without_source(settings, companies, company, days, done)
    for window, names in _requests(days, left).items():
        result = run(Request(company, window, names))
        for problem in result.problems:
            if problem.code == "check_failed":
                done.failed_checks.append(f"{problem.stream} {problem.day}: {problem.message}")
            else:
                left.setdefault(problem.stream, set()).add(problem.day)
                done.reasons.setdefault(problem.stream, problem.message)
        if result.broken:
            for name in names:
                left.setdefault(name, set()).update(window.days)
                done.reasons.setdefault(name, result.broken)
    for name, some in left.items():
        if some:
            _tighten_stored(settings, store, company, name, sorted(some), policy)
            record(name, sorted(some), policy.version)
            done.tightened += len(some)
    done.reread = sum(map(len, days.values())) - done.tightened
    for contract in {all_streams()[name].contract: None for name in days}:
        store.purge(contract)
    log.append(
        "policy.reapplied",
        company=company.slug,
        why=why,
        counts={"reread": done.reread, "tightened": done.tightened, "same": done.same},
        details=details,
    )
    return done


def _is_same(settings: Settings, company: Company, one: Outdated, policy: Policy) -> bool:
    """Whether a stream's events are what the policy wants, since it wants the same of each as the older one."""
    contract = all_streams()[one.stream].contract.__name__
    return any(
        known.version == one.version
        and known.revision == REVISION
        and all(each.contract != contract for each in differences(known.policy, policy))
        for known in history(settings, company.slug)
    )


def _without_source(
    settings: Settings, companies: Companies, company: Company, days: Mapping[str, list[date]], done: Reapplied
) -> dict[str, set[date]]:
    """Days that no request can be made for."""
    left: dict[str, set[date]] = {}
    for name, some in days.items():
        system = all_streams()[name].system
        found = status(settings, companies, company, system)
        if found.state != "configured":
            done.reasons[name] = found.problem or f"{system} has no credentials"
            left[name] = set(some)
        else:
            left[name] = {day for day in some if day < settings.start_date}
            if left[name]:
                done.reasons[name] = f"days before {settings.start_date} (TEEI_START_DATE) are not read"
    return left


def _requests(days: Mapping[str, list[date]], left: Mapping[str, set[date]]) -> dict[Window, tuple[str, ...]]:
    """Contiguous windows, each with the streams that need it."""
    wanted: dict[Window, tuple[str, ...]] = {}
    for name, some in days.items():
        for window in windows(sorted(set(some) - left.get(name, set()))):
            wanted[window] = (*wanted.get(window, ()), name)
    return wanted


def _tighten_stored(
    settings: Settings, store: Store, company: Company, name: str, days: Sequence[date], policy: Policy
) -> None:
    stream, slug = all_streams()[name], company.slug
    for at in range(0, len(days), _DAYS_AT_ONCE):
        some = days[at : at + _DAYS_AT_ONCE]
        with store.alone_with(slug):
            pseudonyms = Pseudonyms.of(KeyRing.open(settings, company, create=False))
            rows = store.rows(stream.contract, stream=name, company=slug, days=some)
            made = tighten(rows, stream.contract, policy, pseudonyms).sort_by("day")
            store.replace(stream.contract, name, slug, some, made.to_reader)
