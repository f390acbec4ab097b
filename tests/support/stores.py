"""Both adapters of the SnapshotStore port, opened alike: as many stores as wanted over the same tables."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from refold.core.outcome import Entry
from refold.store.memory import MemoryStore, Tables
from refold.store.ports import SnapshotStore
from refold.store.postgres import PostgresStore
from support.scribe import NAMESPACE, Scribe

LOG_ID = "log-1"

HOSTILE = {
    '"': "'; DROP TABLE documents; --",
    "\u0000": "a\u0000b",
    "𝄞\\u0000": ["\u2028", "\ud7ff", "\U0010ffff"],
}
"""A state of all that SQL, text types and JSON escapes are known to stumble over."""

OpenStore = Callable[..., Awaitable[SnapshotStore]]


@asynccontextmanager
async def memory_stores() -> AsyncIterator[OpenStore]:
    """Yield what opens a memory store; all stand over the same tables."""
    tables = Tables()

    async def open_store(**options: Any) -> SnapshotStore:
        return MemoryStore(tables, **options)

    yield open_store


@asynccontextmanager
async def postgres_stores(dsn: str, **options: Any) -> AsyncIterator[OpenStore]:
    """Yield what opens a store on this database; all are closed in the end."""
    async with AsyncExitStack() as opened:

        async def open_store(**more: Any) -> SnapshotStore:
            store = await PostgresStore.open(dsn, readers_max=2, **options, **more)
            opened.push_async_callback(store.close)
            return store

        yield open_store


async def begin(store: SnapshotStore) -> Scribe:
    """Bind and own a store, and go on from its checkpoints."""
    checkpoints = await store.bind(LOG_ID)
    assert await store.acquire_lease()
    return Scribe(checkpoints)


async def all_entries(store: SnapshotStore, document: str, **asked: Any) -> list[list[Entry]]:
    """Return a document's entries, run by run, in the order asked."""
    runs = store.segments(NAMESPACE, document, **({"after_version": None, "is_descending": False} | asked))
    return [run.entries async for run in runs]
