"""Attack 4 in short; `make privacy` runs it with more than 10,000 cases."""

from __future__ import annotations

from teei_ingest_tests.proof import properties


def test_what_holds_for_all_identities_and_records() -> None:
    figures = properties.prove(0.02)
    assert figures["cases"] >= 200
    assert figures["planted_faults_found"] == len(properties.PROPERTIES)
