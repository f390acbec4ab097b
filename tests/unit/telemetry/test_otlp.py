"""Spans on their way to a collector that hangs, refuses or works: never waited for, bounded, counted."""

from __future__ import annotations

import socket
import time

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from refold.telemetry import otlp
from refold.telemetry.metrics.process import SpanMetrics
from refold.telemetry.otlp import SPANS_WAITING_MAX, OtlpSpans
from refold.telemetry.tracing import Span, SpanContext
from support.collector import collecting
from support.system import free_port

DEADLINE_SECONDS = 30
ATTRIBUTES = {"text": "ü", "whole": -(2**63), "real": 0.5, "truth": True}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEND_INTERVAL_SECONDS", "SEND_SECONDS", "CLOSE_SECONDS"):
        monkeypatch.setattr(otlp, name, 0.1)


class Sending:
    """Spans on their way to an address, and their counts by result."""

    def __init__(self, url: str) -> None:
        self._registry = CollectorRegistry()
        metrics = SpanMetrics(self._registry)
        self.spans = OtlpSpans(url, service="refold-test", version="1", instance="i", metrics=metrics)

    def record(self, spans: int) -> None:
        context = SpanContext.root()
        for _ in range(spans):
            self.spans.record(Span("s", "CLIENT", context.child(), context, 1, 2, ATTRIBUTES, [context]))

    def count(self, result: str) -> int:
        return int(self._registry.get_sample_value("refold_spans_total", {"result": result}) or 0)

    def until(self, result: str, count: int) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self.count(result) < count:
            assert time.monotonic() < deadline, self.count(result)
            time.sleep(0.01)


def test_spans_that_a_hanging_collector_does_not_take_are_dropped_and_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sending = Sending(f"http://127.0.0.1:{silent.getsockname()[1]}")
        sending.record(SPANS_WAITING_MAX * 3)
        sending.spans.close()
    assert SPANS_WAITING_MAX * 2 >= sending.count("dropped") > SPANS_WAITING_MAX
    assert sending.count("sent") == 0


def test_a_collector_that_fails_is_logged_once_and_when_it_works_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = free_port()
    with capture_logs() as lines:
        sending = Sending(f"http://127.0.0.1:{port}")
        for failed in (2, 4):
            sending.record(2)
            sending.until("failed", failed)
        with collecting(port=port):
            sending.record(1)
            sending.until("sent", 1)
        sending.spans.close()
    own = [line for line in lines if line["url"] == f"http://127.0.0.1:{port}/v1/traces"]
    assert [line["event"] for line in own] == ["spans_not_sent", "spans_sent_again"]
    assert "refused" in own[0]["error"]
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


def test_spans_that_arrive_are_counted_and_the_rest_is_sent_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(otlp, "SEND_INTERVAL_SECONDS", 3_600)
    monkeypatch.setattr(otlp, "CLOSE_SECONDS", DEADLINE_SECONDS)
    with collecting() as collector:
        sending = Sending(collector.url)
        sending.record(3)
        sending.spans.close()
        assert sending.count("sent") == 3
        assert {(span.name, span.kind, len(span.links), span.service) for span in collector.spans} == {
            ("s", "CLIENT", 1, "refold-test")
        }
        assert [span.attributes for span in collector.spans] == [ATTRIBUTES] * 3


@pytest.mark.parametrize("value", [2**63, "\ud800"])
def test_a_value_that_otlp_does_not_have_fails_its_request_and_no_later_one(value: int | str) -> None:
    with collecting() as collector:
        sending = Sending(collector.url)
        context = SpanContext.root()
        sending.spans.record(Span("s", "CLIENT", context, None, 1, 2, {"n": value}))
        sending.until("failed", 1)
        sending.record(2)
        sending.until("sent", 2)
        sending.spans.close()
