"""Instants at a fixed rate, kept whatever the answers do: latency is counted from the instant, not from the sending.

Used by the tasks that measure at a rate.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

LEAD_SECONDS: Final = 0.05


class Pace:
    """`count` instants, `rate` a second."""

    def __init__(self, *, rate: float, count: int) -> None:
        """Begin in a moment from now."""
        self._rate = rate
        self._count = count
        self._begun = time.perf_counter() + LEAD_SECONDS

    async def keep(self, due: Callable[[int], None]) -> None:
        """Call `due` with each instant's number, in the loop; late ones at once, none left out.

        A thread waits: a loop's own timers are good for a millisecond only.
        """
        await asyncio.to_thread(self._beat, asyncio.get_running_loop(), due)

    def late_milliseconds(self, number: int) -> float:
        """Tell how long ago an instant was."""
        return (time.perf_counter() - self._instant(number)) * 1_000

    def _beat(self, loop: asyncio.AbstractEventLoop, due: Callable[[int], None]) -> None:
        for number in range(self._count):
            wait_seconds = self._instant(number) - time.perf_counter()
            if wait_seconds > 0:
                time.sleep(wait_seconds)
            loop.call_soon_threadsafe(due, number)

    def _instant(self, number: int) -> float:
        return self._begun + number / self._rate
