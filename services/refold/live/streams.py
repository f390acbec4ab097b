"""Streams: the connections of subscribers. `Live` is the entry for gateways: it opens, resumes and ends them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Sequence
from functools import lru_cache
from typing import Final, Protocol

from refold.core import json_text
from refold.core.errors import Refused
from refold.live import SUBSCRIPTIONS_MAX, Cursor, Frame, LiveFull, Sink, Subscription, read_cursor
from refold.live.documents import Documents
from refold.live.fanout import Entry
from refold.live.namespace import Namespaces
from refold.telemetry.metrics import LiveMetrics

ALIVE_SECONDS: Final = 15
"""Between two `alive` messages of a stream. The streams are spread over these seconds."""

AGE_SPREAD: Final = 0.1
"""Streams end this much before or after their greatest age, so that they do not return together."""

CURSORS_CACHED_MAX: Final = 1_024
"""Texts of cursors that are kept: all that are sent a message get the same one."""

RETRY_SECONDS: Final = (1.0, 5.0)
"""When a client that was sent away is to return; it is drawn at random."""

RETURNS_PER_SECOND: Final = 1_000
"""After a shutdown, so many streams are to return in a second."""


class Feed(Protocol):
    """What brings the changes (`refold.live.feed`). Everything up to `sequence` that is watched has been appended."""

    @property
    def sequence(self) -> int:
        """Return that sequence."""

    @property
    def behind_seconds(self) -> float:
        """Return for how long nothing has been heard of the projector, beyond its usual silence."""


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

    def add(self, entry: Entry) -> None:
        """Add a subscription."""
        self._live.metrics.subscriptions.labels(mode=entry.asked.mode.value).inc()
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
                    entry.is_due = False
                    return
                entry.take(frame)
                is_single = len(self.entries) == 1
                cursor = self._document_cursor(entry, frame.position) if is_single else self._joint_cursor()
                sink.send(frame, cursor)
                self._live.count(frame)
        except Refused as refusal:
            self.error(refusal)

    def _document_cursor(self, entry: Entry, position: int) -> str:
        return _cursor_text(self._live.log, entry.asked.document is not None, position)

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
            self._live.metrics.subscriptions.labels(mode=entry.asked.mode.value).dec()
            entry.shared.remove(entry)
            entry.end()
        self.entries.clear()


class Live:
    """All streams of a gateway. `log` is the log's name in cursors."""

    def __init__(
        self,
        feed: Feed,
        documents: Documents,
        namespaces: Namespaces,
        *,
        log: str,
        metrics: LiveMetrics,
        age_seconds: float,
    ) -> None:
        self.feed = feed
        self.log = log
        self.metrics = metrics
        self._documents = documents
        self._namespaces = namespaces
        self._age_seconds = age_seconds
        self._slots: list[dict[Stream, None]] = [{} for _ in range(ALIVE_SECONDS)]
        self._opened = 0
        self._works: set[asyncio.Task[None]] = set()
        self._is_ending = False
        self._frames_count = 0

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
                some = self._namespaces if asked.document is None else self._documents
                await some.subscribe(stream, asked, since)
                if len(subscriptions) > 1:
                    # To find what one pattern matches may take 50 ms.
                    await asyncio.sleep(0)
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
            self.metrics.frames.inc(self._frames_count)
            self._frames_count = 0
            for stream in list(self._slots[second % ALIVE_SECONDS]):
                if loop.time() > stream.ends_at:
                    stream.bye("age")
                else:
                    stream.alive()

    def count(self, frame: Frame) -> None:
        """Count a message that was sent; the usual ones each second, as a metric costs more than the message."""
        self._frames_count += 1
        if frame.merged > 1:
            self.metrics.merged.inc()
        if frame.why:
            self.metrics.snapshots.labels(why=frame.why).inc()

    def shut_down(self) -> None:
        """End all streams; they are to return spread over some seconds."""
        self._is_ending = True
        streams = [stream for slot in self._slots for stream in slot]
        spread_seconds = len(streams) / RETURNS_PER_SECOND
        for stream in streams:
            stream.bye("shutdown", RETRY_SECONDS[0] + random.uniform(0, spread_seconds))  # noqa: S311 - no secret


@lru_cache(CURSORS_CACHED_MAX)
def _cursor_text(log: str, is_version: bool, value: int) -> str:
    return str(Cursor(log, is_version, value))


def bye_frame(reason: str, retry_seconds: float | None = None) -> Frame:
    """Return the last message of a stream."""
    seconds = random.uniform(*RETRY_SECONDS) if retry_seconds is None else retry_seconds  # noqa: S311 - no secret
    fields = {"kind": "bye", "reason": reason, "retry_seconds": round(seconds, 3)}
    return Frame("bye", json_text.dumps(fields))
