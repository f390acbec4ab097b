"""One part of the system, kept alive: dead, it is started again with backoff. Used by `refold.wiring.system` alone."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from refold.core.errors import ChildFailed

DEATHS_MAX: Final = 5
DEATHS_SECONDS: Final = 60.0
"""So many deaths within this time are too many."""

BACKOFF_SECONDS: Final = (0.0, 0.5, 1.0, 2.0)
"""Waited before it is started again, by how many times it has died lately."""


class Running(Protocol):
    """A started process."""

    @property
    def pid(self) -> int:
        """Its process id."""

    async def ended(self) -> int:
        """Wait until it has ended; return its exit code."""

    async def stop(self) -> None:
        """End it."""

    def failure(self, what: str) -> ChildFailed:
        """Make the error that says what happened to it."""


class Part:
    """A process that is to run until `stop`."""

    def __init__(self, name: str, running: Running, start: Callable[[], Awaitable[Running]]) -> None:
        """`running` has been started; `start` starts it again."""
        self.name = name
        self._running = running
        self._start = start
        self._deaths: deque[float] = deque(maxlen=DEATHS_MAX)

    @property
    def pid(self) -> int:
        """The process's id, of now."""
        return self._running.pid

    async def keep(self, say: Callable[[str], None]) -> None:
        """Start it again whenever it has ended; raises `ChildFailed` when that happens too often."""
        while True:
            code = await self._running.ended()
            how = f"exit code {code}" if code >= 0 else f"signal {-code}"
            say(f"{self.name:<10} ended ({how}), is started again")
            self._running = await self._started_again(self._running.failure(f"ended ({how})"))

    async def stop(self) -> None:
        """End it for good. Nobody may be keeping it any more."""
        await self._running.stop()

    async def _started_again(self, failure: ChildFailed) -> Running:
        while True:
            self._count(failure)
            await asyncio.sleep(BACKOFF_SECONDS[min(len(self._deaths), len(BACKOFF_SECONDS)) - 1])
            try:
                return await self._start()
            except ChildFailed as error:
                failure = error

    def _count(self, failure: ChildFailed) -> None:
        now = time.monotonic()
        self._deaths.append(now)
        if len(self._deaths) == DEATHS_MAX and now - self._deaths[0] <= DEATHS_SECONDS:
            message = f"{self.name} died {DEATHS_MAX} times within {DEATHS_SECONDS:.0f} seconds"
            raise ChildFailed(f"{message}: {failure.message}")
