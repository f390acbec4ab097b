"""When the next commit of a live projector begins. Used by the projector's loop."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

COMMIT_INTERVAL_SECONDS_MAX: Final = 0.2
COMMIT_INTERVAL_FACTOR: Final = 2
"""The interval is this many times the last commit's duration, within the bounds.

Measured at 18,000 events/s: a lag of 0.3 s at most; four times, up to 0.5 s, gave 0.7 s for an eighth less of CPU.
"""


class CommitTimer:
    """Space the starts of commits; at once after a pause, and when fired."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = self._pause_seconds = interval_seconds
        self._due_at = 0.0
        self._is_fired = asyncio.Event()

    def fire(self) -> None:
        """Let the next commit begin now."""
        self._is_fired.set()

    async def wait(self) -> None:
        """Wait until the next commit may begin; it begins now."""
        now = asyncio.get_running_loop().time
        if self._due_at > now():
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._due_at):
                    await self._is_fired.wait()
        self._is_fired.clear()
        self._due_at = now() + self._pause_seconds

    def learn(self, seconds: float) -> None:
        """Adapt to how long the last commit took; the next one begins no earlier than that demands."""
        pause = min(COMMIT_INTERVAL_FACTOR * seconds, COMMIT_INTERVAL_SECONDS_MAX)
        pause = max(pause, self._interval_seconds)
        self._due_at += pause - self._pause_seconds
        self._pause_seconds = pause
