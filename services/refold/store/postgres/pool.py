"""Connections, transactions and named statements; the only module that imports the driver or knows its errors.

Part of the PostgreSQL adapter.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final, TypeAlias

import asyncpg

from refold.core.errors import (
    Refused,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from refold.store import Connections
from refold.store.sql import statements_of
from refold.store.stale import StaleCheck

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

Row = asyncpg.Record
Connection: TypeAlias = "asyncpg.Connection[Row] | PoolConnectionProxy[Row]"

STORE_CONNECT_SECONDS: Final = 10

STORE_COMMAND_SECONDS: Final = 60
"""The longest run of one statement, or one COPY."""

STORE_CONNECTION_WAIT_SECONDS: Final = 10
"""The longest wait of a read for a free connection."""

STORE_CLOSE_SECONDS: Final = 5
"""How long reads in flight may take to end when a store is closed."""

SQL: Final = statements_of(__package__)
"""The statements of `queries.sql` by name."""

_SCHEMA: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}", re.ASCII)
_DISK_FULL: Final = "53100"
CANCELED: Final = "57014"
"""SQLSTATE of a statement that took longer than it may, or that an operator ended."""

STATE_ENCRYPTED: Final = "RF001"
"""SQLSTATE that `refold_jsonb` and `refold_json` raise for an encrypted state."""

_DAMAGED: Final = ("XX001", "XX002", "58P01", "42P01", "42703", "42883")
"""SQLSTATEs of corrupt data, a corrupt index, a missing file, an undefined table, column or function."""

_RELATION: Final = re.compile(r'relation "(?:\w+\.)?(\w+)"')
_UNAVAILABLE: Final = ("08", "28", "3D", "40", "53", "55", "57P", "25006", CANCELED)
"""SQLSTATEs that begin so: the server is unreachable, overloaded, read-only, ended a statement or asks to retry."""

_LOST: Final = ("08", "57P")
"""SQLSTATEs that begin so: the connection is lost, or ended by the server at any point, after the commit too."""

_NEVER_REPLACED: Final = 2**63
"""Queries after which the driver would replace a connection: a lost one is the sign of a crash."""

_QUICK: Final = {"jit": "off", "application_name": "refold"}
_BY_KEY: Final = {
    # A plan may have been made while the tables were empty, and is kept: look-ups by key must use the index.
    "enable_seqscan": "off",
}
_COMMITS: Final = {
    "synchronous_commit": "off",
    # Planning a commit's one statement costs more than running it, and the lengths of its arrays change nothing.
    "plan_cache_mode": "force_generic_plan",
    # A machine that vanished must not hold the lease for the default of two hours.
    "tcp_keepalives_idle": "15",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}


class Pool:
    """Connections for reading, at most `size` at once."""

    def __init__(
        self,
        dsn: str,
        schema: str,
        size: int,
        *,
        connect_seconds: float = STORE_CONNECT_SECONDS,
        command_seconds: float = STORE_COMMAND_SECONDS,
    ) -> None:
        self._dsn = dsn
        self._connect_seconds = connect_seconds
        self._command_seconds = command_seconds
        self._settings = _settings(schema)
        self._size = size
        self._pool: asyncpg.Pool[Row] | None = None
        self._checked: list[asyncpg.Connection[Row]] = []
        self.stale = StaleCheck()

    async def open(self) -> None:
        """Create the pool without a connection: the first read makes one."""
        with translated():
            self._pool = await asyncpg.create_pool(
                self._dsn,
                min_size=0,
                max_size=self._size,
                max_inactive_connection_lifetime=0,
                max_queries=_NEVER_REPLACED,
                init=self._begin,
                reset=_keep_session,
                timeout=self._connect_seconds,
                command_timeout=self._command_seconds,
                server_settings=self._settings | _BY_KEY,
            )

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Connection]:
        """Lend a connection; the driver's errors are raised as errors of the store."""
        assert self._pool is not None
        with translated():
            # The pool's own timeout starts a task.
            async with asyncio.timeout(STORE_CONNECTION_WAIT_SECONDS):
                connection = await self._pool.acquire()
            try:
                yield connection
            except asyncio.CancelledError:
                # The release would wait until the server has ended the statement, which one that hangs never does.
                connection.terminate()
                raise
            except (asyncpg.UndefinedTableError, StoreDamaged):
                await self._check_again_where_emptied(connection)
                raise
            finally:
                await self._pool.release(connection)

    async def ping(self) -> None:
        """Raise where the server does not answer; slow reads that hold every connection do not delay it."""
        if self.connections.used < self._size:
            async with self.lend() as pooled:
                await pooled.execute(SQL["ping"])
            return
        connection = await self.connect()
        try:
            with translated():
                await connection.execute(SQL["ping"])
        finally:
            connection.terminate()

    @property
    def connections(self) -> Connections:
        """Count the connections that are used and that are idle; the third number is the limit."""
        size = idle = 0
        if self._pool is not None:
            size, idle = self._pool.get_size(), self._pool.get_idle_size()
        return Connections(size - idle, idle, self._size)

    async def connect(self, *, reads_all: bool = False) -> asyncpg.Connection[Row]:
        """Make a connection outside the pool, set for commits; `reads_all`: for whole tables, not row by row."""
        reading = {} if reads_all else _BY_KEY
        with translated():
            connection = await asyncpg.connect(
                self._dsn,
                timeout=self._connect_seconds,
                command_timeout=self._command_seconds,
                server_settings=self._settings | _COMMITS | reading,
            )
            await _set_codecs(connection)
        return connection

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[asyncpg.Connection[Row]]:
        """Make a connection outside the pool for the block, to read whole tables or to change the schema."""
        connection = await self.connect(reads_all=True)
        try:
            yield connection
        finally:
            with translated():
                await connection.close(timeout=STORE_CLOSE_SECONDS)

    async def _begin(self, connection: asyncpg.Connection[Row]) -> None:
        """Check a new connection's database: a crash may have lost commits that were read or announced before."""
        await _set_codecs(connection)
        self._checked = [checked for checked in self._checked if not checked.is_closed()]
        required = await self.stale.required(may_have_crashed=not self._checked)
        folded = await connection.fetch(SQL["folded_sequences"]) if required else ()
        self.stale.check(required, {partition: sequence for partition, sequence in folded})  # noqa: C416
        self._checked.append(connection)

    async def _check_again_where_emptied(self, connection: Connection) -> None:
        """Replace and check all connections if there is no projection: a new one begins at 0."""
        assert self._pool is not None
        if not await connection.fetchval(SQL["find_migrations"]):
            self._checked.clear()
            await self._pool.expire_connections()

    async def close(self) -> None:
        """Let reads in flight end, within a bound."""
        if self._pool is None:
            return
        try:
            await asyncio.wait_for(self._pool.close(), STORE_CLOSE_SECONDS)
        except TimeoutError:
            self._pool.terminate()


@contextmanager
def translated() -> Iterator[None]:
    """Raise the driver's errors as errors of the store."""
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        raise _as_store_error(error) from error


@asynccontextmanager
async def transaction(connection: Connection) -> AsyncIterator[None]:
    """Commit what is done within, or roll it back and raise.

    Raises `StoreUnavailable` with `is_unknown=True` where COMMIT was not answered. A connection whose
    transaction did not end is ended itself: the server then rolls back.
    """
    begun = connection.transaction()
    with translated():
        try:
            await begun.start()
        except BaseException:
            # BEGIN may be in force: what follows on this connection would never be committed.
            connection.terminate()
            raise
        try:
            yield
        except BaseException:
            await _roll_back(connection, begun.rollback)
            raise
    try:
        with translated():
            await begun.commit()
    except StoreUnavailable as error:
        connection.terminate()
        raise StoreUnavailable("COMMIT was not answered", is_unknown=True, **error.facts) from error
    except BaseException:
        connection.terminate()
        raise


@asynccontextmanager
async def read_snapshot(connection: Connection) -> AsyncIterator[None]:
    """Read all of the block as of one moment, on a connection of the pool."""
    begun = connection.transaction(isolation="repeatable_read", readonly=True)
    await begun.start()
    try:
        yield
    except Exception:
        # After a cancellation, `lend` ends the connection: ROLLBACK would wait for the statement's end.
        await begun.rollback()
        raise
    await begun.commit()


@asynccontextmanager
async def single_statement(connection: Connection) -> AsyncIterator[None]:
    """Run one statement as a transaction of its own.

    Raises `StoreUnavailable` with `is_unknown=True` where its connection was lost: it may be committed.
    """
    try:
        with translated():
            yield
    except StoreUnavailable as error:
        if not str(error.facts.get("sqlstate", "08")).startswith(_LOST):
            raise
        connection.terminate()
        raise StoreUnavailable("a commit was not answered", is_unknown=True, **error.facts) from error


@asynccontextmanager
async def ended_when_lost(connection: Connection) -> AsyncIterator[None]:
    """End the block when its connection is lost. Raises `StoreUnavailable`.

    A COPY would wait without end for the socket to take more, or fail with an error of the event loop (asyncpg 0.32.0;
    both were seen after kill -9 of PostgreSQL).
    """
    loop, is_over = asyncio.get_running_loop(), False

    def end(_: object) -> None:
        if not is_over:
            deadline.reschedule(loop.time())

    try:
        async with asyncio.timeout(None) as deadline:
            connection.add_termination_listener(end)
            try:
                yield
            finally:
                is_over = True
                connection.remove_termination_listener(end)
    except (TimeoutError, RuntimeError) as error:
        if not connection.is_closed():
            raise
        raise StoreUnavailable("the connection was lost during a commit", cause=repr(error)) from error


async def _roll_back(connection: Connection, roll_back: Callable[[], Awaitable[None]]) -> None:
    try:
        with translated():
            await roll_back()
    except StoreError:
        connection.terminate()
    except BaseException:
        connection.terminate()
        raise


def _as_store_error(error: Exception) -> StoreError:
    if isinstance(error, asyncpg.PostgresError):
        sqlstate = error.sqlstate or ""
        if sqlstate == _DISK_FULL:
            return StoreFull(cause=str(error))
        if sqlstate in _DAMAGED:
            named = _RELATION.search(str(error))
            table = {"table": named[1]} if named else {}
            return StoreDamaged(
                "a table of the projection is missing or damaged",
                cause=str(error),
                sqlstate=sqlstate,
                **table,
            )
        kind = StoreUnavailable if sqlstate.startswith(_UNAVAILABLE) else StoreError
        return kind(cause=str(error), sqlstate=sqlstate)
    if isinstance(error, asyncpg.DataError):
        return StoreError("Postgres cannot take a value", cause=str(error))
    return StoreUnavailable(cause=str(error) or type(error).__name__)


def _settings(schema: str) -> dict[str, str]:
    if not _SCHEMA.fullmatch(schema):
        rule = "a schema's name is of a-z, 0-9 and _, at most 63, and begins with no digit"
        raise Refused("bad_schema", rule, field="schema", shape=repr(schema[:80]))
    return {"search_path": schema, **_QUICK}


async def _set_codecs(connection: asyncpg.Connection[Row]) -> None:
    """Exchange JSON as bytes: Postgres keeps the text of a `json` value."""
    await connection.set_type_codec(
        "json", schema="pg_catalog", encoder=_same, decoder=bytes, format="binary"
    )


async def _keep_session(_: object) -> None:
    """Skip the driver's reset, which was half of a read: readers change nothing of their session."""


def _same(text: bytes) -> bytes:
    return text
