"""What the gateway's handlers work with, handed to them by the wiring: ports, clocks, ids, limits.

Every route module gets it by `context_of`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, cast

from prometheus_client import CollectorRegistry
from starlette.requests import Request

from refold.core.history import Point, Snapshot
from refold.core.json_text import Json
from refold.gateway.access import Access
from refold.gateway.consistency import Consistency, HeadCache
from refold.gateway.inflight import InFlightLimits
from refold.gateway.limits import BULK_REQUESTS_MAX
from refold.gateway.outcomes import EarlyOutcomes, Outcomes
from refold.gateway.readiness import Readiness
from refold.log import EventLog
from refold.store.ports import SnapshotStore
from refold.telemetry.metrics import GatewayMetrics


class Changes(Protocol):
    """A bounded part of a history: canonical bytes an item, and the `after` that continues."""

    @property
    def items(self) -> list[bytes]:
        """Return the items in the order asked."""

    @property
    def next(self) -> int | None:
        """Return what continues them; None at the end."""


class History(Protocol):
    """What the gateway needs of `refold.history`."""

    async def snapshot(self, namespace: str, document: str, point: Point) -> Snapshot:
        """Return the document at a point; raises `VersionUnknown`."""

    async def changes(
        self,
        namespace: str,
        document: str,
        *,
        after: int | None,
        limit: int,
        is_descending: bool,
        path: str | None,
    ) -> Changes:
        """Return effective changes in the order asked."""

    async def diff(self, namespace: str, document: str, from_version: int, to_version: int) -> list[Json]:
        """Return the patch between two versions."""

    async def outcome(self, namespace: str, document: str, sequence: int) -> dict[str, Json] | None:
        """Return the outcome of the document's event at a sequence."""

    async def outcome_of_id(self, namespace: str, document: str, event_id: str) -> dict[str, Json] | None:
        """Return the outcome of the first event that carried an id."""

    async def rejections(
        self, namespace: str | None, document: str | None, *, limit: int, before_sequence: int | None
    ) -> tuple[list[dict[str, Json]], int | None]:
        """Return what the fold refused, newest first, and the sequence to go on from."""


class Versions(NamedTuple):
    """The versions of program, broker and database, where they are known."""

    refold: str
    nats: str | None = None
    postgres: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the handlers work with.

    `reply_subject` is this process's own, on which its outcomes arrive. `checks` raise, by name, if what the gateway
    needs cannot be reached. `timer` counts seconds, for metrics. `wait_seconds` is how long a write waits for its
    outcome by default.
    """

    log: EventLog
    store: SnapshotStore
    history: History
    consistency: Consistency
    outcomes: Outcomes
    early_outcomes: EarlyOutcomes
    readiness: Readiness
    reply_subject: str
    checks: Mapping[str, Callable[[], Awaitable[object]]]
    versions: Versions
    metrics: GatewayMetrics
    registry: CollectorRegistry
    new_id: Callable[[], str]
    timer: Callable[[], float]
    wait_seconds: float
    head_cache: HeadCache = field(default_factory=HeadCache)
    in_flight_limits: InFlightLimits = field(default_factory=InFlightLimits)
    access: Access = field(default_factory=Access)
    bulk_slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(BULK_REQUESTS_MAX))


def context_of(request: Request) -> Context:
    """Return the context of the application that serves a request."""
    return cast("Context", request.app.context)
