"""Replay the log into a projection: no notices, no journal for what becomes pages, few and large commits.

Run by `refold rebuild`, in its own process or in one for each shard.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from typing import Final

from prometheus_client import CollectorRegistry

from refold.core.errors import FenceLost
from refold.core.fold import RULES
from refold.core.fold_state import FoldState
from refold.core.stream import Checkpoint
from refold.core.timestamp import TIME_MAX_NANOSECONDS
from refold.log import EventLog
from refold.log.memory import MemoryNotices
from refold.projector.commit_buffer import CommitBuffer
from refold.projector.loop import LoopLimits, Ports, ShardLoop
from refold.projector.supervisor import SHARD_SIGN_SECONDS
from refold.store import ClosedPage, Key
from refold.store.ports import OpenCommit, Store
from refold.telemetry.metrics.projector import ProjectorMetrics

REPLAY_EVENTS_MAX: Final = 1_000_000
REPLAY_SECONDS_MAX: Final = 20.0
"""Events and time between two commits: what a stopped replay folds again."""

PAGES_BYTES: Final = 4 * 1024 * 1024
"""Memory of pages that are written together, ahead of their commit."""


class ReplayLoop(ShardLoop):
    """Fold the log up to a sequence, in transactions that begin with the pages of what they commit.

    Documents, what is in no page, and checkpoints are written when a transaction ends: at the last sequence, after so
    many events or seconds, or when the memory for events or for documents is full.
    """

    def __init__(self, ports: Ports, limits: LoopLimits, fold_state: FoldState) -> None:
        super().__init__(ports, limits, fold_state)
        # Documents with pages in the open transaction, and those whose history an event needs.
        self._ahead: set[Key] = set()
        self._awaited: set[Key] = set()

    @property
    def folded_sequence(self) -> int:
        """Return how far the log is folded, committed or not."""
        return self._fold_state.read_sequence

    async def _make_readable(self, keys: Collection[Key]) -> None:
        """Commit where pages of these documents are in the open transaction."""
        self._awaited = set(keys)
        self._has_work.set()
        await self._wait_until(lambda: self._ahead.isdisjoint(self._awaited))
        self._awaited.clear()

    async def _flush_states(self) -> None:
        """Do nothing: the end of a run writes the states that its commits left out."""

    def _is_full(self) -> bool:
        return self._buffer.bytes >= self._limits.pending_bytes_max

    def _new_buffer(self, after_sequence: int) -> CommitBuffer:
        """Hold no segments between commits: few events of a replay are in the journal before their page closes."""
        return CommitBuffer(after_sequence)

    async def _commit_folded(self) -> None:
        store = self._ports.store
        while True:
            # The end of the run cancels this task: a BEGIN in flight would cost the connection, and with it the lease.
            await self._has_work.wait()
            async with store.open_commit() as opened:
                await self._write_pages(opened)
                checkpoint = self._fold_state.checkpoint(self._buffer.after_sequence)
                taken, self._buffer = self._buffer, self._new_buffer(checkpoint.read_sequence)
                self._committing = taken
                self._has_work.clear()
                self._has_committed.set()
                taken.close_segments()
                await opened.write(taken.to_commit(checkpoint, store))
            self.committed_sequence = checkpoint.read_sequence
            self._committing = None
            self._ahead.clear()
            self._shrink_cache(taken)
            self._has_committed.set()

    async def _write_pages(self, opened: OpenCommit) -> None:
        """Write pages as they fill, until the commit is due."""
        timer = self._ports.timer
        begun_at = signed_at = timer()
        while True:
            pages = self._take_pages()
            if pages or timer() - signed_at >= SHARD_SIGN_SECONDS:
                self._ahead.update((page.namespace, page.document) for page in pages)
                await opened.write_pages(pages)
                signed_at = timer()
            if pages:
                self._shrink_cache(self._buffer)
                self._has_committed.set()
            if self._is_due(begun_at):
                return
            await self._await_work()

    async def _await_work(self) -> None:
        try:
            async with asyncio.timeout(SHARD_SIGN_SECONDS):
                await self._has_work.wait()
        except TimeoutError:
            return
        self._has_work.clear()

    def _take_pages(self) -> list[ClosedPage]:
        """Take enough pages to write, and make some where the memory for events is full."""
        buffer = self._buffer
        if self._is_full():
            buffer.close_segments(bytes_max=self._limits.pending_bytes_max // 2)
        return buffer.take_pages() if buffer.pages_bytes >= PAGES_BYTES or self._is_full() else []

    def _is_due(self, begun_at: float) -> bool:
        """Tell whether to commit: no page is left that could be written instead, or it has been long enough."""
        buffer, state = self._buffer, self._fold_state
        is_last = state.read_sequence == self._until_sequence or state.fold_number not in RULES
        is_long = buffer.events >= REPLAY_EVENTS_MAX or self._ports.timer() - begun_at >= REPLAY_SECONDS_MAX
        is_awaited = not self._ahead.isdisjoint(self._awaited)
        return is_last or is_long or is_awaited or self._is_full() or self._documents.is_over

    def _shrink_cache(self, used: CommitBuffer) -> None:
        if self._documents.shrink(used.keys, self._buffer.keys | self._wanted):
            self._routes.clear()


def replay_loop(
    log: EventLog, store: Store, limits: LoopLimits, checkpoints: Sequence[Checkpoint]
) -> ReplayLoop:
    """Return a loop over these partitions that sends no notices."""
    # Outcomes and changes were sent when they were new.
    unsent = MemoryNotices()
    ports = Ports(
        log=log,
        store=store,
        notices=unsent,
        replies=unsent,
        metrics=ProjectorMetrics(CollectorRegistry()),
        # No event is young enough for a notice.
        broker_now=lambda: TIME_MAX_NANOSECONDS,
        timer=time.perf_counter,
    )
    return ReplayLoop(ports, limits, FoldState(list(checkpoints)))


async def begin_replay(
    log: EventLog, store: Store, limits: LoopLimits, partitions: Sequence[int]
) -> ReplayLoop:
    """Return a replay's loop at its checkpoints. Raises `FenceLost` where these partitions are being replayed already.

    Every shard folds the system's documents, so each sees a change of the fold number; one that it does not know stops
    the whole replay.
    """
    if not await store.acquire_lease():
        raise FenceLost("another replay is at work on these partitions", partitions=list(partitions))
    checkpoints = await store.bind((await log.info()).log_id)
    return replay_loop(log, store, limits, [each for each in checkpoints if each.partition in partitions])
