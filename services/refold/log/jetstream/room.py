"""Room for so many at once; who comes when it is full waits outside, and nobody overtakes him.

Used by `refold.log.jetstream.appender` alone. (`asyncio.Semaphore` takes time by the square of its waiters.)
"""

from __future__ import annotations

import asyncio
from collections import deque


class Room:
    """Places taken in the order of asking."""

    def __init__(self, places: int) -> None:
        """Begin empty."""
        self._free = places
        self._called = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Take a place, waiting for it if need be."""
        if self._free and not self._waiters and not self._called:
            self._free -= 1
        else:
            await self._queue()

    def leave(self) -> None:
        """Give the place to whoever is next."""
        self._free += 1
        self._call()

    async def _queue(self) -> None:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters.append(waiter)
        # Those who are called already come in first.
        loop.call_soon(self._call)
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                self._called -= 1
                self.leave()
            raise
        self._called -= 1

    def _call(self) -> None:
        while self._free and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._free -= 1
                self._called += 1
                waiter.set_result(None)
