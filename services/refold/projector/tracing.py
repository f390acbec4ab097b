"""The spans of folded events: `process`, `notify` and `commit`, below the context in each event's headers.

Used by the projector's loop where tracing is on. The gateway, or any author, has decided which events are sampled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, Self

from refold.core.history import Entry
from refold.core.stream import Route
from refold.telemetry.tracing import (
    MESSAGING,
    Attributes,
    Span,
    SpanContext,
    Spans,
    looks_sampled,
    sampled_context,
)

TRACED_EVENTS_MAX: Final = 64
"""Events of one commit that have spans. The spans of the others are counted."""

TRACED_PER_SECOND_MAX: Final = 128
"""Events that have spans within a second."""

SECOND: Final = 1_000_000_000

EVENT_SPANS: Final = 3
"""Spans of one event."""


class Traced(NamedTuple):
    """An event that has spans, the context of its `process` and that of its author."""

    process: SpanContext
    parent: SpanContext
    entry: Entry
    where: Route
    received_at: int
    folded_at: int


class EventTraces:
    """The spans of one loop. Times are the broker's, as far as they can be known here.

    While events are folded only what their spans need is kept. Their spans are made at their commit, all at once:
    one by one, between other work, they take several times as long.
    """

    def __init__(self, spans: Spans, now: Callable[[], int], store: str) -> None:
        """`now` is the broker's clock in nanoseconds, `store` the name of the store that is written."""
        self._spans = spans
        self._now = now
        self._store = store
        self._unsent: list[Traced] = []
        self._sent: list[tuple[Traced, int]] = []
        self._over = 0
        self._received_at = 0
        self._second_ends_at = self._traced_in_second = 0

    @classmethod
    def of(cls, spans: Spans | None, now: Callable[[], int], store: str) -> Self | None:
        """Return the traces of a loop, None where tracing is off."""
        return None if spans is None else cls(spans, now, store)

    def receive(self) -> None:
        """Note that events have come from the log."""
        now = self._received_at = self._now()
        if now >= self._second_ends_at:
            self._second_ends_at, self._traced_in_second = now + SECOND, 0

    def fold(self, entry: Entry, where: Route, traced: list[Traced]) -> bytes:
        """Take an event that was just folded and has headers; return the context for its notices, if it is sampled.

        `traced` are the events with spans of the same commit.
        """
        headers = entry.headers
        if not looks_sampled(headers):
            return b""
        if len(traced) >= TRACED_EVENTS_MAX or self._traced_in_second >= TRACED_PER_SECOND_MAX:
            self._over += 1
            return b""
        parent = sampled_context(headers)
        if parent is None:
            return b""
        self._traced_in_second += 1
        event = Traced(parent.child(), parent, entry, where, self._received_at, self._now())
        traced.append(event)
        self._unsent.append(event)
        return event.process.header_lines

    def send(self, *, is_sent: bool) -> None:
        """Note that the notices of what was folded are sent, or that another projector sends them."""
        if is_sent and self._unsent:
            now = self._now()
            self._sent.extend([(event, now) for event in self._unsent])
        self._unsent.clear()

    def commit(self, traced: list[Traced], seconds: float, sizes: tuple[int, int, int]) -> None:
        """Record the spans of a commit's events, and those of the notices that were sent since the last call.

        `commit` is below each event's `process`, and for several events also a root that links to all of them.
        `seconds` is how long it took until now, `sizes` are its events, documents and bytes.
        """
        if self._over:
            self._spans.count_over_limit(self._over * EVENT_SPANS)
        for event in traced:
            self._spans.record(_process(event))
        for event, sent_at in self._sent:
            self._spans.record(_notify(event, sent_at))
        self._sent, self._over = [], 0
        if not traced:
            return
        now = self._now()
        begun_at = now - int(seconds * 1e9)
        names = "refold.commit.events", "refold.commit.documents", "refold.commit.bytes"
        attributes: Attributes = {"db.system.name": self._store, **dict(zip(names, sizes, strict=True))}
        for event in traced:
            context = event.process.child()
            self._spans.record(Span("commit", "CLIENT", context, event.process, begun_at, now, attributes))
        if len(traced) > 1:
            links = [event.process for event in traced]
            self._spans.record(
                Span("commit", "CLIENT", SpanContext.root(), None, begun_at, now, attributes, links)
            )


def _process(event: Traced) -> Span:
    entry, where = event.entry, event.where
    attributes: dict[str, str | int | float] = {
        **MESSAGING,
        "messaging.operation.type": "process",
        "refold.namespace": where.namespace,
        "refold.partition": where.partition,
        "refold.sequence": entry.sequence,
        "refold.version": entry.version,
        "refold.outcome": entry.status.name,
        "refold.broker_seconds": max(0, event.received_at - entry.time) / 1e9,
        "refold.queue_seconds": max(0, event.folded_at - event.received_at) / 1e9,
    }
    if entry.reason:
        attributes["refold.reason"] = entry.reason
    ended_at = max(event.folded_at, entry.time)
    return Span("process STATE", "CONSUMER", event.process, event.parent, entry.time, ended_at, attributes)


def _notify(event: Traced, sent_at: int) -> Span:
    context, changes = event.process.child(), int(event.entry.status.is_effective)
    begun_at = max(event.folded_at, event.entry.time)
    attributes: Attributes = {"messaging.system": "nats", "refold.changes": changes}
    ended_at = max(sent_at, begun_at)
    return Span("notify", "PRODUCER", context, event.process, begun_at, ended_at, attributes)
