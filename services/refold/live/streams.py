"""All streams of a gateway. `Live` is the entry for gateways: it opens streams, gives signs of life and ends them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Sequence
from typing import Final

from refold.core.errors import Refused
from refold.live import SUBSCRIPTIONS_MAX, Frame, LiveFull, Sink, Subscription, read_cursor, start_shared
from refold.live.documents import DocumentSubscriptions
from refold.live.fanout import RETRY_SECONDS, FeedPosition, Stream
from refold.live.namespace import NamespaceSubscriptions
from refold.telemetry.metrics.gateway import LiveMetrics

ALIVE_SECONDS: Final = 15
"""Between two `alive` messages of a stream. The streams are spread over these seconds."""

AGE_SPREAD: Final = 0.1
"""Streams end this much before or after their greatest age, so that they do not return together."""


RETURNS_PER_SECOND: Final = 1_000
"""After a shutdown, so many streams are to return in a second."""


class Live:
    """All streams of a gateway. `log` is the log's name in cursors."""

    def __init__(
        self,
        feed: FeedPosition,
        documents: DocumentSubscriptions,
        namespaces: NamespaceSubscriptions,
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
        task = start_shared(work, name="live-work")
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
            self._documents.count()
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
