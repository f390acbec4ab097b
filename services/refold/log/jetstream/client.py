"""nats-py's client with a parser of our own, that no message can end. Used by the adapters of this package alone.

Private attributes of nats-py are touched here and nowhere else: it is pinned, and a test crosses a reconnect.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import count
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

import nats.errors
import orjson
import structlog
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport

from refold.core.errors import LogUnavailable, Refused
from refold.core.limits import (
    LOG_ANSWER_SECONDS,
    LOG_CLOSE_SECONDS,
    LOG_CONNECT_SECONDS,
    RECONNECT_SECONDS,
    SOCKET_READ_BYTES,
    SOCKET_UNSENT_BYTES_MAX,
)
from refold.log.jetstream.frames import message_frame
from refold.log.jetstream.parser import RawHandler, RunHandler, WireParser

DEFAULT_INBOX_PREFIX: Final = "_INBOX"
NO_RESPONDERS: Final = b"NATS/1.0 503"
"""An answer whose headers begin so comes from the broker: nothing is subscribed to the request's subject."""

_PING_SECONDS: Final = 5
_FOR_EVER: Final = -1

_log = structlog.get_logger()


async def connect(
    url: str,
    *,
    user: str | None = None,
    password: str | None = None,
    inbox_prefix: str = DEFAULT_INBOX_PREFIX,
    name: str = "refold",
    connect_seconds: float = LOG_CONNECT_SECONDS,
) -> BrokerClient:
    """Connect, or raise `LogUnavailable` once the deadline has passed or the broker refuses the user.

    The URL may carry user and password; of a cluster, several are told, with commas between them. The connection
    comes back by itself until it is closed.
    """
    servers = url.split(",")
    if user is None:
        user, password = user_of(servers)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + connect_seconds
    while True:
        client = BrokerClient()
        try:
            async with asyncio.timeout_at(deadline):
                await client.start(
                    servers, user=user, password=password, inbox_prefix=inbox_prefix, name=name
                )
        except (OSError, nats.errors.Error) as error:
            client.abort()
            reason = str(client.last_error or error)
            if loop.time() + RECONNECT_SECONDS >= deadline or "authorization" in reason.lower():
                raise LogUnavailable("no connection to the broker", reason=reason) from error
            await asyncio.sleep(RECONNECT_SECONDS)
        except BaseException:
            client.abort()
            raise
        else:
            return client


class _Question(NamedTuple):
    """A request on its way."""

    subject: str
    answer: asyncio.Future[tuple[bytes, bytes]]


class BrokerClient(Client):
    """One connection that is never given up: what makes nats-py close a client makes this one reconnect."""

    # nats-py means its own parser and any transport; here it is ours, over a socket.
    _ps: Any
    _transport: Any

    def __init__(self) -> None:
        """Not connected yet: see `connect`."""
        super().__init__()
        self._wire = WireParser(self)
        self._ps = self._wire
        self._is_up = asyncio.Event()
        self._when_lost: set[Callable[[], None]] = set()
        self._questions: dict[bytes, _Question] = {}
        self._answer_prefix = b""
        self._barriers: set[asyncio.Future[Any]] = set()
        self._tokens = count(1)

    async def start(
        self, servers: list[str], *, user: str | None, password: str | None, inbox_prefix: str, name: str
    ) -> None:
        """Connect once; from then on the connection comes back by itself."""
        await super().connect(
            servers,
            user=user,
            password=password,
            inbox_prefix=inbox_prefix,
            name=name,
            error_cb=self._note,
            reconnected_cb=self._note_return,
            allow_reconnect=False,
            max_reconnect_attempts=_FOR_EVER,
            reconnect_time_wait=RECONNECT_SECONDS,  # type: ignore[arg-type]  # Said to be whole seconds; it is slept.
            ping_interval=_PING_SECONDS,
        )
        self.options["allow_reconnect"] = True
        self._is_up.set()

    # --- What this package uses ----------------------------------------------------------------------

    def subscribe_raw(self, subject: str, handler: RawHandler, *, take_run: RunHandler | None = None) -> int:
        """Call the handler with every message as it is, now and after each reconnect; return the sid.

        `take_run` is offered them first, many at once.
        """
        self._sid += 1
        sid: int = self._sid
        # nats-py subscribes again by this table.
        self._subs[sid] = Subscription(self, sid, subject)
        self._wire.raw[b"%d" % sid] = handler
        if take_run is not None:
            self._wire.runs[b"%d" % sid] = take_run
        self.write_if_connected(b"SUB %b %d\r\n" % (subject.encode(), sid))
        return sid

    def unsubscribe_raw(self, sid: int) -> None:
        """Call the handler no more."""
        self._subs.pop(sid, None)
        self._wire.runs.pop(b"%d" % sid, None)
        if self._wire.raw.pop(b"%d" % sid, None) is not None:
            self.write_if_connected(b"UNSUB %d\r\n" % sid)

    def write(self, frames: bytes) -> None:
        """Put whole commands on the wire. Raises `LogUnavailable`: then nothing was sent."""
        if not self.write_if_connected(frames):
            raise LogUnavailable("not connected to the broker")

    def write_if_connected(self, frames: bytes) -> bool:
        """Put whole commands on the wire, or return that nothing was sent."""
        if not self.is_connected:
            return False
        self._transport.write(frames)
        return True

    async def until_sent(self) -> None:
        """Wait while too much of what was written has not left this machine; a break ends the waiting."""
        # nats-py does not say how much is unsent, and has no writer while it connects anew.
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None and writer.transport.get_write_buffer_size() > SOCKET_UNSENT_BYTES_MAX:
            with suppress(OSError):
                await writer.drain()

    async def ask(
        self, subject: str, payload: bytes = b"", *, lines: bytes = b"", seconds: float = LOG_ANSWER_SECONDS
    ) -> tuple[bytes, bytes]:
        """Request one answer; return its header block and payload. Raises `LogUnavailable`."""
        token = b"%d" % next(self._tokens)
        question = self._questions[token] = _Question(subject, asyncio.get_running_loop().create_future())
        try:
            async with asyncio.timeout(seconds):
                await self.until_up()
                reply = self._inbox() + token
                self.write(message_frame(subject.encode(), payload, lines=lines, reply=reply))
                headers, body = await question.answer
        except TimeoutError as error:
            raise LogUnavailable("the broker did not answer in time", subject=subject) from error
        finally:
            del self._questions[token]
        return headers, body

    async def until_taken(self, seconds: float = LOG_ANSWER_SECONDS) -> None:
        """Wait until the broker has what was written. Raises `LogUnavailable`: then some of it may be lost."""
        if not self.is_connected:
            raise LogUnavailable("not connected to the broker")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._barriers.add(answer)
        try:
            async with asyncio.timeout(seconds):
                await self._send_ping(answer)
                await answer
        except TimeoutError as error:
            raise LogUnavailable("the broker did not answer in time") from error
        finally:
            self._barriers.discard(answer)

    async def until_up(self) -> None:
        """Wait for the connection to stand. Raises `LogUnavailable` once it is closed for good."""
        await self._is_up.wait()
        if self.is_closed:
            raise LogUnavailable("the connection was closed")

    def when_lost(self, call: Callable[[], None]) -> Callable[[], None]:
        """Call this whenever the connection breaks, until the returned function is called."""
        self._when_lost.add(call)
        return lambda: self._when_lost.discard(call)

    async def close(self) -> None:
        """Send what is unsent, then end the connection for good."""
        self._break("the connection was closed")
        try:
            async with asyncio.timeout(LOG_CLOSE_SECONDS):
                await super().close()
        except TimeoutError:
            self.abort()
        except asyncio.CancelledError:
            # Where the connection is just breaking, nats-py waits for what it has cancelled itself.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self.abort()
        # Whoever waits for the connection is to learn that it will not come back.
        self._is_up.set()

    def abort(self) -> None:
        """Drop the socket with whatever is unsent: a close would wait for a peer that may be gone."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    # --- What the parser hands on ---------------------------------------------------------------------

    async def take_message(
        self, sid: int, subject: bytes, reply: bytes, headers: bytes, payload: bytes
    ) -> None:
        """Let nats-py have a message, and drop it where nats-py cannot stand it."""
        try:
            await self._process_msg(sid, subject, reply, payload, headers)
        except Exception as error:  # noqa: BLE001 - one hostile message must not end the connection.
            _log.warning("message_dropped", subject=repr(subject[:128]), error=repr(error))

    async def take_operation(self, operation: bytes, argument: bytes) -> None:
        """Let nats-py have a line that is no message."""
        if operation == b"PING":
            await self._process_ping()
        elif operation == b"PONG":
            # nats-py resolves flushes that have given up waiting, too.
            with suppress(asyncio.InvalidStateError):
                await self._process_pong()
        elif operation == b"-ERR":
            await self._process_err(argument.decode(errors="replace").strip("'"))
        elif operation == b"INFO":
            await self._process_info(orjson.loads(argument))
        elif operation != b"+OK":
            raise nats.errors.ProtocolError

    # --- What is otherwise than in nats-py --------------------------------------------------------------

    async def _connect_to_server(self, server: Any) -> None:
        """Read much more at once."""
        server.last_attempt = time.monotonic()
        self._transport = TcpTransport()  # type: ignore[no-untyped-call]  # nats-py's own.
        await self._transport.connect(server.uri, SOCKET_READ_BYTES, self.options["connect_timeout"])

    async def _read_loop(self) -> None:
        """Reconnect after whatever ends the reading, not only after what nats-py foresees."""
        try:
            while data := await self._transport.read(SOCKET_READ_BYTES):
                await self._ps.parse(data)
            raise nats.errors.UnexpectedEOF
        except Exception as error:  # noqa: BLE001 - a client that has stopped reading must not look alive.
            await self._process_op_err(error)

    async def _process_err(self, message: str) -> None:
        """Reconnect where nats-py would close itself: the broker's other errors end the connection, not our work."""
        error = nats.errors.Error(message)
        if "permissions violation" in message.lower():
            _log.warning("broker_denied", error=message)
            asked = [each.answer for each in self._questions.values() if f'"{each.subject}"' in message]
            _give_up(asked, f"the broker does not let this user ask: {message}")
            return
        await self._process_op_err(error)

    async def _process_op_err(self, error: Exception) -> None:
        self._err = error
        await super()._process_op_err(error)

    async def _attempt_reconnect(self) -> None:
        self._break("the connection to the broker broke")
        self.abort()
        _log.warning("broker_lost", error=repr(self._err))
        while not (self.is_closed or self.is_connected):
            try:
                await super()._attempt_reconnect()
            except Exception as error:  # noqa: BLE001 - nats-py would never try again after what it does not foresee.
                _log.error("reconnect_failed", error=repr(error))
                await asyncio.sleep(RECONNECT_SECONDS)
            else:
                return

    # --- Its own ------------------------------------------------------------------------------------------

    def _inbox(self) -> bytes:
        if not self._answer_prefix:
            inbox = self.new_inbox()
            self._answer_prefix = f"{inbox}.".encode()
            self.subscribe_raw(f"{inbox}.*", self._take_answer)
        return self._answer_prefix

    def _take_answer(self, subject: bytes, _: bytes, headers: bytes, payload: bytes) -> None:
        question = self._questions.get(subject[len(self._answer_prefix) :])
        if question is not None and not question.answer.done():
            question.answer.set_result((headers, payload))

    def _break(self, why: str) -> None:
        self._is_up.clear()
        _give_up([question.answer for question in self._questions.values()], why)
        _give_up(self._barriers, why)
        for call in tuple(self._when_lost):
            call()

    async def _note(self, error: Exception) -> None:
        _log.debug("broker_error", error=repr(error))

    async def _note_return(self) -> None:
        self._is_up.set()
        _log.info("broker_back")


def user_of(servers: list[str]) -> tuple[str | None, str | None]:
    """Read user and password out of the addresses: nats-py would forget them for a server that it discovers."""
    for server in servers:
        parts = urlsplit(server)
        if parts.scheme in {"ws", "wss"}:
            raise Refused(
                "bad_address", "the broker is reached by nats:// or tls://", shape=f"{parts.scheme}://"
            )
        if parts.username is not None:
            return unquote(parts.username), None if parts.password is None else unquote(parts.password)
    return None, None


def _give_up(answers: Iterable[asyncio.Future[Any]], why: str) -> None:
    for answer in answers:
        if not answer.done():
            answer.set_exception(LogUnavailable(why))
