"""Rebuild the projection from the log beside the live one, compare both, and swap them when they are equal.

Run by `refold rebuild`; with `--from-nothing` it replaces a damaged one without a comparison. A stopped rebuild
continues where it was: the fresh projection has its own checkpoints. `replay` alone is run by `refold export --replay`.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from hashlib import sha256
from typing import Final, Protocol

from refold.core.errors import FenceLost, LogHole, StoreDamaged, StoreDiffers, StoreUnavailable, TimedOut
from refold.core.history import Clock, Point
from refold.core.stream import Checkpoint
from refold.history import check_log
from refold.log import EventLog, end_of
from refold.store import REBUILD_LOCK_SECONDS
from refold.store.ports import Row, SchemaSwap, SnapshotStore, Unequal

REBUILD_NEAR_EVENTS: Final = 2_000
"""A rebuild compares once it is behind by no more than this; before, it continues to catch up."""

REBUILD_HOLD_SECONDS: Final = 10.0
"""The longest that a rebuild holds the live projection."""

REBUILD_ATTEMPTS_MAX: Final = 5
LOOK_SECONDS: Final = 0.1

SHARDED_EVENTS_MIN: Final = 20_000
"""Behind by fewer events, one process is faster than starting several."""

BEGINNING: Final = -1
"""Every document has changed after it."""


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

    @property
    def folded_sequence(self) -> int:
        """Return how far the log is folded."""

    async def run(self, until_sequence: int) -> None:
        """Fold and commit up to a sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayParts:
    """What a replay uses: the log is replayed into `fresh`, by several processes where it is far behind."""

    log: EventLog
    fresh: SnapshotStore
    open_loop: Callable[[Sequence[Checkpoint]], ReplayLoop]
    processes: int
    replay_in_shards: Callable[[Sequence[ReplayShard], int], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts(ReplayParts):
    """What a rebuild uses.

    Without `is_compared` the live projection is damaged: it is replaced at the log's end.
    """

    swap: SchemaSwap
    is_compared: bool


async def rebuild(parts: Parts, listener: Listener) -> Rebuilt:
    """Replay, compare, swap. Raises `FenceLost` where another rebuild is at work, and what stores and log raise.

    Raises `StoreDiffers` where the live projection is one of another log, and `LogHole` where a damaged one had been
    folded further than the log goes.
    """
    return await _Rebuild(parts, listener).run()


class _Rebuild:
    def __init__(self, parts: Parts, listener: Listener) -> None:
        self._parts = parts
        self._listener = listener
        self._replay = _Replay(parts, partial(listener.progress, Stage.replaying))
        self._differences = 0

    async def run(self) -> Rebuilt:
        parts = self._parts
        await self._check_live()
        await self._replay.lease()
        await parts.swap.prepare()
        checkpoints = await self._replay.bind()
        await check_log(parts.log, checkpoints)
        begun_sequence = min(checkpoint.read_sequence for checkpoint in checkpoints)
        await self._replay.in_shards(checkpoints, await self._end_sequence())
        sequence = await self._catch_up()
        await parts.swap.copy_indexes()
        if parts.is_compared:
            self._listener.progress(Stage.comparing, sequence, sequence)
            await self._report(parts.swap.unequal(BEGINNING, sequence))
        held_seconds = 0.0
        if not self._differences:
            sequence, held_seconds = await self._swap(sequence)
        if not self._differences:
            await parts.swap.drop_former()
        return Rebuilt(
            sequence=sequence,
            differences=self._differences,
            replayed_events=sequence - begun_sequence,
            held_seconds=held_seconds,
        )

    async def _check_live(self) -> None:
        """Raise where the live projection is not one of this log."""
        parts = self._parts
        # Read before the log's end: a running projector may fold what is appended in between.
        bound = await parts.swap.bound()
        info = await parts.log.info()
        if bound is not None and bound.log_id != info.log_id:
            message = "the projection was made from another log"
            raise StoreDiffers(message, expected=info.log_id, found=bound.log_id)
        if bound is not None and bound.read_sequence > info.last_sequence:
            lost = "the projection has events that the log has lost"
            message = f"the log ends before what has been folded from it: {lost}"
            raise LogHole(message, last_sequence=info.last_sequence, folded_sequence=bound.read_sequence)

    async def _end_sequence(self) -> int:
        """Return what the fresh projection must reach: the live one's sequence, or the log's end."""
        if not self._parts.is_compared:
            return await end_of(self._parts.log)
        bound = await self._parts.swap.bound()
        if bound is None:
            raise StoreDamaged
        return bound.read_sequence

    async def _catch_up(self) -> int:
        """Replay until the end is near, which moves on meanwhile; return the sequence that was reached."""
        while True:
            sequence = await self._end_sequence()
            await self._replay.up_to(sequence)
            if await self._end_sequence() - sequence <= REBUILD_NEAR_EVENTS:
                return sequence

    async def _swap(self, compared_sequence: int) -> tuple[int, float]:
        """Hold the live projection, replay and compare the rest, swap. If that takes too long, release it and retry.

        Returns the sequence of the swap, and the seconds that the live projection was held.
        """
        for attempt in range(1, REBUILD_ATTEMPTS_MAX + 1):
            begun = time.monotonic()
            try:
                return await self._swap_once(compared_sequence), time.monotonic() - begun
            except (StoreUnavailable, TimeoutError) as error:
                if attempt == REBUILD_ATTEMPTS_MAX:
                    raise TimedOut("the live projection could not be held still for long enough") from error
                await self._catch_up()
        raise AssertionError

    async def _swap_once(self, compared_sequence: int) -> int:
        swap = self._parts.swap
        async with asyncio.timeout(REBUILD_HOLD_SECONDS), swap.hold():
            sequence = await self._end_sequence()
            self._listener.progress(Stage.swapping, sequence, sequence)
            await self._replay.up_to(sequence)
            if self._parts.is_compared:
                await self._report(swap.unequal(compared_sequence, sequence))
                await self._report(swap.unequal_counts())
            if not self._differences:
                await swap.swap()
        return sequence

    async def _report(self, unequal: AsyncGenerator[Unequal]) -> None:
        async with aclosing(unequal) as found:
            async for each in found:
                if each.state_version is None or await self._is_other_state(each, each.state_version):
                    self._differences += 1
                    self._listener.difference(each)

    async def _is_other_state(self, each: Unequal, version: int) -> bool:
        """Compare the older state of a live row with the fresh projection's at the same version."""
        point = Point(Clock.version, version)
        fresh = await self._parts.fresh.snapshot_at(each.namespace, each.document, point)
        assert isinstance(each.live, Row)
        if fresh is None or fresh.state is None or fresh.version != version:
            return True
        return sha256(fresh.state).hexdigest() != each.live.state_hash


async def replay(parts: ReplayParts, until_sequence: int, progress: Callable[[int, int], None]) -> None:
    """Replay the log into an empty projection, up to a sequence, and pass to `progress` how far it is of how many.

    Raises what stores and log raise.
    """
    replaying = _Replay(parts, progress)
    await replaying.lease()
    await replaying.in_shards(await replaying.bind(), until_sequence)
    await replaying.up_to(until_sequence)


class _Replay:
    """Replay the log into a fresh projection."""

    def __init__(self, parts: ReplayParts, progress: Callable[[int, int], None]) -> None:
        self._parts = parts
        self._progress = progress
        self._loop: ReplayLoop | None = None

    async def lease(self, *, wait_seconds: float = 0) -> None:
        """Acquire the fresh projection's lease, which an earlier connection of this process may hold for a moment."""
        ends_at = time.monotonic() + wait_seconds
        while not await self._parts.fresh.acquire_lease():
            if time.monotonic() >= ends_at:
                raise FenceLost("another rebuild is at work in this schema")
            await asyncio.sleep(LOOK_SECONDS)

    async def bind(self) -> list[Checkpoint]:
        """Return how far the fresh projection is."""
        return await self._parts.fresh.bind((await self._parts.log.info()).log_id)

    async def in_shards(self, checkpoints: list[Checkpoint], end_sequence: int) -> None:
        """Replay in several processes what is far behind, so that all checkpoints are at one sequence."""
        parts = self._parts
        reached = [checkpoint.read_sequence for checkpoint in checkpoints]
        until_sequence = max(end_sequence, *reached)
        is_even, is_far = min(reached) == max(reached), until_sequence - min(reached) >= SHARDED_EVENTS_MIN
        if is_even and not (is_far and parts.processes > 1):
            return

        async def look() -> None:
            # Renews the lease, too: the shards commit on their own connections.
            await parts.fresh.acquire_lease()
            self._progress(await _sequence_of(parts.fresh), until_sequence)

        async with _repeating(look):
            await parts.replay_in_shards(shards_of(checkpoints, parts.processes), until_sequence)

    async def up_to(self, until_sequence: int) -> None:
        """Fold and commit up to a sequence. A loop stopped in mid-commit cannot go on: the next call makes another."""
        loop, self._loop = self._loop, None
        if loop is None:
            await self.lease(wait_seconds=REBUILD_LOCK_SECONDS)
            loop = self._parts.open_loop(await self.bind())

        async def look() -> None:
            self._progress(loop.folded_sequence, until_sequence)

        async with _repeating(look):
            await loop.run(until_sequence)
        self._loop = loop


async def _sequence_of(store: SnapshotStore) -> int:
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
