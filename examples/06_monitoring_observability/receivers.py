"""One small server for all that the system sends: spans by OTLP over HTTP, and notifications of alerts."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

try:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
except ModuleNotFoundError:
    raise SystemExit("This example needs the extra refold[otel]: pip install '.[otel]'") from None

TRACES = "/v1/traces"
WAIT_SECONDS = 120.0
"""What is awaited has come within this, also where this machine is slow."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """A span as it was received; `parent` is empty for a root, the times are nanoseconds."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    began_at: int
    ended_at: int
    attributes: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Notification:
    """An alert that fired or was resolved: who says so, and when it came (seconds of the monotonic clock)."""

    sender: str
    status: str
    alert: str
    summary: str
    came_at: float


class Received:
    """What has been received, in its order."""

    def __init__(self, url: str) -> None:
        """Begin with nothing; what is sent to the URL is added by `take`."""
        self.url = url
        self.spans: list[Span] = []
        self.notifications: list[Notification] = []

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until a condition on what has been received is true."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not is_so():  # noqa: ASYNC110 - another thread receives it.
                await asyncio.sleep(0.05)

    def reports(self, alert: str, sender: str) -> list[Notification]:
        """Return what a sender has reported of an alert."""
        return [each for each in self.notifications if (each.alert, each.sender) == (alert, sender)]

    def last_status(self, alert: str, sender: str) -> str:
        """Return what a sender has reported last of an alert; empty before the first report."""
        return ([""] + [each.status for each in self.reports(alert, sender)])[-1]

    def take(self, path: str, body: bytes) -> None:
        """Take the body of a request."""
        if path == TRACES:
            self._take_spans(body)
            return
        # Alertmanager and Refold's own engine send the same form.
        for alert in json.loads(body)["alerts"]:
            self.notifications.append(
                Notification(
                    sender=path.strip("/"),
                    status=alert["status"],
                    alert=alert["labels"]["alertname"],
                    summary=alert["annotations"]["summary"],
                    came_at=time.monotonic(),
                )
            )

    def _take_spans(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = _values(resource.resource.attributes)["service.name"]
            for scope in resource.scope_spans:
                self.spans += [
                    Span(
                        service=service,
                        name=span.name,
                        trace=span.trace_id.hex(),
                        id=span.span_id.hex(),
                        parent=span.parent_span_id.hex(),
                        began_at=span.start_time_unix_nano,
                        ended_at=span.end_time_unix_nano,
                        attributes=_values(span.attributes),
                    )
                    for span in scope.spans
                ]


@contextmanager
def receiving() -> Iterator[Received]:
    """Listen on the loopback until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.take(self.path, self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received = Received(f"http://127.0.0.1:{server.server_port}")
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
