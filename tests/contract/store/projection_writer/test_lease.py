"""Bind a store to a log, and hold the lease of its shard."""

from __future__ import annotations

import pytest

from refold.core.errors import FenceLost, StoreDiffers, StoreUnavailable
from refold.core.stream import PARTITIONS
from support.scribe import NAMESPACE
from support.stores import LOG_ID


async def test_a_new_store_starts_every_partition_at_the_start_of_the_log(store):
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
async def test_a_store_holds_the_lease_until_it_is_closed(store, open_store, scribe):
    rival = await open_store()
    assert not await rival.acquire_lease()
    assert await store.acquire_lease()
    await store.close()
    assert await rival.acquire_lease()


@pytest.mark.usefixtures("single_writer")
async def test_a_holder_that_is_silent_too_long_loses_the_lease_and_cannot_commit(store, open_store, scribe):
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


async def test_a_store_without_the_lease_cannot_commit(store, open_store, scribe):
    rival = await open_store()
    scribe.put("a", 1)
    with pytest.raises(FenceLost):
        await rival.commit(scribe.commit())
    assert await store.head(NAMESPACE, "a") is None
