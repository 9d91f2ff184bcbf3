"""One company's trouble is nobody else's, and one stream's is no other stream's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest

from teei_ingest.defs.build import build
from teei_ingest.sandbox.config import company_id
from teei_ingest.sandbox.server import SandboxConfig, environment, running
from teei_ingest_tests.dagster_parts import instance_in, keys, statuses
from teei_ingest_tests.extracting import Answer, Ask, serving
from teei_ingest_tests.running import Home, failures

DAY = date(2024, 1, 15)
CONFIG = SandboxConfig(records=12)
BAD, *HEALTHY = STREAMS = ("benevity_volunteers", "benevity_donations", "kintell_sessions")
VARIABLES = environment(CONFIG, "")
TENANT = VARIABLES["BENEVITY_ACME_CORP_TENANT_ID"]

Poison = Callable[[Answer], Answer]


def _broken(answer: Answer) -> Answer:
    """Half of its rows break the contract."""
    reply = json.loads(answer.body)
    for record in reply["records"][::2]:
        record["hoursLogged"] = -1
    return Answer(answer.status, json.dumps(reply).encode(), answer.headers)


def _with_status(status: int) -> Poison:
    return lambda answer: Answer(status, answer.body, answer.headers)


def _hanging(answer: Answer) -> Answer:
    return Answer(answer.status, answer.body, answer.headers, wait=threading.Event())


POISONS = {
    "bad credentials": (_with_status(401), "bad_credentials"),
    "endless 429": (_with_status(429), "rate_limited"),
    "server error": (_with_status(500), "source_down"),
    "broken contract": (_broken, "contract_broken"),
    "hanging": (_hanging, "source_down"),
}

SHORT = ("broken contract", "hanging")


class Relay:
    """Passes requests on to the sandbox, and poisons the replies of one stream for one company."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self.poison: Poison | None = None

    def __call__(self, ask: Ask) -> Answer:
        body = "&".join(f"{name}={values[0]}" for name, values in ask.form.items()).encode() or None
        headers = {name: value for name, value in ask.headers.items() if name not in ("host", "accept-encoding")}
        request = urllib.request.Request(self._upstream + ask.target, body, headers, method=ask.method)
        try:
            reply = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request)
        except urllib.error.HTTPError as error:
            reply = error
        with reply:
            answer = Answer(reply.status, reply.read(), {"X-TEEI-Sandbox": "1", "Content-Type": "application/json"})
        is_bad = ask.path.endswith("/volunteer-activities") and ask.query.get("tenant_id") == TENANT
        return self.poison(answer) if self.poison and is_bad else answer


@pytest.fixture(scope="module")
def relay() -> Iterator[tuple[Relay, str]]:
    with running(CONFIG) as sandbox:
        script = Relay(sandbox.url)
        with serving(script) as server:
            yield script, server.url


@pytest.fixture
def place(home: Callable[..., Home], relay: tuple[Relay, str]) -> Home:
    variables = environment(CONFIG, relay[1])
    relay[0].poison = None
    more = {"TEEI_MAX_RETRIES": "1", "TEEI_READ_TIMEOUT_S": "2", "TEEI_QUARANTINE_MIN": "1"}
    return home(CONFIG.companies, variables | more)


def standing(place: Home, company: str) -> dict[str, str]:
    """How the company's day stands, by asset."""
    definitions = build(place.environ)
    return {
        asset: next(iter(statuses(place.instance, definitions, asset, keys(company, [DAY])).values()))
        for stream in STREAMS
        for asset in (stream, f"{stream}_events")
    }


def expected(*failed: str) -> dict[str, str]:
    return {
        asset: "FAILED" if stream in failed else "MATERIALIZED"
        for stream in STREAMS
        for asset in (stream, f"{stream}_events")
    }


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=() if way in SHORT else pytest.mark.machine) for way in POISONS]
)
def test_one_stream_of_one_company_is_poisoned(way: str, place: Home, relay: tuple[Relay, str]) -> None:
    relay[0].poison, code = POISONS[way]
    result = place.materialize("acme-corp", DAY, DAY, STREAMS)
    assert standing(place, "acme-corp") == expected(BAD)
    (told,) = failures(result)
    assert "acme-corp|2024-01-15" in told and "`teei sync --failed --company acme-corp` tries them again" in told
    (step,) = [event for event in result.all_events if event.is_step_failure]
    failure = step.step_failure_data.user_failure_data
    reasons = failure.metadata if failure else {}
    assert [str(reason.value).partition(":")[0] for reason in reasons.values()] == [code]

    assert place.materialize("globex-inc", DAY, DAY, STREAMS).success
    assert standing(place, "globex-inc") == expected()

    relay[0].poison = None
    assert place.materialize("acme-corp", DAY, DAY, [BAD]).success
    assert standing(place, "acme-corp") == expected()


def test_a_company_whose_keys_are_lost(place: Home) -> None:
    assert place.materialize("acme-corp", DAY, DAY, STREAMS).success
    (key,) = (place.settings.home / "keys").glob("*.json")
    key.unlink()
    for company, failed in (("globex-inc", ()), ("acme-corp", STREAMS), ("initech-ab", ())):
        result = place.materialize(company, DAY, DAY, STREAMS)
        assert len(failures(result)) == len(failed)
        assert standing(place, company) == expected(*failed)


# --- five companies, each in a process of its own, and how long they take -------------------------------------------

TEEI = str(Path(sys.executable).with_name("teei"))
FIFTH, *FOUR = FIVE = ("acme-corp", "globex-inc", "initech-ab", "umbrella-oy", "hooli-as")
DAYS = [DAY + timedelta(number) for number in range(10)]


def synced(place: Home, companies: Collection[str], days: list[date] = DAYS) -> tuple[float, dict[str, int]]:
    """All at once: the seconds until the four were done, and the exit code of each."""
    range_of = ("--from", str(days[0]), "--to", str(days[-1]))
    streams = [part for stream in STREAMS for part in ("--stream", stream)]
    begun = time.monotonic()
    started = {
        company: subprocess.Popen(
            [TEEI, "sync", "--company", company, *range_of, *streams],
            env={**os.environ, **place.environ},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for company in companies
    }
    try:
        codes = {company: started[company].wait(300) for company in FOUR}
        seconds = time.monotonic() - begun
        return seconds, codes | {company: process.wait(300) for company, process in started.items()}
    finally:
        for process in started.values():
            process.kill()
            process.wait()


@pytest.mark.machine
@pytest.mark.timeout(1800)
def test_four_companies_take_no_longer_because_a_fifth_is_poisoned(home: Callable[..., Home]) -> None:
    """The sources take most of the time, as they do: what is measured is waiting for one another."""
    config = SandboxConfig(companies={slug: company_id(slug) for slug in FIVE}, records=80, latency_ms=2000)
    with running(config) as sandbox:
        relay = Relay(sandbox.url)
        with serving(relay) as server:
            more = {"TEEI_MAX_RETRIES": "1", "TEEI_READ_TIMEOUT_S": "6", "TEEI_QUARANTINE_MIN": "1"}
            place = home(config.companies, environment(config, server.url) | more)
            definitions = build(place.environ)
            assert set(synced(place, FIVE, [DAY])[1].values()) == {0}

            def lose_the_keys() -> None:
                (place.settings.home / "keys" / f"{company_id(FIFTH)}.json").unlink()

            alone, with_fifth = [], {}
            for way in (*POISONS, "keys lost"):
                relay.poison = None
                seconds, codes = synced(place, FOUR)
                assert set(codes.values()) == {0}
                alone.append(seconds)
                failed: Collection[str] = (BAD,)
                if way in POISONS:
                    relay.poison = POISONS[way][0]
                else:
                    lose_the_keys()
                    failed = STREAMS
                with_fifth[way], codes = synced(place, FIVE)
                print(f"{way}: four alone {alone[-1]:.1f} s, with the fifth {with_fifth[way]:.1f} s", flush=True)
                assert [company for company, code in codes.items() if code] == [FIFTH], way
                with instance_in(place.settings.home) as instance:
                    for company in FIVE:
                        for stream in STREAMS:
                            found = statuses(instance, definitions, f"{stream}_events", keys(company, DAYS))
                            bad = company == FIFTH and stream in failed
                            assert set(found.values()) == {"FAILED" if bad else "MATERIALIZED"}, (way, company, stream)
    # Each beside the four alone just before: the machine may be slower at other times.
    ratios = {way: round(seconds / four, 2) for (way, seconds), four in zip(with_fifth.items(), alone, strict=True)}
    assert max(ratios.values()) <= 1.2, ratios
