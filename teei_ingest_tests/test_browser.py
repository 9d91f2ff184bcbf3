"""What people do at Dagster's pages, in a real Chromium: a backfill by clicking, and what the pages say of it then.

Belongs here: what only a browser shows. What the pages ask the webserver is in `test_dagster_backfill.py`.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from teei_ingest.sandbox.server import Running, SandboxConfig, environment, running
from teei_ingest_tests.dagster_parts import days
from teei_ingest_tests.deployed import Deployment, Run, deployed, sent, stored
from teei_ingest_tests.together import eventually

pytestmark = [pytest.mark.machine, pytest.mark.timeout(600)]

CONFIG = SandboxConfig()
COMPANIES = list(CONFIG.companies)
OVER = days(date(2024, 1, 15), 2)
# Chromium's own errands need a network, and its sandbox a user other than root.
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--window-size=1500,1200"),
)
# In one step: an element that was found is gone when the page is drawn anew.
_CLICK = """const buttons = [...document.querySelectorAll("button:enabled")];
const found = buttons.find(one => one.innerText === arguments[0]);
if (found) found.click();
return Boolean(found);"""


class Page:
    """A window on the webserver of a port."""

    def __init__(self, port: int, profile: Path) -> None:
        from selenium import webdriver

        programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
        assert all(programs), "there is no Chromium: Debian has it as `chromium` and `chromium-driver`"
        options = webdriver.ChromeOptions()
        options.binary_location, driver = map(str, programs)
        for option in (*_OPTIONS, f"--user-data-dir={profile}"):
            options.add_argument(option)
        self._address = f"http://127.0.0.1:{port}"
        self._driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self._driver.quit()

    def open(self, path: str) -> None:
        self._driver.get(f"{self._address}/{path}")

    def shows(self, *texts: str) -> bool:
        """Whether it has all of these."""
        body = self._driver.execute_script("return document.body.innerText")
        return all(text in body for text in texts)

    def says(self, *texts: str) -> None:
        """Wait until it has them."""
        eventually(lambda: self.shows(*texts), f"{self._driver.current_url} says {texts}")

    def click(self, text: str, *after: str) -> None:
        """Click the first button with this text as soon as it can be, and again until the page has what comes of it."""

        def clicked() -> bool:
            return bool(self._driver.execute_script(_CLICK, text)) and (not after or self.shows(*after))

        eventually(clicked, f"a button {text!r} that leads to {after}", pause=1)

    def type(self, hint: str, text: str) -> None:
        """Type into the field whose hint begins so."""
        from selenium.webdriver.common.keys import Keys

        selector = f'input[placeholder^="{hint}"]'
        (field,) = eventually(lambda: self._driver.find_elements("css selector", selector), f"there is {selector}")
        field.send_keys(text, Keys.ENTER)


Place = tuple[Page, Deployment, Running]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A browser before a webserver, with a daemon and a sandbox behind it."""
    with running(CONFIG) as sandbox, deployed(tmp_path, environment(CONFIG, sandbox.url)) as made:
        made.start_daemon()
        eventually(lambda: set(COMPANIES) <= set(made.ask.companies()), "the registry's companies are partitions")
        with Page(made.ask.port, tmp_path / "profile") as page:
            yield page, made, sandbox


def test_a_backfill_by_clicking_and_what_the_pages_say_of_it(place: Place) -> None:
    page, deployment, sandbox = place
    page.open("locations/teei_ingest/jobs/everything")
    page.click("Materialize all…")
    page.says("Launch runs to materialize 24 assets")
    page.click("All", *COMPANIES)
    page.type("ex: ", f"[{OVER[0]}...{OVER[-1]}]")
    page.says(f"{len(COMPANIES) * len(OVER)} partitions")
    page.click("Launch backfill")

    def ended() -> list[Run]:
        runs = deployment.runs()
        return runs if len(runs) == len(COMPANIES) and all(run.ended for run in runs) else []

    done = eventually(ended, "each company has a run, and it has ended", 300)
    assert {run.status for run in done} == {"SUCCESS"}
    assert sorted(run.company for run in done) == sorted(COMPANIES)
    counts = Counter((row["stream"], row["company"], row["day"]) for row in stored(deployment).values())
    assert counts == sent(sandbox, COMPANIES, OVER)

    page.open("assets/benevity_volunteers_events?view=partitions")
    page.says(f"Materialized ({len(COMPANIES) * len(OVER)})", "Failed (0)", *COMPANIES)
    page.open("assets/benevity_volunteers_events?view=overview")
    page.says("Volunteer hours logged in Benevity", "event_id", "non-nullable", "Delta Lake", "personal-data: public")
    page.open("assets/benevity_volunteers?view=checks")
    page.says("contract", "quarantine")
    page.open("runs")
    page.says("Backfill", f"{len(COMPANIES) * len(OVER)} partitions")
