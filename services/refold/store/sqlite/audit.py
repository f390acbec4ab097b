"""Read a whole projection in one consistent view: the `Auditor` of SQLite.

Part of the SQLite adapter.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from heapq import merge
from itertools import islice
from typing import Final, TypeVar

from refold.core.history import Snapshot
from refold.core.stream import Checkpoint
from refold.store import DAMAGES, LAST, NamespaceCount
from refold.store.ports import (
    Item,
    ReadSnapshot,
    StoredEntry,
    StoredHead,
    StoredPage,
    Unreadable,
    position_of,
)
from refold.store.sqlite.latest import read_namespaces
from refold.store.sqlite.pool import (
    SQL,
    STORE_WRITE_WAIT_SECONDS,
    Connection,
    Pool,
    connect,
    translated,
)
from refold.store.sqlite.rows import Row, Rows
from refold.store.sqlite.schema import read_checkpoints

T = TypeVar("T")

DAMAGES_MAX: Final = 100
"""Damages of the file that are reported."""

_ITEMS_AHEAD: Final = 32
"""Items that one turn of the thread reads."""


@asynccontextmanager
async def hold_read_snapshot(pool: Pool, rows: Rows) -> AsyncIterator[ReadSnapshot]:
    """Hold a view of the database on its own connection, in its own thread."""
    with ThreadPoolExecutor(1, "refold-read-snapshot") as thread:
        with translated():
            connection = connect(pool.path, STORE_WRITE_WAIT_SECONDS)
        snapshot = _ReadSnapshot(thread, connection, rows)
        try:
            await snapshot.begin()
            yield snapshot
        finally:
            # Also after a cancellation: the thread ends what it reads first.
            thread.submit(snapshot.close)


class _ReadSnapshot:
    def __init__(self, thread: ThreadPoolExecutor, connection: Connection, rows: Rows) -> None:
        self._thread = thread
        self._connection = connection
        self._rows = rows

    async def begin(self) -> None:
        """Begin the view, which SQLite does with the first read."""
        await self._run(lambda: self._connection.execute("BEGIN"))
        await self._run(lambda: self._connection.execute(SQL["bound_log"]).fetchone())

    def close(self) -> None:
        self._connection.close()

    async def checkpoints(self) -> list[Checkpoint]:
        return await self._run(partial(read_checkpoints, self._connection))

    async def namespaces(self) -> list[NamespaceCount]:
        return await self._run(partial(read_namespaces, self._connection))

    async def damages(self) -> list[Unreadable]:
        """Compare each index with its table, and decode each dictionary."""
        return await self._run(self._damages)

    async def items(self, namespace: str | None, document: str | None) -> AsyncGenerator[Item]:
        """Merge four sorted cursors."""
        bounds = (*_bounds(namespace), *_bounds(document))
        sources = [
            self._read("snapshot_documents", bounds, self._head),
            self._read("snapshot_pages", bounds, self._page),
            self._read("snapshot_journal", bounds, self._entry),
            self._read("snapshot_rejections", bounds, self._rejection),
        ]
        merged = merge(*sources, key=position_of)
        while items := await self._run(lambda: list(islice(merged, _ITEMS_AHEAD))):
            for item in items:
                yield item

    def _damages(self) -> list[Unreadable]:
        checked = self._connection.execute(f"PRAGMA integrity_check({DAMAGES_MAX})").fetchall()
        found = [Unreadable("", "", 0, "file", why) for (why,) in checked if why != "ok"]
        for number, namespace, stored in self._connection.execute(SQL["dictionaries_after"], (0,)):
            try:
                self._rows.to_dictionary(number, namespace, stored)
            except DAMAGES as error:
                found.append(_unreadable((namespace, ""), number, "dictionary", error))
        return found

    async def _run(self, read: Callable[[], T]) -> T:
        with translated():
            return await asyncio.get_running_loop().run_in_executor(self._thread, read)

    def _read(self, statement: str, bounds: tuple[str, ...], read: Callable[[Row], Item]) -> Iterator[Item]:
        for row in self._connection.execute(SQL[statement], bounds):
            yield read(row)

    def _head(self, row: Row) -> Item:
        key = (row[0], row[1])
        try:
            return StoredHead(*self._rows.to_row(key, row[2:]), None)
        except DAMAGES as error:
            return _unreadable(row, row[5], "document", error)

    def _page(self, row: Row) -> Item:
        key, at = (row[0], row[1]), row[2]
        _, _, _, events, ids, identities, conflicts, version, snapshot, *since, payload = row
        try:
            entries = self._rows.to_packed(key, at, payload).unpack()
            if not entries:
                raise ValueError("a page without events")
            closing = Snapshot(version, self._rows.to_snapshot(key, at, snapshot), *since)
            return StoredPage(*key, entries, closing, at, events, ids, identities, conflicts)
        except DAMAGES as error:
            return _unreadable(row, at, "page", error)

    def _entry(self, row: Row) -> Item:
        namespace, document, sequence, stored = row
        try:
            entry = self._rows.to_entry((namespace, document), sequence, stored)
            return StoredEntry(namespace, document, entry)
        except DAMAGES as error:
            return _unreadable(row, sequence, "journal", error)

    def _rejection(self, row: Row) -> Item:
        try:
            return self._rows.to_rejection(row)
        except DAMAGES as error:
            return _unreadable(row, row[3], "rejection", error)


def _bounds(name: str | None) -> tuple[str, str]:
    return ("", LAST) if name is None else (name, name)


def _unreadable(row: Row, sequence: int, part: str, error: Exception) -> Unreadable:
    return Unreadable(row[0], row[1], sequence, part, f"{type(error).__name__}: {error}")
