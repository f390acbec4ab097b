"""One connection to one NATS server: socket, handshake, keep-alive. It never comes back once it is lost.

Used by `refold.log.jetstream.client`, which reconnects. Nothing of nats-py is on this path: its client has no public
way to hand over its socket or its CONNECT command, decodes subjects (any client can make them invalid), and closes
itself where this one must reconnect. So the handshake is performed here: TLS where the address or the server asks for
it, and a user with password, or a token. NKeys and credentials files (JWT) are not supported.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple, cast
from urllib.parse import unquote, urlsplit

import orjson
import structlog

from refold import __version__
from refold.core.errors import Refused
from refold.log.jetstream.protocol import Parser, Subscription

ATTEMPT_SECONDS: Final = 2.0
"""Connecting to one server fails after this."""
CLOSE_SECONDS: Final = 5.0
"""Bytes that are still unsent this long after `close` are dropped."""
UNSENT_BYTES_MAX: Final = 4 * 1024 * 1024
"""`wait_writable` waits while more than this is unsent."""
PING_SECONDS: Final = 5.0
PINGS_UNANSWERED_MAX: Final = 2
"""A server that leaves so many pings unanswered is considered lost."""

_PORT: Final = 4222

_log = structlog.get_logger()


class ServerError(ConnectionError):
    """The server ended the connection with an error of its own."""


class AuthorizationError(ServerError):
    """The server rejected the user."""


class Server(NamedTuple):
    """The address of a server; `tls_name` is the name that its certificate must have."""

    host: str
    port: int
    is_tls: bool
    tls_name: str

    @classmethod
    def parse(cls, address: str) -> Server:
        """Read `nats://HOST:PORT` or `tls://HOST:PORT`. Raises `Refused`."""
        parts = urlsplit(address if "://" in address else f"nats://{address}")
        with suppress(ValueError):
            if parts.scheme in {"nats", "tls"} and parts.hostname:
                return cls(parts.hostname, parts.port or _PORT, parts.scheme == "tls", parts.hostname)
        message = "the address of a NATS server is nats://HOST:PORT or tls://HOST:PORT"
        raise Refused("bad_address", message, shape=f"{parts.scheme}://")

    def announced(self, address: str) -> Server:
        """Read the address of another server of the cluster; one without a name has the certificate of this one."""
        server = Server.parse(address)
        has_name = ":" not in server.host and not server.host.replace(".", "").isdigit()
        return server._replace(is_tls=self.is_tls, tls_name=server.host if has_name else self.tls_name)


def credentials_of(addresses: list[str]) -> tuple[str | None, str | None]:
    """Return user and password of the first address that has them; a token is a user without a password."""
    for address in addresses:
        parts = urlsplit(address)
        if parts.username is not None:
            return unquote(parts.username), None if parts.password is None else unquote(parts.password)
    return None, None


def connect_command(user: str | None, password: str | None, name: str) -> bytes:
    """Write the command that logs in; `name` is shown by the server's monitoring."""
    options = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True, "protocol": 1}
    credentials = {"auth_token": user} if password is None else {"user": user, "pass": password}
    about = {"lang": "python", "version": __version__, "name": name}
    return b"CONNECT %b\r\n" % orjson.dumps(options | about | (credentials if user is not None else {}))


class Connection(asyncio.Protocol):
    """Bytes to and from one server."""

    def __init__(
        self,
        subscriptions: dict[bytes, Subscription],
        *,
        on_info: Callable[[dict[str, Any]], None],
        on_denied: Callable[[str], None],
        on_lost: Callable[[Connection, Exception], None],
    ) -> None:
        """Use `open`. `on_denied` is called with a permission error of the server, `on_lost` once, at the end."""
        self._parser = Parser(subscriptions, self._take_operation)
        self._on_info, self._on_denied, self._on_lost = on_info, on_denied, on_lost
        self._transport: asyncio.Transport | None = None
        self._error: Exception | None = None
        self._info: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._pongs: deque[asyncio.Future[None] | None] = deque()
        self._pings_unanswered = 0
        self._next_ping: asyncio.TimerHandle | None = None
        self._writable, self._closed = asyncio.Event(), asyncio.Event()
        self._writable.set()

    async def open(self, server: Server, login: bytes) -> None:
        """Connect, and send a `connect_command` and what else belongs to the login. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                transport, _ = await loop.create_connection(lambda: self, server.host, server.port)
                if (await self._info).get("tls_required") or server.is_tls:
                    context = ssl.create_default_context()
                    self._transport = await loop.start_tls(
                        transport, self, context, server_hostname=server.tls_name
                    )
                self.write(login)
                await self.ping()
            if self._error is not None:
                raise self._error
        except BaseException:
            self.lose(ConnectionAbortedError("the handshake failed"))
            raise
        if self._transport is not None:
            self._transport.set_write_buffer_limits(high=UNSENT_BYTES_MAX)
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
        for waiter in (self._info, *self._pongs):
            if waiter is not None and not waiter.done():
                waiter.set_exception(error)
        if not self._info.cancelled():
            # Mark it as retrieved: nothing awaits it if the socket could not be opened.
            self._info.exception()
        self._writable.set()
        if self._transport is not None:
            self._transport.abort()
        self._on_lost(self, error)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport is not an instance of `asyncio.Transport`.
        self._transport = cast(asyncio.Transport, transport)

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
            info = orjson.loads(argument)
            self._on_info(info)
            if not self._info.done():
                self._info.set_result(info)
        elif operation == b"-ERR":
            self._take_error(argument.decode(errors="replace").strip("'"))
        elif operation != b"+OK":
            raise ValueError(operation)

    def _take_error(self, message: str) -> None:
        if "permissions violation" in message.lower():
            self._on_denied(message)
        else:
            is_rejected = "authorization" in message.lower()
            self.lose(AuthorizationError(message) if is_rejected else ServerError(message))

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
