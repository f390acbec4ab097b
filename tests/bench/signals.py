"""What a task hears from the process that started it: begin now, end now. Made by `bench.worker`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Signals:
    """A task prepares, waits in `until_go`, works, and ends when it is done or when `is_stopped`."""

    def __init__(self, say_ready: Callable[[], None]) -> None:
        """`say_ready` tells the parent that all is prepared."""
        self._say_ready = say_ready
        self._go = asyncio.Event()
        self.stop = asyncio.Event()
        self._begun_cpu = 0.0

    async def until_go(self) -> None:
        """Say that all is prepared, then wait to be let go."""
        self._say_ready()
        await self._go.wait()
        self._begun_cpu = time.process_time()

    def cpu_seconds(self) -> float:
        """Tell what processor time has gone since the beginning."""
        return time.process_time() - self._begun_cpu

    @property
    def is_stopped(self) -> bool:
        """Tell whether the parent wants an end."""
        return self.stop.is_set()

    def hear(self, word: str) -> None:
        """Take the parent's word."""
        (self._go if word == "go" else self.stop).set()
