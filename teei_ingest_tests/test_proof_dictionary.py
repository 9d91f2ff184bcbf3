"""Attack 3 in short; `make privacy` runs it with 100,000 candidates."""

from __future__ import annotations

from teei_ingest_tests.proof import dictionary


def test_nobody_is_guessed_without_the_key() -> None:
    figures = dictionary.prove(0.01)
    assert figures["matches_without_key"] == 0
    assert figures["matches_with_its_own_key"] == figures["true_candidates"] > 0
    assert figures["matches_with_anothers_key"] == 0
    assert figures["event_ids_with_its_own_key"] > 0
    assert figures["event_ids_with_anothers_key"] == 0
