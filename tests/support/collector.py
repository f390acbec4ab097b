"""A collector of OTLP over HTTP that keeps the spans it is sent. For tests of traces."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

DEADLINE_SECONDS = 30
LOOK_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class Received:
    """One span; ids are hexadecimal, `parent` is empty for a root."""

    service: str
    name: str
    kind: str
    trace: str
    id: str
    parent: str
    state: str
    began_at: int
    ended_at: int
    attributes: dict[str, Any]
    links: list[str] = field(default_factory=list)


class Collector:
    """What was received, in its order."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._spans: list[Received] = []
        self._bodies: list[bytes] = []

    @property
    def spans(self) -> list[Received]:
        """Return all spans; they are decoded here, not while a system is measured."""
        while self._bodies:
            self._decode(self._bodies.pop(0))
        return self._spans

    def of(self, trace: str) -> list[Received]:
        """Return the spans of a trace."""
        return [span for span in self.spans if span.trace == trace]

    def until(self, trace: str, *names: str) -> list[Received]:
        """Wait for spans with these names in a trace, then return all that it has."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while Counter(names) - Counter(span.name for span in self.of(trace)):
            assert time.monotonic() < deadline, [span.name for span in self.of(trace)]
            time.sleep(LOOK_SECONDS)
        return self.of(trace)

    def linked_to(self, ids: set[str]) -> Received:
        """Wait for a span with a link to one of these."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not (found := [span for span in self.spans if ids.intersection(span.links)]):
            assert time.monotonic() < deadline, "nothing is linked"
            time.sleep(LOOK_SECONDS)
        return found[0]

    def take(self, body: bytes) -> None:
        """Keep one request."""
        self._bodies.append(body)

    def _decode(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = _values(resource.resource.attributes)["service.name"]
            for scope in resource.scope_spans:
                self._spans.extend(_received(service, span) for span in scope.spans)


def tree(spans: list[Received]) -> dict[str, str]:
    """Return each span's name and kind with the name of its parent; one that is not among them stays an id."""
    names = {span.id: span.name for span in spans}
    return {f"{span.name} {span.kind}": names.get(span.parent, span.parent) for span in spans}


@contextmanager
def collecting(delay_seconds: float | None = 0.0, *, port: int = 0) -> Iterator[Collector]:
    """Run a collector that answers so long after a request; None: it never answers."""
    is_ended = Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            collector.take(self.rfile.read(int(self.headers["Content-Length"])))
            if is_ended.wait(delay_seconds):
                return
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        is_ended.set()
        server.shutdown()
        server.server_close()


def _received(service: str, span: Any) -> Received:
    kinds = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
    return Received(
        service=service,
        name=span.name,
        kind=kinds[span.kind],
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        state=span.trace_state,
        began_at=span.start_time_unix_nano,
        ended_at=span.end_time_unix_nano,
        attributes=_values(span.attributes),
        links=[link.span_id.hex() for link in span.links],
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
