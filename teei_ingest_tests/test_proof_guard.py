"""Attack 2 in short; `make privacy` runs it in full, presidio beside it."""

from __future__ import annotations

import pytest

from teei_ingest_tests.proof import guard


def test_the_guard_keeps_its_promise() -> None:
    figures = guard.prove(0.1, beside=False)
    assert figures["planted_faults_found"] >= 6
    assert figures["recall"] >= 0.99
    assert figures["false_positives"] <= 0.001 + 2 / figures["negatives"]
    assert figures["names_of_others"] <= 0.01, "docs/privacy.md says that names of others are not found"


@pytest.mark.long
def test_the_guard_beside_presidio() -> None:
    assert guard.prove(0.1)["times_presidio"] >= 20
