"""Heads: each of several concurrent reads returns its own document."""

from __future__ import annotations

import asyncio

import pytest

from refold.core.errors import StoreUnavailable
from refold.store import ANY_VERSION, OMITTED, VersionAt
from support.scribe import NAMESPACE


async def test_concurrent_head_reads_return_the_right_documents(filled, scribe):
    names = [name for namespace, name in scribe.documents if namespace == NAMESPACE] * 2
    heads = await asyncio.gather(*(filled.head(NAMESPACE, name) for name in [*names, "none"]))
    assert heads.pop() is None
    for name, head in zip(names, heads, strict=True):
        assert (head.namespace, head.document) == (NAMESPACE, name)
        assert head.snapshot == scribe.snapshots[NAMESPACE, name][-1]
        assert head.last_sequence == scribe.entries[NAMESPACE, name][-1].sequence


async def test_a_known_version_is_read_without_its_state(filled, scribe):
    scribe.put("gone", 1)
    gone = scribe.publish("gone", {"delete": True})
    await filled.commit(scribe.commit())
    for name in ("d1", "d7"):
        head = await filled.head(NAMESPACE, name)
        bare = head.without_state()
        assert head.snapshot.state not in {None, OMITTED}
        version = head.snapshot.version
        asked = (version, ANY_VERSION, version - 1, version + 1)
        found = await asyncio.gather(*(filled.head(NAMESPACE, name, known_version=known) for known in asked))
        assert found == [bare, bare, head, head]
    for known in (gone.version, ANY_VERSION):
        # An absent document has no state to leave out.
        assert (await filled.head(NAMESPACE, "gone", known_version=known)).snapshot.state is None
    assert await filled.head(NAMESPACE, "none", known_version=ANY_VERSION) is None


async def test_a_store_keeps_its_epoch(store, open_store, scribe):
    epoch = await store.epoch()
    scribe.put("a", 1)
    await store.commit(scribe.commit())
    assert epoch == await store.epoch() == await (await open_store()).epoch() != ""


async def test_only_documents_at_another_version_are_returned(filled, scribe):
    at = {key: VersionAt(heads[-1].version, heads[-1].sequence) for key, heads in scribe.snapshots.items()}
    never = (NAMESPACE, "none")
    known = at | {never: VersionAt(0, 0)}
    assert await filled.other_versions(known) == {}
    changed = scribe.put("d1", {"later": 1})
    made = scribe.put("none", 1)
    await filled.commit(scribe.commit())
    now = {(NAMESPACE, "d1"): VersionAt(4, changed.sequence), never: VersionAt(1, made.sequence)}
    assert await filled.other_versions(known) == now
    d2 = (NAMESPACE, "d2")
    ahead, moved = VersionAt(4, 10_000), VersionAt(3, at[d2].sequence + 1)
    assert (
        await filled.other_versions({d2: ahead}) == await filled.other_versions({d2: moved}) == {d2: at[d2]}
    )
    assert await filled.other_versions({}) == {}


async def test_a_cancelled_read_does_not_disturb_the_others(filled, scribe):
    gone, other = (asyncio.create_task(filled.head(NAMESPACE, name)) for name in ("d1", "d2"))
    await asyncio.sleep(0)
    gone.cancel()
    assert (await other).snapshot == scribe.snapshots[NAMESPACE, "d2"][-1]
    # Cancelled, unless it had ended before.
    assert gone.cancelled() or gone.result().document == "d1"


@pytest.mark.usefixtures("statements")
async def test_a_failed_statement_fails_every_read_of_its_batch_and_no_later_one(filled, scribe):
    real, filled._heads._sql = filled._heads._sql, "SELECT pg_terminate_backend(pg_backend_pid())"
    failed = await asyncio.gather(*(filled.head(NAMESPACE, "d1") for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in failed] == [StoreUnavailable] * 3
    assert len({id(error) for error in failed}) == 3
    filled._heads._sql = real
    assert (await filled.head(NAMESPACE, "d1")).snapshot == scribe.snapshots[NAMESPACE, "d1"][-1]


@pytest.mark.usefixtures("statements")
async def test_an_error_of_any_kind_reaches_every_waiter_of_a_batched_read(filled, scribe):
    # Column "number" is missing from these rows: the failure is a KeyError, not one of the store's.
    real, filled._heads._sql = filled._heads._sql, "SELECT $1::text[], $2::text[], $3::bigint[], $4::integer"
    async with asyncio.timeout(20):
        failed = await asyncio.gather(
            *(filled.head(NAMESPACE, "d1") for _ in range(3)), return_exceptions=True
        )
    assert all(isinstance(error, RuntimeError) for error in failed)
    assert len({id(error) for error in failed}) == 3
    filled._heads._sql = real
    assert (await filled.head(NAMESPACE, "d1")).snapshot == scribe.snapshots[NAMESPACE, "d1"][-1]


async def test_a_reachable_store_answers_a_ping(store):
    await store.ping()
