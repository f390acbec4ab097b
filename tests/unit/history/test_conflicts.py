"""A conflict as it is read while it is settled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from refold.core.history import Point, Snapshot
from refold.history.conflicts import Conflicts
from refold.log.memory import MemoryLog
from refold.store.memory import MemoryStore
from support.projection import append, ports, projecting


class WatchedStore(MemoryStore):
    """A store that calls `before_head` before it reads a head, and `before_open` before it reads what is open."""

    before_head: Callable[[], Awaitable[Any]] | None = None
    before_open: Callable[[], Awaitable[Any]] | None = None

    async def snapshot_at(self, namespace: str, document: str, point: Point) -> Snapshot | None:
        """Read a head."""
        if self.before_head is not None:
            await self.before_head()
        return await super().snapshot_at(namespace, document, point)

    async def open_conflicts(self, *names: Any, **asked: Any) -> list[Any]:
        """Read what is open."""
        if self.before_open is not None:
            await self.before_open()
        return await super().open_conflicts(*names, **asked)


@pytest.mark.parametrize("moment", ["before_head", "before_open"])
async def test_a_conflict_is_not_open_at_a_head_that_settled_it(moment: str) -> None:
    log, store = MemoryLog("log-1"), WatchedStore()
    async with projecting(ports(log, store)) as running:
        for event in ({"put": 1}, {"put": 2}, {"put": 3, "base": 1, "on_conflict": "custom:x"}):
            contested = await append(log, "d", event)
        await running.committed(contested)

        async def settle() -> None:
            await running.committed(await append(log, "d", {"put": 3, "resolves": contested}))

        setattr(store, moment, settle)
        found = await Conflicts(store).one(("n", "d"), contested)
    assert found is not None
    assert (found["open"], found["head"]) == (False, 3 if moment == "before_head" else 2)
