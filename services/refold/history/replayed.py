"""A Reader over a store of recent depth that replays one document from the log where the store does not keep it.

Used by the gateway, and by the projector for its reads of history. Answers are those of a store of full depth.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from itertools import count
from typing import Final, TypeVar, cast

from refold.core.dedup import id_digest, recall
from refold.core.document import Document
from refold.core.errors import HistoryElsewhere, HistorySlow
from refold.core.fold import ID_WINDOW_EVENTS, NEWEST
from refold.core.fold.rules import Rules
from refold.core.history import Entry, Point, Segment, Snapshot
from refold.core.replay import state_at
from refold.core.stream import Checkpoint, Record, route
from refold.core.transactions import claimed_members, may_be_member, place_of
from refold.history.document_replay import Clamps, DocumentReplay, rules_after, system_documents
from refold.log import EventLog
from refold.store import (
    Capabilities,
    Depth,
    Head,
    Key,
    Names,
    NamespaceCount,
    Page,
    Rejection,
    SegmentBounds,
    VersionAt,
    damaged,
    first_bounds,
    reading_stored,
)
from refold.store.ports import Reader, RecentReader

T = TypeVar("T")

REPLAY_EVENTS_MAX: Final = 10_000
"""Events of a document that are replayed from the log."""

REPLAY_BYTES_MAX: Final = 64 * 1024 * 1024
"""Memory of the history of one document that is replayed."""

REPLAY_SECONDS_MAX: Final = 10.0
"""How long one request may replay; another one continues where it stopped, while that is in the cache."""

CACHE_BYTES_MAX: Final = 32 * 1024 * 1024
"""Memory of the histories that are kept for further requests, the least recently used is dropped first."""

_BOUNDS: Final = (
    f"at most {REPLAY_EVENTS_MAX} events or {REPLAY_SECONDS_MAX:.0f} s ({REPLAY_BYTES_MAX >> 20} MiB) of a document "
    "are replayed from the log"
)
_FULL: Final = (
    "a store of full depth answers: add `postgres` or `files` to the stores (REFOLD_STORES, --store)"
)


def whole_history(log: EventLog, store: Reader) -> Reader:
    """Return a reader of every version: the store itself, or one that replays what a store of recent depth lacks."""
    return store if store.capabilities.depth is Depth.full else Replayed(log, cast("RecentReader", store))


class Replayed:
    """A Reader: the store answers what it keeps, the log the rest of one document's history.

    Raises `HistoryElsewhere`, which says what answers instead, for the past of a whole namespace, and `HistorySlow`
    where a document has too many events.
    """

    def __init__(self, log: EventLog, store: RecentReader) -> None:
        self._log = log
        self._store = store
        self._replays: OrderedDict[Key, DocumentReplay] = OrderedDict()
        self._replays_bytes = 0
        self._locks: dict[Key, _Lock] = {}

    # --- What the store has -------------------------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        return self._store.capabilities

    async def checkpoints(self) -> list[Checkpoint]:
        return await self._store.checkpoints()

    async def epoch(self) -> str:
        return await self._store.epoch()

    async def head(self, namespace: str, document: str, *, known_version: int | None = None) -> Head | None:
        return await self._store.head(namespace, document, known_version=known_version)

    async def load(self, keys: Sequence[Key]) -> list[Document]:
        return await self._store.load(keys)

    async def other_versions(self, known: Mapping[Key, VersionAt]) -> dict[Key, VersionAt]:
        return await self._store.other_versions(known)

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
        return await self._store.list_documents(
            namespace, prefix=prefix, where=where, limit=limit, cursor=cursor, is_bare=is_bare
        )

    async def list_names(self, namespace: str, *, prefix: str, limit: int, cursor: str | None) -> Names:
        return await self._store.list_names(namespace, prefix=prefix, limit=limit, cursor=cursor)

    async def namespaces(self) -> list[NamespaceCount]:
        return await self._store.namespaces()

    async def ping(self) -> None:
        await self._store.ping()

    async def open_conflicts(
        self,
        namespace: str | None,
        document: str | None,
        *,
        after_sequence: int | None,
        is_descending: bool,
        limit: int,
    ) -> list[Rejection]:
        return await self._store.open_conflicts(
            namespace, document, after_sequence=after_sequence, is_descending=is_descending, limit=limit
        )

    async def rejections(
        self, namespace: str | None, document: str | None, *, limit: int, before_sequence: int | None
    ) -> list[Rejection]:
        found = self._store.rejections(namespace, document, limit=limit, before_sequence=before_sequence)
        return await _or_elsewhere(found, f"the store keeps only the latest rejections; {_FULL}")

    async def list_at(
        self, namespace: str, point: Point, *, prefix: str, limit: int, cursor: str | None
    ) -> Page:
        found = self._store.list_at(namespace, point, prefix=prefix, limit=limit, cursor=cursor)
        message = (
            f"the store does not keep the past of a namespace; {_exported(namespace, '--at TIME')}; {_FULL}"
        )
        return await _or_elsewhere(found, message)

    # --- What is replayed ---------------------------------------------------------------------------------------

    async def snapshot_at(self, namespace: str, document: str, point: Point) -> Snapshot | None:
        with suppress(HistoryElsewhere):
            return await self._store.snapshot_at(namespace, document, point)
        key = namespace, document
        edge = (await self._kept(key))[0].base_sequence
        replay = await self._replay(key, edge, lambda it: it.is_beyond(point))
        bounds = SegmentBounds.of(point)
        segments = [it for it in replay.until(edge) if bounds.include(it.base, it.base_sequence)]
        with reading_stored(*key):
            return state_at(segments[-1].base, segments[-1].entries, point)

    async def segments(
        self, namespace: str, document: str, *, after_version: int | None, is_descending: bool
    ) -> AsyncGenerator[Segment, None]:
        """Yield segments; those that are replayed end elsewhere than a store's."""
        key, edge = (namespace, document), None
        try:
            found = self._store.segments(*key, after_version=after_version, is_descending=is_descending)
            async with aclosing(found):
                async for segment in found:
                    edge = segment.base_sequence
                    yield segment
        except HistoryElsewhere:
            older = self._older_segments(key, after_version, edge, is_descending=is_descending)
            async with aclosing(older):
                async for segment in older:
                    yield segment

    async def _older_segments(
        self, key: Key, after_version: int | None, edge: int | None, *, is_descending: bool
    ) -> AsyncGenerator[Segment]:
        """Yield what the store did not: below the edge in descending order, else from the beginning to the head."""
        kept = [] if edge is not None else await self._kept(key)
        until = kept[0].base_sequence if edge is None else edge
        bounds = first_bounds(after_version, is_descending=is_descending)
        if is_descending:
            for segment in reversed((await self._replay(key, until)).until(until)):
                if edge is not None or bounds.include(segment.base, segment.base_sequence):
                    yield segment
            return
        # A segment is whole when another one has begun.
        version = after_version or 0
        replay = await self._replay(key, until, lambda it: it.segments[-1].base.version > version)
        for at in count(replay.find(bounds)):
            is_whole = _has_segments(at + 2)
            found = (await self._replay(key, until, is_whole)).until(until)
            if at >= len(found):
                break
            yield found[at]
        for segment in kept:
            yield segment

    async def entry(self, namespace: str, document: str, sequence: int) -> Entry | None:
        with suppress(HistoryElsewhere):
            return await self._store.entry(namespace, document, sequence)
        replay = await self._replay((namespace, document), sequence)
        return next((entry for entry in replay.entries(sequence) if entry.sequence == sequence), None)

    async def entries_between(
        self, namespace: str, documents: Sequence[str], *, after_sequence: int, until_sequence: int
    ) -> list[tuple[str, Entry]]:
        found: list[tuple[str, Entry]] = []
        for document in documents:
            found += await self._between(namespace, document, after_sequence, until_sequence)
        found.sort(key=lambda it: it[1].sequence)
        return found

    async def _between(
        self, namespace: str, document: str, after_sequence: int, until_sequence: int
    ) -> list[tuple[str, Entry]]:
        between = {"after_sequence": after_sequence, "until_sequence": until_sequence}
        with suppress(HistoryElsewhere):
            return await self._store.entries_between(namespace, [document], **between)
        head = await self._store.head(namespace, document)
        until = min(until_sequence, 0 if head is None else head.last_sequence)
        replay = await self._replay((namespace, document), until)
        entries = (entry for entry in replay.entries(until) if entry.sequence > after_sequence)
        return [(document, entry) for entry in entries if entry.status.is_effective]

    async def find_id(self, namespace: str, document: str, event_id: str) -> Entry | None:
        with suppress(HistoryElsewhere):
            return await self._store.find_id(namespace, document, event_id)
        for row in await self._store.load([(namespace, document)]):
            known = recall(row.identities, id_digest(event_id), row.events + 1 - ID_WINDOW_EVENTS)
            if known is not None:
                return await self.entry(namespace, document, known[1].sequence)
        return None

    async def conflicts(
        self, namespace: str, document: str, *, after_sequence: int | None, is_descending: bool
    ) -> AsyncGenerator[list[Entry]]:
        key = namespace, document
        try:
            found = self._store.conflicts(*key, after_sequence=after_sequence, is_descending=is_descending)
            async with aclosing(found):
                async for part in found:
                    yield part
        except HistoryElsewhere:
            edge = (await self._kept(key))[0].base_sequence
            past = [entry for entry in (await self._replay(key, edge)).entries(edge) if entry.conflict]
            if is_descending:
                yield [it for it in reversed(past) if after_sequence is None or it.sequence < after_sequence]
                return
            yield [it for it in past if it.sequence > (after_sequence or 0)]
            found = self._store.conflicts(*key, after_sequence=edge, is_descending=False)
            async with aclosing(found):
                async for part in found:
                    yield part

    async def _kept(self, key: Key) -> list[Segment]:
        """Return the segments that the store keeps, oldest first."""
        found: list[Segment] = []
        with suppress(HistoryElsewhere):
            segments = self._store.segments(*key, after_version=None, is_descending=True)
            async with aclosing(segments):
                async for segment in segments:
                    found.append(segment)  # noqa: PERF401 - what came before the error is kept.
        if not found:
            raise damaged(*key, "its last pages are missing")
        return found[::-1]

    # --- The replay ---------------------------------------------------------------------------------------------

    async def _replay(
        self, key: Key, until_sequence: int, is_enough: Callable[[DocumentReplay], bool] = lambda _: False
    ) -> DocumentReplay:
        """Return a document's history, replayed up to a sequence or as far as is enough. Raises `HistorySlow`."""
        lock = self._locks.setdefault(key, _Lock())
        lock.users += 1
        try:
            async with asyncio.timeout(REPLAY_SECONDS_MAX) as timeout, lock.lock:
                replay = self._replays.pop(key, None) or DocumentReplay(key)
                self._replays_bytes -= replay.size_bytes
                try:
                    await self._advance(replay, until_sequence, is_enough)
                finally:
                    replay.document.recent = None
                    self._keep(replay)
        except TimeoutError:
            if not timeout.expired():
                raise
            raise _slow(key) from None
        finally:
            lock.users -= 1
            if not lock.users:
                del self._locks[key]
        return replay

    async def _advance(
        self, replay: DocumentReplay, until_sequence: int, is_enough: Callable[[DocumentReplay], bool]
    ) -> None:
        if replay.read_sequence >= until_sequence or is_enough(replay):
            return
        clamps = Clamps(await self._store.clock())
        system = await self._system(replay.key, replay.system_sequence, until_sequence)
        system.sort(reverse=True)
        own = self._log.read_document(*replay.key, replay.read_sequence, until_sequence)
        async with aclosing(own):
            async for record in own:
                while system and system[-1].sequence < record.sequence:
                    replay.take_system(system.pop())
                if replay.events >= REPLAY_EVENTS_MAX or replay.size_bytes >= REPLAY_BYTES_MAX:
                    raise _slow(replay.key)
                members = await self._members(record)
                replay.take(record, members, clamps, await self._others_rules(replay.key, members))
                if is_enough(replay):
                    return
        replay.read_sequence = until_sequence

    async def _members(self, record: Record) -> list[Record]:
        """Return the members of the transaction that a record may be in."""
        place = place_of(record) if may_be_member(record) else None
        if place is None:
            return []
        first = record.sequence - place.number + 1
        found = await asyncio.gather(
            *map(self._log.get, range(first, first + claimed_members(record, NEWEST)))
        )
        return [each for each in found if each is not None]

    async def _system(self, key: Key, after_sequence: int, until_sequence: int) -> list[Record]:
        """Read the events of the system's documents that say how a document is folded."""
        return [
            record
            for other in system_documents(key)
            async for record in self._log.read_document(*other, after_sequence, until_sequence)
        ]

    async def _others_rules(self, key: Key, members: Sequence[Record]) -> Rules | None:
        """Return the rules of the first member's namespace, where it is not the document's own."""
        first = route(members[0].subject, NEWEST.number).namespace if members else ""
        if first in {"", key[0]}:
            return None
        return rules_after(await self._system((first, ""), 0, members[0].sequence), first)

    def _keep(self, replay: DocumentReplay) -> None:
        """Keep a history, and drop those that were used least recently."""
        self._replays[replay.key] = replay
        self._replays_bytes += replay.size_bytes
        while self._replays_bytes > CACHE_BYTES_MAX:
            _, dropped = self._replays.popitem(last=False)
            self._replays_bytes -= dropped.size_bytes


class _Lock:
    """Lets one request at a time replay a document."""

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


def _has_segments(number: int) -> Callable[[DocumentReplay], bool]:
    return lambda replay: len(replay.segments) >= number


def _slow(key: Key) -> HistorySlow:
    namespace, document = key
    message = f"{namespace}/{document}: {_BOUNDS}; {_exported(namespace, '--history')}; {_FULL}"
    return HistorySlow(message, namespace=namespace, document=document)


def _exported(namespace: str, options: str) -> str:
    return f"`refold export {namespace} {options} --replay` folds the log and prints it"


async def _or_elsewhere(found: Awaitable[T], message: str) -> T:
    """Return what a store answers, or raise `HistoryElsewhere` with a message that says what does."""
    try:
        return await found
    except HistoryElsewhere as error:
        raise HistoryElsewhere(message, **error.facts) from None
