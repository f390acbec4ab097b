"""Where the gateway reads from several stores: what it says of each in status, metrics and responses.

Used by `refold.gateway.app` and `refold.gateway.ops`; the wiring registers the metrics.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

from refold.core.json_text import Json
from refold.gateway.consistency import Consistency
from refold.gateway.inflight import deadline_in
from refold.gateway.readiness import LAG_HEADER
from refold.store.layers.sources import Source, Sources, Terms
from refold.telemetry import redacted_text

STORE_HEADER: Final = "Refold-Store"

PROJECTOR_SILENT_SECONDS: Final = 5.0
"""A store's projector is heard every second; one that was not heard for this long does not run."""

STATES: Final = ("closed", "half_open", "open")
"""States of a circuit breaker, in the order of the numbers of its metric."""


def store_views(sources: Sources, last_sequence: int) -> list[Json]:
    """Describe each store, for the status."""
    return [_view(source, last_sequence) for source in sources.stores]


def _view(source: Source, last_sequence: int) -> Json:
    folded_sequence = min(source.sequences)
    return {
        "store": source.name,
        "breaker": source.breaker.state,
        "is_connected": source.reader is not None,
        "problem": _problem(source),
        "is_projected": _is_projected(source),
        "folded_sequence": folded_sequence,
        "lag_events": max(0, last_sequence - folded_sequence),
    }


def _problem(source: Source) -> str | None:
    """Return why it could not be opened yet or, while the breaker is not closed, the last failure."""
    if source.problem is not None or not source.breaker.is_open:
        return source.problem
    return redacted_text(source.breaker.last_failure)


def _is_projected(source: Source) -> bool:
    return source.heard_at is not None and deadline_in(0) - source.heard_at < PROJECTOR_SILENT_SECONDS


def with_store(send: Send, terms: Terms, consistency: Consistency) -> Send:
    """Return a `send` that names the store that answered and, for an older one, what the response may lack."""

    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start" and terms.store:
            headers = MutableHeaders(scope=message)
            headers[STORE_HEADER] = terms.store
            if terms.allows_older:
                headers[LAG_HEADER] = str(max(0, consistency.known_sequence - terms.sequence))
        await send(message)

    return marked


class StoreCollector(Collector):
    """Metrics of the stores, read when they are asked for."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        """Yield breaker states and their changes, answers and positions, by store."""
        stores = self._sources.stores
        state = GaugeMetricFamily(
            "refold_store_breaker_state",
            "State of the breaker: 0 closed, 1 half open, 2 open.",
            labels=["store"],
        )
        folded = GaugeMetricFamily(
            "refold_store_folded_sequence",
            "Sequence that the store is known to have committed.",
            labels=["store"],
        )
        for source in stores:
            state.add_metric([source.name], STATES.index(source.breaker.state))
            folded.add_metric([source.name], min(source.sequences))
        yield state
        yield folded
        counts = {
            ("refold_store_breaker_openings", "Times that the breaker opened."): [
                source.breaker.openings for source in stores
            ],
            ("refold_store_breaker_closings", "Times that the breaker closed again."): [
                source.breaker.closings for source in stores
            ],
            ("refold_store_reads", "Reads that the store has answered."): [
                source.answered for source in stores
            ],
        }
        for (name, about), values in counts.items():
            counter = CounterMetricFamily(name, about, labels=["store"])
            for source, value in zip(stores, values, strict=True):
                counter.add_metric([source.name], value)
            yield counter
