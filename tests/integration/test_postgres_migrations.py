"""A schema is migrated by one process at a time, up to the version of this program."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files

import asyncpg
import pytest

from refold.core.errors import Refused, StoreDiffers, StoreUnavailable
from refold.store.postgres import PostgresStore
from refold.store.postgres.pool import SQL
from refold.store.postgres.schema import FORMAT_BEGINS, MIGRATIONS
from support.stores import postgres_stores, redis_stores, sqlite_stores


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "refold"})
    try:
        yield connection
    finally:
        await connection.close()


async def test_many_processes_migrate_an_empty_database_at_once(postgres_dsn):
    async with postgres_stores(postgres_dsn) as open_store:
        stores = await asyncio.gather(*(open_store() for _ in range(6)))
        bound = await asyncio.gather(*(store.bind("log-1") for store in stores))
    assert all(checkpoints == bound[0] for checkpoints in bound)
    async with connected(postgres_dsn) as connection:
        applied = await connection.fetch("SELECT number, name FROM migrations ORDER BY number")
    assert [tuple(row) for row in applied] == [(migration.number, migration.name) for migration in MIGRATIONS]


async def test_migrations_are_numbered_without_a_gap():
    numbers = [migration.number for migration in MIGRATIONS]
    assert numbers == list(range(FORMAT_BEGINS, FORMAT_BEGINS + len(MIGRATIONS)))


async def test_a_schema_of_a_newer_program_is_refused(postgres_dsn):
    async with postgres_stores(postgres_dsn) as open_store:
        await open_store()
        async with connected(postgres_dsn) as connection:
            await connection.execute("INSERT INTO migrations (number, name) VALUES (99, 'future')")
        with pytest.raises(StoreDiffers) as raised:
            await open_store()
    assert raised.value.facts == {"schema": "refold", "migration": 99, "known": MIGRATIONS[-1].number}


async def test_a_reader_without_create_privilege_opens_an_existing_schema(postgres_dsn):
    async with postgres_stores(postgres_dsn) as open_store:
        await open_store()
    async with connected(postgres_dsn) as connection:
        role = await connection.fetchval("SELECT 'reader_' || current_database()")
        await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'reader'")
        await connection.execute(f"GRANT USAGE ON SCHEMA refold TO {role}")
        await connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA refold TO {role}")
        store = await PostgresStore.open(as_user(postgres_dsn, role, "reader"))
        try:
            assert await store.namespaces() == []
        finally:
            await store.close()
            await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def as_user(dsn: str, user: str, password: str) -> str:
    scheme, _, rest = dsn.partition("://")
    return f"{scheme}://{user}:{password}@{rest.rpartition('@')[2]}"


async def test_schemas_of_one_database_are_separate_projections(postgres_dsn):
    async with (
        postgres_stores(postgres_dsn) as open_live,
        postgres_stores(postgres_dsn, schema="again") as open_again,
    ):
        live, again = await open_live(), await open_again()
        await live.bind("log-1")
        await again.bind("log-2")
        assert await live.acquire_lease()
        assert await again.acquire_lease()


@pytest.mark.parametrize("schema", ["", "1a", 'a"b', "A", "a b", "x" * 64, "\u00e9"])
async def test_a_schema_name_that_needs_quoting_is_refused(postgres_dsn, schema):
    with pytest.raises(Refused) as raised:
        await PostgresStore.open(postgres_dsn, schema=schema)
    assert raised.value.field == "schema"


@pytest.mark.parametrize(
    "definition",
    [
        "((state ->> 'a'))",
        "((state::jsonb ->> 'a'))",
        "(document) WHERE state ->> 'a' = '1'",
        "((refold_jsonb(state) ->> 'a'), (state ->> 'b'))",
    ],
)
async def test_an_index_directly_on_the_state_is_refused(postgres_dsn, definition):
    async with postgres_stores(postgres_dsn) as open_store:
        await open_store()
        async with connected(postgres_dsn) as connection:
            # A cast that is declared immutable to allow such an index.
            await connection.execute(
                "UPDATE pg_proc SET provolatile = 'i' WHERE proname IN ('json_in', 'jsonb_in')"
            )
            await connection.execute(f"CREATE INDEX wrong ON documents {definition}")
        with pytest.raises(StoreDiffers) as raised:
            await open_store()
    assert raised.value.facts == {"indexes": ["wrong"]}


async def test_indexes_through_refold_jsonb_are_accepted(postgres_dsn):
    async with postgres_stores(postgres_dsn) as open_store:
        await open_store()
        async with connected(postgres_dsn) as connection:
            await connection.execute("CREATE INDEX ON documents ((refold_jsonb(state) ->> 'state'))")
            await connection.execute("CREATE INDEX ON documents USING gin (refold_jsonb(state))")
            await connection.execute("CREATE INDEX ON documents (version) WHERE state IS NOT NULL")
        await open_store()


async def test_a_missing_server_is_reported(postgres_dsn):
    with pytest.raises(StoreUnavailable):
        await PostgresStore.open("postgres://nobody@127.0.0.1:1/none")
    with pytest.raises(StoreUnavailable) as raised:
        await PostgresStore.open(postgres_dsn + "_that_is_not_there")
    assert raised.value.facts["sqlstate"] == "3D000"


def test_every_statement_is_used_and_no_name_repeats():
    package = files("refold.store.postgres")
    code = "\n".join(file.read_text() for file in package.iterdir() if file.name.endswith(".py"))
    assert [name for name in SQL if f'"{name}"' not in code] == []
    assert package.joinpath("queries.sql").read_text().count("-- name: ") == len(SQL)


async def test_an_open_store_tells_which_migrations_were_applied(postgres_dsn, redis_url, tmp_path):
    async with (
        postgres_stores(postgres_dsn) as open_postgres,
        sqlite_stores(tmp_path) as open_files,
        redis_stores(redis_url) as open_redis,
    ):
        for open_store in (open_postgres, open_files, open_redis):
            store = await open_store()
            await store.bind("log-1")
            applied, known = await store.migrations()
            assert applied == known > 0
        store = await open_postgres()
        async with connected(postgres_dsn) as connection:
            await connection.execute("INSERT INTO migrations (number, name) VALUES (99, 'future')")
        assert await store.migrations() == (99, MIGRATIONS[-1].number)
