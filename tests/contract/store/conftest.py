"""One suite for every store, a folder for each port of `refold.store.ports`.

Each test runs in memory (of full and of recent depth), on SQLite, PostgreSQL, Redis and Valkey, on three of them with
all content encrypted, on PostgreSQL with its history encrypted, and with the writers of two shards. A test is skipped
only for a capability; the end of the run lists which.
"""

from __future__ import annotations

import random

import pytest

from refold.store import Depth
from refold.store.postgres import PostgresStore
from refold.store.postgres.batch import READ_TOGETHER_BYTES_MAX, READS_TOGETHER_MAX
from support.capabilities import skip_without
from support.encrypted import encryption
from support.stores import (
    HALVES,
    LOG_ID,
    TwoShards,
    begin,
    memory_stores,
    postgres_stores,
    redis_stores,
    sqlite_stores,
)

ENCRYPTED = ("files encrypted", "postgres encrypted", "redis encrypted")
HISTORY_ENCRYPTED = "postgres with encrypted history"
SLOW = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("files in two shards", "postgres in two shards", "redis in two shards", HISTORY_ENCRYPTED)
]


@pytest.fixture(
    params=["memory", "memory (recent)", "files", "postgres", "redis", "valkey", *ENCRYPTED, *SLOW]
)
def kind(request):
    """Choose a store."""
    return request.param


@pytest.fixture
def opened(request, kind):
    """Return the context in which stores of this kind are opened."""
    name = kind.split()[0]
    is_encrypted = "encrypted" in kind
    options = {"codec": encryption(LOG_ID)} if is_encrypted else {}
    if name == "memory":
        return memory_stores(Depth.recent if "recent" in kind else Depth.full)
    if name == "files":
        return sqlite_stores(request.getfixturevalue("tmp_path"), **options)
    if name == "postgres":
        levels = {"is_history_encrypted": is_encrypted, "are_states_encrypted": kind in ENCRYPTED}
        return postgres_stores(request.getfixturevalue("migrated_dsn"), **options, **levels)
    return redis_stores(request.getfixturevalue(f"{name}_url"), **options)


@pytest.fixture
async def open_store(opened):
    """Return a function that opens one more store over the same tables."""
    async with opened as opener:
        yield opener


@pytest.fixture
async def store(open_store, kind):
    """Open a store, neither bound nor leased."""
    if not kind.endswith("in two shards"):
        return await open_store()
    return TwoShards(*[await open_store(shard=shard) for shard in HALVES])


@pytest.fixture
async def scribe(store):
    """Bind and lease the store; return a log whose commits it takes."""
    return await begin(store)


@pytest.fixture
def single_writer(kind):
    """Skip where two writers commit: the test is about the lease and the fence of one."""
    if kind.endswith("in two shards"):
        skip_without("one writer")


@pytest.fixture
def full_depth(store):
    """Skip where the store does not keep every version."""
    if store.capabilities.depth is not Depth.full:
        skip_without("full depth")


@pytest.fixture
def recent_depth(store):
    """Skip where the store keeps every version."""
    if store.capabilities.depth is not Depth.recent:
        skip_without("recent depth")


@pytest.fixture
def auditor(store):
    """Skip where the store has no read snapshot: it is not an Auditor."""
    if not hasattr(store, "read_snapshot"):
        skip_without("read snapshot (Auditor)")


@pytest.fixture
def statements(store):
    """Skip where the store does not read by SQL statements."""
    if not isinstance(store, PostgresStore):
        skip_without("SQL statements")


FILLED_DOCUMENTS = 2 * READS_TOGETHER_MAX + 5


def large(number):
    """A state that does not compress."""
    return random.Random(number).randbytes(READ_TOGETHER_BYTES_MAX).hex()


@pytest.fixture
async def filled(store, scribe):
    """Write documents of three versions: every seventh is large, every fifth in closed pages, every third deleted."""
    for number in range(FILLED_DOCUMENTS):
        name = f"d{number}"
        scribe.put(name, large(number) if number % 7 == 0 else number)
        scribe.publish(name, {"put": {"n": number}})
        if number % 5 == 0:
            scribe.cut(name)
        if number % 3 == 0:
            scribe.publish(name, {"delete": True})
        else:
            scribe.put(name, large(number) if number % 11 == 0 else {"m": number})
    await store.commit(scribe.commit())
    return store
