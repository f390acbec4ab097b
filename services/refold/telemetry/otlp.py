"""Send spans to a collector by OTLP over HTTP, from a thread of their own: the only importer of OpenTelemetry.

Imported by the composition where `REFOLD_OTLP_URL` is set. Needs the extra `refold[otel]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Thread
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from refold.telemetry import tracing
from refold.telemetry.metrics import SpanMetrics
from refold.telemetry.tracing import Span

SPANS_WAITING_MAX: Final = 2_048
"""Spans that wait to be sent or are being sent; further ones are dropped."""

SPANS_SENT_MAX: Final = 512
"""Spans in one request."""

SEND_INTERVAL_SECONDS: Final = 1.0
SEND_SECONDS: Final = 5.0
"""How long a batch may take with its retries; then it has failed."""

CLOSE_SECONDS: Final = 2.0
"""How long an ending process waits for the last batch."""

_SCOPE: Final = InstrumentationScope("refold")


class OtlpSpans:
    """The `Spans` port over OpenTelemetry's batch processor and exporter.

    Headers, certificates and compression are OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_HEADERS`, …).
    """

    def __init__(self, url: str, *, service: str, version: str, instance: str, metrics: SpanMetrics) -> None:
        """Send to the collector at `url`, below which `/v1/traces` is."""
        named = {"service.name": service, "service.version": version, "service.instance.id": instance}
        self._resource = Resource.create(named)
        self._metrics = metrics
        exporter = OTLPSpanExporter(f"{url.rstrip('/')}/v1/traces", timeout=SEND_SECONDS)
        self._exporter = _Counting(exporter, metrics)
        self._recorded = 0
        # Its own bound is never reached: `record` drops before, and counts.
        self._processor = BatchSpanProcessor(
            self._exporter,
            max_queue_size=SPANS_WAITING_MAX,
            max_export_batch_size=SPANS_SENT_MAX,
            schedule_delay_millis=SEND_INTERVAL_SECONDS * 1_000,
        )

    def record(self, span: Span) -> None:
        """Queue a span, or drop it where too many wait."""
        if self._recorded - self._exporter.finished >= SPANS_WAITING_MAX:
            self._metrics.spans.labels(result="dropped").inc()
            return
        self._recorded += 1
        self._processor.on_end(self._readable(span))

    def count_over(self, spans: int) -> None:
        """Count spans that were not made."""
        self._metrics.spans.labels(result="over").inc(spans)

    def close(self) -> None:
        """Send what waits, for no longer than `CLOSE_SECONDS`."""
        # The processor's own way to end would wait 30 seconds for a collector that hangs.
        closing = Thread(target=self._processor.shutdown, name="spans-close", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)

    def _readable(self, span: Span) -> ReadableSpan:
        """Make OpenTelemetry's span. Its tracer takes several times as long, and draws the ids itself."""
        return ReadableSpan(
            name=span.name,
            context=_context(span.context),
            parent=None if span.parent is None else _context(span.parent, is_remote=True),
            resource=self._resource,
            attributes=span.attributes,
            links=[Link(_context(linked)) for linked in span.links],
            kind=SpanKind[span.kind],
            status=Status(StatusCode.ERROR) if span.is_error else Status(),
            start_time=span.started_at,
            end_time=span.ended_at,
            instrumentation_scope=_SCOPE,
        )


class _Counting(SpanExporter):
    """Count what an exporter sends, by its result."""

    def __init__(self, exporter: SpanExporter, metrics: SpanMetrics) -> None:
        self._exporter = exporter
        self._metrics = metrics
        self.finished = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            self.finished += len(spans)
            name = "sent" if result is SpanExportResult.SUCCESS else "failed"
            self._metrics.spans.labels(result=name).inc(len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _context(context: tracing.SpanContext, *, is_remote: bool = False) -> SpanContext:
    state = TraceState.from_header([context.state]) if context.state else None
    return SpanContext(context.trace_id, context.span_id, is_remote, TraceFlags(context.flags), state)
