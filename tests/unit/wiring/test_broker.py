"""The limit of the log, as NATS' monitoring says it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from refold.wiring import broker
from refold.wiring.broker import watching_storage_limit


async def test_an_answer_that_is_not_of_the_monitoring_does_not_end_the_watch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broker, "LIMIT_SECONDS", 0.001)
    bodies = [b"[]", b'"x"', b"{}", b'{"config":[]}', b'{"config":{"max_storage":"7"}}', b"<html>"]
    limits: asyncio.Queue[int] = asyncio.Queue()

    class Log:
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if value is not None:
                limits.put_nowait(value)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = bodies.pop(0) if bodies else b'{"config":{"max_storage":7}}'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    log: Any = Log()
    log.server_limit_bytes = None
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with watching_storage_limit(log, f"http://127.0.0.1:{port}"):
            assert await asyncio.wait_for(limits.get(), 10) == 7
    assert not bodies
