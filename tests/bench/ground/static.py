"""A static answer by the server that the gateway runs on: what HTTP alone costs. A task for `bench.worker`.

Used where reads over HTTP are measured.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from bench.processes import Worker
from bench.signals import Signals
from refold.embedded.process import choose_port
from refold.wiring.http_server import serve
from refold.wiring.service import Listener

HOST: Final = "127.0.0.1"
LOOK_SECONDS: Final = 0.02
START_SECONDS: Final = 20


async def serve_static(signals: Signals, *, port: int, size: int) -> None:
    """Answer everything with the same bytes until `stop`."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % size)]
    body = b'"%b"' % (b"x" * (size - 2))

    async def app(scope: dict[str, Any], _: Any, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    await signals.until_go()
    await serve(app, Listener(HOST, port), stop=signals.stop)


@asynccontextmanager
async def static_server(size: int) -> AsyncIterator[str]:
    """Run it in a process of its own; yield its address."""
    port = choose_port(HOST, 0)
    async with await Worker.start(serve_static, port=port, size=size) as worker:
        await worker.ready()
        worker.go()
        async with asyncio.timeout(START_SECONDS):
            await _until_listens(port)
        yield f"http://{HOST}:{port}"
        worker.stop()
        await worker.ended()


async def _until_listens(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection(HOST, port)
        except OSError:
            await asyncio.sleep(LOOK_SECONDS)
        else:
            writer.close()
            return
