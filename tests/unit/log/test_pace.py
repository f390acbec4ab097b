"""The way that a group of events takes follows what the broker has shown."""

from __future__ import annotations

import pytest

from refold.core.limits import BATCH_EVENTS_MIN
from refold.log.jetstream.pace import Pace


def told(pace: Pace, *groups: tuple[int, bool, float]) -> Pace:
    now = 0.0
    for events, is_batch, seconds in groups:
        pace.note(events, is_batch=is_batch, sent_at=now, landed_at=now + seconds)
        now += seconds
    return pace


def test_who_has_seen_nothing_sends_few_one_by_one_and_many_as_a_batch() -> None:
    assert not Pace().prefers_batch(BATCH_EVENTS_MIN - 1)
    assert Pace().prefers_batch(BATCH_EVENTS_MIN)


def test_where_staging_a_batch_takes_long_only_large_groups_are_batches() -> None:
    pace = told(Pace(), *[(64, True, 0.012), (64, False, 0.007)] * 20)
    assert [pace.prefers_batch(events) for events in (16, 64, 400, 1000)] == [False, False, True, True]


def test_where_each_sync_takes_long_small_groups_are_batches_too() -> None:
    pace = told(Pace(), *[(64, True, 0.005), (64, False, 0.025)] * 20)
    assert [pace.prefers_batch(events) for events in (9, 16, 64)] == [False, True, True]


@pytest.mark.parametrize(("is_batch", "seconds"), [(False, 0.007), (True, 0.02)])
def test_the_way_not_taken_is_tried_again(is_batch: bool, seconds: float) -> None:
    pace = told(Pace(), *[(64, True, 0.012), (64, False, 0.007)] * 20)
    told(pace, *[(64, is_batch, seconds)] * 1000)
    assert pace.prefers_batch(64) is not is_batch


def test_a_group_that_waited_for_another_is_not_charged_for_that() -> None:
    pace = Pace()
    for number in range(1, 20):
        pace.note(1000, is_batch=True, sent_at=0.0, landed_at=0.02 * number)
    pace.note(1000, is_batch=False, sent_at=0.0, landed_at=0.4 + 0.1)
    assert pace.prefers_batch(100)
