"""How far the rotation of a company's keys is: what readers see meanwhile, and what is left to do.

Belongs here: the small files that say so, one for each company that ever had a rotation. Does not belong here: the
rotation (`privacy/rotate.py`).

As long as a company's tables are being brought to newer pseudonyms, whoever reads sees the versions of the tables from
before; replacing its file, in one step, shows the newer ones. Afterwards the file stays and says which keys the
company's events need.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from teei_ingest.errors import StoreError
from teei_ingest.vault.files import os_errors, remove, replacing


class Stage(StrEnum):
    """What a rotation does."""

    PREPARED = "prepared"  # nothing has changed but this file, and maybe the ring, which has one key more then
    MIGRATING = "migrating"  # the ring has it; some tables have the newer pseudonyms
    PURGING = "purging"  # readers see the newer pseudonyms; the files with the older ones go
    DONE = "done"


@dataclass(frozen=True)
class Rotation:
    """`version` is that of the new pseudonyms, `tables` has the version of each table from before, by name."""

    version: int
    stage: Stage
    tables: Mapping[str, int]

    @property
    def pinned(self) -> bool:
        """Whether readers see the versions of before, and nobody may add to the newest."""
        return self.stage in (Stage.PREPARED, Stage.MIGRATING)


class Rotations:
    """The files below one folder, by company. Raises StoreError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, company: str) -> Rotation | None:
        """The company's last one, None if it never had any."""
        path = self._path(company)
        with os_errors(lambda reason: StoreError(f"{path}: {reason}")):
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                return None
        try:
            document = json.loads(data)
            return Rotation(int(document["version"]), Stage(document["stage"]), dict(document["tables"]))
        except (ValueError, KeyError, TypeError):
            pass
        raise StoreError(f"{path} is damaged: restore it from its backup", company=company)

    def put(self, company: str, rotation: Rotation) -> None:
        """Replace what is known of a company's rotation, in one step and on disk."""
        path = self._path(company)
        with replacing(path, lambda reason: StoreError(f"{path}: {reason}", company=company)) as write:
            write(json.dumps(asdict(rotation)).encode() + b"\n")

    def forget(self, company: str) -> None:
        """Of a company that is no more."""
        path = self._path(company)
        with os_errors(lambda reason: StoreError(f"{path}: {reason}", company=company)):
            remove(path)

    def all(self) -> dict[str, Rotation]:
        """The last one of every company that had one."""
        found = {path.stem: self.get(path.stem) for path in sorted(self._folder.glob("*.json"))}
        return {company: rotation for company, rotation in found.items() if rotation is not None}

    def _path(self, company: str) -> Path:
        return self._folder / f"{company}.json"
