"""Bound the requests in flight: those in work, and those that wait, by client and in all.

A request in work holds one of `requests_max` permits. While it waits (for the projection, for its outcome, for its own
body) it returns the permit and counts as waiting, so that any number of slow requests leaves room for fast ones.
Connections are bounded by the server (`refold.wiring.service`); probes are never counted.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Self

from prometheus_client import CollectorRegistry, Gauge
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from refold.gateway.limits import (
    BODIES_BYTES_MAX,
    BODY_SECONDS,
    REQUEST_QUEUE_SECONDS,
    REQUESTS_MAX,
    WAITING_MAX,
    WAITING_PER_CLIENT_MAX,
)
from refold.gateway.responses import RETRY, Problem

PROBES: Final = frozenset({"/healthz", "/readyz", "/metrics"})


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlightLimits:
    """How many requests may be in work or wait, and how long one may be silent in the middle of its body."""

    requests_max: int = REQUESTS_MAX
    waiting_max: int = WAITING_MAX
    waiting_per_client_max: int = WAITING_PER_CLIENT_MAX
    body_seconds: float = BODY_SECONDS
    bodies_bytes_max: int = BODIES_BYTES_MAX


class Crowded(Problem):
    """Too many requests wait already; this one was not started."""


class InFlight:
    """The requests that one gateway serves now."""

    def __init__(self, limits: InFlightLimits, registry: CollectorRegistry) -> None:
        """Begin with none, and register gauges of both kinds."""
        self.limits = limits
        self.waiting_count = 0
        self._permits = asyncio.Semaphore(limits.requests_max)
        self._working_count = 0
        self._waiting: Counter[str] = Counter()
        self._body_bytes = 0
        working = Gauge("refold_http_requests_working", "HTTP requests in work.", registry=registry)
        working.set_function(lambda: self._working_count)
        waiting_ = Gauge("refold_http_requests_waiting", "HTTP requests that wait.", registry=registry)
        waiting_.set_function(lambda: self.waiting_count)

    async def start_work(self) -> None:
        """Take a permit, in the order of arrival."""
        await self._permits.acquire()
        self._working_count += 1

    async def start_work_soon(self) -> bool:
        """Take a permit; False where none comes free in time."""
        if not self._permits.locked():
            await self.start_work()
            return True
        try:
            async with asyncio.timeout(REQUEST_QUEUE_SECONDS):
                await self.start_work()
        except TimeoutError:
            return False
        return True

    def busy(self) -> Problem:
        """Say that all permits are taken."""
        detail = f"{self.limits.requests_max} requests are in work, and none of them ended in {REQUEST_QUEUE_SECONDS} s"
        return Problem(503, "busy", detail, headers=RETRY)

    def end_work(self) -> None:
        """Return the permit."""
        self._working_count -= 1
        self._permits.release()

    def start_waiting(self, client: str) -> None:
        """Count a waiting request. Raises `Crowded`."""
        self._check_room(client)
        self.waiting_count += 1
        self._waiting[client] += 1

    def end_waiting(self, client: str) -> None:
        """Count it no more."""
        self.waiting_count -= 1
        self._waiting[client] -= 1
        if not self._waiting[client]:
            del self._waiting[client]

    def hold_body(self, bytes_count: int) -> None:
        """Count bytes of bodies that are being read. Raises `Crowded`."""
        if bytes_count > 0 and self._body_bytes + bytes_count > self.limits.bodies_bytes_max:
            detail = f"request bodies that are being read take {self.limits.bodies_bytes_max} bytes already"
            raise Crowded(503, "busy", detail, headers=RETRY)
        self._body_bytes += bytes_count

    def release_body(self, bytes_count: int) -> None:
        """Count them no more."""
        self._body_bytes -= bytes_count

    def _check_room(self, client: str) -> None:
        limits = self.limits
        if self._waiting[client] >= limits.waiting_per_client_max:
            detail = (
                f"{limits.waiting_per_client_max} requests of this client's address wait already "
                "(REFOLD_HTTP_WAITING_PER_CLIENT_MAX); let some end, or wait less long"
            )
            raise Crowded(429, "too_many_waiting", detail, headers=RETRY)
        if self.waiting_count >= limits.waiting_max:
            detail = f"{limits.waiting_max} requests wait already (REFOLD_HTTP_WAITING_MAX)"
            raise Crowded(503, "busy", detail, headers=RETRY)


class Counted:
    """An ASGI application that gives each request of another a permit."""

    def __init__(self, app: ASGIApp, in_flight: InFlight) -> None:
        """Count in `in_flight`."""
        self._app = app
        self._in_flight = in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, or answer 503 when no permit comes free in time."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        if not await self._in_flight.start_work_soon():
            await self._in_flight.busy().response()(scope, receive, send)
            return
        request = _Request(self._in_flight, scope, receive)
        token = _current.set(request)
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not request.is_abandoned:
                raise
            # The client is gone: the status is for the metrics only.
            await Response(status_code=499)(scope, receive, send)
        finally:
            _current.reset(token)
            request.end()
            if request.is_working:
                self._in_flight.end_work()


def waiting() -> _Waiting:
    """Count the current request as waiting instead of working, for the length of an `async with` block.

    Nested blocks count once. A block that ends in an error does not take a permit again: only an answer is left to do.

    Raises:
        Crowded: On entry, when too many wait already, of this client or in all.
    """
    return _Waiting()


def waiting_count() -> int:
    """Return how many requests wait now, the current one included."""
    request = _current.get()
    return 0 if request is None else request.in_flight.waiting_count


def body_seconds() -> float:
    """Return how long the current request's client may be silent in the middle of its body."""
    request = _current.get()
    return BODY_SECONDS if request is None else request.in_flight.limits.body_seconds


class BodyInMemory:
    """The bytes kept of a body while it is read; they count until the block ends."""

    __slots__ = ("_bytes", "_in_flight")

    def __init__(self) -> None:
        """Begin with none, for the current request."""
        request = _current.get()
        self._in_flight = None if request is None else request.in_flight
        self._bytes = 0

    def keep(self, bytes_count: int) -> None:
        """Count so many bytes from now on. Raises `Crowded` if all bodies together take too much."""
        if self._in_flight is not None:
            self._in_flight.hold_body(bytes_count - self._bytes)
            self._bytes = bytes_count

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Count them no more."""
        if self._in_flight is not None:
            self._in_flight.release_body(self._bytes)


class _Waiting:
    __slots__ = ("_request",)

    def __init__(self) -> None:
        self._request: _Request | None = None

    async def __aenter__(self) -> None:
        request = _current.get()
        if request is None or not request.is_working:
            return
        request.in_flight.start_waiting(request.client)
        request.is_working = False
        request.in_flight.end_work()
        self._request = request
        if request.is_reading:
            request.start_watching(asyncio.current_task())

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        request = self._request
        if request is None:
            return
        request.waiter = None
        request.in_flight.end_waiting(request.client)
        if kind is None:
            await request.in_flight.start_work()
            request.is_working = True


class _Request:
    """A request in flight: in work, or waiting."""

    __slots__ = (
        *("_is_gone", "_receive", "_watching", "client", "in_flight"),
        *("is_abandoned", "is_reading", "is_working", "waiter"),
    )

    def __init__(self, in_flight: InFlight, scope: Scope, receive: Receive) -> None:
        client = scope.get("client")
        self.in_flight = in_flight
        self.client = client[0] if client else ""
        self.is_reading = scope["method"] in ("GET", "HEAD")
        self.is_working = True
        self.is_abandoned = False
        self.waiter: asyncio.Task[None] | None = None
        self._is_gone = False
        self._receive = receive
        self._watching: asyncio.Task[None] | None = None

    def start_watching(self, waiter: asyncio.Task[None] | None) -> None:
        """Cancel `waiter`, the request's task, if the client disconnects while it waits.

        One task watches for the whole request: granian reports a disconnect after a `receive` was cancelled.
        """
        self.waiter = waiter
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="client disconnects")
        elif self._is_gone:
            self._abandon()

    def end(self) -> None:
        """Stop watching."""
        self.waiter = None
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._is_gone = True
        self._abandon()

    def _abandon(self) -> None:
        if self.waiter is not None:
            self.is_abandoned = True
            self.waiter.cancel()


_current: ContextVar[_Request | None] = ContextVar("request", default=None)
