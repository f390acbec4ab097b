"""Subscriptions of namespaces: which documents change (`heads`), and each change (`changes`), in the order of the log.

A subscriber gets every change after its position at least once, however old that is and however slow the subscriber.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Protocol
from weakref import finalize

from refold.core.errors import LogUnavailable, Refused, StoreUnavailable, TimedOut
from refold.core.stream import check_name, is_printable
from refold.live import Cursor, LiveFull, Mode, Subscription, start_shared
from refold.live.backlog import PART_BYTES_MAX, Backlog
from refold.live.fanout import Entry, Shared, Stream
from refold.live.query import UNKNOWN
from refold.live.ring import NamespaceQuery, Replay, Ring, key_of
from refold.telemetry.logging import get_logger
from refold.telemetry.metrics.gateway import LiveMetrics

QUERIES_MAX: Final = 1_000
"""Different subscriptions of namespaces: each looks at every change of its namespace, about 0.2 microseconds."""

REPLAYS_BYTES_MAX: Final = 256 * 1024 * 1024
"""What was read for subscribers that are behind and is not sent yet; more is read when some of it is."""

LOOK_SECONDS: Final = 0.05
LOOKS_MAX: Final = 100
"""How often a commit is looked for, before it is known again whether somebody still waits for it."""

RETRY_SECONDS: Final = 0.5
"""Pause after the log or the store could not be read."""


class ChangeFeed(Protocol):
    """What passes all changes to the ring (`refold.live.feed`)."""

    async def add_listener(self, listener: Ring) -> Callable[[], None]:
        """Pass all changes, until the returned function is called."""


class NamespaceSubscriptions:
    """All subscriptions of namespaces of a gateway. `log` is the log's name in cursors."""

    def __init__(
        self,
        feed: ChangeFeed,
        backlog: Backlog,
        committed_sequence: Callable[[], int],
        reaches: Callable[[int], Awaitable[bool]],
        *,
        log: str,
        metrics: LiveMetrics,
    ) -> None:
        """`committed_sequence` returns the sequence up to which the projection has committed everything.

        `reaches` tells whether the log has a sequence, once it is committed, and may raise `TimedOut`.
        """
        self._feed = feed
        self._backlog = backlog
        self._committed_sequence = committed_sequence
        self._reaches = reaches
        self._log = log
        self._metrics = metrics
        self._ring = Ring()
        self._beginning = asyncio.Lock()
        self._is_listening = False
        self._shared: dict[object, Shared] = {}
        self._loading: dict[object, asyncio.Task[Replay]] = {}
        self._reads_count = 0
        # Of all replays that a subscriber still has.
        self._replays_bytes = 0

    async def subscribe(self, stream: Stream, asked: Subscription, since: Cursor | None) -> None:
        """Add a subscription to a stream. Raises `Refused` (`bad_name`, `bad_mode`) and `LiveFull`."""
        _check(asked)
        async with self._beginning:
            if not self._is_listening:
                await self._feed.add_listener(self._ring)
                self._is_listening = True
        shared = self._shared.get(key_of(asked))
        if shared is None:
            if len(self._shared) >= QUERIES_MAX:
                raise LiveFull(f"{QUERIES_MAX} different subscriptions of namespaces are open here already")
            query = NamespaceQuery(self._ring, asked, self._committed_sequence)
            shared = self._shared[query.key] = Shared(query, self._metrics)
        found = shared.source
        assert isinstance(found, NamespaceQuery)
        load, end = partial(self._load, found), partial(self._end, shared, found)
        entry = Entry(stream, shared, asked, UNKNOWN, load=load, end=end)
        stream.add(entry)
        await self._resume(entry, since)

    async def _resume(self, entry: Entry, since: Cursor | None) -> None:
        """Find out where a subscriber continues; it gets a `reset` where it cannot."""
        after = entry.asked.after
        if since is not None:
            after = UNKNOWN if since.log != self._log or since.is_version else since.value
        if after is None:
            return
        if after == UNKNOWN or (after > self._ring.sequence and not await self._reaches(after)):
            entry.why = "log"
        else:
            entry.position = entry.sent = after

    async def _load(self, query: NamespaceQuery, position: int) -> Replay:
        """Return what follows a position that the ring does not reach: a part of it, perhaps of no messages."""
        after = query.start_of(position)
        if after >= query.floor:
            return Replay([], after)
        place = query.key, after
        task = self._loading.get(place)
        if task is None:
            task = self._loading[place] = start_shared(self._read(query, after), name="live-backlog")
            task.add_done_callback(lambda _: self._loading.pop(place))
        try:
            return await asyncio.shield(task)
        except (LogUnavailable, StoreUnavailable, TimedOut) as error:
            get_logger().warning("live_backlog_unread", code=error.code, error=str(error))
            await asyncio.sleep(RETRY_SECONDS)
            return Replay([], after)

    async def _read(self, query: NamespaceQuery, after: int) -> Replay:
        """Read a part, for all subscribers that are at this position, as soon as some of it is committed."""
        for _ in range(LOOKS_MAX):
            until = min(self._committed_sequence(), query.floor)
            held = self._replays_bytes + self._reads_count * PART_BYTES_MAX
            if after < until and held <= REPLAYS_BYTES_MAX:
                self._reads_count += 1
                try:
                    part = await self._backlog.read(query.namespace, query.is_wanted, after, until)
                finally:
                    self._reads_count -= 1
                replay = query.replay(part.changes, part.sequence)
                self._replays_bytes += replay.size
                finalize(replay, self._forget, replay.size).atexit = False
                return replay
            await asyncio.sleep(LOOK_SECONDS)
        return Replay([], after)

    def _forget(self, size: int) -> None:
        self._replays_bytes -= size

    def _end(self, shared: Shared, query: NamespaceQuery) -> None:
        """End what was shared, after its last subscriber."""
        if not len(shared):
            del self._shared[query.key]
            self._ring.remove(query)


def _check(asked: Subscription) -> None:
    check_name(asked.namespace, "namespace")
    if not is_printable(asked.prefix):
        raise Refused("bad_name", "a prefix has the characters of a document id", field="prefix")
    if asked.mode not in {Mode.heads, Mode.changes}:
        rule = "a namespace is watched by mode=heads or mode=changes"
        raise Refused("bad_mode", rule, field="mode", shape=asked.mode.value)
