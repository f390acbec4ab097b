"""One write, followed from the request to the commit: its spans as a tree of text."""

import asyncio
import json
import os
from http.client import HTTPConnection
from urllib.parse import urlsplit

from receivers import Received, Span

NAMES = {"send STATE", "process STATE", "commit", "notify", "wait"}
"""The spans of a write, besides that of the request."""


async def follow_a_write(url: str, received: Received) -> None:
    """Write with a trace context, and print the spans of its trace."""
    print("\n▸ Traces: one write, whose caller sends a traceparent")
    trace, caller = os.urandom(16).hex(), os.urandom(8).hex()
    await asyncio.to_thread(_write, url, f"00-{trace}-{caller}-01")
    await received.until(lambda: {span.name for span in _of(received, trace)} >= NAMES)
    spans = sorted(_of(received, trace), key=lambda span: span.began_at)
    _show(spans, caller, min(span.began_at for span in spans), "")
    assert len({span.id for span in spans}) == len(spans) == len(NAMES) + 1


def _write(url: str, traceparent: str) -> None:
    connection = HTTPConnection(urlsplit(url).netloc, timeout=30)
    headers = {"Content-Type": "application/json", "traceparent": traceparent}
    connection.request("PUT", "/v1/shop/traced", json.dumps({"total": 5}), headers)
    response = connection.getresponse()
    assert response.status == 201, response.read()
    response.read()
    connection.close()


def _of(received: Received, trace: str) -> list[Span]:
    return [span for span in received.spans if span.trace == trace]


def _show(spans: list[Span], parent: str, begun: int, indent: str) -> None:
    for span in spans:
        if span.parent == parent:
            start, end = ((moment - begun) / 1e6 for moment in (span.began_at, span.ended_at))
            label = f"{indent}{span.name}"
            print(f"  {label:34} {span.service:17} {start:6.1f} to {end:6.1f} ms")
            _show(spans, span.id, begun, indent + "  ")
