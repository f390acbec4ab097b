"""Metrics of a gateway: requests and appends, caches, and live streams.

Created by the gateway's composition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from refold.telemetry.metrics import COUNTS, NAMESPACES_MAX, SECONDS, NamespaceLabels


class GatewayMetrics:
    """Metrics of a gateway: appends and what came of them, and requests by route (the template, not the path)."""

    def __init__(self, registry: CollectorRegistry, *, namespaces_max: int = NAMESPACES_MAX) -> None:
        seconds = partial(Histogram, buckets=SECONDS, registry=registry)
        counter = partial(Counter, registry=registry)
        self._labels = NamespaceLabels(namespaces_max)
        self.append_seconds = seconds("refold_append_seconds", "Time until an append is durable.")
        self.append_batch_events = Histogram(
            "refold_append_batch_events",
            "Events that were sent to the log together.",
            buckets=COUNTS,
            registry=registry,
        )
        self.append_lost = counter(
            "refold_append_lost_total",
            "Appends that were not acknowledged, by whether they were found in the log: yes, no or unknown.",
            ["found"],
        )
        for found in ("yes", "no", "unknown"):
            self.append_lost.labels(found)
        self.strict = counter(
            "refold_strict_total", "Writes with a condition, by what came of them.", ["result"]
        )
        self.bulk_lines = counter(
            "refold_bulk_lines_total", "Lines of bulk requests, by their answer.", ["namespace", "status"]
        )
        self.outcome_wait_seconds = seconds(
            "refold_outcome_wait_seconds",
            "Time that a request waits for its outcome, by how that ended.",
            ["how"],
        )
        labels = ["route", "method", "status"]
        self.http_seconds = seconds("refold_http_request_seconds", "Time of one HTTP request.", labels)

    def count_lines(self, namespace: str, statuses: Mapping[str, int]) -> None:
        """Count answers to lines of a bulk request, by their statuses."""
        label = self._labels.of(namespace)
        for status, count in statuses.items():
            self.bulk_lines.labels(label, status).inc(count)


class CacheMetrics(Collector):
    """Metrics of caches: hits, misses and bytes of each, as its function returns them."""

    def __init__(
        self, registry: CollectorRegistry, caches: Mapping[str, Callable[[], tuple[int, int, int]]]
    ) -> None:
        self._caches = caches
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Ask every cache."""
        hits = CounterMetricFamily("refold_cache_hits", "Reads whose state a cache had.", labels=["cache"])
        misses = CounterMetricFamily(
            "refold_cache_misses", "Reads whose state a cache lacked.", labels=["cache"]
        )
        sizes = GaugeMetricFamily("refold_cache_bytes", "Memory that a cache takes.", labels=["cache"])
        for name, counts in self._caches.items():
            hit_count, miss_count, size = counts()
            hits.add_metric([name], hit_count)
            misses.add_metric([name], miss_count)
            sizes.add_metric([name], size)
        yield from (hits, misses, sizes)


class LiveMetrics:
    """Metrics of live streams: messages, snapshots and ends by reason, duration of passes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.frames = Counter("refold_live_frames_total", "Messages sent to live streams.", registry=registry)
        self.subscriptions = Gauge(
            "refold_live_subscriptions", "Live subscriptions that are open.", ["mode"], registry=registry
        )
        self.merged = Counter(
            "refold_live_merged_total", "Messages that had several changes.", registry=registry
        )
        self.snapshots = Counter(
            "refold_live_snapshots_total", "Snapshots sent, by reason.", ["why"], registry=registry
        )
        self.bye = Counter(
            "refold_live_bye_total", "Live streams ended, by reason.", ["reason"], registry=registry
        )
        self.pass_seconds = Histogram(
            "refold_live_pass_seconds",
            "Time of one pass over the subscribers of a query.",
            buckets=SECONDS,
            registry=registry,
        )
        self.gaps = Counter(
            "refold_live_gaps_total",
            "Gaps in a watched document's changes that were filled from history.",
            registry=registry,
        )
        self.audits = Counter(
            "refold_live_audits_total",
            "Comparisons of the watched documents with the store.",
            ["why"],
            registry=registry,
        )
        self.audit_behind = Counter(
            "refold_live_audit_behind_total",
            "Documents that a regular audit found behind, whose lost changes had not been noticed.",
            registry=registry,
        )
        self.behind_max = Gauge(
            "refold_live_behind_max", "Most versions that a watched document lacks.", registry=registry
        )
