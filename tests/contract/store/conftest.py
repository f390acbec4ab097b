"""One suite for every store: each test runs in memory, on PostgreSQL, and on PostgreSQL with two shards' writers."""

from __future__ import annotations

import pytest

from support.stores import HALVES, TwoShards, begin, memory_stores, postgres_stores


@pytest.fixture(params=["memory", "postgres", pytest.param("postgres in two shards", marks=pytest.mark.slow)])
def kind(request):
    """Which store."""
    return request.param


@pytest.fixture
def store_dsn(request, kind):
    """The database's address; none for the store in memory."""
    return None if kind == "memory" else request.getfixturevalue("postgres_dsn")


@pytest.fixture
async def open_store(store_dsn):
    """What opens one more store over the same tables."""
    async with memory_stores() if store_dsn is None else postgres_stores(store_dsn) as opener:
        yield opener


@pytest.fixture
async def store(open_store, kind):
    """A store, neither bound nor leased."""
    if kind != "postgres in two shards":
        return await open_store()
    return TwoShards(*[await open_store(shard=shard) for shard in HALVES])


@pytest.fixture
async def scribe(store):
    """A log whose commits the store takes: it is bound and owned."""
    return await begin(store)


@pytest.fixture
def single_writer(kind):
    """Skip where two writers commit: the test is about the lease and the fence of one."""
    if kind == "postgres in two shards":
        pytest.skip("about one writer")
