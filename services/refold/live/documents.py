"""Subscriptions of documents: what is watched, and where a subscriber that returns continues.

A subscriber gets a snapshot and then changes, or the changes since its version, which may be read from history.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable
from functools import partial
from typing import Final, Protocol
from weakref import WeakValueDictionary

from refold.core.errors import Refused, TimedOut
from refold.core.history import NEVER, Clock, Point, Snapshot
from refold.live import Cursor, LiveFull, Mode, Subscription, start_shared
from refold.live.changes import ChangesQuery
from refold.live.fanout import Entry, Shared, Stream
from refold.live.pattern import Pattern
from refold.live.query import UNKNOWN, PartQuery, PathQuery, Query, WholeQuery
from refold.live.values import ValuesQuery
from refold.live.watched import Change, WatchedDocument
from refold.store import Key
from refold.telemetry.metrics.gateway import LiveMetrics

REPLAYED_MAX: Final = 1_000
REPLAYED_BYTES_MAX: Final = 256 * 1024
"""Changes that a returning subscriber is sent one by one, and their bytes unless a snapshot is larger."""

STATES_BYTES_MAX: Final = 256 * 1024 * 1024
"""Bytes of the states of all watched documents, and of the values that patterns match in them."""

BEYOND_SECONDS: Final = 10.0
BEYOND_LOOK_SECONDS: Final = 0.05
"""How long a version that a client got from another gateway is waited for, and how often it is looked for."""


class DocumentFeed(Protocol):
    """What brings the changes of documents (`refold.live.feed`)."""

    async def watch(self, key: Key) -> WatchedDocument:
        """Watch a document, counted. Raises `LiveFull`, and what the store raises."""

    def release(self, key: Key) -> None:
        """End one `watch`."""


class DocumentReader(Protocol):
    """What reads the past of documents (`refold.live.reader`)."""

    async def snapshot(self, key: Key, point: Point) -> Snapshot:
        """Read a document at a point."""

    async def newest(self, key: Key) -> int:
        """Read a document's version, once all that the log has is in the projection."""

    async def reaches(self, sequence: int) -> bool:
        """Tell whether the log has a sequence, once that is in the projection."""

    async def changes(self, key: Key, after: int, limit: int) -> list[Change]:
        """Read a document's changes after a version: at most so many, fewer where they are large."""


class DocumentSubscriptions:
    """All subscriptions of documents of a gateway. `log` is the log's name in cursors."""

    def __init__(self, feed: DocumentFeed, reader: DocumentReader, *, log: str, metrics: LiveMetrics) -> None:
        self._feed = feed
        self._reader = reader
        self._log = log
        self._metrics = metrics
        self._shared: dict[tuple[Key, object], Shared] = {}
        self._watches: Counter[Key] = Counter()
        self._documents: dict[Key, WatchedDocument] = {}
        self._kept_bytes = 0
        self._replays: WeakValueDictionary[tuple[Key, object, int], Query] = WeakValueDictionary()
        self._loading: dict[tuple[Key, object, int], asyncio.Task[Query]] = {}

    async def subscribe(self, stream: Stream, asked: Subscription, since: Cursor | None) -> None:
        """Add a subscription to a stream.

        Raises `Refused` (`bad_pattern`, `pattern_too_wide`, `bad_name`), `LiveFull`, and what the store raises.
        """
        assert asked.document is not None
        key = asked.namespace, asked.document
        document = await self._watch(key)
        try:
            query = _query_of(document, asked)
        except BaseException:
            self._unwatch(document)
            raise
        shared = self._shared.get((key, query.key))
        if shared is None:
            shared = self._shared[key, query.key] = Shared(query, self._metrics)
            self._kept_bytes += query.kept_bytes
        load, end = partial(self._replay, document, asked), partial(self._end, shared, query)
        entry = Entry(stream, shared, asked, UNKNOWN, load=load, end=end)
        stream.add(entry)
        self._check_room()
        await self._resume(entry, document, since)

    async def _resume(self, entry: Entry, document: WatchedDocument, since: Cursor | None) -> None:
        """Find out where a subscriber continues; it gets a snapshot where it cannot."""
        asked, query = entry.asked, entry.shared.source
        assert isinstance(query, Query)
        after = await self._after(document, asked, since)
        if after is None:
            return
        if after == UNKNOWN or not await self._has_reached(document, after):
            entry.why = "log"
            return
        entry.why = "gap"
        if after < query.floor:
            if not asked.wants_each and after < document.version - REPLAYED_MAX:
                return
            replay = await self._replay(document, asked, after)
            is_small = replay.document.kept_bytes <= max(REPLAYED_BYTES_MAX, document.state_bytes)
            if not asked.wants_each and not (is_small and replay.document.version >= query.floor):
                return
            entry.replay = replay
        entry.position = entry.sent = after

    async def _after(
        self, document: WatchedDocument, asked: Subscription, since: Cursor | None
    ) -> int | None:
        """Return the version that a subscriber has; None for none, `UNKNOWN` for one of another log."""
        if since is None:
            return asked.after
        if since.log != self._log:
            return UNKNOWN
        if since.is_version:
            return since.value
        if not await self._reader.reaches(since.value):
            return UNKNOWN
        key = document.namespace, document.document
        return (await self._reader.snapshot(key, Point(Clock.sequence, since.value))).version

    async def _has_reached(self, document: WatchedDocument, version: int) -> bool:
        """Wait for a version that a client got from another gateway; False where the log does not have it.

        Raises `TimedOut` where the log has it and no change comes.
        """
        if document.version >= version:
            return True
        if await self._reader.newest((document.namespace, document.document)) < version:
            return document.version >= version
        deadline = asyncio.get_running_loop().time() + BEYOND_SECONDS
        while document.version < version:
            if asyncio.get_running_loop().time() > deadline:
                raise TimedOut("the gateway has not received the version that the client has")
            await asyncio.sleep(BEYOND_LOOK_SECONDS)
        return True

    async def _replay(self, document: WatchedDocument, asked: Subscription, after: int) -> Query:
        """Return a query over what came after a version, from history; shared by all that return to it."""
        key = document.namespace, document.document
        place = key, _query_of(document, asked).key, after
        if (made := self._replays.get(place)) is not None and made.document.version > after:
            return made
        if place not in self._loading:
            task = start_shared(self._load(key, asked, after), name="live-replay")
            self._loading[place] = task
            task.add_done_callback(lambda _: self._loading.pop(place))
        made = self._replays[place] = await asyncio.shield(self._loading[place])
        return made

    async def _load(self, key: Key, asked: Subscription, after: int) -> Query:
        changes = await self._reader.changes(key, after, REPLAYED_MAX)
        head = NEVER._replace(version=after)
        if _needs_state(asked, changes):
            head = await self._reader.snapshot(key, Point(Clock.version, after))
        past = WatchedDocument(key, head)
        query = _query_of(past, asked)
        for change in changes:
            if not past.has_room(change):
                break
            past.append(change)
        query.flush()
        return query

    async def _watch(self, key: Key) -> WatchedDocument:
        document = await self._feed.watch(key)
        self._watches[key] += 1
        if self._watches[key] == 1:
            self._documents[key] = document
            self._kept_bytes += document.state_bytes
        try:
            self._check_room()
        except LiveFull:
            self._unwatch(document)
            raise
        return document

    def _check_room(self) -> None:
        if self._kept_bytes > STATES_BYTES_MAX:
            raise LiveFull("the documents and values that are watched here are too large together")

    def count(self) -> None:
        """Count what the states and values take by now; in between, what is new is added."""
        states = sum(document.count() for document in self._documents.values())
        queries = (shared.source for shared in self._shared.values())
        self._kept_bytes = states + sum(query.kept_bytes for query in queries if isinstance(query, Query))

    def _unwatch(self, document: WatchedDocument) -> None:
        key = document.namespace, document.document
        self._feed.release(key)
        self._watches[key] -= 1
        if not self._watches[key]:
            del self._watches[key], self._documents[key]
            self._kept_bytes -= document.state_bytes

    def _end(self, shared: Shared, query: Query) -> None:
        """End what was shared, after its last subscriber."""
        document = query.document
        if not len(shared):
            del self._shared[(document.namespace, document.document), query.key], document.queries[query.key]
            self._kept_bytes -= query.kept_bytes
        self._unwatch(document)


def _query_of(document: WatchedDocument, asked: Subscription) -> Query:
    """Return a document's query for a subscription, shared with all that ask for the same. Raises `Refused`."""
    if asked.mode is Mode.changes:
        return _made_once(document, (asked.mode, asked.type), lambda: ChangesQuery(document, asked.type))
    if asked.mode is Mode.heads:
        rule = "a document is watched by mode=patch, values or changes"
        raise Refused("bad_mode", rule, field="mode", shape=asked.mode.value)
    pattern = Pattern.parse(asked.path, asked.depth)
    if pattern.is_wild and asked.mode is Mode.patch:
        rule = "patches are relative to one path: a pattern with * is for mode=values"
        raise Refused("bad_pattern", rule, field="path", shape=repr(asked.path[:80]))
    kind: type[PartQuery] = PathQuery if asked.mode is Mode.patch else ValuesQuery
    native = asked.is_native or kind is ValuesQuery

    def make() -> Query:
        if _is_whole(asked):
            return WholeQuery(document, is_native=native)
        return kind(document, pattern, asked.path, is_native=native)

    return _made_once(document, (asked.path, asked.depth, asked.mode, native), make)


def _needs_state(asked: Subscription, changes: list[Change]) -> bool:
    """Tell whether the state is needed to send changes: not where they are sent as they are."""
    if asked.mode is Mode.changes or (_is_whole(asked) and asked.is_native):
        return False
    return not _is_whole(asked) or any(change.has_extensions for change in changes)


def _is_whole(asked: Subscription) -> bool:
    return asked.mode is Mode.patch and not asked.path and asked.depth is None


def _made_once(document: WatchedDocument, key: Hashable, make: Callable[[], Query]) -> Query:
    found = document.queries.get(key)
    if isinstance(found, Query):
        return found
    query = document.queries[key] = make()
    query.key = key
    return query
