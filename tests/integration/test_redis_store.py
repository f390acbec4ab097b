"""The Redis store against servers that refuse, are full, are emptied, are killed or hold damaged values."""

from __future__ import annotations

import asyncio
import random
import re
from contextlib import suppress

import pytest

from acceptance.redis_damage import drill
from refold.core.errors import FenceLost, StoreDamaged, StoreDiffers, StoreFull, StoreUnavailable
from refold.core.fold import STATE_BYTES_MAX
from refold.core.history import Clock, Point
from refold.store.redis import RedisStore
from refold.store.redis.schema import bound_log, put_aside
from support.redis_servers import redis_binary, running_redis, valkey_binary
from support.scribe import NAMESPACE
from support.stores import LOG_ID, begin, redis_stores


@pytest.fixture
def own_server():
    """Start a server for one test."""
    with running_redis(valkey_binary()) as server:
        yield server


@pytest.fixture
async def store(redis_url):
    """Open a store."""
    async with redis_stores(redis_url) as open_store:
        yield await open_store()


async def test_a_server_of_another_kind_is_named_with_its_version(redis_url, valkey_url):
    for url, expected in ((redis_url, r"\d+\.\d+\.\d+"), (valkey_url, r"valkey \d+\.\d+\.\d+")):
        async with redis_stores(url) as open_store:
            assert re.fullmatch(expected, await (await open_store()).server_version())


@pytest.mark.parametrize(
    ("setting", "cause"),
    [
        (("--cluster-enabled", "yes"), "cluster mode"),
        (("--maxmemory-policy", "allkeys-lru"), "maxmemory-policy"),
        (("--replicaof", "127.0.0.1 1"), "replica"),
    ],
    ids=["cluster", "eviction", "replica"],
)
async def test_a_server_that_cannot_hold_a_projection_is_refused_with_the_mend(setting, cause):
    with running_redis(redis_binary(), *setting) as server:
        with pytest.raises(StoreDiffers, match=cause) as raised:
            await RedisStore.open(server.url)
        assert "use " in raised.value.message or "set " in raised.value.message


async def test_another_log_and_a_newer_format_are_refused(store, redis_url, redis_server):
    await store.bind(LOG_ID)
    assert await bound_log(redis_url, "refold") == LOG_ID
    assert await bound_log(redis_url, "other") is None
    redis_server.send(b"""SET {refold:refold}:log '{"log":"log-1","format":2}'""")
    with pytest.raises(StoreDiffers, match="newer program"):
        await store.bind(LOG_ID)


async def test_a_command_that_is_cancelled_at_any_moment_ends(store):
    await store.bind(LOG_ID)
    cancelled = 0
    for steps in range(40):
        reading = asyncio.create_task(store.checkpoints())
        for _ in range(steps):
            await asyncio.sleep(0)
        if reading.cancel():
            cancelled += 1
            with pytest.raises(asyncio.CancelledError):
                await reading
    assert cancelled > 3


async def test_readers_have_their_turns_where_connections_are_few(redis_url):
    async with redis_stores(redis_url) as open_store:
        store = await open_store()
        await store.bind(LOG_ID)
        done = [0] * 8

        async def reader(number):
            for _ in range(20):
                await store.checkpoints()
                done[number] += 1
                assert done[number] - min(done) <= 2

        async with asyncio.TaskGroup() as tasks:
            for number in range(len(done)):
                tasks.create_task(reader(number))


async def test_a_full_server_takes_nothing_of_a_commit(store, redis_server):
    scribe = await begin(store)
    scribe.put("a", 1)
    await store.commit(scribe.commit())
    scribe.put("a", 2)
    scribe.put("b", random.Random(1).randbytes(100_000).hex())
    commit = scribe.commit()
    redis_server.send(b"CONFIG SET maxmemory 1mb")
    try:
        with pytest.raises(StoreFull):
            await store.commit(commit)
    finally:
        redis_server.send(b"CONFIG SET maxmemory 0")
    assert (await store.head(NAMESPACE, "a")).snapshot.state == b"1"
    assert await store.head(NAMESPACE, "b") is None
    await store.commit(commit)
    assert (await store.head(NAMESPACE, "a")).snapshot.state == b"2"


async def test_a_connection_that_is_lost_after_exec_leaves_the_commit_unknown(own_server):
    async with redis_stores(own_server.url, command_seconds=0.2) as open_store:
        store = await open_store()
        scribe = await begin(store)
        scribe.put("a", 1)
        commit = scribe.commit()
        # The server is stopped for longer than an answer may take.
        real = store._commits._resolve

        async def pause(*asked):
            own_server.send(b"CLIENT PAUSE 500 WRITE")
            return await real(*asked)

        store._commits._resolve = pause
        with pytest.raises(StoreUnavailable) as raised:
            await store.commit(commit)
        assert raised.value.facts["is_unknown"] is True
        store._commits._resolve = real


async def test_an_emptied_server_ends_the_writer_and_begins_anew(store, redis_server):
    scribe = await begin(store)
    scribe.put("a", 1)
    await store.commit(scribe.commit())
    redis_server.send(b"FLUSHALL")
    scribe.put("a", 2)
    # An idle writer, too, and no event is folded into a document that seems to be new.
    for call in (store.commit(scribe.commit()), store.load([(NAMESPACE, "a")]), store.acquire_lease()):
        with pytest.raises(StoreUnavailable, match="emptied"):
            await call
    assert await store.checkpoints() == []
    assert await store.acquire_lease()
    assert {checkpoint.read_sequence for checkpoint in await store.bind(LOG_ID)} == {0}


def executed(server):
    """Return how many transactions the server has executed."""
    return int(re.search(rb"cmdstat_exec:calls=(\d+)", server.send(b"INFO commandstats"))[1])


async def test_a_commit_of_50000_events_is_one_transaction(store, redis_server):
    scribe = await begin(store)
    before = executed(redis_server)
    for number in range(50_000):
        scribe.put(f"d{number % 2_000}", number)
        if number % 2_000 == 0 and number:
            scribe.cut("d0")
    await store.commit(scribe.commit())
    assert executed(redis_server) == before + 1
    assert {checkpoint.read_sequence for checkpoint in await store.checkpoints()} == {50_000}
    for name in ("d0", "d1", "d1999"):
        assert (await store.head(NAMESPACE, name)).snapshot == scribe.snapshots[NAMESPACE, name][-1]
        point = Point(Clock.version, 24)
        assert await store.snapshot_at(NAMESPACE, name, point) == scribe.at(name, point)


async def test_names_with_colons_and_the_largest_states_are_kept_apart(store):
    scribe = await begin(store)
    for namespace, name in (("a", "b:c"), ("a:b", "c"), ("a:1", "~" * 128), ("a", "1:~")):
        scribe.put(name, [namespace, name], namespace=namespace)
    large = ["x" * 1_000_000] * (STATE_BYTES_MAX // 1_000_003)
    scribe.put("large", [])
    for text in large:
        scribe.publish("large", {"patch": [{"op": "add", "path": "/-", "value": text}]})
    await store.commit(scribe.commit())
    for key, versions in scribe.snapshots.items():
        assert (await store.head(*key)).snapshot == versions[-1]
        assert await store.snapshot_at(*key, Point(Clock.version, 1)) == versions[1]


async def test_damaged_and_missing_values_are_typed_errors(store, redis_server):
    scribe = await begin(store)
    scribe.put("a", {"n": 1})
    scribe.put("b", 1)
    await store.commit(scribe.commit())
    redis_server.send(b"SETRANGE {refold:refold}:h:4:shop:1:a 102 X")
    redis_server.send(b"DEL {refold:refold}:h:4:shop:1:b")
    redis_server.send(b"LSET {refold:refold}:r:4:shop:1:a 1 garbage")
    for name in ("a", "b"):
        with pytest.raises(StoreDamaged):
            await store.head(NAMESPACE, name)
        with pytest.raises(StoreDamaged):
            await store.load([(NAMESPACE, name)])
    with pytest.raises(StoreDamaged):
        await store.entry(NAMESPACE, "a", 1)
    redis_server.send(b"DEL {refold:refold}:checkpoints")
    with pytest.raises(StoreDamaged):
        await store.checkpoints()


async def test_the_holder_of_an_expired_lease_that_nobody_took_still_commits(store, redis_server):
    scribe = await begin(store)
    redis_server.send(b"DEL {refold:refold}:owner:")
    scribe.put("a", 1)
    await store.commit(scribe.commit())
    redis_server.send(b"SET {refold:refold}:owner: 5000:other")
    scribe.put("a", 2)
    with pytest.raises(FenceLost):
        await store.commit(scribe.commit())


async def test_a_projection_that_is_put_aside_keeps_everything_under_another_name(
    store, redis_url, redis_server
):
    scribe = await begin(store)
    scribe.put("a", 1)
    await store.commit(scribe.commit())
    # A renaming that was interrupted, and the keys of another schema.
    redis_server.send(b"RENAME {refold:refold}:h:4:shop:1:a {refold:kept}:h:4:shop:1:a")
    redis_server.send(b"SET {refold:refold_2}:log x")
    assert await put_aside(redis_url, "refold", "kept")
    assert not await put_aside(redis_url, "refold", "kept")
    assert redis_server.send(b"GET {refold:refold_2}:log").endswith(b"x\r\n")
    assert [await bound_log(redis_url, schema) for schema in ("refold", "kept")] == [None, LOG_ID]
    with pytest.raises(StoreUnavailable, match="emptied"):
        await store.head(NAMESPACE, "a")
    async with redis_stores(redis_url, schema="kept") as open_store:
        kept = await open_store()
        assert (await kept.head(NAMESPACE, "a")).snapshot == scribe.snapshots[NAMESPACE, "a"][-1]
        assert {checkpoint.read_sequence for checkpoint in await kept.checkpoints()} == {1}


async def test_a_server_that_was_started_again_rewrites_its_file_and_must_have_the_logs_end():
    with running_redis(valkey_binary(), "--appendonly", "yes") as server:
        async with redis_stores(server.url) as open_store:
            writer, reader = await open_store(), await open_store()
            scribe, ends = await begin(writer), [0]
            scribe.put("a", 1)
            await writer.commit(scribe.commit())
            reader.refuse_stale(list, lambda: asyncio.sleep(0, ends[-1]))
            ends.append(2)
            # Of a server that runs on, every commit is still there.
            assert await reader.head(NAMESPACE, "a")
            server.send(b"CLIENT KILL TYPE normal")
            await lose_connection(reader.ping())
            assert await reader.head(NAMESPACE, "a")
            rewrites = found(server, b"aof_rewrites")
            server.kill()
            server.start()
            await lose_connection(reader.ping())
            with pytest.raises(StoreUnavailable) as raised:
                await reader.head(NAMESPACE, "a")
            assert raised.value.facts == {"folded_sequence": 1, "required_sequence": 2}
            scribe.put("a", 2)
            await lose_connection(writer.acquire_lease())
            assert await writer.acquire_lease()
            await writer.commit(scribe.commit())
            assert (await reader.head(NAMESPACE, "a")).snapshot.version == 2
            assert found(server, b"run_id") in server.send(b"GET {refold:refold}:run")
            assert (rewrites, found(server, b"aof_rewrites")) == (b"1", b"1")


async def lose_connection(call):
    """Let a command fail that finds its connection lost: it is not sent twice."""
    with suppress(StoreUnavailable):
        await call


def found(server, name):
    return re.search(rb"%b:(\w+)" % name, server.send(b"INFO"))[1]


async def test_a_server_that_cannot_be_reached_is_unavailable():
    with pytest.raises(StoreUnavailable):
        await RedisStore.open("unix:///nowhere/redis.sock")


@pytest.mark.slow
@pytest.mark.parametrize("binary", [redis_binary, valkey_binary], ids=["redis", "valkey"])
def test_kills_and_cut_off_files_tear_nothing(binary):
    """Few of those of the command `tests/acceptance/redis_damage.py`."""
    counts = drill(binary(), kills=10, cuts=15, seed=11)
    assert counts["cuts: restarts"] == 15
    assert counts["cuts: commits rolled back"] > 0
