"""An author on NATS, who needs no password, cannot disturb other clients."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from support.broker import WAIT_SECONDS
from support.http import Api
from support.system import System

LISTENERS = 6
CONNECTIONS = 128


@asynccontextmanager
async def author(system: System, frames: bytes = b"") -> AsyncIterator[bytes]:
    """Connect as an author that sends frames and reads nothing more; yields how the server answered."""
    reader, writer = await asyncio.open_connection(system.nats.host, system.nats.port, limit=4096)
    try:
        writer.write(b'CONNECT {"verbose":false,"pedantic":false}\r\n' + frames + b"PING\r\n")
        async with asyncio.timeout(WAIT_SECONDS):
            while (line := await reader.readline()) and not line.startswith((b"PONG", b"-ERR")):
                pass
        yield line
    finally:
        writer.close()


async def test_only_a_subscriber_that_does_not_read_is_disconnected(api: Api, system: System) -> None:
    log = system.nats.child.command.logs[1]
    started_at = log.stat().st_size
    events = [{"doc": f"d{number % 100}", "put": "x" * 4_000} for number in range(6_000)]
    async with AsyncExitStack() as listening:
        subscribe = f"SUB change.{api.namespace}.> 1\r\n".encode()
        for _ in range(LISTENERS):
            await listening.enter_async_context(author(system, subscribe))
        answers = await api.append(events, Refold_Wait="60")
    assert {answer["status"] for answer in answers} == {"applied"}
    cut = re.findall(rb"Slow Consumer.*", log.read_bytes()[started_at:])
    assert len(cut) == LISTENERS
    assert all(b"MaxPending of 8388608 Exceeded" in line for line in cut), cut


async def test_authors_that_open_all_connections_disconnect_no_service(api: Api, system: System) -> None:
    async with AsyncExitStack() as connected:
        for _ in range(CONNECTIONS):
            answer = await connected.enter_async_context(author(system))
        assert b"maximum connections exceeded" in answer
        assert (await api.put("d", 1)).status_code == 201
    async with asyncio.timeout(WAIT_SECONDS):
        while answer.startswith(b"-ERR"):
            async with author(system) as answer:
                pass
