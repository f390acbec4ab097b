"""PostgreSQL takes requests and answers nothing, as a server that is frozen: reads go on at another store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from refold.core.history import Clock, Point
from refold.store.layers import fallback
from refold.store.layers.breaker import Breaker
from refold.store.layers.fallback import FallbackReader
from refold.store.layers.sources import ALL_PARTITIONS, TERMS, Source, Sources, Terms
from refold.store.postgres.pool import Pool, read_snapshot
from support.proxy import Proxy
from support.scribe import NAMESPACE
from support.stores import begin, memory_stores, postgres_stores

COMMAND_SECONDS = 3_600.0
"""No read of PostgreSQL ends by itself."""

DEADLINE_SECONDS = 30.0


async def _history(reader: FallbackReader) -> list[Any]:
    segments = reader.segments(NAMESPACE, "d", after_version=None, is_descending=False)
    return [segment async for segment in segments]


READS = {
    "list": lambda it: it.list_documents(NAMESPACE, prefix="", where=None, limit=9, cursor=None),
    "names": lambda it: it.list_names(NAMESPACE, prefix="", limit=9, cursor=None),
    "history": _history,
    "version": lambda it: it.snapshot_at(NAMESPACE, "d", Point(Clock.version, 1)),
}


@contextmanager
def _proxied(dsn: str) -> Iterator[tuple[Proxy, str]]:
    server = urlsplit(dsn)
    with closing(Proxy(server.hostname or "", server.port or 0)) as proxy:
        yield proxy, dsn.replace(f":{server.port}/", f":{proxy.port}/")


async def test_reads_that_a_frozen_postgresql_does_not_answer_go_on_elsewhere_and_return_its_connections(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fallback, "ANSWER_SECONDS", 0.2)
    with _proxied(postgres_dsn) as (proxy, address):
        async with (
            postgres_stores(address, command_seconds=COMMAND_SECONDS) as open_first,
            memory_stores() as open_second,
        ):
            stores = first, _ = await open_first(), await open_second()
            for store in stores:
                scribe = await begin(store)
                scribe.put("d", {"n": 1})
                await store.commit(scribe.commit())
            loop = asyncio.get_running_loop()
            sources = Sources(
                [
                    Source(name=name, breaker=Breaker(timer=loop.time, random=lambda: 0.0), reader=store)
                    for name, store in zip(("first", "second"), stores, strict=True)
                ],
                random=lambda: 0.0,
            )
            reader = FallbackReader(sources)
            expected = {name: await read(reader) for name, read in READS.items()}
            sources.note_committed("second", max(sources.reached), ALL_PARTITIONS, loop.time())
            with proxy.losing_requests():
                for name, read in READS.items():
                    terms = Terms(deadline=loop.time() + DEADLINE_SECONDS)
                    TERMS.set(terms)
                    async with asyncio.timeout(DEADLINE_SECONDS):
                        assert await read(reader) == expected[name], name
                    assert terms.store == "second", name
                    assert first.connections.used == 0, name


async def test_a_read_that_is_given_up_while_postgresql_freezes_does_not_wait_for_its_rollback(
    postgres_dsn: str,
) -> None:
    async def give_up(faults: ExitStack) -> None:
        async with asyncio.timeout(None) as limit, pool.lend() as connection, read_snapshot(connection):
            faults.enter_context(proxy.losing_requests())
            limit.reschedule(0)
            await connection.fetchval("SELECT 1")

    with _proxied(postgres_dsn) as (proxy, address):
        pool = Pool(address, "public", 1, command_seconds=COMMAND_SECONDS)
        await pool.open()
        async with asyncio.timeout(DEADLINE_SECONDS):
            with ExitStack() as faults, pytest.raises(TimeoutError):
                await give_up(faults)
        await pool.close()
