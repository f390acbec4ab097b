"""Single events with their outcomes, by sequence and by id."""

from __future__ import annotations

import random

import pytest

from refold.core.document import Kind, Status
from refold.store.postgres.history import BETWEEN_BYTES_MAX
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


@pytest.mark.usefixtures("full_depth")
async def test_events_of_many_documents_are_read_between_sequences_in_order(store, scribe):
    choose = random.Random(5)
    names = [f"d{number}" for number in range(8)]
    for number in range(150):
        name = choose.choice(names)
        scribe.publish(name, {"delete": True} if choose.random() < 0.3 else {"put": [number, "x" * 20_000]})
        if choose.random() < 0.2:
            scribe.cut(name)
        if choose.random() < 0.1:
            await store.commit(scribe.commit())
    scribe.put("d0", 1, namespace="other")
    await store.commit(scribe.commit())
    ends = [(0, scribe.sequence), (0, 0), (scribe.sequence, scribe.sequence + 9)]
    ends += [sorted(choose.choices(range(scribe.sequence), k=2)) for _ in range(20)]
    for after, until in ends:
        asked = [*choose.sample(names, choose.randrange(9)), "absent"]
        expected = [
            (name, entry)
            for name in asked
            for entry in scribe.entries[NAMESPACE, name]
            if after < entry.sequence <= until and entry.status.is_effective
        ]
        asked_for = {"after_sequence": after, "until_sequence": until}
        found = await store.entries_between(NAMESPACE, asked, **asked_for)
        assert found == sorted(expected, key=lambda it: it[1].sequence)


async def test_many_large_events_are_read_between_sequences_in_parts(store, scribe):
    names = [f"d{number}" for number in range(20)]
    for name in names:
        text = random.Random(name).randbytes(BETWEEN_BYTES_MAX // 20).hex()
        scribe.put(name, text)
        if name in names[::2]:
            scribe.cut(name)
    await store.commit(scribe.commit())
    found = await store.entries_between(NAMESPACE, names, after_sequence=0, until_sequence=scribe.sequence)
    assert [entry for _, entry in found] == [scribe.entries[NAMESPACE, name][0] for name in names]
