"""Serve an ASGI application over HTTP/1.1, in the event loop of its process, until it is asked to stop.

The services' server: bounds on connections and time, a graceful end. Used by the compositions of gateway and projector.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import sys
from email.utils import formatdate
from typing import Final

from refold.gateway import IDLE_SECONDS
from refold.telemetry.logging import get_logger
from refold.wiring.http_connection import Connection
from refold.wiring.http_exchange import Application, Exchange
from refold.wiring.service import Listener

BACKLOG: Final = 1_024
"""Connections that the kernel keeps until they are accepted."""

CONNECTIONS_MAX: Final = 32_768
"""Connections of one service, within its limit of open files; one more is answered 503.

One Linux host opens 28,232 to one port unless configured otherwise.
"""

FILES_RESERVED: Final = 256
"""Descriptors that connections leave to the database, the broker, files and libraries."""

UNSENT_SECONDS: Final = 60
"""A connection is closed if its peer takes nothing of what is sent to it for this long."""

STOP_SECONDS: Final = 20.0
"""Requests that have not ended this long after the stop signal are abandoned."""

TICK_SECONDS: Final = 1.0
"""How often idle connections are looked for, and the `Date` header is made."""


async def serve(
    app: Application,
    listener: Listener,
    *,
    name: str,
    stop: asyncio.Event,
    idle_seconds: float = IDLE_SECONDS,
) -> None:
    """Serve until `stop` is set, then let the requests in flight end."""
    server = Server(app, idle_seconds)
    listening = await asyncio.get_running_loop().create_server(
        lambda: Connection(server), sock=_listening_socket(listener), backlog=BACKLOG
    )
    get_logger().info(f"{name}_listening", host=listener.host, port=listener.port)
    ticking = asyncio.create_task(server.tick(), name="http-tick")
    try:
        await stop.wait()
    finally:
        listening.close()
        await server.end()
        ticking.cancel()


class Server:
    """The connections of one service, and the exchanges that its application serves now."""

    def __init__(self, app: Application, idle_seconds: float) -> None:
        self.idle_seconds = idle_seconds
        self.connections: set[Connection] = set()
        self.is_stopping = False
        self.date_line = _date_line()
        self._all_closed = asyncio.Event()
        self._app = app
        self._connections_max = connections_max()
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, exchange: Exchange) -> None:
        """Run the application for an exchange."""
        task = self._loop.create_task(exchange.run(self._app))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def tick(self) -> None:
        """Close idle connections, and keep the date."""
        seconds = min(TICK_SECONDS, self.idle_seconds / 4)
        while True:
            await asyncio.sleep(seconds)
            self.date_line = _date_line()
            now = self._loop.time()
            for connection in [each for each in self.connections if each.closes_at <= now]:
                connection.close()

    def add(self, connection: Connection) -> bool:
        """Count a connection; False where there are too many."""
        self.connections.add(connection)
        return len(self.connections) <= self._connections_max

    def remove(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self.connections.discard(connection)
        if self.is_stopping and not self.connections:
            self._all_closed.set()

    async def end(self) -> None:
        """Close idle connections; wait until the others are served, then abandon them."""
        self.is_stopping = True
        for connection in list(self.connections):
            connection.stop()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                if self.connections:
                    await self._all_closed.wait()
                if self._tasks:
                    await asyncio.wait(self._tasks)
        except TimeoutError:
            get_logger().warning("requests_abandoned", seconds=STOP_SECONDS)
            for connection in list(self.connections):
                connection.abort()
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def connections_max() -> int:
    """Raise the limit of open files as far as needed and allowed; return how many connections fit in."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = CONNECTIONS_MAX + FILES_RESERVED
    files = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return files - min(FILES_RESERVED, files // 2)


def _date_line() -> bytes:
    return f"date: {formatdate(usegmt=True)}\r\n".encode()


def _listening_socket(listener: Listener) -> socket.socket:
    """Return a socket whose connections are closed if their peer is gone or takes nothing."""
    family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
    address, is_dual = (listener.host, listener.port), listener.host == "::" and socket.has_dualstack_ipv6()
    made = socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=is_dual)
    # Accepted connections inherit these.
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, UNSENT_SECONDS)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNSENT_SECONDS * 1_000)
    return made
