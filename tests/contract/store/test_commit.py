"""What is committed is read back whole, or nothing of it is there: on every adapter."""

from __future__ import annotations

from dataclasses import replace

import pytest

from refold.core.document import ABSENT
from refold.core.errors import FenceLost, StoreDiffers, StoreUnavailable
from refold.core.history import NEVER, Clock, Point
from refold.core.stream import PARTITIONS, partition_of
from refold.history import state_at
from support.scribe import NAMESPACE, state_bytes
from support.stores import HOSTILE, LOG_ID, all_entries


async def test_a_new_store_is_bound_at_the_logs_start_in_every_partition(store):
    checkpoints = await store.bind(LOG_ID)
    assert [checkpoint.partition for checkpoint in checkpoints] == list(range(PARTITIONS))
    assert {checkpoint.read_sequence for checkpoint in checkpoints} == {0}
    assert len({checkpoint.chain for checkpoint in checkpoints}) == PARTITIONS


async def test_binding_again_returns_what_was_committed(store, open_store, scribe):
    scribe.put("a", 1)
    expected = scribe.checkpoints()
    await store.commit(scribe.commit())
    assert await store.checkpoints() == expected
    assert await (await open_store()).bind(LOG_ID) == expected


async def test_another_log_is_refused(store):
    await store.bind(LOG_ID)
    with pytest.raises(StoreDiffers) as raised:
        await store.bind("log-2")
    assert raised.value.facts == {"expected": "log-2", "found": LOG_ID}


@pytest.mark.usefixtures("single_writer")
async def test_one_store_owns_the_shard_until_it_is_closed(store, open_store, scribe):
    rival = await open_store()
    assert not await rival.acquire_lease()
    assert await store.acquire_lease()
    await store.close()
    assert await rival.acquire_lease()


@pytest.mark.usefixtures("single_writer")
async def test_an_owner_silent_for_the_lease_loses_the_shard_and_learns_of_it(store, open_store, scribe):
    patient, rival = await open_store(), await open_store(lease_seconds=0.0)
    await rival.bind(LOG_ID)
    scribe.put("a", 1)
    commit = scribe.commit()
    assert not await patient.acquire_lease()
    assert await rival.acquire_lease()
    with pytest.raises((FenceLost, StoreUnavailable)):
        await store.commit(commit)
    assert not await store.acquire_lease()
    assert await store.head(NAMESPACE, "a") is None
    await rival.commit(commit)


async def test_a_store_that_does_not_own_the_shard_cannot_commit(store, open_store, scribe):
    rival = await open_store()
    scribe.put("a", 1)
    with pytest.raises(FenceLost):
        await rival.commit(scribe.commit())
    assert await store.head(NAMESPACE, "a") is None


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


async def test_an_empty_commit_moves_every_checkpoint(store, scribe):
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
async def test_partitions_are_committed_in_the_groups_that_their_owner_says(store, scribe):
    begun = scribe.commit()

    async def move(partitions, expected_sequence, read_sequence):
        place = replace(begun.checkpoint, partitions=partitions, read_sequence=read_sequence, touched=())
        await store.commit(
            replace(begun, expected_sequence=expected_sequence, checkpoint=place, documents=[])
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


async def test_load_returns_what_was_committed_and_only_what_exists(store, scribe):
    scribe.put("a", {"n": [1, 2.5, None]})
    scribe.put("b", None)
    scribe.put("c", 1)
    scribe.publish("c", {"delete": True})
    await store.commit(scribe.commit())
    scribe.publish("a", {"patch": [{"op": "add", "path": "/n/-", "value": HOSTILE}]})
    scribe.cut("a")
    await store.commit(scribe.commit())
    keys = [(NAMESPACE, document) for document in ("a", "b", "c", "absent", "a")]
    loaded = {document.document: document for document in await store.load(keys)}
    assert loaded == {key[1]: document for key, document in scribe.documents.items()}
    assert loaded["c"].state is ABSENT
    assert loaded["b"].state is None
    assert await store.load([]) == []


async def test_thousands_are_loaded_at_once(store, scribe):
    for number in range(2_000):
        scribe.put(f"d{number}", number)
    await store.commit(scribe.commit())
    loaded = await store.load([(NAMESPACE, f"d{number}") for number in range(3_000)])
    assert {document.document: document.state for document in loaded} == {f"d{n}": n for n in range(2_000)}


async def test_thousands_are_changed_at_once(store, scribe):
    """Other paths than those for a few: documents old and new, pages first and later, all in one commit."""
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


async def test_a_document_that_was_only_ever_refused_is_at_version_0(store, scribe):
    scribe.publish("a", {"delete": True})
    await store.commit(scribe.commit())
    head = await store.head(NAMESPACE, "a")
    assert head.snapshot == NEVER
    assert head.last_sequence == 1
    assert await state_at(store, NAMESPACE, "a", Point(Clock.version, 0)) == NEVER
    assert (await store.list_documents(NAMESPACE, prefix="", where=None, limit=9, cursor=None)).heads == []


async def test_what_the_store_holds_is_not_what_the_caller_goes_on_changing(store, scribe):
    scribe.put("a", {"n": [1]})
    await store.commit(scribe.commit())
    [loaded] = await store.load([(NAMESPACE, "a")])
    loaded.state["n"].append(2)
    loaded.version = 9
    [again] = await store.load([(NAMESPACE, "a")])
    assert (again.version, again.state) == (1, {"n": [1]})
    assert state_bytes(again) == b'{"n":[1]}'
    assert again.partition == partition_of(NAMESPACE.encode(), b"a")


async def test_a_store_that_is_there_answers_a_ping(store):
    await store.ping()
