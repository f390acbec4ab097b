"""Whether a group is sent as a batch follows from the measured costs of the broker."""

from __future__ import annotations

import pytest

from refold.log.jetstream.append import BATCH_EVENTS_MIN, BatchCost


def learned(cost: BatchCost, *groups: tuple[int, bool, float]) -> BatchCost:
    now = 0.0
    for events, is_batch, seconds in groups:
        cost.learn(events, is_batch=is_batch, sent_at=now, now=now + seconds)
        now += seconds
    return cost


def test_initially_few_events_are_sent_singly_and_many_as_a_batch() -> None:
    assert not BatchCost().prefers_batch(BATCH_EVENTS_MIN - 1)
    assert BatchCost().prefers_batch(BATCH_EVENTS_MIN)


def test_if_staging_a_batch_is_slow_only_large_groups_are_batches() -> None:
    cost = learned(BatchCost(), *[(64, True, 0.012), (64, False, 0.007)] * 20)
    assert [cost.prefers_batch(events) for events in (16, 64, 400, 1000)] == [False, False, True, True]


def test_if_each_sync_is_slow_small_groups_are_batches_too() -> None:
    cost = learned(BatchCost(), *[(64, True, 0.005), (64, False, 0.025)] * 20)
    assert [cost.prefers_batch(events) for events in (9, 16, 64)] == [False, True, True]


@pytest.mark.parametrize(("is_batch", "seconds"), [(False, 0.007), (True, 0.02)])
def test_the_unused_method_is_measured_again(is_batch: bool, seconds: float) -> None:
    cost = learned(BatchCost(), *[(64, True, 0.012), (64, False, 0.007)] * 20)
    learned(cost, *[(64, is_batch, seconds)] * 1000)
    assert cost.prefers_batch(64) is not is_batch


def test_waiting_for_another_group_does_not_count_as_cost() -> None:
    cost = BatchCost()
    for number in range(1, 20):
        cost.learn(1000, is_batch=True, sent_at=0.0, now=0.02 * number)
    cost.learn(1000, is_batch=False, sent_at=0.0, now=0.4 + 0.1)
    assert cost.prefers_batch(100)
