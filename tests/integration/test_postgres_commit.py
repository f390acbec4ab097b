"""Commits when PostgreSQL fails during them, and the resulting tables."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from refold.core.errors import FenceLost, StoreDamaged, StoreError, StoreFull, StoreUnavailable
from refold.store.postgres.commit import STORE_FEW_EVENTS_MAX
from refold.store.postgres.pool import transaction
from support.scribe import NAMESPACE
from support.stores import begin, postgres_stores

COPIED_EVENTS = 450
"""Too many for one statement."""
COPIED_CHARS = 40_000
"""Together 50 MB, more than the sockets hold: Linux lets one grow to 32 MB to receive and to 4 MB to send."""
UNSENT_BYTES = 64 * 1024
WAIT_SECONDS = 20


@pytest.fixture
def clock():
    """A clock that a test advances."""
    return [1_000.0]


@pytest.fixture
async def store(postgres_dsn, clock):
    async with postgres_stores(postgres_dsn, timer=lambda: clock[0]) as open_store:
        yield await open_store()


@pytest.fixture
async def scribe(store):
    return await begin(store)


async def make_trigger(aside, table, body, *, is_deferred=False):
    """Run `body` for every row of a table, or at COMMIT."""
    code = f"BEGIN {body}; RETURN NEW; END"
    await aside.execute(f"CREATE OR REPLACE FUNCTION trip() RETURNS trigger LANGUAGE plpgsql AS $$ {code} $$")
    kind = "CONSTRAINT TRIGGER trip AFTER" if is_deferred else "TRIGGER trip BEFORE"
    deferred = "DEFERRABLE INITIALLY DEFERRED" if is_deferred else ""
    await aside.execute(
        f"CREATE {kind} INSERT OR UPDATE ON {table} {deferred} FOR EACH ROW EXECUTE FUNCTION trip()"
    )


async def drop_trigger(aside, table):
    await aside.execute(f"DROP TRIGGER trip ON {table}")


async def assert_nothing_stored(store, aside):
    assert {checkpoint.read_sequence for checkpoint in await store.checkpoints()} == {0}
    tables = ("documents", "journal", "pages", "rejections", "namespaces")
    counts = [await aside.fetchval(f"SELECT count(*) FROM {table}") for table in tables]
    assert counts == [0] * len(tables)


def publish_some(scribe):
    scribe.put("a", 1)
    scribe.cut("a")
    scribe.put("a", 2)
    scribe.publish("b", b"garbage")


@pytest.mark.parametrize(
    "table", ["shards", "checkpoints", "documents", "journal", "pages", "rejections", "namespaces"]
)
async def test_a_full_disk_is_reported_and_nothing_is_written(store, scribe, aside, table):
    publish_some(scribe)
    commit = scribe.commit()
    await make_trigger(aside, table, "RAISE EXCEPTION USING ERRCODE = '53100'")
    with pytest.raises(StoreFull):
        await store.commit(commit)
    await assert_nothing_stored(store, aside)
    await drop_trigger(aside, table)
    await store.commit(commit)
    assert (await store.head(NAMESPACE, "a")).snapshot.state == b"2"


@pytest.mark.parametrize(
    ("sqlstate", "kind"),
    [
        ("53300", StoreUnavailable),
        ("57P01", StoreUnavailable),
        ("40P01", StoreUnavailable),
        ("XX000", StoreError),
    ],
)
async def test_an_error_of_the_server_keeps_its_code(store, scribe, aside, sqlstate, kind):
    publish_some(scribe)
    await make_trigger(aside, "journal", f"RAISE EXCEPTION USING ERRCODE = '{sqlstate}'")
    with pytest.raises(kind) as raised:
        await store.commit(scribe.commit())
    assert type(raised.value) is kind
    assert raised.value.facts["sqlstate"] == sqlstate
    assert "is_unknown" not in raised.value.facts


async def test_a_connection_lost_before_commit_wrote_nothing_and_is_reported(store, scribe, aside):
    publish_some(scribe)
    commit = scribe.commit()
    await make_trigger(aside, "journal", "PERFORM pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(StoreUnavailable) as raised:
        await store.commit(commit)
    assert "is_unknown" not in raised.value.facts
    await drop_trigger(aside, "journal")
    await assert_nothing_stored(store, aside)
    with pytest.raises((StoreUnavailable, FenceLost)):
        await store.commit(commit)
    assert await store.acquire_lease()
    await store.commit(commit)


async def test_a_connection_lost_while_a_copy_waits_to_send_is_reported(store, scribe, aside):
    for number in range(COPIED_EVENTS):
        scribe.put("a", f"{number}" * COPIED_CHARS)
    commit = scribe.commit()
    await make_trigger(aside, "journal", "PERFORM pg_advisory_lock(1)")
    await aside.execute("SELECT pg_advisory_lock(1)")
    committing = asyncio.create_task(store.commit(commit))
    connection = store._lease._connection
    async with asyncio.timeout(WAIT_SECONDS):
        while connection._transport.get_write_buffer_size() < UNSENT_BYTES:  # noqa: ASYNC110 - it has no event.
            await asyncio.sleep(0.01)
        await aside.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
        with pytest.raises(StoreUnavailable) as raised:
            await committing
    assert "is_unknown" not in raised.value.facts
    await aside.execute("SELECT pg_advisory_unlock(1)")
    await drop_trigger(aside, "journal")
    await assert_nothing_stored(store, aside)
    assert await store.acquire_lease()
    await store.commit(commit)


async def test_a_connection_lost_during_commit_is_reported_as_unknown(store, scribe, aside):
    publish_some(scribe)
    commit = scribe.commit()
    await make_trigger(
        aside, "checkpoints", "PERFORM pg_terminate_backend(pg_backend_pid())", is_deferred=True
    )
    with pytest.raises(StoreUnavailable) as raised:
        await store.commit(commit)
    assert raised.value.facts["is_unknown"] is True
    await drop_trigger(aside, "checkpoints")
    await assert_nothing_stored(store, aside)
    assert await store.acquire_lease()
    await store.commit(commit)


@pytest.fixture
async def small(store, scribe, clock):
    """Return a commit that one statement writes, because the last one waited for the disk."""
    scribe.put("a", 1)
    await store.commit(scribe.commit())
    scribe.put("a", 2)
    scribe.put("b", 2)
    return scribe.commit()


async def assert_small_is_absent(store, aside):
    assert (await store.head(NAMESPACE, "a")).snapshot.state == b"1"
    assert await store.head(NAMESPACE, "b") is None
    assert {checkpoint.read_sequence for checkpoint in await store.checkpoints()} == {1}
    counts = [await aside.fetchval(f"SELECT count(*) FROM {table}") for table in ("documents", "journal")]
    assert counts == [1, 1]


@pytest.mark.parametrize("table", ["shards", "checkpoints", "documents", "journal", "namespaces"])
@pytest.mark.parametrize("is_deferred", [False, True])
async def test_a_failed_statement_writes_nothing_and_is_reported(store, small, aside, table, is_deferred):
    await make_trigger(aside, table, "RAISE EXCEPTION USING ERRCODE = '53100'", is_deferred=is_deferred)
    with pytest.raises(StoreFull) as raised:
        await store.commit(small)
    assert "is_unknown" not in raised.value.facts
    await assert_small_is_absent(store, aside)
    await drop_trigger(aside, table)
    await store.commit(small)
    assert (await store.head(NAMESPACE, "b")).snapshot.state == b"2"


@pytest.mark.parametrize("is_deferred", [False, True])
async def test_a_statement_with_a_lost_connection_may_be_committed(store, small, aside, is_deferred):
    end = "PERFORM pg_terminate_backend(pg_backend_pid())"
    await make_trigger(aside, "journal", end, is_deferred=is_deferred)
    with pytest.raises(StoreUnavailable) as raised:
        await store.commit(small)
    assert raised.value.facts["is_unknown"] is True
    await drop_trigger(aside, "journal")
    await assert_small_is_absent(store, aside)
    assert await store.acquire_lease()
    await store.commit(small)


async def test_a_statement_that_finds_a_missing_document_writes_nothing(store, small, aside):
    await aside.execute("DELETE FROM documents")
    with pytest.raises(StoreError, match="0 of 1"):
        await store.commit(small)
    assert await store.head(NAMESPACE, "b") is None
    assert {checkpoint.read_sequence for checkpoint in await store.checkpoints()} == {1}


async def test_a_cancelled_commit_writes_nothing_and_the_store_continues(store, scribe, aside):
    publish_some(scribe)
    commit = scribe.commit()
    async with aside.transaction():
        await aside.execute("LOCK TABLE journal IN ACCESS EXCLUSIVE MODE")
        committing = asyncio.create_task(store.commit(commit))
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'journal'::regclass"
        async with asyncio.timeout(10):
            while not await aside.fetchval(waiting):
                pass
        committing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await committing
    await assert_nothing_stored(store, aside)
    assert await store.acquire_lease()
    await store.commit(commit)
    assert (await store.head(NAMESPACE, "a")).snapshot.state == b"2"


async def test_a_commit_waits_for_the_disk_at_least_once_a_second(store, scribe, aside, clock):
    await aside.execute("CREATE TABLE seen (at serial, synchronous text)")
    note = "INSERT INTO seen (synchronous) VALUES (current_setting('synchronous_commit'))"
    await make_trigger(aside, "shards", note)
    for seconds in (0, 0.4, 0.4, 0.4, 0.9, 0.2, 60):
        clock[0] += seconds
        await store.commit(scribe.commit())
    seen = [row[0] for row in await aside.fetch("SELECT synchronous FROM seen ORDER BY at")]
    assert seen == ["on", "off", "off", "on", "off", "on", "on"]


async def test_after_a_failed_commit_the_next_one_waits_for_the_disk(store, scribe, aside, clock):
    await aside.execute("CREATE TABLE seen (synchronous text)")
    await make_trigger(aside, "shards", "RAISE EXCEPTION USING ERRCODE = '53100'")
    with pytest.raises(StoreFull):
        await store.commit(scribe.commit())
    await drop_trigger(aside, "shards")
    await make_trigger(aside, "shards", "INSERT INTO seen VALUES (current_setting('synchronous_commit'))")
    await store.commit(scribe.commit())
    assert await aside.fetchval("SELECT DISTINCT synchronous FROM seen") == "on"


async def test_each_entry_is_in_the_journal_or_in_one_page(store, scribe, aside):
    for number in range(23):
        scribe.put("a", number)
        scribe.put("b", number)
        if number % 5 == 2:
            scribe.cut("a")
        if number % 7 == 3:
            await store.commit(scribe.commit())
    await store.commit(scribe.commit())
    pages = await aside.fetch("SELECT * FROM pages WHERE document = 'a' ORDER BY last_sequence")
    assert [page["events"] for page in pages] == [3, 8, 13, 18, 23]
    assert [page["version"] for page in pages] == [3, 8, 13, 18, 23]
    assert await aside.fetchval("SELECT count(*) FROM journal WHERE document = 'a'") == 0
    assert await aside.fetchval("SELECT count(*) FROM journal WHERE document = 'b'") == 23
    assert await aside.fetchval("SELECT count(*) FROM pages WHERE document = 'b'") == 0


@pytest.mark.parametrize("is_whole", [False, True])
async def test_a_page_whose_events_the_journal_lacks_is_an_error_that_names_the_document(
    store, scribe, aside, is_whole
):
    """Also where another document has as many rows too many."""
    for number in range(3):
        scribe.put("a", number)
        scribe.put("b", number)
    await store.commit(scribe.commit())
    await aside.execute("UPDATE journal SET document = 'b' WHERE document = 'a' AND version = 2")
    before = await aside.fetch("SELECT * FROM journal ORDER BY sequence")
    for document in ("a", "b"):
        scribe.put(document, 3)
        scribe.cut(document, is_whole=is_whole)
    with pytest.raises(StoreDamaged, match="shop/a: the journal lacks events of it"):
        await store.commit(scribe.commit())
    assert await aside.fetch("SELECT * FROM journal ORDER BY sequence") == before
    assert await aside.fetchval("SELECT count(*) FROM pages") == 0


async def test_rows_that_every_commit_changes_stay_on_their_pages(store, scribe, aside):
    """No row moves, so no index row is added and the table does not grow."""
    seen = set()
    for number in range(5):
        for document in range(STORE_FEW_EVENTS_MAX + 1):
            scribe.put(f"d{document}", [number, "x" * 2_000])
        await store.commit(scribe.commit())
        rows = await aside.fetch("SELECT (ctid::text::point)[0] FROM documents ORDER BY document")
        seen.add(tuple(row[0] for row in rows))
    assert len(seen) == 1


async def test_only_states_of_more_than_4_kb_are_compressed(store, scribe, aside):
    """Both where a row is new and where it is copied through the temporary table."""
    for _ in range(2):
        for kilobytes in (2, 4, 6):
            scribe.put(f"d{kilobytes}", "x" * (kilobytes * 1024 - 2))
        for number in range(STORE_FEW_EVENTS_MAX):
            scribe.put("others", number)
        await store.commit(scribe.commit())
        found = await aside.fetch(
            "SELECT document, pg_column_compression(state) FROM documents WHERE document ~ '^d' ORDER BY 1"
        )
        assert [tuple(row) for row in found] == [("d2", None), ("d4", None), ("d6", "pglz")]


async def test_the_state_is_stored_in_its_canonical_bytes(store, scribe, aside):
    scribe.publish("a", b'{ "put": {"b":1.50, "a":"\\u0041\\u0000", "c":1e400} }')
    scribe.publish("a", b'{ "put": {"b":1.50, "a":"\\u0041\\u0000", "c":null} }')
    await store.commit(scribe.commit())
    assert await aside.fetchval("SELECT state::text FROM documents") == '{"a":"A\\u0000","b":1.5,"c":null}'


async def test_a_transaction_cancelled_during_begin_is_not_left_open(aside):
    async def begin_one():
        async with transaction(aside):
            pytest.fail("it has started_at already")

    beginning = asyncio.create_task(begin_one())
    # Now BEGIN has been sent, and its response has not been read.
    await asyncio.sleep(0)
    beginning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beginning
    assert aside.is_closed()


async def test_a_document_that_is_committed_between_two_statements_of_a_read_is_not_damaged(
    store, scribe, monkeypatch
):
    scribe.put("new", 1)
    commit, lend = scribe.commit(), store._pool.lend

    class CommittingAfter:
        """A connection; the commit follows its first statement."""

        def __init__(self, connection):
            self._connection = connection

        async def fetchrow(self, *asked):
            row = await self._connection.fetchrow(*asked)
            monkeypatch.undo()
            await store.commit(commit)
            self.fetchrow = self._connection.fetchrow
            return row

        def __getattr__(self, name):
            return getattr(self._connection, name)

    @asynccontextmanager
    async def lend_one():
        async with lend() as connection:
            yield CommittingAfter(connection)

    monkeypatch.setattr(store._pool, "lend", lend_one)
    segments = store.segments(NAMESPACE, "new", after_version=0, is_descending=False)
    assert [[entry.version for entry in segment.entries] async for segment in segments] == [[1]]
