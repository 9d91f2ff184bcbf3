"""Attack 5 in its short form: few people, and the points at which a kill leaves most undone."""

from __future__ import annotations

import pytest

from teei_ingest_tests.proof.erasure import prove


@pytest.mark.long
def test_one_person_is_erased_whatever_happens() -> None:
    figures = prove(0.004, ["some rows", "log not cut"], ["kintell_enrollments", "buddy_checkins"])
    assert figures["remaining"] == 0
    assert figures["kills"] == figures["stale_writers"] == 2
