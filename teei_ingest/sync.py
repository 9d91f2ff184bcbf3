"""A synchronization: what is asked for, what became of it, and the seed service's reply.

Belongs here: what the command line and the gateway share of a sync and what needs no Dagster. Does not belong
here: running it (`defs/run.py`), showing it (`cli/`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar

from teei_ingest.companies import Companies, Company
from teei_ingest.errors import SettingsError, UsageError
from teei_ingest.pipeline.days import Window, windows
from teei_ingest.settings import Settings
from teei_ingest.streams import all_streams
from teei_ingest.streams.base import Stream
from teei_ingest.vault.credentials import refuse_common_accounts, resolve, status
from teei_ingest.vault.keys import refuse_shredded

Day = TypeVar("Day", date, date | None)

# The seed service's connectors are a stream each, but for these; in its order, which a later stream comes after.
_CONNECTOR_ORDER = (
    *("benevity-volunteers", "benevity-donations", "goodera-volunteers", "goodera-donations", "workday-directory"),
    *("kintell-enrollments", "upskilling-enrollments", "buddy-data", "mentorship-placements"),
)
_CONNECTORS = {
    "kintell_sessions": "kintell-enrollments",
    "buddy_matches": "buddy-data",
    "buddy_checkins": "buddy-data",
    "buddy_events": "buddy-data",
}
_SUMMARY_KEYS = {"workday_directory": "directoryEntries"}
# The order of the seed's replies; what it does not know comes last.
_ORDER = "volunteers donations directoryEntries enrollments sessions matches checkins events placements".split()


@dataclass
class Figures:
    """Counts of one or more partitions: fetched = kept + quarantined + duplicates + suppressed + out_of_window.

    A check that did not pass is a warning, or a problem of the result.
    """

    fetched: int = 0
    kept: int = 0
    quarantined: int = 0
    duplicates: int = 0
    suppressed: int = 0
    out_of_window: int = 0
    requests: int = 0
    checks_passed: int = 0
    checks: int = 0
    warnings: int = 0
    seconds: float = 0.0

    def __add__(self, other: Figures) -> Figures:
        return Figures(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Problem:
    """Why a stream's day failed or a check of it did not pass; `code` is that of the error, or `check_failed`."""

    stream: str
    day: date
    code: str
    message: str


@dataclass
class Result:
    """One run: a company, a window, some streams. `run_id` is Dagster's; `ended` is UTC.

    `notes` is what is no problem and has to be looked at; `broken` says that the run ended in a way that no problem
    explains.
    """

    company: str
    window: Window
    run_id: str
    streams: dict[str, Figures]
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    broken: str = ""
    ended: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def success(self) -> bool:
        """Whether every partition is materialized and every check passed, or only warned."""
        return not self.problems and not self.broken


@dataclass(frozen=True)
class Request:
    """What to sync: whole UTC days of one company, and which streams; `left_out` are systems without credentials."""

    company: Company
    window: Window
    streams: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def plan_request(
    settings: Settings,
    companies: Companies,
    slug: str,
    first: str,
    last: str,
    names: Sequence[str] = (),
    *,
    today: date | None = None,
) -> Request:
    """Check everything that needs no request. Without `names`: all streams whose systems are configured.

    Raises UsageError for an unknown company, stream or day, or a day outside [TEEI_START_DATE, today];
    SettingsError if credentials are missing or unusable, KeyringError for a company that was shredded.
    """
    company = companies.get(slug)
    refuse_shredded(settings, company)
    streams = [stream_named(name) for name in dict.fromkeys(names)]
    window = window_of(settings, first, last, today=today)
    refuse_common_accounts(settings, companies)
    if streams:
        for stream in streams:
            resolve(settings, companies, company, stream.system)
        return Request(company, window, tuple(s.name for s in all_streams().values() if s in streams))
    used: list[str] = []
    left_out: list[str] = []
    for system in company.systems:
        found = status(settings, companies, company, system)
        if found.state == "incomplete":
            resolve(settings, companies, company, system)
        (used if found.state == "configured" else left_out).append(system)
    if not used:
        raise SettingsError(
            "no system has credentials: `teei doctor` names the variables to set in .env", company=company.slug
        )
    chosen = tuple(s.name for s in all_streams().values() if s.system in used)
    return Request(company, window, chosen, tuple(left_out))


def plan_refetch(
    settings: Settings,
    companies: Companies,
    slug: str,
    last: str | None = None,
    names: Sequence[str] = (),
    *,
    today: date | None = None,
) -> list[Request]:
    """The days up to `last` in which something may have moved, of each stream as many as TEEI_LOOK_BACK_DAYS says.

    `last` is the last closed UTC day by default. Streams with the same days share a request, so that each is read once,
    as a whole. What a nightly schedule runs. Raises as `plan_request`.
    """
    look_back = settings.look_back_days
    unknown = sorted(look_back.others.keys() - all_streams().keys())
    if unknown:
        raise SettingsError(f"TEEI_LOOK_BACK_DAYS: there is no stream {unknown[0]!r}; `teei streams` lists all")
    end = day_of(last) if last else max(closed_day(today), settings.start_date)
    whole = plan_request(settings, companies, slug, f"{end}", f"{end}", names, today=today)
    firsts = {name: max(end - timedelta(look_back.of(name)), settings.start_date) for name in whole.streams}
    return [
        replace(
            whole, window=Window(first, end), streams=tuple(name for name in whole.streams if firsts[name] == first)
        )
        for first in sorted(set(firsts.values()))
    ]


def stream_named(name: str) -> Stream:
    """Raises UsageError, which names the nearest stream."""
    known = all_streams()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name.lower().replace("-", "_").removesuffix("_events"), known, n=1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    raise UsageError(f"there is no stream {name!r}{meant}; `teei streams` lists all {len(known)}")


def window_of(settings: Settings, first: str, last: str, *, today: date | None = None) -> Window:
    """Both days inclusive, YYYY-MM-DD; the open UTC day may be the last. Raises UsageError."""
    begin, end = in_order(day_of(first), day_of(last))
    today = today or datetime.now(UTC).date()
    if begin < settings.start_date:
        raise UsageError(f"{begin} is before the first day, {settings.start_date} (TEEI_START_DATE)")
    if end > today:
        raise UsageError(f"{end} has not begun: the open UTC day is {today}")
    return Window(begin, end)


def closed_day(today: date | None = None) -> date:
    """The last UTC day that has closed."""
    return (today or datetime.now(UTC).date()) - timedelta(1)


def day_of(text: str) -> date:
    """A day that is written YYYY-MM-DD. Raises UsageError."""
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        try:
            return date.fromisoformat(text)
        except ValueError:
            pass
    raise UsageError(f"{text!r} is no day: write it as YYYY-MM-DD, for example 2024-01-15")


def in_order(first: Day, last: Day) -> tuple[Day, Day]:
    """Both, where either may be missing. Raises UsageError."""
    if first and last and first > last:
        raise UsageError(f"the range is reversed: {first} comes after {last}")
    return first, last


def retries(result: Result) -> list[str]:
    """The commands that sync again what failed, and nothing else: one for each range of days and its streams."""
    by_stream: dict[str, set[date]] = {}
    for problem in result.problems:
        by_stream.setdefault(problem.stream, set()).add(problem.day)
    return [
        f"teei sync --company {result.company} --from {first} --to {last}"
        + "".join(f" --stream {name}" for name in names)
        for (first, last), names in ranges(by_stream)
    ]


def merged(results: Sequence[Result]) -> Result:
    """Several runs of one company, each with streams of its own, as if they were one."""
    return replace(
        results[-1],
        window=Window(min(one.window.first for one in results), max(one.window.last for one in results)),
        run_id=" ".join(one.run_id for one in results),
        streams=total(results),
        problems=sorted((p for one in results for p in one.problems), key=lambda p: (p.stream, p.day)),
        notes=[note for one in results for note in one.notes],
        broken="; ".join(one.broken for one in results if one.broken),
    )


def ranges(by_stream: Mapping[str, Collection[date]]) -> list[tuple[tuple[date, date], list[str]]]:
    """Streams by their contiguous ranges of days, first and last one, in order: a run each, and nothing else."""
    by_window: dict[tuple[date, date], list[str]] = {}
    for stream, days in by_stream.items():
        for window in windows(sorted(days)):
            by_window.setdefault((window.first, window.last), []).append(stream)
    return sorted(by_window.items())


def connector(stream: str) -> str:
    """The seed service's name for what fetches a stream."""
    return _CONNECTORS.get(stream, stream.replace("_", "-"))


def summary_key(stream: str) -> str:
    """The key under which a stream is counted in the seed service's summary."""
    system = all_streams()[stream].system
    return _SUMMARY_KEYS.get(stream, stream.removeprefix(f"{system}_"))


def connectors() -> dict[str, list[str]]:
    """The seed service's connectors in its order, each with its streams."""
    found: dict[str, list[str]] = {name: [] for name in _CONNECTOR_ORDER}
    for name in all_streams():
        found.setdefault(connector(name), []).append(name)
    return found


def reply(result: Result) -> dict[str, Any]:
    """The seed service's reply: for one stream its own, for several that of all connectors."""
    names = list(result.streams)
    return reply_of(result, names) if len(names) == 1 else reply_of_all(result)


def reply_of_all(result: Result, left_out: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The seed service's reply for all connectors; `left_out` are those that could not be asked, and why.

    They count as failed; `success` is about the others.
    """
    results: list[dict[str, Any]] = []
    for name, all_of_it in connectors().items():
        streams = [stream for stream in all_of_it if stream in result.streams]
        if left_out and name in left_out:
            results.append({"connector": name, "status": "rejected", "reason": left_out[name]})
        elif streams:
            data = reply_of(result, streams)
            told = {"status": "fulfilled"} if data["success"] else {"status": "rejected", "reason": _reason(data)}
            results.append({"connector": name, **told, "data": data})
    failed = sum(item["status"] == "rejected" for item in results)
    return {
        "success": result.success,
        "summary": {"total": len(results), "successful": len(results) - failed, "failed": failed},
        "results": results,
    }


def _reason(data: Mapping[str, Any]) -> str:
    first, *more = data["errors"]
    return f"{first['message']}{f' (and {len(more)} more errors)' if more else ''}"


def reply_of(result: Result, names: Collection[str]) -> dict[str, Any]:
    """The seed service's reply for one connector, which these streams make up."""
    total = sum((result.streams[name] for name in names), Figures())
    problems = [problem for problem in result.problems if problem.stream in names]
    errors = [{"stream": p.stream, "day": p.day.isoformat(), "code": p.code, "message": p.message} for p in problems]
    if result.broken:
        errors.append({"code": "run_failed", "message": result.broken})
    return {
        "success": not errors,
        "summary": _summary(result, names),
        "metadata": {
            "totalRecords": total.fetched,
            "recordsProcessed": total.kept + total.duplicates,
            "recordsFailed": total.quarantined,
            "lastSyncTimestamp": f"{result.ended.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        },
        "errors": errors,
    }


def _summary(result: Result, names: Collection[str]) -> dict[str, int]:
    """Kept records by kind; a kind of the same systems that was not asked for counts 0, as the seed has it."""
    systems = {all_streams()[name].system for name in names}
    kinds = {summary_key(s.name): s.name for s in all_streams().values() if s.system in systems}
    ordered = sorted(kinds, key=lambda kind: _ORDER.index(kind) if kind in _ORDER else len(_ORDER))
    return {kind: result.streams[kinds[kind]].kept if kinds[kind] in names else 0 for kind in ordered}


def total(results: Iterable[Result]) -> dict[str, Figures]:
    """Figures by stream over several runs, in the streams' order."""
    found: dict[str, Figures] = {}
    for result in results:
        for name, figures in result.streams.items():
            found[name] = found.get(name, Figures()) + figures
    return {name: found[name] for name in all_streams() if name in found}
