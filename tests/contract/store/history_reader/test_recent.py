"""A store of recent depth answers exactly what its last pages hold; what is older is elsewhere, never absent."""

from __future__ import annotations

import random
from contextlib import aclosing

import pytest

from refold.core.errors import HistoryElsewhere
from refold.core.history import Clock, Point
from refold.core.stream import ClockRange
from refold.store import REJECTIONS_KEPT_MAX, Depth
from support.scribe import NAMESPACE

pytestmark = pytest.mark.usefixtures("recent_depth")

MERGED = b'{"strategy":"merge"}'


@pytest.fixture
async def oldest(store, scribe):
    """Write six pages of three events in commits of other lengths; return the sequence of the last that is dropped."""
    for number in range(20):
        scribe.publish("a", {"put": number, "id": f"e{number}"}, conflict=MERGED)
        if number % 3 == 2:
            scribe.cut("a")
        if number % 5 == 0:
            await store.commit(scribe.commit())
    await store.commit(scribe.commit())
    return scribe.oldest("a", Depth.recent)[1]


async def read(parts):
    """Return all parts up to the error, and whether there was one."""
    found = []
    async with aclosing(parts) as opened:
        try:
            async for part in opened:
                found.append(part)  # noqa: PERF401
        except HistoryElsewhere:
            return found, True
    return found, False


async def test_segments_are_read_up_to_the_oldest_base(store, scribe, oldest):
    async def versions(after, *, is_descending):
        asked = {"after_version": after, "is_descending": is_descending}
        runs, is_elsewhere = await read(store.segments(NAMESPACE, "a", **asked))
        return [[entry.version for entry in run.entries] for run in runs], is_elsewhere

    assert oldest == 12
    kept = [[13, 14, 15], [16, 17, 18], [19, 20]]
    assert await versions(12, is_descending=False) == (kept, False)
    assert await versions(16, is_descending=False) == (kept[1:], False)
    assert await versions(11, is_descending=False) == ([], True)
    assert await versions(None, is_descending=True) == (kept[::-1], True)
    assert await versions(12, is_descending=True) == ([], True)


async def test_ranges_of_events_with_the_time_of_an_earlier_one_are_kept(store, scribe):
    assert await store.clock() == []
    last = scribe.put("a", 1, at=100)
    scribe.put("b", 1, at=50)
    await store.commit(scribe.commit())
    scribe.put("a", 2, at=70)
    await store.commit(scribe.commit())
    scribe.put("a", 3, at=101)
    await store.commit(scribe.commit())
    time = last.recorded_at
    assert await store.clock() == [ClockRange(last.sequence + 1, last.sequence + 2, time)]


async def test_events_and_ids_are_found_or_elsewhere(store, scribe, oldest):
    for entry in scribe.entries[NAMESPACE, "a"]:
        event_id = f"e{entry.sequence - 1}"
        if entry.sequence > oldest:
            assert await store.entry(NAMESPACE, "a", entry.sequence) == entry
            assert await store.find_id(NAMESPACE, "a", event_id) == entry
        else:
            for asked in (
                store.entry(NAMESPACE, "a", entry.sequence),
                store.find_id(NAMESPACE, "a", event_id),
            ):
                with pytest.raises(HistoryElsewhere) as raised:
                    await asked
                assert raised.value.facts["sequence"] == entry.sequence
    assert await store.find_id(NAMESPACE, "a", "never") is None
    assert await store.entry(NAMESPACE, "a", 99) is None
    assert await store.entry(NAMESPACE, "never", 1) is None


async def test_events_between_sequences_are_whole_or_elsewhere(store, scribe, oldest):
    scribe.put("b", 1)
    await store.commit(scribe.commit())
    expected = [("a", entry) for entry in scribe.kept("a", Depth.recent)]
    expected += [("b", entry) for entry in scribe.entries[NAMESPACE, "b"]]
    asked = {"until_sequence": scribe.sequence}
    found = await store.entries_between(NAMESPACE, ["b", "a", "never"], after_sequence=oldest, **asked)
    assert found == expected
    assert await store.entries_between(NAMESPACE, ["b"], after_sequence=0, **asked) == expected[-1:]
    assert await store.entries_between(NAMESPACE, ["a"], after_sequence=3, until_sequence=3) == []
    with pytest.raises(HistoryElsewhere):
        await store.entries_between(NAMESPACE, ["b", "a"], after_sequence=oldest - 1, **asked)


async def test_conflicts_are_read_up_to_the_oldest_base(store, scribe, oldest):
    kept = scribe.kept("a", Depth.recent)

    async def found(after, *, is_descending):
        asked = {"after_sequence": after, "is_descending": is_descending}
        parts, is_elsewhere = await read(store.conflicts(NAMESPACE, "a", **asked))
        return [entry for part in parts for entry in part], is_elsewhere

    assert await found(oldest, is_descending=False) == (kept, False)
    assert await found(oldest + 3, is_descending=False) == (kept[3:], False)
    assert await found(None, is_descending=False) == ([], True)
    assert await found(None, is_descending=True) == (kept[::-1], True)


async def test_a_list_as_of_a_point_is_elsewhere(store, oldest):
    with pytest.raises(HistoryElsewhere):
        await store.list_at(NAMESPACE, Point(Clock.sequence, oldest), prefix="", limit=9, cursor=None)


async def test_the_last_rejections_of_a_namespace_are_kept_and_every_open_one(store, scribe):
    opened = scribe.publish("a", b"", conflict=MERGED, reason="needs_resolution").sequence
    for number in range(REJECTIONS_KEPT_MAX + 5):
        scribe.publish("b" if number % 2 else "a", b"garbage")
        if number == 700:
            await store.commit(scribe.commit())
    scribe.publish("c", b"garbage", namespace="other")
    await store.commit(scribe.commit())

    async def sequences(*names, limit=9, before=None):
        found = await store.rejections(*names, limit=limit, before_sequence=before)
        return [it.sequence for it in found]

    last = scribe.sequence
    everything = await sequences(NAMESPACE, None, limit=REJECTIONS_KEPT_MAX)
    assert everything == list(range(last - 1, last - 1 - REJECTIONS_KEPT_MAX, -1))
    assert await sequences(NAMESPACE, "b", limit=3) == [last - 2, last - 4, last - 6]
    assert await sequences(None, None, limit=3) == [last, last - 1, last - 2]
    assert await sequences("other", None) == [last]
    for asked in ((NAMESPACE, None), (NAMESPACE, "b"), (None, None), (NAMESPACE, "never")):
        with pytest.raises(HistoryElsewhere):
            await sequences(*asked, limit=9, before=last - REJECTIONS_KEPT_MAX + 3)
    still = {"after_sequence": None, "is_descending": False, "limit": 9}
    assert [it.sequence for it in await store.open_conflicts(None, None, **still)] == [opened]
    scribe.resolve("a", opened)
    await store.commit(scribe.commit())
    assert await store.open_conflicts(None, None, **still) == []
    assert await sequences(NAMESPACE, None, limit=REJECTIONS_KEPT_MAX) == everything


async def test_random_pages_are_read_back_as_far_as_they_are_kept(store, scribe):
    choose = random.Random(7)
    for number in range(300):
        name = choose.choice("abc")
        scribe.publish(name, choose.choice([{"put": number}, {"merge": {"m": number}}, {"delete": True}]))
        if choose.random() < 0.1:
            scribe.cut(name, is_whole=choose.random() < 0.5)
        if choose.random() < 0.05:
            await store.commit(scribe.commit())
    await store.commit(scribe.commit())
    for name in "abc":
        runs, _ = await read(store.segments(NAMESPACE, name, after_version=None, is_descending=True))
        kept = [entry for run in runs[::-1] for entry in run.entries]
        assert kept == scribe.kept(name, Depth.recent)
        base, sequence = scribe.oldest(name, Depth.recent)
        assert (runs[-1].base, runs[-1].base_sequence) == (base, sequence)
        assert len(runs) == 3
