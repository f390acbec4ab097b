"""The metrics of a registry as text, made at most once a second, however many ask for it. Used by every service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

EXPOSITION_SECONDS: Final = 1.0
"""How old an exposition may be."""

_OPENMETRICS: Final = "application/openmetrics-text"
_EOF: Final = b"# EOF\n"


class Exposition:
    """The metrics of one registry: as OpenMetrics, which has exemplars, or in the text format of Prometheus."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._making = asyncio.Lock()
        self._made: dict[bool, tuple[float, bytes]] = {}

    async def read(self, accept: str) -> tuple[bytes, str]:
        """Return the text, and its media type; `accept` are the media types that the caller takes."""
        is_open = _OPENMETRICS in accept
        async with self._making:
            made_at, body = self._made.get(is_open, (float("-inf"), b""))
            if time.monotonic() - made_at >= EXPOSITION_SECONDS:
                made_at, body = time.monotonic(), await self._make(is_open=is_open)
                self._made[is_open] = made_at, body
        return body, openmetrics.CONTENT_TYPE_LATEST if is_open else CONTENT_TYPE_LATEST

    async def _make(self, *, is_open: bool) -> bytes:
        """Write one metric after the other: other tasks run in between."""
        encode, parts = openmetrics.generate_latest if is_open else generate_latest, []
        for metric in self._registry.collect():
            parts.append(encode(_Single(metric)).removesuffix(_EOF))
            await asyncio.sleep(0)
        return b"".join([*parts, _EOF] if is_open else parts)


def accepted_by(scope: Mapping[str, Any]) -> str:
    """Return the media types that an ASGI request accepts."""
    return ",".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"accept")


class _Single(Collector):
    """A registry of one metric."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        """Yield it."""
        yield self._metric
