"""Prometheus metrics of the services: base units, bounded labels (never a document's name).

Each service creates its own in a registry of its own; `metrics.json` describes all of them, which tests hold true.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from importlib.resources import files
from typing import Any, Final

import orjson
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from refold.core.fold import NEWEST

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_COUNTS: Final = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000)


NAMESPACES_MAX: Final = 100
"""Namespaces that one process names in labels, the first that it meets."""

OTHER_NAMESPACES: Final = "_other"
"""The label of the others; no namespace has this name."""

LOOP_PROBE_SECONDS: Final = 0.1
"""How often the delay of the event loop is measured."""


@cache
def described_metrics() -> tuple[dict[str, Any], ...]:
    """Return what `metrics.json` says of each metric: name, type, unit, labels, services and help."""
    content = orjson.loads(files(__package__).joinpath("metrics.json").read_bytes())
    return tuple(content["metrics"])


class ServiceMetrics:
    """Metrics of a service's process: its build, CPU, memory, garbage collection and the delay of its event loop."""

    def __init__(self, registry: CollectorRegistry, version: str) -> None:
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        labels = {"version": version, "fold_newest": str(NEWEST.number)}
        build = Gauge(
            "refold_build_info", "What runs: its version and newest fold.", list(labels), registry=registry
        )
        build.labels(**labels).set(1)
        self.loop_delay_seconds = Histogram(
            "refold_loop_delay_seconds",
            "How much later than asked the event loop woke a timer.",
            buckets=_SECONDS,
            registry=registry,
        )

    async def measure_loop_delay(self) -> None:
        """Measure again and again until cancelled."""
        while True:
            # uvloop's own clock stands still within a turn of the loop.
            due = time.monotonic() + LOOP_PROBE_SECONDS
            await asyncio.sleep(LOOP_PROBE_SECONDS)
            self.loop_delay_seconds.observe(max(0.0, time.monotonic() - due))


class BrokerMetrics(Collector):
    """Metrics of the connection to NATS, as its function returns them: whether there is one, and reconnects."""

    def __init__(self, registry: CollectorRegistry, connection: Callable[[], tuple[bool, int]]) -> None:
        self._connection = connection
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Ask the connection."""
        is_connected, reconnects = self._connection()
        about = "Whether the connection to NATS is open."
        yield GaugeMetricFamily("refold_broker_connected", about, value=float(is_connected))
        about = "Times that the connection to NATS was opened again."
        yield CounterMetricFamily("refold_broker_reconnects", about, value=reconnects)


class ProjectorMetrics:
    """Metrics of a projector: outcomes, conflicts, lag, size and duration of commits."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counts = partial(Histogram, buckets=_COUNTS, registry=registry)
        self.events_folded = Counter(
            "refold_events_folded_total", "Events folded, by outcome.", ["outcome"], registry=registry
        )
        self.conflicts = Counter(
            "refold_conflicts_total",
            "Events whose document had changed since their base, by what came of it.",
            ["namespace", "strategy", "status"],
            registry=registry,
        )
        self._namespaces: set[str] = set()
        gauge = partial(Gauge, registry=registry)
        self.lag_events = gauge("refold_lag_events", "Events of the log not committed yet.", ["shard"])
        self.lag_seconds = gauge(
            "refold_lag_seconds", "Age of the oldest event not committed yet.", ["shard"]
        )
        self.log_last_sequence = gauge("refold_log_last_sequence", "Sequence of the log's last event.")
        self.log_bytes = gauge("refold_log_bytes", "Bytes that the log takes.")
        self.log_limit_bytes = gauge(
            "refold_log_limit_bytes", "Bytes that the stream may take; +Inf where only the disk bounds it."
        )
        self.commit_seconds = Histogram(
            "refold_commit_seconds", "Time of one commit.", buckets=_SECONDS, registry=registry
        )
        self.commit_events = counts("refold_commit_events", "Events in one commit.")
        self.commit_documents = counts("refold_commit_documents", "Documents written by one commit.")

    def count_conflict(self, namespace: str, strategy: str, status: str) -> None:
        """Count a conflict; all custom strategies have one label, as do namespaces beyond the bound."""
        if namespace not in self._namespaces:
            if len(self._namespaces) < NAMESPACES_MAX:
                self._namespaces.add(namespace)
            else:
                namespace = OTHER_NAMESPACES
        labels = {"namespace": namespace, "strategy": strategy.partition(":")[0], "status": status}
        self.conflicts.labels(**labels).inc()


class GatewayMetrics:
    """Metrics of a gateway: duration of appends, and of requests by route (the template, not the path)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        seconds = partial(Histogram, buckets=_SECONDS, registry=registry)
        self.append_seconds = seconds("refold_append_seconds", "Time until an append is durable.")
        self.outcome_wait_seconds = seconds(
            "refold_outcome_wait_seconds",
            "Time that a request waits for its outcome, by how that ended.",
            ["how"],
        )
        labels = ["route", "method", "status"]
        self.http_seconds = seconds("refold_http_request_seconds", "Time of one HTTP request.", labels)


class SpanMetrics:
    """Metrics of traces: spans by what came of them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.spans = Counter(
            "refold_spans_total",
            "Spans sent to the collector, failed to send, dropped from a full queue, or over a commit's bound.",
            ["result"],
            registry=registry,
        )


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
            buckets=_SECONDS,
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
