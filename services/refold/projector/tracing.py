"""The spans of folded events: `process`, `notify` and `commit`, below the context in each event's headers.

Used by the projector's loop where tracing is on. The gateway, or any author, has decided which events are sampled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, Self

from refold.core.history import Entry
from refold.core.stream import Record, Route
from refold.telemetry.tracing import MESSAGING, Attributes, Span, SpanContext, Spans, sampled_context

TRACED_EVENTS_MAX: Final = 64
"""Events of one commit that have spans, which cost 0.1 to 0.2 ms with their sending. Those of others are counted."""

TRACED_PER_SECOND_MAX: Final = 128
"""Events that have spans within a second: more would take over 1 % of it from the fold (85 µs each)."""

SECOND: Final = 1_000_000_000

EVENT_SPANS: Final = 3
"""Spans of one event."""


class Traced(NamedTuple):
    """An event that has spans: the context of its `process`, and when that ended."""

    process: SpanContext
    folded_at: int
    changes: int


class EventTraces:
    """The spans of one loop. Times are the broker's, as far as they can be known here."""

    def __init__(self, spans: Spans, now: Callable[[], int], store: str) -> None:
        """`now` is the broker's clock in nanoseconds, `store` the name of the store that is written."""
        self._spans = spans
        self._now = now
        self._store = store
        self._unsent: list[Traced] = []
        self._received_at = 0
        self._second_ends_at = self._traced_in_second = 0

    @classmethod
    def of(cls, spans: Spans | None, now: Callable[[], int], store: str) -> Self | None:
        """Return the traces of a loop, None where tracing is off."""
        return None if spans is None else cls(spans, now, store)

    def receive(self) -> None:
        """Note that events have come from the log."""
        self._received_at = self._now()

    def find(self, records: list[Record], young: int) -> dict[int, SpanContext]:
        """Return the contexts of the sampled events among these by sequence; those that are older have no spans."""
        # All that tracing costs an event without a context: 0.08 µs, and twice that with `in`.
        return {
            record[0]: parent
            for record in records
            if record[3].find(b"raceparent") >= 0
            and record.time > young
            and (parent := sampled_context(record.headers)) is not None
        }

    def fold(self, parent: SpanContext, entry: Entry, where: Route, traced: list[Traced]) -> bytes:
        """Record `process` for a sampled event that was just folded; return the context for its notices.

        `traced` are the events of the same commit.
        """
        now = max(self._now(), entry.time)
        if now >= self._second_ends_at:
            self._second_ends_at, self._traced_in_second = now + SECOND, 0
        if len(traced) >= TRACED_EVENTS_MAX or self._traced_in_second >= TRACED_PER_SECOND_MAX:
            self._spans.count_over(EVENT_SPANS)
            return b""
        self._traced_in_second += 1
        event = Traced(parent.child(), now, int(entry.status.is_effective))
        traced.append(event)
        self._unsent.append(event)
        attributes: dict[str, str | int | float] = {
            **MESSAGING,
            "messaging.operation.type": "process",
            "refold.namespace": where.namespace,
            "refold.partition": where.partition,
            "refold.sequence": entry.sequence,
            "refold.version": entry.version,
            "refold.outcome": entry.status.name,
            "refold.broker_seconds": max(0, self._received_at - entry.time) / 1e9,
            "refold.queue_seconds": max(0, now - self._received_at) / 1e9,
        }
        if entry.reason:
            attributes["refold.reason"] = entry.reason
        span = Span("process STATE", "CONSUMER", event.process, parent, entry.time, now, attributes)
        self._spans.record(span)
        return event.process.header_lines

    def send(self, *, is_sent: bool) -> None:
        """Record `notify` for what was folded since the last call; not where another projector sends the notices."""
        unsent, self._unsent = self._unsent, []
        if not is_sent:
            return
        for event in unsent:
            context, now = event.process.child(), max(self._now(), event.folded_at)
            attributes: Attributes = {"messaging.system": "nats", "refold.changes": event.changes}
            self._spans.record(
                Span("notify", "PRODUCER", context, event.process, event.folded_at, now, attributes)
            )

    def commit(self, traced: list[Traced], seconds: float, sizes: tuple[int, int, int]) -> None:
        """Record `commit` below each event's `process`; for several also a root that links to all of them.

        `seconds` is how long it took until now, `sizes` are its events, documents and bytes.
        """
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
