"""Stores of all kinds that folded one log on their own are equal, whatever their pages and commits were."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack

import pytest

from refold.audit.stores import Listener, Side, compare_stores
from refold.log.memory import MemoryLog
from refold.projector.loop import LoopLimits
from refold.projector.replay import begin_replay
from refold.store.memory import MemoryStore
from support.projection import append
from support.stores import postgres_stores, redis_stores, sqlite_stores

EVENTS = 400


@pytest.fixture
async def log():
    log = MemoryLog("log-1")
    for number in range(EVENTS):
        state = {"n": number, "text": "x" * 300}
        event = {"put": state, "id": str(number // 2 * 2)} if number % 7 else {"patch": "none"}
        await append(log, "ab"[number % 3 == 0], event)
    await append(log, "b", {"delete": True})
    return log


@pytest.fixture(params=["postgres", "files", "redis"])
def stores(request, tmp_path):
    """The kind of a store, and what opens some of it."""
    if request.param == "postgres":
        return request.param, postgres_stores(request.getfixturevalue("postgres_dsn"))
    if request.param == "redis":
        return request.param, redis_stores(request.getfixturevalue("redis_url"))
    return request.param, sqlite_stores(tmp_path)


async def test_a_store_is_equal_to_that_in_memory(stores, log):
    kind, opening = stores
    async with AsyncExitStack() as stack:
        open_store = await stack.enter_async_context(opening)
        store = await open_store()
        memory = MemoryStore()
        for filled, pending_max in ((memory, 1_000), (store, 90)):
            limits = LoopLimits(
                cache_bytes_max=1 << 24, pending_events_max=pending_max, pending_bytes_max=1 << 24
            )
            loop = await begin_replay(log, filled, limits, range(64))
            await loop.run((await log.info()).last_sequence)
        found = []
        listener = Listener(found.append, lambda _: None)
        compared = await compare_stores(Side("memory", memory), Side(kind, store), listener)
        assert not found, json.dumps(found[:5])
        assert (compared.documents, compared.has_counts) == (3, True)
        assert compared.entries == EVENTS + 2 or kind == "redis"
        assert compared.snapshots > 0
        assert (compared.not_kept > 0) == (kind == "redis")
