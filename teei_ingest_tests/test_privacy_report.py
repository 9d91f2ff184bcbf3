"""The officer's report: its figures against a count by hand, nobody named in it, and a page that stands alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from teei_ingest.cli.app import run
from teei_ingest.companies import load_companies
from teei_ingest.landing.suppression import Suppressions
from teei_ingest.privacy import report
from teei_ingest.privacy.audit_log import AuditLog
from teei_ingest.privacy.policies import remember
from teei_ingest.redact.policy import policy_for
from teei_ingest.settings import Settings
from teei_ingest.vault.keys import PURPOSES, KeyRing
from teei_ingest_tests.feeding import ACME, Answering, Record, answering, lists, record, stored, worker
from teei_ingest_tests.running import Home

DAY = date(2024, 1, 15)
NOW = datetime(2024, 2, 1, 12, tzinfo=UTC)
NAME = '<script>alert("x")</script> & Søn'
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
WORKDAY = "urn:ietf:params:scim:schemas:extension:workday:2.0:User"
# Department and first day of work of each person: 6 in one month, 4 in another, 1 alone; 2024-01-31 is January as well.
PEOPLE = [("Legal", f"2024-01-{day:02}") for day in (1, 9, 17, 25, 30, 31)]
PEOPLE += [("Legal", "2023-05-02")] * 2 + [("R&D", "2023-05-03")] * 2 + [("R&D", "2020-02-29")]


def person(number: int, department: str, hired: str) -> Record:
    changes = {
        "userName": f"secret.person{number}@acme.example",
        "emails": [],
        "displayName": f"Secret Person{number}",
        "name": {"givenName": "Secret", "familyName": f"Person{number}"},
        ENTERPRISE: {"department": department, "employeeNumber": f"E-{number}"},
        WORKDAY: {"hireDate": hired},
    }
    return record("workday_directory", f"wd-{number}", f"{DAY}T08:00:00Z") | changes


@pytest.fixture
def server() -> Iterator[Answering]:
    people = [person(number, *one) for number, one in enumerate(PEOPLE)]
    with answering(lists({"workday_directory": people})) as served:
        yield served


@pytest.fixture
def empty(home: Callable[..., Home], server: Answering) -> Home:
    place = home({ACME.slug: ACME.id}, server.environment())
    file = Path(place.environ["TEEI_COMPANIES"])
    file.write_text(file.read_text().replace("name: acme-corp", f"name: {json.dumps(NAME)}"))
    return place


@pytest.fixture
def place(empty: Home) -> Home:
    assert [str(one.error) for one in worker(empty, "workday_directory").both([DAY]).bad] == []
    assert len(stored(empty, "workday_directory")) == len(PEOPLE)
    return empty


def gathered(place: Home, **environ: str) -> dict[str, Any]:
    settings = Settings.load({**place.environ, **environ})
    companies = load_companies(settings)
    found = report.gather(settings, companies, companies.get(ACME.slug), NOW)
    assert json.loads(json.dumps(found)) == found
    return found


def group(found: dict[str, Any], *columns: str) -> dict[str, Any]:
    (one,) = (one for one in found["anonymity"] if one["columns"] == list(columns))
    return dict(one)


def test_k_anonymity_is_what_a_count_by_hand_gives(place: Home) -> None:
    found = gathered(place)
    months = Counter(hired[:7] for _, hired in PEOPLE)
    assert sorted(months.values()) == [1, 4, 6]
    assert group(found, "hire_date") == {
        "name": "hire_date",
        "columns": ["hire_date"],
        "groups": 3,
        "smallest": 1,
        "people": 11,
        "share_in_small_groups": 5 / 11,
    }
    assert group(found, "department")["share_in_small_groups"] == 3 / 11
    together = found["anonymity"][-1]
    assert {"hire_date", "termination_date", "department", "cost_center"} <= set(together["columns"])
    assert "job_title" not in together["columns"]  # removed by default
    assert (together["groups"], together["share_in_small_groups"]) == (4, 5 / 11)


def test_what_the_policy_removes_is_not_measured(place: Home) -> None:
    file = Path(place.environ["TEEI_COMPANIES"])
    file.write_text(file.read_text() + "  privacy: {hireDate: remove, terminationDate: mask, department: remove}\n")
    found = gathered(place)
    measured = {column for one in found["anonymity"] for column in one["columns"]}
    assert "cost_center" in measured
    assert not {"hire_date", "termination_date", "department"} & measured
    assert found["policy"]["set"] == {"department": "remove", "hireDate": "remove", "terminationDate": "mask"}
    assert {row["column"] for row in found["fields"] if row["set_by_company"]} == {
        "hire_date",
        "termination_date",
        "department",
    }


def test_streams_keys_and_files(place: Home) -> None:
    found = gathered(place)
    (directory,) = (one for one in found["streams"] if one["stream"] == "workday_directory")
    assert (directory["rows"], directory["people"]) == (11, 11)
    assert directory["first_day"] == directory["last_day"] == "2024-01-15"
    assert sum(one["rows"] for one in found["streams"]) == 11
    assert [key["id"] for key in found["keys"]] == [
        "pseudonym-1",
        "event_id-1",
        "seal-1",
        "quarantine-1",
        "suppression-1",
    ]
    ring = KeyRing.open(place.settings, load_companies(place.settings).get(ACME.slug))
    text = report.render(found) + json.dumps(found)
    for key in (key for purpose in PURPOSES for key in ring.keys(purpose).values()):
        assert key.hex() not in text


def test_acts_and_erasures_by_month(place: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    company = load_companies(place.settings).get(ACME.slug)
    log = AuditLog(place.settings)
    for what in ("erase.started", "erase.done", "erase.started", "erase.done", "keys.rotated"):
        log.append(what, company=ACME.slug, details={"version": 2} if what == "keys.rotated" else {})
    log.append("erase.done", company="globex-inc")
    ring = KeyRing.open(place.settings, company)
    suppressions = Suppressions(place.settings)
    done = suppressions.add(ring, ACME.slug, {"t1_" + "a" * 32})
    suppressions.finish(ring, ACME.slug, done)
    suppressions.add(ring, ACME.slug, {"t1_" + "b" * 32})
    remember(place.settings, ACME.slug, policy_for(ACME.slug, company.privacy))

    found = gathered(place)
    assert found["erasures"] == {f"{datetime.now(UTC):%Y-%m}": 2}
    assert found["suppressed"] == {"people": 2, "pending": 1}
    assert {act["what"]: act["times"] for act in found["acts"]} == {
        "erase.done": 2,
        "erase.started": 2,
        "keys.rotated": 1,
    }
    assert found["audit"]["entries"] == 6
    assert [one["version"] for one in found["policy"]["history"]] == [found["policy"]["version"]]
    page = report.render(found)
    assert "t1_" not in page and "t1_" not in json.dumps(found)

    log.path.write_bytes(log.path.read_bytes().replace(b"erase.done", b"erase.gone", 1))
    found = gathered(place)
    assert found["audit"]["problem"]
    assert any("audit log is not whole" in reason for reason in found["missing"])


def test_no_person_is_named(place: Home) -> None:
    found = gathered(place)
    text = (report.render(found) + json.dumps(found, ensure_ascii=False)).lower()
    for secret in ("secret", "person0", "wd-0", "acme.example"):
        assert secret not in text
    for row in stored(place, "workday_directory"):
        for name in ("user_id", "source_id", "email", "event_id"):
            assert row[name] is None or row[name] not in text


def test_an_empty_home_says_what_is_missing(empty: Home) -> None:
    found = gathered(empty)
    text = " ".join(found["missing"])
    for sign in ("No event is stored", "keys"):
        assert sign in text
    assert all(one["share_in_small_groups"] is None for one in found["anonymity"])
    page = report.render(found)
    assert "The directory is empty" in page and "No erasure was done" in page
    assert "Nobody is on the suppression list" in page


def test_proofs_are_shown_where_there_are_some(place: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert report.read_proofs(tmp_path) == []
    (tmp_path / "docs").mkdir()
    figures = {"made": "2024-02-01", "canary": {"canaries": 5120, "found": 0, "time": {"search_s": 1.5}}}
    (tmp_path / "docs" / "privacy-proof.json").write_text(json.dumps(figures))
    proofs = report.read_proofs(tmp_path)
    assert proofs == [
        {"name": "run", "figures": {"made": "2024-02-01"}},
        {"name": "canary", "figures": {"canaries": 5120, "found": 0, "time: search_s": 1.5}},
    ]
    monkeypatch.setattr(report, "project_root", lambda: tmp_path)
    found = gathered(place)
    assert not [reason for reason in found["missing"] if "proof" in reason]
    assert "5,120" in report.render(found)


class Page(HTMLParser):
    """Elements of a page, as far as a reader's or a browser's help depends on them."""

    VOID = ("meta", "br", "link", "img", "hr", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[int] = []
        self.seen: Counter[str] = Counter()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.seen[tag] += 1
        self.attributes |= given.keys()
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("h1", "h2", "h3"):
            self.headings.append(int(tag[1]))
        if tag == "th":
            assert given.get("scope") in ("row", "col")
        if "id" in given:
            self.ids.append(str(given["id"]))
        if "href" in given:
            self.links.append(str(given["href"]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_can_be_read_by_everybody(place: Home) -> None:
    text = report.render(gathered(place))
    page = Page(text)
    assert page.open == []
    assert not page.seen.keys() & {"script", "img", "link", "iframe", "object", "form"}
    assert not page.attributes & {"src", "srcset", "onload", "onclick", "action"}
    assert "url(" not in text and "@import" not in text
    assert '<html lang="en">' in text
    assert page.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    assert NAME not in text
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt; &amp; Søn" in text
    assert "anonymous" in text and "pseudonymous" in text.lower()


def test_the_command(
    place: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in place.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("COLUMNS", raising=False)
    out = tmp_path / "deep" / "record.html"
    assert run(["privacy", "report", "--company", ACME.slug, "--out", str(out)]) == 0
    assert out.stat().st_mode & 0o777 == 0o600
    assert str(out) in capsys.readouterr().out.replace("\n", "")
    assert run(["privacy", "report", "--company", ACME.slug, "--out", "-"]) == 0
    assert capsys.readouterr().out.startswith("<!doctype html>")
    assert run(["privacy", "report", "--company", ACME.slug]) == 0
    assert (place.settings.home / "reports" / "acme-corp.html").is_file()
    capsys.readouterr()
    assert run(["privacy", "report", "--company", ACME.slug, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["company"] == {"slug": ACME.slug, "name": NAME, "id": ACME.id}
    assert run(["privacy", "report", "--company", "nobody"]) == 2
    assert run(["privacy", "report", "--company", ACME.slug, "--out", "/proc/record.html"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_retention_by_command(
    place: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {**place.environ, "TEEI_EVENTS_TTL_D": "30"}.items():
        monkeypatch.setenv(name, value)
    assert run(["privacy", "retention", "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"dry_run": True, "removed": told["removed"]} and told["removed"]["events"] == 11
    assert len(stored(place, "workday_directory")) == 11
    assert run(["privacy", "retention", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["removed"]["events"] == 11
    assert stored(place, "workday_directory") == []
    monkeypatch.delenv("COLUMNS", raising=False)
    assert run(["privacy", "retention"]) == 0
    assert "TEEI_EVENTS_TTL_D" in capsys.readouterr().out
