"""A gateway whose stores neither answer nor fail: it lives, says so, loses no write, and goes on when they return."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from refold.embedded.nats import NatsServer
from support.http import problem
from support.redis_servers import RedisServer, redis_binary, valkey_binary
from support.services import gateway, make_site, projector, until
from support.system import free_port


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that a test stops and continues."""
    binary, port = valkey_binary() or redis_binary(), free_port()
    if binary is None:
        pytest.skip("capability: the server is not installed")
    server = RedisServer(binary, tmp_path, "--port", str(port))
    server.url = f"redis://127.0.0.1:{port}"
    server.start()
    yield server
    server.kill()


@pytest.mark.parametrize(
    # One store is given up by its driver, several by the gateway.
    "queries",
    [["/0?command=0.2"], pytest.param(["/0", "/1"], marks=pytest.mark.slow)],
    ids=["one", "several"],
)
async def test_a_gateway_whose_stores_hang_answers_loses_no_write_and_goes_on(
    queries: list[str], fresh_nats: NatsServer, redis: RedisServer
) -> None:
    site = await make_site(fresh_nats, "")
    stores = " ".join(redis.url + query for query in queries)
    async with AsyncExitStack() as services:
        start = services.enter_async_context
        folding = [
            await start(projector(site, stores=stores, projector_store=name))
            for name in ("redis", "redis-2")[: len(queries)]
        ]
        running = await start(gateway(site, stores=stores))
        ask = running.client
        assert (await ask.put("/v1/n/d", json=1, headers={"Refold-Wait": "committed"})).status_code == 201
        for process in folding:
            process.send_signal(signal.SIGSTOP)
        redis.hang()
        waiting = asyncio.create_task(ask.get("/v1/n/d?min_sequence=3&timeout=1"))
        sent = await ask.put("/v1/n/d", json=2, headers={"Refold-Wait": "0.5"})
        assert (sent.status_code, sent.json()["status"]) == (202, "pending")
        problem(await ask.get("/v1/n/other"), 503, "store_unavailable")
        problem(await waiting, 504, "timed_out")
        assert not await running.is_ready()
        redis.go_on()
        for process in folding:
            process.send_signal(signal.SIGCONT)
        await until(running.is_ready)
        assert (await ask.get("/v1/n/d?min_sequence=3")).json() == 2
