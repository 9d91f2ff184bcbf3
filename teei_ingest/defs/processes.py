"""Which process carries out a run, and whether it still does: a lock for each run, which the kernel holds.

A process's number alone does not tell: it is used again, and each container has numbers of its own. The locks lie
beside Dagster's SQLite databases, so that whoever shares those sees them. Runs of a database on a server may be
anywhere: of their processes nothing is known here, unless a launcher says that they share this folder (`launcher.py`).
"""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import dagster as dg

from teei_ingest.errors import SettingsError
from teei_ingest.vault.files import os_errors, private_folder

_FOLDER = "processes"
_own: set[str] = set()  # runs that this process carries out


def are_known(opened: dg.DagsterInstance) -> bool:
    """Whether whoever carries out the instance's runs can be seen from here."""
    return opened.run_storage.__class__.__name__ == "SqliteRunStorage"


@contextmanager
def executing(opened: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """This process carries out a run as long as the block lasts, or as long as the process does."""
    is_seen = are_known(opened) or getattr(opened.run_launcher, "watches_locks", False)
    if not is_seen or run_id in _own:
        yield
        return
    path = _folder(opened) / run_id
    with os_errors(lambda reason: SettingsError(f"DAGSTER_HOME, {path.parent}: {reason}")):
        private_folder(path.parent)
        descriptor = _locked(path)
    with suppress(OSError):  # on a full disk the lock alone has to do
        os.write(descriptor, _identity(os.getpid()).encode())
    _own.add(run_id)
    try:
        yield
    finally:
        _own.discard(run_id)
        path.unlink(missing_ok=True)
        os.close(descriptor)


def is_executed(opened: dg.DagsterInstance, run_id: str) -> bool:
    """Whether a process is at a run, in whatever container. An event or two before and after that, none is."""
    with suppress(FileNotFoundError), (_folder(opened) / run_id).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # which a network's file system lets readers have, too
        except BlockingIOError:
            return True
    return False


def number_of(opened: dg.DagsterInstance, run_id: str) -> int | None:
    """The process that is at a run, if it is to be reached from here."""
    with suppress(OSError, ValueError):
        told = (_folder(opened) / run_id).read_text()
        number = int(told.partition(" ")[0])
        if told == _identity(number) and number != os.getpid():
            return number
    return None


def forget_dead(opened: dg.DagsterInstance) -> None:
    """Remove what processes that were killed have left."""
    with suppress(FileNotFoundError):
        for path in _folder(opened).iterdir():
            with suppress(FileNotFoundError, BlockingIOError), path.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def is_alive(number: int) -> bool:
    """Whether a process that looks like one of ours has this number here."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    command = Path(f"/proc/{number}/cmdline")
    if not command.is_file():
        return True
    words = command.read_bytes()
    return any(word in words for word in (b"dagster", b"teei", b"python"))


def _folder(opened: dg.DagsterInstance) -> Path:
    return Path(opened.root_directory) / _FOLDER


def _locked(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # taken for dead between open and flock


def _identity(number: int) -> str:
    """A process's number and, on Linux, when it began, since when its machine is up, and its container."""
    with suppress(OSError):
        began = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{number} {began} {boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    return f"{number} {socket.gethostname()}"
