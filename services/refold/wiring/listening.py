"""The socket on which a service listens, and a thread that answers on it while the event loop is blocked.

Used by `refold.wiring.http_server`. A connection that is open already gets no answer until the loop turns again: probes
open one each time.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import socket
import sys
import threading
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from time import monotonic
from types import FrameType
from typing import Final

from refold.gateway.responses import RETRY, Problem
from refold.gateway.tracing import new_request_id
from refold.telemetry.logging import get_logger
from refold.wiring.service import Listener

BACKLOG: Final = 1_024
"""Connections that the kernel keeps until they are accepted."""

UNSENT_SECONDS: Final = 60
"""A connection is closed if its peer takes nothing of what is sent to it for this long."""

TURN_SECONDS: Final = 0.5
"""How often the loop notes that it turns, and how often the thread looks."""

LOOKS_MAX: Final = 10
"""The loop is blocked when it has not turned for so many looks. They are counted, because the process itself may have
been stopped for a while."""

REQUEST_SECONDS: Final = 0.25
"""How long the thread waits for a request before it answers."""

CONNECTIONS_MAX: Final = 256
"""Connections on which the thread waits for a request; beyond that, the first of them is answered at once."""

REQUEST_BYTES_MAX: Final = 64 * 1024
FRAMES_LOGGED: Final = 10


def listening_socket(listener: Listener) -> socket.socket:
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


@asynccontextmanager
async def answering_while_blocked(listening: socket.socket) -> AsyncIterator[None]:
    """Within the block, answer all connections with 503 while the loop is blocked."""
    watchdog = _Watchdog(listening)
    turning = asyncio.create_task(watchdog.turn(), name="watchdog")
    watchdog.start()
    try:
        yield
    finally:
        turning.cancel()
        watchdog.stopped.set()
        await asyncio.to_thread(watchdog.join)


class _Watchdog(threading.Thread):
    """Watch the event loop of the thread that makes this. A loop that blocks with the GIL held blocks this as well."""

    def __init__(self, listening: socket.socket) -> None:
        super().__init__(name="watchdog", daemon=True)
        self.stopped = threading.Event()
        # One of its own: the loop may close the other at any time.
        self._socket = listening.dup()
        self._socket.setblocking(False)
        self._loop_thread = threading.get_ident()
        self._turns = 0

    async def turn(self) -> None:
        """Note turns of the loop until cancelled."""
        while True:
            self._turns += 1
            await asyncio.sleep(TURN_SECONDS)

    def run(self) -> None:
        """Look at the loop until stopped."""
        turns = looks = 0
        with self._socket:
            while not self.stopped.wait(TURN_SECONDS):
                seen, turns = turns, self._turns
                looks = looks + 1 if turns == seen else 0
                if looks >= LOOKS_MAX:
                    self._log()
                    self._answer(turns)
                    looks = 0

    def _answer(self, turns: int) -> None:
        """Answer what connects, all at the same time, until the loop turns."""
        # A connection, and when it is answered even without a request: the earliest first.
        waiting: dict[socket.socket, float] = {}
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            while turns == self._turns and not self.stopped.is_set():
                first = next(iter(waiting.values()), math.inf)
                found = selector.select(max(0.0, min(TURN_SECONDS, first - monotonic())))
                asking = {key.fileobj for key, _ in found}
                if self._socket in asking:
                    self._accept(selector, waiting)
                now, excess = monotonic(), len(waiting) - CONNECTIONS_MAX
                for number, (connection, until) in enumerate(list(waiting.items())):
                    if connection in asking or until <= now or number < excess:
                        selector.unregister(connection)
                        del waiting[connection]
                        _refuse(connection)
        for connection in waiting:
            _refuse(connection)

    def _accept(self, selector: selectors.BaseSelector, waiting: dict[socket.socket, float]) -> None:
        # A client may be gone again; without a free descriptor, this is tried again and again.
        with suppress(OSError):
            connection, _ = self._socket.accept()
            connection.setblocking(False)
            waiting[connection] = monotonic() + REQUEST_SECONDS
            selector.register(connection, selectors.EVENT_READ)

    def _log(self) -> None:
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - there is no other way to it.
        seconds = TURN_SECONDS * LOOKS_MAX
        get_logger().error("loop_blocked", seconds=seconds, frames=_frames(frame))


def _refuse(connection: socket.socket) -> None:
    """Answer a request of which the loop has read nothing, so that it can be sent again, and close the connection."""
    detail = f"the event loop of this process has not turned for {TURN_SECONDS * LOOKS_MAX:g} s"
    response = Problem(503, "loop_blocked", detail, headers=RETRY).response()
    headers = *response.raw_headers, new_request_id(), (b"connection", b"close")
    lines = [b"%b: %b\r\n" % header for header in headers]
    # The client may be gone, or may not read; the kernel has room for the answer otherwise.
    with connection, suppress(OSError):
        request = b""
        with suppress(BlockingIOError):
            # What is unread when a connection is closed makes the kernel drop the answer.
            request = connection.recv(REQUEST_BYTES_MAX)
        body = b"" if request.startswith(b"HEAD ") else response.body
        connection.sendall(b"".join([b"HTTP/1.1 503 \r\n", *lines, b"\r\n", body]))
        connection.shutdown(socket.SHUT_WR)


def _frames(frame: FrameType | None) -> list[str]:
    """Return where a thread is, the innermost frame last."""
    frames = traceback.extract_stack(frame, FRAMES_LOGGED) if frame is not None else []
    return [f"{each.filename}:{each.lineno} {each.name}" for each in frames]
