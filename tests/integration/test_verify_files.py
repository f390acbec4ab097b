"""`verify` of files reports what no row shows: an index that differs from its table, a dictionary that is damaged."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from refold.audit.verify import Listener, Scope, verify
from refold.core.errors import StoreDamaged
from refold.log.memory import MemoryLog
from refold.projector.loop import LoopLimits
from refold.projector.replay import begin_replay
from refold.store.layers.compression import Compression
from refold.store.sqlite import SqliteStore
from support.projection import append

ROOMY = LoopLimits(cache_bytes_max=1 << 24, pending_events_max=1_000, pending_bytes_max=1 << 24)


@pytest.fixture
async def log():
    log = MemoryLog("log-1")
    for number in range(40):
        await append(log, f"d{number % 5}", {"put": {"n": number}} if number % 3 else b"no event")
    return log


@pytest.fixture
async def damage(log, tmp_path):
    """Fold the log into files; return what changes their tables by statements."""
    store = await SqliteStore.open(tmp_path)
    loop = await begin_replay(log, store, ROOMY, range(64))
    await loop.run((await log.info()).last_sequence)
    await store.add_dictionary("shop", b"what documents have in common " * 20)
    await store.close()

    def change(*statements):
        with closing(sqlite3.connect(tmp_path / "refold.sqlite", isolation_level=None)) as database:
            for statement in statements:
                database.execute(statement)

    return change


async def verified(log, folder, namespace=None):
    """Verify, and return the differences as (part, found)."""
    found = []
    store = await SqliteStore.open(folder, codec=Compression())
    try:
        await verify(
            log, store, Listener(difference=found.append, progress=lambda _: None), Scope(namespace=namespace)
        )
    finally:
        await store.close()
    return [(each.part, each.found) for each in found]


async def test_an_index_that_has_lost_a_row_is_reported(log, damage, tmp_path):
    assert await verified(log, tmp_path) == []
    # SQLite maintains only the indexes that its schema names.
    damage("CREATE TABLE kept AS SELECT * FROM sqlite_master WHERE name = 'rejections_of_namespace'")
    damage(
        "PRAGMA writable_schema = ON",
        "DELETE FROM sqlite_master WHERE name = 'rejections_of_namespace'",
    )
    damage(
        "UPDATE rejections SET rowid = rowid + 1000 WHERE sequence = (SELECT max(sequence) FROM rejections)"
    )
    damage(
        "PRAGMA writable_schema = ON",
        "INSERT INTO sqlite_master SELECT * FROM kept",
        "DROP TABLE kept",
    )
    found = await verified(log, tmp_path)
    assert {part for part, _ in found} == {"file"}
    assert any("missing from index rejections_of_namespace" in why for _, why in found)
    assert await verified(log, tmp_path, "shop") == []


async def test_a_damaged_dictionary_is_reported_though_no_value_needs_it(log, damage, tmp_path):
    damage("UPDATE dictionaries SET content = CAST(substr(content, 1, length(content) - 1) || x'00' AS BLOB)")
    assert [part for part, _ in await verified(log, tmp_path)] == ["dictionary"]


async def test_a_text_that_is_none_is_damage(log, damage, tmp_path):
    damage("UPDATE rejections SET reason = CAST(x'ff' AS TEXT)")
    with pytest.raises(StoreDamaged, match="damaged"):
        await verified(log, tmp_path)


async def test_a_table_whose_tree_is_damaged_is_not_opened(log, damage, tmp_path):
    damage("PRAGMA writable_schema = ON", "UPDATE sqlite_master SET rootpage = 2 WHERE name = 'journal'")
    with pytest.raises(StoreDamaged):
        await verified(log, tmp_path)
