"""Connections, pipelines and transactions; the only module that imports the driver or knows its errors.

Part of the Redis adapter.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, cast
from weakref import WeakSet

from hiredis import pack_command
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from refold.core.errors import StoreDamaged, StoreDiffers, StoreError, StoreFull, StoreUnavailable
from refold.store import Connections
from refold.store.stale import StaleCheck

STORE_CONNECT_SECONDS: Final = 10.0

STORE_COMMAND_SECONDS: Final = 60.0
"""The longest wait for one answer."""

STORE_CONNECTION_WAIT_SECONDS: Final = 10.0
"""The longest wait of a read for a free connection."""

Command = tuple[bytes | str | int, ...]

# Its type hints say a tuple of one argument.
_pack: Callable[[Command], bytes] = cast("Any", pack_command)

EMPTIED: Final = "the Redis database was emptied: it is folded from the log's begin"

_FULL: Final = frozenset({"OOM", "MISCONF"})
_UNAVAILABLE: Final = frozenset(
    {"LOADING", "READONLY", "MASTERDOWN", "NOREPLICAS", "BUSY", "TRYAGAIN", "CLUSTERDOWN"}
)
"""Codes of errors of a server that is full, that starts, is a replica now, or asks to try again."""


class Pool:
    """At most `size` connections to one server."""

    def __init__(
        self,
        url: str,
        size: int,
        *,
        connect_seconds: float = STORE_CONNECT_SECONDS,
        command_seconds: float = STORE_COMMAND_SECONDS,
    ) -> None:
        """Connect when the first command is sent. Raises `StoreDiffers` for a URL that the driver does not know."""
        self.connects = 0
        """How often it has connected: the server may have been started again in between."""
        scheme, _, rest = url.partition("://")
        try:
            self._pool = ConnectionPool.from_url(
                f"{_SCHEMES.get(scheme, scheme)}://{rest}",
                max_connections=size,
                socket_connect_timeout=connect_seconds,
                socket_timeout=command_seconds,
                # A command is never sent twice: the store's caller knows what may be repeated.
                retry=Retry(NoBackoff(), 0),
                protocol=2,
                redis_connect_func=self._connected,
            )
        except ValueError as error:
            raise StoreDiffers("the address of Redis cannot be read", cause=str(error)) from error
        # In the order of their requests: the driver's own wait lets a loop of reads overtake all others.
        self._free = asyncio.Semaphore(size)
        self._size, self._used = size, 0
        self.stale = StaleCheck()
        self.read_folded: Callable[[Connection], Awaitable[Mapping[int, int]]] = _nothing_folded
        self._checked: WeakSet[AbstractConnection] = WeakSet()
        self._run_id = b""
        self.bound_key: bytes | None = None
        """The key that says which projection is read: another one has to fold first what was read before."""
        self.bound: bytes | None = None
        """Its value for the projection that was read last."""

    async def _connected(self, connection: AbstractConnection) -> None:
        await connection.on_connect()
        self.connects += 1

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Connection]:
        """Lend a connection. One that is left in the middle of an answer is closed."""
        try:
            async with asyncio.timeout(STORE_CONNECTION_WAIT_SECONDS):
                await self._free.acquire()
        except TimeoutError as error:
            raise StoreUnavailable("no connection to Redis was free in time") from error
        self._used += 1
        try:
            async with self._connection() as connection:
                yield connection
        finally:
            self._used -= 1
            self._free.release()

    @property
    def connections(self) -> Connections:
        """Count the connections that are used and that are idle; the third number is the limit."""
        idle = sum(each.is_connected for each in self._checked) - self._used
        return Connections(self._used, max(0, idle), self._size)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        cancellations = _cancellations()
        with _translated_errors():
            found = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        connection = Connection(found)
        try:
            _raise_swallowed(cancellations)
            if found not in self._checked:
                await self._check(connection)
                found.register_connect_callback(self._forget)
                self._checked.add(found)
            yield connection
        finally:
            if connection.is_unread or connection.is_watching:
                await found.disconnect(nowait=True)
            await self._pool.release(found)

    async def run(self, *commands: Command) -> list[Any]:
        """Send commands together; return their answers. Raises `StoreUnavailable` where the server was emptied."""
        async with self.lend() as connection:
            return await self.read(connection, commands)

    async def read_at_once(self, *commands: Command) -> list[Any]:
        """Send reading commands as one transaction: their answers are from one moment."""
        async with self.lend() as connection:
            *_, answers = await self.read(connection, at_once(commands))
        return _checked(answers)

    async def read(self, connection: Connection, commands: Sequence[Command]) -> list[Any]:
        """Send commands, and again where they have read another projection than before, once that may be read."""
        if self.bound_key is None:
            return await connection.run(commands)
        # The last command: nothing was emptied before it.
        *answers, bound = await connection.run([*commands, ("GET", self.bound_key)])
        if bound == self.bound:
            return answers
        if bound is None:
            raise StoreUnavailable(EMPTIED)
        await self._refuse_stale(connection, may_have_crashed=self.bound is not None)
        self.bound = bound
        return await self.read(connection, commands)

    async def _check(self, connection: Connection) -> None:
        """Check a new connection's server: one that was started again may have lost commits that were read before."""
        (info,) = await connection.run([("INFO", "server")])
        run_id = next((line for line in info.split() if line.startswith(b"run_id:")), b"")
        await self._refuse_stale(connection, may_have_crashed=run_id != self._run_id)
        self._run_id = run_id

    async def _refuse_stale(self, connection: Connection, *, may_have_crashed: bool) -> None:
        required = await self.stale.required(may_have_crashed=may_have_crashed)
        self.stale.check(required, await self.read_folded(connection) if required else {})

    async def _forget(self, connection: AbstractConnection) -> None:
        """Check a connection again that the driver has made anew."""
        self._checked.discard(connection)

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


class Connection:
    """One connection while it is lent."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self.is_unread = False
        self.is_watching = False

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands together and return their answers. Raises the first error, once all are read."""
        return _checked(await self._answers(commands))

    async def read_at_once(self, *commands: Command) -> list[Any]:
        """Send reading commands as one transaction: their answers are from one moment."""
        *_, answers = await self.run(at_once(commands))
        return _checked(answers)

    async def watch(self, watched: Iterable[bytes], commands: Sequence[Command]) -> list[Any]:
        """Read, and make the next transaction fail where one of the watched keys changes meanwhile."""
        self.is_watching = True
        return (await self.run([("WATCH", *watched), *commands]))[1:]

    async def execute(self, commands: Sequence[Command]) -> bool:
        """Write a transaction; False where a watched key has changed, and nothing was written.

        Raises `StoreUnavailable` with `is_unknown=True` where EXEC was not answered.
        """
        try:
            *queued, done = await self._answers([("MULTI",), *commands, ("EXEC",)])
        except StoreUnavailable as error:
            raise StoreUnavailable("EXEC was not answered", is_unknown=True, **error.facts) from error
        # A command that is refused discards the transaction; its own error says why, that of EXEC does not.
        _checked([*queued, done])
        self.is_watching = False
        if done is None:
            return False
        failed = next((answer for answer in done if isinstance(answer, ResponseError)), None)
        if failed is not None:
            raise StoreDamaged("a key of the projection is missing or of another type", cause=str(failed))
        return True

    async def _answers(self, commands: Sequence[Command]) -> list[Any]:
        connection = self._connection
        self.is_unread = True
        cancellations = _cancellations()
        with _translated_errors():
            await connection.send_packed_command(b"".join(map(_pack, commands)))
            _raise_swallowed(cancellations)
            answers = [await self._answer() for _ in commands]
        self.is_unread = False
        return answers

    async def _answer(self) -> Any:
        try:
            return await self._connection.read_response(disable_decoding=True, disconnect_on_error=False)
        except ResponseError as error:
            return error


def _cancellations() -> int:
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def _raise_swallowed(before: int) -> None:
    """Raise a cancellation that the driver lost: its `asyncio.wait_for` may swallow one before Python 3.12."""
    if _cancellations() > before:
        raise asyncio.CancelledError


def at_once(commands: Sequence[Command]) -> list[Command]:
    """Return commands as one transaction, of which the last answer has theirs."""
    return [("MULTI",), *commands, ("EXEC",)]


async def _nothing_folded(_: Connection) -> Mapping[int, int]:
    return {}


def _checked(answers: list[Any]) -> list[Any]:
    failed = next((answer for answer in answers if isinstance(answer, ResponseError)), None)
    if failed is not None:
        raise as_store_error(failed) from failed
    return answers


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError, asyncio.IncompleteReadError) as error:
        raise as_store_error(error) from error
    except RuntimeError as error:
        # uvloop raises it where the server has closed the connection that is written to.
        if "the handler is closed" not in str(error):
            raise
        raise as_store_error(error) from error


_SCHEMES: Final = {"valkey": "redis", "valkeys": "rediss"}


def as_store_error(error: Exception) -> StoreError:
    """Translate the driver's error."""
    cause = str(error) or type(error).__name__
    if isinstance(error, RedisTimeoutError):
        return StoreUnavailable("Redis did not answer in time", cause=cause)
    if not isinstance(error, ResponseError):
        if isinstance(error, AuthenticationError):
            return StoreDiffers("Redis refuses the user or password of the store's URL", cause=cause)
        return StoreUnavailable("Redis cannot be reached or does not answer", cause=cause)
    code = str(getattr(error, "status_code", None) or cause.partition(" ")[0])
    if code in _FULL:
        message = "Redis has no room: give it more memory or disk, or remove other keys"
        return StoreFull(message, cause=cause, redis_code=code)
    if code in _UNAVAILABLE:
        return StoreUnavailable("Redis cannot do this at present", cause=cause, redis_code=code)
    if code == "WRONGTYPE":
        return StoreDamaged("a key of the projection is of another type", cause=cause)
    return StoreError("Redis refused a command", cause=cause, redis_code=code)
