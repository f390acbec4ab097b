"""How far the log has been folded and committed, as the projector tells and the store proves.

Used by whoever must not answer before the projection is there; `watch` runs as long as the gateway does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import orjson

from refold.core.checkpoint import Checkpoint
from refold.core.errors import StoreError
from refold.core.limits import NOTICE_WAIT_SECONDS, TIME_MIN_NANOSECONDS
from refold.telemetry.logging import get_logger


class Progress:
    """The least that is known to be folded; it only grows.

    `sequence`: every event up to it is folded and committed. `clock`: the monotone recorded time there.
    """

    def __init__(self, read_checkpoints: Callable[[], Awaitable[list[Checkpoint]]]) -> None:
        """Ask the store through this for what no notice told."""
        self._read_checkpoints = read_checkpoints
        self.sequence = 0
        self.clock = TIME_MIN_NANOSECONDS
        self._clock_sequence = 0
        self.released = asyncio.Event()
        self._moved = asyncio.Event()
        self._has_waiters = asyncio.Event()
        self._waiters = 0

    def hear(self, _: str, body: bytes) -> None:
        """Take a notice of progress."""
        sequence = _sequence_in(body)
        if sequence is not None:
            self._advance(sequence)

    async def refresh(self) -> int:
        """Read the checkpoints; return the sequence up to which everything is committed."""
        checkpoints = await self._read_checkpoints()
        if not checkpoints:
            return 0
        self.clock = max(self.clock, min(checkpoint.recorded_at for checkpoint in checkpoints))
        self._clock_sequence = min(checkpoint.read_sequence for checkpoint in checkpoints)
        self._advance(self._clock_sequence)
        return self._clock_sequence

    async def is_past(self, time: int) -> bool:
        """Tell whether the folded clock is past a time; the store is asked where more is folded than when it was."""
        if time >= self.clock and self.sequence > self._clock_sequence:
            await self.refresh()
        return time < self.clock

    async def reach(self, sequence: int, deadline: float) -> bool:
        """Wait until a sequence is folded; False where the deadline (the loop's clock) passes first."""
        while self.sequence < sequence:
            if not await self.move(deadline):
                return False
        return True

    async def move(self, deadline: float) -> bool:
        """Wait until anything more is folded; False where the deadline passes first."""
        if self.released.is_set():
            return False
        self._waiters += 1
        self._has_waiters.set()
        try:
            async with asyncio.timeout_at(deadline):
                await self._moved.wait()
        except TimeoutError:
            return False
        finally:
            self._waiters -= 1
        return not self.released.is_set()

    def release(self) -> None:
        """Let every waiter go, for the gateway is ending."""
        self.released.set()
        self._wake()

    async def watch(self) -> None:
        """Look into the store while someone waits, for a notice may be lost."""
        while True:
            await self._has_waiters.wait()
            known = self.sequence
            await asyncio.sleep(NOTICE_WAIT_SECONDS)
            if not self._waiters:
                self._has_waiters.clear()
            elif self.sequence == known:
                await self._look()

    async def _look(self) -> None:
        try:
            await self.refresh()
        except StoreError as error:
            get_logger().warning("progress_unknown", code=error.code, error=str(error))

    def _advance(self, sequence: int) -> None:
        if sequence > self.sequence:
            self.sequence = sequence
            self._wake()

    def _wake(self) -> None:
        # Whoever waits now is woken; whoever comes later waits for the next.
        self._moved.set()
        self._moved = asyncio.Event()


def _sequence_in(body: bytes) -> int | None:
    """Read a notice; None for a body that is none: the broker's acknowledgements can be sent to any subject."""
    try:
        view = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    sequence = view.get("sequence") if isinstance(view, dict) else None
    return sequence if type(sequence) is int else None
