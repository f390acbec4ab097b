"""Bound the requests in flight: those in work, and those that wait, by client and in all.

A request in work holds one of `requests_max` permits. While it waits (for the projection, for its outcome, for its own
body) it returns the permit and counts as waiting, so that slow requests do not block fast ones.
Connections are bounded by the server (`refold.wiring.http_server`); probes are never counted.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from prometheus_client import CollectorRegistry, Gauge
from starlette.types import ASGIApp, Receive, Scope, Send

from refold.gateway import BODY_SECONDS, PROBES, WAITING_MAX, WAITING_PER_CLIENT_MAX
from refold.gateway.responses import RETRY, Problem, Response
from refold.log.semaphore import Semaphore

REQUESTS_MAX: Final = 1_024
"""Requests in work at a time, those that wait for something not counted; more wait for their turn."""

REQUEST_QUEUE_SECONDS: Final = 10.0
"""A request that has not had its turn by then is answered 503."""

BODIES_BYTES_MAX: Final = 256 * 1024 * 1024
"""Request bodies in memory while they are being read."""

Wanted = TypeVar("Wanted")


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlightLimits:
    """How many requests may be in work or wait, and how long one may be silent in the middle of its body."""

    requests_max: int = REQUESTS_MAX
    waiting_max: int = WAITING_MAX
    waiting_per_client_max: int = WAITING_PER_CLIENT_MAX
    body_seconds: float = BODY_SECONDS
    bodies_bytes_max: int = BODIES_BYTES_MAX


def waiting() -> AbstractAsyncContextManager[object]:
    """Count the current request as waiting instead of working, for the length of an `async with` block.

    Nested blocks count once. A block that ends in an error does not take a permit again: only an answer is left to do.

    Raises:
        Problem: On entry, when too many wait already, of this client or in all.
    """
    return _current.get() or nullcontext()


def hold_body(bytes_count: int) -> None:
    """Count so many bytes of the current request's body in memory; 0 once it is read. Raises `Problem`."""
    request = _current.get()
    if request is not None:
        request.hold_body(bytes_count)


def deadline_in(seconds: float) -> float:
    """Return a time on the loop's clock."""
    return asyncio.get_running_loop().time() + seconds


class Waiters(Generic[Wanted]):
    """Requests that wait, each for something of its own, until it has come or their deadline passes."""

    def __init__(self) -> None:
        self.is_released = False
        self._futures: dict[asyncio.Future[None], Wanted] = {}

    def __len__(self) -> int:
        return len(self._futures)

    async def wait(self, wanted: Wanted, deadline: float) -> bool:
        """Wait until woken. False if the deadline (the loop's clock) passes first, or if the gateway stops.

        Raises `Problem` if too many requests wait.
        """
        if self.is_released:
            return False
        reached = asyncio.get_running_loop().create_future()
        async with waiting():
            self._futures[reached] = wanted
            try:
                async with asyncio.timeout_at(deadline):
                    await reached
            except TimeoutError:
                return False
            finally:
                del self._futures[reached]
        return not self.is_released

    def wanted(self) -> list[Wanted]:
        """Return what the waits that have not been woken are for."""
        return [wanted for reached, wanted in self._futures.items() if not reached.done()]

    def wake(self, has_come: Callable[[Wanted], bool]) -> None:
        """End the waits for what has come."""
        for reached, wanted in self._futures.items():
            if not reached.done() and has_come(wanted):
                reached.set_result(None)

    def release(self) -> None:
        """End every wait, now and later, because the gateway is stopping."""
        self.is_released = True
        self.wake(lambda _: True)


class InFlight:
    """The requests that one gateway serves now."""

    def __init__(self, limits: InFlightLimits, registry: CollectorRegistry) -> None:
        self.limits = limits
        self.permits = Semaphore(limits.requests_max)
        self.working_count = 0
        self.waiting_count = 0
        self.waiting_by_client: Counter[str] = Counter()
        self.body_bytes = 0
        working = Gauge("refold_http_requests_working", "HTTP requests in work.", registry=registry)
        working.set_function(lambda: self.working_count)
        that_wait = Gauge("refold_http_requests_waiting", "HTTP requests that wait.", registry=registry)
        that_wait.set_function(lambda: self.waiting_count)

    async def serve(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request with a permit, or answer 503 when none comes free in time."""
        if scope["path"] in PROBES:
            await app(scope, receive, send)
            return
        request = _Request(self, scope, receive)
        if not self.permits.acquire_nowait():
            try:
                async with asyncio.timeout(REQUEST_QUEUE_SECONDS):
                    await self.permits.acquire()
            except TimeoutError:
                detail = (
                    f"{self.limits.requests_max} requests are in work, "
                    f"and none of them ended in {REQUEST_QUEUE_SECONDS} s"
                )
                await Problem(503, "busy", detail, headers=RETRY).response()(scope, receive, send)
                return
        request.start_work()
        token = _current.set(request)
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            if not request.is_abandoned:
                raise
            # The client is gone: the status is for the metrics only.
            await Response(status=499)(scope, receive, send)
        finally:
            _current.reset(token)
            request.end()


class _Request:
    """A request in flight; for the length of an `async with` block, it waits instead of working."""

    __slots__ = (
        *("_body_bytes", "_client", "_depth", "_in_flight", "_is_gone", "_is_reading", "_is_waiting"),
        *("_is_working", "_receive", "_waiter", "_watching", "is_abandoned"),
    )

    def __init__(self, in_flight: InFlight, scope: Scope, receive: Receive) -> None:
        client = scope.get("client")
        self._client: str = client[0] if client else ""
        self._in_flight = in_flight
        self._receive = receive
        self._is_reading = scope["method"] in ("GET", "HEAD")
        self._is_working = self._is_waiting = self._is_gone = self.is_abandoned = False
        self._depth = self._body_bytes = 0
        self._waiter: asyncio.Task[object] | None = None
        self._watching: asyncio.Task[None] | None = None

    def start_work(self) -> None:
        """Count as working; the permit is taken."""
        self._in_flight.working_count += 1
        self._is_working = True

    def end(self) -> None:
        self._end_work()
        self._waiter = None
        if self._watching is not None:
            self._watching.cancel()
            # The task's error refers to this request.
            self._watching = None
        self._in_flight.body_bytes -= self._body_bytes

    async def __aenter__(self) -> None:
        if self._is_working:
            self._refuse_crowd()
            self._in_flight.waiting_count += 1
            self._in_flight.waiting_by_client[self._client] += 1
            self._end_work()
            self._is_waiting = True
            if self._is_reading:
                self._watch(asyncio.current_task())
        self._depth += 1

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._depth -= 1
        if self._depth or not self._is_waiting:
            return
        self._is_waiting = False
        self._waiter = None
        in_flight, by_client = self._in_flight, self._in_flight.waiting_by_client
        in_flight.waiting_count -= 1
        by_client[self._client] -= 1
        if not by_client[self._client]:
            del by_client[self._client]
        if kind is None:
            await in_flight.permits.acquire()
            self.start_work()

    def hold_body(self, bytes_count: int) -> None:
        in_flight, added = self._in_flight, bytes_count - self._body_bytes
        bytes_max = in_flight.limits.bodies_bytes_max
        if added > 0 and in_flight.body_bytes + added > bytes_max:
            detail = f"request bodies that are being read take {bytes_max} bytes already"
            raise Problem(503, "busy", detail, headers=RETRY)
        in_flight.body_bytes += added
        self._body_bytes = bytes_count

    def _end_work(self) -> None:
        if self._is_working:
            self._is_working = False
            self._in_flight.working_count -= 1
            self._in_flight.permits.release()

    def _refuse_crowd(self) -> None:
        in_flight, limits = self._in_flight, self._in_flight.limits
        if in_flight.waiting_by_client[self._client] >= limits.waiting_per_client_max:
            detail = (
                f"{limits.waiting_per_client_max} requests of this client's address wait already "
                "(REFOLD_HTTP_WAITING_PER_CLIENT_MAX); let some end, or wait less long"
            )
            raise Problem(429, "too_many_waiting", detail, headers=RETRY)
        if in_flight.waiting_count >= limits.waiting_max:
            detail = f"{limits.waiting_max} requests wait already (REFOLD_HTTP_WAITING_MAX)"
            raise Problem(503, "busy", detail, headers=RETRY)

    def _watch(self, waiter: asyncio.Task[object] | None) -> None:
        """Cancel `waiter`, the request's task, if the client disconnects while it waits.

        One task watches for the whole request.
        """
        self._waiter = waiter
        if self._watching is None:
            self._watching = asyncio.create_task(self._wait_for_disconnect(), name="client disconnects")
        elif self._is_gone:
            self._abandon()

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._is_gone = True
        self._abandon()

    def _abandon(self) -> None:
        if self._waiter is not None:
            self.is_abandoned = True
            self._waiter.cancel()


_current: ContextVar[_Request | None] = ContextVar("request", default=None)
