"""A store of recent depth with the log behind it answers as a store of full depth, byte for byte."""

from __future__ import annotations

from contextlib import aclosing
from itertools import chain, pairwise

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from refold.core import json_text
from refold.core.errors import HistoryElsewhere, HistorySlow
from refold.core.history import Clock, Point
from refold.core.stream import SYSTEM_NAMESPACE
from refold.history.replayed import Replayed
from refold.log import Publication
from refold.log.memory import MemoryLog
from refold.projector.loop import LoopLimits
from refold.projector.replay import begin_replay
from refold.store import Depth
from refold.store.memory import MemoryStore, Tables

LIMITS = LoopLimits(cache_bytes_max=1 << 24, pending_events_max=1_000, pending_bytes_max=1 << 24)
DOCUMENTS = ("a", "b", "ä/1")
VALUES = st.sampled_from([1, None, {"x": 1}, {"x": {"y": [1]}, "z": "é"}, {"big": "x" * 200}])
CHANGES = st.one_of(
    st.builds(lambda value: {"put": value}, VALUES),
    st.builds(
        lambda at, value: {"patch": [{"op": "add", "path": f"/{at}", "value": value}]},
        st.sampled_from("xyz"),
        VALUES,
    ),
    st.just({"delete": True}),
    st.just({"patch": [{"op": "remove", "path": "/x"}]}),
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["i", "j", "k"]),
        "base": st.integers(0, 6),
        "session": st.sampled_from(["s", "t"]),
        "on_conflict": st.sampled_from(["merge", "reject", "first_write_wins", "custom:x"]),
        "occurred_at": st.sampled_from(["2023-11-14T22:13:20Z", "2023-11-14T22:13:29Z"]),
    },
)
EVENTS = st.tuples(
    st.sampled_from(DOCUMENTS), st.builds(lambda change, more: change | more, CHANGES, OPTIONS)
)
SETTINGS = st.sampled_from(
    [
        {"on_conflict": "merge"},
        {"on_conflict": "reject"},
        {"limits": {"operations": 1}},
        {"limits": {"event_bytes": 150}},
        {},
    ]
)
# Each step: an event, a transaction of several, or settings; and by how much the broker's clock moves.
STEPS = st.lists(
    st.tuples(
        st.one_of(EVENTS, EVENTS, EVENTS, st.lists(EVENTS, min_size=2, max_size=4), SETTINGS),
        st.sampled_from([1, 1, 1, 5, -3, -20]),
    ),
    min_size=8,
    max_size=40,
)


@pytest.fixture(autouse=True, scope="module")
def _small_bounds():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("refold.projector.commit_buffer.PAGE_EVENTS_MAX", 2)
        patched.setattr("refold.projector.commit_buffer.PAGE_BYTES_MIN", 200)
        patched.setattr("refold.history.document_replay.SEGMENT_EVENTS_MIN", 3)
        yield


class SteppedClock:
    """The broker's clock, which may step back within an atomic append, too."""

    def __init__(self):
        self.now, self.step = 1_700_000_000_000_000_000, 1

    def __call__(self):
        self.now += self.step * 1_000_000_000
        return self.now


async def write(log, clock, steps):
    for number, (step, seconds) in enumerate(steps):
        clock.step = seconds
        if isinstance(step, dict):
            body = json_text.dumps({"put": step})
            await log.append(Publication(namespace=SYSTEM_NAMESPACE, document="settings:n", body=body))
        elif isinstance(step, tuple):
            await log.append(published(*step))
        else:
            members = [
                published(document, change | {"txn": {"id": f"t{number}", "index": at, "count": len(step)}})
                for at, (document, change) in enumerate(step)
            ]
            await log.append_atomically(members)


def published(document, change):
    return Publication(namespace="n", document=document, body=json_text.dumps(change))


async def fold(log, tables, ends):
    store = MemoryStore(tables)
    for end in sorted(ends):
        loop = await begin_replay(log, store, LIMITS, range(64))
        await loop.run(end)


async def entries(store, document, after, *, is_descending):
    found = store.segments("n", document, after_version=after, is_descending=is_descending)
    async with aclosing(found):
        segments = [segment async for segment in found]
    in_order = segments[::-1] if is_descending else segments
    for before, following in pairwise(in_order):
        assert following.base_sequence == before.entries[-1].sequence
    listed = list(chain.from_iterable(segment.entries for segment in in_order))
    if is_descending:
        return [it for it in listed if after is None or it.version < after]
    return [it for it in listed if it.version > (after or 0)]


async def conflicts(store, document, after, *, is_descending):
    found = store.conflicts("n", document, after_sequence=after, is_descending=is_descending)
    async with aclosing(found):
        return [entry async for part in found for entry in part]


@settings(max_examples=60, deadline=None)
@given(STEPS, st.data())
async def test_every_question_has_the_answer_of_a_store_of_full_depth(steps, data):
    clock = SteppedClock()
    log, tables = MemoryLog("log-1", clock=clock), Tables()
    await write(log, clock, steps)
    end = (await log.info()).last_sequence
    half = end if isinstance(steps[-1][0], list) else end - 1
    await fold(log, tables, {half, end})
    full = MemoryStore(tables)
    recent = MemoryStore(tables, depth=Depth.recent)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("refold.history.replayed.CACHE_BYTES_MAX", data.draw(st.sampled_from([0, 1 << 20])))
        await _compare(data, Replayed(log, recent), recent, full, end)
    event("clock stepped back" if await recent.clock() else "clock never stepped back")


async def _compare(data, replayed, recent, full, end):
    """Ask a store with the log behind it and one of full depth the same questions."""
    elsewhere = 0
    for document in data.draw(st.permutations(DOCUMENTS)):
        whole = [
            entry
            async for it in full.segments("n", document, after_version=None, is_descending=False)
            for entry in it.entries
        ]
        for clock_name, field in zip(
            Clock, ("version", "sequence", "recorded_at", "occurred_at"), strict=True
        ):
            for value in data.draw(st.permutations(sorted({0, *(getattr(it, field) for it in whole)}))):
                point = Point(clock_name, value)
                assert await replayed.snapshot_at("n", document, point) == await full.snapshot_at(
                    "n", document, point
                )
        for entry in whole:
            assert await replayed.entry("n", document, entry.sequence) == entry
            try:
                await recent.entry("n", document, entry.sequence)
            except HistoryElsewhere:
                elsewhere += 1
        assert await replayed.entry("n", document, 1) is None
        head = whole[-1].version if whole else 0
        for after in (None, *range(head + 2)):
            for is_descending in (False, True):
                order = {"is_descending": is_descending}
                assert await entries(replayed, document, after, **order) == await entries(
                    full, document, after, **order
                )
        for after in (None, 1, end // 2, end):
            for is_descending in (False, True):
                order = {"is_descending": is_descending}
                assert await conflicts(replayed, document, after, **order) == await conflicts(
                    full, document, after, **order
                )
        for event_id in ("i", "j", "k"):
            assert await replayed.find_id("n", document, event_id) == await full.find_id(
                "n", document, event_id
            )
    for after, until in ((0, end), (2, end // 2), (end // 2, end)):
        between = {"after_sequence": after, "until_sequence": until}
        assert await replayed.entries_between("n", DOCUMENTS, **between) == await full.entries_between(
            "n", DOCUMENTS, **between
        )
    event("replayed" if elsewhere else "all recent")


async def test_a_history_that_is_too_long_is_refused_naming_the_bounds(monkeypatch):
    monkeypatch.setattr("refold.history.replayed.REPLAY_EVENTS_MAX", 5)
    log, tables = MemoryLog("log-1"), Tables()
    await write(log, SteppedClock(), [(("a", {"put": number}), 1) for number in range(20)])
    await fold(log, tables, {21})
    replayed = Replayed(log, MemoryStore(tables, depth=Depth.recent))
    full = MemoryStore(tables)
    for version in (5, 2):
        point = Point(Clock.version, version)
        assert await replayed.snapshot_at("n", "a", point) == await full.snapshot_at("n", "a", point)
    with pytest.raises(
        HistorySlow, match=r"10000 events or 10 s.*`refold export n --history --replay`"
    ) as caught:
        await replayed.entry("n", "a", 8)
    assert caught.value.facts == {"namespace": "n", "document": "a"}


@pytest.mark.parametrize("limit", [100, 400])
async def test_a_transaction_that_begins_in_another_namespace_is_judged_by_the_settings_of_that(limit):
    log, tables = MemoryLog("log-1"), Tables()
    settings = json_text.dumps({"put": {"limits": {"event_bytes": limit}}})
    await log.append(Publication(namespace=SYSTEM_NAMESPACE, document="settings:m", body=settings))
    members = [
        Publication(
            namespace=namespace,
            document="a",
            body=json_text.dumps({"put": "x" * 99, "txn": {"id": "t", "index": index, "count": 2}}),
        )
        for index, namespace in enumerate("mn")
    ]
    await log.append_atomically(members)
    for number in range(9):
        await log.append(published("a", {"put": number}))
    await fold(log, tables, {8, 13})
    full = await MemoryStore(tables).entry("n", "a", 4)
    recent = MemoryStore(tables, depth=Depth.recent)
    with pytest.raises(HistoryElsewhere):
        await recent.entry("n", "a", 4)
    assert await Replayed(log, recent).entry("n", "a", 4) == full
    assert full.reason == ("bad_transaction" if limit == 100 else "")


async def test_the_past_of_a_namespace_is_elsewhere_and_the_error_says_where():
    log, tables = MemoryLog("log-1"), Tables()
    await fold(log, tables, {1})
    replayed = Replayed(log, MemoryStore(tables, depth=Depth.recent))
    with pytest.raises(HistoryElsewhere, match=r"`refold export n --at TIME --replay`.*REFOLD_STORES"):
        await replayed.list_at("n", Point(Clock.recorded, 0), prefix="", limit=1, cursor=None)
