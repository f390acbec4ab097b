"""Hold a shard's lease and keep its loop running: standby, start at the checkpoints, restart after a transient error.

Run by the service; ends only when cancelled or by a fatal error.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

from refold.core.errors import (
    FenceLost,
    LogDiffers,
    LogHole,
    LogUnavailable,
    RefoldError,
    StoreDamaged,
    StoreFull,
    StoreUnavailable,
    TimedOut,
    raising_first,
)
from refold.core.fold_state import FoldState
from refold.core.stream import PARTITIONS, Checkpoint, parse_shard
from refold.history import check_documents, check_log
from refold.log import COMMIT_SUBJECT, PROGRESS_SUBJECT, Replicas, lag_seconds
from refold.projector import FOLDING, Stage
from refold.projector.loop import LoopLimits, Ports, ShardLoop
from refold.telemetry.logging import get_logger

TRANSIENT: Final = (FenceLost, LogUnavailable, StoreDamaged, StoreFull, StoreUnavailable, TimedOut)
"""Transient errors: the supervisor restarts the loop from its checkpoints. Anything else is fatal.

A damaged store is replaced from outside (`refold rebuild --from-nothing`); the projector then continues.
"""

SHARD_SIGN_SECONDS: Final = 1.0
"""How often a holder of a lease renews it."""

STANDBY_SECONDS: Final = 0.5
BACKOFF_SECONDS_MAX: Final = 5.0
LAG_SECONDS: Final = 1.0
LOG_CHECK_SECONDS: Final = 60.0
SILENT_CHECKS_MAX: Final = 3
"""Checks of the log in a row that may end without an answer; after so many the loop starts again."""

REACHED_SECONDS: Final = 10.0
"""A projector is not ready if the log and the store have not both answered within this."""

FLUSH_SECONDS: Final = 5.0
"""At its end a projector writes the states that commits left out for no longer than this."""


def lease_of(partitions: range) -> str:
    """Name the lease of a shard; that of all partitions has no name."""
    return "" if len(partitions) == PARTITIONS else f"{partitions[0]}-{partitions[-1]}"


class Supervisor:
    """Run one shard's projector."""

    def __init__(self, ports: Ports, limits: LoopLimits) -> None:
        """Take the ports; nothing starts before `run`."""
        self._ports = ports
        self._limits = limits
        self.shard, self.store_name = ports.shard, ports.store_name
        self._partitions = parse_shard(ports.shard)
        self._loop: ShardLoop | None = None
        self._is_folding = False
        self._has_owned = False
        self._leader = ""
        self.stage = Stage.starting
        self._own(is_owner=False)
        ports.metrics.pending_events.set_function(lambda: self._pending()[0])
        ports.metrics.pending_bytes.set_function(lambda: self._pending()[1])
        self._failure = ""
        self._stopped_by: Exception | None = None
        self._checked_at: float | None = None
        self._reached_at: float | None = None

    @property
    def is_ready(self) -> bool:
        """Whether events are folded, as far as it knows: the log and the store have answered lately."""
        return self.stage in FOLDING and not self.error

    @property
    def error(self) -> str:
        """Why it does not fold, or cannot know; empty if all is well."""
        silent_seconds = self._age(self._reached_at)
        if self.stage in FOLDING and silent_seconds is not None and silent_seconds > REACHED_SECONDS:
            return f"unreachable: the log and the store have not both answered for {silent_seconds:.0f} s"
        return self._failure

    @property
    def committed_sequence(self) -> int:
        """Return how far this projector has folded and committed the log."""
        return self._loop.committed_sequence if self._loop is not None else 0

    @property
    def commit_age_seconds(self) -> float | None:
        """Return how long ago the last commit was; None before the first."""
        return self._age(self._loop.committed_at if self._loop is not None else None)

    @property
    def log_check_age_seconds(self) -> float | None:
        """Return how long ago the log was found equal to the checkpoints; None before that."""
        return self._age(self._checked_at)

    def _age(self, time: float | None) -> float | None:
        return None if time is None else round(self._ports.timer() - time, 3)

    def required_sequences(self) -> Sequence[int]:
        """Return, by partition, what the database must have for documents to be loaded; empty while no loop runs.

        On a document that has lost commits in a crash, later events would have other outcomes, which would be sent.
        """
        if not self._is_folding:
            return ()
        return [self.committed_sequence if number in self._partitions else 0 for number in range(PARTITIONS)]

    @property
    def stage(self) -> Stage:
        """What it is doing."""
        return self._stage

    @stage.setter
    def stage(self, stage: Stage) -> None:
        self._stage = stage
        for each in Stage:
            self._ports.metrics.stage.labels(each.value).set(each is stage)

    async def run(self) -> None:
        """Work until cancelled or until a fatal error (see `raise_if_stopped`)."""
        wait_seconds = STANDBY_SECONDS
        while True:
            begun_sequence, last_failure = self.committed_sequence, self._failure
            try:
                why = await self._await_lease()
                self._ports.metrics.takeovers.labels(why).inc()
                await self._work()
            except TRANSIENT as error:
                self._fail(Stage.waiting, error)
                # Another error than the last is a change, too: a server that could not be reached is there, but empty.
                has_changed = self.committed_sequence > begun_sequence or self._failure != last_failure
                wait_seconds = STANDBY_SECONDS if has_changed else min(2 * wait_seconds, BACKOFF_SECONDS_MAX)
                await asyncio.sleep(wait_seconds)
            except Exception as error:  # noqa: BLE001 - the ASGI server would swallow it; the caller raises it again.
                self._fail(Stage.stopped, error)
                self._stopped_by = error
                return

    async def finish(self) -> None:
        """Once `run` has ended, write the states that commits left out; the next projector writes the rest."""
        if self._loop is None:
            return
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._ports.store.flush_states(is_final=True)
        except (RefoldError, TimeoutError) as error:
            get_logger().warning("states_not_flushed", error=str(error))

    def raise_if_stopped(self) -> None:
        """Raise the error that stopped the projector for good, if one did."""
        if self._stopped_by is not None:
            raise self._stopped_by

    async def _await_lease(self) -> str:
        """Wait for the lease; return how it came, as the metric of takeovers says it."""
        why = "again" if self._has_owned else "first"
        while not await self._ports.store.acquire_lease():
            await self._ports.log.info()
            self._reached_at = self._ports.timer()
            if self.stage is not Stage.standby:
                self._stand_by()
            why = "standby"
            await asyncio.sleep(STANDBY_SECONDS)
        self._has_owned = True
        return why

    async def _work(self) -> None:
        """Work while the lease is renewed; the failure of any task ends the others."""
        try:
            with raising_first():
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._renew_lease(), name="lease")
                    loop = self._loop = await self._start()
                    self._own(is_owner=True)
                    tasks.create_task(self._fold(loop), name="loop")
                    tasks.create_task(self._watch_lag(loop), name="lag")
                    tasks.create_task(self._watch_log(), name="log-check")
        finally:
            self._own(is_owner=False)

    def _stand_by(self) -> None:
        """Take back what the shard's owner measures now."""
        self.stage, self._failure = Stage.standby, ""
        metrics = self._ports.metrics
        self._own(is_owner=False)
        metrics.lag_events.clear()
        metrics.lag_seconds.clear()
        metrics.integrity_checked.set(0)

    def _own(self, *, is_owner: bool) -> None:
        self._ports.metrics.shard_owned.labels(self._ports.shard).set(is_owner)

    def _pending(self) -> tuple[int, int]:
        return self._loop.pending if self._loop is not None and self._is_folding else (0, 0)

    async def _fold(self, loop: ShardLoop) -> None:
        """Run the loop, and pass it the messages of readers that wait."""
        async with AsyncExitStack() as stack:
            stack.callback(await self._ports.notices.listen(COMMIT_SUBJECT, loop.hear_reader))
            if loop.announcer.is_one_of_several:
                hear = loop.announcer.hear
                stack.callback(await self._ports.notices.listen(PROGRESS_SUBJECT, hear))
            self._is_folding = True
            try:
                await loop.run()
            finally:
                self._is_folding = False

    async def _renew_lease(self) -> None:
        """Renew the lease. Nothing here waits for the log: a holder that cannot reach the log is still alive."""
        while True:
            if not await self._ports.store.acquire_lease():
                raise FenceLost("another projector has taken the shard over")
            await asyncio.sleep(SHARD_SIGN_SECONDS)

    async def _start(self) -> ShardLoop:
        """Compare the log with the shard's checkpoints, and return a loop that begins there with an empty memory."""
        info = await self._ports.log.info()
        checkpoints = self._of_shard(await self._ports.store.bind(info.log_id))
        await self._check_log(checkpoints)
        await check_documents(self._ports.log, self._ports.store, checkpoints)
        loop = ShardLoop(self._ports, self._limits, FoldState(await self._level(checkpoints)))
        # The age of the last commit goes on where the loop starts again.
        loop.committed_at = self._loop.committed_at if self._loop is not None else None
        self._reached_at = self._ports.timer()
        self.stage, self._failure = Stage.working, ""
        get_logger().info("projector_working", sequence=loop.committed_sequence, log_id=info.log_id)
        return loop

    async def _level(self, checkpoints: list[Checkpoint]) -> list[Checkpoint]:
        """Fold partitions that former shards had folded less far, until all are at one sequence."""
        while len(levels := sorted({each.read_sequence for each in checkpoints})) > 1:
            behind = [each for each in checkpoints if each.read_sequence == levels[0]]
            await ShardLoop(self._ports, self._limits, FoldState(behind)).run(levels[1])
            checkpoints = self._of_shard(await self._ports.store.checkpoints())
        return checkpoints

    async def _watch_lag(self, loop: ShardLoop) -> None:
        """Measure the lag, and send progress as a sign of life. An unreachable port is only logged here."""
        while True:
            await asyncio.sleep(LAG_SECONDS)
            try:
                await loop.send_progress()
                await self.measure()
                self._reached_at = self._ports.timer()
            except (LogUnavailable, StoreUnavailable, TimedOut) as error:
                get_logger().warning("lag_unknown", code=error.code, error=str(error))

    def _of_shard(self, checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
        return [each for each in checkpoints if each.partition in self._partitions]

    async def measure(self) -> None:
        """Set the metrics of the log and of the shard's lag: its partitions are always committed together."""
        ports, metrics = self._ports, self._ports.metrics
        info = await ports.log.info()
        checkpoints = self._of_shard(await ports.store.checkpoints())
        committed = min((each.read_sequence for each in checkpoints), default=0)
        metrics.log_last_sequence.set(info.last_sequence)
        metrics.log_bytes.set(info.bytes)
        metrics.log_limit_bytes.set(math.inf if info.limit_bytes is None else info.limit_bytes)
        metrics.log_subjects.set(info.subjects)
        self._measure_replicas(info.replicas)
        metrics.lag_events.labels(shard=ports.shard).set(max(0, info.last_sequence - committed))
        metrics.lag_seconds.labels(shard=ports.shard).set(await lag_seconds(ports.log, info, committed))

    def _measure_replicas(self, replicas: Replicas) -> None:
        metrics = self._ports.metrics
        metrics.log_replicas.labels("current").set(replicas.current)
        metrics.log_replicas.labels("lagging").set(replicas.lagging)
        metrics.log_replicas.labels("offline").set(replicas.offline)
        # While a leader is elected there is none.
        if replicas.leader:
            metrics.log_leader_changes.inc(self._leader not in {"", replicas.leader})
            self._leader = replicas.leader

    async def _check_log(self, checkpoints: list[Checkpoint]) -> None:
        """Compare the log with the checkpoints. Raises what `check_log` raises."""
        metrics = self._ports.metrics
        try:
            await check_log(self._ports.log, checkpoints)
        except (LogDiffers, LogHole):
            metrics.integrity_faults.inc()
            raise
        metrics.integrity_checked.set_to_current_time()
        self._checked_at = self._ports.timer()

    async def _watch_log(self) -> None:
        """Compare the log with the checkpoints again and again. Only a difference or repeated silence is an error."""
        silent = 0
        while True:
            await asyncio.sleep(LOG_CHECK_SECONDS)
            try:
                await self._check_log(self._of_shard(await self._ports.store.checkpoints()))
                silent = 0
            except (LogUnavailable, StoreUnavailable, TimedOut) as error:
                silent += 1
                get_logger().warning("log_unchecked", code=error.code, error=str(error), silent=silent)
                if silent >= SILENT_CHECKS_MAX:
                    raise

    def _fail(self, stage: Stage, error: Exception) -> None:
        code = error.code if isinstance(error, RefoldError) else type(error).__name__
        self.stage, self._failure = stage, f"{code}: {error}"
        get_logger().error("projector_failed", stage=stage.value, code=code, error=str(error))
