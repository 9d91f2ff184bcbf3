"""`teei sync`: days of a company's streams, through Dagster."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from teei_ingest.cli.complete import company_slugs, stream_names

if TYPE_CHECKING:
    from teei_ingest.errors import TeeiError
    from teei_ingest.settings import Settings
    from teei_ingest.sync import Figures, Problem, Request, Result

_NOTES = 10  # warnings that are shown of a run


def sync(
    context: typer.Context,
    company: Annotated[
        str | None, typer.Option(metavar="SLUG", help="The company.", autocompletion=company_slugs)
    ] = None,
    first: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="DAY",
            help="First UTC day, YYYY-MM-DD. Without it: as many days before the last one as TEEI_LOOK_BACK_DAYS says, "
            "three unless it is set.",
        ),
    ] = None,
    last: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="DAY",
            help="Last UTC day, inclusive; the open one may be it. Without it: the last one that has closed.",
        ),
    ] = None,
    stream: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A stream; may be given several times. Without it: all whose systems have credentials.",
            autocompletion=stream_names,
        ),
    ] = None,
    failed: Annotated[
        bool,
        typer.Option(
            "--failed",
            help="The partitions that are failed in Dagster, and only they: of all companies, or of one; between both "
            "days, or all; of these streams, or all.",
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the reply as JSON and nothing else.")] = False,
) -> None:
    """Read days of a company's streams and keep their events.

    One run of Dagster, which its UI shows. What is there already is replaced, and a day that fails keeps what it had.
    Exit code 4 says that a source did not give everything; the table says which days, why, and how to try them again.

    Without days it reads the last closed one and the three before it, so that changes that came late are there, too;
    nothing that is older. Streams for which TEEI_LOOK_BACK_DAYS says something else have a run of their own.
    """
    from teei_ingest.cli import home
    from teei_ingest.cli.output import as_json, err, quiet_progress
    from teei_ingest.companies import load_companies
    from teei_ingest.errors import UsageError
    from teei_ingest.sync import closed_day, merged, plan_refetch, plan_request, reply

    typed_at = time.time()
    settings = home.settle()
    if failed:
        _sync_failed(context, settings, company, first, last, stream or (), json=json)
        return
    if company is None:
        raise UsageError("give --company, or --failed")
    companies = load_companies(settings)
    if first is None:
        requests = plan_refetch(settings, companies, company, last, stream or ())
    else:
        requests = [plan_request(settings, companies, company, first, last or f"{closed_day()}", stream or ())]
    home.prepare_dagster_home(settings)
    if requests[0].left_out:
        err().print(f"[dim]left out, since they have no credentials: {', '.join(requests[0].left_out)}[/]")
    with err().status("loading Dagster"):
        from teei_ingest.defs.run import run
    results = []
    for request in requests:
        with quiet_progress(2 * len(request.streams) * len(request.window.days), company) as progress:
            results.append(run(request, progress, debug=bool(context.obj), typed_at=typed_at))
        if not json:
            _show(request, results[-1])
    result = merged(results)
    if json:
        as_json(reply(result))
    if not result.success:
        raise typer.Exit(exit_code(result.problems))


def _sync_failed(
    context: typer.Context,
    settings: Settings,
    company: str | None,
    first: str | None,
    last: str | None,
    names: Sequence[str],
    *,
    json: bool,
) -> None:
    """A run for each company and contiguous range of days; what cannot be asked for does not keep the others back."""
    from teei_ingest.cli import home
    from teei_ingest.cli.output import as_json, err, out, quiet_progress
    from teei_ingest.companies import load_companies
    from teei_ingest.errors import TeeiError
    from teei_ingest.sync import day_of, plan_request, ranges, reply, stream_named

    typed_at = time.time()
    companies = load_companies(settings)
    slugs = [companies.get(company).slug] if company else companies.slugs
    wanted = {stream_named(name).name for name in names}
    home.prepare_dagster_home(settings)
    with err().status("loading Dagster"):
        from teei_ingest.defs.run import failed_partitions, run
    found = failed_partitions(*(day_of(text) if text else None for text in (first, last)))
    codes: set[int] = set()
    replies = []
    for slug in slugs:
        days = {name: days for name, days in found.get(slug, {}).items() if not wanted or name in wanted}
        for (begin, end), streams in ranges(days):
            try:
                request = plan_request(settings, companies, slug, f"{begin}", f"{end}", streams)
                with quiet_progress(2 * len(streams) * len(request.window.days), slug) as progress:
                    result = run(request, progress, debug=bool(context.obj), typed_at=typed_at)
            except TeeiError as error:
                err().print(f"teei: {error}", soft_wrap=True, markup=False)
                codes.add(error.exit_code)
                continue
            replies.append({"company": slug, "from": f"{begin}", "to": f"{end}", **reply(result)})
            if not json:
                _show(request, result)
            if not result.success:
                codes.add(exit_code(result.problems))
    if json:
        as_json(replies)
    elif not replies and not codes:
        out().print("no partition is failed")
    if codes:
        raise typer.Exit(codes.pop() if len(codes) == 1 else 1)


def _show(request: Request, result: Result) -> None:
    from rich.text import Text

    from teei_ingest.cli.output import out, program

    window = request.window
    days = f"{len(window.days)} days" if len(window.days) > 1 else "1 day"
    out().print(f"[bold]{request.company.name}[/] · {window.first} … {window.last} · {days} · run {result.run_id[:8]}")
    show_figures(result.streams)
    bad = sum(figures.quarantined for figures in result.streams.values())
    if bad:
        out().print(f"[dim]{bad:,} quarantined: `{program()} quarantine list --company {result.company}`[/]")
    for note in result.notes[:_NOTES]:
        out().print(Text.assemble(("! ", "yellow"), note), soft_wrap=True)
    if len(result.notes) > _NOTES:
        out().print(f"[dim]{len(result.notes) - _NOTES:,} more warnings: they are in the run[/]")
    show_problems(result)


def show_figures(by_stream: Mapping[str, Figures]) -> None:
    """A table by stream, with totals."""
    from teei_ingest.cli.output import out, table
    from teei_ingest.sync import Figures

    names = ["stream", "fetched", "kept", "quarantined", "duplicates", "out of window", "requests", "checks", "seconds"]
    total = sum(by_stream.values(), Figures())
    if total.suppressed:
        names.insert(5, "suppressed")
    if total.warnings:
        names.insert(-1, "warnings")
    decimals = 1
    if out().width < 110:
        decimals = 0
        short = {
            "fetched": "fetch",
            "quarantined": "bad",
            "duplicates": "dup",
            "suppressed": "sup",
            "out of window": "out",
            "requests": "req",
            "warnings": "warn",
            "seconds": "s",
        }
        names = [short.get(name, name) for name in names]
    rows = {name: _cells(figures, total, decimals) for name, figures in by_stream.items()}
    sums = _cells(total, total, decimals)
    made = table(names, numbers=names[1:], footer=["total", *sums] if len(rows) > 1 else ())
    for name, cells in rows.items():
        made.add_row(name, *cells)
    # A line that is too long is better than a figure without its last digit.
    needed = out().measure(made, options=out().options.update(width=1000)).maximum
    made.width = needed if needed > out().width else None
    out().print(made, crop=False)


def _cells(figures: Figures, total: Figures, decimals: int) -> list[str]:
    """A line of the table; those suppressed, and warnings, stand in it only where there are any."""
    suppressed = (figures.suppressed,) if total.suppressed else ()
    counts = (
        figures.fetched,
        figures.kept,
        figures.quarantined,
        figures.duplicates,
        *suppressed,
        figures.out_of_window,
    )
    checks = f"{figures.checks_passed:,}/{figures.checks:,}"
    if figures.checks_passed + figures.warnings < figures.checks:
        checks = f"[red]{checks}[/]"
    warnings = (f"{figures.warnings:,}",) if total.warnings else ()
    return [
        *(f"{count:,}" for count in counts),
        f"{figures.requests:,}",
        checks,
        *warnings,
        f"{figures.seconds:.{decimals}f}",
    ]


def show_problems(result: Result) -> None:
    """Which days failed and why, and the commands that try them again."""
    from rich.text import Text

    from teei_ingest.cli.output import out, program
    from teei_ingest.pipeline.days import windows
    from teei_ingest.sync import retries

    if result.success:
        return
    if result.broken:
        out().print(Text.assemble(("✘ ", "red"), result.broken), soft_wrap=True)
    reasons: dict[tuple[str, str], list[Problem]] = {}
    for problem in result.problems:
        reasons.setdefault((problem.stream, problem.message), []).append(problem)
    for (stream, message), problems in reasons.items():
        spans = windows([problem.day for problem in problems])
        days = ", ".join(f"{s.first}" if s.first == s.last else f"{s.first} … {s.last}" for s in spans)
        prefix = f"{stream} {result.company}: " if stream not in message else ""
        out().print(Text.assemble(("✘ ", "red"), (days, "bold"), f"  {prefix}{message}"), soft_wrap=True)
    again = retries(result)
    if again:
        out().print("\n[bold]Try again[/]")
        for command in again:
            out().print(Text(f"  {program()}{command.removeprefix('teei')}", style="cyan"), soft_wrap=True)


def exit_code(problems: Sequence[Problem]) -> int:
    """The errors' own code where they agree, else that of a source; 1 for a check that did not pass."""
    from teei_ingest.errors import SourceError, TeeiError

    codes = {error.code: error.exit_code for error in _below(TeeiError)}
    found = {codes.get(problem.code, 1) for problem in problems} or {1}
    return found.pop() if len(found) == 1 else SourceError.exit_code


def _below(kind: type[TeeiError]) -> list[type[TeeiError]]:
    return [found for child in kind.__subclasses__() for found in (child, *_below(child))]
