"""Streams: the connections of subscribers. `Live` is the entry for gateways: it opens, resumes and ends them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Final, Protocol
from weakref import WeakValueDictionary

from refold.core import json_text
from refold.core.errors import Refused
from refold.core.history import NEVER, Clock, Point, Snapshot
from refold.live import SUBSCRIPTIONS_MAX, Cursor, Frame, LiveFull, Sink, Subscription, read_cursor
from refold.live.fanout import Entry, Shared
from refold.live.namespace import Namespaces
from refold.live.query import UNKNOWN, Query
from refold.live.values import needs_no_state, query_of
from refold.live.watched import Change, WatchedDocument
from refold.store import Key
from refold.telemetry.metrics import LiveMetrics

ALIVE_SECONDS: Final = 15
"""Between two `alive` messages of a stream. The streams are spread over these seconds."""

AGE_SPREAD: Final = 0.1
"""Streams end this much before or after their greatest age, so that they do not return together."""

REPLAYED_MAX: Final = 1_000
REPLAYED_BYTES_MAX: Final = 256 * 1024
"""Changes that a subscriber who returns is sent one by one, and their bytes unless a snapshot is larger."""

STATES_BYTES_MAX: Final = 256 * 1024 * 1024
"""Canonical bytes of the states of all watched documents."""

RETRY_SECONDS: Final = (1.0, 5.0)
"""When a client that was sent away is to return; it is drawn at random."""

RETURNS_PER_SECOND: Final = 1_000
"""After a shutdown, so many streams are to return in a second."""

BEYOND_SECONDS: Final = 2.0
BEYOND_LOOK_SECONDS: Final = 0.05
"""How long a version that a client has already is waited for, and how often it is looked for."""


class Feed(Protocol):
    """What brings the changes (`refold.live.feed`). Everything up to `sequence` that is watched has been appended."""

    @property
    def sequence(self) -> int:
        """Return that sequence."""

    @property
    def behind_seconds(self) -> float:
        """Return for how long nothing has been heard of the projector, beyond its usual silence."""

    async def watch(self, key: Key) -> WatchedDocument:
        """Watch a document, counted. Raises `LiveFull`, and what the store raises."""

    def release(self, key: Key) -> None:
        """End one `watch`."""


class Past(Protocol):
    """What was before a document was watched."""

    async def snapshot(self, key: Key, point: Point) -> Snapshot:
        """Read a document at a point."""

    async def changes(self, key: Key, after: int, limit: int) -> list[Change]:
        """Read a document's changes after a version: at most so many, fewer where they are large."""


class Stream:
    """A connection: its subscriptions, and the sink that their messages go to."""

    def __init__(self, live: Live, sink: Sink, number: int) -> None:
        self.number = number
        self.entries: list[Entry] = []
        self.is_open = False
        self.ends_at = 0.0
        self._live = live
        self._sink = sink
        sink.on_ready = self.pump

    def start(self, work: Coroutine[None, None, None]) -> None:
        """Run something beside the passes."""
        self._live.start(work)

    def pump(self) -> None:
        """Send what is due to all subscriptions, while the sink takes it."""
        for entry in self.entries:
            if entry.is_due or not entry.asked.interval:
                self.pump_entry(entry)

    def pump_entry(self, entry: Entry) -> None:
        """Send what a subscription lacks, while the sink takes it."""
        sink = self._sink
        try:
            while sink.is_ready and self.is_open:
                frame = entry.next()
                if frame is None:
                    entry.is_due = False
                    return
                entry.take(frame)
                is_single = len(self.entries) == 1
                cursor = self._document_cursor(entry, frame.position) if is_single else self._joint_cursor()
                sink.send(frame, cursor)
                self._live.frames_count += 1
        except Refused as refusal:
            self.error(refusal)

    def _document_cursor(self, entry: Entry, position: int) -> str:
        return str(Cursor(self._live.log, entry.asked.document is not None, position))

    def _joint_cursor(self) -> str:
        """Return the sequence up to which all subscriptions have got all."""
        sequence = self._live.feed.sequence
        return str(
            Cursor(self._live.log, False, max(0, min(each.covered(sequence) for each in self.entries)))
        )

    def alive(self) -> None:
        """Send a sign of life, with the cursor."""
        if not (self._sink.is_ready and self.is_open):
            return
        feed, entry = self._live.feed, self.entries[0]
        fields = {"kind": "alive", "sequence": feed.sequence, "behind_seconds": feed.behind_seconds}
        is_single = len(self.entries) == 1
        cursor = self._document_cursor(entry, entry.cursor_position()) if is_single else self._joint_cursor()
        self._sink.send(Frame("alive", json_text.dumps(fields)), cursor)

    def error(self, refusal: Refused) -> None:
        """Say what is wrong with a subscription, and end."""
        fields = {"kind": "error", "code": refusal.reason, "detail": str(refusal), "field": refusal.field}
        if self._sink.is_ready and self.is_open:
            self._sink.send(Frame("error", json_text.dumps(fields)), "")
        self.bye("protocol")

    def bye(self, reason: str, retry_seconds: float | None = None) -> None:
        """End, and say when to return; without a word where the sink takes none."""
        if not self.is_open:
            return
        if self._sink.is_ready:
            self._sink.send(bye_frame(reason, retry_seconds), "")
        self.close()
        self._live.metrics.bye.labels(reason=reason).inc()
        self._sink.end()

    def close(self) -> None:
        """End all subscriptions; nothing more is sent."""
        self.is_open = False
        self._live.forget(self)
        for entry in self.entries:
            entry.shared.remove(entry)
            entry.end()
        self.entries.clear()


class Live:
    """All streams of a gateway. `log` is the log's name in cursors."""

    def __init__(
        self,
        feed: Feed,
        past: Past,
        namespaces: Namespaces,
        *,
        log: str,
        metrics: LiveMetrics,
        age_seconds: float,
    ) -> None:
        self.feed = feed
        self.log = log
        self.metrics = metrics
        self._past = past
        self._namespaces = namespaces
        self._age_seconds = age_seconds
        self._shared: dict[tuple[Key, object], Shared] = {}
        self._watches: Counter[Key] = Counter()
        self._state_bytes = 0
        self._slots: list[dict[Stream, None]] = [{} for _ in range(ALIVE_SECONDS)]
        self._opened = 0
        self._replays: WeakValueDictionary[tuple[Key, object, int], Query] = WeakValueDictionary()
        self._loading: dict[tuple[Key, object, int], asyncio.Task[Query]] = {}
        self._works: set[asyncio.Task[None]] = set()
        self._is_ending = False
        self.frames_count = 0

    # --- Streams -----------------------------------------------------------------------------------------

    async def open(
        self,
        subscriptions: Sequence[Subscription],
        sink: Sink,
        *,
        cursor: str | None = None,
        is_reconnect: bool = False,
    ) -> Stream:
        """Open a stream, and send it what it lacks since its cursor.

        A cursor that cannot be read is refused, or taken as none where the client returns.

        Raises:
            Refused: `bad_pattern`, `bad_cursor`, `bad_name`, `too_many_subscriptions`, `pattern_too_wide`.
            LiveFull: the gateway takes no more.
        """
        if not 1 <= len(subscriptions) <= SUBSCRIPTIONS_MAX:
            rule = f"a connection has 1 to {SUBSCRIPTIONS_MAX} subscriptions"
            raise Refused("too_many_subscriptions", rule, field="sub", shape=str(len(subscriptions)))
        since = read_cursor(cursor, is_reconnect=is_reconnect)
        self._opened += 1
        stream = Stream(self, sink, self._opened)
        try:
            for asked in subscriptions:
                await self._subscribe(stream, asked, since)
            if self._is_ending:
                raise LiveFull("the gateway is shutting down")
        except BaseException:
            stream.close()
            raise
        self._admit(stream)
        stream.is_open = True
        stream.pump()
        return stream

    def _admit(self, stream: Stream) -> None:
        self._slots[stream.number % ALIVE_SECONDS][stream] = None
        age_seconds = self._age_seconds * random.uniform(1 - AGE_SPREAD, 1 + AGE_SPREAD)  # noqa: S311 - no secret
        stream.ends_at = asyncio.get_running_loop().time() + age_seconds

    async def _subscribe(self, stream: Stream, asked: Subscription, since: Cursor | None) -> None:
        if asked.document is None:
            await self._namespaces.subscribe(stream, asked, since)
            return
        key = asked.namespace, asked.document
        document = await self._watch(key)
        try:
            query = query_of(document, asked)
        except BaseException:
            self._unwatch(document)
            raise
        shared = self._shared.get((key, query.key))
        if shared is None:
            shared = self._shared[key, query.key] = Shared(query, self.metrics)
        load, end = partial(self._replay, document, asked), partial(self._end, shared, query)
        entry = Entry(stream, shared, asked, UNKNOWN, load=load, end=end)
        shared.add(entry)
        stream.entries.append(entry)
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
        if since.log != self.log:
            return UNKNOWN
        if since.is_version:
            return since.value
        key = document.namespace, document.document
        return (await self._past.snapshot(key, Point(Clock.sequence, since.value))).version

    async def _has_reached(self, document: WatchedDocument, version: int) -> bool:
        """Wait a little for a version that another gateway has sent already."""
        deadline = asyncio.get_running_loop().time() + BEYOND_SECONDS
        while document.version < version:
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(BEYOND_LOOK_SECONDS)
        return True

    async def _replay(self, document: WatchedDocument, asked: Subscription, after: int) -> Query:
        """Return a query over what came after a version, from history; shared by all that return to it."""
        key = document.namespace, document.document
        place = key, query_of(document, asked).key, after
        if (made := self._replays.get(place)) is not None and made.document.version > after:
            return made
        if place not in self._loading:
            task = asyncio.get_running_loop().create_task(self._load(key, asked, after), name="live-replay")
            self._loading[place] = task
            task.add_done_callback(lambda _: self._loading.pop(place))
        made = self._replays[place] = await asyncio.shield(self._loading[place])
        return made

    async def _load(self, key: Key, asked: Subscription, after: int) -> Query:
        # All changes of a document are sent as they are, whatever its state was.
        head = NEVER._replace(version=after)
        if not needs_no_state(asked):
            head = await self._past.snapshot(key, Point(Clock.version, after))
        past = WatchedDocument(key, head)
        query = query_of(past, asked)
        for change in await self._past.changes(key, after, REPLAYED_MAX):
            if not past.has_room(change):
                break
            past.append(change)
        query.flush()
        return query

    # --- What is watched ---------------------------------------------------------------------------------

    async def _watch(self, key: Key) -> WatchedDocument:
        document = await self.feed.watch(key)
        self._watches[key] += 1
        if self._watches[key] == 1:
            self._state_bytes += document.state_bytes
        if self._state_bytes > STATES_BYTES_MAX:
            self._unwatch(document)
            raise LiveFull("the documents that are watched here are too large together")
        return document

    def _unwatch(self, document: WatchedDocument) -> None:
        key = document.namespace, document.document
        self.feed.release(key)
        self._watches[key] -= 1
        if not self._watches[key]:
            del self._watches[key]
            self._state_bytes = max(0, self._state_bytes - document.state_bytes)

    def _end(self, shared: Shared, query: Query) -> None:
        """End what was shared, after its last subscriber."""
        document = query.document
        if not len(shared):
            del self._shared[(document.namespace, document.document), query.key], document.queries[query.key]
        self._unwatch(document)

    def forget(self, stream: Stream) -> None:
        """Forget a stream that has ended."""
        self._slots[stream.number % ALIVE_SECONDS].pop(stream, None)

    # --- Time --------------------------------------------------------------------------------------------

    def start(self, work: Coroutine[None, None, None]) -> None:
        """Run something beside the passes."""
        task = asyncio.get_running_loop().create_task(work, name="live-work")
        self._works.add(task)
        task.add_done_callback(self._works.discard)

    async def run(self) -> None:
        """Send signs of life, and end streams that are old, until cancelled."""
        loop = asyncio.get_running_loop()
        second = 0
        while True:
            await asyncio.sleep(1)
            second += 1
            self.metrics.frames.inc(self.frames_count)
            self.frames_count = 0
            for stream in list(self._slots[second % ALIVE_SECONDS]):
                if loop.time() > stream.ends_at:
                    stream.bye("age")
                else:
                    stream.alive()

    def shut_down(self) -> None:
        """End all streams; they are to return spread over some seconds."""
        self._is_ending = True
        streams = [stream for slot in self._slots for stream in slot]
        spread_seconds = len(streams) / RETURNS_PER_SECOND
        for stream in streams:
            stream.bye("shutdown", RETRY_SECONDS[0] + random.uniform(0, spread_seconds))  # noqa: S311 - no secret


def bye_frame(reason: str, retry_seconds: float | None = None) -> Frame:
    """Return the last message of a stream."""
    seconds = random.uniform(*RETRY_SECONDS) if retry_seconds is None else retry_seconds  # noqa: S311 - no secret
    fields = {"kind": "bye", "reason": reason, "retry_seconds": round(seconds, 3)}
    return Frame("bye", json_text.dumps(fields))
