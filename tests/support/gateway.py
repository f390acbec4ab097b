"""A gateway over the memory adapters, with a projector, called through httpx without a socket.

For tests of the gateway when its ports fail; `FaultyLog` and `DeafNotices` inject faults.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count
from random import random
from typing import Any

import httpx
import orjson
from prometheus_client import CollectorRegistry

from refold.core.errors import LogUnavailable, RefoldError, StoreUnavailable
from refold.core.fold import NEWEST
from refold.core.fold.rules import Rules
from refold.gateway.app import Gateway
from refold.gateway.consistency import Consistency
from refold.gateway.context import Context
from refold.gateway.inflight import waiting
from refold.gateway.live import Connections, LiveLimits
from refold.gateway.outcomes import Outcomes
from refold.gateway.readiness import Readiness
from refold.history import History
from refold.history.conflicts import Conflicts
from refold.log import (
    COMMITTED_SUBJECT,
    PROGRESS_SUBJECT,
    Acknowledgement,
    Appended,
    LogInfo,
    Publication,
    Stale,
    Unknown,
)
from refold.log.memory import MemoryLog, MemoryNotices
from refold.store import Head
from refold.store.layers.breaker import Breaker
from refold.store.layers.fallback import FallbackReader
from refold.store.layers.sources import Source, Sources
from refold.store.memory import MemoryStore, Tables
from refold.store.ports import Reader
from refold.telemetry.metrics.exposition import Exposition
from refold.telemetry.metrics.gateway import GatewayMetrics
from support.projection import DEADLINE_SECONDS, Projecting, ports, projecting
from support.streams import MemoryFeed, live_of

REPLY_SUBJECT = "refold.reply.gateway.test"
STORES = ("first", "second")

NDJSON = "application/x-ndjson"

Fault = RefoldError | str
"""An error to raise, `lost` (stored, no acknowledgement) or `dropped` (not stored, no acknowledgement)."""


class FaultyLog(MemoryLog):
    """A log whose next appends fail one after another as `faults` says; None lets one pass.

    `before_append` is called once before the next append, `is_down` makes everything else fail.
    """

    def __init__(self, rules: Rules) -> None:
        super().__init__("log-1", rules=rules)
        self.faults: list[Fault | None] = []
        self.before_append: list[Callable[[], Any]] = []
        self.is_down = False
        self.batches: list[int] = []

    async def info(self) -> LogInfo:
        """Return the log's ends."""
        if self.is_down:
            raise LogUnavailable
        return await super().info()

    async def append(self, publication: Publication) -> Acknowledgement:
        """Append one event, or fail."""
        appended = await self.append_atomically([publication])
        return appended[0] if isinstance(appended, list) else appended

    async def append_atomically(self, publications: list[Publication]) -> list[Appended] | Stale | Unknown:
        """Append all, or fail."""
        if self.before_append:
            await self.before_append.pop(0)()
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, RefoldError):
            raise fault
        if fault == "dropped":
            return Unknown("injected")
        self.batches.append(len(publications))
        appended = await super().append_atomically(publications)
        return Unknown("injected") if fault == "lost" else appended


class DeafNotices(MemoryNotices):
    """Notices that lose every message whose subject has one of the prefixes `lost`."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: tuple[str, ...] = ()

    async def send_all(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Send messages, or lose them."""
        await super().send_all([message for message in messages if not message[0].startswith(self.lost)])


class FaultyStore(MemoryStore):
    """A store that may be unavailable to readers."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables)
        self.is_down = False
        self.known_versions: list[int | None] = []

    async def head(self, namespace: str, document: str, *, known_version: int | None = None) -> Head | None:
        """Read a document's row."""
        await self.ping()
        self.known_versions.append(known_version)
        return await super().head(namespace, document, known_version=known_version)

    async def ping(self) -> None:
        """Raise if it is unavailable."""
        if self.is_down:
            raise StoreUnavailable


@dataclass
class Twin:
    """The gateway and its ports."""

    client: httpx.AsyncClient
    context: Context
    app: Gateway
    log: FaultyLog
    store: FaultyStore
    tables: Tables
    notices: DeafNotices
    feed: MemoryFeed

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send one request; a POST is NDJSON unless its headers say otherwise."""
        if method == "POST":
            options["headers"] = {"Content-Type": NDJSON} | dict(options.get("headers", {}))
        return await self.client.request(method, path, **options)

    async def put(self, path: str, state: Any, **headers: str) -> httpx.Response:
        """Put a state; `If_Match='"1"'` is the header If-Match."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        given = {"Content-Type": "application/json"} | named
        return await self.client.put(path, content=orjson.dumps(state), headers=given)

    async def events(self) -> int:
        """Count the log's events after its genesis."""
        return (await MemoryLog.info(self.log)).last_sequence - 1

    async def appended(self, events: int) -> None:
        """Wait until the log has `events` events after its genesis."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                if await self.events() >= events:
                    return
                await asyncio.sleep(0)

    @asynccontextmanager
    async def projector(self) -> AsyncIterator[Projecting]:
        """Run the projector."""
        given = ports(self.log, MemoryStore(self.tables), self.notices)
        if self.context.sources is not None:
            given = replace(given, stores=STORES, store_name=STORES[0])
        async with projecting(given) as running:
            yield running
        await given.store.close()


@asynccontextmanager
async def twin(
    *,
    is_projecting: bool = True,
    wait_seconds: float = 5.0,
    rules: Rules = NEWEST,
    live_limits: LiveLimits = LiveLimits(),  # noqa: B008 - it is frozen
    is_hybrid: bool = False,
    **context: Any,
) -> AsyncIterator[Twin]:
    """Make a gateway over memory adapters; without a projector nothing is folded until `projector` is entered.

    A hybrid reads from two stores; the projector folds into the first.
    """
    made = await _made(wait_seconds, rules, live_limits, is_hybrid=is_hybrid, **context)
    watching = asyncio.create_task(made.context.consistency.watch())
    try:
        async with made.client:
            if is_projecting:
                async with made.projector():
                    yield made
            else:
                yield made
    finally:
        watching.cancel()


def _sources(*stores: Reader) -> Sources:
    clock = asyncio.get_running_loop().time
    made = [
        Source(name=name, breaker=Breaker(timer=clock, random=random), reader=store)
        for name, store in zip(STORES, stores, strict=True)
    ]
    return Sources(made, random=random, waiting=waiting)


async def _made(
    wait_seconds: float, rules: Rules, live_limits: LiveLimits, *, is_hybrid: bool, **given: Any
) -> Twin:
    log, notices, tables = FaultyLog(rules), DeafNotices(), Tables()
    faulty = FaultyStore(tables)
    sources = _sources(faulty, MemoryStore()) if is_hybrid else None
    store: Any = faulty if sources is None else FallbackReader(sources)
    feed = MemoryFeed()
    history, registry, numbers = History(store), CollectorRegistry(), count(1)
    consistency = Consistency(log, store, notices, sources)
    metrics = GatewayMetrics(registry)
    outcomes = Outcomes(history.outcome, consistency, metrics.outcome_wait_seconds)
    await notices.listen(REPLY_SUBJECT, outcomes.hear)
    await notices.listen(PROGRESS_SUBJECT, consistency.hear)
    await notices.listen(COMMITTED_SUBJECT, consistency.hear)
    context = Context(
        log=log,
        store=store,
        history=history,
        conflicts=Conflicts(store),
        outcomes=outcomes,
        consistency=consistency,
        readiness=Readiness(log, consistency, required_sequence=0, lag_seconds_max=5.0),
        live=live_of(feed),
        live_connections=Connections(live_limits, registry),
        reply_subject=REPLY_SUBJECT,
        checks={"nats": log.info, "postgres": store.ping},
        versions={"refold": "0.0.0", "nats": None, "postgres": None},
        metrics=metrics,
        registry=registry,
        exposition=Exposition(registry),
        new_id=lambda: f"made-{next(numbers)}",
        timer=time.perf_counter,
        wait_seconds=wait_seconds,
        sources=sources,
        **given,
    )
    app = Gateway(context)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    client = httpx.AsyncClient(transport=transport, base_url="http://localhost")
    return Twin(client, context, app, log, faulty, tables, notices, feed)
