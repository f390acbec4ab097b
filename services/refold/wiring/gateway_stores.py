"""What a gateway reads: its only store, or several stores as one, each opened as soon as it can be.

Used by the gateway's composition. Of several stores, one that is not there keeps no gateway from starting.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry

from refold.core.errors import StoreError, raising_first
from refold.gateway.inflight import waiting
from refold.history.replayed import whole_history
from refold.log.jetstream import JetStreamLog
from refold.store.layers.breaker import Breaker
from refold.store.layers.fallback import FallbackReader
from refold.store.layers.measured import measured
from refold.store.layers.sources import READ_RETRIES, Source, Sources
from refold.store.ports import Reader
from refold.telemetry.metrics.store import StoreMetrics
from refold.wiring.settings import Settings
from refold.wiring.store_url import StoreUrl
from refold.wiring.stores import ConnectedStore, open_store, open_when_there, store_urls

FIRST_OPEN_SECONDS: Final = 1.0
"""Stores that are not open by then are opened while the others are read."""


@dataclass(slots=True, kw_only=True)
class GatewayStores:
    """The reader of all stores.

    `newest` reads with all that is known to be committed in any store, for what must not miss a change. `sources` are
    the stores where there are several. `opened` are those that are open, `versions` those of their servers, by name.
    """

    reader: Reader
    newest: Reader
    sources: Sources | None = None
    versions: dict[str, str | None] = field(default_factory=dict)
    opened: dict[str, ConnectedStore] = field(default_factory=dict)

    @property
    def key_problem(self) -> str | None:
        """What an operator should do about the keys of the stores that are open."""
        return next(filter(None, (store.key_problem for store in self.opened.values())), None)


@asynccontextmanager
async def opened_stores(
    settings: Settings,
    log: JetStreamLog,
    log_id: str,
    sent_sequences: Callable[[], Sequence[int]],
    registry: CollectorRegistry,
) -> AsyncIterator[GatewayStores]:
    """Open the stores, at least one of them. None is read that has lost commits, until they are folded again.

    `sent_sequences` returns what an only store must have folded, by partition.
    """
    urls = store_urls(settings)
    metrics = StoreMetrics(registry, are_several=len(urls) > 1)
    if len(urls) > 1:
        async with _several(urls, settings, log, log_id, metrics) as stores:
            yield stores
        return
    store = await open_store(urls[0], settings, log_id)
    try:
        store.refuse_stale(sent_sequences, partial(end_sequence, log))
        measured(store, *metrics.watch(urls[0].name, lambda: store.connections))
        reader = whole_history(log, store)
        versions: dict[str, str | None] = {urls[0].name: await store.server_version()}
        yield GatewayStores(reader=reader, newest=reader, versions=versions, opened={urls[0].name: store})
    finally:
        await store.close()


@asynccontextmanager
async def _several(
    urls: Sequence[StoreUrl], settings: Settings, log: JetStreamLog, log_id: str, metrics: StoreMetrics
) -> AsyncIterator[GatewayStores]:
    clock = asyncio.get_running_loop().time
    made = [
        Source(
            name=url.name,
            breaker=Breaker(timer=clock, random=random.random),
            retries=READ_RETRIES if url.retries is None else url.retries,
        )
        for url in urls
    ]
    sources = Sources(made, random=random.random, waiting=waiting)
    reader = FallbackReader(sources)
    stores = GatewayStores(reader=reader, newest=reader.strict(), sources=sources)

    async def open_one(url: StoreUrl, source: Source) -> None:
        store = await open_when_there(url, settings, log_id, when_not=partial(setattr, source, "problem"))
        stack.push_async_callback(store.close)
        stores.opened[url.name] = store
        with suppress(StoreError):
            stores.versions[url.name] = await store.server_version()
        # A store is compared with its own positions, whatever the others have.
        store.refuse_stale(lambda: source.sequences, partial(end_sequence, log))
        measured(store, *metrics.watch(url.name, lambda: store.connections))
        source.reader, source.problem = whole_history(log, store), None
        sources.wake()

    async with AsyncExitStack() as stack:
        with raising_first():
            async with asyncio.TaskGroup() as tasks:
                opening = [tasks.create_task(open_one(*each)) for each in zip(urls, made, strict=True)]
                await asyncio.wait(opening, timeout=FIRST_OPEN_SECONDS)
                await asyncio.wait(opening, return_when=asyncio.FIRST_COMPLETED)
                yield stores
                for task in opening:
                    task.cancel()


async def end_sequence(log: JetStreamLog) -> int:
    """Return the log's last sequence."""
    return (await log.info()).last_sequence
