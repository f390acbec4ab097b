"""Row states behind their version in PostgreSQL: what a commit writes, how they are searched, what SQL shows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from refold.core.errors import FenceLost, Refused, StoreError, TimedOut
from refold.store.postgres import states
from support.scribe import NAMESPACE
from support.services import until
from support.stores import HOSTILE, begin, postgres_stores

LARGE_BYTES = 300_000
COMMITS = 30


@pytest.fixture
async def store(postgres_dsn):
    async with postgres_stores(postgres_dsn) as open_store:
        yield await open_store()


@pytest.fixture
async def scribe(store):
    return await begin(store)


def large():
    """Make a state that does not compress."""
    return {
        "n": 0,
        "text": "".join(f"{number * 2_654_435_761 % 2**32:08x}" for number in range(LARGE_BYTES // 8)),
    }


async def chunks(aside):
    """List the chunks that the table's large values are stored in."""
    toast = await aside.fetchval(
        "SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = 'documents'::regclass"
    )
    return {row[0] for row in await aside.fetch(f"SELECT DISTINCT chunk_id FROM {toast}")}


@pytest.mark.parametrize("beside", [0, 200], ids=["few", "many"])
async def test_a_commit_does_not_write_an_omitted_state(store, scribe, aside, beside):
    scribe.put("large", large())
    await store.commit(scribe.commit())
    stored = await chunks(aside)
    assert len(stored) == 1
    before = await aside.fetchval("SELECT pg_current_wal_insert_lsn()")
    for number in range(3):
        scribe.publish("large", {"patch": [{"op": "replace", "path": "/n", "value": number}]})
        for other in range(beside):
            scribe.put(f"d{other}", number)
        await store.commit(scribe.commit(omitted=["large"]))
    written = await aside.fetchval("SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", before)
    assert await chunks(aside) == stored
    assert written < 2 * LARGE_BYTES, "three states written would be more"
    await store.flusher.write(NAMESPACE, "large")
    assert await aside.fetchval("SELECT state ->> 'n' FROM documents WHERE document = 'large'") == "2"


async def test_updates_of_small_documents_are_heap_only(postgres_dsn, aside):
    """The partial index of older states must not prevent them."""
    async with postgres_stores(postgres_dsn) as open_store:
        store = await open_store()
        scribe = await begin(store)
        for number in range(COMMITS + 1):
            scribe.put("small", number)
            await store.commit(scribe.commit())
    counted = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'documents'::regclass"

    async def all_counted():
        found = await aside.fetchrow(counted)
        return tuple(found) if found["n_tup_upd"] == COMMITS else None

    assert await until(all_counted) == (COMMITS, COMMITS)


async def lag(store, scribe, states):
    """Create each document, then change it so that its row keeps the older state."""
    for name, (shown, exact) in states.items():
        scribe.put(name, shown)
        await store.commit(scribe.commit())
        scribe.put(name, exact)
        await store.commit(scribe.commit(omitted=[name]))


async def search(store, where, **asked):
    asked = {"prefix": "", "limit": 100, "cursor": None} | asked
    answer = await store.list_documents(NAMESPACE, where=where, **asked)
    for head in answer.heads:
        assert head == await store.head(NAMESPACE, head.document)
    return [head.document for head in answer.heads], answer.cursor


async def test_a_search_evaluates_the_exact_state_and_not_the_row_state(store, scribe):
    for name in ("exact-1", "exact-2"):
        scribe.put(name, {"n": int(name[-1])})
    states = {
        "was-1": ({"n": 1}, {"n": 3}),
        "is-1": ({"n": 2}, {"n": 1}),
        "stays-1": ({"n": 1}, {"n": 1, "more": True}),
        "hostile": (HOSTILE, {"n": 1}),
        "made-hostile": ({"n": 1}, HOSTILE),
        "stays-hostile": (HOSTILE, {**HOSTILE, "n": 4}),
    }
    await lag(store, scribe, states)
    assert await search(store, "$.n == 1") == (["exact-1", "hostile", "is-1", "stays-1"], None)
    assert await search(store, "$.n == 3") == (["was-1"], None)
    assert await search(store, "$.n == 2") == (["exact-2"], None)
    assert await search(store, "$.n == 4") == (["stays-hostile"], None)
    assert await search(store, "$.n == 1", prefix="s") == (["stays-1"], None)
    found, cursor = await search(store, "$.n == 1", limit=2)
    assert found == ["exact-1", "hostile"]
    assert await search(store, "$.n == 1", cursor=cursor, limit=2) == (["is-1", "stays-1"], None)
    for bad in ("$.", "not a path", "$.n ==="):
        with pytest.raises(Refused) as refused:
            await search(store, bad)
        assert refused.value.reason == "bad_where"


async def test_a_search_over_older_states_is_bounded_in_time(postgres_dsn):
    heavy = "exists($.n[*] ? (@ == $.n[*] && @ < 0))"
    async with postgres_stores(postgres_dsn, where_seconds=0.3) as open_store:
        store = await open_store()
        scribe = await begin(store)
        await lag(store, scribe, {"a": ({"n": []}, {"n": list(range(20_000))})})
        with pytest.raises(TimedOut):
            await search(store, heavy)
        assert await search(store, "$.n[0] == 0") == (["a"], None)


async def test_a_flushed_state_keeps_its_version_under_commits(store, scribe, aside, monkeypatch):
    """Commits continue between reading and writing the state, and one may have written a newer state."""
    await lag(store, scribe, {"a": (0, 1), "b": (0, 1)})
    read_exact = states.read_exact

    async def read_then_commit(connection, keys, rows):
        heads = await read_exact(connection, keys, rows)
        for value in (2, 3):
            scribe.put(keys[0][1], value)
            await store.commit(scribe.commit(omitted=["a"]))
        return heads

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(states, "read_exact", read_then_commit)
        for name in ("a", "b"):
            await store.flusher.write(NAMESPACE, name)
    rows = await aside.fetch(
        "SELECT document, version, state::text, state_version FROM documents ORDER BY document"
    )
    assert [tuple(row) for row in rows] == [("a", 4, "1", 2), ("b", 4, "3", None)]
    assert (await store.head(NAMESPACE, "a")).snapshot.state == b"3"


async def test_a_view_shows_the_version_of_its_state(store, scribe, aside):
    scribe.put("exact", 5)
    await lag(store, scribe, {"lags": (6, 7)})
    await aside.execute("SELECT create_view($1)", NAMESPACE)
    found = await aside.fetch(
        f"SELECT document, version, state, state_version FROM refold_views.{NAMESPACE} ORDER BY 1"
    )
    assert [tuple(row) for row in found] == [("exact", 1, "5", 1), ("lags", 2, "6", 1)]


async def test_a_state_that_was_never_written_cannot_be_omitted(store, scribe):
    """The commit is refused, and nothing is written."""
    for event in ({"put": 1}, {"delete": True}):
        scribe.publish("a", event)
        await store.commit(scribe.commit())
    scribe.put("a", 2)
    commit = scribe.commit()
    [write] = commit.documents
    with pytest.raises(StoreError, match="documents_lagging_state"):
        await store.commit(replace(commit, documents=[replace(write, state=None, has_state=False)]))
    await store.commit(commit)
    assert (await store.head(NAMESPACE, "a")).snapshot.state == b"2"


async def test_a_load_during_another_holders_commit_fails(store, scribe, monkeypatch):
    """Another process has written between heads and exact states: the lease is lost."""
    await lag(store, scribe, {"a": (1, 2)})
    read_exact = states.read_exact

    async def commit_meanwhile(connection, keys, rows):
        scribe.put("a", 3)
        await store.commit(scribe.commit(omitted=["a"]))
        return await read_exact(connection, keys, rows)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(states, "read_exact", commit_meanwhile)
        with pytest.raises(FenceLost):
            await store.load([(NAMESPACE, "a")])
    assert [loaded.state for loaded in await store.load([(NAMESPACE, "a")])] == [3]
