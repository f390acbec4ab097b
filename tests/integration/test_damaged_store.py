"""A projection with a missing table, lost rows or unreadable content is reported and never returns a wrong state."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress

import asyncpg
import pytest

from refold.core.errors import StoreDamaged
from refold.core.history import Clock, Point
from refold.history import History
from refold.log.memory import MemoryLog
from refold.projector import Stage
from refold.projector.supervisor import Supervisor
from refold.store.postgres import PostgresStore, schema
from support.projection import ROOMY, append, ports
from support.services import folded_to, until

EVENTS = 400
IN_JOURNAL = 3
REPAIR = "refold rebuild --from-nothing"
TABLES = (*schema.TABLES, "migrations")


@pytest.fixture
async def log():
    """Make a log of documents with pages and journal, one small document, and rejections."""
    made = MemoryLog("log-1")
    for number in range(EVENTS):
        await append(made, "long", {"merge": {"n": number, f"k{number % 9}": "x" * 40}, "id": f"e{number}"})
    await append(made, "small", {"put": {"n": 1}})
    await append(made, "small", {"patch": [{"op": "test", "path": "/n", "value": 2}]})
    return made


@asynccontextmanager
async def projected(log, dsn):
    """Run a projector that has folded the log; yield its store and supervisor."""
    store = await PostgresStore.open(dsn)
    supervisor = Supervisor(ports(log, store), ROOMY)
    task = asyncio.create_task(supervisor.run())
    try:
        await folded_to(store, (await log.info()).last_sequence)
        yield store, supervisor
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await store.close()


@pytest.fixture
async def live(log, postgres_dsn):
    """Open the store of a projection that is up to date and whose projector has ended."""
    async with projected(log, postgres_dsn) as (store, _):
        # Few enough in one commit to stay in the journal.
        for number in range(EVENTS, EVENTS + IN_JOURNAL):
            await folded_to(store, await append(log, "long", {"merge": {"n": number}}))
    store = await PostgresStore.open(postgres_dsn)
    yield store
    await store.close()


@pytest.fixture
async def sql(postgres_dsn, live):
    """Open a connection that damages the projection."""
    connection = await asyncpg.connect(postgres_dsn, server_settings={"search_path": "refold"})
    yield connection
    await connection.close()


@pytest.mark.parametrize("table", TABLES)
async def test_a_missing_table_is_reported_with_the_repair_command_and_not_created(
    live, sql, postgres_dsn, table
):
    await sql.execute(f"DROP TABLE {table} CASCADE")
    with pytest.raises(StoreDamaged, match=REPAIR) as raised:
        await PostgresStore.open(postgres_dsn)
    assert raised.value.facts["table"] == table
    assert await sql.fetchval("SELECT to_regclass($1)", table) is None


async def test_migrations_are_not_applied_again_where_their_table_is_empty(live, sql, postgres_dsn):
    await sql.execute("TRUNCATE migrations")
    with pytest.raises(StoreDamaged, match=REPAIR) as raised:
        await PostgresStore.open(postgres_dsn)
    assert raised.value.facts["table"] == "migrations"


@pytest.mark.parametrize("table", [it for it in schema.TABLES if it != "keys"])
async def test_an_emptied_table_is_detected_when_a_projector_binds(live, sql, table):
    await sql.execute(f"TRUNCATE {table}")
    with pytest.raises(StoreDamaged, match=REPAIR) as raised:
        await live.bind("log-1")
    assert raised.value.facts["table"] == table


async def test_a_lost_checkpoint_is_not_created_again(live, sql):
    await sql.execute("DELETE FROM checkpoints WHERE partition = 7")
    with pytest.raises(StoreDamaged):
        await live.checkpoints()
    with pytest.raises(StoreDamaged):
        await live.bind("log-1")


async def test_with_a_missing_page_every_read_is_exact_or_fails(live, sql):
    """Remove each page in turn: no read then answers from the page before it."""
    entries = [
        entry
        async for segment in live.segments("n", "long", after_version=None, is_descending=False)
        for entry in segment.entries
    ]
    points = [Point(Clock.version, entry.version) for entry in entries]
    points += [Point(Clock.sequence, entry.sequence) for entry in entries[::7]]
    points += [Point(Clock.recorded, entry.recorded_at) for entry in entries[::7]]
    points += [Point(Clock.occurred, entry.occurred_at) for entry in entries[::7]]
    expected = [await live.snapshot_at("n", "long", point) for point in points]
    rows = await sql.fetch("SELECT last_sequence FROM pages WHERE document = 'long'")
    assert len(rows) > 2
    for (last_sequence,) in rows:
        chosen = f"FROM pages WHERE document = 'long' AND last_sequence = {last_sequence}"
        await sql.execute(f"CREATE TEMP TABLE taken AS SELECT * {chosen}")
        await sql.execute(f"DELETE {chosen}")
        failed = 0
        for point, snapshot in zip(points, expected, strict=True):
            try:
                assert await live.snapshot_at("n", "long", point) == snapshot
            except StoreDamaged:
                failed += 1
        assert failed
        for is_descending in (False, True):
            with pytest.raises(StoreDamaged):
                async for _ in live.segments("n", "long", after_version=None, is_descending=is_descending):
                    pass
        await sql.execute("INSERT INTO pages SELECT * FROM taken; DROP TABLE taken")


UNREADABLE = {
    "a page's events": "UPDATE pages SET payload = 'x'",
    "a page's snapshot": "UPDATE pages SET snapshot = 'x' WHERE document = 'long'",
    "an event's body": "UPDATE journal SET body = '{', effect = NULL WHERE document = 'long'",
    "an event's status": "UPDATE journal SET status = 77 WHERE document = 'long'",
    "the last page": "DELETE FROM pages WHERE last_sequence = (SELECT max(last_sequence) FROM pages)",
    "the first page": "DELETE FROM pages WHERE last_sequence = (SELECT min(last_sequence) FROM pages)",
    "a page's number of events": "UPDATE pages SET events = events + 1 WHERE document = 'long'",
    "an event of the journal": (
        "DELETE FROM journal WHERE sequence = (SELECT min(sequence) FROM journal WHERE document = 'long')"
    ),
    "all pages": "TRUNCATE pages",
    "the journal": "TRUNCATE journal",
    "the row": "DELETE FROM documents WHERE document = 'long'",
    "all rows": "TRUNCATE documents",
}


@pytest.mark.parametrize("what", UNREADABLE)
async def test_a_damaged_history_is_an_error_that_names_the_document(live, sql, what):
    versions = range(1, EVENTS + IN_JOURNAL + 1)
    expected = {v: await live.snapshot_at("n", "long", Point(Clock.version, v)) for v in versions}
    await sql.execute(UNREADABLE[what])
    found = []
    alone = []
    for version in versions:
        try:
            answer = await live.snapshot_at("n", "long", Point(Clock.version, version))
        except StoreDamaged as error:
            found.append(error)
            alone.append(version)
        else:
            assert answer == expected[version]
    assert found
    answers = await asyncio.gather(
        *(live.snapshot_at("n", "long", Point(Clock.version, version)) for version in versions),
        return_exceptions=True,
    )
    for version, answer in zip(versions, answers, strict=True):
        if isinstance(answer, StoreDamaged):
            found.append(answer)
        else:
            assert answer == expected[version]
            # Read with others, the newest version is the row's own state, which needs no history.
            assert version not in alone or version == versions[-1]
    assert {(error.facts["namespace"], error.facts["document"]) for error in found} == {("n", "long")}
    with pytest.raises(StoreDamaged, match="n/long"):
        await changes(live)


async def changes(store):
    """Read the whole history of the long document."""
    after = None
    while True:
        found = await History(store).changes(
            "n", "long", after=after, limit=1_000, is_descending=False, path=None
        )
        if (after := found.next) is None:
            return


async def test_a_lost_row_is_not_an_absent_document(live, sql):
    assert await live.head("n", "never") is None
    await sql.execute("DELETE FROM documents WHERE document = 'small'")
    with pytest.raises(StoreDamaged, match="n/small"):
        await live.head("n", "small")
    with pytest.raises(StoreDamaged, match="n/small"):
        await live.load([("n", "never"), ("n", "small")])
    assert [document.document for document in await live.load([("n", "never"), ("n", "long")])] == ["long"]


async def test_a_list_of_a_namespace_that_lost_its_rows_is_an_error(live, sql):
    await sql.execute("TRUNCATE documents")
    with pytest.raises(StoreDamaged):
        await live.list_documents("n", prefix="", where=None, limit=10, cursor=None)


@pytest.mark.parametrize("is_known", [True, False], ids=["in memory", "not in memory"])
async def test_an_event_for_a_document_with_a_lost_row_is_not_folded_as_its_first(
    log, postgres_dsn, is_known
):
    async with projected(log, postgres_dsn) as (store, supervisor):
        connection = await asyncpg.connect(postgres_dsn, server_settings={"search_path": "refold"})
        try:
            row = await connection.fetchrow("DELETE FROM documents WHERE document = 'small' RETURNING *")
            if not is_known:
                # It starts again with an empty cache.
                await connection.execute("UPDATE log SET epoch = gen_random_uuid()")
            sequence = await append(log, "small", {"put": {"n": 2}})
            await waiting(supervisor, "n/small")
            assert await connection.fetchval("SELECT count(*) FROM documents WHERE document = 'small'") == 0
            # Once the table is restored, the projector continues by itself.
            columns = ", ".join(f"${at}" for at in range(1, len(row) + 1))
            await connection.execute(f"INSERT INTO documents VALUES ({columns})", *row.values())
            await folded_to(store, sequence)
            assert (await store.head("n", "small")).snapshot.version == 2
        finally:
            await connection.close()


async def waiting(supervisor, named):
    """Wait until the projector waits for the repair of a store, and names what is damaged."""
    shown = {}

    async def look():
        shown[supervisor.stage, supervisor.error] = None
        return supervisor.stage is Stage.waiting and named in supervisor.error and REPAIR in supervisor.error

    try:
        await until(look)
    except TimeoutError:
        raise AssertionError([*shown]) from None


OLDER = {
    "the shards": "UPDATE shards SET read_sequence = 100",
    "the documents": "UPDATE documents SET last_sequence = last_sequence - 1, version = version - 1",
}


@pytest.mark.parametrize("table", OLDER)
async def test_a_table_restored_from_an_older_copy_is_detected_before_folding(
    log, live, sql, postgres_dsn, table
):
    await sql.execute(OLDER[table])
    before = await sql.fetch("SELECT document, version, last_sequence FROM documents ORDER BY document")
    store = await PostgresStore.open(postgres_dsn)
    supervisor = Supervisor(ports(log, store), ROOMY)
    task = asyncio.create_task(supervisor.run())
    try:
        await waiting(supervisor, OLDER_SAID[table])
        assert (
            await sql.fetch("SELECT document, version, last_sequence FROM documents ORDER BY document")
            == before
        )
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await store.close()


OLDER_SAID = {
    "the shards": "has been folded further than the checkpoints say",
    "the documents": "are of different commits",
}
