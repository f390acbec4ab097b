"""Writing the same bytes to many sockets by a bare uvloop: what fan-out costs at least. A task for `bench.worker`."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final, cast

from bench.signals import Signals

BACKLOG: Final = 1_024
HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PAUSE_SECONDS: Final = 1.0
"""Between `go` and the first change."""


async def write_to_all(
    signals: Signals, *, port: int, frame_bytes: int, changes: int, interval_seconds: float
) -> dict[str, Any]:
    """Answer each connection with an event; after `go`, write each change to all, and return when each began.

    It serves until `stop`.
    """
    transports: list[asyncio.Transport] = []

    class Connection(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self._transport = cast(asyncio.Transport, transport)

        def data_received(self, _: bytes) -> None:
            self._transport.write(HEAD + event_of(0, frame_bytes))
            transports.append(self._transport)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", port, backlog=BACKLOG)
    begun: list[float] = []
    async with server:
        await signals.until_go()
        first = time.perf_counter() + PAUSE_SECONDS
        for number in range(changes):
            await asyncio.sleep(first + number * interval_seconds - time.perf_counter())
            event = event_of(number + 1, frame_bytes)
            begun.append(time.perf_counter())
            for transport in transports:
                transport.write(event)
        await signals.stop.wait()
        for transport in transports:
            transport.abort()
    return {"begun": begun, "connections": len(transports)}


def event_of(version: int, frame_bytes: int) -> bytes:
    """Return an event that looks like one of a live stream, of a size."""
    event = b'event: change\ndata: {"pad":"%b","version":%d}\n\n'
    size = frame_bytes - len(event) - len(b"100\r\n\r\n")
    event %= b"x" * max(0, size), version
    return b"%x\r\n%b\r\n" % (len(event), event)
