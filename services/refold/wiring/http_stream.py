"""Stream the body of a response without a task: its chunks are written at once, with the connection's flow control.

ASGI's `send` costs a wake-up of a task and its framing for each receiver (16.8 instead of 10 µs). The extension
`refold.stream` of `refold.wiring.http_server` hands out a `ResponseStream` instead; `refold.gateway.live` uses it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

SEND_BUFFER_BYTES: Final = 128 * 1024
"""What the kernel keeps for a client that does not read; it doubles the figure, for its own overhead."""

END: Final = b"0\r\n\r\n"
"""The chunk that ends a body."""


def _ignore() -> None: ...


class ResponseStream:
    """The body of a response, which ends with its connection.

    Chunks come framed for HTTP/1.1, so that many receivers share their bytes; for HTTP/1.0 the frame is taken off.

    Attributes:
        is_paused: Whether the kernel has not taken all that is written; more is kept in memory meanwhile.
        is_closed: Whether the connection has ended or is ending; what is written then is dropped.
        on_resume: Called when the kernel has taken everything.
        on_close: Called once, when the connection has ended; not after `end`.
    """

    __slots__ = ("_is_chunked", "_transport", "is_closed", "is_paused", "on_close", "on_resume")

    def __init__(self, transport: asyncio.Transport, *, is_chunked: bool) -> None:
        self._transport = transport
        self._is_chunked = is_chunked
        self.is_paused = False
        self.is_closed = transport.is_closing()
        self.on_resume: Callable[[], None] = _ignore
        self.on_close: Callable[[], None] = _ignore

    def write(self, *chunks: bytes) -> None:
        """Write chunks by one system call, and keep what the kernel does not take."""
        if self.is_closed:
            return
        self._transport.writelines(chunks if self._is_chunked else map(_unframed, chunks))

    def end(self) -> None:
        """End the response, and close the connection when its client has taken everything."""
        if self.is_closed:
            return
        self.is_closed = True
        self.on_resume = self.on_close = _ignore
        if self._is_chunked:
            self._transport.write(END)
        self._transport.close()

    def begin(self, head: bytes) -> None:
        """Write the head; from here on, flow control pauses as soon as the kernel does not take everything."""
        if self.is_closed:
            return
        made: socket.socket = self._transport.get_extra_info("socket")
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._transport.set_write_buffer_limits(0)
        self._transport.write(head)

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False
        self.on_resume()

    def stop(self) -> None:
        """End the response because the server stops, without waiting for a client that does not read."""
        if self.is_paused:
            self._transport.abort()
        else:
            self.end()

    def lose(self) -> None:
        """The connection has ended."""
        on_close, self.on_resume, self.on_close = self.on_close, _ignore, _ignore
        self.is_closed = True
        on_close()


def _unframed(chunk: bytes) -> bytes:
    return chunk[chunk.index(b"\n") + 1 : -2]
