"""Metrics have base units and bounded labels."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from refold.telemetry.metrics import GatewayMetrics, ProjectorMetrics

PROMISED = {
    ProjectorMetrics: {
        "refold_events_folded": ["outcome"],
        "refold_lag_events": ["partition"],
        "refold_lag_seconds": ["partition"],
        "refold_commit_seconds": [],
        "refold_commit_events": [],
        "refold_commit_documents": [],
    },
    GatewayMetrics: {
        "refold_append_seconds": [],
        "refold_http_request_seconds": ["route", "method", "status"],
    },
}


@pytest.mark.parametrize("metrics", PROMISED)
def test_every_documented_metric_exists_with_its_labels(metrics):
    made = vars(metrics(CollectorRegistry())).values()
    assert {metric._name: list(metric._labelnames) for metric in made} == PROMISED[metrics]


def test_folded_events_are_counted_under_the_documented_name():
    registry = CollectorRegistry()
    ProjectorMetrics(registry).events_folded.labels(outcome="applied").inc()
    assert b'refold_events_folded_total{outcome="applied"} 1.0' in generate_latest(registry)
