"""Trace contexts: what is read from headers, and what counts as none."""

from __future__ import annotations

import pytest

from refold.telemetry.tracing import SpanContext, sampled_context

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def lines(*headers: tuple[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers).encode()


@pytest.mark.parametrize(
    "parent",
    [
        "",
        PARENT[:-1],
        f"{PARENT}0",
        f"{PARENT}-more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        PARENT.upper(),
        f"ff-{TRACE}-{SPAN}-01",
        f"{PARENT}, {PARENT}",
        f"00-{TRACE}-{SPAN}-0é",
    ],
)
def test_an_invalid_traceparent_is_no_context(parent: str) -> None:
    assert sampled_context(lines(("traceparent", parent))) is None


def test_two_traceparents_are_no_context() -> None:
    assert sampled_context(lines(("traceparent", PARENT), ("traceparent", PARENT))) is None
    assert sampled_context(lines(("traceparent", PARENT), ("Traceparent", PARENT))) is None


def test_a_large_tracestate_makes_no_context() -> None:
    assert sampled_context(lines(("traceparent", PARENT), ("tracestate", "a=" + "x" * 510))) is not None
    assert sampled_context(lines(("traceparent", PARENT), ("tracestate", "a=" + "x" * 31_000))) is None
    assert sampled_context(lines(("traceparent", PARENT), ("tracestate", "a=é"))) is None


def test_another_headers_value_is_no_context() -> None:
    assert sampled_context(lines(("X", f"traceparent: {PARENT}"))) is None
    assert sampled_context(b"") is None


@pytest.mark.parametrize(("flags", "is_sampled"), [("00", False), ("01", True), ("02", False), ("03", True)])
def test_bit_0_of_the_flags_says_whether_it_is_sampled(flags: str, is_sampled: bool) -> None:
    context = sampled_context(lines(("traceparent", f"00-{TRACE}-{SPAN}-{flags}")))
    assert (context is not None) is is_sampled


def test_a_context_is_written_as_it_was_read() -> None:
    written = lines(("traceparent", PARENT), ("tracestate", "a=1,b=2"))
    read = sampled_context(
        lines(("Refold-Id", "1"), ("Traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2"))
    )
    assert read is not None
    assert read.header_lines == written
    # A later version may have more fields, which are not for us.
    assert sampled_context(lines(("traceparent", f"01-{PARENT[3:]}-x"))) == SpanContext(
        int(TRACE, 16), int(SPAN, 16), 1
    )


def test_a_child_stays_in_the_trace_and_a_root_begins_one_that_is_sampled() -> None:
    root = SpanContext.root()
    child = root.child()
    assert root.is_sampled
    assert child._replace(span_id=root.span_id) == root != child
