"""A NATS client that reconnects until it is closed: subscriptions, requests, flush.

Used by the other modules of this package and by the compositions.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, Final, NamedTuple

import structlog

from refold.core.errors import LogUnavailable
from refold.log.jetstream.connection import Connection, Dialer
from refold.log.jetstream.protocol import BulkHandler, MessageHandler, Subscription, message_frame

DEFAULT_INBOX_PREFIX: Final = "_INBOX"
CONNECT_SECONDS: Final = 10.0
"""`connect` fails after this."""
REQUEST_SECONDS: Final = 5.0
"""A request or flush fails after this."""
RECONNECT_SECONDS: Final = 0.25
"""Pause after a server that could not be connected to."""

_LOST: Final = "the connection to the broker was lost"
_CLOSED: Final = "the connection was closed"
_NOT_CONNECTED: Final = "not connected to the broker"
_NO_ANSWER: Final = "the broker did not answer in time"

_log = structlog.get_logger()


class Reply(NamedTuple):
    """The reply to a request: its header block and its payload."""

    headers: bytes
    payload: bytes

    @property
    def has_no_responders(self) -> bool:
        """Whether the broker itself replied, because nothing subscribes to the request's subject."""
        return self.headers.startswith(b"NATS/1.0 503")


class _Request(NamedTuple):
    subject: str
    reply: asyncio.Future[Reply]


async def connect(
    url: str,
    *,
    inbox_prefix: str = DEFAULT_INBOX_PREFIX,
    name: str = "refold",
    connect_seconds: float = CONNECT_SECONDS,
) -> Client:
    """Connect; the client reconnects from then on, until it is closed.

    Args:
        url: `nats://` or `tls://` addresses, separated by commas. The user and password, or the token, of the first
            address that has them are used for all servers, also for those that a cluster announces.
        inbox_prefix: the subjects under which the user may receive replies.
        name: shown by the broker's monitoring.
        connect_seconds: servers that do not answer are tried again until then.

    Raises:
        LogUnavailable: no server answered in time, or one rejected the user.
        Refused: `bad_address`.
    """
    client = Client(Dialer(url, name), inbox_prefix)
    loop = asyncio.get_running_loop()
    deadline, reason = loop.time() + connect_seconds, _NO_ANSWER
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                await client.connect_once()
        except OSError as error:
            # A timeout has no text: then an earlier error is the reason.
            reason = str(error) or reason
            is_rejected = "authorization" in reason.lower()
            if is_rejected or loop.time() + RECONNECT_SECONDS >= deadline:
                raise LogUnavailable("no connection to the broker", reason=reason) from error
            await asyncio.sleep(RECONNECT_SECONDS)
        else:
            return client


class Client:
    """Subscriptions and requests over one connection at a time; whatever ends it, the client reconnects."""

    def __init__(self, dialer: Dialer, inbox_prefix: str) -> None:
        """Not connected yet: see `connect`."""
        self.is_closed = False
        self.reconnects = 0
        self._dialer = dialer
        self._inbox_prefix = inbox_prefix
        self._connection: Connection | None = None
        self._connected = asyncio.Event()
        self._reconnecting: asyncio.Task[None] | None = None
        self._subscriptions: dict[bytes, Subscription] = {}
        self._requests: dict[bytes, _Request] = {}
        self._reply_prefix = b""
        self._on_disconnect: set[Callable[[], None]] = set()
        self._sids, self._tokens = count(1), count(1)

    @property
    def is_connected(self) -> bool:
        """Whether what is written now is sent."""
        return self._connection is not None

    @property
    def server_info(self) -> dict[str, Any]:
        """What the server that the client is, or was last, connected to says of itself: `version`, `port`, …"""
        return self._dialer.info

    def subscribe(
        self,
        subject: str,
        handle: MessageHandler,
        *,
        handle_bulk: BulkHandler | None = None,
        queue: str = "",
    ) -> bytes:
        """Call `handle` with every message, now and after each reconnect; return the subscription's id."""
        sid = b"%d" % next(self._sids)
        subscription = self._subscriptions[sid] = Subscription(
            subject.encode(), handle, handle_bulk, queue.encode()
        )
        self.write_if_connected(subscription.frame(sid))
        return sid

    def unsubscribe(self, sid: bytes) -> None:
        """Do not call the handler again."""
        if self._subscriptions.pop(sid, None) is not None:
            self.write_if_connected(b"UNSUB %b\r\n" % sid)

    def write(self, frames: bytes) -> None:
        """Send whole commands. Raises `LogUnavailable`: nothing was sent."""
        if not self.write_if_connected(frames):
            raise LogUnavailable(_NOT_CONNECTED)

    def write_if_connected(self, frames: bytes) -> bool:
        """Send whole commands; return whether there was a connection."""
        if self._connection is not None:
            self._connection.write(frames)
        return self._connection is not None

    async def wait_writable(self) -> None:
        """Wait while too much of what was written is unsent; return at once if not connected."""
        if self._connection is not None:
            await self._connection.wait_writable()

    async def flush(self) -> None:
        """Wait until the broker has received what was written. Raises `LogUnavailable`: some of it may be lost."""
        if self._connection is None:
            raise LogUnavailable(_NOT_CONNECTED)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await self._connection.ping()
        except TimeoutError as error:
            raise LogUnavailable(_NO_ANSWER) from error
        except OSError as error:
            raise LogUnavailable(_CLOSED if self.is_closed else _LOST) from error

    async def request(
        self, subject: str, payload: bytes = b"", *, headers: bytes = b"", seconds: float = REQUEST_SECONDS
    ) -> Reply:
        """Send a request as soon as there is a connection, and return its reply. Raises `LogUnavailable`."""
        token = b"%d" % next(self._tokens)
        request = self._requests[token] = _Request(subject, asyncio.get_running_loop().create_future())
        try:
            async with asyncio.timeout(seconds):
                await self.wait_connected()
                reply_to = self._reply_subject(token)
                self.write(message_frame(subject.encode(), payload, headers=headers, reply=reply_to))
                return await request.reply
        except TimeoutError as error:
            raise LogUnavailable(_NO_ANSWER, subject=subject) from error
        finally:
            del self._requests[token]

    def new_inbox(self) -> str:
        """Return a new subject on which this user may receive replies."""
        return f"{self._inbox_prefix}.{secrets.token_hex(11)}"

    async def wait_connected(self) -> None:
        """Wait until there is a connection. Raises `LogUnavailable` if the client is closed."""
        await self._connected.wait()
        if self.is_closed:
            raise LogUnavailable(_CLOSED)

    def on_disconnect(self, call: Callable[[], None]) -> Callable[[], None]:
        """Call `call` whenever the connection is lost or closed, until the returned function is called."""
        self._on_disconnect.add(call)
        return lambda: self._on_disconnect.discard(call)

    async def close(self) -> None:
        """Send what is unsent, then end the connection for good."""
        self.is_closed = True
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            await asyncio.gather(self._reconnecting, return_exceptions=True)
        connection, self._connection = self._connection, None
        self._disconnect(_CLOSED)
        # `wait_connected` wakes up and sees that the client is closed.
        self._connected.set()
        if connection is not None:
            await connection.close()

    async def connect_once(self) -> None:
        """Connect to the next server. Raises `OSError`."""
        subscribed = dict(self._subscriptions)
        connection = Connection(self._subscriptions, on_denied=self._deny, on_lost=self._lose)
        await connection.open(self._dialer, b"".join([each.frame(sid) for sid, each in subscribed.items()]))
        self._connection = connection
        for sid, each in self._subscriptions.items() - subscribed.items():
            connection.write(each.frame(sid))
        for sid in subscribed.keys() - self._subscriptions.keys():
            connection.write(b"UNSUB %b\r\n" % sid)
        self._connected.set()

    async def _reconnect(self) -> None:
        # `asyncio.wait_for`, which nats-py uses, may swallow a cancellation before Python 3.12.
        while not self.is_closed:
            try:
                await self.connect_once()
            except Exception as error:  # noqa: BLE001 - whatever the error, the client must reconnect.
                _log.debug("reconnect_failed", error=repr(error))
                await asyncio.sleep(RECONNECT_SECONDS)
            else:
                self.reconnects += 1
                _log.info("broker_reconnected", connection=self._dialer.connection_name)
                return

    def _deny(self, message: str) -> None:
        """Fail the requests to a subject that the user may not publish to."""
        _log.warning("broker_denied", error=message)
        denied = [request.reply for request in self._requests.values() if f'"{request.subject}"' in message]
        _fail(denied, f"the broker does not allow this user the request: {message}")

    def _lose(self, connection: Connection, error: Exception) -> None:
        if connection is self._connection:
            self._connection = None
            name = self._dialer.connection_name
            _log.warning("broker_disconnected", connection=name, error=repr(error))
            self._disconnect(_LOST)
            self._reconnecting = asyncio.get_running_loop().create_task(self._reconnect(), name="reconnect")

    def _disconnect(self, reason: str) -> None:
        self._connected.clear()
        _fail([request.reply for request in self._requests.values()], reason)
        for call in tuple(self._on_disconnect):
            call()

    def _reply_subject(self, token: bytes) -> bytes:
        if not self._reply_prefix:
            inbox = self.new_inbox()
            self._reply_prefix = f"{inbox}.".encode()
            self.subscribe(f"{inbox}.*", self._take_reply)
        return self._reply_prefix + token

    def _take_reply(self, subject: bytes, _: bytes, headers: bytes, payload: bytes) -> None:
        request = self._requests.get(subject[len(self._reply_prefix) :])
        if request is not None and not request.reply.done():
            request.reply.set_result(Reply(headers, payload))


def _fail(waiters: Iterable[asyncio.Future[Any]], reason: str) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_exception(LogUnavailable(reason))
