"""Writes the states that still lag once their documents have fallen quiet, and those that a predecessor left lagging.

Run by the projector's loop beside its commits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from refold.projector.lag import Lag
from refold.store import Key, SnapshotStore

NAMED_MAX: Final = 1_000
"""Documents that the store names at once."""

_FIRST: Final = ("", "")


class Settling:
    """Looks for states that lag, again and again: it needs to remember none, so none is forgotten."""

    def __init__(self, store: SnapshotStore, lag: Lag) -> None:
        """Take the policy that the commits ask too."""
        self._store = store
        self._lag = lag

    async def run(self) -> None:
        """Settle each state in time, until cancelled; returns where none lags but what others have left."""
        await self._settle(self._lag.is_due)
        while self._lag.look_seconds:
            await asyncio.sleep(self._lag.look_seconds)
            await self._settle(self._lag.is_due)

    async def finish(self) -> None:
        """Settle all that lag: the log is not folded on for now."""
        await self._settle(lambda _: True)

    async def _settle(self, is_due: Callable[[Key], bool]) -> None:
        after = _FIRST
        while keys := await self._store.lagging(after=after, limit=NAMED_MAX):
            for key in filter(is_due, keys):
                await self._store.settle(*key)
                self._lag.settled(key)
            after = keys[-1]
