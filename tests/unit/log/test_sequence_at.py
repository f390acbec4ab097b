"""The last sequence that can be recorded at or before a time, whatever the broker's clock does."""

from __future__ import annotations

from itertools import chain, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refold.core import json_text
from refold.core.errors import LogHole
from refold.log import Publication, sequence_at
from refold.log.memory import MemoryLog


def log_of(times):
    clock = chain([0, *times], repeat(99))
    return MemoryLog("log-1", clock=lambda: next(clock))


def event(**fields):
    return Publication(namespace="n", document="a", body=json_text.dumps({"merge": {}, **fields}))


@given(times=st.lists(st.integers(0, 9), max_size=12), time=st.integers(-1, 10))
async def test_all_events_recorded_by_then_are_before_it_and_no_later_time_is_needed(times, time):
    log = log_of(times)
    for _ in times:
        await log.append(event())
    found = await sequence_at(log, time)
    recorded = [max([0, *times[:number]]) for number in range(len(times) + 1)]
    assert found >= sum(each <= time for each in recorded)
    if sorted(times) == times:
        assert found == sum(each <= time for each in recorded)


async def test_no_transaction_is_divided():
    log = log_of([1, 2, 3, 4])
    await log.append(event())
    members = [event(txn={"id": "t", "index": index, "count": 2}) for index in (0, 1)]
    await log.append_atomically(members)
    await log.append(event())
    assert [await sequence_at(log, time) for time in (1, 2, 3, 4)] == [2, 2, 4, 5]


async def test_a_missing_event_is_named():
    log = log_of([1, 2])
    await log.append(event())
    await log.append(event())
    log.punch(2)
    with pytest.raises(LogHole):
        await sequence_at(log, 1)
