"""`docker/compose.yaml` without a container engine: its services' commands as processes of this machine.

What a container would have is mapped: paths of the image and of volumes to folders, hosts to loopback, ports to free
ones, the Postgres container to a Postgres of its own, which asks for the password. Health checks are the file's, too.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import dagster as dg
import psycopg2
import yaml

from teei_ingest.defs.build import build
from teei_ingest.sandbox.server import Running
from teei_ingest_tests.dagster_parts import ROOT, GraphQL, activated, all_assets, free_port, keys, process, statuses
from teei_ingest_tests.deployed import Deployment, Run, postgres, sent, stored
from teei_ingest_tests.together import eventually

DOCKER = ROOT / "docker"
Compose = Mapping[str, Any]


def merged(one: Any, other: Any) -> Any:
    """What Compose makes of two files, as far as ours go: maps and lists grow together, else the second wins."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one | {name: merged(one[name], other[name]) if name in one else other[name] for name in other}
    return [*one, *other] if isinstance(one, list) and isinstance(other, list) else other


COMPOSE: Compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
OF_CELERY: Compose = yaml.safe_load((DOCKER / "celery/compose.yaml").read_text())
SERVICES: Compose = COMPOSE["services"]
ALL: Compose = merged(COMPOSE, OF_CELERY)  # a superset of what the first file has alone
WITH_CELERY: Compose = ALL["services"]
CONFIGURATION = ("dagster.yaml", "celery/dagster.yaml", "workspace.yaml", "probe.py")
_PORTS = ("3000", "3007", "4266", "4700", "6379")
_PASSWORD = "a test's own password"
_REDIS_PASSWORD = "another-password_of-a-test"


def dockerfile() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile: name and the rest, on one line."""
    text = re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def image_environment() -> dict[str, str]:
    """What the image sets."""
    (text,) = (rest for name, rest in dockerfile() if name == "ENV" and "TEEI_HOME" in rest)
    return dict(word.split("=", 1) for word in text.split())


@dataclass
class Composed:
    """The services, each started when told to. `folder` stands for the container's root."""

    folder: Path
    socket: str
    services: Compose = field(default_factory=lambda: SERVICES)
    ports: Mapping[str, str] = field(default_factory=lambda: {port: str(free_port()) for port in _PORTS})
    logs: dict[str, Path] = field(default_factory=dict)
    _prepared: int = 0
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def mapped(self, text: str) -> str:
        """What a path, an address or a port of the containers is here."""
        text = text.replace("@postgres:5432/dagster?", f"@/dagster?host={self.socket}&").replace("0.0.0.0", "127.0.0.1")
        text = text.replace("//redis:", "//127.0.0.1:")
        text = re.sub(r"(?<![\w.])/(var/lib/teei|srv/teei|run/secrets|etc/teei|data)\b", rf"{self.folder}/\1", text)
        return re.sub(rf"\b({'|'.join(_PORTS)})\b", lambda found: self.ports[found[1]], text)

    @property
    def work(self) -> Path:
        """The image's working folder, and DAGSTER_HOME or what has it."""
        return self.folder / "srv/teei"

    @property
    def dagster_home(self) -> Path:
        """Where `dagster.yaml` is."""
        return Path(self.env("code")["DAGSTER_HOME"])

    @property
    def home(self) -> Path:
        """The volume, TEEI_HOME."""
        return self.folder / "var/lib/teei"

    def env(self, service: str) -> dict[str, str]:
        """The environment of a service's container."""
        given = image_environment() | self.services[service].get("environment", {})
        fixed = {name: self.mapped(value) for name, value in given.items() if name not in ("PATH", "HOME")}
        return activated() | fixed

    def begin(self, service: str) -> subprocess.Popen[bytes]:
        """Start a service that ends by itself."""
        with self._log(service).open("wb") as output:
            return subprocess.Popen(
                self._command(service), cwd=self.work, env=self.env(service), stdout=output, stderr=subprocess.STDOUT
            )

    def start(self, service: str, *options: str, name: str = "") -> subprocess.Popen[bytes]:
        """Start a service, with more options behind its command; with a name if there are several of it."""
        command = [*self._command(service), *options]
        started = process(command, self._log(name or service), env=self.env(service), cwd=self.work)
        self._running[name or service] = self._stack.enter_context(started)
        return self._running[name or service]

    def whose(self, process: int) -> str:
        """The service that a process is of: all of one are of the session of its first."""
        (name,) = (name for name, first in self._running.items() if first.pid == os.getsid(process))
        return name

    def kill(self, name: str) -> None:
        """Kill it as the end of a container does, with all processes in it."""
        ended = self._running.pop(name)
        os.killpg(ended.pid, signal.SIGKILL)
        ended.wait()

    def restart(self, service: str) -> None:
        """Kill it and start it anew."""
        self.kill(service)
        self.start(service)

    def execute(self, service: str, *command: str) -> int:
        """Carry out a command in a service's container, as `docker compose exec`; its exit code."""
        with self._log(f"exec-{service}").open("wb") as output:
            done = subprocess.run(
                command, cwd=self.work, env=self.env(service), stdout=output, stderr=subprocess.STDOUT, timeout=200
            )
        return done.returncode

    def is_healthy(self, service: str) -> bool:
        """What the service's own health check says."""
        kind, *command = self.services[service]["healthcheck"]["test"]
        assert kind == "CMD"
        done = subprocess.run(
            list(map(self.mapped, command)), cwd=self.work, env=self.env(service), capture_output=True, timeout=60
        )
        return done.returncode == 0

    def await_health(self, *services: str) -> None:
        """Wait until they are healthy."""
        for service in services:
            eventually(partial(self.is_healthy, service), f"{service} is healthy", 200, pause=1)  # each is a process

    def going_on(self, backfill: str, least: int = 1) -> list[Run]:
        """Its runs that go on, once there are so many."""

        def going() -> list[Run]:
            runs = [run for run in self.deployment.runs_of(backfill) if run.status == "STARTED"]
            return runs if len(runs) >= least else []

        return eventually(going, f"{least} runs go on", 200, pause=1)

    def complete(self, sandbox: Running, companies: Sequence[str], over: Sequence[date]) -> dict[Any, Any]:
        """All rows, of which each company's days have what the sandbox has, once, as Dagster says."""
        wanted = [each for slug in companies for each in keys(slug, over)]
        with dg.DagsterInstance.from_config(str(self.dagster_home)) as instance:
            for asset in all_assets():
                found = statuses(instance, self.deployment.definitions, asset, wanted)
                assert found == dict.fromkeys(wanted, "MATERIALIZED"), asset
        rows = stored(self.deployment)
        counts = Counter((row["stream"], row["company"], row["day"]) for row in rows.values() if row["day"] in over)
        assert counts == sent(sandbox, list(companies), over)
        return rows

    def is_work_untouched(self) -> bool:
        """Whether nothing was made, removed or changed in DAGSTER_HOME itself."""
        return self.work.stat().st_ctime_ns == self._prepared

    @cached_property
    def deployment(self) -> Deployment:
        """What people do there through the webserver."""
        env = self.env("code")
        return Deployment(self.home, GraphQL(int(self.ports["3000"])), build(env), env)

    def _command(self, service: str) -> list[str]:
        return list(map(self.mapped, self.services[service]["command"]))

    def _log(self, service: str) -> Path:
        """A file for what it prints; the newest one of a service is in `logs`."""
        path = self.folder / f"{service}-{len(list(self.folder.glob('*.log')))}.log"
        path.touch()
        self.logs[service] = path
        return path


@contextmanager
def composed(folder: Path, services: Compose = SERVICES) -> Iterator[Composed]:
    """The folders as image and volumes bring them, Postgres with the password of a secret, and no service yet."""
    with _asking_postgres() as socket, ExitStack() as stack:
        made = Composed(folder, socket, services, _stack=stack)
        for path in (made.work, made.home, folder / "data", secrets := folder / "run/secrets"):
            path.mkdir(parents=True, mode=0o700)
        for name in CONFIGURATION:
            text = (DOCKER / name).read_text().replace("host: code", "host: 127.0.0.1")
            (made.work / name).parent.mkdir(exist_ok=True)
            (made.work / name).write_text(made.mapped(text))
        made._prepared = made.work.stat().st_ctime_ns
        for name, text in {
            "pgpass": f"{socket}:5432:dagster:dagster:{_PASSWORD}",
            "redis-password": _REDIS_PASSWORD,
            "redis-acl": f"user default on >{_REDIS_PASSWORD} ~* &* +@all",
        }.items():
            (secrets / name).touch(mode=0o600)
            (secrets / name).write_text(f"{text}\n")
        yield made


@contextmanager
def _asking_postgres() -> Iterator[str]:
    """The folder of the socket of a Postgres that knows the role and database of compose.yaml, by password alone."""
    with postgres() as url:
        socket = parse_qs(urlsplit(url).query)["host"][0]
        connection = psycopg2.connect(url)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("CREATE ROLE dagster LOGIN PASSWORD %s", [_PASSWORD])
            cursor.execute("CREATE DATABASE dagster OWNER dagster")
            cursor.execute("SHOW hba_file")
            Path(cursor.fetchone()[0]).write_text("local all postgres trust\nlocal all all scram-sha-256\n")
            cursor.execute("SELECT pg_reload_conf()")
        connection.close()
        yield socket


def sandbox_addresses(log: Path) -> tuple[str, str]:
    """Where `teei sandbox` says that it serves, and where its controls are; empty as long as it has not."""
    found = re.search(r"at (http://\S+)\s+\(controls:\s+(http://[^)\s]+)\)", log.read_text())
    return (found[1], found[2]) if found else ("", "")


def json_list(text: str) -> list[str]:
    """The command in the exec form of CMD or HEALTHCHECK."""
    found: list[str] = json.loads(text[text.index("[") :])
    return found
