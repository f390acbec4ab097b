"""What an encrypted store has on its disk, and what it answers where a key is wrong or a row is damaged."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from refold.core.errors import Refused, StoreDamaged, StoreDiffers
from refold.store.layers import RowCodec
from refold.store.layers.compression import Compression
from refold.store.layers.encryption import Encryption
from refold.store.ports import SnapshotStore, Unreadable
from refold.store.sqlite import SqliteStore
from support.encrypted import ONE, TWO, encryption, keyring
from support.redis_servers import redis_binary, running_redis, valkey_binary
from support.scribe import NAMESPACE, Scribe
from support.stores import LOG_ID, all_entries, begin, postgres_stores, redis_stores

CANARY = "canary-5f2c81"
VALUES = (
    ("documents", "state"),
    ("journal", "entry"),
    ("pages", "snapshot"),
    ("pages", "payload"),
    ("rejections", "content"),
)
"""The columns whose values are encrypted."""


@asynccontextmanager
async def _opened(folder: Path, codec: RowCodec) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(folder, codec=codec)
    try:
        yield store
    finally:
        await store.close()


def _write(scribe: Scribe) -> None:
    """Publish the canary wherever an author can put one: states, bodies, ids, refused tests, foreign subjects."""
    scribe.publish("d", {"id": CANARY, "put": {CANARY: CANARY, "n": 1}})
    scribe.cut("d")
    scribe.publish("d", {"id": f"{CANARY}-2", "merge": {"m": CANARY}})
    scribe.publish("d", {"patch": [{"op": "test", "path": f"/{CANARY}", "value": CANARY + "!"}]})
    scribe.publish("d", CANARY.encode())
    scribe.publish("d", {"id": CANARY, "put": {}})
    scribe.publish_nowhere(f"elsewhere.{CANARY}".encode(), CANARY.encode())


def _holds_canary(folder: Path) -> bool:
    return any(CANARY.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("compression", [Compression(), Compression(bytes_min=0)])
async def test_no_content_is_on_the_disk_of_an_encrypted_store(
    tmp_path: Path, compression: Compression
) -> None:
    for name, codec in (("plain", compression), ("encrypted", Encryption(compression, keyring(), LOG_ID))):
        async with _opened(tmp_path / name, codec) as store:
            scribe = await begin(store)
            _write(scribe)
            await store.commit(scribe.commit())
            # While it is open, the content is in the write-ahead log, too.
            assert _holds_canary(tmp_path / name) == (name == "plain")
        assert _holds_canary(tmp_path / name) == (name == "plain")


async def test_no_content_is_in_the_append_only_file_of_an_encrypted_redis() -> None:
    for codec, is_plain in ((Compression(), True), (encryption(LOG_ID), False)):
        with running_redis(redis_binary() or valkey_binary(), "--appendonly", "yes") as server:
            async with redis_stores(server.url, codec=codec) as open_store:
                scribe = await begin(store := await open_store())
                _write(scribe)
                await store.commit(scribe.commit())
                assert (await store.head(NAMESPACE, "d")) is not None
                assert _holds_canary(server.folder) == is_plain


HISTORY: dict[str, Any] = {"codec": encryption(LOG_ID), "is_history_encrypted": True}
ALL: dict[str, Any] = HISTORY | {"are_states_encrypted": True}


@pytest.fixture
async def tables(postgres_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect as an SQL client does."""
    connection = await asyncpg.connect(postgres_dsn, server_settings={"search_path": "refold"})
    yield connection
    await connection.close()


@pytest.mark.parametrize("options", [HISTORY, ALL], ids=["history", "all"])
async def test_no_encrypted_content_is_in_the_tables_of_postgres(
    postgres_dsn: str, tables: asyncpg.Connection, options: dict[str, Any]
) -> None:
    async with postgres_stores(postgres_dsn, **options) as open_store:
        scribe = await begin(store := await open_store())
        _write(scribe)
        scribe.put("large", {CANARY: "x"})
        await store.commit(scribe.commit())
        # The last version of one document is only in the journal, until its state is written.
        scribe.publish("d", {"put": {}})
        scribe.put("large", {CANARY: "y" * 1_000})
        await store.commit(scribe.commit(omitted=["large"]))
        await store.flush_states(is_final=True)
        assert not await tables.fetch("SELECT FROM documents WHERE state_version IS NOT NULL")
        assert (await store.head(NAMESPACE, "large")).snapshot == scribe.snapshots[NAMESPACE, "large"][-1]
    for table in ("pages", "journal", "rejections", "documents"):
        rows = await tables.fetch(f"SELECT * FROM {table}")
        assert rows
        held = b"".join(
            value if isinstance(value, bytes) else str(value).encode() for row in rows for value in row
        )
        assert (CANARY.encode() in held) == (table == "documents" and options is HISTORY), table


async def test_states_of_both_settings_are_read_together_but_not_by_sql(
    postgres_dsn: str, tables: asyncpg.Connection
) -> None:
    async def found(store: SnapshotStore, where: str | None, prefix: str = "") -> list[bytes | None]:
        page = await store.list_documents(NAMESPACE, prefix=prefix, where=where, limit=10, cursor=None)
        return [head.snapshot.state for head in page.heads]

    async with postgres_stores(postgres_dsn) as open_store:
        scribe = await begin(plain := await open_store(**HISTORY))
        scribe.put("a", {"n": 1})
        # What an author writes is never taken for an encrypted state.
        scribe.put("b", "encrypted:AAAA")
        await plain.commit(scribe.commit())
        await plain.close()
        encrypting = await open_store(**ALL)
        await encrypting.bind(LOG_ID)
        assert await encrypting.acquire_lease()
        scribe.put("z", {"n": 1})
        await encrypting.commit(scribe.commit())
        for store in (plain := await open_store(**HISTORY), encrypting):
            assert await found(store, None) == [b'{"n":1}', b'"encrypted:AAAA"', b'{"n":1}']
        assert await found(plain, "$.n == 1", "a") == [b'{"n":1}']
        for store, prefix in ((plain, ""), (plain, "z"), (encrypting, "a")):
            with pytest.raises(Refused, match="REFOLD_ENCRYPT=history and run `refold rebuild`") as refused:
                await found(store, "$.n == 1", prefix)
            assert (refused.value.reason, refused.value.field) == ("store_encrypted", "where")
    await tables.execute(f"SELECT create_view('{NAMESPACE}')")
    assert await tables.fetchval("SELECT count(*) FROM refold_views.shop WHERE version = 1") == 3
    for column in ("state", "state_json"):
        rows = await tables.fetch(
            f"SELECT {column} FROM refold_views.shop WHERE document < 'c' ORDER BY document"
        )
        assert [json.loads(row[0]) for row in rows] == [{"n": 1}, "encrypted:AAAA"]
        with pytest.raises(asyncpg.PostgresError, match="REFOLD_ENCRYPT=all"):
            await tables.fetch(f"SELECT document FROM refold_views.shop WHERE {column} ->> 'n' = '1'")


async def test_an_index_on_encrypted_states_is_refused(postgres_dsn: str, tables: asyncpg.Connection) -> None:
    async with postgres_stores(postgres_dsn) as open_store:
        await open_store()
        await tables.execute("CREATE INDEX theirs ON documents USING gin (refold_jsonb(state))")
        await open_store(**HISTORY)
        with pytest.raises(StoreDiffers, match="REFOLD_ENCRYPT=all") as raised:
            await open_store(**ALL)
        assert raised.value.facts == {"indexes": ["theirs"]}


async def test_a_changed_or_moved_state_is_found(postgres_dsn: str, tables: asyncpg.Connection) -> None:
    async with postgres_stores(postgres_dsn, **ALL) as open_store:
        scribe = await begin(store := await open_store())
        for document in ("a", "b", "c"):
            scribe.put(document, {"n": 1})
        await store.commit(scribe.commit())
        await tables.execute(
            "UPDATE documents SET state = (SELECT o.state FROM documents AS o WHERE o.document = 'b') "
            "WHERE document = 'a'; "
            """UPDATE documents SET state = ' "encrypted"' WHERE document = 'c'"""
        )
        for document in ("a", "c"):
            with pytest.raises(StoreDamaged, match=document):
                await store.head(NAMESPACE, document)
        async with store.read_snapshot() as moment:
            items = [item async for item in moment.items(None, None) if isinstance(item, Unreadable)]
    assert [(item.document, item.part) for item in items] == [("a", "document"), ("c", "document")]


async def test_rows_under_several_keys_and_none_are_read_together(tmp_path: Path) -> None:
    rotated = keyring({1: ONE, 2: TWO}, used=2)
    codecs = (Compression(), encryption(LOG_ID), encryption(LOG_ID, rotated))
    for number, codec in enumerate(codecs):
        async with _opened(tmp_path, codec) as store:
            scribe = await begin(store)
            scribe.put(f"d{number}", {"n": number})
            await store.commit(scribe.commit())
    async with _opened(tmp_path, codecs[-1]) as store:
        page = await store.list_documents(NAMESPACE, prefix="", where=None, limit=10, cursor=None)
        assert [head.snapshot.state for head in page.heads] == [b'{"n":0}', b'{"n":1}', b'{"n":2}']
        for number in range(len(codecs)):
            assert len(await all_entries(store, f"d{number}")) == 1


async def test_a_wrong_key_reads_nothing_and_names_its_number(tmp_path: Path) -> None:
    async with _opened(tmp_path, encryption(LOG_ID)) as store:
        scribe = await begin(store)
        _write(scribe)
        await store.commit(scribe.commit())
    for ring in (keyring({1: TWO}), keyring({2: ONE}, used=2)):
        async with _opened(tmp_path, encryption(LOG_ID, ring)) as store:
            with pytest.raises(StoreDamaged) as damaged:
                await store.head(NAMESPACE, "d")
            assert "key 1" in str(damaged.value.facts["cause"])


@pytest.mark.parametrize(("table", "column"), VALUES)
async def test_a_flipped_bit_in_any_encrypted_value_is_found(tmp_path: Path, table: str, column: str) -> None:
    async with _opened(tmp_path, encryption(LOG_ID)) as store:
        scribe = await begin(store)
        _write(scribe)
        await store.commit(scribe.commit())
    with sqlite3.connect(tmp_path / "refold.sqlite") as database:
        select = f"SELECT rowid, {column} FROM {table} WHERE {column} IS NOT NULL"
        row, value = database.execute(select).fetchone()
        changed = value[:-1] + bytes([value[-1] ^ 1])
        database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (changed, row))
    database.close()
    async with _opened(tmp_path, encryption(LOG_ID)) as store:
        try:
            async with store.read_snapshot() as moment:
                found = [item async for item in moment.items(None, None) if isinstance(item, Unreadable)]
        except (StoreDamaged, ValueError) as error:
            found = [error]
        assert len(found) == 1
