"""Attack 6 in short; `make privacy` runs it with every bit and a million chunks."""

from __future__ import annotations

from teei_ingest_tests.proof import sealing


def test_no_forged_file_is_read_and_no_nonce_comes_twice() -> None:
    figures = sealing.prove(0.01)
    assert figures["chunks"] >= 10_000
    assert figures["nonces_used_twice"] == 0
    assert figures["planted_faults_found"] == 3
    assert figures["truncations_refused"] > 100
