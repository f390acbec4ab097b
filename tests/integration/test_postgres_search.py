"""`where`: a SQL/JSON path over states, bounded in time, robust against any document and path."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from refold.core.errors import Refused, TimedOut
from refold.store.postgres import latest
from support.scribe import NAMESPACE
from support.stores import HOSTILE, begin, postgres_stores

HEAVY = "exists($.n[*] ? (@ == $.n[*] && @ < 0))"
"""Quadratic in time and in memory: Postgres keeps the results of each round until the path is evaluated."""


ACTIVE = (
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE state = 'active' AND query LIKE '%jsonpath%' AND pid <> pg_backend_pid()"
)
BACKENDS = (
    "SELECT pid FROM pg_stat_activity "
    "WHERE application_name = 'refold' AND datname = current_database() ORDER BY pid"
)


@pytest.fixture
async def open_store(postgres_dsn):
    async with postgres_stores(postgres_dsn) as opener:
        yield opener


@pytest.fixture
async def store(open_store):
    """Write documents of many kinds, some of which jsonb cannot hold."""
    store = await open_store()
    scribe = await begin(store)
    for number in range(6):
        scribe.put(f"n{number}", {"n": number, "tags": ["even"] if number % 2 == 0 else []})
    scribe.put("hostile", {"n": 2, "tags": HOSTILE})
    scribe.put("hostile-key", {"n": 2, "\u0000": 1})
    scribe.put("huge-number", {"n": 2e300})
    scribe.put("null", None)
    scribe.put("gone", {"n": 2})
    scribe.publish("gone", {"delete": True})
    scribe.put("elsewhere", {"n": 2}, namespace="other")
    await store.commit(scribe.commit())
    return store


async def search(store, where, **asked):
    asked = {"prefix": "", "limit": 100, "cursor": None} | asked
    answer = await store.list_documents(NAMESPACE, where=where, **asked)
    return [head.document for head in answer.heads], answer.cursor


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("$.n == 2", ["hostile", "hostile-key", "n2"]),
        ("$.n >= 4", ["huge-number", "n4", "n5"]),
        ('$.tags[*] == "even"', ["n0", "n2", "n4"]),
        ("exists($.tags[0])", ["hostile", "n0", "n2", "n4"]),
        ("$ == null", ["null"]),
        ('$.n.type() == "string"', []),
        ("$.n / 0 > 1", []),
        ("strict $.absent == 1", []),
    ],
)
async def test_a_path_finds_matching_documents(store, where, expected):
    assert await search(store, where) == (expected, None)


async def test_a_search_is_continued_by_cursor_and_bounded_by_prefix(store):
    first, cursor = await search(store, "$.n >= 0", limit=2)
    second, _ = await search(store, "$.n >= 0", limit=9, cursor=cursor)
    assert first + second == ["hostile", "hostile-key", "huge-number", "n0", "n1", "n2", "n3", "n4", "n5"]
    assert await search(store, "$.n >= 0", prefix="n", limit=2) == (["n0", "n1"], "bjE")


@pytest.mark.parametrize(
    "where",
    [
        "",
        "$.n ==",
        "n == 2",
        "'; DROP TABLE documents; --",
        "$.n == \u0000",
        "$.n == \ud800",
        '$.n like_regex "("',
        '$.n like_regex "a" flag "x"',
        "(" * 100_000,
        "$." + "a" * 100_000 + " ==",
    ],
    ids=lambda where: ascii(where[:20]),
)
async def test_a_path_that_postgres_does_not_accept_is_refused(store, where):
    with pytest.raises(Refused) as raised:
        await search(store, where)
    assert (raised.value.reason, raised.value.field) == ("bad_where", "where")
    assert await search(store, "$.n == 2", prefix="n") == (["n2"], None)


@pytest.mark.parametrize("where", ["$", "$.n", "$.n ? (@ == 2)", "$.n + 1", "strict $.n", "$.tags.size()"])
async def test_a_where_that_is_not_a_predicate_is_refused(store, where):
    with pytest.raises(Refused, match="not a predicate") as raised:
        await search(store, where)
    assert (raised.value.reason, raised.value.field) == ("bad_where", "where")


async def test_a_search_over_its_time_limit_ends_and_the_store_continues(postgres_dsn):
    async with postgres_stores(postgres_dsn, where_seconds=0.05) as open_store:
        store = await open_store()
        scribe = await begin(store)
        scribe.put("big", {"n": list(range(30_000))})
        await store.commit(scribe.commit())
        with pytest.raises(TimedOut, match="took too long") as raised:
            await search(store, HEAVY)
        assert raised.value.facts == {"seconds": 0.05}
        assert await search(store, "$.n[29999] == 29999") == (["big"], None)
        assert (await store.head(NAMESPACE, "big")).snapshot.version == 1


async def test_concurrent_searches_are_bounded_so_that_other_reads_continue(postgres_dsn, monkeypatch):
    monkeypatch.setattr(latest, "STORE_SEARCHES_MAX", 1)
    async with postgres_stores(postgres_dsn, where_seconds=0.4) as open_store:
        store = await open_store()
        scribe = await begin(store)
        scribe.put("big", {"n": list(range(30_000))})
        await store.commit(scribe.commit())
        searches = [asyncio.create_task(search(store, HEAVY)) for _ in range(3)]
        running = 0
        connection = await asyncpg.connect(postgres_dsn)
        while not all(task.done() for task in searches):
            assert (await store.head(NAMESPACE, "big")).snapshot.version == 1
            running = max(running, await connection.fetchval(ACTIVE))
        await connection.close()
        assert running == 1
        for task in searches:
            with pytest.raises(TimedOut):
                task.result()
        assert await search(store, "$.n[1] == 1") == (["big"], None)


async def test_a_search_that_needs_too_much_memory_is_refused_and_the_database_continues(postgres_dsn):
    doubling = "$" + "[0,0]" * 12 + '.keyvalue().value == "y"'
    async with postgres_stores(postgres_dsn, where_seconds=60) as open_store:
        store = await open_store()
        scribe = await begin(store)
        scribe.put("big", {"s": "x" * 900_000})
        await store.commit(scribe.commit())
        connection = await asyncpg.connect(postgres_dsn)
        backends = await connection.fetch(BACKENDS)
        with pytest.raises(Refused, match="memory") as raised:
            await search(store, doubling)
        assert (raised.value.reason, raised.value.field) == ("bad_where", "where")
        assert await search(store, 'exists($.s ? (@ starts with "x"))') == (["big"], None)
        assert await connection.fetch(BACKENDS) == backends
        await connection.close()


async def test_a_search_finds_documents_that_jsonb_cannot_hold(store):
    everything = await search(store, "exists($)")
    numbered = ["huge-number", "n0", "n1", "n2", "n3", "n4", "n5", "null"]
    assert everything == (["hostile", "hostile-key", *numbered], None)
    assert await search(store, "exists($)", prefix="hostile") == (["hostile", "hostile-key"], None)


@pytest.fixture
async def with_nul(open_store):
    """Write documents with U+0000 among others, and some that only look like them."""
    store = await open_store()
    scribe = await begin(store)
    scribe.put("key", {"k\u0000": {"deep\u0000": ["a", "b\u0000"]}, "hit": 1})
    scribe.put("nested", {"list": [[{"x": "x\u0000y"}]], "hit": 1})
    scribe.put("plain", {"a": "x\u0001y", "hit": 1})
    scribe.put("quoted", {"a": "x\\u0000y", "b": '\\"\\\\', "hit": 1})
    scribe.put("quoted-nul", {"a": "\\\u0000\\u0000\u0000\u0000", "hit": 1})
    scribe.put("value", {"a": "x\u0000y", "hit": 1})
    scribe.put("with-substitutes", {"a": "x\u0000y", "b": "".join(map(chr, range(1, 32))), "hit": 1})
    scribe.put("with-all", {"a": "\u0000", "b": "".join(map(chr, [*range(1, 32), *range(0xFDD0, 0xFDF0)]))})
    await store.commit(scribe.commit())
    return store


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("$.hit == 1", ["key", "nested", "plain", "quoted", "quoted-nul", "value", "with-substitutes"]),
        ('$.a == "x\\u0001y"', ["plain"]),
        ('$.a == "x\x01y"', ["plain"]),
        ('$.a == "x\ufdd0y"', []),
        ('$.a like_regex "^x.y$"', ["plain", "value", "with-substitutes"]),
        ('$.a like_regex "^x[[:cntrl:]]y$"', ["plain", "value"]),
        ('$.a like_regex "^x\\\\Dy$"', ["plain", "value", "with-substitutes"]),
        ('$.a like_regex "^.{10}$"', ["quoted-nul"]),
        ('$.a starts with "\\\\"', ["quoted-nul"]),
        ('$.a starts with "x"', ["plain", "quoted", "value", "with-substitutes"]),
        # It sorts before any other character, except in documents that contain every replacement.
        ('$.a < "x y"', ["plain", "quoted-nul", "value"]),
        ('$.a < "x"', ["quoted-nul"]),
        ('$.list[*].x == "xy"', []),
        ('$.*.* == "a"', ["key"]),
        ("$.a.size() == 1 && exists($.b)", ["quoted", "with-all", "with-substitutes"]),
    ],
)
async def test_a_path_that_does_not_name_nul_is_evaluated_exactly(with_nul, where, expected):
    assert await search(with_nul, where) == (expected, None)


async def test_documents_with_nul_are_paged_among_the_others(with_nul):
    everything, _ = await search(with_nul, "$.hit == 1")
    for limit in range(1, len(everything) + 1):
        found, cursor = [], None
        while True:
            page, cursor = await search(with_nul, "$.hit == 1", limit=limit, cursor=cursor)
            assert len(page) == min(limit, len(everything) - len(found))
            found += page
            if cursor is None:
                break
        assert found == everything
    assert await search(with_nul, "$.hit == 1", prefix="v") == (["value"], None)


async def test_a_listed_document_with_nul_is_its_head(with_nul):
    answer = await with_nul.list_documents(NAMESPACE, prefix="v", where="$.hit == 1", limit=9, cursor=None)
    assert answer.heads == [await with_nul.head(NAMESPACE, "value")]


async def test_a_search_over_documents_with_nul_ends_in_time(postgres_dsn):
    async with postgres_stores(postgres_dsn, where_seconds=0.3) as open_store:
        store = await open_store()
        scribe = await begin(store)
        scribe.put("big", {"n": list(range(30_000)), "s": "\u0000"})
        await store.commit(scribe.commit())
        with pytest.raises(TimedOut, match="took too long"):
            await search(store, HEAVY)
        assert await search(store, "$.n[29999] == 29999") == (["big"], None)
