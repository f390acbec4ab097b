"""Signals from the process that started a task: begin, end. Made by `bench.worker`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Signals:
    """A task prepares, waits in `until_go`, works, and ends when it is done or when `is_stopped`."""

    def __init__(self, say_ready: Callable[[], None]) -> None:
        """`say_ready` is called when the task is prepared."""
        self._say_ready = say_ready
        self._go = asyncio.Event()
        self.stop = asyncio.Event()
        self._begun_cpu = 0.0

    async def until_go(self) -> None:
        """Report that the task is prepared, then wait for `go`."""
        self._say_ready()
        await self._go.wait()
        self._begun_cpu = time.process_time()

    def cpu_seconds(self) -> float:
        """Return the processor time since `go`."""
        return time.process_time() - self._begun_cpu

    @property
    def is_stopped(self) -> bool:
        """Whether the parent has requested the end of the task."""
        return self.stop.is_set()

    def handle(self, word: str) -> None:
        """Handle a line from the parent."""
        (self._go if word == "go" else self.stop).set()
