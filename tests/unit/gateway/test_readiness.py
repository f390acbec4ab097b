"""A starting gateway trusts only the store, not a notice, that its projection has caught up."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from refold.core.errors import ProjectionBehind, StoreUnavailable
from refold.core.fold_state import first_checkpoints
from refold.core.stream import Checkpoint
from refold.gateway.consistency import Consistency
from refold.gateway.readiness import Readiness
from refold.log.memory import MemoryLog, MemoryNotices

REQUIRED = 10


class Store:
    """The checkpoints of a store that may be unavailable; `looked` is set by every read."""

    def __init__(self) -> None:
        self.sequence = 0
        self.is_down = False
        self.looked = asyncio.Event()

    async def checkpoints(self) -> list[Checkpoint]:
        self.looked.set()
        if self.is_down:
            raise StoreUnavailable
        return [replace(each, read_sequence=self.sequence) for each in first_checkpoints("log-1")]


def behind(readiness: Readiness) -> tuple[object, object]:
    facts = readiness.behind().facts
    return facts["folded_sequence"], facts["required_sequence"]


async def test_a_notice_alone_does_not_make_a_gateway_with_an_old_database_ready() -> None:
    """A projector whose database has just crashed still announces what it committed before."""
    store = Store()
    store.sequence = 7
    consistency = Consistency(MemoryLog("log-1"), store, MemoryNotices())
    readiness = Readiness(MemoryLog("log-1"), consistency, required_sequence=REQUIRED, lag_seconds_max=5.0)
    consistency.hear("refold.progress", b'{"sequence":10}')
    catching_up = asyncio.create_task(readiness.catch_up())
    async with asyncio.timeout(60):
        for is_down in (False, True, False):
            store.is_down = is_down
            store.looked.clear()
            await store.looked.wait()
            await asyncio.sleep(0)
            assert not readiness.is_caught_up
        assert behind(readiness) == (7, REQUIRED)
        with pytest.raises(ProjectionBehind, match="7 of 10 events"):
            await readiness.check()
        store.sequence = REQUIRED
        await catching_up
    assert readiness.is_caught_up
    await readiness.check()


async def test_a_wait_ends_with_the_deadline_or_with_the_gateway() -> None:
    consistency = Consistency(MemoryLog("log-1"), Store(), MemoryNotices())
    readiness = Readiness(MemoryLog("log-1"), consistency, required_sequence=REQUIRED, lag_seconds_max=5.0)
    with pytest.raises(ProjectionBehind):
        await readiness.wait(asyncio.get_running_loop().time())
    readiness.release()
    with pytest.raises(ProjectionBehind):
        await readiness.wait(asyncio.get_running_loop().time() + 3_600)
