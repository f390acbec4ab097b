"""The dedup window is exact for any page boundaries and across restarts of the projector."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from refold.core.document import Status
from refold.core.fold import ID_WINDOW_EVENTS, ID_WINDOW_IDS, RULES
from refold.store import memory
from refold.store.postgres import states as postgres_states
from refold.store.redis import commit, history, rows
from refold.store.sqlite import states as sqlite_states
from support.scribe import NAMESPACE, Scribe
from support.stores import sequence_of_id

IDS, EVENTS = 4, 9
NAMES = "abcdefg"


@pytest.fixture
def _small(monkeypatch):
    """Set bounds so small that every log crosses them many times."""
    limits = replace(RULES[1].limits, id_window_ids=IDS, id_window_events=EVENTS)
    monkeypatch.setitem(RULES, 1, replace(RULES[1], limits=limits))
    for module in (memory, postgres_states, sqlite_states, commit, history, rows):
        monkeypatch.setattr(module, "ID_WINDOW_IDS", IDS, raising=False)
        monkeypatch.setattr(module, "ID_WINDOW_EVENTS", EVENTS, raising=False)


async def restarted(store, scribe):
    """Commit, and continue from what the store returns."""
    await store.commit(scribe.commit())
    again = Scribe(await store.checkpoints())
    loaded = await store.load(list(scribe.documents))
    again.documents = {(found.namespace, found.document): found for found in loaded}
    again.entries, again.snapshots = scribe.entries, scribe.snapshots
    return again


class Model:
    """A model of one document's dedup window: a plain list of events."""

    def __init__(self):
        self.events = []

    def find(self, event_id):
        """Find an id among the last ids within the last events; return its position, or None."""
        carried = [at for at, (_, _, has_place) in enumerate(self.events) if has_place][-IDS:]
        known = [at for at in carried if at >= len(self.events) - EVENTS and self.events[at][0] == event_id]
        return known[-1] if known else None

    def expect(self, event_id, content):
        """Return what the next event becomes, and add it."""
        first = self.find(event_id) if event_id else None
        self.events.append((event_id, content, bool(event_id) and first is None))
        if first is None:
            return None
        return "duplicate" if self.events[first][1] == content else "id_reused"


def drawn(chance):
    """Draw an event of few ids and contents, so that they repeat; some rejected, some deletes."""
    event = chance.choice(
        [{"put": 1}, {"put": 2}, {"delete": True}, {"patch": [{"op": "remove", "path": "/x"}]}]
    )
    return {**event, "id": chance.choice(NAMES)} if chance.random() < 0.6 else event


@pytest.mark.usefixtures("_small")
async def test_the_dedup_window_equals_the_model_after_every_commit(store, scribe):
    chance = random.Random(4)
    models = {f"d{number}": Model() for number in range(12)}
    seen = set()
    for _ in range(40):
        for document in chance.sample(sorted(models), 4):
            for _ in range(chance.randrange(1, 6)):
                event = drawn(chance)
                content = {name: value for name, value in event.items() if name != "id"}
                expected = models[document].expect(event.get("id"), content)
                entry = scribe.publish(document, event)
                found = entry.reason if entry.reason == "id_reused" else entry.status.name
                assert found == expected or (expected is None and found not in {"duplicate", "id_reused"})
                assert (entry.identity is not None) == models[document].events[-1][2]
                seen.add(expected)
            if chance.random() < 0.5:
                scribe.cut(document)
        scribe = await restarted(store, scribe)
        document = chance.choice([name for name, letter in models.items() if letter.events])
        for name in NAMES:
            at = models[document].find(name)
            expected = None if at is None else scribe.entries[NAMESPACE, document][at].sequence
            assert await sequence_of_id(store, document, name) == expected
    assert seen == {None, "duplicate", "id_reused"}


@pytest.mark.parametrize("cut_every", [128, 5_000])
async def test_the_1000th_id_back_is_known_after_a_restart_and_the_1001st_is_not(store, scribe, cut_every):
    assert ID_WINDOW_IDS == 1_000
    for number in range(ID_WINDOW_IDS):
        # Events between them that the window does not contain: without an id, rejected for reuse, repeated.
        scribe.publish("a", {"put": number, "id": f"id-{number}"})
        if number % 100 == 50:
            scribe.put("a", number)
            scribe.publish("a", {"put": -1, "id": f"id-{number}"})
            scribe.publish("a", {"put": number, "id": f"id-{number}"})
        if number % cut_every == cut_every - 1:
            scribe.cut("a")
    scribe = await restarted(store, scribe)
    again = scribe.publish("a", {"put": 0, "id": "id-0"})
    assert (again.status, again.first_sequence) == (Status.duplicate, 1)
    scribe = await restarted(store, scribe)
    assert await sequence_of_id(store, "a", "id-0") == 1
    scribe.publish("a", {"put": 0, "id": "last"})
    scribe = await restarted(store, scribe)
    assert await sequence_of_id(store, "a", "id-0") is None
    assert await sequence_of_id(store, "a", "id-1") == 2
    assert scribe.publish("a", {"put": 1, "id": "id-1"}).status is Status.duplicate
    assert scribe.publish("a", {"put": 0, "id": "id-0"}).status is Status.applied


async def test_an_id_is_known_for_exactly_10000_events_across_restarts(store, scribe):
    assert ID_WINDOW_EVENTS == 10_000
    scribe.publish("a", {"put": 0, "id": "x"})
    for number in range(ID_WINDOW_EVENTS - 2):
        scribe.put("a", 0)
        if number % 1_500 == 700:
            scribe.cut("a")
    for _ in range(2):
        scribe = await restarted(store, scribe)
        assert await sequence_of_id(store, "a", "x") == 1
        assert scribe.publish("a", {"put": 0, "id": "x"}).status is Status.duplicate
    scribe = await restarted(store, scribe)
    assert await sequence_of_id(store, "a", "x") is None
    assert scribe.publish("a", {"put": 0, "id": "x"}).status is Status.applied
