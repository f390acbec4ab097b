"""Live subscriptions: what a subscriber asks for, what it is sent, and where it is sent to. No HTTP, no NATS.

A subscriber is a position in a shared query, not a queue: what it gets next is a function of its position and the head
(`refold.live.query`). `refold.live.streams.Live` is the entry; `refold.live.feed` brings the changes.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from refold.core.errors import Refused, ServiceUnavailable

SUBSCRIPTIONS_MAX: Final = 64
"""Subscriptions of one connection."""

INTERVALS: Final = (0, 50, 100, 250, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000)
"""Milliseconds between two messages of a subscription; what is asked for is rounded up to one of them."""

Result = TypeVar("Result")

_CURSOR: Final = re.compile(r"([0-9a-f]{8})([-@])(\d{1,18})", re.ASCII)


class Mode(StrEnum):
    """What a subscriber is sent."""

    patch = "patch"
    """A document or a value in it, then patches."""
    values = "values"
    """All values that match a pattern, then those that changed."""
    heads = "heads"
    """Which documents of a namespace changed."""
    changes = "changes"
    """Each change by itself."""


class LiveFull(ServiceUnavailable, code="live_full"):
    """The gateway has as many connections, documents or states as it takes; the client may ask another, or later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """What a subscriber asks for.

    `path` is a pattern (`refold.live.pattern`), `depth` the levels below it that count, None for all. `after` is a
    version or, of a namespace, a sequence. `interval` is in milliseconds. `type` is exact, or ends in `*`.
    """

    namespace: str
    document: str | None = None
    prefix: str = ""
    path: str = ""
    depth: int | None = None
    mode: Mode
    is_native: bool = False
    after: int | None = None
    interval: int = 0
    is_merged: bool = True
    type: str | None = None

    @property
    def wants_each(self) -> bool:
        """Whether it is sent each change by itself."""
        return not self.is_merged or self.mode is Mode.changes


class Frame:
    """A message, the same for all subscribers of a query.

    `body` is a JSON object with its `kind`. `position` is where a subscriber is that has got it: a version or, of a
    namespace, a sequence. `merged` counts the changes in it, and `why` is what a snapshot says. `encoded` is for the
    sink, which may keep there what it makes of the body.
    """

    __slots__ = ("body", "encoded", "kind", "merged", "position", "sequence", "why")

    def __init__(
        self, kind: str, body: bytes, *, position: int = 0, sequence: int = 0, merged: int = 1, why: str = ""
    ) -> None:
        self.kind = kind
        self.body = body
        self.position = position
        self.sequence = sequence
        self.merged = merged
        self.why = why
        self.encoded: bytes | None = None


class Sink(Protocol):
    """Where a stream's messages go."""

    is_ready: bool
    """A message is taken now. False while the last one is not sent."""

    on_ready: Callable[[], None]
    """Set by the stream; to be called when `is_ready` has become true."""

    def send(self, frame: Frame, cursor: str) -> None:
        """Take a message, with the cursor after it. It never raises, and may make `is_ready` false."""

    def end(self) -> None:
        """End, after what was sent."""


class Mailbox:
    """A sink for one consumer in this process: it holds one message until that is taken."""

    def __init__(self) -> None:
        self.is_ready = True
        self.on_ready: Callable[[], None] = lambda: None
        self._held: tuple[Frame, str] | None = None
        self._has_come = asyncio.Event()
        self.is_ended = False

    def send(self, frame: Frame, cursor: str) -> None:
        """Hold a message."""
        self._held = frame, cursor
        self.is_ready = False
        self._has_come.set()

    def end(self) -> None:
        """End, after what is held."""
        self.is_ended = True
        self._has_come.set()

    def take(self) -> tuple[Frame, str] | None:
        """Return the message that is held, if there is one; the stream may send the next at once."""
        held, self._held = self._held, None
        if held is not None:
            if not self.is_ended:
                self._has_come.clear()
            self.is_ready = True
            self.on_ready()
        return held

    async def next(self, deadline: float | None = None) -> tuple[Frame, str] | None:
        """Wait for a message; None after the last one, and where none has come by a time on the loop's clock."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._has_come.wait()
        # One that comes in the turn of the deadline is held, too.
        return self.take()


class Cursor(NamedTuple):
    """A position that a client keeps: of one document its version, else a sequence. `log` names the log."""

    log: str
    is_version: bool
    value: int

    def __str__(self) -> str:
        return f"{self.log}{'-' if self.is_version else '@'}{self.value}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read a cursor, or raise `Refused`."""
        found = _CURSOR.fullmatch(text)
        if found is None:
            rule = "a cursor is the id of an event of a live stream"
            raise Refused("bad_cursor", rule, field="cursor", shape=repr(text[:64]))
        return cls(found[1], found[2] == "-", int(found[3]))


def read_cursor(text: str | None, *, is_reconnect: bool) -> Cursor | None:
    """Read the cursor of a client; one that cannot be read is refused, or of no log where the client returns."""
    if text is None:
        return None
    try:
        return Cursor.parse(text)
    except Refused:
        if is_reconnect:
            # A browser that is refused never returns. No log has this name.
            return Cursor("", True, 0)
        raise


def log_name(log_id: str) -> str:
    """Return what names a log in cursors."""
    return hashlib.sha256(log_id.encode()).hexdigest()[:8]


def rounded_interval(milliseconds: int) -> int:
    """Round an interval up to one of `INTERVALS`; the longest for more."""
    return next((each for each in INTERVALS if each >= milliseconds), INTERVALS[-1])


def start_shared(work: Coroutine[Any, Any, Result], *, name: str) -> asyncio.Task[Result]:
    """Start work that several requests wait for.

    It is not in the context of the request that is first: the end of that one, and its permits, are not the others'.
    """
    return asyncio.create_task(work, name=name, context=Context())
