"""The id window by its letter, whatever pages are cut and however often the projector begins again: every adapter."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from refold.core.document import Status
from refold.core.fold import ID_WINDOW_EVENTS, ID_WINDOW_IDS, RULES
from refold.store import memory
from refold.store.postgres import read
from support.scribe import NAMESPACE, Scribe

IDS, EVENTS = 4, 9
NAMES = "abcdefg"


@pytest.fixture
def _small(monkeypatch):
    """Bounds so small that every log crosses them many times."""
    limits = replace(RULES[1].limits, id_window_ids=IDS, id_window_events=EVENTS)
    monkeypatch.setitem(RULES, 1, replace(RULES[1], limits=limits))
    for module in (read, memory):
        monkeypatch.setattr(module, "ID_WINDOW_IDS", IDS)
        monkeypatch.setattr(module, "ID_WINDOW_EVENTS", EVENTS)


async def begun_again(store, scribe):
    """Commit, forget everything, and go on from what the store gives back."""
    await store.commit(scribe.commit())
    again = Scribe(await store.checkpoints())
    loaded = await store.load(list(scribe.documents))
    again.documents = {(found.namespace, found.document): found for found in loaded}
    again.entries, again.snapshots = scribe.entries, scribe.snapshots
    return again


class Letter:
    """What design.md says of one document's ids, in its own words: a plain list of events."""

    def __init__(self):
        self.events = []

    def find(self, event_id):
        """Look among the last ids within the last events; the event's position, or None."""
        carried = [at for at, (_, _, has_place) in enumerate(self.events) if has_place][-IDS:]
        known = [at for at in carried if at >= len(self.events) - EVENTS and self.events[at][0] == event_id]
        return known[-1] if known else None

    def expect(self, event_id, content):
        """Say what becomes of the next event, and note it."""
        first = self.find(event_id) if event_id else None
        self.events.append((event_id, content, bool(event_id) and first is None))
        if first is None:
            return None
        return "duplicate" if self.events[first][1] == content else "id_reused"


def drawn(chance):
    """Draw an event: few ids and contents, so that they meet again; some rejected, some deletes."""
    event = chance.choice(
        [{"put": 1}, {"put": 2}, {"delete": True}, {"patch": [{"op": "remove", "path": "/x"}]}]
    )
    return {**event, "id": chance.choice(NAMES)} if chance.random() < 0.6 else event


@pytest.mark.usefixtures("_small")
async def test_every_id_is_found_as_the_letter_says_after_every_commit(store, scribe):
    chance = random.Random(4)
    letters = {f"d{number}": Letter() for number in range(12)}
    seen = set()
    for _ in range(40):
        for document in chance.sample(sorted(letters), 4):
            for _ in range(chance.randrange(1, 6)):
                event = drawn(chance)
                content = {name: value for name, value in event.items() if name != "id"}
                expected = letters[document].expect(event.get("id"), content)
                entry = scribe.publish(document, event)
                told = entry.reason if entry.reason == "id_reused" else entry.status.name
                assert told == expected or (expected is None and told not in {"duplicate", "id_reused"})
                assert (entry.identity is not None) == letters[document].events[-1][2]
                seen.add(expected)
            if chance.random() < 0.5:
                scribe.cut(document)
        scribe = await begun_again(store, scribe)
        document = chance.choice([name for name, letter in letters.items() if letter.events])
        for name in NAMES:
            at = letters[document].find(name)
            found = await store.find_id(NAMESPACE, document, name)
            expected = None if at is None else scribe.entries[NAMESPACE, document][at].sequence
            assert (found and found.sequence) == expected
    assert seen == {None, "duplicate", "id_reused"}


@pytest.mark.parametrize("cut_every", [128, 5_000])
async def test_the_1000th_id_back_is_known_after_a_restart_and_the_1001st_is_not(store, scribe, cut_every):
    assert ID_WINDOW_IDS == 1_000
    for number in range(ID_WINDOW_IDS):
        # Others between them take no place: without an id, rejected for reuse, repeated.
        scribe.publish("a", {"put": number, "id": f"id-{number}"})
        if number % 100 == 50:
            scribe.put("a", number)
            scribe.publish("a", {"put": -1, "id": f"id-{number}"})
            scribe.publish("a", {"put": number, "id": f"id-{number}"})
        if number % cut_every == cut_every - 1:
            scribe.cut("a")
    scribe = await begun_again(store, scribe)
    again = scribe.publish("a", {"put": 0, "id": "id-0"})
    assert (again.status, again.first_sequence) == (Status.duplicate, 1)
    scribe = await begun_again(store, scribe)
    assert (await store.find_id(NAMESPACE, "a", "id-0")).sequence == 1
    scribe.publish("a", {"put": 0, "id": "last"})
    scribe = await begun_again(store, scribe)
    assert await store.find_id(NAMESPACE, "a", "id-0") is None
    assert (await store.find_id(NAMESPACE, "a", "id-1")).sequence == 2
    assert scribe.publish("a", {"put": 1, "id": "id-1"}).status is Status.duplicate
    assert scribe.publish("a", {"put": 0, "id": "id-0"}).status is Status.applied


async def test_an_id_is_known_10000_events_long_through_restarts_and_no_event_longer(store, scribe):
    assert ID_WINDOW_EVENTS == 10_000
    scribe.publish("a", {"put": 0, "id": "x"})
    for number in range(ID_WINDOW_EVENTS - 2):
        scribe.put("a", 0)
        if number % 1_500 == 700:
            scribe.cut("a")
    for _ in range(2):
        scribe = await begun_again(store, scribe)
        assert (await store.find_id(NAMESPACE, "a", "x")).sequence == 1
        assert scribe.publish("a", {"put": 0, "id": "x"}).status is Status.duplicate
    scribe = await begun_again(store, scribe)
    assert await store.find_id(NAMESPACE, "a", "x") is None
    assert scribe.publish("a", {"put": 0, "id": "x"}).status is Status.applied
