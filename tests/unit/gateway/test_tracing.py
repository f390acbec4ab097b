"""Which requests of a gateway are traced."""

from __future__ import annotations

import time
from typing import Any

import pytest

from refold.gateway.tracing import Tracing, begin_request

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"


class Recorded:
    """Spans that are not looked at."""

    def record(self, span: Any) -> None:
        """Take a span."""

    def count_over_limit(self, spans: int) -> None:
        """Count spans."""


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/health", "/metrics"])
def test_a_probe_is_traced_only_if_its_caller_samples_it(path: str) -> None:
    tracing = Tracing(Recorded(), ratio=1, now=time.time_ns)

    def is_traced(path: str, flags: bytes = b"") -> bool:
        headers = [(b"traceparent", PARENT + flags)] if flags else []
        return begin_request({"path": path, "headers": headers}, tracing)[1] is not None

    assert is_traced("/v1/acme/order-1")
    assert not is_traced(path)
    assert is_traced(path, b"01")
    assert not is_traced(path, b"00")
