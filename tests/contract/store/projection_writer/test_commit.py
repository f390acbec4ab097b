"""A commit is stored completely or not at all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from refold.core.errors import FenceLost
from refold.core.history import NEVER, Clock, Point
from refold.core.stream import PARTITIONS
from support.scribe import NAMESPACE
from support.stores import HOSTILE, all_entries


async def test_a_commit_is_read_back(store, scribe):
    scribe.put("a", {"n": 1})
    scribe.publish("a", {"patch": [{"op": "replace", "path": "/n", "value": 2}]})
    scribe.put("b", HOSTILE)
    await store.commit(scribe.commit())
    for document in ("a", "b"):
        head = await store.head(NAMESPACE, document)
        assert head.snapshot == scribe.snapshots[NAMESPACE, document][-1]
        assert head.last_sequence == scribe.entries[NAMESPACE, document][-1].sequence
    assert await store.head(NAMESPACE, "c") is None


async def test_an_empty_commit_advances_every_checkpoint(store, scribe):
    commit = scribe.commit()
    await store.commit(replace(commit, checkpoint=replace(commit.checkpoint, read_sequence=7)))
    assert {checkpoint.read_sequence for checkpoint in await store.checkpoints()} == {7}


async def test_a_lost_fence_changes_nothing(store, scribe):
    scribe.put("a", 1)
    await store.commit(scribe.commit())
    before = await store.checkpoints()
    scribe.put("a", 2)
    scribe.put("b", 2)
    scribe.publish("b", b"garbage")
    scribe.cut("a")
    commit = scribe.commit()
    for expected_sequence in (0, 2, 99):
        with pytest.raises(FenceLost):
            await store.commit(replace(commit, expected_sequence=expected_sequence))
    assert await store.checkpoints() == before
    assert (await store.head(NAMESPACE, "a")).snapshot.state == b"1"
    assert await store.head(NAMESPACE, "b") is None
    assert await store.rejections(NAMESPACE, "b", limit=9, before_sequence=None) == []
    assert await all_entries(store, "a") == [scribe.entries[NAMESPACE, "a"][:1]]
    await store.commit(commit)
    assert (await store.head(NAMESPACE, "b")).snapshot.state == b"2"


@pytest.mark.usefixtures("single_writer")
async def test_a_fence_lost_in_one_partition_is_lost_in_all(store, scribe):
    scribe.put("a", 1)
    commit = scribe.commit()
    alone = replace(commit.checkpoint, partitions=(5,), touched=())
    await store.commit(replace(commit, checkpoint=alone, documents=[]))
    with pytest.raises(FenceLost):
        await store.commit(commit)
    assert await store.head(NAMESPACE, "a") is None


@pytest.mark.usefixtures("single_writer")
async def test_the_groups_of_partitions_that_commit_together_may_change(store, scribe):
    started_at = scribe.commit()

    async def move(partitions, expected_sequence, read_sequence):
        place = replace(started_at.checkpoint, partitions=partitions, read_sequence=read_sequence, touched=())
        await store.commit(
            replace(started_at, expected_sequence=expected_sequence, checkpoint=place, documents=[])
        )

    low, high, every = tuple(range(20)), tuple(range(20, PARTITIONS)), tuple(range(PARTITIONS))
    await move(low, 0, 4)
    await move(high, 0, 6)
    with pytest.raises(FenceLost):
        await move(every, 4, 7)
    with pytest.raises(FenceLost):
        await move(every, 0, 7)
    await move(low, 4, 6)
    await move(every, 6, 9)
    with pytest.raises(FenceLost):
        await move(high, 6, 8)
    await move((3, 41), 9, 12)
    found = {checkpoint.partition: checkpoint.read_sequence for checkpoint in await store.checkpoints()}
    assert found == dict.fromkeys(every, 9) | {3: 12, 41: 12}


async def test_a_commit_may_change_thousands_of_documents(store, scribe):
    """Commit documents old and new, with first and later pages, by the path for many."""
    for number in range(600):
        scribe.put(f"d{number}", number)
        if number % 3 == 0:
            scribe.cut(f"d{number}")
    await store.commit(scribe.commit())
    for number in range(300, 900):
        scribe.publish(f"d{number}", {"patch": [{"op": "add", "path": "", "value": {"was": number}}]})
        if number % 2 == 0:
            scribe.cut(f"d{number}")
    await store.commit(scribe.commit())
    keys = list(scribe.documents)
    loaded = {(document.namespace, document.document): document for document in await store.load(keys)}
    assert loaded == scribe.documents
    for key in keys[::50]:
        assert [entry for run in await all_entries(store, key[1]) for entry in run] == scribe.entries[key]


async def test_a_rejected_event_does_not_advance_the_version(store, scribe):
    scribe.put("a", 1)
    scribe.publish("a", b"garbage")
    await store.commit(scribe.commit())
    head = await store.head(NAMESPACE, "a")
    assert (head.snapshot.version, head.last_sequence) == (1, 2)


async def test_a_document_with_only_rejected_events_is_at_version_0(store, scribe):
    scribe.publish("a", {"delete": True})
    await store.commit(scribe.commit())
    head = await store.head(NAMESPACE, "a")
    assert head.snapshot == NEVER
    assert head.last_sequence == 1
    assert await store.snapshot_at(NAMESPACE, "a", Point(Clock.version, 0)) == NEVER
    assert (await store.list_documents(NAMESPACE, prefix="", where=None, limit=9, cursor=None)).heads == []
