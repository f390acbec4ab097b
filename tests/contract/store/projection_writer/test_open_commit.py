"""A commit whose pages are written ahead of it is stored completely or not at all."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from refold.core.errors import FenceLost
from refold.core.history import Clock, Point
from refold.core.stream import parse_shard
from support.scribe import NAMESPACE
from support.stores import HALVES, LOG_ID, Depths, all_entries, begin, part_of

pytestmark = pytest.mark.usefixtures("single_writer")


def fill(scribe, documents=3, rounds=4, *, is_whole=False):
    """Publish to documents in turn, with a page after each round but the last, and a rejection.

    `is_whole`: a page is given with its committed events.
    """
    for number in range(rounds):
        for document in range(documents):
            scribe.put(f"d{document}", {"n": number})
            scribe.publish(f"d{document}", {"merge": {"m": number}, "id": f"e{number}"})
            if number < rounds - 1:
                scribe.cut(f"d{document}", is_whole=is_whole)
    scribe.publish("d0", b"garbage")


async def write_open(store, commit, *, at_once=1):
    """Write a commit's pages ahead, a few at once."""
    async with store.open_commit() as opened:
        for at in range(0, len(commit.pages), at_once):
            await opened.write_pages(commit.pages[at : at + at_once])
            await opened.write_pages([])
        await opened.write(replace(commit, pages=[]))


async def assert_stored(store, scribe):
    assert await store.checkpoints() == scribe.checkpoints()
    for namespace, document in scribe.documents:
        versions = scribe.snapshots[namespace, document]
        assert (await store.head(namespace, document)).snapshot == versions[-1]
        for snapshot in versions:
            point = Point(Clock.version, snapshot.version)
            await Depths(store, scribe).check(document, point, namespace=namespace)
        runs = await all_entries(store, document)
        kept = scribe.kept(document, store.capabilities.depth)
        assert [entry for run in runs for entry in run] == kept
    loaded = {(found.namespace, found.document): found for found in await store.load(list(scribe.documents))}
    assert loaded == scribe.documents
    counted = {count.namespace: count.events for count in await store.namespaces()}
    assert counted == {NAMESPACE: scribe.sequence}


async def test_pages_written_ahead_belong_to_the_commit(store, scribe):
    fill(scribe)
    await write_open(store, scribe.commit())
    await assert_stored(store, scribe)


@pytest.mark.parametrize("is_whole", [False, True])
async def test_a_page_takes_what_an_earlier_commit_left_in_the_journal(store, scribe, is_whole):
    fill(scribe)
    await store.commit(scribe.commit())
    fill(scribe, is_whole=is_whole)
    await write_open(store, scribe.commit(), at_once=2)
    await assert_stored(store, scribe)


async def test_commits_of_both_kinds_follow_each_other(store, scribe):
    for _ in range(3):
        fill(scribe, documents=2, rounds=2)
        await write_open(store, scribe.commit())
        fill(scribe, documents=2, rounds=2)
        await store.commit(scribe.commit())
    await assert_stored(store, scribe)


async def test_an_open_commit_without_events_advances_the_checkpoints(store, scribe):
    commit = scribe.commit()
    await write_open(store, replace(commit, checkpoint=replace(commit.checkpoint, read_sequence=9)))
    assert {checkpoint.read_sequence for checkpoint in await store.checkpoints()} == {9}


@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError])
@pytest.mark.parametrize("is_written", [False, True])
async def test_an_error_in_the_block_discards_all(store, scribe, error, is_written):
    fill(scribe, rounds=1)
    await store.commit(scribe.commit())
    before = await contents(store)
    fill(scribe)
    commit = scribe.commit()

    async def fail():
        async with store.open_commit() as opened:
            await opened.write_pages(commit.pages)
            if is_written:
                await opened.write(replace(commit, pages=[]))
            raise error

    with pytest.raises(error):
        await fail()
    assert await contents(store) == before
    await write_open(store, commit)
    await assert_stored(store, scribe)


async def test_readers_see_no_page_before_the_commit(store, scribe):
    fill(scribe)
    commit = scribe.commit()
    before = await contents(store)
    async with store.open_commit() as opened:
        await opened.write_pages(commit.pages)
        assert await contents(store) == before
        await opened.write(replace(commit, pages=[]))
        assert await contents(store) == before
    await assert_stored(store, scribe)


async def test_with_a_lost_fence_all_is_discarded(store, scribe):
    fill(scribe)
    commit = scribe.commit()
    before = await contents(store)
    with pytest.raises(FenceLost):
        await write_open(store, replace(commit, expected_sequence=7))
    assert await contents(store) == before


async def test_a_store_without_the_lease_writes_nothing(store, open_store, scribe):
    fill(scribe)
    rival = await open_store()
    await rival.bind(LOG_ID)
    with pytest.raises(FenceLost):
        await write_open(rival, scribe.commit())


async def test_two_shards_commit_at_the_same_time_for_the_first_time(open_store):
    """Until then one shard has all partitions."""
    writers = [await open_store(shard=shard) for shard in HALVES]
    scribe, _ = [await begin(writer) for writer in writers]
    fill(scribe, documents=40)
    commit = scribe.commit()
    parts = [part_of(commit, parse_shard(shard)) for shard in HALVES]
    await asyncio.gather(*(write_open(*each, at_once=9) for each in zip(writers, parts, strict=True)))
    await assert_stored(writers[0], scribe)


async def contents(store):
    """Read everything."""
    if hasattr(store, "read_snapshot"):
        async with store.read_snapshot() as snapshot:
            items = [item async for item in snapshot.items(None, None)]
            return items, await snapshot.checkpoints(), await snapshot.namespaces()
    listed = await store.list_names(NAMESPACE, prefix="", limit=99, cursor=None)
    entries = [await all_entries(store, f"d{number}") for number in range(3)]
    heads = [await store.head(NAMESPACE, f"d{number}") for number in range(3)]
    rejections = await store.rejections(None, None, limit=99, before_sequence=None)
    return listed, entries, heads, rejections, await store.checkpoints(), await store.namespaces()
