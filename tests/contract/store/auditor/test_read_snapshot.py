"""One consistent view of a projection, row by row: complete, in order, and not changed by later commits."""

from __future__ import annotations

import pytest

from refold.core.errors import StoreDiffers
from refold.store import NamespaceCount, Rejection
from refold.store.ports import StoredEntry, StoredHead, StoredPage, position_of
from support.scribe import NAMESPACE
from support.stores import write_life


async def read(snapshot, namespace=None, document=None):
    return [item async for item in snapshot.items(namespace, document)]


def entries_in(items):
    """Return the entries of pages and journal by document, in the order of the rows."""
    found = {}
    for item in items:
        if isinstance(item, StoredPage):
            found.setdefault((item.namespace, item.document), []).extend(item.entries)
        elif isinstance(item, StoredEntry):
            found.setdefault((item.namespace, item.document), []).append(item.entry)
    return found


@pytest.mark.usefixtures("auditor")
async def test_every_row_is_read_exactly_once_in_order(store, scribe):
    scribe.publish_nowhere(b"log.3.n.*", b"\x00")
    scribe.put("a", 1, namespace="elsewhere")
    await write_life(store, scribe, cut_after=(2, 5), commit_after=(3, 7))
    async with store.read_snapshot() as snapshot:
        items = await read(snapshot)
    positions = [position_of(item) for item in items]
    assert positions == sorted(positions)
    assert entries_in(items) == dict(scribe.entries)
    heads = {position_of(item)[:2]: item for item in items if isinstance(item, StoredHead)}
    for key, document in scribe.documents.items():
        assert heads[key].document.version == document.version
        assert heads[key].state == scribe.snapshots[key][-1].state
    rejected = [item for item in items if isinstance(item, Rejection)]
    assert sorted(rejected, key=lambda item: -item.sequence) == await store.rejections(
        None, None, limit=99, before_sequence=None
    )
    assert position_of(items[0])[:2] == ("", "")


@pytest.mark.usefixtures("auditor")
async def test_a_page_describes_its_content(store, scribe):
    await write_life(store, scribe, cut_after=(2, 5), commit_after=(3, 7))
    async with store.read_snapshot() as snapshot:
        items = await read(snapshot, NAMESPACE, "life")
    pages = [item for item in items if isinstance(item, StoredPage)]
    assert [page.events for page in pages] == [3, 6]
    snapshots = {found.sequence: found for found in scribe.snapshots[NAMESPACE, "life"]}
    for page in pages:
        assert page.last_sequence == page.entries[-1].sequence
        effective = [entry.sequence for entry in page.entries if entry.status.is_effective]
        assert page.closing == snapshots[effective[-1]]
        identities = [entry.identity for entry in page.entries if entry.identity is not None]
        assert page.ids == len(identities)


@pytest.mark.usefixtures("auditor")
async def test_a_read_can_be_restricted_to_a_namespace_or_document(store, scribe):
    for namespace in ("elsewhere", NAMESPACE):
        for document in ("a", "b"):
            scribe.put(document, 1, namespace=namespace)
            scribe.publish(document, b"garbage", namespace=namespace)
    scribe.publish_nowhere(b"log.3.n.*", b"\x00")
    await store.commit(scribe.commit())
    async with store.read_snapshot() as snapshot:
        everything = await read(snapshot)
        for asked in ((NAMESPACE, None), (NAMESPACE, "b"), ("elsewhere", "a"), ("elsewhere", "none")):
            expected = [
                item
                for item in everything
                if position_of(item)[0] == asked[0] and asked[1] in {None, position_of(item)[1]}
            ]
            assert await read(snapshot, *asked) == expected


@pytest.mark.usefixtures("auditor")
async def test_later_commits_do_not_change_what_is_read(store, scribe):
    scribe.put("a", {"n": [1]})
    await store.commit(scribe.commit())
    checkpoints, namespaces = await store.checkpoints(), await store.namespaces()
    async with store.read_snapshot() as snapshot:
        before = await read(snapshot)
        scribe.put("a", 2)
        scribe.cut("a")
        scribe.put("b", 1)
        scribe.publish("b", b"garbage")
        await store.commit(scribe.commit())
        assert await read(snapshot) == before
        assert await snapshot.checkpoints() == checkpoints
        assert await snapshot.namespaces() == namespaces == [NamespaceCount(NAMESPACE, 1, 1)]


async def test_the_projection_of_another_log_is_refused(store, scribe):
    scribe.put("a", 1)
    await store.commit(scribe.commit())
    with pytest.raises(StoreDiffers):
        await store.bind("log-2")
