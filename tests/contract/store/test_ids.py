"""The id window as it comes back from pages and journal: on every adapter."""

from __future__ import annotations

import pytest

from refold.core.dedup import id_digest, recall
from refold.core.fold import ID_WINDOW_EVENTS, ID_WINDOW_IDS
from support.scribe import NAMESPACE


async def test_an_id_finds_its_first_event(store, scribe):
    scribe.publish("a", {"put": 1, "id": "x\u0000"})
    scribe.publish("a", {"put": 1, "id": "x\u0000"})
    scribe.publish("a", {"put": 2, "id": "x\u0000"})
    scribe.publish("a", {"delete": False, "id": "refused"})
    scribe.cut("a")
    scribe.publish("a", {"put": 2, "id": "y"})
    await store.commit(scribe.commit())
    assert (await store.find_id(NAMESPACE, "a", "x\u0000")).sequence == 1
    assert (await store.find_id(NAMESPACE, "a", "refused")).sequence == 4
    assert (await store.find_id(NAMESPACE, "a", "y")).sequence == 5
    assert await store.find_id(NAMESPACE, "a", "z") is None
    assert await store.find_id(NAMESPACE, "b", "x\u0000") is None


def windows(documents):
    return {document.document: document.identities for document in documents}


@pytest.mark.parametrize("cut_every", [1, 7, 128, 10_000])
async def test_the_id_window_is_loaded_as_it_was_in_memory(store, scribe, cut_every):
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


async def test_an_id_is_remembered_through_a_delete_and_as_refused(store, scribe):
    scribe.publish("a", {"put": 1, "id": "first"})
    scribe.publish("a", {"merge": {"a": 1}, "base": 7, "id": "refused"})
    scribe.publish("a", {"delete": True, "id": "deleted"})
    await store.commit(scribe.commit())
    [loaded] = await store.load([(NAMESPACE, "a")])
    assert loaded.identities == scribe.documents[NAMESPACE, "a"].identities
    assert len(loaded.identities) == 3


async def test_an_id_is_forgotten_after_the_windows_events(store, scribe):
    """The page that straddles the window's edge may bring older ids: none of them is recalled."""
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
    assert await store.find_id(NAMESPACE, "a", "id-0") is None
    assert (await store.find_id(NAMESPACE, "a", "id-1")).sequence == 2
