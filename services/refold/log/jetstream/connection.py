"""One connection to one NATS server: nats-py connects and logs in, then `Connection` takes its socket over.

Used by `refold.log.jetstream.client`, which reconnects. nats-py knows the servers, also those that a cluster announces,
negotiates TLS and authenticates. It does not read messages: it decodes subjects (any client can make them invalid), its
callbacks cost more than the fold, and it closes itself where this client must reconnect.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

import orjson
import structlog
from nats.aio.client import Client as NatsClient
from nats.aio.transport import TcpTransport

from refold.core.errors import Refused
from refold.log.jetstream.protocol import Parser, Subscription

ATTEMPT_SECONDS: Final = 2
"""Each step of connecting to one server fails after this."""
CLOSE_SECONDS: Final = 5.0
"""Bytes that are still unsent this long after `close` are dropped."""
UNSENT_BYTES_MAX: Final = 4 * 1024 * 1024
"""`wait_writable` waits while more than this is unsent."""
PING_SECONDS: Final = 5.0
PINGS_UNANSWERED_MAX: Final = 2
"""A server that leaves so many pings unanswered is considered lost."""

# The private names of nats-py that are used here. pyproject.toml pins its version for them.
_STREAMS: Final = ("_io_reader", "_io_writer")
_TASKS: Final = ("_reading_task", "_ping_interval_task", "_flusher_task")
_NAMES: Final = {*_STREAMS, *_TASKS, "_current_server", "_process_info", "_server_pool", "_transport"}
_missing = _NAMES.difference(dir(NatsClient()), dir(TcpTransport()))  # type: ignore[no-untyped-call]
if _missing:
    raise ImportError(f"this version of nats-py lacks {', '.join(sorted(_missing))}: install the pinned one")

_log = structlog.get_logger()


def credentials_of(addresses: list[str]) -> tuple[str | None, str | None]:
    """Return user and password of the first address that has them; a token is a user without a password."""
    for address in addresses:
        parts = urlsplit(address)
        if parts.username is not None:
            return unquote(parts.username), None if parts.password is None else unquote(parts.password)
    return None, None


class Dialer(NatsClient):
    """Connect to one server after the other with nats-py, each time to the one that was tried least recently."""

    def __init__(self, url: str, name: str) -> None:
        """Use addresses that are separated by commas. Raises `Refused`: `bad_address`."""
        super().__init__()
        self.connection_name = name
        self.info: dict[str, Any] = {}
        addresses = url.split(",")
        user, password = credentials_of(addresses)
        login = {"token": user} if password is None else {"user": user, "password": password}
        self._login: dict[str, Any] = {"name": name, **login}
        random.shuffle(addresses)
        self.set_server_pool([_without_user(address) for address in addresses])

    async def dial(self, protocol: asyncio.Protocol) -> None:
        """Connect to the next server, log in, and hand the socket over to `protocol`. Raises `OSError`."""
        try:
            if self.info:
                # The cluster may have announced servers since the last login.
                await self._process_info(self.info)
            await self.connect(
                [],
                error_cb=_raise,
                dont_randomize=True,
                connect_timeout=ATTEMPT_SECONDS,
                reconnect_time_wait=0,
                max_reconnect_attempts=-1,
                **self._login,
            )
            for name in _TASKS:
                getattr(self, name).cancel()
            if not self.is_connected:
                raise ConnectionResetError
            reader, writer = (getattr(self._transport, name) for name in _STREAMS)
            # A reader that has ended returns what it has received and does not wait for more.
            reader.feed_eof()
            received = await reader.read()
        except BaseException as error:
            if self._transport is not None:
                self._transport.close()  # type: ignore[no-untyped-call]
            if isinstance(error, ConnectionResetError):
                message = "the server closed the connection during the login: it may have reached its connection limit"
                raise ConnectionResetError(message) from error
            if isinstance(error, OSError) or not isinstance(error, Exception):
                raise
            # An error of nats-py, or what its parsing raises for bytes that are not the protocol.
            raise ConnectionError(str(error).removeprefix("nats: ").strip("'")) from error
        writer.transport.set_protocol(protocol)
        protocol.connection_made(writer.transport)
        protocol.data_received(received)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        self.info |= info
        announced = info.get("connect_urls") or ()
        pool = [each for each in self._server_pool if not each.discovered or each.uri.netloc in announced]
        self._server_pool = pool
        if self._current_server is not None and self._current_server.uri.scheme == "tls":
            # Such an address never falls back to plain text.
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)


async def _raise(error: Exception) -> None:
    """Let nats-py fail at its first error; the client decides what follows."""
    raise error


def _without_user(address: str) -> str:
    parts = urlsplit(address if "://" in address else f"nats://{address}")
    # A port that is no number is found when it is read.
    with suppress(ValueError):
        if parts.scheme in {"nats", "tls"} and parts.hostname and parts.port != 0:
            return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    message = "the address of a NATS server is nats://HOST:PORT or tls://HOST:PORT"
    raise Refused("bad_address", message, shape=f"{parts.scheme}://")


class Connection(asyncio.Protocol):
    """Bytes to and from one server; it never comes back once it is lost."""

    def __init__(
        self,
        subscriptions: dict[bytes, Subscription],
        *,
        on_denied: Callable[[str], None],
        on_lost: Callable[[Connection, Exception], None],
    ) -> None:
        """Use `open`. `on_denied` is called with a permission error of the server, `on_lost` once, at the end."""
        self._parser = Parser(subscriptions, self._take_operation)
        self._on_denied, self._on_lost = on_denied, on_lost
        self._info: dict[str, Any] = {}
        self._transport: asyncio.Transport | None = None
        self._error: Exception | None = None
        self._pongs: deque[asyncio.Future[None] | None] = deque()
        self._pings_unanswered = 0
        self._next_ping: asyncio.TimerHandle | None = None
        self._writable, self._closed = asyncio.Event(), asyncio.Event()
        self._writable.set()

    async def open(self, dialer: Dialer, subscribe: bytes) -> None:
        """Connect, and send these commands. Raises `OSError`."""
        try:
            self._info = dialer.info
            await dialer.dial(self)
            async with asyncio.timeout(ATTEMPT_SECONDS):
                self.write(subscribe)
                await self.ping()
            if self._error is not None:
                raise self._error
        except BaseException:
            self.lose(ConnectionAbortedError("the handshake failed"))
            raise
        self._keep_alive()

    def write(self, frames: bytes) -> None:
        """Send bytes; they are dropped if the connection is lost."""
        if self._transport is not None:
            self._transport.write(frames)

    async def ping(self) -> None:
        """Wait until the server has received what was written. Raises `OSError` if the connection is lost."""
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._error is not None:
            raise self._error
        self._send_ping(pong)
        await pong

    async def wait_writable(self) -> None:
        """Wait while more than `UNSENT_BYTES_MAX` is unsent; a lost connection ends the wait."""
        await self._writable.wait()

    async def close(self) -> None:
        """Send what is unsent, then close."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                if self._transport is not None:
                    self._transport.close()
                    await self._closed.wait()
        except TimeoutError:
            _log.warning("unsent_bytes_dropped")
        finally:
            self.lose(ConnectionAbortedError("the connection was closed"))

    def lose(self, error: Exception) -> None:
        """End the connection at once; what is unsent is dropped."""
        if self._error is not None:
            return
        self._error = error
        self._parser.stop()
        if self._next_ping is not None:
            self._next_ping.cancel()
        for pong in self._pongs:
            if pong is not None and not pong.done():
                pong.set_exception(error)
        self._writable.set()
        if self._transport is not None:
            self._transport.abort()
        self._on_lost(self, error)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport is not an instance of `asyncio.Transport`.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=UNSENT_BYTES_MAX)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed(data)
        except Exception as error:  # noqa: BLE001 - a connection that has stopped reading must not look alive.
            self.lose(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set()
        self.lose(exc or ConnectionResetError("the server closed the connection"))

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _take_operation(self, operation: bytes, argument: bytes) -> None:
        if operation == b"PING":
            self.write(b"PONG\r\n")
        elif operation == b"PONG":
            self._take_pong()
        elif operation == b"INFO":
            self._info |= orjson.loads(argument)
        elif operation == b"-ERR":
            self._take_error(argument.decode(errors="replace").strip("'"))
        elif operation != b"+OK":
            raise ValueError(operation)

    def _take_error(self, message: str) -> None:
        if "permissions violation" in message.lower():
            self._on_denied(message)
        else:
            self.lose(ConnectionError(message))

    def _take_pong(self) -> None:
        self._pings_unanswered = 0
        pong = self._pongs.popleft()
        if pong is not None and not pong.done():
            pong.set_result(None)

    def _send_ping(self, pong: asyncio.Future[None] | None) -> None:
        self._pongs.append(pong)
        self.write(b"PING\r\n")

    def _keep_alive(self) -> None:
        if self._pings_unanswered >= PINGS_UNANSWERED_MAX:
            self.lose(ConnectionError("the server does not answer pings"))
            return
        self._pings_unanswered += 1
        self._send_ping(None)
        self._next_ping = asyncio.get_running_loop().call_later(PING_SECONDS, self._keep_alive)
