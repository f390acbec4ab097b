"""Send spans to a collector by OTLP over HTTP, from a thread of their own: the only importer of OpenTelemetry.

Imported by the composition where `REFOLD_OTLP_URL` is set. Needs the extra `refold[otel]`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from threading import Event, Thread
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Encoded
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from opentelemetry.sdk.resources import Resource

from refold.telemetry.logging import get_logger
from refold.telemetry.metrics.process import SpanMetrics
from refold.telemetry.tracing import Span

SPANS_WAITING_MAX: Final = 2_048
"""Spans that wait to be sent or are being sent; further ones are dropped. To send them takes 1 to 2 % of a second."""

SEND_INTERVAL_SECONDS: Final = 1.0
SEND_SECONDS: Final = 5.0
"""How long a batch may take with its retries; then it has failed."""

CLOSE_SECONDS: Final = 2.0
"""How long an ending process waits for the last batch."""

TEXTS_KEPT_MAX: Final = 4_096
"""Texts of attributes that are kept encoded."""


class OtlpSpans:
    """The `Spans` port over OpenTelemetry's exporter.

    Headers, certificates and compression are OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_HEADERS`, …).
    """

    def __init__(self, url: str, *, service: str, version: str, instance: str, metrics: SpanMetrics) -> None:
        """Send to the collector at `url`, below which `/v1/traces` is."""
        named = {"service.name": service, "service.version": version, "service.instance.id": instance}
        self._resource = [
            _text(name, str(value)) for name, value in Resource.create(named).attributes.items()
        ]
        self._metrics = metrics
        self._url = f"{url.rstrip('/')}/v1/traces"
        self._exporter = _Exporter(self._url, timeout=SEND_SECONDS)
        # It would log each attempt.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL + 1)
        self._failure = ""
        self._waiting: deque[Span] = deque()
        self._sending = 0
        self._is_closed = Event()
        self._thread = Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def record(self, span: Span) -> None:
        """Queue a span, or drop it where too many wait."""
        if len(self._waiting) + self._sending < SPANS_WAITING_MAX:
            self._waiting.append(span)
        else:
            self._metrics.spans.labels(result="dropped").inc()

    def count_over_limit(self, spans: int) -> None:
        """Count spans that were not made."""
        self._metrics.spans.labels(result="over").inc(spans)

    def close(self) -> None:
        """Send what waits, for no longer than `CLOSE_SECONDS`."""
        self._is_closed.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        # Once a second: a thread that is woken more often takes the interpreter from the event loop more often.
        while not self._is_closed.wait(SEND_INTERVAL_SECONDS):
            self._send_waiting()
        self._send_waiting()
        self._exporter.close()

    def _send_waiting(self) -> None:
        # In one request: OpenTelemetry's client takes some milliseconds for each.
        self._sending = len(self._waiting)
        if self._sending:
            self._send([self._waiting.popleft() for _ in range(self._sending)])
        self._sending = 0

    def _send(self, spans: Sequence[Span]) -> None:
        result = "failed"
        # ValueError: a text or a number that OTLP does not have.
        with suppress(ValueError):
            body = self._request(spans).SerializeToString()
            failure = self._exporter.send(body)
            self._tell(failure)
            result = "failed" if failure else "sent"
        self._metrics.spans.labels(result=result).inc(len(spans))

    def _tell(self, failure: str) -> None:
        """Log that the collector begins to fail, or to work again."""
        if failure and not self._failure:
            get_logger().warning("spans_not_sent", url=self._url, error=failure)
        if self._failure and not failure:
            get_logger().info("spans_sent_again", url=self._url)
        self._failure = failure

    def _request(self, spans: Sequence[Span]) -> ExportTraceServiceRequest:
        request = ExportTraceServiceRequest()
        found = request.resource_spans.add()
        found.resource.attributes.extend(self._resource)
        scope = found.scope_spans.add()
        scope.scope.name = "refold"
        for span in spans:
            _encode(span, scope.spans.add())
        return request


class _Exporter(OTLPSpanExporter):
    """OpenTelemetry's exporter, for requests that are encoded. Its client is private, so its version is pinned."""

    def send(self, body: bytes) -> str:
        """Send a request, with retries; return why it was not taken, empty if it was."""
        result = self._client.export(body)
        return "" if result.success else str(result.reason or result.error or "no answer")

    def close(self) -> None:
        """Close the connection."""
        self._client.shutdown()


def _encode(span: Span, encoded: Encoded) -> None:
    """Write a span as OTLP: 3 to 9 µs. OpenTelemetry's own way, over its own spans, takes 14 to 28."""
    context = span.context
    encoded.trace_id, encoded.span_id = context.trace_id.to_bytes(16), context.span_id.to_bytes(8)
    encoded.trace_state = context.state
    encoded.flags = context.flags
    if span.parent is not None:
        encoded.parent_span_id = span.parent.span_id.to_bytes(8)
    encoded.name, encoded.kind = span.name, Encoded.SpanKind.Value(f"SPAN_KIND_{span.kind}")
    encoded.start_time_unix_nano, encoded.end_time_unix_nano = span.started_at, span.ended_at
    if span.is_error:
        encoded.status.code = Status.STATUS_CODE_ERROR
    for name, value in span.attributes.items():
        if isinstance(value, str):
            encoded.attributes.append(_text(name, value))
        else:
            _add_number(encoded.attributes.add(), name, value)
    for linked in span.links:
        encoded.links.add(trace_id=linked.trace_id.to_bytes(16), span_id=linked.span_id.to_bytes(8))


# Most spans have the same few.
@lru_cache(TEXTS_KEPT_MAX)
def _text(name: str, value: str) -> KeyValue:
    return KeyValue(key=name, value=AnyValue(string_value=value))


def _add_number(attribute: KeyValue, name: str, value: float) -> None:
    attribute.key = name
    if isinstance(value, bool):
        attribute.value.bool_value = value
    elif isinstance(value, int):
        attribute.value.int_value = value
    else:
        attribute.value.double_value = value
