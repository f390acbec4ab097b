"""Single events with their outcomes, by sequence and by id."""

from __future__ import annotations

from refold.core.document import Kind, Status
from support.scribe import NAMESPACE
from support.stores import write_life


async def test_every_entry_is_found_by_its_sequence_in_page_and_journal(store, scribe):
    await write_life(store, scribe, cut_after=(3, 7), commit_after=(2, 5))
    for entry in scribe.entries[NAMESPACE, "life"]:
        assert await store.entry(NAMESPACE, "life", entry.sequence) == entry
    other = scribe.entries[NAMESPACE, "other"][0].sequence
    for sequence in (0, other, scribe.sequence + 1):
        assert await store.entry(NAMESPACE, "life", sequence) is None
    assert await store.entry(NAMESPACE, "absent", 1) is None


async def test_an_entry_holds_the_event_as_recorded(store, scribe):
    body = b' {"merge" : {"a":"\\u0000"}, "id":"\\u0000", "meta":{"\\"":1.0} } '
    scribe.publish("a", body)
    scribe.publish("a", b'\x00\xff{"id":1')
    await store.commit(scribe.commit())
    first, second = [await store.entry(NAMESPACE, "a", sequence) for sequence in (1, 2)]
    assert (first.body, first.status, first.kind) == (body, Status.applied, Kind.merge)
    assert type(first.status) is Status
    assert (second.body, second.status, second.kind) == (b'\x00\xff{"id":1', Status.rejected, Kind.unknown)


async def test_an_id_finds_its_first_event(store, scribe):
    scribe.publish("a", {"put": 1, "id": "x\u0000"})
    scribe.publish("a", {"put": 1, "id": "x\u0000"})
    scribe.publish("a", {"put": 2, "id": "x\u0000"})
    scribe.publish("a", {"delete": False, "id": "rejected"})
    scribe.cut("a")
    scribe.publish("a", {"put": 2, "id": "y"})
    await store.commit(scribe.commit())
    assert (await store.find_id(NAMESPACE, "a", "x\u0000")).sequence == 1
    assert (await store.find_id(NAMESPACE, "a", "rejected")).sequence == 4
    assert (await store.find_id(NAMESPACE, "a", "y")).sequence == 5
    assert await store.find_id(NAMESPACE, "a", "z") is None
    assert await store.find_id(NAMESPACE, "b", "x\u0000") is None
