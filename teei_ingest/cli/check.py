"""`teei health`, `teei doctor`: is everything well, and what to do where it is not."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from teei_ingest.cli.complete import company_slugs

if TYPE_CHECKING:
    from teei_ingest.companies import Companies
    from teei_ingest.health import Pulse
    from teei_ingest.settings import Settings

_CLOCK_WARN_S, _CLOCK_FAIL_S = 30, 300


def health(
    company: Annotated[
        str | None, typer.Option(metavar="SLUG", help="One company alone.", autocompletion=company_slugs)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Ask every system of every company whether it is well, all at once.

    One request each, no retries. Where a system is known to be down, it says since when, and when it is asked again.
    Exit code 4 if any is unhealthy.
    """
    from teei_ingest.cli import home
    from teei_ingest.cli.output import as_json, err
    from teei_ingest.companies import load_companies
    from teei_ingest.errors import SourceError
    from teei_ingest.health import UNHEALTHY, pulses

    settings = home.settle()
    companies = load_companies(settings)
    asked = [companies.get(company)] if company else list(companies)
    with err().status("asking"):
        found = pulses(settings, companies, asked)
    if json:
        as_json(_reply(found))
    else:
        _show_health(found)
    if any(pulse.status == UNHEALTHY for pulse in found):
        raise typer.Exit(SourceError.exit_code)


def _reply(found: Sequence[Pulse]) -> dict[str, Any]:
    """In the style of the seed service's `/integrations/health`."""
    from teei_ingest.health import HEALTHY, UNCONFIGURED, UNHEALTHY
    from teei_ingest.systems import all_systems

    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    counts = {state: sum(p.status == state for p in found) for state in (HEALTHY, UNHEALTHY, UNCONFIGURED)}
    overall = UNHEALTHY if counts[UNHEALTHY] else HEALTHY
    return {
        "status": overall,
        "summary": {"totalConnectors": len(found), **counts, "overallStatus": overall},
        "connectors": [
            {
                "name": pulse.system,
                "company": pulse.company,
                "type": all_systems()[pulse.system].kind,
                "status": pulse.status,
                "responseTime": pulse.response_ms,
                "lastCheck": now,
                "error": pulse.problem or None,
                "down": {"since": _iso(pulse.down.since), "nextProbe": _iso(pulse.down.next)} if pulse.down else None,
            }
            for pulse in found
        ],
        "timestamp": now,
    }


def _iso(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _show_health(found: Sequence[Pulse]) -> None:
    from rich.text import Text

    from teei_ingest.cli.output import FAIL, NONE, OK, mark, out, table
    from teei_ingest.health import HEALTHY, UNCONFIGURED, UNHEALTHY
    from teei_ingest.systems import all_systems

    systems = [name for name in all_systems() if any(pulse.system == name for pulse in found)]
    marks = {HEALTHY: OK, UNHEALTHY: FAIL, UNCONFIGURED: NONE}
    rows: dict[str, dict[str, Text]] = {}
    for pulse in found:
        ms = "" if pulse.response_ms is None else f" {pulse.response_ms:,.0f}"
        rows.setdefault(pulse.company, {})[pulse.system] = mark(marks[pulse.status]).append(ms, "dim")
    made = table(["company", *systems])
    for company, cells in rows.items():
        made.add_row(company, *(cells.get(system, mark(NONE)) for system in systems))
    out().print(made)
    for problem, pulses_of in _by_problem(found).items():
        out().print(mark(FAIL).append(f" {_named(pulses_of)}: {problem}", "default"))
    counts = (f"{sum(pulse.status == state for pulse in found)} {state}" for state in marks)
    out().print(f"[dim]{', '.join(counts)}; figures are milliseconds[/]")


def _by_problem(found: Sequence[Pulse]) -> dict[str, list[Pulse]]:
    from teei_ingest.health import UNHEALTHY

    problems: dict[str, list[Pulse]] = {}
    for pulse in found:
        if pulse.status == UNHEALTHY:
            problems.setdefault(pulse.problem, []).append(pulse)
    return problems


def _named(found: Sequence[Pulse]) -> str:
    """Systems and companies of pulses that say the same."""
    systems = ", ".join(dict.fromkeys(pulse.system for pulse in found))
    return f"{systems} ({_listed(dict.fromkeys(pulse.company for pulse in found))})"


def _listed(slugs: Collection[str]) -> str:
    shown = ", ".join(list(slugs)[:3])
    return shown if len(slugs) <= 3 else f"{shown} and {len(slugs) - 3} more"


# --- doctor -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """One line: `ok`, `warn`, `fail` or `none` (nothing to say), what it is about, and the remedy."""

    state: str
    subject: str
    text: str
    remedy: str = ""


def doctor(
    fix: Annotated[
        bool, typer.Option("--fix", help="End runs that count as running though their process is gone.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Look at everything that has to be right before a sync: settings, companies, secrets, credentials, systems, keys,
    storage, Dagster, clock. Each line has its remedy.

    Exit code 1 if a line failed.
    """
    from dataclasses import asdict

    from teei_ingest.cli.output import FAIL, as_json, line

    found = []
    for finding in _findings(fix):
        found.append(finding)
        if not json:
            line(finding.state, finding.subject, finding.text, finding.remedy)
    if json:
        as_json([asdict(finding) for finding in found])
    if any(finding.state == FAIL for finding in found):
        raise typer.Exit(1)


def _findings(fix: bool) -> Iterator[Finding]:
    from teei_ingest.cli import home
    from teei_ingest.cli.output import FAIL, OK
    from teei_ingest.companies import load_companies
    from teei_ingest.errors import TeeiError
    from teei_ingest.vault.credentials import refuse_common_accounts

    yield from _versions()
    try:
        settings = home.settle()
        if not settings.outside_key:
            settings.master_key_bytes()
    except TeeiError as error:
        yield Finding(FAIL, "settings", "cannot be used; nothing else was looked at", str(error))
        return
    yield from _settings(settings)
    yield from _guarded("storage", _storage(settings))
    yield from _guarded("shared state", _shared_state(settings))
    try:
        companies = load_companies(settings)
    except TeeiError as error:
        yield Finding(FAIL, "companies", "the registry cannot be used", str(error))
    else:
        yield Finding(OK, "companies", f"{len(companies)} in {settings.companies or 'the sandbox'}")
        secrets = list(_guarded("secrets", _secrets(settings)))
        yield from secrets
        if has_secrets := all(finding.state == OK for finding in secrets):
            yield from _guarded("accounts", _nothing(lambda: refuse_common_accounts(settings, companies)))
            yield from _credentials(settings, companies)
            yield from _reachable(settings, companies)
        yield from _guarded("master key", _outside_key(settings))
        yield from _guarded("keys", _keys(settings, companies))
        yield from _guarded("erasures", _erasures(settings, companies))
        if has_secrets:
            yield from _clock(settings, companies)
    yield from _guarded("dagster", _dagster(settings, fix))


def _guarded(subject: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """The findings; one more if looking for them fails, with the error as its remedy."""
    from teei_ingest.cli.output import FAIL
    from teei_ingest.errors import TeeiError

    try:
        yield from findings
    except TeeiError as error:
        yield Finding(FAIL, subject, "cannot be used", str(error))


def _nothing(check: Any) -> Iterator[Finding]:
    check()
    yield from ()


def _versions() -> Iterator[Finding]:
    import platform
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    from teei_ingest.cli.output import FAIL, OK

    wrong = []
    for text in requires("teei-ingest") or ():
        wanted = Requirement(text)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            has = version(wanted.name)
        except PackageNotFoundError:
            has = ""
        if not has or not wanted.specifier.contains(has, prereleases=True):
            wrong.append(f"{wanted.name} {has or 'is missing'} (wanted {wanted.specifier})")
    ours = f"teei {version('teei-ingest')}, Dagster {version('dagster')}, Python {platform.python_version()}"
    if wrong:
        yield Finding(FAIL, "versions", f"{ours}; {', '.join(wrong)}", "make setup")
    else:
        yield Finding(OK, "versions", ours)


def _settings(settings: Settings) -> Iterator[Finding]:
    from pathlib import Path

    from teei_ingest.cli.output import OK, WARN

    kind = "a sandbox's home" if settings.is_sandbox else "real data"
    yield Finding(OK, "settings", f"{kind}, TEEI_HOME {settings.home}")
    for path in (Path(".env"), settings.home):
        if path.exists() and path.stat().st_mode & 0o077:
            mode = 700 if path.is_dir() else 600
            yield Finding(WARN, "settings", f"{path} is open to other users of this machine", f"chmod {mode} {path}")


def _storage(settings: Settings) -> Iterator[Finding]:
    import shutil
    from pathlib import Path

    from teei_ingest.cli.output import OK, WARN
    from teei_ingest.store import open_store

    store = open_store(settings)
    store.versions()  # refused where they are another deployment's, or of another form
    yield Finding(
        OK,
        "storage",
        f"{settings.store_uri} opens, and is {'' if settings.is_sandbox else 'not '}marked as the sandbox's",
    )
    if store.keeps_versions():
        yield Finding(
            WARN,
            "storage",
            "its bucket keeps versions of what is removed: no erasure is for good",
            "suspend the bucket's versioning, or have older versions expire; see docs/object-storage.md",
        )
    _try_to_write(settings.home)
    folder = Path(settings.store_uri)
    if folder.is_dir():
        _try_to_write(folder)
        free = shutil.disk_usage(folder).free
        if free < 2**30:
            yield Finding(WARN, "storage", f"{free / 2**20:,.0f} MiB are free", "make room before the next sync")


def _try_to_write(folder: Any) -> None:
    import tempfile

    from teei_ingest.errors import StoreError

    try:
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        reason = error.strerror
    raise StoreError(f"{folder}: {reason}")


def _shared_state(settings: Settings) -> Iterator[Finding]:
    from teei_ingest.cli.output import OK
    from teei_ingest.vault.documents import shared

    if postgres := shared(settings):
        yield Finding(OK, "shared state", postgres.check())


def _secrets(settings: Settings) -> Iterator[Finding]:
    """Whether the secrets manager answers and knows us; what it lacks is seen with the credentials."""
    from teei_ingest.cli.output import OK
    from teei_ingest.vault.secrets import secrets_of

    if secrets := secrets_of(settings):
        yield Finding(OK, "secrets", secrets.manager.check())


def _outside_key(settings: Settings) -> Iterator[Finding]:
    from teei_ingest.cli.output import OK
    from teei_ingest.vault.wrapping import check_master

    if settings.outside_key:
        check_master(settings)
        yield Finding(OK, "master key", f"{settings.outside_key} wraps and unwraps")


def _credentials(settings: Settings, companies: Companies) -> Iterator[Finding]:
    from teei_ingest.cli.output import FAIL, NONE, OK, WARN
    from teei_ingest.vault.credentials import status

    ready: dict[tuple[str, ...], list[str]] = {}
    others = []
    for company in companies:
        found = {system: status(settings, companies, company, system) for system in company.systems}
        unusable: dict[str, list[str]] = {}
        configured = tuple(system for system, each in found.items() if each.state == "configured")
        ready.setdefault(configured, []).append(company.slug)
        for system, each in found.items():
            if each.state == "incomplete":
                unusable.setdefault(each.problem, []).append(system)
            elif each.state == "unconfigured":
                remedy = f"set {', '.join(each.missing)} in {each.where}; or take {system} out of its systems"
                state = NONE if configured else WARN
                others.append(Finding(state, "credentials", f"{company.slug}: none of {system}", remedy))
        for problem, systems in unusable.items():
            text = f"{company.slug}: those of {', '.join(systems)} cannot be used"
            others.append(Finding(FAIL, "credentials", text, problem))
    for configured, slugs in ready.items():
        if configured:
            yield Finding(OK, "credentials", f"{_listed(slugs)}: {', '.join(configured)}")
    yield from others


def _reachable(settings: Settings, companies: Companies) -> Iterator[Finding]:
    from teei_ingest.cli.output import FAIL, OK
    from teei_ingest.health import HEALTHY, pulses

    found = pulses(settings, companies, list(companies))
    well = [pulse for pulse in found if pulse.status == HEALTHY]
    if well:
        slowest = max(pulse.response_ms or 0 for pulse in well)
        yield Finding(OK, "systems", f"{len(well)} answer, the slowest in {slowest:,.0f} ms")
    for problem, alike in _by_problem(found).items():
        remedy = "start the sandbox: `teei sandbox` or `teei dev`" if settings.is_sandbox and not well else problem
        yield Finding(FAIL, "systems", f"unhealthy: {_named(alike)}", remedy)


def _keys(settings: Settings, companies: Companies) -> Iterator[Finding]:
    from teei_ingest.cli.output import FAIL, NONE, OK
    from teei_ingest.errors import TeeiError
    from teei_ingest.store import open_store
    from teei_ingest.streams import all_streams
    from teei_ingest.vault.keys import KeyRing, shredded

    store = open_store(settings)
    opened, absent = [], []
    for company in companies:
        if shredded(settings, company) is not None:
            yield Finding(NONE, "keys", f"{company.slug} was shredded", "take it out of the companies file")
            continue
        has_keys = (settings.home / "keys" / f"{company.id}.json").exists()
        if not has_keys and not any(store.newest_day(s.contract, s.name, company.slug) for s in all_streams().values()):
            absent.append(company.slug)
            continue
        try:
            KeyRing.open(settings, company, create=False)
        except TeeiError as error:
            yield Finding(FAIL, "keys", f"{company.slug}'s cannot be used", error.message)
        else:
            opened.append(company.slug)
    if opened:
        yield Finding(OK, "keys", f"the master key opens those of {_listed(opened)}")
    if absent:
        yield Finding(NONE, "keys", f"none yet: {_listed(absent)}; the first sync makes them")


def _erasures(settings: Settings, companies: Companies) -> Iterator[Finding]:
    from teei_ingest.cli.output import OK, WARN
    from teei_ingest.landing.suppression import Suppressions
    from teei_ingest.vault.keys import KeyRing

    suppressions, done = Suppressions(settings), 0
    for company in companies:
        if not suppressions.version(company.slug):
            continue
        entries = suppressions.entries(KeyRing.open(settings, company, create=False), company.slug)
        pending = [entry for entry in entries if not entry.done]
        done += len(entries) - len(pending)
        if pending:
            text = f"{company.slug}: {len(pending)} not carried out to the end"
            yield Finding(WARN, "erasures", text, f"teei erase --company {company.slug} --resume")
    if done:
        yield Finding(OK, "erasures", f"{done} carried out and suppressed since")


def _clock(settings: Settings, companies: Companies) -> Iterator[Finding]:
    from teei_ingest.cli.output import FAIL, NONE, OK, WARN
    from teei_ingest.errors import TeeiError
    from teei_ingest.vault.credentials import resolve

    for company in companies:
        for system in company.systems:
            try:
                offset = _offset_s(resolve(settings, companies, company, system).base_url)
            except TeeiError:
                continue
            if offset is None:
                continue
            state = OK if abs(offset) < _CLOCK_WARN_S else WARN if abs(offset) < _CLOCK_FAIL_S else FAIL
            remedy = "" if state == OK else "set this machine's clock (NTP): tokens and webhooks depend on it"
            yield Finding(
                state,
                "clock",
                f"{abs(offset):.0f} s {'behind' if offset > 0 else 'ahead of'} {system}'s"
                if state != OK
                else f"agrees with {system}'s",
                remedy,
            )
            return
    yield Finding(NONE, "clock", "no system told the time")


def _offset_s(base_url: str) -> float | None:
    """Seconds by which a server's clock is ahead of this machine's, by its Date header (RFC 9110, section 6.6.1)."""
    import http.client
    from email.utils import parsedate_to_datetime
    from urllib.parse import urlsplit

    address = urlsplit(base_url)
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(address.hostname or "", address.port, timeout=5)
    try:
        connection.request("HEAD", address.path or "/")
        told = connection.getresponse().getheader("Date")
        return (parsedate_to_datetime(told) - datetime.now(UTC)).total_seconds() if told else None
    except (OSError, http.client.HTTPException, ValueError, TypeError):
        return None
    finally:
        connection.close()


def _dagster(settings: Settings, fix: bool) -> Iterator[Finding]:
    from teei_ingest.cli import home
    from teei_ingest.cli.output import OK, WARN
    from teei_ingest.settings import project_root

    home.prepare_dagster_home(settings)
    from teei_ingest.defs.run import end_stuck_runs, stuck_runs

    stuck = end_stuck_runs() if fix else stuck_runs()
    yield Finding(OK, "dagster", f"definitions load, DAGSTER_HOME {settings.dagster_home}")
    config = settings.dagster_home / "dagster.yaml"
    if config.resolve() != (project_root() / "dagster.yaml").resolve():
        yield Finding(
            WARN, "dagster", f"{config} is not the project's", 'remove it; `eval "$(teei env)"` links the project\'s'
        )
    if stuck:
        ids = ", ".join(run_id[:8] for run_id in stuck)
        if fix:
            yield Finding(OK, "runs", f"{len(stuck)} without a process were ended: {ids}")
        else:
            yield Finding(
                WARN, "runs", f"{len(stuck)} count as running, but their process is gone: {ids}", "teei doctor --fix"
            )
    else:
        yield Finding(OK, "runs", "none is stuck")
