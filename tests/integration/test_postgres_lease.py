"""A shard's lease has one holder, which loses it with its connection; the fence does not depend on the lock."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import asyncpg
import pytest

from refold.core.errors import FenceLost, LogUnavailable, StoreDamaged, StoreUnavailable
from support.scribe import NAMESPACE
from support.services import until
from support.stores import LOG_ID, begin, postgres_stores

HOLDERS = """
SELECT pid FROM pg_locks
WHERE locktype = 'advisory' AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

ALL_OTHERS = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
WORKS = "SELECT true FROM pg_stat_activity WHERE pid = $1 AND state = 'active' AND query LIKE '%pg_sleep%'"


@pytest.fixture
async def open_store(postgres_dsn):
    async with postgres_stores(postgres_dsn) as opener:
        yield opener


async def kill_holder(aside):
    """End the holder's connection on the server, and wait until it is gone."""
    [row] = await aside.fetch(HOLDERS)
    await aside.execute("SELECT pg_terminate_backend($1, 10000)", row["pid"])


async def test_a_holder_with_a_lost_connection_has_lost_the_lease(open_store, aside):
    store, rival = await open_store(), await open_store()
    scribe = await begin(store)
    await rival.bind(LOG_ID)
    scribe.put("a", 1)
    commit = scribe.commit()
    await kill_holder(aside)
    assert await rival.acquire_lease()
    with pytest.raises(StoreUnavailable):
        await store.commit(commit)
    with pytest.raises(FenceLost):
        await store.commit(commit)
    assert not await store.acquire_lease()
    assert await store.head(NAMESPACE, "a") is None
    await rival.commit(commit)


async def test_acquiring_the_lease_again_does_not_pass_the_fence(open_store, aside):
    store, rival = await open_store(), await open_store()
    scribe = await begin(store)
    scribe.put("a", "mine")
    stale = scribe.commit()
    await kill_holder(aside)
    rivals = await begin(rival)
    rivals.put("a", "theirs")
    await rival.commit(rivals.commit())
    await rival.close()
    assert await store.acquire_lease()
    with pytest.raises(FenceLost):
        await store.commit(stale)
    assert (await store.head(NAMESPACE, "a")).snapshot.state == b'"theirs"'


async def test_the_fence_accepts_one_of_two_concurrent_commits_without_a_lock(open_store, aside):
    """With two commits under the same checkpoint, one is written and the other raises without a change."""
    store, rival = await open_store(), await open_store()
    scribe = await begin(store)
    scribe.put("a", 1)
    commit = scribe.commit()
    rival._lease._key += 1
    assert await rival.acquire_lease()
    results = await asyncio.gather(store.commit(commit), rival.commit(commit), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["FenceLost", "str"]
    assert [document.events for document in await store.load([(NAMESPACE, "a")])] == [1]


async def test_reads_continue_without_the_lease(open_store, aside):
    store, reader = await open_store(), await open_store()
    scribe = await begin(store)
    scribe.put("a", 1)
    await store.commit(scribe.commit())
    await kill_holder(aside)
    assert (await store.head(NAMESPACE, "a")).snapshot.state == b"1"
    assert await reader.bind(LOG_ID) == await store.checkpoints()


async def test_renewing_the_lease_detects_a_lost_connection(open_store, aside):
    store, rival = await open_store(), await open_store()
    await begin(store)
    assert await store.acquire_lease()
    await kill_holder(aside)
    assert await rival.acquire_lease()
    assert not await store.acquire_lease()


async def test_a_database_that_refuses_connections_is_reported_and_recovered_from(
    open_store, postgres_dsn, postgres_server
):
    store = await open_store()
    name = postgres_dsn.rpartition("/")[2]
    outside = await asyncpg.connect(postgres_server.dsn)
    try:
        await outside.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await outside.fetch(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = $1", name
        )
        for ask in (store.ping, store.acquire_lease, store.checkpoints):
            with pytest.raises(StoreUnavailable):
                await ask()
        await outside.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    finally:
        await outside.close()
    await store.ping()
    assert await store.acquire_lease()


async def test_closing_twice_is_harmless(open_store):
    store = await open_store()
    await store.acquire_lease()
    await store.close()
    await store.close()


async def test_a_holder_that_executes_a_statement_is_not_silent(open_store, aside):
    store, rival = await open_store(), await open_store(lease_seconds=0.0)
    await begin(store)
    holder = store._lease._connection
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(holder.execute("SELECT pg_sleep(0.5)"))
        await until(lambda: aside.fetchval(WORKS, holder.get_server_pid()))
        assert not await rival.acquire_lease()
    assert await store.acquire_lease()


@pytest.mark.parametrize("place", ["idle", "idle in transaction", "active"])
async def test_a_holder_that_stops_anywhere_is_silent(open_store, place):
    """Like a stopped process, its connection is open but sends nothing."""
    store, rival = await open_store(), await open_store(lease_seconds=0.1)
    await begin(store)
    holder = store._lease._connection
    if place == "idle in transaction":
        await holder.execute("BEGIN")
    copying = asyncio.create_task(_half_a_copy(holder)) if place == "active" else None
    await until(rival.acquire_lease)
    if copying is not None:
        copying.cancel()
        await asyncio.wait({copying})
    assert not await _owns(store)


async def test_the_takeover_delay_doubles_after_each_lost_lease(open_store, aside):
    store, rival = await open_store(lease_seconds=3.0), await open_store()
    await begin(store)
    await kill_holder(aside)
    assert await rival.acquire_lease()
    assert not await _owns(store)
    assert store._lease._takeover_seconds == 6.0
    await rival.close()
    assert await store.acquire_lease()
    assert store._lease._takeover_seconds == 3.0


async def test_a_database_that_has_lost_announced_commits_is_not_read_until_they_are_folded_again(
    open_store, aside
):
    """A commit was announced that the database no longer has, as after a crash."""
    store, reader = await open_store(), await open_store()
    scribe = await begin(store)
    scribe.put("a", 1)
    await store.commit(scribe.commit())
    reader.refuse_stale(lambda: [scribe.sequence] * 64)
    assert (await reader.head(NAMESPACE, "a")).snapshot.state == b"1"
    scribe.put("a", 2)
    await aside.fetch(ALL_OTHERS)
    for ask in (reader.checkpoints, reader.ping, lambda: reader.head(NAMESPACE, "a")):
        with pytest.raises(StoreUnavailable):
            await ask()
    assert await _owns(store)
    await store.commit(scribe.commit())
    assert (await reader.head(NAMESPACE, "a")).snapshot.state == b"2"


async def test_once_every_connection_is_lost_a_reader_waits_for_the_end_of_the_log(open_store, aside):
    """A commit may have been read before it was announced: then only the log bounds it."""
    store, reader = await open_store(), await open_store()
    scribe = await begin(store)
    asked = []

    async def end_sequence():
        asked.append(scribe.sequence)
        return scribe.sequence

    reader.refuse_stale(lambda: [0] * 64, end_sequence)
    scribe.put("a", 1)
    assert await reader.head(NAMESPACE, "a") is None
    assert asked == []
    await aside.fetch(ALL_OTHERS)
    for ask in (reader.checkpoints, reader.ping, lambda: reader.head(NAMESPACE, "a")):
        with pytest.raises(StoreUnavailable):
            await ask()
    end = scribe.sequence
    assert await _owns(store)
    await store.commit(scribe.commit())
    # Events appended meanwhile are not waited for: under load there are always more.
    scribe.put("a", 2)
    assert (await reader.head(NAMESPACE, "a")).snapshot.state == b"1"
    assert asked == [end]


async def test_a_projection_made_anew_beneath_a_reader_is_not_read_before_it_has_the_end_of_the_log(
    open_store, aside
):
    """The reader's connections live on; who finds no tables makes them, and folds from the log's start."""
    store, reader = await open_store(), await open_store()
    scribe = await begin(store)
    scribe.put("a", 1)

    async def end_sequence():
        return scribe.sequence

    reader.refuse_stale(lambda: [0] * 64, end_sequence)
    assert await reader.head(NAMESPACE, "a") is None
    await aside.execute("DROP SCHEMA refold CASCADE")
    with pytest.raises(StoreDamaged):
        await reader.head(NAMESPACE, "a")
    await store.close()
    again = await open_store()
    await begin(again)
    for ask in (reader.checkpoints, reader.ping, lambda: reader.head(NAMESPACE, "a")):
        with pytest.raises(StoreUnavailable):
            await ask()
    await again.commit(scribe.commit())
    assert (await reader.head(NAMESPACE, "a")).snapshot.state == b"1"


async def test_a_reader_that_cannot_read_the_end_of_the_log_does_not_read(open_store, aside):
    store, reader = await open_store(), await open_store()
    await begin(store)

    async def end_sequence():
        raise LogUnavailable

    reader.refuse_stale(lambda: [0] * 64, end_sequence)
    await reader.ping()
    await aside.fetch(ALL_OTHERS)
    with pytest.raises(StoreUnavailable, match="the log's end is not known"):
        await reader.ping()


async def _owns(store):
    """Read until the lost connection has been noticed."""
    with suppress(StoreUnavailable):
        return await store.acquire_lease()
    return await store.acquire_lease()


async def _half_a_copy(connection):
    async def lines():
        yield b"PGCOPY"
        await asyncio.Event().wait()

    await connection.copy_to_table("changed_documents", source=lines(), format="binary")
