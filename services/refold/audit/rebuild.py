"""Rebuild the projection from the log beside the live one, compare both, and swap them when they are equal.

Run by `refold rebuild`; with `--from-nothing` it replaces a damaged one without a comparison. A stopped rebuild
continues where it was: the fresh projection has its own checkpoints.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from refold.core.errors import FenceLost, LogHole, StoreDiffers, StoreUnavailable, TimedOut
from refold.core.stream import Checkpoint
from refold.history.log_integrity import check_log
from refold.log import EventLog, LogInfo
from refold.store import REBUILD_LOCK_SECONDS
from refold.store.ports import (
    BoundLog,
    HeldProjection,
    ProjectionWriter,
    Replacement,
    SchemaSwap,
    Unequal,
)

LOOK_SECONDS: Final = 0.1

REBUILD_NEAR_EVENTS: Final = 2_000
"""A rebuild compares once it is behind by no more than this; before, it continues to catch up."""

REBUILD_HOLD_SECONDS: Final = 10.0
"""The longest that a rebuild holds the live projection."""

REBUILD_ATTEMPTS_MAX: Final = 5

SHARDED_EVENTS_MIN: Final = 20_000
"""Behind by fewer events, one process is faster than starting several."""


class Stage(Enum):
    """What a rebuild is doing."""

    replaying = "replaying"
    comparing = "comparing"
    swapping = "swapping"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Callbacks of a rebuild: each difference, and its progress towards a sequence."""

    difference: Callable[[Unequal], None]
    progress: Callable[[Stage, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """The result of a rebuild: swapped at a sequence, or not, because of differences."""

    sequence: int
    differences: int
    replayed_events: int
    held_seconds: float

    @property
    def is_swapped(self) -> bool:
        """Tell whether the fresh projection is the live one now."""
        return not self.differences


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayShard:
    """Partitions that have all been read to the same sequence; `name` distinguishes its lease from other shards'."""

    name: str
    partitions: tuple[int, ...]


def shards_of(checkpoints: Sequence[Checkpoint], count: int) -> list[ReplayShard]:
    """Divide the partitions into shards; partitions that an earlier replay left at one sequence stay together."""
    by_sequence: dict[int, list[int]] = defaultdict(list)
    for checkpoint in checkpoints:
        by_sequence[checkpoint.read_sequence].append(checkpoint.partition)
    groups = list(by_sequence.values())
    if len(groups) == 1:
        groups = [groups[0][first::count] for first in range(count)]
    return [ReplayShard(name=str(group[0]), partitions=tuple(group)) for group in groups if group]


class ReplayLoop(Protocol):
    """Folds the log into a projection, and sends no notices."""

    committed_sequence: int

    async def run(self, until_sequence: int) -> None:
        """Fold and commit up to a sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a log is replayed with: into `fresh`, by several processes where it is far behind."""

    log: EventLog
    fresh: ProjectionWriter
    open_loop: Callable[[Sequence[Checkpoint]], ReplayLoop]
    processes: int
    replay_in_shards: Callable[[Sequence[ReplayShard], int], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts(Replay):
    """What a rebuild uses: a replay, the live projection, and the swap between both."""

    live: ProjectionWriter
    swap: SchemaSwap


@dataclass(frozen=True, slots=True, kw_only=True)
class FromNothing(Replay):
    """What a rebuild from nothing uses: a replay, and what replaces the damaged projection by it."""

    replacement: Replacement


async def rebuild(parts: Parts, listener: Listener) -> Rebuilt:
    """Replay, compare, swap. Raises `FenceLost` where another rebuild is at work, and what stores and log raise."""
    log_id = (await parts.log.info()).log_id
    await parts.live.bind(log_id)
    await _lease_fresh(parts.fresh, wait_seconds=0)
    await parts.swap.prepare()
    checkpoints = await parts.fresh.bind(log_id)
    await check_log(parts.log, checkpoints)
    begun_sequence = min(checkpoint.read_sequence for checkpoint in checkpoints)
    until_sequence = await _sequence_of(parts.live)
    await _come_near(parts, listener, checkpoints, until_sequence)
    return await _Rebuild(parts, listener, _Replaying(parts, listener, log_id), begun_sequence).run()


async def rebuild_from_nothing(parts: FromNothing, listener: Listener) -> Rebuilt:
    """Replay the log to its end, and replace the damaged projection without reading its content.

    Raises `StoreDiffers` where the damaged projection is one of another log, `LogHole` where it had been folded further
    than the log goes, `FenceLost` where another rebuild is at work.
    """
    await parts.replacement.prepare()
    # Read before the log's end: a running projector may fold what is appended in between.
    bound = await parts.replacement.bound()
    info = await parts.log.info()
    _check_bound(bound, info)
    await _lease_fresh(parts.fresh, wait_seconds=0)
    checkpoints = await parts.fresh.bind(info.log_id)
    await check_log(parts.log, checkpoints)
    begun_sequence = min(checkpoint.read_sequence for checkpoint in checkpoints)
    await _come_near(parts, listener, checkpoints, info.last_sequence)
    replaying = _Replaying(parts, listener, info.log_id)
    await _replay_to_end(parts, replaying)
    await parts.replacement.copy_indexes()
    for attempt in range(1, REBUILD_ATTEMPTS_MAX + 1):
        try:
            held_seconds = await _replace(parts, listener, replaying)
        except (StoreUnavailable, TimeoutError) as error:
            if attempt == REBUILD_ATTEMPTS_MAX:
                raise TimedOut("the damaged projection could not be held still for long enough") from error
            await _replay_to_end(parts, replaying)
        else:
            sequence = replaying.committed_sequence
            replayed = sequence - begun_sequence
            return Rebuilt(
                sequence=sequence, differences=0, replayed_events=replayed, held_seconds=held_seconds
            )
    raise AssertionError


def _check_bound(bound: BoundLog | None, info: LogInfo) -> None:
    if bound is None:
        return
    if bound.log_id != info.log_id:
        message = "the damaged projection was made from another log"
        raise StoreDiffers(message, expected=info.log_id, found=bound.log_id)
    if bound.read_sequence > info.last_sequence:
        message = "the log ends before what has been folded from it: the projection has events that the log has lost"
        raise LogHole(message, last_sequence=info.last_sequence, folded_sequence=bound.read_sequence)


async def _replay_to_end(parts: FromNothing, replaying: _Replaying) -> None:
    """Replay until the log's end is near; the log may grow meanwhile."""
    while True:
        until_sequence = (await parts.log.info()).last_sequence
        await replaying.run(until_sequence)
        if (await parts.log.info()).last_sequence - until_sequence <= REBUILD_NEAR_EVENTS:
            return


async def _replace(parts: FromNothing, listener: Listener, replaying: _Replaying) -> float:
    """Hold the damaged projection, replay what its projector may have folded, swap; return the seconds it was held."""
    begun = time.monotonic()
    async with asyncio.timeout(REBUILD_HOLD_SECONDS), parts.replacement.hold():
        until_sequence = (await parts.log.info()).last_sequence
        listener.progress(Stage.swapping, until_sequence, until_sequence)
        await replaying.run(until_sequence)
    return time.monotonic() - begun


class _Replaying:
    """Fold the log into the fresh projection, with a loop that is replaced after any failure."""

    def __init__(self, parts: Replay, listener: Listener, log_id: str) -> None:
        self._parts = parts
        self._listener = listener
        self._log_id = log_id
        self._loop: ReplayLoop | None = None
        self.committed_sequence = 0

    async def run(self, until_sequence: int) -> None:
        """Fold and commit up to a sequence.

        A loop stopped in mid-commit cannot go on: the next one begins at the checkpoints.
        """
        loop = self._loop or await self._begin()
        self._loop = None

        async def look() -> None:
            self._listener.progress(Stage.replaying, loop.committed_sequence, until_sequence)

        async with _repeating(look):
            await loop.run(until_sequence)
        self._loop, self.committed_sequence = loop, loop.committed_sequence

    async def _begin(self) -> ReplayLoop:
        await _lease_fresh(self._parts.fresh, wait_seconds=REBUILD_LOCK_SECONDS)
        return self._parts.open_loop(await self._parts.fresh.bind(self._log_id))


async def _lease_fresh(fresh: ProjectionWriter, *, wait_seconds: float) -> None:
    """Acquire the fresh projection's lease; an earlier connection of this process may still hold it for a moment."""
    ends_at = time.monotonic() + wait_seconds
    while not await fresh.acquire_lease():
        if time.monotonic() >= ends_at:
            raise FenceLost("another rebuild is at work in this schema")
        await asyncio.sleep(LOOK_SECONDS)


async def _come_near(
    parts: Replay, listener: Listener, checkpoints: list[Checkpoint], end_sequence: int
) -> None:
    """Replay in several processes what is far behind, so that all checkpoints are at one sequence."""
    reached = [checkpoint.read_sequence for checkpoint in checkpoints]
    until_sequence = max(end_sequence, *reached)
    is_even, is_far = min(reached) == max(reached), until_sequence - min(reached) >= SHARDED_EVENTS_MIN
    if is_even and not (is_far and parts.processes > 1):
        return

    async def look() -> None:
        # Renews the lease, too: the shards commit on their own connections.
        await parts.fresh.acquire_lease()
        listener.progress(Stage.replaying, await _sequence_of(parts.fresh), until_sequence)

    async with _repeating(look):
        await parts.replay_in_shards(shards_of(checkpoints, parts.processes), until_sequence)


async def _sequence_of(store: ProjectionWriter) -> int:
    return min(checkpoint.read_sequence for checkpoint in await store.checkpoints())


@asynccontextmanager
async def _repeating(look: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Call `look` repeatedly while the block runs; its failure is raised at the end of the block."""

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
    def __init__(self, parts: Parts, listener: Listener, replaying: _Replaying, begun_sequence: int) -> None:
        self._parts = parts
        self._listener = listener
        self._replaying = replaying
        self._begun_sequence = begun_sequence
        self._differences = 0

    async def run(self) -> Rebuilt:
        sequence = await self._catch_up()
        await self._parts.swap.copy_indexes()
        self._listener.progress(Stage.comparing, sequence, sequence)
        async with aclosing(self._parts.swap.unequal(sequence)) as found:
            async for unequal in found:
                self._report(unequal)
        if self._differences:
            return self._ended(sequence, 0.0)
        return await self._succeed(sequence)

    async def _catch_up(self) -> int:
        """Replay until the live projection is only a little ahead; return a sequence at which both are comparable."""
        while True:
            sequence = await _sequence_of(self._parts.live)
            await self._replaying.run(sequence)
            if await _sequence_of(self._parts.live) - sequence <= REBUILD_NEAR_EVENTS:
                return sequence

    async def _succeed(self, compared_sequence: int) -> Rebuilt:
        """Hold the live projection, replay and compare the rest, swap. If that takes too long, release it and retry."""
        for attempt in range(1, REBUILD_ATTEMPTS_MAX + 1):
            try:
                ended = await self._try_to_succeed(compared_sequence)
            except (StoreUnavailable, TimeoutError) as error:
                if attempt == REBUILD_ATTEMPTS_MAX:
                    raise TimedOut("the live projection could not be held still for long enough") from error
                await self._catch_up()
            else:
                if ended.is_swapped:
                    await self._parts.swap.drop_former()
                return ended
        raise AssertionError

    async def _try_to_succeed(self, compared_sequence: int) -> Rebuilt:
        begun = time.monotonic()
        async with asyncio.timeout(REBUILD_HOLD_SECONDS), self._parts.swap.hold() as held:
            self._listener.progress(Stage.swapping, held.sequence, held.sequence)
            await self._replaying.run(held.sequence)
            await self._compare_rest(held, compared_sequence)
            if not self._differences:
                await held.swap()
        return self._ended(held.sequence, time.monotonic() - begun)

    async def _compare_rest(self, held: HeldProjection, compared_sequence: int) -> None:
        async with aclosing(held.unequal(compared_sequence)) as found:
            async for unequal in found:
                self._report(unequal)

    def _report(self, unequal: Unequal) -> None:
        self._differences += 1
        self._listener.difference(unequal)

    def _ended(self, sequence: int, held_seconds: float) -> Rebuilt:
        return Rebuilt(
            sequence=sequence,
            differences=self._differences,
            replayed_events=sequence - self._begun_sequence,
            held_seconds=held_seconds,
        )
