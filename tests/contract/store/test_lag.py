"""A PostgreSQL row's state may be older than its version: every read is exact all the same."""

from __future__ import annotations

import random

import pytest

from refold.core.document import ABSENT
from refold.core.errors import FenceLost
from refold.core.history import Clock, Point
from refold.history import state_at
from refold.store.ports import StoredHead
from support.scribe import NAMESPACE, state_bytes
from support.stores import HOSTILE, begin

SEED = 20_261_126
DOCUMENTS = ("a", "b", "c")
FIRST = ("", "")


@pytest.fixture(params=["postgres", pytest.param("postgres in two shards", marks=pytest.mark.slow)])
def kind(request):
    """Only PostgreSQL leaves states out of commits."""
    return request.param


def add(number):
    """Make a small patch of what `put` has begun."""
    return {"patch": [{"op": "add", "path": f"/m{number % 5}", "value": [number, HOSTILE]}]}


async def rows(store):
    """Look at the rows themselves: what each shows, and of which version it says that this is, where it lags."""
    async with store.read_snapshot() as moment:
        items = [item async for item in moment.items(NAMESPACE, None)]
    heads = [item for item in items if isinstance(item, StoredHead)]
    return {head.document.document: (head.state, head.state_version) for head in heads}


async def assert_exact(store, scribe):
    """Ask for every document, and every version of it, in every way that there is."""
    keys = [key for key in scribe.documents if key[0] == NAMESPACE]
    for _, name in keys:
        head, versions = await store.head(NAMESPACE, name), scribe.snapshots[NAMESPACE, name]
        assert head.snapshot == versions[-1]
        assert head.last_sequence == scribe.documents[NAMESPACE, name].last_sequence
        for snapshot in versions:
            point = Point(Clock.version, snapshot.version)
            assert await state_at(store, NAMESPACE, name, point) == snapshot
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


async def test_a_row_keeps_its_state_and_says_of_which_version_it_is(store, scribe):
    scribe.put("a", {"m": 1})
    await store.commit(scribe.commit())
    shown = state_bytes(scribe.documents[NAMESPACE, "a"])
    for number in range(3):
        scribe.publish("a", add(number))
        await store.commit(scribe.commit(lagging=["a"]))
        assert await rows(store) == {"a": (shown, 1)}
        await assert_exact(store, scribe)
    scribe.publish("a", add(9))
    await store.commit(scribe.commit())
    assert await rows(store) == {"a": (state_bytes(scribe.documents[NAMESPACE, "a"]), None)}


async def test_events_that_change_nothing_make_nothing_lag(store, scribe):
    scribe.put("a", 1)
    scribe.put("b", 1)
    await store.commit(scribe.commit())
    scribe.publish("b", add(0))
    scribe.publish("b", {"put": 2})
    await store.commit(scribe.commit(lagging=["b"]))
    for name in ("a", "b"):
        scribe.publish(name, b"garbage")
    await store.commit(scribe.commit(lagging=["a", "b"]))
    assert await rows(store) == {"a": (b"1", None), "b": (b"1", 1)}
    await assert_exact(store, scribe)


async def test_a_page_that_begins_behind_the_row_is_where_its_state_is_folded_from(store, scribe):
    scribe.put("a", {"m": 1})
    await store.commit(scribe.commit())
    for number in range(40):
        scribe.publish("a", b"garbage" if number % 7 == 3 else add(number))
        if number % 8 == 5:
            scribe.cut("a")
        await store.commit(scribe.commit(lagging=["a"]))
        await assert_exact(store, scribe)
    assert (await rows(store))["a"][1] == 1


async def test_a_document_deleted_and_made_again_while_it_lags_is_what_it_is(store, scribe):
    scribe.put("a", {"old": True})
    await store.commit(scribe.commit())
    scribe.publish("a", {"delete": True})
    scribe.cut("a")
    scribe.publish("a", {"merge": {"new": True}})
    await store.commit(scribe.commit(lagging=["a"]))
    assert await rows(store) == {"a": (b'{"old":true}', 1)}
    await assert_exact(store, scribe)
    scribe.publish("a", {"delete": True})
    await store.commit(scribe.commit())
    assert await rows(store) == {"a": (None, None)}
    assert await store.flusher.lagging(after=FIRST, limit=9) == []
    await assert_exact(store, scribe)


async def test_presence_and_counts_do_not_depend_on_what_a_row_shows(store, scribe):
    scribe.put("a", 1)
    scribe.put("b", 1)
    await store.commit(scribe.commit())
    scribe.put("a", 2)
    scribe.publish("b", {"delete": True})
    await store.commit(scribe.commit(lagging=["a", "b"]))
    assert [tuple(count) for count in await store.namespaces()] == [(NAMESPACE, 1, 4)]
    names = await store.list_names(NAMESPACE, prefix="", limit=9, cursor=None)
    assert [(name.document, name.version, name.is_present) for name in names.names] == [
        ("a", 2, True),
        ("b", 2, False),
    ]


async def test_documents_that_lag_are_named_in_order_a_part_at_a_time(store, scribe):
    names = ["+", "Z", "a", "a-1", "b", "~"]
    for value in (1, 2):
        for name in [*names, "exact"]:
            scribe.put(name, value)
        scribe.put("x", value, namespace="elsewhere")
        await store.commit(scribe.commit(lagging=[*names, "x"]))
    found, after = [], FIRST
    while keys := await store.flusher.lagging(after=after, limit=3):
        assert len(keys) <= 3
        found += keys
        after = keys[-1]
    assert found == [("elsewhere", "x"), *((NAMESPACE, name) for name in names)]


async def test_settled_a_row_shows_its_version_and_nothing_else_has_changed(store, scribe):
    for value in (1, 2, 3):
        for name in ("a", "b"):
            scribe.put(name, {"value": value})
        await store.commit(scribe.commit(lagging=["a", "b"]))
    checkpoints = await store.checkpoints()
    for _ in range(2):
        await store.flusher.write(NAMESPACE, "a")
        await store.flusher.write(NAMESPACE, "never")
    assert await rows(store) == {"a": (b'{"value":3}', None), "b": (b'{"value":1}', 1)}
    assert await store.flusher.lagging(after=FIRST, limit=9) == [(NAMESPACE, "b")]
    assert await store.checkpoints() == checkpoints
    await assert_exact(store, scribe)
    scribe.publish("a", {"merge": {"more": 1}})
    await store.commit(scribe.commit(lagging=["a"]))
    assert (await rows(store))["a"] == (b'{"value":3}', 3)
    await assert_exact(store, scribe)


async def test_who_does_not_own_the_shard_settles_nothing(store, open_store, scribe):
    for value in (1, 2):
        scribe.put("a", value)
        await store.commit(scribe.commit(lagging=["a"]))
    other = await open_store()
    with pytest.raises(FenceLost):
        await other.flusher.write(NAMESPACE, "a")
    assert await rows(store) == {"a": (b"1", 1)}


async def test_a_successor_loads_and_goes_on_where_the_rows_lag(store, open_store, scribe):
    for number in range(5):
        scribe.publish("a", add(number))
        await store.commit(scribe.commit(lagging=["a"]))
    await store.close()
    successor = await open_store()
    again = await begin(successor)
    again.documents, again.entries, again.snapshots = scribe.documents, scribe.entries, scribe.snapshots
    (again.documents[NAMESPACE, "a"],) = await successor.load([(NAMESPACE, "a")])
    again.publish("a", add(9))
    await successor.commit(again.commit())
    await assert_exact(successor, again)


async def test_hundreds_lag_at_once(store, scribe):
    """Another path than that for a few: through a table of the commit's own."""
    for value in range(3):
        for number in range(300):
            scribe.put(f"d{number}", [value, number])
        await store.commit(scribe.commit(lagging=[f"d{number}" for number in range(0, 300, 2)]))
    found = await rows(store)
    assert {found[f"d{number}"] for number in range(0, 300, 2)} == {
        (b"[0,%d]" % n, 1) for n in range(0, 300, 2)
    }
    assert {found[f"d{number}"][1] for number in range(1, 300, 2)} == {None}
    await assert_exact(store, scribe)


async def test_whatever_lags_and_is_settled_in_between_every_read_is_exact(store, scribe):
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
            await store.commit(scribe.commit(lagging=rng.sample(DOCUMENTS, rng.randrange(4))))
            for settled in rng.sample(DOCUMENTS, rng.choice([0, 0, 1])):
                await store.flusher.write(NAMESPACE, settled)
            await assert_exact(store, scribe)
    assert any(row.state is not ABSENT for row in scribe.documents.values())
