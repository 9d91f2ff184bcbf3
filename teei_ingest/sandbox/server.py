"""Starting and ending a sandbox.

Belongs here: sockets, processes, and what others import of the sandbox. Does not belong here: what it answers.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from teei_ingest.errors import TeeiError, UsageError
from teei_ingest.sandbox.app import Sandbox, controls
from teei_ingest.sandbox.config import COMPANIES, HEADER, SandboxConfig, company_id, environment
from teei_ingest.sandbox.faults import Plan
from teei_ingest.sandbox.sign import sign
from teei_ingest.sandbox.tls import Untrusted
from teei_ingest.sandbox.world import truth

__all__ = [
    "COMPANIES",
    "HEADER",
    "Running",
    "SandboxConfig",
    "company_id",
    "environment",
    "running",
    "serve",
    "serving",
    "sign",
    "truth",
]

_HOST = "127.0.0.1"
_BACKLOG = 512
_END_S = 5


@dataclass(frozen=True)
class Running:
    """A sandbox that answers."""

    url: str
    control_url: str
    pid: int

    def stats(self) -> dict[str, dict[str, dict[str, int]]]:
        """Requests by system, path and status since the start or the last reset."""
        found: dict[str, dict[str, dict[str, int]]] = self._control("stats")
        return found

    def reset(self) -> None:
        """Forget statistics and quotas; tokens that are out are good no more."""
        self._control("reset", {})

    def render_ahead(self, path: str, query: str, company: str) -> int:
        """Render all pages of a list, from the one that `path` (with the system's name) and `query` ask for."""
        pages: int = self._control("render", {"path": path, "query": query, "company": company})["pages"]
        return pages

    def faults(self, plan: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Set the fault plan (HTTPError 422: it is wrong), or ask for it: its JSON, with how often each fired."""
        found: dict[str, Any] = self._control("faults", plan)
        return found

    def no_faults(self) -> None:
        """End the fault plan and all that it did, but for records that changed."""
        self._control("faults", method="DELETE")

    def records(self, stream: str, company: str, **window: str) -> list[dict[str, Any]]:
        """The truth: the wire records of a window (`since`, `until`) as they are now, by source timestamp."""
        query = urllib.parse.urlencode({"stream": stream, "company": company, **window})
        found: list[dict[str, Any]] = self._control(f"records?{query}")["records"]
        return found

    def webhooks(self, url: str, stream: str, company: str, count: int = 1, **options: Any) -> dict[str, int]:
        """Have webhooks sent to a loopback address (`http://127.0.0.1:…`); how many were answered with which status.

        They announce the records of a window (`since`, `until`; else the last day); `at_once` go side by side.
        """
        order = {"url": url, "stream": stream, "company": company, "count": count, **options}
        found: dict[str, int] = self._control("webhooks", order)["sent"]
        return found

    def _control(self, name: str, body: Mapping[str, Any] | None = None, method: str | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.control_url}/__sandbox/{name}", data, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=600) as response:
            return json.loads(response.read() or b"null")


class _Server(uvicorn.Server):
    """Signals are ours: uvicorn's own handling knows one server a process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(
    config: SandboxConfig,
    port: int,
    control_port: int,
    ready: Callable[[str, str], None] = lambda url, control_url: None,
    faults: Plan | None = None,
) -> None:
    """Serve on loopback until SIGINT or SIGTERM; 0 takes free ports, `ready` is told the addresses.

    Raises UsageError if a port is taken.
    """
    sockets = [_listen(port), _listen(control_port)]
    urls = list(map(_url, sockets))
    servers = _servers(Sandbox(config, faults=faults))

    async def both() -> None:
        def end() -> None:
            for server in servers:
                server.should_exit = True

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, end)
        ready(*urls)
        await asyncio.gather(*(server.serve([at]) for server, at in zip(servers, sockets, strict=True)))

    with asyncio.Runner(loop_factory=servers[0].config.get_loop_factory()) as runner:
        runner.run(both())


@contextmanager
def serving(sandbox: Sandbox) -> Iterator[Running]:
    """A sandbox on ports of this process, in a thread, so that clock, faults and truth are at hand."""
    sockets = [_listen(0), _listen(0)]
    servers = _servers(sandbox)

    async def both() -> None:
        await asyncio.gather(*(server.serve([at]) for server, at in zip(servers, sockets, strict=True)))

    def work() -> None:
        with asyncio.Runner(loop_factory=servers[0].config.get_loop_factory()) as runner:
            runner.run(both())

    thread = threading.Thread(target=work, name="sandbox", daemon=True)
    thread.start()
    try:
        yield Running(_url(sockets[0]), _url(sockets[1]), os.getpid())
    finally:
        for server in servers:
            server.should_exit = True
        thread.join(_END_S)


@contextmanager
def running(config: SandboxConfig, port: int = 0, control_port: int = 0) -> Iterator[Running]:
    """A sandbox in a process of its own, which ends with the block or with this process, however that ends.

    Raises UsageError if a port is taken.
    """
    order = msgspec.json.encode({"config": config, "port": port, "control_port": control_port})
    process = subprocess.Popen(
        [sys.executable, "-m", "teei_ingest.sandbox"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is this process's to handle
    )
    assert process.stdin and process.stdout
    try:
        process.stdin.write(order + b"\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise TeeiError("the sandbox did not start; its reason is above")
        addresses = json.loads(answer)
        if "error" in addresses:
            raise UsageError(addresses["error"])
        yield Running(addresses["url"], addresses["control_url"], process.pid)
    finally:
        process.stdin.close()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def child() -> None:
    """The other side of `running`: the order is a line on standard input, whose end is the end of the sandbox."""
    order = json.loads(sys.stdin.buffer.readline())
    config = msgspec.convert(order["config"], SandboxConfig)

    def watch() -> None:
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGTERM)

    def ready(url: str, control_url: str) -> None:
        threading.Thread(target=watch, daemon=True).start()
        print(json.dumps({"url": url, "control_url": control_url}), flush=True)

    try:
        serve(config, order["port"], order["control_port"], ready)
    except UsageError as error:
        print(json.dumps({"error": str(error)}), flush=True)


def _listen(port: int) -> socket.socket:
    try:
        listening = socket.create_server((_HOST, port), backlog=_BACKLOG)
    except OSError:
        pass
    else:
        return listening
    raise UsageError(f"port {port} on {_HOST} is taken; choose another, or 0 for a free one")


def _url(listening: socket.socket) -> str:
    return f"http://{_HOST}:{listening.getsockname()[1]}"


def _servers(sandbox: Sandbox) -> list[uvicorn.Server]:
    """The systems', and the controls'."""

    class Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        """HTTP, whose replies may be written to the connection itself, and what there is of TLS."""

        _untrusted: Untrusted | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.app_state: dict[str, Any] = {**self.app_state, "transport": transport}

        def data_received(self, data: bytes) -> None:
            if self._untrusted is None and Untrusted.speaks(data) and (entry := sandbox.faults.on_connection()):
                self._untrusted = Untrusted(str(entry.parameters["certificate"]))
            if self._untrusted is None:
                super().data_received(data)
            else:
                self._untrusted.answer(self.transport, data)

    return [_server(sandbox, Protocol), _server(controls(sandbox))]


def _server(app: Any, protocol: Any = "auto") -> uvicorn.Server:
    return _Server(
        uvicorn.Config(
            app,
            http=protocol,
            access_log=False,
            log_config=None,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            date_header=False,  # the sandbox has a clock of its own
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
        )
    )
