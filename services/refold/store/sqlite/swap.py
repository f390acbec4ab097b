"""Replace the live database file by one that a rebuild has filled: the `SchemaSwap` of SQLite.

Part of the SQLite adapter.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Final, Self, TypeVar

from refold.core.errors import StoreDamaged
from refold.store import DAMAGES, REBUILD_LOCK_SECONDS, BoundLog, Key
from refold.store.layers import RowCodec
from refold.store.layers.compression import Compression
from refold.store.ports import Row as Compared
from refold.store.ports import Unequal
from refold.store.sqlite.dictionaries import find_dictionary
from refold.store.sqlite.latest import read_namespaces
from refold.store.sqlite.pool import SQL, Connection, connect, translated
from refold.store.sqlite.rows import Row, Rows, to_shard
from refold.store.sqlite.schema import LIVE, fresh_path, point_to, read_checkpoints, with_log

T = TypeVar("T")

_PAIRS_AHEAD: Final = 1_000
"""Documents that one turn of the thread compares."""

_Pair = tuple[Row | None, Row | None]


class SqliteSchemaSwap:
    """A SchemaSwap of the two database files of one folder, in a thread of its own.

    The replaced file is deleted, or a damaged one kept: nothing of it is read then, and it may be missing.
    `kept` is its new name after the swap; empty where nothing was left of it.
    """

    def __init__(self, folder: Path, rows: Rows, thread: ThreadPoolExecutor, *, keep_as: str) -> None:
        """Use `open`."""
        self._live = folder / LIVE
        self._fresh = fresh_path(folder)
        self._former = self._live.resolve()
        self._rows = rows
        self._thread = thread
        self._keep_as = keep_as
        self._held: Connection | None = None
        self._is_swapping = self._is_swapped = False
        self.kept = ""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, folder: Path, *, keep_as: str = "", codec: RowCodec | None = None
    ) -> AsyncIterator[Self]:
        """Open a folder. `keep_as` is the name, without an ending, that a damaged file is kept under."""
        with ThreadPoolExecutor(1, "refold-swap") as thread:
            paths = [folder / LIVE, fresh_path(folder)]
            rows = Rows(codec or Compression(), partial(find_dictionary, paths))
            yield cls(folder, rows, thread, keep_as=keep_as)

    async def bound(self) -> BoundLog | None:
        """Read the log's row and the shards'."""
        return await self._run(self._bound)

    async def prepare(self) -> None:
        """Do nothing: what reads the live file follows its link."""

    async def clear(self) -> None:
        """Delete what an earlier rebuild left."""
        await self._run(partial(_delete, self._fresh))

    async def copy_indexes(self) -> None:
        """Copy the indexes of tables that still exist."""
        with suppress(StoreDamaged):
            await self._run(self._copy_indexes)

    async def unequal(self, after_sequence: int, until_sequence: int) -> AsyncGenerator[Unequal]:
        """Compare the rows of both in the order of names, each file as of one moment."""
        async with self._both() as sides:
            pairs = _pairs(*(side.execute(SQL["compared_documents"]) for side in sides))
            compare = partial(self._compare, after_sequence, until_sequence)
            while part := await self._run(lambda: list(islice(pairs, _PAIRS_AHEAD))):
                for found in await self._run(partial(compare, part)):
                    yield found

    async def unequal_counts(self) -> AsyncGenerator[Unequal]:
        """Compare checkpoints and counts by their text."""
        async with self._both() as sides:
            for found in await self._run(partial(_compare_counts, *sides)):
                yield found

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Be the live file's writer, so that commits wait; they fail once the link leads to another file.

        The link is replaced as the block ends, where nothing can be cancelled.
        """
        self._is_swapping = False
        try:
            # Without a file that can be read, no commit is possible.
            with suppress(StoreDamaged):
                await self._run(self._lock)
            yield
            if self._is_swapping:
                self._replace()
        finally:
            self._thread.submit(self._unlock)

    async def swap(self) -> None:
        """Replace the live file when the hold ends."""
        self._is_swapping = True

    async def drop_former(self) -> None:
        """Delete the replaced file, unless it is kept."""
        if self._is_swapped and not self._keep_as:
            await self._run(partial(_delete, self._former))

    async def _run(self, call: Callable[[], T]) -> T:
        def translating() -> T:
            with translated():
                return call()

        return await asyncio.get_running_loop().run_in_executor(self._thread, translating)

    @asynccontextmanager
    async def _both(self) -> AsyncIterator[tuple[Connection, Connection]]:
        """Open both files, each in a view of its own."""

        def begin(path: Path) -> Connection:
            connection = stack.enter_context(closing(connect(path, REBUILD_LOCK_SECONDS)))
            connection.execute("BEGIN")
            return connection

        stack = ExitStack()
        try:
            yield await self._run(lambda: (begin(self._live), begin(self._fresh)))
        finally:
            # In the thread, after what it reads now.
            self._thread.submit(stack.close)

    def _bound(self) -> BoundLog | None:
        if not self._live.exists():
            return None
        with suppress(StoreDamaged), translated(), closing(connect(self._live, REBUILD_LOCK_SECONDS)) as live:
            row = live.execute(SQL["bound_log"]).fetchone()
            if row is None:
                return None
            sequence = 0
            with suppress(StoreDamaged), translated():
                shards = map(to_shard, live.execute(SQL["shards"]))
                sequence = min((shard.read_sequence for shard in shards), default=0)
            return BoundLog(row[0], sequence)
        return None

    def _copy_indexes(self) -> None:
        if not self._live.exists():
            return
        with (
            closing(connect(self._live, REBUILD_LOCK_SECONDS)) as live,
            closing(connect(self._fresh, REBUILD_LOCK_SECONDS)) as fresh,
        ):
            known = {row[0] for row in fresh.execute(SQL["indexes"])}
            for name, definition in live.execute(SQL["indexes"]).fetchall():
                if name not in known:
                    fresh.execute(definition)

    def _compare(self, after_sequence: int, until_sequence: int, pairs: list[_Pair]) -> list[Unequal]:
        found = []
        for live, fresh in pairs:
            sequences = [row[2] for row in (live, fresh) if row is not None]
            is_later = live is not None and live[2] > until_sequence
            if max(sequences) > after_sequence and not is_later and live != fresh:
                sides = self._compared(live), self._compared(fresh)
                # Two equal states may be encoded in different ways.
                if sides[0] != sides[1] or live is None or fresh is None or live[:-1] != fresh[:-1]:
                    key = _name(live or fresh)
                    found.append(Unequal(*key, *sides))
        return found

    def _compared(self, row: Row | None) -> Compared | None:
        if row is None:
            return None
        namespace, document, last_sequence, version, *_, stored = row
        try:
            state = self._rows.to_state((namespace, document), stored)
            state_hash = None if state is None else sha256(state).hexdigest()
        except DAMAGES:
            state_hash = "unreadable"
        return Compared(version, last_sequence, state_hash)

    def _lock(self) -> None:
        if self._live.exists():
            self._held = connect(self._live, REBUILD_LOCK_SECONDS)
            self._held.execute("BEGIN IMMEDIATE")

    def _unlock(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            # Rolls back what has written nothing.
            held.close()

    def _replace(self) -> None:
        """Let the link lead to the fresh file, and put a damaged one aside."""
        with translated():
            point_to(self._live, self._fresh)
            self._is_swapped = True
            if self._keep_as and self._former.exists():
                kept = self._former.with_name(f"{self._keep_as}.sqlite")
                for path, target in zip(with_log(self._former), with_log(kept), strict=True):
                    if path.exists():
                        path.rename(target)
                self.kept = kept.name


def _delete(path: Path) -> None:
    for each in with_log(path):
        each.unlink(missing_ok=True)


def _pairs(live: Iterator[Row], fresh: Iterator[Row]) -> Iterator[_Pair]:
    """Join the rows of two files, each in the order of names."""
    left, right = next(live, None), next(fresh, None)
    while left is not None or right is not None:
        is_left = left is not None and (right is None or _name(left) <= _name(right))
        is_right = right is not None and (left is None or _name(right) <= _name(left))
        yield left if is_left else None, right if is_right else None
        left = next(live, None) if is_left else left
        right = next(fresh, None) if is_right else right


def _name(row: Row | None) -> Key:
    assert row is not None
    return row[0], row[1]


def _compare_counts(live: Connection, fresh: Connection) -> list[Unequal]:
    checkpoints = zip(read_checkpoints(live), read_checkpoints(fresh), strict=True)
    found = [Unequal("", "", str(left), str(right)) for left, right in checkpoints if left != right]
    counts = [{count.namespace: count for count in read_namespaces(side)} for side in (live, fresh)]
    for name in sorted(counts[0].keys() | counts[1].keys()):
        texts = [
            f"{side[name].documents} documents, {side[name].events} events" if name in side else None
            for side in counts
        ]
        if texts[0] != texts[1]:
            found.append(Unequal(name, "", texts[0], texts[1]))
    return found
