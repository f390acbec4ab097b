"""Streams, the connections of subscribers, and passes: how all that are behind are sent what they lack.

The work grows with the subscribers, not with subscribers times changes: a message has all that a subscriber lacks, and
one that is not ready gets its next message when it is.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import lru_cache
from itertools import islice
from time import perf_counter
from typing import Final, Protocol

from refold.core import json_text
from refold.core.errors import RefoldError, Refused
from refold.live import Cursor, Frame, Sink, Subscription, rounded_interval
from refold.live.query import UNKNOWN, Behind
from refold.telemetry.logging import get_logger
from refold.telemetry.metrics.gateway import LiveMetrics

PASS_ENTRIES: Final = 512
"""Subscribers that a pass serves in one turn of the event loop."""


RETRY_SECONDS: Final = (1.0, 5.0)
"""When a client that was sent away is to return; it is drawn at random."""

CURSORS_CACHED_MAX: Final = 1_024
"""Texts of cursors that are kept: all that are sent a message get the same one."""


class MessageSource(Protocol):
    """Messages by position: a document's query, or what the subscribers of a namespace are sent."""

    wake: Callable[[], None]
    """To be called when there is more."""

    def is_behind(self, position: int) -> bool:
        """Tell whether there is something to send to a subscriber at a position."""

    def caught_up(self, position: int) -> int:
        """Return the position that a subscriber with all up to a position is up to date with."""

    def covered(self, position: int, sequence: int) -> int:
        """Return the sequence up to which a subscriber has got all; `sequence` is the one that everything is at."""

    def next(self, position: int, sent: int, *, is_merged: bool, why: str) -> Frame | None:
        """Return what a subscriber gets that has all up to a position; None where there is no more.

        `sent` is the position of its last message. Raises `Behind` where it must be loaded, and `Refused`.
        """


class Entry:
    """One subscription of a stream: a position in a shared source.

    It has all up to `position`; `sent` is that of its last message. `replay` is what it is sent first, and `load` reads
    more of that. `why` is what its next snapshot says. `is_due`: its interval has ended. `end` is called when it is
    removed.
    """

    __slots__ = (
        "asked", "end", "is_due", "is_loading", "load", "position", "replay", "sent", "shared", "stream", "why",
    )  # fmt: skip

    def __init__(
        self,
        stream: Stream,
        shared: Shared,
        asked: Subscription,
        position: int,
        *,
        load: Callable[[int], Awaitable[MessageSource]],
        end: Callable[[], None],
    ) -> None:
        self.stream = stream
        self.shared = shared
        self.asked = asked
        self.position = self.sent = position
        self.load = load
        self.end = end
        self.replay: MessageSource | None = None
        self.why = "first"
        self.is_loading = False
        self.is_due = True

    def next(self) -> Frame | None:
        """Return its next message, or None and begin to load it where it is not kept. Raises `Refused`."""
        if self.replay is not None:
            frame = self.replay.next(self.position, self.sent, is_merged=False, why=self.why)
            if frame is not None:
                return frame
            self.position = self.replay.caught_up(self.position)
            self.replay = None
            self.stream.drained()
        try:
            source = self.shared.source
            return source.next(self.position, self.sent, is_merged=not self.asked.wants_each, why=self.why)
        except Behind:
            if not self.is_loading:
                self.is_loading = True
                self.stream.load(self)
            return None

    def take(self, frame: Frame) -> None:
        """Note the message that is sent now."""
        self.position = self.sent = frame.position
        self.why = "slow"

    def cursor_position(self) -> int:
        """Return how far it has got all, which may be beyond its last message."""
        source = self.replay or self.shared.source
        return self.position if source.is_behind(self.position) else source.caught_up(self.position)

    def covered(self, sequence: int) -> int:
        """Return the sequence up to which it has got all; `sequence` where it has got all that has come."""
        source = self.replay or self.shared.source
        return source.covered(self.position, sequence)


def nothing() -> None:
    """Do nothing when called back."""


class Shared:
    """A source with its subscribers, by their interval."""

    def __init__(self, source: MessageSource, metrics: LiveMetrics) -> None:
        self.source = source
        self._metrics = metrics
        self._passes: dict[int, Pass] = {}

    def __len__(self) -> int:
        return sum(len(each.entries) for each in self._passes.values())

    def add(self, entry: Entry) -> None:
        """Add a subscriber."""
        interval = rounded_interval(entry.asked.interval)
        if interval not in self._passes:
            self._passes[interval] = Pass(interval / 1_000, self._metrics)
        self._passes[interval].entries[entry] = None
        self.source.wake = self.wake

    def remove(self, entry: Entry) -> None:
        """Remove a subscriber. After the last, nothing refers back here: a document is freed without the collector."""
        del self._passes[rounded_interval(entry.asked.interval)].entries[entry]
        if not len(self):
            self.source.wake = nothing

    def wake(self) -> None:
        """Serve all subscribers that are behind: at once, or when their interval ends."""
        for each in self._passes.values():
            each.wake()


class Pass:
    """The subscribers of a source that have the same interval."""

    def __init__(self, interval_seconds: float, metrics: LiveMetrics) -> None:
        self.entries: dict[Entry, None] = {}
        self._interval_seconds = interval_seconds
        self._metrics = metrics
        self._not_before = 0.0
        self._is_waiting = self._is_running = self._is_again = False

    def wake(self) -> None:
        """Begin a pass, or another one after the one that runs."""
        if self._is_running:
            self._is_again = True
        elif not self._is_waiting:
            self._is_waiting = True
            loop = asyncio.get_running_loop()
            if self._not_before > loop.time():
                loop.call_at(self._not_before, self._begin)
            else:
                loop.call_soon(self._begin)

    def _begin(self) -> None:
        now = asyncio.get_running_loop().time()
        self._not_before = now + self._interval_seconds
        self._is_waiting, self._is_running = False, True
        self._run(iter(list(self.entries)), perf_counter())

    def _run(self, entries: Iterator[Entry], began: float) -> None:
        loop = asyncio.get_running_loop()
        some = list(islice(entries, PASS_ENTRIES))
        for entry in some:
            entry.is_due = True
            entry.stream.pump_entry(entry)
        if len(some) == PASS_ENTRIES:
            loop.call_soon(self._run, entries, began)
            return
        self._metrics.pass_seconds.observe(perf_counter() - began)
        self._is_running = False
        if self._is_again:
            self._is_again = False
            self.wake()


class FeedPosition(Protocol):
    """What brings the changes (`refold.live.feed`). Everything up to `sequence` that is watched has been appended."""

    @property
    def sequence(self) -> int:
        """Return that sequence."""

    @property
    def behind_seconds(self) -> float:
        """Return for how long nothing has been heard of the projector, beyond its usual silence."""


class Owner(Protocol):
    """What streams belong to (`refold.live.streams`). `log` is the log's name in cursors."""

    feed: FeedPosition
    log: str
    metrics: LiveMetrics

    def start(self, work: Coroutine[None, None, None]) -> None:
        """Run something beside the passes."""

    def count(self, frame: Frame) -> None:
        """Count a message that was sent."""

    def forget(self, stream: Stream) -> None:
        """Forget a stream that has ended."""


class Stream:
    """A connection: its subscriptions, and the sink that their messages go to."""

    def __init__(self, owner: Owner, sink: Sink, number: int) -> None:
        self.number = number
        self.entries: list[Entry] = []
        self.is_open = False
        self.ends_at = 0.0
        self._owner = owner
        self._sink = sink
        # Subscriptions waiting to load, one at a time, to bound memory per stream.
        self._loads: deque[Entry] = deque()
        self._is_loading = False
        self._is_drained = asyncio.Event()
        sink.on_ready = self.pump

    def load(self, entry: Entry) -> None:
        """Read what a subscription lacks, after those of other ones."""
        self._loads.append(entry)
        if not self._is_loading:
            self._is_loading = True
            self._owner.start(self._load_all())

    async def _load_all(self) -> None:
        try:
            while self._loads and self.is_open:
                entry = self._loads.popleft()
                self._is_drained.clear()
                entry.replay = await entry.load(entry.position)
                entry.is_loading = False
                self.pump_entry(entry)
                while entry.replay is not None and self.is_open:
                    await self._is_drained.wait()
                    self._is_drained.clear()
        except RefoldError as error:
            get_logger().warning("live_replay_failed", code=error.code, error=str(error))
            self.bye("slow")
        except Exception as error:  # noqa: BLE001 - a stream that stays open would wait for what never comes
            self._crash(error)
        finally:
            self._is_loading = False

    def drained(self) -> None:
        """Note that a subscription has been sent all that was read for it."""
        self._is_drained.set()

    def add(self, entry: Entry) -> None:
        """Add a subscription."""
        self._owner.metrics.subscriptions.labels(mode=entry.asked.mode.value).inc()
        entry.shared.add(entry)
        self.entries.append(entry)

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
                    entry.is_due = entry.is_loading
                    return
                entry.take(frame)
                is_single = len(self.entries) == 1
                cursor = self._document_cursor(entry, frame.position) if is_single else self._joint_cursor()
                sink.send(frame, cursor)
                self._owner.count(frame)
        except Refused as refusal:
            self.error(refusal)
        except Exception as error:  # noqa: BLE001 - the other streams of the pass go on
            self._crash(error)

    def _document_cursor(self, entry: Entry, position: int) -> str:
        return _cursor_text(self._owner.log, entry.asked.document is not None, position)

    def _joint_cursor(self) -> str:
        """Return the sequence up to which all subscriptions have got all; empty while one has not begun."""
        if any(entry.position == UNKNOWN for entry in self.entries):
            return ""
        sequence = self._owner.feed.sequence
        return str(
            Cursor(self._owner.log, False, max(0, min(each.covered(sequence) for each in self.entries)))
        )

    def alive(self) -> None:
        """Send a sign of life, with the cursor."""
        if not (self._sink.is_ready and self.is_open):
            return
        feed, entry = self._owner.feed, self.entries[0]
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
        self._end(reason)

    def _crash(self, error: Exception) -> None:
        get_logger().error("live_stream_crashed", exc_info=error)
        if self.is_open:
            self._end("full")

    def _end(self, reason: str) -> None:
        self.close()
        self._owner.metrics.bye.labels(reason=reason).inc()
        self._sink.end()

    def close(self) -> None:
        """End all subscriptions; nothing more is sent."""
        self.is_open = False
        self._owner.forget(self)
        for entry in self.entries:
            self._owner.metrics.subscriptions.labels(mode=entry.asked.mode.value).dec()
            entry.shared.remove(entry)
            entry.end()
        self.entries.clear()
        self._is_drained.set()
        self._sink.on_ready = nothing


@lru_cache(CURSORS_CACHED_MAX)
def _cursor_text(log: str, is_version: bool, value: int) -> str:
    return str(Cursor(log, is_version, value))


def bye_frame(reason: str, retry_seconds: float | None = None) -> Frame:
    """Return the last message of a stream."""
    seconds = random.uniform(*RETRY_SECONDS) if retry_seconds is None else retry_seconds  # noqa: S311 - no secret
    fields = {"kind": "bye", "reason": reason, "retry_seconds": round(seconds, 3)}
    return Frame("bye", json_text.dumps(fields))
