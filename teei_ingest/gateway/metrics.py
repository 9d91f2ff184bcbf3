"""`GET /metrics` in Prometheus' format, and the counting of the gateway's own requests.

What is recorded comes anew with each scrape (`metrics/figures.py`); only requests are counted in memory, which is what
Prometheus expects of a process. Does not belong here: what the figures mean.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from starlette.types import Scope

from teei_ingest.gateway.access import Reader
from teei_ingest.gateway.problems import Problem, documented
from teei_ingest.gateway.state import Gateway
from teei_ingest.metrics.figures import Figures

disable_created_metrics()  # a series for each other one, which nobody asks for
PATH = "/metrics"
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_FAMILIES = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}


class Recorded(Collector):
    """The figures of a home as Prometheus has them, one look at a time."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._lock = threading.Lock()

    def collect(self) -> Iterable[Metric]:
        """Of now."""
        with self._lock:
            found = self._figures.now()
        for metric, values in found:
            family = _FAMILIES[metric.kind](metric.name, metric.help, labels=metric.labels)
            for labels, value in sorted(values.items()):
                family.add_metric(labels, value)
            yield family


class Requests:
    """Counts requests by method, route and status, around the whole app."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counts = Counter(
            "impact_in_gateway_requests_total",
            "Requests that the gateway has answered since it began.",
            ("method", "route", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "impact_in_gateway_request_seconds",
            "How long they took, the wait for a run included.",
            ("route",),
            buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300),
            registry=registry,
        )

    def note(self, scope: Scope, status: int, seconds: float) -> None:
        """One that has ended; a path that there is not is `-`, so that nobody can make labels up."""
        route = getattr(scope.get("route"), "path", "-")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._counts.labels(method, route, f"{status or 'none'}").inc()
        self._seconds.labels(route).observe(seconds)


def routes(gateway: Gateway) -> tuple[APIRouter, Requests]:
    """The route, and what the middleware tells of requests."""
    registry = CollectorRegistry(auto_describe=False)
    requests = Requests(registry)
    registry.register(Recorded(Figures(gateway.settings, gateway.registry.companies)))
    router = APIRouter(tags=["service"])

    @router.get(
        PATH,
        summary="Figures for Prometheus",
        response_class=PlainTextResponse,
        responses=documented(401, 403, 429),
    )
    def metrics(caller: Reader) -> Response:
        """Needs a token for all companies, since the figures are of all: `teei token create --all-companies --scope
        read`."""
        if caller.token.companies:
            raise Problem(403, "the figures are of all companies: use a token made with --all-companies")
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return router, requests
