"""Conflicts: those of a document in either order, without reading pages that have none, and the open ones."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from support.scribe import NAMESPACE

MERGED = b'{"strategy":"merge"}'
OPEN = {"conflict": b'{"strategy":"custom:x"}', "reason": "needs_resolution"}
REFUSED = {"put": 1, "base": 99}
"""Rejected on any document."""


async def conflicts(store, document="a", *, after=None, is_descending=False):
    asked = {"after_sequence": after, "is_descending": is_descending}
    async with aclosing(store.conflicts(NAMESPACE, document, **asked)) as parts:
        return [entry async for part in parts for entry in part]


@pytest.fixture
async def mine(store, scribe):
    """Write a document with conflicts in the journal and in two of four pages, and return these entries."""
    for number in range(1, 25):
        is_conflict = number in {2, 3, 9, 12, 20, 23, 24}
        scribe.publish("a", {"put": number}, conflict=MERGED if is_conflict else None)
        scribe.publish("b", {"put": number})
        if number in {4, 8, 12, 18}:
            scribe.cut("a")
        if number % 5 == 0:
            await store.commit(scribe.commit())
    await store.commit(scribe.commit())
    return [entry for entry in scribe.entries[NAMESPACE, "a"] if entry.conflict is not None]


@pytest.mark.usefixtures("full_depth")
async def test_conflicts_are_read_in_either_order_from_any_sequence_on(store, mine):
    assert await conflicts(store) == mine
    assert await conflicts(store, is_descending=True) == mine[::-1]
    assert await conflicts(store, "b") == await conflicts(store, "c") == []
    for after in range(mine[-1].sequence + 3):
        assert await conflicts(store, after=after) == [entry for entry in mine if entry.sequence > after]
        before = [entry for entry in mine[::-1] if entry.sequence < after]
        assert await conflicts(store, after=after, is_descending=True) == before


async def open_ones(store, *names, after=None, is_descending=False, limit=9):
    namespace, document = names or (NAMESPACE, "a")
    asked = {"after_sequence": after, "is_descending": is_descending, "limit": limit}
    return [found.sequence for found in await store.open_conflicts(namespace, document, **asked)]


async def test_a_rejection_that_needs_a_resolution_is_open_until_it_is_resolved(store, scribe):
    scribe.put("a", 1)
    scribe.publish("a", REFUSED)
    first = scribe.publish("a", REFUSED, **OPEN).sequence
    other = scribe.publish("a", REFUSED, namespace="n", **OPEN).sequence
    second, third = [scribe.publish("a", REFUSED, **OPEN).sequence for _ in range(2)]
    foreign = scribe.publish("b", REFUSED, **OPEN).sequence
    await store.commit(scribe.commit())
    assert await open_ones(store) == [first, second, third]
    assert await open_ones(store, is_descending=True, limit=2) == [third, second]
    assert await open_ones(store, after=first, limit=1) == [second]
    assert await open_ones(store, after=third, is_descending=True) == [second, first]
    assert await open_ones(store, None, None) == [first, other, second, third, foreign]
    assert await open_ones(store, NAMESPACE, None, after=first, limit=2) == [second, third]
    assert await open_ones(store, None, None, is_descending=True, limit=2) == [foreign, third]
    # Of the same document only, in the same commit or later.
    scribe.resolve("a", foreign)
    within = scribe.publish("a", REFUSED, **OPEN).sequence
    scribe.resolve("a", within)
    decision = scribe.resolve("a", second).sequence
    await store.commit(scribe.commit())
    assert await open_ones(store) == [first, third]
    assert await open_ones(store, None, None) == [first, other, third, foreign]
    scribe.resolve("a", second)
    await store.commit(scribe.commit())
    rejected = await store.rejections(NAMESPACE, "a", limit=9, before_sequence=None)
    assert {it.sequence: it.resolved_by for it in rejected}[second] == decision
