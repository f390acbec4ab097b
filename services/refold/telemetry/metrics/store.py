"""Metrics of stores, as their users see them: reads, errors, connections.

Created by the compositions of gateway and projector, which time the stores by `refold.store.layers.measured`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from refold.telemetry.metrics import SECONDS
from refold.telemetry.slow import report_read

TIMED_MAX: Final = 256
"""Histograms kept at hand, by store and method."""


class StoreMetrics(Collector):
    """Metrics of one store, or of several: then they have the label `store`."""

    def __init__(self, registry: CollectorRegistry, *, are_several: bool) -> None:
        self._names = ["store"] if are_several else []
        self._connections: dict[str, Callable[[], tuple[int, int, int]]] = {}
        self.read_seconds = Histogram(
            "refold_store_read_seconds",
            "Time of one read of a store.",
            [*self._names, "method"],
            buckets=SECONDS,
            registry=registry,
        )
        self.errors = Counter(
            "refold_store_errors_total",
            "Calls of a store that have failed, by the error's code.",
            [*self._names, "method", "code"],
            registry=registry,
        )
        self._timed = lru_cache(TIMED_MAX)(self.read_seconds.labels)
        registry.register(self)

    def watch(
        self, store: str, connections: Callable[[], tuple[int, int, int]]
    ) -> tuple[Callable[[str, float, Sequence[Any]], None], Callable[[str, str], None]]:
        """Expose a store's connections: used, idle, and the limit; return what takes its reads, and its errors."""
        named = (store,) if self._names else ()
        self._connections[store] = connections
        return partial(self._read, named, store), partial(self._fail, named)

    def _read(
        self, named: tuple[str, ...], store: str, method: str, seconds: float, arguments: Sequence[Any]
    ) -> None:
        self._timed(*named, method).observe(seconds)
        report_read(seconds, store, method, arguments)

    def _fail(self, named: tuple[str, ...], method: str, code: str) -> None:
        self.errors.labels(*named, method, code).inc()

    def collect(self) -> Iterator[Metric]:
        """Ask every store that is open."""
        about = "Connections of this process for reads: used, idle, and as many as there may be."
        family = GaugeMetricFamily("refold_store_connections", about, labels=[*self._names, "state"])
        for store, connections in self._connections.items():
            named = [store] if self._names else []
            for state, count in zip(("used", "idle", "limit"), connections(), strict=True):
                family.add_metric([*named, state], count)
        yield family
