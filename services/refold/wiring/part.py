"""One part of the system, kept alive: ended or unwell for too long, it is started again with backoff.

Used by `refold.wiring.system` alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol

from refold.core.errors import ChildFailed, EmbeddedError

DEATHS_MAX: Final = 5
DEATHS_SECONDS: Final = 60.0
"""At most so many restarts of one kind within this time: after it has ended by itself, or after it was unwell."""

BACKOFF_SECONDS: Final = (0.0, 0.5, 1.0, 2.0)
"""Waited before it is started again, by how many times it has died lately."""

ASK_SECONDS: Final = 2.0
"""How often a part is asked how it is."""
ANSWER_SECONDS: Final = 5.0
SILENT_SECONDS: Final = 30.0
"""A part that has not answered for this long is hung: a busy machine is slow, but not that slow."""
UNWELL_STOP_SECONDS: Final = 5.0
"""How long an unwell part may take to end by itself before it is killed."""
ROOM_SECONDS: Final = 1.0
"""How often the disk is looked at while there is no room on it."""


class Fault(NamedTuple):
    """What is wrong with a part, and how long that may last before it is started again."""

    what: str
    patience_seconds: float


class Running(Protocol):
    """A started process."""

    @property
    def pid(self) -> int:
        """Its process id."""

    async def ended(self) -> int:
        """Wait until it has ended; return its exit code."""

    async def fault(self) -> Fault | None:
        """Ask it how it is; None where nothing is wrong."""

    async def stop(self, *, wait_seconds: float = ...) -> None:
        """End it: ask, wait, then kill."""

    def failure(self, what: str) -> ChildFailed:
        """Make the error that says what happened to it."""


class Part:
    """A process that is to run until `stop`."""

    def __init__(
        self,
        name: str,
        running: Running,
        start: Callable[[], Awaitable[Running]],
        *,
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        """`running` has been started; `start` starts it again, which is in vain while the disk has no room."""
        self.name = name
        self._running = running
        self._start = start
        self._has_room = has_room
        self._deaths: deque[float] = deque(maxlen=DEATHS_MAX)
        self._faults: deque[float] = deque(maxlen=DEATHS_MAX)

    @property
    def pid(self) -> int:
        """The process's id, of now."""
        return self._running.pid

    async def keep(self, say: Callable[[str], None]) -> None:
        """Start it again whenever it has ended or is unwell; raises `ChildFailed` when that happens too often."""
        while True:
            fault = await self._until_over()
            how = f"was ended ({fault.what})" if fault else _ending(await self._running.ended())
            say(f"{self.name:<10} {how}, is started again")
            # Counted apart: a full disk may end NATS several times while it also dies of something else.
            lately = self._faults if fault else self._deaths
            self._running = await self._started_again(self._running.failure(how), lately, say)

    async def stop(self) -> None:
        """End it for good. Nobody may be keeping it any more."""
        await self._running.stop()

    async def _until_over(self) -> Fault | None:
        """Wait until it has ended, or end it once it has been unwell for too long; return what was wrong with it."""
        ending = asyncio.create_task(self._running.ended(), name=f"{self.name} ends")
        watching = asyncio.create_task(self._watch(), name=f"{self.name} answers")
        try:
            await asyncio.wait({ending, watching}, return_when=asyncio.FIRST_COMPLETED)
            if ending.done():
                return None
            fault = watching.result()
            await self._running.stop(wait_seconds=UNWELL_STOP_SECONDS)
            return fault
        finally:
            for task in (ending, watching):
                task.cancel()
            await asyncio.wait({ending, watching})

    async def _watch(self) -> Fault:
        """Ask again and again; return what has been wrong for too long."""
        well_at = time.monotonic()
        while True:
            await asyncio.sleep(ASK_SECONDS)
            fault = await self._ask()
            if fault is None:
                well_at = time.monotonic()
            elif time.monotonic() - well_at > fault.patience_seconds and self._has_room():
                return fault

    async def _ask(self) -> Fault | None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._running.fault()
        except TimeoutError:
            return Fault("it did not answer", SILENT_SECONDS)

    async def _started_again(
        self, failure: ChildFailed, lately: deque[float], say: Callable[[str], None]
    ) -> Running:
        while True:
            if not await self._wait_for_room(say):
                self._count(failure, lately)
            await asyncio.sleep(BACKOFF_SECONDS[min(len(lately), len(BACKOFF_SECONDS)) - 1])
            try:
                return await self._start()
            except ChildFailed as error:
                failure = error
            except (EmbeddedError, OSError) as error:
                failure = ChildFailed(f"{self.name} could not be started: {error}")

    async def _wait_for_room(self, say: Callable[[str], None]) -> bool:
        """Wait until the disk has room; tell whether it had none: then it is no wonder that the part has ended."""
        if self._has_room():
            return False
        say(f"{self.name:<10} waits: the disk of the data folder is full")
        while not self._has_room():  # noqa: ASYNC110 - nothing tells of room.
            await asyncio.sleep(ROOM_SECONDS)
        return True

    def _count(self, failure: ChildFailed, lately: deque[float]) -> None:
        now = time.monotonic()
        lately.append(now)
        if len(lately) == DEATHS_MAX and now - lately[0] <= DEATHS_SECONDS:
            what = "was unwell" if lately is self._faults else "died"
            message = f"{self.name} {what} {DEATHS_MAX} times within {DEATHS_SECONDS:.0f} seconds"
            raise ChildFailed(f"{message}: {failure.message}")


def _ending(code: int) -> str:
    return f"ended (exit code {code})" if code >= 0 else f"ended (signal {-code})"
