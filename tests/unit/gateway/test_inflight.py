from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress

import pytest
from prometheus_client import CollectorRegistry
from starlette.types import Message, Receive, Scope, Send

from refold.gateway import inflight
from refold.gateway.inflight import InFlight, InFlightLimits, Waiters, deadline_in, hold_body, waiting
from refold.gateway.responses import Problem


class Held:
    """An application whose requests work or wait until they are released."""

    def __init__(self, limits: InFlightLimits) -> None:
        self.released = asyncio.Event()
        self.started_at: list[str] = []
        self._changed = asyncio.Condition()
        self.in_flight = InFlight(limits, CollectorRegistry())

    async def _serve(self, scope: Scope, _: Receive, send: Send) -> None:
        async with self._changed:
            self.started_at.append(scope["path"])
            self._changed.notify_all()
        if scope["path"] == "/waits":
            async with waiting():
                await self.released.wait()
        elif scope["path"] == "/works":
            await self.released.wait()
        elif scope["path"].startswith("/body/"):
            hold_body(int(scope["path"].removeprefix("/body/")))
            await self.released.wait()
            hold_body(0)
        await send({"type": "http.response.start", "status": 200})

    async def begins(self, count: int) -> None:
        """Wait until `count` requests have started."""
        async with self._changed, asyncio.timeout(10):
            await self._changed.wait_for(lambda: len(self.started_at) >= count)

    async def ask(self, path: str, client: str = "10.0.0.1") -> int:
        """Send a request; return the status."""
        statuses: list[int] = []

        async def send(message: Message) -> None:
            statuses.extend([message["status"]] if "status" in message else [])

        scope = {"type": "http", "method": "PUT", "path": path, "client": (client, 1)}
        await self.in_flight.serve(self._serve, scope, asyncio.Event().wait, send)  # type: ignore[arg-type]  # It is not received from.
        return statuses[0]


async def started_at(held: Held, *paths: str) -> list[asyncio.Task[int]]:
    """Send these requests, and wait until the application has started them."""
    tasks = [asyncio.create_task(held.ask(path)) for path in paths]
    await held.begins(len(paths))
    return tasks


async def test_while_all_permits_are_taken_others_wait_and_probes_do_not() -> None:
    held = Held(InFlightLimits(requests_max=2))
    working = await started_at(held, "/works", "/works")
    queued = asyncio.create_task(held.ask("/other"))
    assert [await held.ask(path) for path in ("/healthz", "/readyz", "/metrics")] == [200, 200, 200]
    assert not queued.done()
    held.released.set()
    assert await asyncio.gather(*working, queued) == [200, 200, 200]


async def test_a_request_that_gets_no_permit_in_time_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflight, "REQUEST_QUEUE_SECONDS", 0.01)
    held = Held(InFlightLimits(requests_max=1))
    working = await started_at(held, "/works")
    assert await held.ask("/other") == 503
    held.released.set()
    assert await asyncio.gather(*working) == [200]
    assert await held.ask("/other") == 200


async def test_a_request_that_waits_leaves_its_permit_to_others() -> None:
    held = Held(InFlightLimits(requests_max=1))
    waiters = await started_at(held, "/waits", "/waits", "/waits")
    assert await held.ask("/other") == 200
    held.released.set()
    assert await asyncio.gather(*waiters) == [200, 200, 200]


async def test_waiting_requests_are_bounded_per_client() -> None:
    held = Held(InFlightLimits(waiting_per_client_max=2, waiting_max=3))
    waiters = await started_at(held, "/waits", "/waits")
    with pytest.raises(Problem) as refused:
        await held.ask("/waits")
    assert refused.value.status == 429
    waiters.append(asyncio.create_task(held.ask("/waits", "10.0.0.2")))
    await held.begins(4)
    with pytest.raises(Problem) as refused:
        await held.ask("/waits", "10.0.0.3")
    assert refused.value.status == 503
    held.released.set()
    assert await asyncio.gather(*waiters) == [200, 200, 200]


async def test_a_request_cancelled_while_waiting_releases_everything() -> None:
    held = Held(InFlightLimits(requests_max=1, waiting_max=1))
    (waiter,) = await started_at(held, "/waits")
    waiter.cancel()
    with suppress(asyncio.CancelledError):
        await waiter
    held.released.set()
    assert await held.ask("/waits") == 200
    assert await held.ask("/works") == 200


async def test_a_request_whose_wait_times_out_takes_a_permit_again() -> None:
    in_flight = InFlight(InFlightLimits(), CollectorRegistry())
    counts: list[tuple[int, int]] = []

    async def serve(_: Scope, __: Receive, send: Send) -> None:
        assert not await Waiters[int]().wait(1, deadline_in(0.01))
        counts.append((in_flight.working_count, in_flight.waiting_count))
        await send({"type": "http.response.start", "status": 200})

    async def send(_: Message) -> None:
        pass

    scope = {"type": "http", "method": "PUT", "path": "/waits"}
    await in_flight.serve(serve, scope, asyncio.Event().wait, send)  # type: ignore[arg-type]
    counts.append((in_flight.working_count, in_flight.waiting_count))
    assert counts == [(1, 0), (0, 0)]


async def test_bodies_in_memory_are_bounded_in_total() -> None:
    held = Held(InFlightLimits(bodies_bytes_max=10))
    reading = await started_at(held, "/body/6")
    with pytest.raises(Problem) as refused:
        await held.ask("/body/5")
    assert refused.value.status == 503
    reading += [asyncio.create_task(held.ask("/body/4"))]
    await held.begins(3)
    held.released.set()
    assert await asyncio.gather(*reading) == [200, 200]
    assert await held.ask("/body/10") == 200


async def test_a_cancelled_request_releases_its_body() -> None:
    held = Held(InFlightLimits(bodies_bytes_max=10))
    (reading,) = await started_at(held, "/body/10")
    reading.cancel()
    with suppress(asyncio.CancelledError):
        await reading
    held.released.set()
    assert await held.ask("/body/10") == 200


class Leaving:
    """A server's `receive` that reports a disconnect once `is_gone` is set."""

    def __init__(self) -> None:
        self.is_gone = asyncio.Event()

    async def __call__(self) -> Message:
        await self.is_gone.wait()
        return {"type": "http.disconnect"}


async def read_that_waits(receive: Leaving, *blocks: Awaitable[object]) -> int:
    """Serve a read that waits once per block; return its status."""
    statuses: list[int] = []

    async def serve(_: Scope, __: Receive, send: Send) -> None:
        for block in blocks:
            async with waiting():
                await block
        await send({"type": "http.response.start", "status": 200})

    async def send(message: Message) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    scope = {"type": "http", "method": "GET", "path": "/waits", "client": ("10.0.0.1", 1)}
    await InFlight(InFlightLimits(), CollectorRegistry()).serve(serve, scope, receive, send)
    return statuses[0]


async def test_a_read_that_waits_twice_is_not_treated_as_abandoned() -> None:
    assert await read_that_waits(Leaving(), asyncio.sleep(0.01), asyncio.sleep(0.01)) == 200


@pytest.mark.parametrize("blocks_before", [0, 1])
async def test_a_read_ends_when_its_client_leaves_while_it_waits(blocks_before: int) -> None:
    receive, never = Leaving(), asyncio.Event()

    async def leave() -> None:
        receive.is_gone.set()
        await never.wait()

    async with asyncio.timeout(10):
        before = [asyncio.sleep(0) for _ in range(blocks_before)]
        assert await read_that_waits(receive, *before, leave()) == 499
