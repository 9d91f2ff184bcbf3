"""`teei store size|migrate|claim`: the event tables as a whole, beside what is in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from teei_ingest.metrics.sizes import Measured, Thing

app = typer.Typer(no_args_is_help=True, help="The event tables: how large they are, their form, whose they are.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]

_LARGEST = 20


@app.command("size")
def size(json: Json = False) -> None:
    """How much there is of tables, companies, sealed files and Dagster's database, and how much it grows a day.

    Growth is that of the last seven days, as far back as was measured: the asset `size_report` does so daily, and this
    command each time. `bytes` of tables and companies are those of the newest version's files.
    """
    from teei_ingest.cli import home
    from teei_ingest.cli.output import as_json, err
    from teei_ingest.metrics.sizes import report
    from teei_ingest.store import open_store

    settings = home.settle()
    home.prepare_dagster_home(settings)
    with err().status("loading Dagster"):
        from teei_ingest.defs.maintenance import database_bytes
        from teei_ingest.defs.run import instance

        with instance() as opened:
            dagster = database_bytes(opened, settings.dagster_home)
    found = report(settings, open_store(settings), dagster)
    if json:
        as_json(_plain(found))
    else:
        _show(found)


def _plain(found: dict[Thing, Measured]) -> dict[str, dict[str, Any]]:
    """By kind and name; rows only where there are some to count."""
    from teei_ingest.metrics.sizes import BESIDE, COMPANY, TABLE, by_kind

    of = by_kind(found)
    figures = {kind: {name: one._asdict() for name, one in these.items()} for kind, these in of.items()}
    for one in figures[BESIDE].values():
        del one["rows"], one["rows_a_day"]
    return {"tables": figures[TABLE], "companies": figures[COMPANY], "beside": figures[BESIDE]}


def _show(found: dict[Thing, Measured]) -> None:
    from teei_ingest.cli.output import out, table
    from teei_ingest.metrics.sizes import BESIDE, COMPANY, TABLE, WHAT, by_kind

    numbers = ["rows", "files", "bytes", "rows a day", "bytes a day"]
    of = by_kind(found)
    largest = sorted(of[COMPANY].items(), key=lambda each: -each[1].bytes)[:_LARGEST]
    for header, shown in (("table", [*of[TABLE].items()]), ("company", largest)):
        made = table([header, *numbers], numbers=numbers)
        for name, one in shown:
            made.add_row(
                name,
                f"{one.rows:,}",
                f"{one.files:,}",
                _bytes(one.bytes),
                _grown(one.rows_a_day, "{:+,.0f}".format),
                _grown(one.bytes_a_day, _signed),
            )
        if shown:
            out().print(made)
    if len(of[COMPANY]) > _LARGEST:
        out().print(f"[dim]the largest {_LARGEST} of {len(of[COMPANY])} companies; --json has all[/]")
    made = table(["beside", "bytes", "bytes a day"], numbers=numbers)
    for name, what in WHAT.items():
        one = of[BESIDE][name]
        made.add_row(what, _bytes(one.bytes), _grown(one.bytes_a_day, _signed))
    out().print(made)
    if all(one.bytes_a_day is None for one in found.values()):
        out().print("[dim]growth shows from tomorrow's measure on[/]")


def _bytes(count: float) -> str:
    """In the largest unit of which there is one, as `du -h` has them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def _signed(count: float) -> str:
    return f"{'+' if count >= 0 else '-'}{_bytes(abs(count))}"


def _grown(value: float | None, shown: Any) -> str:
    return "" if value is None else shown(value)


@app.command("migrate")
def migrate(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which tables are of an older form.")] = False,
    json: Json = False,
) -> None:
    """Bring tables that an older teei_ingest wrote to the form of this one; the others refuse them from then on.

    Stop what runs before: a process of the older version that is writing commits nothing any more, and says so. After
    an interruption the same command goes on. Tables that have the form already are left alone. Make a backup first:
    there is no way back.

        teei store migrate --dry-run
    """
    from teei_ingest.cli import home
    from teei_ingest.cli.output import NONE, OK, WARN, as_json, err, line
    from teei_ingest.store import open_store
    from teei_ingest.store.forms import FORMAT
    from teei_ingest.store.tables import contracts

    store = open_store(home.settle())
    before = {contract: store.form(contract) for contract in contracts()}
    old = [contract for contract, found in before.items() if not found.is_current]
    if not dry_run:
        for contract in old:
            with err().status(f"bringing {contract.table} up"):
                store.migrate(contract)
    if json:
        forms = {contract.table: found.number for contract, found in before.items()}
        as_json({"form": FORMAT, "dry_run": dry_run, "before": forms, "older": [one.table for one in old]})
        return
    for contract in old:
        verb = "would be brought" if dry_run else "brought"
        line(WARN if dry_run else OK, contract.table, f"form {before[contract]}, {verb} to form {FORMAT}")
    if not old:
        line(NONE, "tables", f"all {len(before)} have form {FORMAT}: there is nothing to do")


@app.command("claim")
def claim(
    former: Annotated[str, typer.Option("--from", metavar="ID", help="Whose they are, as the error has it.")],
    json: Json = False,
) -> None:
    """Make the event tables this deployment's, after their former one was given up for good.

    A deployment is its TEEI_HOME; the tables know its id (`deployment.id` in it) and refuse any other, since its keys,
    list of erased people and locks belong to them. To move a store take its home along, then nothing has to be claimed.
    Claim it where the home's id was lost. What the former one is still writing is not committed, and it can read
    nothing any more.
    """
    from teei_ingest.cli import home
    from teei_ingest.cli.output import OK, as_json, line
    from teei_ingest.store import open_store
    from teei_ingest.store.deployment import deployment_id

    settings = home.settle()
    open_store(settings).claim(former)
    ours = deployment_id(settings.home)
    if json:
        as_json({"from": former, "to": ours})
        return
    line(OK, "tables", f"{settings.store_uri} belongs to {ours} now", "`teei keys status` says whose keys are here")
