"""The short form of the proof that errors show nothing of a record: some of them everywhere, with planted faults."""

from __future__ import annotations

from teei_ingest import errors
from teei_ingest_tests.proof.errors import SEAMS, foreign, prove, tree


def test_errors_show_nothing_of_a_record() -> None:
    figures = prove(0.02)
    assert figures["shown"] == 0
    assert figures["places"] == len(SEAMS) and figures["raised"] >= len(SEAMS) + 3
    assert figures["faults_found"] == figures["faults_planted"] == 3


def test_every_type_of_the_tree_is_raised() -> None:
    own = {kind.__name__ for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert own <= set(tree())
    assert len(foreign()) >= 30
