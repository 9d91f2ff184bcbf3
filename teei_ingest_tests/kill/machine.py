"""Killing, once: a home, a process in it that is killed, the same work again, and what was lost or left behind.

Belongs here: homes, processes, comparison. Does not belong here: how many are killed and where (`__main__.py`).

Each kill has a copy of a home of its own and is compared with a copy in which nothing was killed, with the same keys.
Right after the kill each partition has to be the old or the new one; after the next `teei sync` all has to be new.
"""

from __future__ import annotations

import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from deltalake import DeltaTable

from teei_ingest.companies import SANDBOX_COMPANIES
from teei_ingest.landing.quarantine import Quarantine
from teei_ingest.sandbox.server import SandboxConfig, environment, running
from teei_ingest.settings import SANDBOX_FILE, Settings
from teei_ingest.store.tables import contracts
from teei_ingest.streams import all_streams
from teei_ingest.vault.keys import KeyRing
from teei_ingest_tests.dagster_parts import BIN, ROOT, activated, instance_in
from teei_ingest_tests.kill.points import BOTH, POINTS, STREAMS

COMPANY = SANDBOX_COMPANIES[0]
FIRST = date(2024, 1, 15)
# A home in which nothing is yet; one with the events of before; one with those and what the streams left for theirs.
BARE, OLD, LANDED = "bare", "old", "landed"
_LIMIT_S = 120
_ORPHAN_S = 5.0
_NAMES = re.compile(
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{4}-\d\d-\d\d|\d{20}|[0-9a-f]{16,}"
)  # what is another name in each home

Rows = dict[tuple[str, date], list[dict[str, Any]]]


class Broken(Exception):
    """The machine itself did not get to where it wanted to kill."""


@dataclass(frozen=True)
class Case:
    """Whom to kill: in which home, at what work, at which point and call of it, or after which share of its time.

    `cold`: a process that was started from nothing, as a person starts it. `twice`: the next one is killed, too.
    """

    home: str
    work: str = BOTH
    point: str = ""
    call: int = 0
    share: float = 0.0
    cold: bool = False
    twice: bool = False
    planted: str = ""

    def earlier(self) -> Case:
        """The same, a little earlier: it was not reached, or over already."""
        return replace(self, call=max(1, self.call // 2), share=self.share * 0.7)

    @property
    def where(self) -> str:
        """The point, or how the moment was chosen."""
        return self.point or ("cold, at random" if self.cold else "at random")


@dataclass
class Verdict:
    """What became of a case: whether it was killed there, what was wrong in the tables, what was left behind."""

    case: Case
    confirmed: bool
    differences: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Zygote:
    """The other side of `zygote.py`: runs one order at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            # Not by -m: then Python dies of a KeyboardInterrupt that was raised in an `exec`, though it was caught.
            [sys.executable, "-c", "from teei_ingest_tests.kill.zygote import main; main()"],
            cwd=ROOT,
            env=activated(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, order: Mapping[str, Any], kill_after: float | None = None) -> tuple[int, int]:
        """(process id, exit code); -9 for one that was killed, by itself or after so many seconds."""
        pid = self.begin(order)
        code = self.end(_LIMIT_S if kill_after is None else kill_after)
        if code is None:
            os.kill(pid, signal.SIGKILL)
            code = self.end(_LIMIT_S)
            if kill_after is None:
                raise Broken(f"{order['command']} has not ended within {_LIMIT_S} s")
        assert code is not None
        return pid, code

    def begin(self, order: Mapping[str, Any]) -> int:
        """Start; the process id."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._answer()["pid"])

    def end(self, within: float) -> int | None:
        """The exit code; None if there is none within so many seconds."""
        output = [self._process.stdout]
        return int(self._answer()["code"]) if select.select(output, [], [], within)[0] else None  # type: ignore[type-var]

    def close(self) -> None:
        """End it."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(_LIMIT_S)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise Broken("the process that forks has ended")
        return dict(json.loads(line))


class Machine:
    """Homes to kill in, and what an undisturbed run leaves in each. Use `machine(…)`."""

    def __init__(
        self,
        folder: Path,
        zygote: Zygote,
        urls: tuple[str, str],
        config: SandboxConfig,
        streams: Sequence[str],
        days: int,
    ) -> None:
        self.folder = folder
        self.streams = list(streams)
        self.days = [FIRST + timedelta(number) for number in range(days)]
        self._zygote = zygote
        self._before, self._now = (environment(config, url) for url in urls)
        self.seconds = 0.0
        self._made = 0
        self._whole = self._path("whole")

    def prepare(self, homes: Sequence[str]) -> None:
        """Make the homes that are copied for each kill, and the one in which nothing is killed."""
        bare, old, landed = map(self._path, (BARE, OLD, LANDED))
        bare.mkdir(mode=0o700, parents=True)
        self._copy(bare, old)
        self._point_at(bare, self._now)
        self._point_at(old, self._before)
        self._work(old, BOTH)
        self._point_at(old, self._now)
        self._copy(old, self._whole)
        begun = time.monotonic()
        self._work(self._whole, BOTH)
        self.seconds = time.monotonic() - begun
        if LANDED in homes:
            self._copy(old, landed)
            self._work(landed, STREAMS)

    def copy_of(self, name: str, to: str) -> Path:
        """A copy of a home, to do anything with."""
        self._copy(self._path(name), self._path(to))
        return self._path(to)

    def rows(self, home: Path) -> Rows:
        """What is stored there."""
        return _rows(home)

    def sync(self, home: Path, *, zygote: Zygote | None = None, **order: Any) -> tuple[int, str]:
        """A `teei sync`; its exit code and what it said."""
        said = self.folder / f"said-{home.parent.name}"
        said.unlink(missing_ok=True)
        _, code = (zygote or self._zygote).run(self._order(home) | {"said": str(said)} | order)
        return code, said.read_text()

    def signalled(self, home: Path, after: float, number: int) -> tuple[int, float, str] | None:
        """A `teei sync` that gets a signal: exit code, seconds it took to end, what it said; None if it was over."""
        pid = self._zygote.begin(self._order(home))
        if (code := self._zygote.end(after)) is None:
            os.kill(pid, number)
            begun = time.monotonic()
            code = self._zygote.end(_LIMIT_S)
            return -1 if code is None else code, time.monotonic() - begun, self._said(home)
        return None

    def compared(self, home: Path) -> tuple[list[str], list[str]]:
        """Differences from a home in which nothing happened, and leftovers."""
        return self._differences(home, self._whole), self._leftovers(home, self._whole)

    def kill(self, case: Case) -> Verdict:
        """Kill, look, do it again, look."""
        begun = time.monotonic()
        self._made += 1
        home = self._path(f"kill-{self._made}")
        self._copy(self._path(case.home), home)
        try:
            return self._kill(case, home, begun)
        finally:
            shutil.rmtree(home.parent)

    def _kill(self, case: Case, home: Path, begun: float) -> Verdict:
        whole = self._whole
        pid, code = self._cold(case, home) if case.cold else self._forked(case, home)
        spares = case.point != "" and POINTS[case.point].spares
        witness = home.parent / "witness"
        reached = witness.exists() or not case.point
        if case.point == "in-commit":
            reached = reached and bool(_uncommitted(home))
        verdict = Verdict(case, reached and code == (0 if spares else -signal.SIGKILL))
        if code not in (0, -signal.SIGKILL):
            raise Broken(f"{case}: exit code {code}: {self._said(home)}")
        verdict.leftovers += [f"process {other} goes on" for other in _orphans(pid)]
        if case.home != BARE:
            verdict.differences += _torn(home, self._path(case.home), whole)
        if case.twice:
            self._forked(Case(case.home, share=random.random(), planted=case.planted), home)
        pid, code = self._forked(Case(case.home, planted=case.planted), home)
        if code:
            verdict.leftovers.append(f"the next sync ends with {code}: {self._said(home)}")
            if case.home == BARE:
                return verdict
        verdict.leftovers += [f"process {other} goes on" for other in _orphans(pid)]
        if case.home == BARE:  # its keys were made anew
            whole = self._twin(home)
        verdict.differences += self._differences(home, whole)
        verdict.leftovers += self._leftovers(home, whole)
        verdict.seconds = time.monotonic() - begun
        return verdict

    # --- processes ----------------------------------------------------------------------------------------------

    def _work(self, home: Path, work: str) -> None:
        _, code = self._forked(Case(OLD, work), home)
        if code:
            raise Broken(f"an undisturbed run ends with {code}: {self._said(home)}")

    def _forked(self, case: Case, home: Path) -> tuple[int, int]:
        order = self._order(home, case.work) | {
            "point": case.point,
            "call": case.call,
            "planted": case.planted,
            "witness": str(home.parent / "witness"),
        }
        share = case.share * self.seconds if case.share else None
        return self._zygote.run(order, share)

    def _cold(self, case: Case, home: Path) -> tuple[int, int]:
        """A process that Python is started for; it needs some seconds before it does anything."""
        command = self._command(case.work)
        with (home.parent / "said").open("a") as said:
            process = subprocess.Popen(
                [str(BIN / command[0]), *command[1:]],
                cwd=home.parent,
                env=activated() | self._environ(home),
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        limit = time.monotonic() + _LIMIT_S
        # From when it has something in its hands.
        while process.poll() is None and not (home / "dagster" / ".opening").exists() and time.monotonic() < limit:
            time.sleep(0.02)
        try:
            process.wait(case.share * self.seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        return process.pid, process.wait(_LIMIT_S)

    def _order(self, home: Path, work: str = BOTH) -> dict[str, Any]:
        return {"environ": self._environ(home), "command": self._command(work), "said": str(home.parent / "said")}

    def _command(self, work: str) -> list[str]:
        first, last = self.days[0].isoformat(), self.days[-1].isoformat()
        if work == BOTH:
            chosen = [word for name in self.streams for word in ("--stream", name)]
            return ["teei", "sync", "--company", COMPANY.slug, "--from", first, "--to", last, *chosen]
        names = [name if work == STREAMS else all_streams()[name].events for name in self.streams]
        days = f"{COMPANY.slug}|{first}...{COMPANY.slug}|{last}"
        module = ["-m", "teei_ingest.definitions"]
        return ["dagster", "asset", "materialize", "--select", ",".join(names), "--partition-range", days, *module]

    def _environ(self, home: Path) -> dict[str, str]:
        return {"TEEI_HOME": str(home), "DAGSTER_HOME": str(home / "dagster"), "TEEI_PROCESSES": "2", "NO_COLOR": "1"}

    # --- homes --------------------------------------------------------------------------------------------------

    def _path(self, name: str) -> Path:
        return self.folder / name / "home"

    def _copy(self, home: Path, to: Path) -> None:
        shutil.copytree(home, to, symlinks=True)

    def _point_at(self, home: Path, variables: Mapping[str, str]) -> None:
        (home / SANDBOX_FILE).write_text(json.dumps({"environment": dict(variables)}))

    def _twin(self, home: Path) -> Path:
        """An undisturbed run in a bare home with the keys of another."""
        twin = home.parent / "twin" / "home"
        self._copy(self._path(BARE), twin)
        self._copy(home / "keys", twin / "keys")
        self._work(twin, BOTH)
        return twin

    def _said(self, home: Path) -> str:
        file = home.parent / "said"
        return file.read_text()[-1500:] if file.exists() else ""

    # --- what is there ------------------------------------------------------------------------------------------

    def _differences(self, home: Path, whole: Path) -> list[str]:
        found = [f"{stream} {day}: other rows" for stream, day in _unlike(_rows(home), _rows(whole))]
        for what, look in (("quarantine", self._quarantined), ("vanished", self._vanished)):
            if look(home) != look(whole):
                found.append(f"{what}: not the same")
        with instance_in(home) as instance:
            for name in self.streams:
                for asset in (name, all_streams()[name].events):
                    done = instance.get_materialized_partitions(dg.AssetKey(asset))
                    missing = {f"{COMPANY.slug}|{day}" for day in self.days} - done
                    found += [f"{asset} {key}: not materialized" for key in sorted(missing)]
        return found

    def _leftovers(self, home: Path, whole: Path) -> list[str]:
        found = []
        usual = set(map(_shape, _files(whole)))
        for path in _files(home):
            is_landed = path.startswith("landing/") and path.endswith(".sealed")
            if _shape(path) not in usual or "#" in path or path.endswith((".tmp", ".part")) or is_landed:
                found.append(path)
        with instance_in(home) as instance:
            # Of one that never began nobody can tell whether it is still to begin.
            stuck = [run for run in instance.get_runs() if not run.is_finished and not _never_began(run)]
            found += [f"run {run.run_id} is {run.status.value}" for run in stuck]
        return found

    def _quarantined(self, home: Path) -> list[Any]:
        settings = Settings.load(self._environ(home))
        ring, quarantine = KeyRing.open(settings, COMPANY, create=False), Quarantine(settings)
        return [
            (name, day, sorted((one.record, one.reason, one.field, one.rule) for one in entries))
            for name in self.streams
            for day in quarantine.days(COMPANY.slug, name)
            if (entries := quarantine.entries(ring, COMPANY.slug, name, day))
        ]

    def _vanished(self, home: Path) -> dict[str, list[str]]:
        files = sorted((home / "vanished").rglob("*.json"))
        return {str(path.relative_to(home)): sorted(json.loads(path.read_bytes())) for path in files}


@contextmanager
def machine(
    folder: Path,
    homes: Sequence[str] = (BARE, OLD, LANDED),
    *,
    streams: Sequence[str] = (),
    days: int = 2,
    records: int = 8,
) -> Iterator[Machine]:
    """A machine with its sandboxes: one as of before and one as of now, with records that the other does not have."""
    config = SandboxConfig(records=records, people=60, bad_ratio=0.06, quota=False, token_ttl_s=1)
    before = SandboxConfig(records=records, people=60, bad_ratio=0.06, quota=False, token_ttl_s=1, seed=1)
    with ExitStack() as stack:
        urls = [stack.enter_context(running(one)).url for one in (before, config)]
        zygote = Zygote()
        stack.callback(zygote.close)
        made = Machine(folder, zygote, (urls[0], urls[1]), config, streams or _one_of_each_system(), days)
        made.prepare(homes)
        yield made


def _one_of_each_system() -> list[str]:
    return list({stream.system: name for name, stream in all_streams().items()}.values())


def _never_began(run: dg.DagsterRun) -> bool:
    return run.status is dg.DagsterRunStatus.NOT_STARTED and "teei/process" not in run.tags


def _rows(home: Path) -> Rows:
    """All rows of all tables by stream and day."""
    found: Rows = {}
    for contract in contracts():
        folder = home / "events" / contract.table
        if (folder / "_delta_log").is_dir() and DeltaTable.is_deltatable(str(folder)):
            for row in DeltaTable(str(folder)).to_pyarrow_table().to_pylist():
                found.setdefault((row["stream"], row["day"]), []).append(row)
    return {key: sorted(rows, key=lambda row: str(row["event_id"])) for key, rows in found.items()}


def _unlike(one: Rows, other: Rows) -> list[tuple[str, date]]:
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


def _torn(home: Path, before: Path, whole: Path) -> list[str]:
    """Partitions that are neither as before nor as they are to become."""
    found, old, new = _rows(home), _rows(before), _rows(whole)
    keys = {*_unlike(found, old)} & {*_unlike(found, new)}
    return [f"{stream} {day}: neither old nor new after the kill" for stream, day in sorted(keys)]


def _uncommitted(home: Path) -> list[str]:
    """Data files, maybe half-written, that no version of a table knows."""
    found = []
    for contract in contracts():
        folder = home / "events" / contract.table
        if (folder / "_delta_log").is_dir() and DeltaTable.is_deltatable(str(folder)):
            known: set[str] = set()
            for log in (folder / "_delta_log").glob("*.json"):
                for action in map(json.loads, log.read_text().splitlines()):
                    known |= {action[kind]["path"] for kind in ("add", "remove") if kind in action}
            found += [str(path) for path in folder.glob("company=*/*") if _within(path, folder) not in known]
    return found


def _within(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder))


def _files(home: Path) -> list[str]:
    return [_within(path, home) for path in home.rglob("*") if path.is_file() or path.is_symlink()]


def _shape(path: str) -> str:
    """A file's name without what is another in each home."""
    if path.startswith("events/"):
        folder = str(Path(path).parent)
        return f"{folder}/*{Path(path).suffix}"
    return re.sub(r"-(wal|shm|journal)$", "", _NAMES.sub("*", path))


def _orphans(session: int) -> list[int]:
    """Processes of a session that go on without its leader."""
    limit = time.monotonic() + _ORPHAN_S
    while found := [pid for pid in _living(session) if pid != session]:
        if time.monotonic() > limit:
            for pid in found:
                os.kill(pid, signal.SIGKILL)
            return found
        time.sleep(0.02)
    return []


def _living(session: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                yield int(entry.name)
