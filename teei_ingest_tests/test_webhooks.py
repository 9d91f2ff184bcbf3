"""Webhooks: whom the gateway believes, that it loses none, and which runs come of them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import signal
import socket
import stat
import time
import urllib.error
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import pytest

from teei_ingest.companies import load_companies
from teei_ingest.defs.build import build
from teei_ingest.defs.partitions import COMPANIES, key
from teei_ingest.defs.queue import UNFINISHED
from teei_ingest.privacy.retention import keep
from teei_ingest.sandbox.server import Running, SandboxConfig, environment, running
from teei_ingest.settings import Settings
from teei_ingest.store import open_store
from teei_ingest.streams import all_streams
from teei_ingest.vault.database import Database
from teei_ingest.vault.keys import tombstone
from teei_ingest.webhooks.deliveries import Deliveries, Delivery
from teei_ingest.webhooks.signatures import refusal
from teei_ingest_tests.conftest import MASTER_KEY
from teei_ingest_tests.dagster_parts import BIN, instance_in, prepare_home, process, statuses
from teei_ingest_tests.gateways import Calling, gateway
from teei_ingest_tests.running import Home
from teei_ingest_tests.test_automation import STARTED, asked, instance, look
from teei_ingest_tests.together import eventually

__all__ = ["instance"]

STREAMS = {"benevity": "donations", "goodera": "volunteers", "workday": "directory"}
SYSTEMS = list(STREAMS)
ACCOUNTS = {"benevity": "TENANT_ID", "goodera": "PROJECT_ID", "workday": "TENANT_ID"}
ACME, GLOBEX, INITECH = "acme-corp", "globex-inc", "initech-ab"
CONFIG = SandboxConfig()
DAYS = [date(2024, 1, day) for day in range(15, 22)]
PREVIOUS = "the secret that was good before"
PERSON = "kari.nordmann@acme.example"


def account(environ: Mapping[str, str], system: str, company: str) -> str:
    return environ[f"{system}_{company}_{ACCOUNTS[system]}".replace("-", "_").upper()]


def secret(environ: Mapping[str, str], system: str, company: str) -> str:
    return environ[f"{system}_{company}_WEBHOOK_SECRET".replace("-", "_").upper()]


def signed(system: str, key: str, body: bytes, at: float) -> dict[str, str]:
    """Headers by which a system vouches for a body: from the page that describes them, sharing nothing with others."""

    def mac(before: str) -> Any:
        return hmac.new(key.encode(), before.encode() + body, hashlib.sha256)

    seconds = str(int(at))
    if system == "benevity":
        return {"X-Benevity-Signature": f"t={seconds},v1={mac(f'{seconds}.').hexdigest()}"}
    if system == "goodera":
        code = f"sha256={mac(f'{seconds}.').hexdigest()}"
        return {"X-Goodera-Signature": code, "X-Goodera-Request-Timestamp": seconds}
    moment = datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
    code = base64.b64encode(mac(f"{moment}:").digest()).decode()
    return {"X-Workday-Signature": code, "X-Workday-Request-Timestamp": moment}


@dataclass
class Gateway:
    """One that answers, and what it keeps."""

    settings: Settings
    call: Calling

    @property
    def environ(self) -> Mapping[str, str]:
        return self.settings.environ

    def url(self, system: str) -> str:
        return f"{self.call.url}/v1/webhooks/{system}"

    def post(self, system: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        sent = {"Content-Type": "application/json", **headers}
        answer = self.call("POST", f"/v1/webhooks/{system}", data=body, headers=sent)
        return answer.status_code, answer.content

    def says(
        self,
        system: str,
        company: str = ACME,
        *,
        key: str | None = None,
        late: float = 0,
        body: bytes | None = None,
        **fields: Any,
    ) -> tuple[int, bytes]:
        """A delivery of a company, signed `late` seconds ago; with `fields`, other ones (None: without)."""
        sent = notice(self.environ, system, company, **fields) if body is None else body
        key = secret(self.environ, system, company) if key is None else key
        return self.post(system, sent, signed(system, key, sent, time.time() - late))

    def kept(self) -> dict[tuple[str, str], int]:
        """Deliveries by company and stream."""
        return {(one.company, one.stream): one.known for one in Deliveries(self.settings).figures()}


def notice(environ: Mapping[str, str], system: str, company: str = ACME, **fields: Any) -> bytes:
    said = {
        "event": "data.changed",
        "id": str(uuid.uuid4()),
        "tenant": account(environ, system, company),
        "stream": STREAMS[system],
        "updatedAt": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    } | fields
    return json.dumps({name: value for name, value in said.items() if value is not None}).encode()


@contextmanager
def serving(environ: Mapping[str, str], variables: Mapping[str, str] | None = None) -> Iterator[Gateway]:
    """A gateway of the home that the environment names; `variables` are those of a sandbox."""
    with gateway(Path(environ["TEEI_HOME"]), variables or {}, **environ) as calling:
        yield Gateway(Settings.load(environ), calling)
    assert "Traceback" not in calling.log.read_text()


def made(path: Path) -> Home:
    environ = environment(CONFIG, "http://127.0.0.1:9") | {"TEEI_MASTER_KEY": MASTER_KEY}
    for system in SYSTEMS:
        environ[f"{system.upper()}_ACME_CORP_WEBHOOK_SECRET_PREVIOUS"] = PREVIOUS
    del environ["GOODERA_INITECH_AB_WEBHOOK_SECRET"]
    return Home.create(path, CONFIG.companies, environ)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with serving(made(tmp_path_factory.mktemp("gateway")).environ) as found:
        yield found


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Running]:
    with running(CONFIG) as found:
        yield found


@pytest.fixture
def place(tmp_path: Path) -> Home:
    return made(tmp_path)


# --- whom it believes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("late", [0, -290, 290])
def test_what_was_signed_just_now_is_kept(served: Gateway, system: str, late: float) -> None:
    before = served.kept().get((GLOBEX, f"{system}_{STREAMS[system]}"), 0)
    assert served.says(system, GLOBEX, late=late)[0] == 202
    assert served.kept()[GLOBEX, f"{system}_{STREAMS[system]}"] == before + 1


def tampered(served: Gateway, system: str, how: str) -> tuple[int, bytes]:
    environ = served.environ
    body, now = notice(environ, system), time.time()
    good, right = secret(environ, system, ACME), signed(system, secret(environ, system, ACME), body, now)
    code = next(name for name in right if name.endswith("Signature"))
    other = SYSTEMS[SYSTEMS.index(system) - 1]
    match how:
        case "signed by nobody":
            return served.post(system, body, {})
        case "with another company's secret":
            return served.says(system, key=secret(environ, system, GLOBEX))
        case "for another company":
            return served.says(system, GLOBEX, key=good)
        case "with no secret":
            return served.says(system, key="")
        case "with another system's secret":
            return served.says(system, key=secret(environ, other, ACME))
        case "another system's way":
            return served.post(system, body, signed(other, good, body, now))
        case "ten minutes ago":
            return served.says(system, late=600)
        case "ten minutes from now":
            return served.says(system, late=-600)
        case "another body":
            return served.post(system, body.replace(b"data", b"Data"), right)
        case "half of the code":
            return served.post(system, body, {**right, code: right[code][:-20]})
        case "no code at all":
            return served.post(system, body, {**right, code: ""})
        case "bytes that are no text":
            return served.post(system, body, {**right, code: "\xe9\xff" * 32})
        case "a time of another script":
            return served.post(system, body, {name: value.replace("1", "\xb9") for name, value in right.items()})
        case "of a company that nobody knows":
            return served.says(system, key=good, tenant="initech-and-sons")
        case "of no company":
            return served.says(system, key=good, tenant=None)
        case "a number for the company":
            return served.says(system, key=good, tenant=12)
        case "no JSON":
            return served.says(system, key=good, body=b'{"tenant":')
        case "a list":
            return served.says(system, key=good, body=b"[1]")
        case "very deep":
            return served.says(system, key=good, body=b"[" * 50_000)
        case "nothing":
            return served.says(system, key=good, body=b"")
    raise AssertionError(how)


HOWS = (
    "signed by nobody|with another company's secret|for another company|with no secret|with another system's secret|"
    "another system's way|ten minutes ago|ten minutes from now|another body|half of the code|no code at all|"
    "bytes that are no text|a time of another script|of a company that nobody knows|of no company|"
    "a number for the company|no JSON|a list|very deep|nothing"
).split("|")


@pytest.mark.parametrize("system", SYSTEMS)
def test_whatever_is_not_genuine_has_the_same_answer(served: Gateway, system: str) -> None:
    before = served.kept()
    answers = {how: tampered(served, system, how) for how in HOWS}
    assert {status for status, _ in answers.values()} == {401}
    (body,) = {body for _, body in answers.values()}
    assert not any(word in body.lower() for word in (b"signature", b"time", b"tenant", b"secret", b"company"))
    assert served.kept() == before


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_secret_is_good_while_another_takes_its_place(served: Gateway, system: str) -> None:
    assert [served.says(system, key=key)[0] for key in (None, PREVIOUS)] == [202, 202]
    assert served.says(system, GLOBEX, key=PREVIOUS)[0] == 401


def test_a_company_that_is_not_there_for_this(served: Gateway) -> None:
    before, file = served.kept(), Path(served.environ["TEEI_COMPANIES"])
    text = file.read_text()
    assert served.says("goodera", INITECH, key="")[0] == 401, "it has no secret"
    file.write_text(text.replace("name: initech-ab", "name: initech-ab\n  systems: [benevity, goodera]"))
    assert served.says("workday", INITECH)[0] == 401, "it no longer uses the system; the file was read again"
    assert served.says("benevity", INITECH)[0] == 202
    file.write_text(text)
    assert served.says("workday", INITECH)[0] == 202
    stone = tombstone(served.settings, load_companies(served.settings).get(INITECH))
    stone.parent.mkdir(parents=True, exist_ok=True)
    stone.write_text("{}")
    assert served.says("workday", INITECH)[0] == 401, "it was shredded"
    stone.unlink()
    assert sum(served.kept().values()) == sum(before.values()) + 2


@pytest.mark.parametrize("system", SYSTEMS)
def test_five_minutes_either_way_and_no_more(system: str) -> None:
    body, now = b"{}", 1_705_307_400
    headers = {name.lower(): value for name, value in signed(system, "s3cret", body, now).items()}
    for late in (-300, 0, 300):
        assert refusal(system, headers, body, ["s3cret"], now + late) is None
    for late in (-301, 301):
        assert "seconds ago" in str(refusal(system, headers, body, ["s3cret"], now + late))


# --- what it says ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", None),
        ("id", ""),
        ("id", 7),
        ("id", "x" * 201),
        ("stream", None),
        ("stream", "directory"),
        ("stream", "benevity_donations"),
        ("updatedAt", None),
        ("updatedAt", "yesterday"),
        pytest.param(
            "updatedAt", f"{datetime.now(UTC) + timedelta(minutes=30):%Y-%m-%dT%H:%M:%SZ}", id="half an hour ahead"
        ),
    ],
)
def test_the_sender_hears_which_field_is_wrong(served: Gateway, field: str, value: Any) -> None:
    before = served.kept()
    status, body = served.says("benevity", **{field: value})
    assert status == 422
    assert field in json.loads(body)["detail"]
    assert served.kept() == before


@pytest.mark.parametrize("fields", [{"event": "ping"}, {"event": None}, {"updatedAt": "2019-12-31T12:00:00Z"}])
def test_what_concerns_no_day_of_ours_is_accepted_and_not_kept(served: Gateway, fields: dict[str, Any]) -> None:
    before = served.kept()
    assert served.says("benevity", **fields)[0] == 202
    assert served.kept() == before


def test_times_with_offsets_and_ids_of_any_letters(served: Gateway) -> None:
    deliveries = Deliveries(served.settings)

    def by_day() -> dict[date, int]:
        found = [one for one in deliveries.waiting() if (one.company, one.stream) == (GLOBEX, "benevity_volunteers")]
        return {one.day: one.number for one in found}

    assert by_day() == {}
    for at in ("2024-01-15T23:30:00.123456789-01:00", "2024-01-16T00:30:00+01:00", "2024-01-16T23:59:59.9Z"):
        for identity in (f"{PERSON} \x00 é \U0001f642", at):
            assert served.says("benevity", GLOBEX, stream="volunteers", updatedAt=at, id=identity)[0] == 202
    assert by_day() == {date(2024, 1, 15): 1, date(2024, 1, 16): 3}, "that of the odd id came three times"
    assert stat.S_IMODE(deliveries.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(deliveries.path.parent.stat().st_mode) == 0o700
    for path in served.settings.home.parent.rglob("*"):
        assert not path.is_file() or PERSON.encode() not in path.read_bytes()


def test_a_body_that_is_too_large(served: Gateway) -> None:
    before = served.kept()
    body = notice(served.environ, "benevity", note="")
    body = body[:-2] + b"x" * (65_536 - len(body)) + body[-2:]
    assert served.says("benevity", body=body)[0] == 202
    assert served.says("benevity", body=body[:-2] + b"x" + body[-2:])[0] == 413
    assert sum(served.kept().values()) == sum(before.values()) + 1


def test_a_body_that_is_cut(served: Gateway) -> None:
    before = served.kept()
    body = notice(served.environ, "benevity")
    headers = signed("benevity", secret(served.environ, "benevity", ACME), body, time.time())
    lines = [f"{name}: {value}" for name, value in {**headers, "Host": "x", "Content-Length": str(len(body))}.items()]
    with socket.create_connection(("127.0.0.1", urlsplit(served.call.url).port or 0)) as connection:
        connection.sendall("\r\n".join(["POST /v1/webhooks/benevity HTTP/1.1", *lines, "", ""]).encode() + body[:-1])
    assert served.says("benevity", body=body[:-1])[0] == 401
    assert served.kept() == before
    assert served.post("benevity", body, headers)[0] == 202  # it is good when it comes whole


@pytest.mark.parametrize(("method", "path", "status"), [("POST", "kintell", 404), ("GET", "benevity", 405)])
def test_there_is_nothing_else(served: Gateway, method: str, path: str, status: int) -> None:
    answer = served.call(method, f"/v1/webhooks/{path}")
    assert (answer.status_code, answer.json()["status"]) == (status, status)


# --- each once, and none lost ----------------------------------------------------------------------------------------


def test_a_delivery_that_comes_again_is_the_same_one(served: Gateway) -> None:
    before, body = served.kept(), notice(served.environ, "benevity", id="d-1")
    replayed = body, signed("benevity", secret(served.environ, "benevity", ACME), body, time.time())
    first = served.post("benevity", *replayed)
    assert first[0] == 202
    assert [served.post("benevity", *replayed) for _ in range(3)] == [first] * 3
    assert served.says("benevity", body=body, late=-60) == first, "sent again by a sender who had no answer"
    assert served.says("benevity", GLOBEX, id="d-1") == first, "an id is a company's"
    assert served.says("goodera", id="d-1") == first, "and a system's"
    assert sum(served.kept().values()) == sum(before.values()) + 3


@pytest.mark.long
def test_what_was_acknowledged_outlives_the_gateway(place: Home) -> None:
    body = notice(place.environ, "workday")
    replayed = body, signed("workday", secret(place.environ, "workday", ACME), body, time.time())
    with serving(place.environ) as found:
        assert found.post("workday", *replayed)[0] == 202
        assert found.says("workday")[0] == 202
        os.kill(found.call.pid, signal.SIGKILL)
    assert found.kept() == {(ACME, "workday_directory"): 2}
    with serving(place.environ) as found:
        assert found.post("workday", *replayed)[0] == 202
        deliveries = Deliveries(place.settings)
        run_key = deliveries.ask(ACME, ["workday_directory"], date.min, date.max)
        assert run_key
        deliveries.handled([run_key], time.time())
        assert found.post("workday", *replayed)[0] == 202
        assert found.says("workday")[0] == 202
    assert found.kept() == {(ACME, "workday_directory"): 3}
    assert waiting(place) == 1, "those that were handled are remembered, too"


def test_without_room_nothing_is_acknowledged(served: Gateway) -> None:
    before, folder = served.kept(), Deliveries(served.settings).path.parent
    away = folder.rename(folder.with_name("away"))
    folder.write_text("in the way")
    status, body = served.says("benevity", id="d-2")
    assert status == 503
    assert str(served.settings.home) not in body.decode()
    folder.unlink()
    away.rename(folder)
    assert served.says("benevity", id="d-2")[0] == 202
    assert sum(served.kept().values()) == sum(before.values()) + 1


def arrivals(environ: Mapping[str, str], number: int) -> None:
    """In a process of its own: ten deliveries, half of which the next process has as well."""
    deliveries = Deliveries(Settings.load(environ))
    for at in range(5 * number, 5 * number + 10):
        deliveries.add([Delivery(at.to_bytes(16), ACME, "benevity_donations", DAYS[0], time.time())])


def test_several_processes_at_once(place: Home) -> None:
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as processes:
        list(processes.map(arrivals, [place.environ] * 8, range(8)))
    (only,) = Deliveries(place.settings).waiting()
    assert only.number == 45


def test_several_processes_may_make_the_file(tmp_path: Path) -> None:
    def add(path: Path, barrier: Barrier) -> None:
        barrier.wait(20)
        with Database(path, "CREATE TABLE IF NOT EXISTS arrived (number INTEGER);").transaction() as opened:
            opened.execute("INSERT INTO arrived VALUES (1)")

    at_once = get_context("fork")
    for number in range(30):
        path, barrier = tmp_path / f"{number}.sqlite", at_once.Barrier(6)
        adding = [at_once.Process(target=add, args=(path, barrier)) for _ in range(6)]
        for one in adding:
            one.start()
        for one in adding:
            one.join(20)
        assert [one.exitcode for one in adding] == [0] * 6


def test_a_burst_is_kept_whole(served: Gateway, sandbox: Running) -> None:
    before, window = Counter(served.kept()), {"since": f"{DAYS[0]}T00:00:00Z", "until": f"{DAYS[3]}T00:00:00Z"}
    for slug in (ACME, GLOBEX):
        sent = sandbox.webhooks(served.url("goodera"), "goodera_donations", slug, 500, at_once=32, **window)
        assert sent == {"202": 500}
    for system, stream in (("benevity", "benevity_volunteers"), ("workday", "workday_directory")):
        assert sandbox.webhooks(served.url(system), stream, INITECH, 2, **window) == {"202": 2}
    burst = {(slug, "goodera_donations"): 500 for slug in (ACME, GLOBEX)}
    burst |= {(INITECH, stream): 2 for stream in ("benevity_volunteers", "workday_directory")}
    assert Counter(served.kept()) - before == burst
    days = {one.day for one in Deliveries(served.settings).waiting() if one.stream == "goodera_donations"}
    assert days == set(DAYS[:3])


@pytest.mark.parametrize(
    "order",
    [
        {"url": "http://192.0.2.1:80/v1/webhooks/goodera"},
        {"url": "https://127.0.0.1:80/v1/webhooks/goodera"},
        {"stream": "buddy_matches"},
        {"stream": "goodera_nothing"},
        {"since": "2031-01-01T00:00:00Z"},
        {"count": 0},
        {"more": 1},
    ],
)
def test_what_the_sandbox_does_not_send(sandbox: Running, order: dict[str, Any]) -> None:
    url = "http://127.0.0.1:1/v1/webhooks/goodera"
    with pytest.raises(urllib.error.HTTPError, match="422"):
        sandbox.webhooks(**({"url": url, "stream": "goodera_volunteers", "company": ACME} | order))


# --- the runs that come of them --------------------------------------------------------------------------------------


def arrive(place: Home, company: str, stream: str, *days: date, number: int = 1, at: float | None = None) -> None:
    received = time.time() if at is None else at
    made = [Delivery(os.urandom(16), company, stream, day, received) for day in days for _ in range(number)]
    Deliveries(place.settings).add(made)


def runs(place: Home, instance: dg.DagsterInstance) -> dict[str, tuple[str, str, int]]:
    """What the sensor asks for: first and last partition and number of assets, by run key."""
    sensor = build(place.environ).get_repository_def().get_sensor_def("webhook_deliveries")
    return asked(look(place, instance, sensor).run_requests)


def begin(instance: dg.DagsterInstance, asks: Mapping[str, tuple[str, str, int]], status: Any = STARTED) -> list[Any]:
    """The runs, as the daemon makes them."""
    job = dg.GraphDefinition(name="it").to_job()
    return [
        instance.create_run_for_job(
            job,
            status=status,
            tags={
                "dagster/run_key": run_key,
                "dagster/sensor_name": "webhook_deliveries",
                "teei/company": first.partition("|")[0],
            },
        )
        for run_key, (first, _, _) in asks.items()
    ]


def waiting(place: Home) -> int:
    return sum(one.number for one in Deliveries(place.settings).waiting())


def test_a_burst_makes_few_runs(place: Home, instance: dg.DagsterInstance) -> None:
    assert runs(place, instance) == {}
    for stream in ("benevity_donations", "goodera_volunteers", "workday_directory"):
        arrive(place, ACME, stream, *DAYS[:3], number=100)
    arrive(place, GLOBEX, "benevity_volunteers", DAYS[0], DAYS[1], DAYS[4], number=40)
    found = runs(place, instance)
    assert sorted(found.values()) == [
        (key(ACME, DAYS[0]), key(ACME, DAYS[2]), 6),
        (key(GLOBEX, DAYS[0]), key(GLOBEX, DAYS[1]), 2),
        (key(GLOBEX, DAYS[4]), key(GLOBEX, DAYS[4]), 2),
    ]
    assert set(instance.get_dynamic_partitions(COMPANIES.name or "")) >= {ACME, GLOBEX}
    assert waiting(place) == 1020
    begin(instance, found)
    assert runs(place, instance) == {}
    assert waiting(place) == 0


def test_what_was_not_launched_is_asked_for_again(place: Home, instance: dg.DagsterInstance) -> None:
    arrive(place, ACME, "benevity_donations", DAYS[0], number=3)
    arrive(place, GLOBEX, "benevity_donations", DAYS[0])
    first = runs(place, instance)
    assert runs(place, instance) == first, "the daemon takes the same key for the same run"
    begin(instance, first, dg.DagsterRunStatus.NOT_STARTED)
    assert runs(place, instance) == first, "and hands over one that it had only made"
    arrive(place, ACME, "benevity_donations", DAYS[0])
    again = runs(place, instance)
    assert len(again.keys() & first.keys()) == 1
    assert len(again) == 2, "a run that covers one more is another one"
    assert waiting(place) == 5


def test_one_run_at_a_time_of_a_company(place: Home, instance: dg.DagsterInstance) -> None:
    arrive(place, ACME, "benevity_donations", DAYS[0])
    first = runs(place, instance)
    (run,) = begin(instance, first)
    arrive(place, ACME, "benevity_donations", DAYS[0])
    arrive(place, GLOBEX, "benevity_donations", DAYS[0])
    second = runs(place, instance)
    assert [ends[0] for ends in second.values()] == [key(GLOBEX, DAYS[0])], "others do not wait"
    assert waiting(place) == 2
    instance.report_run_failed(run)
    third = runs(place, instance)
    assert {ends[0] for ends in third.values()} == {key(ACME, DAYS[0]), key(GLOBEX, DAYS[0])}
    assert third.keys().isdisjoint(first)


def test_what_cannot_be_fetched_waits_and_keeps_nothing_back(place: Home, instance: dg.DagsterInstance) -> None:
    tomorrow = datetime.now(UTC).date() + timedelta(1)
    del place.environ["BENEVITY_GLOBEX_INC_CLIENT_SECRET"]
    arrive(place, "initech-and-sons", "benevity_donations", DAYS[0])
    arrive(place, GLOBEX, "benevity_donations", DAYS[0])
    arrive(place, ACME, "benevity_donations", DAYS[0], tomorrow)
    (only,) = runs(place, instance).values()
    assert only == (key(ACME, DAYS[0]), key(ACME, DAYS[0]), 2)
    assert waiting(place) == 4


@pytest.mark.long
def test_a_burst_is_fetched_by_few_runs(tmp_path: Path) -> None:
    home, window = tmp_path / "home", {"since": "2024-01-15T00:00:00Z", "until": "2024-01-18T00:00:00Z"}
    wanted = {slug: [key(slug, day) for day in DAYS[:3]] for slug in (ACME, GLOBEX)}
    streams = ["benevity_donations", "goodera_volunteers"]
    with running(CONFIG) as sandbox:
        variables = environment(CONFIG, sandbox.url)
        env = prepare_home(home, variables, CONFIG.companies)
        with serving(env, variables) as found:
            for slug in wanted:
                for stream in streams:
                    url = found.url(all_streams()[stream].system)
                    assert sandbox.webhooks(url, stream, slug, 250, at_once=32, **window) == {"202": 250}
            daemon = [str(BIN / "dagster-daemon"), "run", "-w", "workspace.yaml"]
            with process(daemon, tmp_path / "daemon.log", env=env), instance_in(home) as instance:
                eventually(lambda: not any(one.waiting for one in Deliveries(found.settings).figures()), "handled", 200)
                eventually(lambda: not instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)), "all runs end")
                for slug, partitions in wanted.items():
                    for stream in streams:
                        at = statuses(instance, build(env), f"{stream}_events", partitions)
                        assert set(at.values()) == {"MATERIALIZED"}, slug
                assert len(instance.get_runs()) == len(wanted)
    assert sum(found.kept().values()) == 1000


# --- what goes -------------------------------------------------------------------------------------------------------


def test_they_go_by_their_rule(place: Home) -> None:
    now = datetime.now(UTC)
    for age in (0.5, 6.9, 7.1):
        arrive(place, ACME, "benevity_donations", DAYS[0], at=now.timestamp() - age * 86_400)
    store = open_store(place.settings)
    found = [keep(place.settings, store, now, dry_run=dry)["webhooks"] for dry in (True, False, False)]
    assert found == [1, 1, 0]
    assert waiting(place) == 2


def test_nothing_of_a_company_is_left(place: Home) -> None:
    arrive(place, ACME, "benevity_donations", *DAYS, number=50)
    arrive(place, GLOBEX, "benevity_donations", DAYS[0])
    deliveries = Deliveries(place.settings)
    assert deliveries.forget_company(ACME) == 350
    assert not any(ACME.encode() in path.read_bytes() for path in deliveries.path.parent.iterdir())
    late = Delivery(os.urandom(16), ACME, "benevity_donations", DAYS[0], 0)
    deliveries.add([late], refused=lambda company: company == ACME)
    assert [one.company for one in deliveries.figures()] == [GLOBEX]
