"""Passes: how all subscribers of a query that are behind are sent what they lack.

The work grows with the subscribers, not with subscribers times changes: a message has all that a subscriber lacks, and
one that is not ready gets its next message when it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Final, Protocol

from refold.core.errors import RefoldError
from refold.live import Frame, Subscription, rounded_interval
from refold.live.query import Behind
from refold.telemetry.logging import get_logger
from refold.telemetry.metrics import LiveMetrics

if TYPE_CHECKING:
    from refold.live.streams import Stream

PASS_ENTRIES: Final = 512
"""Subscribers that a pass serves in one turn of the event loop."""


class Source(Protocol):
    """Messages by position: a document's query, or what the subscribers of a namespace are sent."""

    wake: Callable[[], None]
    """To be called when there is more."""

    def is_behind(self, position: int) -> bool:
        """Tell whether there is something to send to a subscriber at a position."""

    def caught_up(self, position: int) -> int:
        """Return the position that a subscriber who has all at a position is up to date with."""

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
        load: Callable[[int], Awaitable[Source]],
        end: Callable[[], None],
    ) -> None:
        self.stream = stream
        self.shared = shared
        self.asked = asked
        self.position = self.sent = position
        self.load = load
        self.end = end
        self.replay: Source | None = None
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
        try:
            source = self.shared.source
            return source.next(self.position, self.sent, is_merged=not self.asked.wants_each, why=self.why)
        except Behind:
            if not self.is_loading:
                self.is_loading = True
                self.stream.start(self._load())
            return None

    def take(self, frame: Frame) -> None:
        """Note the message that is sent now."""
        self.position = self.sent = frame.position
        self.why = "slow"

    async def _load(self) -> None:
        try:
            self.replay = await self.load(self.position)
        except RefoldError as error:
            get_logger().warning("live_replay_failed", code=error.code, error=str(error))
            self.stream.bye("slow")
            return
        self.is_loading = False
        self.stream.pump()

    def cursor_position(self) -> int:
        """Return how far it has got all, which may be beyond its last message."""
        source = self.replay or self.shared.source
        return self.position if source.is_behind(self.position) else source.caught_up(self.position)

    def covered(self, sequence: int) -> int:
        """Return the sequence up to which it has got all; `sequence` where it has got all that has come."""
        source = self.replay or self.shared.source
        return source.covered(self.position, sequence)


class Shared:
    """A source with its subscribers, by their interval."""

    def __init__(self, source: Source, metrics: LiveMetrics) -> None:
        self.source = source
        self._metrics = metrics
        self._passes: dict[int, Pass] = {}
        source.wake = self.wake

    def __len__(self) -> int:
        return sum(len(each.entries) for each in self._passes.values())

    def add(self, entry: Entry) -> None:
        """Add a subscriber."""
        interval = rounded_interval(entry.asked.interval)
        if interval not in self._passes:
            self._passes[interval] = Pass(interval / 1_000, self._metrics)
        self._passes[interval].entries[entry] = None

    def remove(self, entry: Entry) -> None:
        """Remove a subscriber."""
        del self._passes[rounded_interval(entry.asked.interval)].entries[entry]

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
