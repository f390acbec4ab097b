"""Serves an ASGI application on granian inside this process, until it is told to stop.

Used by the compositions of the gateway and the projector.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import sys
from typing import Any, Final

from granian._granian import ListenerSpec
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from refold.core.errors import PortTaken
from refold.core.limits import SERVING_STOP_SECONDS
from refold.gateway.limits import IDLE_SECONDS
from refold.telemetry.logging import get_logger

BACKLOG: Final = 1_024
"""Connections that the kernel keeps until they are accepted."""

CONNECTIONS_MAX: Final = 32_768
"""Connections of one service, within its limit of open files; more wait until one ends.

One Linux host opens 28,232 to one port unless configured otherwise. Measured: 2 KiB each while silent, 13 KiB after a
request.
"""

FILES_RESERVED: Final = 256
"""Descriptors that connections leave to the database, the broker, files and libraries."""

UNSENT_SECONDS: Final = 60
"""A connection whose peer takes nothing of what is sent to it for so long is closed."""


class _Server(Server):
    """Granian, on a socket whose connections notice a peer that is gone or takes nothing."""

    def _init_shared_socket(self) -> None:
        # Elsewhere than on Linux granian does the same; there it makes the socket as it listens, out of reach.
        holder = ListenerSpec(self.bind_addr, self.bind_port, self.backlog).build()
        self._ssp, self._shd = None, holder  # type: ignore[assignment]  # Granian does not say what they hold.
        with socket.socket(fileno=os.dup(holder.get_fd())) as listening:
            # Accepted connections inherit these.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if sys.platform == "linux":
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, UNSENT_SECONDS)
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNSENT_SECONDS * 1_000)


def stop_on_signals() -> asyncio.Event:
    """Return an event that SIGINT and SIGTERM set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop


def chosen_port(host: str, port: int) -> int:
    """Return the port, a free one for 0. Raises `PortTaken`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortTaken(host=host, port=port) from error
        return int(probe.getsockname()[1])


def connections_max() -> int:
    """Raise the limit of open files to what is needed, or as far as it goes; return how many connections fit in."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = CONNECTIONS_MAX + FILES_RESERVED
    files = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return files - min(FILES_RESERVED, files // 2)


async def serve(
    app: Any, *, host: str, port: int, stop: asyncio.Event, idle_seconds: float = IDLE_SECONDS
) -> None:
    """Serve until `stop` is set, then let requests end and the application shut down."""
    # Granian's own signal handling is its process manager's; here the caller decides when to stop.
    server = _Server(
        app,
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        # In automatic mode, granian waits without end for the first bytes of a connection (seen with 2.8.9).
        http=HTTPModes.http1,
        # Hyper counts from the connection's start, and from each answer on: headers and idleness in one.
        http1_settings=HTTP1Settings(header_read_timeout=round(idle_seconds * 1_000)),
        backlog=BACKLOG,
        # A permit is held by a connection, not by a request.
        backpressure=connections_max(),
        log_enabled=False,
    )
    serving = asyncio.create_task(server.serve(), name="granian")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    server.stop()  # type: ignore[no-untyped-call]  # Granian does not say.
    stopping.cancel()
    try:
        await asyncio.wait_for(serving, SERVING_STOP_SECONDS)
    except TimeoutError:
        get_logger().warning("requests_abandoned", seconds=SERVING_STOP_SECONDS)
