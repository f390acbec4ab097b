"""Connections to PostgreSQL, and the only place that imports the driver or knows its errors.

For this adapter alone.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final, TypeAlias

import asyncpg

from refold.core.errors import (
    LogError,
    Refused,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreUnavailable,
    TimedOut,
)
from refold.core.limits import (
    STORE_CLOSE_SECONDS,
    STORE_COMMAND_SECONDS,
    STORE_CONNECT_SECONDS,
    STORE_CONNECTION_WAIT_SECONDS,
)
from refold.store.postgres.sql import SQL

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

Row = asyncpg.Record
Connection: TypeAlias = "asyncpg.Connection[Row] | PoolConnectionProxy[Row]"

_SCHEMA: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}", re.ASCII)
_DISK_FULL: Final = "53100"
_CANCELED: Final = "57014"
_DAMAGED: Final = ("XX001", "XX002", "58P01", "42P01", "42703", "42883")
"""SQLSTATEs of corrupt data, a corrupt index, a missing file, an undefined table, column or function."""

_RELATION: Final = re.compile(r'relation "(?:\w+\.)?(\w+)"')
_AWAY: Final = ("08", "28", "3D", "40", "53", "55", "57P", "25006")
"""SQLSTATEs that begin so: the server is away, full up, read-only or asks to try again."""

_NEVER_REPLACED: Final = 2**63
"""Queries after which the driver would replace a connection: a lost one is the sign of a crash."""

_QUICK: Final = {"jit": "off", "application_name": "refold"}
_BY_KEY: Final = {
    # A plan is kept that may have been made while the tables were empty: what has a key is found by it all the same.
    "enable_seqscan": "off",
}
_COMMITS: Final = {
    "synchronous_commit": "off",
    # Planning the one statement of a commit costs more than running it, and its arrays' lengths change nothing.
    "plan_cache_mode": "force_generic_plan",
    # A machine that vanished without a word must not own the shard for the two hours that are usual.
    "tcp_keepalives_idle": "15",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}


class Pool:
    """Connections for reading, at most `size` at once."""

    def __init__(self, dsn: str, schema: str, size: int) -> None:
        """Connect nothing yet."""
        self._dsn = dsn
        self._settings = _settings(schema)
        self._size = size
        self._pool: asyncpg.Pool[Row] | None = None
        self._checked: list[asyncpg.Connection[Row]] = []
        self._end_sequence: int | None = None
        self.told_sequence: Callable[[], int] = int
        self.end_sequence: Callable[[], Awaitable[int]] = _nothing

    async def open(self) -> None:
        """Begin without a connection: the first read makes it."""
        with translated():
            self._pool = await asyncpg.create_pool(
                self._dsn,
                min_size=0,
                max_size=self._size,
                max_inactive_connection_lifetime=0,
                max_queries=_NEVER_REPLACED,
                init=self._begin,
                reset=_leave_as_it_is,
                timeout=STORE_CONNECT_SECONDS,
                command_timeout=STORE_COMMAND_SECONDS,
                server_settings=self._settings | _BY_KEY,
            )

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Connection]:
        """Lend a connection; what fails with it is raised as an error of the store."""
        assert self._pool is not None
        with translated():
            async with self._pool.acquire(timeout=STORE_CONNECTION_WAIT_SECONDS) as connection:
                yield connection

    async def connect(self, *, reads_all: bool = False) -> asyncpg.Connection[Row]:
        """Make a connection of one's own, set for commits; `reads_all`: for whole tables, not row by row."""
        reading = {} if reads_all else _BY_KEY
        with translated():
            connection = await asyncpg.connect(
                self._dsn,
                timeout=STORE_CONNECT_SECONDS,
                command_timeout=STORE_COMMAND_SECONDS,
                server_settings=self._settings | _COMMITS | reading,
            )
            await _set_codecs(connection)
        return connection

    async def _begin(self, connection: asyncpg.Connection[Row]) -> None:
        """Take no database that has lost what was read: its last commits were not synced when it crashed."""
        await _set_codecs(connection)
        required_sequence = await self._required_sequence()
        if required_sequence:
            folded_sequence = await connection.fetchval(SQL["folded_sequence"]) or 0
            if folded_sequence < required_sequence:
                message = (
                    "the database may have lost its last commits, and is being folded up to the log's end"
                )
                facts = {"folded_sequence": folded_sequence, "required_sequence": required_sequence}
                raise StoreUnavailable(message, **facts)
        self._checked.append(connection)
        self._end_sequence = None

    async def _required_sequence(self) -> int:
        """Return what a new connection's database must have folded.

        While another connection stands, the database has not crashed since that one was checked. Once none does, it
        may have: commits that were read before, announced or not, are then all behind the log's end of now.
        """
        self._checked = [checked for checked in self._checked if not checked.is_closed()]
        told_sequence = self.told_sequence()
        if self._checked:
            return told_sequence
        if self._end_sequence is None:
            try:
                self._end_sequence = await self.end_sequence()
            except LogError as error:
                message = "the log's end is not known, and so not whether the database has lost commits"
                raise StoreUnavailable(message, cause=str(error)) from error
        return max(told_sequence, self._end_sequence)

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


def _as_store_error(error: Exception) -> StoreError | TimedOut:
    if isinstance(error, asyncpg.PostgresError):
        sqlstate = error.sqlstate or ""
        if sqlstate == _DISK_FULL:
            return StoreFull(cause=str(error))
        if sqlstate == _CANCELED:
            return TimedOut(cause=str(error))
        if sqlstate in _DAMAGED:
            named = _RELATION.search(str(error))
            table = {"table": named[1]} if named else {}
            return StoreDamaged(cause=str(error), sqlstate=sqlstate, **table)
        kind = StoreUnavailable if sqlstate.startswith(_AWAY) else StoreError
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
    """Give and take JSON as its bytes: Postgres keeps a `json` value's text as it came."""
    await connection.set_type_codec(
        "json", schema="pg_catalog", encoder=_same, decoder=bytes, format="binary"
    )


async def _nothing() -> int:
    return 0


async def _leave_as_it_is(_: object) -> None:
    """Readers change nothing of their session (settings are LOCAL): the driver's reset was half of a read."""


def _same(text: bytes) -> bytes:
    return text
