"""Starting and ending the gateway: its socket, its signals, one of them for a home."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from teei_ingest import logs
from teei_ingest.errors import UsageError
from teei_ingest.gateway.app import create_app
from teei_ingest.settings import Settings
from teei_ingest.store.locks import InUse, Locks

_BACKLOG = 512
_END_S = 5  # for requests that are under way


class _Server(uvicorn.Server):
    """Signals are handled here: uvicorn would raise them again at the end."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(settings: Settings, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; port 0 takes a free one, `ready` is told the address when it answers.

    Raises UsageError if the address is taken, or if there is a gateway of this home.
    """
    logs.configure(settings.log_format, settings.log_level)
    with _alone(settings):
        listening = _listen(host, port)
        app = create_app(settings)
        server = _Server(
            uvicorn.Config(
                app,
                http="h11",  # which limits headers
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=_END_S,
            )
        )

        async def work() -> None:
            def end() -> None:
                server.should_exit = True
                app.state.gateway.calls.close()

            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, end)
            serving = loop.create_task(server.serve([listening]))
            while not (server.started or serving.done()):
                await asyncio.sleep(0.02)
            if server.started:
                shown = f"[{host}]" if ":" in host else host
                ready(f"http://{shown}:{listening.getsockname()[1]}")
            await serving

        with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
            runner.run(work())


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    lock = Locks(settings.home / "locks").exclusive("gateway", patience_s=0)
    try:
        lock.__enter__()
    except InUse:
        is_taken = True
    else:
        is_taken = False
    if is_taken:
        raise UsageError(f"a gateway of this home ({settings.home}) is running: one is enough")
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError:
        pass
    raise UsageError(f"port {port} on {host} cannot be had: choose another with --port, or 0 for a free one")
