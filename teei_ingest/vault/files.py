"""Files that nobody else may read and that are whole or absent.

Belongs here: folders of mode 0700, files of mode 0600, atomic replacement, and the removal of what a killed
process left behind. Does not belong here: what is in the files. The operating system's refusals become the
caller's error: `failure` makes it from the reason ("No space left on device").
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from teei_ingest.vault.objects import ObjectPath

Failure = Callable[[str], Exception]

_TEMPORARY = ".tmp"


@contextmanager
def os_errors(failure: Failure) -> Iterator[None]:
    """Raise `failure(reason)` for an OSError within."""
    try:
        yield
        return
    except OSError as error:
        reason = error.strerror or type(error).__name__
    raise failure(reason) from None


def private_folder(path: Path) -> Path:
    """Create the folder and its missing parents, for this user alone."""
    if not path.is_dir():
        private_folder(path.parent)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
    return path


def replacing(path: Path | ObjectPath, failure: Failure) -> AbstractContextManager[Callable[[bytes], None]]:
    """Write, with the function that this gives, what takes the place of `path` at the end, on disk.

    After an error, which goes through, nothing has changed. The file is locked as long as it is written,
    which tells it from one whose process died.
    """
    return _replacing(path, failure) if isinstance(path, Path) else path.replacing(failure)


def writer(descriptor: int, failure: Failure) -> Callable[[bytes], None]:
    """What writes all of its argument to an open file, at once."""

    def write(data: bytes) -> None:
        rest = memoryview(data)
        with os_errors(failure):
            while rest:
                rest = rest[os.write(descriptor, rest) :]

    return write


@contextmanager
def _replacing(path: Path, failure: Failure) -> Iterator[Callable[[bytes], None]]:
    with os_errors(failure):
        private_folder(path.parent)
        temporary, descriptor = _open_locked(path)

    try:
        yield writer(descriptor, failure)
        with os_errors(failure):
            os.fsync(descriptor)
            temporary.replace(path)
            sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def remove(path: Path | ObjectPath) -> bool:
    """Whether there was such a file."""
    if not isinstance(path, Path):
        return path.remove()
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    sync_folder(path.parent)
    return True


def remove_folder(path: Path | ObjectPath) -> None:
    """With all that is in it; nothing happens if there is none."""
    if not isinstance(path, Path):
        path.remove_all()
    elif path.exists():
        shutil.rmtree(path)
        sync_folder(path.parent)


def written(path: Path | ObjectPath) -> int:
    """When it was written last, in nanoseconds since the epoch."""
    return path.stat().st_mtime_ns if isinstance(path, Path) else round(path.written() * 1e9)


def date_back(path: Path | ObjectPath, before: int) -> None:
    """Have it be as old as what it took the place of, which was written then, in nanoseconds since the epoch."""
    if isinstance(path, Path):
        os.utime(path, ns=(before, before))
    else:
        path.date_back(before / 1e9)


def older(paths: Iterable[Path], than: float) -> Iterator[Path]:
    """Those that were last written before `than`, in seconds since the epoch; one that is gone meanwhile is none."""
    for path in paths:
        with suppress(FileNotFoundError):
            if written(path) < than * 1e9:
                yield path


def remove_dead(folder: Path, besides: Collection[Path] = ()) -> int:
    """Remove, in all folders below but `besides`, what processes that no longer run were writing; the number."""
    removed = 0
    for name, folders, files in os.walk(folder):
        folders[:] = [one for one in folders if Path(name, one) not in besides]
        for path in (Path(name, one) for one in files if one.startswith(".") and one.endswith(_TEMPORARY)):
            with suppress(FileNotFoundError, BlockingIOError), path.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                removed += 1
    return removed


def _open_locked(path: Path) -> tuple[Path, int]:
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_TEMPORARY}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return temporary, descriptor
        os.close(descriptor)  # taken for dead between open and flock


def sync_folder(folder: Path) -> None:
    """Put on disk which files are in it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
