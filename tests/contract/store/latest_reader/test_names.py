"""The names of all documents that ever had a version, absent ones too: bounded and in order."""

from __future__ import annotations

import pytest

from refold.core.errors import Refused
from support.scribe import NAMESPACE


async def named(store, namespace=NAMESPACE, *, prefix="", limit=100):
    """Follow the cursors to the end; return the names by answer."""
    answers, cursor = [], None
    while True:
        answer = await store.list_names(namespace, prefix=prefix, limit=limit, cursor=cursor)
        answers.append(answer.names)
        cursor = answer.cursor
        if cursor is None:
            return answers


async def test_names_include_absent_documents_but_none_without_a_version(store, scribe):
    for document in ("b", "a-1", "a", "gone", "é.js"):
        scribe.put(document, None)
    scribe.publish("gone", {"delete": True})
    scribe.publish("never", {"delete": True})
    scribe.put("other", 1, namespace="elsewhere")
    await store.commit(scribe.commit())
    (found,) = await named(store)
    assert [(name.document, name.version, name.is_present) for name in found] == [
        ("a", 1, True),
        ("a-1", 1, True),
        ("b", 1, True),
        ("gone", 2, False),
        ("é.js", 1, True),
    ]
    heads = [await store.head(NAMESPACE, name.document) for name in found]
    assert [name.recorded_at for name in found] == [head.snapshot.recorded_at for head in heads]
    assert await named(store, limit=5) == [found]
    assert await named(store, limit=3) == [found[:3], found[3:]]
    assert await named(store, prefix="a") == [found[:2]]
    assert await named(store, prefix="é") == [found[4:]]
    assert await named(store, prefix="a\u0000") == [[]]
    assert await named(store, "unknown") == [[]]


async def test_an_invalid_cursor_is_refused(store, scribe):
    with pytest.raises(Refused) as raised:
        await store.list_names(NAMESPACE, prefix="", limit=9, cursor="%")
    assert raised.value.reason == "bad_cursor"
