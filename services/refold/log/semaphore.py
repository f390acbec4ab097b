"""A semaphore for thousands of waiters: appends that wait to be sent, requests that wait for their turn.

Used by the JetStream adapter and by the gateway.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Semaphore:
    """FIFO semaphore with O(1) wake-up; `asyncio.Semaphore` takes quadratic time over its waiters."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waking = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    def acquire_nowait(self) -> bool:
        """Take a place if one is free; False where another caller comes first."""
        # A waiter that has been woken but has not run yet comes first.
        if self._free and not self._waiters and not self._waking:
            self._free -= 1
            return True
        return False

    async def acquire(self) -> None:
        """Take a place, in the order of the calls."""
        if self.acquire_nowait():
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                self._waking -= 1
                self.release()
            raise
        self._waking -= 1
        self._wake()

    def release(self) -> None:
        """Give the place back."""
        self._free += 1
        self._wake()

    def _wake(self) -> None:
        while self._free and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._free -= 1
                self._waking += 1
                waiter.set_result(None)
