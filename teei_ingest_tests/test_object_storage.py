"""Events, sealed files and the audit log in an object store: as in a folder, whatever happens on the way."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import boto3
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from teei_ingest.contracts import EnrollmentEvent, VolunteerEvent
from teei_ingest.errors import AuditError, LandingError, StoreError, TeeiError
from teei_ingest.landing.landing import Landing
from teei_ingest.landing.quarantine import Quarantine, QuarantineEntry
from teei_ingest.privacy.audit_log import AuditLog
from teei_ingest.privacy.erase import erase
from teei_ingest.privacy.identity import parse_identity
from teei_ingest.privacy.shred import shred
from teei_ingest.sandbox.server import Running, SandboxConfig, environment, running
from teei_ingest.settings import Settings
from teei_ingest.store import open_store
from teei_ingest.store.tables import Store, contracts
from teei_ingest.vault.keys import KeyRing
from teei_ingest.vault.objects import files, object_folder, storage_options
from teei_ingest_tests.dagster_parts import BIN, prepare_home
from teei_ingest_tests.erasing import DAY, KARI, OLAS, all_rows, company_of, mentions, people, sync, tokens_of
from teei_ingest_tests.feeding import ACME, Answering, lists, worker
from teei_ingest_tests.object_storage import KEY, REGION, S3, SECRET, Request, front, s3_server
from teei_ingest_tests.running import Home
from teei_ingest_tests.test_store_tables import FIRST, event, reader, sort

pytestmark = pytest.mark.fleet

SPAWN = multiprocessing.get_context("spawn")
CONFIG = SandboxConfig(records=4)
SYNC = ("sync", "--company", "acme-corp", "--from", "2024-01-15", "--to", "2024-01-16")
FEW = ("benevity_volunteers", "buddy_matches", "kintell_enrollments", "mentorship_placements")
BRIEF = (*SYNC, *(part for name in FEW for part in ("--stream", name)))
PATIENCE = {"TEEI_RETRY_INITIAL_S": "0.02", "TEEI_RETRY_MAX_S": "0.1"}
STREAM = "kintell_enrollments"
WAYS = ("refuse", "lose", "hang up", "cut", "half", "late")
RANDOM = random.Random(7).randbytes(3 * 2**20)
ONCE = re.compile(r"/_delta_log/0{19}1\.json$")  # the first commit after the table was made


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3_server(tmp_path_factory.mktemp("s3")) as served:
        yield served


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Running]:
    with running(CONFIG) as served:
        yield served


@pytest.fixture
def bucket(s3: S3) -> str:
    name = f"b-{uuid.uuid4()}"
    s3.make(name)
    return name


@dataclass
class Place:
    """A home, and the environment of its processes."""

    home: Path
    environ: dict[str, str] = field(repr=False)

    @classmethod
    def create(cls, path: Path, sandbox: Running, more: Mapping[str, str], keys: Place | None = None) -> Place:
        home = path / "home"
        environ = prepare_home(home, environment(CONFIG, sandbox.url), ["acme-corp"])
        if keys is not None:
            shutil.copytree(keys.home / "keys", home / "keys")
        return cls(home, environ | PATIENCE | dict(more))

    @property
    def settings(self) -> Settings:
        return Settings.load(self.environ)

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """`teei` in a process of its own."""
        return subprocess.Popen(
            [str(BIN / "teei"), *arguments],
            cwd=self.home,
            env=self.environ | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def teei(self, *arguments: str, **more: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        started = self.start(*arguments, **more)
        out, err = started.communicate(timeout=120)
        return started.returncode, out, err

    def good(self, *arguments: str, **more: str) -> str:
        code, out, err = self.teei(*arguments, **more)
        assert code == 0, out + err
        return out

    def rows(self, *streams: str) -> dict[str, list[dict[str, Any]]]:
        """The stored rows of these streams, or all, by table."""
        store = open_store(self.settings)
        found = {one.table: sort(store.rows(one).to_pylist()) for one in contracts()}
        return {
            table: [row for row in rows if not streams or row["stream"] in streams] for table, rows in found.items()
        }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, sandbox: Running) -> Place:
    """What a sync leaves in a folder."""
    made = Place.create(tmp_path_factory.mktemp("folder"), sandbox, {})
    made.good(*SYNC)
    return made


@pytest.fixture
def place(tmp_path: Path, sandbox: Running, folder: Place, s3: S3, bucket: str) -> Place:
    """A home with the same keys, whose store is an empty bucket."""
    return Place.create(tmp_path, sandbox, {**s3.variables(), "TEEI_STORE_URI": f"s3://{bucket}/events"}, folder)


# --- as in a folder -----------------------------------------------------------------------------------------------


def test_the_twelve_streams_are_as_in_a_folder(folder: Place, place: Place, s3: S3, bucket: str) -> None:
    place.good(*SYNC)
    there = place.rows()
    assert there == folder.rows()
    assert sum(map(len, there.values())) > 50
    question = ("sql", "SELECT * FROM volunteer_events JOIN directory_entries USING (company, user_id) ORDER BY ALL")
    assert place.good(*question, "--format", "json") == folder.good(*question, "--format", "json") != "[]\n"

    keys = s3.keys(bucket)
    place.good(*SYNC)
    assert place.rows() == there
    assert [key for key in s3.keys(bucket) if key.endswith(".parquet")] == [k for k in keys if k.endswith(".parquet")]
    assert {path.name for path in place.home.iterdir()}.isdisjoint({"events", "landing"})


def test_what_was_made_in_the_sandbox_stays_there(place: Place, s3: S3) -> None:
    others = "http://127.0.0.1:9"  # of other services
    place.good("sql", "SELECT count(*) FROM volunteer_events", AWS_ENDPOINT_URL=others, AWS_ENDPOINT_URL_S3=s3.url)
    real = place.settings.store_uri
    with pytest.raises(StoreError, match="holds the sandbox's events"):
        Store(real, sandbox=False, storage_options=storage_options(place.settings))


def test_another_home_is_refused(tmp_path: Path, place: Place, sandbox: Running) -> None:
    place.good("sql", "SELECT count(*) FROM volunteer_events")
    other = Place.create(tmp_path / "other", sandbox, {**place.environ, "TEEI_HOME": "", "DAGSTER_HOME": ""})
    other.environ |= {"TEEI_HOME": str(other.home), "DAGSTER_HOME": str(other.home / "dagster")}
    code, out, err = other.teei("sql", "SELECT count(*) FROM volunteer_events")
    assert (code, out) == (5, "")
    assert "belongs to the deployment" in err


# --- writers at once ----------------------------------------------------------------------------------------------


def _write(uri: str, options: dict[str, str], writer: int, barrier: Any) -> None:
    store = Store(uri, sandbox=False, storage_options=options)
    for number in range(8):
        day = FIRST + timedelta(number % 4)
        rows = [
            event(EnrollmentEvent, n, event_id=f"{writer}-{day}-{n}", stream=f"s{writer}", day=day) for n in range(3)
        ]
        barrier.wait(60)
        assert store.replace(EnrollmentEvent, f"s{writer}", "acme-corp", [day], reader(EnrollmentEvent, rows)) == 3


def test_two_writers_of_eight_commits_lose_nothing(place: Place) -> None:
    options, uri = storage_options(place.settings), place.settings.store_uri
    store = Store(uri, sandbox=False, storage_options=options)
    store.prepare()
    barrier = SPAWN.Barrier(2)
    writers = [SPAWN.Process(target=_write, args=(uri, options, number, barrier)) for number in range(2)]
    for one in writers:
        one.start()
    for one in writers:
        one.join(120)
    assert [one.exitcode for one in writers] == [0, 0]
    found = Counter(store.rows(EnrollmentEvent)["event_id"].to_pylist())
    assert found == {f"{w}-{FIRST + timedelta(d)}-{n}": 1 for w in range(2) for d in range(4) for n in range(3)}
    log = DeltaTable(f"{uri}/{EnrollmentEvent.table}", storage_options=options).history()
    assert sum(commit["operation"] == "WRITE" for commit in log) >= 16


# --- a store that fails -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", ["commit", "data"])
def test_a_replace_whose_put_fails_once_is_exact(place: Place, s3: S3, what: str, way: str) -> None:
    options, uri = storage_options(place.settings), place.settings.store_uri
    Store(uri, sandbox=False, storage_options=options).prepare()
    done = []

    def fault(request: Request) -> str:
        put = request.commits if what == "commit" else request.method == "PUT" and request.path.endswith(".parquet")
        if not put or done:
            return "pass"
        done.append(request)
        return way

    with front(s3.url, fault) as through:
        impatient = options | {"AWS_ENDPOINT_URL": through.url, "timeout": "1000ms"}
        store = Store(uri, sandbox=False, storage_options=impatient)
        for number in range(2):
            rows = [event(VolunteerEvent, 10 * number + n) for n in range(3)]
            done.clear()
            assert store.replace(VolunteerEvent, "one", "acme-corp", [FIRST], reader(VolunteerEvent, rows)) == 3
            assert done
            assert sort(store.rows(VolunteerEvent).to_pylist()) == rows


def test_a_sync_over_a_store_that_keeps_failing_is_exact(folder: Place, place: Place, s3: S3) -> None:
    numbers = itertools.count(1)
    hit: Counter[str] = Counter()

    def fault(request: Request) -> str:
        number = next(numbers)
        time.sleep(0.01)
        way = WAYS[number // 7 % len(WAYS)] if number % 7 == 0 else "pass"
        hit[way] += 1
        return way

    with front(s3.url, fault) as through:
        place.good(*BRIEF, AWS_ENDPOINT_URL=through.url, TEEI_READ_TIMEOUT_S="1")
    assert all(hit[way] > 3 for way in WAYS), hit
    assert place.rows() == folder.rows(*FEW)


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_in_the_middle_of_a_commit(folder: Place, place: Place, s3: S3, bucket: str, when: str) -> None:
    killed: list[str] = []
    started: list[subprocess.Popen[str]] = []

    def strike(request: Request) -> bool:
        if killed or EnrollmentEvent.table not in request.path or not (request.commits and ONCE.search(request.path)):
            return False
        killed.append(request.path)
        os.kill(started[0].pid, signal.SIGKILL)
        return True

    with front(s3.url) as through:
        if when == "before":
            through.fault = lambda request: "refuse" if strike(request) else "pass"
        else:
            through.passed = lambda request: void(strike(request))
        started.append(place.start(*BRIEF, AWS_ENDPOINT_URL=through.url))
        started[0].communicate(timeout=120)
    assert (started[0].returncode, len(killed)) == (-signal.SIGKILL, 1)
    store = open_store(place.settings)
    is_there = bool(store.rows(EnrollmentEvent).num_rows)
    is_left_over = any(f"/{EnrollmentEvent.table}/" in key for key in unneeded(place, s3, bucket))
    assert (is_there, is_left_over) == {"before": (False, True), "after": (True, False)}[when]

    place.good(*BRIEF)
    assert place.rows() == folder.rows(*FEW)
    for contract in contracts():
        store.purge(contract)
    assert unneeded(place, s3, bucket) == set()
    assert place.rows() == folder.rows(*FEW)


def void(_: Any) -> None:
    pass


def unneeded(place: Place, s3: S3, bucket: str) -> set[str]:
    """Files of rows that the newest versions of the tables do not need."""
    options = storage_options(place.settings)
    needed = {
        uri.removeprefix(f"s3://{bucket}/")
        for one in contracts()
        for uri in DeltaTable(f"{place.settings.store_uri}/{one.table}", storage_options=options).file_uris()
    }
    return {key for key in s3.keys(bucket) if "/company=" in key} - needed


# --- bad input ----------------------------------------------------------------------------------------------------

BAD: dict[str, tuple[dict[str, str], int, str]] = {
    "no bucket": ({"TEEI_STORE_URI": "s3://no-such-bucket/events"}, 5, "there is no such bucket"),
    "an unknown key": ({"AWS_ACCESS_KEY_ID": "unknown"}, 5, "may not be used with these credentials"),
    "a wrong secret": ({"AWS_SECRET_ACCESS_KEY": "sesame"}, 5, "may not be used with these credentials"),
    "half a key": ({"AWS_SECRET_ACCESS_KEY": ""}, 3, "set AWS_SECRET_ACCESS_KEY, too"),
    "no file of keys": (
        {
            "AWS_ACCESS_KEY_ID": "",
            "AWS_SECRET_ACCESS_KEY": "",
            "AWS_SHARED_CREDENTIALS_FILE": "/none",
            "AWS_EC2_METADATA_DISABLED": "true",
        },
        5,
        "credentials",
    ),
    "nobody there": ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, 5, "does not answer"),
    "a password": ({"TEEI_STORE_URI": "s3://key:sesame@bucket/events"}, 3, "TEEI_STORE_URI has to name a bucket"),
    "no name": ({"TEEI_STORE_URI": "s3:///events"}, 3, "TEEI_STORE_URI has to name a bucket"),
    "no TLS": ({"AWS_ENDPOINT_URL": "http://s3.example"}, 3, "AWS_ENDPOINT_URL has to begin with https://"),
    "no such kind": ({"TEEI_STORE_URI": "ftp://there/events"}, 3, "TEEI_STORE_URI has to be a folder, or a URI"),
}


STORES = {
    "s3://acme/events": ("s3", "AWS_ACCESS_KEY_ID", "acme/events/"),
    "gs://acme/events": ("gcs", "GOOGLE_SERVICE_ACCOUNT", "acme/events/"),
    "az://acme/events": ("abfs", "AZURE_STORAGE_ACCOUNT_KEY", "acme/events/"),
    "abfss://acme@account.dfs.core.windows.net/events": ("abfs", "AZURE_STORAGE_ACCOUNT_KEY", "acme/events/"),
}


@pytest.mark.parametrize("uri", STORES)
def test_each_kind_of_store_gets_its_own_variables(tmp_path: Path, uri: str) -> None:
    kind, own, path = STORES[uri]
    keys = {"AWS_ACCESS_KEY_ID": "YQ==", "AWS_SECRET_ACCESS_KEY": "YQ=="}
    others = {
        "GOOGLE_SERVICE_ACCOUNT": "YQ==",
        "AZURE_STORAGE_ACCOUNT_KEY": "YQ==",
        "AZURE_STORAGE_ACCOUNT_NAME": "one",
    }
    settings = Settings.load({"TEEI_HOME": str(tmp_path), "TEEI_STORE_URI": uri, **keys, **others})
    options = storage_options(settings)
    assert {name.partition("_")[0] for name in options if name in keys | others} == {own.partition("_")[0]}
    found = files(uri, options)
    assert (found.base_fs.type_name, found.base_path) == (kind, path)


@pytest.mark.parametrize("name", BAD)
def test_what_is_set_wrong_is_one_line(place: Place, name: str) -> None:
    wrong, code, said = BAD[name]
    found, out, err = place.teei("sql", "SELECT count(*) FROM volunteer_events", **wrong)
    assert (found, out, err.count("\n")) == (code, "", 1), err
    assert said in err
    assert not any(secret in err for secret in (SECRET, "sesame"))


def test_refused_from_the_middle_on(folder: Place, place: Place, s3: S3) -> None:
    commits: list[str] = []

    def fault(request: Request) -> str:
        if request.commits and ONCE.search(request.path):
            commits.append(request.path)
        return "expired" if len(commits) > 1 else "pass"

    with front(s3.url, fault) as through:
        code, out, err = place.teei(*BRIEF, AWS_ENDPOINT_URL=through.url)
    assert code == 5, out + err
    assert "have expired: renew them" in out + err
    assert "Traceback" not in out + err
    before = place.rows()
    assert 0 < sum(map(len, before.values())) < sum(map(len, folder.rows(*FEW).values()))
    place.good(*BRIEF)
    assert place.rows() == folder.rows(*FEW)


def test_a_clock_that_is_wrong_is_told_from_credentials_that_are(place: Place, s3: S3) -> None:
    options, uri = storage_options(place.settings), place.settings.store_uri
    Store(uri, sandbox=False, storage_options=options).prepare()
    with front(s3.url, lambda request: "skewed" if request.commits else "pass") as through:
        store = Store(uri, sandbox=False, storage_options=options | {"AWS_ENDPOINT_URL": through.url})
        with pytest.raises(StoreError, match="whose clock is wrong"):
            store.replace(
                VolunteerEvent, "one", "acme-corp", [FIRST], reader(VolunteerEvent, [event(VolunteerEvent, 1)])
            )


@pytest.mark.parametrize("question", [("sql", "SELECT * FROM volunteer_events"), ("export", "there")])
def test_a_question_that_is_refused_in_the_middle(place: Place, s3: S3, question: tuple[str, ...]) -> None:
    store = open_store(place.settings)
    rows = [event(VolunteerEvent, n) for n in range(3)]
    store.replace(VolunteerEvent, "one", "acme-corp", [FIRST], reader(VolunteerEvent, rows))
    with front(s3.url, lambda request: "expired" if request.path.endswith(".parquet") else "pass") as through:
        code, out, err = place.teei(*question, AWS_ENDPOINT_URL=through.url)
    assert (code, out, err.count("\n")) == (5, "", 1), err
    assert "have expired: renew them" in err
    place.good(*question)


def test_a_file_of_keys_that_is_renewed_is_taken_up(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(key: str) -> None:
        file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {SECRET}\n")

    file = tmp_path / "credentials"
    write("expired")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    own = {
        name: value
        for name, value in place.environ.items()
        if name not in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    }
    options = storage_options(Settings.load(own))
    open_store(place.settings)
    write(KEY)
    store = Store(place.settings.store_uri, sandbox=True, storage_options=options)
    assert store.rows(VolunteerEvent).num_rows == 0
    write("expired")
    with pytest.raises(StoreError, match="may not be used with these credentials"):
        store.rows(VolunteerEvent)
    write(KEY)
    assert store.rows(VolunteerEvent).num_rows == 0


def test_doctor_warns_of_a_bucket_that_keeps_versions(place: Place, s3: S3, bucket: str) -> None:
    assert not open_store(place.settings).keeps_versions()
    client = boto3.client(
        "s3", endpoint_url=s3.url, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name=REGION
    )
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    versioned = place.environ | {"TEEI_STORE_URI": f"s3://{bucket}/others"}
    assert open_store(Settings.load(versioned)).keeps_versions()
    _, out, err = place.teei("doctor", TEEI_STORE_URI=f"s3://{bucket}/others")
    assert "no erasure is for good" in " ".join(f"{out} {err}".split())  # however the lines are broken


# --- privacy ------------------------------------------------------------------------------------------------------


@pytest.fixture
def fed(home: Callable[..., Home], server: Answering, s3: S3, bucket: str) -> Home:
    """A home whose store is a bucket, and a server that has Kari and Ola."""
    server.answer = lists(people())
    uri = {"TEEI_STORE_URI": f"s3://{bucket}/csr"}
    return home({ACME.slug: ACME.id}, server.environment() | s3.variables() | uri)


def shown(s3: S3, bucket: str) -> Iterator[str]:
    """Every text in a bucket, decoded where it is Parquet, and the names of the objects."""
    files = s3.files()
    for key in s3.keys(bucket):
        yield key
        with files.open_input_file(f"{bucket}/{key}") as file:
            if key.endswith(".parquet"):
                yield json.dumps(pq.read_table(file).to_pylist(), default=str)
            else:
                yield file.read().decode(errors="replace")


def test_an_erased_person_is_in_no_object(fed: Home, s3: S3, bucket: str) -> None:
    sync(fed)
    tokens = tokens_of(fed, KARI)
    before = all_rows(fed)
    assert any(token in text for text in shown(s3, bucket) for token in tokens)

    erase(fed.settings, company_of(fed), parse_identity(KARI))

    assert mentions(fed, KARI) == 0
    assert len(all_rows(fed)) == len(before) // 2
    assert not any(token in text for text in shown(s3, bucket) for token in tokens)
    assert sum(one.suppressed for one in sync(fed).values()) == 7


def test_an_erasure_takes_a_person_out_of_sealed_files(fed: Home, s3: S3, bucket: str) -> None:
    for stream in OLAS:
        worker(fed, stream).stream([DAY])
    assert len([key for key in s3.keys(bucket) if key.startswith("csr/_landing/")]) == len(OLAS)
    assert not (fed.settings.home / "landing").exists()
    ages = {str(path): path.written() for path in Landing(fed.settings).folder.rglob("*")}

    found = erase(fed.settings, company_of(fed), parse_identity(KARI))

    assert found.landing == 13
    after = {str(path): path.written() for path in Landing(fed.settings).folder.rglob("*")}
    assert after == pytest.approx(ages, abs=0.01)
    for stream in OLAS:
        outcome = worker(fed, stream).events([DAY])
        assert outcome.partitions[DAY].from_landing
    assert mentions(fed, KARI) == 0
    assert len(all_rows(fed)) == 7
    assert not [key for key in s3.keys(bucket) if key.startswith("csr/_landing/")]


def quarantine(place: Home, *records: bytes) -> None:
    entries = [QuarantineEntry("contract", "hours", "missing", record) for record in records]
    ring = KeyRing.open(place.settings, company_of(place))
    Quarantine(place.settings).replace(ring, ACME.slug, STREAM, {DAY: entries}, attempt="a")


def _seal(environ: dict[str, str], days: Sequence[date], said: Any) -> None:
    """Write landings, read them, replace and remove them; tell what came of it."""
    settings = Settings.load(environ)
    own, ring = Landing(settings), KeyRing.open(settings, ACME)
    try:
        for day in days:
            for records in ([b"old"], [b"one", RANDOM]):
                own.write(ring, ACME.slug, STREAM, day, {}, records, attempt="a")
            _, found = own.read(ring, ACME.slug, STREAM, day) or ({}, iter(()))
            assert list(found) == [b"one", RANDOM]
        assert own.days(ACME.slug, STREAM) == set(days)
        assert [own.discard(ACME.slug, STREAM, day, attempt="a") for day in days] == [True] * len(days)
        said.put("done")
    except TeeiError as error:
        said.put(error.message)


def sealed(place: Home, url: str, days: int) -> str:
    """What a process says that seals so many files by way of `url`."""
    said = SPAWN.Queue()
    environ = place.environ | PATIENCE | {"AWS_ENDPOINT_URL": url, "TEEI_READ_TIMEOUT_S": "1"}
    process = SPAWN.Process(target=_seal, args=(environ, [DAY + timedelta(n) for n in range(days)], said))
    process.start()
    found = said.get(timeout=120)
    process.join(60)
    return str(found)


def test_sealed_files_over_a_store_that_keeps_failing(fed: Home, s3: S3, bucket: str) -> None:
    KeyRing.open(fed.settings, ACME)
    numbers = itertools.count(1)
    hit: Counter[str] = Counter()

    def fault(request: Request) -> str:
        number = next(numbers)
        way = WAYS[number // 3 % len(WAYS)] if number % 3 == 0 else "pass"
        hit[way] += 1
        return way

    with front(s3.url, fault) as through:
        assert sealed(fed, through.url, 3) == "done"
    assert all(hit[way] > 1 for way in WAYS), hit
    assert s3.keys(bucket) == []


@pytest.mark.parametrize("method", ["PUT", "HEAD", "GET", "POST"])
def test_sealed_files_of_a_store_that_refuses(fed: Home, s3: S3, method: str) -> None:
    KeyRing.open(fed.settings, ACME)

    def fault(request: Request) -> str:
        one = request.path.endswith(".sealed") or "delete" in request.query
        return "expired" if request.method == method and one else "pass"

    with front(s3.url, fault) as through:
        assert "have expired: renew them, run it again" in sealed(fed, through.url, 1)


def test_the_quarantine_keeps_and_expires(fed: Home, s3: S3, bucket: str) -> None:
    settings, ring = fed.settings, KeyRing.open(fed.settings, company_of(fed))
    own, store = Quarantine(settings), open_store(settings)
    key = f"csr/_quarantine/acme-corp/{STREAM}/{DAY}.sealed"
    big = os.urandom(12 * 2**20)  # more than one request
    quarantine(fed, b'{"a": 1}', big)
    assert key in s3.keys(bucket)
    assert [entry.record for entry in own.entries(ring, ACME.slug, STREAM, DAY)] == [b'{"a": 1}', big]
    assert own.counts() == {(ACME.slug, STREAM): 1}

    begun = next(iter(own.folder.rglob("*.sealed"))).written()
    time.sleep(1.1)
    assert own.erase(ring, ACME.slug, STREAM, lambda entry: entry.record == big, dry_run=False) == 1
    assert next(iter(own.folder.rglob("*.sealed"))).written() == pytest.approx(begun, abs=0.01)
    assert [entry.record for entry in own.entries(ring, ACME.slug, STREAM, DAY)] == [b'{"a": 1}']

    end = begun + settings.quarantine_ttl_d * 86400
    assert own.sweep(end - 0.5) == 0
    assert own.sweep(end + 0.5) == 1
    assert not [key for key in s3.keys(bucket) if "_quarantine" in key]
    assert store.rows(EnrollmentEvent).num_rows == 0


def test_of_a_shredded_company_nothing_is_left(fed: Home, s3: S3, bucket: str) -> None:
    sync(fed)
    worker(fed, STREAM).stream([DAY])
    quarantine(fed, b"{}")
    shown_ids = set(all_rows(fed))

    made, _ = shred(fed.settings, company_of(fed), stop=lambda: 0, forget=lambda: True)

    assert (made.files or {})["landing"] == (made.files or {})["quarantine"] == 1
    assert sum((made.rows or {}).values()) == len(shown_ids) == 14
    left = [key for key in s3.keys(bucket) if "acme-corp" in key]
    assert left == []
    assert not any(event_id in text for text in shown(s3, bucket) for event_id in shown_ids)
    assert not (fed.settings.home / "quarantine" / "acme-corp").exists()


def test_the_audit_log_is_copied_and_cannot_be_begun_anew(fed: Home, s3: S3, bucket: str) -> None:
    log = AuditLog(fed.settings)
    entries = [log.append("keys.rotated", company=ACME.slug, details={"version": number}) for number in range(3)]
    copies = [key for key in s3.keys(bucket) if key.startswith("csr/_audit/")]
    assert copies == [f"csr/_audit/{one['seq']:09d}-{one['hash']}.json" for one in entries]
    with s3.files().open_input_file(f"{bucket}/{copies[1]}") as file:
        assert json.loads(file.read()) == entries[1]
    assert log.verify().intact

    s3.files().delete_file(f"{bucket}/{copies[2]}")  # its process was killed before
    log.append("keys.rotated", company=ACME.slug, details={"version": 3})
    assert len([key for key in s3.keys(bucket) if key.startswith("csr/_audit/")]) == 4

    shutil.rmtree(log.path.parent)
    for number in range(5):
        log.append("keys.rotated", company=ACME.slug, details={"version": number})
    assert "the log lacks what was copied to" in log.verify().problem


def test_nothing_is_done_that_cannot_be_copied(fed: Home) -> None:
    gone = Settings.load(fed.environ | {"TEEI_STORE_URI": "s3://no-such-bucket/csr"})
    log = AuditLog(gone)
    with pytest.raises(AuditError, match="no such bucket"):
        log.append("keys.rotated", company=ACME.slug)


# --- one file -----------------------------------------------------------------------------------------------------

LONG = bytes(range(256)) * (12 << 12)  # 12 MiB, which goes in several parts


def test_an_interrupted_write_leaves_the_old_file_or_the_whole_new_one(place: Place) -> None:
    path = object_folder(place.settings, "_any") / "file"

    def put(data: bytes) -> float:
        begun = time.monotonic()
        with path.replacing(OSError) as write:
            write(data)
        return time.monotonic() - begun

    class Stop(BaseException):
        """As Ctrl-C raises one."""

    is_writing, stops = False, 0

    def stop(*_: object) -> None:
        if is_writing:
            raise Stop

    put(LONG)  # the first one makes the connection
    seconds = put(LONG)
    before = signal.signal(signal.SIGUSR1, stop)  # pytest-timeout has SIGALRM
    for number in range(40):
        put(b"old")
        timer = threading.Timer(seconds * number / 40 + 0.001, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        try:
            is_writing = True
            put(LONG)
            is_writing = False
        except Stop:
            is_writing = False
            stops += 1
        timer.join()
        with path.open() as file:
            assert file.read() in (b"old", LONG), number
    signal.signal(signal.SIGUSR1, before)
    assert stops > 10


def test_no_room_for_what_is_being_written_is_one_line(place: Place) -> None:
    path = object_folder(place.settings, "_any") / "file"
    pid = os.fork()
    if not pid:
        code = 2
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (10 << 20, 10 << 20))
            with path.replacing(LandingError) as write:
                write(LONG[: 10 << 20])
                write(b"and a little")
        except LandingError as error:
            code = 0 if error.message == "File too large" else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not path.exists()
