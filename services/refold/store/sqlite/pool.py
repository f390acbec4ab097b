"""Connections to one database file, its threads, and named statements. Only `schema` imports the driver, too.

Part of the SQLite adapter. Point reads take microseconds and run in the event loop; scans and commits run in threads.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from refold.core.errors import (
    FenceLost,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from refold.core.stream import PARTITIONS
from refold.store import Connections
from refold.store.sql import statements_of
from refold.store.stale import StaleCheck

Connection = sqlite3.Connection
T = TypeVar("T")

VERSION: Final = sqlite3.sqlite_version

STORE_SCANS_MAX: Final = 2
"""Threads of one process that read many rows."""

STORE_WRITE_WAIT_SECONDS: Final = 60.0
"""The longest that a commit waits for the writer of another shard, or for a rebuild's swap."""

STORE_READ_WAIT_SECONDS: Final = 0.5
"""The longest that a read waits: only while another process recovers the file after a crash."""

_SETTINGS: Final = """
    PRAGMA synchronous = NORMAL;
    PRAGMA cell_size_check = ON;
    PRAGMA trusted_schema = OFF;
    PRAGMA temp_store = MEMORY;
    PRAGMA cache_size = -16384;
    PRAGMA wal_autocheckpoint = 4000;
    PRAGMA journal_size_limit = 67108864;
"""
"""A checkpoint every 16 MiB of the write-ahead log, a quarter as often as by default."""

SQL: Final = statements_of(__package__)
"""The statements of `queries.sql` by name."""

_TABLE: Final = re.compile(r"no such (?:table|column): (?:\w+\.)?(\w+)")
_NO_TEXT: Final = "Could not decode to UTF-8"
"""The driver's own error, without a code, for a text whose bytes are damaged."""

_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_UNAVAILABLE: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_PROTOCOL,
    }
)


class FileId(NamedTuple):
    """A file's device and inode: another file under the same name has another."""

    device: int
    inode: int

    @classmethod
    def of(cls, path: str) -> FileId:
        """Return the id of the file that a path leads to. Raises `StoreUnavailable` where there is none."""
        try:
            found = os.stat(path)  # noqa: PTH116 - a third of the time of `Path.stat`, before every read
        except OSError as error:
            raise StoreUnavailable("the database file is gone", path=path, cause=str(error)) from error
        return cls(found.st_dev, found.st_ino)


class Pool:
    """Connections to the file that a path leads to at the time; a rebuild may replace it at any time.

    A file that takes the place of another is read once it has folded as much: it may be one that is filled anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stale = StaleCheck()
        self.read_folded: Callable[[Connection], Mapping[int, int]] = _nothing_folded
        self._checked: FileId | None = None
        self._reader = _Kept(path, STORE_READ_WAIT_SECONDS)
        self._next_reader = _Kept(path, STORE_READ_WAIT_SECONDS)
        self._writer = _Kept(path, STORE_WRITE_WAIT_SECONDS)
        self._scanning = threading.local()
        self._scanners: list[_Kept] = []
        self._scans_running = 0
        self._scans = ThreadPoolExecutor(STORE_SCANS_MAX, "refold-scan")
        self._writes = ThreadPoolExecutor(1, "refold-write")

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """Lend the event loop's connection, in one consistent view: the block must not wait."""
        with translated():
            file = await self._file()
            with view(self._reader.connection(file)) as connection:
                yield connection

    async def fetch_one(self, statement: str, given: Sequence[object]) -> tuple[Any, ...] | None:
        """Read the first row of one statement in the event loop, in half of the time of `reading`."""
        try:
            file = await self._file()
            reader = self._reader.connection(file)
            row: tuple[Any, ...] | None = reader.execute(SQL[statement], given).fetchone()
        except (sqlite3.Error, OSError) as error:
            raise _as_store_error(error) from error
        return row

    async def scan(self, read: Callable[[Connection], T]) -> T:
        """Read in a thread, in one consistent view."""
        file = await self._file()
        self._scans_running += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._scans, partial(self._scan, read, file)
            )
        finally:
            self._scans_running -= 1

    @property
    def scans(self) -> Connections:
        """Count the threads that read: other reads are in the event loop, and wait for none."""
        used = min(self._scans_running, STORE_SCANS_MAX)
        return Connections(used, STORE_SCANS_MAX - used, STORE_SCANS_MAX)

    async def write(self, write: Callable[[Connection], T]) -> T:
        """Call in the writer's thread, one at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._writes, partial(self._write, write))

    @contextmanager
    def transaction(self, connection: Connection, *, is_synchronous: bool) -> Iterator[None]:
        """Write alone, in the writer's thread, and commit or roll back; `is_synchronous`: wait for the disk.

        Raises `FenceLost` where the path leads to another file by now, and `StoreUnavailable` with `is_unknown=True`
        where the commit itself failed: a crash may bring it back.
        """
        connection.execute(f"PRAGMA synchronous = {'FULL' if is_synchronous else 'NORMAL'}")
        connection.execute("BEGIN IMMEDIATE")
        try:
            # A rebuild swaps while it holds the lock that was waited for.
            if FileId.of(str(self.path)) != self._writer.file:
                raise FenceLost("the projection was replaced by another")
            yield
        except BaseException:
            _roll_back(connection)
            raise
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            _roll_back(connection)
            made = _as_store_error(error)
            if isinstance(made, StoreUnavailable):
                raise StoreUnavailable("a commit failed", is_unknown=True, **made.facts) from error
            raise made from error

    def forget(self) -> None:
        """Read whichever file there is from now on: this process continues from what that has folded."""
        self._checked = None
        self._reader.close()

    async def close(self) -> None:
        """Let what runs in the threads end, and close all connections."""
        await asyncio.to_thread(self._writes.shutdown)
        await asyncio.to_thread(self._scans.shutdown)
        for kept in (self._reader, self._next_reader, self._writer, *self._scanners):
            kept.close()

    async def _file(self) -> FileId:
        """Return the file that is read. Raises `StoreUnavailable` where it is gone, or has not folded enough yet."""
        file = FileId.of(str(self.path))
        if file != self._checked:
            with translated():
                await self._check(file)
        return file

    async def _check(self, file: FileId) -> None:
        """Check a file that has taken the place of another: it must have what could be read before."""
        before, is_lost = self._folded_before()
        sent = await self.stale.required(may_have_crashed=is_lost) or [0] * PARTITIONS
        required = [max(sequence, before.get(partition, 0)) for partition, sequence in enumerate(sent)]
        # It stays open, so that it can be asked once it is deleted.
        opened = self._next_reader.connection(file)
        self.stale.check(required, self.read_folded(opened) if any(required) else {})
        self._reader.close()
        self._reader, self._next_reader = self._next_reader, self._reader
        self._checked = file

    def _folded_before(self) -> tuple[Mapping[int, int], bool]:
        """Return what the former file has folded, which is still open though it may be deleted; True: it is lost."""
        try:
            return {} if self._reader.opened is None else self.read_folded(self._reader.opened), False
        except (sqlite3.Error, StoreError):
            return {}, True

    def _scan(self, read: Callable[[Connection], T], file: FileId) -> T:
        kept: _Kept | None = getattr(self._scanning, "kept", None)
        if kept is None:
            kept = self._scanning.kept = _Kept(self.path, STORE_WRITE_WAIT_SECONDS)
            self._scanners.append(kept)
        with translated(), view(kept.connection(file)) as connection:
            return read(connection)

    def _write(self, write: Callable[[Connection], T]) -> T:
        with translated():
            return write(self._writer.connection(FileId.of(str(self.path))))


class _Kept:
    """A connection that is opened when it is first used, and again when its file has been replaced."""

    def __init__(self, path: Path, wait_seconds: float) -> None:
        self._path = path
        self._wait_seconds = wait_seconds
        self.file: FileId | None = None
        self.opened: Connection | None = None

    def connection(self, file: FileId) -> Connection:
        """Return a connection to a file that the path leads to. Raises `StoreUnavailable` where it no longer does."""
        if self.opened is None or file != self.file:
            self.close()
            self.opened, self.file = connect(self._path, self._wait_seconds), file
            if FileId.of(str(self._path)) != file:
                self.close()
                raise StoreUnavailable("the database file was replaced by another", path=str(self._path))
        return self.opened

    def close(self) -> None:
        opened, self.opened = self.opened, None
        if opened is not None:
            opened.close()


def _nothing_folded(_: Connection) -> Mapping[int, int]:
    return {}


def connect(path: Path, wait_seconds: float) -> Connection:
    """Open an existing file; other files are not created. Transactions are begun and ended by statements."""
    uri = f"{path.resolve().as_uri()}?mode=rw"
    options = {"isolation_level": None, "check_same_thread": False, "cached_statements": len(SQL) + 16}
    connection = sqlite3.connect(uri, timeout=wait_seconds, uri=True, **options)  # type: ignore[call-overload]
    try:
        connection.executescript(_SETTINGS)
    except BaseException:
        connection.close()
        raise
    return connection  # type: ignore[no-any-return]


@contextmanager
def view(connection: Connection) -> Iterator[Connection]:
    """Read everything in the block as of one moment."""
    connection.execute("BEGIN")
    try:
        yield connection
    finally:
        _roll_back(connection)


def _roll_back(connection: Connection) -> None:
    # Some errors have rolled back already.
    if connection.in_transaction:
        connection.execute("ROLLBACK")


@contextmanager
def translated() -> Iterator[None]:
    """Raise the driver's errors as errors of the store."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise _as_store_error(error) from error


def _as_store_error(error: sqlite3.Error | OSError) -> StoreError:
    cause, code = str(error), getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or getattr(error, "errno", 0) in {errno.ENOSPC, errno.EDQUOT}:
        return StoreFull("the disk of the database file is full", cause=cause)
    missing = _TABLE.search(cause)
    if code in _DAMAGED or missing or cause.startswith(_NO_TEXT):
        table = {"table": missing[1]} if missing else {}
        return StoreDamaged("the database file is damaged", cause=cause, **table)
    if code in _UNAVAILABLE or isinstance(error, OSError):
        return StoreUnavailable("the database file cannot be used", cause=cause)
    return StoreError(cause=cause)
