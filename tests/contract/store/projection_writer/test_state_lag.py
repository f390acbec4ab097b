"""States that a commit omits (`wants_state`, `flush_states`): every read is still exact.

Only PostgreSQL omits any: a row's state may be behind the row's version.
"""

from __future__ import annotations

import random

import pytest

from refold.core.document import ABSENT
from refold.core.errors import FenceLost
from refold.core.history import Clock, Point
from refold.store.ports import StoredHead
from support.scribe import NAMESPACE, state_bytes
from support.stores import HOSTILE, begin

SEED = 20_261_126
DOCUMENTS = ("a", "b", "c")
FIRST = ("", "")


@pytest.fixture(params=["postgres", pytest.param("postgres in two shards", marks=pytest.mark.slow)])
def kind(request):
    """Only PostgreSQL omits states from commits."""
    return request.param


def add(number):
    """Make a small patch."""
    return {"patch": [{"op": "add", "path": f"/m{number % 5}", "value": [number, HOSTILE]}]}


async def rows(store):
    """Return the state of each row, and its version where that is older than the row's."""
    async with store.read_snapshot() as snapshot:
        items = [item async for item in snapshot.items(NAMESPACE, None)]
    heads = [item for item in items if isinstance(item, StoredHead)]
    return {head.document.document: (head.state, head.state_version) for head in heads}


async def assert_exact(store, scribe):
    """Read every document and every version of it through every method."""
    keys = [key for key in scribe.documents if key[0] == NAMESPACE]
    for _, name in keys:
        head, versions = await store.head(NAMESPACE, name), scribe.snapshots[NAMESPACE, name]
        assert head.snapshot == versions[-1]
        assert head.last_sequence == scribe.documents[NAMESPACE, name].last_sequence
        for snapshot in versions:
            point = Point(Clock.version, snapshot.version)
            assert await store.snapshot_at(NAMESPACE, name, point) == snapshot
    loaded = {document.document: document for document in await store.load(keys)}
    assert loaded == {key[1]: scribe.documents[key] for key in keys}
    present = [
        head.snapshot
        for _, name in sorted(keys)
        if (head := await store.head(NAMESPACE, name)).snapshot.state
    ]
    for limit in (2, 100):
        assert await listed(store.list_documents, where=None, limit=limit) == present
        point = Point(Clock.sequence, scribe.sequence)
        assert await listed(store.list_at, point, limit=limit) == present


async def listed(ask, *asked, **more):
    """Follow the cursors to the end."""
    found, cursor = [], None
    while True:
        answer = await ask(NAMESPACE, *asked, prefix="", cursor=cursor, **more)
        found += [head.snapshot for head in answer.heads]
        cursor = answer.cursor
        if cursor is None:
            return found


async def test_a_row_keeps_an_older_state_with_its_version(store, scribe):
    scribe.put("a", {"m": 1})
    await store.commit(scribe.commit())
    shown = state_bytes(scribe.documents[NAMESPACE, "a"])
    for number in range(3):
        scribe.publish("a", add(number))
        await store.commit(scribe.commit(omitted=["a"]))
        assert await rows(store) == {"a": (shown, 1)}
        await assert_exact(store, scribe)
    scribe.publish("a", add(9))
    await store.commit(scribe.commit())
    assert await rows(store) == {"a": (state_bytes(scribe.documents[NAMESPACE, "a"]), None)}


async def test_events_without_effect_do_not_make_a_state_older(store, scribe):
    scribe.put("a", 1)
    scribe.put("b", 1)
    await store.commit(scribe.commit())
    scribe.publish("b", add(0))
    scribe.publish("b", {"put": 2})
    await store.commit(scribe.commit(omitted=["b"]))
    for name in ("a", "b"):
        scribe.publish(name, b"garbage")
    await store.commit(scribe.commit(omitted=["a", "b"]))
    assert await rows(store) == {"a": (b"1", None), "b": (b"1", 1)}
    await assert_exact(store, scribe)


async def test_a_state_is_folded_from_a_page_that_begins_after_it(store, scribe):
    scribe.put("a", {"m": 1})
    await store.commit(scribe.commit())
    for number in range(40):
        scribe.publish("a", b"garbage" if number % 7 == 3 else add(number))
        if number % 8 == 5:
            scribe.cut("a")
        await store.commit(scribe.commit(omitted=["a"]))
        await assert_exact(store, scribe)
    assert (await rows(store))["a"][1] == 1


async def test_a_document_that_is_deleted_and_created_again_meanwhile_is_exact(store, scribe):
    scribe.put("a", {"old": True})
    await store.commit(scribe.commit())
    scribe.publish("a", {"delete": True})
    scribe.cut("a")
    scribe.publish("a", {"merge": {"new": True}})
    await store.commit(scribe.commit(omitted=["a"]))
    assert await rows(store) == {"a": (b'{"old":true}', 1)}
    await assert_exact(store, scribe)
    scribe.publish("a", {"delete": True})
    await store.commit(scribe.commit())
    assert await rows(store) == {"a": (None, None)}
    assert await store.flusher.outdated(after=FIRST, limit=9) == []
    await assert_exact(store, scribe)


async def test_presence_and_counts_do_not_depend_on_the_row_state(store, scribe):
    scribe.put("a", 1)
    scribe.put("b", 1)
    await store.commit(scribe.commit())
    scribe.put("a", 2)
    scribe.publish("b", {"delete": True})
    await store.commit(scribe.commit(omitted=["a", "b"]))
    assert [tuple(count) for count in await store.namespaces()] == [(NAMESPACE, 1, 4)]
    names = await store.list_names(NAMESPACE, prefix="", limit=9, cursor=None)
    assert [(name.document, name.version, name.is_present) for name in names.names] == [
        ("a", 2, True),
        ("b", 2, False),
    ]


async def test_documents_with_older_states_are_listed_in_order_and_in_pages(store, scribe):
    names = ["+", "Z", "a", "a-1", "b", "~"]
    for value in (1, 2):
        for name in [*names, "exact"]:
            scribe.put(name, value)
        scribe.put("x", value, namespace="elsewhere")
        await store.commit(scribe.commit(omitted=[*names, "x"]))
    found, after = [], FIRST
    while keys := await store.flusher.outdated(after=after, limit=3):
        assert len(keys) <= 3
        found += keys
        after = keys[-1]
    assert found == [("elsewhere", "x"), *((NAMESPACE, name) for name in names)]


async def test_a_flush_writes_the_state_of_the_row_and_nothing_else(store, scribe):
    for value in (1, 2, 3):
        for name in ("a", "b"):
            scribe.put(name, {"value": value})
        await store.commit(scribe.commit(omitted=["a", "b"]))
    checkpoints = await store.checkpoints()
    for _ in range(2):
        await store.flusher.write(NAMESPACE, "a")
        await store.flusher.write(NAMESPACE, "never")
    assert await rows(store) == {"a": (b'{"value":3}', None), "b": (b'{"value":1}', 1)}
    assert await store.flusher.outdated(after=FIRST, limit=9) == [(NAMESPACE, "b")]
    assert await store.checkpoints() == checkpoints
    await assert_exact(store, scribe)
    scribe.publish("a", {"merge": {"more": 1}})
    await store.commit(scribe.commit(omitted=["a"]))
    assert (await rows(store))["a"] == (b'{"value":3}', 3)
    await assert_exact(store, scribe)


async def test_a_store_without_the_lease_flushes_nothing(store, open_store, scribe):
    for value in (1, 2):
        scribe.put("a", value)
        await store.commit(scribe.commit(omitted=["a"]))
    other = await open_store()
    with pytest.raises(FenceLost):
        await other.flusher.write(NAMESPACE, "a")
    assert await rows(store) == {"a": (b"1", 1)}


async def test_the_next_holder_continues_from_rows_with_older_states(store, open_store, scribe):
    for number in range(5):
        scribe.publish("a", add(number))
        await store.commit(scribe.commit(omitted=["a"]))
    await store.close()
    successor = await open_store()
    again = await begin(successor)
    again.documents, again.entries, again.snapshots = scribe.documents, scribe.entries, scribe.snapshots
    (again.documents[NAMESPACE, "a"],) = await successor.load([(NAMESPACE, "a")])
    again.publish("a", add(9))
    await successor.commit(again.commit())
    await assert_exact(successor, again)


async def test_a_commit_may_omit_hundreds_of_states(store, scribe):
    """Commit by the path for many: through a temporary table."""
    for value in range(3):
        for number in range(300):
            scribe.put(f"d{number}", [value, number])
        await store.commit(scribe.commit(omitted=[f"d{number}" for number in range(0, 300, 2)]))
    found = await rows(store)
    assert {found[f"d{number}"] for number in range(0, 300, 2)} == {
        (b"[0,%d]" % n, 1) for n in range(0, 300, 2)
    }
    assert {found[f"d{number}"][1] for number in range(1, 300, 2)} == {None}
    await assert_exact(store, scribe)


async def test_every_read_is_exact_for_any_omitted_and_flushed_states(store, scribe):
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    for number in range(150):
        name = rng.choice(DOCUMENTS)
        event = rng.choice(
            [add(number), add(number), add(number), {"put": [number]}, {"put": {}}, {"delete": True}]
        )
        if not scribe.publish(name, event).status.is_effective and rng.random() < 0.5:
            continue
        if rng.random() < 0.2:
            scribe.cut(name)
        if rng.random() < 0.5:
            await store.commit(scribe.commit(omitted=rng.sample(DOCUMENTS, rng.randrange(4))))
            for flushed in rng.sample(DOCUMENTS, rng.choice([0, 0, 1])):
                await store.flusher.write(NAMESPACE, flushed)
            await assert_exact(store, scribe)
    assert any(row.state is not ABSENT for row in scribe.documents.values())
