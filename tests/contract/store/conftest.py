"""One suite for every adapter of the SnapshotStore port: each test runs on the memory twin and on PostgreSQL."""

from __future__ import annotations

import pytest

from support.stores import begin, memory_stores, postgres_stores


@pytest.fixture(params=["memory", "postgres"])
def store_dsn(request):
    """The database's address; none for the memory twin."""
    return None if request.param == "memory" else request.getfixturevalue("postgres_dsn")


@pytest.fixture
async def open_store(store_dsn):
    """What opens one more store over the same tables."""
    async with memory_stores() if store_dsn is None else postgres_stores(store_dsn) as opener:
        yield opener


@pytest.fixture
async def store(open_store):
    """A store, neither bound nor owned."""
    return await open_store()


@pytest.fixture
async def scribe(store):
    """A log whose commits the store takes: it is bound and owned."""
    return await begin(store)
