"""The store `files` beyond the contract suite: its folder, its files, and the swap of a rebuild."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from refold.core.errors import FenceLost, StoreDamaged, StoreDiffers, StoreFull, StoreUnavailable
from refold.store.ports import Row, Unreadable
from refold.store.sqlite import SqliteStore
from refold.store.sqlite.schema import LIVE, bound_log
from refold.store.sqlite.swap import SqliteSchemaSwap
from support.scribe import NAMESPACE, Scribe
from support.stores import LOG_ID, begin, sqlite_stores

TESTS = Path(__file__).parents[1]


@pytest.fixture
async def open_store(tmp_path):
    async with sqlite_stores(tmp_path) as opener:
        yield opener


@pytest.fixture
async def store(open_store):
    return await open_store()


@pytest.fixture
async def scribe(store):
    return await begin(store)


@pytest.fixture
async def written(store, scribe):
    """Write 40 documents of 40 events each, in pages and journals."""
    for number in range(1_600):
        scribe.put(f"d{number % 40}", {"n": number, "text": os.urandom(200).hex()})
        if number % 40 == 7 and number > 600:
            scribe.cut("d7")
    await store.commit(scribe.commit())
    return store


async def test_a_folder_on_a_network_file_system_is_refused(tmp_path, monkeypatch):
    parts = [("/", "ext4"), (str(tmp_path), "nfs4"), (str(tmp_path / "local"), "xfs")]
    mounted = [SimpleNamespace(mountpoint=path, fstype=kind) for path, kind in parts]
    monkeypatch.setattr("refold.store.sqlite.schema.psutil.disk_partitions", lambda **_: mounted)
    with pytest.raises(StoreDiffers) as raised:
        await SqliteStore.open(tmp_path / "store")
    assert raised.value.facts["file_system"] == "nfs4"
    store = await SqliteStore.open(tmp_path / "local" / "store")
    await store.close()


async def test_a_database_of_a_newer_program_or_another_is_refused(tmp_path, written):
    assert bound_log(tmp_path) == LOG_ID
    assert bound_log(tmp_path / "none") is None
    await written.close()
    for pragma, text in (("user_version = 99", "newer program"), ("application_id = 1", "not a database of")):
        with sqlite3.connect(tmp_path / LIVE) as connection:
            connection.execute(f"PRAGMA {pragma}")
        connection.close()
        with pytest.raises(StoreDiffers, match=text):
            await SqliteStore.open(tmp_path)


async def test_a_damaged_file_is_found_as_it_is_opened(tmp_path, written):
    await written.close()
    file = (tmp_path / LIVE).resolve()
    whole = file.read_bytes()
    for damage in (whole[: len(whole) // 2], b"\xff" * 4096 + whole[4096:], b"not a database" * 999):
        file.write_bytes(damage)
        with pytest.raises(StoreDamaged):
            await SqliteStore.open(tmp_path)
    file.write_bytes(whole)
    file.with_name(LIVE).unlink()
    with pytest.raises(StoreDamaged, match="link"):
        await SqliteStore.open(tmp_path)


async def test_a_value_that_cannot_be_decoded_is_damage_of_its_document_alone(tmp_path, written):
    with sqlite3.connect(tmp_path / LIVE) as connection:
        connection.execute("UPDATE documents SET state = x'09' WHERE document = 'd3'")
        connection.execute("UPDATE pages SET payload = x'0300' WHERE rowid = (SELECT min(rowid) FROM pages)")
        connection.execute("UPDATE journal SET entry = x'00' WHERE document = 'd5'")
    connection.close()
    with pytest.raises(StoreDamaged):
        await written.head(NAMESPACE, "d3")
    assert (await written.head(NAMESPACE, "d4")).snapshot.version == 40
    async with written.read_snapshot() as snapshot:
        items = [item async for item in snapshot.items(NAMESPACE, None)]
    unreadable = {(item.document, item.part) for item in items if isinstance(item, Unreadable)}
    assert unreadable == {("d3", "document"), ("d5", "journal"), ("d7", "page")}


async def test_a_full_disk_rolls_the_commit_back_and_room_lets_it_through(store, scribe):
    scribe.put("a", 1)
    await store.commit(scribe.commit())
    before = await store.checkpoints()
    scribe.put("b", os.urandom(300_000).hex())
    commit = scribe.commit()
    limit = "PRAGMA max_page_count = {}".format
    await store._pool.write(lambda connection: connection.execute(limit(1)))
    with pytest.raises(StoreFull):
        await store.commit(commit)
    assert await store.checkpoints() == before
    assert await store.head(NAMESPACE, "b") is None
    await store._pool.write(lambda connection: connection.execute(limit(1 << 30)))
    await store.commit(commit)
    assert (await store.head(NAMESPACE, "b")).snapshot.version == 1


async def test_a_folder_that_is_deleted_meanwhile_begins_anew_and_nothing_older_is_read(
    tmp_path, written, open_store, scribe
):
    reader = await open_store()
    assert (await reader.head(NAMESPACE, "d1")).snapshot.version == 40
    shutil.rmtree(tmp_path)
    scribe.put("d1", 1)
    calls = (
        reader.head(NAMESPACE, "d1"),
        written.load([(NAMESPACE, "d1")]),
        written.commit(scribe.commit()),
        written.acquire_lease(),
    )
    for call in calls:
        with pytest.raises((FenceLost, StoreUnavailable)):
            await call
    assert await written.acquire_lease()
    again = Scribe(await written.bind(LOG_ID))
    assert again.sequence == 0
    assert await written.acquire_lease()
    again.put("d1", "again")
    await written.commit(again.commit())
    assert (await written.head(NAMESPACE, "d1")).snapshot.state == b'"again"'
    for call in (reader.head(NAMESPACE, "d1"), reader.checkpoints(), reader.namespaces()):
        with pytest.raises(StoreUnavailable, match="folded up to the log's end"):
            await call
    for number in range(scribe.sequence):
        again.put("d2", number)
    await written.commit(again.commit())
    assert (await reader.head(NAMESPACE, "d1")).snapshot.version == 1


async def copied(store, scribe):
    """Write the history of a scribe again, as a rebuild does."""
    again = await begin(store)
    events = sorted(
        (entry.sequence, key[1], entry.body) for key, entries in scribe.entries.items() for entry in entries
    )
    for _, document, body in events:
        again.publish(document, body)
    await store.commit(again.commit())
    return again


async def test_a_rebuild_compares_and_swaps_under_open_readers_and_a_fenced_writer(
    tmp_path, written, scribe, open_store
):
    reader, fresh = await open_store(), await open_store(is_rebuild=True)
    assert (await reader.head(NAMESPACE, "d1")).snapshot.version == 40
    again = await copied(fresh, scribe)
    async with SqliteSchemaSwap.open(tmp_path) as swap:
        assert (await swap.bound()).read_sequence == 1_600
        assert [found async for found in swap.unequal(-1, 1_600)] == []
        assert [found async for found in swap.unequal_counts()] == []
        scribe.put("d1", "live only")
        scribe.put("new", 1)
        await written.commit(scribe.commit())
        differing = [found async for found in swap.unequal(1_600, 1_602)]
        assert [(found.document, type(found.fresh)) for found in differing] == [
            ("d1", Row),
            ("new", type(None)),
        ]
        assert [found async for found in swap.unequal(1_600, 1_600)] == []
        assert [found async for found in swap.unequal_counts()] != []
        again.put("d1", "live only")
        again.put("new", 1)
        await fresh.commit(again.commit())
        scribe.put("d1", "too late")
        async with swap.hold():
            waiting = asyncio.create_task(written.commit(scribe.commit()))
            await asyncio.sleep(0)
            assert [found async for found in swap.unequal(1_600, 1_602)] == []
            await swap.swap()
        with pytest.raises(FenceLost):
            await waiting
        await swap.drop_former()
    assert (tmp_path / LIVE).resolve().name == "refold.2.sqlite"
    assert not list(tmp_path.glob("refold.1.sqlite*"))
    for each in (reader, written):
        assert (await each.head(NAMESPACE, "d1")).snapshot.state == b'"live only"'
        assert (await each.list_documents(NAMESPACE, prefix="new", where=None, limit=9, cursor=None)).heads
    scribe = await begin(written)
    (scribe.documents[NAMESPACE, "d1"],) = await written.load([(NAMESPACE, "d1")])
    scribe.put("d1", "goes on")
    await written.commit(scribe.commit())
    assert (await reader.head(NAMESPACE, "d1")).snapshot.version == 42


@pytest.mark.parametrize("is_missing", [False, True])
async def test_a_damaged_live_file_is_replaced_and_kept(tmp_path, written, scribe, open_store, is_missing):
    await written.close()
    live = (tmp_path / LIVE).resolve()
    if is_missing:
        live.unlink()
    else:
        live.write_bytes(b"\x00" * 9_000)
    fresh = await open_store(is_rebuild=True)
    await copied(fresh, scribe)
    async with SqliteSchemaSwap.open(tmp_path, keep_as="refold_damaged") as swap:
        assert await swap.bound() is None
        await swap.copy_indexes()
        async with swap.hold():
            await swap.swap()
        await swap.drop_former()
    assert swap.kept == ("" if is_missing else "refold_damaged.sqlite")
    assert (tmp_path / "refold_damaged.sqlite").exists() is not is_missing
    store = await open_store()
    assert (await store.head(NAMESPACE, "d1")).snapshot.version == 40


async def test_commits_of_one_writer_are_in_order_though_one_is_cancelled(store, scribe):
    scribe.put("a", 1)
    first = asyncio.create_task(store.commit(scribe.commit()))
    await asyncio.sleep(0)
    first.cancel()
    scribe.put("a", 2)
    second = scribe.commit()
    try:
        await store.commit(second)
    except FenceLost:
        assert await store.head(NAMESPACE, "a") is None
    else:
        assert (await store.head(NAMESPACE, "a")).snapshot.version == 2


@pytest.mark.slow
def test_no_kill_and_no_truncated_file_leaves_a_torn_state():
    """Run few rounds of the command, which runs 400."""
    command = [sys.executable, TESTS / "acceptance" / "store_damage.py", "--rounds", "10", "--seed", "7"]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
