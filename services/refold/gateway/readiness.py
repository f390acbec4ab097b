"""Decide whether the gateway is ready: how far the projection is behind the log, at start and while it runs.

`ReadGate` wraps the application of `refold.gateway.app`; the routes of `refold.gateway.ops` ask the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from refold.core.errors import LogUnavailable, ProjectionBehind, StoreError, StoreUnavailable
from refold.gateway.consistency import Consistency
from refold.gateway.limits import NOTICE_WAIT_SECONDS
from refold.gateway.responses import problem_of
from refold.log import EventLog, LogInfo
from refold.telemetry.logging import get_logger

LAG_HEADER: Final = "Refold-Lag-Events"


class Readiness:
    """Know whether the projection has reached the end that the log had when this gateway started.

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
        self._decided = asyncio.Event()
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
            deadline = asyncio.get_running_loop().time() + NOTICE_WAIT_SECONDS
            if not await self._consistency.reach(self.required_sequence, deadline):
                continue
            if await self._is_committed():
                self.is_caught_up = True
                self._decided.set()
                get_logger().info("projection_caught_up", sequence=self.required_sequence)
            else:
                await asyncio.sleep(NOTICE_WAIT_SECONDS)

    async def wait(self, deadline: float) -> None:
        """Wait until caught up. Raises `ProjectionBehind` if the deadline (the loop's clock) passes first."""
        if self.is_caught_up:
            return
        try:
            async with asyncio.timeout_at(deadline):
                await self._decided.wait()
        except TimeoutError as error:
            raise self.behind() from error
        if not self.is_caught_up:
            raise self.behind()

    def release(self) -> None:
        """End every wait, because the gateway is stopping."""
        self._decided.set()

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
            events, seconds = await self._lag()
        except (LogUnavailable, StoreUnavailable):
            return
        if seconds > self._lag_seconds_max:
            bound = f"more than {self._lag_seconds_max:g} s"
            raise ProjectionBehind(
                f"the projection is behind the log by {events:,} events and {seconds:.1f} s, {bound}",
                folded_sequence=self._consistency.sequence,
                lag_events=events,
                lag_seconds=round(seconds, 3),
            )

    async def _lag(self) -> tuple[int, float]:
        """Return the lag in events and seconds: one request to the log, two more only where something is behind."""
        info = await self._log.info()
        if self._consistency.sequence < info.last_sequence:
            await self._consistency.refresh()
        folded = self._consistency.sequence
        return max(0, info.last_sequence - folded), await lag_seconds(self._log, info, folded)

    async def _is_committed(self) -> bool:
        try:
            self._committed_sequence = await self._consistency.refresh()
        except StoreError as error:
            get_logger().warning("progress_unknown", code=error.code, error=str(error))
            return False
        return self._committed_sequence >= self.required_sequence


async def lag_seconds(log: EventLog, info: LogInfo, folded_sequence: int) -> float:
    """Return the age of the first event that is not folded; 0 where all are, so that a quiet log has no lag."""
    if folded_sequence >= info.last_sequence:
        return 0.0
    record = await log.get(folded_sequence + 1)
    return 0.0 if record is None else max(0, info.time - record.time) / 1e9


class ReadGate:
    """An ASGI application that answers 503 to reads until the projection has caught up.

    Everything under `/v1` that is read comes from the projection. Writes pass: they need the log.
    """

    def __init__(self, app: ASGIApp, readiness: Readiness) -> None:
        """Guard an application."""
        self._app = app
        self._readiness = readiness

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve. Not a coroutine of its own: once caught up, a request pays for one attribute."""
        if self._readiness.is_caught_up:
            return self._app(scope, receive, send)
        return self._guard(scope, receive, send)

    async def _guard(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_read(scope):
            await self._app(scope, receive, send)
        elif self._readiness.allows_stale_reads:
            await self._app(scope, receive, self._marking(send))
        else:
            await problem_of(self._readiness.behind()).response()(scope, receive, send)

    def _marking(self, send: Send) -> Send:
        # Counted before the read: the answer lacks at most so many events.
        lag = max(0, self._readiness.required_sequence - self._readiness.folded_sequence)

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[LAG_HEADER] = str(lag)
            await send(message)

        return marked


def _is_read(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
        return False
    path: str = scope["path"]
    return path == "/v1" or path.startswith("/v1/")
