"""`teei quarantine list|show|retry|discard`: records that broke their contract, and what to do with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any

import typer

from teei_ingest.cli.complete import stream_names
from teei_ingest.cli.options import First, Last, Slug, Streams, Why

if TYPE_CHECKING:
    from teei_ingest.companies import Company
    from teei_ingest.errors import TeeiError
    from teei_ingest.landing.quarantine import QuarantineEntry, SealedDay
    from teei_ingest.pipeline.requeue import Retried
    from teei_ingest.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Records that broke their contract: what they broke, and what to do.")

_Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command("list")
def list_(company: Slug, stream: Streams = None, first: First = None, last: Last = None, json: _Json = False) -> None:
    """Count what is quarantined, by stream, day and what it broke. Shows no value of a record.

    A partition that failed keeps what it had, and none of the day's good records is stored: mend the mapping or the
    contract and sync the day again. Of the others all but these records is stored: mend, then `retry`; or `discard`.

        teei quarantine list --company acme-corp --from 2024-01-15 --to 2024-01-21
    """
    from rich.text import Text

    from teei_ingest.cli import home
    from teei_ingest.cli.output import NONE, as_json, line, out, table

    settings = home.settle()
    opened = _opened(settings, company, stream, first, last)
    rows = [row for name, day, one in opened for row in _rows(name, day, one)]
    if json:
        as_json(rows)
        return
    if not rows:
        line(NONE, company, "nothing is quarantined")
        return
    made = table(["stream", "day", "records", "reason", "field", "rule", "partition"], numbers=["records"])
    for row in rows:
        made.add_row(
            row["stream"],
            row["day"],
            f"{row['records']:,}",
            row["reason"],
            Text(row["field"]),
            row["rule"],
            Text("failed", style="red") if row["failed"] else Text("complete but for these", style="dim"),
        )
    out().print(made)
    total = sum(row["records"] for row in rows)
    failed = len({(row["stream"], row["day"]) for row in rows if row["failed"]})
    text = f"{total:,} records"
    out().print(f"{text}; {failed:,} partitions failed because of them" if failed else text, highlight=False)


@app.command("show")
def show(
    company: Slug,
    stream: Annotated[str, typer.Option(metavar="NAME", help="The stream.", autocompletion=stream_names)],
    day: Annotated[str, typer.Option(metavar="DAY", help="The UTC day, YYYY-MM-DD.")],
    number: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the Nth record of the day, from 1.")
    ] = None,
    id: Annotated[str | None, typer.Option(metavar="KEY", help="Only the record with this content key.")] = None,
    why: Why = "",
    json: _Json = False,
) -> None:
    """Open a day's quarantined records and print them as the source sent them, with all personal data in them.

    The audit log says who has seen how many of which stream and day, before anything is shown.

        teei quarantine show --company acme-corp --stream kintell_sessions --day 2024-01-15 --number 1 --why "ticket 12"
    """
    from json import dumps

    from rich.text import Text

    from teei_ingest.cli import home
    from teei_ingest.cli.output import as_json, err, out, write
    from teei_ingest.errors import UsageError
    from teei_ingest.privacy.audit_log import AuditLog

    settings = home.settle()
    entries = [entry for *_, one in _opened(settings, company, [stream], day, day) for entry in one.entries]
    wanted = [
        (place, entry)
        for place, entry in enumerate(entries, 1)
        if number in (None, place) and id in (None, entry.content_key)
    ]
    if not wanted:
        there = f"{stream} has {len(entries)} quarantined records of {day}"
        raise UsageError(f"{there}, and none like that; `teei quarantine list` shows all", company=company)
    AuditLog(settings).append(
        "quarantine.shown",
        company=company,
        why=why,
        counts={"records": len(wanted)},
        details={"stream": stream, "day": day},
    )
    err().print("[yellow]! personal data, as the source sent it: keep it off disks, logs and tickets[/]")
    if json:
        as_json([_plain(place, entry) for place, entry in wanted])
        return
    for place, entry in wanted:
        out().print(
            Text.assemble((f"{place} ", "bold"), f"{entry.reason}: {entry.field} ({entry.rule}), {entry.content_key}")
        )
        write(dumps(_plain(place, entry)["record"], ensure_ascii=False, indent=2))


@app.command("retry")
def retry(
    context: typer.Context,
    company: Slug,
    stream: Streams = None,
    first: First = None,
    last: Last = None,
    why: Why = "",
    json: _Json = False,
) -> None:
    """Try quarantined records again, once the mapping or the contract was mended, without asking the source.

    Good ones are added to their partitions, which Dagster then shows with their new figures; the others stay. A
    partition that failed because of its bad records lacks the good ones, too, and has to be synced again. Safe to
    repeat after an interruption.

        teei quarantine retry --company acme-corp --stream kintell_sessions --why "new status of Kintell"
    """
    from teei_ingest.cli import home
    from teei_ingest.cli.output import NONE, as_json, err, line
    from teei_ingest.privacy.audit_log import AuditLog
    from teei_ingest.streams import all_streams

    settings = home.settle()
    known, days = _selected(settings, company, stream, first, last)
    days = {name: some for name, some in days.items() if name in all_streams()}
    if not days:
        as_json({}) if json else line(NONE, company, "nothing is quarantined")
        return
    home.prepare_dagster_home(settings)
    log = AuditLog(settings)
    log.append("quarantine.retry_started", company=company, why=why, details={"streams": sorted(days)})
    with err().status("loading Dagster"):
        from teei_ingest.defs import requeue
    done: dict[str, Retried | TeeiError] = {}
    with err().status(f"trying the quarantine of {company} again"):
        done.update(requeue.retry(known, days))
    counts = sum((_fates(result) for result in done.values()), Counter[str]())
    log.append("quarantine.retried", company=company, why=why, counts=counts)
    if json:
        as_json({name: _told(result) for name, result in done.items()})
    else:
        _show_retried(company, done)
    problems = _problems(done, days)
    if problems:
        from teei_ingest.cli.sync import exit_code

        raise typer.Exit(exit_code(problems))


@app.command("discard")
def discard(
    company: Slug,
    stream: Streams = None,
    first: First = None,
    last: Last = None,
    why: Why = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this, only show what would go.")] = False,
    json: _Json = False,
) -> None:
    """Remove quarantined records, for good. What is stored stays as it is.

    teei quarantine discard --company acme-corp --stream kintell_sessions --yes --why "rubbish, says the vendor"
    """
    from teei_ingest.cli import home
    from teei_ingest.cli.output import NONE, OK, as_json, err, line
    from teei_ingest.privacy.audit_log import AuditLog

    settings = home.settle()
    counts: Counter[str] = Counter()
    days: dict[str, list[date]] = {}
    for name, day, one in _opened(settings, company, stream, first, last):
        counts[name] += len(one.entries)
        days.setdefault(name, []).append(day)
    if yes and days:
        home.prepare_dagster_home(settings)
        log = AuditLog(settings)
        log.append("quarantine.discard_started", company=company, why=why, counts=counts)
        with err().status("loading Dagster"):
            from teei_ingest.defs import requeue
        requeue.discard(settings, company, days)
        log.append("quarantine.discarded", company=company, why=why, counts=counts)
    if json:
        as_json({"company": company, "discarded": yes, "records": counts})
        return
    for name, count in counts.items():
        went = "removed" if yes else "would go"
        line(OK if yes else NONE, name, f"{count:,} records of {len(days[name]):,} days {went}")
    if not days:
        line(NONE, company, "nothing is quarantined")
    elif not yes:
        line(NONE, company, "nothing was done; --yes removes them")


def _selected(
    settings: Settings, slug: str, streams: list[str] | None, first: str | None, last: str | None
) -> tuple[Company, dict[str, list[date]]]:
    """The company, and the days that have quarantined records, by stream."""
    from datetime import UTC, datetime

    from teei_ingest.companies import load_companies
    from teei_ingest.landing.quarantine import Quarantine
    from teei_ingest.sync import stream_named, window_of

    company, quarantine = load_companies(settings).get(slug), Quarantine(settings)
    chosen = [stream_named(name).name for name in streams] if streams else quarantine.streams(slug)
    found = {name: quarantine.days(slug, name) for name in dict.fromkeys(chosen)}
    if first or last:
        today = datetime.now(UTC).date().isoformat()
        window = window_of(settings, first or settings.start_date.isoformat(), last or today)
        found = {name: [day for day in days if window.first <= day <= window.last] for name, days in found.items()}
    return company, {name: days for name, days in found.items() if days}


def _opened(
    settings: Settings, slug: str, streams: list[str] | None, first: str | None, last: str | None
) -> Iterator[tuple[str, date, SealedDay]]:
    """What is quarantined of those days, opened with the company's keys."""
    from teei_ingest.landing.quarantine import Quarantine
    from teei_ingest.vault.keys import KeyRing, refuse_shredded

    company, chosen = _selected(settings, slug, streams, first, last)
    refuse_shredded(settings, company)
    ring = KeyRing.open(settings, company, create=False) if chosen else None
    for name, days in chosen.items():
        for day in days:
            one = Quarantine(settings).sealed(ring, slug, name, day) if ring else None
            if one is not None:
                yield name, day, one


def _rows(stream: str, day: date, one: SealedDay) -> list[dict[str, Any]]:
    broken = Counter((entry.reason, entry.field, entry.rule) for entry in one.entries)
    return [
        {
            "stream": stream,
            "day": day.isoformat(),
            "reason": reason,
            "field": field,
            "rule": rule,
            "records": count,
            "failed": one.about.failed,
        }
        for (reason, field, rule), count in broken.most_common()
    ]


def _plain(number: int, entry: QuarantineEntry) -> dict[str, Any]:
    """A record with what is known of it; as text where it is no JSON that can be shown."""
    import json

    try:
        record = json.loads(entry.record)
    except (ValueError, RecursionError):
        record = entry.record.decode(errors="replace")
    return {
        "number": number,
        "id": entry.content_key,
        "reason": entry.reason,
        "field": entry.field,
        "rule": entry.rule,
        "undated": entry.undated,
        "record": record,
    }


def _fates(result: Retried | TeeiError) -> Counter[str]:
    from teei_ingest.errors import TeeiError
    from teei_ingest.pipeline.requeue import Fate

    if isinstance(result, TeeiError):
        return Counter()
    total = sum(result.fates.values(), Counter[Fate]())
    return Counter(
        {
            "kept": total[Fate.KEPT] + total[Fate.MOVED],
            "left": total[Fate.LEFT],
            "duplicates": total[Fate.DUPLICATE],
            "suppressed": total[Fate.SUPPRESSED],
        }
    )


def _told(result: Retried | TeeiError) -> dict[str, Any]:
    from teei_ingest.errors import TeeiError

    if isinstance(result, TeeiError):
        return {"error": f"{result}"}
    return {
        **_fates(result),
        "waiting": {day.isoformat(): count for day, count in sorted(result.waiting.items())},
        "refused": {day.isoformat(): error.message for day, error in sorted(result.errors.items())},
        "partitions": [day.isoformat() for day in sorted(result.partitions)],
    }


def _problems(done: dict[str, Retried | TeeiError], days: dict[str, list[date]]) -> list[Any]:
    from teei_ingest.errors import TeeiError
    from teei_ingest.sync import Problem

    found = []
    for name, result in done.items():
        errors = dict.fromkeys(days[name], result) if isinstance(result, TeeiError) else result.errors
        found += [Problem(name, day, error.code, f"{error}") for day, error in errors.items()]
    return found


def _show_retried(company: str, done: dict[str, Retried | TeeiError]) -> None:
    from teei_ingest.cli.output import FAIL, NONE, OK, line, out, program, table
    from teei_ingest.errors import TeeiError

    names = ["kept", "left", "duplicates", "suppressed"]
    made = table(["stream", *names, "partitions"], numbers=[*names, "partitions"])
    for name, result in done.items():
        if not isinstance(result, TeeiError):
            fates = _fates(result)
            made.add_row(name, *(f"{fates[one]:,}" for one in names), f"{len(result.partitions):,}")
    out().print(made)
    for name, result in done.items():
        if isinstance(result, TeeiError):
            line(FAIL, name, f"{result}")
            continue
        again = f"{program()} sync --company {company} --stream {name}"
        for day, error in sorted(result.errors.items()):
            line(FAIL, name, error.message, f"{again} --from {day} --to {day}")
        for day, count in sorted(result.waiting.items()):
            text = f"{count:,} records are of {day}, which is not complete"
            line(NONE, name, text, f"{again} --from {day} --to {day}")
    if any(not isinstance(result, TeeiError) and _fates(result)["left"] for result in done.values()):
        line(NONE, "left", "break their contract still", f"{program()} quarantine list --company {company}")
    elif all(not isinstance(result, TeeiError) and not result.errors for result in done.values()):
        line(OK, "quarantine", "nothing of it is left")
