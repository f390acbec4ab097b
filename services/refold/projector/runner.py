"""Owns the shard and keeps its loop going: standby, start at the checkpoints, start again after a failure.

Run by the service; ends only when cancelled or by an error that a new start could not mend.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Final

from refold.core.checkpoint import Checkpoint
from refold.core.errors import (
    FenceLost,
    LogUnavailable,
    RefoldError,
    StoreDamaged,
    StoreFull,
    StoreUnavailable,
    TimedOut,
)
from refold.core.limits import SHARD_SIGN_SECONDS
from refold.core.shard import Shard
from refold.log import LogInfo
from refold.projector.notices import progress_notice
from refold.projector.partition import Bounds, Ports, ShardLoop
from refold.projector.witness import hold_documents_against, hold_log_against
from refold.telemetry.logging import get_logger

PASSING: Final = (FenceLost, LogUnavailable, StoreDamaged, StoreFull, StoreUnavailable, TimedOut)
"""Failures that pass: the loop starts again, at the checkpoints. Any other stops the projector, saying so.

A damaged store is replaced from outside (`refold rebuild --from-nothing`); the projector then goes on.
"""

STANDBY_SECONDS: Final = 0.5
BACKOFF_SECONDS_MAX: Final = 5.0
LAG_SECONDS: Final = 1.0
WITNESS_SECONDS: Final = 60.0
SILENT_CHECKS_MAX: Final = 3
"""Checks of the log in a row that may end without an answer; after so many the loop starts again."""

FLUSH_SECONDS: Final = 5.0
"""At its end a projector writes the states that commits left out for no longer than this."""


class Stage(Enum):
    """What a projector is doing."""

    starting = "starting"
    standby = "standby"
    working = "working"
    waiting = "waiting"
    stopped = "stopped"


class Runner:
    """One projector's life."""

    def __init__(self, ports: Ports, bounds: Bounds) -> None:
        """Take the ports; nothing starts before `run`."""
        self._ports = ports
        self._bounds = bounds
        self._loop: ShardLoop | None = None
        self.stage = Stage.starting
        self.error = ""
        self._stopped_by: Exception | None = None

    @property
    def committed_sequence(self) -> int:
        """Tell how far the log has been folded and committed by this projector."""
        return self._loop.committed_sequence if self._loop is not None else 0

    async def run(self) -> None:
        """Work until cancelled, or until an error that no new start could mend (see `raise_if_stopped`)."""
        try:
            await self._run()
        except Exception as error:  # noqa: BLE001 - whoever runs us raises it again, see `raise_if_stopped`.
            # Nobody foresaw it: the server that this runs within would swallow it.
            self.stage, self.error = Stage.stopped, repr(error)
            self._stopped_by = error

    async def _run(self) -> None:
        wait_seconds = STANDBY_SECONDS
        while True:
            begun_sequence = self.committed_sequence
            try:
                await self._own()
                await self._work_as_owner()
            except PASSING as error:
                self._fail(Stage.waiting, error)
                has_progressed = self.committed_sequence > begun_sequence
                wait_seconds = (
                    STANDBY_SECONDS if has_progressed else min(2 * wait_seconds, BACKOFF_SECONDS_MAX)
                )
                await asyncio.sleep(wait_seconds)
            except RefoldError as error:
                self._fail(Stage.stopped, error)
                self._stopped_by = error
                return

    async def finish(self) -> None:
        """Once `run` has ended, write the states that commits left out; the next projector writes the rest."""
        if self._loop is None:
            return
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._loop.flush_states()
        except (RefoldError, TimeoutError) as error:
            get_logger().warning("states_not_flushed", error=str(error))

    def raise_if_stopped(self) -> None:
        """Raise the error that stopped the projector for good, if one did."""
        if self._stopped_by is not None:
            raise self._stopped_by

    async def _own(self) -> None:
        while not await self._ports.store.acquire_lease():
            self.stage = Stage.standby
            await asyncio.sleep(STANDBY_SECONDS)

    async def _work_as_owner(self) -> None:
        """Work while showing that the owner lives; the failure of either ends the other."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_shard(), name="shard")
                tasks.create_task(self._work(), name="work")
        except ExceptionGroup as group:
            raise group.exceptions[0] from group

    async def _keep_shard(self) -> None:
        """Nothing here waits for the log: an owner that cannot reach it is no dead one."""
        while True:
            if not await self._ports.store.acquire_lease():
                raise FenceLost("another projector has taken the shard over")
            await asyncio.sleep(SHARD_SIGN_SECONDS)

    async def _work(self) -> None:
        """Start at the checkpoints with an empty memory, hold the log against them, then fold."""
        info = await self._ports.log.info()
        checkpoints = await self._ports.store.bind(info.log_id)
        await hold_log_against(self._ports.log, checkpoints)
        await hold_documents_against(self._ports.log, self._ports.store, checkpoints)
        self._loop = ShardLoop(self._ports, self._bounds, Shard(checkpoints))
        self.stage, self.error = Stage.working, ""
        get_logger().info("projector_working", sequence=self._loop.committed_sequence, log_id=info.log_id)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._loop.run(), name="loop")
                tasks.create_task(self._watch_lag(), name="lag")
                tasks.create_task(self._watch_log(), name="witness")
        except ExceptionGroup as group:
            raise group.exceptions[0] from group

    async def _watch_lag(self) -> None:
        """Show the lag, and tell of progress as a sign of life; what is away for a moment stops nothing here."""
        while True:
            await asyncio.sleep(LAG_SECONDS)
            try:
                await self._ports.notices.send(*progress_notice(self.committed_sequence))
                info = await self._ports.log.info()
                for checkpoint in await self._ports.store.checkpoints():
                    self._measure(info, checkpoint)
            except (LogUnavailable, StoreUnavailable, TimedOut) as error:
                get_logger().warning("lag_unknown", code=error.code, error=str(error))

    def _measure(self, info: LogInfo, checkpoint: Checkpoint) -> None:
        partition = str(checkpoint.partition)
        behind = max(0, info.last_sequence - checkpoint.read_sequence)
        seconds = max(0, info.time - checkpoint.recorded_at) / 1e9 if behind else 0.0
        self._ports.metrics.lag_events.labels(partition=partition).set(behind)
        self._ports.metrics.lag_seconds.labels(partition=partition).set(seconds)

    async def _watch_log(self) -> None:
        """Compare the log with the checkpoints again and again. Only a difference or repeated silence is an error."""
        silent = 0
        while True:
            await asyncio.sleep(WITNESS_SECONDS)
            try:
                await hold_log_against(self._ports.log, await self._ports.store.checkpoints())
                silent = 0
            except (LogUnavailable, StoreUnavailable, TimedOut) as error:
                silent += 1
                get_logger().warning("log_unchecked", code=error.code, error=str(error), silent=silent)
                if silent >= SILENT_CHECKS_MAX:
                    raise

    def _fail(self, stage: Stage, error: RefoldError) -> None:
        self.stage, self.error = stage, f"{error.code}: {error}"
        get_logger().error("projector_failed", stage=stage.value, code=error.code, error=str(error))
