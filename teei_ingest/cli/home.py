"""The home of this process and of its children: TEEI_HOME and DAGSTER_HOME, and the sandbox's file in it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from teei_ingest import logs
from teei_ingest.errors import SettingsError
from teei_ingest.settings import SANDBOX_FILE, Settings, project_root
from teei_ingest.systems import prefixes
from teei_ingest.vault.files import os_errors, private_folder, replacing

_CONFIG = "dagster.yaml"


def settle() -> Settings:
    """The settings; both homes are set in the environment then, for Dagster and for children."""
    settings = Settings.load()
    os.environ.update(variables(settings))
    logs.configure(settings.log_format, settings.log_level, quiet=True)
    return settings


def variables(settings: Settings) -> dict[str, str]:
    """Both homes."""
    return {"TEEI_HOME": str(settings.home), "DAGSTER_HOME": str(settings.dagster_home)}


def prepare_dagster_home(settings: Settings) -> None:
    """Make DAGSTER_HOME, with a link to the project's `dagster.yaml`; a file of one's own there is left alone.

    Raises SettingsError.
    """
    home = settings.dagster_home
    with os_errors(lambda reason: SettingsError(f"DAGSTER_HOME, {home}: {reason}")):
        private_folder(home)
        link, config = home / _CONFIG, project_root() / _CONFIG
        if config.is_file() and (link.is_symlink() or not link.exists()) and link.resolve() != config.resolve():
            link.unlink(missing_ok=True)
            with suppress(FileExistsError):  # another process was faster
                link.symlink_to(config)


def sandbox_settings() -> Settings:
    """The settings of a sandbox's home. Raises SettingsError where a real deployment is configured."""
    settings = settle()
    if settings.is_sandbox:
        return settings
    if Path(".env").is_file() or settings.master_key is not None:
        raise SettingsError(
            "this is set up for real data (.env or TEEI_MASTER_KEY), where no sandbox may play: use another folder"
        )
    if settings.home.is_dir() and any(settings.home.iterdir()):
        raise SettingsError(f"{settings.home} (TEEI_HOME) has data and is no sandbox's home: use another folder")
    return settings


@contextmanager
def announced(settings: Settings, environment: Mapping[str, str]) -> Iterator[Settings]:
    """Write the sandbox's file as long as the block lasts; the settings with it.

    Then it stays, marking the home, unless it took the place of the file of a sandbox that still answers. Credentials
    in this process's environment go, since they would win over the sandbox's.
    """
    path = settings.home / SANDBOX_FILE
    before = None
    with suppress(OSError):
        before = path.read_bytes()
    for name in [name for name in os.environ if name.startswith(prefixes())]:
        del os.environ[name]
    _write(path, json.dumps({"environment": dict(environment)}, indent=2).encode())
    try:
        yield settle()
    finally:
        if before is not None and _answers(before):
            _write(path, before)


def write_registry(settings: Settings, companies: Sequence[tuple[str, str, str]]) -> Path:
    """A companies file for a sandbox that plays others than the usual ones: slug, id and name of each."""
    path = settings.home / "companies.yaml"
    lines = [f"  - {{id: {identity}, slug: {slug}, name: {name}}}" for slug, identity, name in companies]
    _write(path, "\n".join(["companies:", *lines, ""]).encode())
    return path


def _write(path: Path, data: bytes) -> None:
    def failure(reason: str) -> SettingsError:
        return SettingsError(f"{path}: {reason}")

    with replacing(path, failure) as write:
        write(data)


def _answers(file: bytes) -> bool:
    """Whether the sandbox that wrote this file still listens."""
    with suppress(ValueError, KeyError, TypeError, OSError):
        address = urlsplit(json.loads(file)["environment"]["BENEVITY_API_URL"])
        with socket.create_connection((address.hostname or "", address.port or 80), timeout=0.5):
            return True
    return False
