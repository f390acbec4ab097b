"""Read from several stores of one log: the first that answers and has what the read needs.

The gateway's reader where there is more than one store. No answer is older than an earlier one of this reader.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Final

from refold.core.document import Document
from refold.core.errors import StoreError, StoreUnavailable, TimedOut
from refold.core.history import Entry, Point, Segment, Snapshot
from refold.core.stream import Checkpoint
from refold.store import (
    Capabilities,
    Depth,
    Head,
    Key,
    Names,
    NamespaceCount,
    Page,
    Rejection,
    VersionAt,
    partition_of_key,
    refuse_where,
)
from refold.store.layers.sources import ALL_PARTITIONS, Result, Source, Sources
from refold.store.ports import Reader

ANSWER_SECONDS: Final = 1.0
"""A store that has not answered by then is taken for one that does not answer.

A read of one document counts as its answer. A longer read may take its time: it goes on as long as the store answers a
ping, made each time that this has passed, so that one that hangs is given up after twice as long.
"""


class FallbackReader:
    """A `Reader`, with `load`, over several stores. Raises `StoreBehind` where none has what is needed in time."""

    def __init__(
        self,
        sources: Sources,
        *,
        is_strict: bool = False,
    ) -> None:
        """Strict reads need all that is known to be committed in any store."""
        self.sources = sources
        self._is_strict = is_strict

    def strict(self) -> FallbackReader:
        """Return a reader of the same stores whose answers have all that is known to be committed in any."""
        return FallbackReader(self.sources, is_strict=True)

    @property
    def capabilities(self) -> Capabilities:
        stores = self.sources.stores
        is_full = any(source.is_full for source in stores)
        return Capabilities(
            depth=Depth.full if is_full else Depth.recent,
            has_where=any(source.has_where for source in stores),
        )

    # --- The newest state --------------------------------------------------------------------------------

    async def checkpoints(self) -> list[Checkpoint]:
        """Read every store's checkpoints, and return those of the store that is furthest."""
        usable = [source for source in self.sources.stores if source.is_usable]
        found = await asyncio.gather(*map(self._checkpoints, usable), return_exceptions=True)
        read = [each for each in found if not isinstance(each, BaseException)]
        if not read:
            for error in found:
                if isinstance(error, BaseException):
                    raise error
            raise StoreUnavailable("no store can be reached")
        return max(read, key=lambda each: min((one.read_sequence for one in each), default=0))

    async def epoch(self) -> str:
        """Join the stores' epochs: what one of them answers is of its own projection.

        A store that does not answer keeps the epoch that was read last, so that what is cached stays while another
        store serves all reads. Its epoch is read again when it answers again.
        """
        stores = self.sources.stores
        await asyncio.gather(*map(self._read_epoch, stores))
        return " ".join(f"{source.name}:{source.epoch}" for source in stores)

    async def head(self, namespace: str, document: str, *, known_version: int | None = None) -> Head | None:
        return await self._of_document(
            (namespace, document),
            lambda store: store.head(namespace, document, known_version=known_version),
            lambda head: 0 if head is None else head.last_sequence,
        )

    async def load(self, keys: Sequence[Key]) -> list[Document]:
        source, found = await self._read(lambda store: store.load(keys), ALL_PARTITIONS)
        for document in found:
            self.sources.note_answer(source, document.partition, document.last_sequence)
        return found

    async def other_versions(self, known: Mapping[Key, VersionAt]) -> dict[Key, VersionAt]:
        source, found = await self._read(lambda store: store.other_versions(known), ALL_PARTITIONS)
        for key, version in found.items():
            self.sources.note_answer(source, partition_of_key(key), version.sequence)
        return found

    async def list_documents(
        self,
        namespace: str,
        *,
        prefix: str,
        where: str | None,
        limit: int,
        cursor: str | None,
        is_bare: bool = False,
    ) -> Page:
        async def found(store: Reader) -> Page | TimedOut:
            try:
                return await store.list_documents(
                    namespace, prefix=prefix, where=where, limit=limit, cursor=cursor, is_bare=is_bare
                )
            except TimedOut as error:
                # The search is expensive; that says nothing about the store.
                return error

        able = [source for source in self.sources.stores if where is None or source.has_where]
        if not able:
            if any(source.reader is None for source in self.sources.stores):
                raise StoreUnavailable(
                    "the stores that can be reached cannot search, and one cannot be reached"
                )
            refuse_where(where)
        page = await self._of_many(found, able)
        if isinstance(page, TimedOut):
            raise page
        return page

    async def list_names(self, namespace: str, *, prefix: str, limit: int, cursor: str | None) -> Names:
        return await self._of_many(
            lambda store: store.list_names(namespace, prefix=prefix, limit=limit, cursor=cursor)
        )

    async def namespaces(self) -> list[NamespaceCount]:
        return await self._of_many(lambda store: store.namespaces())

    async def ping(self) -> None:
        """Raise where no store can be reached."""
        await self.checkpoints()

    # --- The past ----------------------------------------------------------------------------------------

    async def snapshot_at(self, namespace: str, document: str, point: Point) -> Snapshot | None:
        return await self._of_document(
            (namespace, document),
            lambda store: store.snapshot_at(namespace, document, point),
            lambda snapshot: 0 if snapshot is None else snapshot.sequence,
            self._by_depth(),
        )

    def segments(
        self, namespace: str, document: str, *, after_version: int | None, is_descending: bool
    ) -> AsyncGenerator[Segment, None]:
        return self._stream(
            (namespace, document),
            lambda store: store.segments(
                namespace, document, after_version=after_version, is_descending=is_descending
            ),
            lambda segment: segment.entries[-1].sequence if segment.entries else segment.base_sequence,
        )

    async def entry(self, namespace: str, document: str, sequence: int) -> Entry | None:
        return await self._of_document(
            (namespace, document),
            lambda store: store.entry(namespace, document, sequence),
            _sequence_of,
            self._by_depth(),
        )

    async def entries_between(
        self, namespace: str, documents: Sequence[str], *, after_sequence: int, until_sequence: int
    ) -> list[tuple[str, Entry]]:
        return await self._of_many(
            lambda store: store.entries_between(
                namespace, documents, after_sequence=after_sequence, until_sequence=until_sequence
            ),
            self._by_depth(),
        )

    async def find_id(self, namespace: str, document: str, event_id: str) -> Entry | None:
        return await self._of_document(
            (namespace, document), lambda store: store.find_id(namespace, document, event_id), _sequence_of
        )

    async def rejections(
        self, namespace: str | None, document: str | None, *, limit: int, before_sequence: int | None
    ) -> list[Rejection]:
        return await self._of_many(
            lambda store: store.rejections(namespace, document, limit=limit, before_sequence=before_sequence),
            self._by_depth(),
        )

    def conflicts(
        self, namespace: str, document: str, *, after_sequence: int | None, is_descending: bool
    ) -> AsyncGenerator[list[Entry]]:
        return self._stream(
            (namespace, document),
            lambda store: store.conflicts(
                namespace, document, after_sequence=after_sequence, is_descending=is_descending
            ),
            lambda entries: max((entry.sequence for entry in entries), default=0),
        )

    async def open_conflicts(
        self,
        namespace: str | None,
        document: str | None,
        *,
        after_sequence: int | None,
        is_descending: bool,
        limit: int,
    ) -> list[Rejection]:
        return await self._of_many(
            lambda store: store.open_conflicts(
                namespace, document, after_sequence=after_sequence, is_descending=is_descending, limit=limit
            ),
            self._by_depth(),
        )

    async def list_at(
        self, namespace: str, point: Point, *, prefix: str, limit: int, cursor: str | None
    ) -> Page:
        return await self._of_many(
            lambda store: store.list_at(namespace, point, prefix=prefix, limit=limit, cursor=cursor),
            self._by_depth(),
        )

    # --- One read ----------------------------------------------------------------------------------------

    def _by_depth(self) -> list[Source]:
        """Return the stores with those of full depth first."""
        return sorted(self.sources.stores, key=lambda source: not source.is_full)

    async def _of_document(
        self,
        key: Key,
        call: Callable[[Reader], Awaitable[Result]],
        shown: Callable[[Result], int],
        order: Iterable[Source] = (),
    ) -> Result:
        """Read of one document; `shown` returns the highest sequence that an answer shows."""
        partition = partition_of_key(key)

        source, result = await self.sources.read(
            lambda store: _in_time(call(store)),
            range(partition, partition + 1),
            order,
            is_strict=self._is_strict,
        )
        self.sources.note_answer(source, partition, shown(result))
        return result

    async def _of_many(
        self, call: Callable[[Reader], Awaitable[Result]], order: Iterable[Source] = ()
    ) -> Result:
        """Read of many documents; the checkpoints after it bound what it shows."""

        async def with_checkpoints(store: Reader) -> tuple[Result, list[Checkpoint]]:
            return await call(store), await store.checkpoints()

        source, (result, checkpoints) = await self._read(with_checkpoints, ALL_PARTITIONS, order)
        for checkpoint in checkpoints:
            self.sources.note_answer(source, checkpoint.partition, checkpoint.read_sequence)
        return result

    async def _stream(
        self,
        key: Key,
        call: Callable[[Reader], AsyncGenerator[Result, None]],
        shown: Callable[[Result], int],
    ) -> AsyncGenerator[Result, None]:
        """Yield from the store that gives the first part; a later failure is raised."""
        partition = partition_of_key(key)

        async def begin(store: Reader) -> tuple[AsyncGenerator[Result, None], list[Result]]:
            parts = call(store)
            try:
                return parts, [await anext(parts)]
            except StopAsyncIteration:
                return parts, []
            except BaseException:
                await parts.aclose()
                raise

        source, (parts, first) = await self._read(begin, range(partition, partition + 1), self._by_depth())
        async with aclosing(parts):
            for part in first:
                self.sources.note_answer(source, partition, shown(part))
                yield part
            async for part in parts:
                self.sources.note_answer(source, partition, shown(part))
                yield part

    async def _read(
        self, call: Callable[[Reader], Awaitable[Result]], partitions: range, order: Iterable[Source] = ()
    ) -> tuple[Source, Result]:
        """Make a read that may take long."""
        return await self.sources.read(
            lambda store: _while_answering(store, call(store)), partitions, order, is_strict=self._is_strict
        )

    async def _read_epoch(self, source: Source) -> None:
        """Read one store's epoch, where it can be reached."""
        if source.is_usable:
            assert source.reader is not None
            with suppress(StoreError), source.breaker.call():
                source.epoch = await _in_time(source.reader.epoch())

    async def _checkpoints(self, source: Source) -> list[Checkpoint]:
        known = list(source.sequences)
        assert source.reader is not None
        with source.breaker.call():
            found = await _in_time(source.reader.checkpoints())
        self.sources.note_checkpoints(source, found, known)
        return found


async def _in_time(answer: Awaitable[Result]) -> Result:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await answer
    except TimeoutError:
        raise _silent() from None


async def _while_answering(store: Reader, answer: Awaitable[Result]) -> Result:
    """Wait for a long read as long as its store answers pings."""
    try:
        async with asyncio.timeout(None) as limit:
            watching = asyncio.create_task(_end_when_silent(store, limit), name="is the store answering")
            try:
                return await answer
            finally:
                watching.cancel()
    except TimeoutError:
        raise _silent() from None


async def _end_when_silent(store: Reader, limit: asyncio.Timeout) -> None:
    try:
        while True:
            await asyncio.sleep(ANSWER_SECONDS)
            await _in_time(store.ping())
    except StoreError:
        limit.reschedule(asyncio.get_running_loop().time())


def _silent() -> StoreUnavailable:
    return StoreUnavailable("the store did not answer in time", seconds=ANSWER_SECONDS)


def _sequence_of(entry: Entry | None) -> int:
    return 0 if entry is None else entry.sequence
