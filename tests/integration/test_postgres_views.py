"""Access by SQL: one view per namespace, and a role that may read only the views."""

from __future__ import annotations

from itertools import count

import asyncpg
import pytest

from refold.core.timestamp import format_time
from support.scribe import SECOND
from support.sources import ROOT
from support.stores import HOSTILE, begin, postgres_stores

READER = (ROOT / "infra" / "postgres" / "reader.sql").read_text()
ODD = "a:=@+~-_Z9"
LONG = "n" * 128
HOSTILE_NAMES = (None, "", " ", "a b", "é", "a\nb", "a';DROP TABLE documents--", 'a"b', "a.b", "x" * 129)
FORBIDDEN = (
    "UPDATE refold_views.shop SET version = 9",
    "INSERT INTO refold_views.shop (document, version) VALUES ('x', 1)",
    "DELETE FROM refold_views.shop",
    "DROP VIEW refold_views.shop",
    "UPDATE refold.documents SET version = 9",
    "TRUNCATE refold.documents",
    "CREATE TABLE refold_views.mine (n int)",
    "CREATE TABLE public.mine (n int)",
    "CREATE TABLE refold.mine (n int)",
    "CREATE TEMPORARY TABLE mine (n int)",
    "CREATE SCHEMA mine",
    "SELECT refold.create_view('other')",
    "SELECT refold.drop_view('shop')",
    "SELECT refold.recreate_views()",
    "SELECT refold.refold_jsonb('1')",
    "SELECT refold.refold_wait(1)",
)
_numbers = count(1)


@pytest.fixture
async def aside(postgres_dsn):
    """Connect as the role that owns the tables, without a search path."""
    connection = await asyncpg.connect(postgres_dsn, server_settings={"search_path": "pg_temp"})
    yield connection
    await connection.close()


@pytest.fixture
async def filled(postgres_dsn):
    """Write two namespaces, one with an unusual name, and states that jsonb cannot hold."""
    async with postgres_stores(postgres_dsn) as open_store:
        yield await fill(await open_store())


async def fill(store):
    scribe = await begin(store)
    scribe.put("plain", {"n": 1})
    scribe.publish("plain", {"put": {"n": 2, "f": 1.0}, "occurred_at": format_time(123_456_789_987)})
    scribe.put("hostile", HOSTILE)
    scribe.put("null", None)
    scribe.put("gone", 1)
    scribe.publish("gone", {"delete": True})
    scribe.put("odd", 7, namespace=ODD)
    scribe.put("long", 8, namespace=LONG)
    await store.commit(scribe.commit())
    return scribe


async def rows(connection, query):
    return [dict(row) for row in await connection.fetch(query)]


async def test_a_view_shows_a_namespaces_present_documents(filled, aside):
    assert await aside.fetchval("SELECT refold.create_view('shop')") == "refold_views.shop"
    found = await rows(aside, "SELECT * FROM refold_views.shop ORDER BY document")
    assert [row["document"] for row in found] == ["hostile", "null", "plain"]
    plain = found[2]
    snapshot = filled.snapshots["shop", "plain"][-1]
    assert (plain["version"], plain["sequence"], plain["recorded_at_ns"]) == (
        snapshot.version,
        snapshot.sequence,
        snapshot.recorded_at,
    )
    assert plain["recorded_at"].timestamp() == snapshot.recorded_at // SECOND
    assert plain["occurred_at"].isoformat() == "1970-01-01T00:02:03.456789+00:00"
    assert (plain["state"], plain["state_json"]) == ('{"f": 1.0, "n": 2}', '{"f":1.0,"n":2}')
    assert found[1]["state"] == found[1]["state_json"] == "null"
    by_content = "SELECT document FROM refold_views.shop WHERE state @> '{\"n\": 2}' OR state ? 'a\"'"
    assert await rows(aside, by_content) == [{"document": "plain"}]


async def test_a_state_that_jsonb_cannot_hold_is_null_as_jsonb_and_exact_as_json(filled, aside):
    await aside.execute("SELECT refold.create_view('shop')")
    found = await aside.fetchrow("SELECT state, state_json FROM refold_views.shop WHERE document = 'hostile'")
    assert found["state"] is None
    assert found["state_json"].encode() == filled.snapshots["shop", "hostile"][-1].state


async def test_a_view_can_be_replaced_named_and_dropped(filled, aside):
    for _ in range(2):
        assert await aside.fetchval("SELECT refold.create_view($1)", ODD) == f'refold_views."{ODD}"'
    assert await aside.fetchval("SELECT refold.create_view($1, $2)", ODD, "'; \"") == 'refold_views."\'; """'
    for name in (f'"{ODD}"', '"\'; """'):
        assert await rows(aside, f"SELECT state FROM refold_views.{name}") == [{"state": "7"}]
    await aside.execute("SELECT refold.drop_view($1)", ODD)
    with pytest.raises(asyncpg.UndefinedTableError):
        await aside.execute("SELECT refold.drop_view($1)", ODD)
    views = await rows(aside, "SELECT viewname FROM pg_views WHERE schemaname = 'refold_views'")
    assert views == [{"viewname": "'; \""}]


async def test_an_invalid_namespace_creates_no_view(filled, aside):
    for namespace in HOSTILE_NAMES:
        with pytest.raises(asyncpg.InvalidParameterValueError, match="A-Z a-z 0-9"):
            await aside.execute("SELECT refold.create_view($1)", namespace)
    assert await aside.fetchval("SELECT count(*) FROM refold.documents") == 6


async def test_a_view_name_that_is_not_valid_is_refused_with_the_rule(filled, aside):
    for arguments in (("n" * 64,), ("shop", "é" * 32), ("shop", "")):
        places = ", ".join(f"${number + 1}" for number in range(len(arguments)))
        with pytest.raises(asyncpg.NameTooLongError, match="63 bytes"):
            await aside.execute(f"SELECT refold.create_view({places})", *arguments)
    assert await aside.fetchval("SELECT refold.create_view($1, 'short')", LONG) == "refold_views.short"


async def test_create_view_of_an_unknown_namespace_is_refused(filled, aside):
    with pytest.raises(asyncpg.UndefinedObjectError, match="there is no namespace nope"):
        await aside.execute("SELECT refold.create_view('nope')")
    assert await aside.fetchval("SELECT to_regclass('refold_views.nope')") is None


async def test_foreign_objects_in_the_views_schema_are_not_replaced_or_dropped(filled, aside):
    await aside.execute("SELECT refold.create_view('shop')")
    await aside.execute("CREATE VIEW refold_views.mine AS SELECT document FROM refold_views.shop")
    with pytest.raises(asyncpg.DuplicateTableError):
        await aside.execute("SELECT refold.create_view('shop', 'mine')")
    for name in ("mine", "never", "n" * 200):
        with pytest.raises(asyncpg.UndefinedTableError):
            await aside.execute("SELECT refold.drop_view($1)", name)
    with pytest.raises(asyncpg.DependentObjectsStillExistError):
        await aside.execute("SELECT refold.drop_view('shop')")


async def test_a_rebuilt_projection_keeps_the_views_with_their_grants(filled, aside, postgres_dsn):
    role = await made_role(aside)
    await aside.execute(f"SELECT refold.create_view('shop'); SELECT refold.create_view('{ODD}', 'odd')")
    await aside.execute("ALTER VIEW refold_views.odd SET (security_barrier = true)")
    await aside.execute(f"GRANT SELECT ON refold_views.shop TO {role}")
    await aside.execute("CREATE VIEW refold_views.mine AS SELECT state FROM refold_views.shop")
    async with postgres_stores(postgres_dsn, schema="fresh") as open_store:
        store = await open_store()
        scribe = await begin(store)
        scribe.put("rebuilt", {"n": 3})
        await store.commit(scribe.commit())
    await aside.execute(
        "BEGIN; ALTER SCHEMA refold RENAME TO refold_before; ALTER SCHEMA fresh RENAME TO refold; "
        "SELECT refold.recreate_views(); COMMIT"
    )
    await aside.execute("DROP SCHEMA refold_before CASCADE")
    assert await rows(aside, "SELECT document FROM refold_views.shop") == [{"document": "rebuilt"}]
    assert await rows(aside, "SELECT state FROM refold_views.mine") == [{"state": '{"n": 3}'}]
    assert await rows(aside, "SELECT document FROM refold_views.odd") == []
    options = "SELECT reloptions FROM pg_class WHERE oid = 'refold_views.odd'::regclass"
    assert await aside.fetchval(options) == ["security_barrier=true"]
    assert await aside.fetchval("SELECT has_table_privilege($1, 'refold_views.shop', 'SELECT')", role)
    assert await aside.fetchval("SELECT refold.recreate_views()") == 2
    await aside.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_schemas_have_views_of_their_own(filled, aside, postgres_dsn):
    async with postgres_stores(postgres_dsn, schema="again") as open_store:
        store = await open_store()
        scribe = await begin(store)
        scribe.put("alone", 1)
        await store.commit(scribe.commit())
        assert await aside.fetchval("SELECT again.create_view('shop')") == "again_views.shop"
        await aside.execute("SELECT refold.create_view('shop')")
        counts = "SELECT (SELECT count(*) FROM again_views.shop), (SELECT count(*) FROM refold_views.shop)"
        assert tuple(await aside.fetchrow(counts)) == (1, 3)


async def test_the_reader_reads_the_views_and_nothing_else(aside, postgres_dsn):
    """The tables belong to a role that is not a superuser."""
    database = await aside.fetchval("SELECT current_database()")
    owner = await made_role(aside)
    await aside.execute(
        f"REVOKE ALL ON DATABASE {database} FROM PUBLIC; ALTER DATABASE {database} OWNER TO {owner}"
    )
    async with postgres_stores(as_user(postgres_dsn, owner)) as open_store:
        scribe = await fill(await open_store())
    await aside.execute("SELECT refold.create_view('shop')")
    for _ in range(2):
        await aside.execute(READER)
    await aside.execute("SELECT refold.create_view($1)", ODD)
    role = await made_role(aside, "IN ROLE refold_reader")
    reader = await asyncpg.connect(as_user(postgres_dsn, role))
    try:
        found = await reader.fetch("SELECT document, state, state_json FROM refold_views.shop ORDER BY 1")
        assert [row["document"] for row in found] == ["hostile", "null", "plain"]
        assert found[0]["state"] is None
        assert found[0]["state_json"].encode() == scribe.snapshots["shop", "hostile"][-1].state
        assert await reader.fetchval(f'SELECT state FROM refold_views."{ODD}"') == "7"
        await reader.execute("SELECT refold_views.refold_wait($1::bigint)", scribe.sequence)
        with pytest.raises(asyncpg.QueryCanceledError, match=f"committed {scribe.sequence}, not"):
            await reader.execute("SELECT refold_views.refold_wait($1::bigint, 0)", scribe.sequence + 1)
        for statement in [*FORBIDDEN, *(f"SELECT * FROM refold.{table}" for table in await tables(aside))]:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await reader.execute(statement)
    finally:
        await reader.close()
        for name in (role, "refold_reader", owner):
            await aside.execute(
                f"REASSIGN OWNED BY {name} TO CURRENT_USER; DROP OWNED BY {name}; DROP ROLE {name}"
            )


async def test_a_wait_in_a_transaction_that_sees_no_later_commit_is_refused(filled, aside):
    for isolation in ("repeatable_read", "serializable"):
        async with aside.transaction(isolation=isolation):
            with pytest.raises(asyncpg.InvalidTransactionStateError, match="does not see later commits"):
                await aside.execute("SELECT refold.refold_wait(1)")
    for arguments in ("NULL", "1, NULL"):
        with pytest.raises(asyncpg.NullValueNotAllowedError):
            await aside.execute(f"SELECT refold.refold_wait({arguments})")


async def test_an_index_through_refold_jsonb_serves_the_view(filled, aside):
    await aside.execute("SELECT refold.create_view('shop')")
    await aside.execute(
        "CREATE INDEX by_state ON refold.documents "
        "USING gin (refold.refold_jsonb(state) jsonb_path_ops) WHERE namespace = 'shop'; "
        # Of so few rows the planner would rather read the table, or the key.
        "ALTER TABLE refold.documents DROP CONSTRAINT documents_pkey; SET enable_seqscan = off"
    )
    question = "EXPLAIN SELECT document FROM refold_views.shop WHERE state @> '{\"n\": 2}'"
    assert "by_state" in str(await aside.fetch(question))
    await aside.execute("ALTER VIEW refold_views.shop SET (security_barrier)")
    assert "Index Cond: (refold_jsonb" not in str(await aside.fetch(question))


async def made_role(connection, options=""):
    name = f"role_{next(_numbers)}"
    await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'reader' {options}")
    return name


def as_user(dsn, user):
    scheme, _, rest = dsn.partition("://")
    return f"{scheme}://{user}:reader@{rest.rpartition('@')[2]}"


async def tables(connection):
    found = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'refold'")
    return [row["tablename"] for row in found]
