"""Load documents as they were committed, with their dedup windows."""

from __future__ import annotations

import pytest

from refold.core.dedup import id_digest, recall
from refold.core.document import ABSENT
from refold.core.fold import ID_WINDOW_EVENTS, ID_WINDOW_IDS
from refold.core.stream import partition_of
from support.scribe import NAMESPACE, state_bytes
from support.stores import HOSTILE, sequence_of_id


async def test_load_returns_committed_documents_and_omits_unknown_ones(store, scribe):
    scribe.put("a", {"n": [1, 2.5, None]})
    scribe.put("b", None)
    scribe.put("c", 1)
    scribe.publish("c", {"delete": True})
    await store.commit(scribe.commit())
    scribe.publish("a", {"patch": [{"op": "add", "path": "/n/-", "value": HOSTILE}]})
    scribe.cut("a")
    await store.commit(scribe.commit())
    keys = [(NAMESPACE, document) for document in ("a", "b", "c", "absent", "a")]
    loaded = {document.document: document for document in await store.load(keys)}
    assert loaded == {key[1]: document for key, document in scribe.documents.items()}
    assert loaded["c"].state is ABSENT
    assert loaded["b"].state is None
    assert await store.load([]) == []


async def test_thousands_of_documents_are_loaded_at_once(store, scribe):
    for number in range(2_000):
        scribe.put(f"d{number}", number)
    await store.commit(scribe.commit())
    loaded = await store.load([(NAMESPACE, f"d{number}") for number in range(3_000)])
    assert {document.document: document.state for document in loaded} == {f"d{n}": n for n in range(2_000)}


async def test_changing_a_loaded_document_does_not_change_the_store(store, scribe):
    scribe.put("a", {"n": [1]})
    await store.commit(scribe.commit())
    [loaded] = await store.load([(NAMESPACE, "a")])
    loaded.state["n"].append(2)
    loaded.version = 9
    [again] = await store.load([(NAMESPACE, "a")])
    assert (again.version, again.state) == (1, {"n": [1]})
    assert state_bytes(again) == b'{"n":[1]}'
    assert again.partition == partition_of(NAMESPACE.encode(), b"a")


@pytest.mark.parametrize("cut_every", [1, 7, 128, 10_000])
async def test_the_loaded_dedup_window_equals_that_in_memory(store, scribe, cut_every):
    for number in range(ID_WINDOW_IDS + 50):
        event = {"put": number} if number % 10 == 9 else {"put": number, "id": f"id-{number}"}
        scribe.publish("a", event)
        if number % cut_every == cut_every - 1:
            scribe.cut("a")
        if number % 400 == 399:
            await store.commit(scribe.commit())
    for number in range(200):
        scribe.publish("a", {"put": 0, "id": f"late-{number}"})
    await store.commit(scribe.commit())
    expected = scribe.documents[NAMESPACE, "a"].identities
    assert len(expected) == ID_WINDOW_IDS
    [loaded] = await store.load([(NAMESPACE, "a")])
    assert list(loaded.identities.items()) == list(expected.items())


async def test_the_window_contains_ids_of_deletes_and_rejected_events(store, scribe):
    scribe.publish("a", {"put": 1, "id": "first"})
    scribe.publish("a", {"merge": {"a": 1}, "base": 7, "id": "rejected"})
    scribe.publish("a", {"delete": True, "id": "deleted"})
    await store.commit(scribe.commit())
    [loaded] = await store.load([(NAMESPACE, "a")])
    assert loaded.identities == scribe.documents[NAMESPACE, "a"].identities
    assert len(loaded.identities) == 3


async def test_an_id_leaves_the_window_with_its_events(store, scribe):
    """The page across the edge of the window may hold older ids: none of them is loaded."""
    for number in range(3):
        scribe.publish("a", {"put": number, "id": f"id-{number}"})
    for number in range(ID_WINDOW_EVENTS - 2):
        scribe.put("a", number)
        if number % 2_000 == 0:
            scribe.cut("a")
    await store.commit(scribe.commit())
    [loaded] = await store.load([(NAMESPACE, "a")])
    for ordinal in range(loaded.events + 1, loaded.events + 4):
        for number in range(3):
            digest = id_digest(f"id-{number}")
            expected = recall(scribe.documents[NAMESPACE, "a"].identities, digest, ordinal - ID_WINDOW_EVENTS)
            assert recall(loaded.identities, digest, ordinal - ID_WINDOW_EVENTS) == expected
    assert recall(loaded.identities, id_digest("id-0"), loaded.events + 1 - ID_WINDOW_EVENTS) is None
    assert recall(loaded.identities, id_digest("id-1"), loaded.events + 1 - ID_WINDOW_EVENTS) is not None
    assert await sequence_of_id(store, "a", "id-0") is None
    assert await sequence_of_id(store, "a", "id-1") == 2
