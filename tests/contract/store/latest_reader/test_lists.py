"""Lists of present documents and counts by namespace: bounded and in order."""

from __future__ import annotations

import pytest

from refold.core.errors import Refused
from refold.store import ANSWER_BYTES_MAX, ANY_VERSION, OMITTED
from support.scribe import NAMESPACE
from support.stores import HOSTILE


async def listed(store, namespace=NAMESPACE, **asked):
    """Follow the cursors to the end; return the ids by answer."""
    answers, cursor = [], None
    while True:
        asked = {"prefix": "", "where": None, "limit": 100} | asked
        answer = await store.list_documents(namespace, cursor=cursor, **asked)
        answers.append([head.document for head in answer.heads])
        cursor = answer.cursor
        if cursor is None:
            return answers


async def test_present_documents_are_listed_by_id(store, scribe):
    for document in ("b", "a", "Z", "~", "a-1", "a:1", "+", "-", "a.b", "é/1", "é/ß", "𝄞"):
        scribe.put(document, {"is": document})
    scribe.put("gone", 1)
    scribe.publish("gone", {"delete": True})
    scribe.put("other", 1, namespace="elsewhere")
    await store.commit(scribe.commit())
    expected = ["+", "-", "Z", "a", "a-1", "a.b", "a:1", "b", "~", "é/1", "é/ß", "𝄞"]
    assert await listed(store) == [expected]
    assert await listed(store, limit=12) == [expected]
    assert await listed(store, limit=3) == [expected[:3], expected[3:6], expected[6:9], expected[9:]]
    assert await listed(store, prefix="a") == [["a", "a-1", "a.b", "a:1"]]
    assert await listed(store, prefix="a", limit=1) == [["a"], ["a-1"], ["a.b"], ["a:1"]]
    assert await listed(store, prefix="~") == [["~"]]
    assert await listed(store, prefix="é/", limit=1) == [["é/1"], ["é/ß"]]
    assert await listed(store, prefix="𝄞") == [["𝄞"]]
    assert await listed(store, namespace="unknown") == [[]]
    for hostile in ("\u0000", "a\u0000", "a%", "_", "è", "a\x7f", "\ud800"):
        assert await listed(store, prefix=hostile) == [[]]


async def test_a_listed_document_is_its_head(store, scribe):
    scribe.put("a", HOSTILE)
    scribe.put("b", None)
    await store.commit(scribe.commit())
    answer = await store.list_documents(NAMESPACE, prefix="", where=None, limit=9, cursor=None)
    assert answer.heads == [await store.head(NAMESPACE, document) for document in ("a", "b")]


def grow(scribe, document, size_bytes):
    """Write a state of exactly so many canonical bytes, in events that are small enough."""
    scribe.put(document, [])
    while (missing := size_bytes - scribe.documents[NAMESPACE, document].size) > 0:
        comma = 1 if scribe.documents[NAMESPACE, document].size > 2 else 0
        text = "x" * (min(missing, 900_000) - 2 - comma)
        scribe.publish(document, {"patch": [{"op": "add", "path": "/-", "value": text}]})
    assert scribe.documents[NAMESPACE, document].size == size_bytes


async def test_a_list_is_bounded_in_bytes_and_returns_at_least_one_item(store, scribe):
    third = ANSWER_BYTES_MAX // 3
    for document, size_bytes in (
        ("a", third),
        ("b", third),
        ("c", ANSWER_BYTES_MAX - 2 * third),
        ("d", third),
    ):
        grow(scribe, document, size_bytes)
    grow(scribe, "huge", ANSWER_BYTES_MAX)
    scribe.put("z", 1)
    await store.commit(scribe.commit())
    scribe.put("gone", 1)
    scribe.publish("gone", {"delete": True})
    await store.commit(scribe.commit())
    assert await listed(store) == [["a", "b", "c"], ["d"], ["huge"], ["z"]]
    # Without states, their bytes are no bound.
    page = await store.list_documents(NAMESPACE, prefix="", where=None, limit=9, cursor=None, is_bare=True)
    names = ("a", "b", "c", "d", "huge", "z")
    assert page.heads == [await store.head(NAMESPACE, name, known_version=ANY_VERSION) for name in names]
    assert {head.snapshot.state for head in page.heads} == {OMITTED}
    assert page.cursor is None


@pytest.mark.parametrize("cursor", ["", "%", "é", "AA", "YQ==YQ", "a" * 1_000])
async def test_an_invalid_cursor_is_refused(store, scribe, cursor):
    with pytest.raises(Refused) as raised:
        await store.list_documents(NAMESPACE, prefix="", where=None, limit=9, cursor=cursor)
    assert (raised.value.reason, raised.value.field) == ("bad_cursor", "cursor")


async def test_namespaces_are_counted(store, scribe):
    async def counts():
        return [tuple(count) for count in await store.namespaces()]

    assert await counts() == []
    scribe.put("a", 1)
    scribe.put("b", 1)
    scribe.put("c", 1, namespace="elsewhere")
    scribe.publish("never", {"delete": True}, namespace="empty")
    await store.commit(scribe.commit())
    assert await counts() == [("elsewhere", 1, 1), ("empty", 0, 1), (NAMESPACE, 2, 2)]
    scribe.publish("a", {"delete": True})
    scribe.cut("a")
    scribe.publish("b", {"delete": True})
    scribe.put("b", 2)
    scribe.publish("b", b"garbage")
    scribe.put("never", 1, namespace="empty")
    scribe.publish("never", {"delete": True}, namespace="empty")
    await store.commit(scribe.commit())
    assert await counts() == [("elsewhere", 1, 1), ("empty", 0, 3), (NAMESPACE, 1, 6)]
    scribe.put("a", 2)
    scribe.publish("c", {"delete": True}, namespace="elsewhere")
    scribe.publish("b", b"garbage")
    await store.commit(scribe.commit())
    assert await counts() == [("elsewhere", 0, 2), ("empty", 0, 3), (NAMESPACE, 2, 8)]


async def test_a_search_is_answered_or_refused_by_capability(store, scribe, kind):
    scribe.put("a", {"n": 1})
    scribe.put("b", {"n": 2})
    await store.commit(scribe.commit())
    if store.capabilities.has_where and kind != "postgres encrypted":
        assert await listed(store, where="$.n > 1") == [["b"]]
        return
    with pytest.raises(Refused) as raised:
        await listed(store, where="$.n > 1")
    assert raised.value.field == "where"
    reason = "store_encrypted" if store.capabilities.has_where else "where_needs_postgres"
    assert raised.value.reason == reason
