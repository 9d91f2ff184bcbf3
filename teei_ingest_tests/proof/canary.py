"""Attack 1: nothing of a person is found in any byte that the product leaves behind.

Thousands of canaries are sent in every leaf, key, header, id, error body and unknown field of twelve streams and
three companies, over real HTTP and to the real commands; then all places are searched for all of them in all forms.
That the search works is shown first, by leaks that are planted into a copy. That something is kept is shown, too.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from teei_ingest.errors import UsageError
from teei_ingest.sandbox.faults import FAULTS
from teei_ingest_tests.dagster_parts import BIN, ROOT, GraphQL, activated, free_port, process
from teei_ingest_tests.feeding import Answering, Ask, Reply, answering, lists
from teei_ingest_tests.proof import misbehaving
from teei_ingest_tests.proof.faulty import Fault, faults, headers, problem
from teei_ingest_tests.proof.leaks import planted
from teei_ingest_tests.proof.planting import SAID, SECRET, STREAMS, Canaries, Record, World, legal, world
from teei_ingest_tests.proof.search import Hit, Search, file_layers, files
from teei_ingest_tests.second_opinion.server import Company, Server, _Reply
from teei_ingest_tests.together import eventually

DAYS = (date(2024, 1, 15), date(2024, 1, 16))
TABLES = (
    "volunteer_events", "donation_events", "directory_entries", "enrollment_events", "placement_events",
    "buddy_matches", "buddy_checkins", "buddy_events",
)  # fmt: skip
_OURS = (
    "TEEI_", "DAGSTER_", "BENEVITY_", "GOODERA_", "WORKDAY_", "KINTELL_", "UPSKILLING_", "BUDDY_", "MENTORSHIP_",
    "INTERNAL_", "TMPDIR",
)  # fmt: skip
_SMALL_PAGES = ("python", "-c", misbehaving.TEEI)
# As whoever writes reports of a proof: enough to find a leak, few enough to read.
_SHOWN = 20


def prove(scale: float = 1.0) -> dict[str, float]:
    """Plant at least 5,000 × `scale` canaries, run everything, search; AssertionError names what was found where."""
    began = time.time()
    canaries = Canaries()
    per_day = max(5, round(5 * scale))  # with one broken beside them, four fifths are legal
    count = 3 if scale >= 0.5 else 1
    with tempfile.TemporaryDirectory(prefix="teei-proof-") as folder:
        place = Place.make(Path(folder), canaries, count)
        sent = world(canaries, [one.slug for one in place.companies], DAYS, legal_each=per_day)
        _sync(place, canaries, sent, all_ways=scale >= 0.5)
        search = Search(canaries.cores())
        show = prove_search(search, place, canaries)
        hits, size = look(search, place, began)
        assert not hits, _told(hits, canaries)
    assert len(canaries.all) >= 5_000 * scale, f"{len(canaries.all)} canaries are too few"
    return {
        "canaries": len(canaries.all),
        "found": 0,
        "leaks_planted": show[0],
        "leaks_found": show[1],
        "records": sum(sent.legal.values()) + sum(sent.broken.values()),
        "kept": sum(sent.legal.values()),
        "faults": len(FAULTS) if scale >= 0.5 else 0,
        "commands": len(place.codes),
        "megabytes_searched": round(size / 1e6, 1),
    }


@dataclass(frozen=True)
class SecretCompany(Company):
    """A company whose credentials are drawn."""

    secret: str = ""

    def client_secret(self, system: str) -> str:
        return super().client_secret(system) + self.secret

    def api_key(self, system: str) -> str:
        return f"{super().api_key(system)}.{self.secret}"


@dataclass
class Place:
    """The folder of a proof: `home`, `tmp`, `output` of the commands, `work`, where they run; and who is served."""

    root: Path
    companies: tuple[SecretCompany, ...]
    environ: dict[str, str]
    codes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def make(cls, root: Path, canaries: Canaries, count: int) -> Place:
        """With so many companies."""
        for name in ("home", "tmp", "output", "work"):
            (root / name).mkdir()
        companies = tuple(
            SecretCompany(slug, canaries_id, canaries.plant(secrets.token_hex(16), SECRET))
            for slug, canaries_id in (
                ("acme-corp", "550e8400-e29b-41d4-a716-446655440000"),
                ("globex-inc", "6fa459ea-ee8a-4ca4-894e-db77e160355e"),
                ("x9", "16fd2706-8baf-433b-82eb-8c7fada847da"),
            )[:count]
        )
        entries = "".join(f"  - {{id: {one.id}, slug: {one.slug}, name: {one.slug}}}\n" for one in companies)
        (root / "companies.yaml").write_text(f"companies:\n{entries}")
        key = canaries.plant(base64.b64encode(secrets.token_bytes(32)).decode(), SECRET)
        environ = {name: value for name, value in activated().items() if not name.startswith(_OURS)}
        environ |= {
            "TEEI_HOME": str(root / "home"),
            "DAGSTER_HOME": str(root / "home" / "dagster"),
            "TEEI_COMPANIES": str(root / "companies.yaml"),
            "TEEI_MASTER_KEY": key,
            "TEEI_MAX_RETRIES": "1",
            "TEEI_RETRY_INITIAL_S": "0.01",
            "TEEI_RETRY_MAX_S": "0.02",
            "TEEI_RETRY_WAIT_LIMIT_S": "1",
            "TMPDIR": str(root / "tmp"),
        }
        return cls(root, companies, environ)

    def run(self, *command: str, serving: Mapping[str, str], name: str = "", told: str = "", code: int = -1) -> str:
        """Run a command to its end; what it printed on standard output. All that it said is kept in `output`.

        It is `told` something on standard input. A `code` other than -1 is the one that it has to end with.
        """
        with self._started(command, serving, name) as (started, label):
            started.communicate(told.encode(), timeout=300)
            self.codes[label] = started.returncode
            assert code in (-1, started.returncode), f"{label} ended with {started.returncode}, not {code}"
        return (self.root / "output" / f"{label}.out").read_text()

    def killed(self, *command: str, serving: Mapping[str, str], when: threading.Event) -> None:
        """Run a command until something happens, then kill it with all its children."""
        with self._started(command, serving, "killed") as (started, label):
            assert when.wait(120), "the command never came so far"
            os.killpg(started.pid, signal.SIGKILL)
            self.codes[label] = started.wait()

    @contextmanager
    def _started(
        self, command: Sequence[str], serving: Mapping[str, str], name: str
    ) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
        label = f"{len(self.codes):02d}-{name or command[1]}"
        output = self.root / "output" / label
        with output.with_suffix(".out").open("wb") as out, output.with_suffix(".err").open("wb") as err:
            started = subprocess.Popen(
                [str(BIN / command[0]), *command[1:]],
                cwd=self.root / "work",
                env=self.environ | dict(serving),
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
            try:
                yield started, label
            finally:
                if started.poll() is None:
                    os.killpg(started.pid, signal.SIGKILL)
                    started.wait()


class _Telling(Server):
    """The second opinion's server; each reply has telling headers, and all are errors while it is `unwell`."""

    def __init__(self, canaries: Canaries, sent: World, companies: Sequence[Company]) -> None:
        super().__init__(sent.records, companies)
        self._canaries = canaries
        self.unwell = 0

    def _handle(self, method: str, target: str, given: Mapping[str, str], body: bytes) -> tuple[_Reply, int]:
        reply, number = super()._handle(method, target, given, body)
        if self.unwell:
            reply = _Reply(self.unwell, problem(self._canaries))
        reply.headers |= headers(self._canaries)
        return reply, number

    def secrets(self) -> list[str]:
        """The tokens and cursors that it gave."""
        return [*self._tokens, *self._cursors]


# --- running everything -------------------------------------------------------------------------------------------


def _sync(place: Place, canaries: Canaries, sent: World, *, all_ways: bool) -> None:
    """Every command, over sources that are well, that fail, and that hang while the command is killed."""
    with _Telling(canaries, sent, place.companies) as server:
        well = server.environment()
        for number, company in enumerate(place.companies):
            _whole_sync(place, sent, company, well, debug=number == 1)
        if all_ways:
            _dagsters_own(place, well)
        _read(place, sent, well)
        if all_ways:
            _officers(place, canaries, sent, well)
        for status in (401, 500) if all_ways else (500,):
            server.unwell = status
            place.run("teei", "health", serving=well)
            place.run("teei", "doctor", "--debug", serving=well)
        server.unwell = 0
        place.run("teei", "health", "--json", serving=well)
        for value in server.secrets():
            canaries.plant(value, SECRET)
    with answering(lambda ask: Reply(b"{}")) as failing:
        _failing(place, canaries, failing)
        _killing(place, canaries, failing)
    if all_ways:
        _misbehaving(place, canaries)
        _webserver(place, well)


def _window(company: Company) -> list[str]:
    return ["sync", "--company", company.slug, "--from", str(DAYS[0]), "--to", str(DAYS[-1])]


def _whole_sync(place: Place, sent: World, company: Company, well: Mapping[str, str], *, debug: bool) -> None:
    """A sync, of which the right records are kept: all legal ones, which are four fifths at least."""
    printed = place.run("teei", *_window(company), "--json", *["--debug"] * debug, serving=well)
    done = [one["data"]["metadata"] for one in json.loads(printed)["results"]]
    kept, aside = sum(one["recordsProcessed"] for one in done), sum(one["recordsFailed"] for one in done)
    good, bad = sent.legal[company.slug], sent.broken[company.slug]
    assert (kept, aside) == (good, bad), (
        f"{company.slug}: {good} legal and {bad} broken, {kept} kept, {aside} set aside"
    )
    assert kept >= 0.8 * (kept + aside), "too few of the records are legal"


def _dagsters_own(place: Place, well: Mapping[str, str]) -> None:
    """The last company's streams alone, sealed; then the events of half of them."""
    select = ["dagster", "asset", "materialize", "-m", "teei_ingest.definitions", "--partition"]
    select += [f"{place.companies[-1].slug}|{DAYS[-1]}", "--select"]
    place.run(*select, ",".join(STREAMS), serving=well)
    place.run(*select, ",".join(f"{stream}_events" for stream in STREAMS[::2]), serving=well)
    assert [place.codes[label] for label in list(place.codes)[-2:]] == [0, 0], "a stream alone was not materialized"
    sealed = list((place.root / "home" / "landing").rglob("*.sealed"))
    assert len(sealed) == len(STREAMS) // 2, f"{len(sealed)} sealed streams wait for their events"


def _read(place: Place, sent: World, well: Mapping[str, str]) -> None:
    count = " + ".join(f"(SELECT count(*) FROM {table})" for table in TABLES)
    (stored,) = json.loads(place.run("teei", "sql", f"SELECT {count} AS n", "--format", "json", serving=well))
    assert stored["n"] == sum(sent.legal.values()), f"{stored['n']} rows are stored of {sum(sent.legal.values())}"
    forms = itertools.cycle(("json", "csv", "table"))
    for table in TABLES:
        place.run("teei", "sql", f"SELECT * FROM {table}", "--format", next(forms), serving=well, name=table)
    place.run("teei", "sql", "SELECT nothing FROM volunteer_events", "--debug", serving=well)


def _officers(place: Place, canaries: Canaries, sent: World, well: Mapping[str, str]) -> None:
    """What a privacy officer does, who says on standard input whom it is about, and now and then where not to."""
    company = place.companies[0].slug
    known = str(sent.records[company, STREAMS[0]][0]["userEmail"])
    of = ["--company", company]

    def do(*command: str, told: str = "", code: int = 0) -> None:
        place.run("teei", *command, serving=well, told=told, code=code)

    do("person", *of, told=known)
    do("person", *of, "--why", f"asked by {canaries.email(SAID)}", told=known, code=UsageError.exit_code)
    do("person", *of, "--debug", told=canaries.prose(SAID), code=UsageError.exit_code)
    do("erase", *of, "--dry-run", told=known)
    do("erase", *of, "--yes", "--why", "request 4711", told=f"{known}\n")
    do("erase", *of, "--yes", "--suppress-unknown", "--debug", told=canaries.email(SAID))
    do("erase", *of, "--yes", told=json.dumps({"name": canaries.name(SAID)}), code=UsageError.exit_code)
    do("keys", "rotate", *of, "--why", "yearly")
    do("keys", "status")
    do("privacy", "fields", "--json")
    do("privacy", "policy", "show", *of)
    do("privacy", "report", *of, "--out", str(place.root / "output" / "report.html"))
    do(*_window(place.companies[0]))
    do("audit", "verify")
    do("audit", "show", "--json")


def _failing(place: Place, canaries: Canaries, failing: Answering) -> None:
    """Each stream of each company with another fault, now and then with `--debug`."""
    ways = faults(canaries)
    names = list(ways)
    for number, company in enumerate(place.companies):
        assigned = {stream: ways[names[(number * 12 + at) % len(names)]] for at, stream in enumerate(STREAMS)}
        records = {stream: _some(canaries, stream) for stream in STREAMS}

        def answer(ask: Ask, fault: dict[str, Fault] = assigned, some: Any = records) -> Reply:
            return fault[ask.stream](ask, some[ask.stream])

        failing.answer = answer
        debug = ["--debug"] * (number % 2)
        place.run("teei", *_window(company), *debug, serving=failing.environment([company]), name="faults")
        assert list(place.codes.values())[-1] not in (0, 1, 70), f"faults of {company.slug} gave {place.codes}"
    failing.token = Reply(json.dumps(problem(canaries)).encode(), 400, headers(canaries))
    company = place.companies[0]
    place.run("teei", *_window(company), serving=failing.environment([company]), name="token")
    failing.token = Reply(json.dumps({"access_token": canaries.prose(SAID), "token_type": "Bearer"}).encode())
    place.run("teei", *_window(company), "--debug", serving=failing.environment([company]), name="token")
    failing.token = Reply(b'{"access_token": "a.token", "token_type": "Bearer", "expires_in": 3600}')


def _misbehaving(place: Place, canaries: Canaries) -> None:
    """Every fault of the sandbox; then an undisturbed sync, which keeps all records."""
    company = place.companies[-1]
    with misbehaving.misbehaving(canaries, company.slug, company.id) as source:
        well = source.environment
        secure = {name: value.replace("http://", "https://") for name, value in well.items()}
        tls = {STREAMS[0]: FAULTS["tls-failure"]}
        for number, together in enumerate([tls, *misbehaving.rounds()]):
            options = [part for name in together for part in ("--stream", name)] + ["--debug"] * (number % 2)
            sync = partial(place.run, *_SMALL_PAGES, *_window(company), *options, name="misbehaving")
            source.played(together, partial(sync, serving=secure if together is tls else well))
        printed = place.run(*_SMALL_PAGES, *_window(company), "--json", serving=well, name="undisturbed", code=0)
        kept = sum(one["data"]["metadata"]["recordsProcessed"] for one in json.loads(printed)["results"])
        there = sum(map(source.records, DAYS))
        assert kept == there, f"{kept} records are kept of {there}, after every fault"


def _killing(place: Place, canaries: Canaries, failing: Answering) -> None:
    """A sync that is killed while its last stream hangs and others are being kept."""
    well = lists({stream: _some(canaries, stream) for stream in STREAMS})
    reached, over = threading.Event(), threading.Event()

    def answer(ask: Ask) -> Reply:
        if ask.stream == STREAMS[-1]:
            reached.set()
            over.wait(60)
        return well(ask)

    failing.answer = answer
    company = place.companies[0]
    try:
        place.killed("teei", *_window(company), serving=failing.environment([company]), when=reached)
    finally:
        over.set()


def _some(canaries: Canaries, stream: str) -> list[Record]:
    return [legal(canaries, stream, f"more-{at}", f"{DAYS[0]}T0{at}:00:00Z") for at in range(3)]


_RUNS = """query($cursor: String) { runsOrError(cursor: $cursor, limit: 5) { ... on Runs { results {
    runId status jobName runConfigYaml tags { key value } assetSelection { path } stepStats { stepKey status }
    eventConnection(limit: 1000) { hasMore cursor events { ...event } } } } } }"""
_EVENTS = """query($run: ID!, $cursor: String) { logsForRun(runId: $run, afterCursor: $cursor, limit: 1000) {
    ... on EventConnection { hasMore cursor events { ...event } } } }"""
_ASSETS = """query { assetNodes { assetKey { path } description metadataEntries { ...entry } tags { key value }
    latestMaterializationByPartition { partition description label message metadataEntries { ...entry } }
    assetChecksOrError { ... on AssetChecks { checks { name description executionForLatestMaterialization {
        evaluation { description partition metadataEntries { ...entry } } } } } } } }"""
_ENTRY = """fragment entry on MetadataEntry { __typename label description
    ... on TextMetadataEntry { text } ... on IntMetadataEntry { intRepr } ... on FloatMetadataEntry { floatValue }
    ... on JsonMetadataEntry { jsonString } ... on MarkdownMetadataEntry { mdStr } ... on PathMetadataEntry { path }
    ... on UrlMetadataEntry { url } ... on TableMetadataEntry { table { records } } }"""
_ERROR = """fragment error on PythonError { message className stack causes { message className stack }
    errorChain { error { message stack } } }"""
_EVENT = """fragment event on DagsterRunEvent { __typename
    ... on MessageEvent { message level stepKey eventType }
    ... on DisplayableEvent { label description metadataEntries { ...entry } }
    ... on ErrorEvent { error { ...error } }
    ... on ExecutionStepFailureEvent { failureMetadata { label description metadataEntries { ...entry } } }
    ... on AssetCheckEvaluationEvent { evaluation { description partition metadataEntries { ...entry } } }
    ... on ObjectStoreOperationEvent { operationResult { op } } }"""


def _webserver(place: Place, well: Mapping[str, str]) -> None:
    """What the webserver says of all runs, their logs, the assets, their materializations and checks."""
    ask = GraphQL(free_port())
    answers: list[Any] = []
    command = [str(BIN / "dagster-webserver"), "-m", "teei_ingest.definitions", "-p", str(ask.port)]
    log = place.root / "output" / "webserver.log"
    with process(command, log, env=place.environ | dict(well), cwd=place.root / "work"):
        eventually(lambda: ask.companies(), "the webserver")
        cursor = None
        while True:
            answers.append(ask(_RUNS + _EVENT + _ENTRY + _ERROR, cursor=cursor))
            runs = answers[-1]["runsOrError"]["results"]
            for run in runs:
                events = run["eventConnection"]
                while events["hasMore"]:
                    more = ask(_EVENTS + _EVENT + _ENTRY + _ERROR, run=run["runId"], cursor=events["cursor"])
                    answers.append(more)
                    events = more["logsForRun"]
            if len(runs) < 5:
                break
            cursor = runs[-1]["runId"]
        answers.append(ask(_ASSETS + _ENTRY))
    materialized = sum(len(node["latestMaterializationByPartition"]) for node in answers[-1]["assetNodes"])
    assert materialized >= 2 * len(STREAMS), "the webserver shows no materializations"
    (place.root / "output" / "graphql.json").write_text(json.dumps(answers, ensure_ascii=False))


# --- searching ----------------------------------------------------------------------------------------------------


def look(search: Search, place: Place, began: float) -> tuple[list[Hit], int]:
    """What is found in everything that there is since `began`, and how many bytes were looked through."""
    hits: list[Hit] = []
    size = 0
    for name, data in itertools.chain(files(place.root), _docs(), _new_files(place.root, began)):
        hits += search(name, data)
        size += len(data)
    return hits, size


def _docs() -> Iterator[tuple[str, bytes]]:
    return ((f"docs/{name}", data) for name, data in files(ROOT / "docs"))


def _new_files(own: Path, began: float) -> Iterator[tuple[str, bytes]]:
    """Files that came into the machine's folders for temporary files during the proof, its own left out."""
    for folder in {Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")}:
        for parent, folders, names in os.walk(folder):
            folders[:] = [name for name in folders if Path(parent, name) != own]
            for path in (Path(parent, name) for name in names):
                try:
                    state = path.lstat()
                except OSError:
                    continue
                if path.is_file() and not path.is_symlink() and state.st_mtime >= began - 1:
                    yield from file_layers(path, str(path))


def prove_search(search: Search, place: Place, canaries: Canaries) -> tuple[int, int]:
    """(planted, found) of leaks in a copy of all places; AssertionError names those that were not found."""
    with tempfile.TemporaryDirectory(prefix="teei-proof-copy-") as folder:
        copy = Path(folder)
        for name in ("home", "tmp", "output"):
            shutil.copytree(place.root / name, copy / name, symlinks=True)
        shutil.copytree(ROOT / "docs", copy / "docs")
        with planted(copy, (core for one in canaries.all.values() for core in one.cores)) as leaks:
            found = {hit.text for name, data in files(copy) for hit in search(name, data)}
    missed = [what for text, what in leaks.items() if text not in found]
    assert not missed, f"the search does not find: {', '.join(missed)}"
    return len(leaks), len(leaks) - len(missed)


def _told(hits: Sequence[Hit], canaries: Canaries) -> str:
    owners = canaries.cores()
    found = {owners[hit.text].value: f"({owners[hit.text].why}) in {hit.place}, {hit.form}" for hit in hits}
    lines = [f"\n  {value!r} {where}" for value, where in list(found.items())[:_SHOWN]]
    return f"canaries {len(canaries.all)}, found {len(found)}:{''.join(lines)}"
