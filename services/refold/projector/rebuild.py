"""The projection made anew from the log beside the live one, held against it, and put in its place when equal.

Run by `refold rebuild`; with `--from-nothing` it replaces a damaged one without a comparison. Stopped anywhere, it goes
on where it was: the fresh projection has checkpoints of its own.
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
from refold.core.errors import FenceLost, LogHole, StoreDiffers, StoreUnavailable, TimedOut
from refold.core.limits import REBUILD_ATTEMPTS_MAX, REBUILD_HOLD_SECONDS, REBUILD_NEAR_EVENTS
from refold.core.shard import Shard
from refold.log import EventLog, LogInfo
from refold.projector.partition import Bounds, ShardLoop
from refold.projector.shards import ReplayShard, shards_of, silent_ports
from refold.projector.witness import hold_log_against
from refold.store import SnapshotStore
from refold.store.succession import Bound, Held, Replacement, Succession, Unequal

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
class Replay:
    """What a log is replayed with: into `fresh`, by several processes where it is far behind."""

    log: EventLog
    fresh: SnapshotStore
    bounds: Bounds
    processes: int
    replay_in_shards: Callable[[Sequence[ReplayShard], int], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts(Replay):
    """What a rebuild works on: a replay, the live projection, what is between both."""

    live: SnapshotStore
    succession: Succession


@dataclass(frozen=True, slots=True, kw_only=True)
class FromNothing(Replay):
    """What a rebuild from nothing works on: a replay, and what puts it in the damaged projection's place."""

    replacement: Replacement


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
    until_sequence = await _sequence_of(parts.live)
    checkpoints = await _come_near(parts, listener, log_id, checkpoints, until_sequence)
    return await _Rebuild(parts, listener, Shard(checkpoints), begun_sequence).run()


async def rebuild_from_nothing(parts: FromNothing, listener: Listener) -> Rebuilt:
    """Replay the log to its end, and put that in the damaged projection's place without a look at its content.

    Raises `StoreDiffers` where the damaged projection is one of another log, `LogHole` where it had been folded further
    than the log goes, `FenceLost` where another rebuild is at work.
    """
    await parts.replacement.prepare()
    # Before the log's end is asked for: a projector that still works may fold what is appended in between.
    bound = await parts.replacement.bound()
    info = await parts.log.info()
    _check_bound(bound, info)
    if not await parts.fresh.own():
        raise FenceLost("another rebuild is at work in this schema")
    checkpoints = await parts.fresh.bind(info.log_id)
    await hold_log_against(parts.log, checkpoints)
    begun_sequence = min(checkpoint.read_sequence for checkpoint in checkpoints)
    checkpoints = await _come_near(parts, listener, info.log_id, checkpoints, info.last_sequence)
    loop = ShardLoop(silent_ports(parts.log, parts.fresh), parts.bounds, Shard(checkpoints))
    await _replay_to_end(parts, listener, loop)
    await parts.replacement.copy_indexes()
    for attempt in range(1, REBUILD_ATTEMPTS_MAX + 1):
        try:
            held_seconds = await _replace(parts, listener, loop)
        except (StoreUnavailable, TimeoutError) as error:
            if attempt == REBUILD_ATTEMPTS_MAX:
                raise TimedOut("the damaged projection could not be held still for long enough") from error
            await _replay_to_end(parts, listener, loop)
        else:
            sequence = loop.committed_sequence
            replayed = sequence - begun_sequence
            return Rebuilt(
                sequence=sequence, differences=0, replayed_events=replayed, held_seconds=held_seconds
            )
    raise AssertionError


def _check_bound(bound: Bound | None, info: LogInfo) -> None:
    if bound is None:
        return
    if bound.log_id != info.log_id:
        message = "the damaged projection was made from another log"
        raise StoreDiffers(message, expected=info.log_id, found=bound.log_id)
    if bound.read_sequence > info.last_sequence:
        message = "the log ends before what has been folded from it: the projection has events that the log has lost"
        raise LogHole(message, last_sequence=info.last_sequence, folded_sequence=bound.read_sequence)


async def _replay_to_end(parts: FromNothing, listener: Listener, loop: ShardLoop) -> None:
    """Replay until the log's end is near, for it may go on growing meanwhile."""
    while True:
        until_sequence = (await parts.log.info()).last_sequence
        await _replay(loop, listener, until_sequence)
        if (await parts.log.info()).last_sequence - until_sequence <= REBUILD_NEAR_EVENTS:
            return


async def _replace(parts: FromNothing, listener: Listener, loop: ShardLoop) -> float:
    """Hold the damaged projection, replay what its projector may have folded, swap; return for how long it was held."""
    begun = time.monotonic()
    async with asyncio.timeout(REBUILD_HOLD_SECONDS), parts.replacement.hold():
        until_sequence = (await parts.log.info()).last_sequence
        listener.progress(Stage.swapping, until_sequence, until_sequence)
        await _replay(loop, listener, until_sequence)
    return time.monotonic() - begun


async def _replay(loop: ShardLoop, listener: Listener, until_sequence: int) -> None:
    async def look() -> None:
        listener.progress(Stage.replaying, loop.committed_sequence, until_sequence)

    async with _repeating(look):
        await loop.run(until_sequence)


async def _come_near(
    parts: Replay, listener: Listener, log_id: str, checkpoints: list[Checkpoint], end_sequence: int
) -> list[Checkpoint]:
    """Replay what is far behind in several processes; return the checkpoints there, all at one sequence."""
    reached = [checkpoint.read_sequence for checkpoint in checkpoints]
    until_sequence = max(end_sequence, *reached)
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
        await _replay(self._loop, self._listener, until_sequence)

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
