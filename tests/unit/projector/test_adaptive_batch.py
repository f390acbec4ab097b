"""A commit that takes too long makes the next ones smaller, until they are fast again."""

from __future__ import annotations

import pytest

from refold.log.memory import MemoryLog
from refold.projector.commit_buffer import COMMIT_SECONDS, RECORDS_FOLDED_MAX, AdaptiveBatch
from refold.projector.loop import LoopLimits
from refold.store import Commit
from refold.store.memory import MemoryStore
from support.projection import append, ports, projecting


def test_a_slow_commit_makes_the_next_smaller_and_fast_ones_make_them_larger_again() -> None:
    size = AdaptiveBatch(50_000)
    size.learn(50_000, 10 * COMMIT_SECONDS)
    assert size.events_max == 5_000
    size.learn(5_000, COMMIT_SECONDS)
    assert size.events_max == 10_000
    for _ in range(9):
        size.learn(1, 0.0)
    assert size.events_max == 50_000


@pytest.mark.parametrize("events", [0, 1, 400])
def test_the_batch_never_falls_below_one_fold_step(events: int) -> None:
    size = AdaptiveBatch(50_000)
    size.learn(events, 60.0)
    assert size.events_max == RECORDS_FOLDED_MAX


def test_the_batch_never_exceeds_its_setting() -> None:
    size = AdaptiveBatch(3)
    size.learn(3, 60.0)
    size.learn(3, 0.0)
    assert size.events_max == 3


async def test_a_live_projector_reduces_its_batch_if_the_store_is_slow() -> None:
    log, now = MemoryLog("log-1"), [0.0]
    counts: list[int] = []

    class SlowStore(MemoryStore):
        async def commit(self, commit: Commit) -> None:
            now[0] += 5 * COMMIT_SECONDS
            counts.append(sum(len(write.journal) for write in commit.documents))
            await super().commit(commit)

    for number in range(5_000):
        await append(log, f"d{number}", {"put": 1})
    limits = LoopLimits(cache_bytes_max=2**28, pending_events_max=2_500, pending_bytes_max=2**25)
    async with projecting(ports(log, SlowStore(), timer=lambda: now[0]), limits) as running:
        await running.committed(5_001)
    assert max(counts[-3:]) <= RECORDS_FOLDED_MAX
    assert sum(counts) == 5_001
