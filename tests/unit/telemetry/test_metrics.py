"""Metrics have base units and bounded labels."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from refold.telemetry.metrics import NAMESPACES_MAX, CacheMetrics, GatewayMetrics, ProjectorMetrics

PROMISED = {
    ProjectorMetrics: {
        "refold_events_folded": ["outcome"],
        "refold_conflicts": ["namespace", "strategy", "status"],
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
    made = vars(metrics(CollectorRegistry()))
    public = [metric for name, metric in made.items() if not name.startswith("_")]
    assert {metric._name: list(metric._labelnames) for metric in public} == PROMISED[metrics]


def test_the_labels_of_conflicts_are_bounded():
    registry = CollectorRegistry()
    metrics = ProjectorMetrics(registry)
    for number in range(2 * NAMESPACES_MAX):
        metrics.count_conflict(f"n{number}", f"custom:{number}", "rejected")
    counted = generate_latest(registry)
    assert counted.count(b"refold_conflicts_total{") == NAMESPACES_MAX + 1
    labels = b'{namespace="_other",status="rejected",strategy="custom"}'
    assert b"refold_conflicts_total%b 100.0" % labels in counted


def test_folded_events_are_counted_under_the_documented_name():
    registry = CollectorRegistry()
    ProjectorMetrics(registry).events_folded.labels(outcome="applied").inc()
    assert b'refold_events_folded_total{outcome="applied"} 1.0' in generate_latest(registry)


def test_caches_are_counted_under_the_documented_names():
    registry = CollectorRegistry()
    CacheMetrics(registry, {"states": lambda: (3, 2, 1_000)})
    shown = generate_latest(registry)
    for line in (b"hits_total{%b} 3.0", b"misses_total{%b} 2.0", b"bytes{%b} 1000.0"):
        assert b"refold_cache_" + line % b'cache="states"' in shown
