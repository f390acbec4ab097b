"""A conflict as it is read while it is settled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest

from refold.core.history import Point, Snapshot
from refold.history import conflicts as conflicts_module
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


async def test_an_answer_is_bounded_in_items_bytes_and_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    log, store = MemoryLog("log-1"), MemoryStore()
    async with projecting(ports(log, store)) as running:
        await append(log, "d", {"put": 0})
        contested = [await append(log, "d", {"put": 1, "base": version}) for version in (0, 1, 2)]
        await running.committed(contested[-1])
    conflicts = Conflicts(store)

    async def listed(after: int | None = None, *, limit: int = 9) -> tuple[list[int], int | None]:
        asked = {"after": after, "limit": limit, "is_descending": False, "is_open": False}
        found = await conflicts.of_document(("n", "d"), **asked)
        return [orjson.loads(item)["sequence"] for item in found.items], found.next

    assert await listed() == (contested, None)
    assert await listed(limit=2) == (contested[:2], contested[1])
    assert await listed(contested[1], limit=2) == (contested[2:], None)
    for bound, least in (("ANSWER_BYTES_MAX", 1), ("CONFLICT_READS_MAX", 1)):
        with monkeypatch.context() as patched:
            patched.setattr(conflicts_module, bound, least)
            assert await listed() == (contested[:1], contested[0]), bound
