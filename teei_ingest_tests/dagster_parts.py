"""What the tests of Dagster share: a proxy that refuses on request, statuses by partition, Dagster's own processes."""

from __future__ import annotations

import atexit
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import dagster as dg
import yaml
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.instance.ref import InstanceRef

from teei_ingest.defs.partitions import key
from teei_ingest.streams import all_streams
from teei_ingest_tests.loopback import Handler, listening

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

# Assets beside the streams', and the job of each.
OF_NO_PARTITION = {
    "directory_presence": "directory_presence",
    "retention": "retention",
    "tidied_tables": "maintenance",
    "size_report": "maintenance",
}

# (path, query, body of the answer) of a request that would succeed -> whether it is answered 500 instead
Refusal = Callable[[str, dict[str, str], bytes], bool]

_NOT_PASSED_ON = ("connection", "transfer-encoding", "content-length", "date", "server", "host", "accept-encoding")


@dataclass
class Proxy:
    """A server that passes on to another one, unless `refuses` says no; it may be set while it serves."""

    url: str
    refuses: Refusal | None = None


@contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    """A proxy in front of `upstream` (scheme and host), on a loopback port of its own."""
    target = urlsplit(upstream)

    class Answers(Handler):
        def _pass_on(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            passed = {name: value for name, value in self.headers.items() if name.lower() not in _NOT_PASSED_ON}
            connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
            try:
                connection.request(self.command, self.path, sent or None, passed)
                answer = connection.getresponse()
                status, body, headers = answer.status, answer.read(), answer.getheaders()
            finally:
                connection.close()
            asked = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(asked.query).items()}
            if status == 200 and through.refuses and through.refuses(asked.path, query, body):
                status, body = 500, b'{"error": "internal", "message": "kari.nordmann@acme.example broke it"}'
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in _NOT_PASSED_ON:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = _pass_on
        do_POST = _pass_on

    with listening(Answers) as url:
        through = Proxy(url)
        yield through


def window_with(day: date, path: str, tenant: str | None = None) -> Refusal:
    """Refuses what ends in `path` (and is of a tenant) where the window from `since` to `until` includes the day."""

    def refuses(asked: str, query: dict[str, str], body: bytes) -> bool:
        if not asked.endswith(path) or (tenant is not None and tenant not in query.values()):
            return False
        return query["since"][:10] <= day.isoformat() < query["until"][:10]

    return refuses


def page_within(day: date, name: str) -> Refusal:
    """Refuses pages of a stream whose records are all of the day."""
    stream = all_streams()[name]

    def refuses(asked: str, query: dict[str, str], body: bytes) -> bool:
        if not asked.endswith(f"/{stream.system}{stream.path}"):
            return False
        found = {record[stream.source_timestamp][:10] for record in json.loads(body)[stream.records]}
        return found == {day.isoformat()}

    return refuses


def days(first: date, count: int) -> list[date]:
    """Consecutive days."""
    return [first + timedelta(number) for number in range(count)]


def keys(company: str, of: Iterable[date]) -> list[str]:
    """Partition keys of a company's days."""
    return [key(company, day) for day in of]


def all_assets() -> list[str]:
    """Names of the 24 assets."""
    return [asset for stream in all_streams().values() for asset in (stream.name, stream.events)]


def statuses(
    instance: dg.DagsterInstance, definitions: dg.Definitions, asset: str, partition_keys: Iterable[str]
) -> dict[str, str]:
    """MATERIALIZED, IN_PROGRESS, FAILED or MISSING of each partition, as the UI shows them."""
    asset_key = dg.AssetKey(asset)
    partitions_def = definitions.resolve_asset_graph().get(asset_key).partitions_def
    assert partitions_def is not None
    wanted = list(partition_keys)
    found = instance.get_status_by_partition(asset_key, wanted, partitions_def) or {}
    return {name: status.value if (status := found.get(name)) else "MISSING" for name in wanted}


def check_statuses(
    instance: dg.DagsterInstance, definitions: dg.Definitions, asset: str, check: str, partition_keys: Iterable[str]
) -> dict[str, str]:
    """SUCCEEDED, FAILED, IN_PROGRESS, EXECUTION_FAILED, SKIPPED or MISSING of each partition, as the UI shows them."""
    check_key = dg.AssetCheckKey(dg.AssetKey(asset), check)
    partitions_def = definitions.resolve_asset_graph().get(check_key).partitions_def
    with partition_loading_context(dynamic_partitions_store=instance):
        state = instance.event_log_storage.get_asset_check_state([(check_key, partitions_def)])[check_key]
        by_key = {
            partition_key: status.value
            for status, subset in state.subsets.items()
            for partition_key in subset.subset_value.get_partition_keys()
        }
    return {name: by_key.get(name, "MISSING") for name in partition_keys}


def prepare_home(
    home: Path, environ: Mapping[str, str], companies: Iterable[str] = (), more: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Make a TEEI_HOME for a sandbox's variables, with a Dagster home in it; the environment for commands in it.

    `more` is what its `dagster.yaml` has beside the project's.
    """
    home.mkdir(parents=True, mode=0o700)
    (home / "sandbox.json").write_text(json.dumps({"environment": dict(environ)}))
    dagster_home(home / "dagster", more)
    with instance_in(home) as instance:
        instance.add_dynamic_partitions("company", list(companies))
    return activated() | {"TEEI_HOME": str(home), "DAGSTER_HOME": str(home / "dagster")}


def dagster_home(folder: Path, more: Mapping[str, Any] | None = None) -> Path:
    """Make a DAGSTER_HOME with the project's `dagster.yaml`, and what `more` has beside it."""
    shutil.copytree(_empty_databases(), folder)
    settings = folder / "dagster.yaml"
    if more:
        settings.write_text(yaml.safe_dump(yaml.safe_load((ROOT / "dagster.yaml").read_text()) | dict(more)))
    else:
        settings.symlink_to(ROOT / "dagster.yaml")
    return folder


@cache
def _empty_databases() -> Path:
    """Dagster's databases as it makes them, which takes it a second: once in a process, to be copied."""
    folder = Path(tempfile.mkdtemp(prefix="teei-dagster-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(folder))) as instance:
        instance.get_dynamic_partitions("company")
    return folder


def activated() -> dict[str, str]:
    """The environment as `source .venv/bin/activate` leaves it, without a variable of ours."""
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "VIRTUAL_ENV": str(BIN.parent), "NO_COLOR": "1"}


@contextmanager
def instance_in(home: Path) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance of a TEEI_HOME."""
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        yield instance


@contextmanager
def process(
    command: Sequence[str], log: Path, *, env: Mapping[str, str], cwd: Path = ROOT
) -> Iterator[subprocess.Popen[bytes]]:
    """A server as long as the block lasts, with what it prints in a file; it ends with all its children.

    Only `kill` may end it before.
    """
    with log.open("wb") as output:
        started = subprocess.Popen(
            command, cwd=cwd, env=dict(env), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield started
        assert started.poll() in (None, -signal.SIGKILL), log.read_text()
    finally:
        started.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            started.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def free_port() -> int:
    """A loopback port that is free, and that the system gives to nobody who asks for any."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@dataclass(frozen=True)
class GraphQL:
    """The webserver's own interface, which the UI uses."""

    port: int

    def __call__(self, query: str, **variables: Any) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql", body, {"Content-Type": "application/json"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer["errors"]
        data: dict[str, Any] = answer["data"]
        return data

    def is_up(self) -> bool:
        """Whether the webserver answers and its code is loaded."""
        query = """query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { __typename } }"""
        with suppress(OSError):
            node = self(query, key={"path": ["benevity_volunteers"]})["assetNodeOrError"]
            return bool(node["__typename"] == "AssetNode")
        return False

    def companies(self) -> list[str]:
        """Companies that are partitions of an asset, once the webserver is up and its code is loaded; else none."""
        query = """query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
            partitionKeysByDimension { name partitionKeys } } } }"""
        with suppress(OSError):
            node = self(query, key={"path": ["benevity_volunteers"]})["assetNodeOrError"]
            for dimension in node.get("partitionKeysByDimension", []):
                if dimension["name"] == "company":
                    found: list[str] = dimension["partitionKeys"]
                    return found
        return []
