"""`verify` compares a real projection with its log and reports exactly the damaged rows."""

from __future__ import annotations

import asyncpg
import pytest

from refold.audit.verify import Listener, Scope, verify
from refold.log.memory import MemoryLog
from refold.store.memory import MemoryStore
from refold.store.postgres import PostgresStore
from refold.store.postgres.states import StateLag
from support.encrypted import encryption
from support.projection import append, ports, projecting

PAGED = 300
"""Events for two closed pages and some in the journal."""

FIRST_PAGE = 127
"""Events in the first page of the document `long`, by its partition."""
SECOND_PAGE = FIRST_PAGE + 128


CONTESTED = 311
"""The sequence of a rejected event that is resolved; the next one is open."""
LAST = CONTESTED + 2


async def fill(log: MemoryLog) -> None:
    """Publish events that leave a row in every table."""
    for number in range(PAGED):
        await append(log, "long", {"merge": {"n": number}, "id": f"e{number % 290}"})
    await append(log, "short", {"put": {"text": "a\u0000b"}, "actor": "ann"})
    await append(log, "short", {"put": 1, "base": 7, "id": "early"})
    await append(log, "é/gone.js", {"put": [1]})
    await append(log, "é/gone.js", {"delete": True})
    await append(log, "other", {"put": 1.5}, namespace="m")
    await append(log, "refused", b"no event")
    await append(log, "reserved", {"put": 1}, namespace="_mine")
    for event in ({"put": 1}, {"put": 2}, *[{"put": 3, "base": 1, "on_conflict": "custom:x"}] * 2):
        await append(log, "disputed", event)
    await append(log, "disputed", {"put": 3, "resolves": CONTESTED})


async def lag(log: MemoryLog, store: PostgresStore) -> None:
    """Change a document for several versions so that its row keeps the older state."""
    store.flusher._bounds = StateLag(bytes_min=0, seconds=3_600)
    async with projecting(ports(log, store)) as running:
        for number in range(1, 6):
            await running.committed(await append(log, "lags", {"merge": {"n": number}}))


OLDER_STATES = {
    "a state that lags": ("UPDATE documents SET state = '{\"n\":2}' WHERE document = 'lags'", "state"),
    "a version later": ("UPDATE documents SET state_version = 2 WHERE document = 'lags'", "state"),
    "no version": ("UPDATE documents SET state_version = NULL WHERE document = 'lags'", "state"),
    "version 0": ("UPDATE documents SET state_version = 0 WHERE document = 'lags'", "state_version"),
    "the newest version": ("UPDATE documents SET state_version = 5 WHERE document = 'lags'", "state_version"),
    "a version to come": ("UPDATE documents SET state_version = 9 WHERE document = 'lags'", "state_version"),
    "of one that does not lag": ("UPDATE documents SET state_version = 1 WHERE document = 'long'", "state"),
}


async def test_an_older_state_is_compared_at_its_own_version(log, projected, sql):
    await lag(log, projected)
    row = await sql.fetchrow(
        "SELECT version, state::text, state_version FROM documents WHERE document = 'lags'"
    )
    assert tuple(row) == (5, '{"n":1}', 1)
    assert (await verified(log, projected))[1] == []
    await sql.execute("CREATE TABLE public.saved AS TABLE documents")
    for damage, (statement, field) in OLDER_STATES.items():
        await sql.execute(statement)
        assert [each[2:] for each in (await verified(log, projected))[1]] == [("document", field)], damage
        await sql.execute("TRUNCATE documents; INSERT INTO documents SELECT * FROM public.saved")
    assert (await verified(log, projected))[1] == []


@pytest.fixture
async def log():
    """Make the same log for every test of this module."""
    made = MemoryLog("log-1")
    await fill(made)
    return made


@pytest.fixture
async def projected(log, postgres_dsn):
    """Project the log to PostgreSQL."""
    store = await PostgresStore.open(postgres_dsn, readers_max=2)
    async with projecting(ports(log, store)) as running:
        await running.committed((await log.info()).last_sequence)
    yield store
    await store.close()


@pytest.fixture
async def sql(postgres_dsn, projected):
    """Open a connection that damages the projection."""
    connection = await asyncpg.connect(postgres_dsn, server_settings={"search_path": "refold"})
    yield connection
    await connection.close()


async def verified(log, store, namespace=None, document=None):
    """Verify, and return the tally with the differences as (document, sequence, part, field)."""
    found = []
    listener = Listener(difference=found.append, progress=lambda _: None)
    tally = await verify(log, store, listener, Scope(namespace=namespace, document=document))
    assert tally.differences == len(found)
    return tally, [(each.document, each.sequence, each.part, each.field) for each in found]


async def test_an_undamaged_projection_has_no_differences_on_both_adapters(log, projected):
    end = (await log.info()).last_sequence
    memory = MemoryStore()
    async with projecting(ports(log, memory)) as running:
        await running.committed(end)
    for store in (projected, memory):
        tally, differences = await verified(log, store)
        assert differences == []
        # The system's own document is one of them; unroutable events count for none.
        assert (tally.documents, tally.events, tally.read_sequence) == (7, end - 1, end)
    assert (await verified(log, projected, "n", "long"))[0].events == PAGED
    assert (await verified(log, projected, "m"))[0].documents == 1


ENCODED = (
    ("documents", "state", "document"),
    ("pages", "snapshot", "page"),
    ("pages", "payload", "page"),
    ("journal", "content", "journal"),
    ("rejections", "content", "rejection"),
)
"""Encrypted columns, and the part that a difference in one names."""


async def test_a_flipped_bit_of_an_encrypted_projection_is_reported(log, postgres_dsn):
    encrypted = {"codec": encryption("log-1"), "is_history_encrypted": True, "are_states_encrypted": True}
    store = await PostgresStore.open(postgres_dsn, readers_max=2, **encrypted)
    sql = await asyncpg.connect(postgres_dsn, server_settings={"search_path": "refold"})
    try:
        async with projecting(ports(log, store)) as running:
            await running.committed((await log.info()).last_sequence)
        assert (await verified(log, store))[1] == []
        names = set()
        for table, column, part in ENCODED:
            values = f"SELECT ctid, document, {column} FROM {table} WHERE {column} IS NOT NULL ORDER BY 2"
            for at, document, value in (await sql.fetch(values))[:3]:
                update = f"UPDATE {table} SET {column} = $2 WHERE ctid = $1 RETURNING ctid"
                moved = await sql.fetchval(update, at, flipped(value))
                found = (await verified(log, store))[1]
                assert (document, part, "content") in [(each[0], *each[2:]) for each in found], found
                await sql.execute(update, moved, value)
                names.add((part, bool(document)))
        assert {("rejection", True), ("rejection", False)} <= names
        assert (await verified(log, store))[1] == []
    finally:
        await sql.close()
        await store.close()


def flipped(value):
    """Flip a bit: of bytes the last one; of a state, one within its base64."""
    if isinstance(value, bytes):
        return value[:-1] + bytes([value[-1] ^ 1])
    return value[:30] + ("B" if value[30] == "A" else "A") + value[31:]


TABLES = ("checkpoints", "shards", "documents", "journal", "pages", "rejections", "namespaces")

DAMAGES = {
    "a state": (
        "UPDATE documents SET state = '[]' WHERE document = 'long'",
        ["long", None, "document", "state"],
    ),
    "a version": (
        "UPDATE documents SET version = version + 1 WHERE document = 'short'",
        ["short", None, "document", "version"],
    ),
    "a deleted document that is there": (
        "UPDATE documents SET state = '[1]' WHERE document = 'é/gone.js'",
        ["é/gone.js", None, "document", "state"],
    ),
    "a missing row": ("DELETE FROM documents WHERE document = 'short'", ["short", None, "document", "row"]),
    "a row of no document": (
        (
            "INSERT INTO documents SELECT 'n', 'never', 7, version, version_sequence, last_sequence,"
            " last_recorded_at, recorded_at, occurred_at, occurred_max, events, unpaged_events, unpaged_bytes,"
            " page_bytes, size, state FROM documents WHERE document = 'short'"
        ),
        ["never", None, "document", "version"],
    ),
    "a document without anything": (
        (
            "WITH d AS (DELETE FROM documents WHERE document = 'other')"
            " DELETE FROM journal WHERE document = 'other'"
        ),
        ["other", None, "document", "row"],
    ),
    "another event in the journal": (
        """UPDATE journal SET body = '{"put":2.5}' WHERE document = 'other'""",
        ["other", 306, "log", "event"],
    ),
    "a missing event in the journal": (
        "DELETE FROM journal WHERE document = 'é/gone.js' AND sequence = 304",
        ["é/gone.js", 304, "log", "event"],
    ),
    "an event that the log has not": (
        "UPDATE journal SET sequence = 400 WHERE document = 'é/gone.js' AND sequence = 305",
        ["é/gone.js", 400, "log", "event"],
    ),
    "an outcome": (
        "UPDATE journal SET status = 0 WHERE document = 'refused'",
        ["refused", 307, "journal", "status"],
    ),
    "a status that is none": (
        "UPDATE journal SET status = 9 WHERE document = 'refused'",
        ["refused", 307, "journal", "content"],
    ),
    "a recorded time": (
        "UPDATE journal SET recorded_at = recorded_at + 1 WHERE document = 'other'",
        ["other", 306, "log", "event"],
    ),
    "a page's snapshot": (
        f"UPDATE pages SET snapshot = NULL WHERE version = {FIRST_PAGE}",
        ["long", FIRST_PAGE + 1, "page", "state"],
    ),
    "a page's identities": (
        f"UPDATE pages SET identities = '' WHERE version = {FIRST_PAGE}",
        ["long", FIRST_PAGE + 1, "page", "identities"],
    ),
    "a page's content": (
        f"UPDATE pages SET payload = substr(payload, 1, 40) WHERE version = {FIRST_PAGE}",
        ["long", FIRST_PAGE + 1, "page", "content"],
    ),
    "a missing page": (
        f"DELETE FROM pages WHERE version = {SECOND_PAGE}",
        ["long", FIRST_PAGE + 2, "log", "event"],
    ),
    "a missing rejection": (
        "DELETE FROM rejections WHERE document = 'refused'",
        ["refused", 307, "rejection", "row"],
    ),
    "a rejection's reason": (
        "UPDATE rejections SET reason = 'other' WHERE document = 'refused'",
        ["refused", 307, "rejection", "reason"],
    ),
    "a conflict that is not resolved": (
        f"UPDATE rejections SET resolved_by = NULL WHERE sequence = {CONTESTED}",
        ["disputed", CONTESTED, "rejection", "resolved_by"],
    ),
    "a conflict that is resolved by another": (
        f"UPDATE rejections SET resolved_by = 999 WHERE sequence = {CONTESTED}",
        ["disputed", CONTESTED, "rejection", "resolved_by"],
    ),
    "an open conflict that is resolved": (
        f"UPDATE rejections SET resolved_by = {CONTESTED + 2} WHERE sequence = {CONTESTED + 1}",
        ["disputed", CONTESTED + 1, "rejection", "resolved_by"],
    ),
    "a page's conflicts": (
        f"UPDATE pages SET conflicts = 1 WHERE version = {FIRST_PAGE}",
        ["long", FIRST_PAGE + 1, "page", "conflicts"],
    ),
    "another event that made no document": (
        "UPDATE rejections SET body = '{}x' WHERE document = ''",
        ["", 308, "log", "event"],
    ),
    "a chain": (
        "UPDATE checkpoints SET chain = 'x' WHERE partition = 1",
        ["", None, "checkpoint", "partition 1 chain"],
    ),
    "a count": (
        "UPDATE namespaces SET events = events + 1 WHERE namespace = 'm'",
        ["", None, "namespace", "counts"],
    ),
}


async def test_every_damage_is_reported(log, projected, sql):
    await sql.execute("CREATE SCHEMA saved")
    for table in TABLES:
        await sql.execute(f"CREATE TABLE saved.{table} AS TABLE {table}")
    for damage, (statement, expected) in DAMAGES.items():
        await sql.execute(statement)
        _, differences = await verified(log, projected)
        assert tuple(expected) in differences, damage
        # Consequences in the same document or in counts are reported too, and nothing else.
        assert {each[0] for each in differences} <= {expected[0], ""}, damage
        for table in TABLES:
            await sql.execute(f"TRUNCATE {table}; INSERT INTO {table} SELECT * FROM saved.{table}")
    assert (await verified(log, projected))[1] == []


async def test_damage_outside_the_scope_is_not_reported(log, projected, sql):
    await sql.execute("DELETE FROM documents WHERE document = 'short'")
    assert (await verified(log, projected, "n", "long"))[1] == []
    assert (await verified(log, projected, "m"))[1] == []
    assert (await verified(log, projected, "n", "short"))[1] == [("short", None, "document", "row")]


async def test_an_event_that_differs_from_the_folded_one_is_reported(log, projected):
    forged = await log.get(306)
    log._records[305] = forged._replace(body=b'{"put":2}')
    differences = (await verified(log, projected))[1]
    assert ("other", 306, "log", "event") in differences
    assert {each[3].split()[-1] for each in differences if each[2] == "checkpoint"} == {"chain"}


async def test_a_projection_ahead_of_its_log_is_reported_without_further_comparison(log, projected):
    del log._records[300:]
    assert (await verified(log, projected))[1] == [("", LAST, "log", "last_sequence")]


async def test_later_writes_do_not_affect_a_verification(log, projected, sql):
    """Damage and events after the beginning are not in the read snapshot."""
    started_at = []

    def damage_later(tally):
        if not started_at:
            started_at.append(tally.end_sequence)
            log._records.append(log._records[-1]._replace(sequence=LAST + 1))

    listener = Listener(difference=lambda each: pytest.fail(str(each)), progress=damage_later)
    await verify(log, projected, listener, Scope())
    assert started_at == [LAST]
