"""What a rebuild of a test's projection uses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from refold.audit.rebuild import Parts
from refold.log import EventLog
from refold.projector.replay import replay_loop
from refold.store.layers import RowCodec
from refold.store.postgres import PostgresStore
from refold.store.postgres.audit import PostgresSchemaSwap
from support.projection import ROOMY


@asynccontextmanager
async def rebuild_parts(
    log: EventLog,
    dsn: str,
    *,
    is_compared: bool = True,
    keep_as: str | None = None,
    processes: int = 1,
    replay_in_shards: Any = None,
    codec: RowCodec | None = None,
    **levels: bool,
) -> AsyncIterator[Parts]:
    """Open the schema `rebuilt`, which is to replace `refold`."""
    names = {"live": "refold", "fresh": "rebuilt"}
    async with PostgresSchemaSwap.open(dsn, **names, keep_as=keep_as, codec=codec) as swap:
        fresh = await PostgresStore.open(dsn, schema="rebuilt", readers_max=2, codec=codec, **levels)
        try:
            yield Parts(
                log=log,
                fresh=fresh,
                swap=swap,
                is_compared=is_compared,
                open_loop=partial(replay_loop, log, fresh, ROOMY),
                processes=processes,
                replay_in_shards=replay_in_shards,
            )
        finally:
            await fresh.close()
