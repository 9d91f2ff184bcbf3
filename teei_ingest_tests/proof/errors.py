"""Attack 7: an error that is raised with a record at hand shows nothing of it.

Every type of the tree in `errors.py`, and the errors of libraries that quote what they were given, are raised from a
record full of canaries, wherever the product has a record at hand: through Dagster (events, failures, their metadata
and causes), through the commands with and without `--debug`, and past log handlers at DEBUG. That a slip would be
found is shown by faults that are planted into the product.

`--debug` promises where an error arose, never what it says; it is held to that.
"""

from __future__ import annotations

import base64
import itertools
import json
import logging
import os
import secrets
import sqlite3
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any
from unittest import mock

import cryptography.exceptions
import dagster as dg
import deltalake.exceptions
import duckdb
import msgspec
import pyarrow as pa
import pydantic
import requests
import tenacity
import urllib3

from teei_ingest import logs
from teei_ingest.cli.app import run
from teei_ingest.errors import InternalError, KeyringError, MissingCredentials, TeeiError
from teei_ingest_tests.feeding import ACME, answering, lists
from teei_ingest_tests.proof.planting import BROKEN, Canaries, Record, broken, legal
from teei_ingest_tests.proof.search import Search, files
from teei_ingest_tests.running import Home

DAY = date(2024, 1, 15)
STREAM = "benevity_volunteers"
# Where the product has a record at hand, and which of a stream's assets go past it.
SEAMS = {
    "teei_ingest.extract.http.Source.get": "both",
    "teei_ingest.mapping.decode.Pages.__call__": "both",
    "teei_ingest.mapping.decode.Records.__call__": "both",
    "teei_ingest.mapping.columns.Columns.from_rows": "both",
    "teei_ingest.mapping.record.RecordMapper.__call__": "both",
    "teei_ingest.redact.apply.Redactor.__call__": "both",
    "teei_ingest.pipeline.buffer.RowBuffer.append": "both",
    "teei_ingest.pipeline.ingest.settle": "both",
    "teei_ingest.landing.quarantine.Quarantine.replace": "both",
    "teei_ingest.store.tables.Store.replace": "both",
    "teei_ingest.landing.landing.Landing.write": "stream",
    "teei_ingest.landing.landing.Landing.read": "events",
    "teei_ingest.defs.checks.audit": "both",
}
_MAIN = "teei_ingest.redact.apply.Redactor.__call__"

Make = Callable[[Record], BaseException]


def prove(scale: float = 1.0) -> dict[str, float]:
    """Raise every error everywhere (a part of them below scale 1); AssertionError says which showed something."""
    with _Scene.set() as scene:
        kinds = {**tree(), **foreign()}
        share = max(1, round(len(kinds) * min(1.0, scale)))
        chosen = dict(itertools.islice(_mixed(kinds).items(), share))
        planted = _planted(scene)
        raised = 0
        for name, make in chosen.items():
            scene.through_dagster(_MAIN, name, make)
            for debug in (False, True):
                scene.through_cli(["sql", "SELECT 1"], "teei_ingest.store.sql.query", name, make, debug=debug)
            raised += 3
        rotating = itertools.cycle(kinds.items())
        for seam, _ in itertools.product(SEAMS, range(max(1, round(6 * scale)))):
            scene.through_dagster(seam, *next(rotating))
            raised += 1
        for seam, debug in itertools.product((_MAIN, "teei_ingest.store.tables.Store.replace"), (False, True)):
            scene.through_cli(scene.sync, seam, *next(rotating), debug=debug)
            raised += 1
        for arguments, seam in (
            (["health"], "teei_ingest.health.probe"),
            (["doctor"], "teei_ingest.health.probe"),
        ):
            for debug in (False, True):
                scene.through_cli(arguments, seam, *next(rotating), debug=debug)
                raised += 1
        left = [hit for name, data in files(scene.root) for hit in scene.search(name, data)]
        assert not left, f"{left[0].text!r} was left in {left[0].place}"
        return {
            "raised": raised,
            "types": len(chosen),
            "places": len(SEAMS),
            "shown": 0,
            "faults_planted": len(planted),
            "faults_found": sum(planted.values()),
        }


# --- what is raised -----------------------------------------------------------------------------------------------


def tree() -> dict[str, Make]:
    """Every type below TeeiError, each raised while an error that quotes the record is handled, and from it."""
    found: dict[str, Make] = {}
    waiting: list[type[TeeiError]] = [TeeiError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        found[kind.__name__] = _from_record(kind)
    return found


def _from_record(kind: type[TeeiError]) -> Make:
    def make(record: Record) -> BaseException:
        message: Any = ["BENEVITY_CLIENT_ID"] if issubclass(kind, MissingCredentials) else "do this or that"
        try:
            pydantic.TypeAdapter(int).validate_python(record)
        except pydantic.ValidationError as cause:
            try:
                raise kind(message, system="benevity", stream=STREAM) from cause
            except TeeiError as error:
                return error
        raise AssertionError("a record is no number")

    return make


class Panic(BaseException):
    """As the extensions in Rust raise it, which is no Exception."""


def foreign() -> dict[str, Make]:
    """Errors of Python and of libraries, made by what really makes them where that is possible."""

    def text(record: Record) -> str:
        return json.dumps(record, ensure_ascii=False)

    def caught(action: Callable[[Record], Any]) -> Make:
        def make(record: Record) -> BaseException:
            try:
                action(record)
            except BaseException as error:  # noqa: BLE001 - it is what was asked for
                return error
            raise AssertionError("nothing was raised")

        return make

    def noted(record: Record) -> BaseException:
        error = ValueError("see the note")
        error.add_note(text(record))
        return error

    def retried(record: Record) -> BaseException:
        cause = ValueError(text(record))
        error = tenacity.RetryError(tenacity.Future.construct(1, cause, True))
        error.__cause__ = cause
        return error

    def email(record: Record) -> str:
        return str(record["userEmail"])

    class Strict(pydantic.BaseModel):
        user: int
        there: str

    return {
        "KeyError": caught(lambda r: dict[str, str]()[email(r)]),
        "IndexError": lambda r: IndexError(text(r)),
        "TypeError": lambda r: TypeError(r),
        "ValueError of float": caught(lambda r: float(email(r))),
        "ValueError of a date": caught(lambda r: date.fromisoformat(email(r))),
        "ValueError with a note": noted,
        "AttributeError": caught(lambda r: getattr(r, email(r))),
        "AssertionError": lambda r: AssertionError(r),
        "UnicodeDecodeError": caught(lambda r: (text(r).encode() + b"\xff").decode()),
        "UnicodeEncodeError": caught(lambda r: f"{text(r)}æ\u2603".encode("latin-1")),
        "JSONDecodeError": caught(lambda r: json.loads(text(r)[:-3])),
        "StopAsyncIteration": lambda r: StopAsyncIteration(text(r)),
        "RecursionError": lambda r: RecursionError(text(r)),
        "MemoryError": lambda r: MemoryError(text(r)),
        "FileNotFoundError": caught(lambda r: Path("/nowhere", email(r)).read_text()),
        "ExceptionGroup": lambda r: ExceptionGroup(text(r), [ValueError(text(r))]),
        "pydantic, a wrong type": caught(lambda r: pydantic.TypeAdapter(list[int]).validate_python([r])),
        "pydantic, a field is missing": caught(lambda r: Strict.model_validate(r)),
        "pydantic, no JSON": caught(lambda r: Strict.model_validate_json(text(r)[:-3])),
        "msgspec": lambda r: msgspec.ValidationError(text(r)),
        "requests, no connection": caught(
            lambda r: requests.get("http://127.0.0.1:9/", params={"user": email(r)}, timeout=5)
        ),
        "requests, no such address": caught(lambda r: requests.get(f"http://[{email(r)}/", timeout=5)),
        "requests, a status": lambda r: requests.HTTPError(f"404 for url: https://x.invalid/?user={email(r)}"),
        "urllib3": lambda r: urllib3.exceptions.LocationParseError(email(r)),
        "tenacity": retried,
        "Arrow, a wrong value": caught(lambda r: pa.array([email(r)]).cast(pa.int64())),
        "Arrow, a wrong type": caught(lambda r: pa.array([r], pa.int64())),
        "Arrow, no such column": caught(lambda r: pa.table({"a": [1]}).column(email(r))),
        "Delta, a refused commit": lambda r: deltalake.exceptions.CommitFailedError(f"Invalid data found: {text(r)}"),
        "Delta": lambda r: deltalake.exceptions.DeltaError(text(r)),
        "DuckDB": caught(lambda r: duckdb.execute("SELECT CAST(? AS INTEGER)", [email(r)]).fetchall()),
        "SQLite": lambda r: sqlite3.IntegrityError(text(r)),
        "cryptography": lambda r: cryptography.exceptions.InvalidTag(text(r)),
        "a panic": lambda r: Panic(f"called `Result::unwrap()` on an `Err` value: {text(r)}"),
    }


def _mixed(kinds: Mapping[str, Make]) -> dict[str, Make]:
    """In an order of its own each time, so that a part of them is not always the same."""
    names = list(kinds)
    secrets.SystemRandom().shuffle(names)
    return {name: kinds[name] for name in names}


# --- where and how ------------------------------------------------------------------------------------------------


@dataclass
class _Scene:
    """A home, a source that serves records full of canaries, and the record that errors quote."""

    root: Path
    home: Home
    canaries: Canaries
    record: Record
    search: Search
    sync: list[str] = field(default_factory=list)

    @classmethod
    @contextmanager
    def set(cls) -> Iterator[_Scene]:
        canaries = Canaries()
        record = legal(canaries, STREAM, "1", f"{DAY}T10:00:00Z")
        bad = broken(canaries, STREAM, "2", f"{DAY}T11:00:00Z", 1)
        data = {STREAM: [record, *bad]}
        key = base64.b64encode(secrets.token_bytes(32)).decode()
        with tempfile.TemporaryDirectory(prefix="teei-proof-") as folder, answering(lists(data)) as server:
            home = Home.create(Path(folder), {ACME.slug: ACME.id}, {"TEEI_MASTER_KEY": key, **server.environment()})
            quoted = {canaries.email(BROKEN): canaries.prose(), "userEmail": canaries.email(BROKEN)}
            quoted[canaries.name(BROKEN)] = canaries.email(BROKEN)  # so that it tells however it is cut short
            scene = cls(Path(folder), home, canaries, quoted, Search(canaries.cores()))
            scene.sync = ["sync", "--company", ACME.slug, "--from", str(DAY), "--to", str(DAY), "--stream", STREAM]
            with mock.patch.dict(os.environ, home.environ), _in_folder(Path(folder)):
                os.environ["DAGSTER_HOME"] = str(home.settings.dagster_home)
                with _heard():
                    assert home.materialize(ACME.slug, DAY, DAY, [STREAM]).success
                yield scene

    def through_dagster(self, seam: str, name: str, make: Make) -> None:
        """Raise it in a run of a stream's assets; the event log, the failure and all logs are searched."""
        hits = self.hits_of_run(seam, make)
        assert not hits, f"{name}, raised in {seam}, shows {hits[0]} through Dagster"

    def hits_of_run(self, seam: str, make: Make) -> list[str]:
        if SEAMS[seam] == "events":
            with _heard():
                assert self.home.materialize(ACME.slug, DAY, DAY, [STREAM], assets="stream").success
        with _heard() as heard, self._raising(seam, make):
            result = self.home.materialize(ACME.slug, DAY, DAY, [STREAM], assets=SEAMS[seam])
        run_id = result.run_id
        told = [dg.serialize_value(self.home.instance.get_run_by_id(run_id))]
        for entry in self.home.instance.all_logs(run_id):
            told += [dg.serialize_value(entry), str(entry), repr(entry)]
        told += [str(event.event_specific_data) for event in result.all_events]
        return self._found([*told, *heard])

    def through_cli(self, arguments: list[str], seam: str, name: str, make: Make, *, debug: bool) -> None:
        """Raise it in a command; what it prints and logs is searched."""
        hits = self.hits_of_command(arguments, seam, make, debug=debug)
        how = " --debug" if debug else ""
        assert not hits, f"{name}, raised in {seam}, shows {hits[0]} through teei {arguments[0]}{how}"

    def hits_of_command(self, arguments: list[str], seam: str, make: Make, *, debug: bool) -> list[str]:
        # Without `--debug`, as it is where the log is collected.
        form = mock.patch.dict(os.environ, {} if debug else {"TEEI_LOG_FORMAT": "json"})
        with form, _heard() as heard, self._raising(seam, make):
            code = run([*arguments, *["--debug"] * debug])
        assert code != 0, f"teei {arguments[0]} went well though {seam} failed"
        return self._found(heard)

    @contextmanager
    def _raising(self, seam: str, make: Make) -> Iterator[None]:
        """The seam raises as long as the block lasts, and has to be reached."""

        error = make(self.record)
        told = [*traceback.format_exception(error), repr(error.args), repr(vars(error))]
        assert self._found(told), f"{type(error).__name__} tells nothing, so nothing could be shown"

        def fail(*args: Any, **kwargs: Any) -> Any:
            record = self.record  # a traceback with local variables would show it
            raise make(record)

        with mock.patch(seam, side_effect=fail, autospec=False) as failing:
            yield
        assert failing.called, f"{seam} was not reached"

    def _found(self, texts: Iterable[str]) -> list[str]:
        return [hit.text for text in texts for hit in self.search("", text.encode(errors="surrogateescape"))]


@contextmanager
def _heard() -> Iterator[list[str]]:
    """What is printed, by whatever library, what our log writes, and what a handler at DEBUG on the root logger gets;
    filled at the end."""
    said: list[str] = []

    class Listening(logging.Handler):
        def emit(self, entry: logging.LogRecord) -> None:
            said.append(f"{self.format(entry)} {entry.args}")

    handler, root = Listening(logging.DEBUG), logging.getLogger()
    level = root.level
    logs.configure("json", "debug")
    logging.getLogger(logs.ROOT).propagate = True
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    saved = [os.dup(number) for number in (1, 2)]
    with tempfile.TemporaryFile() as printed:
        for number in (1, 2):
            os.dup2(printed.fileno(), number)
        try:
            with (
                mock.patch("sys.stdout", open(1, "w", closefd=False)),
                mock.patch("sys.stderr", open(2, "w", closefd=False)),
            ):
                yield said
        finally:
            for number, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, number)
                os.close(copy)
            root.removeHandler(handler)
            root.setLevel(level)
            logs.configure("auto", "info", quiet=True)
            printed.seek(0)
            said.append(printed.read().decode(errors="replace"))


@contextmanager
def _in_folder(folder: Path) -> Iterator[None]:
    """Another working folder, so that no `.env` is read."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


# --- faults that have to be found ---------------------------------------------------------------------------------


def _planted(scene: _Scene) -> dict[str, bool]:
    """Faults that are planted into the product, and whether each was found; AssertionError if one was not."""
    quoting = foreign()["pydantic, a field is missing"]

    def of_with_text(error: BaseException, **context: str) -> InternalError:
        return InternalError(str(error), **context)

    def with_everything(error: BaseException) -> None:
        traceback.print_exception(error)

    def logging_it(error: BaseException, **context: str) -> InternalError:
        logging.getLogger("teei_ingest.pipeline").debug("failed", exc_info=error)
        return InternalError("somewhere", **context)

    found = {}
    with mock.patch.object(InternalError, "of", of_with_text):
        found["an error quotes the record"] = bool(scene.hits_of_run(_MAIN, quoting))
    with mock.patch.object(InternalError, "of", logging_it):
        found["a log shows the cause"] = bool(scene.hits_of_run(_MAIN, quoting))
    with mock.patch("teei_ingest.cli.app._show_where", with_everything):
        command = ["sql", "SELECT 1"]
        hits = scene.hits_of_command(command, "teei_ingest.store.sql.query", _from_record(KeyringError), debug=True)
        found["--debug shows causes"] = bool(hits)
    missed = [fault for fault, was_found in found.items() if not was_found]
    assert not missed, f"planted, and not found: {', '.join(missed)}"
    return found
