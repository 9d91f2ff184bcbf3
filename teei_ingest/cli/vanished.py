"""`teei vanished list|drop`: events that their source no longer sends, and removing them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from teei_ingest.cli.options import First, Last, Slug, Streams, Why

if TYPE_CHECKING:
    from teei_ingest.companies import Company
    from teei_ingest.errors import TeeiError
    from teei_ingest.privacy.vanished import Carried
    from teei_ingest.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Events that their source no longer sends: what is carried over.")


class Form(StrEnum):
    """How an answer is printed."""

    TABLE = "table"
    JSON = "json"


_Form = Annotated[Form, typer.Option("--format", help="For people, or for machines.")]


@app.command("list")
def list_(
    company: Slug, stream: Streams = None, first: First = None, last: Last = None, form: _Form = Form.TABLE
) -> None:
    """Show which stored events of closed days their source did not send when the day was read again.

    They are carried over, since what only disappears would do so unseen; `since` is when an event was first missed. One
    that comes back, or of which a newer version is stored, leaves the list by itself. No value of a record is shown.

        teei vanished list --company acme-corp --stream goodera_donations
    """
    from teei_ingest.cli import home
    from teei_ingest.cli.output import NONE, as_json, line, out, table

    settings = home.settle()
    _, found = _selected(settings, company, stream, first, last)
    if form is Form.JSON:
        as_json([_told(one) for one in found])
        return
    if not found:
        line(NONE, company, "nothing is carried over: the sources still send all that is stored")
        return
    made = table(["stream", "day", "event", "missing since"])
    for one in found:
        for name, at in sorted(one.since.items()):
            made.add_row(one.stream, f"{one.day}", name, f"{at:%Y-%m-%d %H:%M}Z")
    out().print(made)
    many = sum(len(one.since) for one in found)
    out().print(f"{many:,} events of {len(found):,} partitions", highlight=False)


@app.command("drop")
def drop(
    company: Slug,
    stream: Streams = None,
    first: First = None,
    last: Last = None,
    why: Why = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go, as counts.")] = False,
    form: _Form = Form.TABLE,
) -> None:
    """Remove the events that `list` shows, for good, once it is known that their source meant to delete them.

    All of a stream go in one commit, and its partitions are shown by Dagster with their new figures; the tables' files
    and logs are purged of what was there before. A partition that is failed has to be synced first. What the source
    sends again, later, is kept again. Safe to repeat after an interruption.

        teei vanished drop --company acme-corp --stream goodera_donations --why "deleted there, ticket 12"
    """
    from teei_ingest.cli import home
    from teei_ingest.cli.output import FAIL, NONE, OK, as_json, err, line
    from teei_ingest.errors import TeeiError
    from teei_ingest.privacy.audit_log import AuditLog
    from teei_ingest.streams import all_streams
    from teei_ingest.sync import Problem

    settings = home.settle()
    known, found = _selected(settings, company, stream, first, last)
    days: dict[str, list[date]] = {}
    events: dict[str, int] = {}
    for one in found:
        if one.stream in all_streams():
            days.setdefault(one.stream, []).append(one.day)
            events[one.stream] = events.get(one.stream, 0) + len(one.since)
    done: dict[str, Mapping[date, int] | TeeiError] = {}
    if days and not dry_run:
        home.prepare_dagster_home(settings)
        log = AuditLog(settings)
        log.append("vanished.drop_started", company=company, why=why, counts=events)
        with err().status("loading Dagster"):
            from teei_ingest.defs import vanished
        with err().status(f"dropping what is carried over of {company}"):
            done.update(vanished.drop(known, days))
        events = {name: 0 if isinstance(one, TeeiError) else sum(one.values()) for name, one in done.items()}
        log.append("vanished.dropped", company=company, why=why, counts=events)
    errors = {name: one for name, one in done.items() if isinstance(one, TeeiError)}
    if form is Form.JSON:
        as_json(
            {
                "company": company,
                "dropped": bool(done),
                "events": events,
                "errors": {name: f"{error}" for name, error in errors.items()},
            }
        )
    else:
        for name, count in events.items():
            went = "would go" if dry_run else "removed"
            if name in errors:
                line(FAIL, name, errors[name].message)
            else:
                line(NONE if dry_run else OK, name, f"{count:,} events of {len(days[name]):,} days {went}")
        if not events:
            line(NONE, company, "nothing is carried over")
    if errors:
        from teei_ingest.cli.sync import exit_code

        raise typer.Exit(exit_code([Problem(name, days[name][0], one.code, f"{one}") for name, one in errors.items()]))


def _selected(
    settings: Settings, slug: str, streams: list[str] | None, first: str | None, last: str | None
) -> tuple[Company, list[Carried]]:
    from teei_ingest.companies import load_companies
    from teei_ingest.privacy.vanished import carried
    from teei_ingest.sync import day_of, stream_named

    company = load_companies(settings).get(slug)
    names = [stream_named(name).name for name in streams or ()]
    between = (day_of(first) if first else date.min, day_of(last) if last else date.max)
    return company, carried(settings, company.slug, names, *between)


def _told(one: Carried) -> dict[str, object]:
    events = [{"id": name, "since": f"{at:%Y-%m-%dT%H:%M:%SZ}"} for name, at in sorted(one.since.items())]
    return {"stream": one.stream, "day": f"{one.day}", "records": len(events), "events": events}
