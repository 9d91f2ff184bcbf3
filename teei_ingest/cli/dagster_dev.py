"""`dagster dev` as a child: started, watched, and ended with all that it started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from teei_ingest.cli.output import err
from teei_ingest.companies import Companies
from teei_ingest.errors import TeeiError
from teei_ingest.settings import project_root

_HOST = "127.0.0.1"
_START_S = 180
_END_S = 30


def serve_dagster(port: int, companies: Companies, *, beside: int | None = None, debug: bool = False) -> None:
    """Run until interrupted; `beside` is the process without which it makes no sense.

    Raises TeeiError if one of them ends by itself.
    """
    port = port if _is_free(port) else _free_port()
    url = f"http://{_HOST}:{port}"
    with err().status("loading Dagster"):
        from teei_ingest.defs.run import add_companies

        # Before the others start: processes that make its databases at the same time spoil them.
        add_companies(companies.slugs)
    with _dagster_dev(port, debug) as process:
        with err().status("starting Dagster"):
            _wait(url, process)
        err().print(f"[green]✔[/] [bold]{'dagster':<12}[/] [bold]{url}[/]", soft_wrap=True)
        err().print("[dim]Ctrl-C ends everything.[/]")
        while process.poll() is None:
            if beside is not None and not _runs(beside):
                raise TeeiError("the sandbox has ended by itself; everything else was ended, too")
            time.sleep(0.5)
        raise TeeiError(f"dagster dev has ended by itself (exit code {process.returncode})")


@contextmanager
def _dagster_dev(port: int, debug: bool) -> Iterator[subprocess.Popen[bytes]]:
    level = "info" if debug else "error"
    # With this variable besides `dagster dev`'s own workspace, its webserver and daemon would hang.
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_MODULE_NAME"}
    process = subprocess.Popen(
        [
            *(sys.executable, "-W", "ignore::FutureWarning", "-m", "dagster", "dev", "--host", _HOST),
            *("--port", str(port), "--log-level", level, "--code-server-log-level", level),
        ],
        cwd=project_root(),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is this process's to handle, and the group is ended as one
    )
    ending = threading.Event()
    threading.Thread(target=_relay, args=(process, ending), daemon=True).start()
    try:
        yield process
    finally:
        ending.set()
        err().print("[dim]ending Dagster …[/]")
        _end(process)


def _relay(process: subprocess.Popen[bytes], ending: threading.Event) -> None:
    """Pass on what Dagster says, but for its last words."""
    assert process.stdout
    for line in process.stdout:
        if not ending.is_set():
            sys.stderr.write(line.decode(errors="replace"))


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)  # lets the daemon and its runs end in order
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < until:
        with suppress(OSError), opener.open(f"{url}/server_info", timeout=2):
            return
        time.sleep(0.2)
    raise TeeiError("dagster dev did not start; its reason is above")


def _runs(child: int) -> bool:
    """Whether a child of this process has not ended; it is left to be waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def _is_free(port: int) -> bool:
    with suppress(OSError), socket.create_server((_HOST, port)):
        return port != 0
    return False


def _free_port() -> int:
    with socket.create_server((_HOST, 0)) as listening:
        port: int = listening.getsockname()[1]
        return port
