"""The projection made anew from the log beside the live one, held against it, and put in its place when equal.

Run by `refold rebuild`. Stopped anywhere, it goes on where it was: the fresh projection has checkpoints of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Final

from refold.core.checkpoint import Checkpoint
from refold.core.errors import FenceLost, StoreUnavailable, TimedOut
from refold.core.limits import REBUILD_ATTEMPTS_MAX, REBUILD_HOLD_SECONDS, REBUILD_NEAR_EVENTS
from refold.core.shard import Shard
from refold.log import EventLog
from refold.projector.partition import Bounds, ShardLoop
from refold.projector.shards import ReplayShard, shards_of, silent_ports
from refold.projector.witness import hold_log_against
from refold.store import SnapshotStore
from refold.store.succession import Held, Succession, Unequal

LOOK_SECONDS: Final = 0.1

SHARDED_EVENTS_MIN: Final = 20_000
"""Behind by fewer, one process is there before others have started."""


class Stage(Enum):
    """What a rebuild is doing."""

    replaying = "replaying"
    comparing = "comparing"
    swapping = "swapping"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Whom a rebuild tells: each difference, and how far it has come towards a sequence."""

    difference: Callable[[Unequal], None]
    progress: Callable[[Stage, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """How a rebuild ended: swapped at a sequence, or not, for so many differences."""

    sequence: int
    differences: int
    replayed_events: int
    held_seconds: float

    @property
    def is_swapped(self) -> bool:
        """Tell whether the fresh projection is the live one now."""
        return not self.differences


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a rebuild works on: the log, both projections, what is between them; processes for what is far behind."""

    log: EventLog
    live: SnapshotStore
    fresh: SnapshotStore
    succession: Succession
    bounds: Bounds
    processes: int
    replay_in_shards: Callable[[Sequence[ReplayShard], int], Awaitable[None]]


async def rebuild(parts: Parts, listener: Listener) -> Rebuilt:
    """Replay, compare, swap. Raises `FenceLost` where another rebuild is at work, and what stores and log raise."""
    log_id = (await parts.log.info()).log_id
    await parts.live.bind(log_id)
    if not await parts.fresh.own():
        raise FenceLost("another rebuild is at work in this schema")
    await parts.succession.prepare()
    checkpoints = await parts.fresh.bind(log_id)
    await hold_log_against(parts.log, checkpoints)
    begun_sequence = min(checkpoint.read_sequence for checkpoint in checkpoints)
    checkpoints = await _come_near(parts, listener, log_id, checkpoints)
    return await _Rebuild(parts, listener, Shard(checkpoints), begun_sequence).run()


async def _come_near(
    parts: Parts, listener: Listener, log_id: str, checkpoints: list[Checkpoint]
) -> list[Checkpoint]:
    """Replay what is far behind in several processes; return the checkpoints there, all at one sequence."""
    reached = [checkpoint.read_sequence for checkpoint in checkpoints]
    until_sequence = max(await _sequence_of(parts.live), *reached)
    is_even, is_far = min(reached) == max(reached), until_sequence - min(reached) >= SHARDED_EVENTS_MIN
    if is_even and not (is_far and parts.processes > 1):
        return checkpoints

    async def look() -> None:
        # The owner's sign of life, too: its shards commit on connections of their own.
        await parts.fresh.own()
        listener.progress(Stage.replaying, await _sequence_of(parts.fresh), until_sequence)

    async with _repeating(look):
        await parts.replay_in_shards(shards_of(checkpoints, parts.processes), until_sequence)
    return await parts.fresh.bind(log_id)


async def _sequence_of(store: SnapshotStore) -> int:
    return min(checkpoint.read_sequence for checkpoint in await store.checkpoints())


@asynccontextmanager
async def _repeating(look: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Look again and again while something is done; a look that fails is raised at its end."""

    async def watch() -> None:
        while True:
            await look()
            await asyncio.sleep(LOOK_SECONDS)

    watching = asyncio.create_task(watch(), name="progress")
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait({watching})
        if not watching.cancelled():
            watching.result()


class _Rebuild:
    def __init__(self, parts: Parts, listener: Listener, shard: Shard, begun_sequence: int) -> None:
        self._parts = parts
        self._listener = listener
        self._loop = ShardLoop(silent_ports(parts.log, parts.fresh), parts.bounds, shard)
        self._begun_sequence = begun_sequence
        self._differences = 0

    async def run(self) -> Rebuilt:
        sequence = await self._catch_up()
        await self._parts.succession.copy_indexes()
        self._listener.progress(Stage.comparing, sequence, sequence)
        async with aclosing(self._parts.succession.unequal(sequence)) as found:
            async for unequal in found:
                self._tell(unequal)
        if self._differences:
            return self._ended(sequence, 0.0)
        return await self._succeed(sequence)

    async def _catch_up(self) -> int:
        """Replay until the live projection is only a little ahead; return where both are comparable."""
        while True:
            sequence = await _sequence_of(self._parts.live)
            await self._replay(sequence)
            if await _sequence_of(self._parts.live) - sequence <= REBUILD_NEAR_EVENTS:
                return sequence

    async def _succeed(self, compared_sequence: int) -> Rebuilt:
        """Hold the live projection, go the last steps, compare them, swap; too slow, let go and come nearer."""
        for attempt in range(1, REBUILD_ATTEMPTS_MAX + 1):
            try:
                ended = await self._try_to_succeed(compared_sequence)
            except (StoreUnavailable, TimeoutError) as error:
                if attempt == REBUILD_ATTEMPTS_MAX:
                    raise TimedOut("the live projection could not be held still for long enough") from error
                await self._catch_up()
            else:
                if ended.is_swapped:
                    await self._parts.succession.drop_former()
                return ended
        raise AssertionError

    async def _try_to_succeed(self, compared_sequence: int) -> Rebuilt:
        begun = time.monotonic()
        async with asyncio.timeout(REBUILD_HOLD_SECONDS), self._parts.succession.hold() as held:
            self._listener.progress(Stage.swapping, held.sequence, held.sequence)
            await self._replay(held.sequence)
            await self._compare_rest(held, compared_sequence)
            if not self._differences:
                await held.swap()
        return self._ended(held.sequence, time.monotonic() - begun)

    async def _compare_rest(self, held: Held, compared_sequence: int) -> None:
        async with aclosing(held.unequal(compared_sequence)) as found:
            async for unequal in found:
                self._tell(unequal)

    async def _replay(self, until_sequence: int) -> None:
        async def look() -> None:
            self._listener.progress(Stage.replaying, self._loop.committed_sequence, until_sequence)

        async with _repeating(look):
            await self._loop.run(until_sequence)

    def _tell(self, unequal: Unequal) -> None:
        self._differences += 1
        self._listener.difference(unequal)

    def _ended(self, sequence: int, held_seconds: float) -> Rebuilt:
        return Rebuilt(
            sequence=sequence,
            differences=self._differences,
            replayed_events=sequence - self._begun_sequence,
            held_seconds=held_seconds,
        )
