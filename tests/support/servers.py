"""The real servers for tests: one of each a session, and fresh ones where a test needs an empty log or database.

Fixtures that start servers are synchronous, so that tests with and without a loop can use them.
tests/conftest.py imports all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest

from refold.embedded.folder import open_folder
from refold.embedded.nats import NATS_USERS, Durability, NatsServer, start_nats
from refold.embedded.postgres import DATABASE, PostgresServer, start_postgres
from refold.store.postgres import PostgresStore

T = TypeVar("T")

_THROWN_AWAY = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "64MB"}
_numbers = count(1)


def complete(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a loop of its own, without touching the test's."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One NATS server for the session: for tests that need no log of their own."""
    yield from _nats(tmp_path_factory.mktemp("nats"), "os")


@pytest.fixture(scope="session")
def nats_urls(nats_server: NatsServer) -> dict[str, str]:
    """The addresses of the session's NATS server by user."""
    return {user: nats_server.url(user) for user in NATS_USERS}


@pytest.fixture
def fresh_nats(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NatsServer]:
    """A NATS server with an empty log for one test; `parametrize(..., ["fsync"], indirect=True)` for the other kind."""
    yield from _nats(tmp_path_factory.mktemp("fresh-nats"), getattr(request, "param", "os"))


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """One PostgreSQL server for the session; it does not sync."""
    with running_postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@contextmanager
def running_postgres(path: Path) -> Iterator[PostgresServer]:
    """Run a PostgreSQL server that does not sync, for a command of its own too."""
    with complete(open_folder(path)) as folder:
        server = complete(start_postgres(folder, settings=_THROWN_AWAY))
        try:
            yield server
        finally:
            complete(server.stop())


@pytest.fixture(scope="session")
def migrated(postgres_server: PostgresServer) -> str:
    """The name of a database to which the store's migrations were applied."""
    complete(_execute(postgres_server, "CREATE DATABASE migrated"))
    complete(_migrate(postgres_server.dsn.removesuffix(DATABASE) + "migrated"))
    return "migrated"


@pytest.fixture
def migrated_dsn(postgres_server: PostgresServer, migrated: str) -> Iterator[str]:
    """A fresh database with the store's empty tables for one test."""
    yield from _database(postgres_server, f"TEMPLATE {migrated}")


@pytest.fixture
def postgres_dsn(postgres_server: PostgresServer) -> Iterator[str]:
    """A fresh, empty database for one test."""
    yield from _database(postgres_server)


@pytest.fixture
async def aside(postgres_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Open a connection of the test's own to the projection."""
    connection = await asyncpg.connect(postgres_dsn, server_settings={"search_path": "refold"})
    yield connection
    await connection.close()


def _nats(path: Path, sync: Durability) -> Iterator[NatsServer]:
    with complete(open_folder(path)) as folder:
        server = complete(start_nats(folder, sync=sync))
        try:
            yield server
        finally:
            complete(server.stop())


def _database(server: PostgresServer, template: str = "") -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    # Copying files takes 20 ms where the server does not sync; the default way takes 200.
    complete(_execute(server, f"CREATE DATABASE {name} {template} STRATEGY file_copy"))
    yield server.dsn.removesuffix(DATABASE) + name
    complete(_execute(server, f"DROP DATABASE {name} WITH (FORCE)"))


async def _migrate(dsn: str) -> None:
    store = await PostgresStore.open(dsn)
    await store.close()


async def _execute(server: PostgresServer, statement: str) -> None:
    connection = await asyncpg.connect(server.dsn, ssl=False)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
