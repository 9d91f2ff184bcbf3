"""`teei sandbox`, `teei demo`, `teei dev`: the product without anybody's credentials."""

from __future__ import annotations

from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from teei_ingest.sandbox.faults import Plan
    from teei_ingest.sandbox.server import SandboxConfig
    from teei_ingest.settings import Settings
    from teei_ingest.sync import Result

PORT = 4000
BAD_RATIO = 0.01  # so that a first look shows what becomes of records that break their contract
QUERY = "SELECT company, sum(hours_logged) AS hours FROM current_volunteer_events GROUP BY ALL"


class Switch(StrEnum):
    """On or off."""

    ON = "on"
    OFF = "off"


def sandbox(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the seven systems; 0 takes a free one.")] = PORT,
    control_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of its controls; 0 takes a free one.")] = 0,
    companies: Annotated[int, typer.Option(min=1, max=5000, help="Number of companies.")] = 3,
    records: Annotated[int, typer.Option(min=0, help="Mean number of records for a company, stream and day.")] = 12,
    quota: Annotated[Switch, typer.Option(help="Whether systems that have a quota keep to it.")] = Switch.ON,
    latency: Annotated[float, typer.Option(min=0, metavar="MS", help="Milliseconds that every answer takes.")] = 0,
    token_ttl: Annotated[int, typer.Option(min=1, metavar="SECONDS", help="How long an OAuth2 token is good.")] = 3600,
    bad_ratio: Annotated[
        float, typer.Option(min=0, max=1, help="Share of records that break their contract.")
    ] = BAD_RATIO,
    faults: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A fault plan (JSON): what goes wrong, where and how often.")
    ] = None,
) -> None:
    """Serve the seven systems on loopback, with invented data, until Ctrl-C.

    Every command of `teei` and Dagster in the same home then talks to it. Nothing of yours is removed.
    docs/faults.md has the faults that a plan can name; `/__sandbox/faults` on the control port changes the plan.
    """
    from teei_ingest.cli import home
    from teei_ingest.cli.output import next_steps, out, program
    from teei_ingest.companies import SANDBOX_COMPANIES
    from teei_ingest.sandbox.server import SandboxConfig, company_id, environment, serve

    plan = _fault_plan(faults)
    settings = home.sandbox_settings()
    known = [(company.slug, str(company.id), company.name) for company in SANDBOX_COMPANIES]
    more = [f"company-{number:04}" for number in range(len(known) + 1, companies + 1)]
    listed = (known + [(slug, company_id(slug), slug.replace("-", " ").title()) for slug in more])[:companies]
    config = SandboxConfig(
        companies={slug: identity for slug, identity, _ in listed},
        records=records,
        quota=quota is Switch.ON,
        latency_ms=latency,
        token_ttl_s=token_ttl,
        bad_ratio=bad_ratio,
    )
    with ExitStack() as stack:

        def ready(url: str, control_url: str) -> None:
            extra = {"TEEI_COMPANIES": str(home.write_registry(settings, listed))} if listed != known else {}
            stack.enter_context(home.announced(settings, environment(config, url) | extra))
            many = "1 company" if companies == 1 else f"{companies} companies"
            out().print(
                f"[bold green]✔[/] Seven systems with data of {many} at [bold]{url}[/] (controls: {control_url})"
            )
            teei = program()
            next_steps(
                [
                    (f"{teei} health", "in another terminal: are all systems well?"),
                    (f"{teei} sync --company {listed[0][0]} --from 2024-01-15 --to 2024-01-21", "read a week"),
                    (f"{teei} sql {_quoted(QUERY)}", "ask"),
                ]
            )
            out().print("\n[dim]Ctrl-C ends it.[/]")

        serve(config, port, control_port, ready, plan)


def _fault_plan(file: Path | None) -> Plan | None:
    """The plan in a file. Raises UsageError with the file's name."""
    import json

    from teei_ingest.errors import UsageError
    from teei_ingest.sandbox.faults import Plan

    if file is None:
        return None
    try:
        return Plan.parse(json.loads(file.read_bytes()))
    except OSError:
        problem = "cannot be read"
    except (ValueError, RecursionError):
        problem = "is not JSON"
    except UsageError as error:
        problem = error.message
    raise UsageError(f"{file}: {problem}")


def demo(context: typer.Context) -> None:
    """Seven days of three companies, all assets, from a sandbox that lives as long as this takes.

    Run it again: no event changes.
    """
    import time

    from teei_ingest.cli import home
    from teei_ingest.cli.output import err
    from teei_ingest.sandbox.config import DEMO_DAYS
    from teei_ingest.sandbox.server import environment, running
    from teei_ingest.streams import all_streams

    begun = time.monotonic()
    settings = home.sandbox_settings()
    home.prepare_dagster_home(settings)
    first, last = DEMO_DAYS
    config = demo_config()
    err().print(
        f"[bold]teei demo[/]: {len(config.companies)} companies × {(last - first).days + 1} days "
        f"({first} … {last}) × {2 * len(all_streams())} assets\n"
    )
    with running(config) as sandbox:
        _note("sandbox", f"seven systems at {sandbox.url}")
        with home.announced(settings, environment(config, sandbox.url)) as settings:
            results = _run_demo(settings, debug=bool(context.obj))
    _show_demo(results, time.monotonic() - begun)
    if not all(result.success for result in results):
        from teei_ingest.cli.sync import exit_code

        raise typer.Exit(exit_code([problem for result in results for problem in result.problems]))


def demo_config() -> SandboxConfig:
    """The sandbox that `demo` and `dev` start: the same, or the one would change the other's events."""
    from teei_ingest.sandbox.server import SandboxConfig

    return SandboxConfig(bad_ratio=BAD_RATIO)


def _run_demo(settings: Settings, *, debug: bool) -> list[Result]:
    import time

    from teei_ingest.cli.output import err, quiet_progress
    from teei_ingest.companies import load_companies
    from teei_ingest.sandbox.config import DEMO_DAYS
    from teei_ingest.sync import plan_request

    companies = load_companies(settings)
    first, last = (day.isoformat() for day in DEMO_DAYS)
    requests = [plan_request(settings, companies, slug, first, last) for slug in companies.slugs]
    total = sum(2 * len(request.streams) * len(request.window.days) for request in requests)
    begun = time.monotonic()
    with err().status("loading Dagster"):
        from teei_ingest.defs.run import run

    _note("dagster", f"{2 * len(requests[0].streams)} assets loaded ({time.monotonic() - begun:.1f} s)")
    results = []
    with quiet_progress(total, "materializing") as progress:
        for request in requests:
            begun = time.monotonic()
            result = run(request, progress, debug=debug)
            kept = sum(figures.kept for figures in result.streams.values())
            done = f"{kept:,} events kept" if result.success else f"{len(result.problems)} problems"
            _note(request.company.slug, f"{done} ({time.monotonic() - begun:.1f} s)", good=result.success)
            results.append(result)
    return results


def _note(subject: str, text: str, *, good: bool = True) -> None:
    from teei_ingest.cli.output import err

    sign = "[green]✔[/]" if good else "[red]✘[/]"
    err().print(f"{sign} [bold]{subject:<12}[/] {text}", soft_wrap=True)


def _show_demo(results: list[Result], seconds: float) -> None:
    from teei_ingest.cli.output import next_steps, out, program
    from teei_ingest.cli.sync import show_figures, show_problems
    from teei_ingest.sync import total

    figures = total(results)
    out().print()
    show_figures(figures)
    for result in results:
        show_problems(result)
    bad = sum(each.quarantined for each in figures.values())
    if bad:
        out().print(
            f"[dim]Quarantined: one record in {round(1 / BAD_RATIO)} of the sandbox's is broken on purpose. "
            "Out of window: a source that cannot be asked for an end sends whole pages.[/]"
        )
    good = "Everything" if all(result.success for result in results) else "Not everything"
    out().print(f"\n[bold]{good} was materialized and checked[/] in {seconds:.0f} s. Run it again: no event changes.")
    teei = program()
    next_steps(
        [
            ("make dev", "the same by clicking: the sandbox and Dagster's UI"),
            (f"{teei} sql {_quoted(QUERY)}", "ask the tables"),
            (f"{teei} streams", "what there is to read"),
            ("docs/", "how it works, and the first real company"),
        ]
    )


def dev(
    context: typer.Context,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of Dagster's UI; a free one if it is taken.")
    ] = 3000,
) -> None:
    """Dagster's UI and daemon on loopback, with a sandbox beside them until there is a `.env`.

    Ctrl-C ends all that it started.
    """
    from teei_ingest.cli import home
    from teei_ingest.cli.dagster_dev import serve_dagster
    from teei_ingest.cli.output import err
    from teei_ingest.companies import load_companies

    debug = bool(context.obj)
    if Path(".env").is_file():
        settings = home.settle()
        home.prepare_dagster_home(settings)
        err().print("[dim]There is a .env: no sandbox is started.[/]")
        serve_dagster(port, load_companies(settings), debug=debug)
        return
    from teei_ingest.sandbox.server import environment, running

    settings = home.sandbox_settings()
    home.prepare_dagster_home(settings)
    config = demo_config()
    with running(config) as sandbox, home.announced(settings, environment(config, sandbox.url)) as settings:
        _note("sandbox", f"seven systems at {sandbox.url}")
        serve_dagster(port, load_companies(settings), beside=sandbox.pid, debug=debug)


def _quoted(text: str) -> str:
    import shlex

    return f'"{text}"' if not set(text) & set('"$`\\!') else shlex.quote(text)
