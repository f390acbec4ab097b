"""A cached reader answers as its store does, from memory within a bound, and forgets all at another epoch."""

import random
import tracemalloc

import pytest

from refold.core.errors import StoreUnavailable
from refold.core.history import Clock, Point, Snapshot
from refold.store.layers.breaker import Breaker
from refold.store.layers.cached import EPOCH_SECONDS, CachedReader, StateCache
from refold.store.layers.fallback import FallbackReader
from refold.store.layers.sources import Source, Sources
from refold.store.memory import MemoryStore, Tables
from support.scribe import NAMESPACE
from support.stores import begin


class Counted(MemoryStore):
    """A store that counts its reads of states, and may be unreachable."""

    reads = 0
    is_down = False

    async def head(self, *key, **known):
        self.refuse()
        found = await super().head(*key, **known)
        self.reads += bool(found and found.snapshot.state)
        return found

    async def snapshot_at(self, *asked):
        self.refuse()
        self.reads += 1
        return await super().snapshot_at(*asked)

    async def epoch(self):
        self.refuse()
        return await super().epoch()

    def refuse(self):
        if self.is_down:
            raise StoreUnavailable


@pytest.fixture
def tables():
    return Tables()


@pytest.fixture
def store(tables):
    return Counted(tables)


@pytest.fixture
async def scribe(store):
    return await begin(store)


def version(number):
    return Point(Clock.version, number)


async def test_a_state_is_read_from_the_store_once(store, scribe):
    reader = CachedReader(store, timer=lambda: 0.0)
    scribe.put("a", {"n": 1})
    await store.commit(scribe.commit())
    first = await reader.head(NAMESPACE, "a")
    assert first == await reader.head(NAMESPACE, "a") == await store.head(NAMESPACE, "a")
    assert first.snapshot == await reader.snapshot_at(NAMESPACE, "a", version(1))
    scribe.put("a", {"n": 2})
    rejected = scribe.publish("a", b"garbage")
    await store.commit(scribe.commit())
    store.reads = 0
    # Whether it is the head's is never answered from memory.
    changed = await reader.head(NAMESPACE, "a")
    assert (changed.snapshot.state, changed.last_sequence) == (b'{"n":2}', rejected.sequence)
    assert await reader.head(NAMESPACE, "a") == changed
    assert await reader.snapshot_at(NAMESPACE, "a", version(1)) == first.snapshot
    assert store.reads == 1
    assert reader.counts[:2] == (4, 2)


async def test_any_reads_are_answered_as_the_store_answers_them(store, scribe):
    rng = random.Random(seed := random.randrange(2**32))
    print("seed", seed)
    reader = CachedReader(store, bytes_max=20_000, timer=lambda: 0.0)
    for _ in range(60):
        for _ in range(rng.randrange(5)):
            name = f"d{rng.randrange(6)}"
            event = rng.choice([{"delete": True}, {"put": "x" * rng.randrange(1_500)}, b"garbage"])
            scribe.publish(name, event)
        await store.commit(scribe.commit())
        for name in map("d{}".format, range(7)):
            assert await reader.head(NAMESPACE, name) == await store.head(NAMESPACE, name)
            for clock in Clock:
                point = Point(clock, rng.randrange(scribe.sequence + 2))
                expected = await store.snapshot_at(NAMESPACE, name, point)
                assert await reader.snapshot_at(NAMESPACE, name, point) == expected
    assert reader.counts.hits > 30
    assert 0 < reader.counts.bytes <= 20_000


async def test_another_epoch_empties_the_cache(tables, store, scribe):
    now = [0.0]
    reader = CachedReader(store, timer=lambda: now[0])
    scribe.put("a", 1)
    await store.commit(scribe.commit())
    await reader.snapshot_at(NAMESPACE, "a", version(1))
    now[0] += EPOCH_SECONDS
    await reader.snapshot_at(NAMESPACE, "a", version(1))
    assert reader.counts.hits == 1
    tables.epoch = "rebuilt"
    now[0] += EPOCH_SECONDS
    await reader.snapshot_at(NAMESPACE, "a", version(1))
    assert reader.counts.hits == 1


async def test_a_store_that_cannot_be_reached_for_a_while_does_not_empty_the_cache_of_several(
    tables, store, scribe
):
    now, other = 0.0, Counted(Tables())
    made = [
        Source(name=name, breaker=Breaker(timer=lambda: now, random=lambda: 1.0), reader=each)
        for name, each in (("first", store), ("other", other))
    ]
    reader = CachedReader(FallbackReader(Sources(made, random=lambda: 1.0)), timer=lambda: now)
    scribe.put("a", {"n": 1})
    await store.commit(scribe.commit())
    for other.is_down in (False, True, False):
        await reader.head(NAMESPACE, "a")
        now += EPOCH_SECONDS
    assert store.reads == 1
    tables.epoch = "rebuilt"
    await reader.head(NAMESPACE, "a")
    assert store.reads == 2


async def test_a_read_that_began_before_another_epoch_leaves_nothing(tables, store, scribe):
    now = [0.0]
    reader = CachedReader(store, timer=lambda: now[0])
    scribe.put("a", 1)
    await store.commit(scribe.commit())
    read = store.snapshot_at

    async def slow(*asked):
        found = await read(*asked)
        store.snapshot_at, tables.epoch = read, "rebuilt"
        now[0] += EPOCH_SECONDS
        await reader.head(NAMESPACE, "none")
        return found

    store.snapshot_at = slow
    await reader.snapshot_at(NAMESPACE, "a", version(1))
    assert reader.counts.bytes == 0


async def test_a_head_needs_the_store_and_a_known_version_does_not(store, scribe):
    reader = CachedReader(store, timer=lambda: 0.0)
    scribe.put("a", 1)
    await store.commit(scribe.commit())
    head = await reader.head(NAMESPACE, "a")
    store.is_down = True
    assert await reader.snapshot_at(NAMESPACE, "a", version(1)) == head.snapshot
    with pytest.raises(StoreUnavailable):
        await reader.head(NAMESPACE, "a")


async def test_without_bytes_nothing_is_kept(store, scribe):
    reader = CachedReader(store, bytes_max=0, timer=lambda: 0.0)
    scribe.put("a", 1)
    await store.commit(scribe.commit())
    assert await reader.head(NAMESPACE, "a") == await reader.head(NAMESPACE, "a")
    assert reader.counts == (0, 2, 0)


@pytest.mark.parametrize("size", [0, 300, 10_000])
def test_the_counted_bytes_are_those_that_are_taken(size):
    cache = StateCache(2**30)
    tracemalloc.start()
    try:
        for number in range(5_000):
            big = 2**60 + number
            snapshot = Snapshot(1_000 + number, bytes(size + 1), big, big + 1, big + 2, big + 3)
            cache.put((f"namespace{number}", f"document{number}"), snapshot)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.9 < cache.bytes / taken < 1.1
