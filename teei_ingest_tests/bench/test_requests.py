"""The one measurement that does not depend on the machine is kept as a test."""

from __future__ import annotations

import pytest

from teei_ingest_tests.bench.measures import request_count


@pytest.mark.long
def test_a_month_takes_hardly_more_requests_than_it_has_pages() -> None:
    figures, details = request_count(1, 1.0)
    assert figures["requests_ratio"] <= 1.05, details
