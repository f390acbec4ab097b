"""Rejections: newest first, bounded, of a document, a namespace or all."""

from __future__ import annotations

from support.scribe import NAMESPACE
from support.stores import HOSTILE


async def test_rejections_are_read_newest_first(store, scribe):
    scribe.put("a", 1)
    for _ in range(5):
        scribe.publish("a", {"put": HOSTILE, "base": 99, "actor": "\u0000"})
    scribe.publish("b", b"garbage")
    commit = scribe.commit()
    await store.commit(commit)
    mine = [rejection for rejection in commit.rejections if rejection.document == "a"][::-1]
    assert len(mine) == 5
    assert await store.rejections(NAMESPACE, "a", limit=9, before_sequence=None) == mine
    assert await store.rejections(NAMESPACE, "a", limit=2, before_sequence=None) == mine[:2]
    assert await store.rejections(NAMESPACE, "a", limit=2, before_sequence=mine[1].sequence) == mine[2:4]
    assert await store.rejections(NAMESPACE, "c", limit=9, before_sequence=None) == []
    of_all = sorted(commit.rejections, key=lambda rejection: -rejection.sequence)
    of_namespace = [rejection for rejection in of_all if rejection.namespace == NAMESPACE]
    assert await store.rejections(None, None, limit=99, before_sequence=None) == of_all
    assert await store.rejections(None, None, limit=2, before_sequence=of_all[0].sequence) == of_all[1:3]
    assert await store.rejections(NAMESPACE, None, limit=99, before_sequence=None) == of_namespace
    assert (
        await store.rejections(NAMESPACE, None, limit=1, before_sequence=of_namespace[0].sequence)
        == (of_namespace[1:2])
    )


async def test_an_unroutable_event_is_stored_completely(store, scribe):
    unroutable = [
        scribe.publish_nowhere(subject, b"\x00\xff")
        for subject in (b"state.n.\xff\x00", b"log.3.n.*", b"x", b"log.1._other.a")
    ]
    await store.commit(scribe.commit())
    assert await store.rejections("", "", limit=9, before_sequence=None) == unroutable[::-1]
    assert await store.namespaces() == []
