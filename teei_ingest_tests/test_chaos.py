"""The short form of `make chaos`, and that it notices a product which is broken on purpose."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

# What is patched, and the figure that must not be zero then.
_BROKEN = {
    "lost": """
from teei_ingest.extract.read import Reading
real = Reading._read
def short(self, size):
    for page in real(self, size):
        if not page.more:
            return
        yield page
Reading._read = short
""",
    "doubled": """
import pyarrow as pa
from teei_ingest.store.tables import Store
real = Store.replace
def twice(self, contract, stream, company, days, rows):
    def again():
        table = rows().read_all()
        return pa.concat_tables([table, table]).sort_by("day").to_reader()
    return real(self, contract, stream, company, days, again)
Store.replace = twice
""",
    "invented": """
from teei_ingest.sandbox.app import Sandbox
real = Sandbox.records
def other(self, *args):
    found = real(self, *args)
    return found[1:]
Sandbox.records = other
""",
    "wrongly failed": """
from teei_ingest.extract.http import _Patience
_Patience.stop = lambda self, state: True
""",
    "leaked": """
import logging
from teei_ingest.mapping.decode import Pages
real = Pages.__call__
def telling(self, body):
    logging.getLogger("teei_ingest").warning("%s", body.decode(errors="replace"))
    return real(self, body)
Pages.__call__ = telling
""",
}
_PLAY = """
import sys
from teei_ingest_tests.chaos.__main__ import main
sys.argv = ["chaos", "--workers", "0", {options}]
sys.exit(main())
"""


def play(broken: str = "", **options: int) -> tuple[int, str]:
    """Exit code and output of `make chaos` in one process of its own."""
    given = ", ".join(f'"--{name}", "{value}"' for name, value in options.items())
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("TEEI_", "DAGSTER_"))}
    done = subprocess.run(
        [sys.executable, "-c", broken + _PLAY.format(options=given)],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.timeout(900)
def test_three_hundred_cases_are_right() -> None:
    code, output = play(seed=1, cases=301)
    assert "\ncases 301, lost 0, doubled 0, invented 0, wrongly failed 0, leaked 0" in output, output
    assert code == 0


@pytest.mark.machine
@pytest.mark.parametrize("figure", _BROKEN)
def test_a_broken_product_is_noticed(figure: str) -> None:
    code, output = play(_BROKEN[figure], seed=1, cases=28)
    assert code == 1, output
    assert int(re.findall(rf"{figure} (\d+)", output)[-1]) > 0, output
    assert "again: python -m teei_ingest_tests.chaos --seed 1 --only " in output


@pytest.mark.machine
def test_a_case_that_goes_wrong_is_made_smaller() -> None:
    """Two faults, of which none is to blame, days, small pages: nothing of it is needed."""
    code, output = play(_BROKEN["lost"], seed=3, only=12)
    assert code == 1, output
    (smallest,) = re.findall(r"^smallest: (.*)", output, re.MULTILINE)
    assert smallest.startswith("upskilling_enrollments of company-1, "), output
    first, last = re.findall(r"\d{4}-\d\d-\d\d", smallest)
    assert first == last and smallest.count("'fault'") == 1 and "pages of 20" in smallest, output
