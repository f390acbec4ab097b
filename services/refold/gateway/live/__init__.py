"""Live subscriptions over HTTP: server-sent events and long poll. The messages come from `refold.live`.

The routes are in `refold.gateway.live.routes`; here is the count of connections.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from refold.gateway import LIVE_CONNECTIONS_MAX, LIVE_PER_CLIENT_MAX
from refold.live import LiveFull


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveLimits:
    """How many live connections a gateway takes: in all, and of one principal at one address."""

    connections_max: int = LIVE_CONNECTIONS_MAX
    per_client_max: int = LIVE_PER_CLIENT_MAX


class Connections:
    """The live connections that are open now. One that streams holds no permit of `refold.gateway.inflight`."""

    def __init__(self, limits: LiveLimits, registry: CollectorRegistry) -> None:
        self._limits = limits
        self._count = 0
        self._by_endpoint: Counter[str] = Counter()
        self._by_client: Counter[str] = Counter()
        self.bytes_sent = 0
        registry.register(self)

    def enter(self, endpoint: str, client: str) -> Connection:
        """Count one more. Raises `LiveFull`."""
        limits = self._limits
        if self._count >= limits.connections_max:
            message = f"{limits.connections_max} live connections are open (REFOLD_LIVE_CONNECTIONS_MAX)"
            raise LiveFull(message)
        if self._by_client[client] >= limits.per_client_max:
            message = (
                f"{limits.per_client_max} live connections of this client's address are open "
                "(REFOLD_LIVE_PER_CLIENT_MAX)"
            )
            raise LiveFull(message)
        self._add(endpoint, client, 1)
        return Connection(self, endpoint, client)

    def leave(self, endpoint: str, client: str) -> None:
        """Count one less."""
        self._add(endpoint, client, -1)
        if not self._by_client[client]:
            del self._by_client[client]

    def _add(self, endpoint: str, client: str, change: int) -> None:
        self._count += change
        self._by_endpoint[endpoint] += change
        self._by_client[client] += change

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics: to count in Prometheus's own objects takes longer than to send a message's bytes."""
        opened = GaugeMetricFamily(
            "refold_live_connections", "Live connections that are open.", labels=["endpoint"]
        )
        for endpoint, count in self._by_endpoint.items():
            opened.add_metric([endpoint], count)
        yield opened
        about = "Bytes of messages sent to live connections."
        yield CounterMetricFamily("refold_live_bytes", about, value=self.bytes_sent)


class Connection:
    """One live connection, counted until it is closed."""

    __slots__ = ("_client", "_connections", "_endpoint", "_is_open")

    def __init__(self, connections: Connections, endpoint: str, client: str) -> None:
        self._connections = connections
        self._endpoint = endpoint
        self._client = client
        self._is_open = True

    def count_bytes(self, count: int) -> None:
        """Count what is sent."""
        self._connections.bytes_sent += count

    def close(self) -> None:
        """Count it no more; idempotent."""
        if self._is_open:
            self._is_open = False
            self._connections.leave(self._endpoint, self._client)
