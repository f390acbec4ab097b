"""Hold what the gateway's handlers need, made by the wiring: ports, clocks, ids, limits.

Every route module gets it by `context_of`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from prometheus_client import CollectorRegistry
from starlette.requests import Request

from refold.gateway.access import Access
from refold.gateway.announced import KnownStates
from refold.gateway.consistency import Consistency, HeadCache
from refold.gateway.guard import Guard, OpenGuard
from refold.gateway.inflight import InFlightLimits
from refold.gateway.live import Connections
from refold.gateway.outcomes import Outcomes
from refold.gateway.readiness import Readiness
from refold.gateway.tracing import Tracing
from refold.history import History
from refold.history.conflicts import Conflicts
from refold.live.streams import Live
from refold.log import EventLog
from refold.store.layers.sources import Sources
from refold.store.ports import Reader
from refold.telemetry.health import Health
from refold.telemetry.metrics.exposition import Exposition
from refold.telemetry.metrics.gateway import GatewayMetrics

BULK_REQUESTS_MAX: Final = 32
"""Bulk requests served at a time; more wait in a queue."""


async def _no_problems() -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the handlers need.

    `reply_subject` is this process's own, on which its outcomes arrive. `checks` raise, by name, if what the gateway
    needs cannot be reached; `problems` returns, by name, what works all the same, but needs an operator. `versions` are
    those of `refold`, `nats` and `postgres`, where known. `timer` counts seconds, for metrics. `wait_seconds` is how
    long a write waits for its outcome by default. `sources` are the stores, where there are several. `tracing` is None
    where it is off.
    """

    log: EventLog
    store: Reader
    history: History
    conflicts: Conflicts
    consistency: Consistency
    outcomes: Outcomes
    readiness: Readiness
    live: Live
    live_connections: Connections
    reply_subject: str
    checks: Mapping[str, Callable[[], Coroutine[Any, Any, object]]]
    versions: Mapping[str, str | None]
    metrics: GatewayMetrics
    registry: CollectorRegistry
    exposition: Exposition
    new_id: Callable[[], str]
    timer: Callable[[], float]
    wait_seconds: float
    sources: Sources | None = None
    problems: Callable[[], Awaitable[Mapping[str, str]]] = _no_problems
    tracing: Tracing | None = None
    health: Health = field(default_factory=Health)
    head_cache: HeadCache = field(default_factory=HeadCache)
    known_states: KnownStates = field(default_factory=KnownStates)
    in_flight_limits: InFlightLimits = field(default_factory=InFlightLimits)
    access: Access = field(default_factory=Access)
    guard: Guard = field(default_factory=OpenGuard)
    bulk_slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(BULK_REQUESTS_MAX))


def context_of(request: Request) -> Context:
    """Return the context of the application that serves a request."""
    return cast("Context", request.app.context)
