"""How far the log has been folded and committed, as the projector tells and the store proves.

Used by whoever must not answer before the projection is there; `watch` runs as long as the gateway does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import orjson

from refold.core.checkpoint import Checkpoint
from refold.core.errors import StoreError
from refold.core.limits import INTEGER_MAX, NOTICE_WAIT_SECONDS, TIME_MIN_NANOSECONDS
from refold.gateway.inflight import waiting
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
        self._awaited: dict[asyncio.Future[None], int] = {}
        self._has_waiters = asyncio.Event()

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
        """Wait until a sequence is folded; False where the deadline (the loop's clock) passes first.

        Raises `Crowded` where too many requests wait already.
        """
        if self.sequence >= sequence:
            return True
        if self.released.is_set():
            return False
        async with waiting():
            return await self._reached(sequence, deadline)

    async def _reached(self, sequence: int, deadline: float) -> bool:
        reached = asyncio.get_running_loop().create_future()
        self._awaited[reached] = sequence
        self._has_waiters.set()
        try:
            async with asyncio.timeout_at(deadline):
                await reached
        except TimeoutError:
            return False
        finally:
            del self._awaited[reached]
        return not self.released.is_set()

    def release(self) -> None:
        """Let every waiter go, for the gateway is ending."""
        self.released.set()
        self._wake(INTEGER_MAX)

    async def watch(self) -> None:
        """Look into the store while someone waits, for a notice may be lost."""
        while True:
            await self._has_waiters.wait()
            known = self.sequence
            await asyncio.sleep(NOTICE_WAIT_SECONDS)
            if not self._awaited:
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
            self._wake(sequence)

    def _wake(self, sequence: int) -> None:
        # Only those that have what they wait for: thousands may wait, and a notice comes with every commit.
        for reached, awaited_sequence in self._awaited.items():
            if awaited_sequence <= sequence and not reached.done():
                reached.set_result(None)


def _sequence_in(body: bytes) -> int | None:
    """Read a notice; None for a body that is none: the broker's acknowledgements can be sent to any subject."""
    try:
        view = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    sequence = view.get("sequence") if isinstance(view, dict) else None
    return sequence if type(sequence) is int else None
