"""The state at any point of a document's history, for any page boundaries."""

from __future__ import annotations

import asyncio

import pytest

from refold.core.history import NEVER, Clock, Point
from refold.store import PAGES_KEPT, Depth
from support.scribe import NAMESPACE, SECOND
from support.stores import Depths, all_entries, write_life


async def assert_every_point(store, scribe, document):
    """Compare every version, sequence and time, and those in between, read alone and together, with a plain search."""
    entries = scribe.entries[NAMESPACE, document]
    points = [Point(Clock.version, version) for version in range(len(entries) + 2)]
    points += [Point(Clock.sequence, sequence) for sequence in range(scribe.sequence + 2)]
    times = {entry.recorded_at for entry in entries} | {entry.occurred_at for entry in entries}
    for time in sorted(times):
        points += [Point(clock, time + d) for clock in (Clock.recorded, Clock.occurred) for d in (-1, 0, 1)]
    depths = Depths(store, scribe)
    for point in points:
        await depths.check(document, point)
    await asyncio.gather(*(depths.check(document, point) for point in points))


@pytest.mark.parametrize(
    ("cut_after", "commit_after"),
    [
        ((), ()),
        ((), range(13)),
        ((4,), (4,)),
        ((4,), (2, 6)),
        ((0, 2, 3, 7), ()),
        ((12,), (5,)),
        ((2, 5, 6, 10), (3, 8)),
        (range(13), (4, 8)),
        (range(13), range(13)),
    ],
    ids=str,
)
async def test_every_point_is_read_back_for_any_page_boundaries(store, scribe, cut_after, commit_after):
    await write_life(store, scribe, cut_after, commit_after)
    await assert_every_point(store, scribe, "life")
    runs = await all_entries(store, "life")
    assert [entry for run in runs for entry in run] == scribe.kept("life", store.capabilities.depth)
    backwards = await all_entries(store, "life", is_descending=True)
    assert backwards == runs[::-1]
    is_full = store.capabilities.depth is Depth.full
    assert len(runs) == 1 + (len(cut_after) if is_full else min(len(cut_after), PAGES_KEPT))


async def test_among_equal_times_the_last_is_used(store, scribe):
    for number in range(3):
        scribe.put("a", number, at=5)
    scribe.cut("a")
    scribe.put("a", 3, at=5)
    scribe.put("a", 4, at=6)
    await store.commit(scribe.commit())
    at = scribe.entries[NAMESPACE, "a"][0].recorded_at
    assert (await store.snapshot_at(NAMESPACE, "a", Point(Clock.recorded, at))).state == b"3"
    assert (await store.snapshot_at(NAMESPACE, "a", Point(Clock.recorded, at + SECOND))).state == b"4"
    assert await store.snapshot_at(NAMESPACE, "a", Point(Clock.recorded, at - 1)) == NEVER


@pytest.mark.usefixtures("full_depth")
async def test_occurred_time_is_a_running_maximum(store, scribe):
    for number, year in enumerate((2010, 2012, 2011, 2013)):
        scribe.publish("a", {"put": number, "occurred_at": f"{year}-01-01T00:00:00Z"})
        scribe.cut("a")
    await store.commit(scribe.commit())
    times = [entry.occurred_at for entry in scribe.entries[NAMESPACE, "a"]]
    states = [(await store.snapshot_at(NAMESPACE, "a", Point(Clock.occurred, time))).state for time in times]
    assert states == [b"0", b"2", b"0", b"3"]


async def test_a_history_before_1970_can_be_read_by_time(store, scribe):
    scribe.publish("a", {"put": 1, "occurred_at": "1815-12-10T00:00:00Z"})
    scribe.publish("a", {"put": 2, "occurred_at": "1852-11-27T00:00:00Z"})
    scribe.cut("a")
    await store.commit(scribe.commit())
    await assert_every_point(store, scribe, "a")


async def test_extreme_times_return_the_first_and_the_last_version(store, scribe):
    scribe.put("a", 1)
    scribe.cut("a")
    scribe.put("a", 2)
    await store.commit(scribe.commit())
    for clock in Clock:
        assert await store.snapshot_at(NAMESPACE, "a", Point(clock, -(10**30))) == NEVER
        assert (await store.snapshot_at(NAMESPACE, "a", Point(clock, 10**30))).state == b"2"


async def test_a_document_without_events_has_no_segments(store, scribe):
    point = Point(Clock.version, 0)
    assert await store.snapshot_at(NAMESPACE, "a", point) is None
    assert await all_entries(store, "a") == []
    assert await all_entries(store, "a", is_descending=True) == []


@pytest.mark.usefixtures("full_depth")
async def test_a_history_begins_in_the_segment_that_holds_the_version(store, scribe):
    for number in range(9):
        scribe.put("a", number)
        if number % 3 == 2:
            scribe.cut("a")
    await store.commit(scribe.commit())

    async def versions(**asked):
        return [[entry.version for entry in run] for run in await all_entries(store, "a", **asked)]

    assert await versions(after_version=0) == [[1, 2, 3], [4, 5, 6], [7, 8, 9], []]
    assert await versions(after_version=2) == [[1, 2, 3], [4, 5, 6], [7, 8, 9], []]
    assert await versions(after_version=3) == [[4, 5, 6], [7, 8, 9], []]
    assert await versions(after_version=99) == [[]]
    assert await versions(after_version=4, is_descending=True) == [[4, 5, 6], [1, 2, 3]]
    assert await versions(after_version=3, is_descending=True) == [[1, 2, 3]]
    assert await versions(after_version=99, is_descending=True) == [[], [7, 8, 9], [4, 5, 6], [1, 2, 3]]


@pytest.mark.parametrize("is_descending", [False, True])
async def test_a_page_closed_during_iteration_does_not_lose_or_repeat_an_entry(store, scribe, is_descending):
    for number in range(8):
        scribe.put("a", number)
        if number in {2, 5}:
            scribe.cut("a")
    await store.commit(scribe.commit())
    expected = [entry.sequence for entry in scribe.entries[NAMESPACE, "a"]]
    seen = []
    async for run in store.segments(NAMESPACE, "a", after_version=None, is_descending=is_descending):
        seen.extend(entry.sequence for entry in (run.entries[::-1] if is_descending else run.entries))
        if len(seen) < len(expected):
            scribe.put("a", "more")
            scribe.cut("a")
            await store.commit(scribe.commit())
    if is_descending:
        assert seen == expected[::-1]
    else:
        everything = [entry.sequence for entry in scribe.entries[NAMESPACE, "a"]]
        assert seen == everything[: len(seen)]
        assert len(seen) >= len(expected)


async def test_a_page_closed_while_its_document_is_absent_opens_the_next_without_a_state(store, scribe):
    scribe.put("a", 1)
    scribe.publish("a", {"delete": True})
    scribe.cut("a")
    await store.commit(scribe.commit())
    scribe.publish("a", {"merge": {"b": None, "c": 1}})
    await store.commit(scribe.commit())
    *_, run = [it async for it in store.segments(NAMESPACE, "a", after_version=2, is_descending=False)]
    assert (run.base.state, run.base.version, run.base_sequence) == (None, 2, 2)
    assert (await store.snapshot_at(NAMESPACE, "a", Point(Clock.version, 3))).state == b'{"c":1}'


async def test_concurrent_state_reads_return_the_right_documents(filled, scribe):
    names = [name for namespace, name in scribe.documents if namespace == NAMESPACE]
    asked = [(name, Point(Clock.version, version)) for version in range(4) for name in names]
    asked += [(name, Point(Clock.sequence, scribe.sequence - 7)) for name in names]
    states = await asyncio.gather(
        *(filled.snapshot_at(NAMESPACE, *each) for each in [*asked, ("none", asked[0][1])])
    )
    assert states.pop() is None
    for each, state in zip(asked, states, strict=True):
        assert state == scribe.at(*each), each
