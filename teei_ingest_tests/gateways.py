"""A real gateway in a process of its own, and what a caller of it needs."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import requests
import uvicorn

from teei_ingest.gateway.app import create_app
from teei_ingest.gateway.tokens import Scope, Token, Tokens
from teei_ingest.settings import SANDBOX_FILE, Settings
from teei_ingest_tests.dagster_parts import BIN, activated

ACME = "550e8400-e29b-41d4-a716-446655440000"
GLOBEX = "7d444840-9dc0-41d1-b245-5ffdce74fad2"


@dataclass
class Calling:
    """Calls a gateway of a home, with a token unless `bearer` is empty."""

    url: str
    home: Path
    bearer: str = ""
    log: Path = field(default_factory=Path)
    pid: int = 0

    def __call__(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.bearer}"} if self.bearer else {}
        headers |= options.pop("headers", {})
        return requests.request(method, f"{self.url}{path}", headers=headers, timeout=120, **options)

    def post(self, path: str, company: str = ACME, headers: Mapping[str, str] | None = None, **query: Any) -> Any:
        """A call of an ingest route."""
        return self("POST", f"/v1/ingest/{path}", params={"company_id": company, **query}, headers=headers or {})

    def get(self, path: str, **options: Any) -> requests.Response:
        """Of a path."""
        return self("GET", path, **options)

    def as_(self, bearer: str) -> Calling:
        """Likewise, with another token."""
        return Calling(self.url, self.home, bearer, self.log, self.pid)


def tokens(home: Path) -> Tokens:
    """Those of a home."""
    return Tokens(Settings.load({"TEEI_HOME": str(home)}))


def token(home: Path, scope: Scope = "ingest", *companies: str, lasts: timedelta = timedelta(1)) -> tuple[str, Token]:
    """A new one; without companies, for all."""
    return tokens(home).create(scope, companies, lasts)


@contextmanager
def gateway(
    home: Path, variables: Mapping[str, str], *, may_be_killed: bool = False, **settings: str
) -> Iterator[Calling]:
    """`teei gateway` in a sandbox's home with these variables, as long as the block lasts; called without a token."""
    home.mkdir(mode=0o700, exist_ok=True)
    (home / SANDBOX_FILE).write_text(json.dumps({"environment": dict(variables)}))
    log = home.parent / "gateway.log"
    environ = activated() | {"TEEI_HOME": str(home), "DAGSTER_HOME": str(home / "dagster"), "TEEI_MAX_RETRIES": "0"}
    environ |= settings
    with log.open("a") as errors:
        process = subprocess.Popen(
            [BIN / "teei", "gateway", "--port", "0"],
            env=environ, cwd=home.parent, stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line, log.read_text()
        yield Calling(line.split()[-1], home, log=log, pid=process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGKILL)
        process.stdout.close()


@contextmanager
def in_this_process(settings: Settings) -> Iterator[Calling]:
    """The app alone, which begins no run, in a thread as long as the block lasts: it is there at once."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(create_app(settings), lifespan="off", log_config=None))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield Calling(f"http://127.0.0.1:{listening.getsockname()[1]}", settings.home)
        finally:
            server.should_exit = True
            thread.join()


def refused(home: Path, code: int = 2) -> str:
    """What one says that may not serve."""
    environ = activated() | {"TEEI_HOME": str(home)}
    command = [BIN / "teei", "gateway", "--port", "0"]
    found = subprocess.run(command, env=environ, cwd=home.parent, capture_output=True, text=True, timeout=60)
    assert found.returncode == code, found.stderr
    return found.stderr
