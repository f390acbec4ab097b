"""Serves an ASGI application on granian inside this process, until it is told to stop.

Used by the compositions of the gateway and the projector.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from typing import Any

from granian.constants import Interfaces
from granian.server.embed import Server

from refold.core.errors import PortTaken
from refold.core.limits import REQUESTS_MAX, SERVING_STOP_SECONDS
from refold.telemetry.logging import get_logger


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


async def serve(app: Any, *, host: str, port: int, stop: asyncio.Event) -> None:
    """Serve until `stop` is set, then let requests end and the application shut down."""
    # Granian's own signal handling is its process manager's; here the caller decides when to stop.
    server = Server(
        app,
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        backlog=REQUESTS_MAX,
        backpressure=REQUESTS_MAX,
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
