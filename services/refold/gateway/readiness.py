"""Decide whether the gateway is ready: how far the projection is behind the log, at start and while it runs.

`refold.gateway.app` asks before each read, the readiness probe of `refold.gateway.ops` for the lag.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

from refold.core.errors import LogUnavailable, ProjectionBehind, StoreError, StoreUnavailable
from refold.gateway.consistency import NOTICE_WAIT_SECONDS, Consistency
from refold.gateway.inflight import Waiters, deadline_in
from refold.log import EventLog, lag_seconds
from refold.telemetry.logging import get_logger

LAG_HEADER: Final = "Refold-Lag-Events"


class Readiness:
    """Track whether the projection has reached the end that the log had when this gateway started.

    `is_caught_up` turns true once and stays true: a projector that falls behind later changes only `/readyz`.
    """

    def __init__(
        self,
        log: EventLog,
        consistency: Consistency,
        *,
        required_sequence: int,
        lag_seconds_max: float,
        allows_stale_reads: bool = False,
    ) -> None:
        """Wait for `required_sequence`, the log's end at start (0: for nothing); `check` allows so much lag."""
        self._log = log
        self._consistency = consistency
        self._lag_seconds_max = lag_seconds_max
        self._committed_sequence = 0
        self._waiters: Waiters[None] = Waiters()
        self.required_sequence = required_sequence
        self.allows_stale_reads = allows_stale_reads
        self.is_caught_up = required_sequence == 0

    @property
    def folded_sequence(self) -> int:
        """Return how far the projection is known to be committed."""
        if self._consistency.sequence < self.required_sequence:
            return self._consistency.sequence
        return self._committed_sequence

    async def catch_up(self) -> None:
        """Wait until the store itself says that the required sequence is committed.

        A notice is not enough: just after a crash of the database, the projector still announces what it committed
        before, until it notices the loss.
        """
        while not (self.is_caught_up or self._consistency.released.is_set()):
            deadline = deadline_in(NOTICE_WAIT_SECONDS)
            if not await self._consistency.reach(self.required_sequence, deadline):
                continue
            try:
                self._committed_sequence = await self._consistency.refresh()
            except StoreError as error:
                get_logger().warning("progress_unknown", code=error.code, error=str(error))
            if self._committed_sequence >= self.required_sequence:
                self.is_caught_up = True
                self._waiters.wake(lambda _: True)
                get_logger().info("projection_caught_up", sequence=self.required_sequence)
            else:
                await asyncio.sleep(NOTICE_WAIT_SECONDS)

    async def wait(self, deadline: float) -> None:
        """Wait until caught up. Raises `ProjectionBehind` if the deadline (the loop's clock) passes first."""
        if not self.is_caught_up and not await self._waiters.wait(None, deadline):
            raise self.behind()

    def release(self) -> None:
        """End every wait, because the gateway is stopping."""
        self._waiters.release()

    def behind(self) -> ProjectionBehind:
        """Make the error that says how far the projection still has to go."""
        folded, required = self.folded_sequence, self.required_sequence
        return ProjectionBehind(
            f"the projection is being folded: {folded:,} of {required:,} events",
            folded_sequence=folded,
            required_sequence=required,
        )

    async def check(self) -> None:
        """Raise `ProjectionBehind` while catching up, and where the lag is over the bound.

        Where log or store cannot be reached, the lag is unknown; the probe checks those two by themselves.
        """
        if not self.is_caught_up:
            raise self.behind()
        try:
            info = await self._log.info()
            if self._consistency.sequence < info.last_sequence:
                await self._consistency.refresh()
            folded_sequence = self._consistency.sequence
            seconds = await lag_seconds(self._log, info, folded_sequence)
        except (LogUnavailable, StoreUnavailable):
            return
        if seconds > self._lag_seconds_max:
            events, bound = info.last_sequence - folded_sequence, f"more than {self._lag_seconds_max:g} s"
            raise ProjectionBehind(
                f"the projection is behind the log by {events:,} events and {seconds:.1f} s, {bound}",
                folded_sequence=folded_sequence,
                lag_events=events,
                lag_seconds=round(seconds, 3),
            )


def with_lag(send: Send, readiness: Readiness) -> Send:
    """Return a `send` that adds how many events the response may lack, counted before the read."""
    lag = max(0, readiness.required_sequence - readiness.folded_sequence)

    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)[LAG_HEADER] = str(lag)
        await send(message)

    return marked
