"""Metrics that every service has: its process, event loop and readiness, its connection to NATS, and its spans.

Created by the compositions of the services.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from refold.core.fold import NEWEST
from refold.telemetry.metrics import SECONDS

LOOP_PROBE_SECONDS: Final = 0.1
"""How often the delay of the event loop is measured."""

READY_PROBE_SECONDS: Final = 5.0
UNREADY_PROBE_SECONDS: Final = 1.0
"""How often a service asks itself whether it is ready, and how often while it is not."""

CGROUPS: Final = Path("/sys/fs/cgroup")
_CGROUP_BYTES_MAX: Final = 2**62
"""Version 1 of cgroups reports this or more where there is no limit."""


class ServiceMetrics:
    """Metrics of a service's process: its build, CPU, memory, garbage collection, event loop and readiness."""

    def __init__(self, registry: CollectorRegistry, version: str, *, migration: int) -> None:
        """`migration` is the newest one of PostgreSQL's tables that this build has."""
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        labels = {"version": version, "fold_newest": str(NEWEST.number), "migration": str(migration)}
        build = Gauge(
            "refold_build_info",
            "What runs: its version, and the newest fold and migration that it has.",
            list(labels),
            registry=registry,
        )
        build.labels(**labels).set(1)
        self.memory_limit_bytes = Gauge(
            "refold_process_memory_limit_bytes",
            "Memory that the process's cgroup may use; +Inf where it has no limit.",
            registry=registry,
        )
        self.memory_limit_bytes.set(memory_limit_bytes())
        self.loop_delay_seconds = Histogram(
            "refold_loop_delay_seconds",
            "How much later than asked the event loop woke a timer.",
            buckets=SECONDS,
            registry=registry,
        )
        self.ready = Gauge(
            "refold_ready", "Whether the service was ready when it last asked itself.", registry=registry
        )

    async def measure_loop_delay(self) -> None:
        """Measure again and again until cancelled."""
        while True:
            # uvloop updates its own clock once in a turn of the loop.
            due = time.monotonic() + LOOP_PROBE_SECONDS
            await asyncio.sleep(LOOP_PROBE_SECONDS)
            self.loop_delay_seconds.observe(max(0.0, time.monotonic() - due))

    async def watch_readiness(self, is_ready: Callable[[], Awaitable[bool]]) -> None:
        """Ask again and again until cancelled."""
        while True:
            found = await is_ready()
            self.ready.set(found)
            await asyncio.sleep(READY_PROBE_SECONDS if found else UNREADY_PROBE_SECONDS)


def memory_limit_bytes(root: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> float:
    """Return the least memory limit of the process's cgroup and those above it, of either version."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return math.inf
    found = math.inf
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        folder = base / path.lstrip("/")
        for each in (folder, *folder.parents):
            if each.is_relative_to(base):
                found = min(found, _limit_of(each / name))
    return found


def _limit_of(file: Path) -> float:
    try:
        text = file.read_text().strip()
    except OSError:
        # The root has no limit, and in a container the own path may lead outside.
        return math.inf
    return float(text) if text.isdecimal() and int(text) < _CGROUP_BYTES_MAX else math.inf


class BrokerMetrics(Collector):
    """Metrics of the connection to NATS, as its function returns them: whether it is open, reconnects, clock offset."""

    def __init__(
        self, registry: CollectorRegistry, connection: Callable[[], tuple[bool, int, float]]
    ) -> None:
        self._connection = connection
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Ask the connection."""
        is_connected, reconnects, clock_offset_seconds = self._connection()
        about = "Whether the connection to NATS is open."
        yield GaugeMetricFamily("refold_broker_connected", about, value=float(is_connected))
        about = "Times that the connection to NATS was opened again."
        yield CounterMetricFamily("refold_broker_reconnects", about, value=reconnects)
        about = "NATS' clock minus this machine's, when it was last measured."
        yield GaugeMetricFamily("refold_broker_clock_offset_seconds", about, value=clock_offset_seconds)


class SpanMetrics:
    """Metrics of traces: spans by what came of them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.spans = Counter(
            "refold_spans_total",
            "Spans sent to the collector, failed to send, dropped from a full queue, or over a bound.",
            ["result"],
            registry=registry,
        )
