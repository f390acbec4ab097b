"""From how many events on a group is sent as a batch follows from the measured costs of the broker."""

from __future__ import annotations

from collections import Counter

import pytest

from refold.log.jetstream.append import BATCH_EVENTS_MIN, BatchCost


def ways_of(cost: BatchCost, *, events: int, batch_seconds: float, single_seconds: float) -> Counter[str]:
    """Send a thousand groups of a size to a broker with these costs; count how each was sent."""
    ways: Counter[str] = Counter()
    for _ in range(1000):
        is_batch = events >= cost.batch_events_min
        cost.learn(events, batch_seconds if is_batch else events * single_seconds, is_batch=is_batch)
        ways["batch" if is_batch else "singles"] += 1
    return ways


def test_initially_few_events_are_sent_singly_and_many_as_a_batch() -> None:
    assert BatchCost().batch_events_min == BATCH_EVENTS_MIN


@pytest.mark.parametrize(
    ("events", "batch_seconds", "single_seconds", "quicker"),
    [
        pytest.param(64, 0.0032, 140e-6, "batch", id="a sync costs more than staging"),
        pytest.param(400, 0.020, 110e-6, "batch", id="staging is slow, the group is large"),
        pytest.param(64, 0.012, 110e-6, "singles", id="staging is slow, the group is small"),
        pytest.param(64, 0.0045, 8e-6, "singles", id="the broker does not sync"),
    ],
)
def test_nearly_all_groups_are_sent_in_the_quicker_way_and_the_other_is_tried_again(
    events: int, batch_seconds: float, single_seconds: float, quicker: str
) -> None:
    ways = ways_of(BatchCost(), events=events, batch_seconds=batch_seconds, single_seconds=single_seconds)
    assert 990 < ways[quicker] < 1000


def test_a_cost_that_changes_is_noticed() -> None:
    cost = BatchCost()
    ways_of(cost, events=64, batch_seconds=0.0032, single_seconds=140e-6)
    assert ways_of(cost, events=64, batch_seconds=0.012, single_seconds=110e-6)["singles"] > 990


def test_a_pause_of_the_disk_does_not_change_the_way() -> None:
    cost = BatchCost()
    ways_of(cost, events=64, batch_seconds=0.0032, single_seconds=140e-6)
    cost.learn(64, 0.15, is_batch=True)
    assert cost.batch_events_min <= 64
